"""Alternated measurements, their ratios, and the shares of the machine's limits that they reach.

One round of a network and step measures the plain script and the engine, in alternated order, and the machine's limits once for
all of the round. What is told are medians over rounds, and the least and the most.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from replicate.bench.task import BATCH, STEPS, Task

FORMAT = 1  # rises when the JSON changes

#: The two sides of a comparison, in the JSON.
PLAIN, NAMES = ("plain", "engine"), {"two": ("apart", "together")}


class Failed(Exception):
    """A measurement did not end well."""


def measure(*tasks: Task) -> list[dict[str, float]]:
    """What each task measures, in a process of its own; several are set up first and then start together.

    Raises :class:`Failed` with the last line that a process said."""
    running = [start(task) for task in tasks]
    try:
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise Failed(told(process))
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        found: list[dict[str, float]] = []
        for process in running:
            out, error = process.communicate()
            if process.returncode:
                raise Failed(last_line(error))
            found.append(json.loads(out.splitlines()[-1]))
        return found
    finally:
        for process in running:
            process.kill()
            process.communicate()


def start(task: Task) -> subprocess.Popen[str]:
    """The process of a task, which sets itself up."""
    environment = dict(os.environ)
    if task.what == "plain":  # a script runs with the framework's defaults, not with what the command line sets for the engine
        environment.pop("GOMP_SPINCOUNT", None)
    return subprocess.Popen(
        [sys.executable, "-m", "replicate.bench", json.dumps(task.told())],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def told(process: subprocess.Popen[str]) -> str:
    """The last line of what a process said of its end."""
    process.kill()
    return last_line(process.communicate()[1])


def last_line(error: str) -> str:
    return (error.strip().splitlines() or ["it was killed"])[-1]


def compare(
    networks: Sequence[str],
    steps: Sequence[str],
    *,
    pairs: int,
    batches: int,
    threads: int,
    device: str,
    loader_workers: int,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure; ``said`` hears a line after every pair. Returns JSON data: ``arguments`` and ``machine``; ``limits``, per round
    operations and bytes a second; and ``results``, one a network and step. Each has ``plain`` and ``engine``, images a second
    and peak bytes of every round, or, of ``two`` cells, ``apart``, one after the other, and ``together``; and ``ratios`` of the
    second to the first, round by round. Raises :class:`Failed`.
    """
    limits: list[dict[str, float]] = []
    rounds: dict[tuple[str, str], list[tuple[dict[str, float], dict[str, float]]]] = {}
    for number in range(pairs):
        base = Task("limits", "", "", batches, threads, device, loader_workers)
        limits += measure(base)
        for network in networks:
            for step in steps:
                task = replace(base, network=network, step=step)
                pair = (two if step == "two" else one)(task, number)
                rounds.setdefault((network, step), []).append(pair)
                said(line(network, step, number, pairs, pair))
    return {
        "format": FORMAT,
        "arguments": {
            "networks": list(networks), "steps": list(steps), "pairs": pairs, "batches": batches, "batch": BATCH,
            "threads": threads, "device": device, "loader_workers": loader_workers,
        },
        "machine": machine(device),
        "limits": {name: [one[name] for one in limits] for name in ("operations", "bytes")},
        "results": [
            {
                "network": network,
                "step": step,
                **{name: columns(pair[place] for pair in found) for place, name in enumerate(NAMES.get(step, PLAIN))},
                "ratios": [second["images_per_second"] / first["images_per_second"] for first, second in found],
            }
            for (network, step), found in rounds.items()
        ],
    }  # fmt: skip


