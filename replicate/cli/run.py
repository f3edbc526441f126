"""A paper's own command: train its cells, print its table."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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
from replicate.cli.results import write_claims, write_tables
from replicate.grid import PRECISIONS
from replicate.record import Store

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
        help="Stop at a checkpoint before so long; no epoch begins that would end later.",
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
    planned = planned_cells(requests)
    store.require_writable()
    sources = list(dict.fromkeys(cell.programme.start.data.source for cell in planned))
    images = load_images(sources, data)
    editions = {source: loaded.edition for source, loaded in images.items()}

    # What was read for its edition serves the first column; the rest is read again when it is needed, not kept until then.
    images = {source: images[source] for source in sources[:1]}

    def load(source: str) -> Images:
        return images.pop(source, None) or read_images(source, data)

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
            time_limit=None if time_limit is None else 60 * time_limit,
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
    if outcome.failed:
        sys.exit(1)


def _show(request: Request, store: Store, editions: Mapping[str, str], results: Path) -> None:
    """Print what was asked for of the request's table, and write the whole of it where results belong."""
    if request.table is None or request.precision is not None:
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
    if not request.quick and not all(column.stand_in for column in request.columns):
        write_claims(request.paper, kept, results)
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
