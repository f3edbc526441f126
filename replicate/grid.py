"""From a paper's grid to cells: programmes, keys, shared beginnings, and what a plan costs. No torch.

A method is compiled to one row for each epoch (:class:`Epoch`). The key after epoch e is a hash of the key after e-1 and
row e, so programmes that begin alike have equal keys for as long as they are alike, whatever they are called: that is
all that sharing, resuming and "already done" rest on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache, cached_property, lru_cache
from typing import Any, TypeVar

from replicate.errors import BadInput
from replicate.protocol import (
    BEST_ON_VALIDATION,
    EVALUATING,
    SOURCES,
    Adjustment,
    Column,
    Data,
    Description,
    Feed,
    Free,
    Grid,
    MaxNorm,
    Method,
    Network,
    Objective,
    Paper,
    Stage,
    canonical,
    canonical_text,
    fill,
    free_names,
)

T = TypeVar("T")

#: Rises when the training loop itself changes what it computes (order of draws, what a step does): moves every key.
ENGINE_REVISION = 1

#: How passes through a network are computed. The first is the protocol: 32-bit floats with the framework's defaults. Cells in
#: another precision have keys of their own, so no table ever takes them for the protocol's.
PRECISIONS = ("float32", "float32-strict", "tf32", "bfloat16", "float16")

QUICK_EPOCHS = 1  # of every stretch between two switches
QUICK_BATCHES = 2  # of every epoch
QUICK_TEST_IMAGES = 10  # of every class
QUICK_VALIDATION_IMAGES = 5  # of every class, where the training images do not depend on it


@dataclass(frozen=True)
class Epoch(Description):
    """One row of a programme: all that an epoch's training depends on, besides the state it starts from.

    ``begins`` marks the first row of a stage after the first: what the stage before handed over is taken up (``starts_from``:
    None, its last state), the classifier takes another form (``head``), class vectors are scaled to length 1 (``unit_rows``),
    the bound of ``projection`` is found."""

    objective: Objective
    rate: float
    momentum: float
    weight_decay: float
    feed: Feed
    sam_radius: float | None = None
    restart_momentum: bool = False
    batches: int | None = None  # stop after so many; None: all
    decayed: str | None = None
    projection: MaxNorm | None = None
    trained: str | None = None
    hands_over: str | None = None
    begins: bool = False
    starts_from: str | None = None
    unit_rows: bool = False
    batch_norm: str | None = None
    head: str | None = None

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Rows are looked up far more often than they are made, and are tall trees.
        return hash(tuple(getattr(self, f.name) for f in fields(self)))

    def __getstate__(self) -> dict[str, Any]:
        # Hashes of text hold within one process: a kept one would make equal rows unequal keys in another.
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def frozen(self) -> bool:
        """Whether the head alone changes, by ordinary steps on features that are a fixed function of an image."""
        return (
            self.trained == "head"
            and self.batch_norm == EVALUATING
            and self.objective.regulariser is None
            and not (self.sam_radius or self.decayed or self.hands_over or self.unit_rows)
            and not (self.restart_momentum or (self.projection is not None and self.projection.each != "epoch"))
        )

    @property
    def lasting(self) -> Epoch:
        """The row without what holds for its own first epoch alone, and without the learning rate."""
        return replace(self, rate=0.0, restart_momentum=False, begins=False, starts_from=None, unit_rows=False, head=None)


@dataclass(frozen=True)
class Start(Description):
    """What a programme starts from: data and an untrained network; and the precision that it is trained in, None for the
    protocol's own."""

    data: Data
    network: Network
    head: str
    precision: str | None = None


