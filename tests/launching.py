"""What tests of launches share: lanes that train nothing but walk along the epochs of their cells in random turns, and a small
plan with all that plans have, trained one cell after another."""

import io
import random
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from training import assert_equal, run, told

from papers import lort
from replicate import grid
from replicate.engine import numerics
from replicate.engine.state import read_tensors
from replicate.launch.lanes import CellEnded, EpochEnded, GroupEnded, MemoryShort
from replicate.launch.local import _Run
from replicate.launch.progress import Progress
from replicate.launch.schedule import together
from replicate.record import Store


class FakeStore:
    """A store in memory: keys of checkpoints, and of Records with how they failed."""

    def __init__(self):
        self.states, self.done = set(), {}

    def of(self, cell, edition):
        key = (cell.programme.key(edition), cell.seed)
        return SimpleNamespace(failed=self.done[key]) if key in self.done else None

    def checkpoint(self, source, edition, key, epoch, seed):
        return SimpleNamespace(exists=lambda: (key, seed) in self.states)


class FakeLanes:
    """``fits``: how many the memory takes. ``short``: numbers of events at which a random lane has no memory. ``breaks``: keys
    and seeds of epochs whose loss is not finite. ``stops_after``: events after which the time is up."""

    def __init__(self, store, seed=0, *, keep=frozenset(), fits=100, short=(), breaks=(), stops_after=None):
        self.store, self.keep, self.fits, self.short, self.breaks = store, keep, fits, dict(short), breaks
        self.stops_after = stops_after
        self.draw, self.busy, self.jobs, self.threads = random.Random(seed), {}, [], {}
        self.trained, self.at_once, self.shares, self.closed = Counter(), [], [], False

    @property
    def most(self):
        return max(self.at_once)

    def start(self, lane, job):
        assert lane not in self.busy
        self.jobs.append(job)
        self.threads[lane] = job.threads
        self.busy[lane] = self._events(job)

    def share(self, lane, threads):
        assert lane in self.busy and threads != self.threads[lane]
        self.threads[lane] = threads

    def wait(self, hear):
        assert sum(self.threads[lane] for lane in self.busy) <= max(numerics.cores(), len(self.busy))
        self.shares.append([self.threads[lane] for lane in self.busy])
        self.at_once.append(len(self.busy))
        lane = self.draw.choice(sorted(self.busy))
        if len(self.at_once) in self.short:
            event = MemoryShort()
        else:
            event = next(self.busy[lane])
        if isinstance(event, GroupEnded | MemoryShort):
            del self.busy[lane]
        hear(lane, event)

    def fit(self):
        return self.fits

    def let_go(self, short):
        return False

    def close(self):
        self.closed = True

    def _events(self, job):
        """As a lane trains: from the furthest checkpoint, which is left at the end and where it is kept."""
        programme, seed = job.first.programme, job.first.seed
        chain, frozen = programme.keys(job.edition), programme.frozen_from
        last = programme.length if frozen is None else frozen - 1
        epoch = next(epoch for epoch in range(last, -1, -1) if epoch == 0 or (chain[epoch], seed) in self.store.states)
        while epoch < programme.length:
            if self.stops_after is not None and len(self.at_once) > self.stops_after:
                yield GroupEnded(stopped=True)
            epoch += 1
            key = chain[epoch] if epoch <= last else f"{programme.pack(job.edition)} {epoch}"
            if (key, seed) in self.breaks:
                break
            self.trained[key, seed] += 1
            yield EpochEnded(epoch, 1.0, 10.0, 1.0, 1.0)  # heard before the checkpoint is there
            if epoch == last or programme.keys("")[epoch] in self.keep:
                self.store.states.add((chain[epoch], seed))
        for place, cell in enumerate(job.train):
            failed = (
                None
                if epoch == programme.length and (chain[epoch], seed) not in self.breaks
                else {"epoch": epoch, "loss": "nan"}
            )
            self.store.done[cell.programme.key(job.edition), cell.seed] = failed
            yield CellEnded(place, failed)
        yield GroupEnded()


def launched(planned, many, seed=0, *, lanes=None, keep=None, **how):
    """Launch cells on fake lanes; returns the outcome and the lanes. Checkpoints stay where programmes branch, if ``keep`` does
    not say otherwise."""
    keep = frozenset(grid.branch_epochs([cell.programme for cell in planned])) if keep is None else keep
    lanes = FakeLanes(FakeStore(), seed, **how) if lanes is None else lanes
    lanes.keep = keep
    groups = together(planned, {"digits": "official"})
    progress = Progress(io.StringIO())
    whole = _Run(groups, len(planned), lanes.store, lanes, many, lambda cell: keep, (), None, progress)
    try:
        whole.run()
    finally:
        lanes.close()
    return whole.outcome, lanes


@pytest.fixture(scope="module")
def several(short_paper, digits):
    """Cells with shared beginnings, one that fails, and second stages on frozen backbones."""
    cells = grid.cells(short_paper, "table", methods=["CE", "CE+DRW", "VS+TLA+ADRW", "CE+DRW+SAM"])
    wild = grid.cells(short_paper, "table", methods=["LDAM+DRW"])[0]
    runs = tuple(
        (count, replace(row, rate=1e30 if place else row.rate)) for place, (count, row) in enumerate(wild.programme.runs)
    )
    wild = replace(wild, programme=replace(wild.programme, runs=runs))
    column = replace(lort.DIGITS_LT, values={**lort.DIGITS_LT.values, "epochs": 2, "second": 3})
    table = replace(lort.PAPER.grids["table"], columns=(column,))
    paper = replace(lort.PAPER, columns=(column,), grids={"table": table}, variants=())
    packs = grid.cells(paper, "table", methods=["Vanilla FC", "tau-normalized", "Re-Sampling", "CE"])
    return [wild, *cells, *packs]


def left_by(store):
    """Records and checkpoints of a store, by the names of their files."""
    records = {path.name: store.records for path in store.root.glob("records/*/*.json")}
    tensors = {path.name: read_tensors(path) for path in store.root.glob("checkpoints/*/*.pt")}
    return records.keys(), tensors


def assert_alike(one, other, planned, edition, but=("seconds",)):
    """``but``: what names hold of tensors in which they may differ."""
    for cell in planned:
        assert told(one.of(cell, edition)) == told(other.of(cell, edition)), cell.label
    (names, tensors), (others, expected) = left_by(one), left_by(other)
    assert names == others and tensors.keys() == expected.keys()
    for name in tensors:
        assert_equal(
            *({n: v for n, v in of.items() if not any(part in n for part in but)} for of in (tensors[name], expected[name]))
        )


@pytest.fixture(scope="module")
def alone(several, digits, tmp_path_factory):
    """The same cells, trained one after another."""
    store = Store(tmp_path_factory.mktemp("alone"))
    threads = torch.get_num_threads()
    outcome = run(several, store, digits, Progress(io.StringIO()), measures=("class_bound",))
    torch.set_num_threads(threads)
    return SimpleNamespace(store=store, outcome=outcome)
