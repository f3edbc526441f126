"""The logits-retargeting paper's analysis as numbers: what its Measures and Records say at the chosen grid points. No torch.

Figures 1 to 5 of Lu et al. 2024, of runs that are finished. What is not there stays empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from replicate import grid as grids
from replicate.errors import BadInput
from replicate.grid import Cell
from replicate.protocol import AdditiveAdjustment, Adjustment, Column, Metric, Paper, Table, TauNormalisation
from replicate.record import Record, Store, file_name
from replicate.report import published, tables
from replicate.report.selection import Choice, Point, Runs, choose

MEASURE = "logits"
#: What Figures 4 and 5 vary, and the methods that Figure 1 shows.
SMOOTHING, SENSITIVITY, OF_SAMPLE = "figure4", "figure5", ("Vanilla FC", "CE", "LORT")
#: Numbers of a Measure are rounded to this share of themselves.
KEPT = 1e-4
#: Consecutive classes that Figure 3 averages over.
GROUP = 10
#: Readings of sigma in the Regularized Standard Deviation: over which test images, and the Measure's name for it.
READINGS = {"all images": "sd", "the class's own": "positive_sd", "all others": "negative_sd"}

Numbers = Sequence[float | None]


@dataclass(frozen=True)
class Statistics:
    """The Measure's lists by class [C] (:func:`replicate.measures.logits.logit_statistics`); ``bias`` has None where there is
    none."""

    magnitude: Numbers
    positive_mean: Numbers
    positive_sd: Numbers
    negative_mean: Numbers
    negative_sd: Numbers
    sd: Numbers
    norm: Numbers
    bias: Numbers
    count: Sequence[int]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Statistics:
        """Of a Measure. Raises ``KeyError`` if it lacks one of the lists."""
        without = [None] * len(told["norm"])
        return cls(**{name: told.get(name, without) if name == "bias" else told[name] for name in cls.__dataclass_fields__})

    def regularized(self, sd: str) -> list[float | None]:
        """sigma(z_i) / L_i by class, sigma by one of :data:`READINGS`; None where L_i is 0."""
        return [s / m if s is not None and m else None for s, m in zip(getattr(self, sd), self.magnitude, strict=True)]

    def adjusted(self, adjustment: Adjustment | None, value: float, class_counts: Sequence[int]) -> Statistics | None:
        """The same of the adjusted logits, exactly, but for the rounding of the Measure; None for an adjustment that these
        numbers do not decide. ``class_counts`` [C]: training images.

        Additive: z_i - tau log prior_i, a constant for each class, which moves means alone. Normalisation: z_i' = (z_i - b_i) /
        ||w_i||^tau + b_i, so magnitude and spread of z_i are divided by ||w_i||^tau, with any bias; means need the bias.
        """
        if adjustment is None:
            return self
        if isinstance(adjustment, AdditiveAdjustment):
            total = sum(class_counts)
            shifts = [-value * math.log(count / total) for count in class_counts]
            return replace(
                self,
                positive_mean=_each(lambda m, shift: m + shift, self.positive_mean, shifts),
                negative_mean=_each(lambda m, shift: m + shift, self.negative_mean, shifts),
            )
        if isinstance(adjustment, TauNormalisation):
            divisors = _each(lambda norm: norm**value or None, self.norm)
            changed: dict[str, Any] = {
                name: _each(lambda x, d: x / d, getattr(self, name), divisors)
                for name in ("magnitude", "positive_sd", "negative_sd", "sd", "norm")
            }
            for name in ("positive_mean", "negative_mean"):
                changed[name] = _each(lambda m, b, d: (m - b) / d + b, getattr(self, name), self.bias, divisors)
            return replace(self, **changed)
        return None


def _each(function: Callable[..., float | None], *columns: Numbers) -> list[float | None]:
    """``function`` of the numbers of each class, None where one of them is."""
    return [None if None in row else function(*row) for row in zip(*columns, strict=True)]


def _mean(numbers: Iterable[float | None]) -> float | None:
    """Mean of those that are there."""
    there = [number for number in numbers if number is not None]
    return math.fsum(there) / len(there) if there else None


@dataclass(frozen=True)
class Chosen:
    """The grid point that stands for a method in a column: its cell (of one seed), what chose it, the edition of its data."""

    cell: Cell
    choice: Choice
    edition: str

    @property
    def seeds(self) -> list[int]:
        """Finished ones."""
        return list(self.choice.readings[0].epochs)

    @property
    def data(self) -> str:
        """The column, with its edition where that is not the official one."""
        name, source = self.cell.column.name, self.cell.programme.start.data.source
        return name if self.edition == "official" else f"{name} ({source}@{self.edition})"

    def point(self, *, without: str | None = None) -> str:
        """Such as ``rate=0.01 decay=0.005``, or ``tau=1.9`` of an adjustment; ``without`` one of the names."""
        return " ".join(f"{name}={value:g}" for name, value in self.choice.replica().points[0] if name != without)

    def accuracy(self, group: str | None = None) -> float | None:
        """Mean over seeds, in percent, over all classes or those of a group."""
        return self.choice.replica(Metric((), "", group)).mean

    def statistics(self, store: Store) -> dict[int, Statistics]:
        """By seed, where the Measure is there. Raises ``BadInput`` naming a file that is damaged."""
        programme = self.cell.programme
        data, key, adjustment = programme.start.data, programme.keys(self.edition)[-1], programme.adjustment
        value = dict(self.choice.replica().points[0])[adjustment.parameter] if adjustment is not None else 0.0
        found = {}
        for seed in self.seeds:
            told = store.measure(MEASURE, data.source, self.edition, key, seed)
            if told:
                try:
                    adjusted = Statistics.of(told).adjusted(adjustment, value, data.class_counts())
                except (KeyError, TypeError, ValueError, AttributeError):
                    name = f"{MEASURE}/{file_name(key, seed)}"
                    raise BadInput(f"Measure {name!r} is damaged; delete it and run again: nothing is trained for it") from None
                if adjusted is not None:
                    found[seed] = adjusted
        return found


def chosen(
    store: Store,
    paper: Paper,
    table: Table,
    editions: Mapping[str, str],
    *,
    columns: Sequence[Column],
    methods: Sequence[str],
    grid: str | None = None,
    variant: str | None = None,
    quick: bool = False,
    split: Callable[[Point], Any] = lambda point: None,
) -> Iterator[tuple[Any, Chosen]]:
    """For every method in every column that has finished runs the point that the as-published Selection chooses, among the
    points for which ``split`` has one value: that value, and the choice. Where values have other seeds, those that all of them
    have are read, so that seeds do not look like a difference.

    Raises ``BadInput`` naming a file that is damaged.
    """
    name = grid or table.grid
    which: dict[str, Any] = {"variant": variant, "quick": quick}
    for column in columns:
        for method in methods:
            cells = {cell.point: cell for cell in grids.cells(paper, name, columns=[column], methods=[method], **which)}
            for found in tables.runs(
                store, paper, table, edition_of=editions, columns=[column], methods=[method], grid=name, **which
            ):
                for part, runs in _comparable(found.runs, split).items():
                    choice = choose(runs, "as-published", paper.selects_on)
                    if not choice.readings:
                        continue
                    cell = cells[choice.readings[0].point]
                    yield part, Chosen(cell, choice, editions[column.data.source])


def _comparable(runs: Runs, split: Callable[[Point], Any]) -> dict[Any, Runs]:
    """Runs by the value of ``split``, of the seeds that all values with a finished run have, if there are any."""
    parts: dict[Any, dict[Point, Mapping[int, Record]]] = {}
    for point, of_seed in runs.items():
        parts.setdefault(split(point), {})[point] = of_seed
    seeds = [
        {seed for of_seed in part.values() for seed, record in of_seed.items() if record.failed is None}
        for part in parts.values()
    ]
    common = set.intersection(*filter(None, seeds)) if any(seeds) else set()
    if not common:
        return dict(parts)
    return {
        value: {point: {seed: record for seed, record in of_seed.items() if seed in common} for point, of_seed in part.items()}
        for value, part in parts.items()
    }


# --- Figures 2 and 3 -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """One method in one column: accuracy (%, mean over seeds), the chosen point, statistics by seed."""

    data: str
    method: str
    accuracy: float
    point: str
    groups: Mapping[str, tuple[int, int]]
    by_seed: Mapping[int, Statistics]


def lines(store: Store, paper: Paper, table: Table, editions: Mapping[str, str], **which: Any) -> Iterator[Told]:
    """What there is of every method and column that has the Measure at its chosen point (:func:`chosen`)."""
    for _, one in chosen(store, paper, table, editions, **which):
        by_seed, accuracy = one.statistics(store), one.accuracy()
        if by_seed and accuracy is not None:
            yield Told(one.data, one.cell.method, accuracy, one.point(), one.cell.column.groups, by_seed)


def render(found: Iterable[Told], view: str = "") -> str:
    """As aligned text, ending with a line feed, data by data: Fig. 3, or with ``"classes"`` every class of every run, or with
    ``"normals"`` Fig. 2. Methods by increasing accuracy."""
    of_data: dict[str, dict[tuple[str, str], Told]] = {}
    for told in found:
        of_data.setdefault(told.data, {}).setdefault((told.method, told.point), told)
    parts: list[str] = []
    for data, methods in of_data.items():
        in_order = sorted(methods.values(), key=lambda told: told.accuracy)
        parts += {"classes": _classes, "normals": _normals}.get(view, _groups)(data, in_order)
    notes = [
        "Test images, after the last epoch, at the grid point that as-published chooses; sd are the population's. Classes",
        "count from 0. Adjusted rows are derived from the Measure of the training before them. The norm is that of an",
        "effective class vector, with its factor where factors are trained; a cosine's logits do not depend on it.",
    ]
    return "\n\n".join(parts) + "\n\n" + "\n".join(notes) + "\n"


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1, last: str = "right") -> str:
    """A title and numbers to three digits under their heads; the first ``left`` columns are words."""
    from tabulate import tabulate

    shown = [[f"{value:.3g}" if isinstance(value, float) else value for value in row] for row in rows]
    aligned = [*["left"] * left, *["right"] * (len(heads) - left - 1), last]
    return f"{title}\n\n{tabulate(shown, heads, disable_numparse=True, colalign=aligned)}"


def _groups(data: str, methods: Sequence[Told]) -> Iterator[str]:
    """Fig. 3, and the weight norm against the magnitude: a line for each method, mean over seeds."""
    heads, _ = of_groups(max((statistics.norm for told in methods for statistics in told.by_seed.values()), key=len))

    def groups(numbers: Numbers) -> list[float | None]:
        return of_groups(numbers)[1]

    def line(told: Told, numbers: Callable[[Statistics], Numbers]) -> list[float | None]:
        return [_mean(row) for row in zip(*(numbers(s) for s in told.by_seed.values()), strict=True)]

    yield _table(
        f"{data}: Logits Magnitude of classes in groups, divided by the 1-norm of the line (Fig. 3), mean over seeds;"
        "\nits mean, and its correlation with the weight norm, over classes",
        ["method", "accuracy", "seeds", *heads, "mean", "correlation", "chosen"],
        [
            (
                told.method,
                f"{told.accuracy:.2f}",
                len(told.by_seed),
                *line(told, lambda s: shares(groups(s.magnitude))),
                *line(told, lambda s: [_mean(s.magnitude), correlation(s.norm, s.magnitude)]),
                told.point,
            )
            for told in methods
        ],
        last="left",
    )
    for reading, sd in READINGS.items():
        yield _table(
            f"{data}: Regularized Standard Deviation, sigma over {reading}, mean over the classes of a group and over seeds",
            ["method", *heads, "mean"],
            [
                (told.method, *line(told, lambda s, sd=sd: [*groups(s.regularized(sd)), _mean(s.regularized(sd))]))  # type: ignore[misc]
                for told in methods
            ],
        )


def of_groups(numbers: Numbers) -> tuple[list[str], list[float | None]]:
    """Consecutive classes in groups of :data:`GROUP`, each class alone where there are no more than that: names of the groups,
    and the mean of each."""
    width = GROUP if len(numbers) > GROUP else 1
    firsts = range(0, len(numbers), width)
    names = [str(first) if width == 1 else f"{first}-{min(first + width, len(numbers)) - 1}" for first in firsts]
    return names, [_mean(numbers[first : first + width]) for first in firsts]


def shares(numbers: Numbers) -> list[float | None]:
    """Numbers divided by their 1-norm; None where they are, and all of them where the norm is 0."""
    norm = math.fsum(abs(number) for number in numbers if number is not None)
    return [None if number is None or not norm else number / norm for number in numbers]


def correlation(first: Numbers, second: Numbers) -> float | None:
    """Pearson's, over the places where both numbers are there; None where one of them does not vary beyond the digits that a
    Measure keeps."""
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    means = [math.fsum(column) / len(pairs) for column in zip(*pairs, strict=True)]
    apart = [(a - means[0], b - means[1]) for a, b in pairs]
    spreads = [math.sqrt(math.fsum(x * x for x in column)) for column in zip(*apart, strict=True)]
    if any(spread <= KEPT * math.sqrt(len(pairs)) * abs(mean) for spread, mean in zip(spreads, means, strict=True)):
        return None
    return math.fsum(a * b for a, b in apart) / (spreads[0] * spreads[1])


def _classes(data: str, methods: Sequence[Told]) -> Iterator[str]:
    """Every class of every run."""
    heads = ["method", "chosen", "seed", "class", "L", *(f"sigma/L, {reading}" for reading in READINGS), "weight norm"]
    rows = [
        (told.method, told.point, seed, number, *of_class)
        for told in methods
        for seed, s in told.by_seed.items()
        for number, of_class in enumerate(zip(s.magnitude, *map(s.regularized, READINGS.values()), s.norm, strict=True))
    ]
    yield _table(f"{data}: Logits Magnitude L, Regularized Standard Deviations and weight norm", heads, rows, left=2)


def _normals(data: str, methods: Sequence[Told]) -> Iterator[str]:
    """Fig. 2: mean and sd of all positive and all negative logits of each group of classes, mean over seeds."""
    rows = []
    for told in methods:
        for group, bounds in told.groups.items():
            by_seed = [normals(statistics, *bounds) for statistics in told.by_seed.values()]
            rows.append((told.method, group, *map(_mean, zip(*by_seed, strict=True))))
    heads = ["method", "classes", "positive mean", "sd", "negative mean", "sd"]
    yield _table(f"{data}: logits z_i of a group's classes as two normals (Fig. 2), mean over seeds", heads, rows, left=2)


def normals(statistics: Statistics, first: int, last: int) -> tuple[float | None, ...]:
    """Mean and sd of all pairs (image of class i, z_i), then of all pairs (image of another class, z_i), for the classes i from
    ``first`` to ``last`` (excluded) as one; exact, by the law of total variance."""
    total = sum(statistics.count)
    own = statistics.count[first:last]

    def pooled(weights: Sequence[int], means: Numbers, sds: Numbers) -> tuple[float | None, float | None]:
        of_class = zip(weights, means[first:last], sds[first:last], strict=True)
        there = [(n, m, s) for n, m, s in of_class if m is not None and s is not None]
        number = sum(n for n, _, _ in there)
        if not number:
            return None, None
        mean = math.fsum(n * m for n, m, _ in there) / number
        return mean, math.sqrt(math.fsum(n * (s * s + (m - mean) ** 2) for n, m, s in there) / number)

    return (
        *pooled(own, statistics.positive_mean, statistics.positive_sd),
        *pooled([total - n for n in own], statistics.negative_mean, statistics.negative_sd),
    )


# --- Figures 4 and 5 -------------------------------------------------------------------------------------------------


def smoothing(store: Store, paper: Paper, table: Table, editions: Mapping[str, str], **which: Any) -> Iterator[tuple[Any, ...]]:
    """Fig. 4: a line for every delta of grid ``figure4`` that has finished runs: data, delta, seeds, what is chosen for this
    delta alone, accuracy (%, mean over seeds) over all classes and as (group, accuracy) of each group."""
    for delta, one in chosen(store, paper, table, editions, **which, split=lambda point: dict(point)["delta"]):
        groups = tuple((group, one.accuracy(group)) for group in one.cell.column.groups)
        yield one.data, delta, len(one.seeds), one.point(without="delta"), one.accuracy(), groups


def render_smoothing(found: Sequence[tuple[Any, ...]]) -> str:
    """As aligned text, ending with a line feed."""
    parts = []
    for data in dict.fromkeys(line[0] for line in found):
        of_data = [line for line in found if line[0] == data]
        names = [group for group, _ in of_data[0][-1]]
        rows = [
            (f"{delta:g}", seeds, *_percent(accuracy, *(of for _, of in groups)), point)
            for _, delta, seeds, point, accuracy, groups in of_data
        ]
        title = f"{data}: accuracy (%) over delta (Fig. 4), mean over seeds; all else chosen for each delta as published"
        parts.append(_table(title, ["delta", "seeds", "All", *names, "chosen"], rows, left=0, last="left"))
    return "\n\n".join(parts) + "\n"


def sensitivity(
    store: Store, paper: Paper, table: Table, editions: Mapping[str, str], **which: Any
) -> Iterator[tuple[Any, ...]]:
    """Fig. 5: a line for every point of grid ``figure5`` that has finished runs: method, data, learning rate, weight decay,
    seeds, accuracy (%, mean over seeds of the best epoch as published)."""
    for _, one in chosen(store, paper, table, editions, **which, split=lambda point: point):
        point = dict(one.cell.point)
        yield one.cell.method, one.data, point["rate"], point["decay"], len(one.seeds), one.accuracy()


def render_sensitivity(found: Sequence[tuple[Any, ...]]) -> str:
    """As aligned text, ending with a line feed: a table for each method and data, weight decay from left to right."""
    parts = []
    for method, data in dict.fromkeys(line[:2] for line in found):
        here = {line[2:4]: line[4:] for line in found if line[:2] == (method, data)}
        rates, decays = (sorted({place[axis] for place in here}) for axis in (0, 1))
        seeds, levels = zip(*here.values(), strict=True)
        title = (
            f"{data}, {method}: accuracy (%) over learning rate and weight decay (Fig. 5), mean over "
            f"{'-'.join(map(str, sorted({min(seeds), max(seeds)})))} seed{'s'[: max(seeds) != 1]}\n"
            f"best {max(levels):.2f}, worst {min(levels):.2f}, spread {max(levels) - min(levels):.2f} over {len(here)} points"
        )
        rows = [(f"{rate:g}", *_percent(*(here.get((rate, decay), (0, None))[1] for decay in decays))) for rate in rates]
        parts.append(_table(title, ["rate \\ decay", *(f"{decay:g}" for decay in decays)], rows, left=0))
    return "\n\n".join(parts) + "\n"


def _percent(*numbers: float | None) -> list[str | None]:
    return [None if number is None else f"{number:.2f}" for number in numbers]


# --- Figure 1 --------------------------------------------------------------------------------------------------------


def render_sample(
    paper: Paper, data: str, index: int, truth: int, found: Sequence[tuple[str, int, Sequence[float]]], *, official: bool
) -> str:
    """Logits of test image ``index`` of class ``truth``, by (method, seed, logits [C]), as aligned text that ends with a line
    feed; beside them what Fig. 1 prints of this image, where the edition is the ``official`` one."""
    rows = []
    for method, seed, logits in found:
        ranked = sorted(range(len(logits)), key=lambda c: -logits[c])
        of_guess = f"{logits[ranked[0]]:.2f}"
        best = ", ".join(f"{c} {logits[c]:.2f}" for c in ranked[:5])
        rows.append((method, seed, f"{logits[truth]:.2f}", ranked[0], of_guess, best))
    heads = ["method", "seed", f"logit of class {truth}", "predicted", "its logit", "top five (class logit)"]
    told = [_table(f"{data}, test image {index}, true class {truth} (Fig. 1)", heads, rows, last="left"), ""]
    if official:
        for (row, path, _), number in published.load(paper.name, "figure1.csv").items():
            image, _, what = path.partition("/")
            if image == f"test sample {index}":
                told.append(f"Published: {row}, {what}: {number.value_text}")
    return "\n".join(told).rstrip() + "\n"
