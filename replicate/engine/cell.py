"""A cell from its longest finished beginning to its Record."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import replicate
from replicate.engine.loop import DeviceData, Diverged, start, train_epoch
from replicate.engine.numerics import Numerics
from replicate.engine.state import History, State, sizes
from replicate.grid import Cell, cell_key
from replicate.record import Record, Store

#: A run that is cut off loses at most this long, and the epoch it was in.
SAVE_EVERY_SECONDS = 30.0


class Stopped(Exception):
    """Training stopped at a checkpoint because its time was up."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"stopped after epoch {epoch}")
        self.epoch = epoch


def train_cell(
    cell: Cell,
    data: DeviceData,
    store: Store,
    edition: str,
    numerics: Numerics,
    *,
    keep: Set[str] = frozenset(),
    out_of_time: Callable[[], bool] = lambda: False,
    each_epoch: Callable[[State], None] = lambda state: None,
) -> tuple[Record, State | None]:
    """Train what is missing of a cell and write its Record; returns it and the final state (None if training failed).

    Checkpoints stay at the end and where ``keep`` has the nominal key (see :func:`replicate.grid.branch_epochs`); in between
    one is written every half minute and replaced by the next. Raises :class:`Stopped`, with a checkpoint written, once
    ``out_of_time`` says so; ``BadInput`` if the store cannot be written.
    """
    programme, seed = cell.programme, cell.seed
    source = programme.start.data.source
    chain, nominal = programme.keys(edition), programme.keys("")

    def path(epoch: int) -> Path:
        return store.checkpoint(source, edition, chain[epoch], epoch, seed)

    def stays(epoch: int) -> bool:
        return epoch == programme.length or nominal[epoch] in keep

    state = start(programme, seed, data.device)
    for epoch in range(programme.length, 0, -1):
        if path(epoch).exists() and state.restore(path(epoch)):
            break
    passing = state.epoch if state.epoch and not stays(state.epoch) else None
    saved_at = time.monotonic()
    while state.epoch < programme.length:
        try:
            train_epoch(state, programme.epoch(state.epoch + 1), data, seed)
        except Diverged as error:
            record = _record(cell, data, edition, numerics, state.history, {"epoch": error.epoch, "loss": str(error.loss)})
            store.write(record)
            return record, None
        each_epoch(state)
        late = state.epoch < programme.length and out_of_time()
        if late or stays(state.epoch) or time.monotonic() - saved_at >= SAVE_EVERY_SECONDS:
            state.save(path(state.epoch))
            if passing is not None:
                with contextlib.suppress(OSError):
                    path(passing).unlink()
            passing = None if stays(state.epoch) else state.epoch
            saved_at = time.monotonic()
        if late:
            raise Stopped(state.epoch)
    record = _record(cell, data, edition, numerics, state.history, None)
    store.write(record)
    return record, state


def _record(
    cell: Cell,
    data: DeviceData,
    edition: str,
    numerics: Numerics,
    history: History,
    failed: dict[str, Any] | None,
) -> Record:
    programme = cell.programme
    chain = programme.keys(edition)
    groups = {name: list(bounds) for name, bounds in cell.column.groups.items()}
    classes = data.classes
    half = data.test.half
    assert half is not None
    test_sizes = [sizes(data.test.labels[half == h], classes) for h in (0, 1)]
    row = programme.epoch(1)
    seen = sizes(data.train_labels, classes) if row.batches is None else None

    def by_group(rows: list[Tensor]) -> dict[str, list[int]]:
        return {name: [int(r[first:last].sum()) for r in rows] for name, (first, last) in groups.items()}

    def total(of_class: Any) -> dict[str, int]:
        return {name: int(sum(of_class[first:last])) for name, (first, last) in groups.items()}

    curves: dict[str, Any] = {
        "loss": [float(f"{loss:.6g}") for loss in history.loss],
        "rate": history.rate,
        "seconds": history.seconds,
        "train": by_group(history.train),
        "test": [by_group([test[h] for test in history.test]) for h in (0, 1)],
    }
    totals: dict[str, Any] = {"test": [total(of_half) for of_half in test_sizes]}
    if seen is not None:  # a quick epoch shows other images each time
        totals["train"] = total(seen)
    best: dict[str, int] = {}
    if history.test:
        # Classes of a test split are of equal size here, so the sum of correct images ranks as balanced accuracy does.
        series = {"test": [int(t.sum()) for t in history.test]}
        series |= {f"half {h}": [int(t[h].sum()) for t in history.test] for h in (0, 1)}
        if data.validation is not None:
            curves["validation"] = by_group(history.validation)
            totals["validation"] = total(sizes(data.validation.labels, classes))
            series["validation"] = [int(v.sum()) for v in history.validation]
        best = {name: values.index(max(values)) + 1 for name, values in series.items()}
    told = sorted({len(history.test), *best.values(), *programme.switches} - {0})
    per_class = {
        str(epoch): {"train": history.train[epoch - 1].tolist(), "test": history.test[epoch - 1].tolist()}
        for epoch in told
        if epoch <= len(history.test)
    }
    return Record(
        key=cell_key(chain[-1], cell.seed),
        seed=cell.seed,
        programme_key=chain[-1],
        source=programme.start.data.source,
        edition=edition,
        spec=programme.spec(),
        class_counts=list(data.counts),
        groups=groups,
        epochs=programme.length,
        curves=curves,
        totals=totals,
        per_class=per_class,
        best=best,
        environment=environment(data.device, numerics),
        fingerprint=data.split.fingerprint,
        made_for={
            "paper": cell.paper,
            "grid": cell.grid,
            "method": cell.method,
            "column": cell.column.name,
            "point": dict(cell.point),
            "variant": cell.variant,
            "quick": cell.quick,
        },
        failed=failed,
    )


def environment(device: torch.device, numerics: Numerics) -> dict[str, Any]:
    """Device, numerics mode, versions and commit, as JSON data; no path, no host name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": name,
        "numerics": numerics.told(),
        "versions": {"replicate": replicate.__version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Commit of the checkout that this code runs from, with ``+`` if files differ from it; None outside a checkout."""
    root = Path(replicate.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        shown = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=root, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return shown.stdout.strip() or None
