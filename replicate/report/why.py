"""One number explained: runs, choices and how close they were, curves, environment, verdict, quirks, command. No torch."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from replicate import grid as grids
from replicate.errors import BadInput
from replicate.grid import Programme
from replicate.protocol import Block, Column, Description, Feed, Metric, Objective, Paper, Row, Table
from replicate.record import Record, Store
from replicate.report import diff, formats, provenance, published, tables
from replicate.report.selection import Choice, Reading, Replica, choose, sentence

WIDTH = 100
RUNNERS_UP = 5
PLOT, HEIGHT = 80, 8  # columns and lines of a curve


@dataclass(frozen=True)
class Place:
    """A row of a table in one column; the row is replicated, by another reading of the paper where a ``variant`` is named."""

    table: Table
    block: Block
    row: Row
    column: Column
    variant: str | None = None

    @property
    def method(self) -> str:
        assert self.row.method is not None
        return self.row.method

    @property
    def names(self) -> tuple[str, str, str]:
        """What the row may be called: by its method, by its path, by its label."""
        return self.method, tables.row_path(self.block, self.row.label), self.row.label


def places(
    paper: Paper,
    label: str,
    dataset: str,
    ratio: int,
    *,
    table: str | None = None,
    network: str | None = None,
    then: str | None = None,
    variant: str | None = None,
) -> list[Place]:
    """Where a row, named by its method, path or label, stands in columns of this data: one place in each table that has it.

    Raises ``BadInput`` for a name that is not there, for one that means several rows or columns of every such table, and for a
    variant that trains the row no other way."""
    numbers = [one.number for one in paper.tables if not one.descriptive]
    if table is not None and table not in numbers:
        raise BadInput(f"table {table!r} is not replicated; {paper.command} has: {', '.join(numbers)}")
    rows = [
        (one, block, row)
        for one in paper.tables
        if not one.descriptive and table in (None, one.number)
        for block in one.blocks
        for row in block.rows
    ]
    found = [Place(*row, column) for row in rows if row[2].method for column in (*row[0].columns, *row[0].stand_ins)]
    of_name = [alike for kind in range(3) if (alike := [place for place in found if place.names[kind] == label])]
    if not of_name:
        quoted = any(label in (row.label, tables.row_path(block, row.label)) for _, block, row in rows)
        raise _unknown(paper, label, found, quoted)
    left, refused = [], []
    for alike in of_name:  # a name may be a method of one table and what another one prints
        try:
            left = _narrowed(alike, label, dataset, ratio, network, then)
            break
        except BadInput as error:
            refused.append(error)
    if not left:
        raise refused[0]
    if variant is not None:
        left = _otherwise(paper, left, label, variant)
    chosen, refused = [], []
    for _, group in itertools.groupby(left, key=lambda place: place.table.number):
        try:
            chosen.append(_only(list(group), label))
        except BadInput as error:
            refused.append(error)
    if not chosen:
        raise refused[0]
    return chosen


def _unknown(paper: Paper, label: str, known: Sequence[Place], quoted: bool) -> BadInput:
    """Why a name means no row that is replicated."""
    for one in paper.tables:
        if one.descriptive and any(row == label for row, _, _ in published.load(paper.name, one.published)):
            return BadInput(f"row {label!r} is in table {one.number}, which is printed as published; it has no runs to explain")
    if quoted:
        return BadInput(f"row {label!r} is quoted by the paper from elsewhere; it has no runs to explain")
    allowed = ", ".join(dict.fromkeys(place.method for place in known))
    return BadInput(f"row or method {label!r} is unknown; {paper.command} has: {allowed}")


def _narrowed(left: list[Place], label: str, dataset: str, ratio: int, network: str | None, then: str | None) -> list[Place]:
    """Those of some places that are on this data. Raises ``BadInput`` for the first value that none of them has."""
    wanted: list[tuple[str, str | None, Callable[[Place], str]]] = [
        ("data set", dataset, lambda place: place.column.dataset),
        ("ratio", str(ratio), lambda place: str(place.column.ratio)),
        ("network", network, lambda place: place.column.tag or place.column.network),
        ("second stage", then, lambda place: place.column.then),
    ]
    for what, value, of in wanted:
        kept = [place for place in left if value is None or of(place) == value]
        if not kept:
            allowed = ", ".join(dict.fromkeys(filter(None, map(of, left)))) or "none, so leave it out"
            raise BadInput(f"{what} {value!r} is unknown for {label!r}; allowed: {allowed}")
        left = kept
    return left


def _otherwise(paper: Paper, places: Sequence[Place], label: str, variant: str) -> list[Place]:
    """Those of some places that a variant trains otherwise. Raises ``BadInput`` if there is none."""
    grids.variant_values(paper, variant)
    grids.no_stand_ins((place.column for place in places), variant)
    left = [
        replace(place, variant=variant)
        for place in places
        if not place.column.stand_in and grids.moves(paper, place.table.grid, [place.column], [place.method], variant)
    ]
    if not left:
        raise BadInput(f"variant {variant!r} trains {label!r} no other way; leave out --variant")
    return left


def _only(alike: Sequence[Place], label: str) -> Place:
    """The one place of a table. Raises ``BadInput`` if there are several."""
    if len(paths := list(dict.fromkeys(place.names[1] for place in alike))) > 1:
        raise BadInput(f"row {label!r} means several rows; name one: {', '.join(paths)}")
    if len(alike) == 1:
        return alike[0]
    networks = list(dict.fromkeys(place.column.tag or place.column.network for place in alike))
    if len(networks) > 1:
        raise BadInput(f"table {alike[0].table.number} has {label!r} on several networks; add --network: {', '.join(networks)}")
    thens = ", ".join(repr(place.column.then) for place in alike)
    raise BadInput(f"table {alike[0].table.number} has {label!r} before several second stages; add --then: {thens}")


def explain(
    paper: Paper,
    store: Store,
    found: Sequence[Place],
    comparability: Callable[[str, str], str],
    selection: str = "as-published",
) -> str:
    """What stands behind the first of the places that has runs, on each edition of its data, ending with a line feed; without
    runs what is published, how it would be trained, and the command. Lines have at most :data:`WIDTH` signs, commands apart.

    Raises ``BadInput`` for an unknown selection and a damaged Record or Measure."""
    for place in found:
        if runs := _runs(paper, store, place):
            break
    else:
        place = found[0]
    parts = [
        _explained(paper, store, place, edition, of_edition, comparability, selection) for edition, of_edition in runs.items()
    ] or [_without_runs(paper, place)]
    others = [one.table.number for one in found if one is not place]
    if others:
        parts.append([f"The same runs stand behind table {', '.join(others)}; --table N explains the numbers there."])
    return "\n\n".join("\n".join(line.rstrip() for line in lines) for lines in parts) + "\n"


def _runs(paper: Paper, store: Store, place: Place) -> dict[str, tables.Found]:
    """By edition what there is of a place."""
    source = place.column.data.source
    return {
        edition: found
        for edition in store.editions(source)
        for found in tables.runs(
            store,
            paper,
            place.table,
            edition_of={source: edition},
            columns=[place.column],
            methods=[place.method],
            variant=place.variant,
        )
    }


def _head(paper: Paper, place: Place) -> list[str]:
    row, path = place.names[1], tables.column_path(place.column)
    stand_in = "STAND-IN, no part of the paper. " if place.column.stand_in else ""
    return [
        *_wrapped(f"{paper.command}, table {place.table.number}: {row}, {path}"),
        *_wrapped(f"{stand_in}{place.table.title}. Method {place.method}, data {place.column.name}."),
        *(line for v in paper.variants if v.name == place.variant for line in _wrapped(f"Variant {v.name}: {v.title}.")),
    ]


def _without_runs(paper: Paper, place: Place) -> list[str]:
    lines = _head(paper, place)
    numbers = tables.printed(paper, place.table)
    spots = [spot for spot in tables.spots(place.table, [place.column]) if (spot.block, spot.row) == (place.block, place.row)]
    told = [(tables.metric_name(spot.metric), numbers[spot.key].value_text) for spot in spots if spot.key in numbers]
    if told:
        lines += ["", *_wrapped("Published: " + ", ".join(f"{metric} {text or 'blank'}" for metric, text in told) + ".")]
    cells = grids.cells(paper, place.table.grid, columns=[place.column], methods=[place.method], variant=place.variant)
    lines += ["", "It would be trained so:", *_programme(cells[0].programme)]
    if len(cells) > 1:
        lines += _wrapped(f"This is the first of {len(cells)} grid points, {provenance.written(cells[0].point)}.")
    command = provenance.command(paper, place.table, place.column, place.method, range(paper.seeds), place.variant)
    return [*lines, "", "No runs yet. This makes them:", f"  {command}"]


def _explained(
    paper: Paper,
    store: Store,
    place: Place,
    edition: str,
    found: tables.Found,
    comparability: Callable[[str, str], str],
    selection: str,
) -> list[str]:
    source, column = place.column.data.source, place.column
    choice = choose(found.runs, selection, paper.selects_on)
    how: dict[str, Any] = diff.judged_by(place.table, store, {source: edition}, comparability)
    rows = diff.compare(store, paper, place.table, selection=selection, columns=[column], variant=place.variant, **how)
    mine = [row for row in rows if row.key[:2] == (place.block.title, place.row.label)]
    replicas = {metric: choice.replica(metric, found.measured) for metric in place.table.metrics}
    origin = provenance.origin(paper, place.table, column, place.method, found.runs, next(iter(replicas.values())))
    lines = [*_head(paper, place), "", *_numbers(paper, place, mine, replicas, selection)]
    lines += ["", *_wrapped(f"Selection {selection}: {sentence(selection, paper.selects_on)}.")]
    if paper.grids[place.table.grid].methods[place.method].adjustment is not None:
        lines += _wrapped(f"This row is adjusted: {tables.adjusted_note(selection)}.")
    lines += _choices(choice, "validation" if _on_validation(paper, selection) else "test")
    if origin.records:
        lines += ["", *_seeds(place, choice, replicas, origin)]
        points = dict.fromkeys(provenance.at(found.runs, point) for point in origin.replica.points)
        cells = grids.cells(paper, place.table.grid, columns=[column], methods=[place.method], variant=place.variant)
        for cell in cells:
            if cell.point in points:
                lines += ["", f"Trained so{_at(cell.point)}:", *_programme(cell.programme)]
        lines += ["", *_curves(origin.records, choice.readings)]
        lines += ["", *_made(origin)]
    lines += ["", *_quirks(paper, place)]
    seeds = origin.replica.epochs or {seed for of_seed in found.runs.values() for seed in of_seed}
    command = provenance.command(paper, place.table, column, place.method, seeds, place.variant)
    return [*lines, "", "Made by:", f"  {command}"]


def _on_validation(paper: Paper, selection: str) -> bool:
    return selection == "best-on-validation" or (selection == "as-published" and paper.selects_on == "validation")


def _at(point: Sequence[tuple[str, float]]) -> str:
    return f" at {provenance.written(tuple(point))}" if point else ""


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False)


def _table(lines: Iterable[Sequence[str]], heads: Sequence[str]) -> list[str]:
    from tabulate import tabulate

    return [f"  {line}" for line in tabulate(list(lines), heads, disable_numparse=True).splitlines()]


def _numbers(
    paper: Paper, place: Place, rows: Sequence[diff.Row], replicas: Mapping[Metric, Replica], selection: str
) -> Iterator[str]:
    """Each metric of the row: ours, the published number, the verdict."""
    if not rows:  # a row that the paper does not print
        best = tables.best_of_seeds(paper, selection)

        def level(metric: Metric, replica: Replica, best: bool = False) -> str:
            return formats.plain(tables.entry(replica, metric.kind, diff.decimals(paper, place.table, metric), best))

        lines = [(tables.metric_name(m), *[level(m, r, best=True)] * best, level(m, r)) for m, r in replicas.items()]
        yield from _table(lines, ("metric", *["best of seeds"] * best, "mean of seeds"))
        yield "This row is added here; the paper does not print it."
        return
    shown = [
        (tables.metric_name(row.spot.metric), diff.ours(row), diff.theirs(row), *diff.apart(row), row.verdict.word)
        for row in rows
    ]
    heads = ("metric", "here", "published", "difference", "90 % interval", "verdict")
    yield from _table(shown, heads)
    for said, alike in itertools.groupby(rows, key=lambda row: (row.verdict.word, row.verdict.reason, row.fully_specified)):
        word, reason, full = said
        judged = word in ("match", "higher", "lower", "open")
        names = ", ".join(tables.metric_name(row.spot.metric) for row in alike)
        yield from _wrapped(f"Verdict on {names}: {word}, {reason}{'' if full or not judged else ' (under our grid)'}.")
    for told in diff.how_best(rows):
        yield from _wrapped(told)
    if any(row.replica is not None and row.replica.selection != "as-published" for row in rows):
        yield "The verdict is of the selection as-published, whatever is shown."


def _choices(choice: Choice, split: str) -> Iterator[str]:
    """Grid points and an adjustment's values, each by what was compared."""
    failed = ", ".join(f"{provenance.written(point)} seed {seed}".strip() for point, seed in choice.failed)
    if failed:
        yield from _wrapped(f"Failed, and in no number: {failed}.")
    if not choice.readings:
        yield "Nothing could be chosen: no finished run, or no images to choose by."
    for number, reading in enumerate(choice.readings):
        on = f"half {number} of the test images" if len(choice.readings) > 1 else f"{split} images"
        if choice.planned > 1:
            yield from _wrapped(
                f"Grid point {provenance.written(reading.point)}: {choice.competing} of {choice.planned} points competed, "
                f"by mean balanced accuracy (%) on {on}."
            )
            yield from _ranked({provenance.written(point): level for point, level in reading.levels.items()})
        adjusted = next(iter(choice.runs[reading.point].values())).adjusted
        if adjusted is not None and reading.value is not None:
            name = adjusted["parameter"]
            yield from _wrapped(f"Adjustment: {name} by mean balanced accuracy (%) on {on}.")
            yield from _ranked({f"{name}={v:g}": level for v, level in zip(adjusted["values"], reading.of_values, strict=True)})


