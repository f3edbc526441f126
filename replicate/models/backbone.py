"""What every backbone has: how many features it gives, and how its weights are drawn before training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Backbone(nn.Module):
    """Images [B, channels, H, W] to features [B, width].

    A backbone says how the weights of convolutions and linear layers start, its own ones and a linear head's, since papers
    state one rule for a network as a whole. Batch norm always starts with scale 1 and shift 0.
    """

    width: int

    def on_any_threads(self, images: Tensor) -> bool:
        """Whether features of these images, and gradients, have the same bits on any number of threads of a CPU."""
        return False

    def draw(self, layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
        """Draw weight and bias of ``layer`` in place, from ``generator`` alone. Here: :func:`framework_default`."""
        framework_default(layer, generator)


def framework_default(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """What a fresh layer of the framework starts with: weight and bias uniform in +-1/sqrt(fan_in)."""
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    draw_bias(layer, generator)


def kaiming_normal_fan_in(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Weight normal with variance 2/fan_in (He et al. 2015), bias as in :func:`framework_default`."""
    nn.init.kaiming_normal_(layer.weight, generator=generator)
    draw_bias(layer, generator)


def kaiming_normal_fan_out(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Weight normal with variance 2/fan_out, as torchvision's residual networks draw convolutions; bias as in
    :func:`framework_default`."""
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    draw_bias(layer, generator)


def draw_bias(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """Bias, where there is one, uniform in +-1/sqrt(fan_in)."""
    if layer.bias is not None:
        bound = layer.weight[0].numel() ** -0.5
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
