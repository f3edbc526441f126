"""Which groups are trained side by side and in what order, what happens when memory is short, and lanes that are threads."""

import io
import itertools
import os
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import FakeLanes, FakeStore, alone, assert_alike, launched, several
from torch.torch_version import TorchVersion
from training import run

from papers import lort, unified_bound, wb
from replicate import grid
from replicate.engine import numerics
from replicate.engine.cell import Stopped
from replicate.errors import BadInput
from replicate.launch import lanes, local, memory
from replicate.launch.progress import Progress
from replicate.launch.schedule import shared, together
from replicate.launch.streams import Streams
from replicate.record import Store

__all__ = ["alone", "several"]  # fixtures

CPU = torch.device("cpu")


def digits_cells(paper, methods=None, seeds=(0, 1)):
    columns = [column for column in paper.grids["table"].columns if column.stand_in]
    return grid.cells(paper, "table", columns=columns, methods=methods, seeds=seeds)


PLANS = {
    "unified-bound": digits_cells(unified_bound.PAPER),
    "wb": digits_cells(wb.PAPER, seeds=(0,)),
    "lort": digits_cells(lort.PAPER, seeds=(0,)),
}


# --- the order -------------------------------------------------------------------------------------------------------


def test_shared_epochs_are_those_with_equal_rows_seed_and_data():
    ce, drw, adrw = (digits_cells(unified_bound.PAPER, [method], (0,))[0] for method in ("CE", "CE+DRW", "CE+ADRW"))
    vs = digits_cells(unified_bound.PAPER, ["VS+TLA+DRW"], (0,))[0]
    one, two, three, four = together([ce, drw, adrw, vs], {"digits": "official"})
    assert (shared(one, two), shared(two, three), shared(one, four)) == (48, 48, 0)
    assert shared(one, one) == ce.programme.length
    (other_seed,) = together([replace(drw, seed=1)], {"digits": "official"})
    (other_edition,) = together([drw], {"digits": "another"})
    assert shared(one, other_seed) == shared(one, other_edition) == 0


def test_packs_share_what_comes_before_their_frozen_stage():
    groups = together(PLANS["lort"], {"digits": "official"})
    packs = [group for group in groups if group.cells[0].programme.frozen_from]
    assert sum(len(group.cells) for group in groups) == len(PLANS["lort"]) and len(packs) < len(groups)
    for one, other in itertools.combinations(packs, 2):
        first = min(group.cells[0].programme.frozen_from for group in (one, other))
        assert shared(one, other) < first


@pytest.mark.parametrize("name", PLANS)
def test_one_lane_trains_in_the_order_of_the_plan(name):
    outcome, fake = launched(PLANS[name], 1)
    groups = together(PLANS[name], {"digits": "official"})
    assert [job.train for job in fake.jobs] == [group.cells for group in groups]
    assert outcome.trained == len(PLANS[name]) and outcome.left == []


@settings(deadline=None, max_examples=25)
@given(name=st.sampled_from(sorted(PLANS)), many=st.integers(2, 7), seed=st.integers(0, 2**31))
def test_no_epoch_is_trained_twice_whatever_lane_is_how_fast(name, many, seed):
    planned = PLANS[name]
    alone, side_by_side = launched(planned, 1), launched(planned, many, seed)
    assert all(times == 1 for times in side_by_side[1].trained.values())
    assert side_by_side[1].trained == alone[1].trained
    assert side_by_side[0] == alone[0] and alone[0].trained == len(planned)
    assert side_by_side[1].most > 1
    if name == "unified-bound":
        assert alone[0].epochs == grid.cost(planned).epochs_shared


def test_lanes_are_filled_where_nothing_has_to_wait():
    planned = digits_cells(unified_bound.PAPER, ["CE"], seeds=range(6))
    assert launched(planned, 4)[1].most == 4


