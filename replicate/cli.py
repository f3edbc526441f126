"""The command line: the only room that sees all others.

torch is imported only by commands that train or measure speed, so ``replicate tables`` starts as fast as a reader of files.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import replicate
from papers import PAPERS
from replicate import grid as grids
from replicate.errors import BadInput
from replicate.index import Index
from replicate.protocol import SOURCES, Column, Paper, Table
from replicate.record import Store, write_atomically
from replicate.report.selection import SELECTIONS

if TYPE_CHECKING:
    from replicate.data.sources import Images
    from replicate.report.logits import Chosen

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}


def load_paper(name: str) -> Paper:
    """A paper by its name in :data:`papers.PAPERS`, with ``-`` or ``_``. Raises ``BadInput`` for another."""
    module = name.replace("-", "_")
    if module not in PAPERS:
        raise BadInput(f"paper {name!r} is unknown; allowed: {', '.join(p.replace('_', '-') for p in PAPERS)}")
    paper: Paper = importlib.import_module(f"papers.{module}").PAPER
    return paper


# --- options ---------------------------------------------------------------------------------------------------------


class Seeds(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases
    """``0``, ``0-4``, ``0,2,5-7``."""

    name = "SEEDS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        chosen: list[int] = []
        for part in str(value).split(","):
            first, dash, last = part.strip().partition("-")
            numbers = [first, last if dash else first]
            # Nine digits at most: a longer number is a slip, and a range of that size would fill the memory.
            if not all(number.isdecimal() and len(number) <= 9 for number in numbers) or int(numbers[0]) > int(numbers[1]):
                self.fail(f"seeds {value!r} cannot be read; write one seed, a range or a list: 0, 0-4 or 0,2,5-7")
            if int(numbers[1]) - int(numbers[0]) + len(chosen) >= 1000:
                self.fail(f"seeds {value!r} are more than 1000; name fewer")
            chosen.extend(range(int(numbers[0]), int(numbers[1]) + 1))
        return tuple(dict.fromkeys(chosen))


class Minutes(click.ParamType):  # type: ignore[type-arg]
    """A finite number, 0 or more."""

    name = "MINUTES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            minutes = float(value)
        except ValueError:
            minutes = math.nan
        if not 0 <= minutes < math.inf:
            self.fail(f"time limit {value!r} cannot be read; write minutes, 0 or more, such as 90")
        return minutes


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def add(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return add


which_cells = _options(
    click.option("--table", "table", metavar="N", help="Only the cells of this table."),
    click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this data set; may be given again."),
    click.option(
        "--ratio", "ratios", multiple=True, type=int, metavar="R", help="Only this imbalance ratio; may be given again."
    ),
    click.option("--network", "networks", multiple=True, metavar="NAME", help="Only this network; may be given again."),
    click.option("--method", "methods", multiple=True, metavar="LABEL", help="Only this method; may be given again."),
    click.option("--grid", "grid", metavar="NAME", help="A named grid of the paper instead of the table's own."),
    click.option("--variant", "variant", metavar="NAME", help="Another reading of a quirk; tables of its own."),
    click.option("--quick", is_flag=True, help="A few steps of every cell, to see that all works; marked, never compared."),
)
which_seeds = click.option(
    "--seeds", type=Seeds(), help="Such as 0-4; the paper's number of seeds, counted from 0, if left out."
)
where_store = click.option(
    "--store", "store", type=click.Path(path_type=Path), default=Path("store"), show_default=True, envvar="REPLICATE_STORE",
    help="Folder of Records, Measures and checkpoints.",
)  # fmt: skip
where_results = click.option(
    "--results", "results", type=click.Path(path_type=Path), default=Path("results"), show_default=True,
    help="Folder of tables, and of committed Records to read beside the store.",
)  # fmt: skip
where_data = click.option(
    "--data", "data", type=click.Path(path_type=Path), help="Folder of data sets; else the environment's REPLICATE_DATA."
)
which_device = click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 ...; a GPU where there is one, if left out.")
which_selection = click.option(
    "--selection",
    type=click.Choice(tuple(SELECTIONS)),
    default="as-published",
    show_default=True,
    help="How runs become numbers.",
)


# --- what was asked for ----------------------------------------------------------------------------------------------


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
        narrow: bool = False,
    ) -> None:
        """Raises ``BadInput`` naming the first value that the paper does not have.

        ``narrow``: of several values that were asked for, those that this table has are meant; ``Elsewhere`` if it has none."""
        self.paper, self.variant, self.quick = paper, variant, quick
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
        rows = _methods(self.table) if self.table else list(known.methods)
        self.methods = [m for m in rows if m in methods] if methods else rows
        if methods and not self.methods:
            assert self.table is not None
            raise Elsewhere(f"method {methods[0]!r} is no row of table {self.table.number}; its rows: {', '.join(rows)}")
        self.columns = self._columns(datasets, ratios, networks, narrow)
        self.beside = not (datasets or ratios or networks)  # what the table has beside these columns is not asked for
        if variant is not None and all(column.stand_in for column in self.columns):
            raise BadInput(f"variant {variant!r} is a reading of the paper; stand-in data has none: leave out --variant")
        if variant is not None and not grids.moves(paper, self.grid, self.columns, self.methods, variant):
            raise Elsewhere(f"variant {variant!r} moves nothing in {self._where}; leave out --variant, or name another table")
        self.seeds = tuple(range(self.table.seeds if self.table else 5)) if seeds is None else tuple(seeds)

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
            rows = {row.method for block in table.blocks for row in block.rows}
            if table.grid == grid or (grid in self.paper.grids and rows == set(self.paper.methods(grid))):
                return table
        return None

    def _columns(self, datasets: Sequence[str], ratios: Sequence[int], networks: Sequence[str], narrow: bool) -> list[Column]:
        known = self.paper.grids[self.grid].columns
        default = tuple(c for c in known if not c.stand_in)
        if self.table and self.table.grid == self.grid:
            default, known = self.table.columns, (*self.table.columns, *self.table.stand_ins)
        asked = ", ".join(datasets) or "these data sets"
        names = f"{self.paper.command} in {self._where} has"
        datasets = _known("data set", datasets, [column.dataset for column in known], names, narrow)
        chosen = [column for column in known if column.dataset in datasets] if datasets else list(default)
        for what, wanted, value in (
            ("ratio", [str(ratio) for ratio in ratios], lambda column: str(column.ratio)),
            ("network", networks, _network),
        ):
            values = _known(what, wanted, [value(column) for column in chosen], f"{asked} in {self._where}", narrow)
            chosen = [column for column in chosen if not values or value(column) in values]
        return chosen

    @property
    def sources(self) -> list[str]:
        return list(dict.fromkeys(column.data.source for column in self.columns))

    def cells(self) -> list[grids.Cell]:
        return grids.cells(
            self.paper,
            self.grid,
            columns=self.columns,
            methods=self.methods,
            seeds=self.seeds,
            variant=self.variant,
            quick=self.quick,
        )

    def kept(self, column: Column) -> frozenset[str]:
        """Nominal keys of the states of this column that any of the paper's grids and variants branch at, so that a later
        request finds its beginning."""
        shared = (column.data, column.network)
        if shared not in self._kept:
            programmes = [
                cell.programme
                for name, grid in self.paper.grids.items()
                for variant in (None, *(v.name for v in self.paper.variants if not column.stand_in))
                for cell in grids.cells(
                    self.paper,
                    name,
                    columns=[c for c in grid.columns if (c.data, c.network) == (column.data, column.network)],
                    variant=variant,
                    quick=self.quick,
                )
            ]
            self._kept[shared] = frozenset(grids.branch_epochs(programmes))
        return self._kept[shared]


def _known(what: str, wanted: Sequence[str], have: Sequence[str], where: str, narrow: bool = False) -> list[str]:
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


def _methods(table: Table) -> list[str]:
    """The methods of a table's rows, each once; rows that the paper quotes have none."""
    return list(dict.fromkeys(row.method for block in table.blocks for row in block.rows if row.method is not None))


