"""Finished runs of planned cells and the Measures of their trained states. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from replicate.grid import Cell
from replicate.record import Store


@dataclass(frozen=True)
class Trained:
    """The trained state of a cell under a seed; an adjustment shares it with the training before it."""

    store: Store
    cell: Cell
    seed: int
    edition: str
    key: str

    @property
    def names(self) -> tuple[str, str, int]:
        """Method with its point, column, seed."""
        label = " ".join((self.cell.method, *(f"{name}={value:g}" for name, value in self.cell.point)))
        return label, self.cell.column.name, self.seed

    def measure(self, name: str) -> dict[str, Any] | None:
        """A Measure by its name, or None. Raises ``BadInput`` naming a file that is damaged."""
        return self.store.measure(name, self.cell.programme.start.data.source, self.edition, self.key, self.seed)


def trained(store: Store, planned: Iterable[Cell], edition_of: Mapping[str, str]) -> Iterator[Trained]:
    """Each trained state of the cells that has a Record, whatever its seed, once."""
    seen: set[tuple[str, int]] = set()
    seeds = {source: store.seeds(source, edition) for source, edition in edition_of.items()}
    for cell in planned:
        source = cell.programme.start.data.source
        edition = edition_of[source]
        key = cell.programme.keys(edition)[-1]
        for seed in seeds[source].get(cell.programme.key(edition)[:24], ()):
            if (key, seed) not in seen:
                seen.add((key, seed))
                yield Trained(store, cell, seed, edition, key)
