"""Memory as the system tells it: what decides how many lanes run side by side."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

import torch

#: Of the memory that is free, lanes may take so much: an epoch, a batch or a Measure may need more than the first epoch did.
SHARE: Final = 0.9


def fitting(free: float, each: float) -> int:
    """How many more lanes of ``each`` bytes fit into ``free`` ones, at most :data:`SHARE` of them."""
    return int(min(SHARE * free / max(each, 1.0), 1e6))


def available() -> float:
    """Bytes that processes can still take without swapping, by the machine's and the container's account; infinite where the
    system does not tell."""
    free = float("inf")
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024.0 * float(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    for folder, limit, taken in (
        (Path("/sys/fs/cgroup"), "memory.max", "memory.current"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError, KeyError):  # without a limit the file says "max"
            told = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            # Files that were read lately count as taken, and are given up for whoever needs the memory.
            used = float((folder / taken).read_text()) - float(told["inactive_file"])
            free = min(free, float((folder / limit).read_text()) - used)
    return free


def of_process(name: str) -> int:
    """Bytes of this process by the system's name for them, such as ``VmHWM``; 0 where it does not tell."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{name}:"):
                return 1024 * int(line.split()[1])
    return 0


def peak() -> int:
    """The most bytes that this process has taken so far; 0 where that is not told."""
    # First, since getrusage's of a started process begins with the peak of the one that started it.
    if told := of_process("VmHWM"):
        return told
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def own_peak() -> float:
    """As :func:`peak`, without what the process shares with others."""
    shared = 0.0
    with contextlib.suppress(OSError, IndexError, ValueError):
        shared = float(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")
    return max(0.0, peak() - shared)


class Gpu:
    """What lanes take of a GPU's memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: float | None = None

    def begin(self) -> None:
        """The first lane begins; the images are there, and not its own."""
        if self._before is None:
            self._before = float(torch.cuda.memory_allocated(self._device))
            torch.cuda.reset_peak_memory_stats(self._device)

    def fit(self) -> int:
        """How many lanes fit, by the peak since the first one began."""
        assert self._before is not None
        free, _ = torch.cuda.mem_get_info(self._device)
        return 1 + fitting(free, torch.cuda.max_memory_reserved(self._device) - self._before)
