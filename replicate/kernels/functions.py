"""The kernels as differentiable functions of tensors: residual blocks, and batch norm with ReLU.

Between two convolutions nothing is written but their outputs: batch norm and ReLU are applied as the next one reads, and
again in the backward pass. Sums over pixels are joined in float64.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from replicate.kernels import library, pointer

#: Channels come in vectors of at most so many values.
_CHANNELS = 16
#: Channels of the images that a first convolution may take.
_COLOURS = 3
#: With more channels, or on smaller images, there is nothing to win.
_MOST_CHANNELS, _SMALLEST_SIDE = 256, 4
#: What becomes of the gradient of a convolution's input, as the kernels number it.
_ADDED, _GATED = 1, 2


def usable(x: Tensor, convolutions: Sequence[nn.Conv2d], norms: Sequence[nn.BatchNorm2d]) -> bool:
    """Whether the kernels can take images [B, C, H, W] through these 3x3 convolutions, one after another, and are there.

    They are for float32 channels-last images of even sides on a CPU; for 3 channels, where the first convolution is one of
    :func:`convolution`, and multiples of 16 up to 256; for batch norm that trains, or that evaluates without gradients.
    """
    channels, side, stride = x.shape[1], min(x.shape[2:]), math.prod(layer.stride[0] for layer in convolutions)
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and side >= _SMALLEST_SIDE * stride
        and not any(length % (2 * stride) for length in x.shape[2:])
        and (channels == _COLOURS or channels % _CHANNELS == 0)
        and not any(layer.out_channels % _CHANNELS or layer.out_channels > _MOST_CHANNELS for layer in convolutions)
        and all(norm.training or not torch.is_grad_enabled() for norm in norms)
        and len({norm.training for norm in norms}) == 1
        and all(layer.weight.dtype == torch.float32 for layer in (*convolutions, *norms))
        and not torch.is_autocast_enabled("cpu")
        and library() is not None
    )


class _Norm(NamedTuple):
    """Batch norm as the affine function scale * z + shift, each float32 [C]. In training the batch's mean and 1 / standard
    deviation, float64 [C], and the mean in 32 bits, from which sums of the backward pass are counted."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    inverse: Tensor
    pivot: Tensor


class _Shape(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("images", "height", "width", "channels", "made"))


def _shape(x: Tensor, made: int) -> Any:
    images, channels, height, width = x.shape
    return ctypes.byref(_Shape(images, height, width, channels, made))


def _call(name: str, *arguments: Any) -> None:
    """Call a kernel; tensors as pointers, integers as C's long, floats as its double."""
    kernels = library()
    assert kernels is not None
    told = []
    for argument in arguments:
        if isinstance(argument, int):
            argument = ctypes.c_long(argument)
        elif isinstance(argument, float):
            argument = ctypes.c_double(argument)
        elif argument is None or isinstance(argument, Tensor):
            argument = pointer(argument)
        told.append(argument)
    getattr(kernels, name)(*told)


def _counted(x: Tensor) -> tuple[int, int]:
    """Pixels and channels."""
    return x.numel() // x.shape[1], x.shape[1]


def _sums(z: Tensor, pivot: Tensor | None, flow: Tensor | None = None, shown: Tensor | None = None) -> Tensor:
    """[2, C], float64: of z - pivot and its squares; or of g and g * (z - pivot), g being ``flow`` where ``shown`` is positive.

    Without a pivot near the mean, where that is large, 32-bit squares would cancel."""
    sums = torch.empty(2, z.shape[1], dtype=torch.float64)
    _call("channel_sums", *_counted(z), z, flow, shown, pivot, sums)
    return sums


def _norm(layer: nn.BatchNorm2d, sums: Tensor | None, count: int) -> _Norm:
    """Of the batch with these sums over ``count`` pixels, which running statistics then follow; or, without any, of these."""
    channels = layer.num_features
    mean, inverse = torch.empty(2, channels, dtype=torch.float64)
    scale, shift, pivot = torch.empty(3, channels, dtype=torch.float32)
    assert layer.running_mean is not None and layer.running_var is not None and layer.momentum is not None
    affine = (layer.weight.detach(), layer.bias.detach(), layer.eps)
    running = (layer.running_mean, layer.running_var)
    if sums is None:
        _call("norm_of_running", channels, *affine, *running, scale, shift)
    else:
        assert layer.num_batches_tracked is not None
        layer.num_batches_tracked.add_(1)
        _call("norm_of_batch", count, channels, sums, *affine, layer.momentum, *running, mean, inverse, pivot, scale, shift)
    return _Norm(scale, shift, mean, inverse, pivot)


