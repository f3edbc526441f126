"""The loop against the plain loop, shared and resumed runs against lone ones, and what goes wrong."""

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training import assert_equal, run, through, told, train_until

from papers.unified_bound import PAPER
from replicate import grid, kernels, losses, measures
from replicate.data.longtail import split
from replicate.engine import cell as engine_cell
from replicate.engine import loop, numerics, plain
from replicate.engine.cell import Stopped, train_cell
from replicate.engine.keyed import generator
from replicate.engine.loop import DeviceData
from replicate.engine.state import State, counts_by_class, read_tensors, save_tensors
from replicate.errors import BadInput
from replicate.launch.progress import duration
from replicate.protocol import LDAM, CrossEntropy, EffectiveNumber, Objective, VectorScaling
from replicate.record import Store

CPU = torch.device("cpu")


def cells_of(paper, *methods, **kwargs):
    return grid.cells(paper, "table", methods=list(methods), **kwargs)


@pytest.fixture(scope="session")
def data(short_paper, digits):
    programme = cells_of(short_paper, "CE")[0].programme
    return DeviceData(split(digits, programme.start.data), programme, CPU)


def weights(state):
    return {name: value for name, value in state.tensors().items() if not name.startswith("history/seconds")}


def checkpoint(store, cell, digits, epoch=None):
    epoch = epoch or cell.programme.length
    key = cell.programme.keys(digits.edition)[epoch]
    return store.checkpoint("digits", digits.edition, key, epoch, cell.seed)


# --- the fast path equals the plain path -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["CE+DRW", "LDAM+ADRW", "VS+TLA+ADRW", "CE+DRW+SAM", "VS+TLA+ADRW+SAM"])
def test_loop_equals_the_plain_loop_bit_for_bit(short_paper, data, method, one_thread):
    programme = cells_of(short_paper, method)[0].programme
    state = loop.start(programme, 3, CPU)
    for epoch in range(1, programme.length + 1):
        loop.train_epoch(state, programme.epoch(epoch), data, 3)
    model, epochs = plain.train(programme, data, 3, memory_format=torch.channels_last)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state.model.state_dict()[name]), name
    assert [t.tolist() for t in state.history.train] == [e["train"] for e in epochs]
    assert [t.sum(0).tolist() for t in state.history.test] == [e["test"] for e in epochs]
    assert state.history.loss == pytest.approx([e["loss"] for e in epochs], rel=1e-12)


@pytest.mark.parametrize("radius", [None, 0.3])
def test_one_step_of_the_real_network_is_as_exact_as_the_plain_one(radius, two_threads):
    """Against the step in float64, the channels-last step errs at most twice what the plain float32 step does.

    A single state is no measure (a ReLU that flips moves the whole gradient), so squared errors of six states are added.
    """
    column = next(c for c in PAPER.columns if c.name == "cifar10-lt/100")
    method = PAPER.methods("table")["VS"]
    values = {**column.values, "gamma": 0.05, "tau": 1.0}
    programme = grid.compile_method(method if radius is None else method.with_sam(radius), column, values)
    counts, labels = column.data.class_counts(), torch.arange(32) % 10
    objective = programme.epoch(1).objective

    def plain_step(seed, images, dtype):
        model = loop.start(programme, seed, CPU).model.to(dtype=dtype, memory_format=torch.contiguous_format)
        loss_of = losses.criterion(objective, counts, dtype=dtype)
        parameters = list(model.parameters())
        gradients = torch.autograd.grad(loss_of(model(images.to(dtype)), labels, None), parameters)
        with torch.no_grad():
            kept = [p.clone() for p in parameters]
            if radius is not None:
                norm = torch.cat([g.flatten() for g in gradients]).norm()
                for p, g in zip(parameters, gradients, strict=True):
                    p += radius * g / (norm + 1e-12)
        if radius is not None:
            gradients = torch.autograd.grad(loss_of(model(images.to(dtype)), labels, None), parameters)
        return [p - 0.1 * (g + 2e-4 * p) for g, p in zip(gradients, kept, strict=True)]

    fast_error = plain_error = 0.0
    for seed in range(6):
        images = torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) - 0.5
        state = loop.start(programme, seed, CPU)
        for group in state.optimiser.param_groups:
            group["lr"], group["weight_decay"] = 0.1, 2e-4
        loss_of = losses.criterion(objective, counts)
        loop.step(state, images.contiguous(memory_format=torch.channels_last), labels, loss_of, radius)
        exact = plain_step(seed, images, torch.float64)
        fast = [p.detach() for p in state.model.parameters()]
        for name, stepped in (("fast", fast), ("plain", plain_step(seed, images, torch.float32))):
            error = float(sum(((a.double() - b) ** 2).sum() for a, b in zip(stepped, exact, strict=True)))
            if name == "fast":
                fast_error += error
            else:
                plain_error += error
    assert fast_error <= 4 * plain_error


