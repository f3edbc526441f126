"""The same method on the same data as several papers print it, beside ours. No torch.

Which rows and columns of their CSVs are the same is said by the papers' modules (:class:`replicate.protocol.Across`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from replicate import grid as grids
from replicate.data.editions import OFFICIAL
from replicate.errors import BadInput
from replicate.protocol import Across, Paper
from replicate.record import Store
from replicate.report import formats, published, tables
from replicate.report.published import Printed
from replicate.report.selection import Replica, sentence
from replicate.report.tables import Spot

FORMATS = ("text", "markdown", "csv")
FIELDS = (
    "method", "data", "paper", "by", "table", "row", "column_path", "metric", "protocol", "published", "published_std",
    "statistic", "published_n", "provenance", "selection", "replica", "replica_sd", "replica_statistic", "replica_n", "edition",
    "note",
)  # fmt: skip
_HEADS = ("method", "data", "printed in", "as", "protocol", "published", "of", "ours", "of")


@dataclass(frozen=True)
class Line:
    """One number: ``method`` and ``data`` in words that papers share, the place where ``paper`` prints it. ``protocol`` is told
    where this project replicates it; ``replica`` is None where it does not or has not, else on ``edition`` of its data."""

    method: str
    data: str
    paper: Paper
    by: str
    row: str
    path: str
    number: Printed
    protocol: str
    replica: Replica | None
    edition: str
    selection: str

    @property
    def ours(self) -> tuple[str, float | None, float | None]:
        """``"best"`` or ``"mean"`` of our seeds, as the paper has it; that, and the spread of a mean."""
        best = tables.best_of_seeds(self.paper, self.selection)
        if self.replica is None:
            return "", None, None
        return ("best", self.replica.best, None) if best else ("mean", self.replica.mean, self.replica.sd)


def lines(
    of: Iterable[tuple[Paper, Store]], comparability: Callable[[str, str], str], selection: str = "as-published"
) -> list[Line]:
    """Every number whose method and data two papers at least, or a paper and another's authors, print: by methods and data in
    order of their appearance. Ours are of the official edition or, where there is none, of one whose levels are comparable:
    ``comparability`` says so of a source and an edition. Raises ``BadInput`` for an unknown selection, a damaged Record or
    Measure, and for a row or column that a CSV does not have."""
    found: dict[str, dict[str, list[Line]]] = {}
    for paper, store in of:
        for across in paper.across:
            for line in _lines(paper, store, across, comparability, selection):
                found.setdefault(line.method, {}).setdefault(line.data, []).append(line)
    told = [here for of_data in found.values() for here in of_data.values()]
    return [line for here in told if len({line.by or line.paper.name for line in here}) > 1 for line in here]


def _lines(
    paper: Paper, store: Store, across: Across, comparability: Callable[[str, str], str], selection: str
) -> Iterator[Line]:
    """The legible numbers that a paper's module names in one CSV, and illegible ones of which there is a replica."""
    numbers = [
        (place, number)
        for place, number in published.every(paper.name, across.published)
        if place[0] in across.rows and place[1] in across.columns
    ]
    for what, names, have in (
        ("row", across.rows, {place[0] for place, _ in numbers}),
        ("column", across.columns, {place[1] for place, _ in numbers}),
    ):
        if missing := [name for name in names if name not in have]:
            raise BadInput(f"{what} {missing[0]!r} is not in {across.published!r} of {paper.command}; mend its ACROSS")
    spots = {
        spot.place: spot
        for table in paper.tables
        if table.published == across.published and not table.descriptive
        for spot in tables.spots(table, table.columns)
        if spot.row.method is not None
    }
    for place, number in numbers:
        spot = spots.get(place)
        replica, edition = (None, "") if spot is None else _replica(paper, store, spot, comparability, selection)
        if number.value is None and (replica is None or not replica.n):
            continue
        protocol = "quoted" if number.provenance == "quoted" else "" if spot is None else _protocol(paper, spot)
        method, data = across.rows[place[0]], across.columns[place[1]]
        yield Line(method, data, paper, across.by, *place[:2], number, protocol, replica, edition, selection)


def _replica(
    paper: Paper, store: Store, spot: Spot, comparability: Callable[[str, str], str], selection: str
) -> tuple[Replica | None, str]:
    """Ours, and the edition of its data: the official one first, since no other is quite the paper's."""
    source = spot.column.data.source
    there = sorted(store.editions(source), key=lambda edition: edition != OFFICIAL)
    for edition in (edition for edition in there if comparability(source, edition) == "comparable"):
        found = tables.replicas(
            store,
            paper,
            spot.table,
            selection=selection,
            edition_of={source: edition},
            columns=[spot.column],
            methods=[spot.row.method or ""],
        )
        if spot.key in found:
            return found[spot.key], edition if edition == OFFICIAL else f"{source}@{edition}"
    return None, ""


