"""The plain loop: the reference that every faster path must agree with. Readable, one cell, nothing shared or skipped."""

from __future__ import annotations

import torch
from torch import Tensor

from replicate import losses
from replicate.engine.keyed import generator
from replicate.engine.loop import DeviceData
from replicate.grid import Programme
from replicate.models import Classifier, build


def train(
    programme: Programme,
    data: DeviceData,
    seed: int,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[Classifier, list[dict[str, list[int] | float]]]:
    """Train a cell from its first epoch to its last; returns the network and, for each epoch, its loss and correct counts.

    ``memory_format`` is the one thing of the fast path that rounds differently; given the same, the two are bit-equal.
    """
    model = build(programme.start.network, programme.start.head, generator(seed, "initialisation"))
    model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
    parameters = list(model.parameters())
    momentum: list[Tensor | None] = [None] * len(parameters)
    told: list[dict[str, list[int] | float]] = []

    for number in range(1, programme.length + 1):
        row = programme.epoch(number)
        if row.restart_momentum:
            momentum = [None] * len(parameters)
        loss_of = losses.criterion(row.objective, data.counts)
        order = torch.randperm(len(data.train_labels), generator=generator(seed, "order", number))
        if row.batches is not None:
            order = order[: row.batches * row.feed.batch]
        feeder = data.train(row.feed.augmentation)
        draws = feeder.draw(order, generator(seed, "augmentation", number))

        total, correct = 0.0, [0] * data.classes
        model.train()
        for first in range(0, len(order), row.feed.batch):
            last = min(first + row.feed.batch, len(order))
            images = feeder.batch(draws, first, last).contiguous(memory_format=memory_format)
            labels = data.train_labels[order[first:last]]
            logits, loss, gradients = _gradients(model, images, labels, loss_of)
            if row.sam_radius is not None:
                norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
                kept = [parameter.detach().clone() for parameter in parameters]
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        parameter += gradient * (row.sam_radius / (norm + 1e-12))
                logits, loss, gradients = _gradients(model, images, labels, loss_of)
                with torch.no_grad():
                    for parameter, old in zip(parameters, kept, strict=True):
                        parameter.copy_(old)
            with torch.no_grad():
                for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
                    change = gradient.add(parameter, alpha=row.weight_decay)
                    before = momentum[place]
                    moved = change if before is None else before.mul(row.momentum).add(change)
                    momentum[place] = moved
                    parameter.add_(moved, alpha=-row.rate)
            total += loss.item() * len(labels)
            for label, guess in zip(labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
                correct[label] += label == guess

        told.append({"loss": total / len(order), "train": correct, "test": _test(model, data, memory_format)})
    return model, told


def _gradients(
    model: Classifier, images: Tensor, labels: Tensor, loss_of: losses.Criterion
) -> tuple[Tensor, Tensor, list[Tensor]]:
    logits = model(images)
    loss = loss_of(logits, labels)
    return logits, loss, list(torch.autograd.grad(loss, list(model.parameters())))


def _test(model: Classifier, data: DeviceData, memory_format: torch.memory_format) -> list[int]:
    """Correct test images of each class, both halves together [C]."""
    model.eval()
    correct = [0] * data.classes
    with torch.no_grad():
        labels = data.test.labels.tolist()
        for first in range(0, len(labels), 500):
            some = labels[first : first + 500]
            images = data.test.feeder.plain(first, first + len(some)).contiguous(memory_format=memory_format)
            for label, guess in zip(some, model(images).argmax(dim=1).tolist(), strict=True):
                correct[label] += label == guess
    return correct
