"""Many classifiers on one frozen backbone: all that share its passes are trained side by side.

A stage that trains the head alone, on a backbone in evaluation mode, asks the backbone for features and never changes them.
So every such stage that begins at one state and is shown the same images, whatever its loss, learning rate or weight decay,
rides the same passes; where nothing about the images is random, their features are computed once.

Classifiers of one form under one family of losses are stacked, in groups of :data:`SLOTS`. Every matrix product is of a whole
group, the last one filled up with classifiers that nobody reads, so that its shape, and with it the order in which a library
sums, never depends on how many there are: a classifier is equal bit for bit to the one that is trained alone.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from replicate import losses
from replicate.engine import numerics
from replicate.engine.cell import SAVE_EVERY_SECONDS, Stopped, environment, record_of, train_to
from replicate.engine.keyed import generator
from replicate.engine.loop import DeviceData, evaluation_batches, shown, views_of
from replicate.engine.numerics import Numerics
from replicate.engine.state import (
    History,
    State,
    Stretches,
    norm_bound,
    read_tensors,
    save_tensors,
    stretched,
    stretches_of,
    stretches_tensor,
)
from replicate.grid import Cell, Epoch
from replicate.models import Classifier
from replicate.models.heads import form_of, reformed
from replicate.record import Record, Store

#: Classifiers in a group: enough to fill two cores with the products of the smallest heads, few enough that a group's weights
#: and momentum stay in a core's cache from one operation to the next.
SLOTS: Final = 8
#: Memory that the classifiers of one pass may take; those beyond it ride passes of their own.
TOGETHER_BYTES: Final = 2 << 30
#: Images evaluated at a time; fixed, since another number could round differently.
EVALUATED: Final = 500


class Features:
    """What a frozen backbone makes of the images of a split, for one state of it. Test and validation features are computed
    once, when first asked for; so are those of training images that are not augmented. ``key`` names the state."""

    def __init__(self, key: str, begun: State, data: DeviceData) -> None:
        self.key = key
        self.begun = begun
        begun.graphs = None  # its steps are over, and their memory is wanted
        self.data = data
        self.backbone = begun.model.backbone.eval()
        self._plain: Tensor | None = None

    @cached_property
    def test(self) -> Tensor:
        """[V, N, d]: of test images, and of their mirror images where the protocol shows those."""
        return views_of(self.begun.model, self.data.test)

    @cached_property
    def validation(self) -> Tensor | None:
        """As :attr:`test`, of validation images; None without any."""
        return None if self.data.validation is None else views_of(self.begun.model, self.data.validation)

    def epoch(self, row: Epoch, seed: int, number: int) -> tuple[Tensor, Iterator[tuple[Tensor, Tensor]]]:
        """The images that an epoch shows (int64 [N] on the device), and its batches: features [B, d] and labels [B]."""
        order = shown(row, self.data.train_labels, seed, number)
        return order.to(self.data.device), self._batches(row, order, seed, number)

    def _batches(self, row: Epoch, order: Tensor, seed: int, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        images = self.data.train(row.feed.augmentation)
        draws = None
        if row.feed.augmentation is not None or row.batches is not None:  # a few batches are not worth all images
            draws = images.draw(order, generator(seed, "augmentation", number))
        order = order.to(self.data.device)
        labels = self.data.train_labels[order]
        for first in range(0, len(order), row.feed.batch):
            last = min(first + row.feed.batch, len(order))
            if draws is None:
                features = self.plain[order[first:last]]
            else:
                with torch.no_grad():
                    features = self._of(images.batch(draws, first, last))
            yield features, labels[first:last]

    @property
    def plain(self) -> Tensor:
        """[N, d]: of training images in stored order, without augmentation."""
        if self._plain is None:
            images = self.data.train(None)
            with torch.no_grad():
                batches = [self._of(images.plain(*some)) for some in evaluation_batches(images)]
            self._plain = torch.cat(batches)
        return self._plain

    def _of(self, images: Tensor) -> Tensor:
        """Of a batch, in 32-bit floats: classifiers are trained in these, whatever the precision of the backbone's pass."""
        with numerics.forward(images.device):
            features: Tensor = self.backbone(images)
        return numerics.widened(features)


