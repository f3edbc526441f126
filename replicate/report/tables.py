"""Tables in the published layout, of published numbers or of ours, as text, Markdown, CSV or LaTeX. No torch, no pandas.

A table is filled from a mapping (block title, row label, column name, metric name) -> number. :func:`printed` and
:func:`replicas` make such mappings in the same key space, so that one renderer prints either. What is not in the mapping stays
empty, but for rows that the paper quotes: among ours they are printed as quoted, in brackets.

Where a paper reports the best of its seeds, ours as published are of that of ours which is best over all classes; the same rows
follow as mean over seeds, and cross-fitted.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache, cached_property
from typing import Any, TypeVar

from replicate import grid as grids
from replicate.data import editions
from replicate.errors import BadInput
from replicate.protocol import Block, Column, Metric, Paper, Row, Table
from replicate.record import Record, Store
from replicate.report import formats, published
from replicate.report.formats import Entry, Sheet
from replicate.report.published import Place, Printed
from replicate.report.selection import Measured, Point, Replica, Runs, choose, sentence
from replicate.report.verdicts import margin

FORMATS = ("text", "markdown", "csv", "latex")

#: Block title, row label, column name, metric name (:func:`metric_name`).
Key = tuple[str, str, str, str]
#: A key without the metric: what one set of runs stands behind.
RunKey = tuple[str, str, str]
Number = Replica | Printed
Data = TypeVar("Data")

POWERS_OF_TEN = "FDR"  # the kind of metric that is printed so
_KINDS = {
    "balanced_accuracy_pct": "balanced accuracy (%)",
    "accuracy_pct": "accuracy (%)",
    "top1_accuracy_pct": "top-1 accuracy (%)",
}


def metric_name(metric: Metric) -> str:
    """What tells the metrics of a table apart: the path that is printed above them, or their kind where there is none."""
    return "/".join(metric.path) or metric.kind


def metric_head(table: Table, metric: Metric) -> tuple[str, ...]:
    """What stands above a metric's numbers, below their column; nothing where there is but one metric without a path."""
    return metric.path or ((metric.kind,) if len(table.metrics) > 1 else ())


def row_path(block: Block, label: str) -> str:
    """A row as the CSVs name it: block title and label."""
    return f"{block.title}/{label}" if block.title else label


def column_path(column: Column) -> str:
    """A column as the CSVs name it, such as ``CIFAR-10/LT/100``."""
    return "/".join(column.path)


def _data_path(column: Column) -> str:
    """A column's data, without what follows a row's method there."""
    return "/".join(column.path[:-1] if column.then else column.path)


def as_published(table: Table) -> Table:
    """The table without the rows of ours that the paper does not print."""
    return replace(table, blocks=tuple(block for block in table.blocks if not block.added))


def without_quoted(table: Table) -> Table:
    """The table without the rows that the paper quotes from elsewhere."""
    blocks = [
        replace(block, groups=tuple(tuple(row for row in group if row.method is not None) for group in block.groups))
        for block in table.blocks
    ]
    blocks = [replace(block, groups=tuple(filter(None, block.groups))) for block in blocks]
    return replace(table, blocks=tuple(block for block in blocks if block.groups))


def best_of_seeds(paper: Paper, selection: str) -> bool:
    """Whether our number under a selection is the best of its seeds, because the paper's is; other selections have means."""
    return paper.reports == "best" and selection == "as-published"


def _key(block: Block, row: Row, column_name: str, metric: Metric) -> Key:
    return block.title, row.label, column_name, metric_name(metric)


def _place(table: Table, block: Block, row: Row, path: Sequence[str], metric: Metric) -> Place:
    """As it is printed: a transposed table has data in its rows."""
    method, data = row_path(block, row.label), "/".join(path)
    named, above = (data, method) if table.transposed else (method, data)
    return named, "/".join((above, *metric.path)), metric.kind


@dataclass(frozen=True)
class Spot:
    """One number of a table: its key, and the place where the CSVs have it."""

    table: Table
    block: Block
    row: Row
    column: Column
    metric: Metric

    @property
    def key(self) -> Key:
        return _key(self.block, self.row, self.column.name, self.metric)

    @property
    def place(self) -> Place:
        return _place(self.table, self.block, self.row, self.column.path, self.metric)


def _in_order(table: Table, data: Iterable[Data]) -> Iterator[tuple[Block, Row, Data, Metric]]:
    """Every number of a table's rows under ``data``, in print order."""
    data = tuple(data)
    rows = [(block, row) for block in table.blocks for row in block.rows]
    in_order = ((b, r, d) for d in data for b, r in rows) if table.transposed else ((b, r, d) for b, r in rows for d in data)
    for block, row, of_data in in_order:
        for metric in table.metrics:
            yield block, row, of_data, metric


def spots(table: Table, columns: Iterable[Column]) -> Iterator[Spot]:
    """Every number of a table's rows in these columns, in print order."""
    for block, row, column, metric in _in_order(table, columns):
        yield Spot(table, block, row, column, metric)