def _network(column: Column) -> str:
    """A column's network as the command line calls it."""
    return column.tag or column.network


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


# --- commands --------------------------------------------------------------------------------------------------------


class Commands(click.Group):
    """The fixed commands, and one for each paper."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*(name.replace("_", "-") for name in PAPERS), *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name.replace("-", "_") in PAPERS:
            return run_command(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise BadInput(f"command {args[0]!r} is unknown; allowed: {', '.join(self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(replicate.__version__, prog_name="replicate")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Train long-tailed recognition papers again, by their own protocols, and print their tables beside the published numbers.

    Options choose which cells run, where, and where results go. None changes a protocol.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run_command(name: str) -> click.Command:
    """The command that trains a paper's cells and prints its table."""

    @click.command(name, short_help=f"Train the tables of {name}.")
    @which_cells
    @which_seeds
    @where_data
    @where_store
    @where_results
    @which_device
    @click.option("--time-limit", type=Minutes(), metavar="MINUTES", help="Stop at a checkpoint after so long.")
    @click.option(
        "--plan", "only_plan", is_flag=True, help="Print what would run, its cost in epochs, time and disk; run nothing."
    )
    def command(
        data: Path | None,
        store: Path,
        results: Path,
        device: str | None,
        time_limit: float | None,
        only_plan: bool,
        **which: Any,
    ) -> None:
        requests = list(_requests(name, which, stand_ins=False, default=True))
        if only_plan:
            _plan_all(requests, data, Store(store), device)
            return
        _run(requests, data, Store(store), results, device, time_limit)

    command.help = f"Train cells of {load_paper(name).title!r} that have no Record yet, and print the table."
    return command


def _planned(requests: Sequence[Request]) -> list[grids.Cell]:
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


def _run(
    requests: Sequence[Request], data: Path | None, store: Store, results: Path, device: str | None, time_limit: float | None
) -> None:
    planned = _planned(requests)
    store.require_writable()
    sources = list(dict.fromkeys(cell.programme.start.data.source for cell in planned))
    images = load_images(sources, data)
    editions = {source: loaded.edition for source, loaded in images.items()}

    # What was read for its edition serves the first column; the rest is read again when it is needed, not kept until then.
    images = {source: images[source] for source in sources[:1]}

    def load(source: str) -> Images:
        return images.pop(source, None) or read_images(source, data)

    from replicate.engine.numerics import pick_device
    from replicate.launch import local
    from replicate.launch.progress import Progress, duration

    quick, paper = requests[0].quick, requests[0].paper
    try:
        outcome = local.run(
            planned,
            store,
            editions,
            load,
            pick_device(device),
            keep=lambda cell: requests[0].kept(cell.column),
            # A quick run is there to see that all works; a Measure over the whole training set would take most of its time.
            measures=() if quick else paper.measures,
            time_limit=None if time_limit is None else 60 * time_limit,
            progress=(progress := Progress()),
        )
    except KeyboardInterrupt:
        click.echo("\nstopped; the last checkpoint stays: the same command goes on from it", err=True)
        sys.exit(130)
    for request in requests:
        click.echo()
        _show(request, store, editions, results)
    click.echo(
        f"{_count(len(planned), 'cell')}: {outcome.before} done before, {outcome.trained} trained now in "
        f"{_count(outcome.epochs, 'epoch')}."
    )
    for cell, failed in outcome.failed:
        click.echo(f"failed: {cell.label}: loss {failed['loss']} in epoch {failed['epoch']}; it enters no table", err=True)
    if outcome.left:
        rest = f" (about {duration(progress.seconds_left)})" if outcome.epochs else ""
        click.echo(
            f"time limit: {_count(len(outcome.left), 'cell')} in {_count(outcome.epochs_left, 'epoch')} are left{rest}; "
            "the same command goes on from here."
        )
    if outcome.failed:
        sys.exit(1)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _printer(
    request: Request, store: Store, editions: Mapping[str, str], columns: Sequence[Column], selection: str, results: Path
) -> Callable[..., str] | None:
    """Prints the request's table in a format, from Records; None if there is no Record."""
    from replicate.report import counterparts, tables

    assert request.table is not None
    how: dict[str, Any] = {
        "selection": selection,
        "edition_of": editions,
        "variant": request.variant,
        "quick": request.quick,
        "columns": columns,
        "grid": request.grid,
    }
    values = tables.replicas(store, request.paper, request.table, methods=request.methods, **how)
    if not values:
        return None

    def other(name: str) -> tuple[Paper, Store]:
        paper = load_paper(name)
        return paper, _reader(store.root, results, paper)

    own = counterparts.counterparts(request.table, columns, other, selection=selection, edition_of=editions)
    return partial(tables.render, request.paper, request.table, values, beside=request.beside, counterparts=own, **how)


