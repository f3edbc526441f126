"""What weight balancing's second stage converges to, and how near it is to class means (Hasegawa and Sato, Theorems 2 and 3).

Derived here; the preprint's own wording is not at hand. On frozen features g_i [d], i = 1..N, with labels y_i and class
weights a, the second stage minimises

    F(W, b) = (1/N) sum_i a_{y_i} CE(W g_i + b, y_i) + lambda/2 (||W||^2 + ||b||^2),

which is strongly convex: it has one minimiser. At W = 0, b = 0 every softmax is 1/C, so cross-entropy is to first order
log C + sum_k (1/C - 1{k = y}) z_k. With that in its place and without bias, the gradient in w_k is
(1/N) ((1/C) sum_j a_j N_j mu_j - a_k N_k mu_k) + lambda w_k, mu_k the mean feature of class k, which is 0 at

    w_k = 1/(lambda N) (a_k N_k mu_k - (1/C) sum_j a_j N_j mu_j)                                     ("Lemma 1" here).

Where the weighted class means sum to zero this is the theorem's

    w_k = a_k N_k / (lambda N) mu_k                                                                   ("Theorem 2" here),

for a_k = Nbar/N_k (class-balanced weights with beta = 1; Nbar is the harmonic mean of class counts) Nbar/(lambda N) mu_k, and
for a_k = 1 ("Theorem 3" here) N_k/(lambda N) mu_k. The minimiser of F is of the order of 1/lambda, so what the expansion
leaves out is smaller than it by a factor of that order: the relative distance between the two falls like 1/lambda.

Lemma and theorem differ by one vector common to all classes, which changes no softmax; decay alone decides on it, for a mean of
zero over classes. After a ReLU no class means sum to zero, so a distance from the theorem that stays where the distance from
the lemma vanishes is that common vector.

Training need not get there: ten epochs, a cosine schedule, batch statistics and max-norm stand between. So the minimiser of F
itself is found beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replicate import losses
from replicate.engine.loop import DeviceData
from replicate.engine.state import State
from replicate.grid import Cell
from replicate.measures.features import CHUNK, json_data, training_features
from replicate.protocol import CrossEntropy, EffectiveNumber, InversePrior, Objective

Array = NDArray[np.float64]


def class_weights(weights: EffectiveNumber | InversePrior | None, counts: Sequence[int]) -> Array:
    """Class weights float64 [C] as :func:`replicate.losses.class_weights` has them, ones without a description; 0 for classes
    without images, which have no part in the normalisation."""
    number = np.asarray(counts, dtype=np.float64)
    found, there = np.zeros(len(number)), number > 0
    told = losses.class_weights(weights, [int(n) for n in number[there]])
    found[there] = 1.0 if told is None else told
    return found


def whole_batch_weights(objective: Objective, counts: Sequence[int]) -> Array:
    """The a_k [C] of F for an objective, were all images one batch: its class weights, divided by their mean over all images
    where the objective divides a batch's losses by its sum of weights."""
    found, number = class_weights(objective.weights, counts), np.asarray(counts, dtype=np.float64)
    return found / ((found * number).sum() / number.sum()) if objective.mean == "weights" else found


def theorem_weights(means: Array, counts: Sequence[int], weights: Array, decay: float) -> Array:
    """Theorem 2's (weights [C] all 1: Theorem 3's) class vectors a_k N_k/(lambda N) mu_k, float64 [C, d], of class means [C, d]
    (rows of classes without images may be anything) and weight decay lambda > 0. See the module for the derivation."""
    number = np.asarray(counts, dtype=np.float64)
    means = np.where(number[:, None] > 0, means, 0.0)
    return np.asarray((weights * number)[:, None] * means / (decay * number.sum()))


def linearised_weights(means: Array, counts: Sequence[int], weights: Array, decay: float) -> Array:
    """Lemma 1's class vectors float64 [C, d], the minimiser of the objective linearised at W = 0: those of
    :func:`theorem_weights` less their mean over all C classes."""
    theorem = theorem_weights(means, counts, weights, decay)
    return np.asarray(theorem - theorem.mean(axis=0))


@dataclass(frozen=True)
class Minimiser:
    """Where the second stage's objective F is least: ``weight`` [C, d] and ``bias`` [C] (zeros where there is none), F's
    ``value`` there, the 2-norm of its gradient, and the ``iterations`` it took."""

    weight: Array
    bias: Array
    value: float
    gradient_norm: float
    iterations: int