def _ranked(levels: Mapping[str, float]) -> list[str]:
    """The chosen one, which is the first of the best, and its runners-up."""
    order = sorted(levels, key=lambda name: -round(levels[name], 10))  # sorting is stable: ties to the earlier
    best = levels[order[0]]
    lines = [(name, f"{100 * levels[name]:.2f}", f"{100 * (levels[name] - best):+.2f}") for name in order[: RUNNERS_UP + 1]]
    lines[0] = (*lines[0][:2], "chosen")
    told = _table(lines, ("", "level", "behind"))
    rest = len(order) - len(lines)
    return [*told, f"  and {rest} more, {100 * (levels[order[-1]] - best):+.2f} at the least"] if rest > 0 else told


def _seeds(place: Place, choice: Choice, replicas: Mapping[Any, Any], origin: provenance.Origin) -> list[str]:
    """One line a seed: its epochs, its numbers, the key of its cell."""
    metrics = list(replicas)
    keys: dict[int, list[str]] = {}
    for record in origin.records:
        keys.setdefault(record.seed, []).append(record.key[: provenance.KEY_DIGITS])
    lines = []
    for seed, epochs in origin.replica.epochs.items():
        values = [replicas[metric].values.get(seed) for metric in metrics]
        told = ["" if v is None else provenance.number(v, m.kind) for v, m in zip(values, metrics, strict=True)]
        chosen = " and ".join(map(str, dict.fromkeys(epochs)))
        lines.append((str(seed), chosen, *told, " ".join(dict.fromkeys(keys[seed]))))
    names = [tables.metric_name(metric) for metric in metrics]
    short = [name.rpartition("/")[2] for name in names]
    programmes = ", ".join(origin.keys)
    return [
        *_table(lines, ("seed", "epoch", *(short if len(set(short)) == len(short) else names), "key of the cell")),
        *_wrapped(f"Key of the programme, which names the files of its Records: {programmes}."),
    ]


