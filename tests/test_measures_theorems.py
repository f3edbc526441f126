"""The weight-balancing paper's theorems: bounds and closed forms against arithmetic by hand, brute force and optimisers."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from replicate import losses
from replicate.measures import etf_cosine, second_stage
from replicate.measures.features import json_data
from replicate.models.heads import simplex_frame
from replicate.protocol import CrossEntropy, EffectiveNumber, InversePrior, Objective

# --- Theorem 1 --------------------------------------------------------------------------------------------------------


def test_bound_on_two_features_by_hand():
    # Three class vectors in the plane, 120 degrees apart. Both features are of class 0 and 10 degrees from its vector, on
    # either side, with lengths 4 and 5: their cosine is cos 20 degrees.
    turn = [math.radians(angle) for angle in (0, 120, 240)]
    vectors = torch.tensor([[math.cos(t), math.sin(t)] for t in turn], dtype=torch.float64)
    at = math.radians(10)
    features = torch.tensor([[4 * math.cos(at), 4 * math.sin(at)], [5 * math.cos(at), -5 * math.sin(at)]], dtype=torch.float64)
    # exp(loss) - 1 is the sum of exp(z_k - z_0) over the others. The shorter feature has the larger loss:
    others = sum(math.exp(4 * (math.cos(math.radians(angle - 10)) - math.cos(at))) for angle in (120, 240))
    eps = math.log1p(others)
    delta = 2 / 3 / 5 * math.log(2 / math.expm1(eps))
    assert delta > 0.5**0.5
    found = etf_cosine.pair_bounds(features, torch.tensor([0, 0]), vectors)
    assert (found["pairs"], found["asserted"], found["satisfied"], found["delta"]) == (1, 1, 1, 1.0)
    assert found["mean_cosine"] == pytest.approx(math.cos(math.radians(20)))
    assert found["smallest_slack"] == pytest.approx(math.cos(math.radians(20)) - (2 * delta**2 - 1))
    # 2 sqrt 2 log 2 = 1.96 is shorter than either, so the paper's premise does not hold.
    assert found["premise"] == 0.0
    assert found["classes"][0]["pairs"] == 1
    nobody = {"pairs": 0, "premise": None, "delta": None, "asserted": 0, "satisfied": 0, "smallest_slack": None}
    assert found["classes"][1] == {**nobody, "mean_cosine": None}
    json.dumps(json_data(found), allow_nan=False)


def test_margins_are_exact_for_tiny_and_huge_losses():
    vectors = simplex_frame(4, 3, torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 1, 1])
    features = torch.stack([vectors[1], 400 * vectors[1], -400 * vectors[1]])
    logits = features @ vectors.T
    loss = torch.nn.functional.cross_entropy(logits[:1], labels[:1]).item()
    found = etf_cosine.margins(features, labels, vectors)
    # On the class vector itself both other logits are -1/2: the bound is attained, margin = 3/2 of the logit.
    assert found.tolist() == pytest.approx([1.5, 600.0, -600.0])
    assert found[0].item() == pytest.approx(math.log(2 / math.expm1(loss)))


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 12),
    spread=st.floats(0.0, 2.0),
    length=st.floats(0.1, 60.0),
    rounded=st.booleans(),
)
def test_theorem_1_holds_for_every_asserted_pair(seed, classes, spread, length, rounded):
    drawing = torch.Generator().manual_seed(seed)
    d = classes + int(torch.randint(3, (), generator=drawing))
    vectors = simplex_frame(d, classes, drawing)
    if rounded:
        vectors = vectors.float()
    labels = torch.randint(classes, (40,), generator=drawing)
    noise = torch.randn(40, d, generator=drawing, dtype=torch.float64)
    lengths = length * (0.5 + torch.rand(40, 1, generator=drawing, dtype=torch.float64))
    features = lengths * (vectors[labels].double() + spread * noise / d**0.5)
    found = etf_cosine.pair_bounds(features, labels, vectors)
    assert found["satisfied"] == found["asserted"]
    assert found["pairs"] == sum(int(n) * (int(n) - 1) // 2 for n in torch.bincount(labels))

    # Pair by pair, in the words of the theorem: losses from a softmax, every pair by itself.
    loss = torch.nn.functional.cross_entropy(features @ vectors.double().T, labels, reduction="none").numpy()
    norm, unit = features.norm(dim=1).numpy(), (features / features.norm(dim=1, keepdim=True)).numpy()
    assume(loss.min() > 1e-9 and loss.max() < 600)  # where e^l - 1 in float64 has digits left
    asserted, premise, slack, near = 0, 0, math.inf, False
    for i, j in itertools.combinations(range(40), 2):
        if labels[i] == labels[j]:
            eps, most = max(loss[i], loss[j]), max(norm[i], norm[j])
            delta = (classes - 1) / (classes * most) * math.log((classes - 1) / math.expm1(eps))
            near = near or abs(delta - 0.5**0.5) < 1e-6
            premise += eps < 1 / (classes - 1) and most <= 2 * 2**0.5 * math.log(classes - 1)
            if delta >= 0.5**0.5:
                asserted += 1
                slack = min(slack, float(unit[i] @ unit[j]) - (2 * delta**2 - 1))
    if not near:
        assert found["asserted"] == asserted
        assert found["premise"] == pytest.approx(premise / found["pairs"])
        if asserted:
            assert found["smallest_slack"] == pytest.approx(slack, abs=1e-6)


def test_pairs_are_counted_once_over_blocks(monkeypatch):
    drawing = torch.Generator().manual_seed(1)
    vectors = simplex_frame(5, 3, drawing)
    labels = torch.arange(50) % 3
    features = 3 * vectors[labels] + 0.1 * torch.randn(50, 5, generator=drawing, dtype=torch.float64)
    features[3] = 0  # has no direction; no pair of it is asserted
    whole = etf_cosine.pair_bounds(features, labels, vectors)
    monkeypatch.setattr(etf_cosine, "_BLOCK", 4)
    pieces = etf_cosine.pair_bounds(features, labels, vectors)
    assert json_data(pieces) == {
        **whole,
        "mean_cosine": pytest.approx(whole["mean_cosine"]),
        "smallest_slack": pytest.approx(whole["smallest_slack"]),
        "classes": [
            {**of, "mean_cosine": pytest.approx(of["mean_cosine"]), "smallest_slack": pytest.approx(of["smallest_slack"])}
            for of in whole["classes"]
        ],
    }
    assert whole["asserted"] == whole["pairs"] - 16  # class 0 has 17 images
    with pytest.raises(ValueError, match="two vectors"):
        etf_cosine.pair_bounds(features, labels, vectors[:1])


def test_premise_of_the_paper_does_not_give_delta():
    """At C = 10 a loss just below 1/9 and the longest feature allowed: the premise holds, and delta is only 0.628."""
    vectors = simplex_frame(10, 10, torch.Generator().manual_seed(0))
    length = 2 * 2**0.5 * math.log(9) * (1 - 1e-9)
    # A feature with cosine c to its class vector and equal other logits; c such that the loss is just below 1/9.
    z = 0.9 * math.log(9 / math.expm1(1 / 9)) * (1 + 1e-9)
    across = vectors[0].new_zeros(10)
    basis = torch.linalg.svd(vectors).Vh[-1]  # the one direction that no class vector has a part of
    across += basis * math.sqrt(length**2 - z**2)
    features = torch.stack([z * vectors[0] + across, z * vectors[0] - across])
    found = etf_cosine.pair_bounds(features, torch.tensor([0, 0]), vectors)
    assert found["premise"] == 1.0 and found["asserted"] == 0
    delta = z / length
    assert delta == pytest.approx(0.9 * math.log(9 / math.expm1(1 / 9)) / (2 * 2**0.5 * math.log(9)), rel=1e-6) and delta < 0.65
    assert found["mean_cosine"] == pytest.approx(2 * delta**2 - 1)  # and the two are as far apart as the angles allow


# --- Theorems 2 and 3 -------------------------------------------------------------------------------------------------

COUNTS = [12, 6, 2]
LABELS = np.repeat(np.arange(3), COUNTS)


def drawn(seed=0, scale=1.0, d=4):
    rng = np.random.default_rng(seed)
    return scale * (rng.normal(size=(len(LABELS), d)) + rng.normal(size=(3, d))[LABELS])


def means_of(features):
    return np.stack([features[np.equal(LABELS, k)].mean(axis=0) for k in range(3)])


def test_closed_forms_by_hand():
    # Two classes, 3 and 1 images, means (2, 0) and (0, 4), weights 1/2 and 3/2, decay 1/4, N = 4: lambda N = 1.
    means, counts, weights = np.array([[2.0, 0.0], [0.0, 4.0]]), [3, 1], np.array([0.5, 1.5])
    theorem = second_stage.theorem_weights(means, counts, weights, 0.25)
    assert theorem.tolist() == [[3.0, 0.0], [0.0, 6.0]]  # a_k N_k is 3/2 for both
    assert second_stage.linearised_weights(means, counts, weights, 0.25).tolist() == [[1.5, -3.0], [-1.5, 3.0]]
    told = second_stage.relative_distance(np.array([[3.0, 4.0], [0.0, 6.0]]), theorem)
    assert told["classes"].tolist() == [4 / 3, 0.0] and told["total"] == pytest.approx(4 / 45**0.5)
    # A class without images has no vector and no distance, whatever its mean is said to be.
    three = second_stage.theorem_weights(np.array([*means, [np.nan, np.nan]]), [3, 1, 0], np.array([0.5, 1.5, 0.0]), 0.25)
    assert three[2].tolist() == [0.0, 0.0]
    assert math.isnan(second_stage.relative_distance(three + 1, three)["classes"][2])


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=30))
def test_beta_1_gives_the_harmonic_mean(counts):
    """a_k N_k is the harmonic mean of class counts for every class: CB's limit beta -> 1, reached and approached."""
    harmonic = len(counts) / sum(1 / n for n in counts)
    limit = second_stage.class_weights(EffectiveNumber(beta=1.0), counts)
    np.testing.assert_allclose(limit * counts, harmonic, rtol=1e-12)
    near = losses.class_weights(EffectiveNumber(beta=1 - 1e-10), counts)
    np.testing.assert_allclose(near * counts, harmonic, rtol=1e-5)
    means = np.random.default_rng(0).normal(size=(len(counts), 3))
    found = second_stage.theorem_weights(means, counts, limit, 0.1)
    np.testing.assert_allclose(found, harmonic / (0.1 * sum(counts)) * means, rtol=1e-12)


