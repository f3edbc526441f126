"""The command that says what a request costs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from replicate import grid as grids
from replicate.cli.options import where_data, where_store, which_cells, which_device, which_seeds
from replicate.cli.request import Request, asked_for, counted, planned_cells, read_images
from replicate.errors import BadInput
from replicate.protocol import SOURCES, Column
from replicate.record import Store

if TYPE_CHECKING:
    from replicate.data.sources import Images


@click.command("plan")
@click.argument("paper", required=False)
@which_cells
@which_seeds
@where_data
@where_store
@which_device
def plan_command(paper: str | None, data: Path | None, store: Path, device: str | None, **which: Any) -> None:
    """Cells, shared beginnings, epochs to train, and an estimate of time and disk from measured speed. Nothing runs."""
    plan_all(list(asked_for(paper, which, stand_ins=False)), data, Store(store), device)


def plan_all(requests: Sequence[Request], data: Path | None, store: Store, device: str | None) -> None:
    speeds: dict[str, float] = {}
    editions: dict[str, str] = {}
    sides: dict[str, int | None] = {}
    for request in requests:
        _plan(request, data, store, device, speeds, editions, sides)
    for paper, of_paper in itertools.groupby(requests, key=lambda request: request.paper):
        together = list(of_paper)
        if len(together) > 1:
            planned = planned_cells(together)
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
        except BadInput as error:
            editions[source] = "official"
            click.echo(f"{source} is planned for the official edition: {error}", err=True)

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
    click.echo(f"Time of one cell after another, from a few steps just measured on {picked}: {shown}. Nothing was trained.\n")


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
        yield f"{counted(classifiers, 'classifier')} on {many} ({sampler or 'plain'} sampler)"


def _small_side(images: Images) -> int | None:
    """The side of photographs that are trained as they are because all have one size and it is small; else None."""
    size = getattr(images.train_images, "one_size", None)
    return max(size) if size and max(size) < SOURCES[images.source].side else None