def _protocol(paper: Paper, spot: Spot) -> str:
    """What decides the level of a number besides its method, in a few words."""
    column, method = spot.column, spot.row.method or ""
    programme = grids.cells(paper, spot.table.grid, columns=[column], methods=[method])[0].programme
    mirrored = ", mirrored test" if getattr(column.data, "mirrored", False) else ""
    return (
        f"{column.network}, {programme.length} epochs, decay {programme.epoch(1).weight_decay:g}, "
        f"{column.data.images:,} images{mirrored}"
    )


# --- print -----------------------------------------------------------------------------------------------------------


def render(found: Sequence[Line], format: str) -> str:
    """As ``text``, ``markdown`` or ``csv``, ending with a line feed. Raises ``BadInput`` for another format."""
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if format == "csv":
        return _csv(found)
    title = "Accuracy (%) of the same method on the same data, as several papers print it, and ours"
    rows = [_HEADS, *_rows(found)]
    if format == "markdown":
        cells = [[formats.escape_markdown(cell) for cell in row] for row in rows]
        shown = [f"**{title}**", "", *formats.markdown_table(cells, left=5), ""]
        for note in _notes(found):
            shown += formats.wrapped(note, markdown=True)
        return "\n".join(shown) + "\n"
    from tabulate import tabulate

    aligned = (*["left"] * 5, "right", "left", "right", "left")
    body = tabulate(rows[1:], rows[0], "simple", disable_numparse=True, colalign=aligned)
    shown = [title, "", *(line.rstrip() for line in body.splitlines()), ""]
    for note in _notes(found):
        shown += formats.wrapped(note)
    return "\n".join(shown) + "\n"


def _rows(found: Sequence[Line]) -> Iterator[tuple[str, ...]]:
    """Printed rows; a method, and its data, are written once."""
    before = ("", "")
    for line in found:
        here, number = (line.method, line.data), line.number
        shown = replace(tables.entry(number, number.metric, 0), quoted=number.provenance == "quoted")
        statistic, level, sd = line.ours
        ours = formats.Entry() if level is None else formats.Entry(f"{level:.2f}", "" if sd is None else f"{sd:.2f}")
        yield (
            "" if line.method == before[0] else line.method,
            "" if here == before else line.data,
            f"{line.paper.command}, {number.table}",
            line.row,
            line.by or line.protocol,
            formats.plain(shown),
            _runs(number.statistic, number.n) if number.value is not None else "",
            formats.plain(ours),
            "" if line.replica is None or not line.replica.n else _runs(statistic, line.replica.n) + _on(line.edition),
        )
        before = here


def _runs(statistic: str, n: int | None) -> str:
    """Such as ``best of 5``; empty for a number of which nobody says what it is of."""
    return "" if n is None else f"{statistic} of {n}" if n > 1 else "1 run"


def _on(edition: str) -> str:
    """Such as ``, on cifar10@0123456789ab``; empty for the official edition."""
    return "" if edition == OFFICIAL else f", on {edition}"


def _notes(found: Sequence[Line]) -> Iterator[str]:
    papers = {line.paper.command: line.paper for line in found}
    selections = dict.fromkeys(line.selection for line in found)
    said: dict[str, list[str]] = {}
    for selection in selections:
        for command, paper in papers.items():
            said.setdefault(sentence(selection, paper.selects_on), []).append(command)
        for words, commands in said.items():
            yield f"Ours, {', '.join(commands)}: selection {selection}: {words}."
    yield "Ours are of official data or, where there is none, of another copy whose levels are comparable, which is named."
    yield (
        "[..]: quoted by the paper from elsewhere. Equal quoted numbers are one number that is printed twice, and no second "
        "observation of it."
    )
    yield (
        "One line's protocol is not another's: networks, epochs, weight decay of the first stage, training and test images "
        "differ as the column says, and what a paper does not say of a number that it quotes is not known. Levels are not "
        "compared, and there is no verdict: for those see `replicate diff`."
    )
    yield "Left out: rows whose names are alike but whose methods may not be, and numbers that one source alone prints."


def _csv(found: Sequence[Line]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for line in found:
        number, (statistic, level, sd) = line.number, line.ours
        writer.writerow(
            (
                line.method,
                line.data,
                line.paper.name,
                line.by,
                number.table,
                line.row,
                line.path,
                number.metric,
                line.protocol,
                number.value_text,
                number.std_text,
                number.statistic,
                "" if number.n is None else number.n,
                number.provenance,
                "" if line.replica is None else line.selection,
                tables.figure(level, number.metric),
                tables.figure(sd, number.metric),
                statistic if level is not None else "",
                "" if line.replica is None else line.replica.n,
                line.edition,
                number.note,
            )
        )
    return out.getvalue()
