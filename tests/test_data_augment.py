"""Batches equal what PIL and the usual transforms make of the same draws, image by image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from torch import Tensor

from replicate.data import autoaugment
from replicate.data.augment import Draws, Feeder
from replicate.protocol import AutoAugmentCutout, Crop, CropFlip

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
COUNT = 300
AUGMENTATIONS = [None, Crop(4), CropFlip(4), AutoAugmentCutout(4, 16)]


def name(augmentation: object) -> str:
    return type(augmentation).__name__


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Smooth colours rather than noise, so that AutoAugment's operations differ from one another."""
    small = torch.rand(COUNT, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(small, size=32, mode="bicubic").clamp(0, 1)
    return (large * 255).to(torch.uint8)


@pytest.fixture(scope="module")
def digit_images() -> Tensor:
    return torch.randint(0, 256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def order(count: int = COUNT, seed: int = 3) -> Tensor:
    return torch.randperm(count, generator=generator(seed))


def normalised(pixels: np.ndarray, mean=MEAN, std=STD) -> Tensor:
    """ToTensor and Normalize: uint8 [H, W, C] to float32 [C, H, W], one channel after the other."""
    scaled = torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous().to(torch.float32).div(255)
    centre = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
    return scaled.sub(centre).div(torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())


def pixels_of(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def replay(augmentation, count: int, side: int, seed: int) -> dict[str, Tensor]:
    """The documented order of an epoch's draws, once more."""
    draw = generator(seed)
    drawn = {}
    for key in ("top", "left"):
        drawn[key] = torch.randint(2 * augmentation.padding + 1, (count,), generator=draw)
    if not isinstance(augmentation, Crop):
        drawn["flip"] = torch.randint(2, (count,), generator=draw)
    if isinstance(augmentation, AutoAugmentCutout):
        drawn["sub_policy"] = torch.randint(25, (count,), generator=draw)
        drawn["uniform"] = torch.rand(count, 2, dtype=torch.float64, generator=draw)
        drawn["sign"] = 2 * torch.randint(2, (count, 2), generator=draw) - 1
        drawn["hole"] = torch.stack([torch.randint(side, (count,), generator=draw) for _ in range(2)], dim=1)
    return drawn


def cropped(image: Image.Image, padding: int, top: int, left: int) -> Image.Image:
    padded = Image.new(image.mode, (image.width + 2 * padding, image.height + 2 * padding), 0)
    padded.paste(image, (padding, padding))
    return padded.crop((left, top, left + image.width, top + image.height))


def one_by_one(images: Tensor, shown: Tensor, augmentation, seed: int, mean=MEAN, std=STD) -> Tensor:
    """An epoch, image by image, with PIL."""
    drawn = replay(augmentation, len(shown), images.shape[-1], seed)
    made = []
    for place, index in enumerate(shown.tolist()):
        image = cropped(picture(images[index]), augmentation.padding, int(drawn["top"][place]), int(drawn["left"][place]))
        if "flip" in drawn and drawn["flip"][place]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if "sub_policy" in drawn:
            for which, operation in enumerate(autoaugment.POLICY[drawn["sub_policy"][place]]):
                if drawn["uniform"][place, which] < operation.probability:
                    sign = int(drawn["sign"][place, which])
                    image = autoaugment.transform(image, operation.name, operation.step, sign)
        pixels = pixels_of(image).copy()
        if "hole" in drawn:
            reach, (row, column) = augmentation.hole // 2, drawn["hole"][place].tolist()
            pixels[max(row - reach, 0) : row + reach, max(column - reach, 0) : column + reach] = 0
        made.append(normalised(pixels, mean, std))
    return torch.stack(made)


# --- the feeder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[1:], ids=name)
def test_batches_are_what_pil_makes(augmentation, images):
    shown = order()
    feeder = Feeder(images, MEAN, STD, augmentation)
    draws = feeder.draw(shown, generator(7))
    assert torch.equal(draws.order, shown)
    assert len(draws) == COUNT
    assert torch.equal(feeder.batch(draws, 0, COUNT), one_by_one(images, shown, augmentation, 7))


@pytest.mark.parametrize("augmentation", [Crop(1), CropFlip(3)], ids=name)
def test_one_channel(augmentation, digit_images):
    shown = order(50)
    feeder = Feeder(digit_images, (0.3053,), (0.3760,), augmentation)
    expected = one_by_one(digit_images, shown, augmentation, 7, (0.3053,), (0.3760,))
    assert torch.equal(feeder.batch(feeder.draw(shown, generator(7)), 0, 50), expected)


def test_images_that_are_not_square():
    tall = torch.randint(0, 256, (40, 3, 6, 9), generator=generator(), dtype=torch.uint8)
    augmentation, shown = CropFlip(2), order(40)
    feeder = Feeder(tall, MEAN, STD, augmentation)
    assert torch.equal(feeder.batch(feeder.draw(shown, generator(7)), 0, 40), one_by_one(tall, shown, augmentation, 7))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name)
def test_plain_batches(augmentation, images):
    feeder = Feeder(images, MEAN, STD, augmentation)
    expected = torch.stack([normalised(image.permute(1, 2, 0).numpy()) for image in images])
    assert torch.equal(feeder.plain(0, COUNT), expected)
    assert torch.equal(feeder.plain(100, 117), expected[100:117])
    assert len(feeder) == COUNT


def test_without_augmentation_a_batch_is_plain_in_the_order_asked_for(images):
    feeder = Feeder(images, MEAN, STD)
    repeated = torch.tensor([5, 5, 0, 299])
    assert torch.equal(feeder.batch(feeder.draw(repeated, generator()), 0, 4), feeder.plain(0, COUNT)[repeated])


def test_every_pixel_value_is_normalised_as_torchvision_does():
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    batch = Feeder(values, MEAN, STD).plain(0, 1)
    assert torch.equal(batch[0], normalised(values[0].permute(1, 2, 0).numpy()))
    # In numpy too, whose float32 arithmetic is the processor's.
    plain = (np.arange(256, dtype=np.float32) / np.float32(255)).reshape(16, 16)
    for channel in range(3):
        assert np.array_equal(batch[0, channel].numpy(), (plain - np.float32(MEAN[channel])) / np.float32(STD[channel]))


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name)
def test_batches_are_channels_last_floats_of_their_own(augmentation, images):
    feeder = Feeder(images, MEAN, STD, augmentation)
    draws = feeder.draw(order(), generator())
    for make in (lambda: feeder.batch(draws, 0, 64), lambda: feeder.plain(0, 64)):
        batch = make()
        assert batch.dtype == torch.float32
        assert batch.shape == (64, 3, 32, 32)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        before = batch.clone()
        make().zero_()  # writing to one batch changes neither another nor the images
        assert torch.equal(batch, before)
        assert torch.equal(make(), before)


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name)
@pytest.mark.parametrize("size", [1, 7, 128])
def test_the_batch_size_moves_no_draw(size, augmentation, images):
    feeder = Feeder(images, MEAN, STD, augmentation)
    draws = feeder.draw(order(), generator())
    whole = feeder.batch(draws, 0, COUNT)
    starts = range(0, 40 if size == 1 else COUNT, size)
    parts = [feeder.batch(draws, first, min(first + size, COUNT)) for first in starts]
    joined = torch.cat(parts)
    assert torch.equal(joined, whole[: len(joined)])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS[1:], ids=name)
