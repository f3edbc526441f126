"""One step of the engine against the same step in float64, from states along a plain trajectory.

The plain trajectory is trained in the default memory format, which the framework's own operators serve alone. From each of its
states three steps are made on the same batch: the engine's, as an epoch of one batch; the plain one; and the plain one in
float64. The engine may differ from the last by at most twice what the plain step in 32-bit floats does.

A ReLU whose input is within rounding of 0 passes its gradient on or does not, and a single one moves the whole gradient a
hundred times as far as rounding does. Small batches are therefore chosen such that no input is that close in float64; of a
large one either step has as many.
"""

import copy
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from papers.unified_bound import PAPER
from replicate import losses
from replicate.data.longtail import Split
from replicate.engine import loop, numerics
from replicate.engine.keyed import generator
from replicate.grid import Programme, cells
from replicate.models import BACKBONES, build
from replicate.models.resnet_cifar import ResNet32
from replicate.protocol import LDAM, CrossEntropy, EffectiveNumber, Feed, Objective, VectorScaling

SEED, STATES, CLASSES = 3, 20, 10
COLUMN = next(column for column in PAPER.columns if column.name == "cifar10-lt/100")
#: Losses and SAM radii of the steps, in turn.
OBJECTIVES = (
    Objective(CrossEntropy()),
    Objective(VectorScaling(0.05, 1.0)),
    Objective(LDAM(0.5, 10.0), EffectiveNumber(0.9999)),
    Objective(CrossEntropy(), EffectiveNumber(0.99), mean="batch"),
    Objective(VectorScaling(0.15, 2.0)),
)
RADII = (None, 0.1)
#: How close to 0 a ReLU's input may be in float64, several times the rounding of one of size 1.
MARGIN = 1e-5


class ResNet8(ResNet32):
    """ResNet-32 with the first block of each width alone."""

    def __init__(self, channels=3):
        super().__init__(channels)
        self.blocks = nn.Sequential(*(self.blocks[place] for place in (0, 5, 10)))


@pytest.fixture
def resnet8(monkeypatch):
    monkeypatch.setattr("replicate.models.BACKBONES", {**BACKBONES, "resnet8": ResNet8})


def programme(backbone, batch):
    """An epoch a step: 20 batches of so many images, each with a loss of its own, every second one by SAM."""
    known = cells(PAPER, "table", columns=[COLUMN], methods=["CE"])[0].programme
    row = replace(known.epoch(6), batches=1, feed=Feed(batch))
    rows = [replace(row, objective=OBJECTIVES[k % len(OBJECTIVES)], sam_radius=RADII[k % len(RADII)]) for k in range(STATES)]
    start = replace(known.start, network=replace(known.start.network, backbone=backbone))
    return Programme(start, tuple((1, row) for row in rows))


