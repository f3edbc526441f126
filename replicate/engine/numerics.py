"""Numerics mode: what, beside a cell's description, decides the rounding of its numbers. It stands in every Record.

A function of the cell and the machine alone: never of a cache, of how cells are packed, or of what is left to do.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

import torch

from replicate.errors import BadInput
from replicate.protocol import Network

#: Networks whose steps are too short to share between threads: they run on one, which is faster.
_SINGLE_THREADED = frozenset({"convnet3", "resnet_digits", "mlp3_digits"})


@dataclass(frozen=True)
class Numerics:
    """Device kind, precision, threads of one cell (CPU), and whether steps are compiled."""

    device: str
    dtype: str = "float32"
    threads: int | None = None
    compiled: bool = False

    def told(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mode(network: Network, device: torch.device) -> Numerics:
    """The numerics mode of a cell with this network on this device."""
    if device.type != "cpu":
        return Numerics(device.type)
    return Numerics("cpu", threads=1 if network.backbone in _SINGLE_THREADED else cores())


def enter(numerics: Numerics) -> None:
    """Make the process compute in this mode."""
    if numerics.device == "cuda":
        # As the released codes do; without it, two runs of one cell differ and a resumed one cannot be equal.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    if numerics.threads is not None and torch.get_num_threads() != numerics.threads:
        torch.set_num_threads(numerics.threads)


def pick_device(name: str | None) -> torch.device:
    """The device called ``name``, or a GPU where there is one, else the CPU.

    Raises ``BadInput`` for a device that this machine or this torch does not have.
    """
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadInput(f"device {name!r} is unknown; allowed: cpu, cuda, cuda:N") from None
    have = {"cpu": 1, "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0}.get(device.type, 0)
    if (device.index or 0) >= have:
        if device.type == "cuda" and have:
            raise BadInput(f"device {name!r} is not here: there are {have} GPUs, cuda:0 to cuda:{have - 1}")
        raise BadInput(f"device {name!r} is not here: no such device was found; leave out --device to use what there is")
    return device


def reuse_memory() -> None:
    """Let glibc keep freed memory instead of returning it to the system after every tensor.

    A training step frees and asks again for the same few hundred MiB; each time, the system would hand out zeroed pages.
    It changes speed alone. Elsewhere than on glibc this does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
        set_option = libc.mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    set_option(mmap_threshold, 1 << 30)
    set_option(trim_threshold, (1 << 31) - 1)
    set_option(top_pad, 64 << 20)
