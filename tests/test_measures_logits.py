"""Logits class by class: by hand, against means over masks, and as a Measure of trained states."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from papers.unified_bound import DIGITS_LT, PAPER
from replicate import grid
from replicate.data.longtail import split
from replicate.engine import loop
from replicate.engine.loop import DeviceData, Examples
from replicate.measures import MEASURES, logits
from replicate.models import Classifier
from replicate.models.heads import CosineHead, ScalingHead

LISTS = ("magnitude", "positive_mean", "positive_sd", "negative_mean", "negative_sd", "sd", "norm")


def test_by_hand():
    # Class 0: positives 4, 2 (mean 3, sd 1), negatives 0, -2 (mean -1, sd 1): L = 4; all: mean 1, deviations 3, 1, -1, -3.
    # Class 1: positives 1, 1, negatives 1, 1: L = 0 and no spread.
    z = torch.tensor([[4.0, 1.0], [0.0, 1.0], [2.0, 1.0], [-2.0, 1.0]])
    weight, bias = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([0.5, -1.0])
    told = logits.logit_statistics(z, torch.tensor([0, 1, 0, 1]), 2, weight, bias)
    assert told == {
        "magnitude": [4.0, 0.0],
        "positive_mean": [3.0, 1.0],
        "positive_sd": [1.0, 0.0],
        "negative_mean": [-1.0, 1.0],
        "negative_sd": [1.0, 0.0],
        "sd": [2.2361, 0.0],  # sqrt 5
        "norm": [5.0, 0.0],
        "bias": [0.5, -1.0],
        "count": [2, 2],
    }
    assert "bias" not in logits.logit_statistics(z, torch.tensor([0, 1, 0, 1]), 2, weight)


@pytest.mark.parametrize("shift", [0.0, -3000.0])
def test_against_means_over_masks(shift):
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=300)
    z = (rng.normal(size=(300, 6)) * rng.uniform(0.01, 3, size=6) + shift).astype(np.float32)
    weight = rng.normal(size=(6, 4))
    told = logits.logit_statistics(torch.from_numpy(z), torch.from_numpy(labels), 6, torch.from_numpy(weight))
    exact = z.astype(np.float64)
    for i in range(5):
        own, others = exact[labels == i, i], exact[labels != i, i]
        expected = (own.mean() - others.mean(), own.mean(), own.std(), others.mean(), others.std(), exact[:, i].std())
        assert [told[name][i] for name in LISTS[:6]] == pytest.approx(expected, rel=1e-4), i
    assert told["norm"] == pytest.approx(np.linalg.norm(weight, axis=1), rel=1e-4)
    # Class 5 has no image: what is about its own is not there.
    assert [told[name][5] for name in LISTS[:3]] == [None] * 3 and told["count"][5] == 0
    assert told["negative_mean"][5] == pytest.approx(exact[:, 5].mean(), rel=1e-4)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_measure_of_100_classes_is_small():
    draw = torch.Generator().manual_seed(0)
    z, labels = torch.randn(2000, 100, generator=draw) * 0.1 - 0.4, torch.arange(2000) % 100
    told = logits.logit_statistics(z, labels, 100, torch.randn(100, 8, generator=draw), torch.randn(100, generator=draw))
    assert len(json.dumps(told, separators=(",", ":"))) < 8192


def test_class_vectors_of_every_head():
    linear, cosine, scaling = nn.Linear(2, 3), CosineHead(2, 3), ScalingHead(2, 3)
    with torch.no_grad():
        for head in (linear, cosine, scaling):
            head.weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 1.0], [1.0, 0.0]]))
        scaling.scales.copy_(torch.tensor([2.0, -3.0, 0.0]))
        scaling.bias.fill_(0.25)
    assert logits.class_vectors(linear)[0].norm(dim=1).tolist() == [5.0, 1.0, 1.0]
    assert logits.class_vectors(cosine)[0].norm(dim=1).tolist() == [5.0, 1.0, 1.0]
    vectors, bias = logits.class_vectors(scaling)
    assert vectors.norm(dim=1).tolist() == [10.0, 3.0, 0.0] and bias.tolist() == [0.25] * 3
    assert logits.class_vectors(linear)[1] is linear.bias and logits.class_vectors(cosine)[1] is None


class Pixels:
    """A feeder of images that are ready."""

    def __init__(self, images):
        self._images, self.shape = images, images.shape[1:]

    def __len__(self):
        return len(self._images)

    def plain(self, first, last):
        return self._images[first:last]


class Flat(nn.Module):
    """Pixels as features."""

    def forward(self, images):
        return images.flatten(1)


def test_logits_are_averaged_over_an_image_and_its_mirror_image():
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(7, 1, 2, 2, generator=draw)
    feeder = Pixels(images)
    head = CosineHead(4, 3)
    with torch.no_grad():
        head.weight.normal_(generator=draw)
    model = Classifier(Flat(), head)
    once, both = (Examples(feeder, torch.zeros(7, dtype=torch.int64), mirrored=mirrored) for mirrored in (False, True))
    plain, flipped = head(images.flatten(1)), head(images.flip(-1).flatten(1))
    torch.testing.assert_close(logits.evaluated_logits(model, once), plain)
    # Of logits: the cosine of the mean feature would be another number.
    torch.testing.assert_close(logits.evaluated_logits(model, both), (plain + flipped) / 2)
    assert logits.image_logits(model, both, 4) == pytest.approx(((plain + flipped) / 2)[4].tolist())
    assert logits.image_logits(model, once, 6) == pytest.approx(plain[6].tolist())


@pytest.fixture(scope="module")
def trained(digits):
    cell = grid.cells(PAPER, "table", columns=[DIGITS_LT], methods=["CE"], quick=True)[0]
    data = DeviceData(split(digits, cell.programme.start.data), cell.programme, torch.device("cpu"))
    state = loop.start(cell.programme, cell.seed, data.device)
    loop.train_epoch(state, cell.programme.epoch(1), data, cell.seed)
    return state, data, cell


def test_the_measure_is_about_test_images_and_is_json(trained):
    state, data, _ = trained
    told = MEASURES["logits"](*trained)
    with torch.no_grad():
        z = state.handed_over()(data.test.feeder.plain(0, len(data.test)))
    own = z[data.test.labels == 3, 3].mean() - z[data.test.labels != 3, 3].mean()
    assert told["magnitude"][3] == pytest.approx(float(own), rel=1e-3)
    assert told["epoch"] == 1 and sum(told["count"]) == len(data.test)
    assert json.loads(json.dumps(told, allow_nan=False)) == told


def test_a_state_may_bring_its_test_logits(trained):
    _, data, cell = trained
    head = nn.Linear(3, 10)
    z = torch.randn(len(data.test), 10, generator=torch.Generator().manual_seed(0))
    light = SimpleNamespace(test_logits=z, handed_over=lambda: SimpleNamespace(head=head), handed_over_epoch=7)
    told = logits.measure(light, data, cell)
    assert told == {"epoch": 7, **logits.logit_statistics(z, data.test.labels, 10, head.weight, head.bias)}