def _show(request: Request, store: Store, editions: Mapping[str, str], results: Path) -> None:
    """Print the request's table in text, and write it in every format where results belong."""
    if request.table is None:
        click.echo(_summary(request, store, editions))
        return
    printer = _printer(request, store, editions, request.columns, "as-published", results)
    if printer is None:
        click.echo("no cell is finished yet: there is no table to print")
        return
    click.echo(printer(format="text"))
    stem = results / request.paper.name / _file_stem(request, editions)
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for form, suffix in FORMATS.items():
            stem.with_name(f"{stem.name}.{suffix}").write_text(printer(format=form), encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"results {str(results)!r} cannot be written ({error.strerror}); name another folder with --results"
        ) from None
    click.echo(f"This table as text, Markdown, CSV and LaTeX: {stem}.*; its Records: {store.root}/records")


def _file_stem(request: Request, editions: Mapping[str, str]) -> str:
    """Such as ``table1``, ``table1.digits``, ``table1.cifar10@0123456789ab.text``: what may not be mixed has its own name."""
    assert request.table is not None
    parts = [f"table{request.table.number}"]
    if request.grid != request.table.grid:
        parts.append(request.grid)
    stand_in = {column.data.source for column in request.columns if column.stand_in}
    for source in sorted({column.data.source for column in request.columns}):
        if source in stand_in:
            parts.append(source)
        elif editions[source] != "official":
            parts.append(f"{source}@{editions[source]}")
    if request.variant:
        parts.append(request.variant)
    if request.quick:
        parts.append("quick")
    return ".".join(parts)


def _summary(request: Request, store: Store, editions: Mapping[str, str]) -> str:
    """For grids without a table: one line a cell that has a Record."""
    from tabulate import tabulate

    lines = []
    on_validation = request.paper.selects_on == "validation"
    for cell in request.cells():
        record = store.of(cell, editions[cell.column.data.source])
        if record is not None and record.failed is None:
            curve, best = record.accuracy("test"), record.best["validation" if on_validation else "test"]
            point = " ".join(f"{name}={value:g}" for name, value in cell.point)
            lines.append((cell.method, point, cell.column.name, cell.seed, 100 * curve[best - 1], best, 100 * curve[-1]))
    heads = ("method", "point", "data", "seed", "best", "epoch", "last")
    where = "validation images" if on_validation else "the test set"
    return (
        tabulate(lines, heads, floatfmt=".2f")
        + f"\n\nTest accuracy (%): the last stage's best epoch on {where}, and the last epoch."
    )


@cli.command("plan", short_help="What a request costs: cells, epochs, time, disk.")
@click.argument("paper", required=False)
@which_cells
@which_seeds
@where_data
@where_store
@which_device
def plan_command(paper: str | None, data: Path | None, store: Path, device: str | None, **which: Any) -> None:
    """Cells, shared beginnings, epochs to train, and an estimate of time and disk from measured speed. Nothing runs."""
    _plan_all(list(_requests(paper, which, stand_ins=False)), data, Store(store), device)


def _plan_all(requests: Sequence[Request], data: Path | None, store: Store, device: str | None) -> None:
    speeds: dict[str, float] = {}
    editions: dict[str, str] = {}
    sides: dict[str, int | None] = {}
    for request in requests:
        _plan(request, data, store, device, speeds, editions, sides)
    for paper, of_paper in itertools.groupby(requests, key=lambda request: request.paper):
        together = list(of_paper)
        if len(together) > 1:
            planned = _planned(together)
            cost, left = grids.cost(planned), store.epochs_left(planned, editions)
            click.echo(
                f"{paper.command}, {len(together)} tables together: {cost.cells:,} cells; {cost.epochs_alone:,} epochs with "
                f"each cell alone, {cost.epochs_shared:,} with beginnings shared, {len(left):,} of them left to train"
            )