# --- how it was trained ----------------------------------------------------------------------------------------------


def _programme(programme: Programme) -> Iterator[str]:
    """Stretches of epochs that differ in more than the learning rate, and the adjustment."""
    last = 0
    for _, alike in itertools.groupby(programme.runs, key=lambda run: run[1].lasting):
        runs = list(alike)
        first, last = last + 1, last + sum(count for count, _ in runs)
        row, rates = runs[0][1], list(dict.fromkeys(row.rate for _, row in runs))
        rate = f"{rates[0]:.4g}" + (f" to {rates[-1]:.4g}" if len(rates) > 1 else "")
        told = {f.name: getattr(row.lasting, f.name) for f in fields(row)}
        shown = [f"{name.replace('_', ' ')} {_bare(value)}" for name, value in told.items() if _worth(name, value)]
        span = f"epoch {first}" if first == last else f"epochs {first}-{last}"
        yield from _wrapped(f"{span}: learning rate {rate}; {'; '.join(shown)}", "  ")
    if programme.adjustment is not None:
        yield from _wrapped(f"then: {described(programme.adjustment)}", "  ")


def _worth(name: str, value: object) -> bool:
    return name != "rate" and value is not None and value is not False


def _bare(value: object) -> str:
    """As :func:`described`; parts of an epoch that are called as what they are, without that name."""
    text = described(value)
    return text[text.index("(") + 1 : -1] if isinstance(value, Objective | Feed) else text


