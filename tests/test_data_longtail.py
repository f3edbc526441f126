"""Long-tailed subsets: counts, which images, and what is kept apart."""
# ruff: noqa: NPY002 -- the released code draws with numpy's global generator, and so does its re-enactment here

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papers.unified_bound import CIFAR_COLUMNS, DIGITS_LT
from replicate.data import sources
from replicate.data.longtail import split
from replicate.data.sources import Images
from replicate.protocol import SOURCES

COLUMNS = {column.name: column for column in CIFAR_COLUMNS}


def numbered(source: str, seed: int = 0) -> Images:
    """A data set of full size in random order whose images are their own numbers: one pixel, three channels, base 256."""
    known = SOURCES[source]

    def labels(each: int) -> np.ndarray:
        return np.random.default_rng(seed).permutation(np.repeat(np.arange(known.classes), each)).astype(np.int64)

    def images(count: int) -> np.ndarray:
        number = np.arange(count)
        return np.stack([number >> 16, number >> 8, number], axis=1).astype(np.uint8)[:, :, None, None]

    train, test = labels(known.train_per_class), labels(known.test_per_class)
    return Images(source, images(len(train)), train, images(len(test)), test, "official", "")


def number(images: np.ndarray) -> np.ndarray:
    """Which images of a numbered data set these are."""
    return images[:, :, 0, 0].astype(np.int64) @ [65536, 256, 1]


@pytest.fixture(scope="module")
def cifar10() -> Images:
    return numbered("cifar10")


@pytest.fixture(scope="module")
def cifar100() -> Images:
    return numbered("cifar100")


# --- counts: protocols.md 1.1 ----------------------------------------------------------------------------------------

STEP = {"cifar10-step": 5, "cifar100-step": 50}


@pytest.mark.parametrize(
    ("column", "first", "last", "total"),
    [
        ("cifar10-lt/100", (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50), (), 12406),
        ("cifar10-lt/10", (5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500), (), 20431),
        ("cifar100-lt/100", (500, 477, 455, 434, 415), (6, 5, 5, 5, 5), 10847),
        ("cifar100-lt/10", (500, 488, 477, 466, 455), (54, 53, 52, 51, 50), 19573),
        ("cifar10-step/100", (5000,) * 5 + (50,) * 5, (), 25250),
        ("cifar10-step/10", (5000,) * 5 + (500,) * 5, (), 27500),
        ("cifar100-step/100", (500,) * 50 + (5,) * 50, (), 25250),
        ("cifar100-step/10", (500,) * 50 + (50,) * 50, (), 27500),
    ],
)
def test_class_counts(column, first, last, total, cifar10, cifar100):
    data = COLUMNS[column].data
    made = split(cifar10 if data.source == "cifar10" else cifar100, data)
    assert made.class_counts[: len(first)] == first
    assert made.class_counts[len(made.class_counts) - len(last) :] == last
    assert len(made.train_images) == len(made.train_labels) == sum(made.class_counts) == total
    assert np.array_equal(made.train_labels, np.repeat(np.arange(SOURCES[data.source].classes), made.class_counts))


# --- which images ----------------------------------------------------------------------------------------------------


def drawn_globally(labels: np.ndarray, counts: tuple[int, ...]) -> np.ndarray:
    """The draw as the released code does it, by numpy's global generator."""
    before = np.random.get_state()
    np.random.seed(0)
    chosen = []
    for label in np.unique(labels):
        of_class = np.where(labels == label)[0]
        np.random.shuffle(of_class)
        chosen.extend(of_class[: counts[label]])
    np.random.set_state(before)
    return np.array(chosen)


@pytest.mark.parametrize("column", COLUMNS)
def test_the_subset_is_the_released_codes(column, cifar10, cifar100):
    data = COLUMNS[column].data
    images = cifar10 if data.source == "cifar10" else cifar100
    made = split(images, data)
    expected = drawn_globally(images.train_labels, data.class_counts())
    assert np.array_equal(number(made.train_images), expected)
    assert np.array_equal(made.train_labels, images.train_labels[expected])


def test_first_images_of_a_known_order():
    """Classes in turn, 0 1 2 ... 9 0 1 2 ...: the numbers that the legacy generator gave when this was written."""
    labels = np.arange(50_000) % 10
    images = replace(numbered("cifar10"), train_labels=labels)
    made = number(split(images, COLUMNS["cifar10-lt/100"].data).train_images)
    starts = np.cumsum((0, 5000, 2997, 1796, 1077, 645, 387, 232, 139, 83))
    assert [made[start : start + 3].tolist() for start in starts] == [
        [3980, 38330, 48360],
        [5971, 3321, 5211],
        [34882, 11362, 34942],
        [35423, 33073, 45293],
        [25834, 36874, 47194],
        [41275, 11525, 45955],
        [10426, 33566, 4416],
        [38607, 2717, 7577],
        [19058, 46238, 16948],
        [22049, 38169, 22069],
    ]


