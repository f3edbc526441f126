"""What trains groups of cells: lanes. One lane trains one group after another and tells what happens on the way."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

import torch

from replicate.data.augment import Feeder
from replicate.data.longtail import Split, split
from replicate.data.photographs import PhotographFeeder
from replicate.data.sources import Images
from replicate.engine import captured, numerics
from replicate.engine.cell import Stopped, restored, train_cell
from replicate.engine.heads import Features, train_pack
from replicate.engine.loop import DeviceData
from replicate.engine.state import History, State, of_memory
from replicate.grid import Cell, Epoch, Programme, epoch_work
from replicate.measures import MEASURES, applies
from replicate.protocol import Augmentation
from replicate.record import Record, Store

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """What a lane is to do with a group: compute what is missing of Measures of cells that have Records, then train the others,
    each with its Measures.

    ``keep``: nominal keys at which checkpoints stay; ``ends``: when training has to have stopped at a checkpoint, by
    :func:`time.monotonic`, which all processes of a machine share; ``pace``: seconds that a unit of work took at most so far, 0
    if that is not known; ``threads`` at first, where the numerics mode leaves their number open.
    """

    measure: tuple[Cell, ...]
    train: tuple[Cell, ...]
    edition: str
    keep: frozenset[str]
    ends: float | None
    threads: int
    pace: float = 0.0

    @property
    def first(self) -> Cell:
        """All its cells have this one's data, network and seed."""
        return (self.train or self.measure)[0]

    def over(self, seconds: float = 0.0) -> bool:
        """Whether its time is up, or would be after so many seconds."""
        return self.ends is not None and time.monotonic() + seconds >= self.ends


@dataclass(frozen=True)
class EpochEnded:
    """An epoch is trained: its number in the chain, its mean loss, test accuracy in percent, its work and its seconds."""

    number: int
    loss: float
    accuracy: float
    work: float
    seconds: float


@dataclass(frozen=True)
class CellEnded:
    """A cell has its Record, the one at this place of :attr:`Job.train`; ``failed`` is the Record's."""

    place: int
    failed: dict[str, Any] | None


@dataclass(frozen=True)
class GroupEnded:
    """The lane is free; ``stopped``: the time was up before all cells were trained. Measures may be missing then, too."""

    stopped: bool = False


@dataclass(frozen=True)
class MemoryShort:
    """The lane is free: there was not the memory to train its group. Checkpoints are as after an interruption."""


Event = EpochEnded | CellEnded | GroupEnded | MemoryShort
#: After these a lane is free.
LAST: Final = (GroupEnded, MemoryShort)
Tell = Callable[[Event], None]


class Lanes(Protocol):
    """Several lanes on one machine, numbered from 0."""

    def start(self, lane: int, job: Job) -> None:
        """Give a free lane its next job."""

    def share(self, lane: int, threads: int) -> None:
        """A busy lane has so many threads of a CPU from its next epoch on, where its numerics mode leaves their number open."""

    def wait(self, hear: Callable[[int, Event], None]) -> None:
        """Return after at least one event of a busy lane was heard. Raises what ends a lane otherwise: ``BadInput``, or
        :class:`Broken`."""

    def fit(self) -> int:
        """How many lanes the memory takes, by what the only one that ran took in its first epoch."""

    def let_go(self, short: int) -> bool:
        """Let go of the memory that free lanes hold. Returns whether one of them did that is not ``short``, the lane which had
        too little."""

    def close(self) -> None:
        """Stop what still runs, at its latest checkpoint."""


class Broken(RuntimeError):
    """A lane met an error that is none of the user's: the message is its traceback, or how its process ended."""


