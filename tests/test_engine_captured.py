"""Steps and evaluations that are recorded once against those that are launched one by one. On a CPU recording a step means to
rehearse it, to undo that, and to call it again for every batch from the tensors in fixed places that a graph would read."""

import gc
import math
import threading
import weakref
from dataclasses import replace

import pytest
import torch
from training import assert_equal, told

from papers import wb
from papers.unified_bound import PAPER
from replicate import grid, losses
from replicate.data.augment import Feeder
from replicate.data.longtail import split
from replicate.engine import captured, loop, numerics
from replicate.engine.cell import train_cell
from replicate.engine.loop import DeviceData
from replicate.grid import PRECISIONS
from replicate.models.batch_norm import BatchNorm2d
from replicate.optim import SGD
from replicate.protocol import (
    LDAM,
    AutoAugmentCutout,
    CrossEntropy,
    DotRegression,
    EffectiveNumber,
    FeatureNorm,
    Focal,
    InversePrior,
    LogitsRetargeting,
    Objective,
    SoftmaxBinaryCrossEntropy,
    VectorScaling,
)
from replicate.record import Store

CPU = torch.device("cpu")
CUDA = torch.device("cuda")
gpu = pytest.mark.gpu

#: Every form of step that is captured: weights that set in late, margins on cosines, another loss after the switch, two passes,
#: feature norm and fixed class vectors, fixed batch norm, projection after each batch.
STAGED = {**wb.DIGITS, "epochs": 2, "second": 2}
METHODS = ["CE+DRW", "LDAM+ADRW", "VS+TLA+ADRW+SAM", "WB each batch", "WD&FR&ETF", "WD fixed BN&ETF"]


