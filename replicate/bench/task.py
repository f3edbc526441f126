"""What one measurement is about. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replicate.protocol import Network

BATCH, EVALUATION_BATCH, CLASSES, RADIUS = 128, 500, 10, 0.1
PADDING = 4  # of images of 32 pixels; of others the same share
WARM_UP = 3  # batches before the clock starts

#: What is measured, by name, and how the table calls it.
STEPS: Mapping[str, str] = {
    "ordinary": "ordinary step",
    "sam": "SAM step",
    "evaluation": "evaluation",
    "two": "two cells at once",
}
#: Channels and side of the images of networks that are not for 3 x 32 x 32.
SHAPES: Mapping[str, tuple[int, int]] = {
    **dict.fromkeys(("mlp3", "mlp4", "mlp5", "resblock1", "resblock2"), (1, 28)),
    **dict.fromkeys(("convnet3", "resnet_digits", "mlp3_digits"), (1, 8)),
    "resnet34": (3, 224),
}


@dataclass(frozen=True)
class Task:
    """One measurement: ``what`` is ``"plain"``, ``"engine"`` or ``"limits"``, ``step`` one of :data:`STEPS`; ``batches``: how
    many are timed. ``threads`` is about a CPU, ``loader_workers`` about the plain script."""

    what: str
    step: str
    network: str
    batches: int
    threads: int
    device: str
    loader_workers: int = 2

    @property
    def shape(self) -> tuple[int, int]:
        """Channels and side of an image."""
        return SHAPES.get(self.network, (3, 32))

    @property
    def description(self) -> Network:
        return Network(self.network, CLASSES, self.shape[0])

    @property
    def timed(self) -> int:
        """Images that are timed; in an evaluation about as many as are trained, in whole batches."""
        images = self.batches * BATCH
        return images if self.step != "evaluation" else -(-images // EVALUATION_BATCH) * EVALUATION_BATCH

    @property
    def padding(self) -> int:
        return max(1, PADDING * self.shape[1] // 32)

    def images(self, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Random images uint8 [N, channels, H, W] and their labels int64 [N], class by class: the work is that of real ones."""
        channels, side = self.shape
        labels = np.sort(np.arange(count) % CLASSES)
        return np.random.default_rng(0).integers(0, 256, (count, channels, side, side), dtype=np.uint8), labels

    def told(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)
