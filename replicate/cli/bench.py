"""The command that measures speed."""

from __future__ import annotations

import json
from pathlib import Path

import click

from replicate.bench.task import STEPS
from replicate.cli.options import which_device
from replicate.errors import BadInput
from replicate.record import write_atomically


@click.command("bench")
@click.option(
    "--network", "networks", multiple=True, default=("resnet32",), metavar="NAME", show_default="resnet32",
    help="This network; may be given again.",
)  # fmt: skip
@click.option(
    "--step", "steps", multiple=True, type=click.Choice(tuple(STEPS)), help="Only this; may be given again. Else all of them."
)
@click.option("--pairs", type=click.IntRange(1), default=5, show_default=True, help="Alternated pairs of measurements.")
@click.option("--batches", type=click.IntRange(1), default=20, show_default=True, help="Batches of a measurement.")
@click.option("--threads", type=click.IntRange(1), help="Threads of a measurement on a CPU; all cores, if left out.")
@click.option(
    "--loader-workers", type=click.IntRange(0), default=2, show_default=True, help="Of the plain script's DataLoader."
)
@which_device
@click.option(
    "--json", "file", type=click.Path(path_type=Path), metavar="FILE", help="Write every measurement to this file, too."
)
def bench_command(
    networks: tuple[str, ...], steps: tuple[str, ...], pairs: int, batches: int, threads: int | None, loader_workers: int,
    device: str | None, file: Path | None,
) -> None:  # fmt: skip
    """Measure training against a plain script with a DataLoader, side by side, and against the machine's own limits.

    Every measurement has a process of its own, on random images, in alternated order; told are medians of ratios. The limits
    are the rate of a large matrix product and the bandwidth of a large copy, measured in the same run.
    """
    from replicate.bench import compare
    from replicate.engine.numerics import cores, pick_device
    from replicate.models import BACKBONES

    names = [name.replace("-", "_") for name in networks]
    for name, given in zip(names, networks, strict=True):
        if name not in BACKBONES:
            raise BadInput(f"network {given!r} is unknown; allowed: {', '.join(BACKBONES)}")
    picked = pick_device(device)
    if threads is not None and threads > cores():
        raise BadInput(f"{threads} threads are more than the {cores()} cores that are here; name fewer, or leave out --threads")
    if picked.type != "cpu" and "two" in steps:
        raise BadInput(f"step 'two' is about cells on a CPU; on {picked} leave it out")
    if threads == 1 and "two" in steps:
        raise BadInput("step 'two' shares threads between two cells: --threads 1 is too few; name 2 or more, or leave it out")
    if file is not None and (file.is_dir() or not file.parent.is_dir()):
        raise BadInput(f"file {str(file)!r} cannot be written; name a file in a folder that is there")
    try:
        found = compare.compare(
            list(dict.fromkeys(names)),
            steps or [step for step in STEPS if step != "two" or (picked.type == "cpu" and (threads or cores()) > 1)],
            pairs=pairs,
            batches=batches,
            threads=threads or cores(),
            device=str(picked),
            loader_workers=loader_workers,
            said=lambda line: click.echo(line, err=True),
        )
    except compare.Failed as error:
        raise BadInput(f"a measurement failed: {error}; if for lack of memory, name fewer --batches or --threads") from None
    click.echo(compare.render(found))
    if file is not None:
        try:
            write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
        except OSError as error:
            raise BadInput(f"file {str(file)!r} cannot be written ({error.strerror}); name another with --json") from None
