"""Kernels for residual networks on a CPU, in C, compiled for this machine when they are first used.

They need a C compiler with OpenMP (``cc``, or what ``CC`` names). Where there is none, networks run on the framework's
operators alone: slower, the same up to rounding. Either way the numerics mode says which. What is compiled is kept in the
user's cache folder, under a name that follows from source, compiler and processor.

All sums over images are made in a fixed number of parts: results do not depend on the number of threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

_SOURCE = Path(__file__).with_name("kernels.c")
#: Where Linux describes the machine's processors.
_PROCESSORS = Path("/proc/cpuinfo")
#: Where Linux tells the files that this process has mapped.
_MAPS = Path("/proc/self/maps")
#: Contracted products and sums are at least as exact as single ones; nothing that assumes finite numbers or reorders sums.
_FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-std=gnu11", "-fPIC", "-fopenmp")


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None on a machine that cannot compile or load them."""
    try:
        named = shlex.split(os.environ.get("CC", ""))
    except ValueError:  # a quote that does not end
        return None
    compiler = named or [shutil.which("cc") or shutil.which("gcc") or ""]
    runtime = _openmp()
    if not shutil.which(compiler[0]) or runtime is None:
        return None
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
        built = compiler, _FLAGS, processor("flags", "Features")  # the last is what -march=native depends on
        text = _SOURCE.read_bytes() + version + repr(built).encode()
        name = f"kernels-{hashlib.sha256(text).hexdigest()[:20]}.so"
        # Their calls into OpenMP must find the framework's own threads: two runtimes would fight for the cores.
        ctypes.CDLL(runtime, mode=ctypes.RTLD_GLOBAL)
        for kept in (True, False):
            for folder in _folders():
                with contextlib.suppress(OSError):  # missing, damaged, or in a folder that nothing is run from
                    if not kept:
                        _compile(compiler, folder / name)
                    return ctypes.CDLL(str(folder / name))
    except (OSError, subprocess.SubprocessError):
        pass
    return None


def _compile(compiler: list[str], path: Path) -> None:
    """Compile to ``path``, which is there whole or not at all, whoever else compiles at the same time."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="compiling-") as folder:
        part, made = Path(folder, "kernels.o"), Path(folder, "kernels.so")
        for command in (
            [*compiler, *_FLAGS, "-c", str(_SOURCE), "-o", str(part)],
            [*compiler, "-shared", str(part), "-o", str(made), "-lm"],  # without an OpenMP runtime: the framework has one
        ):
            subprocess.run(command, capture_output=True, check=True, timeout=600)
        os.replace(made, path)


def _folders() -> Iterator[Path]:
    """Where compiled kernels are kept between runs: the user's cache and, where that does not serve, a folder of the user's own
    beside other temporary files. Those that cannot be made are left out."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    with contextlib.suppress(OSError, RuntimeError):  # the latter where there is no home folder
        # Relative ones are to be ignored, says the XDG specification.
        folder = Path(home) / "replicate" if os.path.isabs(home) else Path.home() / ".cache" / "replicate"
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    with contextlib.suppress(OSError):
        folder = Path(tempfile.gettempdir()) / f"replicate-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.stat().st_uid == os.getuid():  # nobody else's code is loaded
            yield folder


def processor(*entries: str) -> str:
    """What the system says of the first processor under one of these entries, such as ``model name``; the processor's kind,
    such as ``arm64``, where it says nothing."""
    with contextlib.suppress(OSError), _PROCESSORS.open(encoding="utf-8") as file:
        for line in file:  # no further than needed: every core has a paragraph of its own
            if line.startswith(entries):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _openmp() -> str | None:
    """The OpenMP runtime that the framework has loaded; None where it has none that is known here."""
    with contextlib.suppress(OSError):
        # Names of files are bytes of any kind.
        for line in _MAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            path = line.split(maxsplit=5)[-1]
            if Path(path).name.startswith(("libgomp", "libiomp5", "libomp.")):
                return path
    return None


def pointer(tensor: torch.Tensor | None) -> ctypes.c_void_p | None:
    """Where a tensor's values begin."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())
