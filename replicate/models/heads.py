"""Classifier heads beyond ``torch.nn.Linear``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class CosineHead(nn.Module):
    """Cosine of the angle between a feature and each class vector, without bias: features [B, d] to [B, C] in [-1, 1].

    The scale belongs to the loss (Cao et al. 2019, released code).
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))

    def draw(self, generator: torch.Generator) -> None:
        """Uniform in (-1, 1), then each class vector scaled to (about) unit length, as in the released code."""
        with torch.no_grad():
            self.weight.uniform_(-1, 1, generator=generator)
            self.weight.copy_(self.weight.renorm(2, 0, 1e-5).mul_(1e5))

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(functional.normalize(features), functional.normalize(self.weight))
