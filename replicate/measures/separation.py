"""How far apart the features of different classes lie: discriminant ratios, cosines and norms, and batch norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from replicate.engine.keyed import generator
from replicate.engine.loop import DeviceData, features_of
from replicate.engine.state import State
from replicate.grid import Cell
from replicate.measures.features import (
    augmented_features,
    chunks,
    class_counts,
    class_means,
    json_data,
    training_features,
)
from replicate.measures.fisher import fisher_discriminant_ratio, scatter


def class_cosines(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean cosine of all pairs of features [N, d] of every two classes, float64 [C, C]; NaN for a class without images.

    A class with itself includes every feature's pair with itself. The mean over pairs is the product of the classes' mean
    unit vectors, so N^2 cosines are never made. A feature of zeros has cosine 0 with everything. Source:
    ``plot_features_cos_sim`` in ``plot_funcs.py`` of the code released with Hasegawa and Sato (Figs 1 and 5).
    """
    units = torch.zeros(classes, features.shape[1], dtype=torch.float64)
    for place, some in chunks(features):
        units.index_add_(0, labels[place], functional.normalize(some, dim=1, eps=1e-300))
    means = units / class_counts(labels, classes)[:, None]
    return means @ means.T


def cosine_summary(cosines: Tensor) -> dict[str, Any]:
    """Of :func:`class_cosines` [C, C]: ``inter``, the mean off the diagonal, ``intra``, that of the diagonal, over classes with
    images; and the ``matrix`` to four digits."""
    there = ~cosines.diagonal().isnan()
    known = cosines[there][:, there]
    apart = known[~torch.eye(len(known), dtype=torch.bool)]
    return {"inter": apart.mean(), "intra": known.diagonal().mean(), "matrix": cosines.numpy().round(4)}


def feature_norms(features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Length of the features [N, d] of each class, by both readings of Figs 3 and 5 of Hasegawa and Sato: ``mean_of_norms``,
    as in ``plot_features_norms`` of the released code, and ``norm_of_mean``, as in the caption; float64 [C], NaN without
    images."""
    norms = torch.zeros(classes, dtype=torch.float64)
    for place, some in chunks(features):
        norms.index_add_(0, labels[place], some.norm(dim=1))
    return {
        "mean_of_norms": norms / class_counts(labels, classes),
        "norm_of_mean": class_means(features, labels, classes).norm(dim=1),
    }


def norm_fit(norms: Sequence[float], counts: Sequence[int]) -> dict[str, float | None]:
    """The power law c_0 * P_k^gamma_0 of the class prior P_k = N_k / sum N that is nearest to ``norms`` [C], by least squares
    of log norm on log prior, and the share of the logarithm's variance that it explains (``r_squared``).

    Only classes with images and a positive norm count. All None if fewer than two different priors are among them;
    ``r_squared`` is None if all norms are equal. No formula of the paper: it sums up Fig. 3 in two numbers.
    """
    number, length = np.asarray(counts, dtype=np.float64), np.asarray(norms, dtype=np.float64)
    usable = (number > 0) & (length > 0) & np.isfinite(length)
    x, y = np.log(number[usable] / number.sum()), np.log(length[usable])
    if len(np.unique(number[usable])) < 2:
        return {"c_0": None, "gamma_0": None, "r_squared": None}
    gamma = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    intercept = float(y.mean() - gamma * x.mean())
    total = float(((y - y.mean()) ** 2).sum())
    left = float(((y - intercept - gamma * x) ** 2).sum())
    return {"c_0": math.exp(intercept), "gamma_0": gamma, "r_squared": 1 - left / total if total > 0 else None}


def classifier_norms(weight: Tensor) -> dict[str, NDArray[np.float64]]:
    """Length of each class vector of ``weight`` [C, d], and its ratio to the first class's (Fig. 6 of Hasegawa and Sato)."""
    norms = weight.detach().cpu().double().norm(dim=1).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"norms": norms, "ratio": norms / norms[0]}


