"""What a command line asks for: papers, tables, cells, and the Records and images that are there for them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from papers import PAPERS
from replicate import grid as grids
from replicate.errors import BadInput
from replicate.index import Index
from replicate.protocol import Column, Paper, Table
from replicate.record import Store

if TYPE_CHECKING:
    from replicate.data.sources import Images


def load_paper(name: str) -> Paper:
    """A paper by its name in :data:`papers.PAPERS`, with ``-`` or ``_``. Raises ``BadInput`` for another."""
    module = name.replace("-", "_")
    if module not in PAPERS:
        raise BadInput(f"paper {name!r} is unknown; allowed: {', '.join(p.replace('_', '-') for p in PAPERS)}")
    paper: Paper = importlib.import_module(f"papers.{module}").PAPER
    return paper


class Elsewhere(BadInput):
    """A table does not have a data set; another one may."""


class Request:
    """The cells that a command line means."""

    def __init__(
        self,
        paper: Paper,
        *,
        table: str | None,
        datasets: Sequence[str],
        ratios: Sequence[int],
        networks: Sequence[str],
        methods: Sequence[str],
        grid: str | None,
        variant: str | None,
        quick: bool,
        seeds: Sequence[int] | None = None,
        precision: str | None = None,
        narrow: bool = False,
    ) -> None:
        """Raises ``BadInput`` naming the first value that the paper does not have.

        ``narrow``: of several values that were asked for, those that this table has are meant; ``Elsewhere`` if it has none."""
        self.paper, self.variant, self.quick = paper, variant, quick
        self.precision = None if precision == grids.PRECISIONS[0] else precision
        self._kept: dict[object, frozenset[str]] = {}
        self.table = self._table(table, grid)
        self.grid = grid or (self.table.grid if self.table else "table")
        if self.grid not in paper.grids:
            raise BadInput(f"grid {grid!r} is unknown; {paper.command} has: {', '.join(paper.grids)}")
        known = paper.grids[self.grid]
        grids.variant_values(paper, variant)
        for method in methods:
            if method not in known.methods:
                raise BadInput(f"method {method!r} is unknown in grid {self.grid}; allowed: {', '.join(known.methods)}")
        if self.table and self.table.descriptive and (datasets or ratios or networks or methods):
            raise Elsewhere(f"table {self.table.number} is printed as published, whole; leave out what chooses cells of it")
        rows = methods_of(self.table) if self.table else list(known.methods)
        self.methods = [m for m in rows if m in methods] if methods else rows
        if methods and not self.methods:
            assert self.table is not None
            raise Elsewhere(f"method {methods[0]!r} is no row of table {self.table.number}; its rows: {', '.join(rows)}")
        self.columns = self._columns(datasets, ratios, networks, narrow)
        self.beside = not (datasets or ratios or networks)  # what the table has beside these columns is not asked for
        if variant is not None:
            grids.no_stand_ins(self.columns, variant)
        if variant is not None and not grids.moves(paper, self.grid, self.columns, self.methods, variant):
            raise Elsewhere(f"variant {variant!r} moves nothing in {self._where}; leave out --variant, or name another table")
        self.seeds = tuple(range(paper.seeds)) if seeds is None else tuple(seeds)

    @classmethod
    def of_table(
        cls, paper: Paper, table: Table, *, grid: str | None = None, variant: str | None = None, quick: bool = False
    ) -> Request:
        """A whole table: every row, column and stand-in. Raises ``Elsewhere`` if the variant moves nothing there."""
        everything: dict[str, Any] = {"datasets": (), "ratios": (), "networks": (), "methods": ()}
        other = None if grid == table.grid else grid
        request = cls(paper, table=table.number, grid=other, variant=variant, quick=quick, **everything)
        if variant is None:
            request.columns += [column for column in table.stand_ins if column not in request.columns]
        return request

    def whole(self) -> Request:
        """The same table under the same grid and variant, with every row, column and stand-in."""
        assert self.table is not None
        return Request.of_table(self.paper, self.table, grid=self.grid, variant=self.variant, quick=self.quick)

    @property
    def _where(self) -> str:
        return f"table {self.table.number}" if self.table else f"grid {self.grid}"

    def _table(self, number: str | None, grid: str | None) -> Table | None:
        if number is not None:
            for table in self.paper.tables:
                if table.number == number:
                    return table
            allowed = ", ".join(table.number for table in self.paper.tables)
            raise BadInput(f"table {number!r} is not replicated; {self.paper.command} has: {allowed}")
        if grid is None:
            return self._table(self.paper.default_tables[0], None)
        # A grid that searches what a table's own grid fixes prints in that table's layout, if no row is quoted there.
        for table in self.paper.tables:
            if table.grid == grid or (grid in self.paper.grids and same_rows(self.paper, table, grid)):
                return table
        return None

    def _columns(self, datasets: Sequence[str], ratios: Sequence[int], networks: Sequence[str], narrow: bool) -> list[Column]:
        known = self.paper.grids[self.grid].columns
        default = tuple(c for c in known if not c.stand_in)
        if self.table and self.table.grid == self.grid:
            default, known = self.table.columns, (*self.table.columns, *self.table.stand_ins)
        asked = ", ".join(datasets) or "these data sets"
        names = f"{self.paper.command} in {self._where} has"
        datasets = known_among("data set", datasets, [column.dataset for column in known], names, narrow)
        chosen = [column for column in known if column.dataset in datasets] if datasets else list(default)
        for what, wanted, value in (
            ("ratio", [str(ratio) for ratio in ratios], lambda column: str(column.ratio)),
            ("network", networks, _network),
        ):
            values = known_among(what, wanted, [value(column) for column in chosen], f"{asked} in {self._where}", narrow)
            chosen = [column for column in chosen if not values or value(column) in values]
        return chosen

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(column.data.source for column in self.columns))

    def cells(self) -> list[grids.Cell]:
        return self._cells(self.columns, self.seeds)

    def programmes(self, source: str) -> list[grids.Programme]:
        """What is trained on one data set, whatever the seed."""
        return [cell.programme for cell in self._cells([c for c in self.columns if c.data.source == source], (0,))]

    def _cells(self, columns: Sequence[Column], seeds: Sequence[int]) -> list[grids.Cell]:
        return grids.cells(
            self.paper,
            self.grid,
            columns=columns,
            methods=self.methods,
            seeds=seeds,
            variant=self.variant,
            quick=self.quick,
            precision=self.precision,
        )

    def kept(self, column: Column) -> frozenset[str]:
        """Nominal keys of the states of this column that any of the paper's grids and variants branch at, so that a later
        request finds its beginning."""
        shared = (column.data, column.network)
        if shared not in self._kept:
            alike = (c for grid in self.paper.grids.values() for c in grid.columns if (c.data, c.network) == shared)
            programmes = all_programmes(self.paper, alike, quick=self.quick, precision=self.precision)
            self._kept[shared] = frozenset(grids.branch_epochs(programmes))
        return self._kept[shared]


def all_programmes(paper: Paper, columns: Iterable[Column], **how: Any) -> Iterator[grids.Programme]:
    """What any grid and variant of the paper trains in these columns; stand-ins have no variants. ``how`` is for
    :func:`replicate.grid.cells`."""
    columns = list(columns)
    real = [column for column in columns if not column.stand_in]
    for name in paper.grids:
        for variant in (None, *(variant.name for variant in paper.variants)):
            for cell in grids.cells(paper, name, columns=real if variant else columns, variant=variant, **how):
                yield cell.programme


def same_rows(paper: Paper, table: Table, grid: str) -> bool:
    """Whether a grid trains what the table's rows print, all of them: then it prints in the same layout."""
    return {row.method for block in table.blocks for row in block.rows} == set(paper.methods(grid))