def test_sam_perturbs_by_the_global_norm_and_moves_batch_norm_twice(short_paper, data):
    programme = cells_of(short_paper, "CE+DRW+SAM")[0].programme
    state = loop.start(programme, 0, CPU)
    parameters = list(state.model.parameters())
    rng = torch.Generator().manual_seed(0)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=rng)
    norm = torch.cat([p.grad.flatten() for p in parameters]).double().norm()
    kept = loop.perturb(parameters, 0.5)
    for parameter, old in zip(parameters, kept, strict=True):
        expected = old.double() + 0.5 * parameter.grad.double() / (norm + 1e-12)
        assert torch.allclose(parameter.double(), expected, atol=1e-6)
    moved = torch.cat([(p - old).flatten() for p, old in zip(parameters, kept, strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)

    sharp, ordinary = loop.start(programme, 0, CPU), loop.start(programme, 0, CPU)
    loop.train_epoch(sharp, programme.epoch(1), data, 0)
    loop.train_epoch(ordinary, replace(programme.epoch(1), sam_radius=None), data, 0)
    batches = -(-len(data.train_labels) // 32)
    assert int(sharp.model.backbone.bn1.num_batches_tracked) == 2 * batches
    assert int(ordinary.model.backbone.bn1.num_batches_tracked) == batches


def test_evaluation_counts_what_a_loop_over_images_counts(short_paper, data):
    state = loop.start(cells_of(short_paper, "CE")[0].programme, 0, CPU)
    state.model.eval()
    expected = np.zeros((2, 10), dtype=int)
    with torch.no_grad():
        for place in range(len(data.test.labels)):
            label, half = int(data.test.labels[place]), int(data.test.half[place])
            guess = int(state.model(data.test.feeder.plain(place, place + 1)).argmax())
            expected[half, label] += guess == label
    assert loop.evaluate(state.model, data.test, 10).tolist() == expected.tolist()


@given(labels=st.lists(st.integers(0, 6), min_size=1, max_size=40), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_counts_by_class(labels, seed):
    labels = torch.tensor(labels)
    hits = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) < 0.5
    assert counts_by_class(labels, hits, 7).tolist() == [int((hits & (labels == c)).sum()) for c in range(7)]


# --- shared, resumed and lone runs are equal bit for bit --------------------------------------------------------------


def test_shared_beginnings_change_no_number(short_paper, digits, tmp_path, silent):
    planned = cells_of(short_paper, "CE", "CE+DRW", "CE+ADRW", "VS", "VS+TLA+ADRW", "CE+DRW+SAM", "CE+ADRW+SAM")
    shared = Store(tmp_path / "shared")
    outcome = run(planned, shared, digits, silent)
    assert outcome.trained == len(planned) == 10
    # Three roots of 4 epochs, and 2 epochs for each of ten ends.
    assert outcome.epochs == grid.cost(planned).epochs_shared == 3 * 4 + 10 * 2
    for place, cell in enumerate(planned):
        lone = Store(tmp_path / f"lone{place}")
        alone = run([cell], lone, digits, silent, keep=frozenset())
        assert alone.epochs == 6
        assert told(lone.of(cell, digits.edition)) == told(shared.of(cell, digits.edition))
        states = []
        for store in (lone, shared):
            state = loop.start(cell.programme, cell.seed, CPU)
            assert state.restore(checkpoint(store, cell, digits))
            states.append(weights(state))
        assert_equal(*states)


@pytest.fixture(scope="module")
def uninterrupted(short_paper, digits, tmp_path_factory):
    from conftest import Silent

    planned = cells_of(short_paper, "VS+TLA+ADRW+SAM")[:1]
    store = Store(tmp_path_factory.mktemp("uninterrupted"))
    run(planned, store, digits, Silent())
    return store


@settings(deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(1, 5), second=st.integers(1, 5))
def test_resuming_at_any_epoch_changes_no_number(first, second, short_paper, digits, data, tmp_path_factory, uninterrupted):
    cell = cells_of(short_paper, "VS+TLA+ADRW+SAM")[0]
    store = Store(tmp_path_factory.mktemp("resumed"))
    mode = numerics.mode(cell.programme.start.network, CPU)
    numerics.enter(mode)
    for stop in sorted({first, second}):
        with pytest.raises(Stopped) as stopped:
            train_until(stop, cell, data, store, digits.edition, mode)
        assert stopped.value.epoch == stop
    record, state = train_cell(cell, data, store, digits.edition, mode)
    assert told(record) == told(uninterrupted.of(cell, digits.edition))
    expected = loop.start(cell.programme, 0, CPU)
    assert expected.restore(checkpoint(uninterrupted, cell, digits))
    assert_equal(weights(state), weights(expected))
    # What an interruption left behind was replaced, not piled up.
    assert [path.name for path in (store.root / "checkpoints/digits@official").iterdir()] == [
        checkpoint(store, cell, digits).name
    ]


def test_interruption_keeps_the_last_checkpoint(short_paper, digits, data, tmp_path, monkeypatch, uninterrupted):
    monkeypatch.setattr(engine_cell, "SAVE_EVERY_SECONDS", 0.0)
    cell, store = cells_of(short_paper, "VS+TLA+ADRW+SAM")[0], Store(tmp_path)
    mode = numerics.mode(cell.programme.start.network, CPU)

    def ctrl_c(number, history, seconds):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_cell(cell, data, store, digits.edition, mode, each_epoch=ctrl_c)
    assert checkpoint(store, cell, digits, 2).exists() and store.of(cell, digits.edition) is None
    epochs = []
    record, _ = train_cell(
        cell, data, store, digits.edition, mode, each_epoch=lambda number, history, seconds: epochs.append(number)
    )
    assert epochs == [3, 4, 5, 6]
    assert told(record) == told(uninterrupted.of(cell, digits.edition))


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_a_damaged_checkpoint_is_trained_again_from_the_one_before(short_paper, digits, silent, tmp_path, damage):
    ce, drw = cells_of(short_paper, "CE", "CE+DRW")
    store = Store(tmp_path)
    run([ce, drw], store, digits, silent)
    before = told(store.of(drw, digits.edition))
    path = checkpoint(store, drw, digits)
    path.write_bytes(path.read_bytes()[:1000] if damage is None else damage)
    (store.root / "records/digits@official" / f"{drw.programme.keys('official')[-1][:24]}-s0.json").unlink()
    outcome = run([ce, drw], store, digits, silent)
    assert (outcome.before, outcome.trained, outcome.epochs) == (1, 1, 2)
    assert told(store.of(drw, digits.edition)) == before


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_byte_of_a_checkpoint_changes_unnoticed(tmp_path):
    """Whichever bit is flipped: the file is refused, or what is read is what was written."""
    path = tmp_path / "state.pt"
    weight = torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)
    named = {"model/weight": weight, "epoch": torch.tensor(3), "sizes": torch.tensor([5, 0], dtype=torch.bfloat16)}
    save_tensors(named, path)
    whole = path.read_bytes()

    def same(read):
        return read.keys() == named.keys() and all(torch.equal(read[name], value) for name, value in named.items())

    assert same(read_tensors(path))
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        read = read_tensors(path)
        refused += read is None
        assert read is None or same(read), place
    assert refused > 100


def test_a_damaged_checkpoint_is_removed_with_one_line(tmp_path, capfd):
    path = tmp_path / "state.pt"
    assert read_tensors(path) is None and capfd.readouterr().err == ""
    path.write_bytes(b"not a checkpoint")
    assert read_tensors(path) is None and not path.exists()
    (line,) = capfd.readouterr().err.splitlines()
    assert repr(str(path)) in line and "removed" in line and "trained again" in line
    save_tensors({"epoch": torch.tensor(3)}, path)  # whole, and no state of a cell
    assert not State.restore(SimpleNamespace(load=lambda named: named["stage_epoch"]), path) and not path.exists()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_checkpoint_that_the_memory_is_too_short_for_stays(tmp_path, monkeypatch, error):
    path = tmp_path / "state.pt"
    save_tensors({"epoch": torch.tensor(3)}, path)

    def short(*of, **how):
        raise error

    with pytest.raises(type(error)):
        State.restore(SimpleNamespace(load=short), path)
    monkeypatch.setattr(torch, "load", short)
    with pytest.raises(type(error)):
        read_tensors(path)
    assert path.exists()


def test_a_checkpoint_that_may_not_be_read_is_one_line_and_stays(tmp_path):
    (tmp_path / "state.pt").mkdir()
    with pytest.raises(BadInput, match=r"checkpoint .*state.pt' cannot be read \(Is a directory\)"):
        read_tensors(tmp_path / "state.pt")
    assert (tmp_path / "state.pt").exists()


@pytest.mark.parametrize("fails", [False, True])
def test_a_finished_cell_leaves_no_passing_checkpoints(short_paper, data, digits, tmp_path, monkeypatch, fails):
    """Neither its own nor those of runs that were killed before they could remove them."""
    monkeypatch.setattr(engine_cell, "SAVE_EVERY_SECONDS", 0.0)
    (cell,) = cells_of(short_paper, "CE")
    if fails:
        *runs, (count, row) = cell.programme.runs
        cell = replace(cell, programme=replace(cell.programme, runs=(*runs, (count, replace(row, rate=1e30)))))
    store = Store(tmp_path)
    keep = frozenset({cell.programme.keys("")[1]})
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: None)  # killed in between
    with pytest.raises(Stopped):
        train_until(3, cell, data, store, digits.edition, numerics.Numerics("cpu", threads=1), keep=keep)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert len(list(tmp_path.glob("checkpoints/*/*.pt"))) == 3
    record, _ = train_cell(cell, data, store, digits.edition, numerics.Numerics("cpu", threads=1), keep=keep)
    assert (record.failed is not None) == fails
    left = [checkpoint(store, cell, digits, epoch).exists() for epoch in range(1, cell.programme.length + 1)]
    assert left == [True, False, False, False, False, not fails]


def test_a_record_tells_of_epochs_that_were_trained_elsewhere(short_paper, data, digits, tmp_path, monkeypatch):
    (cell,) = cells_of(short_paper, "CE")
    mode, here = numerics.Numerics("cpu", threads=1), {"device": "this one"}
    monkeypatch.setattr(engine_cell, "environment", lambda *of: here)
    store = Store(tmp_path / "here")
    train_cell(cell, data, store, digits.edition, mode)
    (file,) = store.root.glob("records/*/*.json")
    assert "stretches" not in json.loads(file.read_text()) and store.of(cell, digits.edition).stretches == []

    store, elsewhere = Store(tmp_path / "both"), {"device": "another one"}
    monkeypatch.setattr(engine_cell, "environment", lambda *of: elsewhere)
    with pytest.raises(Stopped):
        train_until(2, cell, data, store, digits.edition, mode)
    monkeypatch.setattr(engine_cell, "environment", lambda *of: here)
    train_cell(cell, data, store, digits.edition, mode)
    record = store.of(cell, digits.edition)
    assert record.environment == here and record.stretches == [[1, elsewhere], [3, here]]


def test_nothing_is_trained_twice(short_paper, digits, silent, tmp_path):
    planned = cells_of(short_paper, "CE", "CE+DRW")
    first = run(planned, Store(tmp_path), digits, silent)
    again = run(planned, Store(tmp_path), digits, silent)
    assert (first.before, first.trained, again.before, again.trained, again.epochs) == (0, 2, 2, 0, 0)


def test_a_later_request_finds_the_beginning_of_an_earlier_one(short_paper, digits, silent, tmp_path):
    keep = frozenset(grid.branch_epochs([c.programme for c in cells_of(short_paper, "CE", "CE+DRW")]))
    run(cells_of(short_paper, "CE"), Store(tmp_path), digits, silent, keep=keep)
    assert run(cells_of(short_paper, "CE+DRW"), Store(tmp_path), digits, silent, keep=keep).epochs == 2


def test_time_limit_stops_at_a_checkpoint_and_says_what_is_left(short_paper, digits, silent, tmp_path):
    planned = cells_of(short_paper, "CE", "CE+DRW")
    outcome = run(planned, Store(tmp_path), digits, silent, ends=0.0)
    assert outcome.trained == 0 and outcome.left == planned and outcome.epochs_left == 8


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_fails_the_cell_and_no_other(short_paper, digits, silent, tmp_path):
    ce, drw = cells_of(short_paper, "CE", "CE+DRW")
    runs = tuple(
        (count, replace(row, rate=1e30 if place else row.rate)) for place, (count, row) in enumerate(ce.programme.runs)
    )
    wild = replace(ce, programme=replace(ce.programme, runs=runs))
    store = Store(tmp_path)
    outcome = run([wild, drw], store, digits, silent)
    assert outcome.trained == 1 and outcome.failed[0][0] is wild
    record = store.of(wild, digits.edition)
    assert record.failed["epoch"] == len(record.curves["loss"]) + 1 > 1
    assert run([wild, drw], store, digits, silent).trained == 0  # it would fail again


def test_missing_device_and_unknown_device_are_one_line():
    from replicate.errors import BadInput

    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="'cuda' is not here"):
            numerics.pick_device("cuda")
    with pytest.raises(BadInput, match="'abacus' is unknown"):
        numerics.pick_device("abacus")
    assert numerics.pick_device("cpu").type == "cpu"