def test_draws_follow_the_generator_and_nothing_else(augmentation, images):
    feeder = Feeder(images, MEAN, STD, augmentation)
    torch.manual_seed(1)
    first = feeder.batch(feeder.draw(order(), generator(5)), 0, COUNT)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = Feeder(images, MEAN, STD, augmentation)
    assert torch.equal(again.batch(again.draw(order(), generator(5)), 0, COUNT), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(feeder.batch(feeder.draw(order(), generator(6)), 0, COUNT), first)


def test_crops_are_the_same_whatever_comes_after_them(images):
    """Augmentations draw alike as far as they are alike."""
    draws = [Feeder(images, MEAN, STD, a).draw(order(), generator()) for a in (CropFlip(4), AutoAugmentCutout(4, 16))]
    assert torch.equal(draws[0].windows, draws[1].windows)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 3),
    flips=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_shape(height, width, channels, padding, flips, seed):
    pixels = torch.randint(0, 256, (6, channels, height, width), generator=generator(seed), dtype=torch.uint8)
    augmentation = CropFlip(padding) if flips else Crop(padding)
    feeder = Feeder(pixels, MEAN[:channels], STD[:channels], augmentation)
    shown = torch.randint(6, (9,), generator=generator(seed))
    batch = feeder.batch(feeder.draw(shown, generator(seed)), 0, 9)
    assert torch.equal(batch, one_by_one(pixels, shown, augmentation, seed, MEAN[:channels], STD[:channels]))


