"""Every loss and weight against a float64 formula, and against the check values computed from the papers' class counts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from papers.unified_bound import PAPER
from replicate import losses
from replicate.protocol import (
    LDAM,
    CrossEntropy,
    DotRegression,
    EffectiveNumber,
    FeatureNorm,
    Focal,
    Free,
    InversePrior,
    LogitsRetargeting,
    Objective,
    SoftmaxBinaryCrossEntropy,
    VectorScaling,
)

COUNTS = (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)


def softmax_loss(z, y):
    """-log softmax in float64, one row."""
    z = np.asarray(z, dtype=np.float64)
    return math.log(np.exp(z - z.max()).sum()) + z.max() - z[y]


def log_sum_exp(z):
    """log sum exp in float64, one row."""
    return math.log(np.exp(z - z.max()).sum()) + z.max()


def binary_loss(z, y):
    """Mean over classes of the binary cross-entropy of softmax probabilities in float64, one row."""
    told = softmax_loss(z, y)
    for c in range(len(z)):
        if c != y:
            told -= log_sum_exp(np.delete(z, c)) - log_sum_exp(z)  # log(1 - p_c)
    return told / len(z)


def retargeted_loss(z, y, delta):
    """Cross-entropy towards the targets of Eq. 13 in float64, one row."""
    targets = np.full(len(z), delta / len(z))
    targets[y] += 1 - delta
    return float(sum(target * softmax_loss(z, c) for c, target in enumerate(targets)))


def formula(objective, z, y):
    """The training loss by the formulas of the papers, image by image, in plain Python."""
    z = z * (1.0 if objective.scale is None else objective.scale)
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
            row = objective.loss.scale * row
        elif isinstance(objective.loss, VectorScaling):
            row = row * (n / n.max()) ** objective.loss.gamma + objective.loss.tau * np.log(prior)
        if isinstance(objective.loss, SoftmaxBinaryCrossEntropy):
            each.append(binary_loss(row, label))
        elif isinstance(objective.loss, LogitsRetargeting):
            each.append(retargeted_loss(row, label, objective.loss.delta))
        else:
            each.append(softmax_loss(row, label))
    each = np.array(each)
    of_image = weights[y]
    if isinstance(objective.loss, Focal):
        weighted = each * of_image
        return float(((1 - np.exp(-weighted)) ** objective.loss.gamma * weighted).mean())
    if objective.mean == "batch" or isinstance(objective.loss, SoftmaxBinaryCrossEntropy):
        return float((each * of_image).sum() / len(y))
    return float((each * of_image).sum() / of_image.sum())


SOFTMAX = [
    CrossEntropy(),
    LDAM(),
    LDAM(0.5, 1.0),
    VectorScaling(0.0, 1.0),
    VectorScaling(0.25, 0.5),
    LogitsRetargeting(0.0),
    LogitsRetargeting(0.98),
]
FOCAL = [Focal(0.5), Focal(1.0), Focal(2.5)]
LOSSES = st.sampled_from([*SOFTMAX, *FOCAL, SoftmaxBinaryCrossEntropy()])
WEIGHTS = st.sampled_from([None, EffectiveNumber(0.9999), EffectiveNumber(0.9), InversePrior(0.15), InversePrior(3.0)])


SCALES = st.sampled_from([None, 1.0, 16.0])


@settings(max_examples=120, deadline=None)
@given(
    loss=LOSSES,
    weights=WEIGHTS,
    mean=st.sampled_from(["weights", "batch"]),
    scale=SCALES,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 9),
)
def test_losses_equal_their_float64_formula(loss, weights, mean, scale, seed, batch):
    rng = np.random.default_rng(seed)
    z, y = rng.normal(size=(batch, 10)), rng.integers(0, 10, batch)
    objective = Objective(loss, weights, mean, scale=scale)
    computed = losses.criterion(objective, COUNTS, dtype=torch.float64)(torch.from_numpy(z), torch.from_numpy(y), None)
    assert float(computed) == pytest.approx(formula(objective, z, y), rel=1e-10)


@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(), LDAM(), VectorScaling(0.05, 1.0), Focal(), LogitsRetargeting(0.98), SoftmaxBinaryCrossEntropy()],
)
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


# --- logits retargeting and softmax binary cross-entropy --------------------------------------------------------------


def value_and_gradient(objective, z, y, counts=COUNTS):
    """The criterion's loss and its gradient in the logits, in the precision of ``z``."""
    z = z.clone().requires_grad_()
    loss = losses.criterion(objective, counts, dtype=z.dtype)(z, y, None)
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def drawn(*shape, seed=0, dtype=torch.float32, spread=3.0):
    """Logits of this shape and labels of their images."""
    generator = torch.Generator().manual_seed(seed)
    z = (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)
    return z, torch.randint(shape[-1], (shape[-2],), generator=generator)


