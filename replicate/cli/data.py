"""The commands about data sets."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from replicate.cli.options import where_data
from replicate.errors import BadInput


@click.group("data", invoke_without_command=True)
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
