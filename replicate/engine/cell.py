"""A cell from its longest finished beginning to its Record."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import time
from collections.abc import Callable, Sequence, Set
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import replicate
from replicate.adjust import adjusted_logits, log_prior
from replicate.engine.loop import DeviceData, Diverged, correct_counts, features_of, start, train_epoch
from replicate.engine.numerics import Numerics, device_name
from replicate.engine.state import History, State, Stretches, balanced, read_tensors, sizes, stretched
from replicate.grid import Cell, Epoch, cell_key
from replicate.models import Classifier
from replicate.record import Record, Store, exists

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
    out_of_time: Callable[[Epoch], bool] = lambda row: False,
    each_epoch: Callable[[int, History, float], None] = lambda number, history, seconds: None,
) -> tuple[Record, State | None]:
    """Train what is missing of a cell and write its Record; returns it and the final state (None if training failed).

    Checkpoints stay at the end and where ``keep`` has the nominal key (see :func:`replicate.grid.branch_epochs`); in between
    one is written every half minute and replaced by the next. Raises :class:`Stopped`, with a checkpoint written, once
    ``out_of_time`` says so of the next epoch's row; ``BadInput`` if the store cannot be written, or a checkpoint not read.
    ``each_epoch`` hears its number in the chain, the history and the epoch's seconds.
    """
    programme = cell.programme
    if programme.adjustment is not None:
        trained = store.record(programme.start.data.source, edition, programme.keys(edition)[-1], cell.seed)
        if trained is not None and trained.failed is not None:  # there is nothing to adjust
            record = record_of(cell, data, edition, numerics, History(), trained.failed)
            store.write(record)
            return record, None
    state, failed = train_to(
        cell, programme.length, data, store, edition, numerics, keep=keep, out_of_time=out_of_time, each_epoch=each_epoch
    )
    adjusted = None if failed else _adjusted(cell, state, data)
    record = record_of(cell, data, edition, numerics, state.history, failed, adjusted, state.stretches)
    store.write(record)
    return record, None if failed else state


def train_to(
    cell: Cell,
    last: int,
    data: DeviceData,
    store: Store,
    edition: str,
    numerics: Numerics,
    *,
    keep: Set[str] = frozenset(),
    out_of_time: Callable[[Epoch], bool] = lambda row: False,
    each_epoch: Callable[[int, History, float], None] = lambda number, history, seconds: None,
) -> tuple[State, dict[str, Any] | None]:
    """Train a cell from its longest finished beginning up to its epoch ``last``, whose checkpoint stays; returns the state, and
    where training broke off, if it did: the epoch and its loss. Arguments and errors as of :func:`train_cell`."""
    programme, seed = cell.programme, cell.seed
    source = programme.start.data.source
    chain, nominal = programme.keys(edition), programme.keys("")

    def path(epoch: int) -> Path:
        return store.checkpoint(source, edition, chain[epoch], epoch, seed)

    def stays(epoch: int) -> bool:
        return epoch == last or nominal[epoch] in keep

    state = start(programme, seed, data.device)
    for epoch in range(last, 0, -1):
        if exists(path(epoch)):
            if state.restore(path(epoch)):
                break
            state = start(programme, seed, data.device)  # what could be read of a damaged one may be in it
    if state.epoch < last and out_of_time(programme.epoch(state.epoch + 1)):
        raise Stopped(state.epoch)

    def forget() -> None:
        """Remove every passing checkpoint, those of interrupted runs included."""
        for epoch in range(1, last):
            if not stays(epoch):
                with contextlib.suppress(OSError):
                    path(epoch).unlink()

    passing = state.epoch if state.epoch and not stays(state.epoch) else None
    saved_at = time.monotonic()
    if state.epoch < last:
        state.stretches = stretched(state.stretches, state.epoch + 1, environment(data.device, numerics))
    while state.epoch < last:
        try:
            train_epoch(state, programme.epoch(state.epoch + 1), data, seed)
        except Diverged as error:
            forget()
            return state, {"epoch": error.epoch, "loss": str(error.loss)}
        each_epoch(state.epoch, state.history, state.history.seconds[-1])
        late = state.epoch < programme.length and out_of_time(programme.epoch(state.epoch + 1))
        if late or stays(state.epoch) or time.monotonic() - saved_at >= SAVE_EVERY_SECONDS:
            state.save(path(state.epoch))
            if passing is not None:
                with contextlib.suppress(OSError):
                    path(passing).unlink()
            passing = None if stays(state.epoch) else state.epoch
            saved_at = time.monotonic()
        if late:
            raise Stopped(state.epoch)
    forget()
    return state, None


def restored(cell: Cell, store: Store, edition: str, device: torch.device) -> State | None:
    """The final state of a cell from its checkpoints, or None where they are not there or not whole. Of a frozen stage the
    backbone is that of the stage's beginning, and the head alone has a checkpoint of its own."""
    programme, seed = cell.programme, cell.seed
    source, chain = programme.start.data.source, programme.keys(edition)
    first = programme.frozen_from
    last = programme.length if first is None else first - 1
    state = start(programme, seed, device)
    if not state.restore(store.checkpoint(source, edition, chain[last], last, seed)):
        return None
    if first is None:
        return state
    named = read_tensors(store.checkpoint(source, edition, chain[-1], programme.length, seed))
    if named is None:
        return None
    state.begin_epoch(programme.epoch(first))
    try:
        state.model.head.load_state_dict({name.removeprefix("head/"): value for name, value in named.items()})
    except (RuntimeError, TypeError, AttributeError):  # another head's
        return None
    state.epoch, state.stage_epoch = programme.length, programme.length - last
    return state


