"""How small a loss under the ETF classifier forces features of one class together (Theorem 1 of Hasegawa and Sato).

Derived here; the preprint's own wording is not at hand. Let w_1, ..., w_C be unit vectors of a simplex equiangular tight frame
(their sum is 0) and z_k = w_k . g the logits of a feature g of class y, without bias. Cross-entropy is
l = log(1 + S) with S = sum_{k != y} exp(z_k - z_y), so l <= eps says S <= e^eps - 1. By Jensen's inequality
S >= (C-1) exp(mean_{k != y} z_k - z_y), and that mean is -z_y/(C-1) since all logits sum to 0. Hence

    z_y >= (C-1)/C * log((C-1)/(e^eps - 1)),

and for a feature of length at most L, where that bound is positive,

    cos(g, w_y) >= delta := (C-1)/(C L) * log((C-1)/(e^eps - 1)).

Two features of the class are each within the angle arccos(delta) of w_y, so within twice that of each other: their cosine is
at least cos(2 arccos(delta)) = 2 delta^2 - 1. Angles add for any delta >= 0, but only for delta >= 1/sqrt(2) does the bound
say more than that the cosine is above some negative number. The paper's premise is eps < 1/(C-1) and L <= 2 sqrt(2) log(C-1);
from it only delta > (C-1)/(2 sqrt(2) C log(C-1)) log((C-1)/(e^(1/(C-1)) - 1)) follows, which is 0.628 for ten classes and nears
1/sqrt(2) from below. So the bound is asserted where delta >= 1/sqrt(2) and not wherever the premise holds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from replicate.engine.loop import DeviceData
from replicate.engine.state import State
from replicate.grid import Cell
from replicate.measures.features import chunks, json_data, training_features

#: A 32-bit ETF's vectors are unit vectors that sum to 0 only up to rounding; so much below the bound still satisfies it.
TOLERANCE = 1e-6
#: Rows of a block of pairs: 20 MiB for a class of 5,000 images.
_BLOCK = 512


def margins(features: Tensor, labels: Tensor, class_vectors: Tensor) -> Tensor:
    """log((C-1)/(e^l - 1)) for the cross-entropy l, without bias, of each feature [N, d] with labels int64 [N] under
    ``class_vectors`` [C, d]; float64 [N].

    By e^l - 1 = sum_{k != y} exp(z_k - z_y), so neither a tiny nor a huge loss is rounded away."""
    vectors = class_vectors.double()
    others = math.log(len(vectors) - 1)
    found = []
    for place, some in chunks(features):
        logits, own = some @ vectors.T, labels[place][:, None]
        found.append(others - (logits - logits.gather(1, own)).scatter(1, own, -torch.inf).logsumexp(dim=1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


def pair_bounds(features: Tensor, labels: Tensor, class_vectors: Tensor) -> dict[str, Any]:
    """The bound of this module for all pairs of different features [N, d] of one class, labels int64 [N], under the unit
    vectors ``class_vectors`` [C, d] of an equiangular tight frame; logits have no bias.

    A pair's eps and L are the larger loss and the larger norm of its two features. In total and under ``classes`` for each
    class:

    * ``pairs``: how many there are; every one is counted, none sampled;
    * ``premise``: the share for which both features satisfy eps < 1/(C-1) and L <= 2 sqrt(2) log(C-1);
    * ``delta``: the share for which delta >= 1/sqrt(2), where the bound is asserted; ``asserted``: their number, and
      ``satisfied``: how many of them have a cosine of at least 2 delta^2 - 1, up to 1e-6 for a frame rounded to 32 bits: all
      of them if the derivation holds;
    * ``smallest_slack``: the least that an asserted pair's cosine is above its bound, None without such pairs;
    * ``mean_cosine`` of all pairs.

    Shares are None for a class with fewer than two images. Raises ``ValueError`` for fewer than two classes.
    """
    classes = len(class_vectors)
    if classes < 2:
        raise ValueError("an equiangular tight frame has at least two vectors")
    margin = margins(features, labels, class_vectors)
    norms = torch.cat([some.norm(dim=1) for _, some in chunks(features)]) if len(features) else margin
    # l < 1/(C-1), by its margin: log((C-1)/(e^l - 1)) falls with l.
    premise = (margin > math.log((classes - 1) / math.expm1(1 / (classes - 1)))) & (
        norms <= 2 * math.sqrt(2) * math.log(classes - 1)
    )
    told = []
    for label in range(classes):
        places = (labels == label).nonzero()[:, 0]
        satisfying = int(premise[places].sum())
        pairs = len(places) * (len(places) - 1) // 2
        asserted, satisfied, slack, cosines = _of_class(features[places].double(), margin[places], norms[places], classes)
        told.append(
            {
                "pairs": pairs,
                "with_premise": satisfying * (satisfying - 1) // 2,
                "asserted": asserted,
                "satisfied": satisfied,
                "smallest_slack": slack,
                "cosines": cosines,
            }
        )
    total = {name: sum(of[name] for of in told) for name in ("pairs", "with_premise", "asserted", "satisfied", "cosines")}
    total["smallest_slack"] = min(of["smallest_slack"] for of in told)
    return {**_shares(total), "classes": [_shares(of) for of in told]}


def _of_class(features: Tensor, margin: Tensor, norms: Tensor, classes: int) -> tuple[int, int, float, float]:
    """Of all pairs of one class: asserted ones, satisfied ones, the smallest slack (infinite without pairs), sum of cosines."""
    units = functional.normalize(features, dim=1, eps=1e-300)
    asserted, satisfied, slack, total = 0, 0, math.inf, 0.0
    for first in range(0, len(units), _BLOCK):
        # Each pair once: rows first to last of the block, columns from first on, above the diagonal.
        rows = slice(first, first + _BLOCK)
        cosines = units[rows] @ units[first:].T
        least = torch.minimum(margin[rows, None], margin[None, first:])
        longest = torch.maximum(norms[rows, None], norms[None, first:])
        once = torch.ones_like(cosines, dtype=torch.bool).triu(diagonal=1)
        total += float(cosines[once].sum())
        delta = (classes - 1) / classes * least / longest  # two features of zeros: 0/0, which no comparison holds for
        told = once & (delta >= math.sqrt(0.5))
        above = (cosines - (2 * delta.square() - 1))[told]
        if len(above):
            asserted += len(above)
            satisfied += int((above >= -TOLERANCE).sum())
            slack = min(slack, float(above.min()))
    return asserted, satisfied, slack, total


def _shares(of: dict[str, Any]) -> dict[str, Any]:
    pairs = of["pairs"]
    return {
        "pairs": pairs,
        "premise": of["with_premise"] / pairs if pairs else None,
        "delta": of["asserted"] / pairs if pairs else None,
        "asserted": of["asserted"],
        "satisfied": of["satisfied"],
        "smallest_slack": of["smallest_slack"] if of["asserted"] else None,
        "mean_cosine": of["cosines"] / pairs if pairs else None,
    }


def applies(cell: Cell) -> bool:
    """Whether the classifier is an equiangular tight frame."""
    return cell.programme.start.head == "etf"


def measure(state: State, data: DeviceData, cell: Cell) -> dict[str, Any] | None:
    """:func:`pair_bounds` of training features (no augmentation) of the network that the last stage hands over.

    The head's trained bias is left out of logits and losses: the theorem knows none. ``bias_norm`` is its length."""
    if not applies(cell):
        return None
    model = state.handed_over()
    vectors, bias = model.head.weight, model.head.bias
    assert isinstance(vectors, Tensor) and isinstance(bias, Tensor)
    found = pair_bounds(training_features(model, data), data.train_labels.cpu(), vectors.cpu())
    about = {"epoch": state.handed_over_epoch, "bias": "left out", "bias_norm": bias.detach().cpu().double().norm()}
    return json_data({**about, **found})  # type: ignore[no-any-return]
