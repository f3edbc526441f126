"""Descriptions of what a paper does: frozen values, no behaviour, no torch.

A paper module is written in these words. :mod:`replicate.grid` compiles them to one row for each epoch; the rooms
that need torch build losses, optimisers and networks from the same values. Everything here can be compared, hashed
and written to JSON, which is what makes a key follow content.

A number that a grid or a column supplies is written ``Free("nu")``; :func:`fill` puts the value in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar

__all__ = [
    "LDAM",
    "SOURCES",
    "AutoAugmentCutout",
    "Block",
    "Column",
    "Crop",
    "CropFlip",
    "CrossEntropy",
    "Description",
    "Drops",
    "EffectiveNumber",
    "Feed",
    "Focal",
    "Free",
    "Grid",
    "InversePrior",
    "LongTailed",
    "Method",
    "Network",
    "Objective",
    "Paper",
    "Quirk",
    "Row",
    "Sgd",
    "Source",
    "Stage",
    "Switch",
    "Table",
    "Variant",
    "VectorScaling",
    "canonical",
    "fill",
    "free_names",
    "rows",
]


@dataclass(frozen=True)
class Free:
    """A value that the column or the grid supplies, by name."""

    name: str


class Description:
    """Base of every value that decides numbers.

    ``revision`` rises when the meaning of a building block changes (a fix to its code that moves numbers): the keys of
    the cells that used it change, and of no others.
    """

    revision: ClassVar[int] = 1


# --- losses: what is computed from logits [B, C] and labels [B] ------------------------------------------------------


@dataclass(frozen=True)
class CrossEntropy(Description):
    """Softmax cross-entropy."""


@dataclass(frozen=True)
class LDAM(Description):
    """Label-distribution-aware margin loss: margins proportional to N_c^(-1/4), the rarest class gets ``max_margin``."""

    max_margin: float | Free = 0.5
    scale: float | Free = 30.0


@dataclass(frozen=True)
class VectorScaling(Description):
    """Vector-scaling loss: logits times (N_c/N_max)^gamma plus tau*log(prior), then cross-entropy."""

    gamma: float | Free
    tau: float | Free


@dataclass(frozen=True)
class Focal(Description):
    """Focal loss: (1 - exp(-l))^gamma * l for the (weighted) cross-entropy l of each image, plain mean."""

    gamma: float | Free = 1.0


# --- class weights ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EffectiveNumber(Description):
    """Class weights (1 - beta)/(1 - beta^N_c), normalised to sum C ("CB"; deferred: "DRW")."""

    beta: float | Free


@dataclass(frozen=True)
class InversePrior(Description):
    """Class weights prior^(-nu), normalised to sum C (deferred: "ADRW")."""

    nu: float | Free


@dataclass(frozen=True)
class Objective(Description):
    """Loss, class weights and how weighted losses are averaged over a batch.

    ``mean`` is ``"weights"`` (divide by the batch's sum of weights, as torch's weighted cross-entropy does) or
    ``"batch"`` (divide by the batch size). Without weights the two are the same, and so are their keys.
    """

    loss: Any
    weights: Any = None
    mean: str | Free = "weights"


# --- optimisation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drops(Description):
    """Step schedule, set at the start of each epoch e = 1, 2, ...: base * e/ramp while e <= warmup, then base, then the
    learning rate of the last (epoch, rate) in ``drops`` with e > origin + epoch."""

    base: float
    drops: tuple[tuple[int, float], ...]
    warmup: int = 0
    ramp: int = 1
    origin: int | Free = 0

    def rate(self, epoch: int) -> float:
        """Learning rate of the 1-based ``epoch``."""
        assert isinstance(self.origin, int)
        rate = self.base * epoch / self.ramp if epoch <= self.warmup else self.base
        for after, dropped in self.drops:
            if epoch > self.origin + after:
                rate = dropped
        return rate


@dataclass(frozen=True)
class Sgd(Description):
    """Stochastic gradient descent with momentum (no Nesterov); weight decay on every parameter, batch norm included."""

    schedule: Drops
    momentum: float = 0.9
    weight_decay: float | Free = 0.0


@dataclass(frozen=True)
class Crop(Description):
    """Random crop to the image's size after zero padding on every side."""

    padding: int


@dataclass(frozen=True)
class CropFlip(Description):
    """Random crop after zero padding, then a horizontal flip with probability 1/2."""

    padding: int


