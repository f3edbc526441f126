"""Measuring speed: what a step has to do, how measurements are arranged and told, and the command."""

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from replicate.bench import compare, engine, limits, plain
from replicate.bench.task import BATCH, STEPS, Task
from replicate.bench.work import work
from replicate.cli.bench import bench_command
from replicate.errors import BadInput
from replicate.models import build
from replicate.protocol import Network

CPU = torch.device("cpu")


# --- what a step has to do -------------------------------------------------------------------------------------------


def test_work_of_resnet32():
    of = work(Network("resnet32", 10, 3), 32)
    assert of.multiply_adds == pytest.approx(69.1e6, rel=0.01)
    assert of.first == 32 * 32 * 16 * 27
    # 11 convolutions of 16 channels at 32 x 32, 10 of 32 at 16 x 16, 10 of 64 at 8 x 8, the head; and as much batch norm.
    convolutions = 11 * 16 * 1024 + 10 * 32 * 256 + 10 * 64 * 64
    assert (of.made, of.kept) == (convolutions + 10, 2 * convolutions + 10)


def test_operations_are_those_that_the_framework_counts():
    from torch.utils.flop_counter import FlopCounterMode

    network = Network("resnet_digits", 10, 1)
    of, model = work(network, 8), build(network, "linear", torch.Generator().manual_seed(0))
    images = torch.randn(2, 1, 8, 8)
    with FlopCounterMode(display=False) as counted:
        model(images)
    assert counted.get_total_flops() == 2 * of.operations("evaluation")
    with FlopCounterMode(display=False) as counted:
        model(images).sum().backward()
    assert counted.get_total_flops() == 2 * of.operations("ordinary")
    assert of.operations("sam") == 2 * of.operations("ordinary") and of.bytes("sam") == 2 * of.bytes("ordinary")


# --- one measurement -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["ordinary", "sam", "evaluation"])
@pytest.mark.parametrize("side", [plain, engine])
def test_a_measurement_passes_the_images_that_it_counts(monkeypatch, side, step):
    """Warm-up before the clock, and after it as many forward passes of images as the speed is told for."""
    seen = Counter()
    running = ["warm-up"]

    def count(model, inputs):
        seen[running[0], model.training] += len(inputs[0])

    made = []

    def watched(*arguments):
        made.append(build(*arguments))
        made[0].register_forward_pre_hook(count)
        made[0].backbone.register_forward_pre_hook(lambda model, inputs: count(made[0], inputs))
        return made[0]

    for module in (plain, engine.loop):
        monkeypatch.setattr(module, "build", watched)
    threads = torch.get_num_threads()
    task = Task("", step, "resnet_digits", 4, 1, "cpu", loader_workers=0)
    try:
        torch.set_num_threads(1)
        seconds = side.measured(task, lambda: running.__setitem__(0, "timed"))
    finally:
        torch.set_num_threads(threads)
    assert seconds > 0 and len(made) == 1
    training = step != "evaluation"
    # The engine calls the backbone itself; the plain script the whole network, which counts both.
    calls = 2 if side is plain else 1
    passes = {"sam": 2, "ordinary": 1, "evaluation": 1}[step]
    assert task.timed == (500 * 2 if step == "evaluation" else 4 * BATCH)
    assert seen["timed", training] == calls * passes * task.timed
    assert seen["warm-up", training] > 0


def test_limits_are_those_of_a_product_and_a_copy(monkeypatch):
    monkeypatch.setattr(limits, "SIDE", {"cpu": 64})
    monkeypatch.setattr(limits, "COPIED", {"cpu": 1 << 12})
    monkeypatch.setattr(limits, "median", lambda run, device: run() is None or 0.5)
    assert limits.measured(CPU) == {"operations": 4 * 64**3, "bytes": 4 << 12}


# --- how they are arranged and told ----------------------------------------------------------------------------------


@pytest.fixture
def faked(monkeypatch):
    """Measurements that take no time: the engine twice as fast as the script, two cells at once as two apart."""
    asked = []

    def measure(*tasks):
        asked.append(tasks)
        if tasks[0].what == "limits":
            return [{"operations": 1e12, "bytes": 1e10}]
        seconds = {"plain": 2.0, "engine": 1.0}[tasks[0].what] * 2.0 ** (len(tasks) - 1)
        return [{"seconds": seconds, "peak_bytes": 2.0**30} for _ in tasks]

    monkeypatch.setattr(compare, "measure", measure)
    return asked


def compared(steps, pairs=3):
    said = []
    found = compare.compare(
        ["resnet32"], steps, pairs=pairs, batches=5, threads=2, device="cpu", loader_workers=2, said=said.append
    )
    return found, said


