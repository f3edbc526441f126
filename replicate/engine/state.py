"""What training moves along: model, momentum and history, and their checkpoint as a set of named tensors."""

from __future__ import annotations

import contextlib
import copy
import errno
import hashlib
import io
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from replicate.errors import BadInput
from replicate.grid import Epoch
from replicate.models import Classifier
from replicate.models.heads import FORMS, form_of, reformed
from replicate.optim import SGD
from replicate.protocol import MaxNorm
from replicate.record import unreadable, write_atomically

if TYPE_CHECKING:
    from replicate.engine.captured import Graphs


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


#: Where epochs were trained: [the first epoch of a stretch, the environment of the process that trained it], in order.
Stretches = Sequence[tuple[int, dict[str, Any]]]


def stretched(before: Stretches, epoch: int, environment: dict[str, Any]) -> Stretches:
    """With ``epoch`` and what follows trained in this environment."""
    return before if before and before[-1][1] == environment else (*before, (epoch, environment))


def stretches_tensor(stretches: Stretches) -> Tensor:
    """As JSON text, uint8: a checkpoint holds tensors alone."""
    return torch.tensor(list(json.dumps(stretches).encode()), dtype=torch.uint8)


def stretches_of(told: Tensor | None) -> Stretches:
    """The inverse of :func:`stretches_tensor`; nothing of a checkpoint that does not tell, as older ones do not."""
    return () if told is None else tuple((first, environment) for first, environment in json.loads(bytes(told.tolist())))


