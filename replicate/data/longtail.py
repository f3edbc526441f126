"""Long-tailed training subsets, and the balanced images kept apart from them.

Which images a subset holds is part of a paper's protocol, so the draws are those of the released code: numpy's legacy
generator (``numpy.random.RandomState``, whose stream numpy has frozen), here an instance of its own and never the
global one. The subset does not depend on the training seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from replicate.data.sources import Images, fingerprint
from replicate.protocol import SOURCES, LongTailed

__all__ = ["DIGITS_VALIDATION", "SUBSET_SEED", "Split", "split"]

#: Seed of the subset: the released code's ``rand_number``, which its scripts never set.
SUBSET_SEED: Final = 0
#: Digits of each class kept apart for validation, whether or not a protocol uses them. Ours, like their test set.
DIGITS_VALIDATION: Final = 20
_HOLDOUT_SEED: Final = 1  # another stream than the subset's


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one protocol.

    Images are uint8 [N, C, H, W], labels int64 [N]. Training images stand class by class, in the order in which they
    were drawn; ``class_counts`` [C] counts them. Validation arrays are None where the protocol has none.
    ``test_half`` int8 [N] is 0 or 1: the parity of a test image's place among those of its class, which divides every
    class into two fixed halves. ``fingerprint`` is the sha256 of the exact training subset, in order.
    """

    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    class_counts: tuple[int, ...]
    validation_images: NDArray[np.uint8] | None
    validation_labels: NDArray[np.int64] | None
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    test_half: NDArray[np.int8]
    fingerprint: str


def split(images: Images, data: LongTailed) -> Split:
    """The subset that ``data`` describes, of the data set that was read.

    ``data.subset`` ``"shuffled"``: for each class in ascending label, its training images in file order are shuffled in
    place by one generator seeded with 0; the first N_c are kept, and the next ``data.validation`` are the validation
    images. Where a data set has no test set of its own (digits), 20 validation and 60 test images of each class are set
    apart first, by a fixed draw of its own, and do not depend on ``data``. ``data.test`` keeps the first so many test
    images of each class; validation and test images stay in file order.

    Source: ``gen_imbalanced_data`` of the code released with Wang et al., NeurIPS 2023, which descends from Cao et al.,
    "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019.

    Raises ``ValueError`` if ``data`` is about another data set, names an unknown subset, or asks for more images than
    a class has.
    """
    if data.source != images.source:
        raise ValueError(f"a protocol on {data.source} was given the images of {images.source}")
    if data.subset != "shuffled":
        raise ValueError(f"subset {data.subset!r} is unknown; allowed: 'shuffled'")
    classes = SOURCES[data.source].classes
    counts = data.class_counts()
    pools = [np.flatnonzero(images.train_labels == label) for label in range(classes)]
    kept_for_validation = data.validation or 0

    if len(images.test_labels):
        test_images, test_labels = images.test_images, images.test_labels
        held_out: list[NDArray[np.int64]] = []
    else:
        pools, held_out, test = _hold_out(pools, SOURCES[data.source].test_per_class)
        test_images, test_labels = images.train_images[test], images.train_labels[test]

    generator = np.random.RandomState(SUBSET_SEED)
    train, validation = [], []
    for label, (pool, count) in enumerate(zip(pools, counts, strict=True)):
        generator.shuffle(pool)
        reserve = held_out[label] if held_out else pool[count:]
        if count > len(pool) or kept_for_validation > len(reserve):
            raise ValueError(
                f"{data.source} has too few images of class {label}: {count} training and {kept_for_validation} "
                f"validation images wanted, {len(pool)} and {len(reserve)} there"
            )
        train.append(pool[:count])
        validation.append(reserve[:kept_for_validation])

    chosen = np.concatenate(train)
    apart = np.sort(np.concatenate(validation))
    place = _place_in_class(test_labels, classes)
    if data.test is not None:
        if (fewest := int(np.bincount(test_labels, minlength=classes).min())) < data.test:
            raise ValueError(f"{data.test} test images of each class wanted, {data.source} has {fewest}")
        first = place < data.test
        test_images, test_labels, place = test_images[first], test_labels[first], place[first]
    train_images, train_labels = images.train_images[chosen], images.train_labels[chosen]
    return Split(
        train_images=train_images,
        train_labels=train_labels,
        class_counts=counts,
        validation_images=None if data.validation is None else images.train_images[apart],
        validation_labels=None if data.validation is None else images.train_labels[apart],
        test_images=test_images,
        test_labels=test_labels,
        test_half=(place % 2).astype(np.int8),
        fingerprint=fingerprint(train_images, train_labels),
    )


def _hold_out(
    pools: list[NDArray[np.int64]], test: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]], NDArray[np.int64]]:
    """What is left of each class (in file order), its validation images (in the order drawn), and the test images of
    all classes (in file order)."""
    generator = np.random.RandomState(_HOLDOUT_SEED)
    left, validation, tested = [], [], []
    for pool in pools:
        drawn = generator.permutation(pool)
        validation.append(drawn[:DIGITS_VALIDATION])
        tested.append(drawn[DIGITS_VALIDATION : DIGITS_VALIDATION + test])
        left.append(np.sort(drawn[DIGITS_VALIDATION + test :]))
    return left, validation, np.sort(np.concatenate(tested))


def _place_in_class(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """For each image, how many of its class stand before it [N]."""
    place = np.empty(len(labels), dtype=np.int64)
    for label in range(classes):
        of_class = np.flatnonzero(labels == label)
        place[of_class] = np.arange(len(of_class))
    return place