def batch_norm_summary(model: nn.Module) -> dict[str, Any]:
    """Mean and spread of scales and shifts of every batch norm in ``model``, in the order of its layers (``layers``), and of
    the last one, ``top``, None if there is none.

    ``scale_mean``, ``scale_sd``, ``shift_mean``, and ``shift_variance``; spread is the population's. Sec. 4.3 of Hasegawa and
    Sato quotes the mean scale and the variance of shifts of the top layer."""
    layers = []
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            scale, shift = layer.weight.detach().cpu().double(), layer.bias.detach().cpu().double()
            layers.append(
                {
                    "name": name,
                    "scale_mean": scale.mean(),
                    "scale_sd": scale.std(correction=0),
                    "shift_mean": shift.mean(),
                    "shift_variance": shift.var(correction=0),
                }
            )
    return {"layers": layers, "top": layers[-1] if layers else None}


def random_layer(features: Tensor, seed: int) -> Tensor:
    """Features [N, d] after an untrained linear layer from d to d and ReLU, float32 [N, d].

    Weight [d, d], then bias [d], uniform in +-1/sqrt(d) by ``seed`` (Sec. 7.6.2 of Hasegawa and Sato; Table 3)."""
    d = features.shape[1]
    drawing, bound = generator(seed, "random layer"), d**-0.5
    weight = torch.empty(d, d).uniform_(-bound, bound, generator=drawing)
    bias = torch.empty(d).uniform_(-bound, bound, generator=drawing)
    return functional.relu(functional.linear(features.float(), weight, bias))


def measure(state: State, data: DeviceData, cell: Cell) -> dict[str, Any]:
    """Discriminant ratios, cosines and norms of the network that the last stage hands over, in evaluation mode.

    * ``fdr``: of training features under one random draw of the last epoch's augmentation (``train``, as the released code
      takes them), of plain ones (``train_plain``) and of ``test`` features; each once more with the mean of class means in
      place of the sample mean (``..._class_mean``). ``dimensions``: how many features each is about.
    * ``random_layer``: ``before`` and ``after`` a random layer (:func:`random_layer`), of test features; under ``train`` of
      training features.
    * ``cosine``, ``feature_norm`` (``train`` and ``test``) and ``norm_fit`` (training features, both readings of the norm):
      training features are those of ``fdr.train``.
    * ``classifier_norm`` and ``batch_norm``.
    """
    model, classes = state.handed_over(), data.classes
    row = cell.programme.epoch(cell.programme.length)
    fdr: dict[str, float | None] = {}
    dimensions: dict[str, int] = {}

    def enter(name: str, features: Tensor, labels: Tensor) -> None:
        found = scatter(features, labels)
        fdr[name], fdr[f"{name}_class_mean"] = found.ratio(), found.ratio(of_class_means=True)
        dimensions[name] = found.dimensions

    labels = data.train_labels.cpu()
    features = augmented_features(model, data, row.feed.augmentation, cell.seed)
    enter("train", features, labels)
    cosine = cosine_summary(class_cosines(features, labels, classes))
    norms = {"train": feature_norms(features, labels, classes)}
    after_train = fisher_discriminant_ratio(random_layer(features, cell.seed), labels)
    # One set of features at a time: each may fill hundreds of megabytes.
    features = training_features(model, data)
    enter("train_plain", features, labels)
    labels = data.test.labels.cpu()
    features = features_of(model, data.test).cpu()
    enter("test", features, labels)
    norms["test"] = feature_norms(features, labels, classes)
    after_test = fisher_discriminant_ratio(random_layer(features, cell.seed), labels)
    weight = model.head.weight
    assert isinstance(weight, Tensor)
    return json_data(  # type: ignore[no-any-return]
        {
            "epoch": state.handed_over_epoch,
            "fdr": fdr,
            "dimensions": dimensions,
            "random_layer": {
                "before": fdr["test"],
                "after": after_test,
                "train": {"before": fdr["train"], "after": after_train},
            },
            "cosine": cosine,
            "feature_norm": norms,
            "norm_fit": {reading: norm_fit(found.tolist(), data.counts) for reading, found in norms["train"].items()},
            "classifier_norm": classifier_norms(weight),
            "batch_norm": batch_norm_summary(model),
        }
    )
