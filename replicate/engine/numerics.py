"""Numerics mode: what, beside a cell's description, decides the rounding of its numbers. It stands in every Record.

A function of the cell and the machine alone: never of a cache, of how cells are packed, or of what is left to do.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from torch import Tensor

from replicate import kernels
from replicate.errors import BadInput
from replicate.grid import PRECISIONS
from replicate.protocol import Network

#: Networks whose steps are too short to share between threads: they run on one, which is faster.
_SINGLE_THREADED = frozenset({"convnet3", "resnet_digits", "mlp3_digits"})

#: Networks that the kernels for residual blocks are for, and those of them whose every other operation, too, gives the same
#: bits on any number of threads.
_COMPILED = frozenset({"resnet32", "resnet34_3x3", "resnet34"})
_ON_ANY_THREADS = frozenset({"resnet32"})

#: Precisions whose passes through a network are computed by autocast; parameters, losses and updates stay 32-bit floats.
_HALVES: Final = {"bfloat16": torch.bfloat16, "float16": torch.float16}
#: Precisions of a CPU, which multiplies 32-bit floats as they are.
_ON_CPU: Final = ("float32", "float32-strict", "bfloat16")
#: What a loss is multiplied by before its gradient is taken in 16-bit floats, whose smallest is 6e-8, and its gradient divided
#: by. A constant power of two: a gradient that is not finite is a failed run (:class:`replicate.engine.loop.Diverged`), not a
#: skipped step, so nothing is asked of the device.
_LOSS_SCALE: Final = 1024.0


@dataclass(frozen=True)
class Numerics:
    """Device kind, precision (``dtype``, one of :data:`replicate.grid.PRECISIONS`), threads of one cell (CPU; None where bits
    do not depend on them), and whether steps run on compiled kernels (:mod:`replicate.kernels`).

    Whether steps are captured changes no bit, so it is no part of it.
    """

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


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's as the system tells it: both round in their own way."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else kernels.processor("model name")


def mode(network: Network, device: torch.device, precision: str | None = None, *, whole: bool = True) -> Numerics:
    """The numerics mode of a cell with this network and precision (None: 32-bit floats with the framework's defaults) on this
    device; ``whole``: all of the network is trained in every stage, batch norm too.

    Raises ``BadInput`` for a precision that the device does not have.
    """
    precision = require(precision, device)
    if device.type != "cpu":
        return Numerics(device.type, precision)
    if network.backbone in _SINGLE_THREADED:
        return Numerics("cpu", precision, threads=1)
    compiled = (
        network.backbone in _COMPILED and network.channels == 3 and precision not in _HALVES and kernels.library() is not None
    )
    threads = None if compiled and whole and network.backbone in _ON_ANY_THREADS else cores()
    return Numerics("cpu", precision, threads, compiled)


def require(precision: str | None, device: torch.device) -> str:
    """A precision by its name. Raises ``BadInput`` for one that is unknown, or that the device does not have."""
    allowed = PRECISIONS if device.type == "cuda" else _ON_CPU
    if precision is not None and precision not in PRECISIONS:
        raise BadInput(f"precision {precision!r} is unknown; allowed: {', '.join(allowed)}")
    if precision is not None and precision not in allowed:
        raise BadInput(f"precision {precision!r} needs a GPU; allowed on a {device.type}: {', '.join(allowed)}")
    return precision or PRECISIONS[0]


_entered = Numerics("cpu")


def enter(numerics: Numerics) -> None:
    """Make the process compute in this mode."""
    global _entered
    _entered = numerics
    if numerics.device == "cuda":
        # Deterministic, as the released codes are: without it two runs of one cell differ. Not in their benchmark mode, which
        # may choose another algorithm in another process, so that a resumed run could not be equal.
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        # The framework's own defaults are TensorFloat-32 in convolutions, not in matrix products.
        torch.backends.cudnn.allow_tf32 = numerics.dtype != "float32-strict"
        torch.backends.cuda.matmul.allow_tf32 = numerics.dtype == "tf32"
    threads = numerics.threads or cores()
    if numerics.device == "cpu" and torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def forward(device: torch.device) -> AbstractContextManager[object]:
    """What a pass through a network is computed under, in the mode that the process is in. Losses are not part of it."""
    dtype = _HALVES.get(_entered.dtype)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def widened(values: Tensor) -> Tensor:
    """Numbers that a pass computed in 16 bits as 32-bit floats; others as they are."""
    return values.float() if values.dtype in _HALVES.values() else values


def loss_scale() -> float | None:
    """What a loss is multiplied by before its gradient is taken, and the gradient divided by, in the mode that the process is
    in."""
    return _LOSS_SCALE if _entered.dtype == "float16" else None


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
