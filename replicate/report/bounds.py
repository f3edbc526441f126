"""The unified-bound paper's analysis as numbers: what the measure ``class_bound`` found for every finished run. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from replicate.grid import Cell
from replicate.record import Store
from replicate.report.trained import trained

MEASURE = "class_bound"

_OF_RUN = ("method", "data", "seed", "smallest B_y", "sum at B_y", "sum, maximum", "balanced accuracy")
_OF_CLASS = ("method", "data", "seed", "class", "B_y", "Lemma 4 at B_y", "Lemma 4, maximum", "term at B_y", "term, maximum")


def lines(
    store: Store, planned: Iterable[Cell], edition_of: Mapping[str, str], *, classes: bool = False
) -> Iterator[tuple[Any, ...]]:
    """A line for every run of the cells that has the Measure, whatever its seed, or one for each of its classes.

    Raises ``BadInput`` naming a file that is damaged.
    """
    for run in trained(store, planned, edition_of):
        told = run.measure(MEASURE)
        if told is not None:
            for values in _classes(told) if classes else (_run(told),):
                yield (*run.names, *values)


def _run(told: Mapping[str, Any]) -> tuple[float, ...]:
    sums = told["sum"]
    return (min(told["minimal_logit"]), sums["at_minimum"]["total"], sums["maximum"]["total"], 100 * told["balanced_accuracy"])


def _classes(told: Mapping[str, Any]) -> Iterator[tuple[float, ...]]:
    constants, sums = told["lipschitz"], told["sum"]
    columns = (
        told["minimal_logit"],
        constants["at_minimum"],
        constants["maximum"],
        sums["at_minimum"]["classes"],
        sums["maximum"]["classes"],
    )
    for place, of_class in enumerate(zip(*columns, strict=True)):
        yield (place, *of_class)


def render(found: Sequence[tuple[Any, ...]], *, classes: bool = False) -> str:
    """As aligned text, ending with a line feed."""
    from tabulate import tabulate

    return (
        tabulate(found, _OF_CLASS if classes else _OF_RUN, floatfmt=".3f")
        + "\n\nLast epoch, training images in evaluation mode without augmentation. Sums are those of Eq. 16 without C(F): over"
        "\nclasses, sqrt(prior) times Lemma 4's constant, at the image that attains B_y and at its maximum over the class.\n"
    )