def _plan(
    request: Request,
    data: Path | None,
    store: Store,
    device: str | None,
    speeds: dict[str, float],
    editions: dict[str, str],
    sides: dict[str, int | None],
) -> None:
    """Print one table's cost; ``speeds`` by network, ``editions`` and pixels of a side by source are found once and kept."""
    from tabulate import tabulate

    from replicate.engine.numerics import pick_device
    from replicate.launch import local
    from replicate.launch.progress import duration

    picked = pick_device(device)
    for source in request.sources:
        if source in editions:
            continue
        try:
            images = read_images(source, data)
            editions[source], sides[source] = images.edition, _small_side(images)
        except BadInput:
            editions[source] = "official"
            click.echo(f"{source} is not here: planned for the official edition", err=True)

    def line(name: str, cells: Sequence[grids.Cell]) -> tuple[Any, ...]:
        cost, left = grids.cost(cells), store.epochs_left(cells, editions)
        seconds = sum(work / speeds[cell.column.network] for cell, work in left.values())
        size = f"{_bytes(cells, request.kept) / 2**20:,.0f} MiB"
        return name, cost.cells, cost.epochs_alone, cost.epochs_shared, len(left), duration(seconds), size

    every = request.cells()
    lines = []
    for column in request.columns:
        cells = [cell for cell in every if cell.column == column]
        if not cells:
            continue
        if column.network not in speeds:
            speeds[column.network] = local.measured_speed(cells[0], picked, side=sides.get(column.data.source))
        lines.append(line(column.name, cells))
    if not lines:
        raise BadInput("no cell is left by these options; leave one out, or see `replicate list`")
    if len(lines) > 1:
        lines.append(line("all", every))
    title = f"Table {request.table.number}" if request.table else request.paper.grids[request.grid].title
    chosen = f"grid {request.grid}, seeds {', '.join(map(str, request.seeds))}" + (", quick" if request.quick else "")
    click.echo(f"{request.paper.command}, {title}: {chosen}")
    heads = ("data", "cells", "epochs, each cell alone", "epochs, beginnings shared", "left to train", "time left", "disk")
    click.echo(tabulate(lines, heads))
    for told in _passes(grids.cost(every)):
        click.echo(f"Second stages: {told}.")
    networks = dict.fromkeys(column.network for column in request.columns)
    shown = ", ".join(f"{name} {speeds[name]:,.0f} images/s" for name in networks)
    click.echo(f"Time from the speed of a few steps just measured on {picked}: {shown}. Nothing was trained.\n")


def _bytes(cells: Sequence[grids.Cell], kept: Callable[[Column], Set[str]]) -> int:
    """Of Records, and of the checkpoints that stay: those of states that programmes branch at, and everybody's last one."""
    from replicate.launch import local

    found: dict[tuple[str, int], int] = {}
    for cell in cells:
        chain, first = cell.programme.keys(""), cell.programme.frozen_from
        branching = kept(cell.column)
        found.update({(key, cell.seed): local.checkpoint_bytes(cell) for key in chain[1:first] if key in branching})
        found.setdefault((chain[-1], cell.seed), (local.checkpoint_bytes if first is None else local.head_bytes)(cell))
    return sum(found.values()) + 30_000 * grids.cost(cells).cells


def _passes(cost: grids.Cost) -> Iterator[str]:
    """What a plan says of classifiers on a frozen backbone."""
    for sampler, (classifiers, passes) in cost.frozen.items():
        many = f"{passes:,} pass{'' if passes == 1 else 'es'} of frozen backbones"
        yield f"{_count(classifiers, 'classifier')} on {many} ({sampler or 'plain'} sampler)"


def _small_side(images: Images) -> int | None:
    """The side of photographs that are trained as they are because all have one size and it is small; else None."""
    size = getattr(images.train_images, "one_size", None)
    return max(size) if size and max(size) < SOURCES[images.source].side else None


@cli.command("list")
@where_store
@where_results
def list_command(store: Path, results: Path) -> None:
    """Papers, tables, grids, methods, and what is done."""
    for name in PAPERS:
        paper = load_paper(name)
        kept = _reader(store, results, paper)
        columns = [column for table in paper.tables for column in (*table.columns, *table.stand_ins)]
        there = {
            source: {edition: kept.seeds(source, edition) for edition in kept.editions(source)}
            for source in {column.data.source for column in columns}
        }
        click.echo(f"{paper.command}: {paper.title}\n  {paper.citation}")
        for table in paper.tables:
            click.echo(f"  table {table.number} (grid {table.grid}): {table.title}")
            for column in (*table.columns, *table.stand_ins):
                told = "; ".join(_done(paper, table, column, there)) or "nothing done"
                which = f"{column.dataset} --ratio {column.ratio}" + (f" --network {column.tag}" if column.tag else "")
                which += f", {column.path[-1]}" if column.then else ""
                click.echo(f"    {which}: {told}")
        for label, grid in paper.grids.items():
            click.echo(f"  grid {label}: {grid.title}; methods: {', '.join(grid.methods)}")
        for variant in paper.variants:
            click.echo(f"  variant {variant.name}: {variant.title}")


def _done(
    paper: Paper, table: Table, column: Column, editions: Mapping[str, Mapping[str, Mapping[str, Sequence[int]]]]
) -> Iterator[str]:
    """``editions``: by source and edition the seeds that are there for each programme's key."""
    source = column.data.source
    for edition, seeds in editions[source].items():
        planned = grids.cells(paper, table.grid, columns=[column], methods=_methods(table))
        keys = {cell.programme.key(edition)[:24] for cell in planned} if seeds else set()
        done = sum(len(seeds.get(key, ())) for key in keys)
        if done:
            most = max(len(seeds.get(key, ())) for key in keys)
            yield f"{done} Records of {len(keys)} cells a seed, up to {most} seeds ({source}@{edition})"


def _reader(store: Path, results: Path, paper: Paper) -> Store:
    """The store, and beside it the Records committed with the project."""
    index = click.get_current_context().meta.setdefault(f"index of {store}", Index(store))  # one for the whole command
    return Store(store, also=[results / paper.name], index=index)


def _edition_choices(request: Request, store: Store) -> Iterator[tuple[list[Column], dict[str, str]]]:
    """Columns and their editions, so that no table mixes editions of one source: first official ones, then the rest."""
    yield from _editions_of(request.columns, store)


def _editions_of(asked: Sequence[Column], store: Store) -> Iterator[tuple[list[Column], dict[str, str]]]:
    """See :func:`_edition_choices`."""
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