@dataclass(frozen=True)
class Programme:
    """A method compiled for one column: runs of equal epochs, in order, and what is done to the trained classifier."""

    start: Start
    runs: tuple[tuple[int, Epoch], ...]
    adjustment: Adjustment | None = None

    @property
    def length(self) -> int:
        """Epochs."""
        return sum(count for count, _ in self.runs)

    def epoch(self, number: int) -> Epoch:
        """Row of the 1-based epoch ``number``; raises ``IndexError`` outside the programme."""
        if number >= 1:
            last = 0
            for count, row in self.runs:
                last += count
                if number <= last:
                    return row
        raise IndexError(f"epoch {number} of {self.length}")

    @cached_property
    def switches(self) -> tuple[int, ...]:
        """Last epochs before something other than the learning rate changes."""
        found, last = [], 0
        for (count, row), (_, following) in itertools.pairwise(self.runs):
            last += count
            if row.lasting != following.lasting or following.restart_momentum:
                found.append(last)
        return tuple(found)

    @cached_property
    def stage_starts(self) -> tuple[int, ...]:
        """First epoch of every stage."""
        found, last = [1], 0
        for count, row in self.runs:
            if row.begins:
                found.append(last + 1)
            last += count
        return tuple(found)

    @cached_property
    def frozen_from(self) -> int | None:
        """First epoch of the last stage where that trains a classifier alone, on a backbone that it leaves as it is, so that
        any number of such classifiers can be trained on one pass over the features; else None."""
        first = self.stage_starts[-1]
        if first == 1 or self.adjustment is not None or self.start.head == "etf":
            return None
        last = 0
        for count, row in self.runs:
            if last + 1 >= first and not row.frozen:
                return None
            last += count
        return first

    def passes(self, edition: str) -> tuple[str, ...]:
        """What each epoch costs a pass over the training images for: the key after it; in a frozen stage the identity of the
        features, which other programmes may share. Equal ones, for one seed, are computed once."""
        chain = self.keys(edition)
        first = self.frozen_from
        if first is None:
            return chain[1:]
        return (*chain[1:first], *_feature_passes(chain[first - 1], tuple(self._frozen_feeds), first))

    @property
    def _frozen_feeds(self) -> Iterator[tuple[Feed, int | None]]:
        """Feed and number of batches of every epoch of the frozen stage."""
        assert self.frozen_from is not None
        last = 0
        for count, row in self.runs:
            if last + 1 >= self.frozen_from:
                yield from itertools.repeat((row.feed, row.batches), count)
            last += count

    def pack(self, edition: str) -> str | None:
        """Programmes with a frozen stage and equal packs ride the same passes from its first epoch to its last; None
        without.
        """
        if self.frozen_from is None:
            return None
        feeds = [[canonical(feed), batches] for feed, batches in self._frozen_feeds]
        return _digest({"begins": self.keys(edition)[self.frozen_from - 1], "feeds": feeds})

    def spec(self) -> dict[str, Any]:
        """The programme as JSON data: what a Record stores to explain itself. ``epochs``: [how many, their row] in order. A
        learning rate that changes from epoch to epoch stands in the Record's curves, and here as None."""
        epochs: list[list[Any]] = []
        for row, alike in itertools.groupby(self.runs, key=lambda run: replace(run[1], rate=0.0)):
            counts, rates = zip(*((count, canonical(of.rate)) for count, of in alike), strict=True)
            epochs.append([sum(counts), {**canonical(row), "rate": rates[0] if len(set(rates)) == 1 else None}])
        told = {"start": canonical(self.start), "epochs": epochs}
        return told if self.adjustment is None else {**told, "adjustment": canonical(self.adjustment)}

    def keys(self, edition: str) -> tuple[str, ...]:
        """Key after each epoch on this edition of the data; index 0 is the key of the untrained start."""
        if edition not in self._keys:
            start = _start_key(edition, self.start)
            first = next((place for place, (_, row) in enumerate(self.runs) if row.begins), len(self.runs))
            chain = [start, *_stage_keys(start, self.runs[:first])]
            for count, row in self.runs[first:]:
                chain.extend(_following_keys(chain[-1], row, count))
            self._keys[edition] = tuple(chain)
        return self._keys[edition]

    @cached_property
    def _keys(self) -> dict[str, tuple[str, ...]]:
        return {}

    def key(self, edition: str) -> str:
        """Key of what the programme leaves: that after its last epoch, and of the adjustment where there is one."""
        trained = self.keys(edition)[-1]
        if self.adjustment is None:
            return trained
        return _digest({"trained": trained, "adjustment": canonical(self.adjustment)})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# Programmes of a grid share most of their rows and beginnings, so each is hashed once.


