"""Multi-layer perceptrons with batch norm, plain and residual (Hasegawa and Sato 2023, Sec. 4.3 and Table 3)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from torch import Tensor, nn
from torch.nn import functional

from replicate.models.backbone import Backbone


class LinearBlock(nn.Module):
    """Linear layer without bias, batch norm, ReLU: [B, values] to [B, width]."""

    def __init__(self, values: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(values, width, bias=False)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        # In place: the backward passes read the input of batch norm and the output of ReLU, not what lies between.
        return functional.relu_(self.bn(self.linear(x)))

    def steps(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Output of each sub-step, in order, with its name."""
        x = yield from _linear_steps("", self.linear, self.bn, x)
        yield "ReLU", functional.relu(x)


class ResidualBlock(nn.Module):
    """Linear, batch norm, ReLU, linear, batch norm, the block's input added, ReLU: [B, width] to [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.linear2 = nn.Linear(width, width, bias=False)
        self.bn2 = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu_(self.bn1(self.linear1(x)))
        return functional.relu_(self.bn2(self.linear2(out)).add_(x))

    def steps(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Output of each sub-step, in order, with its name."""
        out = yield from _linear_steps("first ", self.linear1, self.bn1, x)
        out = functional.relu(out)
        yield "first ReLU", out
        out = yield from _linear_steps("second ", self.linear2, self.bn2, out)
        out = out + x
        yield "addition", out
        yield "ReLU", functional.relu(out)


def _linear_steps(which: str, linear: nn.Linear, bn: nn.BatchNorm1d, x: Tensor) -> Generator[tuple[str, Tensor], None, Tensor]:
    x = linear(x)
    yield f"{which}linear", x
    if bn.training:  # by the batch's own statistics, which only the layer itself, below, may enter into the running ones
        yield f"{which}normalised", functional.batch_norm(x, None, None, training=True, eps=bn.eps)
    else:
        yield f"{which}normalised", functional.batch_norm(x, bn.running_mean, bn.running_var, eps=bn.eps)
    x = bn(x)
    yield f"{which}batch norm", x
    return x


class MultiLayerPerceptron(Backbone):
    """Blocks on the flattened image: images [B, channels, side, side] to features [B, width], taken after the last ReLU.

    ``linear`` blocks of the one kind (:class:`LinearBlock`), then ``residual`` ones of the other (:class:`ResidualBlock`).
    """

    def __init__(self, channels: int, *, side: int, width: int, linear: int, residual: int = 0) -> None:
        super().__init__()
        self.width = width
        before = channels * side * side
        blocks: list[LinearBlock | ResidualBlock] = []
        for _ in range(linear):
            blocks.append(LinearBlock(before, width))
            before = width
        blocks.extend(ResidualBlock(width) for _ in range(residual))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.blocks(images.flatten(1))
        return features

    def steps(self, images: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every sub-step's output [B, width], from the first block to the last, whose ReLU gives the features.

        A :class:`LinearBlock` has ``"block 1 linear"``, ``"block 1 normalised"`` (before scale and shift), ``"block 1 batch
        norm"`` and ``"block 1 ReLU"``. A :class:`ResidualBlock` has ``"block 2 first linear"`` to ``"block 2 first ReLU"``,
        ``"block 2 second linear"`` to ``"block 2 second batch norm"``, ``"block 2 addition"`` and ``"block 2 ReLU"``.

        Batch norm evaluates or trains as the module stands; in training, one run through updates running statistics once, as
        :meth:`forward` does.
        """
        x = images.flatten(1)
        for number, block in enumerate(self.blocks, start=1):
            assert isinstance(block, (LinearBlock, ResidualBlock))
            for name, output in block.steps(x):
                yield f"block {number} {name}", output
            x = output
