"""The weight-balancing paper's analysis as numbers: what its Measures found for every finished run. No torch.

A Measure, or a number in one, that is not there stays empty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from replicate.grid import Cell
from replicate.record import Store
from replicate.report.trained import Trained, trained

MEASURE = "separation"  # the one that every run has; the others belong to some

_NAMES = ("method", "data", "seed")
#: Tables of runs: a title, and for each column its head and the way to its number: a Measure, then names in it.
_OF_RUN: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Features: discriminant ratio, cosine between and within classes, norm as c_0 * prior^gamma_0": {
        "FDR train": ("separation", "fdr", "train"),
        "FDR test": ("separation", "fdr", "test"),
        "cosine between": ("separation", "cosine", "inter"),
        "cosine within": ("separation", "cosine", "intra"),
        "c_0": ("separation", "norm_fit", "mean_of_norms", "c_0"),
        "gamma_0": ("separation", "norm_fit", "mean_of_norms", "gamma_0"),
    },
    "Last batch norm; forgetting score, mean over the first and the last group of classes": {
        "mean of scales": ("separation", "batch_norm", "top", "scale_mean"),
        "variance of shifts": ("separation", "batch_norm", "top", "shift_variance"),
        "forgetting, first": ("forgetting", "score", "first group"),
        "forgetting, last": ("forgetting", "score", "last group"),
    },
    "Theorem 1, shares of pairs of one class: premise, delta >= 1/sqrt(2), and satisfied of the latter": {
        "premise": ("etf_cosine", "premise"),
        "delta": ("etf_cosine", "delta"),
        "satisfied": ("etf_cosine", "satisfied", "of asserted"),
        "smallest slack": ("etf_cosine", "smallest_slack"),
    },
    "Theorems 2 and 3: relative distance of class vectors from the theorem's; objective in brackets": {
        "trained (own)": ("second_stage", "as_trained", "trained", "from_theorem", "total"),
        "exact (own)": ("second_stage", "as_trained", "exact", "from_theorem", "total"),
        "exact from lemma (own)": ("second_stage", "as_trained", "exact", "from_lemma", "total"),
        "trained (beta 1)": ("second_stage", "beta_1", "trained", "from_theorem", "total"),
        "exact (beta 1)": ("second_stage", "beta_1", "exact", "from_theorem", "total"),
        "exact (unweighted)": ("second_stage", "unweighted", "exact", "from_theorem", "total"),
    },
}
_OF_CLASS: Mapping[str, tuple[str, ...]] = {
    "mean feature norm": ("separation", "feature_norm", "train", "mean_of_norms"),
    "norm of mean feature": ("separation", "feature_norm", "train", "norm_of_mean"),
    "classifier norm ratio": ("separation", "classifier_norm", "ratio"),
    "forgetting": ("forgetting", "score"),
}


#: Of every step of a perceptron (Fig. 2): ReLU of its output under the trained and under the untrained network.
_OF_STEP = ("step", "FDR trained", "FDR untrained")


def lines(
    store: Store, planned: Iterable[Cell], edition_of: Mapping[str, str], *, classes: bool = False, steps: bool = False
) -> Iterator[tuple[Any, ...]]:
    """A line for every run of the cells that has any of the Measures, whatever its seed, or one for each of its classes, or of
    its ``steps``: method, data, seed, (class or step,) then numbers, None where one is not there.

    Raises ``BadInput`` naming a file that is damaged.
    """
    for run in trained(store, planned, edition_of):
        if steps:
            found = run.measure("relu_fdr") or {}
            for one, other in zip(found.get("trained", ()), found.get("untrained", ()), strict=True):
                yield (*run.names, one["step"], one["fdr"], other["fdr"])
            continue
        told = {name: run.measure(name) for name in ("separation", "forgetting", "etf_cosine", "second_stage")}
        if classes:
            columns = [found if isinstance(found := _at(told, way), list) else [] for way in _OF_CLASS.values()]
            for number in range(max(map(len, columns))):
                yield (*run.names, number, *(column[number] if number < len(column) else None for column in columns))
        elif any(told.values()):
            told["forgetting"] = _by_group(told["forgetting"], run)
            told["etf_cosine"] = _as_share(told["etf_cosine"])
            yield (*run.names, *(_at(told, way) for table in _OF_RUN.values() for way in table.values()))


def _at(told: Any, way: Sequence[str]) -> Any:
    for step in way:
        told = told.get(step) if isinstance(told, dict) else None
    return told


def _by_group(forgetting: dict[str, Any] | None, run: Trained) -> dict[str, Any] | None:
    """Mean forgetting score of the first and the last of the column's groups of classes."""
    scores = _at(forgetting, ("score",))
    if not isinstance(scores, list):
        return None

    def mean(bounds: tuple[int, int]) -> float | None:
        found = [score for score in scores[slice(*bounds)] if score is not None]
        return math.fsum(found) / len(found) if found else None

    groups = list(run.cell.column.groups.values())
    return {"score": {"first group": mean(groups[0]), "last group": mean(groups[-1])}}


def _as_share(etf_cosine: dict[str, Any] | None) -> dict[str, Any] | None:
    if etf_cosine is None:
        return None
    asserted, satisfied = etf_cosine.get("asserted"), etf_cosine.get("satisfied")
    return {**etf_cosine, "satisfied": {"of asserted": satisfied / asserted if asserted and satisfied is not None else None}}


def render(found: Sequence[tuple[Any, ...]], *, classes: bool = False, steps: bool = False) -> str:
    """As aligned text, ending with a line feed: a table for each kind of number, without runs that have none of it."""
    from tabulate import tabulate

    def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
        shown = [[f"{value:.3g}" if isinstance(value, float) else value for value in row] for row in rows]
        aligned = ("left", "left", *("right",) * (len(heads) - 2))
        return tabulate(shown, heads, disable_numparse=True, colalign=aligned)

    about = (
        "\n\nThe network that training hands over, in evaluation mode. Training images, unless it says test: augmented once for"
        "\nfeatures, as they are for the theorems; forgetting from predictions made while training.\n"
    )
    if steps:
        of = "\n\nDiscriminant ratio of ReLU of each step's output, on validation images, in evaluation mode.\n"
        return table((*_NAMES, *_OF_STEP), found) + of
    if classes:
        return table((*_NAMES, "class", *_OF_CLASS), found) + about
    parts, first = [], len(_NAMES)
    for title, ways in _OF_RUN.items():
        last = first + len(ways)
        rows = [(*line[: len(_NAMES)], *line[first:last]) for line in found if any(x is not None for x in line[first:last])]
        if rows:
            parts.append(f"{title}\n\n{table((*_NAMES, *ways), rows)}")
        first = last
    return "\n\n".join(parts) + about