def test_class_weights_leave_out_classes_without_images():
    assert second_stage.class_weights(EffectiveNumber(beta=1.0), [3, 0, 1]).tolist() == pytest.approx([0.5, 0, 1.5])
    assert second_stage.class_weights(None, [3, 0, 1]).tolist() == [1, 0, 1]
    # Divided by the batch's sum of weights: (1/2 * 3 + 3/2 * 1)/4 = 3/4 is their mean over four images.
    by_sum = Objective(CrossEntropy(), EffectiveNumber(beta=1.0))
    assert second_stage.whole_batch_weights(by_sum, [3, 1]).tolist() == pytest.approx([2 / 3, 2])
    by_size = Objective(CrossEntropy(), EffectiveNumber(beta=1.0), mean="batch")
    assert second_stage.whole_batch_weights(by_size, [3, 1]).tolist() == pytest.approx([0.5, 1.5])


@pytest.mark.parametrize("mean", ["batch", "weights"])
def test_objective_is_the_training_loss_of_one_batch_with_decay(mean):
    features, rng = drawn(), np.random.default_rng(1)
    weight, bias = rng.normal(size=(3, 4)), rng.normal(size=3)
    told = Objective(CrossEntropy(), InversePrior(nu=0.7), mean=mean)
    a = second_stage.whole_batch_weights(told, COUNTS)
    value, by_weight, by_bias = second_stage.objective(weight, bias, features, LABELS, a, 0.3)
    w, b = torch.from_numpy(weight).requires_grad_(), torch.from_numpy(bias).requires_grad_()
    g, y = torch.from_numpy(features), torch.from_numpy(LABELS)
    loss = losses.criterion(told, COUNTS, dtype=torch.float64)(g @ w.T + b, y, g)
    loss = loss + 0.15 * (w.square().sum() + b.square().sum())
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-12)
    np.testing.assert_allclose(by_weight, w.grad.numpy(), atol=1e-14)
    np.testing.assert_allclose(by_bias, b.grad.numpy(), atol=1e-14)


