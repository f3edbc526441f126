"""Which epoch and which hyper-parameters stand for a row: the four Selections, each by name and explicit.

All read the same Records. What differs is which images were looked at for the two choices, and which images the reported
number comes from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from replicate.errors import BadInput
from replicate.record import Record

#: One point of a grid: the values of the names that vary over it, as in :attr:`replicate.grid.Cell.point`.
Point = tuple[tuple[str, float], ...]
#: The Records of one row and column: point -> seed -> Record. Points without a Record are there, empty: they were planned.
Runs = Mapping[Point, Mapping[int, Record]]

#: The Selections, in one sentence each.
SELECTIONS: Mapping[str, str] = {
    "as-published": "per seed the best epoch on the whole test set; one value of each unpublished parameter for a row and "
    "column, by the mean over seeds; ties to the earlier",
    "cross-fitted": "epoch and parameters chosen as in as-published on one half of the test set, reported on the other half, "
    "both ways round, averaged",
    "best-on-validation": "epoch and parameters chosen on the validation split, reported on the test set",
    "last-epoch": "the last epoch; one value of each unpublished parameter for a row and column, by the mean over seeds of the "
    "last epoch's test accuracy",
}


@dataclass(frozen=True)
class Replica:
    """Our number for one row and column, under one Selection.

    ``values`` maps each seed to accuracy in percent, and is empty where every run failed or where the Selection needs a
    validation split that the protocol does not have. ``points`` are the chosen grid points and ``epochs`` the chosen epochs of
    each seed: one each, or for cross-fitting two, where halves differ. ``planned`` grid points, ``finished`` ones (with a
    result of at least one seed) and ``competing`` ones (with the largest number of seeds) are counted; ``failed`` lists
    (point, seed) of runs that broke off.
    """

    selection: str
    values: Mapping[int, float]
    points: tuple[Point, ...]
    epochs: Mapping[int, tuple[int, ...]]
    planned: int
    finished: int
    competing: int
    failed: tuple[tuple[Point, int], ...] = ()

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.values)

    @cached_property
    def mean(self) -> float | None:
        """Mean over seeds in percent; None without seeds."""
        return math.fsum(self.values.values()) / self.n if self.values else None

    @cached_property
    def sd(self) -> float | None:
        """Population standard deviation over seeds in points (divided by n); None with fewer than two seeds."""
        mean = self.mean
        if mean is None or self.n < 2:
            return None
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values.values()) / self.n)


def select(runs: Runs, selection: str) -> Replica:
    """The number that stands for one row and column.

    Records that failed are left out and counted. Only points with the largest number of finished seeds compete, so that a point
    that is unfinished or failing never blanks its row. Raises ``BadInput`` for an unknown Selection.
    """
    if selection not in SELECTIONS:
        raise BadInput(f"selection {selection!r} is unknown; allowed: {', '.join(SELECTIONS)}")
    finished: dict[Point, dict[int, Record]] = {}
    failed: list[tuple[Point, int]] = []
    for point, of_seed in runs.items():
        for seed in sorted(of_seed):
            if of_seed[seed].failed is None:
                finished.setdefault(point, {})[seed] = of_seed[seed]
            else:
                failed.append((point, seed))
    most = max((len(of_seed) for of_seed in finished.values()), default=0)
    competing = {point: of_seed for point, of_seed in finished.items() if len(of_seed) == most}
    points, values, epochs = _CHOOSE[selection](competing) if competing else ((), {}, {})
    return Replica(
        selection=selection,
        values={seed: 100 * value for seed, value in values.items()},
        points=points,
        epochs=epochs,
        planned=len(runs),
        finished=len(finished),
        competing=len(competing),
        failed=tuple(failed),
    )


Finished = Mapping[Point, Mapping[int, Record]]
#: Chosen points, the share of correct images of each seed, its chosen epochs (counted from 1).
Chosen = tuple[tuple[Point, ...], dict[int, float], dict[int, tuple[int, ...]]]


def _as_published(runs: Finished) -> Chosen:
    return _best(runs, _test, _test)


def _best_on_validation(runs: Finished) -> Chosen:
    if not all(record.accuracy("validation") for of_seed in runs.values() for record in of_seed.values()):
        return (), {}, {}
    return _best(runs, lambda record: record.accuracy("validation"), _test)


def _cross_fitted(runs: Finished) -> Chosen:
    # Both halves must come from the same seeds to be averaged; points of equally many but other seeds stay out.
    seeds = next(iter(runs.values())).keys()
    runs = {point: of_seed for point, of_seed in runs.items() if of_seed.keys() == seeds}
    (one, first, early), (other, second, late) = (_best(runs, _half(h), _half(1 - h)) for h in (0, 1))
    return (
        tuple(dict.fromkeys(one + other)),
        {seed: (first[seed] + second[seed]) / 2 for seed in first},
        {seed: early[seed] + late[seed] for seed in early},
    )


def _last_epoch(runs: Finished) -> Chosen:
    values = {point: {seed: record.accuracy("test")[-1] for seed, record in of_seed.items()} for point, of_seed in runs.items()}
    point = _earliest_best({point: list(of_seed.values()) for point, of_seed in values.items()})
    return (point,), values[point], {seed: (record.epochs,) for seed, record in runs[point].items()}


def _test(record: Record) -> list[float]:
    return record.accuracy("test")


def _half(half: int) -> Callable[[Record], list[float]]:
    return lambda record: record.accuracy("test", half=half)


def _best(runs: Finished, seen: Callable[[Record], list[float]], reported: Callable[[Record], list[float]]) -> Chosen:
    """Epoch by seed, then point by the mean over seeds, both on ``seen``; values from ``reported``."""
    epochs: dict[Point, dict[int, int]] = {}
    levels: dict[Point, list[float]] = {}
    for point, of_seed in runs.items():
        epochs[point], levels[point] = {}, []
        for seed, record in of_seed.items():
            curve = seen(record)
            best = max(curve)
            epochs[point][seed] = curve.index(best)
            levels[point].append(best)
    point = _earliest_best(levels)
    values = {seed: reported(record)[epochs[point][seed]] for seed, record in runs[point].items()}
    return (point,), values, {seed: (epoch + 1,) for seed, epoch in epochs[point].items()}


def _earliest_best(levels: Mapping[Point, Sequence[float]]) -> Point:
    # Equal sums of counts may differ in the last bit of their shares; rounding makes such ties ties.
    return max(levels, key=lambda point: round(math.fsum(levels[point]) / len(levels[point]), 10))


_CHOOSE: Mapping[str, Callable[[Finished], Chosen]] = {
    "as-published": _as_published,
    "cross-fitted": _cross_fitted,
    "best-on-validation": _best_on_validation,
    "last-epoch": _last_epoch,
}
