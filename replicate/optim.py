"""The optimiser that every protocol has: stochastic gradient descent with momentum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class SGD:
    """As ``torch.optim.SGD`` with ``foreach=True``, bit for bit, of which it has the attributes that are used here.

    The framework's own optimisers load its compiler when the first one is made, which takes longer than all else between the
    import of torch and the first step, and spend more on bookkeeping than a step of a small network computes.

    ``param_groups``: each a mapping with ``params``, ``lr``, ``momentum`` and ``weight_decay``. ``state`` has a
    ``momentum_buffer`` of each parameter's shape once it was trained with momentum.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]]) -> None:
        self.param_groups: list[dict[str, Any]] = [
            {"params": list(group), "lr": 0.0, "momentum": 0.0, "weight_decay": 0.0} for group in groups
        ]
        self.state: defaultdict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    @torch.no_grad()
    def step(self, rate: Tensor | None = None) -> None:
        """Move every parameter that has a gradient. A learning rate (scalar) on the device instead of the groups' own is read
        when the device gets there, so that a captured step follows it; its product with a change is then rounded."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            changes: list[Tensor] = [parameter.grad for parameter in parameters]
            if group["weight_decay"] != 0:
                changes = list(torch._foreach_add(changes, parameters, alpha=group["weight_decay"]))
            if group["momentum"] != 0:
                changes = self._smoothed(parameters, changes, group["momentum"])
            if rate is None:
                torch._foreach_add_(parameters, changes, alpha=-group["lr"])
            else:
                torch._foreach_add_(parameters, torch._foreach_mul(changes, -rate))

    def _smoothed(self, parameters: list[Tensor], changes: list[Tensor], momentum: float) -> list[Tensor]:
        """The momentum buffers after these changes; a new one begins as the change itself."""
        old = [(self.state[p]["momentum_buffer"], c) for p, c in zip(parameters, changes, strict=True) if self.state[p]]
        if old:
            buffers = [buffer for buffer, _ in old]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, [change for _, change in old])
        for parameter, change in zip(parameters, changes, strict=True):
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = change.clone()
        return [self.state[parameter]["momentum_buffer"] for parameter in parameters]
