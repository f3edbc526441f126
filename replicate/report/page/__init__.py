"""Everything that Records say, as one HTML page that needs nothing beside it: no network, and no script to be read. No torch.

:func:`render` fills ``page.html`` (Jinja2, autoescaped) with :class:`View`, one for each table on each edition of its data: the
published layout, and in each cell our number, the published one and the verdict, with what stands behind our number folded away
in a ``<details>``. Stand-in data have a section of their own, without published numbers. The script of the page only adds
sorting and a filter.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from multiprocessing import get_context
from typing import Any

from markupsafe import Markup

from replicate.data.editions import OFFICIAL
from replicate.protocol import Column, Paper, Quirk, Table
from replicate.record import Store
from replicate.report import counterparts, diff, figures, formats, provenance, readings, tables
from replicate.report.claims import Judged, judged
from replicate.report.figures import Drawn, Missing
from replicate.report.formats import Entry
from replicate.report.published import Printed
from replicate.report.selection import Replica
from replicate.report.verdicts import RULES

NOTHING = Entry()
#: The template, and its style.
FILES = files("replicate.report.page")

#: What each verdict looks like beside its colour, and what it means; in the order of the summary.
VERDICTS: Mapping[str, tuple[str, str]] = {
    "match": ("✓", "the 90 % interval of the difference lies inside the margin"),
    "higher": ("▲", "no match, and the corrected 95 % interval lies above 0"),
    "lower": ("▼", "no match, and the corrected 95 % interval lies below 0"),
    "open": ("?", "neither; fewer than three seeds are always open"),
    "other split": ("◐", "images divided otherwise than in the official release: levels cannot be compared"),
    "not comparable": ("≠", "stand-in data or a shortened run"),
    "no rule": ("~", "both numbers are there; there is no margin for their kind"),
    "quoted": ("❝", "the paper took the number from elsewhere"),
    "missing": ("–", "not run, or blank in the paper"),
}


@dataclass(frozen=True)
class Cell:
    """One number of a table. ``ours`` and ``theirs`` are ready for print, ``exact`` is the published text; ``word`` is the
    verdict, empty where nothing is judged. ``order`` is what the column is sorted by. ``behind`` is what stands behind our
    number, as (term, text); ``title`` says in words where the cell stands."""

    title: str
    ours: Entry = NOTHING
    theirs: Entry = NOTHING
    exact: str = ""
    word: str = ""
    under_our_grid: bool = False
    order: float | None = None
    behind: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class View:
    """A table on one edition of its data, ``main`` on the one that is most like the paper's. ``heads`` are those of
    :attr:`replicate.report.formats.Sheet.spans`. A row is (labels, cells); a label comes with True where the paper does not
    repeat it. ``compared``: published numbers stand beside ours."""

    id: str
    paper: str
    title: str
    mark: str
    table: Table
    heads: Sequence[Sequence[tuple[str, int, int]]]
    labels: int
    blocks: Sequence[tuple[str, Sequence[Sequence[tuple[Sequence[tuple[str, bool]], Sequence[Cell]]]]]]
    ranked: str
    notes: Sequence[str]
    rows: Sequence[diff.Row]
    quirks: Sequence[Quirk]
    command: str
    filled: bool
    compared: bool
    main: bool = False

    @cached_property
    def counts(self) -> Counter[str]:
        """How many numbers have each verdict."""
        return Counter(row.verdict.word for row in self.rows) if self.compared else Counter()


@dataclass(frozen=True)
class Chapter:
    """All of one paper; ``readings`` are of all its tables, ``pictures`` has the SVG of every figure that is drawn, by name."""

    paper: Paper
    views: Sequence[View]
    stand_ins: Sequence[View]
    figures: Sequence[Drawn | Missing]
    pictures: Mapping[str, str]
    claims: Sequence[tuple[Judged, Judged]]
    readings: Sequence[readings.Line]
    stand_in_claims: Sequence[Judged]

    @cached_property
    def counts(self) -> Counter[str]:
        """How many numbers have each verdict, each of the paper's once; stand-ins are not counted."""
        return sum((view.counts for view in self.views if view.main), Counter())

    @property
    def preprint(self) -> str:
        """Where the paper can be read, if its citation says so."""
        found = re.search(r"arXiv:(\d{4}\.\d{4,5}(?:v\d+)?)", self.paper.citation)
        return f"https://arxiv.org/abs/{found[1]}" if found else ""


