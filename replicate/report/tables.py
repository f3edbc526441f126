"""Tables in the published layout, of published numbers or of ours, as text, Markdown, CSV or LaTeX. No torch, no pandas.

A table is filled from a mapping (block title, row label, column name) -> number. :func:`printed` and :func:`replicas` make
such mappings in the same key space, so that one renderer prints either. What is not in the mapping stays empty.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from replicate import grid as grids
from replicate.errors import BadInput
from replicate.protocol import Block, Column, Paper, Table
from replicate.record import Record, Store
from replicate.report import formats, published
from replicate.report.formats import Entry, Sheet
from replicate.report.published import Printed
from replicate.report.selection import SELECTIONS, Point, Replica, Runs, select

FORMATS = ("text", "markdown", "csv", "latex")

#: Block title, row label, column name.
Key = tuple[str, str, str]
Number = Replica | Printed


def printed(paper: Paper, table: Table) -> dict[Key, Printed]:
    """The published numbers of a table's columns; stand-ins have none. Raises ``BadInput`` if their file is missing."""
    numbers = published.load(paper.name, table.published)
    found = {}
    for block, label, column in _places(table, table.columns):
        number = numbers.get((row_path(block, label), column_path(column)))
        if number is not None:
            found[block.title, label, column.name] = number
    return found


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
    """Our numbers: for each row and column that has a Record, finished or failed, what the selection makes of it.

    ``edition_of`` says for each data source which edition to read. ``columns`` are the table's own if left out, ``methods``
    those of its rows, ``grid`` its own. Raises ``BadInput`` for an unknown selection, grid or variant, for a column whose
    source has no edition, and for a damaged Record.
    """
    return {
        key: select(found, selection)
        for key, found in runs(
            store,
            paper,
            table,
            edition_of=edition_of,
            variant=variant,
            quick=quick,
            columns=columns,
            methods=methods,
            grid=grid,
        )
    }


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
) -> Iterator[tuple[Key, Runs]]:
    """The Records behind each row and column that has any, with every seed that the store holds; see :func:`replicas`.

    One row and column at a time: the Records of a whole table need not be in memory at once.
    """
    name = grid or table.grid
    if name not in paper.grids:
        raise BadInput(f"grid {name!r} is unknown; {paper.command} has: {', '.join(paper.grids)}")
    places: dict[tuple[str, str], list[Key]] = {}
    chosen = table.columns if columns is None else columns
    for column in chosen:
        if column.data.source not in edition_of:
            raise BadInput(
                f"no edition was named for {column.data.source!r}; allowed: one that the store has; name it in edition_of"
            )
        for block in table.blocks:
            for row in block.rows:
                if row.method in paper.grids[name].methods and (methods is None or row.method in methods):
                    places.setdefault((row.method, column.name), []).append((block.title, row.label, column.name))
    wanted = list(dict.fromkeys(method for method, _ in places))
    cells = grids.cells(paper, name, columns=chosen, methods=wanted, variant=variant, quick=quick)
    seeds = {source: store.seeds(source, edition) for source, edition in edition_of.items()}
    for (method, column_name), alike in itertools.groupby(cells, key=lambda cell: (cell.method, cell.column.name)):
        found: dict[Point, dict[int, Record]] = {}
        for cell in alike:
            source = cell.programme.start.data.source
            key = cell.programme.keys(edition_of[source])[-1]
            found[cell.point] = {
                seed: record
                for seed in seeds[source].get(key[:24], ())
                if (record := store.record(source, edition_of[source], key, seed)) is not None
            }
        if any(found.values()):
            for place in places[method, column_name]:
                yield place, found


def row_path(block: Block, label: str) -> str:
    """A row as the CSVs name it: block title and label."""
    return f"{block.title}/{label}" if block.title else label


def column_path(column: Column) -> str:
    """A column as the CSVs name it, such as ``CIFAR-10/LT/100``."""
    return "/".join(column.path)