def known_among(what: str, wanted: Sequence[str], have: Sequence[str], where: str, narrow: bool = False) -> list[str]:
    """Those of ``wanted`` that are among ``have``; raises ``BadInput`` for the first that is not. ``narrow``: some may be
    missing, not all."""
    found = [value for value in wanted if value in have]
    if len(found) < len(wanted) and not (narrow and found):
        missing = next(value for value in wanted if value not in have)
        allowed = ", ".join(dict.fromkeys(have))
        if what == "data set":
            raise Elsewhere(f"data set {missing!r} is unknown; {where}: {allowed}")
        raise BadInput(f"{what} {missing if what == 'ratio' else repr(missing)} is unknown for {where}; allowed: {allowed}")
    return found


def methods_of(table: Table) -> list[str]:
    """The methods of a table's rows, each once; rows that the paper quotes have none."""
    return list(dict.fromkeys(row.method for block in table.blocks for row in block.rows if row.method is not None))


def _network(column: Column) -> str:
    """A column's network as the command line calls it."""
    return column.tag or column.network


def asked_for(
    paper: str | None, which: dict[str, Any], *, stand_ins: bool, default: bool = False, words: bool = False
) -> Iterator[Request]:
    """One request a table: of one paper or of all. Raises ``BadInput`` if no table has what was asked for.

    ``stand_ins`` adds the stand-in columns where no data set is named. ``default`` keeps to the tables that a paper's own
    command trains. Tables that train nothing are left out unless ``words`` asks for them.
    """
    refused: list[BadInput] = []
    found = 0
    for name in [paper] if paper else PAPERS:
        loaded = load_paper(name)
        numbers: list[str | None] = [which["table"]]
        walking = which["table"] is None and which["grid"] is None
        if walking:
            tables = [table for table in loaded.tables if words or not table.descriptive]
            if default:
                tables = [table for table in tables if table.number in loaded.default_tables]
            numbers = [table.number for table in tables]
            try:
                _known_somewhere(loaded, tables, which)
            except BadInput as error:  # another paper may know it
                refused.append(error)
                continue
        for number in numbers:
            try:
                request = Request(loaded, **{**which, "table": number}, narrow=walking)
                if request.table is not None and request.table.descriptive and not words:
                    raise BadInput(
                        f"table {number} of {loaded.command} is printed as published and trains nothing; "
                        f"print it: replicate tables {loaded.command} --table {number}"
                    )
            except BadInput as error:
                refused.append(error)
                continue
            narrowed = which["datasets"] or which["ratios"] or which["networks"]
            if stand_ins and request.variant is None and not narrowed:
                known = request.table.stand_ins if request.table else loaded.grids[request.grid].columns
                request.columns += [c for c in known if c.stand_in and c not in request.columns]
            found += 1
            yield request
    if not found:
        raise next((error for error in refused if not isinstance(error, Elsewhere)), refused[0])