def test_the_global_generator_is_left_alone(cifar10):
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    split(cifar10, COLUMNS["cifar10-lt/100"].data)
    assert np.array_equal(np.random.get_state()[1], before)


def test_the_data_set_is_left_alone(cifar10):
    before = sources.fingerprint(cifar10.train_images, cifar10.train_labels)
    made = split(cifar10, COLUMNS["cifar10-lt/100"].data)
    made.train_images[:] = 0
    assert sources.fingerprint(cifar10.train_images, cifar10.train_labels) == before


def test_the_fingerprint_is_the_subsets(cifar10):
    data = COLUMNS["cifar10-lt/100"].data
    made = split(cifar10, data)
    assert made.fingerprint == sources.fingerprint(made.train_images, made.train_labels)
    assert split(cifar10, replace(data, test=10)).fingerprint == made.fingerprint
    assert split(cifar10, COLUMNS["cifar10-lt/10"].data).fingerprint != made.fingerprint
    last = number(made.train_images)[-1]
    other = cifar10.train_images.copy()
    other[last] += 1
    assert split(replace(cifar10, train_images=other), data).fingerprint != made.fingerprint


# --- test and validation images --------------------------------------------------------------------------------------


def test_the_official_test_set_is_whole_and_halved(cifar10):
    made = split(cifar10, COLUMNS["cifar10-lt/100"].data)
    assert np.array_equal(made.test_images, cifar10.test_images)
    assert np.array_equal(made.test_labels, cifar10.test_labels)
    assert made.validation_images is None
    assert made.validation_labels is None
    assert made.test_half.dtype == np.int8
    for label in range(10):
        assert np.array_equal(made.test_half[made.test_labels == label], np.arange(1000) % 2)


@pytest.mark.parametrize("each", [1, 10, 999])
def test_a_shorter_test_set_is_the_first_of_each_class(each, cifar10):
    whole = split(cifar10, COLUMNS["cifar10-lt/100"].data)
    made = split(cifar10, replace(COLUMNS["cifar10-lt/100"].data, test=each))
    expected = np.sort(np.concatenate([np.flatnonzero(cifar10.test_labels == label)[:each] for label in range(10)]))
    assert np.array_equal(number(made.test_images), expected)
    assert np.array_equal(made.test_labels, cifar10.test_labels[expected])
    assert np.array_equal(made.test_half, whole.test_half[expected])


def test_validation_images_are_the_next_ones(cifar100):
    data = replace(COLUMNS["cifar100-lt/100"].data, largest=480, validation=20)
    made = split(cifar100, data)
    plain = split(cifar100, replace(data, validation=None))
    longer = drawn_globally(cifar100.train_labels, tuple(count + 20 for count in data.class_counts()))
    assert made.fingerprint == plain.fingerprint
    assert np.array_equal(np.bincount(made.validation_labels), [20] * 100)
    chosen = np.concatenate([number(made.train_images), number(made.validation_images)])
    assert np.array_equal(np.sort(chosen), np.sort(longer))
    assert np.array_equal(made.validation_labels, cifar100.train_labels[number(made.validation_images)])


DIGITS = DIGITS_LT.data


