"""Losses and class weights, built from their descriptions.

Symbols: C classes, N_c training images of class c, prior_c = N_c / sum N, logits z [B, C], labels y [B] (int64), p the softmax
of z. Of H classifiers trained side by side logits are [H, B, C]; see :func:`stacked`.
Formulas follow the released code of the papers that use them; every one is tested against float64 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    LogitsRetargeting,
    Objective,
    SoftmaxBinaryCrossEntropy,
    VectorScaling,
)

#: Of logits [B, C] and labels [B]: the logits that a softmax sees [B, C].
Adjuster = Callable[[Tensor, Tensor], Tensor]
#: Of logits [B, C], labels [B] and features [B, d]: the scalar training loss.
Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]
#: Tensors that a loss reads, by name.
Constants = dict[str, Tensor]
#: Of logits [H, B, C] and labels [B]: the training loss of each of H classifiers [H].
Stacked = Callable[[Tensor, Tensor], Tensor]

#: Losses whose objectives can be stacked, by family.
FAMILIES: Mapping[str, tuple[type, ...]] = {
    "softmax": (CrossEntropy, LogitsRetargeting, LDAM, VectorScaling),
    "focal": (Focal,),
    "binary": (SoftmaxBinaryCrossEntropy,),
}


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


def form(objective: Objective) -> Objective:
    """What objectives have in common whose losses differ in the values of their constants alone; see :func:`criterion`."""
    loss = objective.loss
    if isinstance(loss, LDAM):
        loss = replace(loss, max_margin=0.0)
    elif isinstance(loss, VectorScaling):
        loss = replace(loss, gamma=0.0, tau=0.0)
    weighted = objective.weights is not None or _even(objective)
    return replace(objective, loss=loss, weights=InversePrior(0.0) if weighted else None)


def adjusted(
    loss: Any,
    counts: Sequence[int],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    constants: Constants | None = None,
) -> Adjuster:
    """The logits that the loss's softmax sees: a function of logits [B, C] and labels [B], giving [B, C].

    ``constants`` as of :func:`criterion`. Raises ``TypeError`` for a loss that is not known here.
    """

    def tensor(name: str, values: np.ndarray) -> Tensor:
        return _placed(name, torch.as_tensor(values, dtype=dtype, device=device), constants)

    if isinstance(loss, (CrossEntropy, Focal, LogitsRetargeting, SoftmaxBinaryCrossEntropy)):
        return lambda logits, labels: logits
    if isinstance(loss, LDAM):
        margin, scale = tensor("margins", margins(loss, counts)), float(_number(loss.scale))

        def less_margins(logits: Tensor, labels: Tensor) -> Tensor:
            # Zero but at an image's own class. Rows of a matrix [C, C] would take 265 MB for 8,142 classes.
            own = labels[:, None]
            return scale * (logits - torch.zeros_like(logits).scatter_(1, own, margin[own]))

        return less_margins
    if isinstance(loss, VectorScaling):
        multiply, add = scales_and_shifts(loss, counts)
        shift = tensor("shifts", add)
        if _number(loss.gamma) == 0 and constants is None:
            return lambda logits, labels: logits + shift
        scale_by = tensor("scales", multiply)
        return lambda logits, labels: logits * scale_by + shift
    raise TypeError(f"no loss is known for {loss!r}")


def criterion(
    objective: Objective,
    counts: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    constants: Constants | None = None,
) -> Criterion:
    """Scalar training loss of logits [B, C], labels [B] and features [B, d].

    Logits are multiplied by ``objective.scale`` first. Weighted losses are divided by the batch's sum of weights, or by B where
    ``objective.mean`` is ``"batch"``; focal, softmax binary and dot-regression loss always by B. What regularises features is
    added. Raises ``TypeError`` for a description that is not known here, and for class weights of a dot-regression loss, which
    has none.

    ``constants`` keeps the tensors that the loss reads. Given those of an objective of the same :func:`form`, it writes its own
    values into them, so that what was captured with them computes this loss from then on: the same, bit for bit, as without.
    """
    loss_of = _of_logits(objective, counts, device=device, dtype=dtype, constants=constants)
    if objective.scale is not None:
        loss_of = _scaled(loss_of, _number(objective.scale))
    if objective.regulariser is None:
        return loss_of
    half_zeta = _number(objective.regulariser.zeta) / 2

    def regularised(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        return loss_of(logits, labels, features) + half_zeta * features.square().sum(dim=1).mean()

    return regularised


def _scaled(loss_of: Criterion, scale: float) -> Criterion:
    return lambda logits, labels, features: loss_of(logits * scale, labels, features)


def _even(objective: Objective) -> bool:
    """Whether weights of 1 leave a loss without weights as it is, bit for bit: what divides it is the same sum."""
    kinds = (CrossEntropy, LDAM, VectorScaling, Focal, SoftmaxBinaryCrossEntropy)
    return isinstance(objective.loss, kinds) and objective.mean != "batch"


def _placed(name: str, values: Tensor, constants: Constants | None) -> Tensor:
    """The tensor of this name with these values."""
    if constants is None:
        return values
    return constants[name].copy_(values) if name in constants else constants.setdefault(name, values)


def _of_logits(
    objective: Objective,
    counts: Sequence[int],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    constants: Constants | None,
) -> Criterion:
    told = class_weights(objective.weights, counts)
    if told is None and constants is not None and _even(objective):
        told = np.ones(len(counts))
    weight = None if told is None else _placed("weights", torch.as_tensor(told, dtype=dtype, device=device), constants)

    if isinstance(objective.loss, DotRegression):
        if weight is not None:
            raise TypeError("dot-regression loss has no class weights")
        return dot_regression
    adjust = adjusted(objective.loss, counts, device=device, dtype=dtype, constants=constants)

    if isinstance(objective.loss, Focal):
        gamma = float(_number(objective.loss.gamma))

        def focal(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
            losses = functional.cross_entropy(logits, labels, weight=weight, reduction="none")
            missed = 1.0 - torch.exp(-losses)
            if gamma < 1:  # a root is infinitely steep at 0, where well learnt images are
                missed = missed.clamp_min(torch.finfo(dtype).tiny)
            return (missed**gamma * losses).mean()

        return focal
    if isinstance(objective.loss, SoftmaxBinaryCrossEntropy):

        def binary(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
            losses = softmax_binary_cross_entropy(logits, labels)
            return (losses if weight is None else weight[labels] * losses).mean()

        return binary
    if isinstance(objective.loss, LogitsRetargeting):
        delta = _number(objective.loss.delta)

        def retargeted(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
            losses = retargeted_cross_entropy(logits.log_softmax(dim=1), labels, delta)
            if weight is None:
                return losses.mean()
            of_image = weight[labels]
            return (of_image * losses).sum() / (len(labels) if objective.mean == "batch" else of_image.sum())

        return retargeted
    if weight is not None and objective.mean == "batch":
        return lambda logits, labels, features: (
            functional.cross_entropy(adjust(logits, labels), labels, weight=weight, reduction="sum") / len(labels)
        )
    return lambda logits, labels, features: functional.cross_entropy(adjust(logits, labels), labels, weight=weight)


def retargeted_cross_entropy(log_p: Tensor, labels: Tensor, delta: float | Tensor) -> Tensor:
    """-sum_c t_c log p_c of each image, t the targets 1 - delta + delta/C of its own class and delta/C of every other one (Lu
    et al. 2024, Eq. 13): [..., B] of log p [..., B, C] and labels [B]; a tensor ``delta`` must broadcast to [..., B]."""
    own: Tensor = -(1 - delta) * _own(log_p, labels) - delta * log_p.mean(dim=-1)
    return own


def softmax_binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-(log p_y + sum_{c != y} log(1 - p_c)) / C of each image: [..., B] of logits [..., B, C] and labels [B].

    Loss and gradient are exact to rounding for any logits. Where p_c is near 1 for a wrong class, 1 - p_c is the share of all
    others together, and its log is log p_y less the log of y's probability in a softmax of these others alone. Source: the
    class-balanced loss in the code of Alshammari et al. 2022, which takes the probabilities and bounds their logs by -100.
    """
    classes = logits.shape[-1]
    log_p = logits.log_softmax(dim=-1)
    likely = log_p > -0.5  # p > 0.6: at most one class of an image, however log p is rounded; for the others 1 - p is safe
    others = log_p.masked_fill(likely, -torch.inf)
    is_own = torch.eye(classes, dtype=torch.bool, device=logits.device)[labels]
    absent = torch.log1p(-others.exp()).masked_fill(is_own, 0).sum(dim=-1)
    own = _own(log_p, labels)
    remaining = own - _own(others.log_softmax(dim=-1), labels)
    wrong = (likely & ~is_own).any(dim=-1)
    losses: Tensor = (own + absent + torch.where(wrong, remaining, 0)) / -classes
    return losses


