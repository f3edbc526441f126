"""The engine's own epoch and evaluation, from uint8 images to counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from replicate.bench.task import BATCH, CLASSES, RADIUS, WARM_UP, Task
from replicate.data.longtail import Split
from replicate.engine import loop, numerics
from replicate.grid import Epoch, Programme, Start
from replicate.protocol import CropFlip, CrossEntropy, Feed, LongTailed, Objective


def measured(task: Task, ready: Callable[[], None]) -> float:
    """Seconds of ``task.timed`` images; ``ready`` is called when the clock is about to start."""
    numerics.reuse_memory()
    device = torch.device(task.device)
    numerics.enter(replace(numerics.mode(task.description, device), threads=task.threads))
    evaluating = task.step == "evaluation"
    programme = programme_of(task)
    sizes = (WARM_UP * BATCH, task.timed) if evaluating else (task.timed, CLASSES)
    data = loop.DeviceData(split(task, *sizes), programme, device)
    state = loop.start(programme, 0, device)

    def epoch() -> None:
        if evaluating:
            loop.evaluate(state.model, data.test, CLASSES, loop.graphs_of(state, device))
        else:
            loop.train_epoch(state, programme.epoch(state.epoch + 1), data, 0)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    epoch()
    ready()
    began = time.perf_counter()
    epoch()
    return time.perf_counter() - began


def programme_of(task: Task) -> Programme:
    """Two epochs, the first of them short."""
    mean, std = (0.5,) * task.shape[0], (0.25,) * task.shape[0]
    start = Start(LongTailed("cifar10", "exponential", 1.0, mean, std, 5000), task.description, "linear")
    feed = Feed(BATCH, CropFlip(task.padding))
    row = Epoch(Objective(CrossEntropy()), 0.1, 0.9, 2e-4, feed, RADIUS if task.step == "sam" else None)
    return Programme(start, ((1, replace(row, batches=WARM_UP)), (1, row)))


def split(task: Task, train: int, test: int) -> Split:
    """So many training and test images."""
    images, labels = task.images(train)
    shown, truth = task.images(test)
    counts = tuple(np.bincount(labels, minlength=CLASSES).tolist())
    return Split(images, labels, counts, None, None, shown, truth, (np.arange(test) % 2).astype(np.int8), "random")