@cache
def _start_key(edition: str, start: Start) -> str:
    return _digest({"engine": ENGINE_REVISION, "edition": edition, "start": canonical(start)})


@cache
def _row_digest(row: Epoch) -> str:
    return hashlib.sha256(canonical_text(row).encode()).hexdigest()


@lru_cache(maxsize=100_000)
def _following_keys(key: str, row: Epoch, count: int) -> tuple[str, ...]:
    text, found = _row_digest(row), []
    for _ in range(count):
        key = hashlib.sha256(f"{key}{text}".encode()).hexdigest()
        found.append(key)
    return tuple(found)


@lru_cache(maxsize=1_000)
def _stage_keys(key: str, runs: tuple[tuple[int, Epoch], ...]) -> tuple[str, ...]:
    """Keys of a first stage, which many programmes have in common."""
    found: list[str] = []
    for count, row in runs:
        found.extend(_following_keys(found[-1] if found else key, row, count))
    return tuple(found)


@lru_cache(maxsize=10_000)
def _feature_passes(begins: str, feeds: tuple[tuple[Feed, int | None], ...], first: int) -> tuple[str, ...]:
    """Identity of the features of each epoch of a frozen stage. Without augmentation an image's features are the same in every
    epoch and under every sampler."""
    told: list[dict[str, Any]] = []
    for number, (feed, batches) in enumerate(feeds, start=first):
        drawn = {"epoch": number, "feed": canonical(feed), "batches": batches} if feed.augmentation or batches else {}
        told.append({"features of": begins, **drawn})
    return tuple(map(_digest, told))