# --- one table -------------------------------------------------------------------------------------------------------


def editions(
    table: Table, store: Store, comparability: Callable[[str, str], str]
) -> Iterator[tuple[list[Column], dict[str, str]]]:
    """Columns and editions of their data for every view of a table: first the whole table, each source on the edition that is
    most like the paper's, even without Records; then what else there is, stand-ins last. No view mixes editions of a source."""
    main = diff.closest(table.columns, store, comparability)
    yield list(table.columns), main
    for source in main:
        for edition in store.editions(source):
            if edition != main[source]:
                yield [column for column in table.columns if column.data.source == source], {source: edition}
    instead = dict.fromkeys(column.data.source for column in table.stand_ins)
    for source in instead:
        for edition in store.editions(source):
            yield [column for column in table.stand_ins if column.data.source == source], {source: edition}


def view(
    paper: Paper,
    table: Table,
    columns: Sequence[Column],
    edition_of: Mapping[str, str],
    store: Store,
    comparability: Callable[[str, str], str],
    other: Callable[[str], tuple[Paper, Store]],
) -> View:
    """One table on one edition of its data; ``other`` as in :func:`replicate.report.counterparts.counterparts`. Raises
    ``BadInput`` for a damaged Record or Measure."""
    how: dict[str, Any] = diff.judged_by(table, store, edition_of, comparability)
    every, judged_as = how["edition_of"], how["comparability"]
    beside = diff.judged_beside(table, columns, every)
    names = {column.name for column in columns}
    replicas: dict[tables.Key, Replica] = {}
    judged: dict[tables.Key, Replica] = {}
    origins: dict[tuple[tables.Key, str], provenance.Origin] = {}
    for found in tables.runs(store, paper, table, edition_of=every, columns=[*columns, *beside]):
        told = found.replicas(paper, table, "as-published")
        judged |= told
        told = {key: replica for key, replica in told.items() if key[2] in names}
        replicas |= told
        for key, replica in told.items():
            for one in filter(None, (replica, replica.cross_fitted)):
                column = next(column for column in columns if column.name == key[2])
                origins[key, one.selection] = provenance.origin(paper, table, column, _method(table, key), found.runs, one)
    rows = diff.compared(paper, table, replicas, judged, columns=columns, beside=beside, **how)
    compared = any(not column.stand_in and judged_as[column.data.source] != "not comparable" for column in columns)
    numbers = tables.printed(paper, table) if compared or table.descriptive else {}
    own = counterparts.counterparts(table, columns, other, selection="as-published", edition_of=edition_of)
    printed = tables.sheet(paper, table, numbers, columns=columns) if numbers else None
    sheet = tables.sheet(paper, table, replicas, edition_of=edition_of, columns=columns, counterparts=own)
    layout = printed if printed is not None and not replicas else sheet
    best = tables.best_of_seeds(paper, "as-published")
    fill = _Filling(table, replicas, numbers, origins, rows, compared, printed, sheet, best)
    blocks = [(title, [list(_lines(group, fill)) for group in groups]) for title, groups in layout.blocks]
    notes = [note for note in (sheet.notes if replicas else ()) if not note.startswith("Quirk ")]
    notes += diff.orders(rows) if compared else ()
    notes += [note for note in (printed.notes if printed is not None else ()) if note not in notes]
    sources = "-".join(f"{source}-{edition}" for source, edition in edition_of.items() if edition != OFFICIAL)
    stand_in = not table.descriptive and all(column.stand_in for column in columns)
    parts = [paper.command, "table", table.number, *dict.fromkeys(c.dataset for c in columns if stand_in), sources]
    return View(
        id="-".join(filter(None, parts)),
        paper=paper.command,
        title=layout.title,
        mark=", ".join(f"edition {s}@{e}" for s, e in edition_of.items() if e != OFFICIAL and len(edition_of) == 1),
        table=table,
        heads=layout.spans,
        labels=len(layout.label_widths),
        blocks=blocks,
        ranked=layout.ranked,
        notes=notes,
        rows=rows,
        quirks=() if stand_in else paper.quirks_of(table, columns),
        command=f"replicate {paper.command} --table {table.number}",
        filled=bool(replicas),
        compared=compared,
    )


