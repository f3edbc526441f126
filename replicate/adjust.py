"""Adjustments of a trained classifier, built from their descriptions: logits of features, without any training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from replicate.models.heads import ScalingHead
from replicate.protocol import AdditiveAdjustment, Adjustment, MultiplicativeAdjustment, TauNormalisation


def log_prior(counts: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """log(N_c / N) of the training images of each class [C], float32 after float64 arithmetic."""
    number = torch.as_tensor(counts, dtype=torch.float64)
    return (number / number.sum()).log().to(device=device, dtype=torch.float32)


@torch.no_grad()
def adjusted_logits(adjustment: Adjustment, value: float, features: Tensor, head: nn.Module, priors: Tensor) -> Tensor:
    """Logits [B, C] of features [B, d] under an adjustment with this tau or gamma.

    ``head`` has a ``weight`` [C, d] and a ``bias`` [C]; ``priors`` are those of :func:`log_prior`. The order is that of the
    released code: class vectors first, then the logits with their bias. Raises ``ValueError`` for a head without a bias (a
    cosine head's logits are angles) or with factors on its logits, ``TypeError`` for an adjustment that is not known here.
    """
    weight, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or isinstance(head, ScalingHead):
        raise ValueError(f"{type(head).__name__} has no class vectors and bias to adjust")
    if isinstance(adjustment, AdditiveAdjustment):
        return functional.linear(features, weight, bias) - value * priors
    if isinstance(adjustment, MultiplicativeAdjustment):
        rows = functional.normalize(weight) if adjustment.unit_rows else weight
        return functional.linear(features, rows, bias) * torch.exp(-value * priors)
    if isinstance(adjustment, TauNormalisation):
        return functional.linear(features, weight / weight.norm(dim=1, keepdim=True) ** value, bias)
    raise TypeError(f"no adjustment is known for {adjustment!r}")