def _known_somewhere(paper: Paper, tables: Sequence[Table], which: dict[str, Any]) -> None:
    """Raises ``BadInput`` for a data set, ratio, network or method that none of these tables has, naming what they have
    together: each table is then asked for what it has of them."""
    columns = [column for table in tables for column in (*table.columns, *table.stand_ins)]
    if known_among("data set", which["datasets"], [column.dataset for column in columns], f"{paper.command} has"):
        columns = [column for column in columns if column.dataset in which["datasets"]]
    asked = ", ".join(which["datasets"]) or "these data sets"
    known_among("ratio", [str(ratio) for ratio in which["ratios"]], [str(column.ratio) for column in columns], asked)
    known_among("network", which["networks"], [_network(column) for column in columns], asked)
    methods = list(dict.fromkeys(method for table in tables for method in methods_of(table)))
    for method in which["methods"]:
        if method not in methods:
            raise BadInput(f"method {method!r} is unknown; {paper.command} has: {', '.join(methods)}")


def say_none(request: Request, kept: Store, of: str = "", also: str = "") -> None:
    """Say on standard error that there are no Records (``of`` some kind) for a request's table yet, what makes them (with
    ``also`` this option), and where they were looked for."""
    assert request.table is not None
    name, number = request.paper.command, request.table.number
    folders = " and ".join(repr(str(folder)) for folder in (kept.root, *kept.also))
    click.echo(
        f"{name}, table {number}: no Records{of} yet; run `replicate {name} --table {number}` with the same options{also}, "
        f"or name their folder by --store or --results; looked in {folders}",
        err=True,
    )


def planned_cells(requests: Sequence[Request]) -> list[grids.Cell]:
    """The cells of every request, each once: seeds outermost, then data as they first appear, so that each is read once a seed.

    Raises ``BadInput`` if there is none."""
    cells: dict[tuple[str, int], grids.Cell] = {}
    seeds: dict[int, int] = {}
    data: dict[object, int] = {}
    for request in requests:
        for cell in request.cells():
            cells.setdefault((cell.programme.key(""), cell.seed), cell)
            seeds.setdefault(cell.seed, len(seeds))
            data.setdefault(cell.programme.start.data, len(data))
    if not cells:
        raise BadInput("no cell is left by these options; leave one out, or see `replicate list`")
    return sorted(cells.values(), key=lambda cell: (seeds[cell.seed], data[cell.programme.start.data]))


def read_images(source: str, data: Path | None) -> Images:
    """A source from where its files are. Raises ``BadInput`` if it is missing or damaged."""
    from replicate.data import sources

    return sources.load(source, sources.data_folder(data))


def load_images(sources: Sequence[str], data: Path | None) -> dict[str, Images]:
    """Every source, with one notice for each that is not the official edition. Raises ``BadInput`` if one is missing."""
    loaded = {source: read_images(source, data) for source in sources}
    for images in loaded.values():
        if images.notice:
            click.echo(images.notice, err=True)
    return loaded


def reader(store: Path, results: Path, paper: Paper) -> Store:
    """The store, and beside it the Records committed with the project. Raises ``BadInput`` for a store that was named and is
    not there: another one's numbers would be taken for its own."""
    named = click.get_current_context().get_parameter_source("store")
    if named in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT) and not store.is_dir():
        raise BadInput(f"store {str(store)!r} is not a folder; name the one that training wrote to, or leave out --store")
    index = click.get_current_context().meta.setdefault(f"index of {store}", Index(store))  # one for the whole command
    return Store(store, also=[results / paper.name], index=index)


def edition_choices(request: Request, store: Store) -> Iterator[tuple[list[Column], dict[str, str]]]:
    """Columns and their editions, so that no table mixes editions of one source: first official ones, then the rest."""
    asked = request.columns
    found = {source: store.editions(source) for source in dict.fromkeys(column.data.source for column in asked)}
    stand_in = {column.data.source for column in asked if column.stand_in}
    rounds: list[dict[str, str]] = [
        {s: "official" for s, editions in found.items() if "official" in editions and s not in stand_in}
    ]
    others = {s: [e for e in editions if e != "official"] for s, editions in found.items() if s not in stand_in}
    for place in range(max((len(editions) for editions in others.values()), default=0)):
        rounds.append({s: editions[place] for s, editions in others.items() if place < len(editions)})
    rounds.append({s: editions[0] for s, editions in found.items() if s in stand_in and editions})
    for chosen in rounds:
        columns = [column for column in asked if column.data.source in chosen]
        if columns:
            yield columns, chosen


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
