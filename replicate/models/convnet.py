"""A small network for the 8x8 digits: seconds of training, no part of any paper."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from replicate.models.backbone import Backbone, kaiming_normal_fan_in
from replicate.models.batch_norm import BatchNorm2d


class ConvNet3(Backbone):
    """Three 3x3 convolutions with batch norm, widths 16, 32, 32, the second with stride 2, then the mean over pixels:
    images [B, channels, H, W] to features [B, 32]."""

    width = 32

    def __init__(self, channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.bn1 = BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(32)

    def draw(self, layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
        kaiming_normal_fan_in(layer, generator)

    def forward(self, images: Tensor) -> Tensor:
        x = functional.relu_(self.bn1(self.conv1(images)))
        x = functional.relu_(self.bn2(self.conv2(x)))
        x = functional.relu_(self.bn3(self.conv3(x)))
        return x.mean(dim=(2, 3))