@dataclass
class State:
    """A cell under training after ``epoch`` epochs, ``stage_epoch`` of them in its present stage.

    ``best`` is the network after epoch ``best_epoch``, the stage's best one on the images that its ``hands_over`` names, if
    any. ``bound`` is the bound of a max-norm projection. ``observed`` follows each training image, in stored order, since the
    stage began: ``correct`` in the epoch before, ``ever_correct``, ``forgotten`` (how often it went from correct to wrong), and
    ``epochs``; predictions are those made while training. ``stretches`` tell where its epochs were trained, as far as that is
    known.
    """

    model: Classifier
    optimiser: SGD
    history: History
    epoch: int = 0
    stage_epoch: int = 0
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0
    bound: Tensor | None = None
    observed: dict[str, Tensor] = field(default_factory=dict)
    stretches: Stretches = ()
    #: Steps that are captured for these very tensors; no part of the state.
    graphs: Graphs | None = field(default=None, repr=False, compare=False)
    _arranged: tuple[str | None, str | None] | None = None

    @classmethod
    def untrained(cls, model: Classifier, device: torch.device) -> State:
        """The state before the first epoch, on ``device``."""
        # Channels last is how convolutions on a CPU and on recent GPUs like their images; see benchmarks/.
        model = model.to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Rates, momentum and weight decay are set from the row of each epoch, as is which parameters are in which group.
        return cls(model, SGD([[parameter for _, parameter in model.trainable(None)], []]), History())

    def begin_epoch(self, row: Epoch) -> None:
        """Make ready for an epoch by its row: take up what the stage before handed over, in the form that the head then takes,
        choose what is trained and decayed."""
        if row.begins:
            if row.starts_from is not None:
                assert self.best is not None
                self.model.load_state_dict(self.best)
            self.stage_epoch, self.best, self.best_epoch, self.bound, self.observed = 0, None, 0, None, {}
            if row.head is not None:
                self._replace_head(reformed(self.model.head, row.head))
        if row.begins or row.restart_momentum:
            self.optimiser.state.clear()
        if row.unit_rows:
            scale_rows(self.model.head)
        if row.projection is not None and self.bound is None:
            self.bound = norm_bound(self.model.head, row.projection)
        if self._arranged != (row.trained, row.decayed):
            self._arrange(row.trained, row.decayed)
        for group, decay in zip(self.optimiser.param_groups, (row.weight_decay, 0.0), strict=True):
            group["lr"], group["momentum"], group["weight_decay"] = row.rate, row.momentum, decay

    def _replace_head(self, head: torch.nn.Module) -> None:
        self.model.head = head
        self._arranged = None  # the optimiser still holds the parameters of the head before

    def _arrange(self, trained: str | None, decayed: str | None) -> None:
        chosen, rule = dict(self.model.trainable(trained)), self.model.decayed(decayed)
        for name, parameter in self.model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(name in chosen)
        with_decay, without = self.optimiser.param_groups
        with_decay["params"] = [parameter for name, parameter in chosen.items() if name in rule]
        without["params"] = [parameter for name, parameter in chosen.items() if name not in rule]
        self._arranged = trained, decayed

    def keep_best(self, curve: Sequence[Tensor], sizes: Sequence[int]) -> None:
        """Keep the present network if its balanced accuracy is the stage's best; of equal epochs the earlier stays. ``curve``:
        correct images of each class after every epoch, [C], or [2, C] by halves, out of so many of each class."""

        def accuracy(epoch: int) -> Fraction:
            return balanced(curve[epoch - 1].reshape(-1, len(sizes)).sum(dim=0).tolist(), sizes)

        if self.best is None or accuracy(self.epoch) > accuracy(self.best_epoch):
            self.best = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            self.best_epoch = self.epoch

    def handed_over(self) -> Classifier:
        """The network that the present stage would hand over, in evaluation mode: a copy of the best one where the stage keeps
        it, else the present one itself."""
        if self.best is None:
            return self.model.eval()
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.best)
        return model.eval()

    @property
    def handed_over_epoch(self) -> int:
        """The epoch after which that network stood."""
        return self.epoch if self.best is None else self.best_epoch

    def observe(self, order: Tensor, hits: Tensor) -> None:
        """Enter an epoch's predictions: training images ``order`` [N] were predicted right or wrong, ``hits`` bool [N].

        Nothing is entered where the stage's earlier epochs are not known."""
        if not self.observed:
            if self.stage_epoch:
                return
            nothing = torch.zeros_like(hits)
            self.observed = {
                "correct": nothing,
                "ever_correct": nothing.clone(),
                "forgotten": torch.zeros(len(hits), dtype=torch.int32, device=hits.device),
                "epochs": torch.tensor(0),
            }
        told = self.observed
        now = torch.empty_like(hits).index_copy_(0, order, hits)
        told["forgotten"] += told["correct"] & ~now
        told["ever_correct"] |= now
        told["correct"], told["epochs"] = now, told["epochs"] + 1

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next epoch depends on, and the history, by name, on the CPU."""
        named = {f"model/{name}": value.detach().cpu() for name, value in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            buffer = self.optimiser.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                named[f"momentum/{name}"] = buffer.detach().cpu()
        named.update({f"history/{name}": value for name, value in self.history.tensors().items()})
        named.update({f"observed/{name}": value.cpu() for name, value in self.observed.items()})
        if self.best is not None:
            named.update({f"best/{name}": value.cpu() for name, value in self.best.items()})
            named["best_epoch"] = torch.tensor(self.best_epoch)
        if self.bound is not None:
            named["bound"] = self.bound.cpu()
        named["epoch"], named["stage_epoch"] = torch.tensor(self.epoch), torch.tensor(self.stage_epoch)
        return named

    def load(self, named: dict[str, Tensor]) -> None:
        """Become the state that ``named`` was taken from, a later stage's head included. Raises ``RuntimeError`` or
        ``KeyError`` if it is another network's."""
        device = next(self.model.parameters()).device
        names = _under("model/head.", named).keys()
        if names != self.model.head.state_dict().keys():
            classes, features = named["model/head.weight"].shape
            self._replace_head(FORMS[form_of(names)](features, classes).to(device))
        self.model.load_state_dict(_under("model/", named))
        momentum = _under("momentum/", named)
        self.optimiser.state.clear()
        for name, parameter in self.model.named_parameters():
            if name in momentum:
                # A copy in the parameter's own layout: the optimiser updates it in place.
                self.optimiser.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum[name])
        self.history = History.of(_under("history/", named))
        self.epoch = int(named["epoch"])
        # Checkpoints of older versions know neither stages nor single images.
        self.stage_epoch = int(named.get("stage_epoch", named["epoch"]))
        self.observed = {
            name: value if name == "epochs" else value.to(device, copy=True)
            for name, value in _under("observed/", named).items()
        }
        best = _under("best/", named)
        self.best = {name: value.to(device) for name, value in best.items()} if best else None
        self.best_epoch = int(named.get("best_epoch", 0))
        self.bound = named["bound"].to(device) if "bound" in named else None
        self.stretches = stretches_of(named.get("stretches"))

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all. Raises ``BadInput`` if it cannot be written."""
        # Where epochs were trained decides nothing: it is told beside the state.
        told = {"stretches": stretches_tensor(self.stretches)} if self.stretches else {}
        save_tensors({**self.tensors(), **told}, path)

    def restore(self, path: Path) -> bool:
        """Load a checkpoint; False if it is not there or not usable, and the state is then not to be used. Such a file is
        removed, and errors are raised, as by :func:`read_tensors`."""
        named = read_tensors(path)
        if named is None:
            return False
        try:
            self.load(named)
        except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
            if of_memory(error):
                raise
            _discard(path)
            return False
        return True


def save_tensors(named: dict[str, Tensor], path: Path) -> None:
    """Write named tensors, whole or not at all. Raises ``BadInput`` if they cannot be written."""
    data = io.BytesIO()
    torch.save({**named, DIGEST: _digest(named)}, data)
    try:
        write_atomically(path, data.getvalue())
    except OSError as error:
        raise BadInput(
            f"checkpoint {str(path)!r} cannot be written ({error.strerror}); free space there or name another --store"
        ) from None


def read_tensors(path: Path) -> dict[str, Tensor] | None:
    """What :func:`save_tensors` wrote, on the CPU; None if it is not there. One that is not whole, or not as it was written, is
    removed with a line on standard error, and None as well. Raises ``BadInput`` if it may not be read."""
    try:
        with open(path, "rb"):  # apart from reading it: whether it may be read says nothing about what it holds
            pass
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unreadable("checkpoint", path, error) from None
    try:
        named: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        # torch checks no sums: a byte that changed on the disk would go on as a weight.
        if torch.equal(named.pop(DIGEST), _digest(named)):
            return named
    except FileNotFoundError:  # removed since then, by another process
        return None
    except Exception as error:  # torch raises a dozen kinds for a truncated or foreign file; each means: train it again
        if of_memory(error):
            raise
    _discard(path)
    return None


def _discard(path: Path) -> None:
    """Remove a checkpoint that cannot be used, and say so."""
    with contextlib.suppress(OSError):
        path.unlink()
    print(f"checkpoint {str(path)!r} is damaged and was removed; what is needed of it is trained again", file=sys.stderr)


def of_memory(error: Exception) -> bool:
    """Whether an error means that there was not enough memory; libraries say so in several ways."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # The last is what cuDNN's last plan ends in when none of them gets its workspace.
    said = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "unable to find an engine")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)


