"""Chains of stages, what they hand over, and adjustments: against the plain loop, alone, shared and resumed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training import assert_equal, run, through, told, train_until

from papers import wb
from replicate import adjust, grid
from replicate.data.longtail import split
from replicate.engine import loop, numerics, plain
from replicate.engine.cell import Stopped, train_cell
from replicate.engine.loop import DeviceData
from replicate.protocol import (
    AdditiveAdjustment,
    Column,
    Grid,
    MultiplicativeAdjustment,
    Stage,
    Switch,
    TauNormalisation,
)
from replicate.record import Store

CPU = torch.device("cpu")
VALUES = {**wb.DIGITS, "epochs": 3, "second": 3, "taus": (0.0, 1.0, 2.0), "gammas": (0.0, 0.5)}
LT = replace(wb.DIGITS_LT, values=VALUES)
MLP = replace(wb.MLP_DIGITS, values=VALUES)
METHODS = {**wb.METHODS, **wb.FIGURE_6, **wb.FIGURE_2}
PAPER = replace(
    wb.PAPER,
    columns=(LT, MLP),
    grids={
        "table": Grid("short", METHODS, (LT,), {"constant": (0.2,)}),
        "mlp": Grid("short", {m: METHODS[m] for m in ("Naive", "WD", "WD w/o shift", "WB")}, (MLP,)),
    },
)


def cell_of(method: str, grid_name: str = "table", **changes: object) -> grid.Cell:
    paper = PAPER
    if changes:
        column = replace(LT, values={**VALUES, **changes})
        paper = replace(PAPER, grids={"table": Grid("short", METHODS, (column,), {"constant": (0.2,)})})
    return grid.cells(paper, grid_name, methods=[method])[0]


@pytest.fixture(scope="module")
def data(digits):
    programme = cell_of("WD").programme
    return DeviceData(split(digits, programme.start.data), programme, CPU)


@pytest.fixture(scope="module")
def balanced(digits):
    programme = cell_of("WD", "mlp").programme
    return DeviceData(split(digits, programme.start.data), programme, CPU)


def trained(cell: grid.Cell, data: DeviceData, seed: int = 0):
    state = loop.start(cell.programme, seed, CPU)
    for epoch in range(1, cell.programme.length + 1):
        loop.train_epoch(state, cell.programme.epoch(epoch), data, seed)
    return state


# --- the fast path equals the plain path ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("CB", {}),
        ("WB", {}),
        ("WB", {"projection": "batch"}),
        ("WD+WD&Norm&CB", {}),
        ("WD w/o BN", {}),
        ("WD w/o shift", {}),
        ("WD fixed BN&ETF", {}),
        ("WD&FR&ETF", {}),
        ("WD&ETF&DR", {}),
    ],
)
def test_loop_equals_the_plain_loop_bit_for_bit(method, changes, data, one_thread):
    cell = cell_of(method, **changes)
    state = trained(cell, data, seed=3)
    model, epochs = plain.train(cell.programme, data, 3, memory_format=torch.channels_last)
    assert_equal(dict(model.state_dict()), dict(state.handed_over().state_dict()))
    assert [t.tolist() for t in state.history.train] == [e["train"] for e in epochs]
    assert [t.sum(0).tolist() for t in state.history.test] == [e["test"] for e in epochs]
    assert [t.tolist() for t in state.history.validation] == [e["validation"] for e in epochs]
    assert state.history.loss == pytest.approx([e["loss"] for e in epochs], rel=1e-12)


def test_a_perceptron_equals_the_plain_loop_bit_for_bit(balanced, one_thread):
    cell = cell_of("WB", "mlp")
    state = trained(cell, balanced, seed=1)
    model, _ = plain.train(cell.programme, balanced, 1, memory_format=torch.channels_last)
    assert_equal(dict(model.state_dict()), dict(state.handed_over().state_dict()))


# --- what a stage does ------------------------------------------------------------------------------------------------


def test_second_stage_starts_from_the_best_epoch_on_validation_and_trains_the_head_alone(data):
    cell = cell_of("WB")
    state = loop.start(cell.programme, 0, CPU)
    kept = {}
    for epoch in (1, 2, 3):
        loop.train_epoch(state, cell.programme.epoch(epoch), data, 0)
        kept[epoch] = {name: value.clone() for name, value in state.model.state_dict().items()}
    hits = [int(v.sum()) for v in state.history.validation]  # classes of the validation split are of equal size
    best = hits.index(max(hits)) + 1
    assert state.handed_over_epoch == best
    assert_equal(kept[best], dict(state.handed_over().state_dict()))
    # Make the hand-over visible: another epoch than the last must be taken up.
    state.best, state.best_epoch = kept[1], 1
    loop.train_epoch(state, cell.programme.epoch(4), data, 0)
    after = state.model.state_dict()
    for name, value in kept[1].items():
        if "running" in name or "tracked" in name:
            assert not torch.equal(after[name], value), name  # batch norm stays in training mode
        elif name.startswith("backbone"):
            assert torch.equal(after[name], value), name
        else:
            assert not torch.equal(after[name], value), name
    assert set(state.optimiser.state) == set(state.model.head.parameters())
    assert state.stage_epoch == 1 and state.best_epoch == 4


@pytest.mark.parametrize("halves", [False, True])
def test_ties_go_to_the_earlier_epoch_and_unequal_classes_weigh_alike(halves, data):
    state = loop.start(cell_of("WD").programme, 0, CPU)
    curve, sizes = [], [10, 2]

    def after(epoch, *correct):
        state.epoch = epoch
        counts = torch.tensor(correct)
        curve.append(torch.stack([counts // 2, counts - counts // 2]) if halves else counts)
        state.keep_best(curve, sizes)
        return state.best_epoch

    assert after(1, 5, 0) == 1
    assert after(2, 0, 1) == 1  # one of two is as good as five of ten, and later
    assert after(3, 6, 0) == 3
    assert after(4, 2, 1) == 4  # fewer images, but 0.2 + 0.5 > 0.6


@pytest.mark.parametrize("each", ["epoch", "batch"])
def test_max_norm_bounds_class_vectors_by_the_classifier_that_was_handed_over(data, each):
    cell = cell_of("WB", projection=each)
    state = loop.start(cell.programme, 0, CPU)
    for epoch in (1, 2, 3):
        loop.train_epoch(state, cell.programme.epoch(epoch), data, 0)
    norms = np.linalg.norm(state.handed_over().head.weight.detach().double().numpy(), axis=1)
    for epoch in (4, 5, 6):
        loop.train_epoch(state, cell.programme.epoch(epoch), data, 0)
        assert float(state.bound) == pytest.approx(norms.min() + 0.1 * (norms.max() - norms.min()), rel=1e-6)
        assert float(state.model.head.weight.detach().norm(dim=1).max()) <= float(state.bound) * (1 + 1e-6)


def test_rows_are_scaled_to_length_one_before_the_second_stage(data, monkeypatch):
    cell, seen = cell_of("WD+WD&Norm&CB"), []
    step = loop.step

    def spy(state, *rest):
        seen.append(state.model.head.weight.detach().norm(dim=1).clone())
        return step(state, *rest)

    monkeypatch.setattr(loop, "step", spy)
    trained(cell, data)
    steps = -(-len(data.train_labels) // 32)
    assert torch.allclose(seen[3 * steps], torch.ones(10))
    assert not torch.allclose(seen[3 * steps + 1], torch.ones(10), atol=1e-6)


def test_fixed_batch_norm_stays_fixed_and_the_etf_stays_where_it_is(data):
    cell = cell_of("WD fixed BN&ETF")
    before = loop.start(cell.programme, 0, CPU).model.head.weight.clone()
    state = trained(cell, data)
    assert torch.equal(state.model.head.weight, before)
    for module in state.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.full_like(module.weight, 0.2))
            assert not module.bias.any()


def test_forgetting_follows_every_image_as_a_loop_over_epochs_would(data, monkeypatch):
    cell, batches = cell_of("WD"), []
    step = loop.step

    def spy(state, images, labels, *rest):
        loss, logits = step(state, images, labels, *rest)
        batches.append((logits.argmax(dim=1) == labels).tolist())
        return loss, logits

    monkeypatch.setattr(loop, "step", spy)
    state = trained(cell, data, seed=5)
    count = len(data.train_labels)
    hits = [hit for batch in batches for hit in batch]
    history = np.zeros((3, count), dtype=bool)
    for epoch in range(3):
        order = torch.randperm(count, generator=loop.generator(5, "order", epoch + 1)).numpy()
        history[epoch, order] = hits[epoch * count : (epoch + 1) * count]
    forgotten = (history[:-1] & ~history[1:]).sum(axis=0)
    assert state.observed["forgotten"].tolist() == forgotten.tolist()
    assert state.observed["ever_correct"].tolist() == history.any(axis=0).tolist()
    assert int(state.observed["epochs"]) == 3 and forgotten.sum() > 0


# --- shared and resumed -----------------------------------------------------------------------------------------------


def test_shared_stages_change_no_number(digits, tmp_path, silent):
    names = ["WD", "WD/Add", "WD/Mult", "WB", "WD+WD&Norm&CB"]
    planned = [cell_of(name) for name in names]
    shared = Store(tmp_path / "shared")
    outcome = run(planned, shared, digits, silent)
    assert outcome.trained == 5
    assert outcome.epochs == grid.cost(planned).epochs_shared == 3 + 3 + 3  # adjustments train nothing
    for place, cell in enumerate(planned):
        lone = Store(tmp_path / f"lone{place}")
        assert run([cell], lone, digits, silent).epochs == cell.programme.length
        assert told(lone.of(cell, digits.edition)) == told(shared.of(cell, digits.edition))
    again = run(planned, shared, digits, silent)
    assert (again.before, again.trained, again.epochs) == (5, 0, 0)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_resuming_in_either_stage_and_between_them_changes_no_number(stop, digits, data, tmp_path):
    cell, store = cell_of("WB"), Store(tmp_path)
    mode = numerics.mode(cell.programme.start.network, CPU)
    numerics.enter(mode)
    expected = trained(cell, data)
    with pytest.raises(Stopped):
        train_until(stop, cell, data, store, digits.edition, mode)
    _, state = train_cell(cell, data, store, digits.edition, mode)
    assert_equal(expected.tensors(), state.tensors())


def test_checkpoints_of_the_version_before_are_gone_on_from(digits, data, tmp_path):
    cell = cell_of("Naive")
    state = loop.start(cell.programme, 0, CPU)
    loop.train_epoch(state, cell.programme.epoch(1), data, 0)
    old = {
        name: value
        for name, value in state.tensors().items()
        if name.partition("/")[0] not in ("observed", "best", "best_epoch", "stage_epoch")
    }
    fresh = loop.start(cell.programme, 0, CPU)
    fresh.load(old)
    loop.train_epoch(state, cell.programme.epoch(2), data, 0)
    loop.train_epoch(fresh, cell.programme.epoch(2), data, 0)
    assert torch.equal(state.model.head.weight, fresh.model.head.weight)
    assert not fresh.observed  # what happened before is not known, so nothing is said of it


# --- adjustments ------------------------------------------------------------------------------------------------------


def test_adjusted_logits_against_float64_formulas():
    rng = np.random.default_rng(0)
    features, weight, bias = rng.normal(size=(7, 4)), rng.normal(size=(3, 4)), rng.normal(size=3)
    counts = [50, 10, 2]
    prior = np.array(counts) / 62
    head = torch.nn.Linear(4, 3)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    expected = {
        AdditiveAdjustment((1.25,)): features @ weight.T + bias - 1.25 * np.log(prior),
        MultiplicativeAdjustment((1.25,)): (features @ unit.T + bias) * prior**-1.25,
        MultiplicativeAdjustment((1.25,), unit_rows=False): (features @ weight.T + bias) * prior**-1.25,
        TauNormalisation((1.25,)): features @ (weight / np.linalg.norm(weight, axis=1, keepdims=True) ** 1.25).T + bias,
    }
    for adjustment, formula in expected.items():
        found = adjust.adjusted_logits(adjustment, 1.25, torch.from_numpy(features).float(), head, adjust.log_prior(counts))
        np.testing.assert_allclose(found.numpy(), formula, rtol=2e-5, atol=2e-5)
    with pytest.raises(ValueError, match="no class vectors and bias"):
        adjust.adjusted_logits(AdditiveAdjustment((1.0,)), 1.0, torch.zeros(1, 4), torch.nn.Identity(), torch.zeros(3))


def test_an_adjusted_record_counts_what_plain_evaluation_counts(digits, data, tmp_path, silent):
    cell, store = cell_of("WD/Add"), Store(tmp_path)
    run([cell_of("WD"), cell], store, digits, silent)
    record = store.of(cell, digits.edition)
    state = trained(cell_of("WD"), data)
    prior = np.array(data.counts) / sum(data.counts)
    assert record.adjusted["parameter"] == "tau" and record.adjusted["values"] == [0.0, 1.0, 2.0]
    for name, model, epoch in (
        ("handed over", state.handed_over(), state.best_epoch),
        ("last", state.model, 3),
    ):
        model.eval()
        there = record.adjusted[name]
        assert there["epoch"] == epoch
        with torch.no_grad():
            logits = model(data.test.feeder.plain(0, 600)).numpy()
        for place, tau in enumerate((0.0, 1.0, 2.0)):
            hits = (logits - tau * np.log(prior)).argmax(axis=1) == data.test.labels.numpy()
            for half in (0, 1):
                for group, (first, last) in cell.column.groups.items():
                    of = (
                        (data.test.half.numpy() == half)
                        & (data.test.labels.numpy() >= first)
                        & (data.test.labels.numpy() < last)
                    )
                    assert there["test"][half][group][place] == int(hits[of].sum())
            share = record.adjusted_accuracy("test", last=name == "last")[place]
            assert share == pytest.approx(hits.mean())
    # Without adjustment it is the classifier that was handed over.
    assert record.adjusted_accuracy("test")[0] == pytest.approx(record.accuracy("test")[state.best_epoch - 1])
    assert record.adjusted_accuracy("validation")[0] == pytest.approx(record.accuracy("validation")[state.best_epoch - 1])


def test_nothing_is_adjusted_where_training_failed(digits, tmp_path, silent):
    cells = []
    for name in ("WD", "WD/Add"):
        cell = cell_of(name)
        runs = tuple((count, replace(row, rate=1e30)) for count, row in cell.programme.runs)
        cells.append(replace(cell, programme=replace(cell.programme, runs=runs)))
    outcome = run(cells, Store(tmp_path), digits, silent)
    assert len(outcome.failed) == 2 and outcome.trained == 0
    assert Store(tmp_path).of(cells[1], digits.edition).failed == Store(tmp_path).of(cells[0], digits.edition).failed


@pytest.mark.parametrize("method", ["WB", "WD&FR&ETF", "WD fixed BN&ETF"])
def test_chains_on_an_accelerator_are_near_the_cpu_and_resume_bit_for_bit(method, digits, accelerator, tmp_path):
    cell = cell_of(method)
    numerics.enter(numerics.mode(cell.programme.start.network, accelerator))
    states = {}
    for name, device in (("cpu", CPU), ("there", accelerator), ("again", accelerator)):
        part = DeviceData(split(digits, cell.programme.start.data), cell.programme, device)
        states[name] = through(cell.programme, part, 2 if name == "again" else None, tmp_path / "halfway.pt")
    assert_equal(states["there"].tensors(), states["again"].tensors())
    assert states["there"].history.loss[0] == pytest.approx(states["cpu"].history.loss[0], rel=2e-2)


# --- records of chains ------------------------------------------------------------------------------------------------


def test_a_record_of_two_stages_knows_its_stages_and_chooses_in_the_last(digits, data, tmp_path, silent):
    cell, store = cell_of("WB"), Store(tmp_path)
    run([cell], store, digits, silent)
    record = store.of(cell, digits.edition)
    assert record.stage_starts == [1, 4] and record.epochs == 6
    validation = record.accuracy("validation")
    assert record.best["validation"] == 4 + validation[3:].index(max(validation[3:]))
    assert all(epoch >= 4 for epoch in record.best.values())
    groups = [record.accuracy("test", group=name)[-1] for name in ("Many", "Medium", "Few")]
    assert record.accuracy("test")[-1] == pytest.approx((4 * groups[0] + 3 * groups[1] + 3 * groups[2]) / 10)


def test_balanced_accuracy_of_classes_that_differ_in_size():
    from replicate.record import Record

    record = Record(
        key="", seed=0, programme_key="", source="mnist", edition="official", spec={}, class_counts=[3, 3],
        groups={"0": [0, 1], "1": [1, 2]}, epochs=1,
        curves={"test": [{"0": [2], "1": [1]}, {"0": [2], "1": [0]}], "validation": {"0": [3], "1": [1]}},
        totals={"test": [{"0": 5, "1": 1}, {"0": 5, "1": 1}], "validation": {"0": 4, "1": 1}},
        per_class={}, best={}, environment={}, fingerprint="",
    )  # fmt: skip
    assert record.accuracy("test") == [pytest.approx((4 / 10 + 1 / 2) / 2)]
    assert record.accuracy("test", half=1) == [pytest.approx((2 / 5 + 0) / 2)]
    assert record.accuracy("validation") == [pytest.approx((3 / 4 + 1) / 2)]
    assert record.accuracy("validation", group="0") == [pytest.approx(3 / 4)]
    assert record.accuracy("train") == []


def test_a_stage_that_chooses_on_validation_needs_a_validation_split():
    data = replace(wb.C10_DATA, validation=None)
    column = Column("cifar10-lt", 100, ("x",), data, "resnet34_3x3", wb.ZETA_10, wb.SHOTS_C10)
    with pytest.raises(ValueError, match="has no validation split"):
        grid.compile_method(wb.METHODS["WD"], column, column.values)


def test_switches_go_on_within_the_first_stage_of_a_chain():
    method = replace(
        wb.METHODS["WB"], switches=(Switch(2, (("weights", wb.BALANCED.weights),)),)
    )  # a deferred re-weighting, then a second stage
    programme = grid.compile_method(method, LT, VALUES)
    assert [programme.epoch(e).objective.weights for e in range(1, 7)] == [None] * 2 + [wb.BALANCED.weights] * 4
    assert programme.stage_starts == (1, 4) and programme.switches == (2, 3)
    assert isinstance(method.later[0], Stage) and programme.epoch(4).begins and not programme.epoch(5).begins
