"""The plain loop: the reference that every faster path must agree with. Readable, one cell, nothing shared or skipped."""

from __future__ import annotations

import copy
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional

from replicate import losses
from replicate.engine.keyed import generator
from replicate.engine.loop import DeviceData, Examples, shown
from replicate.grid import Programme
from replicate.models import Classifier, build
from replicate.models.heads import reformed
from replicate.protocol import BEST_ON_TEST, EVALUATING


def train(
    programme: Programme,
    data: DeviceData,
    seed: int,
    *,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> tuple[Classifier, list[dict[str, list[int] | float]]]:
    """Train a cell from its first epoch to its last; returns the network that the last stage hands over and, for each epoch,
    its loss and correct counts.

    ``memory_format`` is the one thing of the fast path that rounds differently; given the same, the two are bit-equal.
    """
    model = build(programme.start.network, programme.start.head, generator(seed, "initialisation"))
    model = model.to(memory_format=memory_format)  # type: ignore[call-overload]
    momentum: dict[str, Tensor] = {}
    best, best_accuracy, bound = None, Fraction(-1), None
    told: list[dict[str, list[int] | float]] = []

    for number in range(1, programme.length + 1):
        row = programme.epoch(number)
        if row.begins:
            if row.starts_from is not None:
                assert best is not None
                model = best
            best, best_accuracy, bound = None, Fraction(-1), None
            if row.head is not None:
                model.head = reformed(model.head, row.head)
        if row.begins or row.restart_momentum:
            momentum = {}
        if row.unit_rows:
            with torch.no_grad():
                weight = model.head.get_parameter("weight")
                weight.copy_(functional.normalize(weight))
        if row.projection is not None and bound is None:
            norms = model.head.get_parameter("weight").detach().norm(dim=1)
            bound = norms.min() + row.projection.share * (norms.max() - norms.min())
        trained = {name: p.requires_grad_(True) for name, p in model.trainable(row.trained)}
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        decayed = model.decayed(row.decayed)
        loss_of = losses.criterion(row.objective, data.counts)
        order = shown(row, data.train_labels, seed, number)
        feeder = data.train(row.feed.augmentation)
        draws = feeder.draw(order, generator(seed, "augmentation", number))

        total, correct = 0.0, [0] * data.classes
        model.train()
        if row.batch_norm == EVALUATING:
            model.backbone.eval()
        fixed = row.batch_norm == EVALUATING and row.trained == "head"
        for first in range(0, len(order), row.feed.batch):
            last = min(first + row.feed.batch, len(order))
            images = feeder.batch(draws, first, last).contiguous(memory_format=memory_format)
            labels = data.train_labels[order[first:last]]
            logits, loss, gradients = _gradients(model, trained, images, labels, loss_of, fixed)
            if row.sam_radius is not None:
                norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
                kept = {name: parameter.detach().clone() for name, parameter in trained.items()}
                with torch.no_grad():
                    for name, parameter in trained.items():
                        parameter += gradients[name] * (row.sam_radius / (norm + 1e-12))
                logits, loss, gradients = _gradients(model, trained, images, labels, loss_of, fixed)
                with torch.no_grad():
                    for name, parameter in trained.items():
                        parameter.copy_(kept[name])
            with torch.no_grad():
                for name, parameter in trained.items():
                    change = gradients[name]
                    if name in decayed:
                        change = change.add(parameter, alpha=row.weight_decay)
                    moved = momentum[name].mul(row.momentum).add(change) if name in momentum else change
                    momentum[name] = moved
                    parameter.add_(moved, alpha=-row.rate)
            if row.projection is not None and row.projection.each == "batch":
                _project(model, bound)
            total += loss.item() * len(labels)
            for label, guess in zip(labels.tolist(), logits.argmax(dim=1).tolist(), strict=True):
                correct[label] += label == guess
        if row.projection is not None and row.projection.each == "epoch":
            _project(model, bound)

        splits = {"test": data.test} if data.validation is None else {"test": data.test, "validation": data.validation}
        right = {split: _correct(model, examples, data.classes, memory_format) for split, examples in splits.items()}
        told.append({"loss": total / len(order), "train": correct, **right})
        if row.hands_over is not None:
            split = "test" if row.hands_over == BEST_ON_TEST else "validation"
            of_class = torch.bincount(splits[split].labels, minlength=data.classes).tolist()
            shares = [Fraction(hits, size) for hits, size in zip(right[split], of_class, strict=True)]
            accuracy = sum(shares, Fraction(0))
            if accuracy > best_accuracy:
                best, best_accuracy = copy.deepcopy(model), accuracy
    return best or model, told


def _gradients(
    model: Classifier,
    trained: dict[str, torch.nn.Parameter],
    images: Tensor,
    labels: Tensor,
    loss_of: losses.Criterion,
    fixed: bool,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    if fixed:
        with torch.no_grad():
            features = model.backbone(images)
    else:
        features = model.backbone(images)
    logits = model.head(features)
    loss = loss_of(logits, labels, features)
    return logits, loss, dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


@torch.no_grad()
def _project(model: Classifier, bound: Tensor | None) -> None:
    assert bound is not None
    for row in model.head.get_parameter("weight"):
        norm = row.norm()
        if norm > bound:
            row *= bound / norm


def _correct(model: Classifier, examples: Examples, classes: int, memory_format: torch.memory_format) -> list[int]:
    """Correct images of each class, both halves together [C]."""
    model.eval()
    correct = [0] * classes
    with torch.no_grad():
        labels = examples.labels.tolist()
        for first in range(0, len(labels), 500):
            some = labels[first : first + 500]
            images = examples.feeder.plain(first, first + len(some)).contiguous(memory_format=memory_format)
            logits = model(images)
            if examples.mirrored:
                logits = logits + model(images.flip(-1).contiguous(memory_format=memory_format))
            for label, guess in zip(some, logits.argmax(dim=1).tolist(), strict=True):
                correct[label] += label == guess
    return correct