@dataclass
class Group:
    """:data:`SLOTS` classifiers of one form: their values by the names that a head has for them, each [S, ...], and the
    momentum of those that are trained."""

    form: str
    values: dict[str, Tensor]
    momentum: dict[str, Tensor] = field(default_factory=dict)

    def logits(self, prepared: Tensor) -> Tensor:
        """[S, B, C] of what :func:`prepare` makes of features."""
        if self.form == "scaling":
            return prepared * self.values["scales"][:, None] + self.values["bias"][:, None]
        weight = self.values["weight"]
        if self.form == "cosine":
            weight = functional.normalize(weight, dim=2)
        product = torch.bmm(prepared.expand(SLOTS, -1, -1), weight.mT)
        return product.add_(self.values["bias"][:, None]) if self.form == "linear" else product

    def gradients(self, prepared: Tensor, of_logits: Tensor) -> dict[str, Tensor]:
        """Of what is trained, from the gradients of logits [S, B, C]."""
        if self.form == "scaling":
            return {"scales": (of_logits * prepared).sum(dim=1)}
        product = torch.bmm(of_logits.mT, prepared.expand(SLOTS, -1, -1))
        if self.form == "linear":
            return {"weight": product, "bias": of_logits.sum(dim=1)}
        # Of w/|w|: the part of the gradient that is across w, divided by |w|.
        weight = self.values["weight"]
        norms = weight.norm(dim=2, keepdim=True).clamp_min(1e-12)
        unit = weight / norms
        return {"weight": (product - unit * (product * unit).sum(dim=2, keepdim=True)) / norms}

    def move(self, gradients: Mapping[str, Tensor], rate: Tensor, decay: Tensor, momentum: float) -> None:
        """One step of stochastic gradient descent with momentum, each slot by its own learning rate and weight decay [S]."""
        for name, gradient in gradients.items():
            values = self.values[name]
            each = (SLOTS, *(1,) * (values.ndim - 1))
            gradient.addcmul_(values, decay.view(each))
            before = self.momentum.get(name)
            self.momentum[name] = gradient if before is None else torch.add(gradient, before, alpha=momentum, out=before)
            values.addcmul_(self.momentum[name], -rate.view(each))

    def project(self, bound: Tensor) -> None:
        """Scale class vectors that are longer than their slot's bound [S] back to it; the others keep their bits."""
        weight, longest = self.values["weight"], bound.view(SLOTS, 1, 1)
        norms = weight.norm(dim=2, keepdim=True)
        weight.copy_(torch.where(norms > longest, weight * (longest / norms), weight))


def prepare(form: str, features: Tensor, head: nn.Module) -> Tensor:
    """What all classifiers of a form share of the way from features [..., d] to logits: nothing; for cosines, features of
    length 1; for scaled logits, those of the fixed class vectors without bias [..., C]."""
    if form == "cosine":
        return functional.normalize(features, dim=-1)
    if form == "scaling":
        return features @ head.get_parameter("weight").detach().T
    return features


