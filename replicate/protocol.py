"""Descriptions of what a paper does: frozen values, no behaviour, no torch.

A paper module is written in these words. :mod:`replicate.grid` compiles them to one row for each epoch; the rooms
that need torch build losses, optimisers and networks from the same values. Everything here can be compared, hashed
and written to JSON, which is what makes a key follow content.

A number that a grid or a column supplies is written ``Free("nu")``; :func:`fill` puts the value in its place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar

__all__ = [
    "BALANCED_ACCURACY",
    "BEST_ON_TEST",
    "BEST_ON_VALIDATION",
    "CLASS_BALANCED",
    "DECAYED",
    "EVALUATING",
    "LDAM",
    "SOURCES",
    "TOTALS",
    "Above",
    "Across",
    "AdditiveAdjustment",
    "Adjustment",
    "Augmentation",
    "AutoAugmentCutout",
    "Block",
    "Claim",
    "Column",
    "Cosine",
    "Crop",
    "CropFlip",
    "CrossEntropy",
    "Data",
    "Description",
    "DotRegression",
    "Drops",
    "EffectiveNumber",
    "FeatureNorm",
    "Feed",
    "Figure",
    "Focal",
    "Free",
    "Grid",
    "InversePrior",
    "LogitsRetargeting",
    "LongTailed",
    "MaxNorm",
    "Method",
    "Metric",
    "MultiplicativeAdjustment",
    "Network",
    "Objective",
    "Optimum",
    "Panel",
    "Paper",
    "PhotographFolders",
    "Quirk",
    "RandomResizedCropFlip",
    "Row",
    "SecondRun",
    "Sgd",
    "SoftmaxBinaryCrossEntropy",
    "Source",
    "Stage",
    "Stratified",
    "Switch",
    "Table",
    "TauNormalisation",
    "Variant",
    "VectorScaling",
    "canonical",
    "fill",
    "free_names",
    "over",
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

    @cached_property
    def has_free(self) -> bool:
        """Whether something inside is still free."""
        return any(True for f in fields(self) for _ in free_names(getattr(self, f.name)))  # type: ignore[arg-type]

    @cached_property
    def text(self) -> str:
        """As :func:`canonical_text` has it; many programmes share a part."""
        return canonical_text(self)


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


@dataclass(frozen=True)
class DotRegression(Description):
    """Dot-regression loss: (z_y - |g| |w_y|)^2 / (2 |g| |w_y|) for feature g and class vector w_y, norms without gradient,
    plain mean. For the ETF head, whose class vectors have length 1 (Yang et al. 2022)."""


@dataclass(frozen=True)
class LogitsRetargeting(Description):
    """Cross-entropy towards targets 1 - delta + delta/C for an image's own class and delta/C for every other one, 0 <= delta <
    1: label smoothing of any strength, without class counts."""

    delta: float | Free


@dataclass(frozen=True)
class SoftmaxBinaryCrossEntropy(Description):
    """Binary cross-entropy of every class's softmax probability, against 1 for an image's own class and 0 for others: mean over
    images and classes, each image times its class's weight. The weight-balancing ancestor's class-balanced loss."""


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
class FeatureNorm(Description):
    """Feature regularisation: zeta/2 times the batch's mean of squared feature norms, added to the loss."""

    zeta: float | Free


@dataclass(frozen=True)
class Objective(Description):
    """Loss, class weights, how weighted losses are averaged over a batch, what is added to them, and what logits are multiplied
    by before the loss (``scale``; for a cosine head, whose logits are cosines).

    ``mean`` is ``"weights"`` (divide by the batch's sum of weights, as torch's weighted cross-entropy does) or
    ``"batch"`` (divide by the batch size). Without weights the two are the same, and so are their keys.
    """

    loss: Any
    weights: Any = None
    mean: str | Free = "weights"
    regulariser: FeatureNorm | None = None
    scale: float | Free | None = None


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
class Cosine(Description):
    """Cosine schedule over a stage of ``epochs`` epochs, stepped before each epoch e = 1, 2, ...:
    base/2 * (1 + cos(pi e/epochs)), so that the first epoch is a step below ``base`` and the last one has rate 0; or
    ``stepped_after`` each: base/2 * (1 + cos(pi (e - 1)/epochs)), from ``base`` to a step above 0."""

    base: float | Free
    epochs: int | Free
    stepped_after: bool = False

    def rate(self, epoch: int) -> float:
        """Learning rate of the stage's 1-based ``epoch``."""
        assert isinstance(self.epochs, int) and not isinstance(self.base, Free)
        steps = epoch - 1 if self.stepped_after else epoch
        return self.base / 2 * (1 + math.cos(math.pi * steps / self.epochs))


