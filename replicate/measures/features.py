"""Features of a split's images under a trained network, and what is counted of them class by class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from replicate.engine import numerics
from replicate.engine.keyed import generator
from replicate.engine.loop import DeviceData, Examples, evaluation_batches, features_of
from replicate.models import Classifier
from replicate.protocol import Augmentation

#: Rows that are held in float64 at a time: 64 MiB at 2,048 features.
CHUNK = 4096


@torch.inference_mode()
def augmented_features(model: Classifier, data: DeviceData, augmentation: Augmentation | None, seed: int) -> Tensor:
    """Features float32 [N, d] of the training images in stored order, on the CPU, under one random draw of their augmentation.

    In evaluation mode. The draw follows ``seed`` alone, so every network of a seed is shown the same pixels."""
    model.eval()
    feeder = data.train(augmentation)
    draws = feeder.draw(torch.arange(len(feeder)), generator(seed, "measured features"))
    with numerics.forward(data.device):
        batches = [model.backbone(feeder.batch(draws, *some)).cpu() for some in evaluation_batches(feeder)]
    return numerics.widened(torch.cat(batches))


def training_features(model: Classifier, data: DeviceData) -> Tensor:
    """Features float32 [N, d] of the training images in stored order, on the CPU, in evaluation mode, without augmentation."""
    return features_of(model, Examples(data.train(None), data.train_labels)).cpu()


def chunks(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Features [N, d] piece by piece in float64, with their places."""
    for first in range(0, len(features), CHUNK):
        place = slice(first, first + CHUNK)
        yield place, features[place].double()


def class_sums(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Sum of the features [N, d] of each class, float64 [classes, d]; zeros for a class without images."""
    sums = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    for place, some in chunks(features):
        sums.index_add_(0, labels[place], some)
    return sums


def class_counts(labels: Tensor, classes: int) -> Tensor:
    """Images of each class, int64 [classes]."""
    return torch.bincount(labels, minlength=classes)


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class, float64 [classes, d]; NaN for a class without images."""
    return class_sums(features, labels, classes) / class_counts(labels, classes)[:, None]


def json_data(value: Any) -> Any:
    """``value`` as plain JSON data: arrays and tensors as lists, numbers as Python's own, null for what is not finite."""
    if isinstance(value, dict):
        return {str(name): json_data(inner) for name, inner in value.items()}
    if isinstance(value, Tensor):
        return json_data(value.detach().cpu().numpy())
    if isinstance(value, (np.ndarray, np.generic)):
        return json_data(value.tolist())
    if isinstance(value, (list, tuple)):
        return [json_data(inner) for inner in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