def _normalised(z: Tensor, norm: _Norm, added: Tensor | None) -> Tensor:
    """ReLU of the norm, or of its sum with ``added``."""
    out = torch.empty_like(z)
    _call("normalise", *_counted(z), z, norm.scale, norm.shift, added, out)
    return out


def _norm_back(count: int, sums: Tensor, weight: Tensor, norm: _Norm) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Gradients of weight and bias [C], and factors [C] of the gradient of the norm's input: of g, of z, and a constant."""
    channels = len(weight)
    by_weight, by_bias, of_flow, of_z, constant = torch.empty(5, channels, dtype=torch.float32)
    _call(
        "norm_back", count, channels, sums, weight, norm.mean, norm.inverse, by_weight, by_bias, of_flow, of_z, constant
    )  # fmt: skip
    return by_weight, by_bias, (of_flow, of_z, constant)


def _transformed(weight: Tensor, both: bool) -> tuple[Tensor, Tensor | None]:
    """Weights [K, C, 3, 3] for the convolution and, if asked for ``both``, for the gradient of its input."""
    made, channels = weight.shape[:2]
    weight = weight.contiguous(memory_format=torch.channels_last)
    ahead, back = weight.new_empty(16 * made * channels), weight.new_empty(16 * made * channels) if both else None
    _call("transform_weights", weight, channels, made, ahead, back)
    return ahead, back


def _convolved(x: Tensor, norm: _Norm | None, ahead: Tensor, layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Of x, or of x after norm and ReLU: [B, K, H, W], and the sums that the batch norm behind it takes its statistics from."""
    made = layer.num_features
    out = torch.empty((len(x), made, *x.shape[2:]), dtype=torch.float32, memory_format=torch.channels_last)
    sums = torch.empty(2, made, dtype=torch.float64)
    scale, shift = (None, None) if norm is None else norm[:2]
    _call("convolve", _shape(x, made), x, scale, shift, ahead, layer.running_mean, out, sums)
    return out, sums


class _Block(torch.autograd.Function):
    """Two 3x3 convolutions with batch norm beside a shortcut. Without ``weight1``, ``x`` is what the first one gave."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shortcut: Tensor | None,
        weight1: Tensor | None,
        scale1: Tensor,
        shift1: Tensor,
        weight2: Tensor,
        scale2: Tensor,
        shift2: Tensor,
        bn1: nn.BatchNorm2d,
        bn2: nn.BatchNorm2d,
    ) -> Tensor:
        training, count = bn1.training, _counted(x)[0]
        back1 = None
        if weight1 is None:
            z1, sums = x, _sums(x, bn1.running_mean) if training else None
        else:
            ahead, back1 = _transformed(weight1, training)
            z1, sums = _convolved(x, None, ahead, bn1)
        norm1 = _norm(bn1, sums if training else None, count)
        ahead, back2 = _transformed(weight2, training)
        z2, sums = _convolved(z1, norm1, ahead, bn2)
        norm2 = _norm(bn2, sums if training else None, count)
        added = x if shortcut is None else shortcut.contiguous(memory_format=torch.channels_last)
        out = _normalised(z2, norm2, added)
        ctx.save_for_backward(x, z1, z2, out, scale1, scale2, back1, back2)
        ctx.norms = norm1, norm2
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, flow: Tensor) -> tuple[Tensor | None, ...]:
        x, z1, z2, out, scale1, scale2, back1, back2 = ctx.saved_tensors
        norm1, norm2 = ctx.norms
        made, count = z2.shape[1], _counted(z2)[0]
        flow = flow.contiguous(memory_format=torch.channels_last)
        by_scale2, by_shift2, of2 = _norm_back(count, _sums(z2, norm2.pivot, flow, out), scale2, norm2)
        gates, inner = torch.empty_like(flow), torch.empty_like(z1)
        sums = torch.empty(2, z1.shape[1], dtype=torch.float64)
        by_weight2 = z1.new_empty((made, z1.shape[1], 3, 3)).contiguous(memory_format=torch.channels_last)
        _call(
            "convolve_back", _shape(z1, made), flow, out, z2, *of2, gates, z1, norm1.scale, norm1.shift, back2, norm1.pivot,
            inner, _GATED, sums, by_weight2,
        )  # fmt: skip
        by_scale1, by_shift1, of1 = _norm_back(count, sums, scale1, norm1)
        if back1 is None:
            _call("normalise_back", *_counted(z1), inner, None, z1, *of1, inner)
            return inner, gates, None, by_scale1, by_shift1, by_weight2, by_scale2, by_shift2, None, None
        by_weight1 = torch.empty_like(by_weight2)
        # The gradient of the convolutions is added to that of the shortcut, which is the block's input itself.
        _call(
            "convolve_back", _shape(x, made), inner, None, z1, *of1, None, x, None, None, back1, None, gates, _ADDED, None,
            by_weight1,
        )  # fmt: skip
        return gates, None, by_weight1, by_scale1, by_shift1, by_weight2, by_scale2, by_shift2, None, None