def test_all_crops_and_flips_are_equally_likely():
    """9 x 9 offsets, with and without flip: 162 crops of one image, each some 100 times (chi-squared, 161 degrees)."""
    image = torch.arange(1, 33 * 33, dtype=torch.int64)[:1024].remainder(251).to(torch.uint8).view(1, 1, 32, 32)
    feeder = Feeder(image, (0.0,), (1.0,), CropFlip(4))
    draws = feeder.draw(torch.zeros(16_200, dtype=torch.int64), generator())
    _, counts = draws.windows.unique(return_counts=True)
    assert len(counts) == 162
    assert 100 < float(((counts - 100) ** 2).sum() / 100) < 230


def test_what_is_no_set_of_images(images):
    for wrong in (images.float(), images[0], images[:0]):
        with pytest.raises(ValueError, match="uint8"):
            Feeder(wrong, MEAN, STD)
    with pytest.raises(ValueError, match="3 channels need as many means"):
        Feeder(images, MEAN[:1], STD)
    with pytest.raises(ValueError, match="for 3 channels, not 1"):
        Feeder(images[:, :1], MEAN[:1], STD[:1], AutoAugmentCutout(4, 16))


@pytest.mark.parametrize("wrong", [-1, COUNT])
def test_an_order_beyond_the_images(wrong, images):
    with pytest.raises(IndexError, match=str(wrong)):
        Feeder(images, MEAN, STD, Crop(4)).draw(torch.tensor([0, wrong]), generator())


@pytest.mark.parametrize("augmentation", AUGMENTATIONS, ids=name)
def test_an_accelerator_gives_the_same_bits(augmentation, images, accelerator):
    here, there = (Feeder(images.to(device), MEAN, STD, augmentation) for device in ("cpu", accelerator))
    shown = order()
    batches = [feeder.batch(feeder.draw(shown, generator()), 3, 131).cpu() for feeder in (here, there)]
    assert torch.equal(*batches)
    assert torch.equal(here.plain(0, COUNT), there.plain(0, COUNT).cpu())


# --- Cutout ----------------------------------------------------------------------------------------------------------


def test_cutout_is_one_square_clipped_at_the_border():
    white = torch.full((4, 3, 32, 32), 255, dtype=torch.uint8)
    feeder = Feeder(white, (0.0,) * 3, (1.0,) * 3, AutoAugmentCutout(0, 16))
    count = 4
    draws = Draws(
        order=torch.arange(count),
        windows=torch.arange(count) * 1024,
        holes=torch.tensor([[16, 16], [0, 0], [31, 31], [3, 20]]),
        sub_policies=np.zeros(count, np.int64),
        uniforms=np.ones((count, 2)),
        signs=np.ones((count, 2), np.int64),
    )
    batch = feeder.batch(draws, 0, count)
    expected = torch.ones(count, 3, 32, 32)
    expected[0, :, 8:24, 8:24] = 0
    expected[1, :, :8, :8] = 0
    expected[2, :, 23:, 23:] = 0
    expected[3, :, :11, 12:28] = 0
    assert torch.equal(batch, expected)


# --- AutoAugment -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo(images) -> Image.Image:
    return picture(images[0])