def programme_of(short_paper, method):
    """Rates are powers of two: a product with one is exact, so that the step by a rate on the device, which rounds that
    product, gives the bits of the step by a number."""
    if method in PAPER.methods("table"):
        programme = grid.cells(short_paper, "table", methods=[method])[0].programme
        rows = [programme.epoch(number) for number in (2, 4, 5)]
    else:
        values = {**STAGED, "projection": "batch"} if method == "WB each batch" else STAGED
        made = wb.METHODS[method.removesuffix(" each batch")]
        programme = grid.compile_method(made, replace(wb.DIGITS_LT, values=values), {**values, "constant": 0.2})
        rows = [programme.epoch(number) for number in range(1, programme.length + 1)]
    runs = tuple((1, replace(row, rate=2.0 ** round(math.log2(max(row.rate, 1e-3))))) for row in rows)
    return replace(programme, runs=runs)


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Steps this small are slower on two."""


@pytest.fixture(scope="module")
def data_of(digits):
    kept = {}

    def of(programme, device=CPU):
        key = programme.start.data, device.type
        if key not in kept:
            kept[key] = DeviceData(split(digits, programme.start.data), programme, device)
        return kept[key]

    return of


@pytest.fixture
def recorded(monkeypatch):
    """Record on a CPU too, or (``recorded(False)``) nowhere."""

    def switch(on=True):
        monkeypatch.setattr(captured, "KINDS", {"cuda", "cpu"} if on else set())

    switch()
    return switch


def trained(programme, data, epochs=None, state=None, seed=3):
    state = state or loop.start(programme, seed, data.device)
    for number in range(state.epoch + 1, (epochs or programme.length) + 1):
        loop.train_epoch(state, programme.epoch(number), data, seed)
    return state


def sizes(data, batch=32):
    """How many sizes batches have: of an epoch, and of all its evaluations."""
    count = len(data.train_labels)
    evaluated = [examples for examples in (data.test, data.validation) if examples is not None]
    return (
        len({min(batch, count - first) for first in range(0, count, batch)}),
        sum(len({last - first for first, last in examples.batches()}) for examples in evaluated),
    )


# --- equal to what is launched ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_equal_launched_ones_bit_for_bit(short_paper, data_of, recorded, method):
    programme = programme_of(short_paper, method)
    data = data_of(programme)
    assert sizes(data)[0] == 2  # there is a ragged last batch
    found = trained(programme, data)
    recorded(False)
    launched = trained(programme, data)
    assert found.graphs.recorder.captures > 0 and launched.graphs is None
    assert_equal(found.tensors(), launched.tensors())
    for one, other in zip(found.model.modules(), launched.model.modules(), strict=True):
        if isinstance(one, BatchNorm2d):  # which counts what it has seen, rehearsals not
            assert torch.equal(one.num_batches_tracked, other.num_batches_tracked)


def test_a_recorded_run_that_is_resumed_equals_one_that_is_not(short_paper, data_of, recorded, tmp_path):
    programme = programme_of(short_paper, "VS+TLA+ADRW+SAM")
    data = data_of(programme)
    whole = trained(programme, data)
    for again in (True, False):  # into a fresh state, and into one whose tensors steps are recorded for
        half = trained(programme, data, epochs=2)
        half.save(tmp_path / "half.pt")
        other = loop.start(programme, 3, CPU) if again else trained(programme, data, state=half)
        assert other.restore(tmp_path / "half.pt") and other.epoch == 2
        assert_equal(trained(programme, data, state=other).tensors(), whole.tensors())


def test_recorded_evaluations_follow_the_network_and_equal_launched_ones(short_paper, data_of, recorded):
    programme = programme_of(short_paper, "CE+DRW")
    data = data_of(programme)
    state = trained(programme, data, epochs=1)
    graphs = state.graphs
    for _ in range(2):
        told = loop.evaluate(state.model, data.test, data.classes, graphs)
        assert torch.equal(told, loop.evaluate(state.model, data.test, data.classes))
        with torch.no_grad():
            state.model.head.weight.neg_()
    before = graphs.recorder.captures
    other = loop.start(programme, 4, CPU).model
    told = loop.evaluate(other, data.test, data.classes, graphs)
    assert torch.equal(told, loop.evaluate(other, data.test, data.classes)) and graphs.recorder.captures > before


def test_mirrored_examples_are_evaluated_as_launched_ones_are(short_paper, data_of, recorded):
    programme = programme_of(short_paper, "CE+DRW")
    data = data_of(programme)
    model, mirrored = trained(programme, data).model, replace(data.test, mirrored=True)
    told = loop.evaluate(model, mirrored, data.classes, captured.Graphs(CPU))
    assert torch.equal(told, loop.evaluate(model, mirrored, data.classes))
    assert not torch.equal(told, loop.evaluate(model, data.test, data.classes))


# --- how often is recorded --------------------------------------------------------------------------------------------


def test_rates_radii_weights_and_restarted_momentum_need_no_second_recording(short_paper, data_of, recorded):
    programme = programme_of(short_paper, "VS+TLA+ADRW+SAM")
    data = data_of(programme)
    row = replace(programme.epoch(1), objective=Objective(VectorScaling(0.2, 1.0)))
    late = Objective(VectorScaling(0.0, 1.5), weights=InversePrior(0.75))
    rows = [replace(row, rate=0.1 / number, sam_radius=0.01 * number) for number in range(1, 6)]
    rows += [replace(rows[-1], objective=late, restart_momentum=True), replace(rows[-1], objective=late, rate=1e-3)]
    programme = replace(programme, runs=tuple((1, row) for row in rows))
    found = trained(programme, data)
    assert found.graphs.recorder.captures == sum(sizes(data))
    recorded(False)
    launched = trained(programme, data)
    # As above, but for the rounding of the product with rates that are no powers of two.
    assert found.history.loss == pytest.approx(launched.history.loss, rel=1e-3)


def test_another_form_of_loss_is_recorded_once_more(short_paper, data_of, recorded):
    programme = programme_of(short_paper, "CE+DRW")
    data, row = data_of(programme), programme.epoch(1)
    steps, evaluations = sizes(data)
    state = trained(replace(programme, runs=((2, row),)), data)
    assert state.graphs.recorder.captures == steps + evaluations
    focal = replace(row, objective=Objective(Focal(1.0)))
    trained(replace(programme, runs=((2, row), (2, focal))), data, state=state)
    assert state.graphs.recorder.captures == 2 * (steps + evaluations)  # with one graph all go


def test_epochs_that_stop_early_share_the_recorded_step(short_paper, data_of, recorded):
    programme = programme_of(short_paper, "CE+DRW")
    row = replace(programme.epoch(1), batches=2)
    state = trained(replace(programme, runs=((3, row),)), data_of(programme))
    assert state.graphs.recorder.captures == 1 + sizes(data_of(programme))[1]
    assert int(state.model.backbone.bn1.num_batches_tracked) == 6


def test_what_is_recorded_goes_with_the_state(short_paper, data_of, recorded):
    programme = programme_of(short_paper, "CE+DRW")
    state = trained(programme, data_of(programme), epochs=1)
    graphs = weakref.ref(state.graphs)
    gc.disable()
    try:
        del state
        assert graphs() is None  # not only once cycles are collected: a pool of memory hangs on it
    finally:
        gc.enable()


def test_work_that_cannot_be_captured_is_done_all_the_same(monkeypatch):
    """What a capture that fails leaves: the stream before, a warning, and work that does its work."""

    class Refusing:
        def __init__(self, *args, **kwargs):
            self.before = None

        def __enter__(self):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        def __exit__(self, *error):
            return None

    recorder = captured.Recorder(CPU)
    recorder._pool = recorder._stream = None
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "graph", Refusing)
    count = torch.tensor(0)
    with pytest.warns(RuntimeWarning, match="launched kernel by kernel: operation not permitted when stream is capturing$"):
        work = recorder._captured(lambda: count.add_(1))
    work()
    assert int(count) == 1 and recorder.refused == 1
    monkeypatch.setattr(Refusing, "__enter__", lambda self: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("full")))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        recorder._captured(work)
    monkeypatch.setattr(Refusing, "__enter__", lambda self: (_ for _ in ()).throw(RuntimeError("CUDNN_STATUS_ALLOC_FAILED")))
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):  # the same in a library's words
        recorder._captured(work)
    assert recorder.refused == 1


def test_a_rehearsal_leaves_no_trace():
    tensor, count, runs = torch.randn(5), torch.tensor(0), []

    def work():
        tensor.mul_(1.1)
        count.add_(1)
        runs.append(int(count))

    before = tensor.clone()
    work = captured.Recorder(CPU).record(work, [tensor, count])
    assert torch.equal(tensor, before) and int(count) == 0 and runs == [1] * captured.REHEARSALS
    work()
    assert torch.equal(tensor, before * 1.1) and int(count) == 1


def test_what_needs_the_host_is_launched(recorded):
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    assert captured.fits(CPU, Feeder(images, (0,) * 3, (1,) * 3))
    assert not captured.fits(CPU, Feeder(images, (0,) * 3, (1,) * 3, AutoAugmentCutout(4, 16)))
    assert not captured.fits(CPU, object())
    recorded(False)
    assert not captured.fits(CPU, Feeder(images, (0,) * 3, (1,) * 3))


def test_a_cpu_records_nothing():
    assert sorted(captured.KINDS) == ["cuda"]


# --- the parts --------------------------------------------------------------------------------------------------------

COUNTS = [50, 20, 7, 3]
PAIRS = [
    (Objective(CrossEntropy()), Objective(CrossEntropy(), EffectiveNumber(0.99))),
    (Objective(LDAM(0.5, 30.0), scale=2.0), Objective(LDAM(0.3, 30.0), InversePrior(0.5), scale=2.0)),
    (Objective(VectorScaling(0.2, 1.0)), Objective(VectorScaling(0.0, 1.25), InversePrior(0.75))),
    (Objective(Focal(2.0)), Objective(Focal(2.0), InversePrior(0.75))),
    (Objective(SoftmaxBinaryCrossEntropy()), Objective(SoftmaxBinaryCrossEntropy(), InversePrior(0.75))),
    (Objective(CrossEntropy(), InversePrior(0.2), "batch"), Objective(CrossEntropy(), InversePrior(0.75), "batch")),
    (Objective(LogitsRetargeting(0.2), InversePrior(0.2)), Objective(LogitsRetargeting(0.2), InversePrior(0.75))),
    (Objective(DotRegression()), Objective(DotRegression())),
    tuple(Objective(CrossEntropy(), weights, regulariser=FeatureNorm(0.1)) for weights in (None, InversePrior(1.0))),
]


def of_batch(loss_of, device=CPU):
    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(16, 4, generator=draw), torch.randint(4, (16,), generator=draw)
    logits = logits.to(device).requires_grad_()
    loss = loss_of(logits, labels.to(device), torch.randn(16, 6, generator=draw).to(device))
    return loss.detach().cpu(), torch.autograd.grad(loss, logits)[0].cpu()


def constants_follow_a_switch(first, second, device):
    kept = {}
    loss_of = losses.criterion(first, COUNTS, device=device, constants=kept)
    for objective in (first, second):  # what was made for the first computes the second once that has written its constants
        losses.criterion(objective, COUNTS, device=device, constants=kept)
        plain = of_batch(losses.criterion(objective, COUNTS, device=device), device)
        for found, wanted in zip(of_batch(loss_of, device), plain, strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_losses_of_one_form_differ_in_constants_alone(first, second):
    assert losses.form(first) == losses.form(second)
    constants_follow_a_switch(first, second, CPU)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Objective(CrossEntropy()), Objective(Focal(1.0))),
        (Objective(Focal(2.0)), Objective(Focal(1.0))),
        (Objective(LDAM(0.5, 30.0)), Objective(LDAM(0.5, 10.0))),
        (Objective(CrossEntropy()), Objective(CrossEntropy(), scale=2.0)),
        (Objective(CrossEntropy()), Objective(CrossEntropy(), InversePrior(1.0), "batch")),
        (Objective(LogitsRetargeting(0.2)), Objective(LogitsRetargeting(0.2), InversePrior(1.0))),
        (Objective(CrossEntropy()), Objective(CrossEntropy(), regulariser=FeatureNorm(0.1))),
    ],
)
def test_losses_that_differ_in_a_number_of_their_own_have_other_forms(first, second):
    assert losses.form(first) != losses.form(second)


@pytest.mark.parametrize(("rate", "rounds"), [(0.125, False), (0.1, True)])
def test_a_rate_on_the_device_is_the_rate_of_the_groups(rate, rounds):
    draw = torch.Generator().manual_seed(0)
    values = [torch.randn(7, 5, generator=draw), torch.randn(3, generator=draw)]
    gradients = [[torch.randn(value.shape, generator=draw) for value in values] for _ in range(4)]

    def moved(of_device):
        parameters = [torch.nn.Parameter(value.clone()) for value in values]
        optimiser = SGD([parameters[:1], parameters[1:]])
        for group, decay in zip(optimiser.param_groups, (0.01, 0.0), strict=True):
            group.update(lr=rate, momentum=0.9, weight_decay=decay)
        for of_step in gradients:
            for parameter, gradient in zip(parameters, of_step, strict=True):
                parameter.grad = gradient.clone()
            optimiser.step(torch.tensor(rate) if of_device else None)
        return torch.cat([parameter.detach().flatten() for parameter in parameters])

    assert torch.equal(moved(True), moved(False)) or rounds
    assert torch.allclose(moved(True), moved(False), rtol=1e-5, atol=1e-6)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cuda():
    """A GPU in the protocol's precision; the mode before comes back."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    before = numerics._entered
    numerics.enter(numerics.Numerics("cuda"))
    yield CUDA
    numerics.enter(before)