def _places(table: Table, columns: Iterable[Column]) -> Iterator[tuple[Block, str, Column]]:
    columns = tuple(columns)
    for block in table.blocks:
        for row in block.rows:
            for column in columns:
                yield block, row.label, column


def decimals(paper: Paper, table: Table) -> int:
    """Digits after the point that the published table prints; 1 if it has none of its own."""
    return max((number.decimals for number in published.load(paper.name, table.published).values()), default=1)


# --- print -----------------------------------------------------------------------------------------------------------


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
) -> str:
    """The table in the published layout, ending with a line feed.

    ``values`` are of :func:`printed` or :func:`replicas`; the rest says how they were made, and goes into footnotes or the
    CSV's ``note``. ``format`` is one of :data:`FORMATS`. Raises ``BadInput`` for another, and without a column.
    """
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    shown = tuple(table.columns if columns is None else columns)
    if not shown:
        names = ", ".join(column_path(column) for column in table.columns)
        raise BadInput(f"no column is left of table {table.number}; allowed: {names}; name another data set or ratio")
    told = _Told(paper, table, shown, values, selection, edition_of or {}, variant, quick, grid or table.grid)
    if format == "csv":
        return published.write(paper.name, _csv_lines(told))
    return {"text": formats.text, "markdown": formats.markdown, "latex": formats.latex}[format](_sheet(told))


@dataclass(frozen=True)
class _Told:
    """What :func:`render` was told."""

    paper: Paper
    table: Table
    columns: tuple[Column, ...]
    values: Mapping[Key, Number]
    selection: str
    edition_of: Mapping[str, str]
    variant: str | None
    quick: bool
    grid: str

    @property
    def published(self) -> bool:
        """Whether these are published numbers; a table of ours may have no number yet."""
        return any(isinstance(value, Printed) for value in self.values.values())

    @property
    def ours(self) -> dict[Key, Replica]:
        names = {column.name for column in self.columns}
        return {key: value for key, value in self.values.items() if isinstance(value, Replica) and key[2] in names}

    def variant_of(self, column: Column) -> str | None:
        """Stand-ins have no other readings."""
        return None if column.stand_in else self.variant


def _sheet(told: _Told) -> Sheet:
    digits = decimals(told.paper, told.table)
    depth = max(len(column.path) for column in told.columns)
    heads = tuple(zip(*(("",) * (depth - len(c.path)) + c.path for c in told.columns), strict=True))
    marks: dict[Key, set[str]] = {}
    for block in told.table.blocks:
        for column in told.columns:
            for label, mark in _marks(block, column, told.values, digits):
                marks.setdefault((block.title, label, column.name), set()).add(mark)

    def entry(key: Key) -> Entry:
        return Entry(*_texts(told.values.get(key), digits), frozenset(marks.get(key, ())))

    blocks = []
    for block in told.table.blocks:
        groups = []
        for group in block.groups:
            groups.append([(row.label, [entry((block.title, row.label, c.name)) for c in told.columns]) for row in group])
        blocks.append((block.title, groups))
    return Sheet(_title(told), heads, blocks, list(_notes(told)), bool(marks))


def _title(told: _Told) -> str:
    number, command = told.table.number, told.paper.command
    if told.published:
        return f"{command}: table {number} as published. {told.table.title}"
    quick = "quick run of" if told.quick else "replica of"
    if all(column.stand_in for column in told.columns):
        names = ", ".join(dict.fromkeys(column.path[0] for column in told.columns))
        return f"{command}: {quick} the rows of table {number} on a stand-in, {names}: balanced accuracy (%)"
    variant = f", variant {told.variant}" if told.variant else ""
    return f"{command}: {quick} table {number}{variant}. {told.table.title}"