def test_objective_does_not_depend_on_its_pieces(monkeypatch):
    weight, bias, a = np.ones((3, 4)) * [[1], [2], [3]], np.arange(3.0), np.array([0.5, 1.0, 2.0])
    whole = second_stage.objective(weight, bias, drawn(), LABELS, a, 0.1)
    monkeypatch.setattr(second_stage, "CHUNK", 3)
    for one, other in zip(whole, second_stage.objective(weight, bias, drawn(), LABELS, a, 0.1), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


def test_the_lemma_is_where_the_linearised_objective_is_least():
    """Against a numerical minimiser of the expansion at W = 0, whose gradient is taken by automatic differentiation."""
    from scipy.optimize import minimize

    features, a, decay = drawn(), np.array([0.4, 0.8, 1.8]), 0.7
    g, y, weights = torch.from_numpy(features), torch.from_numpy(LABELS), torch.from_numpy(a)

    def losses_of(w):
        return (weights[y] * torch.nn.functional.cross_entropy(g @ w.T, y, reduction="none")).mean()

    zero = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses_of(zero), zero)
    slope = slope.numpy().ravel()

    def linearised(w):
        return slope @ w + decay / 2 * w @ w, slope + decay * w

    found = minimize(linearised, np.ones(12), jac=True, method="BFGS", options={"gtol": 1e-12})
    lemma = second_stage.linearised_weights(means_of(features), COUNTS, a, decay)
    np.testing.assert_allclose(found.x.reshape(3, 4), lemma, atol=1e-10)
    # Where weighted class means sum to zero it is the theorem's form.
    centred = means_of(features) - (a * COUNTS) @ means_of(features) / (a @ COUNTS)
    theorem = second_stage.theorem_weights(centred, COUNTS, a, decay)
    np.testing.assert_allclose(second_stage.linearised_weights(centred, COUNTS, a, decay), theorem, atol=1e-14)