class Stack:
    """Classifiers of one form under one family of losses, one for each of ``cells`` [H]."""

    def __init__(self, form: str, cells: Sequence[Cell], first: int, features: Features) -> None:
        self.form = form
        self.cells = list(cells)
        self._head = features.begun.model.head
        device = features.data.device
        filled = [*cells, *[cells[-1]] * (-len(cells) % SLOTS)]  # idle slots repeat the last classifier
        self._rows = [_rows_from(cell, first) for cell in filled]
        opening = [rows[0] for rows in self._rows]
        self._momentum = opening[0].momentum
        self._loss_of = losses.stacked([row.objective for row in opening], features.data.counts, device=device)
        begins = reformed(self._head, form)
        values = {name: value.detach().to(device) for name, value in begins.state_dict().items()}
        if form == "scaling":
            del values["weight"]  # all share it: see prepare()
        self.groups = [
            Group(form, {name: value.repeat(SLOTS, *(1,) * value.ndim) for name, value in values.items()})
            for _ in range(len(filled) // SLOTS)
        ]
        self._bounds: Sequence[Tensor] | None = None
        if any(row.projection for row in opening):
            each = [math.inf if row.projection is None else float(norm_bound(begins, row.projection)) for row in opening]
            self._bounds = torch.split(torch.tensor(each, device=device), SLOTS)
        self.epochs = 0
        self._told: tuple[tuple[int, int], Tensor] | None = None
        told = features.validation
        self._seen = {"test": prepare(form, features.test, self._head).mean(dim=0)}
        if told is not None:
            self._seen["validation"] = prepare(form, told, self._head).mean(dim=0)

    def begin_epoch(self, number: int) -> None:
        """Take learning rates and weight decays of the stage's epoch ``number`` (from 0)."""
        device = self._seen["test"].device
        rows = [rows[number] for rows in self._rows]
        self._rates = torch.split(torch.tensor([row.rate for row in rows], device=device), SLOTS)
        self._decays = torch.split(torch.tensor([row.weight_decay for row in rows], device=device), SLOTS)

    def step(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """One step of every classifier on a batch of features [B, d]; returns losses [H] and whether predictions were right
        [H, B]."""
        prepared = prepare(self.form, features, self._head)
        logits = torch.cat([group.logits(prepared) for group in self.groups]).requires_grad_()
        loss = self._loss_of(logits, labels)
        (of_logits,) = torch.autograd.grad(loss.sum(), logits)
        for group, part, rate, decay in zip(self.groups, torch.split(of_logits, SLOTS), self._rates, self._decays, strict=True):
            group.move(group.gradients(prepared, part), rate, decay, self._momentum)
        many = len(self.cells)
        return loss.detach()[:many], logits.detach()[:many].argmax(dim=2) == labels

    def end_epoch(self) -> None:
        """Project class vectors, where that is done."""
        self.epochs += 1
        for group, bound in zip(self.groups, self._bounds or (), strict=False):
            group.project(bound)

    def hits(self, split: str, labels: Tensor) -> Tensor:
        """Whether each classifier is right about each ``"test"`` or ``"validation"`` image, bool [H, N]."""
        batches = list(zip(torch.split(self._seen[split], EVALUATED), torch.split(labels, EVALUATED), strict=True))
        told = [torch.cat([group.logits(some).argmax(dim=2) == of for some, of in batches], dim=1) for group in self.groups]
        return torch.cat(told)[: len(self.cells)]

    def test_logits(self, place: int) -> Tensor:
        """Of all test images under one classifier [N, C], averaged over views."""
        group, slot = divmod(place, SLOTS)
        if self._told is None or self._told[0] != (self.epochs, group):  # neighbours are asked for one after another
            batches = [self.groups[group].logits(some) for some in torch.split(self._seen["test"], EVALUATED)]
            self._told = (self.epochs, group), torch.cat(batches, dim=1)
        return self._told[1][slot]

    def head_of(self, place: int) -> nn.Module:
        """A head of its own with the values of one classifier."""
        head = reformed(self._head, self.form)
        head.load_state_dict({**head.state_dict(), **self.values_of(place)})
        return head

    def values_of(self, place: int) -> dict[str, Tensor]:
        """Values of one classifier, views of the stack's, by the names that its head has."""
        group, slot = divmod(place, SLOTS)
        return {name: values[slot] for name, values in self.groups[group].values.items()}

    def momentum_of(self, place: int) -> dict[str, Tensor]:
        """Its momentum, by the same names; nothing before the first step."""
        group, slot = divmod(place, SLOTS)
        return {name: values[slot] for name, values in self.groups[group].momentum.items()}

    def load(self, place: int, values: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> None:
        """Become what :meth:`values_of` and :meth:`momentum_of` told of one classifier."""
        group, slot = divmod(place, SLOTS)
        for name, value in values.items():
            self.groups[group].values[name][slot].copy_(value)
        for name, value in momentum.items():
            moved = self.groups[group].momentum
            moved.setdefault(name, torch.zeros_like(self.groups[group].values[name]))[slot].copy_(value)


def _rows_from(cell: Cell, first: int) -> list[Epoch]:
    """Rows of a cell's epochs from the 1-based ``first`` on."""
    rows = itertools.chain.from_iterable(itertools.repeat(row, count) for count, row in cell.programme.runs)
    return list(itertools.islice(rows, first - 1, None))


@dataclass
class HeadState(State):
    """A trained classifier on its frozen backbone. ``test_logits`` [N, C] of the test images, averaged over views."""

    test_logits: Tensor | None = None


class Pack:
    """Cells whose last stage rides the same passes, under training: after ``epoch`` epochs of that stage.

    ``seconds`` are those of the latest epoch. ``cells`` stand in the order of the stacks; so do the columns of what each epoch
    left: ``loss`` float64 [H], correct counts int64 ``train`` [H, C], ``test`` [H, 2, C] and, where there is one,
    ``validation`` [H, C]. ``stretches`` [H] tell where each cell's epochs were trained, those of the backbone included.
    """

    def __init__(self, cells: Sequence[Cell], features: Features) -> None:
        first = cells[0].programme.frozen_from
        assert first is not None
        self.first, self.features = first, features
        self.rows = _rows_from(cells[0], first)  # for what all have in common: what is shown
        alike: dict[tuple[str, str | None, float], list[Cell]] = {}
        for cell in cells:
            row = cell.programme.epoch(first)
            form = row.head or form_of(features.begun.model.head.state_dict())
            alike.setdefault((form, losses.family(row.objective), row.momentum), []).append(cell)
        self.stacks = [Stack(form, of, first, features) for (form, _, _), of in alike.items()]
        self.cells = [cell for stack in self.stacks for cell in stack.cells]
        self.epoch, self.seconds = 0, 0.0
        self.stretches: list[Stretches] = [features.begun.stretches] * len(self.cells)
        self.told: dict[str, list[Tensor]] = {name: [] for name in ("loss", "seconds", "train", "test", "validation")}
        data = features.data
        half = data.test.half
        assert half is not None
        self._of_class = _indicators(data.train_labels, data.classes)
        self._of_test = _indicators(data.test.labels + data.classes * half, 2 * data.classes)
        self._of_validation = None if data.validation is None else _indicators(data.validation.labels, data.classes)

    def train_epoch(self) -> None:
        """One pass over the images for all classifiers, and their evaluation."""
        began = time.perf_counter()
        data, row, number = self.features.data, self.rows[self.epoch], self.first + self.epoch
        order, batches = self.features.epoch(row, self.cells[0].seed, number)
        for stack in self.stacks:
            stack.begin_epoch(self.epoch)
        many = [len(stack.cells) for stack in self.stacks]
        total = torch.zeros(sum(many), dtype=torch.float64, device=data.device)
        right = torch.empty(sum(many), len(order), dtype=torch.bool, device=data.device)
        first = 0
        for features, labels in batches:
            last = first + len(labels)
            losses_and_hits = [stack.step(features, labels) for stack in self.stacks]
            total += torch.cat([loss for loss, _ in losses_and_hits]).double() * len(labels)
            right[:, first:last] = torch.cat([hits for _, hits in losses_and_hits])
            first = last
        for stack in self.stacks:
            stack.end_epoch()
        told = self.told
        told["loss"].append((total / len(order)).cpu())
        told["train"].append(_counts(right, self._of_class[order]))
        test = torch.cat([stack.hits("test", data.test.labels) for stack in self.stacks])
        told["test"].append(_counts(test, self._of_test).view(-1, 2, data.classes))
        if data.validation is not None and self._of_validation is not None:
            shown = torch.cat([stack.hits("validation", data.validation.labels) for stack in self.stacks])
            told["validation"].append(_counts(shown, self._of_validation))
        self.seconds = time.perf_counter() - began
        # Each classifier's share, so that Records add up.
        told["seconds"].append(torch.tensor(self.seconds / sum(many), dtype=torch.float64))
        self.epoch += 1

    def places(self) -> Iterator[tuple[Cell, Stack, int]]:
        """Every cell with its stack and its place there, in order."""
        for stack in self.stacks:
            for place, cell in enumerate(stack.cells):
                yield cell, stack, place

    def history(self, column: int) -> tuple[History, dict[str, Any] | None]:
        """Of a cell's whole chain, and where training broke off, if it did: the epoch and its loss that is not finite."""
        before, rows = self.features.begun.history, _rows_from(self.cells[column], self.first)
        loss = [float(told[column]) for told in self.told["loss"]]
        good = next((place for place, value in enumerate(loss) if not math.isfinite(value)), len(loss))
        history = History(
            loss=[*before.loss, *loss[:good]],
            rate=[*before.rate, *(row.rate for row in rows[:good])],
            seconds=[*before.seconds, *(round(float(told), 3) for told in self.told["seconds"][:good])],
            train=[*before.train, *(told[column] for told in self.told["train"][:good])],
            validation=[*before.validation, *(told[column] for told in self.told["validation"][:good])],
            test=[*before.test, *(told[column] for told in self.told["test"][:good])],
        )
        failed = None if good == len(loss) else {"epoch": self.first + good, "loss": str(loss[good])}
        return history, failed

    def state(self, history: History, stack: Stack, place: int) -> HeadState:
        """The trained state of one cell, for its Measures."""
        begun = self.features.begun
        model = Classifier(begun.model.backbone, stack.head_of(place))
        epoch = self.first - 1 + self.epoch
        return HeadState(model, begun.optimiser, history, epoch, self.epoch, test_logits=stack.test_logits(place))

    def save(self, path: Path, keys: Sequence[str], others: Mapping[str, Tensor] | None = None) -> None:
        """Write all that the next epoch depends on; ``keys`` name the cells, ``others`` is what was saved of cells that are not
        trained here, after as many epochs. Raises ``BadInput`` if it cannot be written."""
        named: dict[str, Tensor] = {"epoch": torch.tensor(self.epoch), **(others or {})}
        for key, (_, stack, place) in zip(keys, self.places(), strict=True):
            named.update({f"{key}/value/{name}": value.cpu() for name, value in stack.values_of(place).items()})
            named.update({f"{key}/momentum/{name}": value.cpu() for name, value in stack.momentum_of(place).items()})
        named.update({f"{key}/stretches": stretches_tensor(of) for key, of in zip(keys, self.stretches, strict=True) if of})
        for name, rows in self.told.items():
            for column, key in enumerate(keys):
                if rows:
                    named[f"{key}/told/{name}"] = torch.stack([row if row.ndim == 0 else row[column] for row in rows])
        save_tensors({name: value.clone() for name, value in named.items()}, path)

    def load(self, named: Mapping[str, Tensor], keys: Sequence[str]) -> bool:
        """Become what was saved of these cells; False, and unchanged, where that is not whole."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: value for name, value in named.items() if name.startswith(prefix)}

        epoch = int(named["epoch"])
        told = [under(f"{key}/told/") for key in keys]
        kinds = {name for name in self.told if name != "validation" or self._of_validation is not None}
        if any(of.keys() != kinds or any(len(rows) != epoch for rows in of.values()) for of in told):
            return False
        for key, (_, stack, place) in zip(keys, self.places(), strict=True):
            shapes = {name: value.shape for name, value in stack.values_of(place).items()}
            values, momentum = under(f"{key}/value/"), under(f"{key}/momentum/")
            if {name: value.shape for name, value in values.items()} != shapes or not momentum:
                return False
            if any(shapes.get(name) != value.shape for name, value in momentum.items()):
                return False
        self.epoch = epoch
        self.stretches = [stretches_of(named.get(f"{key}/stretches")) for key in keys]
        for name in kinds:
            of_cells = [of[name] for of in told]
            self.told[name] = list(of_cells[0]) if name == "seconds" else list(torch.stack(of_cells, dim=1))
        for key, (_, stack, place) in zip(keys, self.places(), strict=True):
            stack.load(place, under(f"{key}/value/"), under(f"{key}/momentum/"))
        return True


def _indicators(labels: Tensor, classes: int) -> Tensor:
    """[N, classes], 1 where an image is of a class."""
    return functional.one_hot(labels, classes).float()


def _counts(hits: Tensor, indicators: Tensor) -> Tensor:
    """Of ``hits`` bool [H, N] how many of each class, int64 [H, C] on the CPU; sums of ones are exact in 32-bit floats up to
    2^24."""
    return (hits.float() @ indicators).to(torch.int64).cpu()


#: What is called with each finished cell: the cell, its Record and its trained state (None if training failed).
Finished = Callable[[Cell, Record, HeadState | None], None]


def train_pack(
    cells: Sequence[Cell],
    features_of: Callable[[str, State], Features],
    data: DeviceData,
    store: Store,
    edition: str,
    numerics: Numerics,
    *,
    keep: Set[str] = frozenset(),
    out_of_time: Callable[[Epoch], bool] = lambda row: False,
    each_epoch: Callable[[int, History, float], None] = lambda number, history, seconds: None,
    finished: Finished = lambda cell, record, state: None,
) -> None:
    """Train the last stage of cells that have one :meth:`replicate.grid.Programme.pack` and one seed, on the backbone that they
    share, and write their Records.

    The backbone is trained first where no checkpoint has it. A checkpoint of the pack is written every half minute; cells that
    are not in it (a larger request, cut off earlier) are trained after the others, and one with cells that are not asked for
    now (a narrower request) stays until these have Records, too. ``each_epoch`` hears the epoch's number in the chain, a
    history and the epoch's seconds; ``features_of`` makes or remembers the features of a state that has this key. Raises
    :class:`replicate.engine.cell.Stopped`, with a checkpoint written, once ``out_of_time`` says so of the next epoch's row;
    ``BadInput`` if the store cannot be written.
    """
    some = cells[0]
    programme, seed = some.programme, some.seed
    source, pack, first = programme.start.data.source, programme.pack(edition), programme.frozen_from
    assert pack is not None and first is not None
    begun, failed = train_to(
        some, first - 1, data, store, edition, numerics, keep=keep, out_of_time=out_of_time, each_epoch=each_epoch
    )
    if failed is not None:
        for cell in cells:
            record = record_of(cell, data, edition, numerics, begun.history, failed, stretches=begun.stretches)
            store.write(record)
            finished(cell, record, None)
        return
    begun.model = begun.handed_over()
    features = features_of(f"{programme.keys(edition)[first - 1]} seed {seed}", begun)

    def path(epoch: int) -> Path:
        return store.checkpoint(source, edition, pack, first - 1 + epoch, seed)

    def keys_of(one: Pack) -> list[str]:
        return [cell.programme.keys(edition)[-1][:24] for cell in one.cells]

    length = programme.length - first + 1
    left = {cell.programme.keys(edition)[-1][:24]: cell for cell in cells}
    asked = set(left)

    def of_others(saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a checkpoint has of cells that are not asked for and have no Record: all that there is of them."""
        done = {key for key, seeds in store.seeds(source, edition).items() if seed in seeds}
        keys = {name.partition("/")[0] for name in saved if "/" in name} - asked - done
        return {name: value for name, value in saved.items() if name.partition("/")[0] in keys}

    def next_pack() -> tuple[Pack, int]:
        """Cells that are left and go on from the furthest checkpoint of any of them; without one, as many as the memory takes.
        And the epoch of a checkpoint that nobody needs once there is a later one, or 0."""
        for epoch in range(length, 0, -1):
            saved = read_tensors(path(epoch)) or {}
            known = {name.partition("/")[0] for name in saved}
            if now := [cell for key, cell in left.items() if key in known]:
                one = Pack(now, features)
                if one.load(saved, keys_of(one)):
                    return one, 0 if of_others(saved) else epoch
        return Pack(list(left.values())[: _at_once(some, begun)], features), 0

    def forget(epoch: int) -> None:
        with contextlib.suppress(OSError):
            path(epoch).unlink()

    while left:
        one, passing = next_pack()
        keys = keys_of(one)
        if one.epoch < length:
            if out_of_time(one.rows[one.epoch]):
                raise Stopped(first - 1 + one.epoch)
            here = environment(data.device, numerics)
            one.stretches = [stretched(of, first + one.epoch, here) for of in one.stretches]
        saved_at = time.monotonic()
        while one.epoch < length:
            one.train_epoch()
            each_epoch(first - 1 + one.epoch, one.history(0)[0], one.seconds)
            late = one.epoch < length and out_of_time(one.rows[one.epoch])
            if late or time.monotonic() - saved_at >= SAVE_EVERY_SECONDS:
                others = of_others(read_tensors(path(one.epoch)) or {})
                one.save(path(one.epoch), keys, others)
                if passing:
                    forget(passing)
                passing, saved_at = 0 if others else one.epoch, time.monotonic()
            if late:
                raise Stopped(first - 1 + one.epoch)
        for column, (cell, stack, place) in enumerate(one.places()):
            history, broke = one.history(column)
            if broke is None:
                final = {f"head/{name}": value.cpu() for name, value in stack.head_of(place).state_dict().items()}
                save_tensors(final, store.checkpoint(source, edition, cell.programme.keys(edition)[-1], programme.length, seed))
            record = record_of(cell, data, edition, numerics, history, broke, stretches=one.stretches[column])
            store.write(record)
            finished(cell, record, None if broke else one.state(history, stack, place))
            del left[keys[column]]
    for epoch in range(1, length + 1):  # older ones of interrupted runs included
        if (saved := read_tensors(path(epoch))) is not None and not of_others(saved):
            forget(epoch)


def _at_once(cell: Cell, begun: State) -> int:
    """How many classifiers like this one :data:`TOGETHER_BYTES` hold, in whole groups: their values and momentum, and the eight
    tensors of a batch's logits that a loss and its gradient keep."""
    values = sum(value.numel() for value in begun.model.head.state_dict().values())
    logits = cell.programme.epoch(cell.programme.length).feed.batch * cell.programme.start.network.classes
    return int(max(1, TOGETHER_BYTES // (4 * (2 * values + 8 * logits)) // SLOTS) * SLOTS)
