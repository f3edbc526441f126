"""Batches of photographs: windows of varying size, brought to one size on the device.

A batch costs the host no more than copying the pixels of its windows into one block. The device resizes them as Pillow's
antialiased bilinear filter does: a triangle as wide as the scale, first along rows, then along columns, each a batched
product with matrices of weights, one for every photograph.

The result is Pillow's, bit for bit (before its version 13, which takes columns first where that saves time). Pillow
computes with whole numbers: weights in units of 2^-22, and whole grey levels after each direction. So do the products here,
in 32-bit floats: a weight is split into a high and a low part of 11 bits each, so that with pixels of 8 bits every partial
sum is a whole number below 2^24, exact whatever adds it up (only the low parts of a photograph of 7,000 pixels or more
could, in principle, leave that range). Hence a batch has the same bits on every device, for every batch size and every way
to divide it; TensorFloat-32 would not change them either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replicate.data.decoded import Photographs
from replicate.data.normalisation import Normalisation
from replicate.protocol import Augmentation, PhotographFolders, RandomResizedCropFlip

if TYPE_CHECKING:
    from replicate.data.augment import Draws

__all__ = ["PhotographDraws", "PhotographFeeder", "Photographs", "Resizing"]

#: Windows are drawn until one lies within the photograph, so often; then the largest allowed one in its centre is taken.
ATTEMPTS: Final = 10
#: Pixels of a block of windows, padding included. Larger batches are made in several blocks, large windows apart.
BLOCK: Final = 1 << 22
#: Weights are whole numbers: this is 1.
_ONE: Final = 2.0**22
_LOW: Final = 2.0**11
#: Farther than any pixel of a photograph is from another, in the units of :func:`weights`.
_FAR: Final = 1 << 40


@dataclass(frozen=True, eq=False)
class Resizing:
    """What becomes of N photographs: from each a window is cut, resized, and cut again.

    ``windows`` int64 [N, 4]: top, left, height and width of the window; ``sizes`` int64 [N, 2]: height and width that it
    is resized to; ``corners`` int64 [N, 2]: first row and column of what is kept of that; ``flips`` bool [N]: mirrored at
    the end or not. All on the host.
    """

    windows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    corners: NDArray[np.int64]
    flips: NDArray[np.bool_]

    def __getitem__(self, some: slice | NDArray[np.int64]) -> Resizing:
        return Resizing(self.windows[some], self.sizes[some], self.corners[some], self.flips[some])

    def __len__(self) -> int:
        return len(self.windows)


@dataclass(frozen=True, eq=False)
class PhotographDraws:
    """The randomness of one epoch, for N photographs in the order in which they are shown: ``order`` int64 [N] on the
    host, which photograph, and what becomes of it."""

    order: Tensor
    resizing: Resizing

    def __len__(self) -> int:
        return len(self.order)


class PhotographFeeder:
    """Makes normalised batches of one set of photographs; the counterpart of :class:`~replicate.data.augment.Feeder`.

    Without augmentation, and for evaluation, the shorter side is resized to ``data.resize`` and the central square of
    ``data.side`` pixels kept (torchvision's ``Resize`` and ``CenterCrop``). If all photographs of the data set have one
    size and that is smaller than ``data.side``, batches have that size and evaluation takes them as they are.

    A batch is float32 [B, 3, H, W] in channels-last memory on ``device``; :attr:`shape` is (3, H, W). It equals
    ``((x / 255) - mean) / std`` of the whole grey levels x that Pillow gives. A feeder has no state that batches change.

    Raises ``ValueError`` if there are no photographs, ``mean`` or ``std`` do not have 3 values, ``data.resize`` is
    smaller than ``data.side``, or the augmentation is not for photographs.
    """

    def __init__(
        self,
        photographs: Photographs,
        data: PhotographFolders,
        augmentation: Augmentation | None = None,
        device: torch.device | None = None,
    ) -> None:
        if not len(photographs):
            raise ValueError("there are no photographs to make batches of")
        if data.resize < data.side:
            raise ValueError(f"photographs are resized to {data.resize} pixels, fewer than the {data.side} that are kept")
        if augmentation is not None and not isinstance(augmentation, RandomResizedCropFlip):
            raise ValueError(f"{type(augmentation).__name__} is not for photographs; allowed: RandomResizedCropFlip")
        self.augmentation = augmentation
        self.device = torch.device("cpu") if device is None else device
        self._photographs = photographs
        small = photographs.one_size
        self._as_they_are = small is not None and max(small) < data.side
        height, width = small if small is not None and self._as_they_are else (data.side, data.side)
        self.shape = (3, height, width)
        self._normalised = Normalisation(data.mean, data.std, self.shape, self.device)
        self._evaluation = self._evaluated(data.resize)

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self._photographs)

    def draw(self, order: Tensor, generator: torch.Generator) -> PhotographDraws:
        """The randomness of an epoch that shows the photographs ``order`` (int64 [N] on the CPU), from a CPU generator.

        Drawn in this order: shares of the area and shapes [N, 10, 2], rows and columns [N, 2] (all float64, uniform), flips
        [N]. Raises ``IndexError`` if ``order`` names a photograph that is not there.
        """
        if len(order) and not 0 <= int(order.min()) <= int(order.max()) < len(self):
            raise IndexError(f"order names photographs {int(order.min())} to {int(order.max())} of {len(self)}")
        shown = order.numpy()
        if self.augmentation is None:
            return PhotographDraws(order, self._evaluation[shown])
        count = len(order)
        tries = torch.rand(count, ATTEMPTS, 2, dtype=torch.float64, generator=generator).numpy()
        where = torch.rand(count, 2, dtype=torch.float64, generator=generator).numpy()
        flips = torch.randint(2, (count,), generator=generator).numpy().astype(bool)
        windows = random_windows(self._photographs.sizes[shown], self.augmentation, tries, where)
        sizes = np.broadcast_to(np.array(self.shape[1:], dtype=np.int64), (count, 2))
        return PhotographDraws(order, Resizing(windows, sizes, np.zeros((count, 2), dtype=np.int64), flips))

    def batch(self, draws: PhotographDraws | Draws, first: int, last: int) -> Tensor:
        """Photographs ``first`` to ``last`` (excluded) of the epoch, augmented and normalised: float32 [B, 3, H, W],
        channels-last. Raises ``TypeError`` for the draws of another kind of feeder."""
        if not isinstance(draws, PhotographDraws):
            raise TypeError("these draws are for images of one size")
        return self._made(draws.order[first:last].numpy(), draws.resizing[first:last])

    def plain(self, first: int, last: int) -> Tensor:
        """Photographs ``first`` to ``last`` (excluded) in their own order, as they are evaluated: float32 [B, 3, H, W],
        channels-last."""
        return self._made(np.arange(first, last), self._evaluation[first:last])

    def _evaluated(self, resize: int) -> Resizing:
        sizes = self._photographs.sizes
        windows = np.concatenate([np.zeros_like(sizes), sizes], axis=1)
        if self._as_they_are:
            resized = sizes
        else:
            # The longer side is cut to a whole number of pixels, as torchvision does.
            resized = (sizes * resize) // sizes.min(axis=1, keepdims=True)
        corners = np.rint((resized - np.array(self.shape[1:])) / 2).astype(np.int64)
        return Resizing(windows, resized, corners, np.zeros(len(sizes), dtype=bool))

    def _made(self, shown: NDArray[np.int64], resizing: Resizing) -> Tensor:
        _, height, width = self.shape
        blocks = list(_blocks(resizing.windows[:, 2:]))
        if len(blocks) == 1:
            made = self._block(shown, resizing)
        else:
            made = torch.empty(len(shown), height, width, 3, device=self.device)
            for places in blocks:
                made[_sent(places, self.device)] = self._block(shown[places], resizing[places])
        self._photographs.let_go()
        return self._normalised(made)

    def _block(self, shown: NDArray[np.int64], resizing: Resizing) -> Tensor:
        """Whole grey levels, float32 [B, H, W, 3]."""
        height, width = (int(side) for side in resizing.windows[:, 2:].max(axis=0))
        on_gpu = self.device.type == "cuda"
        # What lies beyond a window is never read: its weight is 0.
        block = torch.empty(len(shown), height, width, 3, dtype=torch.uint8, pin_memory=on_gpu)
        pixels = block.numpy()
        for place, (index, (top, left, rows, columns)) in enumerate(
            zip(shown.tolist(), resizing.windows.tolist(), strict=True)
        ):
            pixels[place, :rows, :columns] = self._photographs[index][top : top + rows, left : left + columns]
        block = block.to(self.device, non_blocking=on_gpu)
        if self._as_they_are and np.array_equal(resizing.windows[:, 2:], resizing.sizes) and not resizing.flips.any():
            return block.to(torch.float32)
        return resized(block, resizing, self.shape[1:])


def random_windows(
    sizes: NDArray[np.int64], augmentation: RandomResizedCropFlip, tries: NDArray[np.float64], where: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Top, left, height and width [N, 4] of a window in each photograph, by the numbers drawn.

    ``sizes`` [N, 2]: height and width of the photographs; ``tries`` [N, T, 2] and ``where`` [N, 2] uniform in [0, 1). Each
    try is an area, uniform in ``augmentation.area``, and a shape, log-uniform in ``augmentation.shape``; the first window
    that is not larger than the photograph is taken, at a random place. Where none is, the largest one of an allowed shape
    in the centre. Source: ``RandomResizedCrop.get_params`` of torchvision.
    """
    height, width = sizes[:, 0], sizes[:, 1]
    (least, most), shapes = augmentation.area, np.log(augmentation.shape)
    area = (height * width)[:, None] * (least + (most - least) * tries[:, :, 0])
    shape = np.exp(shapes[0] + (shapes[1] - shapes[0]) * tries[:, :, 1])
    columns = np.rint(np.sqrt(area * shape)).astype(np.int64)
    rows = np.rint(np.sqrt(area / shape)).astype(np.int64)
    fits = (columns > 0) & (columns <= width[:, None]) & (rows > 0) & (rows <= height[:, None])
    chosen = (np.arange(len(sizes)), fits.argmax(axis=1))
    rows, columns = rows[chosen], columns[chosen]
    # The last number below 1 times a large one can round to the large one.
    top = np.minimum((where[:, 0] * (height - rows + 1)).astype(np.int64), height - rows)
    left = np.minimum((where[:, 1] * (width - columns + 1)).astype(np.int64), width - columns)

    narrow, wide = augmentation.shape
    of_photograph = width / height
    central_rows = np.where(of_photograph < narrow, np.maximum(1, np.rint(width / narrow)), height).astype(np.int64)
    central_columns = np.where(of_photograph > wide, np.maximum(1, np.rint(height * wide)), width).astype(np.int64)
    central = [(height - central_rows) // 2, (width - central_columns) // 2, central_rows, central_columns]
    drawn = np.stack([top, left, rows, columns], axis=1)
    return np.where(fits.any(axis=1)[:, None], drawn, np.stack(central, axis=1))


def _sent(array: NDArray[np.int64], device: torch.device) -> Tensor:
    """An array on the device; the host does not wait for a GPU to have taken it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def resized(block: Tensor, resizing: Resizing, size: tuple[int, int]) -> Tensor:
    """Windows uint8 [B, H, W, 3], each in the upper left of its place, resized: whole grey levels, float32
    [B, *size, 3]."""
    count, rows, columns, channels = block.shape
    height, width = size
    told = np.concatenate([resizing.windows[:, 2:], resizing.sizes, resizing.corners, resizing.flips[:, None]], axis=1)
    lengths, sizes, corners, flips = torch.split_with_sizes(_sent(told, block.device), [2, 2, 2, 1], dim=1)
    unflipped = torch.zeros_like(flips)
    across = weights(lengths[:, 1:], sizes[:, 1:], corners[:, 1:], flips, width, columns)
    down = weights(lengths[:, :1], sizes[:, :1], corners[:, :1], unflipped, height, rows)
    # [B, H*3, W] x [B, W, width], then [B, height, H] x [B, H, 3*width].
    planes = block.permute(0, 1, 3, 2).to(torch.float32, memory_format=torch.contiguous_format)
    planes = planes.view(count, rows * channels, columns)
    # Sums of whole numbers, exact in 32-bit floats: the precision that a network is evaluated in is none of theirs.
    with torch.autocast(block.device.type, enabled=False):
        narrowed = _levels(*(torch.bmm(planes, part.transpose(1, 2)) for part in across)).view(count, rows, channels * width)
        made = _levels(*(torch.bmm(part, narrowed) for part in down)).view(count, height, channels, width)
    return made.permute(0, 1, 3, 2).contiguous()


def _levels(high: Tensor, low: Tensor) -> Tensor:
    """Whole grey levels of sums of pixels with weights, in the parts of :func:`weights`; halves round up."""
    return low.div_(_LOW).floor_().add_(high).add_(_ONE / _LOW / 2).div_(_ONE / _LOW).floor_()


def weights(length: Tensor, size: Tensor, first: Tensor, flip: Tensor, shown: int, padded: int) -> tuple[Tensor, Tensor]:
    """Weights of the pixels of a line in the pixels that it is resized to, in units of 2^-22: two tensors float32
    [B, shown, padded] of whole numbers, the weight being 2^11 times the first plus the second.

    All int64 [B, 1]: the line's ``length`` is resized to ``size`` pixels, of which ``shown`` from ``first`` on are kept,
    in reverse where ``flip`` is 1. Pixels from ``length`` to ``padded`` have weight 0.

    Pixel i of the new line has its centre at (i + 1/2) * length/size of the old one; weights fall off linearly from there,
    to 0 at a distance of one old pixel, or of length/size old pixels where the line is made shorter, and sum to 1. Source:
    ``precompute_coeffs`` and ``normalize_coeffs_8bpc`` of Pillow's ``Resample.c``.
    """
    device = length.device
    place = torch.arange(shown, device=device)
    # Twice a position is a whole number of half pixels, and twice a distance times ``size`` is whole too, so heights of the
    # triangle are exact. Their shares of 2^22 are no halves, nor near one, so rounding them is the same everywhere.
    new = length * (2 * (first + torch.where(flip == 1, shown - 1 - place, place)) + 1)  # [B, shown]
    place = torch.arange(padded, device=device)
    old = torch.where(place < length, size * (2 * place + 1), _FAR)  # [B, padded]
    reach = (2 * torch.maximum(length, size)).to(torch.float64)[:, :, None]
    made = old.to(torch.float64)[:, None] - new.to(torch.float64)[:, :, None]
    made = torch.sub(reach, made.abs_(), out=made).clamp_(min=0)
    made.mul_(_ONE / made.sum(dim=2, keepdim=True)).add_(0.5).floor_()
    high = made.div(_LOW).round_()
    low = made.sub_(high, alpha=_LOW)
    return high.to(torch.float32), low.to(torch.float32)


def _blocks(sizes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Places [<= B] of windows of ``sizes`` [B, 2] that are resized together: all, or from the largest on as many as fit
    into :data:`BLOCK` when padded to one size."""
    if len(sizes) * int(sizes[:, 0].max()) * int(sizes[:, 1].max()) <= BLOCK:
        yield np.arange(len(sizes))
        return
    order = np.argsort(-sizes.prod(axis=1), kind="stable")
    begin = 0
    while begin < len(order):
        end, rows, columns = begin, 0, 0
        while end < len(order):
            more_rows, more_columns = max(rows, int(sizes[order[end], 0])), max(columns, int(sizes[order[end], 1]))
            if end > begin and (end + 1 - begin) * more_rows * more_columns > BLOCK:
                break
            end, rows, columns = end + 1, more_rows, more_columns
        yield order[begin:end]
        begin = end