def _method(table: Table, key: tables.Key) -> str:
    found = (row.method for block in table.blocks for row in block.rows if (block.title, row.label) == key[:2])
    method = next(found)
    assert method is not None
    return method


def _lines(
    group: Sequence[tuple[Sequence[str], Sequence[Entry]]], fill: _Filling
) -> Iterator[tuple[list[tuple[str, bool]], list[Cell]]]:
    """Rows of a group; a label that is blank because the row above has the same is there, marked."""
    above = ""
    for names, entries in group:
        again = not names[0]
        above = names[0] or above
        yield [(above, again), *((name, False) for name in names[1:])], [fill.cell(entry) for entry in entries]


@dataclass
class _Filling:
    """What goes into the cells of one view, by keys."""

    table: Table
    replicas: Mapping[tables.Key, Replica]
    numbers: Mapping[tables.Key, Printed]
    origins: Mapping[tuple[tables.Key, str], provenance.Origin]
    rows: Iterable[diff.Row]
    compared: bool
    printed: formats.Sheet | None
    sheet: formats.Sheet
    best: bool

    def __post_init__(self) -> None:
        self.of_key = {row.key: row for row in self.rows}
        self.metrics = {tables.metric_name(metric): metric for metric in self.table.metrics}
        self.theirs = {entry.key: entry for entry in _entries(self.printed)}
        self.beside = {entry.key: entry.ours for entry in _entries(self.sheet) if entry.ours}
        self.seen: Counter[tables.Key] = Counter()

    def cell(self, entry: Entry) -> Cell:
        """Of an entry of the layout. The first with its key stands beside the published number; where that is a best of seeds,
        the second is our mean, the third our cross-fitted mean."""
        block, label, name, metric = key = entry.key
        self.seen[key] += 1
        first = self.seen[key] == 1
        row, number = self.of_key.get(key), self.numbers.get(key) if first else None
        title = ", ".join(filter(None, (block, label, row.path if row is not None else f"{name} {metric}")))
        if self.table.descriptive:
            return Cell(title, theirs=entry, exact=entry.mean)
        replica = self.replicas.get(key)
        if replica is not None and self.seen[key] == 3:
            replica = replica.cross_fitted
        level = None if replica is None else replica.best if self.best and first else replica.mean
        word = ""
        if first and row is not None:
            word = row.verdict.word if self.compared else ""
        elif number is not None:  # of a column that is not replicated here
            word = "quoted" if number.provenance == "quoted" else "missing"
        return Cell(
            title=title,
            ours=Entry(self.beside.get(key, "")) if replica is None else entry,
            theirs=NOTHING if number is None else self.theirs[key],
            exact="" if number is None else number.value_text,
            word=word,
            under_our_grid=row is not None and word in ("match", "higher", "lower", "open") and not row.fully_specified,
            order=level if level is not None else None if number is None else number.value,
            behind=() if replica is None else tuple(self._behind(key, replica, row if first and self.compared else None)),
        )

    def _behind(self, key: tables.Key, replica: Replica, row: diff.Row | None) -> Iterator[tuple[str, str]]:
        if row is not None:
            difference, interval = diff.apart(row)
            yield "verdict", diff.said(row)
            if row.best and row.level != replica.best:
                yield "compared", f"{diff.ours(row)}. {' '.join(diff.how_best([row]))}"
            if difference:
                yield "difference", difference + (f", 90 % interval {interval}" if interval else "")
        yield from self.origins[key, replica.selection].lines(self.metrics[key[3]])


