"""Classifiers on a frozen backbone, side by side against one after the other, on a CPU, in one run.

    python benchmarks/heads_cpu.py [--pairs 5] [--threads 2] [--case digits|fixed|cifar]

An epoch of the second stages of Table 1 of the lort paper that have the plain sampler, evaluation included: all of them in one
pack; the same ones each in a pack of its own; and, of a few of them, each by the ordinary loop, as a plain script does it.
Cases: ``digits`` (36 classifiers on augmented digits), ``fixed`` (the same without augmentation, where features are computed
once and the backbone costs nothing), ``cifar`` (ResNet-34 on random images of CIFAR's size: 4 batches an epoch, 100 test images
and their mirror images, 375 classifiers, 5 of them measured alone). Every pack's features are at hand before the clock starts.
Printed: seconds of every measurement and the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from papers.lort import CIFAR_COLUMNS, DIGITS_LT, FIXED, PAPER
from replicate import grid
from replicate.data.longtail import Split, split
from replicate.data.sources import load
from replicate.engine import heads, loop, numerics
from replicate.protocol import Feed

CPU = torch.device("cpu")


def cells_of(case: str) -> list[grid.Cell]:
    """The second stages with the plain sampler, two epochs each after one of stage 1."""
    column = CIFAR_COLUMNS[0] if case == "cifar" else DIGITS_LT
    values = {**column.values, "epochs": 1, "second": 2}
    if case == "fixed":
        values["second_feed"] = Feed(32, None, FIXED["second_feed"].sampler)
    column = replace(column, values=values, data=replace(column.data, test=1) if case == "cifar" else column.data)
    made = replace(PAPER.grids["table"], columns=(column,))
    every = grid.cells(replace(PAPER, grids={"table": made}), "table")
    found = [cell for cell in every if cell.programme.frozen_from and cell.programme.epoch(2).feed.sampler is None]
    if case == "cifar":
        found = [replace(cell, programme=shortened(cell.programme)) for cell in found]
    return found


def shortened(programme: grid.Programme) -> grid.Programme:
    """Four batches an epoch."""
    return replace(programme, runs=tuple((count, replace(row, batches=4)) for count, row in programme.runs))


def data_of(cell: grid.Cell, case: str) -> loop.DeviceData:
    if case != "cifar":
        return loop.DeviceData(split(load("digits", None), cell.column.data), cell.programme, CPU)
    draw, counts = np.random.default_rng(0), cell.column.data.class_counts()
    labels, tests = np.repeat(np.arange(100), counts), np.arange(100)

    def images(count: int) -> np.ndarray:
        return draw.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)

    half = (tests % 2).astype(np.int8)
    part = Split(images(len(labels)), labels, counts, None, None, images(100), tests, half, "random")
    return loop.DeviceData(part, cell.programme, CPU)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(case: str, pairs: int) -> None:
    cells = cells_of(case)
    data = data_of(cells[0], case)
    numerics.enter(replace(numerics.mode(cells[0].programme.start.network, CPU), threads=torch.get_num_threads()))
    begun = loop.start(cells[0].programme, 0, CPU)
    loop.train_epoch(begun, cells[0].programme.epoch(1), data, 0)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "begun.pt"
        begun.save(checkpoint)
        features = heads.Features("", begun, data)
        if case == "fixed":
            _ = features.plain

        def packs(some: Sequence[grid.Cell], size: int) -> list[heads.Pack]:
            made = [heads.Pack(some[first : first + size], features) for first in range(0, len(some), size)]
            for pack in made:
                pack.train_epoch()  # the first epoch makes the momentum
            return made

        def by_the_loop(cell: grid.Cell) -> float:
            state = loop.start(cell.programme, 0, CPU)
            assert state.restore(checkpoint)
            loop.train_epoch(state, cell.programme.epoch(2), data, 0)
            return seconds(lambda: loop.train_epoch(state, cell.programme.epoch(3), data, 0))

        few = cells[:: max(1, len(cells) // 5)][:5] if case == "cifar" else cells
        scale = len(cells) / len(few)
        ratios: dict[str, list[float]] = {"packs of one": [], "the loop": []}
        for number in range(pairs):
            told: dict[str, float] = {}

            def together(told: dict[str, float] = told) -> None:
                (pack,) = packs(cells, len(cells))
                told["one pack"] = seconds(pack.train_epoch)

            def apart(told: dict[str, float] = told) -> None:
                told["packs of one"] = scale * sum(seconds(pack.train_epoch) for pack in packs(few, 1))
                told["the loop"] = scale * sum(map(by_the_loop, few))

            # Alternated order: a machine that slows down over time favours neither.
            for work in (together, apart) if number % 2 == 0 else (apart, together):
                work()
            for name, found in ratios.items():
                found.append(told[name] / told["one pack"])
            print(
                f"{case}, pair {number + 1}: " + ", ".join(f"{name} {value:.3f} s" for name, value in told.items()), flush=True
            )
    medians = ", ".join(f"{statistics.median(found):.1f}x {name}" for name, found in ratios.items())
    print(f"{case}: {len(cells)} classifiers side by side, {torch.get_num_threads()} threads, median of {pairs}: {medians}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", choices=("digits", "fixed", "cifar"), action="append")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    numerics.reuse_memory()
    for case in arguments.case or ("digits", "fixed", "cifar"):
        measure(case, arguments.pairs)


if __name__ == "__main__":
    main()