@pytest.mark.parametrize("bias", [True, False])
def test_exact_minimiser_agrees_with_newtons_method(bias):
    """A dense Newton iteration with the Hessian by automatic differentiation: another road to the same point."""
    features, a, decay = drawn(scale=2.0), np.array([0.4, 0.8, 1.8]), 0.05
    g, y, weights = torch.from_numpy(features), torch.from_numpy(LABELS), torch.from_numpy(a)

    def total(flat):
        w, b = flat[:12].reshape(3, 4), flat[12:] if bias else torch.zeros(3, dtype=torch.float64)
        loss = (weights[y] * torch.nn.functional.cross_entropy(g @ w.T + b, y, reduction="none")).mean()
        return loss + decay / 2 * flat.square().sum()

    point = torch.zeros(15 if bias else 12, dtype=torch.float64)
    for _ in range(50):
        gradient = torch.autograd.functional.jacobian(total, point)
        point = point - torch.linalg.solve(torch.autograd.functional.hessian(total, point), gradient)
    assert float(torch.autograd.functional.jacobian(total, point).norm()) < 1e-12
    found = second_stage.exact_minimiser(features, LABELS, a, decay, bias=bias)
    np.testing.assert_allclose(found.weight.ravel(), point[:12].numpy(), atol=1e-7)
    np.testing.assert_allclose(found.bias, point[12:].numpy() if bias else 0, atol=1e-7)
    assert found.gradient_norm < 1e-8 and found.value == pytest.approx(float(total(point)), rel=1e-12)
    again = second_stage.exact_minimiser(features, LABELS, a, decay, bias=bias, begin=found)
    np.testing.assert_allclose(again.weight, found.weight, atol=1e-7)


def test_exact_minimiser_nears_the_lemma_like_one_over_decay():
    features, a = drawn(), second_stage.class_weights(EffectiveNumber(beta=1.0), COUNTS)
    distances = []
    for decay in (1e1, 1e2, 1e3, 1e4):
        exact = second_stage.exact_minimiser(features, LABELS, a, decay, bias=False)
        lemma = second_stage.linearised_weights(means_of(features), COUNTS, a, decay)
        distances.append(second_stage.relative_distance(exact.weight, lemma)["total"])
    ratios = [first / second for first, second in itertools.pairwise(distances)]
    assert ratios == pytest.approx([10, 10, 10], rel=0.1) and distances[-1] < 1e-3


def test_near_the_theorem_holds_everything_against_everything():
    features, a = drawn(), np.array([0.4, 0.8, 1.8])
    trained = np.random.default_rng(5).normal(size=(3, 4))
    told = json_data(second_stage.near_the_theorem(features, LABELS, COUNTS, a, 0.1, trained))
    theorem = second_stage.theorem_weights(means_of(features), COUNTS, a, 0.1)
    assert told["theorem_norms"] == pytest.approx(np.linalg.norm(theorem, axis=1).tolist())
    norms = np.linalg.norm(trained - theorem, axis=1) / np.linalg.norm(theorem, axis=1)
    assert told["trained"]["from_theorem"]["classes"] == pytest.approx(norms.tolist())
    with_bias = second_stage.exact_minimiser(features, LABELS, a, 0.1)
    without = second_stage.exact_minimiser(features, LABELS, a, 0.1, bias=False)
    for name, found in (("exact", with_bias), ("exact_without_bias", without)):
        expected = second_stage.relative_distance(found.weight, theorem)["total"]
        assert told[name]["from_theorem"]["total"] == pytest.approx(expected, rel=1e-6)
        assert told[name]["gradient_norm"] < 1e-8 and told[name]["error_at_most"] < 1e-6
    assert with_bias.value < without.value
    assert 0 < told["weighted_sum"] < 1
    # A fourth class without images: it is pushed away from, and has no approximation.
    told = json_data(second_stage.near_the_theorem(features, LABELS, [*COUNTS, 0], np.array([*a, 0.0]), 0.1, None))
    assert told["exact"]["from_theorem"]["classes"][3] is None and told["exact"]["from_lemma"]["classes"][3] is not None
    assert "trained" not in told
    json.dumps(told, allow_nan=False)
    with pytest.raises(ValueError, match="positive"):
        second_stage.exact_minimiser(features, LABELS, a, 0.0)


def test_features_of_zeros_have_no_distance():
    told = json_data(second_stage.near_the_theorem(np.zeros((20, 1)), LABELS, COUNTS, np.ones(3), 0.1, np.ones((3, 1))))
    assert told["trained"]["from_theorem"] == {"total": None, "classes": [None, None, None]} and told["weighted_sum"] is None
