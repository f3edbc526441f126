"""A panel's numbers from the store: Records and Measures of the runs that its description means. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from replicate import grid as grids
from replicate.grid import Cell
from replicate.protocol import SOURCES, Metric, Panel, Paper, Table
from replicate.record import Record, Store
from replicate.report import logits
from replicate.report.figures.content import Curve, Point, Shown
from replicate.report.selection import Choice, Runs, choose
from replicate.report.selection import Point as GridPoint

#: Names of a grid's parameters as an axis has them.
SYMBOLS = {
    "nu": "ν", "tau": "τ", "gamma": "γ", "delta": "δ", "switch": "T0 (epoch)", "rate": "learning rate", "decay": "weight decay",
}  # fmt: skip
#: What :class:`~replicate.protocol.Panel` may draw, by where its numbers come from.
BY_ACCURACY, OF_MEASURES, OF_LOGITS = (
    ("accuracy", "ratio", "map", "training"), ("classes", "pairs", "steps"), ("normals", "magnitude", "deviation", "norm"),
)  # fmt: skip
CLASSES = "class, most to fewest images"
#: Points of a normal density, from the lowest mean less so many standard deviations to the highest mean and as many.
DENSITY_POINTS, DENSITY_REACH = 121, 3.5


def table_of(paper: Paper, panel: Panel) -> Table | None:
    """The table whose runs a panel shows, if it names one. Raises ``KeyError`` for one that the paper does not have."""
    return {table.number: table for table in paper.tables}[panel.table] if panel.table else None


def methods_of(paper: Paper, panel: Panel) -> list[str]:
    """What the command that runs a panel's table or grid runs where no method is named."""
    table = table_of(paper, panel)
    if table is None:
        return list(paper.methods(panel.grid))
    return [row.method for block in table.blocks for row in block.rows if row.method is not None]


@dataclass(frozen=True)
class Method:
    """The finished runs of one method in a panel's column: Records by point and seed, and the cell (of one seed) of each."""

    label: str
    cells: Mapping[GridPoint, Cell]
    runs: Mapping[GridPoint, Mapping[int, Record]]

    def choice(self, selects_on: str, points: Iterable[GridPoint] | None = None) -> Choice | None:
        """What stands for these points, as published; None without a finished run."""
        runs: Runs = self.runs if points is None else {point: self.runs[point] for point in points}
        found = choose(runs, "as-published", selects_on)
        return found if found.readings else None

    def over(self, names: Sequence[str], selects_on: str) -> Iterator[tuple[tuple[float, ...], Choice]]:
        """What stands for each combination of values of these parameters that has a finished run, in grid order: all else is
        chosen for it alone."""
        found: dict[tuple[float, ...], list[GridPoint]] = {}
        for point in self.runs:
            values = dict(point)
            found.setdefault(tuple(values[name] for name in names), []).append(point)
        for combination, alike in found.items():
            choice = self.choice(selects_on, alike)
            if choice is not None:
                yield combination, choice


