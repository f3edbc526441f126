"""Batches of images of one size: augmentation and normalisation on the device that holds the images.

Images stay uint8 until a batch is made. The randomness of a whole epoch is drawn at once on the CPU, so that it is the
same on every device and for every batch size; making a batch is then a gather and three element-wise operations.

How the gather works: a :class:`Feeder` keeps every image zero-padded and channels-last, [N, H+2p, W+2p, C], and, where
images are flipped, a second time mirrored. A crop is a window of that memory, and all windows have the same shape and
strides, so the position of its first pixel says everything about it: image, offsets and flip. An epoch of random crops
is one int64 vector, a batch of them one ``index_select``.

Photographs of varying size have a feeder of their own, in :mod:`replicate.data.photographs`; :func:`feeder` picks the
right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replicate.data import autoaugment
from replicate.data.normalisation import Normalisation
from replicate.data.photographs import PhotographDraws, PhotographFeeder, Photographs
from replicate.protocol import Augmentation, AutoAugmentCutout, Crop, CropFlip, Data, PhotographFolders, RandomResizedCropFlip

__all__ = ["Draws", "Feeder", "feeder"]


@dataclass(frozen=True, eq=False)
class Draws:
    """The randomness of one epoch, for N images in the order in which they are shown.

    ``order`` int64 [N]: which image, and ``windows`` int64 [N]: where its crop begins in the feeder's memory; both on
    the device. ``holes`` int64 [N, 2] (device): row and column of the centre of the Cutout square, or None.
    ``sub_policies`` [N], ``uniforms`` and ``signs`` [N, 2] (host): what AutoAugment does to each image, or None.
    """

    order: Tensor
    windows: Tensor
    holes: Tensor | None = None
    sub_policies: NDArray[np.int64] | None = None
    uniforms: NDArray[np.float64] | None = None
    signs: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.order)


class Feeder:
    """Makes normalised batches of one set of images.

    ``images`` uint8 [N, C, H, W] on the device where batches are wanted; ``mean`` and ``std`` have one value a channel,
    in units of pixels scaled to [0, 1]. ``augmentation`` None: batches are plain.

    Memory, uint8: N*C*(H+2p)*(W+2p) bytes for padding p, twice that where images are flipped. ``images`` itself is not
    kept. A feeder has no state that batches change, so several training runs on a device can share one.

    A batch is float32 [B, C, H, W] in channels-last memory, equal bit for bit to ``((x / 255) - mean) / std`` in 32-bit
    floats, one operation after the other, on every device.

    Raises ``ValueError`` if ``images`` is not a non-empty uint8 [N, C, H, W], if ``mean`` or ``std`` do not have C
    values, or for AutoAugment on images that are not in colour.
    """

    def __init__(
        self,
        images: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Crop | CropFlip | AutoAugmentCutout | None = None,
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
            raise ValueError(f"images must be uint8 [N, C, H, W], not {images.dtype} {list(images.shape)}")
        count, channels, height, width = images.shape
        if isinstance(augmentation, AutoAugmentCutout) and channels != 3:
            raise ValueError(f"AutoAugment's CIFAR-10 policy is for 3 channels, not {channels}")
        self.augmentation = augmentation
        self.device = images.device
        self.shape = (channels, height, width)
        self._normalised = Normalisation(mean, std, self.shape, images.device)
        self._count = count
        self._padding = padding = 0 if augmentation is None else augmentation.padding
        self._flips = isinstance(augmentation, (CropFlip, AutoAugmentCutout))

        channels_last = images.permute(0, 2, 3, 1)
        self._rows, self._columns = rows, columns = height + 2 * padding, width + 2 * padding
        memory = images.new_zeros(1 + self._flips, count, rows, columns, channels)
        inside = memory[:, :, padding : padding + height, padding : padding + width]
        inside[0] = channels_last
        if self._flips:
            inside[1] = channels_last.flip(2)
        self._plain = inside[0]
        # Every window that starts at a pixel and ends within the memory; they overlap, and most are never asked for.
        starts = memory.numel() // channels - (height - 1) * columns - width + 1
        self._windows = memory.as_strided((starts, height, width * channels), (channels, columns * channels, 1))

    def __len__(self) -> int:
        """Number of images."""
        return self._count

    def draw(self, order: Tensor, generator: torch.Generator) -> Draws:
        """The randomness of an epoch that shows the images ``order`` (int64 [N] on the CPU), from a CPU generator.

        The augmentations draw alike as far as they are alike: row offsets [N], column offsets [N], flips [N],
        sub-policies [N], applied or not [N, 2], signs [N, 2], centres of holes [N, 2]. Raises ``IndexError`` if
        ``order`` names an image that is not there.
        """
        if len(order) and not 0 <= int(order.min()) <= int(order.max()) < self._count:
            raise IndexError(f"order names images {int(order.min())} to {int(order.max())} of {self._count}")
        count = len(order)

        def integers(high: int, *shape: int) -> Tensor:
            return torch.randint(high, shape, generator=generator)

        if self.augmentation is None:
            return Draws(self._to_device(order), self._to_device(self._window(order, 0, 0, 0)))
        offsets = 2 * self._padding + 1
        top, left = integers(offsets, count), integers(offsets, count)
        if not self._flips:
            return Draws(self._to_device(order), self._to_device(self._window(order, top, left, 0)))
        flip = integers(2, count)
        # A crop at the column offset l, then mirrored, is a crop of the mirrored image at the offset 2p - l.
        left = torch.where(flip == 1, 2 * self._padding - left, left)
        windows = self._to_device(self._window(order, top, left, flip))
        if not isinstance(self.augmentation, AutoAugmentCutout):
            return Draws(self._to_device(order), windows)
        sub_policies = integers(len(autoaugment.POLICY), count)
        uniforms = torch.rand(count, 2, dtype=torch.float64, generator=generator)
        signs = 2 * integers(2, count, 2) - 1
        _, height, width = self.shape
        holes = torch.stack([integers(height, count), integers(width, count)], dim=1)
        return Draws(
            self._to_device(order),
            windows,
            self._to_device(holes),
            sub_policies.numpy(),
            uniforms.numpy(),
            signs.numpy(),
        )

    def batch(self, draws: Draws | PhotographDraws, first: int, last: int) -> Tensor:
        """Images ``first`` to ``last`` (excluded) of the epoch, augmented and normalised: float32 [B, C, H, W],
        channels-last. Waits for the device only where AutoAugment needs the host. Raises ``TypeError`` for the draws of
        another kind of feeder."""
        if not isinstance(draws, Draws):
            raise TypeError("these draws are for photographs")
        if not isinstance(self.augmentation, AutoAugmentCutout):
            return self.at(draws.windows[first:last])
        pixels = self._windows.index_select(0, draws.windows[first:last])
        return self._normalised(self._cut_out(self._auto_augmented(pixels, draws, first, last), draws, first, last))

    def at(self, windows: Tensor) -> Tensor:
        """The windows that begin at these positions (int64 [B] on the device), normalised: float32 [B, C, H, W], channels-last.
        All of a batch but for AutoAugment with Cutout, and all on the device."""
        return self._normalised(self._windows.index_select(0, windows))

    def plain(self, first: int, last: int) -> Tensor:
        """Images ``first`` to ``last`` (excluded) in their own order, normalised and not augmented: float32
        [B, C, H, W], channels-last."""
        return self._normalised(self._plain[first:last])

    def plain_at(self, places: Tensor) -> Tensor:
        """As :meth:`plain`, of the images at these places (int64 [B] on the device)."""
        return self._normalised(self._plain.index_select(0, places))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device)

    def _window(self, image: Tensor, top: Tensor | int, left: Tensor | int, flip: Tensor | int) -> Tensor:
        return ((flip * self._count + image) * self._rows + top) * self._columns + left

    def _auto_augmented(self, pixels: Tensor, draws: Draws, first: int, last: int) -> Tensor:
        assert draws.sub_policies is not None and draws.uniforms is not None and draws.signs is not None
        channels, height, width = self.shape
        changed = autoaugment.apply(
            pixels.cpu().numpy().reshape(-1, height, width, channels),
            draws.sub_policies[first:last],
            draws.uniforms[first:last],
            draws.signs[first:last],
        )
        return self._to_device(torch.from_numpy(changed))

    def _cut_out(self, pixels: Tensor, draws: Draws, first: int, last: int) -> Tensor:
        """One square of zeros on each image, ``hole`` wide, clipped where it leaves the image (DeVries and Taylor,
        arXiv:1708.04552; as in their code, it reaches from ``hole // 2`` before the centre to as far behind it)."""
        assert draws.holes is not None and isinstance(self.augmentation, AutoAugmentCutout)
        _, height, width = self.shape
        reach = self.augmentation.hole // 2
        row, column = draws.holes[first:last].unbind(1)

        def inside(side: int, centre: Tensor) -> Tensor:
            distance = torch.arange(side, device=self.device) - centre[:, None]
            return (distance >= -reach) & (distance < reach)

        hole = inside(height, row)[:, :, None] & inside(width, column)[:, None, :]
        return pixels.masked_fill_(hole[..., None], 0)


def feeder(
    images: NDArray[np.uint8] | Photographs,
    data: Data,
    augmentation: Augmentation | None,
    device: torch.device,
) -> Feeder | PhotographFeeder:
    """Makes batches, on ``device``, of images under the protocol ``data``: an array uint8 [N, C, H, W], or photographs.

    Raises ``ValueError`` if the images are not of the kind that ``data`` describes, or the augmentation is not for them.
    """
    if isinstance(images, Photographs):
        if not isinstance(data, PhotographFolders):
            raise ValueError(f"photographs were given for {data.source}, which has images of one size")
        return PhotographFeeder(images, data, augmentation, device)
    if isinstance(data, PhotographFolders) or isinstance(augmentation, RandomResizedCropFlip):
        raise ValueError(f"images of one size were given for {data.source} under {augmentation}, which are for photographs")
    return Feeder(torch.as_tensor(images).to(device), data.mean, data.std, augmentation)
