"""Exact facts of the networks that weight balancing trains, and of their stand-ins."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from replicate.errors import BadInput
from replicate.models import BACKBONES, build, outline
from replicate.models.batch_norm import BatchNorm2d
from replicate.models.torchvision_networks import residual_networks
from replicate.protocol import Network

PERCEPTRONS = ["mlp3", "mlp4", "mlp5", "resblock1", "resblock2", "mlp3_digits"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def built(backbone, channels=1, head="linear", seed=0):
    return build(Network(backbone, 10, channels), head, seeded(seed))


# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "classes", "channels", "side", "features", "parameters"),
    [
        ("resnet34_3x3", 100, 3, 32, 512, 21_328_292),
        ("resnet34_3x3", 10, 3, 32, 512, 21_282_122),
        ("resnet34", 100, 3, 224, 512, 21_335_972),
        ("resnext50_3x3", 100, 3, 32, 2048, 23_177_124),
        ("mlp3", 10, 1, 28, 1024, 2_916_362),
        ("mlp4", 10, 1, 28, 1024, 3_966_986),
        ("mlp5", 10, 1, 28, 1024, 5_017_610),
        ("resblock1", 10, 1, 28, 1024, 2_916_362),
        ("resblock2", 10, 1, 28, 1024, 5_017_610),
        ("resnet_digits", 10, 1, 8, 32, 15_034),
        ("mlp3_digits", 10, 1, 8, 128, 43_018),
    ],
)
def test_parameters_and_shapes(backbone, classes, channels, side, features, parameters):
    model = outline(Network(backbone, classes, channels), "linear").eval()
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    out, logits = model.both(torch.empty(2, channels, side, side, device="meta"))
    assert out.shape == (2, features) and logits.shape == (2, classes)
    assert model.backbone.width == features


def test_resnet34_backbone_and_its_maps():
    model = outline(Network("resnet34_3x3", 100, 3), "linear")
    assert sum(parameter.numel() for parameter in model.backbone.parameters()) == 21_276_992
    sides = []
    for stage in (model.backbone.network.layer1, model.backbone.network.layer2, model.backbone.network.layer4):
        stage.register_forward_hook(lambda module, inputs, output: sides.append(tuple(output.shape[1:])))
    model.eval()(torch.empty(2, 3, 32, 32, device="meta"))
    assert sides == [(64, 32, 32), (128, 16, 16), (512, 4, 4)]


@pytest.mark.parametrize("backbone", ["resnet34_3x3", "resnet34", "resnext50_3x3"])
def test_torchvisions_networks_use_our_batch_norm(backbone):
    norms = [layer for layer in outline(Network(backbone, 10, 3), "linear").modules() if isinstance(layer, nn.BatchNorm2d)]
    assert norms and all(type(layer) is BatchNorm2d for layer in norms)


def test_an_unchanged_first_convolution_takes_three_channels():
    with pytest.raises(ValueError, match="3 channels, not 1"):
        outline(Network("resnet34", 10, 1), "linear")
    assert outline(Network("resnet34_3x3", 10, 1), "linear").backbone.network.conv1.in_channels == 1


def test_resnet_digits_is_a_residual_network_with_a_projection_of_stride_two():
    block = built("resnet_digits").backbone.block.eval()
    assert block.projection.kernel_size == (1, 1) and block.projection.stride == block.conv1.stride == (2, 2)
    nn.init.zeros_(block.bn2.weight)  # silences the residual branch: what is left is the shortcut
    x = torch.randn(3, 16, 4, 4, generator=seeded())
    assert torch.equal(block(x), torch.relu(block.bn3(block.projection(x))))


# --- torchvision's own networks --------------------------------------------------------------------------------------


def test_resnet34_computes_what_torchvisions_does():
    ours = build(Network("resnet34", 10, 3), "linear", seeded()).eval()
    with torch.device("meta"):
        theirs = residual_networks().resnet34(num_classes=10)
    theirs = theirs.to_empty(device="cpu").eval()
    names = {name: name.removeprefix("backbone.network.").replace("head.", "fc.") for name in ours.state_dict()}
    theirs.load_state_dict({names[name]: value for name, value in ours.state_dict().items()})
    x = torch.randn(2, 3, 64, 64, generator=seeded(1))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))
        small = build(Network("resnet34_3x3", 10, 3), "linear", seeded()).eval()
        theirs.conv1, theirs.maxpool = small.backbone.network.conv1, nn.Identity()
        theirs.load_state_dict({names[name]: value for name, value in small.state_dict().items()})
        x = torch.randn(2, 3, 32, 32, generator=seeded(1))
        assert torch.equal(small(x), theirs(x))


def inside(code, *paths):
    """Run ``code`` in a fresh interpreter that finds packages in ``paths`` first; return what it prints."""
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), root])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_torchvision_is_imported_for_its_own_networks_alone():
    told = inside("""
import sys, torch
from replicate.models import build, outline
from replicate.protocol import Network
for backbone, channels in (("resnet32", 3), ("mlp3", 1), ("resnet_digits", 1)):
    build(Network(backbone, 10, channels), "linear", torch.Generator())
