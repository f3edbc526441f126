"""Runs cells one after another in this process, on one device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import torch

from replicate import losses
from replicate.data.longtail import split
from replicate.data.sources import Images
from replicate.engine import loop, numerics
from replicate.engine.cell import Stopped, train_cell
from replicate.engine.loop import DeviceData
from replicate.engine.state import State
from replicate.grid import Cell, epoch_work
from replicate.launch.progress import Progress
from replicate.measures import MEASURES, applies
from replicate.models import outline
from replicate.protocol import SOURCES
from replicate.record import Record, Store


@dataclass
class Outcome:
    """What a launch did: cells that were done before, trained now, failed, and left; epochs trained now."""

    before: int = 0
    trained: int = 0
    failed: list[tuple[Cell, dict[str, object]]] = field(default_factory=list)
    left: list[Cell] = field(default_factory=list)
    epochs: int = 0
    epochs_left: int = 0


def run(
    planned: Sequence[Cell],
    store: Store,
    edition_of: Mapping[str, str],
    load: Callable[[str], Images],
    device: torch.device,
    *,
    keep: Callable[[Cell], Set[str]] = lambda cell: frozenset(),
    measures: Sequence[str] = (),
    time_limit: float | None = None,
    progress: Progress,
) -> Outcome:
    """Train every cell that the store has no Record of, in order; compute Measures that are missing.

    ``edition_of`` by source; ``load`` reads a source when a column of it begins, and what is not in its split is let go again
    (for CIFAR 180 MiB). ``keep`` says at which nominal keys a cell's checkpoints stay (see
    :func:`replicate.engine.cell.train_cell`); ``time_limit`` in seconds from now: training stops at a checkpoint once it is
    over. Raises ``BadInput`` if the store cannot be written or holds a damaged file. On Ctrl-C the last checkpoint stays.
    """
    numerics.reuse_memory()
    deadline = None if time_limit is None else time.monotonic() + time_limit
    outcome = Outcome()
    materials = _Materials(load, device)

    progress.expect(sum(work for _, work in store.epochs_left(planned, edition_of).values()))

    def out_of_time() -> bool:
        return deadline is not None and time.monotonic() >= deadline

    for place, cell in enumerate(planned, start=1):
        edition = edition_of[cell.programme.start.data.source]
        record = store.of(cell, edition)
        if record is not None:
            outcome.before += 1
            if record.failed is not None:
                outcome.failed.append((cell, record.failed))
            else:
                _measure(cell, record, None, materials, store, edition, measures)
            continue
        if out_of_time():
            outcome.left.append(cell)
            continue
        data = materials.of(cell)
        chosen = numerics.mode(cell.programme.start.network, device)
        numerics.enter(chosen)
        progress.begin(cell, place, len(planned))

        def each_epoch(state: State, cell: Cell = cell, data: DeviceData = data) -> None:
            row = cell.programme.epoch(state.epoch)
            accuracy = 100.0 * float(state.history.test[-1].sum()) / len(data.test.labels)
            outcome.epochs += 1
            progress.epoch(
                state.epoch,
                loss=state.history.loss[-1],
                accuracy=accuracy,
                work=epoch_work(cell.programme.start, row),
                seconds=state.history.seconds[-1],
            )

        try:
            record, state = train_cell(
                cell, data, store, edition, chosen, keep=keep(cell), out_of_time=out_of_time, each_epoch=each_epoch
            )
        except Stopped:
            progress.end("stopped at a checkpoint")
            outcome.left.append(cell)
            continue
        if record.failed is not None:
            progress.end(f"failed: loss {record.failed['loss']} in epoch {record.failed['epoch']}")
            outcome.failed.append((cell, record.failed))
            continue
        progress.end(None)
        outcome.trained += 1
        _measure(cell, record, state, materials, store, edition, measures)
    outcome.epochs_left = len(store.epochs_left(outcome.left, edition_of))
    return outcome


class _Materials:
    """Splits on the device, the latest one only: cells come column by column."""

    def __init__(self, load: Callable[[str], Images], device: torch.device) -> None:
        self._load = load
        self._device = device
        self._latest: tuple[object, DeviceData] | None = None

    def of(self, cell: Cell) -> DeviceData:
        describe = cell.programme.start.data
        if self._latest is None or self._latest[0] != describe:
            self._latest = None  # before the next one is made: two at once would be the peak
            part = split(self._load(describe.source), describe)
            self._latest = (describe, DeviceData(part, cell.programme, self._device))
        return self._latest[1]


def _measure(
    cell: Cell,
    record: Record,
    state: State | None,
    materials: _Materials,
    store: Store,
    edition: str,
    measures: Sequence[str],
) -> None:
    """Compute what is missing, from the state at hand or from the final checkpoint; nothing if neither is there."""
    programme = cell.programme
    trained_key = programme.keys(edition)[-1]
    missing = [
        name
        for name in measures
        if applies(name, cell) and store.measure(name, record.source, edition, trained_key, cell.seed) is None
    ]
    if not missing:
        return
    path = store.checkpoint(record.source, edition, trained_key, programme.length, cell.seed)
    if state is None and not path.exists():
        return
    data = materials.of(cell)
    if state is None:
        numerics.enter(numerics.mode(programme.start.network, data.device))
        state = loop.start(programme, cell.seed, data.device)
        if not state.restore(path):
            return
    for name in missing:
        # An empty one says that there is nothing to tell, so that it is not asked again.
        told = MEASURES[name](state, data, cell) or {}
        store.write_measure(name, record.source, edition, trained_key, cell.seed, told)


def measured_speed(cell: Cell, device: torch.device, steps: int = 4, *, side: int | None = None) -> float:
    """Work per second (see :func:`replicate.grid.epoch_work`) of a few ordinary steps on random images, the fastest of them.

    ``side``: pixels of an image's side, where the files at hand have other ones than the data set as published.

    Takes a second or two and trains nothing that is kept.
    """
    numerics.reuse_memory()
    start = cell.programme.start
    row = replace(cell.programme.epoch(1), sam_radius=None)
    numerics.enter(numerics.mode(start.network, device))
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
    """Size of one checkpoint of this cell: the network and its momentum in 32-bit floats, the best network so far where that is
    handed over, and the history."""
    start = cell.programme.start
    model = outline(start.network, start.head)
    network = sum(value.numel() for value in model.state_dict().values())
    momentum = sum(parameter.numel() for _, parameter in model.trainable(None))
    copies = 2 if cell.programme.epoch(cell.programme.length).hands_over else 1
    history = 8 * cell.programme.length * (3 + 4 * start.network.classes) + 6 * start.data.images
    return int(4 * (copies * network + momentum) + history)