# --- small parts ------------------------------------------------------------------------------------------------------


def test_draws_are_keyed_by_seed_purpose_and_epoch_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    draws = {
        (seed, purpose, epoch): tuple(torch.randperm(50, generator=generator(seed, purpose, epoch)).tolist())
        for seed in (0, 1)
        for purpose in ("order", "augmentation")
        for epoch in (1, 2)
    }
    assert len(set(draws.values())) == len(draws)
    assert draws[0, "order", 1] == tuple(torch.randperm(50, generator=generator(0, "order", 1)).tolist())
    assert torch.equal(before, torch.get_rng_state())


def test_records_keep_groups_halves_and_the_classes_of_best_last_and_switch_epochs(short_paper, digits, silent, tmp_path):
    cell = cells_of(short_paper, "CE+DRW")[0]
    run([cell], Store(tmp_path), digits, silent)
    record = Store(tmp_path).of(cell, digits.edition)
    assert record.totals["test"] == [{"majority": 150, "minority": 150}] * 2
    assert record.totals["train"] == {"majority": 227, "minority": 26}
    assert record.totals["validation"] == {"majority": 100, "minority": 100}
    assert {"4", "6", str(record.best["test"]), str(record.best["validation"])} <= set(record.per_class)
    for epoch, of in record.per_class.items():
        for half in (0, 1):
            curves = record.curves["test"][half]
            assert sum(of["test"][half][:5]) == curves["majority"][int(epoch) - 1]
            assert sum(of["test"][half][5:]) == curves["minority"][int(epoch) - 1]
    accuracy = record.accuracy("test")
    assert accuracy.index(max(accuracy)) + 1 == record.best["test"]
    assert record.environment["device"] == numerics.device_name(CPU)
    assert record.environment["numerics"] == {"device": "cpu", "dtype": "float32", "threads": 1, "compiled": False}


