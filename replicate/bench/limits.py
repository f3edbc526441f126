"""What the machine can do: the rate of a large matrix product, and the bandwidth of a large copy."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices
COPIED = {"cpu": 1 << 28, "cuda": 1 << 30}  # bytes; far more than any cache holds
SECONDS = 1.0  # of each


def measured(device: torch.device) -> dict[str, float]:
    """Operations a second of a float32 product in the framework's default precision, where a multiplication and an addition are
    two, and bytes a second that a copy reads and writes together."""
    side, size = SIDE[device.type], COPIED[device.type]
    one, other = torch.randn(side, side, device=device), torch.randn(side, side, device=device)
    product = torch.empty_like(one)
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return {
        "operations": 2 * side**3 / median(lambda: torch.mm(one, other, out=product), device),
        "bytes": 2 * size / median(lambda: target.copy_(source), device),
    }


def median(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one of many, after one that does not count."""
    seconds: list[float] = []
    work()
    while len(seconds) < 3 or sum(seconds) < SECONDS:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