@pytest.mark.parametrize("delta", [0.0, 0.2])
def test_retargeting_is_cross_entropy_and_label_smoothing(delta):
    z, y = drawn(64, 10)
    z.requires_grad_()
    ours = losses.criterion(Objective(LogitsRetargeting(delta)), COUNTS)(z, y, None)
    theirs = torch.nn.functional.cross_entropy(z, y, label_smoothing=delta)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z), rtol=1e-5, atol=1e-8)


def test_retargeting_is_least_at_its_targets():
    z, y = drawn(1, 100, dtype=torch.float64)
    targets = torch.full((1, 100), 0.0098, dtype=torch.float64)
    targets[0, y] = 0.0298
    assert float(targets.sum()) == pytest.approx(1)
    objective = Objective(LogitsRetargeting(0.98))
    _, slope = value_and_gradient(objective, targets.log(), y, [1] * 100)
    assert float(slope.abs().max()) < 1e-15
    assert value_and_gradient(objective, z, y, [1] * 100)[0] > value_and_gradient(objective, targets.log(), y, [1] * 100)[0]


@pytest.mark.parametrize("loss", [LogitsRetargeting(0.98), SoftmaxBinaryCrossEntropy(), Focal(0.5)])
@pytest.mark.parametrize("weights", [None, EffectiveNumber(0.9999)])
def test_gradients_equal_finite_differences(loss, weights):
    z, y = drawn(5, 10, dtype=torch.float64)
    z.requires_grad_()
    loss_of = losses.criterion(Objective(loss, weights, "batch", scale=2.0), COUNTS, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda logits: loss_of(logits, y, None), (z,))


@pytest.mark.parametrize("gap", [0.0, 0.5, 17.0, 90.0, 300.0, 1e4])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_binary_cross_entropy_is_exact_and_finite_however_sure_the_softmax_is(gap, label):
    # Its probabilities are 1 and 0 in 32-bit floats, and in 64-bit ones, long before logits are what training can reach.
    z = torch.tensor([[gap, 0.0, -0.25, gap if gap == 0.5 else -1.0]])
    value, slope = value_and_gradient(Objective(SoftmaxBinaryCrossEntropy()), z, torch.tensor([label]), [4, 3, 2, 1])
    row = z[0].double().numpy()
    assert float(value) == pytest.approx(binary_loss(row, label), rel=1e-5, abs=1e-7)
    # d/dz_k of log(1 - p_c) is the softmax without c less the softmax, at k.
    p = np.exp(row - log_sum_exp(row))
    expected = p - np.eye(4)[label]
    for c in set(range(4)) - {label}:
        without = np.exp(np.where(np.arange(4) == c, -np.inf, row) - log_sum_exp(np.delete(row, c)))
        expected -= without - p
    np.testing.assert_allclose(slope[0].numpy(), expected / 4, rtol=1e-5, atol=1e-7)


def test_binary_cross_entropy_is_the_frameworks_of_the_softmax():
    z, y = drawn(64, 10, dtype=torch.float64, spread=1.0)
    weight = torch.from_numpy(losses.class_weights(EffectiveNumber(0.9999), COUNTS))
    theirs = torch.nn.functional.binary_cross_entropy(
        z.softmax(dim=1), torch.nn.functional.one_hot(y, 10).double(), weight=weight[y][:, None]
    )
    for mean in ("batch", "weights"):
        ours, _ = value_and_gradient(Objective(SoftmaxBinaryCrossEntropy(), EffectiveNumber(0.9999), mean), z, y)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_loss_of_a_certain_image_has_a_gradient(gamma):
    z, y = torch.tensor([[200.0, 0.0], [0.0, 0.5]]), torch.tensor([0, 1])
    value, slope = value_and_gradient(Objective(Focal(gamma)), z, y, [2, 1])
    assert value.isfinite() and slope.isfinite().all() and slope[1].any()


