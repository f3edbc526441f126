"""Batches of photographs equal what Pillow makes of the same draws, whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from papers.wb import MINI_DATA
from replicate.data import photographs
from replicate.data.augment import Feeder, feeder
from replicate.data.photographs import PhotographFeeder, Photographs, Resizing, random_windows, resized, weights
from replicate.protocol import CropFlip, LongTailed, RandomResizedCropFlip

DATA = replace(MINI_DATA, side=32, resize=40)
MEAN, STD = DATA.mean, DATA.std
CROP = RandomResizedCropFlip()
CPU = torch.device("cpu")


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours with some noise: resizing rounds everywhere."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(small).astype(int) + draw.integers(-9, 10, (height, width, 3)), 0, 255).astype(np.uint8)


SIZES = [(50, 70), (41, 41), (33, 120), (90, 36), (20, 25), (64, 48), (32, 32), (130, 97)]


@pytest.fixture(scope="module")
def mixed() -> Photographs:
    return Photographs.of([picture(*size, seed) for seed, size in enumerate(SIZES)], list(range(len(SIZES))))


@pytest.fixture(scope="module")
def small() -> Photographs:
    return Photographs.of([picture(20, 24, seed) for seed in range(12)], [0] * 12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def levels(batch: torch.Tensor) -> np.ndarray:
    """Grey levels [B, H, W, 3] of a normalised batch, which must be whole ones."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (MEAN, STD))
    made = ((batch * std + mean) * 255).permute(0, 2, 3, 1).numpy()
    assert np.abs(made - np.rint(made)).max() < 1e-3
    return np.rint(made)


def shrunk(image: Image.Image, height: int, width: int) -> Image.Image:
    """Pillow's resize, rows first: so it was in the papers' time, and since version 13 it is only where that saves time."""
    across = image.resize((width, image.height), Image.Resampling.BILINEAR)
    return across.resize((width, height), Image.Resampling.BILINEAR)


def by_pillow(image: np.ndarray, window, size, corner, flip, shown) -> np.ndarray:
    top, left, height, width = window
    made = Image.fromarray(image).crop((left, top, left + width, top + height))
    made = shrunk(made, int(size[0]), int(size[1]))
    made = made.crop((corner[1], corner[0], corner[1] + shown[1], corner[0] + shown[0]))
    return np.asarray(made.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else made).astype(float)


def agree(batch: torch.Tensor, photos: Photographs, order, resizing: Resizing) -> None:
    """Every level is Pillow's."""
    made = levels(batch)
    shown = made.shape[1:3]
    for place, index in enumerate(order):
        told = (resizing.windows[place], resizing.sizes[place], resizing.corners[place], resizing.flips[place])
        assert np.array_equal(made[place], by_pillow(photos[index], *told, shown))


# --- training --------------------------------------------------------------------------------------------------------


def test_crops_are_what_pillow_makes(mixed):
    order = torch.randint(len(mixed), (60,), generator=generator(1))
    made = PhotographFeeder(mixed, DATA, CROP)
    draws = made.draw(order, generator(2))
    assert len(draws) == 60
    assert 15 < draws.resizing.flips.sum() < 45
    agree(made.batch(draws, 0, 60), mixed, order.tolist(), draws.resizing)


def test_crops_of_small_photographs_keep_their_size(small):
    made = PhotographFeeder(small, DATA, CROP)
    assert made.shape == (3, 20, 24)
    draws = made.draw(torch.arange(12), generator(2))
    batch = made.batch(draws, 0, 12)
    assert batch.shape == (12, 3, 20, 24)
    agree(batch, small, range(12), draws.resizing)


