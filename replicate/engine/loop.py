"""The training loop: one epoch of one cell, and its evaluation.

A step reads nothing back from the device; counts and losses stay there until the epoch ends. On a GPU steps are captured and
replayed (:mod:`replicate.engine.captured`). The plain loop in :mod:`replicate.engine.plain` says the same at length and is what
this one is tested against.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from replicate import losses
from replicate.data.augment import Draws, Feeder, feeder
from replicate.data.longtail import Split
from replicate.engine import captured, numerics
from replicate.engine.keyed import generator
from replicate.engine.state import State, counts_by_class, project, sizes
from replicate.engine.step import enter_training, guess, perturb, step
from replicate.grid import Epoch, Programme
from replicate.models import Classifier, build
from replicate.protocol import BEST_ON_TEST, BEST_ON_VALIDATION, CLASS_BALANCED, Augmentation

if TYPE_CHECKING:
    from replicate.data.photographs import PhotographDraws, PhotographFeeder

__all__ = [
    "DeviceData", "Diverged", "Examples", "correct_counts", "evaluate", "evaluation_batches", "features_of", "perturb", "shown",
    "start", "step", "train_epoch", "views_of",
]  # fmt: skip

#: Fixed, since another size could round differently; smaller for photographs of full size, which would fill the memory.
EVALUATION_BATCH, LARGE_EVALUATION_BATCH, LARGE_SIDE = 500, 50, 128


class Diverged(Exception):
    """Training reached a loss that is not finite."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"loss {loss} in epoch {epoch}")
        self.epoch = epoch
        self.loss = loss


@dataclass
class Examples:
    """Images of one split on a device, as uint8, with their labels [N] and, for test images, their half [N]. ``mirrored``: an
    image is evaluated as it is and mirrored left to right."""

    feeder: Feeder | PhotographFeeder
    labels: Tensor
    half: Tensor | None = None
    mirrored: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self) -> Iterator[tuple[int, int]]:
        """First and last (excluded) image of every batch of an evaluation."""
        yield from evaluation_batches(self.feeder)

    def views(self, first: int, last: int) -> list[Tensor]:
        """Images ``first`` to ``last`` (excluded) as they are and, where they are evaluated so, mirrored: float32
        [B, channels, H, W] each, channels-last."""
        return self._views(self.feeder.plain(first, last))

    def views_at(self, places: Tensor) -> list[Tensor]:
        """As :meth:`views`, of the images at these places (int64 [B] on the device); not of photographs."""
        assert isinstance(self.feeder, Feeder)
        return self._views(self.feeder.plain_at(places))

    def _views(self, images: Tensor) -> list[Tensor]:
        return [images, images.flip(-1).contiguous(memory_format=torch.channels_last)] if self.mirrored else [images]


class DeviceData:
    """A split moved to a device once, for all cells that train on it."""

    def __init__(self, split: Split, programme: Programme, device: torch.device) -> None:
        self.split = split
        self.device = device
        self.classes = programme.start.network.classes
        self.counts: Sequence[int] = split.class_counts
        self._describe = programme.start.data
        self._train: tuple[Augmentation | None, Feeder | PhotographFeeder] | None = None
        self.train_labels = torch.as_tensor(split.train_labels, device=device)
        mirrored = getattr(self._describe, "mirrored", False)
        self.test = Examples(
            self._feeder(split.test_images),
            torch.as_tensor(split.test_labels, device=device),
            torch.as_tensor(split.test_half, dtype=torch.int64, device=device),
            mirrored,
        )
        self.validation = None
        if split.validation_images is not None:
            labels = torch.as_tensor(split.validation_labels, device=device)
            self.validation = Examples(self._feeder(split.validation_images), labels, mirrored=mirrored)

    def _feeder(self, images: Any, augmentation: Augmentation | None = None) -> Feeder | PhotographFeeder:
        return feeder(images, self._describe, augmentation, self.device)

    def train(self, augmentation: Augmentation | None) -> Feeder | PhotographFeeder:
        """Training images under this augmentation; the latest one is kept."""
        if self._train is None or self._train[0] != augmentation:
            self._train = (augmentation, self._feeder(self.split.train_images, augmentation))
        return self._train[1]

    @cached_property
    def validation_sizes(self) -> Sequence[int]:
        """Validation images of each class [C]. Raises ``ValueError`` if the protocol has none."""
        if self.validation is None:
            raise ValueError("a stage hands over its best state on validation, and the data has no validation split")
        return sizes(self.validation.labels, self.classes)

    @cached_property
    def test_sizes(self) -> Sequence[int]:
        """Test images of each class [C]."""
        return sizes(self.test.labels, self.classes)


