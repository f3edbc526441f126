"""The compiled kernels against the framework's layers in float64 and float32."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from replicate import kernels
from replicate.kernels.functions import convolution, norm_relu, residual_block, usable
from replicate.models import build
from replicate.protocol import Network

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="no C compiler with OpenMP here")

LAST = torch.channels_last
#: Images, height, width, channels in, channels made, stride of the first convolution.
SHAPES = [
    (3, 32, 32, 16, 16, 1),
    (5, 8, 8, 64, 64, 1),
    (2, 12, 20, 32, 32, 1),
    (9, 4, 4, 48, 48, 1),
    (3, 8, 8, 256, 256, 1),
    (4, 16, 16, 16, 32, 2),
    (3, 8, 16, 32, 64, 2),
]


class Layers(nn.Module):
    """The layers of a block with any values in them."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, made, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(made)
        self.conv2 = nn.Conv2d(made, made, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(made)
        self.stride = stride
        draw = torch.Generator().manual_seed(channels + made)
        for value in self.state_dict().values():
            if value.is_floating_point():
                value.copy_(
                    torch.rand(value.shape, generator=draw) * (0.2 if value.ndim == 4 else 1.0) - (value.ndim == 4) * 0.1
                )

    def shortcut(self, x):
        return x if self.stride == 1 else functional.interpolate(x, scale_factor=0.5).repeat(1, 2, 1, 1)

    def plain(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.shortcut(x))

    def fast(self, x):
        assert usable(x, (self.conv1, self.conv2), (self.bn1, self.bn2))
        if self.stride == 1:
            return residual_block(x, None, self.conv1, self.bn1, self.conv2, self.bn2)
        return residual_block(convolution(x, self.conv1), self.shortcut(x), None, self.bn1, self.conv2, self.bn2)


def told(layers, run, x, flow):
    """Everything that a pass forward and back leaves, by name."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    out = run(layers, x)
    out.backward(flow)
    named = {"out": out.detach(), "images": x.grad}
    named |= {f"gradient of {name}": parameter.grad for name, parameter in layers.named_parameters()}
    return named | {name: value.clone() for name, value in layers.named_buffers()}


def example(shape):
    images, height, width, channels, made, stride = shape
    draw = torch.Generator().manual_seed(images)
    x = torch.randn(images, channels, height, width, generator=draw).to(memory_format=LAST)
    flow = torch.randn(images, made, height // stride, width // stride, generator=draw).to(memory_format=LAST)
    return Layers(channels, made, stride).to(memory_format=LAST), x, flow


def distance(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-12))


def assert_near_float64(shape):
    layers, x, flow = example(shape)
    exact = told(copy.deepcopy(layers).double(), Layers.plain, x.double(), flow.double())
    plain = told(copy.deepcopy(layers), Layers.plain, x.contiguous(), flow)
    fast = told(layers, Layers.fast, x, flow)
    assert fast.keys() == exact.keys()
    for name, value in exact.items():
        assert distance(fast[name], value) <= max(2 * distance(plain[name], value), 1e-6), name


@pytest.mark.parametrize("shape", SHAPES)
def test_a_block_is_as_near_to_float64_as_the_framework(shape):
    assert_near_float64(shape)


@pytest.mark.parametrize("flags", ["-mno-avx512f", "-march=x86-64"])
def test_narrower_processors(flags, monkeypatch):
    monkeypatch.setattr(kernels, "_FLAGS", (*kernels._FLAGS, flags))
    kernels.library.cache_clear()
    try:
        assert kernels.library() is not None
        for shape in SHAPES[:3] + SHAPES[-1:]:
            assert_near_float64(shape)
    finally:
        kernels.library.cache_clear()


@pytest.mark.parametrize("shape", SHAPES)
def test_bits_do_not_depend_on_the_number_of_threads(shape):
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        layers, x, flow = example(shape)
        x.grad = None
        out = Layers.fast(layers, x) if shape[-1] == 1 else residual_block_of_given(layers, x)
        out.backward(flow)
        found.append({name: p.grad for name, p in layers.named_parameters() if p.grad is not None} | {"out": out.detach()})
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(found[0][name], value) for name, value in other.items())


def residual_block_of_given(layers, x):
    out = convolution(x, layers.conv1)
    return residual_block(out, layers.shortcut(x), None, layers.bn1, layers.conv2, layers.bn2)


def test_resnet32_trains_the_same_on_any_number_of_threads():
    def trained(threads):
        torch.set_num_threads(threads)
        model = build(Network("resnet32", 100, 3), "linear", torch.Generator().manual_seed(0)).to(memory_format=LAST)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        draw = torch.Generator().manual_seed(1)
        for batch in (32, 19):
            images = torch.randn(batch, 3, 32, 32, generator=draw).to(memory_format=LAST)
            labels = torch.randint(100, (batch,), generator=draw)
            optimiser.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            assert torch.get_num_threads() == threads  # lowered for the head alone
            optimiser.step()
        return model.state_dict()

    before = torch.get_num_threads()
    one, two = trained(1), trained(2)
    torch.set_num_threads(before)
    assert all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("channels", [3, 16])
@pytest.mark.parametrize("stride", [1, 2])
def test_weight_gradients_of_a_convolution(channels, stride):
    draw = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(channels, 32, 3, stride, 1, bias=False).to(memory_format=LAST)
    x = torch.randn(7, channels, 8, 12, generator=draw).to(memory_format=LAST).requires_grad_()
    out = convolution(x, layer)
    flow = torch.randn(out.shape, generator=draw)
    out.backward(flow)
    exact, x64 = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    exact.zero_grad()
    exact(x64).backward(flow.double())
    assert distance(layer.weight.grad, exact.weight.grad) < 1e-6
    assert distance(x.grad, x64.grad) < 1e-6


@pytest.mark.parametrize("mean", [3.0, 30.0, 300.0])
def test_batch_norm_with_relu_is_exact_where_running_statistics_follow(mean):
    """Squares of values far from 0 would cancel."""
    draw = torch.Generator().manual_seed(0)
    layer = nn.BatchNorm2d(16)
    nn.init.uniform_(layer.weight)
    layer.running_mean.fill_(0.9 * mean)
    exact = copy.deepcopy(layer).double()
    x = (mean + torch.randn(6, 16, 10, 10, generator=draw)).to(memory_format=LAST).requires_grad_()
    x64 = x.detach().double().requires_grad_()
    flow = torch.randn(x.shape, generator=draw)
    out, out64 = norm_relu(x, layer), exact(x64).relu()
    out.backward(flow), out64.backward(flow.double())
    pairs = [(out, out64), (x.grad, x64.grad), (layer.weight.grad, exact.weight.grad), (layer.bias.grad, exact.bias.grad)]
    pairs += [(layer.running_mean, exact.running_mean), (layer.running_var, exact.running_var)]
    assert all(distance(one.detach(), other.detach()) < 1e-6 * max(1, mean / 3) for one, other in pairs)
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("shape", SHAPES[:2] + SHAPES[-1:])
def test_evaluation_uses_running_statistics_and_leaves_them(shape):
    layers, x, _ = example(shape)
    layers.eval()
    before = copy.deepcopy(layers.state_dict())
    with torch.inference_mode():
        assert distance(layers.fast(x), copy.deepcopy(layers).double().plain(x.double())) < 1e-6
    assert all(torch.equal(value, before[name]) for name, value in layers.state_dict().items())


def test_what_is_not_a_number_stays_visible():
    layers, x, _ = example(SHAPES[1])
    x[0, 0, 0, 0] = torch.nan
    assert layers.fast(x).isnan().any()


def refused(x, layers):
    return not usable(x, (layers.conv1, layers.conv2), (layers.bn1, layers.bn2))


def test_other_images_and_layers_are_left_to_the_framework():
    layers, x, _ = example(SHAPES[0])
    assert not refused(x, layers)
    assert refused(x.double(), layers) and refused(x.contiguous(), layers)
    assert refused(x[:, :, :31].contiguous(memory_format=LAST), layers)  # an odd side
    assert refused(x[:, :, :2, :2].contiguous(memory_format=LAST), layers)
    assert refused(x, Layers(16, 24, 1)) and refused(x, Layers(16, 512, 1))
    layers.eval()
    assert refused(x, layers)  # gradients through running statistics
    with torch.no_grad():
        assert not refused(x, layers)
        with torch.autocast("cpu", torch.bfloat16):
            assert refused(x, layers)


def test_a_pass_without_a_way_back_leaves_the_threads():
    model = build(Network("resnet32", 10, 3), "linear", torch.Generator().manual_seed(0)).to(memory_format=LAST)
    images = torch.randn(2, 3, 32, 32).to(memory_format=LAST)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    model(images)
    assert torch.get_num_threads() == 2
    model(images).sum().backward()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_without_a_compiler_networks_train_on_the_framework():
    code = """
import torch
from replicate import kernels
from replicate.models import build
from replicate.protocol import Network
assert kernels.library() is None
model = build(Network("resnet32", 10, 3), "linear", torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
model(torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last)).sum().backward()
"""
    shown = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "CC": "no-such-compiler"}, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr


def test_kernels_are_compiled_once(tmp_path, monkeypatch):
    compiled = []
    compile_ = kernels._compile
    monkeypatch.setattr(kernels, "_compile", lambda *arguments: (compiled.append(1), compile_(*arguments)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        kernels.library.cache_clear()
        assert kernels.library() is not None
    kernels.library.cache_clear()
    assert compiled == [1]
    assert [path.suffix for path in (tmp_path / "replicate").iterdir()] == [".so"]


@pytest.fixture
def afresh(tmp_path, monkeypatch):
    """What is found out anew, with a cache and temporary files of one's own: names of the folders compiled into, in order. In
    place of compiling, the library that is there is copied."""
    kernels.library.cache_clear()
    made = Path(kernels.library()._name)
    kernels.library.cache_clear()
    compiled = []

    def compile_(compiler, path):
        compiled.append(path.parent.name)
        shutil.copy(made, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    monkeypatch.setattr(kernels, "_compile", compile_)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels.tempfile, "gettempdir", lambda: str(tmp_path))
    yield compiled
    kernels.library.cache_clear()


OWN = f"replicate-{os.getuid()}"


def test_a_damaged_library_is_compiled_anew(afresh, tmp_path, monkeypatch):
    name = Path(kernels.library()._name).name
    kernels.library.cache_clear()
    damaged = tmp_path / "other" / "replicate" / name  # another place: a name that is loaded is not opened again
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no library")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert kernels.library()._name == str(damaged)
    assert afresh == ["replicate", "replicate"]


@pytest.mark.parametrize("fault", ["not run from", "not written to", "not there"])
def test_where_the_cache_does_not_serve_temporary_files_do(fault, afresh, tmp_path, monkeypatch):
    load, compile_ = kernels.ctypes.CDLL, kernels._compile
    unfit = str(tmp_path / "cache")

    def refused(path, **options):
        if str(path).startswith(unfit):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path, **options)

    def unwritable(compiler, path):
        if str(path).startswith(unfit):
            raise PermissionError
        compile_(compiler, path)

    if fault == "not run from":
        monkeypatch.setattr(kernels.ctypes, "CDLL", refused)
    elif fault == "not written to":
        monkeypatch.setattr(kernels, "_compile", unwritable)
    else:
        Path(unfit).write_bytes(b"in the way")
    for _ in range(2):
        assert kernels.library() is not None
        kernels.library.cache_clear()
    assert afresh == (["replicate", OWN] if fault == "not run from" else [OWN])  # and not once more at the second start


def test_another_users_folder_is_left_alone(afresh, tmp_path, monkeypatch):
    (tmp_path / "cache").write_bytes(b"in the way")
    (tmp_path / "replicate-4242").mkdir()
    monkeypatch.setattr(kernels.os, "getuid", lambda: 4242 if os.geteuid() != 4242 else 4243)
    assert kernels.library() is None
    assert afresh == []


def test_a_relative_cache_is_ignored(afresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert kernels.library() is not None
    assert not (tmp_path / "here").exists()
    assert len(list((tmp_path / "home" / ".cache" / "replicate").iterdir())) == 1


def test_a_compiler_that_cannot_be_read_is_none(afresh, monkeypatch):
    monkeypatch.setenv("CC", "gcc 'unbalanced")
    assert kernels.library() is None


def test_mapped_files_may_have_any_name(tmp_path, monkeypatch):
    found = kernels._openmp()
    maps = tmp_path / "maps"
    maps.write_bytes(
        b"7f00-7f01 r--p 00000000 00:00 7    /data/\xe9t\xe9.bin\n7f02-7f03 r--p 00000000 00:00 8    %s\n" % found.encode()
    )
    monkeypatch.setattr(kernels, "_MAPS", maps)
    assert kernels._openmp() == found