def changed(photo: Image.Image, operation: str, step: int, sign: int = 1) -> np.ndarray:
    return np.asarray(autoaugment.transform(photo, operation, step, sign)).astype(np.int64)


def test_the_policy():
    assert len(autoaugment.POLICY) == 25
    assert all(
        0 <= operation.probability <= 1 and 0 <= operation.step <= 9 for pair in autoaugment.POLICY for operation in pair
    )
    assert autoaugment.POLICY[0] == (("invert", 0.1, 7), ("contrast", 0.2, 6))
    assert autoaugment.POLICY[24] == (("translate y", 0.7, 9), ("autocontrast", 0.9, 1))
    operations = [operation for pair in autoaugment.POLICY for operation in pair]
    # Sums over the table as other implementations have it: a slip in a name, a probability or a step shows here.
    assert sum(operation.probability for operation in operations) == pytest.approx(26.5)
    assert sum(operation.step for operation in operations) == 267
    assert Counter(operation.name for operation in operations) == {
        "equalize": 9,
        "autocontrast": 7,
        **dict.fromkeys(("sharpness", "translate y", "colour"), 5),
        **dict.fromkeys(("brightness", "solarize"), 4),
        "invert": 3,
        **dict.fromkeys(("contrast", "translate x", "shear y"), 2),
        **dict.fromkeys(("rotate", "posterize"), 1),
    }


def test_magnitudes():
    told = {
        name: [autoaugment.magnitude(name, step) for step in (0, 3, 9)]
        for name in ("shear y", "translate x", "rotate", "colour", "posterize", "solarize", "invert")
    }
    assert told == {
        "shear y": pytest.approx([0, 0.1, 0.3]),
        "translate x": pytest.approx([0, 50 / 331, 150 / 331]),
        "rotate": pytest.approx([0, 10, 30]),
        "colour": pytest.approx([0, 0.3, 0.9]),
        "posterize": pytest.approx([8, 20 / 3, 4]),
        "solarize": pytest.approx([256, 512 / 3, 0]),
        "invert": [0, 0, 0],
    }


def test_operations_on_values(photo):
    before = np.asarray(photo).astype(np.int64)
    assert np.array_equal(changed(photo, "invert", 0), 255 - before)
    assert np.array_equal(changed(photo, "posterize", 7), before & 0b11111000)  # 4.9 bits are 5
    for step in (2, 3, 5, 8):
        threshold = 256 - step * 256 / 9
        assert np.array_equal(changed(photo, "solarize", step), np.where(before < threshold, before, 255 - before))
    low, high = before.min((0, 1)), before.max((0, 1))
    assert np.abs(changed(photo, "autocontrast", 0) - (before - low) * 255 / (high - low)).max() <= 1
    equalized = changed(photo, "equalize", 0)
    for channel in range(3):  # Pillow: the share of darker pixels, in steps of the count between grey levels
        histogram = np.bincount(before[..., channel].ravel(), minlength=256)
        occupied = histogram[histogram > 0]
        step = (histogram.sum() - occupied[-1]) // 255
        darker = np.concatenate([[0], np.cumsum(histogram)[:-1]])
        expected = np.minimum((darker + step // 2) // step, 255) & 255
        assert np.array_equal(equalized[..., channel], expected[before[..., channel]])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("operation", "enhancer"),
    [
        ("colour", ImageEnhance.Color),
        ("contrast", ImageEnhance.Contrast),
        ("sharpness", ImageEnhance.Sharpness),
        ("brightness", ImageEnhance.Brightness),
    ],
)
def test_enhancements_blend_with_what_they_take_away(operation, enhancer, sign, photo):
    before = np.asarray(photo).astype(np.float64)
    without = np.asarray(enhancer(photo).enhance(0.0)).astype(np.float64)
    for step in (0, 3, 9):
        factor = 1 + sign * 0.1 * step
        expected = np.clip(without + factor * (before - without), 0, 255)
        assert np.abs(changed(photo, operation, step, sign) - expected).max() <= 1
    assert not np.array_equal(before, without)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [3, 8, 9])
