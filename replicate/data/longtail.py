"""Training images, long-tailed or not, and the validation and test images kept apart from them.

Which images a subset holds is part of a paper's protocol, so the draws are those of the released code: numpy's legacy
generator (``numpy.random.RandomState``, whose stream numpy has frozen), here an instance of its own and never the
global one. The subset does not depend on the training seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from replicate.data.decoded import Photographs
from replicate.data.sources import Images, Pixels, fingerprint
from replicate.protocol import SOURCES, Data, LongTailed, PhotographFolders, Stratified

__all__ = ["DIGITS_VALIDATION", "SUBSET_SEED", "Split", "split"]

#: Seed of the subset: the released code's ``rand_number``, which its scripts never set.
SUBSET_SEED: Final = 0
#: Digits of each class kept apart for validation, whether or not a protocol uses them. Ours, like their test set.
DIGITS_VALIDATION: Final = 20
_HOLDOUT_SEED: Final = 1  # another stream than the subset's


@dataclass(frozen=True, eq=False)
class Split:
    """The images of one protocol.

    Images are uint8 [N, C, H, W], or :class:`~replicate.data.decoded.Photographs`; labels int64 [N]. Training images stand
    class by class, in the order in which they were drawn, or, where a data set is divided by scikit-learn, in the order in
    which it told them; ``class_counts`` [C] counts them. Validation images are None where the protocol has none.
    ``test_half`` int8 [N] is 0 or 1: the parity of a test image's place among those of its class, which divides every
    class into two fixed halves. ``fingerprint`` is the sha256 of the exact training subset, in order.
    """

    train_images: Pixels
    train_labels: NDArray[np.int64]
    class_counts: tuple[int, ...]
    validation_images: Pixels | None
    validation_labels: NDArray[np.int64] | None
    test_images: Pixels
    test_labels: NDArray[np.int64]
    test_half: NDArray[np.int8]
    fingerprint: str


def split(images: Images, data: Data) -> Split:
    """The images that ``data`` describes, of the data set that was read.

    Raises ``ValueError`` if ``data`` is about another data set or another kind of images, names an unknown subset or
    rounding, or asks for more images than a class has, or, of photographs, for another number.
    """
    if data.source != images.source:
        raise ValueError(f"a protocol on {data.source} was given the images of {images.source}")
    if isinstance(data, PhotographFolders):
        return _found(images, data)
    if isinstance(data, Stratified):
        return _stratified(images, data)
    return _long_tailed(images, data)


def _long_tailed(images: Images, data: LongTailed) -> Split:
    """For each class in ascending label, the first N_c of its training images are kept, and the next ``data.validation``
    are the validation images, of which ``data.validation_shown`` keeps the first. ``data.subset`` ``"first"`` takes them in
    file order; for ``"shuffled"``, each class is shuffled in place before, by one generator seeded with 0.

    Where a data set has no test set of its own (digits), 20 validation and 60 test images of each class are set
    apart first, by a fixed draw of its own, and do not depend on ``data``. ``data.test`` keeps the first so many test
    images of each class; validation and test images stay in file order.

    Source of ``"shuffled"``: ``gen_imbalanced_data`` of the code released with Wang et al., NeurIPS 2023, which descends
    from Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019; of ``"first"``:
    the function of that name in the code released with Hasegawa and Sato, ICLR 2024.
    """
    if data.subset not in ("shuffled", "first"):
        raise ValueError(f"subset {data.subset!r} is unknown; allowed: 'shuffled', 'first'")
    if data.rounding not in (None, "nearest"):
        raise ValueError(f"rounding {data.rounding!r} is unknown; allowed: None, 'nearest'")
    all_images, all_tests = _array(images.train_images, data), _array(images.test_images, data)
    classes = SOURCES[data.source].classes
    counts = data.class_counts()
    pools = _pools(images.train_labels, classes)
    kept_for_validation = data.validation or 0

    if len(images.test_labels):
        test_images, test_labels = all_tests, images.test_labels
        held_out: list[NDArray[np.int64]] = []
    else:
        pools, held_out, test = _hold_out(pools, SOURCES[data.source].test_per_class)
        test_images, test_labels = all_images[test], images.train_labels[test]

    generator = np.random.RandomState(SUBSET_SEED)
    train, validation = [], []
    for label, (pool, count) in enumerate(zip(pools, counts, strict=True)):
        if data.subset == "shuffled":
            generator.shuffle(pool)
        reserve = held_out[label] if held_out else pool[count:]
        if count > len(pool) or kept_for_validation > len(reserve):
            raise ValueError(
                f"{data.source} has too few images of class {label}: {count} training and {kept_for_validation} "
                f"validation images wanted, {len(pool)} and {len(reserve)} there"
            )
        train.append(pool[:count])
        validation.append(reserve[:kept_for_validation][: data.validation_shown])

    chosen = np.concatenate(train)
    apart = np.sort(np.concatenate(validation))
    place = _place_in_class(test_labels, classes)
    if data.test is not None:
        if (fewest := int(np.bincount(test_labels, minlength=classes).min())) < data.test:
            raise ValueError(f"{data.test} test images of each class wanted, {data.source} has {fewest}")
        first = place < data.test
        test_images, test_labels, place = test_images[first], test_labels[first], place[first]
    train_images, train_labels = all_images[chosen], images.train_labels[chosen]
    return Split(
        train_images=train_images,
        train_labels=train_labels,
        class_counts=counts,
        validation_images=None if data.validation is None else all_images[apart],
        validation_labels=None if data.validation is None else images.train_labels[apart],
        test_images=test_images,
        test_labels=test_labels,
        test_half=(place % 2).astype(np.int8),
        fingerprint=fingerprint(train_images, train_labels),
    )


def _stratified(images: Images, data: Stratified) -> Split:
    """Training and test files in a row are divided by scikit-learn, once for the test images and once more, with the same
    ``data.random_state``, for the validation images; all stay in the order in which it tells them. ``data.test_shown`` and
    ``data.validation_shown`` keep the first so many of each class, or all where a class has fewer.

    Source: ``set_mnist_dataset`` of the code released with Hasegawa and Sato, ICLR 2024.
    """
    from sklearn.model_selection import train_test_split

    classes = SOURCES[data.source].classes
    pixels = np.concatenate([_array(images.train_images, data), _array(images.test_images, data)])
    labels = np.concatenate([images.train_labels, images.test_labels])
    if data.test + data.validation + classes > len(labels):
        raise ValueError(f"{data.test} test and {data.validation} validation images wanted, {data.source} has {len(labels)}")

    def divided(indices: NDArray[np.int64], size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        kept, apart = train_test_split(indices, test_size=size, random_state=data.random_state, stratify=labels[indices])
        return kept, apart

    rest, test = divided(np.arange(len(labels)), data.test)
    train, validation = divided(rest, data.validation)
    test = test[_first(labels[test], data.test_shown, classes)]
    validation = validation[_first(labels[validation], data.validation_shown, classes)]
    train_images, train_labels = pixels[train], labels[train]
    return Split(
        train_images=train_images,
        train_labels=train_labels,
        class_counts=_counted(train_labels, classes),
        validation_images=pixels[validation],
        validation_labels=labels[validation],
        test_images=pixels[test],
        test_labels=labels[test],
        test_half=(_place_in_class(labels[test], classes) % 2).astype(np.int8),
        fingerprint=fingerprint(train_images, train_labels),
    )


def _found(images: Images, data: PhotographFolders) -> Split:
    """The parts as they were found or drawn; ``data.test_shown`` and ``data.validation_shown`` keep the first so many of
    each class, or all where a class has fewer. The fingerprint is that of the photographs' files and labels."""
    train, test, validation = images.train_images, images.test_images, images.validation_images
    if not (isinstance(train, Photographs) and isinstance(test, Photographs) and isinstance(validation, Photographs)):
        raise ValueError(f"a protocol on photographs was given images of {images.source} that are none")
    classes = SOURCES[data.source].classes
    counts = _counted(train.labels, classes)
    if counts != data.class_counts():
        raise ValueError(f"{data.source} has classes of {counts[0]} to {counts[-1]} training images, not those of the protocol")
    test = test.take(_first(test.labels, data.test_shown, classes))
    validation = validation.take(_first(validation.labels, data.validation_shown, classes))
    return Split(
        train_images=train,
        train_labels=train.labels,
        class_counts=counts,
        validation_images=validation,
        validation_labels=validation.labels,
        test_images=test,
        test_labels=test.labels,
        test_half=(_place_in_class(test.labels, classes) % 2).astype(np.int8),
        fingerprint=fingerprint(train.digests, train.labels),
    )


def _array(images: Pixels, data: Data) -> NDArray[np.uint8]:
    if isinstance(images, Photographs):
        raise ValueError(f"a protocol on images of one size, {data.source}, was given photographs")
    return images


def _counted(labels: NDArray[np.int64], classes: int) -> tuple[int, ...]:
    return tuple(int(count) for count in np.bincount(labels, minlength=classes))


def _first(labels: NDArray[np.int64], shown: int | None, classes: int) -> NDArray[np.bool_]:
    """Which images are among the first ``shown`` of their class [N]; None: all are."""
    if shown is None:
        return np.ones(len(labels), dtype=bool)
    return _place_in_class(labels, classes) < shown


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


def _pools(labels: NDArray[np.int64], classes: int) -> list[NDArray[np.int64]]:
    """The images of each class [C], in their order."""
    sizes = np.bincount(labels, minlength=classes)
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])


def _place_in_class(labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """For each image, how many of its class stand before it [N]."""
    place = np.empty(len(labels), dtype=np.int64)
    for of_class in _pools(labels, classes):
        place[of_class] = np.arange(len(of_class))
    return place