def described(value: Any) -> str:
    """A description in words, such as ``VectorScaling(gamma=0.05, tau=1)``; what is absent is left out."""
    if is_dataclass(value) and isinstance(value, Description):
        told = ((f.name, getattr(value, f.name)) for f in fields(value))
        inner = ", ".join(f"{name}={described(part)}" for name, part in told if part is not None and part is not False)
        return f"{type(value).__name__}({inner})" if inner else type(value).__name__
    if isinstance(value, tuple):
        if len(value) > 4:
            return f"{described(value[0])}, {described(value[1])} ... {described(value[-1])} ({len(value)} values)"
        return ", ".join(map(described, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _curves(records: Sequence[Record], readings: Sequence[Reading]) -> Iterator[str]:
    """Loss and test accuracy over epochs, mean over the runs at the first chosen point."""
    point = records[: len(readings[0].epochs)]
    lengths = {record.epochs for record in point}
    epochs = sorted({epoch for reading in readings for epoch in reading.epochs.values()})
    if len(lengths) > 1:
        return
    for title, curves in (
        ("Loss", [record.curves["loss"] for record in point]),
        ("Test accuracy (%)", [[100 * share for share in record.accuracy("test")] for record in point]),
    ):
        mean = [math.fsum(values) / len(values) for values in zip(*curves, strict=True)]
        yield f"{title} over epochs, mean over {len(point)} seed{'s'[: len(point) != 1]}"
        yield from plot(mean, marked=epochs, starts=point[0].stage_starts[1:])
    stages = ", | where a stage begins" if point[0].stage_starts[1:] else ""
    before = "; before the adjustment" if point[0].adjusted is not None else ""
    yield f"^ epochs chosen{stages}{before}."


def plot(values: Sequence[float], marked: Iterable[int] = (), starts: Iterable[int] = ()) -> list[str]:
    """A curve as blocks, at most 92 signs wide: its range at the left, below it the ``marked`` epochs (``^``) and the
    ``starts`` of stages (``|``), counted from 1. Long curves are averaged to :data:`PLOT` places; values that are not finite
    leave a gap."""
    many = min(PLOT, len(values))
    bounds = [len(values) * place // many for place in range(many + 1)]
    parts = [[v for v in values[a:b] if math.isfinite(v)] for a, b in itertools.pairwise(bounds)]
    means = [math.fsum(part) / len(part) if part else None for part in parts]
    there = [mean for mean in means if mean is not None]
    low, high = min(there, default=0.0), max(there, default=0.0)
    steps = 8 * HEIGHT - 1
    levels = [0 if m is None else 1 + round(steps * (m - low) / (high - low)) if high > low else 1 for m in means]
    lines = []
    for line in reversed(range(HEIGHT)):
        label = f"{high:.4g}" if line == HEIGHT - 1 else f"{low:.4g}" if line == 0 else ""
        lines.append(f"{label:>9} " + "".join(" ▁▂▃▄▅▆▇█"[min(8, max(0, level - 8 * line))] for level in levels))
    under = [" "] * many
    for sign, epochs in (("|", starts), ("^", marked)):
        for epoch in epochs:
            under[min(many - 1, (epoch - 1) * many // len(values))] = sign
    return [*lines, f"{'epoch':>9} {''.join(under)}".rstrip(), f"{'':>9} 1{len(values):>{max(1, many - 1)}}"]


# --- where, and under which readings ---------------------------------------------------------------------------------


def _made(origin: provenance.Origin) -> Iterator[str]:
    records = origin.records
    yield from _wrapped(f"Device: {provenance.each(provenance.device, records)}.")
    yield from _wrapped(
        f"Versions: {provenance.each(provenance.versions, records)}; commit {provenance.each(provenance.commit, records)}."
    )
    data = provenance.each(lambda record: f"{record.source}@{record.edition}", records)
    counts = provenance.each(_counts, records)
    yield from _wrapped(f"Data: {data}, training subset {provenance.each(provenance.fingerprint, records)}{counts}.")


def _counts(record: Record) -> str:
    counts = record.class_counts
    return f", {sum(counts):,} images in {len(counts)} classes of {max(counts):,} to {min(counts):,}" if counts else ""


def _quirks(paper: Paper, place: Place) -> Iterator[str]:
    """The quirks of the table; of one with another reading, whether that changes what is trained here."""
    if place.column.stand_in:
        yield "Quirks are about the paper's own data, and touch no stand-in."
        return
    mine = paper.quirks_of(place.table, [place.column])
    if mine:
        yield "Quirks of the table:"
    for quirk in mine:
        yield from _wrapped(f"{quirk.name}: {quirk.conflict} Here: {quirk.follows}", "  ")
        if quirk.variant:
            moved = grids.moves(paper, place.table.grid, [place.column], [place.method], quirk.variant)
            yield f"    --variant {quirk.variant} {'trains this row otherwise' if moved else 'leaves this row as it is'}."