print("torchvision" in sys.modules)
model = outline(Network("resnet34_3x3", 100, 3), "linear")
print("torchvision" in sys.modules, sum(parameter.numel() for parameter in model.parameters()))
""")
    assert told == ["False", "True", "21328292"]


def package(folder, first_lines):
    """A package called torchvision, whose import begins with ``first_lines``."""
    models = folder / "torchvision" / "models"
    models.mkdir(parents=True)
    (folder / "torchvision" / "early.py").write_text("import torch\nmade = torch.zeros(1)\n")
    (folder / "torchvision" / "__init__.py").write_text("import torchvision.early\n" + first_lines)
    (models / "__init__.py").write_text("")
    (models / "resnet.py").write_text("import torchvision\nmade = torchvision.early.made\n")
    return folder


def test_missing_operators_are_declared_and_the_import_repeated(tmp_path):
    broken = """
import builtins, torch
builtins.tries = getattr(builtins, "tries", 0) + 1
torch.library.register_fake("torchvision::nms")(lambda dets, scores, iou_threshold: dets)
torch.library.register_fake("torchvision::qnms")(lambda dets, scores, iou_threshold: dets)
"""
    told = inside(
        """
import builtins, torch
from replicate.models.torchvision_networks import residual_networks
with torch.device("meta"):
    module = residual_networks()
assert residual_networks() is module
print(module.__name__, module.made.device, builtins.tries, hasattr(torch.ops.torchvision, "qnms"))
""",
        package(tmp_path, broken),
    )
    assert told == ["torchvision.models.resnet", "cpu", "2", "True"]


def test_a_torchvision_that_imports_is_left_alone(tmp_path):
    told = inside(
        """
import torch
from replicate.models.torchvision_networks import residual_networks
print(residual_networks().__file__, hasattr(torch.ops.torchvision, "nms"))
""",
        package(tmp_path, ""),
    )
    assert told == [str(tmp_path / "torchvision" / "models" / "resnet.py"), "False"]


@pytest.fixture
def without_torchvision(monkeypatch):
    """Until the test ends, torchvision is not imported yet."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    yield monkeypatch
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def test_another_failure_is_one_line_that_says_what_to_install(without_torchvision, tmp_path):
    first = 'raise RuntimeError("compiled with different CUDA major versions\\nmore")\n'
    without_torchvision.syspath_prepend(str(package(tmp_path, first)))
    with pytest.raises(BadInput, match=r"different CUDA major versions.*pip install torchvision") as raised:
        outline(Network("resnet34", 10, 3), "linear")
    assert "\n" not in str(raised.value)
    assert not any(name.startswith("torchvision") for name in sys.modules)


def test_a_missing_torchvision_is_one_line_that_says_what_to_install(without_torchvision):
    without_torchvision.setitem(sys.modules, "torchvision", None)
    with pytest.raises(BadInput, match="install the release made for torch"):
        outline(Network("resnext50_3x3", 10, 3), "linear")


# --- initialisation --------------------------------------------------------------------------------------------------


def check_normal(weight, deviation):
    count = weight.numel()
    assert weight.std().item() == pytest.approx(deviation, rel=6 / math.sqrt(count))
    assert abs(weight.mean().item()) < 6 * deviation / math.sqrt(count)
    assert weight.abs().max().item() > 2 * deviation  # no uniform law of this spread reaches so far


def check_uniform(weight, bound):
    count = weight.numel()
    assert weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=6 / math.sqrt(count))
    assert abs(weight.mean().item()) < 6 * bound / math.sqrt(3 * count)


@pytest.mark.parametrize(("backbone", "channels"), [("resnet34_3x3", 3), ("resnext50_3x3", 3), ("resnet_digits", 1)])
def test_residual_networks_start_as_the_framework_has_it(backbone, channels):
    model = built(backbone, channels)
    stem = model.backbone.conv1 if backbone == "resnet_digits" else model.backbone.network.conv1
    checked = 0
    for layer in model.modules():
        if layer is stem:
            check_uniform(layer.weight, 1 / math.sqrt(9 * channels))
        elif isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            check_normal(layer.weight, math.sqrt(2 / fan_out))
            checked += 1
        elif isinstance(layer, nn.BatchNorm2d):
            assert bool((layer.weight == 1).all()) and not layer.bias.any()
            assert not layer.running_mean.any() and bool((layer.running_var == 1).all())
            assert int(layer.num_batches_tracked) == 0
    assert checked == {"resnet34_3x3": 35, "resnext50_3x3": 52, "resnet_digits": 3}[backbone]
    width = model.backbone.width
    check_uniform(model.head.weight, 1 / math.sqrt(width))
    assert 0 < model.head.bias.abs().max().item() <= 1 / math.sqrt(width)


def test_an_unchanged_first_convolution_starts_like_the_others():
    stem = built("resnet34", 3).backbone.network.conv1
    assert stem.kernel_size == (7, 7)
    check_normal(stem.weight, math.sqrt(2 / (64 * 49)))