def evaluation_batches(feeder: Feeder | PhotographFeeder) -> Iterator[tuple[int, int]]:
    """First and last (excluded) image of every batch in which these images are evaluated."""
    batch = EVALUATION_BATCH if max(feeder.shape[1:]) <= LARGE_SIDE else LARGE_EVALUATION_BATCH
    for first in range(0, len(feeder), batch):
        yield first, min(first + batch, len(feeder))


def start(programme: Programme, seed: int, device: torch.device) -> State:
    """The untrained state of a cell."""
    model = build(programme.start.network, programme.start.head, generator(seed, "initialisation"))
    return State.untrained(model, device)


def shown(row: Epoch, labels: Tensor, seed: int, number: int) -> Tensor:
    """Places of the training images that epoch ``number`` of a cell shows, in their order: int64 [N] on the CPU, or fewer where
    the row stops early. ``labels`` [N] are those of the training images, in any order.

    Without a sampler each image once; with :data:`CLASS_BALANCED` N draws of a class, uniform over those that have images, then
    of one of its images. Raises ``ValueError`` for another sampler.
    """
    draws, count = generator(seed, "order", number), len(labels)
    if row.feed.sampler is None:
        order = torch.randperm(count, generator=draws)
    elif row.feed.sampler == CLASS_BALANCED:
        labels = labels.cpu()
        _, sizes = torch.unique(labels, return_counts=True)
        drawn = torch.randint(len(sizes), (count,), generator=draws)
        # A remainder of a number below 2^62 is uniform to one part in 2^40 and more, and always names an image.
        place = torch.randint(2**62, (count,), generator=draws) % sizes[drawn]
        first = sizes.cumsum(0) - sizes
        order = labels.argsort(stable=True)[first[drawn] + place]
    else:
        raise ValueError(f"sampler {row.feed.sampler!r} is unknown; known: None, {CLASS_BALANCED!r}")
    return order if row.batches is None else order[: row.batches * row.feed.batch]


def train_epoch(state: State, row: Epoch, data: DeviceData, seed: int) -> None:
    """Train one epoch by its row, evaluate, and enter both into the history.

    Raises :class:`Diverged` if the epoch's loss is not finite; the state is then lost.
    """
    began = time.perf_counter()
    number = state.epoch + 1
    state.begin_epoch(row)

    order = shown(row, data.train_labels, seed, number)
    feeder = data.train(row.feed.augmentation)
    draws = feeder.draw(order, generator(seed, "augmentation", number))
    order = order.to(data.device)
    labels = data.train_labels[order]
    graphs = graphs_of(state, data.device)
    if isinstance(feeder, Feeder) and isinstance(draws, Draws) and graphs is not None and captured.fits(data.device, feeder):
        total, hits = graphs.train(state, row, data, feeder, draws, labels)
    else:
        total, hits = launched(state, row, data, feeder, draws, labels)

    mean_loss = float(total) / len(order)
    if not math.isfinite(mean_loss):
        raise Diverged(number, mean_loss)
    if row.projection is not None and row.projection.each == "epoch":
        assert state.bound is not None
        project(state.model.head, state.bound)
    history = state.history
    history.test.append(evaluate(state.model, data.test, data.classes, graphs))
    if data.validation is not None:
        history.validation.append(evaluate(state.model, data.validation, data.classes, graphs))
    history.train.append(counts_by_class(labels, hits, data.classes).cpu())
    history.loss.append(mean_loss)
    history.rate.append(row.rate)
    if row.batches is None and row.feed.sampler is None:  # else not every image was shown, or not once
        state.observe(order, hits)
    state.epoch, state.stage_epoch = number, state.stage_epoch + 1
    if row.hands_over == BEST_ON_VALIDATION:
        state.keep_best(history.validation, data.validation_sizes)
    elif row.hands_over == BEST_ON_TEST:
        state.keep_best(history.test, data.test_sizes)
    history.seconds.append(round(time.perf_counter() - began, 3))