@dataclass(frozen=True)
class AutoAugmentCutout(Description):
    """Crop and flip, AutoAugment's 25 CIFAR-10 sub-policies (fill 128), then one Cutout square of zeros before
    normalising (Cubuk et al. 2019; DeVries and Taylor 2017)."""

    padding: int
    hole: int


@dataclass(frozen=True)
class Feed(Description):
    """What an epoch shows: every training image once, shuffled, the ragged last batch kept."""

    batch: int
    augmentation: Crop | CropFlip | AutoAugmentCutout | None = None


@dataclass(frozen=True)
class Stage(Description):
    """A stretch of epochs. ``sam_radius`` None: ordinary steps; else sharpness-aware ones (Foret et al. 2021).

    ``restart_momentum`` is about the first epoch of the stage: False carries the momentum over."""

    epochs: int | Free
    objective: Objective
    sgd: Sgd | Free
    feed: Feed | Free
    sam_radius: float | Free | None = None
    restart_momentum: bool = False


@dataclass(frozen=True)
class Switch(Description):
    """From the epoch after ``epoch`` on, some parts of the stage are replaced; the schedule goes on."""

    epoch: int | Free
    changes: tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Method(Description):
    """A chain of stages under one classifier head (``"linear"`` with bias, or ``"cosine"``: feature and class vectors
    normalised, no bias)."""

    stage: Stage
    head: str = "linear"
    switches: tuple[Switch, ...] = ()

    def then_from(self, epoch: int | Free, **changes: Any) -> Method:
        """The same method with parts of its stage replaced from the epoch after ``epoch`` on.

        ``changes``: ``loss``, ``weights``, ``sam_radius``, ``restart_momentum``. Raises ``TypeError`` for others.
        """
        unknown = set(changes) - {"loss", "weights", "sam_radius", "restart_momentum"}
        if unknown:
            raise TypeError(f"then_from cannot change {sorted(unknown)}")
        return replace(self, switches=(*self.switches, Switch(epoch, tuple(sorted(changes.items())))))

    def with_sam(self, radius: float | Free) -> Method:
        """The same method with sharpness-aware steps of this radius from the first epoch on."""
        return replace(self, stage=replace(self.stage, sam_radius=radius))


# --- data and networks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """What is known of a data set before its files are seen."""

    title: str
    classes: int
    train_per_class: int
    test_per_class: int
    channels: int
    side: int


SOURCES: Mapping[str, Source] = {
    "cifar10": Source("CIFAR-10", 10, 5000, 1000, 3, 32),
    "cifar100": Source("CIFAR-100", 100, 500, 100, 3, 32),
    # The smallest class of scikit-learn's digits has 174 images: 20 validation, 60 test, and at most 94 to train on.
    "digits": Source("Digits", 10, 94, 60, 1, 8),
}


@dataclass(frozen=True)
class LongTailed(Description):
    """An imbalanced training subset beside a balanced test set.

    Class c = 0, 1, ... of C holds ``int(largest * (1/ratio)^(c/(C-1)))`` images ("exponential"), or ``largest`` in the
    first half of the classes and ``int(largest/ratio)`` in the second ("step"). ``subset`` says which images:
    ``"shuffled"``, the first ones of each class after one legacy numpy shuffle a class, generator seeded with 0, the
    same for every training seed. ``mean`` and ``std`` normalise pixels scaled to [0, 1], channel by channel.
    """

    source: str
    profile: str
    ratio: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    largest: int
    validation: int | None = None  # images a class kept apart from training
    test: int | None = None  # images a class evaluated; None: all
    subset: str = "shuffled"

    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class [C]."""
        classes = SOURCES[self.source].classes
        fraction = 1.0 / self.ratio
        if self.profile == "step":
            half = classes // 2
            return (self.largest,) * half + (int(self.largest * fraction),) * (classes - half)
        if self.profile != "exponential":
            raise ValueError(f"profile {self.profile!r} is neither 'exponential' nor 'step'")
        return tuple(int(self.largest * fraction ** (c / (classes - 1.0))) for c in range(classes))


@dataclass(frozen=True)
class Network(Description):
    """A backbone by name (see :mod:`replicate.models`), with a classifier head for ``classes`` classes."""

    backbone: str
    classes: int
    channels: int


# --- papers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One data set under one protocol: a column of a table.

    ``path`` is what the paper prints above the column. ``values`` fills the methods' free names that the column fixes.
    ``groups`` names half-open ranges of classes whose correct counts a Record keeps for every epoch.
    """

    dataset: str
    ratio: int
    path: tuple[str, ...]
    data: LongTailed
    network: str
    values: Mapping[str, Any]
    groups: Mapping[str, tuple[int, int]]
    stand_in: bool = False  # embedded data that is no part of the paper: never compared with a published number

    @property
    def name(self) -> str:
        """Such as ``cifar10-lt/100``."""
        return f"{self.dataset}/{self.ratio}"


