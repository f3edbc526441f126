"""Propositions 1 to 3 of Lu et al. 2024 (arXiv:2403.00250), as far as they can be stated without the text of the paper.

At hand were its abstract, Definition 1 (Logits Magnitude), the Regularized Standard Deviation sigma(z_i)/L_i, Eq. 13 (the
retargeted loss) and a line on what each proposition is about; Eqs 9 to 12 were not. What a test asserts is therefore derived
here from these definitions, with its assumptions in its docstring, and claims no more of the paper than that.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ndtr

from replicate import losses
from replicate.measures.logits import logit_statistics
from replicate.protocol import CrossEntropy, LogitsRetargeting, Objective

SEEDS = st.integers(0, 2**32 - 1)
#: Cross-entropy, and the retargeted loss for any delta.
LOSSES = st.one_of(st.just(CrossEntropy()), st.builds(LogitsRetargeting, st.floats(0, 0.99)))


def problem(seed, classes=4, images=12, d=3):
    """Features [N, d], labels [N] with every class among them, class vectors [C, d] and bias [C], in float64."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.concatenate([np.arange(classes), rng.integers(classes, size=images - classes)]))
    drawn = (rng.normal(size=(images, d)), rng.normal(size=(classes, d)) * 2, rng.normal(size=classes))
    features, weight, bias = map(torch.from_numpy, drawn)
    return features, torch.from_numpy(labels), weight, bias


# --- Proposition 1: the bias, given features and class vectors --------------------------------------------------------