def _adjusted(cell: Cell, state: State, data: DeviceData) -> dict[str, Any] | None:
    """Correct counts by group of the adjusted classifier, for every value of its adjustment; see :class:`Record`."""
    adjustment, priors = cell.programme.adjustment, log_prior(data.counts, data.device)
    if adjustment is None:
        return None
    values = [float(value) for value in adjustment.values]  # type: ignore[union-attr]  # a compiled cell has no free values

    def counts(model: Classifier, epoch: int) -> dict[str, Any]:
        told: dict[str, Any] = {"epoch": epoch}
        for name, examples in (("validation", data.validation), ("test", data.test)):
            if examples is None:
                continue
            features = features_of(model, examples)
            rows = []
            for value in values:
                hits = adjusted_logits(adjustment, value, features, model.head, priors).argmax(dim=1) == examples.labels
                rows.append(correct_counts(hits, examples, data.classes))
            halves = [_by_group(cell, [row[half] for row in rows]) for half in (0, 1)] if examples.half is not None else None
            told[name] = halves or _by_group(cell, rows)
        return told

    handed = counts(state.handed_over(), state.handed_over_epoch)
    last = handed if state.handed_over_epoch == state.epoch else counts(state.model, state.epoch)
    return {"parameter": adjustment.parameter, "values": values, "handed over": handed, "last": last}


def _by_group(cell: Cell, rows: Sequence[Tensor]) -> dict[str, list[int]]:
    return {name: [int(row[first:last].sum()) for row in rows] for name, (first, last) in cell.column.groups.items()}


def record_of(
    cell: Cell,
    data: DeviceData,
    edition: str,
    numerics: Numerics,
    history: History,
    failed: dict[str, Any] | None,
    adjusted: dict[str, Any] | None = None,
    stretches: Stretches = (),
) -> Record:
    """The Record of a cell whose epochs left this history; ``failed`` says where training broke off, if it did; ``stretches``
    where epochs were trained."""
    programme = cell.programme
    key, here = programme.key(edition), environment(data.device, numerics)
    groups = {name: list(bounds) for name, bounds in cell.column.groups.items()}
    classes = data.classes
    half = data.test.half
    assert half is not None
    test_sizes = [sizes(data.test.labels[half == h], classes) for h in (0, 1)]
    # Quick epochs and samplers show other images each time: their correct ones are shares of nothing fixed.
    whole = all(row.batches is None and row.feed.sampler is None for _, row in programme.runs)
    seen = sizes(data.train_labels, classes) if whole else None

    def total(of_class: Any) -> dict[str, int]:
        return {name: int(sum(of_class[first:last])) for name, (first, last) in groups.items()}

    curves: dict[str, Any] = {
        "loss": [float(f"{loss:.6g}") for loss in history.loss],
        "rate": history.rate,
        "seconds": history.seconds,
        "train": _by_group(cell, history.train),
        "test": [_by_group(cell, [test[h] for test in history.test]) for h in (0, 1)],
    }
    totals: dict[str, Any] = {"test": [total(of_half) for of_half in test_sizes]}
    if seen is not None:
        totals["train"] = total(seen)
    best: dict[str, int] = {}
    starts = [epoch for epoch in programme.stage_starts if epoch <= len(history.test)] or [1]
    if history.test:
        class_sizes = {"half 0": test_sizes[0], "half 1": test_sizes[1]}
        class_sizes["test"] = [one + other for one, other in zip(*test_sizes, strict=True)]
        series: dict[str, list[Tensor]] = {"test": [test.sum(dim=0) for test in history.test]}
        series |= {f"half {h}": [test[h] for test in history.test] for h in (0, 1)}
        if data.validation is not None:
            curves["validation"] = _by_group(cell, history.validation)
            class_sizes["validation"] = data.validation_sizes
            totals["validation"] = total(class_sizes["validation"])
            series["validation"] = history.validation
        for name, counts in series.items():
            levels = [balanced(row.tolist(), class_sizes[name]) for row in counts[starts[-1] - 1 :]]
            best[name] = starts[-1] + levels.index(max(levels))
    told = sorted({len(history.test), *best.values(), *programme.switches} - {0})
    per_class = {
        str(epoch): {"train": history.train[epoch - 1].tolist(), "test": history.test[epoch - 1].tolist()}
        for epoch in told
        if epoch <= len(history.test)
    }
    return Record(
        key=cell_key(key, cell.seed),
        seed=cell.seed,
        programme_key=key,
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
        environment=here,
        fingerprint=data.split.fingerprint,
        made_for={
            "paper": cell.paper,
            "grid": cell.grid,
            "method": cell.method,
            "column": cell.column.name,
            "point": dict(cell.point),
            "variant": cell.variant,
            "quick": cell.quick,
            **({"precision": programme.start.precision} if programme.start.precision else {}),
        },
        failed=failed,
        stage_starts=starts,
        adjusted=adjusted,
        stretches=[] if [of for _, of in stretches] == [here] else [[first, of] for first, of in stretches],
    )


def environment(device: torch.device, numerics: Numerics) -> dict[str, Any]:
    """Device, numerics mode, versions and commit, as JSON data; no path, no host name."""
    return {
        "device": device_name(device),
        "numerics": numerics.told(),
        "versions": {"replicate": replicate.__version__, "torch": str(torch.__version__), "python": platform.python_version()},
        "commit": _commit(),
    }


@cache
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
