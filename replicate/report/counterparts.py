"""This project's own numbers for those that a table's rows quote from a paper which this project replicates too. No torch."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from replicate.errors import BadInput
from replicate.protocol import Column, Paper, Table
from replicate.record import Store
from replicate.report import tables
from replicate.report.tables import Counterpart, Key, Spot


def counterparts(
    table: Table,
    columns: Sequence[Column],
    other: Callable[[str], tuple[Paper, Store]],
    *,
    selection: str,
    edition_of: Mapping[str, str],
) -> dict[Key, Counterpart]:
    """For every row that says where this project replicates what it quotes, in the columns of the same data: what is there.

    ``other`` gives a paper by its name, and a store to read its Records from; they are of the edition that ``edition_of`` names
    for their data, so that no table mixes editions, else of the official one. Raises ``BadInput`` for a place that the other
    paper does not have.
    """
    return {spot.key: _counterpart(*place, selection, edition_of) for spot, place in _places(table, columns, other)}


def _places(
    table: Table, columns: Sequence[Column], other: Callable[[str], tuple[Paper, Store]]
) -> Iterator[tuple[Spot, tuple[Paper, Store, Spot]]]:
    """Each quoted number that has one, with its place in the other paper."""
    for spot in tables.spots(table, columns):
        if spot.row.elsewhere is None:
            continue
        name, number, *place = spot.row.elsewhere
        paper, store = other(name)
        found = (
            there
            for of_paper in paper.tables
            if of_paper.number == number
            for there in tables.spots(of_paper, of_paper.columns)
            if [*there.place[:2]] == place
        )
        there = next(found, None)
        if there is None:
            raise BadInput(f"table {number} of {paper.command} has no {' at '.join(place)}; mend the row {spot.row.label!r}")
        here = (spot.column.dataset, spot.column.ratio, spot.metric.group)
        if here == (there.column.dataset, there.column.ratio, there.metric.group):
            yield spot, (paper, store, there)


def _counterpart(paper: Paper, store: Store, spot: Spot, selection: str, edition_of: Mapping[str, str]) -> Counterpart:
    table, column, method = spot.table, spot.column, spot.row.method
    assert method is not None
    source = column.data.source
    edition = edition_of.get(source, "official")
    replicas = tables.replicas(
        store, paper, table, selection=selection, edition_of={source: edition}, columns=[column], methods=[method]
    )
    row, path, _ = spot.place
    return Counterpart(
        where=f"{paper.command}, table {table.number}, row {row}, {path} ({source}@{edition})",
        command=f"replicate {paper.command} --table {table.number} --dataset {column.dataset} --ratio {column.ratio} "
        f"--method {shlex.quote(method)}",
        replica=replicas.get(spot.key),
    )
