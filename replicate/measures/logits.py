"""Logits of test images, class by class: magnitude, spread among a class's own images and the others, norm of class vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from replicate.engine.loop import DeviceData, Examples, views_of
from replicate.engine.state import State
from replicate.engine.step import logits_of
from replicate.grid import Cell
from replicate.measures.features import class_counts
from replicate.models import Classifier

#: Significant digits that are kept: a Measure of 100 classes then takes less than 8 KB.
DIGITS = 5


def logit_statistics(
    logits: Tensor, labels: Tensor, classes: int, weight: Tensor, bias: Tensor | None = None
) -> dict[str, list[float | None] | list[int]]:
    """What is told of logits [N, C] with labels int64 [N], for class vectors [C, d] and perhaps a bias [C]; lists by class.

    Class i's positives are its logits z_i of the images of class i, its negatives those of all other images.

    * ``magnitude``: mean of the positives less mean of the negatives (Lu et al. 2024, Def. 1);
    * ``positive_mean``, ``positive_sd``, ``negative_mean``, ``negative_sd``; ``sd``, of both together. Which of the three the
      paper's Regularized Standard Deviation, sigma(z_i) / magnitude, takes is not stated. All are the population's;
    * ``norm`` of the class vector, and ``bias``;
    * ``count``: test images.

    In float64, to :data:`DIGITS` significant digits. None where there is nothing to take a mean of.
    """
    # On a GPU the order in which weighted counts add up is not fixed.
    logits, labels, weight, bias = logits.cpu(), labels.cpu(), weight.cpu(), None if bias is None else bias.cpu()
    counts = class_counts(labels, classes).double()
    others = len(labels) - counts
    of_truth = labels[:, None]
    exact = logits.double()

    def means(values: Tensor) -> tuple[Tensor, Tensor]:
        """Of values [N, C], class by class: the mean over its own images, and over all others."""
        own = torch.bincount(labels, values.gather(1, of_truth)[:, 0], classes) / counts
        return own, values.scatter(1, of_truth, 0.0).sum(dim=0) / others

    positive, negative = means(exact)
    # About the mean that each logit belongs to, so that nothing cancels.
    apart = (exact - negative).scatter_(1, of_truth, exact.gather(1, of_truth) - positive[labels][:, None])
    positive_variance, negative_variance = means(apart.square_())
    magnitude = positive - negative
    share = counts / len(labels)
    variance = share * positive_variance + (1 - share) * negative_variance + share * (1 - share) * magnitude**2
    found = {
        "magnitude": magnitude,
        "positive_mean": positive,
        "positive_sd": positive_variance.sqrt(),
        "negative_mean": negative,
        "negative_sd": negative_variance.sqrt(),
        "sd": variance.sqrt(),
        "norm": weight.detach().double().norm(dim=1),
        **({} if bias is None else {"bias": bias.detach().double()}),
    }
    told: dict[str, list[float | None] | list[int]] = {name: _rounded(values) for name, values in found.items()}
    return {**told, "count": [int(count) for count in counts.tolist()]}


def _rounded(values: Tensor) -> list[float | None]:
    """To :data:`DIGITS` significant digits; None for what is not finite."""
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in values.tolist()]


def class_vectors(head: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Class vectors [C, d] of a head, and its bias [C] or None. A scaling head's are times their factors; a cosine head's are
    its own, although its logits do not depend on their length."""
    weight = head.weight
    assert isinstance(weight, Tensor)
    bias, scales = getattr(head, "bias", None), getattr(head, "scales", None)
    return (weight if scales is None else scales[:, None] * weight), bias


@torch.inference_mode()
def evaluated_logits(model: Classifier, examples: Examples) -> Tensor:
    """Logits [N, C] of all examples in evaluation mode, averaged over an image and its mirror image where both are shown."""
    views = [model.head(view) for view in views_of(model, examples)]
    return torch.stack(views).mean(dim=0) if len(views) > 1 else views[0]


@torch.inference_mode()
def image_logits(model: Classifier, examples: Examples, place: int) -> list[float]:
    """Logits [C] of one of the examples, as :func:`evaluated_logits` has them."""
    model.eval()
    views = [logits_of(model, images)[0] for images in examples.views(place, place + 1)]
    return [float(logit) for logit in torch.stack(views).mean(dim=0)]


def measure(state: State, data: DeviceData, cell: Cell) -> dict[str, Any]:
    """:func:`logit_statistics` of the network that the last stage hands over, with its epoch.

    A state may bring the logits of its test images, ``test_logits`` [N, C]; of its network the head alone is then read."""
    model = state.handed_over()
    logits = getattr(state, "test_logits", None)
    if logits is None:
        logits = evaluated_logits(model, data.test)
    weight, bias = class_vectors(model.head)
    labels = data.test.labels.to(logits.device)
    with torch.inference_mode():
        return {"epoch": state.handed_over_epoch, **logit_statistics(logits, labels, data.classes, weight, bias)}
