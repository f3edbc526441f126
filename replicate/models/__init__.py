"""Backbones and classifier heads, built from descriptions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from replicate.models.convnet import ConvNet3
from replicate.models.heads import CosineHead
from replicate.models.resnet_cifar import ResNet32
from replicate.protocol import Network

BACKBONES: dict[str, Callable[[int], ResNet32 | ConvNet3]] = {"resnet32": ResNet32, "convnet3": ConvNet3}


class Classifier(nn.Module):
    """A backbone (images [B, channels, H, W] to features [B, d]) and a head (features to logits [B, C])."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits


def build(network: Network, head: str, generator: torch.Generator) -> Classifier:
    """An untrained network on the CPU, every weight drawn from ``generator``.

    Weights of convolutions and ordinary linear layers: Kaiming normal (fan-in, gain sqrt 2). A linear layer's bias: uniform
    in +-1/sqrt(fan-in). Batch norm: scale 1, shift 0. The cosine head draws its own (:class:`CosineHead`).
    Raises ``ValueError`` for a backbone or head that is not known.
    """
    if network.backbone not in BACKBONES:
        raise ValueError(f"backbone {network.backbone!r} is unknown; known: {', '.join(BACKBONES)}")
    # On the meta device a layer draws nothing: the global generator stays untouched and unread.
    with torch.device("meta"):
        backbone = BACKBONES[network.backbone](network.channels)
        width = backbone.width
        if head == "linear":
            model = Classifier(backbone, nn.Linear(width, network.classes))
        elif head == "cosine":
            model = Classifier(backbone, CosineHead(width, network.classes))
        else:
            raise ValueError(f"head {head!r} is unknown; known: linear, cosine")
    model.to_empty(device="cpu")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, generator=generator)
                if module.bias is not None:
                    bound = module.weight[0].numel() ** -0.5
                    module.bias.uniform_(-bound, bound, generator=generator)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()
            elif isinstance(module, CosineHead):
                module.draw(generator)
    return model
