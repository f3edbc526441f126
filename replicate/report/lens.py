"""The selection lens: the rows of a table under every Selection side by side, and what each gains from looking at the test set.
No torch.

Accuracy over all classes alone, since choices are made by it. A paper that chooses on validation images gains nothing by its
own rule; shown beside it is what the same runs would give had it chosen on the test set.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from replicate.errors import BadInput
from replicate.protocol import Column, Metric, Paper, Table
from replicate.record import Store
from replicate.report import formats, tables
from replicate.report.formats import signed
from replicate.report.selection import SELECTIONS, Replica, choose, sentence

FORMATS = ("text", "markdown", "csv")
FIELDS = (
    "paper", "table", "row", "column_path", "metric", "seeds", *(name.replace("-", "_") for name in SELECTIONS),
    "best_on_test", "gain", "gain_sd", "best_of_seeds", "gain_of_best", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One row of a table in one column: ours under every Selection by name, and ``looked``, with epoch and parameters chosen on
    the whole test set, which is as-published where the paper does so."""

    paper: Paper
    spot: tables.Spot
    replicas: Mapping[str, Replica]
    looked: Replica
    edition: str
    variant: str | None

    @property
    def row(self) -> str:
        """Block title and row label."""
        return tables.row_path(self.spot.block, self.spot.row.label)

    @property
    def path(self) -> str:
        """The column's."""
        return tables.column_path(self.spot.column)

    @property
    def gains(self) -> dict[int, float]:
        """By seed, in points: chosen on the whole test set, less cross-fitted."""
        honest = self.replicas["cross-fitted"].values
        return {seed: value - honest[seed] for seed, value in self.looked.values.items() if seed in honest}

    @property
    def of_best(self) -> float | None:
        """What the best of the seeds has more than their mean, in points; None where the paper reports means."""
        published = self.replicas["as-published"]
        if self.paper.reports != "best" or published.best is None or published.mean is None:
            return None
        return published.best - published.mean


def accuracy(table: Table) -> Metric | None:
    """The table's accuracy over all classes; None where it prints none."""
    found = (m for m in table.metrics if m.measure is None and m.group is None and m.kind.endswith("accuracy_pct"))
    return None if table.descriptive else next(found, None)


def lines(
    store: Store,
    paper: Paper,
    table: Table,
    *,
    edition_of: Mapping[str, str],
    columns: Sequence[Column],
    variant: str | None = None,
    quick: bool = False,
    grid: str | None = None,
    methods: Sequence[str] | None = None,
) -> list[Line]:
    """Every row that has a number under some Selection, columns outermost, rows in print order; empty for a table without
    accuracy. Raises ``BadInput`` as :func:`replicate.report.tables.replicas` does."""
    metric = accuracy(table)
    if metric is None:
        return []
    read: dict[tables.RunKey, tuple[dict[str, Replica], Replica]] = {}
    for found in tables.runs(
        store, paper, table, edition_of=edition_of, columns=columns, variant=variant, quick=quick, grid=grid, methods=methods
    ):
        of = {name: choose(found.runs, name, paper.selects_on).replica(metric) for name in SELECTIONS}
        by_test = paper.selects_on == "test"
        looked = of["as-published"] if by_test else choose(found.runs, "as-published", "test").replica(metric)
        if any(replica.n for replica in of.values()):
            read |= dict.fromkeys(found.keys, (of, looked))
    return [
        Line(paper, spot, *read[spot.key[:3]], f"{source}@{edition_of[source]}", None if column.stand_in else variant)
        for column in columns
        for source in [column.data.source]
        for spot in tables.spots(table, [column])
        if spot.metric == metric and spot.key[:3] in read
    ]


# --- print -----------------------------------------------------------------------------------------------------------


def render(found: Sequence[Line], format: str, *, quick: bool = False) -> str:
    """The lens over one table as ``text``, ``markdown`` or ``csv``, ending with a line feed: a part for each column, then the
    mean over columns where there are several. Raises ``BadInput`` for another format."""
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if format == "csv":
        return _csv(found, quick)
    from tabulate import tabulate

    markdown = format == "markdown"
    title = _title(found, quick)
    told = [f"**{title}**" if markdown else title]
    heads = _heads(found)
    for path, cells in _parts(found, heads):
        shown = [tuple(formats.escape_markdown(cell) for cell in row) for row in cells] if markdown else cells
        body = tabulate(
            shown, heads, "pipe" if markdown else "simple", disable_numparse=True,
            colalign=("left", *["right"] * (len(heads) - 1)),
        )  # fmt: skip
        told += ["", f"### {path}" if markdown else path, *[""] * markdown, *(line.rstrip() for line in body.splitlines())]
    told.append("")
    for note in _notes(found, heads):
        told += formats.wrapped(note, markdown)
    return "\n".join(told) + "\n"


def _title(found: Sequence[Line], quick: bool) -> str:
    first = found[0]
    marks = [*dict.fromkeys(line.edition for line in found), *[f"variant {v}" for v in {line.variant for line in found} if v]]
    marks += ["QUICK RUN"] * quick + ["STAND-IN"] * any(line.spot.column.stand_in for line in found)
    return (
        f"{first.paper.command}: table {first.spot.table.number} under every selection, accuracy (%), mean over seeds "
        f"({', '.join(marks)})"
    )


LOOKED, GAIN, BEST, OF_BEST = "best-on-test", "gain", "best of seeds", "gain of best"