@cli.command("tables")
@click.argument("paper", required=False)
@which_cells
@where_store
@where_results
@which_selection
@click.option("--format", "form", type=click.Choice(tuple(FORMATS)), default="text", show_default=True)
@click.option("--published", is_flag=True, help="Print the published numbers in the same layout instead.")
def tables_command(
    paper: str | None, store: Path, results: Path, selection: str, form: str, published: bool, **which: Any
) -> None:
    """Print tables from Records alone, in the published layout."""
    from replicate.report import tables

    for request in _requests(paper, which, stand_ins=True, words=True):
        if request.table is None:
            raise BadInput(f"grid {request.grid!r} has no table; allowed: {', '.join(t.grid for t in request.paper.tables)}")
        if request.table.descriptive:
            if published or which["table"] is not None:
                click.echo(tables.render(request.paper, request.table, {}, form), nl=False)
            continue
        if published:
            columns = [column for column in request.columns if not column.stand_in]
            numbers = tables.printed(request.paper, request.table)
            told = tables.render(request.paper, request.table, numbers, form, columns=columns, beside=request.beside)
            click.echo(told, nl=False)
            continue
        kept = _reader(store, results, request.paper)
        shown = 0
        for columns, editions in _edition_choices(request, kept):
            printer = _printer(request, kept, editions, columns, selection, results)
            if printer is not None:
                shown += 1
                click.echo(printer(format=form), nl=False)
        if not shown:
            click.echo(f"{request.paper.command}, table {request.table.number}: no Records yet; {_how_to(request)}", err=True)


