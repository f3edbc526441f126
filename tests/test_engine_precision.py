"""Precisions other than the protocol's: where they hold, what they leave as it is, and that nothing takes them for it."""

import math
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from training import assert_equal, run, through, told

from papers import wb
from papers.unified_bound import PAPER
from replicate import grid
from replicate.cli.run import run_command
from replicate.data.longtail import split
from replicate.engine import loop, numerics
from replicate.engine.cell import train_cell
from replicate.engine.loop import DeviceData, Diverged
from replicate.errors import BadInput
from replicate.grid import PRECISIONS
from replicate.measures import relu_fdr, training_logits
from replicate.measures.features import training_features
from replicate.measures.fisher import fisher_discriminant_ratio
from replicate.measures.logits import evaluated_logits, image_logits
from replicate.protocol import CrossEntropy, Objective
from replicate.record import Store
from replicate.report import checklist, tables

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
OTHERS = PRECISIONS[1:]


@pytest.fixture(autouse=True)
def _before(one_thread):
    """The mode that the process is in, and what it changes, come back."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before, allowed = numerics._entered, [place.allow_tf32 for place in flags]
    found = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    numerics._entered = before
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = found
    for place, flag in zip(flags, allowed, strict=True):
        place.allow_tf32 = flag


@pytest.fixture(scope="module")
def data(short_paper, digits):
    programme = cell_of(short_paper).programme
    return DeviceData(split(digits, programme.start.data), programme, CPU)


def cell_of(paper, precision=None, method="CE+DRW", **kwargs):
    return grid.cells(paper, "table", methods=[method], precision=precision, **kwargs)[0]


def entered(cell, device=CPU):
    start = cell.programme.start
    mode = numerics.mode(start.network, device, start.precision)
    numerics.enter(mode)
    return mode


# --- keys and records -------------------------------------------------------------------------------------------------


def test_each_precision_has_keys_of_its_own_and_the_protocols_are_where_they_were(short_paper):
    plain = grid.cells(short_paper, "table", methods=["CE+DRW"])[0].programme
    assert cell_of(short_paper, PRECISIONS[0]).programme == plain
    assert "precision" not in plain.spec()["start"]
    chains = [cell_of(short_paper, name).programme.keys("official") for name in PRECISIONS]
    assert len(set().union(*chains)) == len(PRECISIONS) * (plain.length + 1)  # not even the untrained start is shared
    assert [cell_of(short_paper, name).programme.spec()["start"]["precision"] for name in OTHERS] == list(OTHERS)


def test_16_bit_floats_train_on_a_cpu_and_are_marked(short_paper, digits, tmp_path, silent):
    cell, plain, store = cell_of(short_paper, "bfloat16"), cell_of(short_paper), Store(tmp_path)
    assert run([cell, plain], store, digits, silent).trained == 2
    record, wanted = (store.of(one, digits.edition) for one in (cell, plain))
    assert record.environment["numerics"]["dtype"] == "bfloat16" and record.made_for["precision"] == "bfloat16"
    assert wanted.environment["numerics"]["dtype"] == "float32" and "precision" not in wanted.made_for
    losses = [one.curves["loss"] for one in (record, wanted)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_no_table_and_no_checklist_takes_them_for_the_protocol(short_paper, digits, tmp_path, silent):
    store, table = Store(tmp_path), short_paper.tables[0]
    how = {
        "selection": "as-published",
        "edition_of": {"digits": digits.edition},
        "columns": list(short_paper.columns),
        "methods": ["CE+DRW"],
    }
    for precision, found in (("bfloat16", 0), (None, 1)):
        run([cell_of(short_paper, precision)], store, digits, silent)
        assert len(tables.replicas(store, short_paper, table, **how)) == found
        runs = checklist.gathered(short_paper, store)
        assert sum(bool(of.records) for of in runs.values()) == found


def test_the_command_marks_what_it_prints(tmp_path):
    def told_of(precision):
        line = f"--quick --dataset digits --method CE --seeds 0 --device cpu --precision {precision}".split()
        places = ["--store", str(tmp_path / "store"), "--results", str(tmp_path / "results")]
        return CliRunner().invoke(run_command("unified_bound"), [*line, *places], catch_exceptions=False).output

    assert "never compared with a published number" in told_of("bfloat16") and not (tmp_path / "results").exists()
    plain = told_of("float32")
    assert "1 trained now" in plain and "Precision" not in plain


def test_a_run_in_16_bit_floats_resumes_bit_for_bit(short_paper, data, digits, tmp_path):
    cell = cell_of(short_paper, "bfloat16")
    mode = entered(cell)
    states = [through(cell.programme, data), through(cell.programme, data, 3, tmp_path / "half.pt")]
    assert_equal(states[0].tensors(), states[1].tensors())
    assert all(value.dtype == torch.float32 for value in states[0].model.parameters())
    record, _ = train_cell(cell, data, Store(tmp_path / "store"), digits.edition, mode)
    assert told(record)[1]["loss"] == [float(f"{loss:.6g}") for loss in states[0].history.loss]


# --- what a mode does -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "reason"), [("tf32", "needs a GPU"), ("float16", "needs a GPU"), ("double", "is unknown")]
)
def test_a_precision_that_a_cpu_does_not_have(precision, reason):
    with pytest.raises(BadInput, match=f"^precision '{precision}' {reason}; allowed.*: float32, float32-strict, bfloat16$"):
        numerics.mode(PAPER_NETWORK, CPU, precision)


PAPER_NETWORK = grid.cells(PAPER, "table", methods=["CE"])[0].programme.start.network


@pytest.mark.parametrize(
    ("precision", "convolutions", "products"),
    [(None, True, False), ("float32-strict", False, False), ("tf32", True, True), ("bfloat16", True, False)],
)
def test_what_a_mode_allows_a_gpu(precision, convolutions, products):
    numerics.enter(numerics.Numerics("cuda", "float16"))
    numerics.enter(numerics.mode(PAPER_NETWORK, CUDA, precision))
    assert torch.backends.cudnn.allow_tf32 is convolutions and torch.backends.cuda.matmul.allow_tf32 is products
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


def test_losses_are_computed_in_32_bit_floats_and_passes_are_not(short_paper, data):
    cell, seen = cell_of(short_paper, "bfloat16"), []
    entered(cell)
    state = loop.start(cell.programme, 0, CPU)
    state.begin_epoch(cell.programme.epoch(1))
    state.model.head.register_forward_hook(lambda layer, inputs, logits: seen.append(logits.dtype))

    def loss_of(logits, labels, features):
        seen.extend([logits.dtype, features.dtype])
        return torch.nn.functional.cross_entropy(logits, labels)

    images = data.train(None).plain(0, 8)
    loop.step(state, images, data.train_labels[:8], loss_of, None)
    assert seen == [torch.bfloat16, torch.float32, torch.float32]
    assert loop.views_of(state.model, data.test).dtype == torch.float32


def test_evaluations_and_measures_share_one_arithmetic(short_paper, data):
    """Backbone in 16 bits, head in 32: as adjustments and classifiers on a frozen backbone have it."""
    cell, seen = cell_of(short_paper, "bfloat16"), []
    entered(cell)
    state = loop.start(cell.programme, 0, CPU)
    loop.train_epoch(state, cell.programme.epoch(1), data, 0)
    model, test = state.model.eval(), data.test
    with torch.inference_mode():
        told = evaluated_logits(model, test)
        halves = model.backbone.register_forward_hook(lambda layer, inputs, features: seen.append(features.dtype))
        found = torch.cat([loop.guess(model, test.views(*some)) for some in test.batches()])
        trained = model.head(training_features(model, data))
    assert torch.equal(loop.correct_counts(found == test.labels, test, data.classes), state.history.test[-1])
    assert torch.equal(found, told.argmax(dim=1))
    assert image_logits(model, test, 5) == pytest.approx(told[5].tolist(), rel=1e-5)  # another number of images at a time
    torch.testing.assert_close(training_logits(state, data), trained)
    assert set(seen) == {torch.bfloat16}
    halves.remove()
    with torch.inference_mode(), numerics.forward(CPU):
        assert model(test.views(5, 6)[0])[0].tolist() != pytest.approx(told[5].tolist(), rel=1e-5)  # a head in 16 bits


def test_steps_of_a_perceptron_are_measured_in_the_precision_of_its_passes(digits):
    cell = grid.cells(wb.PAPER, "figure2", columns=[wb.MLP_DIGITS], methods=["WD"], precision="bfloat16")[0]
    entered(cell)
    data = DeviceData(split(digits, cell.programme.start.data), cell.programme, CPU)
    backbone = loop.start(cell.programme, 0, CPU).model.eval().backbone
    images, labels = data.test.feeder.plain(0, 600), data.test.labels
    told = relu_fdr.relu_fdr(backbone, images, labels)[-1]["fdr"]
    with torch.inference_mode():
        exact = fisher_discriminant_ratio(backbone(images), labels)
        with numerics.forward(CPU):
            features = backbone(images)
    assert told == fisher_discriminant_ratio(features.float(), labels) != exact


# --- the constant scale of losses in float16 --------------------------------------------------------------------------


def trained(programme, data, epochs=2):
    state = loop.start(programme, 0, CPU)
    for number in range(1, epochs + 1):
        loop.train_epoch(state, programme.epoch(number), data, 0)
    return state


@pytest.mark.parametrize("method", ["CE+DRW", "VS+TLA+ADRW+SAM"])
def test_a_scaled_loss_leaves_the_same_bits(short_paper, data, monkeypatch, method):
    """The scale is a power of two: in the same arithmetic it changes nothing, unless a gradient leaves what floats hold."""
    programme = cell_of(short_paper, method=method).programme
    plain = trained(programme, data)
    monkeypatch.setattr(numerics, "loss_scale", lambda: numerics._LOSS_SCALE)
    assert_equal(trained(programme, data).tensors(), plain.tensors())
    assert math.log2(numerics._LOSS_SCALE).is_integer()


def test_a_gradient_that_is_not_finite_ends_the_epoch_as_diverged(short_paper, data, monkeypatch):
    monkeypatch.setattr(numerics, "loss_scale", lambda: 2.0**127)
    row = cell_of(short_paper).programme.epoch(1)
    state = loop.start(cell_of(short_paper).programme, 0, CPU)
    with pytest.raises(Diverged):
        loop.train_epoch(state, replace(row, rate=0.0, batches=1, objective=Objective(CrossEntropy(), scale=100.0)), data, 0)