@dataclass(frozen=True)
class Source:
    """Where a panel's numbers come from: the store, on one edition of the panel's data (None: there is none).

    ``memory`` is shared by the panels of a figure, which often show the same runs."""

    store: Store
    paper: Paper
    panel: Panel
    edition: str | None
    memory: dict[Any, Any]

    @property
    def methods(self) -> list[Method]:
        """Of the panel, in its order."""
        named = zip(self.panel.methods, self.panel.labels or self.panel.methods, strict=True)
        where = self.panel.grid, self.panel.table, self.panel.column.name
        return [self._remembered((method, label, *where), partial(self._method, method, label)) for method, label in named]

    @property
    def told(self) -> list[logits.Told]:
        """What there is of the methods' logits, by increasing accuracy."""
        where = "logits", *self.panel.methods, self.panel.table, self.panel.column.name
        return self._remembered(where, self._told)  # type: ignore[no-any-return]

    def _remembered(self, what: tuple[str, ...], make: Callable[[], Any]) -> Any:
        if what not in self.memory:
            self.memory[what] = make()
        return self.memory[what]

    def _told(self) -> list[logits.Told]:
        table, column = table_of(self.paper, self.panel), self.panel.column
        if table is None or self.edition is None:
            return []
        editions = {column.data.source: self.edition}
        found = logits.lines(self.store, self.paper, table, editions, columns=[column], methods=self.panel.methods)
        return sorted(found, key=lambda told: told.accuracy)

    def _method(self, method: str, label: str) -> Method:
        table = table_of(self.paper, self.panel)
        grid, source = self.panel.grid if table is None else table.grid, self.panel.column.data.source
        cells = grids.cells(self.paper, grid, columns=[self.panel.column], methods=[method])
        seeds = {} if self.edition is None else self.store.seeds(source, self.edition)
        runs: dict[GridPoint, dict[int, Record]] = {cell.point: {} for cell in cells}
        for cell in cells if self.edition is not None else ():
            assert self.edition is not None
            key = cell.programme.key(self.edition)
            for seed in seeds.get(key[:24], ()):
                record = self.store.record(source, self.edition, key, seed)
                if record is not None and record.failed is None:
                    runs[cell.point][seed] = record
        return Method(label, {cell.point: cell for cell in cells}, runs)

    def measured(self, method: Method) -> list[Any]:
        """What a Measure says at the chosen point, a value for each seed that has it."""
        choice = method.choice(self.paper.selects_on)
        if choice is None or self.edition is None:
            return []
        programme = method.cells[choice.readings[0].point].programme
        found = []
        for seed in choice.readings[0].epochs:
            place = programme.start.data.source, self.edition, programme.keys(self.edition)[-1], seed
            told: Any = self.store.measure(self.panel.measure[0], *place)
            for step in self.panel.measure[1:]:
                told = told.get(step) if isinstance(told, dict) else None
            found += [] if told is None else [told]
        return found


def read(
    store: Store, paper: Paper, panel: Panel, edition_of: Mapping[str, str], memory: dict[Any, Any] | None = None
) -> Shown:
    """What there is of a panel on these editions; empty if its column's data is not among them. ``memory`` may be shared by
    panels that are read from one store on the same editions.

    Raises ``BadInput`` naming a file that is damaged."""
    memory = {} if memory is None else memory
    return READERS[panel.draws](Source(store, paper, panel, edition_of.get(panel.column.data.source), memory))


def _title(panel: Panel) -> str:
    return panel.title.replace("{data}", " ".join(panel.column.path))


def _point(x: float, values: Sequence[float], chosen: str = "", y: float = 0.0) -> Point:
    """Mean and population standard deviation of one value a seed, at least one."""
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)) if len(values) > 1 else None
    return Point(x, mean, sd, len(values), chosen, y)


def _missing(methods: Iterable[Method]) -> str:
    """In words: of which methods how many of the grid's points have no finished run."""
    told = []
    for method in methods:
        without = [point for point, of_seed in method.runs.items() if not of_seed]
        if without:
            some = f" ({len(without)} of {len(method.runs)} points)" if len(without) < len(method.runs) else ""
            told.append(f"{method.label}{some}")
    return ", ".join(told)


def _chosen(choice: Choice, without: Sequence[str]) -> str:
    return " ".join(f"{name}={value:g}" for name, value in choice.replica().points[0] if name not in without)


# --- accuracy --------------------------------------------------------------------------------------------------------


def _accuracy(source: Source) -> Shown:
    """Test accuracy in percent over one parameter."""
    panel, curves = source.panel, []
    for group in panel.groups or ("",):
        metric = Metric((), "", group or None)
        for method in source.methods:
            points = [
                _point(at, list(choice.replica(metric).values.values()), _chosen(choice, panel.over))
                for (at,), choice in method.over(panel.over, source.paper.selects_on)
            ]
            curves.append(Curve((group or "All") if panel.groups else method.label, tuple(points)))
    return _curves(panel, SYMBOLS[panel.over[0]], curves, _missing(source.methods))


