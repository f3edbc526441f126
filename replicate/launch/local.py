"""Runs cells in this process, on one device: one after another, or side by side where they share a frozen backbone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch

from replicate import losses
from replicate.data.longtail import split
from replicate.data.sources import Images
from replicate.engine import loop, numerics
from replicate.engine.cell import Stopped, restored, train_cell
from replicate.engine.heads import Features, train_pack
from replicate.engine.loop import DeviceData
from replicate.engine.state import History, State
from replicate.grid import Cell, epoch_work
from replicate.launch.progress import Progress
from replicate.measures import MEASURES, applies
from replicate.models import outline
from replicate.protocol import SOURCES, Network
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

    place = 1
    for cells in _together(planned, edition_of):
        edition = edition_of[cells[0].programme.start.data.source]
        left = []
        for cell in cells:
            record = store.of(cell, edition)
            if record is None:
                left.append(cell)
                continue
            outcome.before += 1
            if record.failed is not None:
                outcome.failed.append((cell, record.failed))
            else:
                _measure(cell, None, materials, store, edition, measures)
        place += len(cells) - len(left)
        if not left:
            continue
        if out_of_time():
            outcome.left += left
            continue
        first = left[0]
        data = materials.of(first)
        chosen = numerics.mode(first.programme.start.network, device)
        numerics.enter(chosen)
        progress.begin(first, place, len(planned), len(left))
        place += len(left)

        def each_epoch(number: int, history: History, seconds: float, cell: Cell = first, data: DeviceData = data) -> None:
            outcome.epochs += 1
            progress.epoch(
                number,
                loss=history.loss[-1],
                accuracy=100.0 * float(history.test[-1].sum()) / len(data.test.labels),
                work=epoch_work(cell.programme.start, cell.programme.epoch(number)),
                seconds=seconds,
            )

        def finished(cell: Cell, record: Record, state: State | None, left: list[Cell] = left, edition: str = edition) -> None:
            left.remove(cell)
            if record.failed is not None:
                outcome.failed.append((cell, record.failed))
                return
            outcome.trained += 1
            _measure(cell, state, materials, store, edition, measures)

        how: dict[str, Any] = {"keep": keep(first), "out_of_time": out_of_time, "each_epoch": each_epoch}
        try:
            if first.programme.frozen_from is None:
                finished(first, *train_cell(first, data, store, edition, chosen, **how))
            else:
                train_pack(tuple(left), materials.features, data, store, edition, chosen, finished=finished, **how)
        except Stopped:
            progress.end("stopped at a checkpoint")
            outcome.left += left
            continue
        broke = [failed for cell, failed in outcome.failed if cell == first]
        progress.end(f"failed: loss {broke[0]['loss']} in epoch {broke[0]['epoch']}" if broke else None)
    outcome.epochs_left = len(store.epochs_left(outcome.left, edition_of))
    return outcome


def _together(planned: Sequence[Cell], edition_of: Mapping[str, str]) -> list[list[Cell]]:
    """Cells that are trained together, in the order of their first ones: those whose last stages ride the same passes of one
    backbone, and every other cell alone."""
    found: dict[tuple[object, int], list[Cell]] = {}
    for place, cell in enumerate(planned):
        pack = cell.programme.pack(edition_of[cell.programme.start.data.source])
        found.setdefault((place if pack is None else pack, cell.seed), []).append(cell)
    return list(found.values())


class _Materials:
    """Splits on the device, the latest one only: cells come column by column."""

    def __init__(self, load: Callable[[str], Images], device: torch.device) -> None:
        self._load = load
        self._device = device
        self._latest: tuple[object, DeviceData] | None = None
        self._features: Features | None = None

    def of(self, cell: Cell) -> DeviceData:
        describe = cell.programme.start.data
        if self._latest is None or self._latest[0] != describe:
            self._latest = self._features = None  # before the next one is made: two at once would be the peak
            part = split(self._load(describe.source), describe)
            self._latest = (describe, DeviceData(part, cell.programme, self._device))
        return self._latest[1]

    def features(self, key: str, begun: State) -> Features:
        """Features under the backbone of this state, the latest one only: cells on one backbone come together. ``key`` is that
        of the state."""
        assert self._latest is not None
        if self._features is None or self._features.key != key:
            self._features = None
            self._features = Features(key, begun, self._latest[1])
        return self._features


def _measure(
    cell: Cell,
    state: State | None,
    materials: _Materials,
    store: Store,
    edition: str,
    measures: Sequence[str],
) -> None:
    """Compute what is missing, from the state at hand or from the final checkpoint; nothing if neither is there."""
    programme = cell.programme
    source, trained_key = programme.start.data.source, programme.keys(edition)[-1]
    missing = [
        name
        for name in measures
        if applies(name, cell) and store.measure(name, source, edition, trained_key, cell.seed) is None
    ]
    if not missing:
        return
    if state is None and not store.checkpoint(source, edition, trained_key, programme.length, cell.seed).exists():
        return
    data = materials.of(cell)
    if state is None:
        numerics.enter(numerics.mode(programme.start.network, data.device))
        state = restored(cell, store, edition, data.device)
        if state is None:
            return
    for name in missing:
        # An empty one says that there is nothing to tell, so that it is not asked again.
        told = MEASURES[name](state, data, cell) or {}
        store.write_measure(name, source, edition, trained_key, cell.seed, told)


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
    """Size of one checkpoint of this cell's network: it and its momentum in 32-bit floats, the best network so far where that
    is handed over, and the history."""
    start = cell.programme.start
    network, momentum, _ = _values(start.network, start.head)
    copies = 2 if cell.programme.epoch(cell.programme.length).hands_over else 1
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