def residual_block(
    x: Tensor,
    shortcut: Tensor | None,
    conv1: nn.Conv2d | None,
    bn1: nn.BatchNorm2d,
    conv2: nn.Conv2d,
    bn2: nn.BatchNorm2d,
) -> Tensor:
    """relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut), [B, C, H, W], where :func:`usable`.

    Both convolutions are 3x3 of stride 1 without bias. ``shortcut`` None: ``x`` itself. ``conv1`` None: ``x`` is what another
    convolution gave.
    """
    out: Tensor = _Block.apply(
        x, shortcut, None if conv1 is None else conv1.weight, bn1.weight, bn1.bias, conv2.weight, bn2.weight, bn2.bias, bn1, bn2
    )  # type: ignore[no-untyped-call]  # fmt: skip
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return torch.conv2d(x, weight, None, stride, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, flow: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        flow = flow.contiguous(memory_format=torch.channels_last)
        back = None
        if ctx.needs_input_grad[0]:
            sides = [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1
            back = torch.ops.aten.convolution_backward(flow, x, weight, None, *sides, [True, False, False])[0]
        by_weight = torch.empty_like(weight, memory_format=torch.channels_last)
        _call("weight_gradient", _shape(x, len(weight)), ctx.stride, x, flow, by_weight)
        return back, by_weight, None


def convolution(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """The framework's 3x3 convolution without bias, of images [B, C, H, W] with 3 channels or a multiple of 16, except that the
    gradient of its weights does not depend on the number of threads; otherwise where :func:`usable`."""
    out: Tensor = _Convolution.apply(x, layer.weight, layer.stride[0])  # type: ignore[no-untyped-call]
    return out


class _Threads(torch.autograd.Function):
    """Its input; once the backward pass is here, it goes on with so many threads."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threads: int) -> Tensor:
        ctx.threads = threads
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, flow: Tensor) -> tuple[Tensor, None]:
        torch.set_num_threads(ctx.threads)
        return flow, None


def on_one_thread(head: nn.Module, features: Tensor) -> Tensor:
    """``head(features)``, forward and back on one thread.

    A library splits the sums of a matrix product between threads: bits would depend on how many there are. The head of a small
    network is too little work to share."""
    threads = torch.get_num_threads()
    trained = torch.is_grad_enabled() and features.requires_grad
    if trained:
        features = _Threads.apply(features, threads)  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    try:
        logits: Tensor = head(features)
    finally:
        torch.set_num_threads(threads)
    if trained:
        logits = _Threads.apply(logits, 1)  # type: ignore[no-untyped-call]
    return logits


class _NormRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: nn.BatchNorm2d) -> Tensor:
        norm = _norm(layer, _sums(x, layer.running_mean) if layer.training else None, _counted(x)[0])
        out = _normalised(x, norm, None)
        ctx.save_for_backward(x, out, weight)
        ctx.norm = norm
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, flow: Tensor) -> tuple[Tensor | None, ...]:
        x, shown, weight = ctx.saved_tensors
        flow = flow.contiguous(memory_format=torch.channels_last)
        by_weight, by_bias, of_input = _norm_back(_counted(x)[0], _sums(x, ctx.norm.pivot, flow, shown), weight, ctx.norm)
        back = torch.empty_like(x)
        _call("normalise_back", *_counted(x), flow, shown, x, *of_input, back)
        return back, by_weight, by_bias, None


def norm_relu(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    """Batch norm, then ReLU, of images [B, C, H, W], where :func:`usable`."""
    out: Tensor = _NormRelu.apply(x, layer.weight, layer.bias, layer)  # type: ignore[no-untyped-call]
    return out
