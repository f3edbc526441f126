"""Which epoch and which hyper-parameters stand for a row: the four Selections, each by name and explicit.

All read the same Records. What differs is which images were looked at for the choices, and which images the reported number
comes from. Choices are made by balanced accuracy over all classes, whatever number is reported.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from replicate.errors import BadInput
from replicate.protocol import BALANCED_ACCURACY, Metric
from replicate.record import Record, earliest_best

#: One point of a grid: the values of the names that vary over it, as in :attr:`replicate.grid.Cell.point`.
Point = tuple[tuple[str, float], ...]
#: The Records of one row and column: point -> seed -> Record. Points without a Record are there, empty: they were planned.
Runs = Mapping[Point, Mapping[int, Record]]
#: The number at the end of a way into a Measure (:attr:`replicate.protocol.Metric.measure`) for a point and seed, or None.
Measured = Callable[[tuple[str, ...], Point, int], float | None]

#: The Selections, in one sentence each, for a paper that chooses on the test set; see :func:`sentence`.
SELECTIONS: Mapping[str, str] = {
    "as-published": "per seed the best epoch on the whole test set; one value of each unpublished parameter for a row and "
    "column, by the mean over seeds; ties to the earlier",
    "cross-fitted": "epoch and parameters chosen as in as-published on one half of the test set, reported on the other half, "
    "both ways round, averaged",
    "best-on-validation": "epoch and parameters chosen on the validation split, reported on the test set",
    "last-epoch": "the last epoch; one value of each unpublished parameter for a row and column, by the mean over seeds of the "
    "last epoch's test accuracy",
}
_ON_VALIDATION: Mapping[str, str] = {
    "as-published": "per seed the best epoch on the validation split, reported on the test set; one value of each unpublished "
    "parameter for a row and column, by the mean over seeds; ties to the earlier",
    "cross-fitted": "epoch and parameters chosen as in as-published, but on one half of the test set, reported on the other "
    "half, both ways round, averaged",
}


def sentence(selection: str, selects_on: str) -> str:
    """What a Selection does, for a paper that chooses on the ``"test"`` set or on its ``"validation"`` split."""
    return (_ON_VALIDATION if selects_on == "validation" else SELECTIONS).get(selection, SELECTIONS[selection])


@dataclass(frozen=True)
class Replica:
    """Our number for one row, column and metric, under one Selection.

    ``values`` maps each seed to accuracy in percent, or to a Measure's number in its own unit. It is empty where every run
    failed or where the Selection needs a validation split that the protocol does not have; seeds whose Measure is not there are
    ``unmeasured`` instead. ``points`` are the chosen grid points, an adjustment's value among them, and ``epochs`` the chosen
    epochs of each seed, counted over the whole chain: one each, or for cross-fitting two, where halves differ. ``planned`` grid
    points, ``finished`` ones (with a result of at least one seed) and ``competing`` ones (with the largest number of seeds) are
    counted; ``failed`` lists (point, seed) of runs that broke off. ``overall`` maps each seed to its balanced accuracy, in
    percent, by which the best of several seeds is chosen; empty: the largest of ``values`` is. ``cross_fitted`` is the same
    number under that Selection: the honest reading of one that is printed as the best of its seeds.
    """

    selection: str
    values: Mapping[int, float]
    points: tuple[Point, ...]
    epochs: Mapping[int, tuple[int, ...]]
    planned: int
    finished: int
    competing: int
    failed: tuple[tuple[Point, int], ...] = ()
    unmeasured: tuple[int, ...] = ()
    overall: Mapping[int, float] = field(default_factory=dict)
    cross_fitted: Replica | None = None

    @property
    def n(self) -> int:
        """Seeds with a value."""
        return len(self.values)

    @cached_property
    def mean(self) -> float | None:
        """Mean over seeds in the unit of ``values``; None without seeds."""
        return math.fsum(self.values.values()) / self.n if self.values else None

    @cached_property
    def best(self) -> float | None:
        """The value of the seed that is best over all classes, in the unit of ``values``; None without seeds. The best of
        several runs is one run: its groups are that run's, not each the best of any."""
        if not self.values:
            return None
        level = self.overall or self.values
        return self.values[max(self.values, key=lambda seed: level[seed])]

    @cached_property
    def sd(self) -> float | None:
        """Population standard deviation over seeds in the unit of ``values`` (divided by n); None with fewer than two seeds."""
        mean = self.mean
        if mean is None or self.n < 2:
            return None
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values.values()) / self.n)