def _requests(
    paper: str | None, which: dict[str, Any], *, stand_ins: bool, default: bool = False, words: bool = False
) -> Iterator[Request]:
    """One request a table: of one paper or of all. Raises ``BadInput`` if no table has what was asked for.

    ``stand_ins`` adds the stand-in columns where no data set is named. ``default`` keeps to the tables that a paper's own
    command trains. Tables of words are left out unless ``words`` asks for them.
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
                        f"table {number} of {loaded.command} has words and nothing to train; "
                        f"print it: replicate tables {loaded.command} --table {number}"
                    )
            except BadInput as error:
                refused.append(error)
                continue
            if stand_ins and request.variant is None and not which["datasets"] and not which["ratios"]:
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
    if _known("data set", which["datasets"], [column.dataset for column in columns], f"{paper.command} has"):
        columns = [column for column in columns if column.dataset in which["datasets"]]
    asked = ", ".join(which["datasets"]) or "these data sets"
    _known("ratio", [str(ratio) for ratio in which["ratios"]], [str(column.ratio) for column in columns], asked)
    _known("network", which["networks"], [_network(column) for column in columns], asked)
    methods = list(dict.fromkeys(method for table in tables for method in _methods(table)))
    for method in which["methods"]:
        if method not in methods:
            raise BadInput(f"method {method!r} is unknown; {paper.command} has: {', '.join(methods)}")


def _how_to(request: Request) -> str:
    assert request.table is not None
    return f"run `replicate {request.paper.command} --table {request.table.number}` with the same options"


@cli.command("diff")
@click.argument("paper")
@which_cells
@where_store
@where_results
@click.option("--format", "form", type=click.Choice(("text", "markdown", "csv")), default="text", show_default=True)
@click.option("--second-run", is_flag=True, help="The authors' own second run against their table, where there is one.")
def diff_command(paper: str, store: Path, results: Path, form: str, second_run: bool, **which: Any) -> None:
    """Replica, published number, difference and verdict, cell by cell; exits 1 if a fully specified row differs."""
    from replicate.data.sources import comparability
    from replicate.report import diff

    if second_run:
        _second_runs(load_paper(paper), form, which)
        return
    worst = 0
    for request in _requests(paper, which, stand_ins=True):
        if request.table is None:
            raise BadInput(f"grid {request.grid!r} has no table; allowed: {', '.join(t.grid for t in request.paper.tables)}")
        kept = _reader(store, results, request.paper)
        shown = 0
        for columns, editions in _edition_choices(request, kept):
            rows = diff.compare(
                kept,
                request.paper,
                request.table,
                edition_of=editions,
                comparability={source: comparability(source, edition) for source, edition in editions.items()},
                variant=request.variant,
                quick=request.quick,
                columns=columns,
                grid=request.grid,
            )
            if all(row.replica is None for row in rows):
                continue
            shown += 1
            click.echo(diff.render(rows, form), nl=False)
            worst = max(worst, diff.exit_code(rows))
        if not shown:
            click.echo(f"{request.paper.command}, table {request.table.number}: no Records yet; {_how_to(request)}", err=True)
    sys.exit(worst)


def _second_runs(paper: Paper, form: str, which: Mapping[str, Any]) -> None:
    """Raises ``BadInput`` if the paper has none, or if other options ask for something of ours."""
    from replicate.report import second_run

    asked = next((name for name, value in which.items() if value), None)
    if asked is not None:
        raise BadInput(f"--second-run has no cells of ours to choose by --{asked.rstrip('s')}; leave one out")
    if not paper.second_runs:
        having = [name.replace("_", "-") for name in PAPERS if load_paper(name).second_runs]
        raise BadInput(f"paper {paper.command!r} has no second run by its authors; allowed: {', '.join(having)}")
    click.echo("\n".join(second_run.render(paper, run, form) for run in paper.second_runs), nl=False)


which_format = click.option(
    "--format", "form", type=click.Choice(("text", "markdown", "csv")), default="text", show_default=True
)


@cli.command("claims")
@click.argument("paper", required=False)
@click.option("--table", "table", metavar="N", help="Only claims about this table.")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this data set; a stand-in only where named.")
@click.option("--variant", "variant", metavar="NAME", help="Runs of another reading of a quirk.")
@where_store
@where_results
@which_selection
@which_format
def claims_command(paper: str | None, store: Path, results: Path, form: str, **which: Any) -> None:
    """What papers claim in prose: does it hold on their own numbers, and on ours?"""
    from replicate.report import claims

    refused: list[BadInput] = []
    told: list[str] = []
    for name in [paper] if paper else PAPERS:
        loaded = load_paper(name)
        try:
            found = list(_judged(loaded, _reader(store, results, loaded), **which))
        except BadInput as error:  # another paper may know it
            refused.append(error)
            continue
        of = [f"table {which['table']}"] * bool(which["table"]) + [*which["datasets"]]
        of += [f"variant {which['variant']}"] * bool(which["variant"])
        told.append(claims.render(loaded, found, form, selection=which["selection"], note=", ".join(of)))
    if not told:
        raise refused[0]
    click.echo("\n".join(told) if form != "csv" else told[0] + "".join(part.partition("\n")[2] for part in told[1:]), nl=False)


def _judged(
    paper: Paper, kept: Store, *, table: str | None, datasets: Sequence[str], variant: str | None, selection: str
) -> Iterator[Any]:
    """Claims on published numbers, then on ours in one edition of the data after another. Raises ``BadInput`` for none."""
    from replicate.data.sources import comparability
    from replicate.report import claims

    grids.variant_values(paper, variant)
    if table is not None:
        _known("table", [table], [t.number for t in paper.tables], paper.command)
    every = list({c.name: c for t in paper.tables for c in (*t.columns, *t.stand_ins)}.values())
    _known("data set", datasets, [column.dataset for column in every], f"{paper.command} has")
    chosen = [claim for claim in paper.claims if table is None or any(part.of(table) for part in claim.comparisons)]
    some = False
    for stand_in in (False, True) if datasets else (False,):
        asked = [c for c in every if c.stand_in is stand_in and (not datasets or c.dataset in datasets)]
        rounds = [editions for _, editions in _editions_of(asked, kept)] or [{}]
        for number, editions in enumerate(rounds if asked else ()):
            for one in claims.judged(
                paper,
                kept,
                edition_of=editions,
                comparability={source: comparability(source, edition) for source, edition in editions.items()},
                selection=selection,
                variant=variant,
                stand_in=stand_in,
                datasets={column.dataset for column in asked} if datasets else (),
                claims=chosen,
            ):
                if number == 0 or one.of != "published":
                    some = True
                    yield one
    if not some:
        raise BadInput(f"no claim of {paper.command} is left by these options; leave one out")


@cli.command("lens")
@click.argument("paper")
@which_cells
@where_store
@where_results
@which_format
def lens_command(paper: str, store: Path, results: Path, form: str, **which: Any) -> None:
    """One table under every selection side by side, and what each row gains from looking at the test set."""
    from replicate.report import lens

    for request in _requests(paper, which, stand_ins=True):
        if request.table is None:
            raise BadInput(f"grid {request.grid!r} has no table; allowed: {', '.join(t.grid for t in request.paper.tables)}")
        if lens.accuracy(request.table) is None:
            if which["table"] is not None:
                having = ", ".join(t.number for t in request.paper.tables if lens.accuracy(t) is not None)
                raise BadInput(f"table {request.table.number} of {paper} has no accuracy to select by; allowed: {having}")
            continue
        kept = _reader(store, results, request.paper)
        shown = 0
        for columns, editions in _edition_choices(request, kept):
            how: dict[str, Any] = {"variant": request.variant, "quick": request.quick, "grid": request.grid}
            found = lens.lines(
                kept, request.paper, request.table, edition_of=editions, columns=columns, methods=request.methods, **how
            )
            if found:
                told = lens.render(found, form, quick=request.quick)
                click.echo(("" if form == "csv" or not shown else "\n") + told, nl=False)
                shown += 1
        if not shown:
            click.echo(f"{request.paper.command}, table {request.table.number}: no Records yet; {_how_to(request)}", err=True)


@cli.command("across")
@where_store
@where_results
@which_selection
@which_format
def across_command(store: Path, results: Path, selection: str, form: str) -> None:
    """The same method on the same data as several papers print it, beside ours."""
    from replicate.report import across

    papers = [load_paper(name) for name in PAPERS]
    click.echo(across.render(across.lines([(p, _reader(store, results, p)) for p in papers], selection), form), nl=False)


@cli.command("figures")
@click.argument("paper", required=False)
@click.option("--figure", "numbers", multiple=True, metavar="N", help="Only this figure; may be given again.")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this data set; may be given again.")
@where_store
@where_results
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the pictures; results/PAPER/figures, if left out.")
def figures_command(
    paper: str | None, numbers: tuple[str, ...], datasets: tuple[str, ...], store: Path, results: Path, out: Path | None
) -> None:
    """Draw figures as published from Records and Measures alone: PNG, SVG, and the CSV of what is drawn."""
    from replicate.report import figures

    refused: list[BadInput] = []
    for name in [paper] if paper else PAPERS:
        loaded = load_paper(name)
        folder = results / loaded.name / "figures" if out is None else out if paper else out / loaded.name
        try:
            for figure in figures.figures(loaded, _reader(store, results, loaded), numbers=numbers, datasets=datasets):
                if isinstance(figure, figures.Drawn):
                    click.echo(f"{loaded.command}, {figure.title}\n  {figures.write(figure, folder)}.png, .svg and .csv")
                else:
                    told = figure.note.replace("\n", "\n  ")
                    click.echo(f"{loaded.command}, {figure.title}\n  not drawn: {told}")
                for command in figure.commands:
                    click.echo(f"  to run what is missing: {command}")
        except figures.Unknown as error:  # another paper may know it
            refused.append(error)
    if len(refused) == (1 if paper else len(PAPERS)):
        raise refused[0]


@cli.command("why")
@click.argument("paper")
@click.argument("row")
@click.argument("dataset")
@click.argument("ratio", type=int)
@click.option("--table", "table", metavar="N", help="The table, where several have the row.")
@click.option("--network", "network", metavar="NAME", help="The network, where the table has several.")
@click.option("--then", "then", metavar="LABEL", help="The second stage that follows, where the table has several.")
@where_store
@where_results
@which_selection
def why_command(
    paper: str, row: str, dataset: str, ratio: int, table: str | None, network: str | None, then: str | None,
    store: Path, results: Path, selection: str,
) -> None:  # fmt: skip
    """Explain one number: ROW (its label or method) of PAPER on DATASET at imbalance RATIO.

    Runs, what was chosen and how close the rest was, curves, environment, verdict, quirks, and the command that makes it.
    """
    from replicate.data.sources import comparability
    from replicate.report import why

    loaded = load_paper(paper)
    found = why.places(loaded, row, dataset, ratio, table=table, network=network, then=then)
    click.echo(why.explain(loaded, _reader(store, results, loaded), found, comparability, selection), nl=False)


@cli.command("checklist")
@click.argument("paper", required=False)
@where_store
@where_results
@click.option("--format", "form", type=click.Choice(("text", "markdown")), default="text", show_default=True)
def checklist_command(paper: str | None, store: Path, results: Path, form: str) -> None:
    """What a conference's reproducibility checklist asks, filled in from Records: runs, spread, choices, compute, data."""
    from replicate.report import checklist

    papers = [load_paper(name) for name in ([paper] if paper else PAPERS)]
    click.echo("\n".join(checklist.render(one, _reader(store, results, one), form) for one in papers), nl=False)


