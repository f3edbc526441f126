"""Losses and class weights, built from their descriptions.

Symbols: C classes, N_c training images of class c, prior_c = N_c / sum N, logits z [B, C], labels y [B] (int64).
Formulas follow the released code of the papers that use them; every one is tested against float64 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from replicate.protocol import (
    LDAM,
    CrossEntropy,
    EffectiveNumber,
    Focal,
    InversePrior,
    Objective,
    VectorScaling,
)

Criterion = Callable[[Tensor, Tensor], Tensor]


def class_weights(weights: EffectiveNumber | InversePrior | None, counts: Sequence[int]) -> np.ndarray | None:
    """Weight of each class [C], float64, normalised to sum C; None for unweighted losses.

    Raises ``TypeError`` for a description that is not known here.
    """
    if weights is None:
        return None
    number = np.asarray(counts, dtype=np.float64)
    if isinstance(weights, EffectiveNumber):
        # 1 - beta^N by expm1: exact for beta near 1, where the power rounds.
        raw = (1.0 - float(_number(weights.beta))) / -np.expm1(number * np.log(_number(weights.beta)))
    elif isinstance(weights, InversePrior):
        raw = (number / number.sum()) ** -_number(weights.nu)
    else:
        raise TypeError(f"no class weights are known for {weights!r}")
    return np.asarray(raw / raw.sum() * len(number))


def margins(loss: LDAM, counts: Sequence[int]) -> np.ndarray:
    """Margin of each class [C], float64: max_margin * (N_c / N_min)^(-1/4) (Cao et al. 2019, Eq. 13)."""
    number = np.asarray(counts, dtype=np.float64)
    return np.asarray(_number(loss.max_margin) * (number / number.min()) ** -0.25)


def scales_and_shifts(loss: VectorScaling, counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Multiplicative beta_c = (N_c/N_max)^gamma and additive Delta_c = tau * log(prior_c), each [C], float64 (Eq. 3)."""
    number = np.asarray(counts, dtype=np.float64)
    return (number / number.max()) ** _number(loss.gamma), _number(loss.tau) * np.log(number / number.sum())


def adjusted(loss: Any, counts: Sequence[int], *, device: torch.device | str, dtype: torch.dtype) -> Criterion:
    """The logits that the loss's softmax sees: a function of logits [B, C] and labels [B], giving [B, C].

    Raises ``TypeError`` for a loss that is not known here.
    """

    def tensor(values: np.ndarray) -> Tensor:
        return torch.as_tensor(values, dtype=dtype, device=device)

    if isinstance(loss, (CrossEntropy, Focal)):
        return lambda logits, labels: logits
    if isinstance(loss, LDAM):
        # A row of the matrix is the margin at its own class and zero elsewhere: one look-up, no scatter.
        matrix, scale = tensor(np.diag(margins(loss, counts))), float(_number(loss.scale))
        return lambda logits, labels: scale * (logits - matrix[labels])
    if isinstance(loss, VectorScaling):
        multiply, add = scales_and_shifts(loss, counts)
        shift = tensor(add)
        if _number(loss.gamma) == 0:
            return lambda logits, labels: logits + shift
        scale_by = tensor(multiply)
        return lambda logits, labels: logits * scale_by + shift
    raise TypeError(f"no loss is known for {loss!r}")


def criterion(
    objective: Objective,
    counts: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Criterion:
    """Scalar training loss of logits [B, C] and labels [B].

    Weighted losses are divided by the batch's sum of weights, or by B where ``objective.mean`` is ``"batch"``; focal loss
    always by B. Raises ``TypeError`` for a description that is not known here.
    """
    adjust = adjusted(objective.loss, counts, device=device, dtype=dtype)
    told = class_weights(objective.weights, counts)
    weight = None if told is None else torch.as_tensor(told, dtype=dtype, device=device)

    if isinstance(objective.loss, Focal):
        gamma = float(_number(objective.loss.gamma))

        def focal(logits: Tensor, labels: Tensor) -> Tensor:
            losses = functional.cross_entropy(logits, labels, weight=weight, reduction="none")
            return ((1.0 - torch.exp(-losses)) ** gamma * losses).mean()

        return focal
    if weight is not None and objective.mean == "batch":
        return lambda logits, labels: (
            functional.cross_entropy(adjust(logits, labels), labels, weight=weight, reduction="sum") / len(labels)
        )
    return lambda logits, labels: functional.cross_entropy(adjust(logits, labels), labels, weight=weight)


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} has no value yet")
    return float(value)