def test_lanes_at_work_share_all_cores(monkeypatch):
    """A beginning that others wait for has every core; they are divided anew when a lane begins or ends."""
    monkeypatch.setattr(numerics, "cores", lambda: 8)
    planned = digits_cells(unified_bound.PAPER, ["CE", "CE+DRW", "CE+ADRW"], seeds=(0,))
    shares = launched(planned, 3)[1].shares
    assert shares[:48] == [[8]] * 48
    assert all(share == [8 // len(share)] * len(share) for share in shares) and max(map(len, shares)) == 3
    assert shares[-1] == [8]


def test_a_lane_takes_other_threads_after_an_epoch(short_paper, digits, tmp_path, monkeypatch, one_thread):
    """Only where no number depends on how many there are."""
    cell = grid.cells(short_paper, "table", methods=["CE"])[0]
    mode_of = lanes.mode_of
    for open_threads, expected in ((None, [2, 3, 3, 2, 1, 1]), (1, [1] * 6)):
        mode = replace(mode_of(cell, CPU), threads=open_threads)
        monkeypatch.setattr(lanes, "mode_of", lambda *of, mode=mode: mode)
        data = lanes.alone(lambda source: digits, CPU)(cell)
        seen, said = [], iter([None, 3, None, 2, 1, None])
        lanes.Lane(Store(tmp_path / str(open_threads)), ()).do(
            lanes.Job((), (cell,), digits.edition, frozenset(), None, 2), data,
            lambda event, seen=seen: seen.append(torch.get_num_threads()), lambda said=said: next(said),
        )  # fmt: skip
        assert seen[1:7] == expected


@pytest.mark.parametrize(("limit", "trained"), [(0.0, 0), (9.0, 1), (35.0, 3), (59.9, 5), (60.1, 6), (95.0, 9), (1000.0, 12)])
def test_no_epoch_begins_that_would_end_after_the_time_limit(short_paper, digits, tmp_path, monkeypatch, limit, trained):
    """Epochs of ten seconds, two cells of six one after the other: only the very first is begun without knowing how long it
    takes."""
    ce, drw = (grid.cells(short_paper, "table", methods=[method])[0] for method in ("CE", "CE+DRW"))
    now, epochs = 0.0, []

    def train(cell, data, store, edition, mode, *, out_of_time, each_epoch, **how):
        nonlocal now
        for number in range(1, 7):
            if out_of_time(cell.programme.epoch(number)):
                raise Stopped(number - 1)
            now += 10.0
            epochs.append(number)
            each_epoch(number, SimpleNamespace(loss=[1.0], test=[torch.zeros(2, 10)]), 10.0)
        return SimpleNamespace(failed=None), None

    monkeypatch.setattr(lanes, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(lanes, "train_cell", train)
    data = lanes.alone(lambda source: digits, CPU)(ce)
    lane, heard = lanes.Lane(Store(tmp_path), ()), []
    monkeypatch.setattr(lane, "_measure", lambda *of: None)
    for cell in (ce, drw):
        lane.do(lanes.Job((), (cell,), digits.edition, frozenset(), limit, 1), data, heard.append)
    assert len(epochs) == trained and (trained == 1 or now <= limit)
    assert [event.stopped for event in heard if isinstance(event, lanes.GroupEnded)] == [trained < 6, trained < 12]


def asked(monkeypatch, lane, cell, data, edition, ends, pace=0.0):
    """What a lane says at time 0 of the first row of a cell: whether an epoch of it would end too late."""
    said = []

    def train(cell, *of, out_of_time, **how):
        said.append(out_of_time(cell.programme.epoch(1)))
        raise Stopped(0)

    monkeypatch.setattr(lanes, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(lanes, "train_cell", train)
    lane.do(lanes.Job((), (cell,), edition, frozenset(), ends, 1, pace), data, lambda event: None)
    return said[0]


def test_an_epoch_is_judged_by_its_own_work(short_paper, digits, tmp_path, monkeypatch, one_thread):
    """By the pace of its kind, else by the slowest of the run so far, whichever lane that was in."""
    plain, sam = (grid.cells(short_paper, "table", methods=[method])[0] for method in ("CE", "CE+DRW+SAM"))
    of_one, of_sam = (grid.epoch_work(cell.programme.start, cell.programme.epoch(1)) for cell in (plain, sam))
    data, share = lanes.alone(lambda source: digits, CPU)(plain), of_sam / of_one
    assert 1.2 < share < 2

    def would_be_late(cell, ends, pace=0.0, known=None):
        lane = lanes.Lane(Store(tmp_path), ())
        lane._pace.update(known or {})
        return asked(monkeypatch, lane, cell, data, digits.edition, ends, pace)

    network = plain.programme.start.network
    for how in ({"pace": 10 / of_one}, {"known": {(network, False, False): 10 / of_one}}, {"known": {"another": 10 / of_one}}):
        assert not would_be_late(plain, 10.1, **how) and would_be_late(plain, 9.9, **how)
        assert not would_be_late(sam, 10 * share + 0.1, **how) and would_be_late(sam, 10 * share - 0.1, **how)
    assert not would_be_late(plain, 0.1)  # nothing is known


def test_every_lane_is_told_the_pace_of_the_run():
    planned = digits_cells(unified_bound.PAPER, ["CE"], seeds=range(3))
    _, fake = launched(planned, 2)
    assert [job.pace for job in fake.jobs] == [0.0, 1.0, 1.0]


def test_measures_that_the_time_does_not_take_are_computed_by_the_same_command(short_paper, digits, tmp_path, silent):
    planned = grid.cells(short_paper, "table", methods=["CE", "CE+DRW"])
    store = Store(tmp_path)
    run(planned, store, digits, silent)
    late = run(planned, store, digits, silent, measures=("class_bound",), ends=0.0)
    assert (late.before, late.left, late.unmeasured) == (2, [], 2) and not list(tmp_path.glob("measures/*/*/*"))
    again = run(planned, store, digits, silent, measures=("class_bound",))
    assert (again.before, again.unmeasured) == (2, 0) and len(list(tmp_path.glob("measures/*/*/*"))) == 2


def test_the_clock_is_read_between_measures(tmp_path, monkeypatch):
    (cell,) = digits_cells(unified_bound.PAPER, ["CE"], seeds=(0,))
    now = iter([1.0, 3.0])
    monkeypatch.setattr(lanes, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(lanes, "missing_measures", lambda *of: ["one", "other"])
    monkeypatch.setattr(lanes, "MEASURES", dict.fromkeys(("one", "other"), lambda *of: {"told": 1}))
    job = lanes.Job((), (cell,), "official", frozenset(), 2.0, 1)
    lanes.Lane(Store(tmp_path), ())._measure(cell, object(), None, job)
    assert [path.parent.name for path in tmp_path.glob("measures/*/*/*")] == ["one"]


def test_a_checkpoint_that_is_not_kept_is_not_waited_for_once_its_epoch_is_over():
    planned = digits_cells(unified_bound.PAPER, ["CE", "CE+DRW"], seeds=(0,))
    outcome, fake = launched(planned, 2, keep=frozenset())
    assert fake.at_once.index(2) == 49 and outcome.epochs == 120  # each alone, as one lane trains them


def test_a_failed_beginning_fails_all_that_share_it():
    planned = digits_cells(unified_bound.PAPER, ["CE", "CE+DRW", "VS+TLA+DRW"], seeds=(0,))
    broken = (planned[0].programme.keys("official")[20], 0)
    alone, side_by_side = (launched(planned, many, breaks={broken})[0] for many in (1, 3))
    assert [cell.method for cell, _ in side_by_side.failed] == ["CE", "CE+DRW"]
    assert side_by_side == alone


def test_time_that_is_up_leaves_cells_in_the_order_of_the_plan():
    planned = digits_cells(unified_bound.PAPER, ["VS+TLA+DRW", "CE", "CE+DRW"], seeds=range(3))
    outcome, _ = launched(planned, 3, stops_after=100)
    assert outcome.left and outcome.trained + len(outcome.left) == len(planned)
    assert outcome.left == [cell for cell in planned if any(cell is left for left in outcome.left)]


# --- memory ----------------------------------------------------------------------------------------------------------


def test_the_first_epoch_runs_alone_and_tells_how_many_fit():
    planned = digits_cells(unified_bound.PAPER, ["CE"], seeds=range(8))
    fake = FakeLanes(FakeStore(), fits=3)
    launched(planned, 6, lanes=fake)
    assert fake.at_once[0] == 1 and fake.most == 3
    fake = FakeLanes(FakeStore(), fits=0)
    assert launched(planned, 6, lanes=fake)[0].trained == 8 and fake.most == 1


def test_short_memory_halves_the_lanes_and_goes_on_from_the_last_checkpoint():
    planned = digits_cells(unified_bound.PAPER, ["CE", "CE+DRW"], seeds=range(6))
    fake = FakeLanes(FakeStore(), short={300: None})
    outcome, _ = launched(planned, 6, lanes=fake)
    assert fake.most == 6 and max(fake.at_once[400:]) == 3
    assert outcome.trained == len(planned) and not outcome.left
    again = [times for times in fake.trained.values() if times > 1]
    assert set(again) == {2} and len(again) < 60  # of one cell, from its checkpoint on
    assert outcome.epochs == sum(fake.trained.values())


def test_lanes_are_halved_again_and_again_and_the_last_one_gives_up_with_one_line():
    planned = digits_cells(unified_bound.PAPER, ["CE"], seeds=range(8))
    fake = FakeLanes(FakeStore(), short={at: None for at in range(200, 100_000, 40)})
    with pytest.raises(BadInput, match=r"memory is too short to train 'CE digits/45 seed .' alone") as refused:
        launched(planned, 8, lanes=fake)
    assert "\n" not in str(refused.value)
    assert {8, 4, 2, 1} <= set(fake.at_once)
    assert fake.closed


@pytest.mark.parametrize("many", [2, 6])
def test_lanes_that_are_short_of_memory_together_are_all_tried_again(many):
    planned = digits_cells(unified_bound.PAPER, ["CE", "CE+DRW"], seeds=range(6))
    outcome, fake = launched(planned, many, short={at: None for at in range(50, 50 + many)})
    assert outcome.trained == len(planned) and not outcome.left
    assert fake.at_once[-1] == 1


def test_nothing_is_given_up_while_free_lanes_hold_memory():
    (cell,) = digits_cells(unified_bound.PAPER, ["CE"], seeds=(0,))
    fake, asked = FakeLanes(FakeStore(), short={3: None, 40: None}), []
    fake.let_go = lambda short: asked.append(short) or len(asked) == 1  # there is a free lane at first
    with pytest.raises(BadInput, match=r"too short to train .* alone"):
        launched([cell], 2, lanes=fake)
    assert asked == [0, 0] and len(fake.jobs) == 2


@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory")])
def test_too_little_memory_for_data_is_as_too_little_for_training(error):
    planned = digits_cells(unified_bound.PAPER, ["CE"], seeds=range(6))
    fake, calls, start = FakeLanes(FakeStore()), itertools.count(), FakeLanes.start

    def short(lane, job):
        if next(calls) == 3:
            raise error
        start(fake, lane, job)

    fake.start = short
    outcome, _ = launched(planned, 6, lanes=fake)
    assert outcome.trained == 6 and max(fake.at_once[100:]) == 3  # a fourth one was beside them


def test_too_little_memory_for_the_data_of_one_lane_is_one_line(short_paper, digits, tmp_path, silent, monkeypatch):
    def short(*of):
        raise MemoryError

    monkeypatch.setattr(lanes, "split", short)
    with pytest.raises(BadInput, match=r"too short to train 'CE .*' alone"):
        run(grid.cells(short_paper, "table", methods=["CE"]), Store(tmp_path), digits, silent)


def test_what_fits():
    assert memory.fitting(10e9, 1e9) == 9 and memory.fitting(0.5e9, 1e9) == 0
    assert memory.fitting(float("inf"), 0) > 1000
    assert memory.available() > 0 and memory.own_peak() > 1e7


def counted(monkeypatch, planned, asked=None, work=1e12, cores=8, threads=1):
    monkeypatch.setattr(numerics, "cores", lambda: cores)
    monkeypatch.setattr(numerics, "mode", lambda *of, **how: numerics.Numerics("cpu", threads=threads))
    return local._how_many(together(planned, {"digits": "official"}), CPU, asked, work)


def test_how_many_side_by_side(monkeypatch):
    planned = digits_cells(unified_bound.PAPER, ["CE"], seeds=range(6))
    assert counted(monkeypatch, planned) == 6 and counted(monkeypatch, planned, cores=4) == 4
    assert counted(monkeypatch, planned, threads=None, cores=4) == 4
    assert counted(monkeypatch, planned, threads=4) == 2 and counted(monkeypatch, planned, threads=8) == 1
    assert counted(monkeypatch, planned, work=local.WORTH_WORKERS / 2) == 1
    assert counted(monkeypatch, planned, asked=3, work=1.0) == 3 and counted(monkeypatch, planned, asked=20) == 6
    assert counted(monkeypatch, planned, asked=1) == 1 and counted(monkeypatch, []) == 1


@pytest.mark.parametrize("version, many", [("2.4.1", 1), ("2.10.0+cu128", 1), ("2.11.0", 6), ("2.13.0+cu130", 6)])
def test_a_gpu_has_one_lane_where_threads_may_not_share_it(monkeypatch, version, many):
    planned = digits_cells(unified_bound.PAPER, ["CE"], seeds=range(6))
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    monkeypatch.setattr(numerics, "mode", lambda *of, **how: numerics.Numerics("cuda"))
    assert local._how_many(together(planned, {"digits": "official"}), torch.device("cuda"), None, 1.0) == many


# --- progress --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_finished_lines_and_one_about_all_lanes():
    cells = digits_cells(unified_bound.PAPER, ["CE"], seeds=(0, 1))
    progress = Progress(Terminal())
    progress.expect(400.0)
    for lane, cell in enumerate(cells):
        progress.begin(cell, lane + 1, 2, lane=lane)
    for lane in (0, 1):
        progress.epoch(1, loss=1.0, accuracy=50.0, work=100.0, seconds=10.0, lane=lane)
    # 200 images at 10 a second in each of two lanes.
    assert progress.seconds_left == pytest.approx(10.0)
    assert progress._stream.getvalue().endswith("\r\033[K2 side by side  20 images/s  10 s left")
    progress.end("failed", lane=0)
    progress.end(None, lane=1)
    lines = [line.rpartition("\r\033[K")[2] for line in progress._stream.getvalue().split("\n")]
    assert lines[0].startswith("[1/2] CE digits/45 seed 0  epoch 1/60 ") and lines[0].endswith("failed")
    assert lines[1].startswith("[2/2] CE digits/45 seed 1  epoch 1/60 ") and lines[2] == ""


# --- threads ---------------------------------------------------------------------------------------------------------


class Roomy:
    """A device with memory for any number of lanes."""

    def begin(self):
        self.begun = True

    def fit(self):
        return 100


def in_threads(monkeypatch, many):
    """Make the launch train in threads of this process."""

    def made(_, planned, store, load, device, measures):
        augmentations = {}
        for cell in planned:
            found = augmentations.setdefault(cell.programme.start.data, {None})
            found.update(row.feed.augmentation for _, row in cell.programme.runs)
        return Streams(lanes.Materials(lanes.for_all(load, device, augmentations)), store, measures, device, Roomy())

    monkeypatch.setattr(local, "_how_many", lambda *of: many)
    monkeypatch.setattr(local, "_lanes", made)


def test_threads_side_by_side_equal_one_after_another_bit_for_bit(
    several, alone, digits, tmp_path, silent, monkeypatch, one_thread
):
    in_threads(monkeypatch, 3)
    store = Store(tmp_path)
    outcome = run(several, store, digits, silent, measures=("class_bound",))
    assert outcome == alone.outcome and len(outcome.failed) == 1
    assert_alike(store, alone.store, several, digits.edition)
    assert len(silent.lines) == len(together(several, {"digits": digits.edition}))
    assert run(several, store, digits, silent).before == len(several)


def test_a_lane_without_memory_is_tried_again_and_changes_no_number(
    several, alone, digits, tmp_path, silent, monkeypatch, one_thread
):
    in_threads(monkeypatch, 3)
    calls, train = itertools.count(), lanes.train_cell

    def short(*arguments, **how):
        if next(calls) == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return train(*arguments, **how)

    monkeypatch.setattr(lanes, "train_cell", short)
    store = Store(tmp_path)
    outcome = run(several, store, digits, silent, measures=("class_bound",))
    assert (outcome.before, outcome.trained, outcome.failed) == (0, alone.outcome.trained, alone.outcome.failed)
    assert_alike(store, alone.store, several, digits.edition)
    assert sum("memory is short" in line for line in silent.lines) == 1


def test_ctrl_c_ends_every_thread(several, digits, tmp_path, silent, monkeypatch, one_thread):
    in_threads(monkeypatch, 3)
    heard, epoch = itertools.count(), silent.epoch

    def ctrl_c(number, **how):
        epoch(number, **how)
        if next(heard) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(silent, "epoch", ctrl_c)
    before = set(threading.enumerate())  # threads of earlier tests may end meanwhile
    with pytest.raises(KeyboardInterrupt):
        run(several, Store(tmp_path), digits, silent)
    assert set(threading.enumerate()) <= before


def test_a_store_that_cannot_be_written_is_one_line_whichever_lane_finds_out(
    several, digits, tmp_path, silent, monkeypatch, one_thread
):
    in_threads(monkeypatch, 3)
    (tmp_path / "checkpoints").write_text("in the way")
    with pytest.raises(BadInput, match="cannot be written") as refused:
        run(several, Store(tmp_path), digits, silent)
    assert os.linesep not in str(refused.value)


def test_data_are_let_go_when_the_last_lane_leaves_them():
    a, b, c = (SimpleNamespace(programme=SimpleNamespace(start=SimpleNamespace(data=name))) for name in "abc")
    made = []
    materials = lanes.Materials(lambda cell: made.append(cell.programme.start.data) or [made[-1]])
    first = materials.of(a, 0)
    assert materials.of(a, 1) is first and made == ["a"]
    materials.of(b, 0)
    assert materials.of(a, 1) is first and made == ["a", "b"]
    materials.of(c, 1)
    assert materials.of(a, 1) is not first and made == ["a", "b", "c", "a"]
    second = materials.of(b, 0)
    materials.only({0})
    assert materials.of(b, 0) is second and len(materials._made) == 1


def test_threads_that_are_free_let_go_of_what_they_hold(tmp_path):
    a, b = (SimpleNamespace(programme=SimpleNamespace(start=SimpleNamespace(data=name))) for name in "ab")
    materials = lanes.Materials(lambda cell: [cell])
    streams = Streams(materials, Store(tmp_path), (), CPU, Roomy())
    streams._lanes, streams._busy = dict.fromkeys((0, 1), (lanes.Lane(Store(tmp_path), ()), None)), {1}
    materials.of(a, 0), materials.of(b, 1)
    assert not streams.let_go(0) and list(streams._lanes) == [1] and list(materials._made) == ["b"]
    streams._busy = set()
    assert streams.let_go(0) and not streams._lanes and not materials._made