@cli.command("page")
@where_store
@where_results
@click.option("--out", type=click.Path(path_type=Path), help="The file; results/page.html, if left out.")
def page_command(store: Path, results: Path, out: Path | None) -> None:
    """Write everything that Records say as one HTML page: tables, verdicts, figures, claims, and what is behind each number."""
    from replicate.data.sources import comparability
    from replicate.report import page

    def of(name: str) -> tuple[Paper, Store]:
        paper = load_paper(name)
        return paper, _reader(store, results, paper)

    chapters = page.chapters(PAPERS, comparability, of)
    file = results / "page.html" if out is None else out
    text = page.render(chapters, replicate.__version__)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode())
    except OSError as error:
        raise BadInput(f"page {str(file)!r} cannot be written ({error.strerror}); name another file with --out") from None
    click.echo(f"page: {file} ({len(text.encode()) / 2**20:.1f} MiB)")


#: Views of Measures that one paper alone has, and the paper.
_VIEWS = {"steps": "wb", "normals": "lort", "smoothing": "lort", "sensitivity": "lort", "sample": "lort"}


@cli.command("measures")
@click.argument("paper")
@which_cells
@where_store
@where_results
@where_data
@click.option("--classes", is_flag=True, help="Every class on a line of its own.")
@click.option("--steps", is_flag=True, help="Discriminant ratios after every step of a perceptron (wb, Fig. 2).")
@click.option("--normals", is_flag=True, help="Positive and negative logits of groups of classes (lort, Fig. 2).")
@click.option("--smoothing", is_flag=True, help="Accuracy over delta (lort, Fig. 4).")
@click.option("--sensitivity", is_flag=True, help="Accuracy over learning rate and weight decay (lort, Fig. 5).")
@click.option(
    "--sample", type=int, metavar="INDEX", help="Logits of this test image, counted from 0 (lort, Fig. 1); needs checkpoints."
)
def measures_command(paper: str, store: Path, results: Path, data: Path | None, **which: Any) -> None:
    """What the paper's analysis says of every finished run, from its Measures alone.

    unified-bound: B_y(f), Lemma 4, the sum of Eq. 16 without C(F). wb: discriminant ratios, cosines, norms, batch norm,
    forgetting, and how near its theorems are. lort: Logits Magnitude and Regularized Standard Deviation at the chosen grid
    points.
    """
    from replicate.report import bounds, geometry, logits

    asked = {name: which.pop(name) for name in ("classes", *_VIEWS)}
    views = [name for name, value in asked.items() if value is not None and value is not False]  # image 0 is one
    loaded = load_paper(paper)
    report = next((report for report in (bounds, geometry, logits) if report.MEASURE in loaded.measures), None)
    if report is None:
        raise BadInput(f"{paper} has no Measures; allowed: a paper whose module names some")
    for view in views:
        if _VIEWS.get(view, loaded.name) != loaded.name:
            raise BadInput(f"--{view} is a view of {_VIEWS[view]}, which {paper} does not have; leave it out")
    if len(views) > 1:
        raise BadInput(f"--{views[0]} and --{views[1]} are two views; name one")
    view = views[0] if views else ""
    if report is logits:
        where = (loaded, which, store, results)
        click.echo(_sample(*where, data, asked["sample"]) if view == "sample" else _logits(*where, view), nl=False)
        return
    how = {view: True} if view else {}
    lines: dict[tuple[Any, ...], None] = {}  # tables share runs: each is told once
    for request in _requests(paper, which, stand_ins=True):
        kept = _reader(store, results, request.paper)
        for columns, editions in _edition_choices(request, kept):
            request.columns = columns
            lines |= dict.fromkeys(report.lines(kept, request.cells(), editions, **how))
    if not lines:
        raise BadInput(f"no Measures are there for {paper!r} by these options; run `replicate {paper}` first")
    click.echo(report.render(list(lines), **how), nl=False)


def _logits(paper: Paper, which: dict[str, Any], store: Path, results: Path, view: str) -> str:
    """Figures 2 to 5 of the logits-retargeting paper. Raises ``BadInput`` if nothing is there for them."""
    from replicate.report import logits

    grid = {"smoothing": logits.SMOOTHING, "sensitivity": logits.SENSITIVITY}.get(view)
    if grid is not None and (which["table"] is not None or which["grid"] not in (None, grid)):
        raise BadInput(f"--{view} is about grid {grid}; leave out --table and --grid")
    lines: list[Any] = []
    of_view: Callable[..., Iterator[Any]] = {"smoothing": logits.smoothing, "sensitivity": logits.sensitivity}.get(
        view, logits.lines
    )
    for request in _requests(paper.command, {**which, "grid": grid or which["grid"]}, stand_ins=True):
        table = request.table or paper.tables[0]  # a grid without a table of its own has rows of the first
        kept = _reader(store, results, paper)
        for columns, editions in _edition_choices(request, kept):
            lines += of_view(
                kept,
                paper,
                table,
                editions,
                columns=columns,
                methods=request.methods,
                grid=request.grid,
                variant=request.variant,
                quick=request.quick,
            )
    if not lines:
        what, more = ("finished runs", f" --grid {grid}") if grid else ("Measures", "")
        raise BadInput(
            f"no {what} are there for {paper.command!r} by these options; run `replicate {paper.command}{more}` on the same "
            "data first, without --quick"
        )
    if view == "smoothing":
        return logits.render_smoothing(lines)
    return logits.render_sensitivity(lines) if view == "sensitivity" else logits.render(lines, view)