def test_a_processor_has_the_name_that_the_system_tells_else_its_kind(tmp_path, monkeypatch):
    there = tmp_path / "cpuinfo"
    monkeypatch.setattr(kernels, "_PROCESSORS", there)
    there.write_text("processor\t: 0\nmodel name\t: Example CPU @ 2.00GHz\n\nprocessor\t: 1\nmodel name\t: Another\n")
    assert numerics.device_name(CPU) == "Example CPU @ 2.00GHz"
    kind = platform.processor() or platform.machine()
    there.write_text("processor\t: 0\n")
    assert numerics.device_name(CPU) == kind
    there.unlink()
    assert numerics.device_name(CPU) == kind


def test_durations():
    assert [duration(s) for s in (3, 59.6, 600, 7500, 200_000)] == ["3 s", "60 s", "10 min", "2 h 05 min", "2 d 7 h"]


def test_measures_are_made_from_a_checkpoint_without_training(short_paper, digits, silent, tmp_path):
    cell, store = cells_of(short_paper, "VS+TLA+ADRW")[0], Store(tmp_path)
    run([cell], store, digits, silent)
    record = store.of(cell, digits.edition)
    assert store.measure("class_bound", "digits", "official", record.programme_key, 0) is None
    outcome = run([cell], store, digits, silent, measures=("class_bound",))
    later = store.measure("class_bound", "digits", "official", record.programme_key, 0)
    assert outcome.epochs == 0 and later is not None
    fresh = Store(tmp_path / "fresh")
    run([cell], fresh, digits, silent, measures=("class_bound",))
    assert fresh.measure("class_bound", "digits", "official", record.programme_key, 0) == later
    assert later["balanced_accuracy"] == record.accuracy("test")[-1]


