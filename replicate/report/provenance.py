"""Where a number of ours comes from: runs, choices, environment, data, and the command that makes it again. No torch."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from replicate.protocol import Column, Metric, Paper, Table
from replicate.record import Record
from replicate.report.selection import Point, Replica, Runs

KEY_DIGITS = 12  # of keys and fingerprints, as of editions
NOT_RECORDED = "not recorded"


def command(paper: Paper, table: Table, column: Column, method: str, seeds: Iterable[int], variant: str | None = None) -> str:
    """What trains the runs of a method in a column of a table with these seeds; columns that differ in what follows a method
    alone are trained together."""
    parts = ["replicate", paper.command, "--table", table.number, "--dataset", column.dataset, "--ratio", str(column.ratio)]
    parts += ["--network", column.tag] if column.tag else []
    parts += ["--method", method]
    parts += ["--variant", variant] if variant else []
    told = listed(seeds)
    return shlex.join([*parts, "--seeds", told] if told else parts)


def listed(numbers: Iterable[int]) -> str:
    """Such as ``0-4`` or ``0,2,5-7``; empty without any."""
    parts = []
    of_run: Callable[[tuple[int, int]], int] = lambda pair: pair[1] - pair[0]  # noqa: E731
    for _, alike in itertools.groupby(enumerate(sorted(set(numbers))), key=of_run):
        run = [number for _, number in alike]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ",".join(parts)


def written(point: Point) -> str:
    """A grid point, such as ``nu=0.75 tau=1``."""
    return " ".join(f"{name}={value:g}" for name, value in point)


def number(value: float, kind: str) -> str:
    """A value of one seed: accuracy with two decimals, else four digits."""
    return f"{value:.2f}" if kind.endswith("accuracy_pct") else f"{value:.4g}"


# --- what a Record says of its making --------------------------------------------------------------------------------


def device(record: Record) -> str:
    """Device and numerics mode, such as ``AMD EPYC 9B14 (cpu), float32, 1 thread, eager``."""
    told, mode = record.environment, dict(record.environment.get("numerics", {}))
    if not told.get("device"):
        return NOT_RECORDED
    kind, threads = mode.pop("device", ""), mode.pop("threads", None)
    parts = [told["device"] + (f" ({kind})" if kind else ""), str(mode.pop("dtype", ""))]
    parts += [f"{threads} thread{'s'[: threads != 1]}"] if threads else []
    parts.append("compiled" if mode.pop("compiled", False) else "eager")
    return ", ".join([*filter(None, parts), *(f"{name} {value}" for name, value in mode.items())])


def versions(record: Record) -> str:
    """Such as ``torch 2.13.0, python 3.11.7, replicate 0.1.0``."""
    told: dict[str, Any] = record.environment.get("versions", {})
    order = sorted(told, key=lambda name: (name != "torch", name != "python", name))
    return ", ".join(f"{name} {told[name]}" for name in order) or NOT_RECORDED


def commit(record: Record) -> str:
    """The commit, with ``+`` where files differed from it."""
    return record.environment.get("commit") or NOT_RECORDED


def fingerprint(record: Record) -> str:
    """First digits of the fingerprint of the exact training subset."""
    return record.fingerprint[:KEY_DIGITS] or NOT_RECORDED


def each(told: Callable[[Record], str], records: Iterable[Record]) -> str:
    """What records say, once; where they differ, everything that one of them says."""
    return "; ".join(dict.fromkeys(map(told, records)))


# --- what stands behind a number -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """What stands behind one number: the ``records`` of its seeds at the chosen points (for cross-fitting two points, where
    halves of the test set differ), and the ``command`` that makes them."""

    replica: Replica
    records: Sequence[Record]
    command: str

    @property
    def keys(self) -> list[str]:
        """First digits of the keys of the programmes, which name the files of their Records."""
        return list(dict.fromkeys(record.programme_key[:KEY_DIGITS] for record in self.records))

    def lines(self, metric: Metric) -> Iterator[tuple[str, str]]:
        """What a reader asks of a number, as (term, text)."""
        replica, records = self.replica, self.records
        values = (
            f"seed {seed}: {number(value, metric.kind)}{self._epochs(seed, metric)}" for seed, value in replica.values.items()
        )
        yield "seeds", ", ".join(values) or "none with a value"
        if metric.measure:
            yield "measure", "of the state that training hands over"
        points = " or ".join(written(point) for point in replica.points if point)
        grid = f"{replica.competing} of {replica.planned} grid points competed" if replica.planned > 1 else "one grid point"
        yield "chosen", ", ".join(filter(None, (points, grid, f"selection {replica.selection}")))
        if replica.failed:
            yield "failed", ", ".join(f"{written(point)} seed {seed}".strip() for point, seed in replica.failed)
        yield "key", ", ".join(self.keys)
        yield "device", each(device, records)
        yield "data", each(lambda r: f"{r.source}@{r.edition}, fingerprint {fingerprint(r)}", records)
        yield "code", each(lambda r: f"commit {commit(r)}, {versions(r)}", records)
        yield "command", self.command

    def _epochs(self, seed: int, metric: Metric) -> str:
        epochs = dict.fromkeys(self.replica.epochs.get(seed, ()))
        return f" (epoch {' and '.join(map(str, epochs))})" if epochs and not metric.measure else ""


def origin(paper: Paper, table: Table, column: Column, method: str, runs: Runs, replica: Replica) -> Origin:
    """Of a number of one method in one column, made of ``runs``."""
    points = dict.fromkeys(at(runs, point) for point in replica.points)
    records = [runs[point][seed] for point in points for seed in replica.epochs]
    return Origin(replica, records, command(paper, table, column, method, replica.epochs))


def at(runs: Runs, point: Point) -> Point:
    """The grid point of a chosen one, which has an adjustment's value as one more coordinate."""
    return next(known for known in runs if point[: len(known)] == known)