@given(SEEDS, LOSSES)
@settings(max_examples=50, deadline=None)
def test_1_the_hessian_in_the_bias_is_the_mean_covariance_of_the_predicted_class(seed, loss):
    """On fixed features and class vectors, for any targets that sum to 1: the Hessian is the mean of diag(p) - p p^T over
    images, whatever the targets, so it is positive semi-definite and the loss convex in the bias. A constant bias is in its
    null space: it moves no probability."""
    features, labels, weight, bias = problem(seed)
    loss_of = losses.criterion(Objective(loss), [1] * 4, dtype=torch.float64)
    plain = features @ weight.T
    found = torch.autograd.functional.hessian(lambda b: loss_of(plain + b, labels, features), bias)
    p = (plain + bias).softmax(dim=1)
    expected = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert torch.linalg.eigvalsh(found)[0] >= -1e-12
    torch.testing.assert_close(
        found @ torch.ones(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-12
    )


@given(SEEDS, LOSSES, st.floats(0.1, 100))
@settings(max_examples=100, deadline=None)
def test_1_the_loss_is_convex_in_the_bias_along_any_segment(seed, loss, length):
    """Without derivatives: f((x + y) / 2) <= (f(x) + f(y)) / 2, and in class vectors and bias together too."""
    features, labels, weight, bias = problem(seed)
    _, _, other_weight, other = problem(seed ^ 1)
    loss_of = losses.criterion(Objective(loss), [1] * 4, dtype=torch.float64)

    def at(w, b):
        return float(loss_of(features @ w.T + b, labels, features))

    far = bias + length * other
    assert at(weight, (bias + far) / 2) <= (at(weight, bias) + at(weight, far)) / 2 + 1e-9
    both = at((weight + other_weight) / 2, (bias + far) / 2)
    assert both <= (at(weight, bias) + at(other_weight, far)) / 2 + 1e-9


# --- Proposition 2: one vector added to every class vector ------------------------------------------------------------


def magnitudes(logits, labels):
    """Logits Magnitude of every class [C] (Def. 1), by masks."""
    classes = logits.shape[1]
    return torch.stack([logits[labels == i, i].mean() - logits[labels != i, i].mean() for i in range(classes)])


@given(SEEDS, st.floats(0.01, 100))
@settings(max_examples=100, deadline=None)
def test_2_a_shift_of_all_class_vectors_moves_no_probability_and_magnitudes_by_an_identity(seed, length):
    """w_i -> w_i + v for all i: every logit of an image moves by v.f, so softmax stays. L_i moves by v.(mean feature of class i
    less mean feature of the others), exactly. That is zero where class means coincide; in general L_i itself does move.

    What stays is the sum over classes weighted by n_i (1 - n_i/N), in a balanced test set the plain mean of L; and, for a
    random v of mean zero that is independent of the images, the expectation of every L_i, here over v and -v."""
    features, labels, weight, bias = problem(seed, images=40)
    v = length * problem(seed ^ 1)[0][0]
    before, after, opposite = (features @ (weight + sign * v).T + bias for sign in (0, 1, -1))
    torch.testing.assert_close(after.softmax(dim=1), before.softmax(dim=1), rtol=1e-9, atol=1e-12)
    change = magnitudes(after, labels) - magnitudes(before, labels)
    means = torch.stack([features[labels == i].mean(dim=0) - features[labels != i].mean(dim=0) for i in range(4)])
    near = {"rtol": 1e-9, "atol": 1e-10 * length}
    torch.testing.assert_close(change, means @ v, **near)
    counts = torch.bincount(labels, minlength=4).double()
    torch.testing.assert_close(
        (counts * (1 - counts / 40) * change).sum(), torch.tensor(0.0, dtype=torch.float64), rtol=0, atol=1e-9 * length
    )
    torch.testing.assert_close(
        (magnitudes(after, labels) + magnitudes(opposite, labels)) / 2, magnitudes(before, labels), **near
    )


@given(SEEDS)
@settings(max_examples=50, deadline=None)
def test_2_balanced_and_coinciding_class_means(seed):
    """The two special cases, and that no bias enters any L_i; the Measure tells the same to its five digits."""
    features, _, weight, bias = problem(seed, images=40)
    labels, v = torch.arange(40) % 4, 3 * problem(seed ^ 1)[0][0]
    plain, shifted = features @ weight.T, features @ (weight + v).T
    assert float((magnitudes(shifted, labels) - magnitudes(plain, labels)).sum()) == pytest.approx(0, abs=1e-10)
    torch.testing.assert_close(magnitudes(plain + bias, labels), magnitudes(plain, labels), rtol=1e-9, atol=1e-12)
    means = torch.stack([features[labels == i].mean(dim=0) for i in range(4)])
    centred = features - means[labels]
    torch.testing.assert_close(
        magnitudes(centred @ (weight + v).T, labels), magnitudes(centred @ weight.T, labels), rtol=0, atol=1e-12
    )
    told = logit_statistics(shifted + bias, labels, 4, weight + v)["magnitude"]
    assert told == pytest.approx(magnitudes(shifted, labels).tolist(), rel=1e-4)


# --- Proposition 3: two normals ---------------------------------------------------------------------------------------

SPREADS, GAPS = st.floats(0.05, 3), st.floats(0.1, 20)


def accuracy(positive, negative, others):
    """Chance that a positive logit N(mu_+, sd_+) exceeds ``others`` independent negative ones N(mu_-, sd_-), each pair (mean,
    sd): the integral over t ~ N(0, 1) of Phi((mu_+ + sd_+ t - mu_-) / sd_-)^others."""
    (mean, sd), (other_mean, other_sd) = positive, negative

    def density(t):
        return math.exp(-t * t / 2) / math.sqrt(2 * math.pi) * float(ndtr((mean + sd * t - other_mean) / other_sd)) ** others

    return quad(density, -9, 9, points=[0.0, max(-9.0, min(9.0, (other_mean - mean) / sd))], limit=200)[0]


@given(GAPS, SPREADS, SPREADS, st.floats(-10, 10), st.integers(1, 99))
@settings(max_examples=50, deadline=None)
def test_3_accuracy_depends_on_logits_through_the_regularized_standard_deviation_alone(gap, r, other_r, mean, others):
    """Derived. Positives and negatives are independent and normal, with L = mu_+ - mu_- > 0 and r = sd / L for each: the
    chance to be right is that of N(1, r_+) against N(0, r_-), whatever L and mu_-. Against one negative it is
    Phi(1 / sqrt(r_+^2 + r_-^2))."""
    found = accuracy((mean + gap, r * gap), (mean, other_r * gap), others)
    assert found == pytest.approx(accuracy((1, r), (0, other_r), others), abs=1e-6)
    if others == 1:
        assert found == pytest.approx(float(ndtr(1 / math.hypot(r, other_r))), abs=1e-6)


@given(SPREADS, SPREADS, st.floats(0.2, 0.95), st.integers(1, 99))
@settings(max_examples=50, deadline=None)
def test_3_a_smaller_spread_of_both_errs_less(r, other_r, factor, others):
    """Derived: r_+ and r_- times one factor below 1 raise the chance to be right, against any number of negatives."""
    better, before = (accuracy((1, r * f), (0, other_r * f), others) for f in (factor, 1))
    assert better > before - 1e-7


def test_3_a_smaller_spread_of_positives_alone_may_err_more():
    """What does not hold: against many negatives that are mostly not exceeded, spread of the positives is what wins."""
    assert accuracy((1, 0.1), (0, 1), 1) > accuracy((1, 1), (0, 1), 1)
    assert accuracy((1, 0.1), (0, 1), 99) < accuracy((1, 1), (0, 1), 99)


@pytest.mark.parametrize("others", [1, 9])
@pytest.mark.parametrize("gap, sd, other_sd", [(1.0, 0.6, 0.3), (4.0, 2.4, 1.2), (1.1, 0.8, 0.8)])
def test_3_by_simulation(others, gap, sd, other_sd):
    """The formula against drawn logits, within five standard errors; all logits times a constant change no decision."""
    rng, number = np.random.default_rng(0), 100_000
    logits = np.concatenate([rng.normal(gap - 2, sd, (number, 1)), rng.normal(-2, other_sd, (number, others))], axis=1)
    right = logits.argmax(axis=1) == 0
    expected = accuracy((gap - 2, sd), (-2, other_sd), others)
    assert abs(right.mean() - expected) < 5 * math.sqrt(expected * (1 - expected) / number)
    assert ((0.125 * logits).argmax(axis=1) == 0).tolist() == right.tolist()


def test_3_needs_magnitudes_that_are_balanced():
    """Derived: what an image of class y meets are the negatives of *other* classes j, so the chance to be confused with j is
    Phi(-(mu_+y - mu_-j) / hypot(sd_+y, sd_-j)). It is a matter of r_y and r_j alone where L and mu_- are equal over classes.
    All of class j times 4 leaves r_j as it was, yet more images of y are lost to it; so "when it is nearly balanced"
    (abstract) is needed. By simulation of three classes, whose statistics are those of the Measure."""
    rng, each = np.random.default_rng(1), 40_000
    labels = np.arange(3 * each) % 3
    own = np.eye(3, dtype=bool)[labels]
    balanced = np.where(own, rng.normal(1, 0.6, own.shape), rng.normal(0, 0.3, own.shape))
    unbalanced = balanced * [1, 1, 4]
    of_first = labels == 0
    lost = [(z[of_first, 2] > z[of_first, 0]).mean() for z in (balanced, unbalanced)]
    expected = [float(ndtr(-1 / math.hypot(0.6, scale * 0.3))) for scale in (1, 4)]
    error = [5 * math.sqrt(p * (1 - p) / each) for p in expected]
    assert abs(lost[0] - expected[0]) < error[0] and abs(lost[1] - expected[1]) < error[1] and lost[1] > 2 * lost[0]
    told = [
        logit_statistics(torch.from_numpy(z), torch.from_numpy(labels), 3, torch.ones(3, 1)) for z in (balanced, unbalanced)
    ]
    ratios = [[sd / m for sd, m in zip(t["sd"], t["magnitude"], strict=True)] for t in told]
    assert ratios[1] == pytest.approx(ratios[0], rel=1e-4)
    assert told[1]["magnitude"][2] == pytest.approx(4 * told[0]["magnitude"][2], rel=1e-4)