def _heads(found: Sequence[Line]) -> list[str]:
    """Selections that have a number, and what is compared."""
    names = [name for name in SELECTIONS if any(line.replicas[name].n for line in found)]
    paper = found[0].paper
    looked = [LOOKED] if paper.selects_on != "test" else []
    best = [BEST, OF_BEST] if paper.reports == "best" else []
    return ["row", *names, *looked, "seeds", GAIN, *best]


def _parts(found: Sequence[Line], heads: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """Title and printed rows of each column, then of the mean over columns."""
    by_path: dict[str, list[Line]] = {}
    by_row: dict[str, list[Line]] = {}
    for line in found:
        by_path.setdefault(line.path, []).append(line)
        by_row.setdefault(line.row, []).append(line)
    for path, alike in by_path.items():
        yield path, [_cells(line.row, [line], heads) for line in alike]
    if len(by_path) > 1:
        whole = {row: alike for row, alike in by_row.items() if len(alike) == len(by_path)}
        if whole:
            yield f"mean over {len(by_path)} columns", [_cells(row, alike, heads) for row, alike in whole.items()]


def _cells(row: str, alike: Sequence[Line], heads: Sequence[str]) -> tuple[str, ...]:
    """One printed row, of one column or of the mean over several."""
    told = {
        "row": row,
        "seeds": ", ".join(map(str, sorted({line.looked.n for line in alike}))),
        LOOKED: _number([line.looked.mean for line in alike]),
        BEST: _number([line.replicas["as-published"].best for line in alike]),
        OF_BEST: "" if (of_best := _mean([line.of_best for line in alike])) is None else signed(of_best),
        GAIN: _spread(_averaged(alike)),
        **{name: _number([line.replicas[name].mean for line in alike]) for name in SELECTIONS},
    }
    return tuple(told[head] for head in heads)


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one of them is."""
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if len(there) == len(values) else None


def _number(values: Sequence[float | None]) -> str:
    mean = _mean(values)
    return "" if mean is None else f"{mean:.2f}"


def _averaged(alike: Sequence[Line]) -> list[float]:
    """Gains of the seeds that all have, each its mean over the lines."""
    gains = [line.gains for line in alike]
    return [math.fsum(of[seed] for of in gains) / len(gains) for seed in gains[0] if all(seed in of for of in gains)]


def _spread(gains: Sequence[float]) -> str:
    """Mean and population standard deviation."""
    if not gains:
        return ""
    return signed(statistics.fmean(gains)) + (f"±{statistics.pstdev(gains):.2f}" if len(gains) > 1 else "")


def _notes(found: Sequence[Line], heads: Sequence[str]) -> Iterator[str]:
    paper = found[0].paper
    by_test = paper.selects_on == "test"
    gained = [(statistics.fmean(line.gains.values()), line) for line in found if line.gains]
    if gained:
        most, line = max(gained, key=lambda one: one[0])
        median = statistics.median(gain for gain, _ in gained)
        what = "Gain from looking at the test set" if by_test else "Gain that looking at the test set would give"
        at = f"{line.row}, {line.path}"
        yield f"{what}: median {signed(median)}, largest {signed(most)} points ({at}), of {len(gained)} numbers."
    best = [(line.of_best, line) for line in found if line.of_best is not None and line.looked.n > 1]
    if best:
        most, line = max(best, key=lambda one: one[0])
        median = statistics.median(gain for gain, _ in best)
        yield (
            f"Gain from reporting the best of the seeds, over their mean: median {signed(median)}, largest {signed(most)} "
            f"points ({line.row}, {line.path})."
        )
    shown = "as-published" if by_test else LOOKED
    yield (
        f"gain: {shown} less cross-fitted, paired by seed, mean ± population standard deviation of the differences. "
        "Cross-fitted chooses on half as many images, so a little of it is that its choice is worse."
    )
    if not by_test:
        yield (
            "as-published looks at no test image: its own gain is 0 by construction. best-on-test is no selection of this "
            "paper; it is what the same runs give if epoch and parameters are chosen on the whole test set."
        )
    if BEST in heads:
        yield f"{BEST}: what the paper reports; {OF_BEST}: that less the mean, both as-published."
    for name in SELECTIONS:
        if name in heads:
            yield f"{name}: {sentence(name, paper.selects_on)}."
        else:
            yield f"{name}: no number, for there is no validation split."
    if any(line.spot.column.stand_in for line in found):
        yield "STAND-IN: no part of the paper; it says nothing of the paper's own gain."


def _csv(found: Sequence[Line], quick: bool) -> str:
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(FIELDS)
    for line in found:
        kind, gains = line.spot.metric.kind, list(line.gains.values())
        marks = [line.edition, *[f"variant {line.variant}"] * bool(line.variant), *["quick"] * quick]
        marks += ["stand-in"] * line.spot.column.stand_in
        numbers = [
            *(line.replicas[name].mean for name in SELECTIONS),
            line.looked.mean,
            statistics.fmean(gains) if gains else None,
            statistics.pstdev(gains) if len(gains) > 1 else None,
            line.replicas["as-published"].best if line.paper.reports == "best" else None,
            line.of_best,
        ]
        rows.writerow(
            (
                line.paper.name, f"Table {line.spot.table.number}", line.row, line.path, kind, line.looked.n,
                *(tables.figure(number, kind) for number in numbers), "; ".join(marks),
            )
        )  # fmt: skip
    return out.getvalue()
