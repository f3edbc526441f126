"""Panels as pictures: SVG and PNG by matplotlib, in the looks of ``replicate.mplstyle``. Imported where a picture is made."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib.resources import as_file, files
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from replicate.report.figures.content import Curve, Shown

#: Inches: a column's width and a page's, and the height of a row of panels without its legend.
COLUMN, PAGE, ROW = 3.3, 6.9, 1.75
#: A line of text in inches, and about how many characters fit into an inch; points from the axes to a legend below them.
LINE, CHARACTERS, BELOW_AXES = 0.14, 17.0, 27
#: Above so many curves in a panel bars and bands would hide them; above so many points bars become a band.
CURVES_WITH_SPREAD, POINTS_WITH_BARS = 6, 25
#: Cells of a map that have room for their number, and those that are pixels even in an SVG.
CELLS_WITH_NUMBERS, CELLS_AS_PIXELS = 60, 400
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))


class Picture:
    """Panels, so many ``across``, under a title; laid out once, then written in either form."""

    def __init__(self, panels: Sequence[Shown], across: int, title: str) -> None:
        self.title, self.told = title, description(panels)
        with _looks():
            self.figure = _figure(panels, across, title)
            # Saving would lay it out by drawing it once more.
            engine = self.figure.get_layout_engine()
            assert engine is not None
            engine.execute(self.figure)
            self.figure.set_layout_engine("none")

    def png(self) -> bytes:
        """In pixels, 300 to the inch."""
        out = io.BytesIO()
        with _looks():
            self.figure.savefig(out, format="png", metadata={"Title": self.title})
        return out.getvalue()

    def svg(self, note: str, identity: str) -> str:
        """As one ``<svg>`` element with a title and, as its description, what the panels show and the ``note``. Ids begin with
        ``identity``."""
        out = io.StringIO()
        with _looks():
            self.figure.savefig(out, format="svg", metadata={"Date": None})
        drawn = out.getvalue()
        drawn = drawn[drawn.index("<svg") :].rstrip() + "\n"
        drawn = re.sub(r"\s*<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
        drawn = re.sub(r'(<image\b[^>]*?)\s+id="[^"]*"', r"\1", drawn)  # of its content alone, so equal ones have the same
        drawn = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{identity}-", drawn)
        heads = (
            f'<title id="{identity}-title">{escape(self.title)}</title>\n'
            f'<desc id="{identity}-desc">{escape(f"{self.told} {note}")}</desc>'
        )
        named = f'<svg role="img" aria-labelledby="{identity}-title {identity}-desc" '
        return re.sub(r"<svg (.*?)>", lambda found: f"{named}{found[1]}>\n {heads}", drawn, count=1, flags=re.DOTALL)


def description(panels: Iterable[Shown]) -> str:
    """In words: the axes and the curves of every panel."""
    parts = []
    for panel in panels:
        if not panel.there:
            parts.append(f"{panel.title}: not run.")
        elif panel.is_map:
            parts.append(f"{panel.title}: {panel.quantity} as colours over {panel.x_axis} across and {panel.y_axis} up.")
        else:
            curves = ", ".join(curve.label for curve in panel.curves)
            parts.append(f"{panel.title}: {panel.quantity} over {panel.x_axis}; curves: {curves}.")
    return " ".join(parts)


@contextmanager
def _looks() -> Iterator[None]:
    """Our style on matplotlib's defaults, whatever the reader's own settings are; theirs are back afterwards."""
    with matplotlib.rc_context(), as_file(files("replicate.report") / "replicate.mplstyle") as style:
        matplotlib.rcdefaults()
        matplotlib.rc_file(style)
        yield


def _figure(panels: Sequence[Shown], across: int, title: str) -> Figure:
    width, rows = COLUMN if across == 1 else PAGE, -(-len(panels) // across)
    each = width / across
    heading = textwrap.fill(title, int(width * CHARACTERS * 0.8))
    legends = _legends(panels, across)
    height = LINE * (heading.count("\n") + 2) + sum(
        max(_height(panel, each) + LINE * _legend_lines(legend, each) for panel, legend in row)
        for row in (list(zip(panels, legends, strict=True))[first : first + across] for first in range(0, len(panels), across))
    )
    shared = _shared(panels)
    figure = Figure((width, height + LINE * _legend_lines(shared, width)))
    figure.suptitle(heading)
    grid = figure.subplots(rows, across, squeeze=False).ravel()
    families = list(dict.fromkeys(curve.family for panel in panels for curve in panel.curves))
    maps: dict[str, tuple[Any, list[Axes]]] = {}
    for axes, panel, legend in zip(grid, panels, legends, strict=False):
        axes.set_title(_wrapped(panel.title, each * 0.9))
        if not panel.there:
            _nothing(axes)
        elif panel.is_map:
            colours = _map(axes, panel, [one for one in panels if one.scale == panel.scale])
            maps.setdefault(panel.scale, (colours, []))[1].append(axes)
        else:
            _curves(axes, panel, families, each)
        if legend:
            below = offset_copy(axes.transAxes, figure, y=-BELOW_AXES, units="points")
            columns = _columns(legend, each)
            axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), bbox_transform=below, ncols=columns, borderpad=0)
    for axes in grid[len(panels) :]:
        axes.remove()
    for scale, (colours, those) in maps.items():
        quantity = next(panel.quantity for panel in panels if panel.scale == scale)
        figure.colorbar(colours, ax=those, label=quantity, aspect=25, shrink=0.9)
    if shared:
        handles = [axes.get_legend_handles_labels() for axes in figure.axes]
        figure.legend(*max(handles, key=lambda found: len(found[1])), loc="outside lower center", ncols=_columns(shared, width))
    return figure


def _wrapped(text: str, inches: float) -> str:
    """In as many lines as it needs to be no wider, after a comma rather than elsewhere."""
    many = int(inches * CHARACTERS)
    return text if len(text) <= many else "\n".join(textwrap.fill(part, many) for part in re.split(r"(?<=,) ", text))


def _across_text(panel: Shown, width: float) -> str:
    """What stands below the horizontal axis of a panel of this width in inches."""
    return _wrapped(panel.x_axis, width - 0.4)


def _labels(panel: Shown) -> tuple[str, ...]:
    return tuple(curve.label for curve in panel.curves)


def _shared(panels: Sequence[Shown]) -> tuple[str, ...]:
    """The labels of one legend for all panels with curves; none if they differ."""
    found = {_labels(panel) for panel in panels if panel.curves}
    return found.pop() if len(found) == 1 else ()


def _legends(panels: Sequence[Shown], across: int) -> list[tuple[str, ...]]:
    """The labels of each panel's own legend; none where there is one for all."""
    shared = _shared(panels)
    return [() if shared else _labels(panel) for panel in panels]