# --- the theory -------------------------------------------------------------------------------------------------------

COUNTS = [90, 38, 16, 2]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    loss=st.sampled_from([CrossEntropy(), VectorScaling(0.2, 1.0), VectorScaling(0.0, 0.5), LDAM()]),
    weighted=st.booleans(),
)
def test_lemma_4_bounds_the_gradient_of_every_image(seed, loss, weighted):
    """The loss's gradient in the logits has norm at most alpha_y b_y (1 - p_y): the constant at each image bounds it there."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat(5)
    logits = (3 * torch.randn(20, 4, generator=rng, dtype=torch.float64)).requires_grad_()
    objective = Objective(loss, EffectiveNumber(0.9) if weighted else None)
    alpha = losses.class_weights(objective.weights, COUNTS) if weighted else np.ones(4)
    adjust = losses.adjusted(loss, COUNTS, device="cpu", dtype=torch.float64)
    each = torch.nn.functional.cross_entropy(adjust(logits, labels), labels, reduction="none") * torch.as_tensor(alpha)[labels]
    (gradient,) = torch.autograd.grad(each.sum(), logits)
    found = measures.class_bound(logits.detach(), labels, COUNTS, objective)
    for y in range(4):
        norms = gradient[labels == y].norm(dim=1)
        own = logits.detach()[labels == y, y]
        # A gradient of well learnt images is a difference of nearly equal numbers: 1e-12 is what rounding leaves of it.
        assert float(norms.max()) <= found["lipschitz"]["maximum"][y] * (1 + 1e-9) + 1e-12
        assert float(norms[own.argmin()]) <= found["lipschitz"]["at_minimum"][y] * (1 + 1e-9) + 1e-12
        assert found["minimal_logit"][y] == float(own.min())
        assert found["lipschitz"]["at_minimum"][y] <= found["lipschitz"]["maximum"][y]
    prior = np.array(COUNTS) / sum(COUNTS)
    terms = np.sqrt(prior) * np.array(found["lipschitz"]["maximum"])
    assert found["sum"]["maximum"]["total"] == pytest.approx(terms.sum())


def test_class_bound_on_a_case_worked_by_hand():
    # Two classes, one image each, plain cross-entropy: 1 - p is sigmoid of the logit difference, b is sqrt 2.
    logits = torch.tensor([[2.0, 0.0], [1.0, 1.0]])
    found = measures.class_bound(logits, torch.tensor([0, 1]), [3, 1], Objective(CrossEntropy()))
    first, second = 2**0.5 / (1 + np.e**2), 2**0.5 / 2
    assert found["minimal_logit"] == [2.0, 1.0]
    assert found["lipschitz"]["at_minimum"] == pytest.approx([first, second])
    assert found["sum"]["at_minimum"]["total"] == pytest.approx(0.75**0.5 * first + 0.25**0.5 * second)
    with pytest.raises(ValueError, match="class 1"):
        measures.class_bound(logits, torch.tensor([0, 0]), [3, 1], Objective(CrossEntropy()))


@given(st.lists(st.integers(1, 10_000), min_size=2, max_size=100))
def test_proposition_2_with_at_most_and_equality_at_uniform_priors(counts):
    """sum_y sqrt(prior_y) <= sqrt(C), Cauchy-Schwarz, with equality exactly at uniform priors: the weighting by class that
    Eq. 16 has is never looser than the worst class's constant taken for all."""
    prior = np.array(counts) / sum(counts)
    total, bound = float(np.sqrt(prior).sum()), len(counts) ** 0.5
    assert total <= bound * (1 + 1e-12)
    if max(counts) >= 2 * min(counts):
        assert total < bound * (1 - 1e-6)
    uniform = np.full(len(counts), 1 / len(counts))
    assert float(np.sqrt(uniform).sum()) == pytest.approx(bound)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), functions=st.integers(2, 6))
