"""Exact facts of classifiers: heads, what may be trained, what decays, constant batch norm."""

import math

import pytest
import torch
from torch import nn

from replicate.models import Classifier, build, outline
from replicate.models.heads import FORMS, CosineHead, EtfHead, ScalingHead, form_of, reformed, simplex_frame
from replicate.protocol import DECAYED, Network


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def digits(backbone="resnet_digits", head="linear", seed=0, scale=None):
    return build(Network(backbone, 10, 1, scale), head, seeded(seed))


def pixels(count=7, side=8, seed=5):
    return torch.randn(count, 1, side, side, generator=seeded(seed))


# --- the ETF head ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("features", "classes"), [(512, 100), (32, 10), (10, 10), (3, 2)])
def test_simplex_frame_has_unit_vectors_and_equal_angles(features, classes):
    vectors = simplex_frame(features, classes, seeded())
    assert vectors.shape == (classes, features) and vectors.dtype == torch.float64
    cosines = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1)
    assert torch.allclose(vectors @ vectors.T, cosines, rtol=0, atol=1e-13)
    assert torch.allclose(vectors.sum(dim=0), torch.zeros(features, dtype=torch.float64), atol=1e-13)


def test_simplex_frame_has_no_preferred_direction():
    # Without the signs of R's diagonal, a library's QR gives the first entries one sign: their mean would be far from 0.
    generator = seeded()
    draws = torch.stack([simplex_frame(6, 3, generator) for _ in range(600)])
    assert draws.mean(dim=0).abs().max() < 0.1  # six standard errors
    outer = torch.einsum("nkd,nke->kde", draws, draws) / len(draws)
    assert torch.allclose(outer, torch.eye(6, dtype=torch.float64).expand(3, -1, -1) / 6, atol=0.06)


def test_simplex_frame_is_the_sign_corrected_factor_of_the_generators_own_draw():
    normal = torch.randn(5, 3, dtype=torch.float64, generator=seeded(4))
    # Gram-Schmidt: the one factorisation whose R has a positive diagonal.
    columns = []
    for column in normal.T:
        for done in columns:
            column = column - (column @ done) * done
        columns.append(column / column.norm())
    u = torch.stack(columns, dim=1)
    expected = math.sqrt(3 / 2) * (u @ (torch.eye(3, dtype=torch.float64) - 1 / 3))
    assert torch.allclose(simplex_frame(5, 3, seeded(4)), expected.T, atol=1e-12)


def test_etf_head_keeps_its_vectors_in_the_checkpoint_and_trains_its_bias_alone():
    model, again, other = digits(head="etf"), digits(head="etf"), digits(head="etf", seed=1)
    head = model.head
    assert isinstance(head, EtfHead)
    assert [name for name, _ in head.named_parameters()] == ["bias"]
    assert set(head.state_dict()) == {"weight", "bias"}
    assert torch.equal(head.weight, again.head.weight) and torch.equal(head.bias, again.head.bias)
    assert not torch.equal(head.weight, other.head.weight)
    assert 0 < head.bias.abs().max() <= 1 / 32
    other.load_state_dict(model.state_dict())
    assert torch.equal(head.weight, other.head.weight)
    x = torch.randn(4, 32, generator=seeded())
    assert torch.allclose(head(x), x @ head.weight.T + head.bias, atol=1e-6)


def test_etf_head_needs_as_many_features_as_classes():
    with pytest.raises(ValueError, match=r"32 and 33"):
        build(Network("resnet_digits", 33, 1), "etf", seeded())
    with pytest.raises(ValueError, match=r"5 and 6"):
        simplex_frame(5, 6, seeded())
    with pytest.raises(ValueError, match=r"5 and 1"):
        EtfHead(5, 1)


# --- a trained head in another form ----------------------------------------------------------------------------------


def trained_linear():
    return digits(seed=3).head


def test_scaling_head_starts_as_the_linear_head_and_trains_its_factors_alone():
    linear = trained_linear()
    head = reformed(linear, "scaling")
    assert isinstance(head, ScalingHead)
    x = torch.randn(7, 32, generator=seeded())
    torch.testing.assert_close(head(x), linear(x))
    assert [name for name, _ in head.named_parameters()] == ["scales"]
    assert set(head.state_dict()) == {"weight", "bias", "scales"}
    with torch.no_grad():
        head.scales.copy_(torch.linspace(-1, 2, 10))
    expected = head.scales.detach().double() * (x.double() @ linear.weight.double().T) + linear.bias.double()
    torch.testing.assert_close(head(x).double(), expected, rtol=1e-5, atol=1e-6)
    head(x)[:, 4].sum().backward()
    assert float(head.scales.grad[4]) == pytest.approx(float((x @ linear.weight[4]).detach().sum()), rel=1e-5)
    assert not head.scales.grad[:4].any()