@dataclass(frozen=True)
class Row:
    """A printed row: its label, the method behind it, and whether the paper counts it among the baselines."""

    label: str
    method: str
    baseline: bool = True


def rows(*labels: str, baseline: bool = True, suffix: str = "") -> tuple[Row, ...]:
    """Rows whose methods are called as they are printed, with a suffix."""
    return tuple(Row(label, label + suffix, baseline) for label in labels)


@dataclass(frozen=True)
class Block:
    """Rows under one heading, in groups that the paper separates by a rule."""

    title: str
    groups: tuple[tuple[Row, ...], ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for group in self.groups for row in group)


@dataclass(frozen=True)
class Table:
    """A published layout. ``published`` names the CSV in ``papers/published/<paper>/`` with the printed numbers."""

    number: str
    title: str
    blocks: tuple[Block, ...]
    columns: tuple[Column, ...]
    published: str
    grid: str = "table"
    metric: str = "balanced_accuracy_pct"
    seeds: int = 5
    quirks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Methods x columns x the values of their free names.

    ``values`` maps a free name to its values, or to a mapping from column name to values. ``points``, where given, lists
    the only (column name, method) pairs that run, each with the one value of every free name. ``labels`` prefix the
    methods' names in this grid, so that one name never means two protocols.
    """

    title: str
    methods: Mapping[str, Method]
    columns: tuple[Column, ...]
    values: Mapping[str, Any] = field(default_factory=dict)
    points: Mapping[tuple[str, str], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Variant:
    """Another reading of a Quirk: replaces values of every column that is not a stand-in."""

    name: str
    title: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Quirk:
    """A place where paper and released code disagree, or neither says: which way we go, and why."""

    name: str
    conflict: str
    follows: str
    variant: str | None = None


@dataclass(frozen=True)
class Paper:
    """A paper: everything its module says."""

    name: str
    title: str
    citation: str
    columns: tuple[Column, ...]
    tables: tuple[Table, ...]
    grids: Mapping[str, Grid]
    variants: tuple[Variant, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    measures: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """The name on the command line."""
        return self.name.replace("_", "-")

    def methods(self, grid: str) -> Mapping[str, Method]:
        """The methods of a grid, by label."""
        return self.grids[grid].methods


# --- walking over descriptions ---------------------------------------------------------------------------------------


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """``value`` with every ``Free(name)`` replaced by ``values[name]``; names that are not in ``values`` stay free."""
    if isinstance(value, Free):
        return fill(values[value.name], values) if value.name in values else value
    if isinstance(value, tuple):
        return tuple(fill(item, values) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: fill(getattr(value, f.name), values) for f in fields(value) if f.init}
        return replace(value, **changed)
    return value


def free_names(value: Any) -> Iterator[str]:
    """Names of every ``Free`` inside ``value``, in order of appearance, repeats included."""
    if isinstance(value, Free):
        yield value.name
    elif isinstance(value, tuple):
        for item in value:
            yield from free_names(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for f in fields(value):
            yield from free_names(getattr(value, f.name))


def canonical(value: Any) -> Any:
    """``value`` as plain JSON data that follows content and nothing else.

    What is absent (None or False) is left out, so a part that a later version adds, absent by default, moves no key.
    Whole floats are written as integers, so 1 and 1.0 are one value. Raises ``TypeError`` for a value that is still free.
    """
    if isinstance(value, Free):
        raise TypeError(f"no value was given for {value.name!r}")
    if is_dataclass(value) and not isinstance(value, type):
        told: dict[str, Any] = {"kind": type(value).__name__}
        if getattr(value, "revision", 1) != 1:
            told["revision"] = getattr(value, "revision", 1)
        for f in fields(value):
            inner = getattr(value, f.name)
            if inner is not None and inner is not False:
                told[f.name] = canonical(inner)
        return told
    if isinstance(value, (tuple, list)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
