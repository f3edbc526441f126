"""Exact facts of the networks."""

import math

import pytest
import torch
from torch import nn

from replicate.models import build
from replicate.models.batch_norm import BatchNorm2d
from replicate.models.resnet_cifar import BasicBlock
from replicate.protocol import Network


def network(head="linear", classes=10, seed=0):
    return build(Network("resnet32", classes, 3), head, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("classes", "head", "parameters"),
    [(10, "linear", 464_154), (10, "cosine", 464_144), (100, "linear", 470_004), (100, "cosine", 469_904)],
)
def test_parameters(classes, head, parameters):
    model = network(head, classes)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, classes)


def test_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    block = BasicBlock(16, 32, 2).eval()
    nn.init.zeros_(block.bn2.weight)  # silences the residual branch: its output is the shortcut alone
    x = torch.rand(1, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_features_are_a_plain_mean_over_an_8x8_map():
    model = network()
    seen = []
    model.backbone.blocks.register_forward_hook(lambda module, inputs, output: seen.append(output))
    features = model.backbone(torch.rand(2, 3, 32, 32))
    assert seen[0].shape == (2, 64, 8, 8)
    assert torch.allclose(features, seen[0].flatten(2).mean(2))


def test_initialisation_is_kaiming_normal_by_fan_in():
    model = network()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            spread = module.weight.std().item()
            assert spread == pytest.approx(math.sqrt(2 / fan_in), rel=6 / math.sqrt(module.weight.numel()))
        if isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()) and not module.bias.any()
    assert model.head.bias.abs().max().item() <= 1 / 8


def test_cosine_head():
    model = network("cosine")
    lengths = model.head.weight.norm(dim=1)
    assert torch.allclose(lengths, torch.ones(10), atol=1e-4)
    x = torch.rand(5, 64)
    expected = nn.functional.cosine_similarity(x[:, None], model.head.weight[None], dim=2)
    assert torch.allclose(model.head(x), expected, atol=1e-6)


def test_weights_follow_their_generator_and_leave_the_global_one_alone():
    before = torch.get_rng_state()
    first, again, other = network(), network(), network(seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_channels_last_computes_the_same(head):
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain, last = network(head), network(head).to(memory_format=torch.channels_last)
    assert torch.allclose(plain(x), last(x.contiguous(memory_format=torch.channels_last)), atol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="backbone"):
        build(Network("resnet7", 10, 3), "linear", torch.Generator())
    with pytest.raises(ValueError, match="head"):
        build(Network("resnet32", 10, 3), "round", torch.Generator())


def images(shape, dtype=torch.float32):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 1
    return x.to(dtype).contiguous(memory_format=torch.channels_last)


# Where H*W and 1024/C share no large factor the chains stay long: right, and about as exact as the framework's own.
@pytest.mark.parametrize(
    ("shape", "allowed"),
    [((128, 16, 32, 32), 1e-6), ((118, 32, 16, 16), 1e-6), ((300, 24, 9, 9), 2e-5), ((500, 5, 7, 7), 2e-5)],
)
def test_batch_norm_equals_the_framework_in_float64_and_is_as_exact_as_its_default_format(shape, allowed):
    flow = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def both(layer, x):
        x = x.requires_grad_()
        with torch.no_grad():
            layer.weight.copy_(torch.linspace(0.5, 1.5, shape[1]))
            layer.bias.copy_(torch.linspace(-1, 1, shape[1]))
        out = layer(x)
        gradients = torch.autograd.grad(out, [x, layer.weight, layer.bias], flow.to(x.dtype))
        layer.eval()
        with torch.no_grad():
            evaluated = layer(x)
        return [out.detach(), *gradients, layer.running_mean, layer.running_var, evaluated]

    exact = both(nn.BatchNorm2d(shape[1]).double(), images(shape, torch.float64))
    plain = both(nn.BatchNorm2d(shape[1]), images(shape).contiguous())
    ours = both(BatchNorm2d(shape[1]), images(shape))
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for mine, framework, true in zip(ours, plain, exact, strict=True):
        error = (mine.double() - true).norm() / true.norm()
        assert error <= max(4 * (framework.double() - true).norm() / true.norm(), allowed)


def test_batch_norm_counts_its_batches_and_falls_back_on_the_framework():
    ours, framework = BatchNorm2d(4), nn.BatchNorm2d(4)
    plain = torch.randn(3, 4, 5, 5)
    assert torch.equal(ours(plain), framework(plain))
    ours(images((100, 4, 16, 16)))
    assert int(ours.num_batches_tracked) == 2
    double = BatchNorm2d(4).double()
    assert torch.autograd.gradcheck(double, images((2, 4, 3, 3), torch.float64).requires_grad_())
