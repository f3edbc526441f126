"""What a figure shows, as plain values: curves or a map in each panel, and the CSV of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

#: The columns of a figure's CSV. ``curve`` is empty in a map, ``y_axis`` and ``y`` among curves; ``sd`` is the population's
#: over ``seeds``, empty for one; ``chosen`` tells what a selection chose for this point, or what is behind a normal density.
FIELDS = ("panel", "curve", "x_axis", "x", "y_axis", "y", "quantity", "value", "sd", "seeds", "chosen")


@dataclass(frozen=True)
class Point:
    """A number at ``x`` (of curves) or in the cell at ``x`` across and ``y`` up (of maps): mean over ``seeds``, population
    standard deviation (None for one seed)."""

    x: float
    value: float
    sd: float | None
    seeds: int
    chosen: str = ""
    y: float = 0.0


@dataclass(frozen=True)
class Curve:
    """Points from left to right. ``family`` decides the colour, ``member`` the dashes; the label has both."""

    family: str
    points: tuple[Point, ...]
    member: str = ""

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.family, self.member)))


@dataclass(frozen=True)
class Shown:
    """A panel as it is drawn: curves, or the cells of a map. Where nothing is there it stays, empty.

    ``x_ticks`` and ``y_ticks`` name the places 0, 1, ... of an axis that is not a number. ``smooth``: no marks at the points.
    ``square``: a map of classes against classes, cosines from -1 to 1. ``scale``: maps with equal ones share their colours.
    ``missing`` says what of it has no finished run; empty if all is there."""

    title: str
    x_axis: str
    quantity: str
    curves: tuple[Curve, ...] = ()
    cells: tuple[Point, ...] = ()
    y_axis: str = ""
    x_ticks: tuple[str, ...] = ()
    y_ticks: tuple[str, ...] = ()
    smooth: bool = False
    logarithmic: bool = False
    square: bool = False
    is_map: bool = False
    scale: str = ""
    missing: str = ""

    @property
    def points(self) -> Iterator[Point]:
        """Of all curves, or all cells."""
        for curve in self.curves:
            yield from curve.points
        yield from self.cells

    @property
    def there(self) -> bool:
        return next(self.points, None) is not None


def csv_of(panels: Iterable[Shown]) -> str:
    """A header of :data:`FIELDS`, then a line for every point. Numbers are written so that they can be read back exactly."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(FIELDS)
    for panel in panels:
        for curve in panel.curves or (Curve("", panel.cells),):
            for point in curve.points:
                lines.writerow(
                    (
                        panel.title,
                        curve.label,
                        panel.x_axis,
                        _at(point.x, panel.x_ticks),
                        panel.y_axis,
                        _at(point.y, panel.y_ticks) if panel.is_map else "",
                        panel.quantity,
                        repr(point.value),
                        "" if point.sd is None else repr(point.sd),
                        point.seeds,
                        point.chosen,
                    )
                )
    return out.getvalue()


def _at(place: float, ticks: tuple[str, ...]) -> str:
    return ticks[int(place)] if ticks else f"{place:g}"