def columns(rows: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    """A list for each name."""
    rows = list(rows)
    return {name: [row[name] for row in rows] for name in rows[0]}


def one(task: Task, number: int) -> tuple[dict[str, float], dict[str, float]]:
    """The plain script and the engine."""
    # Alternated order: a machine that slows down over time favours neither.
    order = ("plain", "engine") if number % 2 == 0 else ("engine", "plain")
    found = {what: speed(task, measure(replace(task, what=what))) for what in order}
    return found["plain"], found["engine"]


def two(task: Task, number: int) -> tuple[dict[str, float], dict[str, float]]:
    """Two cells of the engine one after the other, each on all threads, and at once, each on half of them."""
    cell = replace(task, what="engine", step="ordinary")
    half = replace(cell, threads=max(1, task.threads // 2))

    def apart() -> dict[str, float]:
        return speed(cell, [measure(cell)[0] for _ in range(2)], together=False)

    def together() -> dict[str, float]:
        return speed(cell, measure(half, half))

    if number % 2 == 0:
        return apart(), together()
    second = together()
    return apart(), second


def speed(task: Task, told: Sequence[Mapping[str, float]], together: bool = True) -> dict[str, float]:
    """Images a second of some cells, and their peak memory: that of all where they ran ``together``."""
    seconds, peaks = [one["seconds"] for one in told], [one["peak_bytes"] for one in told]
    return {
        "images_per_second": len(told) * task.timed / (max(seconds) if together else sum(seconds)),
        "peak_bytes": sum(peaks) if together else max(peaks),
    }


def machine(device: str) -> dict[str, Any]:
    """What was measured on; no host name."""
    import torch

    from replicate.engine.numerics import device_name

    return {
        "device": device_name(torch.device(device)),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def line(network: str, step: str, number: int, pairs: int, pair: tuple[Mapping[str, float], Mapping[str, float]]) -> str:
    first, second = (one["images_per_second"] for one in pair)
    change = f"{first:,.0f} -> {second:,.0f} images/s ({second / first:.2f}x)"
    return f"pair {number + 1} of {pairs}, {network}, {STEPS[step]}: {change}"


def render(found: Mapping[str, Any]) -> str:
    """Results as a table, from what :func:`compare` returns."""
    from tabulate import tabulate

    from replicate.bench.work import work

    rate, bandwidth = (statistics.median(found["limits"][name]) for name in ("operations", "bytes"))
    rows = []
    for result in found["results"]:
        network, step, ratios = result["network"], result["step"], result["ratios"]
        task = Task("engine", step, network, 1, 1, "cpu")
        needed = work(task.description, task.shape[1])
        operations, size = needed.operations(step), needed.bytes(step)
        sides = [result[name] for name in NAMES.get(step, PLAIN)]
        first, second = (statistics.median(side["images_per_second"]) for side in sides)
        row = [network, STEPS[step], f"{first:,.0f}", f"{second:,.0f}", f"{statistics.median(ratios):.2f}x"]
        row += [
            f"{min(ratios):.2f} to {max(ratios):.2f}",
            f"{first * operations / rate:.0%} -> {second * operations / rate:.0%}",
        ]
        row += [f"{first * size / bandwidth:.0%} -> {second * size / bandwidth:.0%}"]
        row += [f"{min(rate / operations, bandwidth / size):,.0f}"]
        row += [" -> ".join(f"{statistics.median(side['peak_bytes']) / 2**20:,.0f}" for side in sides)]
        rows.append(row)
    heads = (
        "network", "step", "plain, images/s", "engine, images/s", "ratio", "least to most", "of matrix rate", "of bandwidth",
        "limit, images/s", "peak, MiB",
    )  # fmt: skip
    asked, on = found["arguments"], found["machine"]
    where = on["device"] + ("" if asked["device"].startswith("cuda") else f", {asked['threads']} threads")
    notes = (
        f"{where}, torch {on['torch']}: matrix rate {rate / 1e9:,.0f} GFLOP/s, copy bandwidth {bandwidth / 1e9:,.1f} GB/s.",
        f"Medians of {asked['pairs']} alternated pairs, {asked['batches']} batches of {asked['batch']} random images each, "
        f"32-bit floats. The plain script has {asked['loader_workers']} loader workers, whose memory is not counted.",
        "Two cells at once (engine) are compared with the same two one after the other (plain).",
        "Shares of the matrix rate count direct convolutions, which faster algorithms undercut; bytes are those of layers that "
        "are run one by one; the limit is the lower of both.",
    )
    return tabulate(rows, heads, disable_numparse=True) + "\n\n" + "\n".join(notes)