def objective(
    weight: Array, bias: Array, features: Array, labels: NDArray[np.int64], weights: Array, decay: float
) -> tuple[float, Array, Array]:
    """F of the module and its gradient in ``weight`` [C, d] and ``bias`` [C], for features [N, d], labels [N], class weights
    [C] and weight decay, in float64; N x C numbers are never held at once."""
    # In torch, whose threads follow the numerics mode; numpy's take every core and wait for each other on a busy machine.
    w, b, g = torch.from_numpy(weight), torch.from_numpy(bias), torch.from_numpy(features)
    y, of_class = torch.from_numpy(labels), torch.from_numpy(weights)
    value, by_weight, by_bias = 0.0, torch.zeros_like(w), torch.zeros_like(b)
    for first in range(0, len(g), CHUNK):
        some, own = g[first : first + CHUNK], y[first : first + CHUNK, None]
        of_image = of_class[own]
        log_softmax = torch.addmm(b, some, w.T).log_softmax(dim=1)
        value -= float((of_image * log_softmax.gather(1, own)).sum())
        slope = log_softmax.exp_().mul_(of_image).scatter_add_(1, own, -of_image)
        by_weight.addmm_(slope.T, some)
        by_bias += slope.sum(dim=0)
    value = value / len(g) + decay / 2 * float(w.square().sum() + b.square().sum())
    return value, (by_weight / len(g) + decay * w).numpy(), (by_bias / len(g) + decay * b).numpy()


def exact_minimiser(
    features: Array,
    labels: NDArray[np.int64],
    weights: Array,
    decay: float,
    *,
    bias: bool = True,
    begin: Minimiser | None = None,
) -> Minimiser:
    """The minimiser of F for features [N, d], labels int64 [N], class weights [C] and weight decay > 0, ``bias`` or not.

    L-BFGS on all images with the analytic gradient, from ``begin`` or from zeros, until float64 resolves no further descent
    or no entry of the gradient exceeds 1e-8 of the largest at zero. F is strongly convex, so the minimiser is no further
    away than gradient_norm/lambda. Raises ``ValueError`` unless the decay is positive.
    """
    from scipy.optimize import minimize

    if not decay > 0:
        raise ValueError(f"weight decay {decay} leaves the objective without a minimiser; it must be positive")
    classes, d = len(weights), features.shape[1]
    zero_weight, zero_bias = np.zeros((classes, d)), np.zeros(classes)

    def parts(flat: Array) -> tuple[Array, Array]:
        return flat[: classes * d].reshape(classes, d), flat[classes * d :] if bias else zero_bias

    def joined(by_weight: Array, by_bias: Array) -> Array:
        return np.concatenate([by_weight.ravel(), by_bias]) if bias else by_weight.ravel()

    def value_and_gradient(flat: Array) -> tuple[float, Array]:
        value, *gradient = objective(*parts(flat), features, labels, weights, decay)
        return value, joined(*gradient)

    _, at_zero = value_and_gradient(joined(zero_weight, zero_bias))
    largest = float(np.abs(at_zero).max())
    start = joined(zero_weight, zero_bias) if begin is None else joined(begin.weight, begin.bias)
    limits = {"ftol": 0.0, "gtol": 1e-8 * largest, "maxiter": 5000, "maxfun": 10_000, "maxcor": 20}
    found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=limits)
    value, gradient = value_and_gradient(found.x)
    weight, offset = parts(found.x)
    return Minimiser(weight.copy(), offset.copy(), value, float(np.linalg.norm(gradient)), int(found.nit))


def relative_distance(weight: Array, approximation: Array) -> dict[str, Any]:
    """||w_k - approximation_k|| / ||approximation_k|| of every class (``classes``), and of all class vectors together
    (``total``), for [C, d] each; NaN where the approximation is zero."""

    def norm(rows: Array) -> Array:
        return np.asarray(np.linalg.norm(rows, axis=-1))

    with np.errstate(divide="ignore", invalid="ignore"):
        of_class = norm(weight - approximation) / norm(approximation)
        total = norm((weight - approximation).ravel()) / norm(approximation.ravel())
    of_class[norm(approximation) == 0] = np.nan
    return {"total": total, "classes": of_class}


