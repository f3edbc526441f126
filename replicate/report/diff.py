"""Replica against published number, place by place, with verdicts and the order of methods."""

from __future__ import annotations

import csv
import io
import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from replicate.errors import BadInput
from replicate.protocol import Column, Paper, Table
from replicate.record import Store
from replicate.report import formats, tables, verdicts
from replicate.report.published import Printed
from replicate.report.selection import Replica, select
from replicate.report.verdicts import RULES, Verdict

FORMATS = ("text", "markdown", "csv")
FIELDS = (
    "paper", "table", "row", "column_path", "metric", "selection", "replica", "replica_sd", "replica_n",
    "published", "published_std", "published_n", "difference", "low90", "high90", "low95", "high95",
    "verdict", "seeds_needed", "judged", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One place of a table. ``difference`` is replica minus published in points, of the selection shown; ``verdict`` is always
    on the selection as-published, whose number is ``judged``. ``fully_specified``: the paper fixes the whole protocol.
    A replica that is not comparable has no ``printed`` number beside it."""

    paper: str
    table: Table
    block: str
    row: str
    baseline: bool
    column: Column
    replica: Replica | None
    judged: Replica | None
    printed: Printed | None
    difference: float | None
    verdict: Verdict
    fully_specified: bool
    edition: str
    variant: str | None
    quick: bool

    @property
    def key(self) -> tables.Key:
        return self.block, self.row, self.column.name


def compare(
    store: Store,
    paper: Paper,
    table: Table,
    *,
    selection: str = "as-published",
    edition_of: Mapping[str, str],
    comparability: Mapping[str, str],
    variant: str | None = None,
    quick: bool = False,
    columns: Sequence[Column] | None = None,
    grid: str | None = None,
) -> list[Row]:
    """Every place of the table, in print order, columns outermost.

    ``comparability`` says of each data source whether the edition in use is ``"comparable"``, an ``"other split"`` or
    ``"not comparable"``. Raises ``BadInput`` as :func:`replicate.report.tables.replicas` does.
    """
    chosen = tuple(table.columns if columns is None else columns)
    replicas: dict[tables.Key, Replica] = {}
    judged: dict[tables.Key, Replica] = {}
    for key, found in tables.runs(
        store, paper, table, edition_of=edition_of, variant=variant, quick=quick, columns=chosen, grid=grid
    ):
        replicas[key] = select(found, selection)
        judged[key] = replicas[key] if selection == "as-published" else select(found, "as-published")
    printed = tables.printed(paper, table)

    def standing(column: Column) -> str:
        return "not comparable" if quick or column.stand_in else comparability[column.data.source]

    said = _verdicts(table, chosen, judged, printed, {column.name: standing(column) for column in chosen})
    rows = []
    for column in chosen:
        apart = standing(column) == "not comparable"
        for block in table.blocks:
            for row in block.rows:
                key = block.title, row.label, column.name
                replica, number = replicas.get(key), None if apart else printed.get(key)
                rows.append(
                    Row(
                        paper=paper.command,
                        table=table,
                        block=block.title,
                        row=row.label,
                        baseline=row.baseline,
                        column=column,
                        replica=replica,
                        judged=judged.get(key),
                        printed=number,
                        difference=_difference(replica, number),
                        verdict=said[key],
                        fully_specified=key in printed and printed[key].specified == "full",
                        edition=f"{column.data.source}@{edition_of[column.data.source]}",
                        variant=None if column.stand_in else variant,
                        quick=quick,
                    )
                )
    return rows


def _difference(replica: Replica | None, number: Printed | None) -> float | None:
    if replica is None or number is None or replica.mean is None or number.value is None:
        return None
    return replica.mean - number.value


def _verdicts(
    table: Table,
    columns: Iterable[Column],
    replicas: Mapping[tables.Key, Replica],
    printed: Mapping[tables.Key, Printed],
    standing: Mapping[str, str],
) -> dict[tables.Key, Verdict]:
    """The verdict of every place of these columns; Holm's family is every number that the table prints as its own."""
    sides: dict[tables.Key, tuple[verdicts.Summary | None, verdicts.Summary | None]] = {}
    margins: dict[str, float | None] = {}
    for column in columns:
        margins[column.name], scale = verdicts.margin(table.metric, column.path) or (None, "linear")
        sides |= verdicts.summaries(
            {key: replica for key, replica in replicas.items() if key[2] == column.name},
            {key: number for key, number in printed.items() if key[2] == column.name},
            scale,
        )
    quoted = {key for key, number in printed.items() if number.provenance == "quoted"}
    family = sum(number.value is not None and key not in quoted for key, number in printed.items())
    tested: dict[tables.Key, float] = {}
    for key, (ours, theirs) in sides.items():
        if ours is not None and theirs is not None and key not in quoted and standing[key[2]] == "comparable":
            p = verdicts.p_value(ours, theirs)
            if p is not None and margins[key[2]] is not None:
                tested[key] = p
    # A place that cannot be rejected (too few seeds, say) still counts; its interval is as wide as the first step's.
    first = verdicts.ALPHA / max(family, 1)
    level = dict(zip(tested, verdicts.levels(list(tested.values()), family), strict=True))
    found = {}
    for column in columns:
        for block in table.blocks:
            for row in block.rows:
                key = block.title, row.label, column.name
                ours, theirs = sides.get(key, (None, None))
                found[key] = verdicts.judge(
                    ours,
                    theirs,
                    margin=margins[column.name],
                    level=level.get(key, first),
                    comparability=standing[column.name],
                    quoted=key in quoted,
                )
    return found


def exit_code(rows: Iterable[Row]) -> int:
    """1 if a fully specified row is higher or lower than published, else 0."""
    return int(any(row.fully_specified and row.verdict.word in ("higher", "lower") for row in rows))


# --- print -----------------------------------------------------------------------------------------------------------


def render(rows: Sequence[Row], format: str) -> str:
    """The comparison as ``text``, ``markdown`` or ``csv``, ending with a line feed; the first two with the order of methods,
    the claimed gains and the rules. Raises ``BadInput`` for another format."""
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if format == "csv":
        return _csv(rows)
    from tabulate import tabulate

    markdown = format == "markdown"
    lines = [f"**{_title(rows)}**" if markdown else _title(rows)] if rows else []
    heads = ("row", "replica", "seeds", "published", "difference", "90 % interval", "verdict")
    for column, alike in itertools.groupby(rows, key=lambda row: row.column):
        here = list(alike)
        path = tables.column_path(column)
        lines += ["", f"### {path}" if markdown else path]
        if all(row.replica is None for row in here):
            lines.append("No Records." if not markdown else "\nNo Records.")
            continue
        shown = [_line(row) for row in here]
        if markdown:
            shown = [tuple(formats.escape_markdown(text) for text in line) for line in shown]
        aligned = ("left", "right", "right", "right", "right", "left", "left")
        body = tabulate(shown, heads, "pipe" if markdown else "simple", disable_numparse=True, colalign=aligned)
        lines += [*([""] if markdown else []), *(line.rstrip() for line in body.splitlines()), *([""] if markdown else [])]
        for claim in _claims(here):
            lines += _wrapped(claim, markdown)
    lines.append("")
    for note in (*_counts(rows), *RULES.splitlines()):
        lines += _wrapped(note, markdown)
    return "\n".join(lines) + "\n"


def _wrapped(text: str, markdown: bool) -> list[str]:
    first = "- " if markdown else ""
    text = formats.escape_markdown(text) if markdown else text
    return textwrap.wrap(text, formats.WIDTH, initial_indent=first, subsequent_indent="  ", break_on_hyphens=False)


def _title(rows: Sequence[Row]) -> str:
    row = rows[0]
    selections = dict.fromkeys(r.replica.selection for r in rows if r.replica is not None)
    marks = [*selections, *dict.fromkeys(r.edition for r in rows)]
    marks += [f"variant {row.variant}"] * bool(row.variant) + ["QUICK RUN"] * row.quick
    marks += ["STAND-IN"] * any(r.column.stand_in for r in rows)
    return f"{row.paper}: table {row.table.number}, replica against published ({', '.join(marks)})"


def _line(row: Row) -> tuple[str, ...]:
    replica, number, verdict = row.replica, row.printed, row.verdict
    ours = (
        ""
        if replica is None or replica.mean is None
        else f"{replica.mean:.2f}" + ("" if replica.sd is None else f"±{replica.sd:.2f}")
    )
    theirs = "" if number is None else number.value_text + (f"±{number.std_text}" if number.std_text else "")
    interval = "[{:+.2f}, {:+.2f}]".format(*verdict.interval90) if verdict.interval90 else ""
    return (
        f"{row.block}/{row.row}" if row.block else row.row,
        ours,
        str(replica.n) if replica is not None and replica.n else "",
        theirs,
        "" if row.difference is None else f"{row.difference:+.2f}",
        interval,
        _said(row),
    )


def _said(row: Row) -> str:
    """The verdict in words, such as ``open: 9 seeds would settle it; under our grid``."""
    verdict = row.verdict
    word = verdict.word
    if word in ("open", "missing"):
        word += f": {verdict.reason}"
    level = verdict.word in ("match", "higher", "lower", "open")
    return word + ("; under our grid" if level and not row.fully_specified else "")


def _claims(rows: Sequence[Row]) -> Iterator[str]:
    """Order and claimed gains of one column."""
    ours = {row.key: row.judged for row in rows if row.judged is not None}
    theirs = {row.key: row.printed for row in rows if row.printed is not None}
    if not ours or not theirs:
        return
    column = rows[0].column
    scale = (verdicts.margin(rows[0].table.metric, column.path) or (None, "linear"))[1]
    kept, separable = verdicts.ranking(verdicts.summaries(ours, theirs, scale).values())
    if separable:
        yield f"Order: {kept} of {separable} separable pairs keep their order."
    for block, alike in itertools.groupby(rows, key=lambda row: row.block):
        both = [row for row in alike if row.printed is not None and row.printed.value is not None]
        best = {
            baseline: max((row for row in both if row.baseline is baseline), key=lambda row: row.printed.value, default=None)  # type: ignore[union-attr, return-value, arg-type]
            for baseline in (True, False)
        }
        told = _gain(best[False], best[True])
        if told:
            yield f"Gain{' ' if block else ''}{block}: {told}"


def _gain(proposed: Row | None, baseline: Row | None) -> str:
    """The claim that the best proposed row makes over the best baseline, and what remains of it."""
    if proposed is None or baseline is None or proposed.judged is None or baseline.judged is None:
        return ""
    assert proposed.printed is not None and baseline.printed is not None
    assert proposed.printed.value is not None and baseline.printed.value is not None
    gain = verdicts.gain(proposed.judged.values, baseline.judged.values, proposed.printed.value - baseline.printed.value)
    if gain is None:
        return ""
    interval = "" if gain.interval is None else ", 95 % interval [{:+.2f}, {:+.2f}]".format(*gain.interval)
    return (
        f"{proposed.row} over {baseline.row}: published {gain.claimed:+.2f}, here {gain.ours:+.2f} over {gain.seeds} "
        f"seed{'s'[: gain.seeds != 1]}{interval}: {100 * gain.share:.0f} % remains."
    )


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    for title, full in (("Fully specified rows", True), ("Rows under our grid", False)):
        words = Counter(row.verdict.word for row in rows if row.fully_specified is full)
        if words:
            yield f"{title}: {', '.join(f'{count} {word}' for word, count in words.most_common())}."


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(FIELDS)
    for row in rows:
        replica, number, verdict = row.replica, row.printed, row.verdict
        marks = [row.edition]
        marks += [f"variant {row.variant}"] * bool(row.variant) + ["quick"] * row.quick + ["stand-in"] * row.column.stand_in
        lines.writerow(
            (
                row.paper.replace("-", "_"),
                number.table if number is not None else f"Table {row.table.number}",
                f"{row.block}/{row.row}" if row.block else row.row,
                tables.column_path(row.column),
                row.table.metric,
                "" if replica is None else replica.selection,
                _figure(None if replica is None else replica.mean),
                _figure(None if replica is None else replica.sd),
                "" if replica is None else replica.n,
                "" if number is None else number.value_text,
                "" if number is None else number.std_text,
                "" if number is None or number.n is None else number.n,
                *(
                    _figure(x)
                    for x in (row.difference, *(verdict.interval90 or (None, None)), *(verdict.interval95 or (None, None)))
                ),
                verdict.word,
                "" if verdict.seeds_needed is None else verdict.seeds_needed,
                "fully specified" if row.fully_specified else "under our grid",
                "; ".join([*marks, verdict.reason]),
            )
        )
    return out.getvalue()


def _figure(number: float | None) -> str:
    return "" if number is None else f"{number:.4f}"
