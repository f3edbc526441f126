"""What a GPU is strict about, where there is none: which tensors meet, what is read back, what a graph may hold."""

import io

import pytest
import torch
from launching import assert_alike, several
from strict_device import device, strict_device
from test_engine_captured import METHODS, programme_of, trained
from test_engine_heads import packed, packs, short
from test_measures_states import CELLS
from training import assert_equal, run

from replicate.data.longtail import split
from replicate.engine import captured, heads, loop, numerics
from replicate.engine.loop import DeviceData
from replicate.launch import memory
from replicate.launch.progress import Progress
from replicate.measures import MEASURES
from replicate.record import Store

__all__ = ["several"]  # a fixture
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Steps this small are slower on two."""


@pytest.fixture
def strict():
    with strict_device() as traffic:
        yield traffic


# --- the device itself ------------------------------------------------------------------------------------------------


def test_the_device_computes_what_a_cpu_does_and_counts_what_crosses_over(strict):
    values = torch.arange(6.0).reshape(2, 3)
    there = values.to(device())
    assert (strict.sent, strict.read) == (1, 0)
    assert there.device == device() and (there @ there.T).device == device()
    assert torch.equal((there @ there.T).cpu(), values @ values.T) and strict.read == 1
    assert float(there.sum()) == 15 and strict.read == 2
    with pytest.raises(AssertionError, match="two devices"):
        there + values
    with pytest.raises(RuntimeError):
        there.numpy()
    for work in (lambda: there.sum().item(), lambda: there.fill_(values[0, 0]), lambda: there[there > 1], there.nonzero):
        with pytest.raises(AssertionError, match="graph"):
            strict.seal(work)()
    strict.seal(lambda: there.add_(2).mul_(torch.ones_like(there)))()
    assert torch.equal(there.cpu(), values + 2)


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_epochs_are_those_of_a_cpu_and_read_no_more_back_than_their_counts(
    short_paper, digits, method, recorded, strict, monkeypatch
):
    programme = programme_of(short_paper, method)
    expected = trained(programme, DeviceData(split(digits, programme.start.data), programme, CPU)).tensors()
    if recorded:
        record = captured.Recorder.record
        monkeypatch.setattr(captured, "KINDS", {device().type})
        monkeypatch.setattr(captured.Recorder, "record", lambda self, work, writes: record(self, strict.seal(work), writes))
    data = DeviceData(split(digits, programme.start.data), programme, device())
    state = loop.start(programme, 3, device())
    crossed = []
    for number in range(1, programme.length + 1):
        before = strict.sent, strict.read
        loop.train_epoch(state, programme.epoch(number), data, 3)
        crossed.append((strict.sent - before[0], strict.read - before[1]))
    assert_equal(state.tensors(), expected)
    # The total of losses, and counts of correct images: of training, validation and test.
    assert {read for _, read in crossed[1:]} == {3 + (data.validation is not None)}
    # Two sets of places, at most four constants of a loss whose rows change and, where steps are launched, a rate.
    assert max(sent for sent, _ in crossed[1:]) <= 6


@pytest.mark.parametrize("many", [1, None])
def test_an_epoch_of_a_pack_reads_three_tensors_back_however_many_classifiers_it_has(digits, strict, tmp_path, many):
    cells, read = packs(packed(short()))[0][:many], []
    programme = cells[0].programme
    data = DeviceData(split(digits, programme.start.data), programme, device())
    heads.train_pack(
        cells, lambda key, begun: heads.Features(key, begun, data), data, Store(tmp_path), digits.edition,
        numerics.mode(programme.start.network, device()),
        finished=lambda *end: None, each_epoch=lambda *told: read.append(strict.read),
    )  # fmt: skip
    assert read[-1] - read[-2] == 3  # losses, and counts of training and test


# --- whole launches ---------------------------------------------------------------------------------------------------


class Meter:
    """There is room for three."""

    def __init__(self, device):
        pass

    def begin(self):
        pass

    def fit(self):
        return 3


@pytest.fixture(scope="module")
def planned(several):
    """Cells of all three papers, to which every measure applies."""
    return [*several, *CELLS.values()]


@pytest.fixture(scope="module")
def on_cpu(planned, digits, tmp_path_factory):
    """What a launch leaves on a CPU, by the arithmetic of recorded steps."""
    store = Store(tmp_path_factory.mktemp("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured, "KINDS", {"cpu"})
        run(planned, store, digits, Progress(io.StringIO()), measures=tuple(MEASURES))
    return store


def measured(store):
    """What every measure says of every cell, by the place of its file."""
    return {f"{path.parent.name}/{path.name}": path.read_text() for path in store.root.glob("measures/*/*/*")}


@pytest.mark.parametrize(("many", "recorded"), [(1, True), (3, False)])
def test_a_launch_leaves_what_it_leaves_on_a_cpu(
    planned, digits, tmp_path, silent, monkeypatch, on_cpu, strict, many, recorded
):
    if recorded:
        monkeypatch.setattr(captured, "KINDS", {device().type})
    monkeypatch.setattr(memory, "Gpu", Meter)
    store = Store(tmp_path)
    run(planned, store, digits, silent, device=device(), workers=many, measures=tuple(MEASURES))
    assert_alike(store, on_cpu, planned, digits.edition, but=("seconds", "stretches"))  # stretches name the device
    assert measured(store) == measured(on_cpu)
    assert {name.partition("/")[0] for name in measured(store)} == set(MEASURES)
