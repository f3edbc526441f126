"""How time and memory grow with cells, classes, images and image size, on a CPU.

    python benchmarks/scaling.py [--out FOLDER] [--only NAME ...] [--smoke]

Each point is measured in a process of its own: seconds of its processor (the least of five, on one thread), and how far memory
rises above what the input takes. Written: ``scaling.csv``, a row a point, and ``scaling.png`` and ``.svg``. Printed: for every
quantity the exponent of time and of memory over the larger half of the sizes, from a straight line through their logarithms.
Nothing should grow faster than its work: an exponent above 1.1 is marked. Where the largest point takes under a hundredth of a
second or 8 MiB there is none; once an input has left the processor's caches, exponents are up to 0.2 too large.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from papers.unified_bound import PAPER
from replicate import grid, losses
from replicate.data import longtail
from replicate.data.augment import Feeder
from replicate.data.sources import Images
from replicate.engine import loop
from replicate.engine.cell import record_of
from replicate.engine.numerics import Numerics
from replicate.engine.state import History, balanced
from replicate.launch.memory import of_process
from replicate.models import build
from replicate.models.heads import CosineHead
from replicate.protocol import (
    CLASS_BALANCED,
    LDAM,
    CropFlip,
    EffectiveNumber,
    Feed,
    LogitsRetargeting,
    LongTailed,
    Network,
    Objective,
    Source,
    VectorScaling,
)
from replicate.record import Store, _json
from replicate.report import tables

CPU, EDITION, BATCH, FEATURES = torch.device("cpu"), "official", 128, 64
MOST_CLASSES, MOST_IMAGES = 8142, 437_513  # of iNaturalist 2018
LIMIT, LEAST_SECONDS, LEAST_BYTES = 1.1, 0.01, 8 << 20
DIGITS = next(column for column in PAPER.grids["table"].columns if column.data.source == "digits")

METHODS = ["CE", "CE+DRW", "CE+ADRW", "CE+DRW+SAM"]

Work = Callable[[], Any]


@dataclass(frozen=True)
class Quantity:
    """Something whose cost grows with ``unit``: ``ready`` makes, for a size, what is measured."""

    name: str
    unit: str
    sizes: tuple[int, ...]
    ready: Callable[[int], Work]


# --- cells -----------------------------------------------------------------------------------------------------------


def cells_of(count: int) -> list[grid.Cell]:
    """So many cells on digits: a few of the table's, under as many seeds as it takes."""
    alone = len(grid.cells(PAPER, "table", columns=[DIGITS], methods=METHODS))
    return grid.cells(PAPER, "table", columns=[DIGITS], methods=METHODS, seeds=range(-(-count // alone)))[:count]


def planning(count: int) -> Work:
    return lambda: grid.cost(cells_of(count))


def filled(count: int) -> tuple[Store, list[grid.Cell]]:
    """A store that has a Record of every cell."""
    store, cells = Store(Path(tempfile.mkdtemp(dir=FOLDER))), cells_of(count)
    made: dict[str, Any] = {}
    for cell in cells:
        key = cell.programme.key(EDITION)
        if key not in made:
            made[key] = a_record(cell, 10, cell.programme.length)
        store.write(replace(made[key], key=grid.cell_key(key, cell.seed), seed=cell.seed))
    return store, cells


def reading(count: int) -> Work:
    store, cells = filled(count)
    return lambda: store.epochs_left(cells, {"digits": EDITION})


def reporting(count: int) -> Work:
    store, _ = filled(count)
    table = next(table for table in PAPER.tables if DIGITS in table.stand_ins)
    how: dict[str, Any] = {"selection": "as-published", "edition_of": {"digits": EDITION}, "columns": [DIGITS]}
    return lambda: tables.replicas(store, PAPER, table, methods=METHODS, **how)


def writing(count: int) -> Work:
    record, root = a_record(cells_of(1)[0], 10, 60), Path(tempfile.mkdtemp(dir=FOLDER))

    def write() -> None:
        store = Store(root)
        for seed in range(count):
            store.write(replace(record, key=grid.cell_key(record.programme_key, seed), seed=seed))

    return write


# --- classes ---------------------------------------------------------------------------------------------------------


def counts_of(classes: int) -> list[int]:
    """A long tail from 1000 to 10 images."""
    return [round(1000 * 0.01 ** (c / (classes - 1))) for c in range(classes)]


def loss(objective: Objective) -> Callable[[int], Work]:
    """Made for every epoch, and 20 steps, backward passes included."""

    def ready(classes: int) -> Work:
        draw = torch.Generator().manual_seed(0)
        logits = torch.randn(BATCH, classes, generator=draw, requires_grad=True)
        features, labels = torch.randn(BATCH, FEATURES, generator=draw), torch.randint(classes, (BATCH,), generator=draw)

        def steps() -> None:
            loss_of = losses.criterion(objective, counts_of(classes))
            for _ in range(20):
                logits.grad = None
                loss_of(logits, labels, features).backward()  # type: ignore[no-untyped-call]

        return steps

    return ready


def head(kind: Callable[[int, int], torch.nn.Module]) -> Callable[[int], Work]:
    def ready(classes: int) -> Work:
        layer, features = kind(FEATURES, classes), torch.randn(BATCH, FEATURES)
        if isinstance(layer, CosineHead):
            layer.draw(torch.Generator().manual_seed(0))
        return lambda: [layer(features).sum().backward() for _ in range(20)]

    return ready


def counting(classes: int) -> Work:
    labels = torch.arange(100_000) % classes
    examples = loop.Examples(None, labels, (labels % 2).to(torch.int64))  # type: ignore[arg-type]
    hits = torch.arange(100_000) % 3 == 0
    return lambda: loop.correct_counts(hits, examples, classes)


def ranking(classes: int) -> Work:
    sizes = [30 + c % 29 for c in range(classes)]
    return lambda: balanced([size // 2 for size in sizes], sizes)


def a_record(cell: grid.Cell, classes: int, epochs: int) -> Any:
    """Of a cell that was trained for so many epochs on so many classes."""
    labels = torch.arange(6 * classes) // 6
    test = mock.Mock(labels=labels, half=torch.arange(6 * classes) % 2)
    counts = counts_of(classes)
    data = mock.Mock(test=test, classes=classes, counts=counts, train_labels=torch.arange(classes).repeat(2), validation=None,
                     device=CPU, split=mock.Mock(fingerprint="random"))  # fmt: skip
    draw = np.random.default_rng(0)
    history = History(loss=[1.0] * epochs, rate=[0.1] * epochs, seconds=[1.0] * epochs)
    for _ in range(epochs):
        history.train.append(torch.from_numpy(draw.integers(0, 3, classes)))
        history.test.append(torch.from_numpy(draw.integers(0, 4, (2, classes))))
    return record_of(cell, data, EDITION, Numerics("cpu"), history, None)


def recording(classes: int) -> Work:
    cell = cells_of(1)[0]
    return lambda: _json(asdict(a_record(cell, classes, 20)))


def split_of(classes: int, images: int) -> Work:
    """The long-tailed subset of so many images, drawn; each of 8 x 8 pixels."""
    labels = np.arange(images) % classes
    none = np.zeros((classes, 1, 8, 8), dtype=np.uint8)
    read = Images("digits", np.zeros((images, 1, 8, 8), np.uint8), labels, none, np.arange(classes), EDITION, "")
    largest = images // classes
    data = LongTailed("digits", "exponential", float(max(2, largest)), (0.5,), (0.5,), largest)
    source = Source("many", classes, largest, 1, 1, 8)

    def draw() -> None:
        with mock.patch.dict(longtail.SOURCES, {"digits": source}):  # type: ignore[arg-type]
            longtail.split(read, replace(data))

    return draw


# --- images, and their size ------------------------------------------------------------------------------------------


def order(sampler: str | None) -> Callable[[int], Work]:
    def ready(images: int) -> Work:
        row = replace(cells_of(1)[0].programme.epoch(1), feed=Feed(BATCH, None, sampler), batches=None)
        labels = torch.arange(images) % MOST_CLASSES
        return lambda: loop.shown(row, labels, 0, 1)

    return ready


def augmenting(images: int) -> Work:
    feeder = Feeder(torch.zeros(images, 1, 8, 8, dtype=torch.uint8), (0.5,), (0.5,), CropFlip(1))
    shown = torch.randperm(images)

    def epoch() -> None:
        draws = feeder.draw(shown, torch.Generator().manual_seed(0))
        for first in range(0, images, BATCH):
            feeder.batch(draws, first, min(first + BATCH, images))

    return epoch


def step(backbone: str) -> Callable[[int], Work]:
    def ready(side: int) -> Work:
        model = build(Network(backbone, 10, 3), "linear", torch.Generator().manual_seed(0))
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.randn(16, 3, side, side).contiguous(memory_format=torch.channels_last)
        return lambda: model(images).square().mean().backward()

    return ready


def sizes(first: int, last: int, points: int = 6) -> tuple[int, ...]:
    """Evenly spaced by their logarithms."""
    return tuple(round(first * (last / first) ** (k / (points - 1))) for k in range(points))


CLASSES = sizes(10, MOST_CLASSES)
QUANTITIES = (
    Quantity("plan", "cells", sizes(40, 20_000, 9), planning),
    Quantity("write Records", "cells", sizes(10, 500), writing),
    Quantity("what is left, from Records", "cells", sizes(10, 2_000), reading),
    Quantity("table, from Records", "cells", sizes(10, 2_000), reporting),
    Quantity("vector-scaling loss", "classes", CLASSES, loss(Objective(VectorScaling(0.1, 1.0)))),
    Quantity("LDAM loss, weighted", "classes", CLASSES, loss(Objective(LDAM(0.5, 30.0), EffectiveNumber(0.999)))),
    Quantity("logits retargeting", "classes", CLASSES, loss(Objective(LogitsRetargeting(0.9)))),
    Quantity("linear head", "classes", CLASSES, head(torch.nn.Linear)),
    Quantity("cosine head", "classes", CLASSES, head(CosineHead)),
    Quantity("counts of an evaluation", "classes", CLASSES, counting),
    Quantity("ranking an epoch", "classes", CLASSES, ranking),
    Quantity("Record", "classes", CLASSES, recording),
    Quantity("split of 100,000 images", "classes", CLASSES, lambda classes: split_of(classes, 100_000)),
    Quantity("split into 8,142 classes", "images", sizes(20_000, MOST_IMAGES), lambda images: split_of(MOST_CLASSES, images)),
    Quantity("order of an epoch", "images", sizes(1000, MOST_IMAGES), order(None)),
    Quantity("class-balanced order", "images", sizes(20_000, MOST_IMAGES), order(CLASS_BALANCED)),
    Quantity("augmentation", "images", sizes(1000, MOST_IMAGES), augmenting),
    Quantity("step of ResNet-32", "pixels", tuple(side * side for side in (16, 24, 32, 48, 64, 96)),
             lambda pixels: step("resnet32")(math.isqrt(pixels))),
)  # fmt: skip


# --- measuring -------------------------------------------------------------------------------------------------------

FOLDER: str | None = None


def measure(quantity: Quantity, size: int) -> dict[str, float]:
    """Seconds and bytes of one point, in a process of its own. Raises ``RuntimeError`` where it fails."""
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_measure, args=(quantity, size, there))
    process.start()
    there.close()
    try:
        told: dict[str, float] = here.recv()
    except EOFError:
        raise RuntimeError(f"{quantity.name} with {size} {quantity.unit} failed") from None
    finally:
        process.join()
    return told


def _measure(quantity: Quantity, size: int, there: Any) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        globals()["FOLDER"] = folder
        work = quantity.ready(size)
        before = of_process("VmRSS")
        with contextlib.suppress(OSError):  # from here on the peak counts
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        seconds = []
        while len(seconds) < 5 and sum(seconds) < 2:
            began = time.process_time()
            work()
            seconds.append(time.process_time() - began)
        there.send({"seconds": min(seconds), "bytes": max(0, of_process("VmHWM") - before)})


def exponent(points: Sequence[tuple[float, float]]) -> float | None:
    """Slope of a straight line through the logarithms of the larger half; None where one is 0."""
    half = points[len(points) // 2 :] if len(points) > 3 else points
    if any(value <= 0 for _, value in half):
        return None
    x, y = (np.log([point[k] for point in half]) for k in (0, 1))
    return float(np.polyfit(x, y, 1)[0])


def exponents(rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Of time and of memory, where the largest is enough to tell."""
    return [
        exponent([(row["size"], row[name]) for row in rows]) if rows[-1][name] >= least else None
        for name, least in (("seconds", LEAST_SECONDS), ("bytes", LEAST_BYTES))
    ]


def measured(quantities: Sequence[Quantity]) -> Iterator[tuple[Quantity, list[dict[str, Any]]]]:
    for quantity in quantities:
        yield quantity, [{"size": size, **measure(quantity, size)} for size in quantity.sizes]


def draw(found: Sequence[tuple[Quantity, list[dict[str, Any]]]], folder: Path) -> None:
    """Seconds and MiB over size, a column a unit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    units = list(dict.fromkeys(quantity.unit for quantity, _ in found))
    figure, axes = pyplot.subplots(2, len(units), figsize=(4.5 * len(units), 8), squeeze=False, layout="constrained")
    for place, unit in enumerate(units):
        for row, (name, scale, label) in enumerate((("seconds", 1, "seconds"), ("bytes", 2**20, "MiB"))):
            panel = axes[row][place]
            for quantity, rows in found:
                if quantity.unit == unit:
                    panel.plot([r["size"] for r in rows], [max(r[name] / scale, 1e-6) for r in rows], "o-", label=quantity.name)
            panel.set(xscale="log", yscale="log", xlabel=unit, ylabel=label)
            panel.grid(alpha=0.3)
        axes[0][place].legend(fontsize=7)
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"scaling.{suffix}", dpi=120)
    pyplot.close(figure)


def smoke(quantity: Quantity) -> Quantity:
    """The same at its two smallest sizes."""
    return replace(quantity, sizes=quantity.sizes[:2])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/scaling"))
    parser.add_argument("--only", action="append", choices=[quantity.name for quantity in QUANTITIES], metavar="NAME")
    parser.add_argument("--smoke", action="store_true", help="Every quantity at its two smallest sizes.")
    asked = parser.parse_args(arguments)
    chosen = [quantity for quantity in QUANTITIES if not asked.only or quantity.name in asked.only]
    asked.out.mkdir(parents=True, exist_ok=True)
    found = []
    with open(asked.out / "scaling.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["quantity", "unit", "size", "seconds", "bytes"])
        for quantity, rows in measured([smoke(quantity) for quantity in chosen] if asked.smoke else chosen):
            found.append((quantity, rows))
            writer.writerows([quantity.name, quantity.unit, row["size"], row["seconds"], row["bytes"]] for row in rows)
            told = ["-" if value is None else f"{value:.2f}{' !' if value > LIMIT else ''}" for value in exponents(rows)]
            last = rows[-1]
            print(
                f"{quantity.name}: exponent of time {told[0]}, of memory {told[1]}; {last['seconds']:.3g} s and "
                f"{last['bytes'] / 2**20:,.0f} MiB for {last['size']:,} {quantity.unit}",
                flush=True,
            )
    draw(found, asked.out)


if __name__ == "__main__":
    main()