def _ratio(source: Source) -> Shown:
    """Training accuracy of one group of classes over that of another, in the epoch that is chosen, over one parameter."""
    panel, curves = source.panel, []
    for method in source.methods:
        points = []
        for (at,), choice in method.over(panel.over, source.paper.selects_on):
            (reading,) = choice.readings
            ratios = []
            for seed, epoch in reading.epochs.items():
                record = method.runs[reading.point][seed]
                above, below = (record.accuracy("train", group=group)[epoch - 1] for group in panel.groups)
                ratios += [above / below] if below else []
            points += [_point(at, ratios, _chosen(choice, panel.over))] if ratios else []
        curves.append(Curve(method.label, tuple(points)))
    return _curves(panel, SYMBOLS[panel.over[0]], curves, _missing(source.methods))


def _training(source: Source) -> Shown:
    """Training accuracy of groups of classes in percent, epoch by epoch."""
    panel, curves = source.panel, []
    for method in source.methods:
        choice = method.choice(source.paper.selects_on)
        for group in panel.groups if choice is not None else ():
            assert choice is not None
            records = method.runs[choice.readings[0].point].values()
            by_epoch = zip(*(record.accuracy("train", group=group) for record in records), strict=True)
            points = (_point(epoch, [100 * value for value in values]) for epoch, values in enumerate(by_epoch, start=1))
            curves.append(Curve(method.label, tuple(points), group))
    return _curves(panel, "epoch", curves, _missing(source.methods), smooth=True)


def _map(source: Source) -> Shown:
    """Test accuracy in percent over two parameters, of one method."""
    panel, (method,) = source.panel, source.methods
    across, up = (sorted({dict(point)[name] for point in method.cells}) for name in panel.over)
    cells = [
        _point(across.index(x), list(choice.replica().values.values()), _chosen(choice, panel.over), up.index(y))
        for (x, y), choice in method.over(panel.over, source.paper.selects_on)
    ]
    return Shown(
        title=_title(panel),
        x_axis=SYMBOLS[panel.over[0]],
        y_axis=SYMBOLS[panel.over[1]],
        quantity=panel.quantity,
        cells=tuple(sorted(cells, key=lambda cell: (cell.y, cell.x))),
        x_ticks=tuple(f"{value:g}" for value in across),
        y_ticks=tuple(f"{value:g}" for value in up),
        is_map=True,
        scale=panel.column.name,
        missing=_missing(source.methods),
    )


def _curves(panel: Panel, x_axis: str, curves: Iterable[Curve], missing: str, **more: Any) -> Shown:
    there = tuple(curve for curve in curves if curve.points)
    return Shown(_title(panel), x_axis, panel.quantity, there, missing=missing, **more)


# --- Measures --------------------------------------------------------------------------------------------------------


def _unmeasured(methods: Sequence[Method], found: Mapping[str, Sequence[Any]]) -> str:
    return ", ".join(method.label for method in methods if not found[method.label])


def _series(by_seed: Sequence[Sequence[float | None]]) -> tuple[Point, ...]:
    """Points at 0, 1, ... of lists of equal length, one a seed; without a number there is no point."""
    there = ([value for value in values if value is not None] for values in zip(*by_seed, strict=True))
    return tuple(_point(place, values) for place, values in enumerate(there) if values)


def _classes(source: Source) -> Shown:
    panel, methods = source.panel, source.methods
    found = {method.label: source.measured(method) for method in methods}
    curves = [Curve(label, _series(by_seed)) for label, by_seed in found.items()]
    return _curves(panel, CLASSES, curves, _unmeasured(methods, found), smooth=SOURCES[panel.column.data.source].classes > 20)


def _steps(source: Source) -> Shown:
    panel, methods = source.panel, source.methods
    found = {method.label: source.measured(method) for method in methods}
    curves = [
        Curve(label, _series([[told["fdr"] for told in of_seed] for of_seed in by_seed])) for label, by_seed in found.items()
    ]
    ticks = next(([told["step"] for told in by_seed[0]] for by_seed in found.values() if by_seed), [])
    missing = _unmeasured(methods, found)
    return _curves(panel, "step", curves, missing, x_ticks=tuple(ticks), logarithmic=True)


