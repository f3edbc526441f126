"""A paper's own command: train its cells, print its table."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicate.cli.options import (
    Minutes,
    Workers,
    where_data,
    where_results,
    where_store,
    which_cells,
    which_device,
    which_seeds,
)
from replicate.cli.plan import plan_all
from replicate.cli.report import table_printer
from replicate.cli.request import Request, asked_for, counted, load_images, load_paper, planned_cells, read_images, reader
from replicate.cli.results import write_claims, write_contents, write_tables, written_before
from replicate.errors import BadInput
from replicate.grid import PRECISIONS
from replicate.record import Store, require_writable

if TYPE_CHECKING:
    from replicate.data.sources import Images


def run_command(name: str) -> click.Command:
    """The command that trains a paper's cells and prints its table."""

    @click.command(name)
    @which_cells
    @which_seeds
    @where_data
    @where_store
    @where_results
    @which_device
    @click.option(
        "--workers", type=Workers(), metavar="N", help="Cells trained side by side; as many as the machine takes, if left out."
    )
    @click.option(
        "--precision", type=click.Choice(PRECISIONS), default=PRECISIONS[0], show_default=True,
        help="How passes through a network are rounded; runs in another than the first are marked, never compared.",
    )  # fmt: skip
    @click.option(
        "--time-limit",
        type=Minutes(),
        metavar="MINUTES",
        help="Stop at a checkpoint before so long: no epoch begins that would end later by the speed so far.",
    )
    @click.option(
        "--plan", "only_plan", is_flag=True, help="Print what would run, its cost in epochs, time and disk; run nothing."
    )
    def command(
        data: Path | None,
        store: Path,
        results: Path,
        device: str | None,
        workers: int | None,
        time_limit: float | None,
        only_plan: bool,
        **which: Any,
    ) -> None:
        requests = list(asked_for(name, which, stand_ins=False, default=True))
        if only_plan:
            plan_all(requests, data, Store(store), device)
            return
        _run(requests, data, Store(store), results, device, workers, time_limit)

    command.help = f"Train cells of {load_paper(name).title!r} that have no Record yet, and print the table."
    return command


def _run(
    requests: Sequence[Request],
    data: Path | None,
    store: Store,
    results: Path,
    device: str | None,
    workers: int | None,
    time_limit: float | None,
) -> None:
    ends = None if time_limit is None else time.monotonic() + 60 * time_limit
    planned = planned_cells(requests)
    store.require_writable()
    if any(_written(request) for request in requests):
        require_writable(results, "results", "--results")
    sources = list(dict.fromkeys(cell.programme.start.data.source for cell in planned))
    images = load_images(sources, data)
    editions = {source: loaded.edition for source, loaded in images.items()}

    # What was read for its edition serves the first column; the rest is read again when it is needed, not kept until then.
    load = _loader({source: images[source] for source in sources[:1]}, editions, data)
    del images

    from replicate.engine.numerics import pick_device, require
    from replicate.launch import local
    from replicate.launch.progress import Progress, duration

    picked = pick_device(device)
    require(requests[0].precision, picked)
    quick, paper = requests[0].quick, requests[0].paper
    try:
        outcome = local.run(
            planned,
            store,
            editions,
            load,
            picked,
            keep=lambda cell: requests[0].kept(cell.column),
            # A quick run is there to see that all works; a Measure over the whole training set would take most of its time.
            measures=() if quick else paper.measures,
            ends=ends,
            workers=workers,
            progress=(progress := Progress()),
        )
    except KeyboardInterrupt:
        click.echo("\nstopped; the last checkpoint stays: the same command goes on from it", err=True)
        sys.exit(130)
    for request in requests:
        click.echo()
        _show(request, store, editions, results)
    click.echo(
        f"{counted(len(planned), 'cell')}: {outcome.before} done before, {outcome.trained} trained now in "
        f"{counted(outcome.epochs, 'epoch')}."
    )
    for cell, failed in outcome.failed:
        click.echo(f"failed: {cell.label}: loss {failed['loss']} in epoch {failed['epoch']}; it enters no table", err=True)
    if outcome.left:
        rest = f" (about {duration(progress.seconds_left)})" if outcome.epochs else ""
        click.echo(
            f"time limit: {counted(len(outcome.left), 'cell')} in {counted(outcome.epochs_left, 'epoch')} are left{rest}; "
            "the same command goes on from here."
        )
    if outcome.unmeasured:
        click.echo(f"time limit: Measures of {counted(outcome.unmeasured, 'cell')} are left; the same command computes them.")
    if outcome.failed:
        sys.exit(1)


def _loader(images: MutableMapping[str, Images], editions: Mapping[str, str], data: Path | None) -> Callable[[str], Images]:
    """What gives out each of ``images`` once, and reads a source again from then on. It raises ``BadInput`` for files that are
    another edition by then, since the run's keys name the one that it began with."""

    def load(source: str) -> Images:
        if source in images:
            return images.pop(source)
        again = read_images(source, data)
        if again.edition != editions[source]:
            raise BadInput(
                f"{source} has changed while this ran, from edition {editions[source]!r} to {again.edition!r}; nothing was "
                "trained on that: run the command again to train on the files as they are"
            )
        return again

    return load


def _written(request: Request) -> bool:
    """Whether the request's table is written into the results folder."""
    return request.table is not None and request.precision is None


def _show(request: Request, store: Store, editions: Mapping[str, str], results: Path) -> None:
    """Print what was asked for of the request's table, and write the whole of it where results belong."""
    if not _written(request):
        click.echo(_summary(request, store, editions))
        if request.precision is not None:
            click.echo(
                f"Precision {request.precision}, not the protocol's: in no table, never compared with a published number."
            )
        return
    printer = table_printer(request, store, editions, request.columns, "as-published", results)
    if printer is None:
        click.echo("no cell is finished yet: there is no table to print")
        return
    click.echo(printer(format="text"))
    kept = reader(store.root, results, request.paper)
    trained = {source: editions[source] for source in request.sources}
    written = write_tables(request, kept, results, trained)
    if not request.quick:
        if not all(column.stand_in for column in request.columns):
            write_claims(request.paper, kept, results)
        write_contents(request.paper, written_before(request.paper, kept, results), kept, results)
    told = ", ".join(f"{table.path}.*" for table in written)
    click.echo(f"This table as text, Markdown, CSV and LaTeX: {told}; its Records: {store.root}/records")


def _summary(request: Request, store: Store, editions: Mapping[str, str]) -> str:
    """For what no table is about: one line a cell that has a Record."""
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