def ink(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


def test_digits_are_divided_without_overlap(digits):
    assert len(set(ink(digits.train_images))) == 1797  # no two alike, so content tells them apart
    made = split(digits, DIGITS)
    assert made.class_counts == (90, 58, 38, 25, 16, 10, 7, 4, 3, 2) == DIGITS.class_counts()
    assert np.array_equal(np.bincount(made.validation_labels), [20] * 10)
    assert np.array_equal(np.bincount(made.test_labels), [60] * 10)
    parts = [ink(made.train_images), ink(made.validation_images), ink(made.test_images)]
    assert len(set().union(*parts)) == sum(map(len, parts)) == sum(made.class_counts) + 800
    label = dict(zip(ink(digits.train_images), digits.train_labels, strict=True))
    labels = (made.train_labels, made.validation_labels, made.test_labels)
    for images, marks in zip(parts, labels, strict=True):
        assert [label[image] for image in images] == marks.tolist()
    order = {image: k for k, image in enumerate(ink(digits.train_images))}
    for images in parts[1:]:
        assert [order[image] for image in images] == sorted(order[image] for image in images)


def test_held_out_digits_do_not_depend_on_the_protocol(digits):
    whole = split(digits, DIGITS)
    other = split(digits, replace(DIGITS, profile="step", ratio=3, largest=94, validation=None, test=10))
    assert other.validation_images is None
    first = np.sort(np.concatenate([np.flatnonzero(whole.test_labels == label)[:10] for label in range(10)]))
    assert ink(other.test_images) == ink(whole.test_images[first])
    assert not set(ink(other.train_images)) & set(ink(whole.test_images) + ink(whole.validation_images))


@settings(max_examples=40, deadline=None)
@given(
    profile=st.sampled_from(["exponential", "step"]),
    ratio=st.floats(1, 90),
    largest=st.integers(1, 94),
    validation=st.none() | st.integers(0, 20),
    test=st.none() | st.integers(1, 60),
)
def test_every_digits_subset(digits, profile, ratio, largest, validation, test):
    data = replace(DIGITS, profile=profile, ratio=ratio, largest=largest, validation=validation, test=test)
    made = split(digits, data)
    assert list(made.class_counts) == sorted(made.class_counts, reverse=True)
    assert made.class_counts[0] == largest
    assert np.array_equal(np.bincount(made.train_labels, minlength=10), made.class_counts)
    apart = ink(made.test_images) + ([] if made.validation_images is None else ink(made.validation_images))
    assert len({*apart, *ink(made.train_images)}) == len(apart) + sum(made.class_counts)
    assert np.array_equal(np.bincount(made.test_labels), [60 if test is None else test] * 10)
    halves = np.bincount(2 * made.test_labels + made.test_half, minlength=20).reshape(10, 2)
    assert set(halves[:, 0] - halves[:, 1]) <= {0, 1}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), ratio=st.sampled_from([1, 10, 50, 100]), smaller=st.integers(1, 5000))
def test_more_images_keep_those_of_fewer(seed, ratio, smaller):
    """Subsets of one class with more images contain those with fewer, as the draw does not depend on the counts."""
    images = numbered("cifar10", seed)
    data = replace(COLUMNS["cifar10-lt/100"].data, ratio=ratio)
    whole, part = split(images, data), split(images, replace(data, largest=smaller))
    starts = np.cumsum((0, *whole.class_counts))
    expected = [number(whole.train_images)[start:][:count] for start, count in zip(starts[:-1], part.class_counts, strict=True)]
    assert np.array_equal(number(part.train_images), np.concatenate(expected))


# --- what cannot be had ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"largest": 5001}, "cifar10 has too few images of class 0: 5001 training and 0 validation"),
        ({"validation": 1}, "class 0: 5000 training and 1 validation images wanted, 5000 and 0 there"),
        ({"test": 1001}, "1001 test images of each class wanted, cifar10 has 1000"),
        ({"subset": "first"}, "subset 'first' is unknown"),
        ({"source": "cifar100"}, "a protocol on cifar100 was given the images of cifar10"),
        ({"profile": "flat"}, "profile 'flat'"),
    ],
)
def test_what_cannot_be_had_on_cifar(changes, why, cifar10):
    with pytest.raises(ValueError, match=why):
        split(cifar10, replace(COLUMNS["cifar10-lt/100"].data, **changes))


@pytest.mark.parametrize("changes", [{"largest": 99}, {"largest": 95, "ratio": 1}, {"validation": 21}, {"test": 61}])
def test_what_cannot_be_had_on_digits(changes, digits):
    with pytest.raises(ValueError, match=r"too few|wanted"):
        split(digits, replace(DIGITS, **changes))


def test_the_smallest_class_of_digits_bounds_the_largest(digits):
    assert split(digits, replace(DIGITS, largest=94, ratio=1)).class_counts == (94,) * 10


# --- on real images --------------------------------------------------------------------------------------------------


def test_on_real_images(cifar_folder):
    images = sources.load("cifar10", cifar_folder)
    made = split(images, COLUMNS["cifar10-lt/100"].data)
    expected = drawn_globally(images.train_labels, made.class_counts)
    assert np.array_equal(made.train_images, images.train_images[expected])
    # The order of the labels is the official one, so these are the images of the released runs.
    assert expected[:5].tolist() == [4030, 38518, 48266, 45556, 6312]
    assert expected[-5:].tolist() == [22925, 613, 16267, 4256, 11918]
