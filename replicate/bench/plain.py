"""The script that people write: a DataLoader with workers, PIL crop and flip, default memory format, ``loss.item()`` a step."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from replicate.bench.task import BATCH, EVALUATION_BATCH, RADIUS, WARM_UP, Task
from replicate.models import build


class Augmented(Dataset[Any]):
    """Training images, cropped and flipped by PIL, one at a time."""

    def __init__(self, task: Task, count: int) -> None:
        self.images, self.labels = task.images(count)
        self.side, self.padding = task.shape[1], task.padding

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, place: int) -> Image.Image:
        image = self.images[place]
        return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        picture = ImageOps.expand(self.picture(place), self.padding)
        top, left = torch.randint(2 * self.padding + 1, (2,)).tolist()
        picture = picture.crop((left, top, left + self.side, top + self.side))
        if torch.rand(1) < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return to_tensor(picture), int(self.labels[place])


def to_tensor(picture: Image.Image) -> Tensor:
    """Normalised: float32 [channels, H, W]."""
    pixels = np.array(picture)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return (torch.from_numpy(pixels.copy()).float().div(255) - 0.5) / 0.25


def measured(task: Task, ready: Callable[[], None]) -> float:
    """Seconds of ``task.timed`` images; ``ready`` is called when the clock is about to start."""
    device = torch.device(task.device)
    model = build(task.description, "linear", torch.Generator().manual_seed(0)).to(device)
    return (evaluated if task.step == "evaluation" else trained)(task, model, device, ready)


def trained(task: Task, model: nn.Module, device: torch.device, ready: Callable[[], None]) -> float:
    """See :func:`measured`."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    images = Augmented(task, BATCH * (task.batches + WARM_UP))
    loader = DataLoader(images, BATCH, shuffle=True, num_workers=task.loader_workers)
    parameters = list(model.parameters())
    model.train()
    began = 0.0
    for number, (inputs, target) in enumerate(loader):
        if number == WARM_UP:
            ready()
            began = time.perf_counter()
        inputs, target = inputs.to(device), target.to(device)
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(inputs), target)
        loss.backward()  # type: ignore[no-untyped-call]
        if task.step == "sam":
            norm = torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm()
            kept = [p.detach().clone() for p in parameters]
            with torch.no_grad():
                for p in parameters:
                    if p.grad is not None:
                        p.add_(p.grad * (RADIUS / (norm + 1e-12)))
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(inputs), target)
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for p, old in zip(parameters, kept, strict=True):
                    p.copy_(old)
        optimiser.step()
        loss.item()
    return time.perf_counter() - began


def evaluated(task: Task, model: nn.Module, device: torch.device, ready: Callable[[], None]) -> float:
    """See :func:`measured`; batches are at hand as floats, so that no loader is in the way."""
    images = Augmented(task, EVALUATION_BATCH)
    batch = torch.stack([to_tensor(images.picture(place)) for place in range(EVALUATION_BATCH)])
    model.eval()
    began = 0.0
    with torch.no_grad():
        for number in range(task.timed // EVALUATION_BATCH + 1):
            if number == 1:
                ready()
                began = time.perf_counter()
            model(batch.to(device)).argmax(1).tolist()
    return time.perf_counter() - began
