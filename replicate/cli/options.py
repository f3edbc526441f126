"""Options that several commands share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from replicate.report.selection import SELECTIONS

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}


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


class Workers(click.ParamType):  # type: ignore[type-arg]
    """A whole number, 1 or more."""

    name = "WORKERS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        # Four digits at most: a longer number is a slip.
        if not (text.isdecimal() and len(text) <= 4 and int(text)):
            self.fail(f"number of workers {value!r} cannot be read; write a whole number, 1 or more, such as 4")
        return int(text)


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
which_format = click.option(
    "--format", "form", type=click.Choice(("text", "markdown", "csv")), default="text", show_default=True
)
