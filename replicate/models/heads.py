"""Classifier heads beyond ``torch.nn.Linear``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional


class CosineHead(nn.Module):
    """Cosine of the angle between a feature and each class vector, without bias: features [B, d] to [B, C] in [-1, 1].

    The scale belongs to the loss (Cao et al. 2019, released code).
    """

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, features))

    def draw(self, generator: torch.Generator) -> None:
        """Uniform in (-1, 1), then each class vector scaled to (about) unit length, as in the released code."""
        with torch.no_grad():
            self.weight.uniform_(-1, 1, generator=generator)
            self.weight.copy_(self.weight.renorm(2, 0, 1e-5).mul_(1e5))

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(functional.normalize(features), functional.normalize(self.weight))


def simplex_frame(features: int, classes: int, generator: torch.Generator) -> Tensor:
    """Class vectors [C, d] of a randomly rotated simplex equiangular tight frame, in float64: every vector has length 1,
    every pair the cosine -1/(C-1).

    sqrt(C/(C-1)) * U (I - 11^T/C), where U [d, C] are the first columns of a Haar-random orthogonal matrix (Papyan et al.
    2020; Hasegawa and Sato 2023, released code). Raises ``ValueError`` unless d >= C >= 2.
    """
    if not features >= classes >= 2:
        raise ValueError(
            f"an ETF head needs at least as many features as classes, and 2 classes: {features} and {classes} given"
        )
    # The Q factor of C normal columns has the law of the first C columns of a d x d one, for a fraction of the work.
    normal = torch.empty(features, classes, dtype=torch.float64).normal_(generator=generator)
    q, r = torch.linalg.qr(normal)
    # QR leaves the signs of R's diagonal to the library; only with all of them positive is Q Haar-distributed (Mezzadri 2007).
    u = q * r.diagonal().sign()
    vectors: Tensor = math.sqrt(classes / (classes - 1)) * (u - u.mean(dim=1, keepdim=True)).T
    return vectors


class EtfHead(nn.Module):
    """Linear classifier whose class vectors are fixed (:func:`simplex_frame`) and whose bias is trained: features [B, d] to
    logits [B, C].

    ``weight`` [C, d] is a buffer: a checkpoint has it, an optimiser does not. The paper does not mention the bias; the released
    code has it. Raises ``ValueError`` if there are fewer features than classes.
    """

    weight: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        if not features >= classes >= 2:
            raise ValueError(
                f"an ETF head needs at least as many features as classes, and 2 classes: {features} and {classes} given"
            )
        self.register_buffer("weight", torch.empty(classes, features))
        self.bias = nn.Parameter(torch.empty(classes))

    def draw(self, generator: torch.Generator) -> None:
        """A frame turned at random; bias uniform in +-1/d."""
        classes, features = self.weight.shape
        with torch.no_grad():
            self.weight.copy_(simplex_frame(features, classes, generator))
            self.bias.uniform_(-1 / features, 1 / features, generator=generator)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(features, self.weight, self.bias)


class ScalingHead(nn.Module):
    """Learnable weight scaling (Kang et al. 2020): c_i * (W_i^T f) + b_i, features [B, d] to logits [B, C], where only the
    factors ``scales`` c [C] are trained.

    ``weight`` W [C, d] and ``bias`` b [C] are buffers, those of the linear head that it goes on from (:func:`reformed`); with
    factors of 1, as they start, it is that head.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(classes, features))
        self.register_buffer("bias", torch.empty(classes))
        self.scales = nn.Parameter(torch.ones(classes))

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(features, self.weight) * self.scales + self.bias


#: Forms that a trained linear head can go on in, from the number of features and of classes, without weights. No global
#: generator is drawn from.
FORMS: Mapping[str, Callable[[int, int], nn.Module]] = {
    "linear": partial(nn.utils.skip_init, nn.Linear),
    "cosine": CosineHead,
    "scaling": ScalingHead,
}


def reformed(head: nn.Module, form: str) -> nn.Module:
    """The class vectors of a trained linear head in a new head of the form ``"linear"``, ``"cosine"`` (which drops the bias) or
    ``"scaling"``, on its device; of a head that has the form already, a copy. Raises ``ValueError`` for another form, and for a
    head that neither has it nor is linear."""
    if form not in FORMS:
        raise ValueError(f"a head cannot take the form {form!r}; known: {', '.join(FORMS)}")
    if isinstance(head, {"linear": nn.Linear, "cosine": CosineHead, "scaling": ScalingHead}[form]):
        return copy.deepcopy(head).requires_grad_()
    if not isinstance(head, nn.Linear):
        raise ValueError(f"a linear head can take the form {form!r}, not {type(head).__name__}")
    made = FORMS[form](head.in_features, head.out_features).to(head.weight)
    wanted = made.state_dict()
    made.load_state_dict({**wanted, **{name: value for name, value in head.state_dict().items() if name in wanted}})
    return made


def form_of(names: Collection[str]) -> str:
    """The form of :data:`FORMS` whose state has tensors of these names. Raises ``KeyError`` if there is none."""
    forms = {("bias", "weight"): "linear", ("weight",): "cosine", ("bias", "scales", "weight"): "scaling"}
    return forms[tuple(sorted(names))]