def test_forms_take_over_copies_of_class_vectors_and_draw_nothing():
    linear, before = trained_linear(), torch.get_rng_state()
    linear.requires_grad_(False)
    for form, names in (("linear", {"weight", "bias"}), ("cosine", {"weight"}), ("scaling", {"weight", "bias", "scales"})):
        head = reformed(linear, form)
        assert set(head.state_dict()) == names and form_of(head.state_dict()) == form
        for name in names - {"scales"}:
            assert torch.equal(head.state_dict()[name], linear.state_dict()[name])
            assert head.state_dict()[name].data_ptr() != linear.state_dict()[name].data_ptr()
        assert all(parameter.requires_grad for parameter in head.parameters())
        assert [p.shape for p in FORMS[form](32, 10).parameters()] == [p.shape for p in head.parameters()]
    assert torch.equal(before, torch.get_rng_state())
    assert reformed(linear.double(), "cosine").weight.dtype == torch.float64


def test_heads_without_another_form_are_refused():
    with pytest.raises(ValueError, match="'etf'"):
        reformed(trained_linear(), "etf")
    for head in (CosineHead(4, 3), ScalingHead(4, 3), digits(head="etf").head):
        with pytest.raises(ValueError, match=type(head).__name__):
            reformed(head, "linear")
    again = reformed(head := CosineHead(4, 3), "cosine")  # a head that has the form goes on as a copy
    assert again is not head and torch.equal(again.weight, head.weight)
    with pytest.raises(ValueError, match="head 'scaling' is unknown"):
        digits(head="scaling")


def test_a_classifier_with_a_scaling_head_names_what_it_trains_and_decays():
    model = digits()
    model.head = reformed(model.head, "scaling")
    assert [name for name, _ in model.trainable("head")] == ["head.scales"]
    assert "head.scales" in model.decayed() and "head.weight" not in model.decayed()
    assert "head.scales" not in model.decayed("convolutions and linear layers")
    assert {"head.weight", "head.bias", "head.scales"} <= set(model.state_dict())


# --- features and logits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["linear", "cosine", "etf"])
@pytest.mark.parametrize(("backbone", "width"), [("resnet_digits", 32), ("mlp3_digits", 128), ("convnet3", 32)])
def test_both_gives_features_and_the_logits_of_forward(backbone, width, head):
    model = digits(backbone, head).eval()
    features, logits = model.both(pixels())
    assert features.shape == (7, width) and logits.shape == (7, 10)
    assert torch.equal(logits, model(pixels()))
    assert torch.equal(features, model.backbone(pixels()))
    assert torch.equal(logits, model.head(features))


def test_no_gradient_goes_back_through_a_fixed_backbone():
    model = digits()
    features, logits = model.both(pixels(), fixed_backbone=True)
    assert not features.requires_grad and logits.requires_grad
    with torch.no_grad():
        assert not model.both(pixels())[1].requires_grad
    assert model.both(pixels())[0].requires_grad


# --- what may be trained, and what decays ----------------------------------------------------------------------------

LAYERS = ["backbone.conv1", "backbone.block.conv1", "backbone.block.conv2", "backbone.block.projection"]
NORMS = ["backbone.bn1", "backbone.block.bn1", "backbone.block.bn2", "backbone.block.bn3"]
WEIGHTS = {f"{layer}.weight" for layer in LAYERS}
SCALES, SHIFTS = {f"{norm}.weight" for norm in NORMS}, {f"{norm}.bias" for norm in NORMS}
HEAD_PARAMETERS = {"linear": {"head.weight", "head.bias"}, "cosine": {"head.weight"}, "etf": {"head.bias"}}
HEAD_LAYERS = {"linear": {"head.weight", "head.bias"}, "cosine": set(), "etf": set()}