def _columns(labels: Sequence[str], width: float) -> int:
    """Of a legend of this width in inches."""
    return max(1, min(len(labels), int(width * CHARACTERS / (max(map(len, labels)) + 6))))


def _legend_lines(labels: Sequence[str], width: float) -> int:
    return -(-len(labels) // _columns(labels, width)) if labels else 0


def _height(panel: Shown, width: float) -> float:
    """Of a panel in inches, with its title and axes, without a legend."""
    if panel.square:
        return min(width, 3.0)
    named = max(map(len, panel.x_ticks), default=0) if _upright(panel) else 0
    return ROW + named * 0.045 + LINE * _across_text(panel, width).count("\n")


def _upright(panel: Shown) -> bool:
    """Whether names of places on the horizontal axis are written from below to above."""
    return not panel.is_map and sum(map(len, panel.x_ticks)) > 30


def _nothing(axes: Axes) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, "not run", ha="center", va="center", color="#666666", transform=axes.transAxes)


def _curves(axes: Axes, panel: Shown, families: Sequence[str], width: float) -> None:
    """``families`` are those of the whole figure, so that one has one colour throughout; ``width`` in inches, with labels."""
    cycle = list(matplotlib.rcParams["axes.prop_cycle"])
    members = list(dict.fromkeys(curve.member for curve in panel.curves))
    with_spread = len(panel.curves) <= CURVES_WITH_SPREAD
    for curve in panel.curves:
        family = families.index(curve.family)
        style = {"color": cycle[family % len(cycle)]["color"], "label": curve.label, "marker": ""}
        style["linestyle"] = DASHES[(members.index(curve.member) + family // len(cycle)) % len(DASHES)]
        if not panel.smooth:
            style["marker"] = cycle[(family + family // len(cycle)) % len(cycle)]["marker"]
        _curve(axes, curve, style, with_spread)
    if panel.logarithmic and all(point.value > 0 for point in panel.points):
        axes.set_yscale("log")
    axes.set_xlabel(_across_text(panel, width))
    axes.set_ylabel(_wrapped(panel.quantity, ROW * 0.8))
    axes.locator_params(axis="x", nbins=max(3, int(width * 2.2)))
    if panel.x_ticks:
        # Lines of text that stand side by side are 1.2 times as wide as the letters are high.
        size = min(matplotlib.rcParams["xtick.labelsize"], (width - 0.6) * 72 / len(panel.x_ticks) / 1.2)
        axes.set_xticks(range(len(panel.x_ticks)), panel.x_ticks, rotation=90 if _upright(panel) else 0, fontsize=size)


def _curve(axes: Axes, curve: Curve, style: dict[str, Any], with_spread: bool) -> None:
    xs, values = [point.x for point in curve.points], [point.value for point in curve.points]
    spread = np.array([point.sd or 0.0 for point in curve.points])
    if not with_spread or not spread.any():
        axes.plot(xs, values, **style)
    elif len(xs) <= POINTS_WITH_BARS:
        axes.errorbar(xs, values, yerr=spread, elinewidth=0.6, **style)
    else:
        axes.plot(xs, values, **style)
        axes.fill_between(xs, values - spread, values + spread, color=style["color"], alpha=0.2, linewidth=0)


def _map(axes: Axes, panel: Shown, alike: Sequence[Shown]) -> Any:
    """``alike``: maps with the same scale of colours. The mesh, for its colour bar."""
    width, height = (int(max(getattr(point, axis) for point in panel.cells)) + 1 for axis in "xy")
    width, height = max(width, len(panel.x_ticks)), max(height, len(panel.y_ticks))
    values = np.full((height, width), np.nan)
    for point in panel.cells:
        values[int(point.y), int(point.x)] = point.value
    if panel.square:
        span: dict[str, Any] = {"vmin": -1, "vmax": 1, "cmap": "RdBu_r"}
    else:
        of_all = [point.value for one in alike for point in one.cells]
        span = {"vmin": min(of_all), "vmax": max(of_all)}
    mesh = axes.pcolormesh(np.ma.masked_invalid(values), rasterized=values.size > CELLS_AS_PIXELS, **span)
    axes.grid(False)
    axes.set_facecolor("#EEEEEE")
    axes.set_xlabel(panel.x_axis)
    axes.set_ylabel(panel.y_axis)
    if panel.square:
        axes.set_aspect("equal")
        axes.invert_yaxis()  # the first class above, as in a matrix
        places = range(0, width, max(1, width // 5))
        axes.set_xticks([place + 0.5 for place in places], [str(place) for place in places])
        axes.set_yticks([place + 0.5 for place in places], [str(place) for place in places])
    else:
        axes.set_xticks([place + 0.5 for place in range(width)], panel.x_ticks)
        axes.set_yticks([place + 0.5 for place in range(height)], panel.y_ticks)
        if values.size <= CELLS_WITH_NUMBERS:
            for point in panel.cells:
                light = sum(mesh.to_rgba(np.array(point.value))[:3]) > 1.5
                axes.text(
                    point.x + 0.5, point.y + 0.5, f"{point.value:.1f}", ha="center", va="center", fontsize="small",
                    color="black" if light else "white",
                )  # fmt: skip
    return mesh
