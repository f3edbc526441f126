"""Fisher's discriminant ratio inside a perceptron, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from replicate.engine import numerics
from replicate.engine.loop import DeviceData, start
from replicate.engine.state import State
from replicate.grid import Cell
from replicate.measures.features import json_data
from replicate.measures.fisher import fisher_discriminant_ratio
from replicate.models import BACKBONES

#: Validation images: the size of the one batch that a helper of the released code analyses.
IMAGES = 2000


@runtime_checkable
class Stepwise(Protocol):
    """A backbone that tells the output of every sub-step."""

    def steps(self, images: Tensor) -> Iterator[tuple[str, Tensor]]: ...


@torch.inference_mode()
def relu_fdr(backbone: Stepwise, images: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Name of every sub-step of ``backbone`` on images [N, channels, H, W], in order, and the discriminant ratio of ReLU of its
    output (``step``, ``fdr``; null where S_W is singular), labels int64 [N].

    Source: Fig. 2 of Hasegawa and Sato, and ``calc_cos_stsatistics`` in ``experiments.py`` of the code released with it."""
    labels = labels.cpu()
    with numerics.forward(images.device):  # the ratio is in float64, which autocast leaves as it is
        return [
            {"step": name, "fdr": fisher_discriminant_ratio(numerics.widened(functional.relu(output)).flatten(1).cpu(), labels)}
            for name, output in backbone.steps(images)
        ]


def applies(cell: Cell) -> bool:
    """Whether the backbone tells its steps and there is a validation split to follow through them."""
    maker = BACKBONES[cell.programme.start.network.backbone]
    kind = maker.func if isinstance(maker, partial) else maker
    return hasattr(kind, "steps") and bool(cell.programme.start.data.validation)


def measure(state: State, data: DeviceData, cell: Cell) -> dict[str, Any] | None:
    """:func:`relu_fdr` of the ``trained`` and of the ``untrained`` network of the cell, in evaluation mode, on the first 2,000
    validation images (all of a smaller split). Batch norm of the untrained one has mean 0 and variance 1."""
    backbone, split = state.handed_over().backbone, data.validation
    if not isinstance(backbone, Stepwise) or split is None:
        return None
    count = min(IMAGES, len(split.labels))
    images, labels = split.feeder.plain(0, count), split.labels[:count]
    untrained = start(cell.programme, cell.seed, data.device).model.eval().backbone
    assert isinstance(untrained, Stepwise)
    return json_data(  # type: ignore[no-any-return]
        {
            "epoch": state.handed_over_epoch,
            "images": count,
            "trained": relu_fdr(backbone, images, labels),
            "untrained": relu_fdr(untrained, images, labels),
        }
    )
