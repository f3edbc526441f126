"""Measures of small trained states on real digits: what they are made of, where they apply, and that they are JSON."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from papers import unified_bound, wb
from replicate import grid
from replicate.data.longtail import split
from replicate.engine import loop
from replicate.engine.loop import DeviceData
from replicate.measures import MEASURES, applies, second_stage, separation
from replicate.measures.features import augmented_features, training_features
from replicate.measures.fisher import fisher_discriminant_ratio
from replicate.protocol import BEST_ON_VALIDATION, Grid

CPU = torch.device("cpu")
VALUES = {**wb.DIGITS, "epochs": 4, "second": 3, "taus": (1.0,), "gammas": (0.5,)}
LT, MLP = replace(wb.DIGITS_LT, values=VALUES), replace(wb.MLP_DIGITS, values=VALUES)
PAPER = replace(
    wb.PAPER,
    columns=(LT, MLP),
    grids={
        "table": Grid("short", wb.METHODS, (LT,), {"constant": (0.2,)}),
        "mlp": Grid("short", wb.FIGURE_2, (MLP,)),
    },
)
CELLS = {
    name: grid.cells(PAPER, which, methods=[name], seeds=(1,))[0]
    for which, name in (("table", "WB"), ("table", "WD&ETF"), ("table", "WD fixed BN"), ("mlp", "WD"))
}


@pytest.fixture(scope="module")
def trained(digits):
    """By method: a state after its last epoch, and its data."""
    found = {}
    for name, cell in CELLS.items():
        data = DeviceData(split(digits, cell.programme.start.data), cell.programme, CPU)
        state = loop.start(cell.programme, cell.seed, CPU)
        for epoch in range(1, cell.programme.length + 1):
            loop.train_epoch(state, cell.programme.epoch(epoch), data, cell.seed)
        found[name] = state, data
    return found


@pytest.fixture(scope="module")
def measured(trained):
    """By method and measure: what the measures of the paper say of it."""
    return {
        name: {measure: MEASURES[measure](state, data, CELLS[name]) for measure in PAPER.measures}
        for name, (state, data) in trained.items()
    }


def test_measures_apply_where_their_cells_say(measured):
    there = {name: {measure for measure, told in found.items() if told is not None} for name, found in measured.items()}
    assert there == {
        "WB": {"separation", "forgetting", "second_stage"},
        "WD&ETF": {"separation", "forgetting", "etf_cosine"},
        "WD fixed BN": {"separation", "forgetting"},
        "WD": {"separation", "forgetting", "relu_fdr"},
    }
    for name, cell in CELLS.items():
        assert {measure for measure in PAPER.measures if applies(measure, cell)} == there[name]
    with pytest.raises(KeyError, match="no_such"):
        applies("no_such", CELLS["WB"])
    other = grid.cells(unified_bound.PAPER, "table", columns=[unified_bound.DIGITS_LT], methods=["LDAM"])[0]
    assert [measure for measure in MEASURES if applies(measure, other)] == ["class_bound", "separation", "forgetting", "logits"]
    quick = grid.cells(PAPER, "table", methods=["WD"], quick=True)[0]
    assert not applies("forgetting", quick)  # an epoch shows other images each time
    programme = CELLS["WD"].programme
    start = replace(programme.start, data=replace(programme.start.data, validation=None))
    assert not applies("relu_fdr", replace(CELLS["WD"], programme=replace(programme, start=start)))


def test_measures_are_plain_json_and_have_every_number_that_a_table_prints(measured):
    for found in measured.values():
        for told in found.values():
            assert json.loads(json.dumps(told, allow_nan=False)) == told
    paths = {metric.measure for table in PAPER.tables for metric in table.metrics if metric.measure}
    assert len(paths) == 6
    for name, *keys in paths:
        told = measured["WB"][name]
        for key in keys:
            told = told[key]
        assert isinstance(told, float) and told >= 0, (name, keys)


def test_separation_is_about_the_network_that_is_handed_over(trained, measured):
    state, data = trained["WB"]
    told, model = measured["WB"]["separation"], state.handed_over()
    # Without the measure's own passes: one batch of all images, in evaluation mode.
    with torch.no_grad():
        test = model.backbone(data.test.feeder.plain(0, len(data.test.labels)))
        train = model.backbone(data.train(None).plain(0, len(data.train_labels)))
    assert told["epoch"] == state.best_epoch
    assert told["fdr"]["test"] == pytest.approx(fisher_discriminant_ratio(test, data.test.labels), rel=1e-3)
    assert told["fdr"]["train_plain"] == pytest.approx(fisher_discriminant_ratio(train, data.train_labels), rel=1e-3)
    after = fisher_discriminant_ratio(separation.random_layer(test, 1), data.test.labels)
    assert told["random_layer"]["after"] == pytest.approx(after, rel=1e-3)
    assert told["random_layer"]["before"] == told["fdr"]["test"]
    assert told["random_layer"]["train"]["before"] == told["fdr"]["train"] != told["fdr"]["train_plain"]
    assert set(told["fdr"]) == {f"{of}{mean}" for of in ("train", "train_plain", "test") for mean in ("", "_class_mean")}
    # Test classes are of equal size: both means are one.
    assert told["fdr"]["test_class_mean"] == pytest.approx(told["fdr"]["test"], rel=1e-9)
    assert told["dimensions"]["test"] <= 32
    norms = [float(test[data.test.labels == k].norm(dim=1).mean()) for k in range(10)]
    assert told["feature_norm"]["test"]["mean_of_norms"] == pytest.approx(norms, rel=1e-4)
    assert np.array(told["cosine"]["matrix"]).shape == (10, 10) and told["cosine"]["intra"] > told["cosine"]["inter"]
    rows = model.head.weight.detach().double().norm(dim=1)
    assert told["classifier_norm"]["ratio"] == pytest.approx((rows / rows[0]).tolist())
    assert told["batch_norm"]["layers"][0]["name"] == "backbone.bn1"
    assert told["norm_fit"]["mean_of_norms"]["c_0"] > 0


def test_constant_batch_norm_is_told_as_it_is(measured):
    top = measured["WD fixed BN"]["separation"]["batch_norm"]["top"]
    assert top["scale_mean"] == pytest.approx(0.2) and top["scale_sd"] == 0 and top["shift_variance"] == 0


def test_augmented_features_are_one_keyed_draw(trained):
    state, data = trained["WB"]
    model, row = state.handed_over(), CELLS["WB"].programme.epoch(1)
    first = augmented_features(model, data, row.feed.augmentation, 1)
    assert torch.equal(first, augmented_features(model, data, row.feed.augmentation, 1))
    assert not torch.equal(first, augmented_features(model, data, row.feed.augmentation, 2))
    assert torch.equal(augmented_features(model, data, None, 1), training_features(model, data))


def test_measuring_changes_no_state(trained):
    state, data = trained["WB"]
    before = {name: value.clone() for name, value in state.tensors().items()}
    for name in PAPER.measures:
        MEASURES[name](state, data, CELLS["WB"])
    assert all(torch.equal(value, before[name]) for name, value in state.tensors().items())


def test_forgetting_of_the_last_stage(trained, measured):
    state, data = trained["WB"]
    told = measured["WB"]["forgetting"]
    assert told["epochs"] == 3  # of the second stage
    scores = torch.where(state.observed["ever_correct"], state.observed["forgotten"], 3)
    assert told["score"] == pytest.approx([float(scores[data.train_labels == k].float().mean()) for k in range(10)])
    unseen = replace(state, observed={})
    assert MEASURES["forgetting"](unseen, data, CELLS["WB"]) is None


def test_relu_fdr_follows_every_step_of_the_trained_and_the_untrained_network(trained, measured):
    state, data = trained["WD"]
    told = measured["WD"]["relu_fdr"]
    names = [f"block {n} {step}" for n in (1, 2, 3) for step in ("linear", "normalised", "batch norm", "ReLU")]
    assert [row["step"] for row in told["trained"]] == [row["step"] for row in told["untrained"]] == names
    assert told["images"] == len(data.validation.labels) == 200
    with torch.no_grad():
        last = state.handed_over().backbone(data.validation.feeder.plain(0, 200))
        fresh = loop.start(CELLS["WD"].programme, 1, CPU).model.eval().backbone(data.validation.feeder.plain(0, 200))
    for row, features in ((told["trained"][-1], last), (told["untrained"][-1], fresh)):
        expected = fisher_discriminant_ratio(features, data.validation.labels)
        assert row["fdr"] == (None if expected is None else pytest.approx(expected, rel=1e-3))
    assert any(row["fdr"] is not None for row in told["trained"])


def test_etf_cosine_satisfies_every_asserted_pair(trained, measured):
    told, (state, data) = measured["WD&ETF"]["etf_cosine"], trained["WD&ETF"]
    assert told["satisfied"] == told["asserted"]
    assert told["pairs"] == sum(n * (n - 1) // 2 for n in data.counts) == sum(of["pairs"] for of in told["classes"])
    assert told["bias_norm"] == pytest.approx(float(state.handed_over().head.bias.detach().norm()))
    features = training_features(state.handed_over(), data)[data.train_labels == 9]  # two images, so one pair
    cosine = torch.nn.functional.cosine_similarity(features[0], features[1], dim=0)
    assert told["classes"][9]["pairs"] == 1 and told["classes"][9]["mean_cosine"] == pytest.approx(float(cosine), abs=1e-5)


def test_second_stage_is_held_against_its_own_objective(trained, measured):
    state, data = trained["WB"]
    told = measured["WB"]["second_stage"]
    row = CELLS["WB"].programme.epoch(7)
    assert (told["images"], told["weight_decay"], row.hands_over) == (len(data.train_labels), 0.1, BEST_ON_VALIDATION)
    assert told["harmonic_mean_of_counts"] == pytest.approx(10 / sum(1 / n for n in data.counts))
    features = training_features(state.handed_over(), data).double().numpy()
    labels = data.train_labels.numpy()
    a = second_stage.whole_batch_weights(row.objective, data.counts)
    found = second_stage.exact_minimiser(features, labels, a, 0.1)
    # What ten epochs trained costs more than the minimiser.
    head = state.handed_over().head
    weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
    assert second_stage.objective(weight, bias, features, labels, a, 0.1)[0] > found.value
    assert told["as_trained"]["exact"]["value"] == pytest.approx(found.value, rel=1e-9)
    means = np.stack([features[labels == k].mean(axis=0) for k in range(10)])
    theorem = second_stage.theorem_weights(means, data.counts, a, 0.1)
    assert told["as_trained"]["trained"]["from_theorem"]["total"] == pytest.approx(
        np.linalg.norm(weight - theorem) / np.linalg.norm(theorem)
    )
    ratio = np.array(told["beta_1"]["theorem_norms"]) / np.linalg.norm(means, axis=1)
    assert ratio == pytest.approx(np.full(10, told["harmonic_mean_of_counts"] / (0.1 * len(labels))))
    assert told["unweighted"]["class_weights"] == [1.0] * 10 and "trained" not in told["unweighted"]
    for name in ("as_trained", "beta_1", "unweighted"):
        for exact in ("exact", "exact_without_bias"):
            assert told[name][exact]["error_at_most"] < 1e-6