@pytest.mark.parametrize("head", ["linear", "cosine", "etf"])
def test_names_of_what_is_trained_and_decayed(head):
    model = digits(head=head)
    everything = WEIGHTS | SCALES | SHIFTS | HEAD_PARAMETERS[head]
    assert {name for name, _ in model.trainable()} == {name for name, _ in model.trainable(None)} == everything
    assert {name for name, _ in model.trainable("head")} == HEAD_PARAMETERS[head]
    assert model.decayed() == model.decayed(None) == everything
    assert model.decayed("convolutions and linear layers") == WEIGHTS | HEAD_LAYERS[head]
    assert model.decayed("all but batch-norm shifts") == everything - SHIFTS


@pytest.mark.parametrize("head", ["linear", "cosine", "etf"])
def test_names_under_constant_batch_norm(head):
    model = digits(head=head, scale=0.1)
    everything = WEIGHTS | HEAD_PARAMETERS[head]
    assert {name for name, _ in model.trainable()} == everything
    assert model.decayed() == model.decayed("all but batch-norm shifts") == everything
    assert model.decayed("convolutions and linear layers") == WEIGHTS | HEAD_LAYERS[head]


def test_perceptron_names():
    model = digits("mlp3_digits")
    linear = {f"backbone.blocks.{place}.linear.weight" for place in range(3)}
    norms = {f"backbone.blocks.{place}.bn" for place in range(3)}
    assert model.decayed("convolutions and linear layers") == linear | {"head.weight", "head.bias"}
    shifts = {f"{norm}.bias" for norm in norms}
    assert model.decayed("all but batch-norm shifts") == {name for name, _ in model.trainable()} - shifts


def test_trainable_gives_the_parameters_themselves_frozen_or_not():
    model = digits()
    named = dict(model.named_parameters())
    model.requires_grad_(False)
    for part in (None, "head"):
        assert all(parameter is named[name] for name, parameter in model.trainable(part))
    assert [name for name, _ in model.trainable()] == list(named)


def test_unknown_parts_and_rules_are_refused():
    model = digits()
    with pytest.raises(ValueError, match="'tail'"):
        model.trainable("tail")
    with pytest.raises(ValueError, match="'nothing'"):
        model.decayed("nothing")
    for rule in DECAYED:
        assert model.decayed(rule)


# --- constant batch norm ---------------------------------------------------------------------------------------------


def norms_of(model: Classifier):
    return [layer for layer in model.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]


@pytest.mark.parametrize(("backbone", "layers"), [("resnet_digits", 4), ("mlp3_digits", 3)])
def test_constant_batch_norm_stays_constant_through_training(backbone, layers):
    model = digits(backbone, scale=0.07)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    labels = torch.arange(7) % 10
    model.requires_grad_(False).requires_grad_(True)  # what freezes and thaws parameters does not reach it
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(pixels()), labels).backward()
        optimiser.step()
    norms = norms_of(model)
    assert len(norms) == layers
    for norm in norms:
        assert bool((norm.weight == torch.tensor(0.07)).all()) and not norm.bias.any()
        assert not norm.weight.requires_grad and not norm.bias.requires_grad
        assert int(norm.num_batches_tracked) == 3 and norm.running_mean.any()
        assert not any(norm.weight is parameter or norm.bias is parameter for parameter in trained)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert {name for name, _ in model.trainable()} <= moved


def test_constant_batch_norm_leaves_the_other_weights_and_the_checkpoints_names_as_they_are():
    plain, constant = digits().state_dict(), digits(scale=0.05).state_dict()
    assert set(plain) == set(constant)
    for name in WEIGHTS | {"head.weight", "head.bias"}:
        assert torch.equal(plain[name], constant[name])


def test_constant_batch_norm_computes_what_equal_parameters_compute():
    constant, plain = digits(scale=0.05), digits()
    plain.load_state_dict(constant.state_dict())
    # Long channels too, which our own batch norm treats in its own way.
    images = torch.randn(300, 1, 16, 16, generator=seeded()).contiguous(memory_format=torch.channels_last)
    for model in (constant, plain):
        model.to(memory_format=torch.channels_last)
    for training in (True, False):
        assert torch.equal(constant.train(training)(images), plain.train(training)(images))


def test_an_outline_has_the_same_names_and_shapes_without_memory():
    for head in ("linear", "cosine", "etf"):
        for scale in (None, 0.1):
            network = Network("resnet_digits", 10, 1, scale)
            lines, model = outline(network, head), build(network, head, seeded())
            assert {name: value.shape for name, value in lines.state_dict().items()} == {
                name: value.shape for name, value in model.state_dict().items()
            }
            assert [name for name, _ in lines.trainable()] == [name for name, _ in model.trainable()]
            assert all(value.is_meta for value in lines.state_dict().values())
