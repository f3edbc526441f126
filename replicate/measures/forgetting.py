"""Forgetting: how often training images that were classified correctly are so no longer an epoch later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from replicate.engine.loop import DeviceData
from replicate.engine.state import State
from replicate.grid import Cell
from replicate.measures.features import class_counts, json_data


def forgetting_scores(forgotten: Tensor, ever_correct: Tensor, epochs: int) -> Tensor:
    """Score of each training image, float64 [N]: ``forgotten`` int [N], the number of epochs in which it went from correct to
    wrong, or ``epochs`` where it was never correct (``ever_correct`` bool [N]).

    Predictions are those made while training, one an epoch, in training mode on augmented images. Source:
    ``calc_forget_scores`` in ``eval_funcs.py`` of the code released with Hasegawa and Sato (Fig. 4).
    """
    return torch.where(ever_correct, forgotten.double(), float(epochs))


def forgetting_of_classes(forgotten: Tensor, ever_correct: Tensor, epochs: int, labels: Tensor, classes: int) -> dict[str, Any]:
    """Mean score of each class (:func:`forgetting_scores`) and its number of images that were never correct, by labels int64
    [N].

    A class without images has null and 0."""
    scores = forgetting_scores(forgotten, ever_correct, epochs)
    sums = torch.zeros(classes, dtype=torch.float64).index_add_(0, labels, scores)
    return json_data(  # type: ignore[no-any-return]
        {
            "score": sums / class_counts(labels, classes),
            "never_correct": torch.bincount(labels[~ever_correct], minlength=classes),
            "epochs": epochs,
        }
    )


def applies(cell: Cell) -> bool:
    """Whether every epoch of the last stage shows every image."""
    programme = cell.programme
    return all(programme.epoch(number).batches is None for number in (programme.stage_starts[-1], programme.length))


def measure(state: State, data: DeviceData, cell: Cell) -> dict[str, Any] | None:
    """:func:`forgetting_of_classes` over all epochs of the last stage; None where the state did not follow single images."""
    told = state.observed
    if not told:
        return None
    forgotten, ever_correct = told["forgotten"].cpu(), told["ever_correct"].cpu()
    return forgetting_of_classes(forgotten, ever_correct, int(told["epochs"]), data.train_labels.cpu(), data.classes)
