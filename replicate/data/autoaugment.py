"""AutoAugment's policy for CIFAR-10, one image at a time on the host, by Pillow.

Cubuk, Zoph, Mane, Vasudevan, Le: "AutoAugment: Learning Augmentation Strategies from Data", CVPR 2019, arXiv
1805.09501: sub-policies of its Table 7, ranges of operations of its appendix. Where the paper leaves room, this
follows P. Popien's re-implementation at its commit 17d7182 (github.com/DeepVoltaire/AutoAugment), of which the released
code of several long-tailed papers carries a copy:

* ten magnitudes, evenly spaced from the range's first end to its last, both included;
* shear, translation, colour, contrast, sharpness and brightness take a random sign;
* rotation does not: it is always counter-clockwise (upstream's issue 28, mended there later, not in the copies);
* shear interpolates bicubically, translation and rotation take the nearest pixel; what moves in is grey, 128;
* Posterize runs from 8 bits to 4, Solarize from threshold 256 to 0; the four enhancements have factor 1 +- magnitude.

Pillow does the operations because the policy was tuned on them: they are exact, well kept and slow (some 0.1 ms an
image). All draws are the caller's, so the result follows from its arguments alone.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

__all__ = ["POLICY", "Operation", "apply", "magnitude", "transform"]

FILL = (128, 128, 128)
STEPS = 10


class Operation(NamedTuple):
    """An operation of a sub-policy: its name, the probability with which it is applied, and its magnitude's step."""

    name: str
    probability: float
    step: int


def _sub_policy(
    first: str, first_probability: float, first_step: int, second: str, second_probability: float, second_step: int
) -> tuple[Operation, Operation]:
    return Operation(first, first_probability, first_step), Operation(second, second_probability, second_step)


#: The 25 sub-policies, in the paper's order: two operations each.
POLICY: tuple[tuple[Operation, Operation], ...] = (
    _sub_policy("invert", 0.1, 7, "contrast", 0.2, 6),
    _sub_policy("rotate", 0.7, 2, "translate x", 0.3, 9),
    _sub_policy("sharpness", 0.8, 1, "sharpness", 0.9, 3),
    _sub_policy("shear y", 0.5, 8, "translate y", 0.7, 9),
    _sub_policy("autocontrast", 0.5, 8, "equalize", 0.9, 2),
    _sub_policy("shear y", 0.2, 7, "posterize", 0.3, 7),
    _sub_policy("colour", 0.4, 3, "brightness", 0.6, 7),
    _sub_policy("sharpness", 0.3, 9, "brightness", 0.7, 9),
    _sub_policy("equalize", 0.6, 5, "equalize", 0.5, 1),
    _sub_policy("contrast", 0.6, 7, "sharpness", 0.6, 5),
    _sub_policy("colour", 0.7, 7, "translate x", 0.5, 8),
    _sub_policy("equalize", 0.3, 7, "autocontrast", 0.4, 8),
    _sub_policy("translate y", 0.4, 3, "sharpness", 0.2, 6),
    _sub_policy("brightness", 0.9, 6, "colour", 0.2, 8),
    _sub_policy("solarize", 0.5, 2, "invert", 0.0, 3),
    _sub_policy("equalize", 0.2, 0, "autocontrast", 0.6, 0),
    _sub_policy("equalize", 0.2, 8, "equalize", 0.6, 4),
    _sub_policy("colour", 0.9, 9, "equalize", 0.6, 6),
    _sub_policy("autocontrast", 0.8, 4, "solarize", 0.2, 8),
    _sub_policy("brightness", 0.1, 3, "colour", 0.7, 0),
    _sub_policy("solarize", 0.4, 5, "autocontrast", 0.9, 3),
    _sub_policy("translate y", 0.9, 9, "translate y", 0.7, 9),
    _sub_policy("autocontrast", 0.9, 2, "solarize", 0.8, 3),
    _sub_policy("equalize", 0.8, 8, "invert", 0.1, 3),
    _sub_policy("translate y", 0.7, 9, "autocontrast", 0.9, 1),
)

_RANGES: dict[str, tuple[float, float]] = {
    "shear y": (0.0, 0.3),
    "translate x": (0.0, 150 / 331),  # of the side: the policy was searched with 331-pixel images
    "translate y": (0.0, 150 / 331),
    "rotate": (0.0, 30.0),  # degrees
    "colour": (0.0, 0.9),
    "contrast": (0.0, 0.9),
    "sharpness": (0.0, 0.9),
    "brightness": (0.0, 0.9),
    "posterize": (8.0, 4.0),  # bits
    "solarize": (256.0, 0.0),  # threshold
}
_ENHANCE = {
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
    "brightness": ImageEnhance.Brightness,
}


@cache
def magnitude(name: str, step: int) -> float:
    """Magnitude of an operation at a step 0..9; 0 for operations that have none."""
    first, last = _RANGES.get(name, (0.0, 0.0))
    return float(np.linspace(first, last, STEPS)[step])


def transform(image: Image.Image, name: str, step: int, sign: int) -> Image.Image:
    """One operation on an RGB image, at a step 0..9; ``sign`` (1 or -1) counts only for operations that take one.

    Raises ``KeyError`` for a name that is no operation of the policy.
    """
    size = magnitude(name, step)
    width, height = image.size
    match name:
        case "shear y":
            return image.transform(
                image.size,
                Image.Transform.AFFINE,
                (1, 0, 0, sign * size, 1, 0),
                Image.Resampling.BICUBIC,
                fillcolor=FILL,
            )
        case "translate x":
            return image.transform(image.size, Image.Transform.AFFINE, (1, 0, sign * size * width, 0, 1, 0), fillcolor=FILL)
        case "translate y":
            return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, sign * size * height), fillcolor=FILL)
        case "rotate":
            return image.rotate(size, fillcolor=FILL)
        case "posterize":
            return ImageOps.posterize(image, round(size))
        case "solarize":
            return ImageOps.solarize(image, size)  # type: ignore[arg-type]
        case "autocontrast":
            return ImageOps.autocontrast(image)
        case "equalize":
            return ImageOps.equalize(image)
        case "invert":
            return ImageOps.invert(image)
        case _:
            return _ENHANCE[name](image).enhance(1 + sign * size)


def apply(
    images: NDArray[np.uint8],
    sub_policies: NDArray[np.int64],
    uniforms: NDArray[np.float64],
    signs: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """One sub-policy on each image of a batch; returns a new uint8 array [B, H, W, 3].

    ``images`` uint8 [B, H, W, 3], ``sub_policies`` [B] in 0..24; for the two operations of an image, ``uniforms``
    [B, 2] in [0, 1) (an operation is applied where its number is below its probability) and ``signs`` [B, 2], 1 or -1.
    """
    result: NDArray[np.uint8] = images.copy()
    for place, chosen in enumerate(sub_policies):
        wanted = [
            (operation, int(sign))
            for operation, uniform, sign in zip(POLICY[chosen], uniforms[place], signs[place], strict=True)
            if uniform < operation.probability
        ]
        if wanted:
            image = Image.fromarray(images[place])
            for operation, sign in wanted:
                image = transform(image, operation.name, operation.step, sign)
            result[place] = np.asarray(image)
    return result