@dataclass(frozen=True)
class MaxNorm(Description):
    """Class vectors longer than a bound are scaled back to it, after every training pass (``"epoch"``) or step (``"batch"``).

    The bound is one number for all classes, taken from the classifier as the stage finds it: its smallest norm plus ``share``
    of the way to its largest. The bias is free."""

    share: float = 0.1
    each: str | Free = "epoch"


#: Parameters that weight decay acts on, by the name that :class:`Sgd` has for them; None: every one that is trained.
DECAYED = ("convolutions and linear layers", "all but batch-norm shifts")


@dataclass(frozen=True)
class Sgd(Description):
    """Stochastic gradient descent with momentum (no Nesterov).

    Weight decay acts on every trained parameter, batch norm and biases included, or on those of :data:`DECAYED` alone."""

    schedule: Drops | Cosine
    momentum: float = 0.9
    weight_decay: float | Free = 0.0
    decayed: str | None = None
    projection: MaxNorm | None = None


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
class RandomResizedCropFlip(Description):
    """A window of random area (a share of the photograph's, uniform in ``area``) and shape (width over height, log-uniform in
    ``shape``), resized to the network's side, then a horizontal flip with probability 1/2."""

    area: tuple[float, float] = (0.08, 1.0)
    shape: tuple[float, float] = (3 / 4, 4 / 3)


Augmentation = Crop | CropFlip | AutoAugmentCutout | RandomResizedCropFlip


#: A sampler that draws as many images as there are, each from a class drawn uniformly, then uniformly among its images.
CLASS_BALANCED = "class-balanced"


@dataclass(frozen=True)
class Feed(Description):
    """What an epoch shows: every training image once, shuffled, the ragged last batch kept; or, with a ``sampler``, as many
    images drawn by it, with replacement."""

    batch: int
    augmentation: Augmentation | None = None
    sampler: str | None = None


#: What a stage hands over: None, its last state; or the state after its epoch of best balanced accuracy on the validation
#: split or the test set, ties to the earlier. That state is then also the one that is evaluated, adjusted and measured.
BEST_ON_VALIDATION, BEST_ON_TEST = "best on validation", "best on test"

#: Batch norm in evaluation mode while training: running statistics are used and stay as they are.
EVALUATING = "evaluating"


@dataclass(frozen=True)
class Stage(Description):
    """A stretch of epochs. ``sam_radius`` None: ordinary steps; else sharpness-aware ones (Foret et al. 2021).

    ``restart_momentum`` is about the first epoch of the stage: False carries the momentum over. A stage that follows another
    always restarts it. ``trained`` None: every parameter; ``"head"``: the classifier alone. ``batch_norm`` None: batch
    statistics are used and gathered; or :data:`EVALUATING`, where the backbone of a stage that trains the head is a fixed
    function of an image. ``head`` None: the classifier goes on as it is; else its class vectors go on in a head of this form
    (see :class:`Method`). ``unit_rows``: class vectors are scaled to length 1 before the first epoch. ``hands_over``: None,
    :data:`BEST_ON_VALIDATION` or :data:`BEST_ON_TEST`."""

    epochs: int | Free
    objective: Objective
    sgd: Sgd | Free
    feed: Feed | Free
    sam_radius: float | Free | None = None
    restart_momentum: bool = False
    trained: str | None = None
    unit_rows: bool = False
    hands_over: str | Free | None = None
    batch_norm: str | None = None
    head: str | None = None


@dataclass(frozen=True)
class Switch(Description):
    """From the epoch after ``epoch`` on, some parts of the stage are replaced; the schedule goes on."""

    epoch: int | Free
    changes: tuple[tuple[str, Any], ...]


