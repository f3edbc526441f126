"""Training cells on digits, and comparing what they leave: what several test files of the engine share."""

import torch

from replicate import grid
from replicate.engine import loop
from replicate.engine.cell import train_cell
from replicate.launch import local


def run(planned, store, digits, silent, **kwargs):
    """Launch cells, on the CPU unless ``device`` says otherwise; checkpoints stay where the planned programmes branch, unless
    ``keep`` does."""
    keep = kwargs.pop("keep", frozenset(grid.branch_epochs([cell.programme for cell in planned])))
    return local.run(
        planned,
        store,
        {"digits": digits.edition},
        lambda source: digits,
        kwargs.pop("device", torch.device("cpu")),
        keep=lambda cell: keep,
        progress=silent,
        **kwargs,
    )


def train_until(stop, cell, data, store, edition, mode, **how):
    """Train a cell until its time is up after epoch ``stop``: raises ``Stopped``."""
    seen = []
    train_cell(
        cell,
        data,
        store,
        edition,
        mode,
        each_epoch=lambda number, history, seconds: seen.append(number),
        out_of_time=lambda row: seen != [] and seen[-1] >= stop,
        **how,
    )


def through(programme, data, halfway=None, path=None):
    """The state of seed 0 after all epochs; or one that was saved at ``path`` after ``halfway`` of them and went on from it."""
    state = loop.start(programme, 0, data.device)
    for number in range(1, programme.length + 1):
        if halfway == number - 1:
            state.save(path)
            state = loop.start(programme, 0, data.device)
            assert state.restore(path)
        loop.train_epoch(state, programme.epoch(number), data, 0)
    return state


def told(record):
    """A Record without what a clock decides."""
    curves = {name: curve for name, curve in record.curves.items() if name != "seconds"}
    chain = (record.stage_starts, record.adjusted)
    return (record.key, curves, record.totals, record.per_class, record.best, record.fingerprint, *chain)


def assert_equal(first, second):
    """Two sets of named tensors are equal bit for bit, but for the seconds of their history."""
    assert first.keys() == second.keys()
    for name in first:
        assert name == "history/seconds" or torch.equal(first[name], second[name]), name