def test_scale_one_is_no_scale_and_losses_without_scale_see_the_logits_as_they_are():
    z, y = drawn(64, 10)
    for loss in (CrossEntropy(), LDAM(), VectorScaling(0.05, 1.0), Focal()):
        plain, scaled = (value_and_gradient(Objective(loss, scale=scale), z, y) for scale in (None, 1.0))
        assert all(torch.equal(*pair) for pair in zip(plain, scaled, strict=True))
        twice, _ = value_and_gradient(Objective(loss, scale=2.0), z, y)
        assert torch.equal(twice, value_and_gradient(Objective(loss), 2 * z, y)[0])


# --- classifiers side by side -----------------------------------------------------------------------------------------


def counts_of(classes):
    return [int(500 * 0.01 ** (c / (classes - 1))) for c in range(classes)]


def stacked_value_and_gradient(objectives, z, y, counts):
    """Of logits [H, B, C]: the loss of each classifier [H] and the gradient of their sum."""
    z = z.clone().requires_grad_()
    each = losses.stacked(objectives, counts, dtype=z.dtype)(z, y)
    return each.detach(), torch.autograd.grad(each.sum(), z)[0]


def objectives_of(kinds):
    weights = (None, EffectiveNumber(0.9999), InversePrior(0.75))
    return [
        Objective(loss, weights[place % 3], ("weights", "batch")[place // 3 % 2], scale=(None, 16.0)[place % 2])
        for place, loss in enumerate(kind for kind in kinds for _ in range(6))
    ]


FAMILIES = {
    "softmax": objectives_of(SOFTMAX),
    "focal": objectives_of(FOCAL),
    "binary": objectives_of([SoftmaxBinaryCrossEntropy()]),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stacked_losses_are_those_of_each_criterion(name, dtype):
    objectives, counts = FAMILIES[name], counts_of(10)
    z, y = drawn(len(objectives), 31, 10, dtype=dtype)
    values, slopes = stacked_value_and_gradient(objectives, z, y, counts)
    assert values.dtype == slopes.dtype == dtype
    rtol = {torch.float32: 2e-5, torch.float64: 1e-12}[dtype]
    for place, objective in enumerate(objectives):
        assert losses.family(objective) == name
        value, slope = value_and_gradient(objective, z[place], y, counts)
        torch.testing.assert_close(values[place], value, rtol=rtol, atol=0)
        torch.testing.assert_close(slopes[place], slope, rtol=rtol, atol=rtol * float(slope.abs().max()))


@pytest.mark.parametrize("threads", ["one_thread", "two_threads"])
@pytest.mark.parametrize(("classes", "batch"), [(10, 64), (10, 31), (100, 64), (100, 31)])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_classifier_has_the_same_bits_alone_and_beside_others(name, classes, batch, threads, request):
    request.getfixturevalue(threads)
    objectives, counts = FAMILIES[name], counts_of(classes)
    z, y = drawn(len(objectives), batch, classes)
    values, slopes = stacked_value_and_gradient(objectives, z, y, counts)
    for place, objective in enumerate(objectives):
        for first, last in ((place, place + 1), (max(0, place - 4), place + 1)):
            value, slope = stacked_value_and_gradient(objectives[first:last], z[first:last], y, counts)
            assert torch.equal(value[-1], values[place]), objective
            assert torch.equal(slope[-1], slopes[place]), objective


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_classifier_that_diverged_stays_in_its_own_slot(name, wrong):
    objectives = FAMILIES[name][:6]
    z, y = drawn(6, 31, 10)
    expected = stacked_value_and_gradient(objectives, z, y, counts_of(10))
    z[2, 0, 0] = wrong
    found = stacked_value_and_gradient(objectives, z, y, counts_of(10))
    others = [0, 1, 3, 4, 5]
    for before, after in zip(expected, found, strict=True):
        assert not after[2].isfinite().all()
        assert torch.equal(before[others], after[others])


def test_what_cannot_be_stacked_is_refused():
    ce, focal, etf = Objective(CrossEntropy()), Objective(Focal()), Objective(DotRegression())
    assert losses.family(etf) is None and losses.family(Objective(CrossEntropy(), regulariser=FeatureNorm(0.01))) is None
    for wrong in ([ce, focal], [etf], [etf, etf], []):
        with pytest.raises(ValueError, match="one family"):
            losses.stacked(wrong, COUNTS)
    with pytest.raises(TypeError, match="no value yet"):
        losses.stacked([Objective(LogitsRetargeting(Free("delta")))], COUNTS)