class Lane:
    """Does jobs in the thread that asks for them."""

    def __init__(self, store: Store, measures: Sequence[str]) -> None:
        self._store = store
        self._measures = measures
        self._features: Features | None = None
        self._pace: dict[object, float] = {}  # seconds for a unit of the latest epoch's work, by kind of epoch

    def do(self, job: Job, data: DeviceData, tell: Tell, threads: Callable[[], int | None] = lambda: None) -> None:
        """Do a job on its data; the last event says that it is over. ``threads`` says after every epoch how many there are from
        then on, None if as many as before. Raises ``BadInput`` if the store cannot be written."""
        try:
            self._do(job, data, tell, threads)
        except Exception as error:
            if not of_memory(error):
                raise
        else:
            return
        # Outside of the handler: the error holds on to everything that was computed.
        self._features = None
        gc.collect()
        if data.device.type == "cuda":
            with captured.LOCK:
                torch.cuda.empty_cache()
        tell(MemoryShort())

    def _do(self, job: Job, data: DeviceData, tell: Tell, threads: Callable[[], int | None]) -> None:
        if self._features is not None and self._features.data is not data:
            self._features = None
        first, start = job.first, job.first.programme.start
        chosen = mode_of(first, data.device)
        numerics.enter(chosen)
        open_threads = chosen.threads is None and data.device.type == "cpu"
        if open_threads:
            torch.set_num_threads(job.threads)
        for cell in job.measure:
            self._measure(cell, None, data, job)
        if not job.train:
            tell(GroupEnded())
            return
        if job.over():
            tell(GroupEnded(stopped=True))
            return

        def kind(row: Epoch) -> object:
            # The first epoch on a frozen backbone computes the features that later ones may only look up.
            return start.network, row.frozen, row.begins

        def out_of_time(row: Epoch) -> bool:
            # An epoch that would end too late is not begun: who limits time may kill what overruns it.
            slowest = max(job.pace, *self._pace.values(), 0.0)
            return job.over(epoch_work(start, row) * self._pace.get(kind(row), slowest))

        place = {id(cell): place for place, cell in enumerate(job.train)}

        def each_epoch(number: int, history: History, seconds: float) -> None:
            row = first.programme.epoch(number)
            work = epoch_work(start, row)
            self._pace[kind(row)] = seconds / work
            accuracy = 100.0 * float(history.test[-1].sum()) / len(data.test.labels)
            tell(EpochEnded(number, history.loss[-1], accuracy, work, seconds))
            if open_threads and (now := threads()) is not None:
                torch.set_num_threads(now)

        def finished(cell: Cell, record: Record, state: State | None) -> None:
            if record.failed is None:
                self._measure(cell, state, data, job)
            tell(CellEnded(place[id(cell)], record.failed))

        how: dict[str, Any] = {
            "keep": job.keep,
            "out_of_time": out_of_time,
            "each_epoch": each_epoch,
        }
        try:
            if first.programme.frozen_from is None:
                finished(first, *train_cell(first, data, self._store, job.edition, chosen, **how))
            else:
                features_of = partial(self._features_of, data)
                train_pack(job.train, features_of, data, self._store, job.edition, chosen, finished=finished, **how)
        except Stopped:
            tell(GroupEnded(stopped=True))
        else:
            tell(GroupEnded())

    def _features_of(self, data: DeviceData, key: str, begun: State) -> Features:
        """Features under the backbone of this state, the latest one only: cells on one backbone mostly come together. ``key``
        is that of the state."""
        if self._features is None or self._features.key != key:
            self._features = None
            self._features = Features(key, begun, data)
        return self._features

    def _measure(self, cell: Cell, state: State | None, data: DeviceData, job: Job) -> None:
        """Compute what is missing, from the state at hand or from the final checkpoint; nothing if neither is whole. Once the
        job's time is up, what is still missing is left to another job, which finds the checkpoint."""
        missing = missing_measures(cell, self._store, job.edition, self._measures)
        if missing and state is None and not job.over():
            state = restored(cell, self._store, job.edition, data.device)
        if state is None:
            return
        source, trained_key = cell.programme.start.data.source, cell.programme.keys(job.edition)[-1]
        for name in missing:
            if job.over():
                return
            # An empty one says that there is nothing to tell, so that it is not asked again.
            told = MEASURES[name](state, data, cell) or {}
            self._store.write_measure(name, source, job.edition, trained_key, cell.seed, told)


def mode_of(cell: Cell, device: torch.device) -> numerics.Numerics:
    """The numerics mode of a cell on a device. Raises ``BadInput`` for a precision that the device does not have."""
    start = cell.programme.start
    whole = all(row.trained is None and row.batch_norm is None for _, row in cell.programme.runs)
    return numerics.mode(start.network, device, start.precision, whole=whole)