# --- adjustments: what is done to a trained classifier without training ------------------------------------------------


@dataclass(frozen=True)
class AdditiveAdjustment(Description):
    """Logits minus tau * log(prior) (Menon et al. 2021), for every tau of ``values``."""

    values: tuple[float, ...] | Free
    parameter: ClassVar[str] = "tau"


@dataclass(frozen=True)
class MultiplicativeAdjustment(Description):
    """Class vectors scaled to length 1 where ``unit_rows`` says so (the bias stays), then logits, bias included, times
    prior^(-gamma) (Kim and Kim 2020), for every gamma of ``values``."""

    values: tuple[float, ...] | Free
    unit_rows: bool = True
    parameter: ClassVar[str] = "gamma"


@dataclass(frozen=True)
class TauNormalisation(Description):
    """Class vectors divided by their length to the power tau (Kang et al. 2020), for every tau of ``values``; bias
    unchanged.
    """

    values: tuple[float, ...] | Free
    parameter: ClassVar[str] = "tau"


Adjustment = AdditiveAdjustment | MultiplicativeAdjustment | TauNormalisation


@dataclass(frozen=True)
class Method(Description):
    """A chain of stages under one classifier head, then at most one adjustment.

    Heads: ``"linear"`` with bias; ``"cosine"``: feature and class vectors normalised, no bias; ``"etf"``: the fixed unit
    vectors of a randomly rotated simplex equiangular tight frame, with a trained bias. ``switches`` are about the first stage;
    ``later`` stages follow it, None is none. ``batch_norm_scale``: every scale of batch norm is this constant and every shift
    0, untrained.
    """

    stage: Stage
    head: str = "linear"
    switches: tuple[Switch, ...] = ()
    later: tuple[Stage | Free | None, ...] = ()
    batch_norm_scale: float | Free | None = None
    adjustment: Adjustment | None = None

    def followed_by(self, stage: Stage | Free) -> Method:
        """The same method with one more stage, or with one that the column supplies."""
        return replace(self, later=(*self.later, stage))

    def adjusted(self, adjustment: Adjustment) -> Method:
        """The same method, its classifier adjusted after training."""
        return replace(self, adjustment=adjustment)

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
    # Classes of MNIST differ in size; these are the smallest class's place in the official files, for planning alone.
    "mnist": Source("MNIST", 10, 5421, 892, 1, 28),
    "mini_imagenet": Source("mini-ImageNet", 100, 500, 100, 3, 224),
    "mini_imagenet_lt": Source("mini-ImageNet-LT", 100, 500, 100, 3, 224),
}


@dataclass(frozen=True)
class LongTailed(Description):
    """An imbalanced training subset beside a balanced test set.

    Class c = 0, 1, ... of C holds ``int(largest * (1/ratio)^(c/(C-1)))`` images ("exponential"), or ``largest`` in the
    first half of the classes and ``int(largest/ratio)`` in the second ("step"). ``rounding`` None truncates as int() does,
    ``"nearest"`` rounds, ties to even. ``subset`` says which images: ``"shuffled"``, the first ones of each class after one
    legacy numpy shuffle a class, generator seeded with 0, the same for every training seed; or ``"first"``, the first ones of
    each class in file order, the next ``validation`` ones being the validation images. ``mean`` and ``std`` normalise pixels
    scaled to [0, 1], channel by channel.
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
    rounding: str | None = None
    validation_shown: int | None = None  # validation images a class evaluated; None: all
    mirrored: bool = False  # evaluated images are shown as they are and mirrored, and their logits averaged

    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class [C]. Raises ``ValueError`` for an unknown profile or a class that is left without."""
        return self._counts

    @cached_property
    def _counts(self) -> tuple[int, ...]:
        classes = SOURCES[self.source].classes
        fraction = 1.0 / self.ratio
        whole = round if self.rounding == "nearest" else int
        if self.profile == "step":
            half = classes // 2
            counts = (self.largest,) * half + (whole(self.largest * fraction),) * (classes - half)
        elif self.profile == "exponential":
            counts = tuple(whole(self.largest * fraction ** (c / (classes - 1.0))) for c in range(classes))
        else:
            raise ValueError(f"profile {self.profile!r} is neither 'exponential' nor 'step'")
        if (least := min(counts)) < 1:  # its prior would be 0, and losses and means over classes not a number
            raise ValueError(
                f"class {counts.index(least)} of {self.source} is left without training images by ratio {self.ratio:g} and "
                f"{self.largest} in the largest class"
            )
        return counts

    @property
    def images(self) -> int:
        """Training images."""
        return sum(self.class_counts())

    @property
    def evaluated(self) -> int:
        """Validation and test images of one evaluation, mirrored ones included."""
        source = SOURCES[self.source]
        validation = self.validation or 0
        if self.validation_shown is not None:
            validation = min(validation, self.validation_shown)
        return source.classes * ((self.test or source.test_per_class) + validation) * (2 if self.mirrored else 1)

    def shown(self, test: int, validation: int) -> LongTailed:
        """The same training images; no more than so many test and validation images of each class are evaluated."""
        if self.subset == "shuffled":
            return replace(self, test=test)
        return replace(self, test=test, validation_shown=validation)


