"""The last step of every batch: from pixels 0 to 255 to what a network is shown."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Normalisation"]


class Normalisation:
    """Makes float32 [B, C, H, W] in channels-last memory of pixels [B, H, W, C] or [B, H, W*C] with values 0 to 255.

    The result equals ``((x / 255) - mean) / std`` in 32-bit floats, one operation after the other, bit for bit on every
    device. ``mean`` and ``std`` have one value a channel, in units of pixels scaled to [0, 1]; raises ``ValueError`` if
    they do not.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], shape: tuple[int, int, int], device: torch.device) -> None:
        self._shape = channels, height, width = shape
        if len(mean) != channels or len(std) != channels:
            raise ValueError(f"{channels} channels need as many means and deviations, not {len(mean)} and {len(std)}")

        # Per pixel rather than per channel: broadcasting over three values is four times as slow on a CPU. Divisors
        # are tensors on the device because CUDA multiplies by the reciprocal of a divisor given as a number.
        def per_pixel(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).repeat(height * width)

        self._mean, self._std = per_pixel(mean), per_pixel(std)
        self._white = torch.full_like(self._mean, 255.0)

    def __call__(self, pixels: Tensor) -> Tensor:
        """``pixels`` normalised; floats are changed in place."""
        channels, height, width = self._shape
        flat = pixels.reshape(len(pixels), -1).to(torch.float32)
        flat.div_(self._white).sub_(self._mean).div_(self._std)
        return flat.view(len(pixels), height, width, channels).permute(0, 3, 1, 2)
