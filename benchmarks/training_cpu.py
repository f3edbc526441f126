"""Training speed on a CPU: replicate's loop against a plain script, side by side in one run.

    python benchmarks/training_cpu.py [--sam] [--pairs 5] [--batches 20] [--threads 2] [--data DIR]

The plain script is what such scripts are: a DataLoader with 2 workers, PIL crop and flip, default memory format, eager,
batch 128, ``loss.item()`` every step. Both train ResNet-32 on CIFAR-10-LT, ratio 100 (random images where no --data is
given: the work is the same), each measurement in a process of its own, in alternated pairs. Printed: images/s of every
pair, the median of the pairs' ratios, evaluation likewise, and peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH, RADIUS = 128, 0.1


def arrays(data: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Training images uint8 [N, 3, 32, 32] and labels [N] of CIFAR-10-LT at ratio 100."""
    from papers.unified_bound import PAPER
    from replicate.data.longtail import split
    from replicate.data.sources import load

    describe = next(column.data for column in PAPER.columns if column.name == "cifar10-lt/100")
    if data is not None:
        part = split(load("cifar10", data), describe)
        return part.train_images, part.train_labels
    labels = np.repeat(np.arange(10), describe.class_counts())
    return np.random.default_rng(0).integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8), labels


def plain(images: np.ndarray, labels: np.ndarray, batches: int, sam: bool) -> dict[str, float]:
    """The plain script; images/s of training and of evaluation."""
    import torch
    from PIL import Image, ImageOps
    from torch.nn import functional

    from replicate.models import build
    from replicate.protocol import Network

    mean = torch.tensor([0.4914, 0.4822, 0.4465])[:, None, None]
    std = torch.tensor([0.2023, 0.1994, 0.2010])[:, None, None]

    def to_tensor(picture: Image.Image) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(picture).transpose(2, 0, 1).copy()).float().div(255)
        return (pixels - mean) / std

    class Train(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(labels)

        def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
            picture = ImageOps.expand(Image.fromarray(images[place].transpose(1, 2, 0)), 4)
            top, left = torch.randint(9, (2,)).tolist()
            picture = picture.crop((left, top, left + 32, top + 32))
            if torch.rand(1) < 0.5:
                picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            return to_tensor(picture), int(labels[place])

    model = build(Network("resnet32", 10, 3), "linear", torch.Generator().manual_seed(0))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    loader = torch.utils.data.DataLoader(Train(), BATCH, shuffle=True, num_workers=2)
    model.train()
    began = 0.0
    for number, (inputs, target) in enumerate(loader):
        if number == 3:
            began = time.perf_counter()
        if number == batches + 3:
            break
        optimiser.zero_grad()
        loss = functional.cross_entropy(model(inputs), target)
        loss.backward()
        if sam:
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            kept = [p.detach().clone() for p in model.parameters()]
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(p.grad * (RADIUS / (norm + 1e-12)))
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(inputs), target)
            loss.backward()
            with torch.no_grad():
                for p, old in zip(model.parameters(), kept, strict=True):
                    p.copy_(old)
        optimiser.step()
        loss.item()
    seconds = time.perf_counter() - began
    model.eval()
    inputs = torch.stack([to_tensor(Image.fromarray(image.transpose(1, 2, 0))) for image in images[:500]])
    with torch.no_grad():
        model(inputs)
        began = time.perf_counter()
        for _ in range(4):
            model(inputs).argmax(1).tolist()
    return {"train": batches * BATCH / seconds, "evaluate": 2000 / (time.perf_counter() - began)}


def ours(images: np.ndarray, labels: np.ndarray, batches: int, sam: bool) -> dict[str, float]:
    """The engine's loop over the same number of batches, and its evaluation."""
    import torch

    from papers.unified_bound import PAPER
    from replicate import losses
    from replicate.data.augment import Feeder
    from replicate.engine import loop, numerics
    from replicate.engine.keyed import generator
    from replicate.grid import cells

    numerics.reuse_memory()
    column = next(c for c in PAPER.columns if c.name == "cifar10-lt/100")
    programme = cells(PAPER, "table", columns=[column], methods=["CE"])[0].programme
    row = programme.epoch(6)
    state = loop.start(programme, 0, torch.device("cpu"))
    for group in state.optimiser.param_groups:
        group["lr"], group["momentum"], group["weight_decay"] = row.rate, row.momentum, row.weight_decay
    feeder = Feeder(torch.from_numpy(images), column.data.mean, column.data.std, row.feed.augmentation)
    order = torch.randperm(len(labels), generator=generator(0, "order", 1))
    draws = feeder.draw(order, generator(0, "augmentation", 1))
    target = torch.from_numpy(labels)[order]
    loss_of = losses.criterion(row.objective, column.data.class_counts())
    state.model.train()
    began = 0.0
    for number in range(batches + 3):
        if number == 3:
            began = time.perf_counter()
        first = number * BATCH
        part = slice(first, first + BATCH)
        loop.step(state, feeder.batch(draws, first, first + BATCH), target[part], loss_of, RADIUS if sam else None)
    seconds = time.perf_counter() - began
    state.model.eval()
    with torch.inference_mode():
        state.model(feeder.plain(0, 500))
        began = time.perf_counter()
        for part_number in range(4):
            first = part_number * 500
            state.model(feeder.plain(first, first + 500)).argmax(1).tolist()
    return {"train": batches * BATCH / seconds, "evaluate": 2000 / (time.perf_counter() - began)}


def measure(which: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [
        sys.executable,
        __file__,
        "--one",
        which,
        "--batches",
        str(arguments.batches),
        "--threads",
        str(arguments.threads),
    ]
    command += ["--sam"] if arguments.sam else []
    command += ["--data", str(arguments.data)] if arguments.data else []
    # As the command line sets it; the plain script runs with the framework's defaults.
    environment = {**os.environ, **({"GOMP_SPINCOUNT": "4000"} if which == "ours" else {})}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    told: dict[str, float] = json.loads(shown.splitlines()[-1])
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sam", action="store_true")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--one", choices=("plain", "ours"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import torch

        torch.set_num_threads(arguments.threads)
        images, labels = arrays(arguments.data)
        told = (plain if arguments.one == "plain" else ours)(images, labels, arguments.batches, arguments.sam)
        told["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(told))
        return
    ratios: dict[str, list[float]] = {"train": [], "evaluate": []}
    for pair in range(arguments.pairs):
        # Alternated order: a machine that slows down over time favours neither.
        order = ("plain", "ours") if pair % 2 == 0 else ("ours", "plain")
        told = {which: measure(which, arguments) for which in order}
        for name, found in ratios.items():
            found.append(told["ours"][name] / told["plain"][name])
        print(
            f"pair {pair + 1}: train "
            f"{told['plain']['train']:.0f} -> {told['ours']['train']:.0f} images/s ({ratios['train'][-1]:.2f}x), "
            f"evaluate {told['plain']['evaluate']:.0f} -> {told['ours']['evaluate']:.0f} ({ratios['evaluate'][-1]:.2f}x), "
            f"peak memory {told['plain']['peak_mib']:.0f} -> {told['ours']['peak_mib']:.0f} MiB",
            flush=True,
        )
    step = "SAM" if arguments.sam else "ordinary"
    print(
        f"median of {arguments.pairs} pairs, {step} steps, {arguments.threads} threads: "
        f"train {statistics.median(ratios['train']):.2f}x, evaluate {statistics.median(ratios['evaluate']):.2f}x"
    )


if __name__ == "__main__":
    main()
