"""torchvision's residual networks as backbones. torchvision is imported when one of them is built, and not before."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from replicate.errors import BadInput
from replicate.models.backbone import Backbone, framework_default, kaiming_normal_fan_out
from replicate.models.batch_norm import BatchNorm2d
from replicate.models.residual import ResidualBlock

#: Operators that torchvision's Python code refers to while it is imported.
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
#: What was defined here lives as long as this.
_LIBRARIES: list[torch.library.Library] = []


def residual_networks() -> ModuleType:
    """The module ``torchvision.models.resnet``.

    torchvision's published wheel holds compiled operators for a CUDA build of torch. Beside another build they do not load,
    and its import ends with "operator torchvision::nms does not exist", although its networks need none of them. Then, and
    only then, the missing operators are declared, without code, and the import is tried once more.

    Raises ``BadInput``, saying what to install, if torchvision is not there or fails in another way.
    """
    try:
        try:
            return _imported()
        except RuntimeError as error:
            if not any(f"operator torchvision::{name} does not exist" in str(error) for name in _SCHEMAS):
                raise
        declared = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        _LIBRARIES.append(declared)
        for name, schema in _SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                declared.define(schema)  # type: ignore[no-untyped-call]
        return _imported()
    except Exception as error:  # a foreign package's import can fail in any way; the user can mend each in the same one
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(
            f"torchvision, which has this network, cannot be imported ({reason}); "
            f"install the release made for torch {torch.__version__}: pip install torchvision"
        ) from error


def _imported() -> ModuleType:
    try:
        # A network is built on the meta device; constants that a module makes as it is imported must be real all the same.
        with torch.device("cpu"):
            return importlib.import_module("torchvision.models.resnet")
    except Exception:
        # Python keeps the submodules of a package that failed; what they registered would be half there at the next try.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        raise


class TorchvisionBlock(ResidualBlock):
    """torchvision's basic block with all its layers, under their names."""

    def __init__(self, block: Any) -> None:
        super().__init__(block.conv1, block.bn1, block.conv2, block.bn2)
        self.downsample = block.downsample

    def shortcut(self, x: Tensor) -> Tensor:
        shortcut: Tensor = x if self.downsample is None else self.downsample(x)
        return shortcut


class TorchvisionResNet(Backbone):
    """torchvision's network called ``name`` up to its pooled features, with our batch norm: images [B, channels, H, W] to
    features [B, width].

    ``small_images``: the first convolution is replaced by a 3x3 one of stride 1 without bias and the max-pooling skipped, for
    32x32 images. Raises ``ValueError`` for images of other than 3 channels under the unchanged first convolution, ``BadInput``
    if torchvision cannot be imported.
    """

    def __init__(self, channels: int, *, name: str, small_images: bool) -> None:
        super().__init__()
        if not small_images and channels != 3:
            raise ValueError(f"{name} with its own first convolution takes images of 3 channels, not {channels}")
        self.network: nn.Module = getattr(residual_networks(), name)(norm_layer=BatchNorm2d)
        for name in ("layer1", "layer2", "layer3", "layer4"):
            stage = getattr(self.network, name)
            for place, block in enumerate(stage):
                if isinstance(block, residual_networks().BasicBlock):
                    stage[place] = TorchvisionBlock(block)
        head = self.network.fc
        assert isinstance(head, nn.Linear)
        self.width = head.in_features
        self.network.fc = nn.Identity()
        self.replaced: tuple[nn.Module, ...] = ()
        if small_images:
            self.network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
            self.network.maxpool = nn.Identity()
            self.replaced = (self.network.conv1,)

    def draw(self, layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
        """Convolutions as torchvision draws them; a replaced one, and a linear head, as fresh layers of the framework: the
        released code replaces them after torchvision has drawn its own."""
        if isinstance(layer, nn.Conv2d) and layer not in self.replaced:
            kaiming_normal_fan_out(layer, generator)
        else:
            framework_default(layer, generator)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network(images)
        return features