def examples(digits, count, side):
    """At least so many digits in three colours, long-tailed, and one test image a class."""
    draw = np.random.default_rng(0)
    chosen = np.concatenate([np.flatnonzero(digits.train_labels == c)[: 170 - 17 * c] for c in range(CLASSES)])
    chosen = np.sort(np.resize(chosen, max(count, len(chosen))))
    chosen = chosen[np.argsort(digits.train_labels[chosen], kind="stable")]
    labels = digits.train_labels[chosen]
    large = np.kron(digits.train_images[chosen], np.ones((1, 1, side // 8, side // 8), dtype=np.uint8))
    images = (large * draw.integers(64, 256, (len(large), 3, 1, 1)) // 255).astype(np.uint8)
    counts = tuple(np.bincount(labels, minlength=CLASSES).tolist())
    test, half = np.arange(CLASSES), np.zeros(CLASSES, dtype=np.int8)
    return Split(images, labels, counts, None, None, images[:CLASSES], test, half, "")


class TooClose(Exception):
    """In float64 the input of a ReLU is within the margin."""


@pytest.fixture
def watched(monkeypatch):
    """ReLUs in float64 raise :class:`TooClose`."""
    original = functional.relu_

    def relu_(x):
        if x.dtype == torch.float64 and float(x.detach().abs().min()) < MARGIN:
            raise TooClose
        return original(x)

    monkeypatch.setattr(functional, "relu_", relu_)


def plain_step(model, momentum, images, labels, row, counts):
    """The step at length, in the model's own precision; ``momentum`` by name is replaced. Returns nothing."""
    named = dict(model.named_parameters())
    loss_of = losses.criterion(row.objective, counts, device=images.device, dtype=images.dtype)

    def gradients():
        features = model.backbone(images)
        loss = loss_of(model.head(features), labels, features)
        return torch.autograd.grad(loss, list(named.values()))

    model.train()
    found = gradients()
    with torch.no_grad():
        if row.sam_radius is not None:
            norm = torch.stack([gradient.norm() for gradient in found]).norm()
            kept = [parameter.clone() for parameter in named.values()]
            for parameter, gradient in zip(named.values(), found, strict=True):
                parameter += gradient * (row.sam_radius / (norm + 1e-12))
            with torch.enable_grad():
                found = gradients()
            for parameter, old in zip(named.values(), kept, strict=True):
                parameter.copy_(old)
        for (name, parameter), gradient in zip(named.items(), found, strict=True):
            change = gradient + row.weight_decay * parameter
            momentum[name] = change if name not in momentum else row.momentum * momentum[name] + change
            parameter -= row.rate * momentum[name]


def copied(model, like):
    """The same network in the default memory format, on the device and in the precision of these images."""
    other = copy.deepcopy(model).to(device=like.device, dtype=like.dtype)
    assert all(parameter.is_contiguous() for parameter in other.parameters())
    return other


def parameters(model):
    return torch.cat([parameter.detach().double().flatten() for parameter in model.parameters()])


def stepped(model, momentum, images, labels, row, counts):
    """Copies of the network and its momentum after a plain step, in the precision of the images."""
    other = copied(model, images)
    moved = {name: value.to(images.dtype) for name, value in momentum.items()}
    plain_step(other, moved, images, labels, row, counts)
    return other, moved


def errors(digits, programme, device, *, states=STATES, side):
    """For each state how far the plain step and the engine's one, each in 32-bit floats, are from that in float64, [2, states].

    Where ReLUs are watched, other batches are tried until none is too close."""
    batch = programme.epoch(1).feed.batch
    data = loop.DeviceData(examples(digits, batch, side), programme, device)
    plain = data.train(None).plain(0, len(data.train_labels)).contiguous()
    model = build(programme.start.network, programme.start.head, generator(SEED, "initialisation")).to(device)
    momentum = {}
    state = loop.start(programme, SEED, device)
    told = []
    for number in range(1, states + 1):
        row = programme.epoch(number)
        for seed in itertools.count(SEED):
            places = loop.shown(row, data.train_labels, seed, number).to(device)
            assert len(places) == batch
            shown = (plain[places], data.train_labels[places])
            try:
                exact, _ = stepped(model, momentum, shown[0].double(), shown[1], row, data.counts)
                break
            except TooClose:
                continue

        state.model.load_state_dict(model.state_dict())
        for name, parameter in state.model.named_parameters():
            if name in momentum:
                own = state.optimiser.state[parameter].setdefault("momentum_buffer", torch.empty_like(parameter.detach()))
                own.copy_(momentum[name])
        assert state.epoch == number - 1
        loop.train_epoch(state, row, data, seed)

        model, momentum = stepped(model, momentum, *shown, row, data.counts)  # the trajectory goes on from here
        told.append([float((parameters(other) - parameters(exact)).norm()) for other in (model, state.model)])
    return np.array(told).T


def assert_exact(plain, fast):
    assert (plain > 0).all() and (fast > 0).all()
    assert (fast <= 2 * plain).all(), [f"{ratio:.2f}" for ratio in fast / plain]


def test_a_step_is_as_exact_as_a_plain_one(digits, resnet8, watched, one_thread):
    assert_exact(*errors(digits, programme("resnet8", 16), torch.device("cpu"), side=16))


def test_a_step_that_is_less_exact_is_found(digits, resnet8, watched, one_thread, monkeypatch):
    """Images that are rounded to 18 bits are enough."""
    original = loop.step

    def rounded(state, images, *rest):
        return original(state, (images * 2.0**15).round() / 2.0**15, *rest)

    monkeypatch.setattr(loop, "step", rounded)
    with pytest.raises(AssertionError, match=r"\['"):
        assert_exact(*errors(digits, programme("resnet8", 16), torch.device("cpu"), states=2, side=16))


@pytest.mark.slow
def test_steps_of_the_real_size_are_as_exact_as_plain_ones(digits, two_threads):
    assert_exact(*errors(digits, programme("resnet32", 128), torch.device("cpu"), states=6, side=32))


@pytest.fixture
def strict():
    """32-bit floats alone: TensorFloat-32, which convolutions of one memory format may use and of the other not, would drown
    the differences that are looked for."""
    numerics.enter(numerics.Numerics("cuda", "float32-strict"))
    yield
    numerics.enter(numerics.Numerics("cuda"))


@pytest.mark.gpu
def test_a_step_on_a_gpu_is_as_exact_as_a_plain_one(digits, resnet8, watched, strict):
    assert_exact(*errors(digits, programme("resnet8", 16), torch.device("cuda"), side=16))


@pytest.mark.gpu
def test_steps_of_the_real_size_on_a_gpu_are_as_exact_as_plain_ones(digits, strict):
    assert_exact(*errors(digits, programme("resnet32", 128), torch.device("cuda"), side=32))