def _own(values: Tensor, labels: Tensor) -> Tensor:
    """Of values [..., B, C] those of each image's own class, labels [B]: [..., B]."""
    return values.gather(-1, labels.expand(values.shape[:-1])[..., None])[..., 0]


def dot_regression(logits: Tensor, labels: Tensor, features: Tensor) -> Tensor:
    """Mean of (z_y - |g|)^2 / (2 |g|) over a batch of logits [B, C], labels [B] and features g [B, d], for class vectors of
    length 1; the norm |g| carries no gradient (Yang et al. 2022, "Inducing Neural Collapse in Imbalanced Learning")."""
    norms = features.detach().norm(dim=1)
    own = logits.gather(1, labels[:, None])[:, 0]
    # A feature of zeros (every unit off) has no direction to pull on; the bound keeps its loss finite.
    loss: Tensor = ((own - norms).square() / (2 * norms.clamp_min(1e-12))).mean()
    return loss


# --- classifiers side by side ----------------------------------------------------------------------------------------


def family(objective: Objective) -> str | None:
    """Objectives of one family can be stacked; None: this one cannot, whatever stands beside it."""
    if objective.regulariser is None:
        for name, kinds in FAMILIES.items():
            if isinstance(objective.loss, kinds):
                return name
    return None


def stacked(
    objectives: Sequence[Objective],
    counts: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Stacked:
    """The losses [H] of H classifiers, each under its own objective, all of one :func:`family`, of logits [H, B, C] and labels
    [B] that all see. Each is what :func:`criterion` gives, up to rounding; their sum is what to go back from.

    A classifier's loss and gradient have the same bits whatever is stacked beside it, NaN included. So what meets logits is
    element by element or the softmax of a row (no powers: on a CPU their bits depend on the place in memory), sums over images
    are in float64, where their order is below what is kept, and a term that no classifier of a stack needs may be left out
    because it is exact where it is neutral. Raises ``ValueError`` for objectives that cannot be stacked together, ``TypeError``
    for a description that is not known here.
    """
    families = {family(objective) for objective in objectives}
    if len(families) != 1 or None in families:
        raise ValueError(f"objectives of one family can be stacked, not of {', '.join(sorted(map(str, families)))}")
    (name,) = families

    def tensor(values: Sequence[Any]) -> Tensor:
        return torch.as_tensor(np.asarray(values, dtype=np.float64), dtype=dtype, device=device)

    adjust = _adjusted_side_by_side(objectives, counts, tensor)
    kinds = [objective.loss for objective in objectives]
    told = [class_weights(objective.weights, counts) for objective in objectives]
    weight = tensor([np.ones(len(counts)) if of_class is None else of_class for of_class in told])
    by_weights = torch.tensor(
        [objective.mean != "batch" and isinstance(objective.loss, FAMILIES["softmax"]) for objective in objectives],
        device=device,
    )
    deltas = [_number(loss.delta) if isinstance(loss, LogitsRetargeting) else 0.0 for loss in kinds]
    delta = tensor(deltas)[:, None] if any(deltas) else None
    gamma = tensor([_number(loss.gamma) for loss in kinds])[:, None] if name == "focal" else None

    def each(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """The weighted loss of each image [H, B]."""
        seen = adjust(logits, labels)
        if name == "binary":
            return weights * softmax_binary_cross_entropy(seen, labels)
        log_p = seen.log_softmax(dim=-1)
        if delta is not None:
            return weights * retargeted_cross_entropy(log_p, labels, delta)
        losses = weights * -_own(log_p, labels)
        if gamma is None:
            return losses
        missed = (-torch.expm1(-losses)).clamp_min(torch.finfo(dtype).tiny)
        return torch.exp(gamma * missed.log()) * losses

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        weights = weight[:, labels]
        divisor = torch.where(by_weights, weights.sum(dim=-1, dtype=torch.float64), len(labels))
        return (each(logits, labels, weights).sum(dim=-1, dtype=torch.float64) / divisor).to(dtype)

    return loss_of


def _adjusted_side_by_side(
    objectives: Sequence[Objective], counts: Sequence[int], tensor: Callable[[Sequence[Any]], Tensor]
) -> Adjuster:
    """What :func:`adjusted` does after ``objective.scale``, for logits [H, B, C]: logits times a factor plus a shift, less a
    margin at the own class, the scale of LDAM taken into all three."""
    factors, shifts, of_own = [], [], []
    for objective in objectives:
        loss, classes = objective.loss, len(counts)
        factors.append(np.ones(classes) * (1.0 if objective.scale is None else _number(objective.scale)))
        shifts.append(np.zeros(classes))
        of_own.append(np.zeros(classes))
        if isinstance(loss, VectorScaling):
            multiply, shifts[-1] = scales_and_shifts(loss, counts)
            factors[-1] *= multiply
        elif isinstance(loss, LDAM):
            factors[-1] *= _number(loss.scale)
            of_own[-1] = margins(loss, counts) * _number(loss.scale)
    factor, shift, margin = (tensor(values)[:, None] for values in (factors, shifts, of_own))  # each [H, 1, C]
    has_factor, has_shift, has_margin = bool((factor != 1).any()), bool(shift.any()), bool(margin.any())
    own = torch.eye(len(counts), dtype=factor.dtype, device=factor.device)

    def adjust(logits: Tensor, labels: Tensor) -> Tensor:
        if has_shift:
            logits = torch.addcmul(shift, logits, factor)
        elif has_factor:
            logits = logits * factor
        return torch.addcmul(logits, own[labels], margin, value=-1) if has_margin else logits

    return adjust


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} has no value yet")
    return float(value)
