"""Fisher's discriminant ratio of features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from replicate.measures.features import chunks, class_counts, class_means


@dataclass(frozen=True)
class Scatter:
    """Scatter of features about the means of their K classes, on the D dimensions that are left of them.

    ``within`` is S_W [D, D], ``means`` [K, D] and ``counts`` [K] are of the classes that have images, ``mean`` [D] is that of
    all samples; all float64.
    """

    within: Tensor
    means: Tensor
    counts: Tensor
    mean: Tensor

    @property
    def dimensions(self) -> int:
        """Features that are left."""
        return len(self.within)

    def ratio(self, *, of_class_means: bool = False) -> float | None:
        """trace(S_W^-1 S_B), S_B = sum_k N_k (mu_k - mu)(mu_k - mu)^T with mu the mean over all samples, as in the released
        code; or the mean ``of_class_means``, as in the paper's notation. None where S_W is singular: see
        :func:`fisher_discriminant_ratio`."""
        freedom = int(self.counts.sum()) - len(self.counts)
        if not 0 < self.dimensions <= freedom:
            return None
        apart = self.means - (self.means.mean(dim=0) if of_class_means else self.mean)
        try:
            # S_B has rank K at most: K right-hand sides give the trace that the D columns of S_B would.
            solved = torch.linalg.solve(self.within, apart.T)
        except RuntimeError:  # torch's error for a pivot of exactly zero
            return None
        found = float((self.counts * (apart * solved.T).sum(dim=1)).sum())
        return found if 0 <= found < float("inf") else None


def scatter(features: Tensor, labels: Tensor) -> Scatter:
    """Scatter of features [N, d] with labels int64 [N] (see :func:`fisher_discriminant_ratio`), summed in float64.

    Besides the d x d matrix no more than 4,096 rows are held in float64 at a time. Raises ``ValueError`` without samples."""
    if not len(features):
        raise ValueError("there is no feature to take the scatter of")
    _, labels = torch.unique(labels, return_inverse=True)
    classes = int(labels.max()) + 1
    first, count = features[0].double(), len(features)
    total, furthest = torch.zeros_like(first), torch.zeros_like(first)
    for _, some in chunks(features):
        total += some.sum(dim=0)
        furthest = torch.maximum(furthest, (some - first).abs().amax(dim=0))
    # "not <=" where the code counts "<=": a feature that is not a number stays, and the ratio is none.
    varying = ~(furthest <= 1e-3 * total.mean().abs() / count)
    kept = features if bool(varying.all()) else features[:, varying]
    mean = total[varying] / count
    means = class_means(kept, labels, classes)
    within = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    for place, some in chunks(kept):
        apart = some - means[labels[place]]
        within.addmm_(apart.T, apart)
    scattered = ~(within.abs() <= 1e-3 * mean.mean().abs()).all(dim=0)
    if not bool(scattered.all()):
        within, means, mean = within[scattered][:, scattered], means[:, scattered], mean[scattered]
    return Scatter(within, means, class_counts(labels, classes).double(), mean)


def fisher_discriminant_ratio(features: Tensor, labels: Tensor) -> float | None:
    """Fisher's discriminant ratio of features [N, d] with labels int64 [N]: trace(S_W^-1 S_B), in float64.

    S_B = sum_k N_k (mu_k - mu)(mu_k - mu)^T with mu the mean over all samples, S_W = sum_k sum_{i in k} (g_i - mu_k)(g_i -
    mu_k)^T; neither is divided by N, S_W gets no ridge. Two kinds of dimensions are left out: first those that differ nowhere
    from the first sample by more than 1e-3 |m|, m the mean of all N d values; then those whose whole column of S_W is within
    1e-3 |m|, m now the mean over the dimensions that the first step left. Source: ``calc_fdr`` in ``eval_funcs.py`` of the
    code released with Hasegawa and Sato, which the preprint gives no formula for.

    None where S_W cannot be inverted: no dimension is left, there are more dimensions than samples less classes (the rank of
    S_W is at most that), the solution fails, or the ratio comes out negative or not finite. The released code has NaN where
    its solution fails, and rounding noise in the other cases. Classes without samples count for nothing. Raises
    ``ValueError`` without samples.
    """
    return scatter(features, labels).ratio()