def get_params(height, width, area, shape, tries, where):
    """torchvision's RandomResizedCrop.get_params with the numbers given, one photograph at a time."""
    for share, place in tries:
        target = height * width * (area[0] + (area[1] - area[0]) * share)
        ratio = np.exp(np.log(shape[0]) + (np.log(shape[1]) - np.log(shape[0])) * place)
        columns, rows = round(np.sqrt(target * ratio)), round(np.sqrt(target / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            return int(where[0] * (height - rows + 1)), int(where[1] * (width - columns + 1)), rows, columns
    if width / height < min(shape):
        columns, rows = width, max(1, round(width / min(shape)))
    elif width / height > max(shape):
        columns, rows = max(1, round(height * max(shape))), height
    else:
        columns, rows = width, height
    return (height - rows) // 2, (width - columns) // 2, rows, columns


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 600), st.integers(1, 600)), min_size=1, max_size=6),
    area=st.sampled_from([(0.08, 1.0), (0.9, 1.0), (1.0, 1.0), (1.5, 2.0)]),
    shape=st.sampled_from([(3 / 4, 4 / 3), (1.0, 1.0), (2.0, 3.0)]),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_are_torchvisions(sizes, area, shape, seed):
    draw = np.random.default_rng(seed)
    tries, where = draw.random((len(sizes), 10, 2)), draw.random((len(sizes), 2))
    made = random_windows(np.array(sizes), RandomResizedCropFlip(area, shape), tries, where)
    for k, (height, width) in enumerate(sizes):
        assert tuple(made[k]) == get_params(height, width, area, shape, tries[k], where[k])
    top, left, rows, columns = made.T
    assert (made[:, :2] >= 0).all()
    assert (made[:, 2:] > 0).all()
    assert (top + rows <= np.array(sizes)[:, 0]).all()
    assert (left + columns <= np.array(sizes)[:, 1]).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_precision_of_a_network_does_not_resize(mixed, dtype):
    made = PhotographFeeder(mixed, DATA, CROP)
    draws = made.draw(torch.arange(6), generator(2))
    with torch.autocast("cpu", dtype=dtype):
        inside = made.batch(draws, 0, 6), made.plain(0, 3)
    assert torch.equal(inside[0], made.batch(draws, 0, 6)) and torch.equal(inside[1], made.plain(0, 3))


def test_windows_are_spread_as_described():
    count = 20_000
    draw = np.random.default_rng(0)
    made = random_windows(np.full((count, 2), 1000), CROP, draw.random((count, 10, 2)), draw.random((count, 2)))
    area, shape = made[:, 2] * made[:, 3] / 1e6, np.log(made[:, 3] / made[:, 2])
    # Large areas of elongated shape do not fit and are drawn again, so both stay a little below uniform at the ends.
    assert 0.079 < area.min() < 0.081  # sides are rounded
    assert area.max() > 0.97
    assert abs(np.quantile(area[area < 0.7], 0.5) - 0.39) < 0.01
    assert abs(shape.mean()) < 0.01
    assert abs(np.abs(shape).max() - np.log(4 / 3)) < 0.01
    room = 1000 - made[:, 2]
    assert abs((made[:, 0] / np.maximum(room, 1))[room > 50].mean() - 0.5) < 0.01


