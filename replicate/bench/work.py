"""What a step has to do: multiplications with additions, and the bytes that layers move which are run one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from replicate.models import outline
from replicate.protocol import Network

#: Layers whose outputs a backward pass reads again, so that they must be in memory.
_KEPT = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)


@dataclass(frozen=True)
class Work:
    """Of one image: ``multiply_adds`` of the forward pass's convolutions and linear layers, done directly (no Winograd), and
    those of its ``first`` layer, whose input needs no gradient; numbers that convolutions and linear layers put out (``made``),
    and batch norm with them (``kept``).
    """

    multiply_adds: int
    first: int
    made: int
    kept: int

    def operations(self, step: str) -> int:
        """A multiplication and an addition are two. A backward pass is two forward passes, less the gradient of the images."""
        forward = 2 * self.multiply_adds
        trained = 3 * forward - 2 * self.first
        return {"evaluation": forward, "sam": 2 * trained}.get(step, trained)

    def bytes(self, step: str) -> int:
        """Of layers that are run one by one, in 32-bit floats. Evaluation: what convolutions and linear layers put out is
        written and read once, and all else is done on the way. Training: what they and batch norm put out is written and
        read once, read again by the backward pass, and its gradient written and read once. Weights, images and what the
        optimiser moves are left out: at this batch size they are little.
        """
        trained = 4 * 5 * self.kept
        return {"evaluation": 4 * 2 * self.made, "sam": 2 * trained}.get(step, trained)


def work(network: Network, side: int) -> Work:
    """Of ``network`` on images of ``side`` x ``side`` pixels; nothing is computed."""
    model = outline(network, "linear").eval()
    products: list[int] = []
    made = kept = 0

    def count(layer: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal made, kept
        kept += output[0].numel()
        if isinstance(layer, nn.Conv2d):
            products.append(output[0].numel() * layer.weight[0].numel())
            made += output[0].numel()
        elif isinstance(layer, nn.Linear):
            products.append(output[0].numel() * layer.in_features)
            made += output[0].numel()

    for layer in model.modules():
        if isinstance(layer, _KEPT):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.empty(1, network.channels, side, side, device="meta"))
    return Work(sum(products), products[0], made, kept)