@pytest.mark.parametrize("backbone", ["mlp3", "resblock1", "mlp3_digits"])
def test_perceptrons_start_as_the_framework_has_it(backbone):
    model = built(backbone)
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    assert [layer.bias is None for layer in linear] == [True, True, True, False]
    for layer in linear:
        check_uniform(layer.weight, 1 / math.sqrt(layer.in_features))
    assert 0 < model.head.bias.abs().max().item() <= 1 / math.sqrt(model.backbone.width)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            assert bool((layer.weight == 1).all()) and not layer.bias.any() and bool((layer.running_var == 1).all())


@pytest.mark.parametrize(
    ("backbone", "channels", "head"),
    [("resnet34_3x3", 3, "etf"), ("mlp3", 1, "linear"), ("resblock1", 1, "etf"), ("resnet_digits", 1, "linear")],
)
def test_weights_follow_their_generator_and_leave_the_global_one_alone(backbone, channels, head):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = built(backbone, channels, head).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = built(backbone, channels, head).state_dict(), built(backbone, channels, head, seed=1).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    drawn = [name for name, value in first.items() if value.ndim > 1 or name == "head.bias"]
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


# --- perceptrons -----------------------------------------------------------------------------------------------------

PLAIN = ("linear", "normalised", "batch norm", "ReLU")
FIRST, SECOND = (tuple(f"{which} {step}" for step in PLAIN) for which in ("first", "second"))
RESIDUAL = (*FIRST, *SECOND[:-1], "addition", "ReLU")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backbone", PERCEPTRONS)
def test_steps_are_named_in_order_and_end_in_the_features(backbone, training):
    side = 8 if backbone == "mlp3_digits" else 28
    images = torch.randn(6, 1, side, side, generator=seeded(1))
    one, two = built(backbone).backbone, built(backbone).backbone
    for model in (one, two):
        model(images)  # running statistics that differ from the batch's
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm1d):
                nn.init.uniform_(layer.weight, 0.5, 1.5, generator=seeded(2))
                nn.init.uniform_(layer.bias, -1, 1, generator=seeded(3))
        model.train(training)
    with torch.no_grad():
        features = one(images)
        told = [(name, x, x.clone()) for name, x in two.steps(images)]
    assert torch.equal(told[-1][1], features)
    assert all(torch.equal(now, then) for _, now, then in told)  # no later step changed an earlier one's output
    for mine, other in zip(one.buffers(), two.buffers(), strict=True):
        assert torch.equal(mine, other)  # batch norm has counted the batch once, or not at all

    residual = int(backbone[-1]) if backbone.startswith("resblock") else 0
    linear = 1 if residual else int(backbone[3])
    kinds = [PLAIN] * linear + [RESIDUAL] * residual
    expected = [f"block {number} {step}" for number, kind in enumerate(kinds, start=1) for step in kind]
    assert [name for name, _, _ in told] == expected

    by_name = {name: x for name, x, _ in told}
    norm = two.blocks[0].bn
    assert torch.allclose(by_name["block 1 normalised"] * norm.weight + norm.bias, by_name["block 1 batch norm"], atol=1e-5)
    assert torch.equal(by_name["block 1 batch norm"].relu(), by_name["block 1 ReLU"])
    assert torch.allclose(images.flatten(1) @ two.blocks[0].linear.weight.T, by_name["block 1 linear"], atol=1e-5)
    if training:
        whitened = by_name["block 1 normalised"]
        assert whitened.mean(dim=0).abs().max() < 1e-5
    if residual:
        added = by_name["block 2 second batch norm"] + by_name["block 1 ReLU"]
        assert torch.equal(added, by_name["block 2 addition"])


def test_steps_of_another_evaluation_are_normalised_by_running_statistics():
    backbone = built("mlp3_digits").backbone
    images = torch.randn(6, 1, 8, 8, generator=seeded(1))
    backbone(images)
    backbone.eval()
    steps = dict(backbone.steps(images))
    norm = backbone.blocks[0].bn
    expected = (steps["block 1 linear"] - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
    assert torch.allclose(steps["block 1 normalised"], expected, atol=1e-5)


def test_every_backbone_is_covered():
    here = {"resnet34_3x3", "resnet34", "resnext50_3x3", "resnet_digits", *PERCEPTRONS}
    assert set(BACKBONES) == here | {"resnet32", "convnet3"}  # these two: test_models.py


@pytest.mark.parametrize(("backbone", "channels"), [("resnet32", 3), ("convnet3", 1)])
def test_older_networks_draw_kaiming_normal_layer_by_layer(backbone, channels):
    model, generator = built(backbone, channels), seeded()
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            assert torch.equal(layer.weight, nn.init.kaiming_normal_(torch.empty_like(layer.weight), generator=generator))
            if layer.bias is not None:
                bound = layer.weight[0].numel() ** -0.5
                assert torch.equal(layer.bias, torch.empty_like(layer.bias).uniform_(-bound, bound, generator=generator))
