"""Backbones and classifier heads, built from descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from replicate.kernels.functions import on_one_thread
from replicate.models.backbone import Backbone
from replicate.models.batch_norm import fix_scale_and_shift
from replicate.models.convnet import ConvNet3
from replicate.models.heads import CosineHead, EtfHead
from replicate.models.mlp import MultiLayerPerceptron
from replicate.models.resnet_cifar import ResNet32
from replicate.models.resnet_digits import ResNetDigits
from replicate.models.torchvision_networks import TorchvisionResNet
from replicate.protocol import DECAYED, Network

#: From the number of image channels. A perceptron's number of inputs is fixed, by the side of the images that it is for.
BACKBONES: Mapping[str, Callable[[int], Backbone]] = {
    "resnet32": ResNet32,
    "resnet34_3x3": partial(TorchvisionResNet, name="resnet34", small_images=True),
    "resnet34": partial(TorchvisionResNet, name="resnet34", small_images=False),
    "resnext50_3x3": partial(TorchvisionResNet, name="resnext50_32x4d", small_images=True),
    "mlp3": partial(MultiLayerPerceptron, side=28, width=1024, linear=3),
    "mlp4": partial(MultiLayerPerceptron, side=28, width=1024, linear=4),
    "mlp5": partial(MultiLayerPerceptron, side=28, width=1024, linear=5),
    "resblock1": partial(MultiLayerPerceptron, side=28, width=1024, linear=1, residual=1),
    "resblock2": partial(MultiLayerPerceptron, side=28, width=1024, linear=1, residual=2),
    # For the embedded digits:
    "convnet3": ConvNet3,
    "resnet_digits": ResNetDigits,
    "mlp3_digits": partial(MultiLayerPerceptron, side=8, width=128, linear=3),
}

#: From the number of features and of classes. A scaling head is not among them: it goes on from a trained one.
HEADS: Mapping[str, Callable[[int, int], nn.Module]] = {"linear": nn.Linear, "cosine": CosineHead, "etf": EtfHead}


class Classifier(nn.Module):
    """A backbone (images [B, channels, H, W] to features [B, d]) and a head (features to logits [B, C])."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def both(self, images: Tensor, fixed_backbone: bool = False) -> tuple[Tensor, Tensor]:
        """Features [B, d] and logits [B, C] of images [B, channels, H, W]; no gradient goes back through a fixed backbone."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not fixed_backbone):
            features: Tensor = self.backbone(images)
        if isinstance(self.backbone, Backbone) and self.backbone.on_any_threads(images):
            return features, on_one_thread(self.head, features)
        logits: Tensor = self.head(features)
        return features, logits

    def forward(self, images: Tensor) -> Tensor:
        return self.both(images)[1]

    def trainable(self, part: str | None = None) -> list[tuple[str, nn.Parameter]]:
        """What may be trained of the whole network (None) or of its ``"head"``, with the names that :meth:`state_dict` has.

        Class vectors of the ETF and scaling heads and constant batch norm are buffers: they are never among them, whether or
        not a stage has frozen parameters. Raises ``ValueError`` for another part.
        """
        if part is None:
            return list(self.named_parameters())
        if part == "head":
            return list(self.head.named_parameters(prefix="head"))
        raise ValueError(f"part {part!r} is unknown; known: None, 'head'")

    def decayed(self, rule: str | None = None) -> set[str]:
        """Names of the trainable parameters that weight decay acts on, by a rule of :data:`replicate.protocol.DECAYED`.

        None: all. ``"convolutions and linear layers"``: weights and biases of these layers, so neither batch norm nor the bias
        of the ETF head nor the factors of the scaling one. ``"all but batch-norm shifts"``. Raises ``ValueError`` for another
        rule.
        """
        if rule is not None and rule not in DECAYED:
            raise ValueError(f"rule of decay {rule!r} is unknown; known: None, {', '.join(map(repr, DECAYED))}")
        names = set()
        for place, layer in self.named_modules():
            for name, _ in layer.named_parameters(recurse=False):
                if rule == "convolutions and linear layers":
                    decayed = isinstance(layer, (nn.Conv2d, nn.Linear))
                elif rule == "all but batch-norm shifts":
                    decayed = not (isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and name == "bias")
                else:
                    decayed = True
                if decayed:
                    names.add(f"{place}.{name}")
        return names


def outline(network: Network, head: str) -> Classifier:
    """The network without weights, on the meta device: for names, shapes and counts, at no cost.

    Raises ``ValueError`` for a backbone or head that is not known or does not fit, ``BadInput`` if the backbone is
    torchvision's and torchvision cannot be imported.
    """
    if network.backbone not in BACKBONES:
        raise ValueError(f"backbone {network.backbone!r} is unknown; known: {', '.join(BACKBONES)}")
    if head not in HEADS:
        raise ValueError(f"head {head!r} is unknown; known: {', '.join(HEADS)}")
    # On the meta device a layer draws nothing: the global generator stays untouched and unread.
    with torch.device("meta"):
        backbone = BACKBONES[network.backbone](network.channels)
        model = Classifier(backbone, HEADS[head](backbone.width, network.classes))
    if network.batch_norm_scale is not None:
        for layer in model.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                fix_scale_and_shift(layer)
    return model


def build(network: Network, head: str, generator: torch.Generator) -> Classifier:
    """An untrained network on the CPU, every weight drawn from ``generator``, layer by layer from images to logits.

    The backbone says how its convolutions and linear layers start, and a linear head (:meth:`Backbone.draw`); other heads
    draw their own (:mod:`replicate.models.heads`). Batch norm: scale 1, or the description's constant, and shift 0.
    Raises what :func:`outline` raises.
    """
    model = outline(network, head)
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    # As ``to_empty``, whose ``empty_like`` of a meta tensor loads a part of the framework as large as a fifth of it.
    model._apply(lambda value: torch.empty(value.shape, dtype=value.dtype, device="cpu"))  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                backbone.draw(layer, generator)
            elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                layer.reset_parameters()
                if network.batch_norm_scale is not None:
                    layer.weight.fill_(network.batch_norm_scale)
            elif isinstance(layer, (CosineHead, EtfHead)):
                layer.draw(generator)
    return model