@dataclass(frozen=True)
class Stratified(Description):
    """All images of a data set, training and test files together in this order, divided anew: ``test`` images apart, then
    ``validation`` images, both stratified by class by scikit-learn's ``train_test_split`` with ``random_state``; the rest is
    trained on. ``test_shown`` and ``validation_shown`` limit how many of each class are evaluated."""

    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test: int
    validation: int
    random_state: int = 0
    test_shown: int | None = None
    validation_shown: int | None = None

    @property
    def images(self) -> int:
        """Training images."""
        return TOTALS[self.source] - self.test - self.validation

    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class [C] as if classes were of equal size; the real ones are known with the images."""
        classes = SOURCES[self.source].classes
        return (self.images // classes,) * classes

    @property
    def evaluated(self) -> int:
        """Validation and test images of one evaluation."""
        classes = SOURCES[self.source].classes
        limits = ((self.test, self.test_shown), (self.validation, self.validation_shown))
        return sum(count if shown is None else min(count, classes * shown) for count, shown in limits)

    def shown(self, test: int, validation: int) -> Stratified:
        """The same training images; no more than so many test and validation images of each class are evaluated."""
        return replace(self, test_shown=test, validation_shown=validation)


#: Images of a data set that is divided anew, training and test files together.
TOTALS: Mapping[str, int] = {"mnist": 70_000}


@dataclass(frozen=True)
class PhotographFolders(Description):
    """Photographs in folders, one a class: ready ones in ``train``, ``val`` and ``test`` as they are found, or made from a
    folder of ImageNet-1k training photographs by the mini-ImageNet-LT recipe (see :mod:`replicate.data.folders`).

    Training photographs are cropped to ``side`` pixels; for evaluation the shorter side is resized to ``resize`` and the centre
    cropped. Photographs that all have one size smaller than ``side`` are trained and evaluated at that size as they are.
    ``largest`` and ``ratio`` give the long tail (class c of C: int(largest * (1/ratio)^(c/(C-1)))), ``ratio`` 1 the balanced
    set; ``validation`` and ``test`` images of each class are kept apart."""

    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int
    resize: int
    largest: int
    ratio: float
    validation: int
    test: int
    test_shown: int | None = None
    validation_shown: int | None = None

    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class [C] by the recipe, which a ready folder must have, too."""
        classes = SOURCES[self.source].classes
        return tuple(int(self.largest * (1.0 / self.ratio) ** (c / (classes - 1.0))) for c in range(classes))

    @property
    def images(self) -> int:
        """Training images by the recipe."""
        return sum(self.class_counts())

    @property
    def evaluated(self) -> int:
        """Validation and test images of one evaluation, by the recipe."""
        limits = ((self.test, self.test_shown), (self.validation, self.validation_shown))
        return SOURCES[self.source].classes * sum(count if shown is None else min(count, shown) for count, shown in limits)

    def shown(self, test: int, validation: int) -> PhotographFolders:
        """The same training images; no more than so many test and validation images of each class are evaluated."""
        return replace(self, test_shown=test, validation_shown=validation)


#: What a programme trains on.
Data = LongTailed | Stratified | PhotographFolders