def _sample(paper: Paper, which: dict[str, Any], store: Path, results: Path, data: Path | None, index: int) -> str:
    """Logits of one test image under the networks that stand for methods of the first table: those of Fig. 1, or those that
    were asked for. Raises ``BadInput`` where there is no such image, or no checkpoint."""
    from replicate.report import logits

    if not (which["table"] or which["grid"]):
        which = {**which, "table": paper.default_tables[0]}
    if which["table"] == paper.default_tables[0]:
        which = {**which, "methods": which["methods"] or logits.OF_SAMPLE}
    parts: list[str] = []
    loaded: dict[str, Images] = {}
    for request in _requests(paper.command, which, stand_ins=False):
        kept = _reader(store, results, paper)
        for columns, editions in _edition_choices(request, kept):
            table = request.table or paper.tables[0]  # a grid without a table of its own has rows of the first
            how: dict[str, Any] = {
                "methods": request.methods, "grid": request.grid, "variant": request.variant, "quick": request.quick,
            }  # fmt: skip
            for column in columns:
                found = [one for _, one in logits.chosen(kept, paper, table, editions, columns=[column], **how)]
                source = column.data.source
                if found and source not in loaded:
                    loaded |= load_images([source], data)
                if found and loaded[source].edition == editions[source]:
                    parts.append(_sample_of(paper, found, loaded[source], kept, index))
    if not parts:
        raise BadInput(
            f"no finished runs are there for {paper.command!r} on the images at hand; run `replicate {paper.command}` first, "
            "or name a stand-in with --dataset"
        )
    return "\n".join(parts)


def _sample_of(paper: Paper, found: Sequence[Chosen], images: Images, kept: Store, index: int) -> str:
    """Test image ``index`` under each of the networks of one column; see :func:`_sample`."""
    import torch

    from replicate.data.longtail import split
    from replicate.data.sources import OFFICIAL
    from replicate.engine import numerics
    from replicate.engine.cell import restored
    from replicate.engine.loop import DeviceData
    from replicate.measures.logits import image_logits
    from replicate.report import logits

    programme, device = found[0].cell.programme, torch.device("cpu")
    shown = DeviceData(split(images, programme.start.data), programme, device)
    if not 0 <= index < len(shown.test):
        raise BadInput(f"test image {index} is not there; {found[0].cell.column.name} has 0 to {len(shown.test) - 1}")
    numerics.enter(numerics.mode(programme.start.network, device))
    rows: list[tuple[str, int, list[float]]] = []
    for one in found:
        cell = one.cell
        if cell.programme.adjustment is not None:
            raise BadInput(f"method {cell.method!r} adjusts a trained network; allowed with --sample: methods that train one")
        states = ((seed, restored(replace(cell, seed=seed), kept, one.edition, device)) for seed in one.seeds)  # one at a time
        of_method = [
            (cell.method, seed, image_logits(state.handed_over(), shown.test, index))
            for seed, state in states
            if state is not None
        ]
        if not of_method:
            column, network = cell.column, f"{cell.method} {one.point()}".strip()
            raise BadInput(
                f"store {str(kept.root)!r} has no checkpoint of {network}; run `replicate {paper.command} "
                f"--dataset {column.dataset} --ratio {column.ratio} --method {cell.method!r}` with a store without its Record"
            )
        rows += of_method
    truth = int(shown.test.labels[index])
    return logits.render_sample(paper, found[0].data, index, truth, rows, official=found[0].edition == OFFICIAL)


@cli.group("data", invoke_without_command=True)
@where_data
@click.pass_context
def data_command(ctx: click.Context, data: Path | None) -> None:
    """What data is there, what is missing, and which edition it is."""
    from tabulate import tabulate

    from replicate.data import sources

    ctx.obj = data
    if ctx.invoked_subcommand is None:
        folder = sources.data_folder(data)
        click.echo(f"folder: {folder if folder else 'none given (--data DIR or REPLICATE_DATA)'}")
        click.echo(tabulate([(s.source, s.state, s.note) for s in sources.status(folder)], ("data", "state", "note")))


@data_command.command("get")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.pass_context
def data_get(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Download official archives, check them, and unpack them into the data folder."""
    from replicate.data import sources

    folder = sources.data_folder(ctx.obj) or Path("data")
    allowed = list(sources.ARCHIVES)
    for name in names or allowed:
        if name not in allowed:
            raise BadInput(f"data set {name!r} cannot be downloaded; allowed: {', '.join(allowed)}")
        click.echo(f"{name}: downloading to {folder}", err=True)
        sources.get(name, folder, progress=_downloaded)
        click.echo(f"{name}: official files are there; use them with --data {folder}")


def _downloaded(arrived: int, total: int | None) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{arrived / 2**20:,.0f} MiB" + (f" of {total / 2**20:,.0f}" if total else ""), nl=False, err=True)


def main() -> None:
    """Entry point: bad input is one line on standard error and exit code 2."""
    # Before torch loads its OpenMP. By default threads that wait for each other spin for long, and one busy neighbour on the
    # machine makes a step up to eight times as slow. Spinning briefly costs nothing measurable on an idle machine and keeps
    # most of the share that a loaded one leaves. It changes no number.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "4000")
    try:
        cli(standalone_mode=False)
    except BadInput as error:
        click.echo(f"replicate: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        click.echo(f"replicate: {error.format_message()}", err=True)
        sys.exit(2)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nreplicate: stopped", err=True)
        sys.exit(130)
