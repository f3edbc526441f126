"""What training moves along: model, momentum and history, and their checkpoint as a set of named tensors."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from replicate.errors import BadInput
from replicate.models import Classifier
from replicate.record import write_atomically


@dataclass
class History:
    """What each epoch left, over the whole chain. Counts are integers: ``train`` and ``validation`` [C], ``test`` [2, C]."""

    loss: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    train: list[Tensor] = field(default_factory=list)
    validation: list[Tensor] = field(default_factory=list)
    test: list[Tensor] = field(default_factory=list)

    def tensors(self) -> dict[str, Tensor]:
        """By name, one row an epoch."""
        named = {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in ("loss", "rate", "seconds")}
        for name in ("train", "validation", "test"):
            if rows := getattr(self, name):
                named[name] = torch.stack(rows)
        return named

    @classmethod
    def of(cls, named: dict[str, Tensor]) -> History:
        """The inverse of :meth:`tensors`."""
        return cls(
            **{name: named[name].tolist() for name in ("loss", "rate", "seconds")},
            **{name: list(named[name]) for name in ("train", "validation", "test") if name in named},
        )


@dataclass
class State:
    """A cell under training after ``epoch`` epochs."""

    model: Classifier
    optimiser: torch.optim.SGD
    history: History
    epoch: int = 0

    @classmethod
    def untrained(cls, model: Classifier, device: torch.device) -> State:
        """The state before the first epoch, on ``device``."""
        # Channels last is how convolutions on a CPU and on recent GPUs like their images; see benchmarks/.
        model = model.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Rates, momentum and weight decay are set from the row of each epoch.
        optimiser = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9, foreach=True)
        return cls(model, optimiser, History())

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on, and the history, by name, on the CPU."""
        named = {f"model/{name}": value.detach().cpu() for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            buffer = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                named[f"momentum/{name}"] = buffer.detach().cpu()
        named.update({f"history/{name}": value for name, value in self.history.tensors().items()})
        named["epoch"] = torch.tensor(self.epoch)
        return named

    def load(self, named: dict[str, Tensor]) -> None:
        """Become the state that ``named`` was taken from. Raises ``RuntimeError`` if it is another network's."""
        self.model.load_state_dict(_under("model/", named))
        momentum = _under("momentum/", named)
        self.optimiser.state.clear()
        for name, parameter in self.model.named_parameters():
            if name in momentum:
                # A copy in the parameter's own layout: the optimiser updates it in place.
                self.optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum[name])
        self.history = History.of(_under("history/", named))
        self.epoch = int(named["epoch"])

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all. Raises ``BadInput`` if it cannot be written."""
        data = io.BytesIO()
        torch.save(self.tensors(), data)
        try:
            write_atomically(path, data.getvalue())
        except OSError as error:
            raise BadInput(
                f"checkpoint {str(path)!r} cannot be written ({error.strerror}); free space there or name another --store"
            ) from None

    def restore(self, path: Path) -> bool:
        """Load a checkpoint; False, and nothing changed, if it is not there or not whole."""
        try:
            named = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return False
        except Exception:  # torch raises a dozen kinds for a truncated or foreign file; each means: train it again
            return False
        try:
            self.load(named)
        except (RuntimeError, KeyError, TypeError, AttributeError):
            return False
        return True


def _under(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}


def counts_by_class(labels: Tensor, hits: Tensor, classes: int) -> Tensor:
    """Correct images of each class [classes], int64, on the labels' device, without a host synchronisation."""
    return torch.zeros(classes, dtype=torch.int64, device=labels.device).index_add_(0, labels, hits.to(torch.int64))


def sizes(labels: Tensor, classes: int) -> Sequence[int]:
    """Images of each class."""
    return [int(n) for n in torch.bincount(labels.cpu(), minlength=classes)]