def _data(columns: Iterable[Column], beside: Iterable[tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    """Name and path of columns, then of those that are not replicated here, whose name is their path."""
    return [*((column.name, column.path) for column in columns), *(("/".join(path), path) for path in beside)]


def _places(table: Table, columns: Iterable[Column], beside: Iterable[tuple[str, ...]]) -> dict[Key, Place]:
    """Where the CSVs have each number, in print order."""
    data = _data(columns, beside)
    return {_key(b, r, name, m): _place(table, b, r, path, m) for b, r, (name, path), m in _in_order(table, data)}


def printed(paper: Paper, table: Table) -> dict[Key, Printed]:
    """The published numbers of a table's columns, and of those beside; stand-ins have none. Raises ``BadInput`` if their file
    is missing.

    A descriptive table has no blocks and columns: its keys are an empty title, then the place in the CSV."""
    numbers = published.load(paper.name, table.published)
    if table.descriptive:
        return {("", *place): number for place, number in numbers.items()}
    places = _places(table, table.columns, table.beside)
    return {key: numbers[place] for key, place in places.items() if place in numbers}


def replicas(
    store: Store,
    paper: Paper,
    table: Table,
    *,
    selection: str,
    edition_of: Mapping[str, str],
    variant: str | None = None,
    quick: bool = False,
    columns: Sequence[Column] | None = None,
    methods: Sequence[str] | None = None,
    grid: str | None = None,
) -> dict[Key, Replica]:
    """Our numbers: for each row and column that has a Record, finished or failed, what the selection makes of it, by metric.

    ``edition_of`` says for each data source which edition to read. ``columns`` are the table's own if left out, ``methods``
    those of its rows, ``grid`` its own. Raises ``BadInput`` for an unknown selection, grid or variant, for a column whose
    source has no edition, and for a damaged Record or Measure.
    """
    found: dict[Key, Replica] = {}
    for of_method in runs(
        store,
        paper,
        table,
        edition_of=edition_of,
        variant=variant,
        quick=quick,
        columns=columns,
        methods=methods,
        grid=grid,
    ):
        found |= of_method.replicas(paper, table, selection)
    return found


@dataclass(frozen=True)
class Found:
    """The Records of one method in one column, the rows that print them, and the way to their Measures."""

    keys: Sequence[RunKey]
    runs: Runs
    measured: Measured

    def replicas(self, paper: Paper, table: Table, selection: str) -> dict[Key, Replica]:
        """What a selection makes of them, by metric; with the cross-fitted reading where it is the best of seeds. Raises
        ``BadInput`` for an unknown selection and for a damaged Measure."""
        choice = choose(self.runs, selection, paper.selects_on)
        told = {metric_name(metric): choice.replica(metric, self.measured) for metric in table.metrics}
        if best_of_seeds(paper, selection):
            honest = choose(self.runs, "cross-fitted", paper.selects_on)
            for metric in table.metrics:
                name = metric_name(metric)
                told[name] = replace(told[name], cross_fitted=honest.replica(metric, self.measured))
        return {(*key, name): replica for key in self.keys for name, replica in told.items()}


def runs(
    store: Store,
    paper: Paper,
    table: Table,
    *,
    edition_of: Mapping[str, str],
    variant: str | None = None,
    quick: bool = False,
    columns: Sequence[Column] | None = None,
    methods: Sequence[str] | None = None,
    grid: str | None = None,
) -> Iterator[Found]:
    """The Records behind each row and column that has any, with every seed that the store holds; see :func:`replicas`.

    One method and column at a time: the Records of a whole table need not be in memory at once.
    """
    name = grid or table.grid
    if name not in paper.grids:
        raise BadInput(f"grid {name!r} is unknown; {paper.command} has: {', '.join(paper.grids)}")
    keys: dict[tuple[str, str], list[RunKey]] = {}
    chosen = table.columns if columns is None else columns
    for column in chosen:
        if column.data.source not in edition_of:
            raise BadInput(
                f"no edition was named for {column.data.source!r}; allowed: one that the store has; name it in edition_of"
            )
        for block in table.blocks:
            for row in block.rows:
                if row.method is None or row.method not in paper.grids[name].methods:
                    continue
                if methods is None or row.method in methods:
                    keys.setdefault((row.method, column.name), []).append((block.title, row.label, column.name))
    wanted = list(dict.fromkeys(method for method, _ in keys))
    grids.variant_values(paper, variant)
    seeds = {source: store.seeds(source, edition) for source, edition in edition_of.items()}
    chosen = [column for column in chosen if seeds[column.data.source]]  # spares keys that nothing can have
    cells = grids.cells(paper, name, columns=chosen, methods=wanted, variant=variant, quick=quick)
    for (method, column_name), alike in itertools.groupby(cells, key=lambda cell: (cell.method, cell.column.name)):
        of_point = {cell.point: cell for cell in alike}
        found: dict[Point, dict[int, Record]] = {}
        for point, cell in of_point.items():
            source = cell.programme.start.data.source
            key = cell.programme.key(edition_of[source])
            found[point] = {
                seed: record
                for seed in seeds[source].get(key[:24], ())
                if (record := store.record(source, edition_of[source], key, seed)) is not None
            }
        if any(found.values()):
            yield Found(keys[method, column_name], found, _measured(store, of_point, edition_of))


def _measured(store: Store, of_point: Mapping[Point, grids.Cell], edition_of: Mapping[str, str]) -> Measured:
    @cache  # several metrics are read from one file
    def measure(name: str, point: Point, seed: int) -> dict[str, Any] | None:
        programme = of_point[point].programme
        source = programme.start.data.source
        return store.measure(name, source, edition_of[source], programme.keys(edition_of[source])[-1], seed)

    def number(way: tuple[str, ...], point: Point, seed: int) -> float | None:
        told: Any = measure(way[0], point, seed)
        for step in way[1:]:
            told = told.get(step) if isinstance(told, dict) else None
        return float(told) if isinstance(told, int | float) else None

    return number


def decimals(paper: Paper, table: Table, kind: str) -> int:
    """Digits after the point (of a mantissa, where powers of ten are printed) that most published numbers of this kind of
    metric in the table have; 1 if there are none."""
    numbers = published.load(paper.name, table.published).values()
    count = Counter(number.decimals for number in numbers if number.metric == kind and number.value is not None)
    return max(count, key=lambda digits: (count[digits], digits), default=1)


# --- print -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counterpart:
    """This project's own number for one that a row quotes: ``where`` names its paper, table, row and column, ``command`` trains
    it. ``replica`` is None without Records; see :mod:`replicate.report.counterparts`."""

    where: str
    command: str
    replica: Replica | None


def render(
    paper: Paper,
    table: Table,
    values: Mapping[Key, Number],
    format: str,
    *,
    selection: str = "as-published",
    edition_of: Mapping[str, str] | None = None,
    variant: str | None = None,
    quick: bool = False,
    columns: Sequence[Column] | None = None,
    grid: str | None = None,
    methods: Sequence[str] | None = None,
    beside: bool = True,
    counterparts: Mapping[Key, Counterpart] | None = None,
) -> str:
    """The table in the published layout, ending with a line feed; a descriptive table always as it is published.

    ``values`` are of :func:`printed` or :func:`replicas`; ``counterparts`` are shown beside quoted numbers. The rest says how
    they were made, and goes into footnotes or the CSV's ``note``; rows of other ``methods`` were not asked for. Columns that
    are not replicated stand ``beside`` where all of the table's own are shown. ``format`` is one of :data:`FORMATS`. Raises
    ``BadInput`` for another, and without a column.
    """
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    told = _told(
        paper,
        table,
        values,
        selection,
        edition_of or {},
        variant,
        quick,
        columns,
        grid or table.grid,
        methods,
        beside,
        counterparts or {},
    )
    if format == "csv":
        return published.write(paper.name, _csv_lines(told))
    return {"text": formats.text, "markdown": formats.markdown, "latex": formats.latex}[format](_sheet(told))


def sheet(
    paper: Paper,
    table: Table,
    values: Mapping[Key, Number],
    *,
    edition_of: Mapping[str, str] | None = None,
    columns: Sequence[Column] | None = None,
    counterparts: Mapping[Key, Counterpart] | None = None,
) -> Sheet:
    """The table of the selection as-published as :func:`render` prints it, for another room to print. Each entry has its key;
    where a paper reports the best of its seeds, one key stands there for each way to read the same runs, in print order."""
    given = (edition_of or {}, None, False, columns, table.grid, None, True, counterparts or {})
    return _sheet(_told(paper, table, values, "as-published", *given))


def _told(
    paper: Paper,
    table: Table,
    values: Mapping[Key, Number],
    selection: str,
    edition_of: Mapping[str, str],
    variant: str | None,
    quick: bool,
    columns: Sequence[Column] | None,
    grid: str,
    methods: Sequence[str] | None,
    beside: bool,
    counterparts: Mapping[Key, Counterpart],
) -> _Told:
    """What :func:`render` was told, without what is not to be shown."""
    shown = tuple(table.columns if columns is None else columns)
    if table.descriptive:
        values = printed(paper, table)
    elif not shown:
        names = ", ".join(column_path(column) for column in table.columns)
        raise BadInput(f"no column is left of table {table.number}; allowed: {names}; name another data set or ratio")
    is_published = any(isinstance(value, Printed) for value in values.values())  # a table of ours may have no number yet
    if is_published:
        table = as_published(table)
    elif quick or all(column.stand_in for column in shown):  # what never meets a published number
        table = replace(without_quoted(table), beside=())
    if not beside or not {column.name for column in table.columns} <= {column.name for column in shown}:
        table = replace(table, beside=())
    if not is_published:
        values = {**values, **_quoted(paper, table, shown)}
    return _Told(paper, table, shown, values, is_published, selection, edition_of, variant, quick, grid, methods, counterparts)


def _quoted(paper: Paper, table: Table, columns: Iterable[Column]) -> dict[Key, Printed]:
    """What the paper prints in rows that it quotes from elsewhere."""
    rows = {(block.title, row.label) for block in table.blocks for row in block.rows if row.method is None}
    if not rows:
        return {}
    numbers = published.load(paper.name, table.published)
    places = _places(table, columns, table.beside)
    return {key: numbers[place] for key, place in places.items() if key[:2] in rows and place in numbers}


@dataclass(frozen=True)
class _Told:
    """What :func:`render` was told; ``values`` of ours have quoted numbers among them."""

    paper: Paper
    table: Table
    columns: tuple[Column, ...]
    values: Mapping[Key, Number]
    published: bool
    selection: str
    edition_of: Mapping[str, str]
    variant: str | None
    quick: bool
    grid: str
    methods: Sequence[str] | None
    counterparts: Mapping[Key, Counterpart]

    def asked(self, spot: Spot) -> bool:
        """Whether this place's row was to be shown."""
        return self.methods is None or spot.row.method in self.methods

    @cached_property
    def places(self) -> dict[Key, Place]:
        """Where the CSVs have every number of the table, in print order."""
        return _places(self.table, self.columns, self.table.beside)

    @cached_property
    def ours(self) -> dict[Key, Replica]:
        names = {column.name for column in self.columns}
        return {key: value for key, value in self.values.items() if isinstance(value, Replica) and key[2] in names}

    @cached_property
    def of_runs(self) -> dict[RunKey, Replica]:
        """A replica for each set of runs: metrics differ in its values alone."""
        return {key[:3]: replica for key, replica in self.ours.items()}

    @cached_property
    def seeds(self) -> dict[int, list[RunKey]]:
        """By number of seeds the runs that have so many; first the number that most of them have, then in order."""
        of_count: dict[int, list[RunKey]] = {}
        for key, replica in self.of_runs.items():
            if replica.epochs:
                of_count.setdefault(len(replica.epochs), []).append(key)
        usual = max(of_count, key=lambda n: (len(of_count[n]), n), default=0)
        return {n: of_count[n] for n in sorted(of_count, key=lambda n: (n != usual, n))}

    @property
    def best(self) -> bool:
        """Whether numbers are the best of seeds, with means below."""
        return not self.published and best_of_seeds(self.paper, self.selection)

    @property
    def sections(self) -> list[_Section]:
        if not self.best:
            return [_Section("", self.table, self.values, self.selection)]
        n = next(iter(self.seeds), 0)
        seeds = _seeds(n)
        fewer = f" (the paper: of {self.paper.seeds})" if n != self.paper.seeds else ""
        below = without_quoted(self.table)
        honest = {key: replica.cross_fitted for key, replica in self.ours.items() if replica.cross_fitted is not None}
        return [
            _Section(f"best of {seeds}{fewer}", self.table, self.values, self.selection, best=True),
            _Section(f"mean of {seeds}", below, self.ours, self.selection, "_mean"),
            _Section(f"cross-fitted, mean of {seeds}", below, honest, "cross-fitted", "_cross_fitted_mean"),
        ]

    @property
    def measured(self) -> bool:
        return any(metric.measure for metric in self.table.metrics)

    def variant_of(self, column: Column) -> str | None:
        """Stand-ins have no other readings."""
        return None if column.stand_in else self.variant


@dataclass(frozen=True)
class _Section:
    """The rows of ``table`` under one selection, as the best or the mean of seeds; ``suffix`` is that of metrics in the CSV.

    A section with a suffix stands below what the paper prints, and has spreads whether the paper prints them or not."""

    title: str
    table: Table
    numbers: Mapping[Key, Number]
    selection: str
    suffix: str = ""
    best: bool = False


#: Printed rows as (labels, key of each entry).
_Group = list[tuple[tuple[str, ...], list[Key]]]
#: Heads of the printed columns, and blocks of groups of printed rows.
_Layout = tuple[list[tuple[str, ...]], list[tuple[str, list[_Group]]]]


def _layout(told: _Told, table: Table) -> _Layout:
    metrics = table.metrics
    if table.descriptive:
        at = {key[1:3]: key for key in told.values}
        paths, labels = (dict.fromkeys(place[n] for place in at) for n in (1, 0))
        cells: _Group = [((label,), [at.get((label, path), ("", label, path, "")) for path in paths]) for label in labels]
        return [tuple(path.split("/")) for path in paths], [("", [cells])]

    def heads(above: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return [path + metric_head(table, metric) for path in above for metric in metrics]

    def keys(block: Block, row: Row, name: str) -> list[Key]:
        return [_key(block, row, name, metric) for metric in metrics]

    data = _data(told.columns, table.beside)
    if table.transposed:
        rows = [(block, row) for block in table.blocks for row in block.rows]
        lines = [(path, [key for block, row in rows for key in keys(block, row, name)]) for name, path in data]
        return heads((row.label,) for _, row in rows), [("", [lines])]
    blocks = [
        (
            block.title,
            [
                [(_labels(row.label), [key for name, _ in data for key in keys(block, row, name)]) for row in group]
                for group in block.groups
            ],
        )
        for block in table.blocks
    ]
    return heads(path for _, path in data), blocks


def _labels(label: str) -> tuple[str, ...]:
    """A label as method and adjustment, parted by a slash that belongs to neither ``w/o`` nor ``N/A``."""
    return tuple(re.split(r"(?<!\bw)(?<!/N)/", label, maxsplit=1))


def _seeds(n: int) -> str:
    return f"{n} seed{'s'[: n != 1]}"


def _sheet(told: _Told) -> Sheet:
    heads, layout = _layout(told, told.table)
    levels = max(map(len, heads))
    depth = max(len(labels) for _, groups in layout for group in groups for labels, _ in group)
    blocks, marked = [], False
    for section in told.sections:
        entries = _entries(told, section)
        marked = marked or any(entry.marks for entry in entries.values())
        for title, groups in _layout(told, section.table)[1]:
            titles = ": ".join(filter(None, (section.title, title)))
            blocks.append((titles, [_lines(group, entries, depth) for group in groups]))
    among = "In each row, metric by metric" if told.table.transposed else "In each block and column"
    padded = [("",) * (levels - len(path)) + path for path in heads]
    return Sheet(_title(told), tuple(zip(*padded, strict=True)), blocks, list(_notes(told)), among if marked else "")


def _lines(group: _Group, entries: Mapping[Key, Entry], depth: int) -> list[tuple[list[str], list[Entry]]]:
    """Labels, in so many columns, and entries of a group's rows; a method is written once in its group."""
    rows, before = [], ""
    for labels, keys in group:
        names = [*labels, *([""] * (depth - len(labels)))]
        if depth > 1 and names[0] == before:
            names[0] = ""
        before = labels[0]
        rows.append((names, [replace(entries.get(key, Entry()), key=key) for key in keys]))
    return rows


def _title(told: _Told) -> str:
    number, command = told.table.number, told.paper.command
    if told.published:
        return f"{command}: table {number} as published. {told.table.title}"
    quick = "quick run of" if told.quick else "replica of"
    if all(column.stand_in for column in told.columns):
        paths = (column_path(column) if told.table.transposed else column.path[0] for column in told.columns)
        kinds = (_KINDS.get(metric.kind, metric.kind) for metric in told.table.metrics)
        names, what = (" and ".join(dict.fromkeys(words)) for words in (paths, kinds))
        return f"{command}: {quick} the rows of table {number} on a stand-in, {names}: {what}"
    variant = f", variant {told.variant}" if told.variant else ""
    return f"{command}: {quick} table {number}{variant}. {told.table.title}"


def entry(number: Number | None, kind: str, digits: int, best: bool = False) -> Entry:
    """Mean and spread for print, or the ``best`` of seeds; ours with so many decimals, a published number keeps its own. A
    number of the kind :data:`POWERS_OF_TEN` is a mantissa and a power, its spread in the mantissa of the same power."""
    if number is None:
        return Entry()
    if isinstance(number, Printed):
        mantissa, exponent, power = number.value_text.partition("e")
        if kind != POWERS_OF_TEN or not exponent:
            return Entry(number.value_text, number.std_text)
        spread = f"{Decimal(number.std_text).scaleb(-int(power)):f}" if number.std_text else ""
        return Entry(mantissa, spread, int(power))
    level, sd = _level(number, best)
    if level is None:
        return Entry()
    if kind != POWERS_OF_TEN:
        return Entry(f"{level:.{digits}f}", "" if sd is None else f"{sd:.{digits}f}")
    mantissa, _, power = f"{level:.{digits}e}".partition("e")  # rounds up to the next power where it must
    return Entry(mantissa, "" if sd is None else f"{sd / 10.0 ** int(power):.{digits}f}", int(power))


def _level(replica: Replica, best: bool) -> tuple[float | None, float | None]:
    """What stands for the seeds, and their spread around it."""
    return (replica.best, None) if best else (replica.mean, replica.sd)


def _entries(told: _Told, section: _Section) -> dict[Key, Entry]:
    table = section.table
    if table.descriptive:
        return {key: entry(number, published.WORDS, 0) for key, number in section.numbers.items()}
    digits = {kind: decimals(told.paper, table, kind) for kind in {metric.kind for metric in table.metrics}}
    references = _references(told)
    found = {}
    for block, row, (name, _), metric in _in_order(table, _data(told.columns, table.beside)):
        key, kind = _key(block, row, name, metric), metric.kind
        number = section.numbers.get(key)
        shown = entry(number, kind, digits[kind], section.best)
        if not (metric.spread or section.suffix):
            shown = replace(shown, spread="")
        if row.method is None and not told.published:
            there = told.counterparts.get(key)
            beside = entry(there.replica, kind, digits[kind]).mean if there is not None else ""
            shown = replace(shown, quoted=True, ours=beside)
        elif name in references:
            reference = section.numbers.get(_key(block, row, references[name], metric))
            shown = replace(shown, gain=_gain(number, reference, section.best, digits[kind]))
        found[key] = shown
    names = [name for name, _ in _data(told.columns, table.beside)]
    for block, name, metric in itertools.product(table.blocks, names, table.metrics):
        # Where no rule says how far apart numbers are, none is called better; nor is one that the paper does not print here.
        if margin(metric.kind) is None or block.added:
            continue
        here = {row: key for row in block.rows if found[key := _key(block, row, name, metric)].mean and not found[key].quoted}
        proposed = any(not row.baseline for row in block.rows)
        for row, marks in _marks({row: found[key] for row, key in here.items()}, proposed):
            found[here[row]] = replace(found[here[row]], marks=marks)
    return found


def _references(told: _Told) -> dict[str, str]:
    """Names of columns whose numbers are followed by a gain, and of the column of the same data that it is over."""
    over = {column.path[:-1]: column.name for column in told.columns if column.path[-1] == told.table.gains_over}
    return {
        column.name: over[column.path[:-1]]
        for column in told.columns
        if column.path[-1] != told.table.gains_over and column.path[:-1] in over
    }


def _gain(number: Number | None, reference: Number | None, best: bool, digits: int) -> str:
    """What a number has more than another: of published ones as the paper prints it, of ours before rounding."""
    if isinstance(number, Printed):
        return number.gain or _apart(number, reference)
    if not isinstance(number, Replica) or not isinstance(reference, Replica):
        return ""
    level, over = _level(number, best)[0], _level(reference, best)[0]
    if level is None or over is None:
        return ""
    return formats.signed(level - over, digits)


def _apart(number: Number | None, reference: Number | None) -> str:
    """The difference of two numbers as they are printed."""
    if not isinstance(number, Printed) or not isinstance(reference, Printed) or number.value is None or reference.value is None:
        return ""
    return f"{Decimal(number.value_text) - Decimal(reference.value_text):+f}"


def _marks(entries: Mapping[Row, Entry], proposed: bool) -> Iterator[tuple[Row, frozenset[str]]]:
    """By what is printed: numbers that look equal are marked alike. Nothing beats nothing: two at least. The best baseline is
    marked where methods are ``proposed`` beside them."""
    level = {row: float(f"{shown.mean}e{shown.power or 0}") for row, shown in entries.items()}
    if len(level) < 2:
        return
    ranks = sorted(set(level.values()), reverse=True)
    names = dict(zip(ranks, ("best", "second best"), strict=False))
    baselines = [level[row] for row in level if row.baseline]
    for row, here in level.items():
        marks = {names[here]} if here in names else set()
        if proposed and row.baseline and here == max(baselines):
            marks.add("best baseline")
        yield row, frozenset(marks)


# --- footnotes -------------------------------------------------------------------------------------------------------


def _notes(told: _Told) -> Iterator[str]:
    if told.published:
        yield from _published_notes(told)
        return
    for selection in dict.fromkeys(section.selection for section in told.sections):
        yield f"Selection {selection}: {sentence(selection, told.paper.selects_on)}."
    methods = told.paper.grids[told.grid].methods
    wanted = {row.method for block in told.table.blocks for row in block.rows}
    if any(method.adjustment is not None for label, method in methods.items() if label in wanted):
        yield f"Adjusted rows: {adjusted_note(told.selection)}."
    if told.measured:
        yield "Numbers of Measures are of the state that training hands over, at the chosen parameters."
    yield from _seed_notes(told)
    yield from _gain_note(told)
    yield from _quoted_notes(told)
    having = {name for _, _, name, _ in told.ours}  # of other data nothing is said here
    sources = dict.fromkeys(column.data.source for column in told.columns if column.name in having)
    if sources:
        yield f"Data: {', '.join(editions.named(s, told.edition_of[s]) if s in told.edition_of else s for s in sources)}."
    if told.grid != told.table.grid:
        yield f"Grid {told.grid} ({told.paper.grids[told.grid].title}) instead of the table's own."
    stand_ins = dict.fromkeys(_data_path(column) for column in told.columns if column.stand_in)
    own = not all(column.stand_in for column in told.columns)
    if told.variant and own:
        titles = {variant.name: variant.title for variant in told.paper.variants}
        yield f"Variant {told.variant}: {titles.get(told.variant, 'unknown')}. It holds where a quirk below says otherwise."
    if told.quick:
        yield (
            f"QUICK RUN: epochs of every stretch {grids.QUICK_EPOCHS}, batches of every epoch {grids.QUICK_BATCHES}, "
            f"test images of every class {grids.QUICK_TEST_IMAGES}, the first grid point alone. It shows that all works; its "
            "numbers mean nothing and are never compared with a published number."
        )
    if stand_ins:
        yield (
            f"STAND-IN: {', '.join(stand_ins)} is no part of the paper; its protocol is ours, and it is never compared with a "
            "published number."
        )
    yield from _run_notes(told)
    if own:  # quirks are about the paper's own data
        for quirk in told.paper.quirks_of(told.table, told.columns):
            yield f"Quirk {quirk.name}: {quirk.conflict} Here: {quirk.follows}"


def _published_notes(told: _Told) -> Iterator[str]:
    everything = published.load(told.paper.name, told.table.published)
    if told.table.descriptive:
        yield from published.remarks(everything, everything)
        return
    shown = {place: told.values[key] for key, place in told.places.items() if key in told.values}
    numbers = [number for number in shown.values() if isinstance(number, Printed)]
    kinds = Counter(_made(number) for number in numbers)
    for made, count in kinds.most_common():
        yield f"Published, {made}" + (f" ({count} of {len(numbers)} numbers)." if len(kinds) > 1 else ".")
    if empty := sum(number.value is None for number in numbers):
        yield f"{empty} numbers are illegible or blank in the source and stay empty."
    yield from _gain_note(told)
    yield from published.remarks(everything, shown)


def _made(number: Printed) -> str:
    of = ", number of runs not stated" if number.n is None else f" of {number.n}"
    spread = f"; ±: {number.spread_kind}" if number.spread_kind else ""
    return f"{number.provenance}: {number.statistic}{of}{spread}"


def _seed_notes(told: _Told) -> Iterator[str]:
    if not told.seeds:
        return
    (usual, keys), *others = told.seeds.items()

    def seeds(keys: Sequence[RunKey]) -> str:
        return ", ".join(map(str, sorted({seed for key in keys for seed in told.of_runs[key].epochs})))

    if max(told.seeds) == 1:
        spread = "so no spread"
    elif told.best:
        spread = "of each row and column the one that is best over all classes; below mean ± population standard deviation"
    else:
        spread = _SPREAD[frozenset(metric.spread for metric in told.table.metrics)]
    if others:
        some = "; ".join(f"{seeds(of)} for {_listed(told, of)}" for _, of in others)
        yield f"Seeds: {some}; {seeds(keys)} for the others; {spread}."
    else:
        yield f"Seeds: {usual} for each value ({seeds(keys)}), {spread}."


def adjusted_note(selection: str) -> str:
    """Which state is adjusted, and when its parameter is chosen."""
    state = "the last state" if selection == "last-epoch" else "the state that training hands over"
    return f"{state}, its tau or gamma chosen after training's own parameters and on the same images"


#: By whether the paper prints a spread: of every metric, of none, of some.
_SPREAD = {
    frozenset({True}): "mean ± population standard deviation",
    frozenset({False}): "mean; the paper prints no spread",
    frozenset({True, False}): "mean ± population standard deviation where the paper prints a spread",
}


def _gain_note(told: _Told) -> Iterator[str]:
    references = _references(told)
    if references:
        rounded = "as printed" if told.published else "of numbers before rounding"
        yield f"In round brackets: the gain over {told.table.gains_over}, {rounded}."
    for key, (row, path, _) in told.places.items():
        number = told.values.get(key)
        if key[2] in references and isinstance(number, Printed) and number.gain:
            apart = _apart(number, told.values.get((*key[:2], references[key[2]], key[3])))
            if apart and Decimal(apart) != Decimal(number.gain):
                yield f"{row} ({path}): the gain is printed as {number.gain}, the printed numbers differ by {apart}."


def _quoted_notes(told: _Told) -> Iterator[str]:
    """What stands in square brackets, and which of our numbers stand beside it; what is not replicated."""
    if any(isinstance(value, Printed) for value in told.values.values()):
        yield "[..]: quoted by the paper from elsewhere; not ours."
    for key, there in told.counterparts.items():
        if key not in told.places:
            continue
        if there.replica is not None and there.replica.n:
            how = f"selection {there.replica.selection}, mean of {_seeds(there.replica.n)}"
            yield f"{key[1]}, ours: replica of {there.where}, {how}."
        else:
            yield f"{key[1]}: {there.where} has no Records yet; `{there.command}` makes them."
    if told.table.beside:
        yield f"Not replicated here: the columns of {', '.join(dict.fromkeys(path[0] for path in told.table.beside))}."


def _run_notes(told: _Told) -> Iterator[str]:
    """What failed, what is not finished, what was not measured, what the selection cannot say."""
    failed = {key: replica.failed for key, replica in told.of_runs.items() if replica.failed}
    if failed:
        paths = {column.name: column_path(column) for column in told.columns}
        of_run = {(f"{key[0]} {key[1]}".strip(), p, s, paths[key[2]]) for key, f in failed.items() for p, s in f}
        runs = sorted(f"{row}{_point(point)} seed {seed}, {path}" for row, point, seed, path in of_run)
        yield f"Failed, and in no number: {'; '.join(runs)}."
    behind = [key for key, replica in told.of_runs.items() if 0 < replica.competing < replica.planned]
    if behind:
        by_share: dict[tuple[int, int], list[RunKey]] = {}
        for key in behind:
            by_share.setdefault((told.of_runs[key].competing, told.of_runs[key].planned), []).append(key)
        shares = "; ".join(f"{done} of {of} for {_listed(told, keys)}" for (done, of), keys in sorted(by_share.items()))
        yield f"Grid points that competed (those with the most finished seeds): {shares}."
    if told.measured and told.quick:
        names = ", ".join(metric_name(metric) for metric in told.table.metrics if metric.measure)
        yield f"Quick runs have no Measures, so these cells are empty: {names}."
    else:
        without: dict[tuple[int, ...], list[RunKey]] = {}
        for key in dict.fromkeys(key[:3] for key, replica in told.ours.items() if replica.unmeasured):
            seeds = {seed for name in told.ours if name[:3] == key for seed in told.ours[name].unmeasured}
            without.setdefault(tuple(sorted(seeds)), []).append(key)
        if without:
            parts = (f"seed {', '.join(map(str, seeds))} of {_listed(told, keys)}" for seeds, keys in sorted(without.items()))
            yield f"Measures not there, or without a number: {'; '.join(parts)}."
    if told.selection == "best-on-validation":
        unsplit = dict.fromkeys(_data_path(c) for c in told.columns if not c.data.validation)
        if unsplit:
            yield f"No validation split, so no number under this selection: {', '.join(unsplit)}."
    places = list(spots(without_quoted(told.table), told.columns))
    asked = [spot for spot in places if told.asked(spot)]
    if len(asked) < len(places):
        yield f"Not asked for: {len(places) - len(asked)} of {len(places)} values, left empty."
    if empty := sum(spot.key not in told.ours for spot in asked):
        yield f"Not run, or not yet finished: {empty} of {len(asked)} values, left empty."


def _listed(told: _Told, keys: Sequence[RunKey]) -> str:
    """Rows and columns in words, column by column; all rows of a column as the column alone."""
    parts = []
    rows = [(block.title, row.label) for block in told.table.blocks for row in block.rows]
    for column in told.columns:
        here = [(block, label) for block, label, name in keys if name == column.name]
        have = [row for row in rows if (*row, column.name) in told.of_runs]
        if here and len(here) == len(have):
            parts.append(f"{column_path(column)} (all rows)")
        elif here:
            parts.append(f"{column_path(column)} ({', '.join(f'{block} {label}'.strip() for block, label in here)})")
    return ", ".join(parts)


def _point(point: Point) -> str:
    return "".join(f" {name}={value:g}" for name, value in point)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv_lines(told: _Told) -> Iterator[tuple[str, str, Printed]]:
    known = published.load(told.paper.name, told.table.published)
    if told.table.descriptive:
        yield from ((row, path, number) for (row, path, _), number in known.items())
        return
    name = next((number.table for number in known.values()), f"Table {told.table.number}")
    own = {spot.key: spot for spot in spots(without_quoted(told.table), told.columns)}
    for section in told.sections:
        for key, place in _places(section.table, told.columns, section.table.beside).items():
            number = section.numbers.get(key)
            if isinstance(number, Printed):
                yield *place[:2], number
            elif key in own and not told.published:
                there = known.get(place)
                yield *place[:2], _as_printed(told, section, name, own[key], number, there.specified if there else "")


def _as_printed(told: _Told, section: _Section, table: str, spot: Spot, replica: Replica | None, specified: str) -> Printed:
    """A replica in the words of a published number. Its spread stands there whether the paper prints one or not."""
    value, sd = figures(replica, spot.metric.kind, section.best)
    n = replica.n if replica is not None and replica.n else None
    return Printed(
        table=table,
        metric=spot.metric.kind + section.suffix,
        value=float(value) if value else None,
        std=float(sd) if sd else None,
        value_text=value,
        std_text=sd,
        statistic="best" if section.best else "mean",
        n=n,
        spread_kind="population sd" if sd else "",
        provenance="replica",
        specified=specified,
        note="; ".join(_csv_note(told, section.selection, spot, replica)),
    )


def figures(replica: Replica | None, kind: str, best: bool = False) -> tuple[str, str]:
    """Mean and spread for a CSV, or the best of seeds; empty where there is none: accuracy with four decimals, more than a test
    set of 10,000 images resolves; FDR such as ``1.2834e2``."""
    level, sd = (None, None) if replica is None else _level(replica, best)
    return figure(level, kind), figure(sd, kind)


def figure(number: float | None, kind: str) -> str:
    """A number of ours for a CSV; see :func:`figures`."""
    if number is None:
        return ""
    if kind == POWERS_OF_TEN:
        mantissa, _, power = f"{number:.4e}".partition("e")
        return f"{mantissa}e{int(power)}"
    return f"{number:.4f}" if kind.endswith("accuracy_pct") else f"{number:.6g}"


def _csv_note(told: _Told, selection: str, spot: Spot, replica: Replica | None) -> Iterator[str]:
    column = spot.column
    if replica is None:
        yield "not run, or not yet finished" if told.asked(spot) else "not asked for"
    yield f"selection {selection}"
    if replica is not None and replica.n:
        if any(replica.points):
            yield "point" + " or".join(_point(point) for point in replica.points)
        if spot.metric.measure:
            yield ", ".join(f"seed {seed} as handed over" for seed in replica.values)
        else:
            yield ", ".join(f"seed {seed} epoch {' and '.join(map(str, replica.epochs[seed]))}" for seed in replica.values)
    source = column.data.source
    yield f"edition {source}@{told.edition_of.get(source, 'unknown')}"
    if told.grid != told.table.grid:
        yield f"grid {told.grid}"
    if variant := told.variant_of(column):
        yield f"variant {variant}"
    if told.quick:
        yield "quick: never compared with a published number"
    if column.stand_in:
        yield "stand-in: never compared with a published number"
    if replica is not None:
        if replica.competing < replica.planned:
            yield f"{replica.competing} of {replica.planned} grid points competed"
        if replica.unmeasured:
            yield f"no Measure: seed {', '.join(map(str, replica.unmeasured))}"
        for point, seed in replica.failed:
            yield f"failed:{_point(point)} seed {seed}"