#: Name of the digest among a checkpoint's tensors.
DIGEST = "digest"


def _digest(named: Mapping[str, Tensor]) -> Tensor:
    """SHA-256 of names, kinds, shapes and values [32], uint8."""
    digest = hashlib.sha256()
    for name, value in named.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _under(prefix: str, named: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}


@torch.no_grad()
def scale_rows(head: torch.nn.Module) -> None:
    """Scale every class vector to length 1, in place."""
    weight = head.get_parameter("weight")
    weight.div_(weight.norm(dim=1, keepdim=True))


@torch.no_grad()
def norm_bound(head: torch.nn.Module, projection: MaxNorm) -> Tensor:
    """The longest that a class vector may be: the smallest norm plus ``projection.share`` of the way to the largest
    (scalar).
    """
    norms = head.get_parameter("weight").norm(dim=1)
    shortest, longest = norms.aminmax()
    return torch.lerp(shortest, longest, projection.share)


@torch.no_grad()
def project(head: torch.nn.Module, bound: Tensor) -> None:
    """Scale class vectors that are longer than ``bound`` back to it, in place; the others keep their bits."""
    weight = head.get_parameter("weight")
    norms = weight.norm(dim=1, keepdim=True)
    weight.copy_(torch.where(norms > bound, weight * (bound / norms), weight))


def counts_by_class(labels: Tensor, hits: Tensor, classes: int) -> Tensor:
    """Correct images of each class [classes], int64, on the labels' device, without a host synchronisation."""
    return torch.zeros(classes, dtype=torch.int64, device=labels.device).index_add_(0, labels, hits.to(torch.int64))


def balanced(correct: Sequence[int], of: Sequence[int]) -> Fraction:
    """Sum over classes of the share of correct images: ranks as balanced accuracy does, and exact, so that equals are ties."""
    hits: defaultdict[int, int] = defaultdict(int)  # by size: most classes have that of others, and fractions are slow
    for count, size in zip(correct, of, strict=True):
        hits[size] += count
    return sum((Fraction(count, size) for size, count in hits.items() if size), Fraction(0))


def sizes(labels: Tensor, classes: int) -> Sequence[int]:
    """Images of each class."""
    return [int(n) for n in torch.bincount(labels.cpu(), minlength=classes)]