@dataclass(frozen=True)
class Network(Description):
    """A backbone by name (see :mod:`replicate.models`), with a classifier head for ``classes`` classes."""

    backbone: str
    classes: int
    channels: int
    batch_norm_scale: float | None = None  # every scale is this constant and every shift 0, untrained


# --- papers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One data set under one protocol: a column of a table.

    ``path`` is what the paper prints above the column. ``values`` fills the methods' free names that the column fixes.
    ``groups`` names half-open ranges of classes whose correct counts a Record keeps for every epoch. ``tag`` tells columns of
    one data set and ratio apart by their network, ``then`` by what follows a row's method in them.
    """

    dataset: str
    ratio: int
    path: tuple[str, ...]
    data: Data
    network: str
    values: Mapping[str, Any]
    groups: Mapping[str, tuple[int, int]]
    stand_in: bool = False  # embedded data that is no part of the paper: never compared with a published number
    tag: str = ""
    then: str = ""

    @property
    def name(self) -> str:
        """Such as ``cifar10-lt/100``, or ``mnist/1/mlp3`` with a tag."""
        return "/".join(part for part in (self.dataset, str(self.ratio), self.tag, self.then) if part)


@dataclass(frozen=True)
class Row:
    """A printed row: its label, the method behind it, and whether the paper counts it among the baselines.

    ``method`` None: the paper quotes the row from elsewhere, and so do we. ``elsewhere`` (paper, table, row, column path) is
    where this project replicates what such a row quotes.
    """

    label: str
    method: str | None
    baseline: bool = True
    elsewhere: tuple[str, str, str, str] | None = None


def rows(*labels: str, baseline: bool = True, suffix: str = "") -> tuple[Row, ...]:
    """Rows whose methods are called as they are printed, with a suffix."""
    return tuple(Row(label, label + suffix, baseline) for label in labels)


@dataclass(frozen=True)
class Block:
    """Rows under one heading, in groups that the paper separates by a rule. ``added``: rows that the paper does not print in
    this table; they are ours alone, and compared with nothing."""

    title: str
    groups: tuple[tuple[Row, ...], ...]
    added: bool = False

    @property
    def rows(self) -> tuple[Row, ...]:
        return tuple(row for group in self.groups for row in group)


@dataclass(frozen=True)
class Metric:
    """What is printed for a row under a column: accuracy in percent, or a number of a Measure.

    ``path`` follows the column's own where the paper prints more than one number there (``("Accuracy", "Many")``). ``kind`` is
    the metric as the CSVs name it. ``group`` names the classes that accuracy is the mean over; None: all. ``measure`` is a
    Measure and the way to the number in it (``("separation", "fdr", "train")``). ``spread``: the paper prints one.
    An adjustment has no Measure of its own: that of the training before it stands there."""

    path: tuple[str, ...]
    kind: str
    group: str | None = None
    measure: tuple[str, ...] | None = None
    spread: bool = True


BALANCED_ACCURACY = Metric((), "balanced_accuracy_pct")


@dataclass(frozen=True)
class Table:
    """A published layout. ``published`` names the CSV in ``papers/published/<paper>/`` with the printed numbers.

    Rows are methods; columns are data, each with the ``metrics``. ``transposed``: the paper prints data as rows, and methods
    with their metrics as columns. ``stand_ins`` are embedded data on which the same layout can be printed. ``beside`` are paths
    of further columns that the paper prints and that are not replicated here. ``gains_over``: every number is followed by its
    gain over that of the column with this last part of its path, in brackets. ``descriptive``: nothing of the table is
    replicated, be it words or numbers on other data; blocks and columns are then empty, and the CSV says it all."""

    number: str
    title: str
    blocks: tuple[Block, ...]
    columns: tuple[Column, ...]
    published: str
    grid: str = "table"
    metrics: tuple[Metric, ...] = (BALANCED_ACCURACY,)
    quirks: tuple[str, ...] = ()
    stand_ins: tuple[Column, ...] = ()
    transposed: bool = False
    descriptive: bool = False
    beside: tuple[tuple[str, ...], ...] = ()
    gains_over: str | None = None


@dataclass(frozen=True)
class Panel:
    """One pair of axes of a figure: what is drawn of which methods on which data.

    ``draws`` is one of

    * ``"accuracy"``: test accuracy over one parameter of a grid (``over``), a curve for each method, or of one method for all
      classes (``groups`` has ``""``) and for groups of them;
    * ``"ratio"``: likewise, training accuracy of the first of two ``groups`` over that of the second;
    * ``"map"``: test accuracy over two parameters of a grid (``over``: across, then up);
    * ``"training"``: training accuracy of each of the ``groups``, epoch by epoch, under each method;
    * ``"classes"``: a Measure's number of each class (``measure``: its name and the way to the list), a curve for each method;
    * ``"pairs"``: a Measure's number of each pair of classes, under one method;
    * ``"steps"``: a Measure's number after each step of a network, a curve for each method;
    * ``"normals"``: positive and negative logits of each of the ``groups`` as normal densities, under one method;
    * ``"magnitude"``, ``"deviation"``, ``"norm"``: logits of groups of ten classes, a curve for each method (see
      :mod:`replicate.report.logits`).

    Runs are those of ``table`` (its number) where one is named, else of ``grid``. ``title`` is what stands above the axes, with
    the column's path for ``{data}``; ``quantity`` is that of the vertical axis or of colours; ``labels`` are what the methods
    are called, if not by their names."""

    draws: str
    column: Column
    methods: tuple[str, ...]
    title: str
    quantity: str
    grid: str = ""
    table: str = ""
    over: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    measure: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """A published figure: its panels in reading order, so many ``across``. ``unknown`` says what of its layout or of its runs
    the paper leaves open, and what is drawn here. ``quirks`` touch it. ``stand_in`` takes the place of every panel's data where
    the paper's are not there. ``command`` shows a figure that is not made of Records, which has no panels."""

    number: str
    title: str
    panels: tuple[Panel, ...]
    across: int
    unknown: str = ""
    quirks: tuple[str, ...] = ()
    stand_in: Column | None = None
    command: str = ""