@gpu
@pytest.mark.parametrize("method", METHODS)
def test_gpu_captured_steps_equal_launched_ones_bit_for_bit(short_paper, data_of, recorded, method, cuda, tmp_path, recwarn):
    programme = programme_of(short_paper, method)
    data = data_of(programme, cuda)
    found = trained(programme, data)
    assert found.graphs.recorder.captures > 0 and found.graphs.recorder.refused == 0
    recorded(False)
    launched = trained(programme, data)
    assert_equal(found.tensors(), launched.tensors())
    recorded(True)
    half = trained(programme, data, epochs=2)
    half.save(tmp_path / "half.pt")
    fresh = loop.start(programme, 3, cuda)
    assert fresh.restore(tmp_path / "half.pt")
    assert_equal(trained(programme, data, state=fresh).tensors(), found.tensors())
    assert not [str(one.message) for one in recwarn if "captured" in str(one.message)]


@gpu
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_gpu_losses_of_one_form_differ_in_constants_alone(first, second, cuda):
    constants_follow_a_switch(first, second, cuda)


@gpu
def test_gpu_evaluation_captured_equals_launched(short_paper, data_of, recorded, cuda):
    programme = programme_of(short_paper, "CE+DRW")
    data = data_of(programme, cuda)
    state = trained(programme, data, epochs=2)
    told = loop.evaluate(state.model, data.test, data.classes, state.graphs)
    assert torch.equal(told, loop.evaluate(state.model, data.test, data.classes))


