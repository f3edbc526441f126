"""What grows with classes, images and cells grows no faster than its work: counted here, timed by ``benchmarks/scaling.py``."""

import csv
import importlib.util
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from replicate import losses
from replicate.data import longtail
from replicate.engine import state
from replicate.protocol import LDAM, Objective

MANY = 8142  # classes of iNaturalist 2018
ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "scaling.py"


def test_classes_are_found_in_one_pass(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 50, 2000)
    labels[labels == 7] = 8  # a class without images
    pools, place = longtail._pools(labels, 50), longtail._place_in_class(labels, 50)
    for label, pool in enumerate(pools):
        assert pool.tolist() == np.flatnonzero(labels == label).tolist()
        assert place[pool].tolist() == list(range(len(pool)))

    sorts = []
    original = np.argsort
    monkeypatch.setattr(np, "argsort", lambda *of, **how: sorts.append(len(of[0])) or original(*of, **how))
    monkeypatch.setattr(np, "flatnonzero", None)  # one for each class would read all labels as often
    longtail._place_in_class(np.arange(3 * MANY) % MANY, MANY)
    assert sorts == [3 * MANY]


def test_an_epoch_is_ranked_by_one_fraction_a_size(monkeypatch):
    draw = np.random.default_rng(0)
    sizes = draw.integers(0, 40, MANY).tolist()
    correct = [int(draw.integers(0, size + 1)) for size in sizes]
    made = []

    class Counted(Fraction):
        def __new__(cls, *of):
            made.append(of)
            return Fraction(*of)

    monkeypatch.setattr(state, "Fraction", Counted)
    told = state.balanced(correct, sizes)
    assert len(made) <= len(set(sizes)) + 1
    few = slice(0, 300)
    monkeypatch.undo()
    assert state.balanced(correct[few], sizes[few]) == sum(
        Fraction(hits, size) for hits, size in zip(correct[few], sizes[few], strict=True) if size
    )
    assert float(told) == pytest.approx(sum(hits / size for hits, size in zip(correct, sizes, strict=True) if size))


def test_margins_take_memory_by_classes_and_change_no_bit():
    counts = [max(5, 500 - 3 * c) for c in range(200)]
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(64, 200, generator=draw, requires_grad=True), torch.randint(200, (64,), generator=draw)
    constants = {}
    objective = Objective(LDAM(0.5, 30.0))
    loss = losses.criterion(objective, counts, constants=constants)(logits, labels, logits)
    assert constants and all(tensor.numel() <= len(counts) for tensor in constants.values())
    matrix = torch.as_tensor(np.diag(losses.margins(objective.loss, counts)), dtype=torch.float32)
    other = logits.detach().clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(30.0 * (other - matrix[labels]), labels)
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected) and torch.equal(logits.grad, other.grad)


# --- the benchmark ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "scaling", module)
        spec.loader.exec_module(module)
        yield module


def test_the_exponent_is_that_of_the_larger_half(scaling):
    assert scaling.exponent([(n, 7.0 if n < 100 else n**1.5) for n in (1, 10, 100, 1000)]) == pytest.approx(1.5)
    assert scaling.exponent([(n, 0.0) for n in (1, 10, 100)]) is None
    rows = [{"size": n, "seconds": n * 1e-3, "bytes": 10.0} for n in (1, 10, 100, 1000)]
    assert scaling.exponents(rows) == [pytest.approx(1.0), None]


def test_every_quantity_can_be_measured(scaling, monkeypatch, tmp_path):
    """Once, at its smallest size, in this process."""
    monkeypatch.setattr(scaling, "FOLDER", str(tmp_path))
    for quantity in scaling.QUANTITIES:
        quantity.ready(quantity.sizes[0])()
        assert list(quantity.sizes) == sorted(set(quantity.sizes))


def test_it_writes_numbers_and_a_plot(tmp_path):
    name = "LDAM loss, weighted"
    # In a process of its own: it forks, which a process whose autograd has threads for devices may not.
    command = [sys.executable, str(SCRIPT), "--smoke", "--only", name, "--out", str(tmp_path)]
    told = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, capture_output=True, text=True)
    rows = list(csv.DictReader((tmp_path / "scaling.csv").open(encoding="utf-8")))
    assert [row["quantity"] for row in rows] == [name, name] and all(float(row["seconds"]) > 0 for row in rows)
    assert {file.name for file in tmp_path.iterdir()} == {"scaling.csv", "scaling.png", "scaling.svg"}
    assert told.stdout.startswith(f"{name}: exponent of time ")
