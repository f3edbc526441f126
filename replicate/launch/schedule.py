"""Which cells are trained next, where several are trained side by side. No torch."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from replicate.grid import Cell


@dataclass(frozen=True, eq=False)
class Group:
    """Cells that are trained together, ``before`` cells of the plan before them, on an edition of their data."""

    cells: tuple[Cell, ...]
    before: int
    edition: str

    @property
    def seed(self) -> int:
        """Which all its cells have."""
        return self.cells[0].seed

    @cached_property
    def chain(self) -> tuple[str, ...]:
        """Key after each epoch that others may go on from; index 0 is that of the untrained start. A frozen stage leaves no
        states that others can use but its beginning."""
        programme = self.cells[0].programme
        return programme.keys(self.edition)[: programme.frozen_from]


def together(planned: Sequence[Cell], edition_of: Mapping[str, str]) -> list[Group]:
    """Groups in the order of their first cells: cells whose last stages ride the same passes of one backbone are one group, and
    every other cell is a group of its own."""
    found: dict[tuple[object, int], list[Cell]] = {}
    for place, cell in enumerate(planned):
        pack = cell.programme.pack(edition_of[cell.programme.start.data.source])
        found.setdefault((place if pack is None else pack, cell.seed), []).append(cell)
    groups, before = [], 0
    for cells in found.values():
        groups.append(Group(tuple(cells), before, edition_of[cells[0].programme.start.data.source]))
        before += len(cells)
    return groups


def shared(one: Group, other: Group) -> int:
    """How many first epochs two groups have in common."""
    if one.seed != other.seed or one.chain[0] != other.chain[0]:
        return 0
    # Keys are a hash chain: where two differ, all later ones do.
    epochs = range(1, min(len(one.chain), len(other.chain)))
    return bisect_left(epochs, True, key=lambda epoch: one.chain[epoch] != other.chain[epoch])


class Schedule:
    """Hands out groups so that no epoch is trained twice, in the order of the plan as far as that allows.

    A group has to wait while one that runs has yet to reach the last epoch that they share: it then goes on from the checkpoint
    there. ``there`` tells whether a group's checkpoint after an epoch exists.
    """

    def __init__(self, groups: Sequence[Group], there: Callable[[Group, int], bool]) -> None:
        self._waiting = list(groups)
        self._there = there
        self._reached: dict[Group, int] = {}  # of those that run: the latest epoch
        self._waits_for: dict[Group, tuple[Group, int]] = {}

    def next(self) -> Group | None:
        """The first group that may start, which counts as running from then on; None if all have to wait, or none is left."""
        asked: dict[tuple[Group, int], bool] = {}

        def ahead(other: Group, epoch: int) -> bool:
            if (other, epoch) not in asked:
                asked[other, epoch] = self._reached[other] <= epoch and not self._there(other, epoch)
            return asked[other, epoch]

        for place, group in enumerate(self._waiting):
            awaited = self._waits_for.get(group)
            if awaited is not None and awaited[0] in self._reached and ahead(*awaited):
                continue
            found = ((other, epoch) for other in self._reached if (epoch := shared(group, other)) and ahead(other, epoch))
            if (awaited := next(found, None)) is not None:
                self._waits_for[group] = awaited
                continue
            del self._waiting[place]
            self._waits_for.pop(group, None)
            self._reached[group] = 0
            return group
        return None

    def reached(self, group: Group, epoch: int) -> None:
        """A running group has trained this epoch; its checkpoint may not be written yet."""
        self._reached[group] = epoch

    def ended(self, group: Group) -> None:
        """A running group is finished, or is not to be tried again."""
        del self._reached[group]

    def again(self, group: Group) -> None:
        """A running group was stopped and is to be tried again, before all others."""
        del self._reached[group]
        self._waiting.insert(0, group)