def cell_key(programme_key: str, seed: int) -> str:
    """Key of one cell: the programme's key and the seed."""
    return hashlib.sha256(f"{programme_key}:{seed}".encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One point of a grid. Only ``programme`` and ``seed`` decide its numbers; the rest are names."""

    paper: str
    grid: str
    method: str
    column: Column
    point: tuple[tuple[str, float], ...]
    variant: str | None
    quick: bool
    programme: Programme
    seed: int

    @property
    def label(self) -> str:
        """Such as ``VS+TLA+ADRW nu=0.75 cifar10-lt/100 seed 0``."""
        point = "".join(f" {name}={value:g}" for name, value in self.point)
        return f"{self.method}{point} {self.column.name} seed {self.seed}"


def compile_method(
    method: Method, column: Column, values: Mapping[str, Any], quick: bool = False, precision: str | None = None
) -> Programme:
    """The programme of ``method`` on ``column`` with every free name given in ``values``, in one of :data:`PRECISIONS`.

    Raises ``TypeError`` if a name has no value, ``ValueError`` if a switch lies outside the stage, or if a stage hands over its
    best state on validation and the data has no validation split.
    """
    method = fill(method, values)
    left = sorted(set(free_names(method)))
    if left:
        raise TypeError(f"no value for {', '.join(left)}")
    length, stage, first = _given(method.stage.epochs), method.stage, 1
    pieces: list[tuple[int, int, Stage]] = []  # first epoch, last epoch, what holds there
    for epoch, changes in sorted((_given(switch.epoch), switch.changes) for switch in method.switches):
        if not first <= epoch < length:
            raise ValueError(f"a switch after epoch {epoch} lies outside {first}..{length - 1}")
        pieces.append((first, epoch, stage))
        stage, first = _changed(stage, dict(changes)), epoch + 1
    pieces.append((first, length, stage))

    rows = list(_rows(tuple(pieces), quick))
    later = [_given(after) for after in method.later if after is not None]
    for before, after in itertools.pairwise((stage, *later)):
        (count, opening), *others = _rows(((1, _given(after.epochs), after),), quick)
        # Every stage has an optimiser of its own, so restarted momentum needs no mark beside ``begins``.
        starts_from = _given(before.hands_over)
        begun = replace(opening, begins=True, starts_from=starts_from, unit_rows=after.unit_rows, head=after.head)
        rows += [(1, begun), *([(count - 1, opening)] if count > 1 else []), *others]
    if not column.data.validation and any(row.hands_over == BEST_ON_VALIDATION for _, row in rows):
        raise ValueError(f"{column.name} has no validation split to choose the state that a stage hands over by")
    data = column.data.shown(QUICK_TEST_IMAGES, QUICK_VALIDATION_IMAGES) if quick else column.data
    source = SOURCES[data.source]
    network = Network(column.network, source.classes, source.channels, _given(method.batch_norm_scale))
    precision = None if precision == PRECISIONS[0] else precision
    return Programme(Start(data, network, method.head, precision), tuple(rows), method.adjustment)


@lru_cache(maxsize=10_000)
def _rows(pieces: tuple[tuple[int, int, Stage], ...], quick: bool) -> tuple[tuple[int, Epoch], ...]:
    """Runs of equal rows of one stage, whose pieces are (first epoch, last epoch, what holds there)."""
    rows: list[tuple[int, Epoch]] = []
    for first, last, piece in pieces:
        if quick:
            last = min(last, first + QUICK_EPOCHS - 1)
        numbers, of_piece = range(first, last + 1), _epoch(piece, QUICK_BATCHES if quick else None)
        for rate, alike in itertools.groupby(numbers, key=_given(piece.sgd).schedule.rate):
            epochs = list(alike)
            row = replace(of_piece, rate=rate)
            count = len(epochs)
            if piece.restart_momentum and epochs[0] == first and first > 1:
                rows.append((1, replace(row, restart_momentum=True)))
                count -= 1
            if count:
                rows.append((count, row))
    return _merged(rows)


def _changed(stage: Stage, changes: Mapping[str, Any]) -> Stage:
    objective = replace(stage.objective, **{k: v for k, v in changes.items() if k in ("loss", "weights")})
    return replace(
        stage,
        objective=objective,
        sam_radius=changes.get("sam_radius", stage.sam_radius),
        restart_momentum=changes.get("restart_momentum", False),
    )


def _epoch(stage: Stage, batches: int | None) -> Epoch:
    """The rows of a stage, but for their learning rate."""
    objective = stage.objective if stage.objective.weights else replace(stage.objective, mean="weights")
    sgd, radius = _given(stage.sgd), _given(stage.sam_radius)
    return Epoch(
        objective=objective,
        rate=0.0,
        momentum=sgd.momentum,
        weight_decay=_given(sgd.weight_decay),
        feed=_given(stage.feed),
        sam_radius=radius or None,
        batches=batches,
        decayed=sgd.decayed if _given(sgd.weight_decay) else None,  # without decay it acts on nothing, whatever the rule
        projection=sgd.projection,
        trained=stage.trained,
        hands_over=_given(stage.hands_over),
        batch_norm=stage.batch_norm,
    )


def _given(value: T | Free) -> T:
    """For the type checker: a compiled method has no free value left."""
    assert not isinstance(value, Free)
    return value


def _merged(rows: Iterable[tuple[int, Epoch]]) -> tuple[tuple[int, Epoch], ...]:
    merged: list[tuple[int, Epoch]] = []
    for count, row in rows:
        if merged and merged[-1][1] == row and not row.restart_momentum:
            merged[-1] = (merged[-1][0] + count, row)
        else:
            merged.append((count, row))
    return tuple(merged)


def points(grid: Grid, method: str, column: Column, variant: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Every assignment of the free names of one method on one column, the column's own values included, in grid order.

    Raises ``BadInput`` for a method that the grid does not have.
    """
    if method not in grid.methods:
        raise BadInput(f"method {method!r} is unknown here; allowed: {', '.join(grid.methods)}")
    variant = {} if column.stand_in or variant is None else variant
    if grid.points is not None:
        point = grid.points.get((column.name, method))
        if point is None:
            return []
        # A point that fixes a part of the variant has another protocol: the rest of it alone would be no reading of the paper.
        return [{**column.values, **({} if variant.keys() & point.keys() else variant), **point}]
    fixed = {**column.values, **variant}
    supplied = {name: _for_column(values, column) for name, values in grid.values.items()}
    for name in supplied:
        fixed.pop(name, None)
    names = list(dict.fromkeys(free_names(fill(grid.methods[method], fixed))))
    missing = [name for name in names if name not in supplied]
    if missing:
        raise TypeError(f"{grid.title}: {method} on {column.name} needs values for {', '.join(missing)}")
    return [
        {**fixed, **dict(zip(names, chosen, strict=True))} for chosen in itertools.product(*(supplied[name] for name in names))
    ]


def _for_column(values: Any, column: Column) -> tuple[Any, ...]:
    if isinstance(values, Mapping):
        values = values[column.name]
    return values if isinstance(values, tuple) else (values,)


def axes(grid: Grid, method: str, column: Column, variant: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """Names that take more than one value over the grid's points of this method and column, in grid order."""
    return _axes(points(grid, method, column, variant))


def _axes(found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(name for name in (found[0] if found else ()) if any(p[name] != found[0][name] for p in found))


def cells(
    paper: Paper,
    grid: str,
    *,
    columns: Sequence[Column] | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    variant: str | None = None,
    quick: bool = False,
    precision: str | None = None,
) -> list[Cell]:
    """The cells of a grid: seeds outermost, then columns, methods and points, in the order the paper module has them.

    ``quick`` keeps the first point of each method only. Columns that the grid does not have are left out. ``precision``: one of
    :data:`PRECISIONS`; None is the first.
    """
    chosen = paper.grids[grid]
    variant_values(paper, variant)  # an unknown one is refused even where no column is left
    compiled: list[tuple[str, Column, tuple[tuple[str, float], ...], Programme]] = []
    for column in chosen.columns:
        if columns is not None and column not in columns:
            continue
        for method in chosen.methods if methods is None else methods:
            for point, programme in _compiled(paper, grid, column, method, variant, quick, precision):
                compiled.append((method, column, point, programme))
    return [
        Cell(paper.name, grid, method, column, point, variant, quick, programme, seed)
        for seed in seeds
        for method, column, point, programme in compiled
    ]


#: Point of a grid, and what is trained there.
_Compiled = list[tuple[tuple[tuple[str, float], ...], Programme]]


def _compiled(
    paper: Paper, grid: str, column: Column, method: str, variant: str | None, quick: bool, precision: str | None
) -> _Compiled:
    """Every point of one method in one column; what readers ask for again and again is kept."""
    chosen, override = paper.grids[grid], variant_values(paper, variant)
    kept: dict[Any, _Compiled] = {} if variant or quick or precision else paper.compiled
    place = grid, chosen.columns.index(column), method
    if place not in kept:
        found = points(chosen, method, column, override)
        names = _axes(found)
        alike = {name: value for name, value in (found[0] if found else {}).items() if name not in names}
        filled = fill(chosen.methods[method], alike)  # once for all points
        kept[place] = [
            (tuple((n, values[n]) for n in names), compile_method(filled, column, values, quick, precision))
            for values in found[: 1 if quick else None]
        ]
    return kept[place]


def variant_values(paper: Paper, variant: str | None) -> Mapping[str, Any]:
    """What a variant replaces; raises ``BadInput`` for one that the paper does not have."""
    if variant is None:
        return {}
    for known in paper.variants:
        if known.name == variant:
            return known.values
    allowed = ", ".join(v.name for v in paper.variants) or "none"
    raise BadInput(f"variant {variant!r} is unknown; {paper.command} has: {allowed}")


def no_stand_ins(columns: Iterable[Column], variant: str) -> None:
    """Raises ``BadInput`` if all columns are stand-ins: a variant reads the paper otherwise, which says nothing of them."""
    if all(column.stand_in for column in columns):
        raise BadInput(f"variant {variant!r} is a reading of the paper; stand-in data has none: leave out --variant")


def moves(paper: Paper, grid: str, columns: Sequence[Column], methods: Sequence[str], variant: str) -> bool:
    """Whether a variant changes what is trained in any of these columns by any of these methods; the first point tells.

    Raises ``BadInput`` for a variant that the paper does not have."""
    chosen, other = paper.grids[grid], variant_values(paper, variant)
    for column, method in itertools.product(columns, methods):
        plain, moved = (points(chosen, method, column, values)[:1] for values in (None, other))
        if plain != moved and plain and moved:
            compiled = [compile_method(chosen.methods[method], column, of[0]).key("") for of in (plain, moved)]
            if compiled[0] != compiled[1]:
                return True
    return False


def branch_epochs(programmes: Iterable[Programme]) -> dict[str, int]:
    """Where programmes part or one of them ends: key of the state there (on a nominal edition) -> epoch.

    These are the states worth a checkpoint.
    """
    following: dict[str, set[str]] = {}
    epoch: dict[str, int] = {}
    for programme in programmes:
        chain = programme.keys("")
        # Within a frozen stage classifiers part at its start, and only their last states are worth keeping.
        until = programme.frozen_from or programme.length
        for number, (here, after) in enumerate(itertools.pairwise(chain[: until + 1])):
            following.setdefault(here, set()).add(after)
            epoch[here] = number
        following.setdefault(chain[-1], set()).add("")
        epoch[chain[-1]] = programme.length
    return {key: epoch[key] for key, after in following.items() if len(after) > 1 and epoch[key] > 0}


@dataclass(frozen=True)
class Cost:
    """What a plan costs: cells, epochs if each cell were trained alone, and distinct passes over the training images.

    ``frozen``: of classifiers on a frozen backbone, by sampler (None: the plain one) how many and in how many passes."""

    cells: int
    epochs_alone: int
    epochs_shared: int
    frozen: Mapping[str | None, tuple[int, int]] = field(default_factory=dict)


def cost(planned: Sequence[Cell], edition: str = "") -> Cost:
    """Cells with equal keys are one; epochs with equal keys and seed are trained once, and classifiers on one frozen backbone
    that are shown the same images share the passes over them."""
    alone: dict[tuple[str, int], int] = {}
    shared: set[tuple[str, int]] = set()
    classifiers: dict[str | None, set[tuple[str, int]]] = {}
    passes: dict[str | None, set[tuple[str, int]]] = {}
    for cell in planned:
        programme, key = cell.programme, (cell.programme.key(edition), cell.seed)
        alone[key] = programme.length
        found = [(name, cell.seed) for name in programme.passes(edition)]
        shared.update(found)
        if programme.frozen_from is not None:
            sampler = programme.epoch(programme.length).feed.sampler
            classifiers.setdefault(sampler, set()).add(key)
            passes.setdefault(sampler, set()).update(found[programme.frozen_from - 1 :])
    frozen = {sampler: (len(found), len(passes[sampler])) for sampler, found in classifiers.items()}
    return Cost(len(alone), sum(alone.values()), len(shared), frozen)


def epoch_work(start: Start, row: Epoch) -> float:
    """Work of one epoch in passes of one image forward and backward; a pass forward alone counts a third."""
    images = start.data.images if row.batches is None else min(start.data.images, row.batches * row.feed.batch)
    passes = 1.0 if row.sam_radius is None else 2.0
    if row.trained == "head":  # nothing goes back through the backbone
        passes /= 3
    # Of a frozen backbone the features of evaluated images are computed once.
    evaluated = start.data.evaluated if row.begins or not row.frozen else 0
    return images * passes + evaluated / 3


def epochs_left(
    planned: Sequence[Cell],
    edition_of: Mapping[str, str],
    finished: Callable[[Cell], bool],
    begun: Callable[[Cell], int],
) -> dict[tuple[str, int], tuple[Cell, float]]:
    """Distinct passes still to make (see :meth:`Programme.passes`): (their name, seed) -> (a cell that needs it, its work).

    ``begun`` is the epoch of the furthest checkpoint of a cell, 0 if there is none.
    """
    left: dict[tuple[str, int], tuple[Cell, float]] = {}
    for cell in planned:
        if finished(cell):
            continue
        programme = cell.programme
        passes = programme.passes(edition_of[programme.start.data.source])
        first, last = begun(cell) + 1, 0
        for count, row in programme.runs:
            for number in range(max(first, last + 1), last + count + 1):
                name = passes[number - 1], cell.seed
                if name not in left:
                    left[name] = cell, epoch_work(programme.start, row)
            last += count
    return left