def _texts(number: Number | None, digits: int) -> tuple[str, str]:
    """Mean and spread; a published number keeps its own digits."""
    if number is None:
        return "", ""
    if isinstance(number, Printed):
        return number.value_text, number.std_text
    if number.mean is None:
        return "", ""
    return f"{number.mean:.{digits}f}", "" if number.sd is None else f"{number.sd:.{digits}f}"


def _marks(block: Block, column: Column, values: Mapping[Key, Number], digits: int) -> Iterator[tuple[str, str]]:
    """(row label, mark), by what is printed: numbers that look equal are marked alike. Nothing beats nothing: two at least."""
    level = {}
    for row in block.rows:
        mean, _ = _texts(values.get((block.title, row.label, column.name)), digits)
        if mean:
            level[row.label] = float(mean)
    ranks = sorted(set(level.values()), reverse=True)
    if len(level) < 2:
        return
    baselines = [level[row.label] for row in block.rows if row.baseline and row.label in level]
    for row in block.rows:
        if row.label in level:
            if level[row.label] == ranks[0]:
                yield row.label, "best"
            elif level[row.label] == ranks[1]:
                yield row.label, "second best"
            if row.baseline and level[row.label] == max(baselines):
                yield row.label, "best baseline"


# --- footnotes -------------------------------------------------------------------------------------------------------


def _notes(told: _Told) -> Iterator[str]:
    if told.published:
        yield from _published_notes(told)
        return
    ours = told.ours
    yield f"Selection {told.selection}: {SELECTIONS[told.selection]}."
    yield from _seed_notes(told, ours)
    sources = dict.fromkeys(column.data.source for column in told.columns)
    yield f"Data: {', '.join(f'{s}@{told.edition_of[s]}' if s in told.edition_of else s for s in sources)}."
    if told.grid != told.table.grid:
        yield f"Grid {told.grid} ({told.paper.grids[told.grid].title}) instead of the table's own."
    stand_ins = [column_path(column) for column in told.columns if column.stand_in]
    if told.variant and len(stand_ins) < len(told.columns):
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
    yield from _run_notes(told, ours)
    if len(stand_ins) < len(told.columns):  # quirks are about the paper's own data
        for quirk in told.paper.quirks:
            if quirk.name in told.table.quirks:
                yield f"Quirk {quirk.name}: {quirk.conflict} Here: {quirk.follows}"


def _published_notes(told: _Told) -> Iterator[str]:
    names = {column.name for column in told.columns}
    numbers = [value for key, value in told.values.items() if isinstance(value, Printed) and key[2] in names]
    kinds = Counter(_made(number) for number in numbers)
    for made, count in kinds.most_common():
        yield f"Published, {made}" + (f" ({count} of {len(numbers)} numbers)." if len(kinds) > 1 else ".")
    if empty := sum(number.value is None for number in numbers):
        yield f"{empty} numbers are illegible or blank in the source and stay empty."


def _made(number: Printed) -> str:
    of = ", number of runs not stated" if number.n is None else f" of {number.n}"
    spread = f"; ±: {number.spread_kind}" if number.spread_kind else ""
    return f"{number.provenance}: {number.statistic}{of}{spread}"


def _seed_notes(told: _Told, ours: Mapping[Key, Replica]) -> Iterator[str]:
    of_count: dict[int, list[Key]] = {}
    for key, replica in ours.items():
        if replica.n:
            of_count.setdefault(replica.n, []).append(key)
    if not of_count:
        return
    usual = max(of_count, key=lambda n: (len(of_count[n]), n))
    seeds = ", ".join(map(str, sorted({seed for key in of_count.pop(usual) for seed in ours[key].values})))
    spread = "so no spread" if usual == 1 else "mean ± population standard deviation"
    others = "".join(f"; {n} for {_listed(told, of_count[n])}" for n in sorted(of_count))
    yield f"Seeds: {usual} for each value ({seeds}), {spread}{others}."


