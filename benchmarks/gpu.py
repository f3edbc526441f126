"""Everything that is wanted of a GPU, measured in one run of some minutes.

    python benchmarks/gpu.py [--data DIR] [--out FOLDER] [--device cuda] [--epochs 15] [--smoke]

ResNet-32 on CIFAR-10-LT at ratio 100, batch 128 (random images where no --data is given: the work is the same). Measured: the
engine against a plain script with 2 and with 16 loader workers, captured steps against launched ones, cells side by side,
evaluation, precisions, SAM, ResNet-34; checked: that captured, resumed and side by side are equal bit for bit to launched and
alone, and that from 20 states on a trajectory one step is as exact as a plain one. Written: ``gpu.json`` and ``gpu.md``.

A part that fails is told as failed and the others go on. ``--smoke`` runs every part at a tiny size, on a CPU too.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from papers.unified_bound import PAPER
from replicate import losses
from replicate.bench.compare import measure
from replicate.bench.task import BATCH, Task
from replicate.data.longtail import Split, split
from replicate.data.sources import load
from replicate.engine import captured, loop, numerics
from replicate.engine.state import State
from replicate.errors import BadInput
from replicate.grid import PRECISIONS, Programme, cells
from replicate.protocol import Column

Told = dict[str, Any]


class Bench:
    """The cell that is measured, its data, and how much of it."""

    def __init__(self, device: torch.device, folder: Path | None, epochs: int, smoke: bool) -> None:
        self.device, self.smoke, self.epochs = device, smoke, 1 if smoke else epochs
        self.column: Column = next(c for c in PAPER.columns if (c.stand_in if smoke else c.name == "cifar10-lt/100"))
        self.real = smoke or folder is not None
        self.timed = 1 if smoke else 5  # epochs
        programme = self.programme("CE")
        part = split(load(self.column.data.source, folder), self.column.data) if self.real else self.random()
        numerics.enter(numerics.mode(programme.start.network, device))
        self.data = loop.DeviceData(part, programme, device)
        # Here a CPU stands in for a GPU: its steps are recorded, though nothing is captured.
        captured.KINDS.add(device.type)

    def random(self) -> Split:
        """Random images in the numbers of the data set."""
        counts, draw = self.column.data.class_counts(), np.random.default_rng(0)
        labels, truth = np.repeat(np.arange(len(counts)), counts), np.repeat(np.arange(len(counts)), 10_000 // len(counts))
        images = [draw.integers(0, 256, (len(of), 3, 32, 32), dtype=np.uint8) for of in (labels, truth)]
        half = (np.arange(len(truth)) % 2).astype(np.int8)
        return Split(images[0], labels, tuple(counts), None, None, images[1], truth, half, "random")

    def programme(self, method: str, precision: str | None = None) -> Programme:
        """The first grid point of a method."""
        return cells(PAPER, "table", columns=[self.column], methods=[method], precision=precision)[0].programme

    def wait(self) -> None:
        """Until the device has done what it was asked to."""
        if self.device.type == "cuda":
            with captured.LOCK:
                torch.cuda.synchronize(self.device)

    def train(self, programme: Programme, numbers: list[int], seed: int = 0, state: State | None = None) -> State:
        """Train these epochs of a programme, in this order."""
        state = state or loop.start(programme, seed, self.device)
        for number in numbers:
            loop.train_epoch(state, programme.epoch(number), self.data, seed)
        return state

    def seconds(self, programme: Programme) -> float:
        """Of an epoch with its evaluation, after one that does not count: the median."""
        found, state = [], self.train(programme, [6])
        for _ in range(self.timed):
            self.wait()
            began = time.perf_counter()
            self.train(programme, [6], state=state)
            self.wait()
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    @contextlib.contextmanager
    def launched(self) -> Iterator[None]:
        """Steps are launched one by one."""
        kinds = set(captured.KINDS)
        captured.KINDS.clear()
        try:
            yield
        finally:
            captured.KINDS.update(kinds)


# --- speed ------------------------------------------------------------------------------------------------------------


def against_scripts(bench: Bench) -> Told:
    """Images a second of the engine and of the plain script, each in a process of its own, in alternated order."""
    networks = ("convnet3",) if bench.smoke else ("resnet32", "resnet34_3x3")
    many = (0,) if bench.smoke else (2, 16)
    told: Told = {}
    for network in networks:
        for step in ("ordinary", "sam"):
            workers = many if (network, step) == (networks[0], "ordinary") else many[-1:]
            pairs = 1 if bench.smoke else 3 if len(workers) > 1 else 1
            task = Task("engine", step, network, 2 if bench.smoke else 97, 1 if bench.smoke else 2, str(bench.device))
            tasks = {"engine": task}
            tasks |= {f"{n} workers": replace(task, what="plain", loader_workers=n) for n in workers}
            speeds: dict[str, list[float]] = {name: [] for name in tasks}
            try:
                for pair in range(pairs):
                    for name in list(tasks)[:: 1 if pair % 2 == 0 else -1]:
                        (found,) = measure(tasks[name])
                        speeds[name].append(task.batches * BATCH / found["seconds"])
            except Exception as error:  # a network that cannot be measured leaves the others
                told[f"{network}, {step}"] = {"failed": f"{type(error).__name__}: {error}"}
                continue
            ratios = {
                name: statistics.median(ours / theirs for ours, theirs in zip(speeds["engine"], speeds[name], strict=True))
                for name in tasks
                if name != "engine"
            }
            told[f"{network}, {step}"] = {"images_per_second": speeds, "ratio": ratios}
    return told


def captures(bench: Bench) -> Told:
    """Seconds of an epoch with captured and with launched steps, and of its evaluation at several sizes of batch."""
    told: Told = {}
    for method in ("CE", "CE+DRW+SAM"):
        programme = bench.programme(method)
        alone = bench.seconds(programme)
        with bench.launched():
            launched = bench.seconds(programme)
        told[method] = {"captured": alone, "launched": launched, "ratio": launched / alone}
    state, size = bench.train(bench.programme("CE"), [6]), loop.EVALUATION_BATCH
    evaluation: dict[str, float] = {}
    for many in (size,) if bench.smoke else (size, 1000, 2500, 5000):
        loop.EVALUATION_BATCH = many
        graphs, found = captured.Graphs(bench.device), []
        for _ in range(1 + bench.timed):
            bench.wait()
            began = time.perf_counter()
            loop.evaluate(state.model, bench.data.test, bench.data.classes, graphs)
            found.append(time.perf_counter() - began)
        evaluation[str(many)] = statistics.median(found[1:])
    loop.EVALUATION_BATCH = size
    told["evaluation"] = {"seconds": evaluation, "share": evaluation[str(size)] / told["CE"]["captured"]}
    return told


def side_by_side(bench: Bench) -> Told:
    """Cells that train at once, each in a thread with a stream of its own: runs an hour against one, memory, and the seconds
    that a full cell of 200 epochs takes of the device."""
    told: Told = {}
    programme = bench.programme("CE")
    for many in (1, 2) if bench.smoke else (1, 2, 4, 8, 16):
        if bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(bench.device)
        start, end, errors = threading.Barrier(many + 1), threading.Barrier(many + 1), []

        def one(seed: int, start: threading.Barrier = start, end: threading.Barrier = end, errors: list[str] = errors) -> None:
            try:
                with (
                    torch.cuda.stream(torch.cuda.Stream(bench.device))
                    if bench.device.type == "cuda"
                    else contextlib.nullcontext()
                ):
                    state = bench.train(programme, [6], seed)
                    start.wait()
                    bench.train(programme, [6] * bench.timed, seed, state)
                    end.wait()
            except threading.BrokenBarrierError:
                pass
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
                start.abort(), end.abort()

        bench.wait()
        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(many)]
        for thread in threads:
            thread.start()
        with contextlib.suppress(threading.BrokenBarrierError):
            start.wait()
            began = time.perf_counter()
            end.wait()
            bench.wait()
            each = (time.perf_counter() - began) / bench.timed / many
            told[str(many)] = {"epoch_share": each, "cell_seconds": 200 * each}
        for thread in threads:
            thread.join()
        if errors:
            told[str(many)] = {"failed": errors[0]}
            break
        if bench.device.type == "cuda":
            told[str(many)]["peak_gib"] = torch.cuda.max_memory_reserved(bench.device) / 2**30
        told[str(many)]["runs_an_hour_against_one"] = told["1"]["epoch_share"] / each
    return told


def precisions(bench: Bench) -> Told:
    """Seconds of an epoch, and what a short run leaves, in every precision; two seeds tell how much a seed does."""
    told: Told = {}
    for precision in PRECISIONS:
        programme = bench.programme("CE", precision)
        try:
            numerics.enter(numerics.mode(programme.start.network, bench.device, programme.start.precision))
        except BadInput as error:
            told[precision] = {"failed": str(error)}
            continue
        found = told[precision] = {}
        try:
            found["epoch"] = bench.seconds(programme)
            for seed in (0, 1):
                # Half of the epochs at the first rate, half after a drop: what a short run can say.
                state = bench.train(programme, [6] * bench.epochs + [min(161, programme.length)] * bench.epochs, seed)
                found[f"seed {seed}"] = {
                    "loss": state.history.loss[-1],
                    "accuracy": 100 * float(state.history.test[-1].sum()) / len(bench.data.test),
                }
        except Exception as error:  # one that diverges leaves the others to be measured
            found["failed"] = f"{type(error).__name__}: {error}"
    numerics.enter(numerics.mode(bench.programme("CE").start.network, bench.device))
    return told


# --- exactness --------------------------------------------------------------------------------------------------------


def differences(one: State, other: State) -> list[str]:
    """Names of tensors that differ in any bit."""
    left, right = one.tensors(), other.tensors()
    return [name for name in left if name != "history/seconds" and not (name in right and torch.equal(left[name], right[name]))]


def equal_bits(bench: Bench) -> Told:
    """What differs between captured and launched, whole and resumed, side by side and alone: nothing, if all is well."""
    told: Told = {}
    for method in ("CE+DRW", "LDAM+ADRW", "VS+TLA+ADRW+SAM"):
        programme = bench.programme(method)
        numbers = [6, programme.switches[-1], programme.switches[-1] + 1]
        whole = bench.train(programme, numbers)
        if bench.device.type == "cuda":  # a CPU launches by the optimiser's own arithmetic, which rounds once less
            with bench.launched():
                told[f"{method}: captured, launched"] = differences(whole, bench.train(programme, numbers))
        fresh = loop.start(programme, 0, bench.device)
        fresh.load(bench.train(programme, numbers[:2]).tensors())
        told[f"{method}: whole, resumed"] = differences(whole, bench.train(programme, numbers[2:], state=fresh))
        told[f"{method}: refused captures"] = whole.graphs.recorder.refused if whole.graphs else None
        together: dict[int, State] = {}

        def one(
            seed: int, programme: Programme = programme, found: dict[int, State] = together, of: list[int] = numbers
        ) -> None:
            with (
                torch.cuda.stream(torch.cuda.Stream(bench.device)) if bench.device.type == "cuda" else contextlib.nullcontext()
            ):
                found[seed] = bench.train(programme, of, seed)

        bench.wait()
        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        told[f"{method}: alone, side by side"] = differences(whole, together[0]) if 0 in together else ["a thread failed"]
    return told


def exactness(bench: Bench) -> Told:
    """From 20 states on a trajectory: the error of one step of the engine against float64, over that of a plain one."""
    told: Told = {}
    for precision in ("float32", "float32-strict"):
        programme = bench.programme("CE+DRW+SAM", precision)
        numerics.enter(numerics.mode(programme.start.network, bench.device, programme.start.precision))
        row = programme.epoch(6)
        for radius in (None, row.sam_radius):
            told[f"{precision}, {'ordinary' if radius is None else 'SAM'}"] = _exactness(bench, programme, radius)
    numerics.enter(numerics.mode(bench.programme("CE").start.network, bench.device))
    return told


def _exactness(bench: Bench, programme: Programme, radius: float | None) -> Told:
    row, feeder, counts = programme.epoch(6), bench.data.train(None), bench.data.counts
    state = loop.start(programme, 0, bench.device)
    state.begin_epoch(replace(row, rate=0.05))
    batch = min(row.feed.batch, len(feeder))
    order = torch.randperm(len(feeder), generator=torch.Generator().manual_seed(0)).to(bench.device)
    states, between = (2, 1) if bench.smoke else (20, 10)

    def stepped(dtype: torch.dtype, layout: torch.memory_format, places: torch.Tensor) -> list[torch.Tensor]:
        other = copy.copy(state)
        model = copy.deepcopy(state.model).to(dtype=dtype).to(memory_format=layout)  # type: ignore[call-overload]
        other.model, other.optimiser = model, type(state.optimiser)([list(model.parameters())])
        other.optimiser.param_groups[0].update(lr=0.05, weight_decay=row.weight_decay)
        model.train()
        images = feeder.plain_at(places).to(dtype=dtype).contiguous(memory_format=layout)
        loss_of = losses.criterion(row.objective, counts, device=bench.device, dtype=dtype)
        loop.step(other, images, bench.data.train_labels[places], loss_of, radius)
        return [parameter.detach().double() for parameter in model.parameters()]

    errors = {"engine": 0.0, "plain": 0.0}
    for number in range(states * between):
        places = order[torch.arange(number * batch, (number + 1) * batch, device=bench.device) % len(order)]
        if number % between == 0:
            exact = stepped(torch.float64, torch.contiguous_format, places)
            for name, layout in (("engine", torch.channels_last), ("plain", torch.contiguous_format)):
                for one, other in zip(exact, stepped(torch.float32, layout, places), strict=True):
                    errors[name] += float((one - other).square().sum())
        state.model.train()
        loss_of = losses.criterion(row.objective, counts, device=bench.device)
        loop.step(state, feeder.plain_at(places), bench.data.train_labels[places], loss_of, radius)
    return {"states": states, "ratio": (errors["engine"] / max(errors["plain"], 1e-300)) ** 0.5}


# --- what is written --------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[Bench], Told]] = {
    "equal bits": equal_bits,
    "exactness": exactness,
    "captures": captures,
    "side by side": side_by_side,
    "against scripts": against_scripts,
    "precisions": precisions,
}


def targets(told: Told) -> list[tuple[str, float | None, str, bool | None]]:
    """(what, measured, wanted, reached); None where it was not measured."""

    def at(*path: str) -> float | None:
        found: Any = told
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found

    scripts, eight = ("against scripts", "resnet32, ordinary", "ratio"), ("side by side", "8")
    rows: list[tuple[str, float | None, str, float, bool]] = [  # the last: whether at least the bound is wanted, or less
        ("one cell, times the script with 2 workers", at(*scripts, "2 workers"), "3", 3, True),
        ("one cell, times the script with 16 workers", at(*scripts, "16 workers"), "1.5", 1.5, True),
        ("eight cells, runs an hour of one", at(*eight, "runs_an_hour_against_one"), "2 (stretch 3)", 2, True),
        ("evaluation, share of an epoch", at("captures", "evaluation", "share"), "under 0.15", 0.15, False),
        ("200 epochs, seconds of its share of eight", at(*eight, "cell_seconds"), "under 90 (stretch 45)", 90, False),
    ]
    return [
        (what, value, wanted, None if value is None else value >= bound if least else value < bound)
        for what, value, wanted, bound, least in rows
    ]


def lines(told: Told, name: str = "") -> Iterator[str]:
    """Every number that was found, one a line, by its path."""
    if isinstance(told, dict):
        for key, value in told.items():
            yield from lines(value, f"{name} / {key}" if name else str(key))
    else:
        shown = (
            f"{told:.4g}" if isinstance(told, float) else ", ".join(map(_shown, told)) if isinstance(told, list) else str(told)
        )
        yield f"| {name} | {shown or 'none'} |"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def markdown(told: Told) -> str:
    """Targets first, then everything."""
    text = ["# GPU", "", f"{told['device']}, torch {told['torch']}, {told['data']}; {told['minutes']:.1f} minutes.", ""]
    text += ["| wanted | measured | target | reached |", "| --- | --- | --- | --- |"]
    for what, value, wanted, reached in targets(told):
        shown = "not measured" if value is None else f"{value:.3g}"
        text.append(f"| {what} | {shown} | {wanted} | {'' if reached is None else 'yes' if reached else 'no'} |")
    for part in PARTS:
        text += ["", f"## {part}", "", "| what | value |", "| --- | --- |", *lines(told.get(part, {}))]
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of data sets")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder to write to")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--epochs", type=int, default=15, help="of each half of a run that tells what a precision does")
    parser.add_argument("--part", action="append", choices=tuple(PARTS), help="only this; may be given again")
    parser.add_argument("--smoke", action="store_true", help="every part at a tiny size")
    arguments = parser.parse_args()
    device = numerics.pick_device(arguments.device)
    began = time.perf_counter()
    bench = Bench(device, arguments.data, arguments.epochs, arguments.smoke)
    told: Told = {
        "device": numerics.device_name(device),
        "torch": str(torch.__version__),
        "data": ("real images" if bench.real else "random images") + (", smoke run" if bench.smoke else ""),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.part or PARTS:
        try:
            told[name] = PARTS[name](bench)
        except Exception as error:  # whatever one part stumbles over, the others are worth having
            told[name] = {"failed": f"{type(error).__name__}: {error}"}
        told["minutes"] = (time.perf_counter() - began) / 60
        print(f"{name}: {told['minutes']:.1f} minutes so far", flush=True)
        # After each part: a run that is cut off leaves what it has.
        (arguments.out / "gpu.json").write_text(json.dumps({**told, "targets": targets(told)}, indent=1) + "\n")
        (arguments.out / "gpu.md").write_text(markdown(told))
    print(markdown(told))


if __name__ == "__main__":
    main()
