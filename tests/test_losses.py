"""Every loss and weight against a float64 formula, and against the check values computed from the papers' class counts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from papers.unified_bound import PAPER
from replicate import losses
from replicate.protocol import LDAM, CrossEntropy, EffectiveNumber, Focal, InversePrior, Objective, VectorScaling

COUNTS = (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)


def softmax_loss(z, y):
    """-log softmax in float64, one row."""
    z = np.asarray(z, dtype=np.float64)
    return math.log(np.exp(z - z.max()).sum()) + z.max() - z[y]


def formula(objective, z, y):
    """The training loss by the formulas of the papers, image by image, in plain Python."""
    n = np.asarray(COUNTS[: z.shape[1]], dtype=np.float64)
    prior = n / n.sum()
    weights = np.ones(len(n))
    if isinstance(objective.weights, EffectiveNumber):
        weights = np.array([(1 - objective.weights.beta) / (1 - objective.weights.beta**k) for k in n])
        weights *= len(n) / weights.sum()
    elif isinstance(objective.weights, InversePrior):
        weights = prior**-objective.weights.nu
        weights *= len(n) / weights.sum()
    each = []
    for row, label in zip(z, y, strict=True):
        row = row.copy()
        if isinstance(objective.loss, LDAM):
            margin = 0.5 * n[label] ** -0.25 / (n**-0.25).max()
            row[label] -= margin
            row = 30 * row
        elif isinstance(objective.loss, VectorScaling):
            row = row * (n / n.max()) ** objective.loss.gamma + objective.loss.tau * np.log(prior)
        each.append(softmax_loss(row, label))
    each = np.array(each)
    of_image = weights[y]
    if isinstance(objective.loss, Focal):
        weighted = each * of_image
        return float(((1 - np.exp(-weighted)) ** objective.loss.gamma * weighted).mean())
    if objective.mean == "batch":
        return float((each * of_image).sum() / len(y))
    return float((each * of_image).sum() / of_image.sum())


LOSSES = st.sampled_from([CrossEntropy(), LDAM(), Focal(1.0), Focal(2.5), VectorScaling(0.0, 1.0), VectorScaling(0.25, 0.5)])
WEIGHTS = st.sampled_from([None, EffectiveNumber(0.9999), EffectiveNumber(0.9), InversePrior(0.15), InversePrior(3.0)])


@settings(max_examples=60, deadline=None)
@given(
    loss=LOSSES,
    weights=WEIGHTS,
    mean=st.sampled_from(["weights", "batch"]),
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 9),
)
def test_losses_equal_their_float64_formula(loss, weights, mean, seed, batch):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(batch, 10)), rng.integers(0, 10, batch)
    objective = Objective(loss, weights, mean)
    computed = losses.criterion(objective, COUNTS, dtype=torch.float64)(torch.from_numpy(z), torch.from_numpy(y), None)
    assert float(computed) == pytest.approx(formula(objective, z, y), rel=1e-10)


@pytest.mark.parametrize("loss", [CrossEntropy(), LDAM(), VectorScaling(0.05, 1.0), Focal()])
def test_float32_losses_stay_near_float64(loss):
    rng = np.random.default_rng(1)
    z, y = rng.normal(size=(128, 10)), rng.integers(0, 10, 128)
    objective = Objective(loss, EffectiveNumber(0.9999))
    computed = losses.criterion(objective, COUNTS)(torch.from_numpy(z).float(), torch.from_numpy(y), None)
    assert float(computed) == pytest.approx(formula(objective, z, y), rel=1e-5)


def test_check_values_of_weights_margins_and_scales():
    drw = losses.class_weights(EffectiveNumber(0.9999), COUNTS)
    assert drw.round(4).tolist() == [0.0506, 0.0769, 0.1211, 0.1950, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]
    adrw = losses.class_weights(InversePrior(0.15), COUNTS)
    assert adrw.round(4).tolist() == [0.6909, 0.7461, 0.8056, 0.8699, 0.9394, 1.0142, 1.0951, 1.1826, 1.2777, 1.3786]
    margins = losses.margins(LDAM(), COUNTS)
    assert margins.round(4).tolist() == [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5000]
    beta, delta = losses.scales_and_shifts(VectorScaling(0.05, 1.0), COUNTS)
    assert beta.round(4).tolist() == [1.0, 0.9747, 0.9501, 0.9261, 0.9027, 0.8799, 0.8577, 0.8360, 0.8147, 0.7943]
    assert delta.round(4).tolist() == [-0.9087, -1.4206, -1.9326, -2.4440, -2.9567, -3.4675, -3.9792, -4.4915, -5.0071, -5.5139]


def test_check_values_on_cifar100():
    counts = next(c for c in PAPER.columns if c.name == "cifar100-lt/100").data.class_counts()
    drw = losses.class_weights(EffectiveNumber(0.9999), counts)
    assert (round(drw[0], 4), round(drw[-1], 4)) == (0.0449, 4.3783)
    # The constant C = max_margin * N_min^(1/4) of the margin C / N^(1/4).
    assert losses.margins(LDAM(), counts)[0] * counts[0] ** 0.25 == pytest.approx(0.74767, abs=5e-6)


@pytest.mark.parametrize(("nu", "mean_weight"), [(0.15, 0.779), (0.75, 0.249), (1.0, 0.162), (3.0, 0.049), (None, 0.171)])
def test_mean_weight_of_an_image_shrinks_as_the_weighted_mean_quirk_says(nu, mean_weight):
    weights = losses.class_weights(EffectiveNumber(0.9999) if nu is None else InversePrior(nu), COUNTS)
    assert float((weights * COUNTS).sum() / sum(COUNTS)) == pytest.approx(mean_weight, abs=5e-4)


@settings(deadline=None)
@given(weights=WEIGHTS.filter(bool), counts=st.lists(st.integers(1, 5000), min_size=2, max_size=20))
def test_weights_sum_to_the_number_of_classes_and_rarer_is_never_lighter(weights, counts):
    told = losses.class_weights(weights, counts)
    assert told.sum() == pytest.approx(len(counts))
    order = np.argsort(counts)
    assert (np.diff(told[order]) <= 1e-9 * told[order][:-1]).all()


def test_truncated_scaling_is_vector_scaling_with_gamma_zero():
    z, y = torch.randn(7, 10, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    adjust = losses.adjusted(VectorScaling(0.0, 1.0), COUNTS, device="cpu", dtype=torch.float32)
    prior = torch.tensor(COUNTS, dtype=torch.float64) / sum(COUNTS)
    assert torch.equal(adjust(z, y), z + prior.log().float())


@pytest.mark.parametrize("wrong", [object(), None])
def test_unknown_descriptions_are_refused(wrong):
    with pytest.raises(TypeError):
        losses.criterion(Objective(wrong), COUNTS)


def fisher_consistent(nu, tau, posterior, prior):
    """Does the minimiser of Eq. 4's expected loss at one image rank classes as posterior/prior, the balanced Bayes rule?

    Minimising sum_y posterior_y prior_y^(-nu) * CE(z + tau log prior, y) over z gives, up to one constant,
    z_y = log posterior_y - (nu + tau) log prior_y; the minimiser is found here by gradient descent, not by that formula.
    """
    posterior, prior = torch.as_tensor(posterior), torch.as_tensor(prior)
    z = torch.zeros(len(prior), dtype=torch.float64, requires_grad=True)
    weight = posterior * prior**-nu
    optimiser = torch.optim.LBFGS(
        [z], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        loss = -(weight / weight.sum() * (z + tau * prior.log()).log_softmax(0)).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return torch.equal(z.detach().argsort(), (posterior / prior).argsort())


def test_fisher_consistency_of_weights_and_shifts_holds_exactly_where_nu_plus_tau_is_one():
    """Eq. 4 with beta = 1 is Fisher consistent for balanced accuracy if and only if nu + tau = 1.

    So the released pair nu 0.25, tau 0.75 (CIFAR-100 LT 100) is; nu 0.15 with tau 1.0 (CIFAR-10 LT 100) is not.
    """
    rng = np.random.default_rng(0)
    cases = []
    for _ in range(40):
        prior = rng.dirichlet(np.full(6, 0.5)) + 1e-3
        cases.append((rng.dirichlet(np.ones(6)) + 1e-4, prior / prior.sum()))
    for nu, tau in ((0.25, 0.75), (1.0, 0.0), (0.0, 1.0), (2.0, -1.0)):
        assert all(fisher_consistent(nu, tau, posterior / posterior.sum(), prior) for posterior, prior in cases)
    for nu, tau in ((0.15, 1.0), (0.0, 0.0), (0.75, 1.0), (3.0, 2.0)):
        assert not all(fisher_consistent(nu, tau, posterior / posterior.sum(), prior) for posterior, prior in cases)
