"""Figures as published, from Records and Measures alone. No torch; matplotlib only where a picture is asked for.

:func:`figures` says of every figure of a paper what there is: a :class:`Drawn`, with its picture as SVG and PNG, the CSV of
exactly what is drawn and a note, or a :class:`Missing` with the commands that would run it. One figure is drawn once for each
edition of its data that has runs, never with two in one picture; on stand-in data where nothing else is there or where it is
asked for, and then its title says so. Shortened (quick) runs are never drawn.

How a figure comes about: its description (:class:`replicate.protocol.Figure`) names panels; :mod:`.reading` reads each from the
store as curves or a map (:mod:`.content`); :mod:`.drawing` gives them their looks, which are those of ``replicate.mplstyle``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate.data.editions import OFFICIAL
from replicate.errors import BadInput
from replicate.protocol import Column, Figure, Panel, Paper
from replicate.record import Store, write_atomically
from replicate.report.figures import content, reading
from replicate.report.figures.content import Shown
from replicate.report.selection import sentence

if TYPE_CHECKING:
    from replicate.report.figures.drawing import Picture

__all__ = ["Drawn", "Missing", "Unknown", "figures", "write"]


class Unknown(BadInput):
    """A paper's figures do not have a number or a data set; another paper's may."""


@dataclass(frozen=True)
class Missing:
    """A figure without any run that is finished: the ``commands`` that would run it."""

    paper: str
    number: str
    title: str
    commands: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Drawn:
    """A figure of which something is there.

    ``title`` has the number, and marks stand-in data and other editions. ``data`` is empty for official editions of the paper's
    data, else the stand-in or the edition, such as ``digits`` or ``mnist@0123456789ab``. ``note`` says what the numbers are,
    what the paper leaves open, and what is not there; ``commands`` would run that, and are none where all is there."""

    paper: str
    number: str
    title: str
    data: str
    stand_in: bool
    note: str
    commands: tuple[str, ...]
    panels: tuple[Shown, ...]
    across: int

    @property
    def name(self) -> str:
        """Such as ``figure3`` or ``figure3.digits``, for files and anchors: what may not be mixed has its own name."""
        return f"figure{self.number}" + (f".{self.data}" if self.data else "")

    @cached_property
    def csv(self) -> str:
        """Every number that is drawn, one a line, in reading order; see :data:`replicate.report.figures.content.FIELDS`."""
        return content.csv_of(self.panels)

    @cached_property
    def svg(self) -> str:
        """An ``<svg>`` element that needs nothing beside it, with a title and a description for those who do not see it. Its
        ids are its own, so that several fit into one page."""
        return self._picture.svg(self.note, re.sub(r"\W|_", "-", f"{self.paper}-{self.name}"))

    @cached_property
    def png(self) -> bytes:
        """The same picture in pixels."""
        return self._picture.png()

    @cached_property
    def _picture(self) -> Picture:
        from replicate.report.figures.drawing import Picture

        return Picture(self.panels, self.across, self.title)


def figures(
    paper: Paper, store: Store, *, numbers: Collection[str] = (), datasets: Collection[str] = ()
) -> Iterator[Drawn | Missing]:
    """What there is of a paper's figures, in their order: of those with these ``numbers``, on these ``datasets``, or all.

    Raises ``Unknown`` for a number or data set that the paper's figures do not have, ``BadInput`` for a damaged file.
    """
    known = [figure.number for figure in paper.figures]
    for number in numbers:
        if number not in known:
            raise Unknown(f"figure {number!r} is unknown; {paper.command} has: {', '.join(known) or 'none'}")
    wanted = [figure for figure in paper.figures if not numbers or figure.number in numbers]
    have = list(dict.fromkeys(column.dataset for figure in wanted for column in _columns(figure)))
    for dataset in datasets:
        if dataset not in have:
            which = f"figures {', '.join(figure.number for figure in wanted)} of {paper.command} have"
            raise Unknown(f"data set {dataset!r} is unknown; {which}: {', '.join(have) or 'none'}")
    for figure in wanted:
        if not datasets or any(column.dataset in datasets for column in _columns(figure)):
            yield from _of_figure(paper, store, figure, datasets)


def write(figure: Drawn, folder: Path) -> Path:
    """Its picture and numbers as files in a folder, that is made: their common name, without ``.png``, ``.svg`` and ``.csv``.

    Raises ``BadInput`` if they cannot be written."""
    stem = folder / figure.name
    try:
        for suffix, data in ((".csv", figure.csv.encode()), (".svg", figure.svg.encode()), (".png", figure.png)):
            write_atomically(stem.with_name(stem.name + suffix), data)
    except OSError as error:
        raise BadInput(
            f"figures folder {str(folder)!r} cannot be written ({error.strerror}); name another folder with --out"
        ) from None
    return stem


def _columns(figure: Figure) -> Iterator[Column]:
    yield from (panel.column for panel in figure.panels)
    if figure.stand_in is not None:
        yield figure.stand_in


def _of_figure(paper: Paper, store: Store, figure: Figure, datasets: Collection[str]) -> Iterator[Drawn | Missing]:
    """The figure on each edition of its data that has runs; else on the stand-in; else that it is missing."""
    panels = tuple(panel for panel in figure.panels if not datasets or panel.column.dataset in datasets)
    found = [one for editions in _rounds(store, panels) if (one := _drawn(paper, store, figure, panels, editions))]
    stand_in = figure.stand_in
    if stand_in is not None and (stand_in.dataset in datasets or not (datasets or found)):
        instead = _on(stand_in, figure.panels)
        rounds = [{stand_in.data.source: edition} for edition in store.editions(stand_in.data.source)[:1]]
        found += [one for editions in rounds if (one := _drawn(paper, store, figure, instead, editions, panels))]
        panels = panels or instead
    yield from found
    if not found:
        commands = (figure.command,) if figure.command else _commands(paper, panels)
        title = f"Figure {figure.number}. {figure.title}"
        told = [figure.unknown] if figure.command else ["No finished runs are there."]
        if stand_in is not None and not datasets:
            told.append(f"On {stand_in.dataset}, which need no download: {' ; '.join(_commands(paper, _on(stand_in, panels)))}")
        yield Missing(paper.name, figure.number, title, commands, "\n".join(told))


def _on(column: Column, panels: Iterable[Panel]) -> tuple[Panel, ...]:
    """The same panels on one column, each once."""
    found: list[Panel] = []
    for panel in panels:
        if (one := replace(panel, column=column)) not in found:
            found.append(one)
    return tuple(found)


def _rounds(store: Store, panels: Iterable[Panel]) -> Iterator[dict[str, str]]:
    """Editions by source, so that each figure has one of each: official ones, then one round for every other."""
    sources = dict.fromkeys(panel.column.data.source for panel in panels)
    found = {source: store.editions(source) for source in sources}
    official = {source: OFFICIAL for source, editions in found.items() if OFFICIAL in editions}
    if official:
        yield official
    for source, editions in found.items():
        yield from ({source: edition} for edition in editions if edition != OFFICIAL)


def _drawn(
    paper: Paper,
    store: Store,
    figure: Figure,
    panels: Sequence[Panel],
    editions: Mapping[str, str],
    instead_of: Sequence[Panel] = (),
) -> Drawn | None:
    """The panels on these editions; None if nothing is there for any. ``instead_of``: panels that stand-in data stand for."""
    memory: dict[Any, Any] = {}
    shown = tuple(reading.read(store, paper, panel, editions, memory) for panel in panels)
    if not any(one.there for one in shown):
        return None
    stand_in = any(panel.column.stand_in for panel in panels)
    other = [f"{source}@{edition}" for source, edition in editions.items() if edition != OFFICIAL]
    data = panels[0].column.dataset if stand_in else ".".join(other)
    mark = f" (stand-in: {data})" if stand_in else f" (edition {data})" if data else ""
    lacking = [panel for panel, one in zip(panels, shown, strict=True) if one.missing]
    commands = _commands(paper, lacking)
    return Drawn(
        paper=paper.name,
        number=figure.number,
        title=f"Figure {figure.number}. {figure.title}{mark}",
        data=data,
        stand_in=stand_in,
        note="\n".join(_note(paper, figure, panels, shown, commands, instead_of)),
        commands=commands,
        panels=shown,
        across=min(figure.across, len(shown)),
    )


def _note(
    paper: Paper,
    figure: Figure,
    panels: Sequence[Panel],
    shown: Sequence[Shown],
    commands: Sequence[str],
    instead_of: Sequence[Panel],
) -> Iterator[str]:
    seeds = sorted({point.seeds for one in shown for point in one.points})
    many = f"{seeds[0]} seed" + ("s" if seeds[0] > 1 else "") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    spread = "" if seeds[-1] == 1 else "; bars and bands: population standard deviation, where a panel has few enough curves"
    yield f"Mean over {many}{spread}."
    if any(panel.draws in reading.BY_ACCURACY for panel in panels):
        yield f"Selection as published: {sentence('as-published', paper.selects_on)}."
    elif any(panel.draws in reading.OF_LOGITS for panel in panels):
        yield f"Grid points by the selection as published: {sentence('as-published', paper.selects_on)}. Logits of test images."
    if figure.unknown:
        yield figure.unknown
    quirks = {quirk.name: quirk for quirk in paper.quirks}
    for name in figure.quirks:
        yield f"{quirks[name].conflict} Here: {quirks[name].follows}"
    if any(panel.column.stand_in for panel in panels):
        data = ", ".join(dict.fromkeys(panel.column.dataset for panel in panels))
        yield f"Stand-in data ({data}), no part of the paper and comparable with none of its numbers."
    if instead_of:
        yield "The paper's own data: " + " ; ".join(_commands(paper, instead_of))
    for one in shown:
        if one.missing:
            yield f"Missing in {one.title!r}: {one.missing}."
    if commands:
        yield "What is missing: " + " ; ".join(commands)


def _commands(paper: Paper, panels: Iterable[Panel]) -> tuple[str, ...]:
    """The shortest commands that run every cell of the panels: one for each table or grid."""
    of_grid: dict[tuple[str, str], list[Panel]] = {}
    for panel in panels:
        of_grid.setdefault((panel.table, panel.grid), []).append(panel)
    commands = []
    for (table, grid), alike in of_grid.items():
        words = ["replicate", paper.command, *(("--table", table) if table else ("--grid", grid))]
        columns = [panel.column for panel in alike]
        chosen: dict[str, Iterable[str]] = {
            "--dataset": (column.dataset for column in columns),
            "--ratio": (str(column.ratio) for column in columns),
            "--network": (column.tag for column in columns if column.tag),
            "--method": (method for panel in alike for method in panel.methods),
        }
        if {method for panel in alike for method in panel.methods} == set(reading.methods_of(paper, alike[0])):
            del chosen["--method"]
        for option, values in chosen.items():
            words += [word for value in dict.fromkeys(values) for word in (option, value)]
        commands.append(shlex.join(words))
    return tuple(commands)
