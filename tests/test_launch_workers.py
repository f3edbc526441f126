"""Cells trained side by side by worker processes: equal to those trained one after another, and what survives what."""

import io
import itertools
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
import test_cli
import torch
from launching import alone, assert_alike, several
from test_cli import assert_refused, call_here, environment, records, without_clocks
from training import run

from replicate.data.longtail import split
from replicate.errors import BadInput
from replicate.launch import workers
from replicate.launch.lanes import Broken, GroupEnded, Job, LaneData, Materials
from replicate.launch.workers import Shared, Workers, received
from replicate.record import Store

__all__ = ["alone", "call_here", "several"]  # fixtures

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(not workers.POSSIBLE, reason="needs Unix sockets")


def shared_data(cell, digits):
    augmentations = {row.feed.augmentation for _, row in cell.programme.runs} | {None}
    return LaneData(split(digits, cell.programme.start.data), cell.programme, CPU, augmentations)


def sent(shared):
    here, there = Pipe()
    shared.send(here, os.getpid())
    return received(there)


# --- memory that processes share -------------------------------------------------------------------------------------


def test_images_are_in_memory_once_and_make_the_same_batches(several, digits):
    data = shared_data(several[1], digits)
    shared = Shared(data)
    one, other = sent(shared), sent(shared)
    for augmentation in one._feeders:
        feeders = [of.train(augmentation) for of in (data, one, other)]
        draws = [of.draw(torch.arange(40), torch.Generator().manual_seed(0)) for of in feeders]
        batches = [of.batch(drawn, 0, 40) for of, drawn in zip(feeders, draws, strict=True)]
        assert torch.equal(batches[0], batches[1]) and torch.equal(batches[0], batches[2])
    assert torch.equal(data.test.feeder.plain(0, 9), one.test.feeder.plain(0, 9))
    assert np.array_equal(data.split.train_images, one.split.train_images)
    # What one process would write the other sees: there is one copy. Within a feeder all views are of one memory, too.
    one.test.feeder._plain.zero_()
    one.split.train_images[:] = 7
    assert not other.test.feeder._windows.any() and (other.split.train_images == 7).all()
    assert data.test.feeder._windows.any() and not (data.split.train_images == 7).all()


def test_what_is_sent_beside_the_file_does_not_grow_with_the_images(several, digits):
    images = replace(digits, train_images=np.tile(digits.train_images, (1, 1, 4, 4)))
    small, large = (Shared(split(of, several[1].programme.start.data)) for of in (digits, images))
    assert large._spans[-1][1] > 4 * small._spans[-1][1]
    assert abs(len(large._value) - len(small._value)) < 100


def test_a_value_without_arrays_can_be_sent():
    assert sent(Shared({"a": (1, None)})) == {"a": (1, None)}


def test_images_for_which_there_is_no_room_are_one_line(monkeypatch):
    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fdopen", lambda number, kind: (os.close(number), Full())[1])
    with pytest.raises(BadInput, match=r"1 MiB of images .* \(No space left on device\).*--workers 1"):
        Shared(np.zeros(1 << 20, dtype=np.uint8))


def test_rows_stay_keys_in_another_process(several):
    row = several[1].programme.epoch(1)
    assert {row: 1}  # its hash is kept with it
    code = (
        "import pickle, sys; from dataclasses import replace; "
        "row = pickle.load(sys.stdin.buffer); print(replace(row) in {row: 1})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(row), capture_output=True, env=environment(PYTHONHASHSEED="7"),
        cwd=Path(__file__).parents[1], check=True,
    )  # fmt: skip
    assert done.stdout.strip() == b"True"


# --- worker processes ------------------------------------------------------------------------------------------------