@dataclass(frozen=True)
class Reading:
    """One way to read the runs of a row and column: what was chosen, and on which images of the test set it is reported.

    ``value`` is the place of the adjustment's chosen value, None without an adjustment; ``epochs`` are counted from 1; ``half``
    of the test set, None: all of it. ``last``: adjustments of the last state, not of the one that was handed over. ``levels``
    of the points that competed, and ``of_values`` of the adjustment's values at the chosen point, are what was compared to
    choose: the mean over seeds of balanced accuracy on the images that were looked at, as a share."""

    point: Point
    value: int | None
    epochs: Mapping[int, int]
    half: int | None
    last: bool
    levels: Mapping[Point, float] = field(default_factory=dict)
    of_values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Choice:
    """What a Selection chose of the runs of one row and column; any number of metrics is then read from it.

    ``readings``: none, one, or for cross-fitting two. The rest as in :class:`Replica`."""

    selection: str
    runs: Runs
    readings: tuple[Reading, ...]
    planned: int
    finished: int
    competing: int
    failed: tuple[tuple[Point, int], ...]

    def replica(self, metric: Metric = BALANCED_ACCURACY, measured: Measured = lambda measure, point, seed: None) -> Replica:
        """Our number for a metric, averaged over the readings. Raises ``KeyError`` for a group that a Record does not have."""
        seeds = [seed for seed in self.readings[0].epochs] if self.readings else []
        values = self._values(seeds, metric, measured)
        return Replica(
            selection=self.selection,
            values=values,
            points=tuple(dict.fromkeys(self._point(reading) for reading in self.readings)),
            epochs={seed: tuple(reading.epochs[seed] for reading in self.readings) for seed in seeds},
            planned=self.planned,
            finished=self.finished,
            competing=self.competing,
            failed=self.failed,
            unmeasured=tuple(seed for seed in seeds if seed not in values),
            overall=values if metric == BALANCED_ACCURACY else self._values(seeds, BALANCED_ACCURACY, measured),
        )

    def _values(self, seeds: Sequence[int], metric: Metric, measured: Measured) -> dict[int, float]:
        values = {}
        for seed in seeds:
            parts = [self._number(reading, seed, metric, measured) for reading in self.readings]
            told = [part for part in parts if part is not None]
            if len(told) == len(parts):
                values[seed] = math.fsum(told) / len(told)
        return values

    def _number(self, reading: Reading, seed: int, metric: Metric, measured: Measured) -> float | None:
        if metric.measure is not None:
            return measured(metric.measure, reading.point, seed)
        record = self.runs[reading.point][seed]
        if reading.value is None:
            return 100 * record.accuracy("test", half=reading.half, group=metric.group)[reading.epochs[seed] - 1]
        adjusted = record.adjusted_accuracy("test", half=reading.half, group=metric.group, last=reading.last)
        return 100 * adjusted[reading.value]

    def _point(self, reading: Reading) -> Point:
        """The grid point, and the adjustment's value as one more coordinate."""
        adjusted = next(iter(self.runs[reading.point].values())).adjusted
        if reading.value is None or adjusted is None:
            return reading.point
        return (*reading.point, (adjusted["parameter"], adjusted["values"][reading.value]))


def choose(runs: Runs, selection: str, selects_on: str = "test") -> Choice:
    """What stands for one row and column. ``selects_on`` is what the paper chooses by: ``"test"`` or ``"validation"``.

    Records that failed are left out and counted. Only points with the largest number of finished seeds compete, so that a point
    that is unfinished or failing never blanks its row; for cross-fitting, of those the ones with the seeds that most of them
    share. An adjustment's value is chosen last, by the same rule on the same images. Raises ``BadInput`` for an unknown
    Selection.
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
    if selection == "cross-fitted" and competing:
        # Both halves must come from the same seeds to be averaged: those that most points share.
        shared = Counter(frozenset(of_seed) for of_seed in competing.values()).most_common(1)[0][0]
        competing = {point: of_seed for point, of_seed in competing.items() if of_seed.keys() == shared}
    return Choice(
        selection=selection,
        runs=runs,
        readings=_readings(competing, selection, selects_on) if competing else (),
        planned=len(runs),
        finished=len(finished),
        competing=len(competing),
        failed=tuple(failed),
    )


def _readings(runs: Runs, selection: str, selects_on: str) -> tuple[Reading, ...]:
    if selection == "cross-fitted":
        return tuple(_reading(runs, "test", half, 1 - half) for half in (0, 1))
    if selection == "last-epoch":
        return (_reading(runs, "test", last=True),)
    split = "validation" if selection == "best-on-validation" else selects_on
    if not all(record.peak(split) for of_seed in runs.values() for record in of_seed.values()):
        return ()
    return (_reading(runs, split),)


def _reading(runs: Runs, split: str, seen: int | None = None, reported: int | None = None, last: bool = False) -> Reading:
    """Epoch by seed, within the last stage, then point and then adjustment by the mean over seeds: all on ``split``, or on the
    half ``seen`` of it. ``last`` leaves no epoch to choose."""
    epochs: dict[Point, dict[int, int]] = {}
    levels: dict[Point, list[float]] = {}
    for point, of_seed in runs.items():
        peaks = {seed: record.peak(split, half=seen, last=last) for seed, record in of_seed.items()}
        epochs[point] = {seed: peak[0] for seed, peak in peaks.items() if peak}
        levels[point] = [peak[1] for peak in peaks.values() if peak]
    of_points = dict(zip(levels, _means(list(levels.values())), strict=True))
    point = list(of_points)[earliest_best(list(of_points.values()))]
    curves = [record.adjusted_accuracy(split, half=seen, last=last) for record in runs[point].values()]
    by_value = list(zip(*curves, strict=True))
    if not by_value:
        return Reading(point, None, epochs[point], reported, last, of_points)
    state = "last" if last else "handed over"
    of_state = {seed: record.adjusted[state]["epoch"] for seed, record in runs[point].items() if record.adjusted is not None}
    of_values = _means(by_value)
    return Reading(point, earliest_best(of_values), of_state, reported, last, of_points, tuple(of_values))


def _means(levels: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(level) / len(level) for level in levels]