def _run_notes(told: _Told, ours: Mapping[Key, Replica]) -> Iterator[str]:
    """What failed, what is not finished, what the selection cannot say."""
    failed = {key: replica.failed for key, replica in ours.items() if replica.failed}
    if failed:
        runs = sorted({f"{key[0]} {key[1]}{_point(p)} seed {s}, {_path(told, key)}" for key, f in failed.items() for p, s in f})
        yield f"Failed, and in no number: {'; '.join(runs)}."
    behind = [key for key, replica in ours.items() if 0 < replica.competing < replica.planned]
    if behind:
        by_share: dict[tuple[int, int], list[Key]] = {}
        for key in behind:
            by_share.setdefault((ours[key].competing, ours[key].planned), []).append(key)
        shares = "; ".join(f"{done} of {of} for {_listed(told, keys)}" for (done, of), keys in sorted(by_share.items()))
        yield f"Grid points that competed (those with the most finished seeds): {shares}."
    if told.selection == "best-on-validation":
        without = [column_path(c) for c in told.columns if not c.data.validation]
        if without:
            yield f"No validation split, so no number under this selection: {', '.join(without)}."
    places = list(_places(told.table, told.columns))
    empty = sum((b.title, label, c.name) not in ours for b, label, c in places)
    if empty:
        yield f"Not run, or not yet finished: {empty} of {len(places)} values, left empty."


def _listed(told: _Told, keys: Sequence[Key]) -> str:
    """Rows and columns in words, column by column; all rows of a column as the column alone."""
    parts = []
    rows = [(block.title, row.label) for block in told.table.blocks for row in block.rows]
    for column in told.columns:
        here = [(block, label) for block, label, name in keys if name == column.name]
        have = [row for row in rows if (*row, column.name) in told.values]
        if here and len(here) == len(have):
            parts.append(f"{column_path(column)} (all rows)")
        elif here:
            parts.append(f"{column_path(column)} ({', '.join(f'{block} {label}'.strip() for block, label in here)})")
    return ", ".join(parts)


def _path(told: _Told, key: Key) -> str:
    return next(column_path(column) for column in told.columns if column.name == key[2])


def _point(point: Point) -> str:
    return "".join(f" {name}={value:g}" for name, value in point)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _csv_lines(told: _Told) -> Iterator[tuple[str, str, Printed]]:
    known = published.load(told.paper.name, told.table.published)
    name = next((number.table for number in known.values()), f"Table {told.table.number}")
    for block, label, column in _places(told.table, told.columns):
        row, path = row_path(block, label), column_path(column)
        number = told.values.get((block.title, label, column.name))
        if isinstance(number, Printed):
            yield row, path, number
        elif not told.published:
            there = known.get((row, path))
            yield row, path, _as_printed(told, name, column, number, there.specified if there else "")


def _as_printed(told: _Told, table: str, column: Column, replica: Replica | None, specified: str) -> Printed:
    """A replica in the words of a published number, with four decimals: more than a test set of 10,000 images resolves."""
    mean, sd = ("", "") if replica is None else _texts(replica, 4)
    n = replica.n if replica is not None and replica.n else None
    return Printed(
        table=table,
        metric=told.table.metric,
        value=float(mean) if mean else None,
        std=float(sd) if sd else None,
        value_text=mean,
        std_text=sd,
        statistic="mean",
        n=n,
        spread_kind="population sd" if sd else "",
        provenance="replica",
        specified=specified,
        note="; ".join(_csv_note(told, column, replica)),
    )


def _csv_note(told: _Told, column: Column, replica: Replica | None) -> Iterator[str]:
    if replica is None:
        yield "not run, or not yet finished"
    yield f"selection {told.selection}"
    if replica is not None and replica.n:
        if any(replica.points):
            yield "point" + " or".join(_point(point) for point in replica.points)
        seeds = ", ".join(f"seed {seed} epoch {' and '.join(map(str, replica.epochs[seed]))}" for seed in replica.values)
        yield seeds
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
        for point, seed in replica.failed:
            yield f"failed:{_point(point)} seed {seed}"
