"""ResNet-32 for 32x32 images in its original small form (He et al. 2016, Sec. 4.2), shortcut option A."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from replicate.kernels.functions import convolution, norm_relu, usable
from replicate.models.backbone import Backbone, kaiming_normal_fan_in
from replicate.models.batch_norm import BatchNorm2d
from replicate.models.residual import ResidualBlock, convolutions


class BasicBlock(ResidualBlock):
    """Where the shape changes the shortcut takes every second pixel and pads channels with zeros, half on each side: it has no
    parameters."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(*convolutions(channels, width, stride))
        self.stride = stride
        self.pad = (width - channels) // 2

    def shortcut(self, x: Tensor) -> Tensor:
        return x if self.stride == 1 else functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class ResNet32(Backbone):
    """Images [B, channels, 32, 32] to features [B, 64]."""

    width = 64

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(16)
        blocks, before = [], 16
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            for place in range(5):
                blocks.append(BasicBlock(before, width, stride if place == 0 else 1))
                before = width
        self.blocks = nn.Sequential(*blocks)

    def draw(self, layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
        kaiming_normal_fan_in(layer, generator)

    def forward(self, images: Tensor) -> Tensor:
        if self.on_any_threads(images):
            x = norm_relu(convolution(images, self.conv1), self.bn1)
        else:
            x = functional.relu_(self.bn1(self.conv1(images)))
        features: Tensor = self.blocks(x)
        return features.mean(dim=(2, 3))

    def on_any_threads(self, images: Tensor) -> bool:
        return usable(images, (self.conv1,), (self.bn1,))
