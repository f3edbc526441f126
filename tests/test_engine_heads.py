"""Classifiers trained side by side on one frozen backbone: equal to those trained alone, and to the plain way."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from papers.lort import CIFAR_COLUMNS, DIGITS, DIGITS_LT, PAPER, SECOND_SGD
from replicate import grid
from replicate.data.longtail import split
from replicate.engine import cell as cell_module
from replicate.engine import heads, loop, numerics, plain
from replicate.engine.cell import Stopped, restored, train_cell
from replicate.engine.numerics import Numerics
from replicate.launch import local
from replicate.protocol import BEST_ON_TEST, CLASS_BALANCED, Cosine, Feed
from replicate.record import Store
from tests.training import assert_equal, told

ONE = Numerics("cpu", threads=1)
VALUES = {**DIGITS, "epochs": 2, "second": 3}
FIXED = {"second_feed": Feed(32), "balanced_feed": Feed(32, None, CLASS_BALANCED)}


def short(data=DIGITS_LT.data, **values):
    """The lort paper on digits, two epochs and three."""
    column = replace(DIGITS_LT, data=data, values={**VALUES, **values})
    made = grid_of(column, PAPER.grids["table"])
    return replace(PAPER, columns=(column,), grids={"table": made}, variants=())


def grid_of(column, of):
    return replace(of, columns=(column,))


def packed(paper, methods=None, seeds=(0,)):
    return [cell for cell in grid.cells(paper, "table", methods=methods, seeds=seeds) if cell.programme.frozen_from]


@pytest.fixture
def bench(digits, tmp_path, one_thread):
    """Trains cells of one pack in a store of its own, and returns what was finished, by label."""

    def data_of(cell):
        return loop.DeviceData(split(digits, cell.column.data), cell.programme, torch.device("cpu"))

    def train(cells, where="a", **how):
        data, found = data_of(cells[0]), {}
        heads.train_pack(
            cells,
            lambda key, begun: heads.Features(key, begun, data),
            data,
            Store(tmp_path / where),
            digits.edition,
            ONE,
            finished=lambda cell, record, state: found.__setitem__(cell.label, (record, state)),
            **how,
        )
        return found

    train.data_of, train.edition = data_of, digits.edition
    train.store = lambda where="a": Store(tmp_path / where)
    return train


def interrupt(bench, cells):
    """Train cells of one pack in the store ``cut`` until their time is up after the first epoch of the second stage; returns
    the file that goes on from there."""
    clock = iter([False] * 4 + [True])  # before the first epoch of the backbone and of the heads, and after each
    with pytest.raises(Stopped) as stopped:
        bench(cells, "cut", out_of_time=lambda row: next(clock))
    assert stopped.value.epoch == 3
    (file,) = bench.store("cut").root.glob(f"checkpoints/*/{cells[0].programme.pack(bench.edition)[:24]}-*")
    return file


def packs(cells):
    found = {}
    for cell in cells:
        found.setdefault(cell.programme.pack(""), []).append(cell)
    return list(found.values())


def equal(one, other):
    return told(one[0]) == told(other[0]) and all(
        torch.equal(a, b) for a, b in zip(one[1].model.state_dict().values(), other[1].model.state_dict().values(), strict=True)
    )


def test_every_second_stage_of_the_plain_sampler_is_one_pack_and_resampling_another():
    assert [len(pack) for pack in packs(packed(short()))] == [36, 4]
    assert len(packs(packed(short(**FIXED)))) == 2  # other images, though of the same features


@pytest.mark.parametrize("threads", [1, 2])
def test_classifiers_side_by_side_equal_those_trained_alone_bit_for_bit(bench, threads):
    torch.set_num_threads(threads)
    cells = packs(packed(short()))[0]
    together = bench(cells)
    assert len(together) == len(cells)
    for method in dict.fromkeys(cell.method for cell in cells):
        cell = [cell for cell in cells if cell.method == method][-1]
        alone = bench([cell], "alone")
        assert equal(together[cell.label], alone[cell.label]), method
        assert torch.equal(together[cell.label][1].test_logits, alone[cell.label][1].test_logits)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_pack_gives_what_the_plain_loop_gives(bench, mirrored):
    paper = short(replace(DIGITS_LT.data, mirrored=mirrored))
    for pack in packs(packed(paper)):
        together = bench(pack)
        for method in dict.fromkeys(cell.method for cell in pack):
            cell = [cell for cell in pack if cell.method == method][-1]
            record, state = together[cell.label]
            model, epochs = plain.train(cell.programme, bench.data_of(cell), 0, memory_format=torch.channels_last)
            for name, value in model.head.state_dict().items():
                torch.testing.assert_close(state.model.head.state_dict()[name], value, rtol=2e-5, atol=2e-6, msg=method)
            for number, epoch in enumerate(epochs):
                assert record.curves["loss"][number] == pytest.approx(epoch["loss"], rel=2e-5)
            last = record.per_class[str(cell.programme.length)]
            assert last["train"] == epochs[-1]["train"]
            assert [a + b for a, b in zip(*last["test"], strict=True)] == epochs[-1]["test"]


def test_a_pack_gives_what_the_loop_of_one_cell_gives(bench, digits):
    cells = packed(short(), ["LORT", "Vanilla Cosine", "MaxNorm"])
    together = bench(cells)
    for cell in cells:
        record, state = train_cell(cell, bench.data_of(cell), bench.store("loop"), digits.edition, ONE)
        one = together[cell.label][0]
        assert (one.curves["test"], one.curves["train"]) == (record.curves["test"], record.curves["train"])
        assert one.curves["loss"] == pytest.approx(record.curves["loss"], rel=1e-5)
        for a, b in zip(together[cell.label][1].model.parameters(), state.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_pack_begins_at_the_epoch_that_is_best_on_the_test_set_where_that_is_handed_over(bench, digits):
    # So large a rate that accuracy falls before the stage ends.
    erratic = replace(DIGITS["sgd"], schedule=Cosine(1.0, 40))
    cells = packed(short(epochs=6, hands_over=BEST_ON_TEST, sgd=erratic), ["LORT", "Vanilla Cosine", "MaxNorm"])
    together = bench(cells)
    for cell in cells:
        record, state = together[cell.label]
        levels = record.accuracy("test")[:6]
        assert max(levels) > levels[-1]  # another epoch than the last
        one, alone = train_cell(cell, bench.data_of(cell), bench.store("loop"), digits.edition, ONE)
        assert (one.curves["test"], one.curves["train"]) == (record.curves["test"], record.curves["train"])
        plainly, _ = plain.train(cell.programme, bench.data_of(cell), 0, memory_format=torch.channels_last)
        for other in (alone.model, plainly):
            assert_equal(dict(other.backbone.state_dict()), dict(state.model.backbone.state_dict()))
            torch.testing.assert_close(state.model.head.state_dict(), other.head.state_dict(), rtol=2e-5, atol=2e-6)
        again = restored(cell, bench.store(), digits.edition, torch.device("cpu"))
        assert_equal(dict(again.model.state_dict()), dict(state.model.state_dict()))


def test_features_that_nothing_random_enters_are_computed_once_and_equal_the_plain_way(bench, monkeypatch):
    cells = packed(short(**FIXED), ["CE", "LORT", "Re-Sampling"])
    passes = []
    images = heads.Features._batches

    def counted(self, *args):
        passes.append(self)
        return images(self, *args)

    monkeypatch.setattr(heads.Features, "_batches", counted)
    shown = []
    data = bench.data_of(cells[0])
    forward = type(data.train(None)).plain
    monkeypatch.setattr(type(data.train(None)), "plain", lambda self, a, b: (shown.append(b - a), forward(self, a, b))[1])
    together = {}
    for pack in packs(cells):
        together |= bench(pack)
    assert len(passes) == 2 * 3  # of epochs; stage 1 evaluates the test images twice, each of the two packs them once
    assert sum(shown) == 2 * 600 + 2 * (600 + len(data.train_labels))
    for cell in cells:
        model, epochs = plain.train(cell.programme, data, 0, memory_format=torch.channels_last)
        record, state = together[cell.label]
        assert record.curves["loss"] == pytest.approx([epoch["loss"] for epoch in epochs], rel=2e-5)
        torch.testing.assert_close(state.model.head.weight, model.head.weight, rtol=2e-5, atol=2e-6)


def test_a_launch_shares_fixed_features_between_samplers(digits, tmp_path, silent, monkeypatch):
    made = []
    monkeypatch.setattr(heads.Features, "__init__", record_calls(heads.Features.__init__, made))
    cells = packed(short(**FIXED), ["CE", "Re-Sampling"])
    launch(cells, tmp_path, digits, silent)
    assert len(made) == 1


def record_calls(function, made):
    def called(self, *args):
        made.append(args)
        function(self, *args)

    return called


def launch(cells, where, digits, silent, **how):
    keep = frozenset(grid.branch_epochs([cell.programme for cell in cells]))
    return local.run(
        cells, Store(where), {"digits": digits.edition}, lambda source: digits, torch.device("cpu"),
        keep=lambda cell: keep, progress=silent, **how,
    )  # fmt: skip


def test_a_launch_trains_the_backbone_once_and_every_pass_once(digits, tmp_path, silent):
    paper = short()
    cells = grid.cells(paper, "table", seeds=(0,))
    outcome = launch(cells, tmp_path, digits, silent)
    assert outcome.trained == len(cells) == 43
    assert outcome.epochs == 2 + 3 + 3 == grid.cost(cells).epochs_shared
    assert launch(cells, tmp_path, digits, silent).before == len(cells)
    assert not list(tmp_path.glob("checkpoints/*/*e3-*"))  # a pack's own checkpoints are gone
    assert not Store(tmp_path).epochs_left(cells, {"digits": digits.edition})


def test_an_interrupted_pack_goes_on_where_it_was_bit_for_bit(bench):
    cells = packs(packed(short()))[0]
    whole = bench(cells)
    interrupt(bench, cells)
    seen = []
    resumed = bench(cells, "cut", each_epoch=lambda number, history, seconds: seen.append(number))
    assert seen == [4, 5]
    assert all(equal(whole[label], resumed[label]) for label in whole)
    assert not list(bench.store("cut").root.glob("checkpoints/*/*-e3-*"))


def test_a_larger_request_after_an_interruption_trains_the_new_cells_too(bench):
    cells = packs(packed(short()))[0]
    whole = bench(cells)
    some = [cell for cell in cells if cell.method in ("CE", "LORT")]
    interrupt(bench, some)
    resumed = bench(cells, "cut")
    assert resumed.keys() == whole.keys()
    assert all(equal(whole[label], resumed[label]) for label in whole)


def test_a_narrower_request_leaves_what_was_trained_of_the_others(bench):
    """Nor is that overwritten by a cell which the interrupted run did not have, and which stops after the same epoch."""
    cells = [cell for cell in packs(packed(short()))[0] if cell.method in ("CE", "LORT", "Vanilla Cosine")]
    whole = bench(cells)
    begun = [cell for cell in cells if cell.method != "Vanilla Cosine"]
    file = interrupt(bench, begun)
    clock = iter([False])  # before the first epoch of the heads; the backbone is there
    with pytest.raises(Stopped):
        bench([cell for cell in cells if cell not in begun], "cut", out_of_time=lambda row: next(clock, True))
    ce, seen = [cell for cell in cells if cell.method == "CE"], []
    bench(ce, "cut", each_epoch=lambda number, history, seconds: seen.append(number))
    assert seen == [4, 5] and file.exists()
    rest = [cell for cell in cells if cell not in ce]
    resumed = bench(rest, "cut", each_epoch=lambda number, history, seconds: seen.append(number))
    assert seen == [4, 5] * 2 and not file.exists()
    assert all(equal(whole[label], resumed[label]) for label in resumed)


def test_records_of_a_pack_tell_of_epochs_that_were_trained_elsewhere(bench, monkeypatch):
    cells = packed(short(), ["CE"])
    elsewhere = {"device": "another one"}
    for module in (heads, cell_module):
        monkeypatch.setattr(module, "environment", lambda *of: elsewhere)
    interrupt(bench, cells)
    monkeypatch.undo()
    (record, _), *_ = bench(cells, "cut").values()
    assert [[first, of == elsewhere] for first, of in record.stretches] == [[1, True], [4, False]]


def test_older_checkpoints_of_a_pack_go_with_the_last_one(bench):
    cells = packed(short(), ["CE"])
    file = interrupt(bench, cells)
    old = file.with_name(file.name.replace("-e3-", "-e4-"))
    old.write_bytes(file.read_bytes())  # a run was killed before it could remove one of them
    bench(cells, "cut")
    assert not file.exists() and not old.exists()


def test_a_damaged_checkpoint_of_a_pack_costs_only_time(bench):
    cells = packed(short(), ["CE"])
    whole = bench(cells)
    file = interrupt(bench, cells)
    file.write_bytes(file.read_bytes()[:1000])
    resumed = bench(cells, "cut")
    assert all(equal(whole[label], resumed[label]) for label in whole)


def test_classifiers_beyond_the_memory_of_one_pass_ride_passes_of_their_own(bench, monkeypatch):
    cells = packs(packed(short()))[0]
    whole = bench(cells)
    monkeypatch.setattr(heads, "TOGETHER_BYTES", 1)  # a group is the least
    seen = []
    parts = bench(cells, "parts", each_epoch=lambda number, history, seconds: seen.append(number))
    assert seen == [1, 2, *[3, 4, 5] * math.ceil(len(cells) / heads.SLOTS)]
    assert all(equal(whole[label], parts[label]) for label in whole)


def test_the_memory_of_one_pass_holds_all_rows_of_cifar(bench):
    (cell, *_) = grid.cells(PAPER, "table", columns=[CIFAR_COLUMNS[0]], methods=["LORT"])
    head = torch.nn.Linear(512, 100)
    begun = SimpleNamespace(model=SimpleNamespace(head=head))
    assert 3000 < heads._at_once(cell, begun) < 4000
    assert heads._at_once(cell, begun) % heads.SLOTS == 0


def test_a_classifier_that_diverges_leaves_the_others_as_they_are(bench):
    cells = packed(short(), ["CE", "LORT", "LDAM Loss"])
    wild = replace(SECOND_SGD, schedule=Cosine(1e38, 3))
    bad = packed_with(cells[0], wild)
    alone, together = bench(cells), bench([*cells[:3], bad, *cells[3:]], "with")
    record, state = together["wild"]
    assert record.failed is not None and state is None
    assert record.failed["epoch"] == 3 + len(record.curves["loss"]) - 2
    assert not math.isfinite(float(record.failed["loss"]))
    assert all(equal(alone[label], together[label]) for label in alone)


def packed_with(cell, sgd):
    stage = replace(PAPER.grids["table"].methods["CE"].later[0], sgd=sgd)
    method = replace(PAPER.grids["table"].methods["CE"], later=(stage,))
    programme = grid.compile_method(method, cell.column, {**cell.column.values, "rate": 0.0, "decay": 0.0})

    class Wild(grid.Cell):
        @property
        def label(self):
            return "wild"

    return Wild(**{**vars(cell), "programme": programme})


def test_a_backbone_that_diverges_fails_all_that_rest_on_it(bench):
    cells = packed(short(sgd=replace(DIGITS["sgd"], schedule=Cosine(1e38, 2))), ["CE", "LORT"])
    found = bench(cells)
    assert len(found) == len(cells)
    assert all(record.failed is not None and state is None for record, state in found.values())


@pytest.mark.parametrize("method", ["LORT", "Vanilla Cosine", "Learnable Weight Scaling"])
def test_the_final_state_comes_back_from_the_backbone_and_the_heads_own_checkpoint(bench, digits, method):
    cells = packed(short(), [method])
    found = bench(cells)
    store = bench.store()
    for cell in cells:
        state = restored(cell, store, digits.edition, torch.device("cpu"))
        assert_equal(dict(state.model.state_dict()), dict(found[cell.label][1].model.state_dict()))
        assert state.epoch == cell.programme.length
    size = sum(value.numel() for value in state.model.head.state_dict().values())
    key = cells[0].programme.keys(digits.edition)[-1]
    written = store.checkpoint("digits", digits.edition, key, 5, 0).stat().st_size
    assert written < 4 * size + 5_000 < store.checkpoint(
        "digits", digits.edition, cells[0].programme.keys(digits.edition)[2], 2, 0
    ).stat().st_size  # fmt: skip


def test_a_final_state_without_its_files_is_none(bench, digits):
    (cell, *_) = packed(short(), ["CE"])
    assert restored(cell, bench.store("nothing"), digits.edition, torch.device("cpu")) is None
    bench([cell])
    key = cell.programme.keys(digits.edition)[-1]
    bench.store().checkpoint("digits", digits.edition, key, 5, 0).unlink()
    assert restored(cell, bench.store(), digits.edition, torch.device("cpu")) is None


def test_a_head_file_of_another_head_is_none(bench, digits):
    linear, cosine = packed(short(), ["CE"])[0], packed(short(), ["Vanilla Cosine"])[0]
    bench([linear])
    bench([cosine])
    store = bench.store()

    def file(cell):
        return store.checkpoint("digits", digits.edition, cell.programme.keys(digits.edition)[-1], 5, 0)

    file(linear).write_bytes(file(cosine).read_bytes())
    assert restored(linear, store, digits.edition, torch.device("cpu")) is None
    assert restored(cosine, store, digits.edition, torch.device("cpu")) is not None
    torch.save({"head/weight": torch.zeros(10, 3), "head/bias": torch.zeros(10)}, file(linear))
    assert restored(linear, store, digits.edition, torch.device("cpu")) is None


@pytest.mark.parametrize("part", ["told/loss", "value/weight", "momentum/bias", "told"])
def test_a_checkpoint_of_a_pack_that_lacks_something_costs_only_time(bench, part):
    cells = packed(short(), ["CE"])
    whole = bench(cells)
    file = interrupt(bench, cells)
    named = torch.load(file, weights_only=True)
    key = cells[0].programme.keys(bench.edition)[-1][:24]
    # A part that is missing, a momentum of another shape, counts of one epoch too many.
    kept = {name: value for name, value in named.items() if name != f"{key}/{part}"}
    if part == "momentum/bias":
        kept[f"{key}/{part}"] = torch.zeros(3)
    if part == "told":
        kept |= {name: torch.cat([value, value]) for name, value in named.items() if name.startswith(f"{key}/told/")}
    torch.save(kept, file)
    resumed = bench(cells, "cut")
    assert all(equal(whole[label], resumed[label]) for label in whole)


def test_a_few_batches_without_augmentation_do_not_cost_all_images(bench, monkeypatch):
    made = short(**FIXED)
    cells = [
        replace(cell, programme=grid.compile_method(
            made.grids["table"].methods[cell.method], cell.column, {**cell.column.values, **dict(cell.point)}, quick=True
        ))
        for cell in packed(made, ["CE"])
    ]  # fmt: skip
    monkeypatch.setattr(heads.Features, "plain", property(lambda self: pytest.fail("all training images")))
    assert len(bench(cells)) == len(cells)


def test_seconds_of_a_pack_are_shared_among_its_classifiers(bench):
    found = bench(packed(short(), ["CE"]))
    records = [record for record, _ in found.values()]
    assert len({tuple(record.curves["seconds"]) for record in records}) == 1


def test_on_an_accelerator_classifiers_side_by_side_equal_those_trained_alone(digits, tmp_path, accelerator):
    numerics.enter(mode := Numerics(accelerator.type))
    cells = packs(packed(short()))[0]
    data = loop.DeviceData(split(digits, cells[0].column.data), cells[0].programme, accelerator)

    def train(some, where):
        found = {}
        heads.train_pack(
            some, lambda key, begun: heads.Features(key, begun, data), data, Store(tmp_path / where), digits.edition, mode,
            finished=lambda cell, record, state: found.__setitem__(cell.label, (record, state)),
        )  # fmt: skip
        return found

    together = train(cells, "together")
    for cell in cells[::3]:
        assert equal(together[cell.label], train([cell], "alone")[cell.label])
