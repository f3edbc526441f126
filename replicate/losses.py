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
    DotRegression,
    EffectiveNumber,
    Focal,
    InversePrior,
    Objective,
    VectorScaling,
)

#: Of logits [B, C] and labels [B]: the logits that a softmax sees [B, C].
Adjuster = Callable[[Tensor, Tensor], Tensor]
#: Of logits [B, C], labels [B] and features [B, d]: the scalar training loss.
Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]


def class_weights(weights: EffectiveNumber | InversePrior | None, counts: Sequence[int]) -> np.ndarray | None:
    """Weight of each class [C], float64, normalised to sum C; None for unweighted losses.

    Raises ``TypeError`` for a description that is not known here.
    """
    if weights is None:
        return None
    number = np.asarray(counts, dtype=np.float64)
    if isinstance(weights, EffectiveNumber):
        beta = _number(weights.beta)
        # 1 - beta^N by expm1: exact for beta near 1, where the power rounds. At 1 it is the limit, 1/N.
        raw = 1.0 / number if beta == 1 else (1.0 - beta) / -np.expm1(number * np.log(beta))
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


def adjusted(loss: Any, counts: Sequence[int], *, device: torch.device | str, dtype: torch.dtype) -> Adjuster:
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
    """Scalar training loss of logits [B, C], labels [B] and features [B, d].

    Weighted losses are divided by the batch's sum of weights, or by B where ``objective.mean`` is ``"batch"``; focal and
    dot-regression loss always by B. What regularises features is added. Raises ``TypeError`` for a description that is not
    known here, and for class weights of a dot-regression loss, which has none.
    """
    loss_of = _of_logits(objective, counts, device=device, dtype=dtype)
    if objective.regulariser is None:
        return loss_of
    half_zeta = _number(objective.regulariser.zeta) / 2

    def regularised(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        return loss_of(logits, labels, features) + half_zeta * features.square().sum(dim=1).mean()

    return regularised


def _of_logits(objective: Objective, counts: Sequence[int], *, device: torch.device | str, dtype: torch.dtype) -> Criterion:
    told = class_weights(objective.weights, counts)
    weight = None if told is None else torch.as_tensor(told, dtype=dtype, device=device)

    if isinstance(objective.loss, DotRegression):
        if weight is not None:
            raise TypeError("dot-regression loss has no class weights")
        return dot_regression
    adjust = adjusted(objective.loss, counts, device=device, dtype=dtype)

    if isinstance(objective.loss, Focal):
        gamma = float(_number(objective.loss.gamma))

        def focal(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
            losses = functional.cross_entropy(logits, labels, weight=weight, reduction="none")
            return ((1.0 - torch.exp(-losses)) ** gamma * losses).mean()

        return focal
    if weight is not None and objective.mean == "batch":
        return lambda logits, labels, features: (
            functional.cross_entropy(adjust(logits, labels), labels, weight=weight, reduction="sum") / len(labels)
        )
    return lambda logits, labels, features: functional.cross_entropy(adjust(logits, labels), labels, weight=weight)


def dot_regression(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """Mean of (z_y - |g|)^2 / (2 |g|) over a batch of logits [B, C], labels [B] and features g [B, d], for class vectors of
    length 1; the norm |g| carries no gradient (Yang et al. 2022, "Inducing Neural Collapse in Imbalanced Learning")."""
    norms = features.detach().norm(dim=1)
    own = logits.gather(1, labels[:, None])[:, 0]
    # A feature of zeros (every unit off) has no direction to pull on; the bound keeps its loss finite.
    loss: Tensor = ((own - norms).square() / (2 * norms.clamp_min(1e-12))).mean()
    return loss


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} has no value yet")
    return float(value)