def missing_measures(cell: Cell, store: Store, edition: str, measures: Sequence[str]) -> list[str]:
    """Measures, of these, that apply to a cell and that the store does not have."""
    source, trained_key = cell.programme.start.data.source, cell.programme.keys(edition)[-1]
    return [
        name
        for name in measures
        if applies(name, cell) and store.measure(name, source, edition, trained_key, cell.seed) is None
    ]


def settle(device: torch.device) -> None:
    """Wait until a GPU has made what was asked of it, so that all streams may use it."""
    if device.type == "cuda":
        with captured.LOCK:
            torch.cuda.synchronize(device)


class LaneData(DeviceData):
    """A split that several lanes train on: it has a feeder ready for each of these augmentations."""

    def __init__(
        self, split: Split, programme: Programme, device: torch.device, augmentations: Iterable[Augmentation | None]
    ) -> None:
        super().__init__(split, programme, device)
        self._feeders: dict[Augmentation | None, Feeder | PhotographFeeder] = {}
        for augmentation in augmentations:
            self.train(augmentation)

    def train(self, augmentation: Augmentation | None) -> Feeder | PhotographFeeder:
        """Training images under this augmentation; all are kept."""
        if augmentation not in self._feeders:
            made = self._feeder(self.split.train_images, augmentation)
            settle(self.device)
            self._feeders.setdefault(augmentation, made)
        return self._feeders[augmentation]


class Materials(Generic[T]):
    """What lanes train on, made when the first lane needs it and let go when the last one goes on to something else."""

    def __init__(self, make: Callable[[Cell], T]) -> None:
        self._make = make
        self._made: dict[Any, T] = {}
        self._used: dict[int, Any] = {}

    def of(self, cell: Cell, lane: int = 0) -> T:
        """That of a cell, for this lane."""
        data = self._used[lane] = cell.programme.start.data
        # Before the next one is made: both at once would be the peak.
        self._drop()
        if data not in self._made:
            self._made[data] = self._make(cell)
        return self._made[data]

    def only(self, lanes: Set[int]) -> None:
        """Let go of what none of these lanes trains on."""
        self._used = {lane: data for lane, data in self._used.items() if lane in lanes}
        self._drop()

    def _drop(self) -> None:
        self._made = {data: made for data, made in self._made.items() if data in self._used.values()}


class Here:
    """One lane, in this process and thread."""

    def __init__(self, materials: Materials[DeviceData], lane: Lane) -> None:
        self._materials = materials
        self._lane = lane
        self._next: tuple[Job, DeviceData] | None = None

    def start(self, lane: int, job: Job) -> None:
        """Make what the job needs."""
        self._next = job, self._materials.of(job.first)

    def share(self, lane: int, threads: int) -> None:
        """Nobody to share with."""

    def wait(self, hear: Callable[[int, Event], None]) -> None:
        """Do the whole job."""
        assert self._next is not None
        job, data = self._next
        self._next = None  # the next one's data are made when these are let go
        self._lane.do(job, data, partial(hear, 0))

    def fit(self) -> int:
        """One."""
        return 1

    def let_go(self, short: int) -> bool:
        """There is no other lane."""
        return False

    def close(self) -> None:
        """Nothing is left to stop."""


def alone(load: Callable[[str], Images], device: torch.device) -> Callable[[Cell], DeviceData]:
    """Makes what one lane trains on: the latest augmentation's images only."""

    def make(cell: Cell) -> DeviceData:
        describe = cell.programme.start.data
        return DeviceData(split(load(describe.source), describe), cell.programme, device)

    return make


def for_all(
    load: Callable[[str], Images], device: torch.device, augmentations: Mapping[Any, Iterable[Augmentation | None]]
) -> Callable[[Cell], LaneData]:
    """Makes what several lanes train on, with feeders for the ``augmentations`` that a plan has on each data."""

    def make(cell: Cell) -> LaneData:
        describe = cell.programme.start.data
        return LaneData(split(load(describe.source), describe), cell.programme, device, augmentations[describe])

    return make
