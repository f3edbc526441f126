"""The data-dependent constants of the unified-bound paper."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from replicate import losses
from replicate.engine.loop import DeviceData, evaluation_batches
from replicate.engine.state import State
from replicate.engine.step import logits_of
from replicate.grid import Cell
from replicate.protocol import LDAM, Objective, VectorScaling


def class_bound(logits: Tensor, labels: Tensor, counts: list[int], objective: Objective) -> dict[str, Any]:
    """What the unified-bound paper's analysis says of one training set: its data-dependent constants, class by class.

    Of logits [N, C] and labels [N] of the training images (evaluation mode, no augmentation), in float64:

    * ``minimal_logit``: B_y(f), the smallest logit of the true class over the images of class y;
    * ``lipschitz``: the constant of Lemma 4, alpha_y * b_y * (1 - p_y), with b_y = sqrt(beta_y^2 + max_{j != y} beta_j^2) and
      p_y the loss's softmax at y. The paper writes p_y by B_y(f) alone, but a softmax depends on all logits: here it is
      taken ``at_minimum``, at the image that attains B_y, and at its ``maximum`` over the class;
    * ``sum``: sqrt(prior_y) * lipschitz, the terms under the sum of Eq. 16 without the unknown C(F), and their total.

    alpha are the class weights (ones if there are none), beta and Delta those of the loss; LDAM is read as one scale for
    all classes. Raises ``ValueError`` if a class has no image.
    """
    logits, number = logits.double().cpu(), np.asarray(counts, dtype=np.float64)
    labels = labels.cpu()
    classes = len(counts)
    weights = losses.class_weights(objective.weights, counts)
    alpha = np.ones(classes) if weights is None else weights
    if isinstance(objective.loss, VectorScaling):
        beta, _ = losses.scales_and_shifts(objective.loss, counts)
    elif isinstance(objective.loss, LDAM):
        beta = np.full(classes, float(objective.loss.scale))  # type: ignore[arg-type]
    else:
        beta = np.ones(classes)
    steepness = np.array([np.hypot(beta[y], np.delete(beta, y).max()) for y in range(classes)])

    adjust = losses.adjusted(objective.loss, counts, device="cpu", dtype=torch.float64)
    of_truth = labels[:, None]
    adjusted = adjust(logits, labels)
    others = adjusted.scatter(1, of_truth, -torch.inf)
    # 1 - p_y as the other classes' share: the difference itself cancels where an image is learnt well.
    missed = (others.logsumexp(dim=1) - adjusted.logsumexp(dim=1)).exp()
    own = logits.gather(1, of_truth)[:, 0]
    minimal, at_minimum, maximum = [], [], []
    for y in range(classes):
        places = (labels == y).nonzero()[:, 0]
        if len(places) == 0:
            raise ValueError(f"class {y} has no training image")
        lowest = places[own[places].argmin()]
        minimal.append(float(own[lowest]))
        at_minimum.append(float(missed[lowest]))
        maximum.append(float(missed[places].max()))
    prior = number / number.sum()
    lipschitz = {"at_minimum": alpha * steepness * np.array(at_minimum), "maximum": alpha * steepness * np.array(maximum)}
    terms = {name: np.sqrt(prior) * constants for name, constants in lipschitz.items()}
    return {
        "minimal_logit": minimal,
        "lipschitz": {name: constants.tolist() for name, constants in lipschitz.items()},
        "sum": {name: {"classes": term.tolist(), "total": float(term.sum())} for name, term in terms.items()},
    }


def measure(state: State, data: DeviceData, cell: Cell) -> dict[str, Any]:
    """:func:`class_bound` of the state after the last epoch, with that epoch and its balanced accuracy on test images."""
    row = cell.programme.epoch(cell.programme.length)
    logits = training_logits(state, data)
    told = class_bound(logits, data.train_labels, list(data.counts), row.objective)
    half = data.test.half
    assert half is not None
    correct = state.history.test[-1].sum()
    return {**told, "epoch": state.epoch, "balanced_accuracy": float(correct) / len(half)}


@torch.inference_mode()
def training_logits(state: State, data: DeviceData) -> Tensor:
    """Logits [N, C] of the training images in their stored order, in evaluation mode without augmentation."""
    model = state.model.eval()
    feeder = data.train(None)
    return torch.cat([logits_of(model, feeder.plain(first, last)) for first, last in evaluation_batches(feeder)])