def test_lemma_5_data_dependent_contraction_on_finite_classes(seed, functions):
    """Complexity of the loss class is at most sum over classes of prior_y * sqrt 2 * mu_y * complexity on class y.

    Checked without sampling: every sign vector of 8 images (2^8) for the loss class, every sign matrix of a class's images
    for the vector-valued functions. mu_y is the class's own Lipschitz constant over the finite set, by brute force.
    """
    import itertools

    rng = np.random.default_rng(seed)
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    outputs = rng.normal(size=(functions, len(labels), 2)) * 2
    z = torch.as_tensor(outputs)
    lost = -z.log_softmax(2)[:, torch.arange(len(labels)), torch.as_tensor(labels)].numpy()
    n = len(labels)
    signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    loss_complexity = (signs @ lost.T / n).max(axis=1).mean()

    bound = 0.0
    for y in (0, 1):
        own = np.flatnonzero(labels == y)
        pairs = [
            (abs(lost[a, i] - lost[b, i]), np.linalg.norm(outputs[a, i] - outputs[b, i]))
            for a in range(functions) for b in range(a) for i in own
        ]  # fmt: skip
        mu = max(difference / distance for difference, distance in pairs if distance > 0)
        matrix = np.array(list(itertools.product((-1, 1), repeat=2 * len(own))))
        flat = outputs[:, own].reshape(functions, -1)
        bound += len(own) / n * 2**0.5 * mu * (matrix @ flat.T / len(own)).max(axis=1).mean()
    assert loss_complexity <= bound + 1e-12


# --- on another device ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["CE+DRW", "LDAM+DRW", "VS+TLA+ADRW+SAM"])
def test_an_accelerator_is_near_the_cpu_and_resumes_bit_for_bit(short_paper, digits, method, accelerator, tmp_path):
    cell = cells_of(short_paper, method)[0]
    numerics.enter(numerics.mode(cell.programme.start.network, accelerator))
    states = {}
    for name, device in (("cpu", CPU), ("there", accelerator), ("again", accelerator)):
        data = DeviceData(split(digits, cell.programme.start.data), cell.programme, device)
        states[name] = through(cell.programme, data, 3 if name == "again" else None, tmp_path / "halfway.pt")
    assert_equal(weights(states["there"]), weights(states["again"]))
    assert states["there"].history.loss[0] == pytest.approx(states["cpu"].history.loss[0], rel=2e-2)
    assert isinstance(states["there"], State) and os.path.exists(tmp_path / "halfway.pt")