def test_pairs_are_alternated_and_limits_measured_in_every_round(faked):
    found, said = compared(["ordinary"])
    order = [tasks[0].what for tasks in faked]
    assert order == ["limits", "plain", "engine", "limits", "engine", "plain", "limits", "plain", "engine"]
    assert all(tasks[0].step == "ordinary" and tasks[0].threads == 2 for tasks in faked if tasks[0].what != "limits")
    (result,) = found["results"]
    assert result["ratios"] == [2.0] * 3 and result["engine"]["images_per_second"] == [5 * BATCH] * 3
    assert said[0] == "pair 1 of 3, resnet32, ordinary step: 320 -> 640 images/s (2.00x)"


def test_two_cells_at_once_share_the_threads_of_one(faked):
    found, _ = compared(["two"], pairs=2)
    of_cells = [tasks for tasks in faked if tasks[0].what != "limits"]
    assert [len(tasks) for tasks in of_cells] == [1, 1, 2, 2, 1, 1]
    assert {task.threads for tasks in of_cells if len(tasks) == 2 for task in tasks} == {1}
    assert {tasks[0].threads for tasks in of_cells if len(tasks) == 1} == {2}
    (result,) = found["results"]
    # Two of 640 images in 1 s each, and both at once in 2 s.
    assert result["apart"]["images_per_second"] == result["together"]["images_per_second"] == [640.0] * 2
    assert result["together"]["peak_bytes"] == [2.0**31] * 2 and result["apart"]["peak_bytes"] == [2.0**30] * 2


def test_the_table_tells_shares_of_the_limits(faked):
    found, _ = compared(list(STEPS))
    assert set(found) == {"format", "arguments", "machine", "limits", "results"}
    assert json.loads(json.dumps(found)) == found
    told = compare.render(found)
    of = work(Network("resnet32", 10, 3), 32)
    row = next(text for text in told.splitlines() if "ordinary step" in text)
    assert f"{640 * of.operations('ordinary') / 1e12:.0%}" in row and f"{640 * of.bytes('ordinary') / 1e10:.0%}" in row
    assert f"{1e10 / of.bytes('ordinary'):,.0f}" in row and "2.00 to 2.00" in row
    assert "matrix rate 1,000 GFLOP/s, copy bandwidth 10.0 GB/s" in told
    assert all(name in told for name in STEPS.values())


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_measures_in_processes_and_writes_json(tmp_path):
    file = tmp_path / "bench.json"
    which = ("--network", "resnet-digits", "--step", "ordinary", "--pairs", "1", "--batches", "2", "--threads", "1")
    done = subprocess.run(
        [sys.executable, "-m", "replicate", "bench", *which, "--device", "cpu", "--json", str(file)],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["arguments"]["networks"] == ["resnet_digits"] and found["arguments"]["threads"] == 1
    (result,) = found["results"]
    assert (result["network"], result["step"]) == ("resnet_digits", "ordinary")
    for side in ("plain", "engine"):
        assert all(len(values) == 1 and values[0] > 0 for values in result[side].values())
    ratio = result["engine"]["images_per_second"][0] / result["plain"]["images_per_second"][0]
    assert result["ratios"] == [ratio] and f"{ratio:.2f}x" in done.stdout
    assert found["limits"]["operations"][0] > 1e9 and found["limits"]["bytes"][0] > 1e8
    assert done.stderr.startswith("pair 1 of 1, resnet_digits, ordinary step: ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--network", "resnet33"), "network 'resnet33' is unknown; allowed: resnet32, "),
        (("--threads", "100000"), "100000 threads are more than the "),
        (("--device", "tpu"), "device 'tpu'"),
        (("--json", "none/such/file.json"), "file 'none/such/file.json' cannot be written"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, named):
    with pytest.raises(BadInput, match=named) as raised:
        bench_command.main([*arguments, "--pairs", "1"], standalone_mode=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("arguments", [("--pairs", "0"), ("--batches", "0"), ("--threads", "0"), ("--step", "all")])
def test_options_out_of_range_are_refused(arguments):
    done = CliRunner().invoke(bench_command, arguments)
    assert done.exit_code == 2 and arguments[0] in done.output


def test_a_measurement_that_fails_is_told_in_one_line(monkeypatch):
    with pytest.raises(compare.Failed, match="ValueError: backbone 'no_network' is unknown"):
        compare.measure(Task("engine", "ordinary", "no_network", 1, 1, "meta"))

    def fail(*tasks):
        raise compare.Failed("MemoryError")

    monkeypatch.setattr(compare, "measure", fail)
    with pytest.raises(BadInput, match="a measurement failed: MemoryError; if for lack of memory, name fewer"):
        bench_command.main(["--pairs", "1", "--device", "cpu"], standalone_mode=False)


def test_every_network_can_be_measured():
    from replicate.models import BACKBONES

    for name in BACKBONES:
        task = Task("engine", "ordinary", name, 1, 1, "cpu")
        of = work(task.description, task.shape[1])
        assert of.multiply_adds > of.first > 0 and of.kept >= of.made > 0
    assert isinstance(build(Network("resnet32", 10, 3), "linear", torch.Generator()), nn.Module)