def _entries(sheet: formats.Sheet | None) -> Iterator[Entry]:
    for _, groups in sheet.blocks if sheet is not None else ():
        for group in groups:
            for _, entries in group:
                yield from entries


# --- the page --------------------------------------------------------------------------------------------------------


def chapters(
    papers: Sequence[str], comparability: Callable[[str, str], str], other: Callable[[str], tuple[Paper, Store]]
) -> list[Chapter]:
    """All that there is of papers, by their names; ``other`` gives a paper and a store to read it from. Raises ``BadInput`` for
    a damaged Record or Measure.

    Figures are drawn in a second process: that takes as long as reading a store of thousands of Records."""
    found = {name: list(figures.figures(*other(name))) for name in papers}
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    try:
        drawn = {
            name: {one.name: pool.submit(_picture, one) for one in of_paper if isinstance(one, Drawn)}
            for name, of_paper in found.items()
        }
        read = [_chapter(*other(name), found[name], comparability, other) for name in papers]
        pictures = [{figure: told.result() for figure, told in drawn[name].items()} for name in papers]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return [replace(one, pictures=of_paper) for one, of_paper in zip(read, pictures, strict=True)]


def _picture(figure: Drawn) -> str:
    return figure.svg


def _chapter(
    paper: Paper,
    store: Store,
    drawn: Sequence[Drawn | Missing],
    comparability: Callable[[str, str], str],
    other: Callable[[str], tuple[Paper, Store]],
) -> Chapter:
    """All of one paper but its pictures."""
    views: list[View] = []
    stand_ins: list[View] = []
    main: dict[str, str] = {}
    others: list[readings.Line] = []
    for table in paper.tables:
        for place, (columns, edition_of) in enumerate(editions(table, store, comparability)):
            one = view(paper, table, columns, edition_of, store, comparability, other)
            instead = bool(columns) and all(column.stand_in for column in columns)
            if place == 0 or one.filled:
                (stand_ins if instead else views).append(replace(one, main=place == 0))
            if not table.descriptive and not instead:
                judged_with: dict[str, Any] = diff.judged_by(table, store, edition_of, comparability)
                others += readings.lines(store, paper, table, columns=columns, **judged_with)
            if place == 0 or instead:
                main |= edition_of
    judged_as = {source: comparability(source, edition) for source, edition in main.items()}
    how: dict[str, Any] = {"edition_of": main, "comparability": judged_as}
    told = judged(paper, store, **how)
    return Chapter(
        paper=paper,
        views=views,
        stand_ins=stand_ins,
        figures=drawn,
        pictures={},
        claims=list(zip(told[::2], told[1::2], strict=True)),  # on the paper's own numbers, on ours
        readings=others,
        stand_in_claims=judged(paper, store, stand_in=True, **how),
    )


def breakable(text: str) -> Markup:
    """A label that may be broken after a sign that joins two words."""
    return Markup("<wbr>").join(re.findall(r"[^=+&/-]*[=+&/-]+|[^=+&/-]+", text))


def render(chapters: Sequence[Chapter], version: str) -> str:
    """The page, ending with a line feed."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(lambda name: (FILES / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    words = [word for word in VERDICTS if any(view.counts[word] for chapter in chapters for view in chapter.views)]
    return environment.get_template("page.html").render(
        chapters=chapters,
        version=version,
        words=words,
        verdicts=VERDICTS,
        rules=RULES.splitlines(),
        told=readings.told,
    )
