"""A residual network for the 8x8 digits, of the ResNet-34's kind: seconds of training, no part of any paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from replicate.models.backbone import Backbone, framework_default, kaiming_normal_fan_out
from replicate.models.batch_norm import BatchNorm2d
from replicate.models.residual import ResidualBlock, convolutions


class ProjectionBlock(ResidualBlock):
    """The shortcut is a 1x1 convolution with batch norm (He et al. 2016, option B)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__(*convolutions(channels, width, stride))
        self.projection = nn.Conv2d(channels, width, 1, stride, bias=False)
        self.bn3 = BatchNorm2d(width)

    def shortcut(self, x: Tensor) -> Tensor:
        shortcut: Tensor = self.bn3(self.projection(x))
        return shortcut


class ResNetDigits(Backbone):
    """A 3x3 convolution of width 16 with batch norm, one block to width 32, then the mean over pixels: images
    [B, channels, H, W] to features [B, 32]. Weights start as those of the ResNet-34 with a 3x3 stem do.

    Convolution and block both have stride 2, which keeps a step short.
    """

    width = 32

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNorm2d(16)
        self.block = ProjectionBlock(16, self.width, stride=2)

    def draw(self, layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
        if isinstance(layer, nn.Conv2d) and layer is not self.conv1:
            kaiming_normal_fan_out(layer, generator)
        else:
            framework_default(layer, generator)

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.block(functional.relu_(self.bn1(self.conv1(images))))
        return x.mean(dim=(2, 3))
