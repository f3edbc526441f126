"""Training steps and evaluation batches that are captured once as CUDA graphs and replayed for every batch.

A step of a small network is some hundreds of kernels of a few microseconds; to launch them one by one takes longer than to run
them. A graph launches all of them at once. It has fixed shapes, so the ragged last batch has its own; it reads and writes
memory at fixed places, so whatever changes from batch to batch or from epoch to epoch is a tensor that stays where it is: which
images a batch shows, learning rate, radius, constants of the loss. A replay runs the very kernels that were captured, so it
gives what launching them gives, bit for bit.

Several threads may each train a cell on a stream of their own: captures take turns, replays do not. While any thread captures,
no other may wait for the whole device (``torch.cuda.synchronize``): :data:`LOCK` keeps both apart.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from replicate import losses
from replicate.data.augment import Draws, Feeder
from replicate.engine.state import State, of_memory, project
from replicate.engine.step import enter_training, guess, step
from replicate.grid import Epoch
from replicate.models import Classifier
from replicate.optim import SGD
from replicate.protocol import AutoAugmentCutout

if TYPE_CHECKING:
    from replicate.engine.loop import DeviceData, Examples

#: Kinds of devices on which steps are captured. Elsewhere a recorded step is one that is called again: what tests look at.
KINDS = {"cuda"}
#: Runs before a capture, in which libraries load kernels and choose algorithms; nothing of that may happen within one.
REHEARSALS = 2
#: Held while a capture begins, runs or ends.
LOCK = threading.Lock()

#: Something that is done to tensors in fixed places, as often as it is called.
Work = Callable[[], None]


def fits(device: torch.device, feeder: object) -> bool:
    """Whether batches of this feeder can be part of a captured step: they are made on the device alone."""
    return device.type in KINDS and isinstance(feeder, Feeder) and not isinstance(feeder.augmentation, AutoAugmentCutout)


@dataclass(frozen=True)
class Replay:
    """A captured graph, and the work, which holds the tensors that the graph reads and writes."""

    graph: torch.cuda.CUDAGraph
    work: Work

    def __call__(self) -> None:
        self.graph.replay()


class Recorder:
    """Captures work on one device, for one cell: the graphs share a pool of memory, which goes with the last of them.

    They may share it because each is complete in itself: what one leaves in the pool no other reads.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.captures, self.refused = 0, 0
        if device.type == "cuda":
            self._stream = torch.cuda.current_stream(device)
            # Nothing can be captured on the default stream. A thread's own stream serves, and no other thread is on it.
            if self._stream == torch.cuda.default_stream(device):
                self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._pool = torch.cuda.graph_pool_handle()

    def record(self, work: Work, writes: Sequence[Tensor]) -> Work:
        """What does ``work`` when it is called. ``writes``: all that the work changes and that outlives it; here it is left as
        it was. Work that cannot be captured is called each time, which gives the same numbers, and a warning says so."""
        self.captures += 1
        if self.device.type != "cuda":
            rehearse(work, writes)
            return work
        with LOCK, torch.cuda.device(self.device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            # Rehearsed where it is captured: there libraries have their workspaces then, and autograd its nodes.
            with torch.cuda.stream(self._stream):
                rehearse(work, writes)
                recorded = self._captured(work)
            current.wait_stream(self._stream)
        return recorded

    def _captured(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        except RuntimeError as error:
            if of_memory(error):  # fewer cells side by side help, launching does not
                raise
            self.refused += 1
            self._give_up_pool()
            reason = (str(error).splitlines() or ["no reason given"])[0]
            warnings.warn(f"a step cannot be captured and is launched kernel by kernel: {reason}", RuntimeWarning, stacklevel=2)
            return work
        return Replay(graph, work)

    def _give_up_pool(self) -> None:
        """After a capture that failed: up to torch 2.12 the allocator goes on taking this stream's memory from the pool and
        believes in a capture that never ends, in which nothing is freed and the next one is refused
        (github.com/pytorch/pytorch/pull/180395)."""
        if self.device.type == "cuda":
            with contextlib.suppress(RuntimeError, AttributeError):
                torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
            self._pool = torch.cuda.graph_pool_handle()


def rehearse(work: Work, writes: Sequence[Tensor]) -> None:
    """Do the work a few times and undo, bit for bit, what it did to the tensors that it writes."""
    with torch.no_grad():
        kept = [tensor.clone() for tensor in writes]
    for _ in range(REHEARSALS):
        work()
        with torch.no_grad():
            for tensor, value in zip(writes, kept, strict=True):
                tensor.copy_(value)


@dataclass
class Slots:
    """Where captured steps find an epoch, and leave what they count: of the images in the order in which they are shown,
    ``windows`` and ``labels`` int64 [N] and ``hits`` bool [N]; as scalars the batch's ``first`` image (int64), the ``total`` of
    losses (float64), learning ``rate`` and ``radius`` (float32)."""

    windows: Tensor
    labels: Tensor
    hits: Tensor
    first: Tensor
    total: Tensor
    rate: Tensor
    radius: Tensor

    @classmethod
    def of(cls, count: int, device: torch.device) -> Slots:
        """For epochs of at most ``count`` images."""

        def zeros(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        return cls(
            windows=zeros(torch.int64, count),
            labels=zeros(torch.int64, count),
            hits=zeros(torch.bool, count),
            first=zeros(torch.int64),
            total=zeros(torch.float64),
            rate=zeros(torch.float32),
            radius=zeros(torch.float32),
        )

    def fill(self, row: Epoch, windows: Tensor, labels: Tensor) -> None:
        """Begin an epoch."""
        self.windows[: len(windows)].copy_(windows)
        self.labels[: len(labels)].copy_(labels)
        self.first.zero_()
        self.total.zero_()
        self.rate.fill_(row.rate)
        self.radius.fill_(row.sam_radius or 0.0)


@dataclass
class _Evaluation:
    """Recorded batches of one set of examples under one network, by their size."""

    examples: Examples
    fixed: list[Tensor]
    first: Tensor
    guesses: Tensor
    batches: dict[int, Work] = field(default_factory=dict)


class Graphs:
    """What is recorded for one cell under training, for as long as its tensors stay where they are and the form of its rows
    (:func:`form`) stays what it is."""

    def __init__(self, device: torch.device) -> None:
        self.recorder = Recorder(device)
        self._slots: Slots | None = None
        self._steps: dict[int, Work] = {}
        self._form: Epoch | None = None
        self._feeder: Feeder | None = None
        self._fixed: list[Tensor] = []
        self._momenta: dict[Tensor, Tensor] = {}
        self._constants: losses.Constants = {}
        self._evaluations: dict[int, _Evaluation] = {}

    def train(
        self, state: State, row: Epoch, data: DeviceData, feeder: Feeder, draws: Draws, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :func:`replicate.engine.loop.launched`."""
        fixed_backbone = enter_training(state.model, row)
        slots = self._settle(state, row, feeder, len(data.train_labels))
        # Of a row of the same form the numbers go where those of the row before are.
        loss_of = losses.criterion(row.objective, data.counts, device=data.device, constants=self._constants)
        slots.fill(row, draws.windows, labels)
        count, batch = len(labels), row.feed.batch
        for first in range(0, count, batch):
            size = min(batch, count - first)
            if size not in self._steps:
                work = _step(weakref.proxy(state), row, feeder, slots, size, loss_of, fixed_backbone)
                self._steps[size] = self.recorder.record(work, [*self._fixed, slots.first, slots.total, slots.hits])
            self._steps[size]()
        return slots.total, slots.hits[:count]

    def _settle(self, state: State, row: Epoch, feeder: Feeder, count: int) -> Slots:
        """Forget steps that were recorded for other tensors, another form of row or another feeder; returns the slots."""
        if self._slots is None or len(self._slots.windows) < count:
            self._slots, self._form = Slots.of(count, self.recorder.device), None
        momenta = self._momenta_of(state.optimiser) if row.momentum else {}
        fixed = [*_tensors(state.model), *momenta.values(), *([] if state.bound is None else [state.bound])]
        if self._form != form(row) or self._feeder is not feeder or not _same(fixed, self._fixed):
            self._forget()
            self._form, self._feeder, self._fixed, self._momenta = form(row), feeder, fixed, momenta
        return self._slots

    def _forget(self) -> None:
        """Drop every graph: with one that goes, torch 2.12 and 2.13 free the workspace of matrix products of all that were
        captured on its stream, and those that stay would write where it was (github.com/pytorch/pytorch/issues/193402)."""
        self._steps, self._evaluations, self._constants, self._form = {}, {}, {}, None

    def _momenta_of(self, optimiser: SGD) -> dict[Tensor, Tensor]:
        """Momentum of each parameter that is trained. What was restarted begins with zeros, of which the first step makes the
        gradient; in place where there was momentum before, so that the same graph serves."""
        momenta = {}
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                told = optimiser.state[parameter]
                if "momentum_buffer" not in told:
                    known = self._momenta.get(parameter)
                    told["momentum_buffer"] = torch.zeros_like(parameter.detach()) if known is None else known.zero_()
                momenta[parameter] = told["momentum_buffer"]
        return momenta

    def guesses(self, model: Classifier, examples: Examples) -> Tensor:
        """The class that the network gives each of the examples, int64 [N]; overwritten by the next call for them."""
        fixed, known = _tensors(model), self._evaluations.get(id(examples))
        if known is None or known.examples is not examples or not _same(fixed, known.fixed):
            if known is not None:
                self._forget()
            first, found = (
                torch.zeros(shape, dtype=torch.int64, device=examples.labels.device) for shape in ((), len(examples))
            )
            known = self._evaluations[id(examples)] = _Evaluation(examples, fixed, first, found)
        known.first.zero_()
        for begin, end in examples.batches():
            size = end - begin
            if size not in known.batches:
                work = _evaluation(model, examples, known.first, known.guesses, size)
                known.batches[size] = self.recorder.record(work, [known.first, known.guesses])
            known.batches[size]()
        return known.guesses


def form(row: Epoch) -> Epoch:
    """A row without what a recorded step reads from tensors, and without what happens outside of steps."""
    radius = None if row.sam_radius is None else 1.0
    return replace(row.lasting, objective=losses.form(row.objective), sam_radius=radius, batches=None, hands_over=None)


def _step(
    state: State, row: Epoch, feeder: Feeder, slots: Slots, size: int, loss_of: losses.Criterion, fixed_backbone: bool
) -> Work:
    ahead = torch.arange(size, device=slots.first.device)
    radius = None if row.sam_radius is None else slots.radius
    bound = state.bound if row.projection is not None and row.projection.each == "batch" else None

    def work() -> None:
        places = slots.first + ahead
        target = slots.labels.index_select(0, places)
        images = feeder.at(slots.windows.index_select(0, places))
        loss, logits = step(state, images, target, loss_of, radius, fixed_backbone, slots.rate)
        if bound is not None:
            project(state.model.head, bound)
        slots.total.add_(loss.double() * size)
        slots.hits.index_copy_(0, places, logits.argmax(dim=1) == target)
        slots.first.add_(size)

    return work


def _evaluation(model: Classifier, examples: Examples, first: Tensor, found: Tensor, size: int) -> Work:
    ahead = torch.arange(size, device=first.device)

    def work() -> None:
        places = first + ahead
        found.index_copy_(0, places, guess(model, examples.views_at(places)))
        first.add_(size)

    return work


def _tensors(model: Classifier) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """Whether these are the very same tensors."""
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