def _pairs(source: Source) -> Shown:
    panel, (method,) = source.panel, source.methods
    by_seed = source.measured(method)
    cells: list[Point] = []
    for row, rows in enumerate(zip(*by_seed, strict=True)):
        for place, values in enumerate(zip(*rows, strict=True)):
            there = [value for value in values if value is not None]
            cells += [_point(place, there, y=row)] if there else []
    return Shown(
        title=_title(panel),
        x_axis="class",
        y_axis="class",
        quantity=panel.quantity,
        cells=tuple(cells),
        is_map=True,
        square=True,
        scale=panel.quantity,
        missing="" if by_seed else method.label,
    )


# --- logits ----------------------------------------------------------------------------------------------------------


def _without(panel: Panel, told: Sequence[logits.Told]) -> str:
    return ", ".join(method for method in panel.methods if method not in {one.method for one in told})


def _normals(source: Source) -> Shown:
    """Positive and negative logits of groups of classes as normal densities, of means and deviations averaged over seeds."""
    panel = source.panel
    told = source.told
    normals: dict[tuple[str, str], tuple[float, float, int, str]] = {}
    for one in told:
        for group in panel.groups:
            by_seed = [logits.normals(statistics, *one.groups[group]) for statistics in one.by_seed.values()]
            numbers = [[value for value in values if value is not None] for values in zip(*by_seed, strict=True)]
            means = [math.fsum(values) / len(values) if values else None for values in numbers]
            for place, member in ((0, "positive"), (2, "negative")):
                mean, sd = means[place : place + 2]
                if mean is not None and sd:
                    normals[group, member] = mean, sd, len(by_seed), one.point
    low = min((mean - DENSITY_REACH * sd for mean, sd, *_ in normals.values()), default=0.0)
    high = max((mean + DENSITY_REACH * sd for mean, sd, *_ in normals.values()), default=1.0)
    xs = [low + (high - low) * place / (DENSITY_POINTS - 1) for place in range(DENSITY_POINTS)]
    curves = []
    for (group, member), (mean, sd, seeds, point) in normals.items():
        density = [math.exp(-(((x - mean) / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi)) for x in xs]
        chosen = f"mean={mean:.6g} sd={sd:.6g} {point}".strip()
        points = (Point(x, value, None, seeds, chosen) for x, value in zip(xs, density, strict=True))
        curves.append(Curve(group, tuple(points), member))
    return _curves(panel, "logit", curves, _without(panel, told), smooth=True)


def _of_groups(numbers: Callable[[logits.Statistics], logits.Numbers], shares: bool) -> Callable[[Source], Shown]:
    """A reader of one number of each class, averaged over groups of ten consecutive classes, and perhaps divided by the line's
    1-norm."""

    def read(source: Source) -> Shown:
        panel = source.panel
        told = source.told
        ticks: list[str] = []
        curves = []
        for one in told:
            ticks, by_seed = [], []
            for statistics in one.by_seed.values():
                ticks, values = logits.of_groups(numbers(statistics))
                by_seed.append(logits.shares(values) if shares else values)
            points = (Point(p.x, p.value, p.sd, p.seeds, one.point) for p in _series(by_seed))
            curves.append(Curve(f"{one.method} ({one.accuracy:.1f})", tuple(points)))
        return _curves(panel, CLASSES, curves, _without(panel, told), x_ticks=tuple(ticks))

    return read


READERS: Mapping[str, Callable[[Source], Shown]] = {
    "accuracy": _accuracy,
    "ratio": _ratio,
    "training": _training,
    "map": _map,
    "classes": _classes,
    "pairs": _pairs,
    "steps": _steps,
    "normals": _normals,
    "magnitude": _of_groups(lambda s: s.magnitude, shares=True),
    "deviation": _of_groups(lambda s: s.regularized("sd"), shares=False),
    "norm": _of_groups(lambda s: s.norm, shares=True),
}
