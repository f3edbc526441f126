"""What several test files share: real digits under a short protocol, and real CIFAR where it is."""

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from strict_device import device, strict_device

from papers.unified_bound import DIGITS, DIGITS_LT, PAPER
from replicate.launch.progress import Progress
from replicate.protocol import Drops, Grid, Sgd


@pytest.fixture(scope="session")
def digits():
    from replicate.data.sources import load

    return load("digits", None)


SHORT = replace(
    DIGITS_LT,
    values={
        **DIGITS,
        "epochs": 6,
        "switch": 4,
        "sgd": Sgd(Drops(0.1, ((0, 0.01), (1, 0.001)), origin=4, warmup=2, ramp=2), 0.9, 5e-4),
    },
)


@pytest.fixture(scope="session")
def short_paper():
    """The unified-bound paper on digits with 6 epochs and the switch after the 4th."""
    table = PAPER.grids["table"]
    grid = Grid(table.title, table.methods, (SHORT,), {**table.values, "nu": (0.75, 1.0)})
    return replace(PAPER, columns=(SHORT,), grids={"table": grid}, variants=())


class Silent(Progress):
    """Progress that says nothing and remembers what it was told."""

    def __init__(self):
        super().__init__(io.StringIO())
        self.lines = []

    def end(self, note, lane=0):
        line = self._lanes[lane].line
        super().end(note, lane)
        self.lines.append(line if note is None else f"{line}  {note}")


@pytest.fixture
def silent():
    return Silent()


@pytest.fixture(scope="session")
def cifar_folder():
    """A folder with CIFAR in official layout; skips where there is none."""
    folder = os.environ.get("REPLICATE_DATA")
    if not folder or not (Path(folder) / "cifar-10-batches-py").is_dir():
        pytest.skip("needs real CIFAR: set REPLICATE_DATA to a folder that has it")
    return Path(folder)


def _threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def one_thread():
    yield from _threads(1)


@pytest.fixture
def two_threads():
    yield from _threads(2)


@pytest.fixture(params=["strict", pytest.param("cuda", marks=pytest.mark.gpu)])
def accelerator(request):
    """A device whose tensors meet no others: a pretended one, and a GPU."""
    if request.param == "strict":
        with strict_device():
            yield device()
    elif torch.cuda.is_available():
        yield torch.device("cuda")
    else:
        pytest.skip("needs a CUDA device")


@pytest.fixture
def known_speed(monkeypatch):
    """Plans in this process take a speed for given instead of measuring it."""
    from replicate.launch import local

    monkeypatch.setattr(local, "measured_speed", lambda cell, device, **kwargs: 1000.0)
