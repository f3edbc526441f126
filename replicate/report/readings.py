"""The readings of a paper side by side: where its text and its code disagree, which one gives the published numbers? No torch.

Every row that a Variant trains otherwise, under the reading that is followed here and under each Variant that has runs, with
the difference from the published number and from the reading followed, the latter paired by seed.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from replicate import grid as grids
from replicate.errors import BadInput
from replicate.protocol import Column, Paper, Table
from replicate.record import Store
from replicate.report import diff, formats, lens, tables
from replicate.report.diff import Row
from replicate.report.formats import signed

FORMATS = ("text", "markdown", "csv")
FIELDS = (
    "paper", "table", "row", "column_path", "metric", "reading", "replica", "replica_sd", "replica_n", "published",
    "published_std", "difference", "verdict", "change", "change_sd", "change_seeds", "note",
)  # fmt: skip

FOLLOWED = "here"  # what the reading that is followed is called


@dataclass(frozen=True)
class Line:
    """One number of a table under one reading: ``name`` is that of a Variant, or :data:`FOLLOWED`. ``followed`` is the same
    number as it is followed here."""

    name: str
    row: Row
    followed: Row

    @property
    def changes(self) -> dict[int, float]:
        """By seed that both have, in the unit of the metric (ratios, where margins are on the log scale): this reading against
        the one followed; nothing for that one itself."""
        if self.name == FOLLOWED or self.row.replica is None or self.followed.replica is None:
            return {}
        other = self.followed.replica.values
        both = {seed: (value, other[seed]) for seed, value in self.row.replica.values.items() if seed in other}
        return {seed: new / old if self.row.scale == "log" else new - old for seed, (new, old) in both.items()}

    @property
    def change(self) -> tuple[float | None, float | None]:
        """Mean of the changes and their population standard deviation, None for what there is not; of ratios the geometric mean
        alone."""
        changes = list(self.changes.values())
        if not changes:
            return None, None
        if self.row.scale == "log":
            return statistics.geometric_mean(changes), None
        return statistics.fmean(changes), statistics.pstdev(changes) if len(changes) > 1 else None


def lines(
    store: Store,
    paper: Paper,
    table: Table,
    *,
    edition_of: Mapping[str, str],
    comparability: Mapping[str, str],
    columns: Sequence[Column],
    methods: Sequence[str] | None = None,
    variants: Sequence[str] | None = None,
    quick: bool = False,
    grid: str | None = None,
) -> list[Line]:
    """Every number that a Variant trains otherwise and has runs of: columns outermost, then metrics, rows in print order,
    readings. ``methods`` and ``variants`` are all of the table and of the paper if left out. Stand-ins have none.

    ``comparability`` and what is raised are those of :func:`replicate.report.diff.compare`."""
    name = grid or table.grid
    replicated = [row.method for block in table.blocks for row in block.rows if row.method is not None]
    wanted = [method for method in replicated if methods is None or method in methods]
    asked = [variant.name for variant in paper.variants] if variants is None else variants
    known: dict[tuple[str, str, str], bool] = {}

    def moved(variant: str, method: str, column: Column) -> bool:
        key = variant, method, column.name  # several metrics ask
        if key not in known:
            known[key] = grids.moves(paper, name, [column], [method], variant)
        return known[key]

    def under(variant: str | None) -> list[Row]:
        return diff.compare(
            store, paper, table, edition_of=edition_of, comparability=comparability, variant=variant, quick=quick,
            columns=columns, grid=grid,
        )  # fmt: skip

    others = {v: under(v) for v in asked if grids.moves(paper, name, columns, wanted, v)}
    others = {v: rows for v, rows in others.items() if any(row.replica is not None for row in rows)}
    found = []
    for number, followed in enumerate(under(None) if others else ()):
        method, column = followed.spot.row.method, followed.spot.column
        if method is None or method not in wanted:
            continue
        of_number = [
            Line(variant, rows[number], followed)
            for variant, rows in others.items()
            if rows[number].replica is not None and moved(variant, method, column)
        ]
        if of_number and followed.replica is not None:
            of_number.insert(0, Line(FOLLOWED, followed, followed))
        found += of_number
    return found


# --- print -----------------------------------------------------------------------------------------------------------


def render(found: Sequence[Line], format: str) -> str:
    """The readings of one table as ``text``, ``markdown`` or ``csv``, ending with a line feed. Raises ``BadInput`` for another
    format."""
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if format == "csv":
        return _csv(found)
    from tabulate import tabulate

    markdown = format == "markdown"
    title = _title(found)
    out = [f"**{title}**" if markdown else title]
    heads = ("row", "reading", "replica", "seeds", "published", "difference", "verdict", f"against {FOLLOWED}")
    aligned = ("left", "left", "right", "right", "right", "right", "left", "right")
    for path, alike in itertools.groupby(found, key=lambda line: line.row.path):
        shown = list(_shown(list(alike)))
        if markdown:
            shown = [tuple(map(formats.escape_markdown, cells)) for cells in shown]
        body = tabulate(shown, heads, "pipe" if markdown else "simple", disable_numparse=True, colalign=aligned)
        out += ["", f"### {path}" if markdown else path, *[""] * markdown, *(line.rstrip() for line in body.splitlines())]
    out.append("")
    for note in _notes(found):
        out += formats.wrapped(note, markdown)
    return "\n".join(out) + "\n"


def _title(found: Sequence[Line]) -> str:
    row = found[0].row
    marks = [*dict.fromkeys(line.row.edition for line in found), *["QUICK RUN"] * row.quick]
    return f"{row.paper.command}: table {row.spot.table.number} under every reading ({', '.join(marks)})"


def told(line: Line) -> tuple[str, ...]:
    """For print: row, reading, ours, seeds, published, difference, verdict, and the change against the reading followed."""
    row = line.row
    assert row.replica is not None
    return (
        row.label,
        line.name,
        diff.ours(row),
        str(row.replica.n),
        diff.theirs(row),
        diff.apart(row)[0],
        diff.said(row),
        _change(line),
    )


def _shown(alike: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """Printed lines of one column; what all readings of a row share stands in its first."""
    for _, of_row in itertools.groupby(map(told, alike), key=lambda cells: cells[0]):
        for place, (label, name, ours, seeds, theirs, *rest) in enumerate(of_row):
            yield (label if place == 0 else "", name, ours, seeds, theirs if place == 0 else "", *rest)


def _change(line: Line) -> str:
    mean, spread = line.change
    if mean is None:
        return ""
    if line.row.scale == "log":
        return f"×{mean:.2f}"
    return signed(mean) + ("" if spread is None else f"±{spread:.2f}")


def _notes(found: Sequence[Line]) -> Iterator[str]:
    paper, names = found[0].row.paper, [*dict.fromkeys(line.name for line in found)]
    yield from _distances(found, names)
    yield from diff.how_best([line.row for line in found])
    variants = {variant.name: variant for variant in paper.variants}
    for name in names:
        if name != FOLLOWED:
            yield f"{name}: {variants[name].title}."
    for quirk in paper.quirks:
        if quirk.variant in names:
            yield f"Quirk {quirk.name}: {quirk.conflict} Here: {quirk.follows}"
    yield (
        f"against {FOLLOWED}: the reading less the one that is followed, paired by seed, mean ± population standard deviation "
        "of the differences. Verdicts are those of `replicate diff`, each reading by itself; fewer than three seeds are always "
        "open. Rows that a reading leaves as they are do not stand under it."
    )


def _distances(found: Sequence[Line], names: Sequence[str]) -> Iterator[str]:
    """How far each other reading is from what is printed, and the one followed on the same numbers: accuracies alone."""
    metric = lens.accuracy(found[0].row.spot.table)
    away: dict[str, dict[tables.Key, float]] = {name: {} for name in (FOLLOWED, *names)}
    for line in found:
        if line.row.spot.metric == metric and line.row.difference is not None:
            away[line.name][line.row.key] = abs(line.row.difference)
    here, parts = away.pop(FOLLOWED), []
    for name, there in away.items():
        if both := here.keys() & there.keys():
            many = f"{len(both)} number{'s'[: len(both) != 1]}"
            means = (
                f"{who} {math.fsum(of[key] for key in both) / len(both):.2f}" for who, of in ((name, there), (FOLLOWED, here))
            )
            parts.append(f"{', '.join(means)} ({many})")
    if parts:
        yield f"Mean distance from published, in points, over the numbers that both have: {'; '.join(parts)}."


def _csv(found: Sequence[Line]) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(FIELDS)
    for line in found:
        row, kind = line.row, line.row.spot.metric.kind
        assert row.replica is not None
        log, number = row.scale == "log", row.printed
        mean, sd = tables.figures(row.replica, kind)
        level = (tables.figure(row.level, kind), "") if row.best else (mean, sd)
        difference, *change = ("" if x is None else f"{x:.4f}" for x in (row.difference, *line.change))
        rows.writerow(
            (
                row.paper.name, f"Table {row.spot.table.number}", *row.spot.place, line.name, *level, row.replica.n,
                *(("", "") if number is None else (number.value_text, number.std_text)),
                difference, row.verdict.word, *change, len(line.changes) or "",
                "; ".join([row.edition, *["quick"] * row.quick, *["ratios, not differences"] * log]),
            )
        )  # fmt: skip
    return out.getvalue()