@gpu
def test_gpu_cells_side_by_side_equal_each_alone(short_paper, digits, data_of, cuda, tmp_path):
    cells = grid.cells(short_paper, "table", methods=["CE+DRW", "LDAM+ADRW", "VS+TLA+ADRW+SAM"], seeds=(0, 1))[:6]
    data, mode = data_of(cells[0].programme, cuda), numerics.Numerics("cuda")
    found, errors = {}, []

    def train(cell, name, stream=None):
        try:
            with torch.cuda.stream(stream):
                found[name, cell.label] = train_cell(cell, data, Store(tmp_path / name), digits.edition, mode)
        except BaseException as error:
            errors.append(error)

    data.train(cells[0].programme.epoch(1).feed.augmentation)  # made on this stream, which is waited for
    torch.cuda.synchronize()
    threads = [threading.Thread(target=train, args=(cell, "together", torch.cuda.Stream())) for cell in cells]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cell in cells:
        train(cell, "alone")
    assert not errors
    for cell in cells:
        (record, state), (alone, other) = found["together", cell.label], found["alone", cell.label]
        assert told(record) == told(alone)
        assert_equal(state.tensors(), other.tensors())
        assert state.graphs.recorder.refused == 0


@gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_gpu_precisions_are_captured_recorded_and_repeat_bit_for_bit(short_paper, digits, data_of, precision, cuda, tmp_path):
    cell = grid.cells(short_paper, "table", methods=["CE+DRW"], precision=precision)[0]
    mode = numerics.mode(cell.programme.start.network, cuda, cell.programme.start.precision)
    numerics.enter(mode)
    data = data_of(cell.programme, cuda)
    runs = [train_cell(cell, data, Store(tmp_path / name), digits.edition, mode) for name in ("once", "again")]
    assert_equal(runs[0][1].tensors(), runs[1][1].tensors())
    assert runs[0][0].environment["numerics"]["dtype"] == precision and runs[0][1].graphs.recorder.refused == 0
    assert all(value.dtype == torch.float32 for value in runs[0][1].model.parameters())