def graphs_of(state: State, device: torch.device) -> captured.Graphs | None:
    """What is captured for a state, made when it is first asked for; None where nothing is."""
    if state.graphs is None and device.type in captured.KINDS:
        state.graphs = captured.Graphs(device)
    return state.graphs


def launched(
    state: State,
    row: Epoch,
    data: DeviceData,
    feeder: Feeder | PhotographFeeder,
    draws: Draws | PhotographDraws,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """The steps of an epoch, launched one by one: the total of the losses of all images (float64 scalar) and, in the order in
    which they are shown with ``labels`` [N], whether each was predicted right (bool [N]). Both stay on the device: a step that
    reads one number back waits for everything before it."""
    loss_of = losses.criterion(row.objective, data.counts, device=data.device)
    # On a GPU by the arithmetic of a captured step, so that the two are equal bit for bit.
    rate = None if data.device.type == "cpu" else torch.tensor(row.rate, device=data.device)
    total = torch.zeros((), dtype=torch.float64, device=data.device)
    hits = torch.empty(len(labels), dtype=torch.bool, device=data.device)
    fixed_backbone = enter_training(state.model, row)
    for first in range(0, len(labels), row.feed.batch):
        last = min(first + row.feed.batch, len(labels))
        target = labels[first:last]
        images = feeder.batch(draws, first, last)
        loss, logits = step(state, images, target, loss_of, row.sam_radius, fixed_backbone, rate)
        if row.projection is not None and row.projection.each == "batch":
            assert state.bound is not None
            project(state.model.head, state.bound)
        total += loss.double() * (last - first)
        torch.eq(logits.argmax(dim=1), target, out=hits[first:last])
    return total, hits


@torch.inference_mode()
def evaluate(model: Classifier, examples: Examples, classes: int, graphs: captured.Graphs | None = None) -> Tensor:
    """Correct images of each class [C], or [2, C] where the examples have halves, as int64 on the CPU.

    An image that is also shown mirrored is given the class with the largest mean of both logits. ``graphs``: what is captured
    for this network, if anything is."""
    model.eval()
    if graphs is not None and captured.fits(examples.labels.device, examples.feeder):
        found = graphs.guesses(model, examples)
    else:
        found = torch.cat([guess(model, examples.views(*some)) for some in examples.batches()])
    return correct_counts(found == examples.labels, examples, classes)


def correct_counts(hits: Tensor, examples: Examples, classes: int) -> Tensor:
    """Of ``hits`` bool [N] on all examples: how many of each class, [C], or [2, C] where the examples have halves, on the
    CPU.
    """
    if examples.half is None:
        return counts_by_class(examples.labels, hits, classes).cpu()
    # One slot a class and half: a half is a block of classes of its own.
    slots = examples.labels + classes * examples.half
    return counts_by_class(slots, hits, 2 * classes).cpu().reshape(2, classes)


@torch.inference_mode()
def views_of(model: Classifier, examples: Examples) -> Tensor:
    """Features [V, N, d] of all examples in their order, in evaluation mode, on the device: of the images as they are and,
    where they are evaluated so (V = 2), mirrored. Of one network they are asked for once or twice, so their
    passes are launched: to capture one takes as long as to run three."""
    model.eval()
    with numerics.forward(examples.labels.device):
        batches = [torch.stack([model.backbone(images) for images in examples.views(*some)]) for some in examples.batches()]
    return numerics.widened(torch.cat(batches, dim=1))


@torch.inference_mode()
def features_of(model: Classifier, examples: Examples) -> Tensor:
    """Features [N, d] as :func:`views_of` has them, averaged over views: a linear head's logits of the mean feature are the
    mean of its logits."""
    views = views_of(model, examples)
    return views[0] if len(views) == 1 else views.mean(dim=0)