@dataclass(frozen=True)
class Above:
    """Of every pair the first number is larger than the second.

    ``by`` says what pairs are of: ``"row"``, block title and label as the CSVs have them; ``"column"``, the last part of a
    column's path; ``"metric"``, metrics by name. In all else the two numbers are alike: every pair is compared in each of
    ``tables`` (numbers), in each of their ``rows``, ``columns`` (paths) and ``metrics``: in all there are, if empty."""

    tables: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    by: str = "row"
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def of(self, table: str) -> bool:
        """Whether it compares numbers of a table."""
        return table in self.tables


@dataclass(frozen=True)
class Optimum:
    """Among the values of one ``parameter`` of a grid, ``value`` has the highest accuracy for a method in a column (its name).
    The paper shows it in a figure and prints no number of it. ``table`` is one that has a row of the method."""

    grid: str
    table: str
    method: str
    column: str
    parameter: str
    value: float

    def of(self, table: str) -> bool:
        """Of no table: its numbers are a figure's."""
        return False


@dataclass(frozen=True)
class Claim:
    """What a paper says, or what is plainly read off its tables: a sentence, where it stands (``source``; a table alone where
    it is read off that), and the comparisons that decide it. It holds if all of them do."""

    name: str
    sentence: str
    source: str
    comparisons: tuple[Above | Optimum, ...]


def over(first: str, *others: str) -> tuple[tuple[str, str], ...]:
    """Pairs of the first with each of the others, itself left out: it is the best of them."""
    return tuple((first, other) for other in others if other != first)


@dataclass(frozen=True)
class SecondRun:
    """Numbers of the authors' own for rows of a table, from another run: ``published`` names their CSV, ``title`` says what
    they are, ``rows`` maps a row of the table, as its CSV has it, to one of theirs. Columns and metrics are called alike.
    ``gain`` is of the first row over the second: what the paper proposes over what it starts from."""

    table: str
    title: str
    published: str
    rows: Mapping[str, str]
    gain: tuple[str, str]


