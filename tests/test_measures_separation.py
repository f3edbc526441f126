"""Cosines, norms, batch norm, random layer and forgetting, against arithmetic by hand."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from replicate.measures import forgetting, separation
from replicate.measures.features import class_means, json_data

HALF = 0.5**0.5
# Class 0: (1,0) and (0,2); class 1: none; class 2: (3,3).
FEATURES, LABELS = torch.tensor([[1.0, 0.0], [3.0, 3.0], [0.0, 2.0]]), torch.tensor([0, 2, 0])


def test_class_cosines_by_hand():
    # Within class 0 the cosines of all four ordered pairs are 1, 0, 0, 1; with class 2 they are both cos 45 degrees.
    found = separation.class_cosines(FEATURES, LABELS, 3)
    assert found[0, 0] == pytest.approx(0.5) and found[2, 2] == pytest.approx(1)
    assert found[0, 2] == pytest.approx(HALF) and found[2, 0] == pytest.approx(HALF)
    assert found[1].isnan().all() and found[:, 1].isnan().all()
    told = json_data(separation.cosine_summary(found))
    assert told["inter"] == pytest.approx(HALF) and told["intra"] == pytest.approx(0.75)
    assert told["matrix"] == [[0.5, None, 0.7071], [None, None, None], [0.7071, None, 1.0]]
    json.dumps(told, allow_nan=False)


def test_class_cosines_are_means_over_all_pairs():
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(40, 6)), rng.integers(3, size=40)
    features[5] = 0  # has no direction: cosine 0 with everything
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-300)
    pairs = units @ units.T
    expected = [[pairs[labels == a][:, labels == b].mean() for b in range(3)] for a in range(3)]
    found = separation.class_cosines(torch.from_numpy(features), torch.from_numpy(labels), 3)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-14)


def test_both_readings_of_a_class_feature_norm():
    # Class 0: norms 1 and 2, mean (.5, 1); class 2: norm and norm of the mean are both 3 sqrt 2.
    found = separation.feature_norms(FEATURES, LABELS, 3)
    assert found["mean_of_norms"].tolist() == pytest.approx([1.5, math.nan, 18**0.5], nan_ok=True)
    assert found["norm_of_mean"].tolist() == pytest.approx([1.25**0.5, math.nan, 18**0.5], nan_ok=True)
    assert class_means(FEATURES, LABELS, 3)[0].tolist() == [0.5, 1.0]


def test_norm_fit_by_hand():
    # Priors 1/2, 1/4, 1/4 with norms 4, 1, 4: on a log2 scale x = -1, -2, -2 and y = 2, 0, 2. Means -5/3 and 4/3;
    # slope = sum (x-mx)(y-my) / sum (x-mx)^2 = (2/3*2/3 + (-1/3)(-4/3) + (-1/3)(2/3)) / (4/9+1/9+1/9) = (6/9)/(6/9) = 1,
    # intercept 4/3 + 5/3 = 3; residuals 0, -1, 1: r^2 = 1 - 2 / (4/9 + 16/9 + 4/9) = 1 - 3/4.
    fit = separation.norm_fit([4.0, 1.0, 4.0], [20, 10, 10])
    assert fit == {"c_0": pytest.approx(8), "gamma_0": pytest.approx(1), "r_squared": pytest.approx(0.25)}
    counts = [50, 30, 7, 1]
    exact = [2.5 * (n / 88) ** -0.3 for n in counts]
    assert separation.norm_fit(exact, counts) == {
        "c_0": pytest.approx(2.5),
        "gamma_0": pytest.approx(-0.3),
        "r_squared": pytest.approx(1),
    }


def test_norm_fit_of_degenerate_norms():
    nothing = {"c_0": None, "gamma_0": None, "r_squared": None}
    assert separation.norm_fit([1.0, 2.0], [10, 10]) == nothing  # balanced: no slope
    assert separation.norm_fit([1.0, 0.0, math.nan], [10, 5, 0]) == nothing  # one class is usable
    flat = separation.norm_fit([2.0, 2.0, 2.0], [10, 5, 1])
    assert flat["gamma_0"] == 0 and flat["c_0"] == pytest.approx(2) and flat["r_squared"] is None


def test_classifier_norms_and_their_ratio():
    told = separation.classifier_norms(torch.tensor([[3.0, 4.0], [0.0, 1.0]], requires_grad=True))
    assert told["norms"].tolist() == [5.0, 1.0] and told["ratio"].tolist() == [1.0, 0.2]
    assert json_data(separation.classifier_norms(torch.zeros(2, 2)))["ratio"] == [None, None]


def test_batch_norm_by_hand_and_constant_batch_norm():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.ReLU())
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([1.0, 3.0]))
        model[3].bias.copy_(torch.tensor([-0.5, 0.25]))
    told = json_data(separation.batch_norm_summary(model))
    first, top = told["layers"]
    assert first == {"name": "1", "scale_mean": 2, "scale_sd": 1, "shift_mean": 0, "shift_variance": 0}
    assert top == told["top"]
    # Mean -.125, both .375 away from it.
    assert top == {"name": "3", "scale_mean": 1, "scale_sd": 0, "shift_mean": -0.125, "shift_variance": 0.140625}
    assert separation.batch_norm_summary(nn.Linear(2, 2)) == {"layers": [], "top": None}


def test_random_layer_is_uniform_keyed_and_rectified():
    features = torch.eye(64)
    found = separation.random_layer(torch.cat([features, torch.zeros(1, 64)]), seed=3)
    assert torch.equal(found, separation.random_layer(torch.cat([features, torch.zeros(1, 64)]), seed=3))
    assert not torch.equal(found, separation.random_layer(torch.cat([features, torch.zeros(1, 64)]), seed=4))
    bias = found[-1]  # the rectified bias; each other row has a column of the weight added before it is rectified
    assert float(bias.max()) <= 1 / 8 and 0.3 < float((bias == 0).float().mean()) < 0.7
    assert float(found.max()) <= 2 / 8 and float(found.min()) == 0
    # Where the bias is above 0 it is known, and what is added to it is weight, uniform in +-1/8.
    shown = found[:-1] - bias
    assert float(shown[(found[:-1] > 0) & (bias > 0)].min()) >= -1 / 8


def test_forgetting_by_hand():
    # Image 0: right, wrong, right, wrong: twice. Image 1: never right in four epochs. Image 2: never wrong. Class 1 has none.
    forgotten, ever = torch.tensor([2, 0, 0], dtype=torch.int32), torch.tensor([True, False, True])
    assert forgetting.forgetting_scores(forgotten, ever, 4).tolist() == [2.0, 4.0, 0.0]
    told = forgetting.forgetting_of_classes(forgotten, ever, 4, torch.tensor([0, 0, 2]), 3)
    assert told == {"score": [3.0, None, 0.0], "never_correct": [1, 0, 0], "epochs": 4}


def test_json_data_is_plain_and_finite():
    told = json_data(
        {
            1: np.float64(0.5),
            "a": torch.tensor([1.0, torch.inf]),
            "b": (np.int64(2), np.nan, True, None, "x"),
            "c": torch.tensor(3),
        }
    )
    assert told == {"1": 0.5, "a": [1.0, None], "b": [2, None, True, None, "x"], "c": 3}
    assert json.loads(json.dumps(told, allow_nan=False)) == told
