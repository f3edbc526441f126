"""Stages that train a classifier on a frozen backbone: heads of another form, batch norm in evaluation mode, class-balanced
draws, mirrored images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from training import assert_equal

from papers import wb
from replicate import grid
from replicate.data.longtail import split
from replicate.engine import loop, plain
from replicate.engine.keyed import generator
from replicate.engine.loop import DeviceData
from replicate.models.heads import CosineHead, ScalingHead
from replicate.protocol import (
    BEST_ON_TEST,
    BEST_ON_VALIDATION,
    CLASS_BALANCED,
    EVALUATING,
    Cosine,
    Crop,
    CrossEntropy,
    EffectiveNumber,
    Feed,
    LogitsRetargeting,
    Method,
    Objective,
    Sgd,
    SoftmaxBinaryCrossEntropy,
    Stage,
)

CPU = torch.device("cpu")
#: By the head of the second stage.
OBJECTIVES = {
    None: Objective(LogitsRetargeting(0.98)),
    "cosine": Objective(CrossEntropy(), scale=16.0),
    "scaling": Objective(SoftmaxBinaryCrossEntropy(), EffectiveNumber(0.9999), "batch"),
}
HEADS = list(OBJECTIVES)


def programme_of(head=None, sampler=None, mirrored=False, first=2, second=3, **changes):
    """Cross-entropy with a linear head, then a classifier on the frozen backbone."""
    sgd = Sgd(Cosine(0.1, first), weight_decay=5e-3)
    stage = Stage(first, Objective(CrossEntropy()), sgd, Feed(32, Crop(1)), hands_over=changes.pop("first_hands_over", None))
    frozen = {"trained": "head", "batch_norm": EVALUATING, "head": head, **changes}
    sgd = Sgd(Cosine(0.1, second), weight_decay=5e-3)
    later = Stage(second, OBJECTIVES[head], sgd, Feed(32, Crop(1), sampler), **frozen)
    column = replace(wb.DIGITS_LT, data=replace(wb.DIGITS_DATA, mirrored=mirrored))
    return grid.compile_method(Method(stage).followed_by(later), column, column.values)


@pytest.fixture(scope="module")
def data(digits):
    """By whether images are also evaluated mirrored."""
    made = {}
    for mirrored in (False, True):
        programme = programme_of(mirrored=mirrored)
        made[mirrored] = DeviceData(split(digits, programme.start.data), programme, CPU)
    return made


def trained(programme, data, seed=0, until=None, state=None):
    state = state or loop.start(programme, seed, CPU)
    for epoch in range(state.epoch + 1, (until or programme.length) + 1):
        loop.train_epoch(state, programme.epoch(epoch), data, seed)
    return state


def weights(state):
    return {name: value.clone() for name, value in state.model.state_dict().items()}


# --- the fast path equals the plain path ------------------------------------------------------------------------------


def assert_equals_the_plain_loop(programme, data, seed):
    state = trained(programme, data, seed)
    model, epochs = plain.train(programme, data, seed, memory_format=torch.channels_last)
    assert type(model.head) is type(state.model.head)
    assert_equal(dict(model.state_dict()), dict(state.handed_over().state_dict()))
    assert [t.tolist() for t in state.history.train] == [e["train"] for e in epochs]
    assert [t.sum(0).tolist() for t in state.history.test] == [e["test"] for e in epochs]
    assert [t.tolist() for t in state.history.validation] == [e["validation"] for e in epochs]
    assert state.history.loss == pytest.approx([e["loss"] for e in epochs], rel=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("sampler", [None, CLASS_BALANCED])
@pytest.mark.parametrize("head", HEADS)
def test_loop_equals_the_plain_loop_bit_for_bit(head, sampler, mirrored, data, one_thread):
    assert_equals_the_plain_loop(programme_of(head, sampler, mirrored), data[mirrored], seed=3)


@pytest.mark.parametrize(
    "changes",
    [
        {"trained": None},  # weights of the backbone move, its running statistics do not
        {"sam_radius": 0.1},
        {"first_hands_over": BEST_ON_VALIDATION, "hands_over": BEST_ON_VALIDATION},
        {"first_hands_over": BEST_ON_TEST, "hands_over": BEST_ON_TEST},
    ],
)
@pytest.mark.parametrize("head", HEADS)
def test_other_such_stages_equal_the_plain_loop_bit_for_bit(head, changes, data, one_thread):
    assert_equals_the_plain_loop(programme_of(head, **changes), data[False], seed=1)


# --- what such a stage does -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("head", "names"), [(None, {"weight", "bias"}), ("cosine", {"weight"}), ("scaling", {"scales"})])
def test_the_classifier_alone_moves(head, names, data):
    programme = programme_of(head)
    state = trained(programme, data[False], until=2)
    before, old_head = weights(state), state.model.head
    trained(programme, data[False], until=3, state=state)
    after = weights(state)
    kept = {name for name in before if name in after and torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("backbone")} <= kept  # running statistics and their count included
    assert not kept & {f"head.{name}" for name in names}
    if head == "scaling":
        assert {"head.weight", "head.bias"} <= kept and isinstance(state.model.head, ScalingHead)
    elif head == "cosine":
        assert "head.bias" not in after and isinstance(state.model.head, CosineHead)
    else:
        assert state.model.head is old_head
    held = [id(parameter) for group in state.optimiser.param_groups for parameter in group["params"]]
    own = dict(state.model.head.named_parameters())
    assert set(own) == names and held == [id(parameter) for parameter in own.values()]
    assert set(state.optimiser.state) == set(own.values())


@pytest.mark.parametrize("part", [None, "head"])
def test_batch_norm_in_evaluation_mode_keeps_its_statistics(part, data):
    programme = programme_of(trained=part)
    state = trained(programme, data[False], until=2)
    before = weights(state)
    trained(programme, data[False], state=state)
    for name, value in weights(state).items():
        if "running" in name or "tracked" in name:
            assert torch.equal(value, before[name]), name
        elif name.startswith("backbone"):
            assert torch.equal(value, before[name]) == (part == "head"), name


def test_unknown_modes_are_refused(data):
    programme = programme_of()
    row = programme.epoch(1)
    for wrong, told in ((replace(row, batch_norm="sleeping"), "'sleeping'"), (replace(row, head="etf", begins=True), "'etf'")):
        with pytest.raises(ValueError, match=told):
            loop.train_epoch(loop.start(programme, 0, CPU), wrong, data[False], 0)


# --- class-balanced draws ---------------------------------------------------------------------------------------------


def row_of(sampler, batches=None):
    return replace(programme_of(sampler=sampler).epoch(3), batches=batches)


def test_without_a_sampler_an_epoch_shows_what_it_always_did():
    labels = torch.arange(50) % 7
    order = torch.randperm(50, generator=generator(4, "order", 9))
    assert torch.equal(loop.shown(row_of(None), labels, 4, 9), order)
    assert torch.equal(loop.shown(row_of(None, batches=1), labels, 4, 9), order[:32])


def test_class_balanced_draws_are_uniform_over_classes_and_within_them():
    sizes = np.array([int(500 * 0.01 ** (c / 99)) for c in range(100)])
    shuffled = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(100), sizes)))
    row = row_of(CLASS_BALANCED)
    orders = [loop.shown(row, shuffled, 0, number) for number in range(1, 41)]
    assert all(order.dtype == torch.int64 and len(order) == sizes.sum() for order in orders)
    drawn = np.bincount(torch.cat(orders).numpy(), minlength=sizes.sum())
    labels = shuffled.numpy()
    of_class = np.bincount(labels, weights=drawn)
    assert stats.chisquare(of_class).pvalue > 0.01
    # Within a class, each image as often as another.
    statistic = sum(stats.chisquare(drawn[labels == c]).statistic for c in range(100))
    assert 0.005 < stats.chi2.sf(statistic, sizes.sum() - 100) < 0.995
    # Epochs and seeds draw their own, and the same again; a shortened epoch is the beginning of a whole one.
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], loop.shown(row, shuffled, 1, 1))
    assert torch.equal(orders[0], loop.shown(row, shuffled, 0, 1))
    assert torch.equal(orders[0][:64], loop.shown(row_of(CLASS_BALANCED, batches=2), shuffled, 0, 1))


def test_class_balanced_draws_leave_out_classes_without_images():
    labels = torch.tensor([9, 3, 9, 9, 3, 9])
    shown = torch.cat([loop.shown(row_of(CLASS_BALANCED), labels, 0, number) for number in range(1, 200)])
    assert set(shown.tolist()) == set(range(6))
    assert abs(int((labels[shown] == 3).sum()) - 597) < 5 * np.sqrt(1194 / 4)


def test_unknown_samplers_are_refused():
    with pytest.raises(ValueError, match="'careless'"):
        loop.shown(row_of("careless"), torch.zeros(5, dtype=torch.int64), 0, 1)


def test_single_images_are_followed_only_where_each_is_shown_once(data):
    for sampler in (None, CLASS_BALANCED):
        state = trained(programme_of(sampler=sampler), data[False])
        assert bool(state.observed) == (sampler is None)
    # What was right is counted of what was shown.
    shown = data[False].train_labels[loop.shown(row_of(CLASS_BALANCED), data[False].train_labels, 0, 5)]
    assert (state.history.train[-1] <= torch.bincount(shown, minlength=10)).all()


# --- mirrored images --------------------------------------------------------------------------------------------------


def test_evaluation_averages_the_logits_of_an_image_and_its_mirror_image(data):
    state = trained(programme_of(mirrored=True), data[True], until=2)
    model, test = state.model.eval(), data[True].test
    found = loop.evaluate(model, test, 10)
    expected = np.zeros((2, 10), dtype=int)
    views = loop.views_of(model, test)
    with torch.no_grad():
        for place in range(len(test)):
            image = test.feeder.plain(place, place + 1)
            features = [model.backbone(torch.from_numpy(x)) for x in (image.numpy(), image.numpy()[..., ::-1].copy())]
            torch.testing.assert_close(views[:, place], torch.cat(features), rtol=1e-4, atol=1e-5)
            mean = sum(model.head(one).double() for one in features) / 2
            expected[int(test.half[place]), int(test.labels[place])] += int(mean.argmax()) == int(test.labels[place])
    assert found.tolist() == expected.tolist()
    assert found.tolist() != loop.evaluate(model, data[False].test, 10).tolist()
    features = loop.features_of(model, test)
    assert torch.equal(features, views.mean(dim=0))
    with torch.no_grad():
        torch.testing.assert_close(model.head(features), model.head(views.clone()).mean(dim=0))
    assert data[True].validation.mirrored


def test_images_without_a_mirror_image_have_one_view(data):
    state = loop.start(programme_of(), 0, CPU)
    views = loop.views_of(state.model, data[False].test)
    assert len(views) == 1 and torch.equal(views[0], loop.features_of(state.model, data[False].test))
    with torch.inference_mode():
        assert torch.equal(views[0][:500], state.model.backbone(data[False].test.feeder.plain(0, 500)))
    images, mirrored = data[True].test.views(0, 3)
    assert torch.equal(mirrored, images.flip(3)) and mirrored.is_contiguous(memory_format=torch.channels_last)


# --- resumed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [2, 3, 4])
@pytest.mark.parametrize(("head", "sampler"), [(None, None), ("cosine", CLASS_BALANCED), ("scaling", None)])
def test_resuming_in_such_a_stage_changes_no_number(head, sampler, stop, data, tmp_path):
    programme = programme_of(head, sampler, first_hands_over=BEST_ON_VALIDATION)
    expected = trained(programme, data[False], until=stop)
    expected.save(tmp_path / "stopped.pt")
    resumed = loop.start(programme, 0, CPU)
    assert resumed.restore(tmp_path / "stopped.pt")
    assert_equal(expected.tensors(), resumed.tensors())
    for state in (expected, resumed):
        trained(programme, data[False], state=state)
    assert_equal(expected.tensors(), resumed.tensors())


def test_a_checkpoint_is_loaded_whatever_form_the_head_has_at_the_time(data):
    states = {head: trained(programme_of(head), data[False], until=3) for head in HEADS}
    told = {head: {name: value.clone() for name, value in state.tensors().items()} for head, state in states.items()}
    for state in states.values():
        for head in HEADS:
            state.load(told[head])
            assert_equal(told[head], state.tensors())
            again = trained(programme_of(head), data[False], until=4, state=state)
            assert_equal(again.tensors(), trained(programme_of(head), data[False], until=4).tensors())
    with pytest.raises(KeyError):
        state.load({name: value for name, value in told[None].items() if "head" not in name})