def test_two_processes_equal_one_though_one_is_killed_and_both_are_stopped(
    several, alone, digits, tmp_path, silent, monkeypatch
):
    heard, epoch = itertools.count(), silent.epoch

    def disturb(number, *, lane, **how):
        epoch(number, lane=lane, **how)
        event = next(heard)
        if event == 12:
            children = sorted(multiprocessing.active_children(), key=lambda child: child.name)
            os.kill(children[lane].pid, signal.SIGKILL)
        if event == 30:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(silent, "epoch", disturb)
    store = Store(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(several, store, digits, silent, measures=("class_bound",), workers=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert multiprocessing.active_children() == []
    assert sum("memory is short" in line for line in silent.lines) == 1
    found = len(list(tmp_path.glob("records/*/*.json")))
    assert 0 < found < len(several)
    outcome = run(several, store, digits, silent, measures=("class_bound",), workers=2)
    assert multiprocessing.active_children() == []
    assert outcome.before == found
    assert outcome.failed == alone.outcome.failed and outcome.left == []
    assert outcome.epochs < alone.outcome.epochs
    assert_alike(store, alone.store, several, digits.edition)


def test_what_goes_wrong_in_a_worker_comes_out(several, digits, tmp_path):
    """A defect as its traceback, the user's errors as their line; a lane goes on after either."""
    cell = several[1]
    count, row = cell.programme.runs[0]
    strange = replace(row, feed=replace(row.feed, sampler="strange"))
    wrong = replace(cell, programme=replace(cell.programme, runs=((count, strange), *cell.programme.runs[1:])))
    store, told = Store(tmp_path), []
    lanes = Workers(1, Materials(lambda cell: Shared(shared_data(cell, digits))), store, ())
    try:
        lanes.start(0, Job((), (wrong,), digits.edition, frozenset(), None, 1))
        with pytest.raises(Broken, match=r"Traceback[\s\S]*ValueError: sampler 'strange' is unknown"):
            lanes.wait(lambda lane, event: told.append(event))
        lanes._workers[0].busy = False
        lanes.start(0, Job((), (cell,), digits.edition, frozenset(), 0.0, 1))
        while not (told and isinstance(told[-1], GroupEnded)):
            lanes.wait(lambda lane, event: told.append(event))
        assert told[-1].stopped and len(told) == 1  # its time was up before one epoch
        assert lanes.fit() >= 1 and lanes._workers[0].peak > 1e7
        (tmp_path / "records").write_text("in the way")
        lanes.start(0, Job((), (cell,), digits.edition, frozenset(), None, 1))
        with pytest.raises(BadInput, match=r"store .* cannot be written"):
            while True:
                lanes.wait(lambda lane, event: told.append(event))
        assert len(told) == 1 + 6  # all its epochs
    finally:
        lanes.close()
    assert multiprocessing.active_children() == []


def test_free_processes_are_ended_when_memory_is_short(tmp_path):
    lanes = Workers(2, Materials(lambda cell: Shared(cell)), Store(tmp_path), ())
    try:
        assert lanes.let_go(0) and multiprocessing.active_children() == []
        assert not lanes.let_go(0)
        lanes._workers[0] = lanes._begun()
        assert not lanes.let_go(0) and not lanes._workers  # the one that was short, and no other
    finally:
        lanes.close()


def test_an_interruption_that_a_destructor_swallows_comes_again(monkeypatch, capfd):
    class Slow:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # the signal arrives here

    monkeypatch.setattr(sys, "unraisablehook", workers._interrupt_again)
    before = signal.signal(signal.SIGTERM, workers._interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            slow = Slow()
            del slow
            time.sleep(5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capfd.readouterr().err == ""


# --- whole commands --------------------------------------------------------------------------------------------------

PLAN = (
    "unified-bound",
    "--dataset",
    "digits",
    "--seeds",
    "0",
    "--method",
    "CE",
    "--method",
    "CE+DRW",
    "--method",
    "VS+TLA+DRW",
)


def gone(group):
    """Whether no process of a group is left, after a while."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def stopped(folder, number, stop):
    """Start the plan with two workers, and once a further checkpoint is there, stop the whole group of processes or the first
    one alone; returns what it told, and whether all its processes are gone."""
    told, group = test_cli.stopped(folder, number, (*PLAN, "--workers", "2"), stop)
    if not (all_gone := gone(group)):
        os.killpg(group, signal.SIGKILL)
    return told, all_gone


@pytest.mark.slow
def test_ctrl_c_and_a_killed_command_leave_no_processes_and_lose_no_number(tmp_path, call_here):
    told, all_gone = stopped(tmp_path, signal.SIGINT, os.killpg)
    assert told.code == 130 and all_gone
    assert "Traceback" not in told.err and told.err.rstrip().endswith("the same command goes on from it")
    assert not list(tmp_path.rglob(".*.pt.*"))  # half a checkpoint
    told, all_gone = stopped(tmp_path, signal.SIGKILL, os.kill)
    assert told.code == -signal.SIGKILL and all_gone
    assert "Traceback" not in told.err
    told = call_here(tmp_path, *PLAN, "--workers", "1")
    assert told.code == 0 and len(records(tmp_path)) == 3
    epochs = int(told.out.rpartition(" trained now in ")[2].split()[0])
    assert epochs < 132  # it went on from what was left
    (tmp_path / "other").mkdir()
    assert call_here(tmp_path / "other", *PLAN, "--workers", "1").code == 0
    for one, other in zip(records(tmp_path), records(tmp_path / "other"), strict=True):
        assert without_clocks(one) == without_clocks(other)


def test_no_worker_sees_ctrl_c(tmp_path):
    code = """
import multiprocessing, signal
from replicate.launch.workers import _without_ctrl_c

def blocked(queue):
    queue.put(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=blocked, args=(queue,))
    with _without_ctrl_c():
        process.start()
    print(queue.get())
"""
    file = tmp_path / "start.py"
    file.write_text(code)
    shown = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60)
    assert shown.stdout == "True\n", shown.stderr


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5", "", "100000"])
def test_numbers_of_workers_that_cannot_be(tmp_path, call_here, number):
    assert_refused(call_here(tmp_path, *PLAN, "--workers", number), repr(number), "--workers", "1 or more")


def test_a_small_plan_stays_in_one_process(tmp_path, call_here, monkeypatch):
    monkeypatch.setattr(Workers, "__init__", lambda *of: pytest.fail("a process was started"))
    assert call_here(tmp_path, *PLAN, "--quick").code == 0
    assert json.loads(records(tmp_path)[0].read_text())["environment"]["numerics"]["threads"] == 1


def test_photographs_are_mapped_again_by_who_they_are_sent_to(tmp_path, monkeypatch):
    from data_files import photograph

    from replicate.data.decoded import File, Photographs, decoded

    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.jpg"
    path.write_bytes(photograph(300, 400))
    told = path.stat()
    photos, _ = decoded("Some", [File(str(path), "a.jpg", 0, told.st_size, told.st_mtime_ns)] * 2, stream=io.StringIO())
    packed = pickle.dumps(photos.take(np.array([1])))
    assert len(packed) < 5_000 < photos[0].size
    (again,) = pickle.loads(packed)
    assert np.array_equal(again, photos[1])
    in_memory = Photographs.of([photos[0]], [0])
    assert np.array_equal(pickle.loads(pickle.dumps(in_memory))[0], photos[0])