def test_draws_follow_the_generator_and_nothing_else(mixed):
    made = PhotographFeeder(mixed, DATA, CROP)
    order = torch.arange(8).repeat(3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = made.batch(made.draw(order, generator(5)), 0, 24)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(PhotographFeeder(mixed, DATA, CROP).batch(made.draw(order, generator(5)), 0, 24), first)
    assert not torch.equal(made.batch(made.draw(order, generator(6)), 0, 24), first)


# --- evaluation ------------------------------------------------------------------------------------------------------


def torchvision_evaluation(image: np.ndarray, resize: int, side: int) -> np.ndarray:
    """Resize(resize) and CenterCrop(side) of torchvision on a PIL image."""
    height, width = image.shape[:2]
    size = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    made = shrunk(Image.fromarray(image), size[1], size[0])
    top, left = round((made.height - side) / 2.0), round((made.width - side) / 2.0)
    return np.asarray(made.crop((left, top, left + side, top + side))).astype(float)


def test_evaluation_is_what_torchvision_makes(mixed):
    made = PhotographFeeder(mixed, DATA)
    batch = levels(made.plain(0, len(mixed)))
    for k in range(len(mixed)):
        assert np.array_equal(batch[k], torchvision_evaluation(mixed[k], DATA.resize, DATA.side))


def test_evaluation_at_full_size():
    photos = Photographs.of([picture(375, 500, 1), picture(500, 333, 2)], [0, 1])
    made = PhotographFeeder(photos, MINI_DATA)
    assert made.shape == (3, 224, 224)
    batch = levels(made.plain(0, 2))
    for k in range(2):
        assert np.array_equal(batch[k], torchvision_evaluation(photos[k], 256, 224))


def test_small_photographs_are_evaluated_as_they_are(small):
    made = PhotographFeeder(small, DATA)
    expected = Feeder(torch.from_numpy(np.stack([small[k] for k in range(12)])).permute(0, 3, 1, 2).contiguous(), MEAN, STD)
    assert torch.equal(made.plain(2, 9), expected.plain(2, 9))
    repeated = torch.tensor([3, 3, 0])
    assert torch.equal(made.batch(made.draw(repeated, generator()), 0, 3), expected.plain(0, 12)[repeated])


def test_one_size_is_the_data_sets_not_the_parts(mixed):
    """Photographs of one size among others of other sizes are resized like all."""
    one = mixed.take(np.array([4]))
    assert one.one_size is None
    assert PhotographFeeder(one, DATA).shape == (3, 32, 32)
    large = Photographs.of([picture(32, 32, 0)] * 2, [0, 0])
    assert PhotographFeeder(large, DATA).shape == (3, 32, 32)


# --- the batch does not matter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 50])
@pytest.mark.parametrize("pixels", [1, 20_000, photographs.BLOCK])
def test_batches_have_the_same_bits_however_they_are_divided(size, pixels, mixed, monkeypatch):
    made = PhotographFeeder(mixed, DATA, CROP)
    draws = made.draw(torch.randint(len(mixed), (50,), generator=generator()), generator())
    whole, plain = made.batch(draws, 0, 50), made.plain(0, len(mixed))
    monkeypatch.setattr(photographs, "BLOCK", pixels)
    parts = [made.batch(draws, first, min(first + size, 50)) for first in range(0, 50, size)]
    assert torch.equal(torch.cat(parts), whole)
    parts = [made.plain(first, min(first + size, len(mixed))) for first in range(0, len(mixed), size)]
    assert torch.equal(torch.cat(parts), plain)


def test_batches_are_channels_last_floats_of_their_own(mixed, small):
    for photos in (mixed, small):
        made = PhotographFeeder(photos, DATA, CROP)
        draws = made.draw(torch.arange(8), generator())
        for make in (lambda: made.batch(draws, 0, 8), lambda: made.plain(0, 8)):  # noqa: B023
            batch = make()
            assert batch.dtype == torch.float32
            assert batch.is_contiguous(memory_format=torch.channels_last)
            before = batch.clone()
            make().zero_()
            assert torch.equal(batch, before)
            assert torch.equal(make(), before)


def test_an_accelerator_gives_the_same_bits(mixed, accelerator):
    here, there = (PhotographFeeder(mixed, DATA, CROP, device) for device in (torch.device("cpu"), accelerator))
    order = torch.arange(8).repeat(4)
    batches = [made.batch(made.draw(order, generator()), 1, 30).cpu() for made in (here, there)]
    assert torch.equal(*batches)
    assert torch.equal(here.plain(0, 8), there.plain(0, 8).cpu())


# --- resizing --------------------------------------------------------------------------------------------------------


def line(length: int, size: int, first: int = 0, shown: int | None = None, flip: int = 0, padded: int | None = None):
    told = [torch.tensor([[value]]) for value in (length, size, first, flip)]
    high, low = weights(*told, size if shown is None else shown, length if padded is None else padded)
    assert high.abs().max() <= 2048
    assert low.abs().max() <= 1024
    return (2048 * high + low)[0].numpy()


def pillows_coefficients(length: int, size: int) -> np.ndarray:
    """precompute_coeffs and normalize_coeffs_8bpc of Pillow's Resample.c for the triangle filter."""
    scale = length / size
    reach = max(scale, 1.0)
    made = np.zeros((size, length))
    for i in range(size):
        centre = (i + 0.5) * scale
        first, last = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), length)
        for j in range(first, last):
            made[i, j] = max(0.0, 1 - abs((j - centre + 0.5) / reach))
    return np.floor(made / made.sum(axis=1, keepdims=True) * 2**22 + 0.5)


