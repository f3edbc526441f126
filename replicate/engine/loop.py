"""The training loop: one epoch of one cell, and its evaluation.

A step reads nothing back from the device; counts and losses stay there until the epoch ends. The plain loop in
:mod:`replicate.engine.plain` says the same at length and is what this one is tested against.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replicate import losses
from replicate.data.augment import Feeder
from replicate.data.longtail import Split
from replicate.engine.keyed import generator
from replicate.engine.state import State, counts_by_class
from replicate.grid import Epoch, Programme
from replicate.models import build
from replicate.protocol import AutoAugmentCutout, Crop, CropFlip

Augmentation = Crop | CropFlip | AutoAugmentCutout | None

#: Fixed, since another size could round differently.
EVALUATION_BATCH = 500


class Diverged(Exception):
    """Training reached a loss that is not finite."""

    def __init__(self, epoch: int, loss: float) -> None:
        super().__init__(f"loss {loss} in epoch {epoch}")
        self.epoch = epoch
        self.loss = loss


@dataclass
class Examples:
    """Images of one split on a device, as uint8, with their labels [N] and, for test images, their half [N]."""

    feeder: Feeder
    labels: Tensor
    half: Tensor | None = None


class DeviceData:
    """A split moved to a device once, for all cells that train on it."""

    def __init__(self, split: Split, programme: Programme, device: torch.device) -> None:
        self.split = split
        self.device = device
        self.classes = programme.start.network.classes
        self.counts: Sequence[int] = split.class_counts
        self._describe = programme.start.data
        self._train: tuple[Augmentation, Feeder] | None = None
        self.train_labels = torch.as_tensor(split.train_labels, device=device)
        self.test = Examples(
            self._feeder(split.test_images),
            torch.as_tensor(split.test_labels, device=device),
            torch.as_tensor(split.test_half, dtype=torch.int64, device=device),
        )
        self.validation = None
        if split.validation_images is not None:
            labels = torch.as_tensor(split.validation_labels, device=device)
            self.validation = Examples(self._feeder(split.validation_images), labels)

    def _feeder(self, images: NDArray[np.uint8], augmentation: Augmentation = None) -> Feeder:
        data = self._describe
        return Feeder(torch.as_tensor(images, device=self.device), data.mean, data.std, augmentation)

    def train(self, augmentation: Augmentation) -> Feeder:
        """Training images under this augmentation; the latest one is kept."""
        if self._train is None or self._train[0] != augmentation:
            self._train = (augmentation, self._feeder(self.split.train_images, augmentation))
        return self._train[1]


def start(programme: Programme, seed: int, device: torch.device) -> State:
    """The untrained state of a cell."""
    model = build(programme.start.network, programme.start.head, generator(seed, "initialisation"))
    return State.untrained(model, device)


def train_epoch(state: State, row: Epoch, data: DeviceData, seed: int) -> None:
    """Train one epoch by its row, evaluate, and enter both into the history.

    Raises :class:`Diverged` if the epoch's loss is not finite; the state is then lost.
    """
    began = time.perf_counter()
    number = state.epoch + 1
    model, optimiser = state.model, state.optimiser
    if row.restart_momentum:
        optimiser.state.clear()
    for group in optimiser.param_groups:
        group["lr"], group["momentum"], group["weight_decay"] = row.rate, row.momentum, row.weight_decay

    order = torch.randperm(len(data.train_labels), generator=generator(seed, "order", number))
    if row.batches is not None:
        order = order[: row.batches * row.feed.batch]
    feeder = data.train(row.feed.augmentation)
    draws = feeder.draw(order, generator(seed, "augmentation", number))
    labels = data.train_labels[order.to(data.device)]
    loss_of = losses.criterion(row.objective, data.counts, device=data.device)

    # On the device until the epoch ends: a step that reads one number back waits for everything before it.
    total = torch.zeros((), dtype=torch.float64, device=data.device)
    correct = torch.zeros(data.classes, dtype=torch.int64, device=data.device)
    model.train()
    for first in range(0, len(order), row.feed.batch):
        last = min(first + row.feed.batch, len(order))
        target = labels[first:last]
        loss, logits = step(state, feeder.batch(draws, first, last), target, loss_of, row.sam_radius)
        total += loss.double() * (last - first)
        correct += counts_by_class(target, logits.argmax(dim=1) == target, data.classes)

    mean_loss = float(total) / len(order)
    if not math.isfinite(mean_loss):
        raise Diverged(number, mean_loss)
    history = state.history
    history.test.append(evaluate(state, data.test, data.classes))
    if data.validation is not None:
        history.validation.append(evaluate(state, data.validation, data.classes))
    history.train.append(correct.cpu())
    history.loss.append(mean_loss)
    history.rate.append(row.rate)
    history.seconds.append(round(time.perf_counter() - began, 3))
    state.epoch = number


def step(
    state: State, images: Tensor, labels: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor], radius: float | None
) -> tuple[Tensor, Tensor]:
    """One optimiser step; returns the detached loss and logits of the pass whose gradient was used."""
    model, optimiser = state.model, state.optimiser
    optimiser.zero_grad()
    logits = model(images)
    loss = loss_of(logits, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    if radius is not None:
        parameters: list[Tensor] = list(model.parameters())
        kept = perturb(parameters, radius)
        optimiser.zero_grad()
        # In training mode again: batch-norm statistics are updated at the perturbed point too, as in the released code.
        logits = model(images)
        loss = loss_of(logits, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)
    optimiser.step()
    return loss.detach(), logits.detach()


@torch.no_grad()
def perturb(parameters: Sequence[Tensor], radius: float) -> list[Tensor]:
    """Move parameters by radius * g / (||g|| + 1e-12), g their gradients under one global 2-norm; returns the old values.

    Sharpness-aware minimisation's ascent step (Foret et al. 2021, Eq. 2), not the adaptive variant.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    kept = [parameter.clone() for parameter in parameters]
    # Tensor times tensor: the scale is never read back.
    steps = torch._foreach_mul(gradients, radius / (norm + 1e-12))
    torch._foreach_add_(list(parameters), steps)
    return kept


@torch.inference_mode()
def evaluate(state: State, examples: Examples, classes: int) -> Tensor:
    """Correct images of each class [C], or [2, C] where the examples have halves, as int64 on the CPU."""
    model = state.model.eval()
    labels = examples.labels
    # One slot a class, and one a class and half: a half is a block of classes of its own.
    slots = labels if examples.half is None else labels + classes * examples.half
    correct = torch.zeros(classes if examples.half is None else 2 * classes, dtype=torch.int64, device=labels.device)
    for first in range(0, len(labels), EVALUATION_BATCH):
        last = min(first + EVALUATION_BATCH, len(labels))
        hits = model(examples.feeder.plain(first, last)).argmax(dim=1) == labels[first:last]
        correct += counts_by_class(slots[first:last], hits, len(correct))
    return correct.cpu() if examples.half is None else correct.cpu().reshape(2, classes)
