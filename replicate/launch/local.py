"""Runs cells on this machine: one after another, or side by side where it has the cores or the memory for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

import torch

from replicate import losses
from replicate.data.sources import Images
from replicate.engine import loop, numerics
from replicate.engine.loop import DeviceData
from replicate.engine.state import of_memory
from replicate.errors import BadInput
from replicate.grid import Cell
from replicate.launch import memory
from replicate.launch.lanes import (
    CellEnded,
    EpochEnded,
    Event,
    Here,
    Job,
    Lane,
    Lanes,
    Materials,
    MemoryShort,
    alone,
    for_all,
    missing_measures,
    mode_of,
)
from replicate.launch.progress import Progress
from replicate.launch.schedule import Group, Schedule, together
from replicate.launch.streams import MOST, Streams
from replicate.launch.workers import POSSIBLE, Shared, Workers
from replicate.models import outline
from replicate.protocol import SOURCES, Augmentation, Network
from replicate.record import Store, exists

#: Work from which on worker processes pay off, in passes of one image times the numbers of an image. To start one takes 2.1 s
#: of its core (importing torch), and the second one waits for the first one's epoch besides; the runs of the digits tables do
#: 1.1e6 to 1.4e6 a second on one core, so that this much takes one core about 10 s and two about 7 (torch 2.13, x86).
WORTH_WORKERS: Final = 12e6


@dataclass
class Outcome:
    """What a launch did: cells that were done before, trained now, failed, and left; epochs trained now; cells with Measures
    that were left."""

    before: int = 0
    trained: int = 0
    failed: list[tuple[Cell, dict[str, object]]] = field(default_factory=list)
    left: list[Cell] = field(default_factory=list)
    epochs: int = 0
    epochs_left: int = 0
    unmeasured: int = 0


def run(
    planned: Sequence[Cell],
    store: Store,
    edition_of: Mapping[str, str],
    load: Callable[[str], Images],
    device: torch.device,
    *,
    keep: Callable[[Cell], Set[str]] = lambda cell: frozenset(),
    measures: Sequence[str] = (),
    ends: float | None = None,
    workers: int | None = None,
    progress: Progress,
) -> Outcome:
    """Train every cell that the store has no Record of; compute Measures that are missing.

    Cells start in the order of the plan, except that none starts while it would train what another one is about to leave a
    checkpoint of. ``workers`` of them are trained side by side; None: as many as the machine takes. That decides no number.

    ``edition_of`` by source; ``load`` reads a source when a column of it begins, and what is not in its split is let go again
    (for CIFAR 180 MiB). ``keep`` says at which nominal keys a cell's checkpoints stay (see
    :func:`replicate.engine.cell.train_cell`); ``ends``, by :func:`time.monotonic`: training stops at a checkpoint before an
    epoch that would end later by the pace so far, and no Measure begins after it. Raises ``BadInput`` if the store cannot be
    written or holds a damaged file, or if the memory does not even take one cell. On Ctrl-C the last checkpoints stay.
    """
    left = store.epochs_left(planned, edition_of)
    progress.expect(sum(work for _, work in left.values()))
    groups = together(planned, edition_of)
    unfinished = {id(cell) for cell, _ in left.values()}
    at_work = [group for group in groups if any(id(cell) in unfinished for cell in group.cells)]
    many = _how_many(at_work, device, workers, sum(_numbers(cell) * work for cell, work in left.values()))
    lanes = _lanes(many, planned, store, load, device, measures)
    whole = _Run(groups, len(planned), store, lanes, many, keep, measures, ends, progress)
    try:
        whole.run()
    finally:
        lanes.close()
    outcome = whole.outcome
    outcome.epochs_left = len(store.epochs_left(outcome.left, edition_of))
    if ends is not None and time.monotonic() >= ends:
        outcome.unmeasured = sum(whole.measurable(cell, group.edition) for group in groups for cell in group.cells)
    return outcome


def _how_many(groups: Sequence[Group], device: torch.device, asked: int | None, work: float) -> int:
    """Lanes for groups that have epochs to train; ``work`` as that of :data:`WORTH_WORKERS`."""
    modes = {mode_of(group.cells[0], device) for group in groups}
    if device.type == "cpu":
        if not POSSIBLE or (asked is None and work < WORTH_WORKERS):
            return 1
        most = numerics.cores() // max((mode.threads or 1 for mode in modes), default=1)
    else:
        if len(modes) > 1:  # threads of one process compute in one mode
            return 1
        # Before, a replay in one thread broke off a capture in another, and threads shared workspaces without a lock
        # (github.com/pytorch/pytorch/pull/143777, 167248).
        if torch.__version__ < "2.11":  # by versions, not by letters
            return 1
        most = MOST
    return max(1, min(asked or most, len(groups)))


def _numbers(cell: Cell) -> int:
    """Numbers of an image as it is trained on."""
    data = cell.programme.start.data
    source = SOURCES[data.source]
    return int(source.channels * getattr(data, "side", source.side) ** 2)


def _lanes(
    many: int,
    planned: Sequence[Cell],
    store: Store,
    load: Callable[[str], Images],
    device: torch.device,
    measures: Sequence[str],
) -> Lanes:
    if many == 1 or device.type != "cpu":
        numerics.reuse_memory()  # of this process, if it trains
    if many == 1:
        return Here(Materials(alone(load, device)), Lane(store, measures))
    augmentations: dict[object, set[Augmentation | None]] = {}
    for cell in planned:
        of = augmentations.setdefault(cell.programme.start.data, {None} if measures else set())
        of |= {row.feed.augmentation for _, row in cell.programme.runs}
    make = for_all(load, device, augmentations)
    if device.type == "cpu":
        return Workers(many, Materials(lambda cell: Shared(make(cell))), store, measures)
    materials: Materials[DeviceData] = Materials(make)
    return Streams(materials, store, measures, device, memory.Gpu(device))


@dataclass(eq=False)
class _Running:
    """A group in its lane: ``left`` are the cells of its job without a Record, by their places there."""

    group: Group
    left: dict[int, Cell]
    shown: bool  # a line of progress is its own
    alone: bool  # nothing was beside it since it started
    work: float = 0.0
    note: str | None = None


class _Run:
    """Groups handed to lanes, and what becomes of them."""

    def __init__(
        self,
        groups: Sequence[Group],
        cells: int,
        store: Store,
        lanes: Lanes,
        many: int,
        keep: Callable[[Cell], Set[str]],
        measures: Sequence[str],
        ends: float | None,
        progress: Progress,
    ) -> None:
        self.outcome = Outcome()
        self._schedule = Schedule(groups, self._there)
        self._cells = cells
        self._store = store
        self._lanes = lanes
        self._many = many
        self._allowed = 1  # until the first epoch has shown what a lane takes of the memory
        self._measured = many == 1
        self._keep = keep
        self._measures = measures
        self._ends = ends
        self._pace = 0.0  # seconds of a unit of work, at most
        self._progress = progress
        self._running: dict[int, _Running] = {}
        self._threads: dict[int, int] = {}  # of each lane, as it was told last
        self._given: set[int] = set()  # cells that a lane was told to train
        self._counted: set[int] = set()
        self._place: dict[int, int] = {id(cell): group.before + at for group in groups for at, cell in enumerate(group.cells)}

    def run(self) -> None:
        """Until nothing is left, or the time is up."""
        self._fill()
        while self._running:
            self._lanes.wait(self._hear)
            self._fill()
        # As one lane would have told them, whichever came first.
        self.outcome.failed.sort(key=lambda told: self._place[id(told[0])])
        self.outcome.left.sort(key=lambda cell: self._place[id(cell)])

    def _there(self, group: Group, epoch: int) -> bool:
        source = group.cells[0].programme.start.data.source
        return exists(self._store.checkpoint(source, group.edition, group.chain[epoch], epoch, group.seed))

    def _fill(self) -> None:
        """Start groups until lanes or groups that may start are used up, then share the cores among those at work."""
        while len(self._running) < self._allowed and (group := self._schedule.next()) is not None:
            if not self._start(group):
                self._schedule.ended(group)
        for lane in self._running:
            if self._threads[lane] != self._share():
                self._threads[lane] = self._share()
                self._lanes.share(lane, self._threads[lane])

    def _share(self) -> int:
        """Threads of each lane at work: a beginning that others wait for is trained on every core."""
        return max(1, numerics.cores() // len(self._running))

    def _start(self, group: Group) -> bool:
        """Give a group to a free lane; False where nothing is to be done, or the time is up."""
        train, measure = [], []
        for cell in group.cells:
            record = self._store.of(cell, group.edition)
            if record is None:
                train.append(cell)
                continue
            self._count(cell, record.failed)
            if record.failed is None and self.measurable(cell, group.edition):
                measure.append(cell)
        place = group.before + len(group.cells) - len(train) + 1
        if self._ends is not None and time.monotonic() >= self._ends:
            self.outcome.left += train
            train, measure = [], []
        if not train and not measure:
            return False
        lane = next(lane for lane in range(self._many) if lane not in self._running)
        for other in self._running.values():
            other.alone = False
        self._running[lane] = _Running(group, dict(enumerate(train)), shown=bool(train), alone=not self._running)
        self._given.update(map(id, train))
        if train:
            self._progress.begin(train[0], place, self._cells, len(train), lane)
        chain = set(train[0].programme.keys("")) if train else set()
        self._threads[lane] = self._share()
        kept = frozenset(self._keep(train[0]) & chain) if train else frozenset()
        job = Job(tuple(measure), tuple(train), group.edition, kept, self._ends, self._threads[lane], self._pace)
        try:
            self._lanes.start(lane, job)
        except Exception as error:
            if not of_memory(error):
                raise
        else:
            return True
        # Outside of the handler: the error holds on to what was made.
        self._halve(lane)
        return True

    def measurable(self, cell: Cell, edition: str) -> bool:
        """Whether a Measure of a cell with a Record is missing and its checkpoint is there."""
        programme = cell.programme
        final = self._store.checkpoint(
            programme.start.data.source, edition, programme.keys(edition)[-1], programme.length, cell.seed
        )
        return bool(missing_measures(cell, self._store, edition, self._measures)) and exists(final)

    def _count(self, cell: Cell, failed: dict[str, object] | None) -> None:
        """Enter a cell with a Record into the outcome, once."""
        if id(cell) in self._counted:
            return
        self._counted.add(id(cell))
        if id(cell) not in self._given:
            self.outcome.before += 1
        elif failed is None:
            self.outcome.trained += 1
        if failed is not None:
            self.outcome.failed.append((cell, failed))

    def _hear(self, lane: int, event: Event) -> None:
        running = self._running[lane]
        if isinstance(event, EpochEnded):
            self.outcome.epochs += 1
            running.work += event.work
            self._pace = max(self._pace, event.seconds / event.work)
            self._schedule.reached(running.group, event.number)
            self._progress.epoch(
                event.number, loss=event.loss, accuracy=event.accuracy, work=event.work, seconds=event.seconds, lane=lane
            )
            if not self._measured:
                self._measured = True
                self._allowed = max(1, min(self._many, self._lanes.fit()))
        elif isinstance(event, CellEnded):
            self._count(running.left.pop(event.place), event.failed)
            if event.failed is not None and event.place == 0:
                running.note = f"failed: loss {event.failed['loss']} in epoch {event.failed['epoch']}"
        elif isinstance(event, MemoryShort):
            self._halve(lane)
        else:
            del self._running[lane]
            self._schedule.ended(running.group)
            self.outcome.left += running.left.values()
            if running.shown:
                self._progress.end("stopped at a checkpoint" if event.stopped else running.note, lane)

    def _halve(self, lane: int) -> None:
        """Train a group again that the memory was too short for, from its last checkpoint, with half as many beside it and
        nothing kept by lanes that are free."""
        at_once = len(self._running)
        running = self._running.pop(lane)
        label = next(iter(running.left.values()), running.group.cells[0]).label
        others = self._lanes.let_go(lane)
        if running.alone and not others:
            raise BadInput(f"the memory is too short to train {label!r} alone; free some, or take another machine or --device")
        self._allowed, self._measured = max(1, at_once // 2), True
        self._schedule.again(running.group)
        self._progress.expect(running.work)
        if running.shown:
            self._progress.end(f"memory is short: tried again with {self._allowed} at most side by side", lane)


def measured_speed(cell: Cell, device: torch.device, steps: int = 4, *, side: int | None = None) -> float:
    """Work per second (see :func:`replicate.grid.epoch_work`) of a few ordinary steps on random images, the fastest of them.

    ``side``: pixels of an image's side, where the files at hand have other ones than the data set as published.

    Takes a second or two and trains nothing that is kept.
    """
    numerics.reuse_memory()
    start = cell.programme.start
    row = replace(cell.programme.epoch(1), sam_radius=None)
    numerics.enter(mode_of(cell, device))
    state = loop.start(cell.programme, cell.seed, device)
    state.begin_epoch(replace(row, rate=1e-4))
    source = SOURCES[start.data.source]
    draw = torch.Generator().manual_seed(0)
    batch = row.feed.batch
    side = side or source.side
    images = torch.randn(batch, source.channels, side, side, generator=draw).to(device)
    labels = torch.randint(source.classes, (batch,), generator=draw).to(device)
    loss_of = losses.criterion(row.objective, start.data.class_counts(), device=device)
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        loss, _ = loop.step(state, images.contiguous(memory_format=torch.channels_last), labels, loss_of, None)
        loss.item()  # a GPU has only queued the step until its result is read
        seconds.append(time.perf_counter() - began)
    return batch / min(seconds)


def checkpoint_bytes(cell: Cell) -> int:
    """Size of one checkpoint of this cell's network: it and its momentum in 32-bit floats, the best network so far where that
    is handed over, and the history."""
    start = cell.programme.start
    network, momentum, _ = _values(start.network, start.head)
    copies = 2 if any(row.hands_over for _, row in cell.programme.runs) else 1
    history = 8 * cell.programme.length * (3 + 4 * start.network.classes) + 6 * start.data.images
    return int(4 * (copies * network + momentum) + history)


def head_bytes(cell: Cell) -> int:
    """Size of the last checkpoint of a classifier on a frozen backbone: the head alone."""
    start = cell.programme.start
    return 4 * _values(start.network, start.head)[2]


@cache
def _values(network: Network, head: str) -> tuple[int, int, int]:
    """How many values a network has, how many of them are trained, and how many its head has."""
    model = outline(network, head)
    whole, of_head = (sum(value.numel() for value in part.state_dict().values()) for part in (model, model.head))
    return whole, sum(parameter.numel() for _, parameter in model.trainable(None)), of_head
