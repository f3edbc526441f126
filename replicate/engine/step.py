"""One optimiser step, and one batch of an evaluation. Nothing here waits for the device, so that all of it can be captured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from replicate import losses
from replicate.engine import numerics
from replicate.engine.state import State
from replicate.grid import Epoch
from replicate.models import Classifier
from replicate.protocol import EVALUATING


def enter_training(model: Classifier, row: Epoch) -> bool:
    """Put the network into the mode that a row trains it in; returns whether its backbone is a fixed function of an image.

    Raises ``ValueError`` for a mode of batch norm that is not known.
    """
    if row.batch_norm not in (None, EVALUATING):
        raise ValueError(f"mode of batch norm {row.batch_norm!r} is unknown; known: None, {EVALUATING!r}")
    model.train()
    if row.batch_norm == EVALUATING:
        model.backbone.eval()
    return row.batch_norm == EVALUATING and row.trained == "head"


def step(
    state: State,
    images: Tensor,
    labels: Tensor,
    loss_of: losses.Criterion,
    radius: float | Tensor | None,
    fixed_backbone: bool = False,
    rate: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One optimiser step; returns the detached loss and logits of the pass whose gradient was used.

    ``rate``: a learning rate on the device, see :meth:`replicate.optim.SGD.step`.
    """
    model, optimiser = state.model, state.optimiser

    def gradients() -> tuple[Tensor, Tensor]:
        optimiser.zero_grad()
        with numerics.forward(images.device):
            features, logits = model.both(images, fixed_backbone)
        features, logits = numerics.widened(features), numerics.widened(logits)
        loss = loss_of(logits, labels, features)
        scale = numerics.loss_scale()
        if scale is None:
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach(), logits.detach()
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        found = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(found, 1 / scale)
        # A gradient that is not finite shows in the loss, so that the epoch ends as diverged without a question in between.
        return loss.detach() + 0 * torch.stack(torch._foreach_norm(found)).sum(), logits.detach()

    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    loss, logits = gradients()
    if radius is not None:
        kept = perturb(parameters, radius)
        # In training mode again: batch-norm statistics are updated at the perturbed point too, as in the released code.
        loss, logits = gradients()
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)
    optimiser.step(rate)
    return loss, logits


@torch.no_grad()
def perturb(parameters: Sequence[Tensor], radius: float | Tensor) -> list[Tensor]:
    """Move parameters by radius * g / (||g|| + 1e-12), g their gradients under one global 2-norm; returns the old values.

    Sharpness-aware minimisation's ascent step (Foret et al. 2021, Eq. 2), not the adaptive variant.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    kept = [parameter.clone() for parameter in parameters]
    # Tensor times tensor: the scale is never read back. A number divided by a tensor is its reciprocal times the number, which
    # is written out so that a radius on the device gives the same bits.
    steps = torch._foreach_mul(gradients, (norm + 1e-12).reciprocal() * radius)
    torch._foreach_add_(list(parameters), steps)
    return kept


def logits_of(model: Classifier, images: Tensor) -> Tensor:
    """Logits [B, C] of images [B, channels, H, W] for an evaluation: of the backbone's features by the head in 32-bit floats,
    whatever the precision of the backbone's pass, as adjustments and classifiers on a frozen backbone have them."""
    with numerics.forward(images.device):
        features, logits = model.both(images)
        halved = torch.is_autocast_enabled(images.device.type)
    if halved:  # the head once more, which costs little beside the backbone
        logits = model.head(numerics.widened(features))
    return logits


def guess(model: Classifier, views: Sequence[Tensor]) -> Tensor:
    """The class [B] with the largest mean of the logits of all views of an image, each [B, channels, H, W]."""
    logits, *others = [logits_of(model, images) for images in views]
    for other in others:
        logits = logits + other  # the mean of two ranks as their sum
    classes: Tensor = logits.argmax(dim=1)
    return classes