def near_the_theorem(
    features: Array, labels: NDArray[np.int64], counts: Sequence[int], weights: Array, decay: float, trained: Array | None
) -> dict[str, Any]:
    """How near the class vectors of F's minimiser, with and without bias, and ``trained`` ones [C, d], are to the theorem's
    and the lemma's, for features [N, d], labels [N], class counts [C], class weights [C] and weight decay.

    * ``theorem_norms`` [C]: length of the theorem's vectors. ``weighted_sum``: ||sum_j a_j N_j mu_j|| / sum_j a_j N_j
      ||mu_j||, 0 where theorem and lemma agree;
    * ``linearised`` (the lemma's vectors), ``exact``, ``exact_without_bias`` and, if given, ``trained``: the relative
      distance ``from_theorem`` and, but for the first, ``from_lemma`` (:func:`relative_distance`). Exact ones say ``value``,
      ``gradient_norm``, ``iterations`` and, as ``error_at_most``, how far from the true minimiser they can be, relative to
      their own length.
    """
    number = np.asarray(counts, dtype=np.float64)
    means = np.zeros((len(number), features.shape[1]))
    np.add.at(means, labels, features)
    means /= np.maximum(number, 1)[:, None]
    theorem = theorem_weights(means, counts, weights, decay)
    lemma = linearised_weights(means, counts, weights, decay)

    def distances(weight: Array) -> dict[str, Any]:
        return {"from_theorem": relative_distance(weight, theorem), "from_lemma": relative_distance(weight, lemma)}

    lengths = np.linalg.norm(theorem, axis=1)
    told: dict[str, Any] = {
        "class_weights": weights,
        "theorem_norms": lengths,
        "weighted_sum": np.linalg.norm(theorem.sum(axis=0)) / lengths.sum() if lengths.any() else None,
        "linearised": {"from_theorem": relative_distance(lemma, theorem)},
    }
    if trained is not None:
        told["trained"] = distances(trained)
    begin = None
    for name, bias in (("exact", True), ("exact_without_bias", False)):
        begin = exact_minimiser(features, labels, weights, decay, bias=bias, begin=begin)
        length = np.hypot(np.linalg.norm(begin.weight), np.linalg.norm(begin.bias))
        told[name] = {
            **distances(begin.weight),
            "value": begin.value,
            "gradient_norm": begin.gradient_norm,
            "iterations": begin.iterations,
            "error_at_most": begin.gradient_norm / decay / length if length else None,
        }
    return told


def applies(cell: Cell) -> bool:
    """Whether the last stage trains the classifier alone, by weighted cross-entropy with weight decay."""
    programme = cell.programme
    row = programme.epoch(programme.length)
    return (
        row.trained == "head"
        and programme.start.head == "linear"
        and isinstance(row.objective.loss, CrossEntropy)
        and row.objective.weights is not None
        and row.weight_decay > 0
    )


def measure(state: State, data: DeviceData, cell: Cell) -> dict[str, Any] | None:
    """:func:`near_the_theorem` on training features (no augmentation) of the network that the last stage hands over.

    Three objectives: ``as_trained``, with the stage's own class weights; ``beta_1``, class-balanced weights in the limit that
    Theorem 2 is about, a_k = Nbar/N_k; ``unweighted``, Theorem 3. The trained class vectors are held against the first two."""
    if not applies(cell):
        return None
    model, counts = state.handed_over(), data.counts
    row = cell.programme.epoch(cell.programme.length)
    features = training_features(model, data).double().numpy()
    labels = data.train_labels.cpu().numpy()
    weight = model.head.weight
    assert isinstance(weight, torch.Tensor)
    trained = weight.detach().cpu().double().numpy()
    present = np.array([count for count in counts if count], dtype=np.float64)

    def near(weights: Array, trained: Array | None) -> dict[str, Any]:
        return near_the_theorem(features, labels, counts, weights, row.weight_decay, trained)

    return json_data(  # type: ignore[no-any-return]
        {
            "epoch": state.handed_over_epoch,
            "images": len(features),
            "weight_decay": row.weight_decay,
            "harmonic_mean_of_counts": len(present) / (1 / present).sum(),
            "as_trained": near(whole_batch_weights(row.objective, counts), trained),
            "beta_1": near(class_weights(EffectiveNumber(beta=1.0), counts), trained),
            "unweighted": near(class_weights(None, counts), None),
        }
    )