@settings(max_examples=80, deadline=None)
@given(length=st.integers(1, 700), size=st.integers(1, 300), more=st.integers(0, 20))
def test_weights_are_pillows(length, size, more):
    made = line(length, size, padded=length + more)
    assert np.array_equal(made[:, :length], pillows_coefficients(length, size))
    assert (made[:, length:] == 0).all()
    assert np.abs(made.sum(axis=1) - 2**22).max() < 2 + length / size


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    flip=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_resizing_is_pillows(height, width, size, flip, seed):
    """Noise of the largest contrast, in a block with room for more."""
    draw = np.random.default_rng(seed)
    image = draw.choice(np.array([0, 1, 127, 254, 255], dtype=np.uint8), (height, width, 3))
    block = draw.integers(0, 256, (1, height + 3, width + 5, 3), dtype=np.uint8)
    block[0, :height, :width] = image
    told = Resizing(np.array([[0, 0, height, width]]), np.array([size]), np.zeros((1, 2), dtype=np.int64), np.array([flip]))
    made = resized(torch.from_numpy(block), told, size)[0].numpy()
    assert np.array_equal(made, by_pillow(image, (0, 0, height, width), size, (0, 0), flip, size))
    at_once = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).astype(float)
    assert np.abs((made[:, ::-1] if flip else made) - at_once).max() <= 2  # one level a direction


def test_weights_of_a_part_and_of_a_mirror_image():
    whole = line(50, 30)
    assert np.array_equal(line(50, 30, first=7, shown=12), whole[7:19])
    assert np.array_equal(line(50, 30, flip=1), whole[::-1])
    assert np.array_equal(line(9, 9), np.eye(9) * 2**22)


def test_a_very_long_photograph():
    image = picture(3, 9000, 1)
    told = Resizing(np.array([[0, 0, 3, 9000]]), np.array([[2, 224]]), np.zeros((1, 2), np.int64), np.zeros(1, bool))
    made = resized(torch.from_numpy(image.copy())[None], told, (2, 224))[0].numpy()
    assert np.array_equal(made, by_pillow(image, (0, 0, 3, 9000), (2, 224), (0, 0), False, (2, 224)))


def test_flat_photographs_stay_flat():
    grey = np.full((1, 37, 53, 3), 201, dtype=np.uint8)
    told = Resizing(np.array([[0, 0, 37, 53]]), np.array([[64, 20]]), np.zeros((1, 2), np.int64), np.zeros(1, bool))
    assert (resized(torch.from_numpy(grey), told, (64, 20)) == 201).all()


# --- what is no set of photographs -----------------------------------------------------------------------------------


def test_what_cannot_be_fed(mixed):
    for changes, augmentation, why in (
        ({"resize": 31}, None, "resized to 31 pixels, fewer than the 32"),
        ({"mean": (0.5,)}, None, "3 channels need as many means"),
        ({}, CropFlip(4), "CropFlip is not for photographs"),
    ):
        with pytest.raises(ValueError, match=why):
            PhotographFeeder(mixed, replace(DATA, **changes), augmentation)
    with pytest.raises(ValueError, match="no photographs"):
        PhotographFeeder(mixed.take(np.arange(0)), DATA)
    for wrong in (-1, 8):
        with pytest.raises(IndexError, match=str(wrong)):
            PhotographFeeder(mixed, DATA, CROP).draw(torch.tensor([0, wrong]), generator())


def test_the_right_feeder(mixed):
    arrays = np.zeros((4, 3, 8, 8), dtype=np.uint8)
    tailed = LongTailed("cifar10", "exponential", 100, MEAN, STD, largest=10)
    assert isinstance(feeder(mixed, DATA, CROP, CPU), PhotographFeeder)
    plain = feeder(arrays, tailed, CropFlip(1), CPU)
    assert isinstance(plain, Feeder)
    assert plain.augmentation == CropFlip(1)
    for images, data, augmentation in ((mixed, tailed, None), (arrays, DATA, None), (arrays, tailed, CROP)):
        with pytest.raises(ValueError, match="were given for"):
            feeder(images, data, augmentation, CPU)


def test_draws_of_the_other_kind_are_refused(mixed):
    photos, plain = PhotographFeeder(mixed, DATA), Feeder(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), MEAN, STD)
    order = torch.arange(4)
    with pytest.raises(TypeError, match="images of one size"):
        photos.batch(plain.draw(order, generator()), 0, 4)
    with pytest.raises(TypeError, match="photographs"):
        plain.batch(photos.draw(order, generator()), 0, 4)
