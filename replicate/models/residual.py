"""What residual networks of two convolutions a block have in common."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from replicate.kernels.functions import convolution, residual_block, usable
from replicate.models.batch_norm import BatchNorm2d


def convolutions(channels: int, width: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.BatchNorm2d]:
    """The layers of a block: two 3x3 convolutions, the first with ``stride``, each with its batch norm."""
    return (
        nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
        BatchNorm2d(width),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        BatchNorm2d(width),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm beside a shortcut, which a block of its own kind adds."""

    def __init__(self, conv1: nn.Conv2d, bn1: nn.BatchNorm2d, conv2: nn.Conv2d, bn2: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.bn1, self.conv2, self.bn2 = conv1, bn1, conv2, bn2

    def shortcut(self, x: Tensor) -> Tensor:
        """What is added to the convolutions of ``x``, of their shape; of a block without stride ``x`` itself."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        if usable(x, (self.conv1, self.conv2), (self.bn1, self.bn2)):
            if self.conv1.stride[0] == 1:
                return residual_block(x, None, self.conv1, self.bn1, self.conv2, self.bn2)
            return residual_block(convolution(x, self.conv1), self.shortcut(x), None, self.bn1, self.conv2, self.bn2)
        out = functional.relu_(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        # In place: batch norm's backward pass reads its input, not this output, so nothing that is needed is lost.
        return functional.relu_(out.add_(self.shortcut(x)))