def test_translations_move_whole_pixels_and_fill_with_grey(step, sign, photo):
    before = np.asarray(photo).astype(np.int64)
    for operation, axis in (("translate x", 1), ("translate y", 0)):
        # The nearest pixel to where a pixel's centre comes from, in an image of 32 pixels.
        source = np.floor(np.arange(32) + 0.5 + sign * step * 150 / 331 / 9 * 32).astype(int)
        expected = np.full_like(before, 128)
        there = (source >= 0) & (source < 32)
        if axis == 0:
            expected[there] = before[source[there]]
        else:
            expected[:, there] = before[:, source[there]]
        assert np.array_equal(changed(photo, operation, step, sign), expected)


def test_rotation_is_counter_clockwise_whatever_the_sign(photo):
    """As in the copies of the re-implementation: through an alpha channel, onto grey."""
    turned = photo.convert("RGBA").rotate(2 * 30 / 9)
    expected = Image.composite(turned, Image.new("RGBA", turned.size, (128,) * 4), turned).convert("RGB")
    for sign in (1, -1):
        assert np.array_equal(changed(photo, "rotate", 2, sign), np.asarray(expected))
    marked = np.zeros((32, 32, 3), np.uint8)
    marked[15:17, 28] = 255  # on the right; counter-clockwise it rises
    rows = np.flatnonzero(changed(Image.fromarray(marked), "rotate", 9)[1:-1, 16:, 0].max(1) == 255) + 1
    assert rows.max() < 15


@pytest.mark.parametrize("sign", [1, -1])
def test_shear_moves_columns_apart(sign):
    ramp = np.repeat(np.arange(32, dtype=np.uint8)[:, None] * 7, 32, 1)[:, :, None].repeat(3, 2)
    sheared = changed(Image.fromarray(ramp), "shear y", 8, sign)
    rows, columns = np.mgrid[8:24, 2:30]
    # Pillow's cubic kernel (a = -1) is off by up to 0.1 of a step of 7 on a linear ramp, and truncates.
    wanted = 7 * (rows + sign * 0.3 * 8 / 9 * (columns + 0.5))
    inside = (wanted > 14) & (wanted < 7 * 29)
    assert inside.sum() > 200
    assert np.abs(sheared[8:24, 2:30, 0] - wanted)[inside].max() < 2
    corner = sheared[31, 31] if sign > 0 else sheared[0, 31]
    assert corner.tolist() == [128, 128, 128]


def test_unknown_operations(photo):
    with pytest.raises(KeyError):
        autoaugment.transform(photo, "twirl", 3, 1)


def test_sub_policies_are_applied_in_order_where_the_draw_says_so(images):
    pixels = images[:4].permute(0, 2, 3, 1).numpy()
    chosen = np.full(4, 6)  # colour with probability 0.4, then brightness with 0.6
    uniforms = np.array([[0.39, 0.59], [0.4, 0.59], [0.39, 0.6], [0.4, 0.6]])
    signs = np.array([[1, -1]] * 4)
    before = pixels.copy()
    made = autoaugment.apply(pixels, chosen, uniforms, signs)
    assert np.array_equal(pixels, before)
    for place, steps in enumerate(([("colour", 3, 1), ("brightness", 7, -1)], [("brightness", 7, -1)], [("colour", 3, 1)], [])):
        image = Image.fromarray(pixels[place])
        for operation in steps:
            image = autoaugment.transform(image, *operation)
        assert np.array_equal(made[place], np.asarray(image))
    assert len({made[place].tobytes() for place in range(4)}) == 4


def test_every_sub_policy_is_drawn_and_changes_images(images):
    feeder = Feeder(images, MEAN, STD, AutoAugmentCutout(0, 0))
    draws = feeder.draw(order(), generator())
    assert set(draws.sub_policies.tolist()) == set(range(25))
    assert set(draws.signs.ravel().tolist()) == {-1, 1}
    crops = Feeder(images, MEAN, STD, CropFlip(0))
    batches = [one.batch(draws, 0, COUNT) for one in (feeder, crops)]
    share = float((batches[0] != batches[1]).flatten(1).any(1).float().mean())
    assert 0.6 < share < 0.95
