"""Fisher's discriminant ratio, against arithmetic by hand and the formula at length."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.measures import features as held
from replicate.measures.fisher import fisher_discriminant_ratio, scatter


def tensors(features, labels):
    return torch.tensor(features, dtype=torch.float64), torch.tensor(labels)


def at_length(features, labels):
    """trace(S_W^-1 S_B) and what is dropped before and after, sample by sample, in float64."""
    overall = abs(features.mean()) * 1e-3
    constant = [bool((np.abs(column - column[0]) <= overall).all()) for column in features.T]
    features = features[:, ~np.array(constant)]
    d = features.shape[1]
    mean, within, between = features.mean(axis=0), np.zeros((d, d)), np.zeros((d, d))
    for label in np.unique(labels):
        own = features[labels == label]
        centre = own.mean(axis=0)
        between += len(own) * np.outer(centre - mean, centre - mean)
        for sample in own:
            within += np.outer(sample - centre, sample - centre)
    overall = abs(features.mean()) * 1e-3
    kept = [not bool((np.abs(column) <= overall).all()) for column in within.T]
    return float(np.trace(np.linalg.inv(within[kept][:, kept]) @ between[kept][:, kept]))


def test_one_dimension_by_hand():
    # Class 0: 0, 2, 4, mean 2; class 1: 10, 12, mean 11; all: mean 28/5 = 5.6.
    # S_W = 4 + 0 + 4 + 1 + 1 = 10; S_B = 3 * 3.6^2 + 2 * 5.4^2 = 38.88 + 58.32 = 97.2.
    features, labels = tensors([[0.0], [2.0], [4.0], [10.0], [12.0]], [0, 0, 0, 1, 1])
    assert fisher_discriminant_ratio(features, labels) == pytest.approx(9.72, rel=1e-14)
    # Mean of class means (2 + 11)/2 = 6.5: S_B = 3 * 4.5^2 + 2 * 4.5^2 = 101.25.
    assert scatter(features, labels).ratio(of_class_means=True) == pytest.approx(10.125, rel=1e-14)


def test_two_dimensions_by_hand():
    # Class 0: (0,0), (2,2), mean (1,1); class 1: (4,1), (4,3), mean (4,2); all: (2.5, 1.5).
    # S_W = [[2,2],[2,2]] + [[0,0],[0,2]] = [[2,2],[2,4]], inverse [[1,-.5],[-.5,.5]].
    # S_B = 2 * 2 * (1.5,.5)(1.5,.5)^T = [[9,3],[3,1]]; trace = 9 - 1.5 - 1.5 + .5 = 6.5.
    features, labels = tensors([[0.0, 0.0], [2.0, 2.0], [4.0, 1.0], [4.0, 3.0]], [0, 0, 1, 1])
    assert fisher_discriminant_ratio(features, labels) == pytest.approx(6.5, rel=1e-14)
    # The ratio has no unit: turning and stretching changes nothing, nor does the order of samples or the classes' numbers.
    turned = features @ torch.tensor([[3.0, 1.0], [-1.0, 0.5]], dtype=torch.float64)
    assert fisher_discriminant_ratio(turned[[2, 0, 3, 1]], torch.tensor([7, 3, 7, 3])) == pytest.approx(6.5, rel=1e-12)


def test_dimensions_that_never_differ_are_dropped_first():
    # The mean of all values is (sum 33 + 4 * 100)/8 = 54.125; a feature of 100 +- .05 is within .054 of the first sample's.
    one, _ = tensors([[0.0], [2.0], [4.0], [27.0]], [0])
    labels = torch.tensor([0, 0, 1, 1])
    plain = fisher_discriminant_ratio(one, labels)
    still = torch.tensor([[100.0], [100.05], [99.95], [100.0]], dtype=torch.float64)
    assert scatter(torch.cat([one, still], dim=1), labels).dimensions == 1
    assert fisher_discriminant_ratio(torch.cat([one, still], dim=1), labels) == plain
    moving = torch.tensor([[100.0], [100.06], [99.9], [100.0]], dtype=torch.float64)
    assert scatter(torch.cat([one, moving], dim=1), labels).dimensions == 2


def test_dimensions_without_scatter_are_dropped_afterwards():
    # Within classes the second feature differs nowhere: its column of S_W is 0 and S_W could not be inverted.
    # First feature alone: class means 1 and 5, S_W = 4, S_B = 2 * 2^2 * 2 = 16.
    features, labels = tensors([[0.0, 1.0], [2.0, 1.0], [4.0, 9.0], [6.0, 9.0]], [0, 0, 1, 1])
    assert scatter(features, labels).dimensions == 1
    assert fisher_discriminant_ratio(features, labels) == pytest.approx(4.0, rel=1e-14)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), d=st.integers(1, 6), classes=st.integers(2, 4), offset=st.sampled_from([0.0, 1.0, -50.0]))
def test_equals_the_formula_at_length(seed, d, classes, offset):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), np.arange(classes), rng.integers(classes, size=20)])
    features = rng.normal(size=(len(labels), d)) + rng.normal(size=(classes, d))[labels] + offset
    features[:, rng.random(d) < 0.2] = 3.0
    found = fisher_discriminant_ratio(torch.from_numpy(features), torch.from_numpy(labels))
    if (features == 3.0).all():
        assert found is None
    else:
        assert found == pytest.approx(at_length(features, labels), rel=1e-7)


def test_pieces_and_precision_of_features_do_not_matter(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    features, labels = torch.randn(101, 5, generator=rng) + 1000, torch.arange(101) % 3
    whole = fisher_discriminant_ratio(features, labels)
    monkeypatch.setattr(held, "CHUNK", 7)
    assert fisher_discriminant_ratio(features, labels) == pytest.approx(whole, rel=1e-10)
    assert fisher_discriminant_ratio(features.double(), labels) == pytest.approx(whole, rel=1e-10)


def test_none_where_within_class_scatter_is_singular():
    labels = torch.tensor([0, 0, 1, 1])
    assert fisher_discriminant_ratio(torch.ones(4, 2), labels) is None  # nothing is left
    assert fisher_discriminant_ratio(torch.randn(4, 3), labels) is None  # three dimensions, rank two at most
    assert fisher_discriminant_ratio(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])) is None  # one sample a class
    assert fisher_discriminant_ratio(torch.tensor([[0.0], [torch.nan], [1.0], [2.0]]), labels) is None
    # Equal features in twos: the rank would do, but S_W has equal rows.
    column = torch.tensor([[0.0], [1.0], [4.0], [2.0]], dtype=torch.float64)
    assert fisher_discriminant_ratio(torch.cat([column, column], dim=1), labels) is None
    with pytest.raises(ValueError, match="no feature"):
        fisher_discriminant_ratio(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