@dataclass(frozen=True)
class Grid:
    """Methods x columns x the values of their free names.

    ``values`` maps a free name to its values, or to a mapping from column name to values. ``points``, where given, lists
    the only (column name, method) pairs that run, each with the one value of every free name. A method's name is its own in
    each grid.
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
    """A place where paper and released code disagree, or neither says: which way we go, and why. ``sources``: of the data that
    it is about, where that is not all."""

    name: str
    conflict: str
    follows: str
    variant: str | None = None
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Across:
    """Numbers of a published CSV that other papers print too: what their rows (methods) and columns (data) are called in words
    that all papers' modules share. Only what is certain, and only accuracy over all classes. ``by`` says who made them, where
    that is neither the paper nor those whom it quotes."""

    published: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]
    by: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper: everything its module says. ``seeds``: how many runs its numbers are of; they are 0, 1 and so on here."""

    name: str
    title: str
    citation: str
    columns: tuple[Column, ...]
    tables: tuple[Table, ...]
    grids: Mapping[str, Grid]
    seeds: int
    variants: tuple[Variant, ...] = ()
    quirks: tuple[Quirk, ...] = ()
    measures: tuple[str, ...] = ()
    selects_on: str = "test"  # what the paper chooses epochs and parameters by: "test" or "validation"
    default_tables: tuple[str, ...] = ("1",)  # what the paper's command trains where none is named
    reports: str = "mean"  # of the runs with other seeds: "mean", or "best"
    claims: tuple[Claim, ...] = ()
    second_runs: tuple[SecondRun, ...] = ()
    figures: tuple[Figure, ...] = ()
    across: tuple[Across, ...] = ()

    @property
    def command(self) -> str:
        """The name on the command line."""
        return self.name.replace("_", "-")

    def methods(self, grid: str) -> Mapping[str, Method]:
        """The methods of a grid, by label."""
        return self.grids[grid].methods

    def quirks_of(self, table: Table, columns: Iterable[Column]) -> list[Quirk]:
        """The quirks of a table that are about the data of any of these columns of it."""
        shown = {column.data.source for column in columns}
        mine = (quirk for quirk in self.quirks if quirk.name in table.quirks)
        return [quirk for quirk in mine if not quirk.sources or shown.intersection(quirk.sources)]

    @cached_property
    def compiled(self) -> dict[Any, Any]:
        """What :mod:`replicate.grid` has compiled of the paper and need not compile again."""
        return {}


# --- walking over descriptions ---------------------------------------------------------------------------------------


def fill(value: Any, values: Mapping[str, Any]) -> Any:
    """``value`` with every ``Free(name)`` replaced by ``values[name]``; names that are not in ``values`` stay free."""
    if isinstance(value, Free):
        return fill(values[value.name], values) if value.name in values else value
    if isinstance(value, tuple):
        items = tuple(fill(item, values) for item in value)
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, Description) and not value.has_free:
        return value
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        changed = {name: new for name, old in parts.items() if (new := fill(old, values)) is not old}
        return replace(value, **changed) if changed else value
    return value


def free_names(value: Any) -> Iterator[str]:
    """Names of every ``Free`` inside ``value``, in order of appearance, repeats included."""
    if isinstance(value, Free):
        yield value.name
    elif isinstance(value, tuple):
        for item in value:
            yield from free_names(item)
    elif is_dataclass(value) and not isinstance(value, type) and getattr(value, "has_free", True):
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


def canonical_text(value: Any) -> str:
    """:func:`canonical` data as JSON, names in order and without blanks: what is hashed."""
    if isinstance(value, Description):
        told = {"kind": json.dumps(type(value).__name__)}
        if value.revision != 1:
            told["revision"] = json.dumps(value.revision)
        for f in fields(value):  # type: ignore[arg-type]
            inner = getattr(value, f.name)
            if inner is not None and inner is not False:
                told[f.name] = inner.text if isinstance(inner, Description) else canonical_text(inner)
        return "{" + ",".join(f'"{name}":{told[name]}' for name in sorted(told)) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(map(canonical_text, value)) + "]"
    if isinstance(value, str | float | int):
        return _scalar_text(value)
    return json.dumps(canonical(value), sort_keys=True, separators=(",", ":"))


@lru_cache(maxsize=4096, typed=True)
def _scalar_text(value: str | float) -> str:
    return json.dumps(canonical(value))
