"""Figures: that they show what the Records say, laid out as published, mark other data, and say what is missing."""

import csv
import importlib
import io
import itertools
import math
import re
import shlex
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from click.testing import CliRunner
from fake_figures import cells_of, fill, level, logit_measure, of_group, separation, write_measures, write_run

from papers import PAPERS
from replicate import cli, grid
from replicate.cli import run as paper_command
from replicate.cli.request import load_paper
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import figures, logits
from replicate.report.figures import Drawn, Missing, content

PAPER = {name: importlib.import_module(f"papers.{name}").PAPER for name in PAPERS}
FIGURE = {(name, figure.number): figure for name, paper in PAPER.items() for figure in paper.figures}
OF_RECORDS = [(name, number) for (name, number), figure in FIGURE.items() if figure.panels]
UB, WB, LORT = (PAPER[name] for name in ("unified_bound", "wb", "lort"))
DIGITS = {name: next(c for c in paper.columns if c.dataset == "digits") for name, paper in PAPER.items()}
SVG = "{http://www.w3.org/2000/svg}"


def drawn(paper, store, number, **which):
    """The one thing that is said of a figure."""
    (found,) = figures.figures(paper, store, numbers=[number], **which)
    return found


def numbers(figure):
    """The lines of a figure's CSV."""
    lines = list(csv.DictReader(io.StringIO(figure.csv)))
    assert lines and tuple(lines[0]) == content.FIELDS
    return lines


def curve(figure, label, panel=None):
    """x -> (value, sd, seeds) of a curve, as the CSV has it."""
    return {
        line["x"]: (float(line["value"]), float(line["sd"]) if line["sd"] else None, int(line["seeds"]))
        for line in numbers(figure)
        if line["curve"] == label and panel in (None, line["panel"])
    }


def stand_in_panels(figure):
    return figures._on(figure.stand_in, figure.panels)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """For each paper a store with everything that its figures show of the paper's own data, one seed."""
    stores = {}
    for name, paper in PAPER.items():
        stores[name] = Store(tmp_path_factory.mktemp(name))
        for figure in paper.figures:
            fill(stores[name], paper, figure.panels)
    return stores


# --- layout ----------------------------------------------------------------------------------------------------------


def test_every_figure_of_the_papers_is_described():
    assert {name: [figure.number for figure in paper.figures] for name, paper in PAPER.items()} == {
        "unified_bound": list("123456789"),
        "wb": list("123456"),
        "lort": list("12345"),
    }


@pytest.mark.parametrize(
    ("name", "number", "panels", "across", "axes", "curves"),
    [
        ("unified_bound", "1", [f"{d} {t} 100" for d in ("CIFAR-10", "CIFAR-100") for t in ("LT", "Step")], 4,
         ("ν", "balanced accuracy (%)"), ["CE+ADRW", "LDAM+ADRW"]),
        ("unified_bound", "7", [f"{d} {t} 10" for d in ("CIFAR-10", "CIFAR-100") for t in ("LT", "Step")], 4,
         ("ν", "balanced accuracy (%)"), ["CE+ADRW", "LDAM+ADRW"]),
        ("unified_bound", "4", [f"{d} {t} 10" for d in ("CIFAR-10", "CIFAR-100") for t in ("LT", "Step")], 4,
         ("γ", "balanced accuracy (%)"), ["VS", "VS+DRW"]),
        ("wb", "2", ["MLP3 MNIST", "MLP4 MNIST", "MLP5 MNIST"], 3, ("step", "FDR of ReLU of output"),
         ["Naive", "WD w/o shift", "WD"]),
        ("wb", "6", ["CIFAR10-LT", "CIFAR100-LT", "mini-ImageNet-LT"], 3,
         ("class, most to fewest images", "norm / norm of the first class"), ["WB", "WD+WD&Norm&CB"]),
        ("lort", "2", ["CIFAR100-LT IR=100, CE", "CIFAR100-LT IR=100, LORT"], 2, ("logit", "density"),
         ["Many, positive", "Many, negative", "Few, positive", "Few, negative"]),
        ("lort", "4", ["CIFAR100-LT IR=100"], 1, ("δ", "accuracy (%)"), ["All", "Many", "Medium", "Few"]),
    ],
)  # fmt: skip
def test_layout_of_curves(full, name, number, panels, across, axes, curves):
    figure = drawn(PAPER[name], full[name], number)
    assert [panel.title for panel in figure.panels] == panels and figure.across == across
    for panel in figure.panels:
        assert (panel.x_axis, panel.quantity) == axes
        assert [curve.label for curve in panel.curves] == curves and not panel.cells


@pytest.mark.parametrize(("number", "data"), [("3", ["CIFAR-100 LT 100"]), ("6", ["CIFAR-10 LT 100"]),
                                              ("9", ["CIFAR-10 LT 10", "CIFAR-100 LT 10"])])  # fmt: skip
def test_layout_of_deferred_reweighting(full, number, data):
    figure = drawn(UB, full["unified_bound"], number)
    assert figure.across == 3
    for of_data, panels in zip(data, zip(*[iter(figure.panels)] * 3, strict=True), strict=True):
        a, b, c = panels
        assert (a.title, a.x_axis, a.quantity) == (f"(a) {of_data}, training", "epoch", "accuracy (%)")
        assert [one.label for one in a.curves] == ["CE+DRW, majority", "CE+DRW, minority", "CB, majority", "CB, minority"]
        assert (b.title, b.x_axis, b.quantity) == (f"(b) {of_data}, training", "T0 (epoch)", "minority / majority accuracy")
        assert (c.title, c.x_axis, c.quantity) == (f"(c) {of_data}, test", "T0 (epoch)", "balanced accuracy (%)")
        assert [one.label for one in b.curves] == [one.label for one in c.curves] == ["CE+DRW", "CE+None"]
        assert [point.x for point in c.curves[0].points] == [20, 40, 60, 80, 100, 120, 140, 160, 180]


@pytest.mark.parametrize(
    ("name", "number", "panels", "across", "x", "y"),
    [
        ("unified_bound", "2", ["CIFAR-10 LT 100", "CIFAR-10 Step 100"], 2, "ν", "τ"),
        ("unified_bound", "5", ["CIFAR-100 LT 100", "CIFAR-100 Step 100"], 2, "ν", "τ"),
        ("unified_bound", "8", [f"{d} {t} 10" for d in ("CIFAR-10", "CIFAR-100") for t in ("LT", "Step")], 2, "ν", "τ"),
        ("lort", "5", ["CIFAR100-LT IR=100, Class-Balanced", "CIFAR100-LT IR=100, LORT"], 2, "learning rate", "weight decay"),
        ("wb", "1", [f"{d}, {m}" for d in ("CIFAR10-LT", "CIFAR100-LT")
                     for m in ("Naive & CE", "Naive & CB", "WD & CE", "WD & CB")], 4, "class", "class"),
    ],
)  # fmt: skip
def test_layout_of_maps(full, name, number, panels, across, x, y):
    figure = drawn(PAPER[name], full[name], number)
    assert [panel.title for panel in figure.panels] == panels and figure.across == across
    assert all((panel.x_axis, panel.y_axis, panel.is_map) == (x, y, True) for panel in figure.panels)


def test_layout_of_norms_beside_cosines(full):
    norms, *cosines = drawn(WB, full["wb"], "5").panels
    assert not norms.is_map and norms.title == "mini-ImageNet-LT" and len(norms.curves[0].points) == 100
    assert [one.label for one in norms.curves] == ["Naive & CE", "Naive & CB", "WD & CE", "WD & CB"]
    assert [panel.title.partition(", ")[2] for panel in cosines] == [one.label for one in norms.curves]
    assert all(panel.square and len(panel.cells) == 100 * 100 for panel in cosines)


def test_classes_in_tens_and_methods_by_increasing_accuracy(full):
    figure = drawn(LORT, full["lort"], "3")
    for panel in figure.panels:
        assert panel.x_ticks == tuple(f"{first}-{first + 9}" for first in range(0, 100, 10))
        accuracy = [float(re.search(r"\(([\d.]+)\)$", one.label)[1]) for one in panel.curves]
        assert accuracy == sorted(accuracy) and len(accuracy) == 13


@pytest.mark.parametrize(("name", "number"), OF_RECORDS)
def test_every_figure_is_drawn_whole(full, name, number):
    """Nothing is missing, the pictures can be read, the CSV has every point, and no text leaves the picture."""
    from replicate.report.figures import drawing

    figure = drawn(PAPER[name], full[name], number)
    assert isinstance(figure, Drawn) and not figure.commands and "issing" not in figure.note
    assert (figure.title, figure.name) == (f"Figure {number}. {FIGURE[name, number].title}", f"figure{number}")
    assert figure.png.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(numbers(figure)) == sum(len(list(panel.points)) for panel in figure.panels) > 0
    assert_sound(figure)
    with drawing._looks():
        picture = figure._picture.figure
        picture.draw_without_rendering()
        width, height = picture.bbox.size
        assert width / picture.dpi in (3.3, 6.9)
        labels = {axis: tick_labels(axis) for axes in picture.axes for axis in (axes.xaxis, axes.yaxis)}
        titles = [axes.title for axes in picture.axes if axes.get_title()]
        legends = [*picture.legends, *(axes.get_legend() for axes in picture.axes if axes.get_legend())]
        others = [picture._suptitle, *(axis.label for axis in labels), *(text for axes in picture.axes for text in axes.texts)]
        for text in (*itertools.chain(*labels.values()), *titles, *others, *(t for one in legends for t in one.get_texts())):
            box = text.get_window_extent()
            assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1 or not text.get_text(), (text.get_text(), box)
        for together in (*labels.values(), titles, [text for axes in picture.axes[:1] for text in axes.texts]):
            assert_apart(together)
        assert_apart([picture._suptitle, *titles, *(text for one in legends for text in one.get_texts())])
        assert_apart([axis.label for axis in labels if axis.label.get_text()])


def tick_labels(axis):
    """Those that are drawn: of ticks within the axis' limits."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [one.label1 for one in ticks if low <= one.get_loc() <= high and one.label1.get_text() and axis.axes.axison]


def assert_apart(texts):
    """No two of them overlap by more than a pixel."""
    boxes = [text.get_window_extent() for text in texts]
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        across, up = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert across <= 1 or up <= 1, (one.get_text(), other.get_text())


def assert_sound(figure):
    """The SVG is one element that needs nothing beside it, is named and described, and has ids of its own."""
    root = ElementTree.fromstring(figure.svg)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img" and root.get("viewBox")
    title, described = (root.find(f"{SVG}{tag}") for tag in ("title", "desc"))
    assert title.text == figure.title and figure.note in described.text
    assert root.get("aria-labelledby") == f"{title.get('id')} {described.get('id')}"
    for panel in figure.panels:
        assert panel.title in described.text and all(one.label in described.text for one in panel.curves)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    prefix = f"{figure.paper.replace('_', '-')}-figure{figure.number}"
    assert len(ids) == len(set(ids)) and all(one.startswith(prefix) for one in ids)
    targets = [value for element in root.iter() for key, value in element.items() if key.endswith("href")]
    targets += re.findall(r"url\((.*?)\)", figure.svg)
    assert all(target[1:] in ids for target in targets if target.startswith("#"))
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in targets)
    assert not root.findall(f".//{SVG}script") and not root.findall(f".//{SVG}metadata") and "<!DOCTYPE" not in figure.svg


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_mean_and_spread_over_seeds_of_the_best_epoch(store):
    panel = FIGURE["unified_bound", "1"].panels[0]
    for seed in (0, 1, 4):
        for cell in cells_of(UB, panel, seed=seed):
            write_run(store, cell, epochs=4, best=2 + seed % 2)
    figure = drawn(UB, store, "1")
    for cell in cells_of(UB, panel):
        value, sd, seeds = curve(figure, cell.method, "CIFAR-10 LT 100")[f"{dict(cell.point)['nu']:g}"]
        of_seed = [level(cell) - 5 + seed for seed in (0, 1, 4)]  # two groups of five classes, ten points apart
        assert seeds == 3
        assert value == pytest.approx(statistics.fmean(of_seed), abs=0.01)
        assert sd == pytest.approx(statistics.pstdev(of_seed), abs=0.01)
    assert figure.note.startswith("Mean over 3 seeds; bars and bands: population standard deviation")
    assert "per seed the best epoch on the whole test set" in figure.note


def test_csv_has_every_digit(store):
    cell = cells_of(UB, FIGURE["unified_bound", "1"].panels[0])[0]
    for seed, percent in enumerate((61.37, 62.5, 60.11)):
        write_run(store, grid.cells(UB, "figure1", columns=[cell.column], methods=[cell.method], seeds=(seed,))[0], percent)
    figure = drawn(UB, store, "1")
    (point,) = figure.panels[0].points
    assert curve(figure, cell.method) == {"0.15": (point.value, point.sd, 3)}
    assert numbers(figure)[0] == {
        "panel": "CIFAR-10 LT 100", "curve": "CE+ADRW", "x_axis": "ν", "x": "0.15", "y_axis": "", "y": "",
        "quantity": "balanced accuracy (%)", "value": repr(point.value), "sd": repr(point.sd), "seeds": "3", "chosen": "",
    }  # fmt: skip


def test_maps_have_each_value_at_its_place(full):
    figure = drawn(UB, full["unified_bound"], "8")
    for panel in FIGURE["unified_bound", "8"].panels:
        title = " ".join(panel.column.path)
        found = {(line["x"], line["y"]): float(line["value"]) for line in numbers(figure) if line["panel"] == title}
        cells = cells_of(UB, panel)
        assert len(found) == len(cells) == 30
        for cell in cells:
            point = dict(cell.point)
            assert found[f"{point['nu']:g}", f"{point['tau']:g}"] == pytest.approx(level(cell) - 5, abs=0.02)


def test_ratio_is_that_of_the_best_epoch_and_training_goes_epoch_by_epoch(store):
    a, b, _ = FIGURE["unified_bound", "6"].panels
    for seed in (0, 1):
        for panel in (a, b):
            for cell in cells_of(UB, panel, seed=seed):
                drawn_twice = store.of(cell, "official") is not None  # CE+DRW with T0 160 is in both grids
                if not drawn_twice:
                    write_run(store, cell, epochs=4, best=3, train={"majority": 80, "minority": 40 + 8 * seed})
    figure = drawn(UB, store, "6")
    for method in ("CE+DRW", "CE+None"):
        for value, sd, seeds in curve(figure, method, "(b) CIFAR-10 LT 100, training").values():
            assert (value, sd, seeds) == (pytest.approx((0.5 + 0.6) / 2), pytest.approx(0.05), 2)
    majority = curve(figure, "CB, majority", "(a) CIFAR-10 LT 100, training")
    minority = curve(figure, "CB, minority", "(a) CIFAR-10 LT 100, training")
    assert [majority[x][0] for x in "1234"] == pytest.approx([20, 40, 60, 80])
    assert [minority[x][0] for x in "1234"] == pytest.approx([11, 22, 33, 44])
    assert [minority[x][1] for x in "1234"] == pytest.approx([1, 2, 3, 4])


def test_smoothing_and_sensitivity_are_those_of_the_measures_command(full):
    which = {"columns": [FIGURE["lort", "4"].panels[0].column], "methods": ["LORT"], "grid": "figure4"}
    editions = {"cifar100": "official"}
    figure = drawn(LORT, full["lort"], "4")
    for _, delta, seeds, point, accuracy, groups in logits.smoothing(full["lort"], LORT, LORT.tables[0], editions, **which):
        for label, expected in (("All", accuracy), *groups):
            (line,) = [one for one in numbers(figure) if (one["curve"], one["x"]) == (label, f"{delta:g}")]
            assert (float(line["value"]), int(line["seeds"]), line["chosen"]) == (pytest.approx(expected), seeds, point)
    methods = [panel.methods[0] for panel in FIGURE["lort", "5"].panels]
    which |= {"methods": methods, "grid": "figure5"}
    found = {(line["panel"], line["x"], line["y"]): float(line["value"]) for line in numbers(drawn(LORT, full["lort"], "5"))}
    expected = list(logits.sensitivity(full["lort"], LORT, LORT.tables[0], editions, **which))
    assert len(found) == len(expected) == 50
    for method, data, rate, decay, _, accuracy in expected:
        assert data == "cifar100-lt/100"
        title = f"CIFAR100-LT IR=100, {'LORT' if method == 'LORT' else 'Class-Balanced'}"
        assert found[title, f"{rate:g}", f"{decay:g}"] == pytest.approx(accuracy)


def test_all_else_is_chosen_for_each_point(store):
    """Of several learning rates at one delta the best is drawn, and named."""
    panel = FIGURE["lort", "4"].panels[0]
    (half, *_) = [cell for cell in cells_of(LORT, panel) if dict(cell.point)["delta"] == 0.5]
    for cell in cells_of(LORT, panel):
        point = dict(cell.point)
        if point["delta"] == 0.5:
            write_run(store, cell, 80.0 if (point["rate"], point["decay"]) == (0.01, 5e-3) else 60.0)
    (line,) = [one for one in numbers(drawn(LORT, store, "4")) if one["curve"] == "Many"]
    assert (line["x"], float(line["value"]), line["chosen"]) == ("0.5", pytest.approx(80), "rate=0.01 decay=0.005")
    assert half.method == "LORT"


def test_measures_by_class_pair_and_step(store):
    for number in "1234":
        fill(store, WB, FIGURE["wb", number].panels, seeds=(0, 1))
    found = {number: numbers(drawn(WB, store, number)) for number in "1234"}
    naive = (0.5, 0.51)  # what generated Measures of "Naive" are shifted by, for two seeds
    matrices = [separation(10, shift)["cosine"]["matrix"] for shift in naive]
    cells = {
        (int(one["x"]), int(one["y"])): (float(one["value"]), float(one["sd"]))
        for one in found["1"] if one["panel"] == "CIFAR10-LT, Naive & CE"
    }  # fmt: skip
    assert len(cells) == 100
    for (x, y), (value, sd) in cells.items():
        assert value == pytest.approx(np.mean([matrix[y][x] for matrix in matrices]))
        assert sd == pytest.approx(np.std([matrix[y][x] for matrix in matrices]), abs=1e-12)
    norms = [one for one in found["3"] if (one["panel"], one["curve"]) == ("CIFAR100-LT", "Naive & CE")]
    assert [float(one["value"]) for one in norms] == pytest.approx([3.505 + c / 100 for c in range(100)])
    scores = [one for one in found["4"] if (one["panel"], one["curve"]) == ("CIFAR10-LT", "Naive & CE")]
    assert [float(one["value"]) for one in scores] == pytest.approx([0.505 + c for c in range(10)])
    steps = [one for one in found["2"] if (one["panel"], one["curve"]) == ("MLP4 MNIST", "Naive")]
    assert [one["x"] for one in steps][:5] == ["block 1 linear", "block 1 normalised", "block 1 batch norm", "block 1 ReLU",
                                               "block 2 linear"]  # fmt: skip
    assert [float(one["value"]) for one in steps] == pytest.approx([10 ** (place / 8) * 1.505 for place in range(16)])


def test_a_class_without_a_number_leaves_a_gap(store):
    panel = FIGURE["wb", "4"].panels[0]
    (cell,) = [cell for cell in cells_of(WB, panel) if cell.method == "WD"]
    write_run(store, cell)
    key = cell.programme.keys("official")[-1]
    store.write_measure("forgetting", "cifar10", "official", key, 0, {"score": [1.0, None, *[2.0] * 8]})
    assert list(curve(drawn(WB, store, "4"), "WD & CE")) == ["0", *map(str, range(2, 10))]


def test_logits_are_those_of_the_measures_command(full):
    """Shares of groups of ten classes, and densities whose mean and spread are those of the pooled classes."""
    column = FIGURE["lort", "3"].panels[0].column
    told = {
        one.method: one
        for one in logits.lines(
            full["lort"], LORT, LORT.tables[0], {"cifar100": "official"}, columns=[column],
            methods=FIGURE["lort", "3"].panels[0].methods,
        )
    }  # fmt: skip
    magnitude, deviation, norm = drawn(LORT, full["lort"], "3").panels
    for panel, expected in (
        (magnitude, lambda s: logits.shares(logits.of_groups(s.magnitude)[1])),
        (deviation, lambda s: logits.of_groups(s.regularized("sd"))[1]),
        (norm, lambda s: logits.shares(logits.of_groups(s.norm)[1])),
    ):
        for one in panel.curves:
            label, _, accuracy = one.label.rpartition(" ")
            (by_seed,) = told[label].by_seed.values()
            assert accuracy == f"({told[label].accuracy:.1f})"
            assert [point.value for point in one.points] == pytest.approx(expected(by_seed))
    figure = drawn(LORT, full["lort"], "2")
    for panel in figure.panels:
        method = panel.title.rpartition(" ")[2]
        (by_seed,) = told[method].by_seed.values()
        for group in ("Many", "Few"):
            expected = logits.normals(by_seed, *column.groups[group])
            for member, (mean, sd) in (("positive", expected[:2]), ("negative", expected[2:])):
                (one,) = [one for one in panel.curves if one.label == f"{group}, {member}"]
                xs, ys = np.array([[point.x, point.value] for point in one.points]).T
                top = xs[ys.argmax()]
                assert abs(top - mean) <= (xs[1] - xs[0]) and ys.max() == pytest.approx(
                    1 / (sd * math.sqrt(2 * math.pi)), rel=0.02
                )
                assert ys.sum() * (xs[1] - xs[0]) == pytest.approx(1, abs=1e-3)
                assert one.points[0].chosen.startswith(f"mean={mean:.6g} sd={sd:.6g}")


# --- what is there, and what is not ----------------------------------------------------------------------------------


def meant(command):
    """The cells that a command trains, as the command line reads it."""
    program, name, *words = shlex.split(command)
    assert program == "replicate"
    paper = load_paper(name)
    found = []

    def remember(requests, *rest):
        found.extend(cell for request in requests for cell in request.cells())

    context = paper_command.run_command(name)
    original, paper_command._run = paper_command._run, remember
    try:
        told = CliRunner().invoke(context, words, catch_exceptions=False, standalone_mode=False)
    finally:
        paper_command._run = original
    assert told.exit_code == 0, told.output
    return {(cell.programme.key("official"), cell.seed) for cell in found}, paper


@pytest.mark.parametrize(("name", "number"), OF_RECORDS)
def test_commands_of_a_missing_figure_run_every_cell_of_it(store, name, number):
    figure = drawn(PAPER[name], store, number)
    assert isinstance(figure, Missing) and figure.commands
    cells = {cell for command in figure.commands for cell in meant(command)[0]}
    for panel in FIGURE[name, number].panels:
        found = grid.cells(PAPER[name], panel.grid or "table", columns=[panel.column], methods=panel.methods, seeds=range(5))
        assert {(cell.programme.key("official"), cell.seed) for cell in found} <= cells, panel.title
    (instead,) = [line for line in figure.note.splitlines() if line.startswith("On digits, which need no download: ")]
    cells = {cell for command in instead.partition(": ")[2].split(" ; ") for cell in meant(command)[0]}
    for panel in stand_in_panels(FIGURE[name, number]):
        found = grid.cells(PAPER[name], panel.grid or "table", columns=[panel.column], methods=panel.methods, seeds=range(5))
        assert {(cell.programme.key("official"), cell.seed) for cell in found} <= cells, panel.title


def test_a_figure_of_no_records_says_what_shows_it(store):
    figure = drawn(LORT, store, "1")
    assert isinstance(figure, Missing) and figure.commands == ("replicate measures lort --sample 7202",)
    assert "checkpoints" in figure.note


def test_what_is_partly_there_is_drawn_and_the_rest_named(store):
    first, _ = FIGURE["unified_bound", "2"].panels
    for cell in cells_of(UB, first)[:7]:
        write_run(store, cell)
    figure = drawn(UB, store, "2")
    assert isinstance(figure, Drawn) and len(numbers(figure)) == 7
    assert [panel.there for panel in figure.panels] == [True, False]
    assert "Missing in 'CIFAR-10 LT 100': VS+ADRW (23 of 30 points)." in figure.note
    assert "Missing in 'CIFAR-10 Step 100': VS+ADRW." in figure.note
    assert figure.commands == (
        "replicate unified-bound --grid figure2 --dataset cifar10-lt --dataset cifar10-step --ratio 100",
    )
    assert figure.commands[0] in figure.note and "CIFAR-10 Step 100: not run." in figure.svg
    assert_sound(figure)
    assert figure.png


def test_a_run_without_its_measure_is_missing(store):
    panel = FIGURE["wb", "3"].panels[0]
    for cell in cells_of(WB, panel):
        write_run(store, cell)
        if cell.method != "CB":
            write_measures(store, cell, "separation")
    figure = drawn(WB, store, "3", datasets=["cifar10-lt"])
    assert [one.label for one in figure.panels[0].curves] == ["Naive & CE", "WD & CE", "WD & CB"]
    assert "Missing in 'CIFAR10-LT': Naive & CB." in figure.note
    (command,) = figure.commands
    assert command == (
        "replicate wb --table 2 --dataset cifar10-lt --ratio 100 --method Naive --method CB --method WD --method 'WD&CB'"
    )


def test_failed_and_shortened_runs_are_not_drawn(store):
    panel = FIGURE["unified_bound", "1"].panels[0]
    for cell in cells_of(UB, panel):
        write_run(store, cell, failed={"epoch": 2, "loss": "nan"})
    for cell in cells_of(UB, panel, quick=True):
        write_run(store, cell)
    assert isinstance(drawn(UB, store, "1"), Missing)


def test_stand_in_only_where_nothing_else_is_there_and_marked(store):
    figure = FIGURE["unified_bound", "1"]
    fill(store, UB, stand_in_panels(figure), seeds=(0, 1))
    shown = drawn(UB, store, "1")
    assert shown.stand_in and shown.data == "digits" and shown.name == "figure1.digits"
    assert shown.title == f"Figure 1. {figure.title} (stand-in: digits)"
    assert [panel.title for panel in shown.panels] == ["Digits LT 45"] and shown.across == 1
    assert "no part of the paper and comparable with none of its numbers" in shown.note
    assert "The paper's own data: replicate unified-bound --grid figure1 --dataset cifar10-lt" in shown.note
    assert f'<title id="unified-bound-figure1-digits-title">{shown.title}</title>' in shown.svg
    fill(store, UB, figure.panels[:1])
    real = drawn(UB, store, "1")
    assert not real.stand_in and "stand-in" not in real.title + real.svg and real.across == 4
    asked = drawn(UB, store, "1", datasets=["digits"])
    assert asked.title == shown.title and "own data" not in asked.note
    both = list(figures.figures(UB, store, numbers=["1"], datasets=["cifar10-lt", "digits"]))
    assert [one.name for one in both] == ["figure1", "figure1.digits"]
    assert [panel.title for panel in both[0].panels] == ["CIFAR-10 LT 100"]


def test_editions_never_share_a_figure(store):
    figure = FIGURE["unified_bound", "2"]
    fill(store, UB, figure.panels)
    fill(store, UB, figure.panels[:1], edition="0123456789ab", seeds=(1,))
    official, other = figures.figures(UB, store, numbers=["2"])
    assert (official.name, official.title) == ("figure2", f"Figure 2. {figure.title}")
    assert other.name == "figure2.cifar10@0123456789ab" and other.title.endswith(" (edition cifar10@0123456789ab)")
    assert len(numbers(official)) == 60 and len(numbers(other)) == 30
    assert float(numbers(other)[0]["value"]) == pytest.approx(float(numbers(official)[0]["value"]) + 1, abs=0.02)  # seed 1
    assert_sound(other)


@pytest.mark.parametrize(("name", "number"), OF_RECORDS)
def test_every_figure_is_drawn_on_its_stand_in(store, name, number):
    figure = FIGURE[name, number]
    fill(store, PAPER[name], stand_in_panels(figure))
    shown = drawn(PAPER[name], store, number)
    assert shown.stand_in and not shown.commands and shown.title.endswith(" (stand-in: digits)")
    assert numbers(shown) and shown.png
    assert_sound(shown)


def test_unknown_figures_and_data_are_refused(store):
    with pytest.raises(BadInput, match=r"figure '10' is unknown; unified-bound has: 1, 2, 3, 4, 5, 6, 7, 8, 9"):
        list(figures.figures(UB, store, numbers=["10"]))
    with pytest.raises(BadInput, match=r"data set 'mnist' is unknown; figures 1 of wb have: cifar10-lt, cifar100-lt, digits"):
        list(figures.figures(WB, store, numbers=["1"], datasets=["mnist"]))


def test_a_damaged_record_is_named(store):
    cell = cells_of(UB, FIGURE["unified_bound", "1"].panels[0])[0]
    write_run(store, cell)
    (path,) = store.root.glob("records/*/*.json")
    path.write_text("{")
    with pytest.raises(BadInput, match=re.escape(str(path))):
        list(figures.figures(UB, store, numbers=["1"]))


def test_names_in_the_descriptions_are_those_of_the_paper():
    for (name, number), figure in FIGURE.items():
        paper = PAPER[name]
        assert set(figure.quirks) <= {quirk.name for quirk in paper.quirks}, number
        for panel in (*figure.panels, *(stand_in_panels(figure) if figure.stand_in else ())):
            assert bool(panel.grid) != bool(panel.table)
            table = {table.number: table for table in paper.tables}.get(panel.table)
            known = paper.grids[panel.grid or table.grid]
            assert panel.column in known.columns and set(panel.methods) <= set(known.methods)
            assert set(panel.groups) - {""} <= set(panel.column.groups)
            assert not panel.measure or panel.measure[0] in paper.measures
            assert not panel.labels or len(panel.labels) == len(panel.methods)


# --- looks -----------------------------------------------------------------------------------------------------------


def looks(name):
    from replicate.report.figures import drawing

    with drawing._looks():
        return matplotlib.rcParams[name]


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
EYES = {
    "usual": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


def lab(colour, eye):
    """CIE L*a*b* of a colour as an eye sees it."""
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(EYES[eye] @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("eye", EYES)
def test_colours_stay_apart_for_every_eye(eye):
    """No two colours of the cycle are nearer than 15 in L*a*b* (2.3 is just noticeable), and all stand out from white; the
    first five, more than most panels need, are 20 apart. Marks tell them apart once more."""
    cycle = list(looks("axes.prop_cycle"))
    colours = [lab(entry["color"], eye) for entry in cycle]
    assert len(cycle) == len({entry["marker"] for entry in cycle}) == 7
    for (place, one), (_, other) in itertools.combinations(enumerate(colours), 2):
        assert np.linalg.norm(one - other) > 15, (cycle[place], eye)
    for one, other in itertools.combinations(colours[:5], 2):
        assert np.linalg.norm(one - other) > 20
    assert all(np.linalg.norm(colour - lab("white", eye)) > 30 for colour in colours)


def test_no_two_curves_of_a_panel_look_alike(full):
    """Not even of thirteen: colour, dashes and mark together are each curve's own."""
    picture = drawn(LORT, full["lort"], "3")._picture.figure
    for axes in picture.axes:
        styles = [(line.get_color(), line.get_linestyle(), str(line._dash_pattern)) for line in axes.lines]
        assert len(styles) == len(set(styles)) == 13


def test_text_is_large_enough_to_read():
    assert all(looks(name) >= 6 for name in ("font.size", "legend.fontsize", "xtick.labelsize", "ytick.labelsize"))


def test_pictures_do_not_depend_on_the_readers_settings_and_leave_them(full, monkeypatch):
    before = drawn(UB, full["unified_bound"], "1")
    svg, png = before.svg, before.png
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 20.0)
    monkeypatch.setitem(matplotlib.rcParams, "lines.linewidth", 9.0)
    again = drawn(UB, full["unified_bound"], "1")
    assert (again.svg, again.png) == (svg, png)
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["lines.linewidth"]) == (20.0, 9.0)


# --- command ---------------------------------------------------------------------------------------------------------


def run(folder, *arguments):
    """The command in a process of its own: exit code, output, messages, and the packages that it imported."""
    root = str(Path(cli.__file__).parents[2])
    program = (
        f"import sys; sys.path.insert(0, {root!r}); from replicate import cli\n"
        "try:\n    cli.main()\nfinally:\n    print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    *messages, imported = done.stderr.splitlines()
    return done.returncode, done.stdout, messages, set(imported.split())


def test_command_writes_pictures_and_numbers_without_torch(tmp_path):
    store = Store(tmp_path / "store")
    fill(store, UB, FIGURE["unified_bound", "1"].panels)
    fill(store, UB, stand_in_panels(FIGURE["unified_bound", "4"]))
    code, out, _, imported = run(tmp_path, "figures", "unified-bound", "--figure", "1", "--figure", "4", "--figure", "9")
    assert code == 0 and "torch" not in imported and {"matplotlib", "replicate"} <= imported
    folder = tmp_path / "results" / "unified_bound" / "figures"
    names = {f"{stem}.{suffix}" for stem in ("figure1", "figure4.digits") for suffix in ("png", "svg", "csv")}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "figure1.csv").read_text() == drawn(UB, store, "1").csv
    assert (folder / "figure1.svg").read_text() == drawn(UB, store, "1").svg
    assert "unified-bound, Figure 4. VS and VS+DRW over γ, ratio 10 (stand-in: digits)" in out
    assert "not drawn: No finished runs are there." in out and "replicate unified-bound --grid figure3a --dataset" in out


def test_command_without_runs_needs_no_matplotlib_and_walks_all_papers(tmp_path):
    code, out, _, imported = run(tmp_path, "figures")
    assert code == 0 and not {"torch", "matplotlib"} & imported
    assert [line.partition(".")[0] for line in out.splitlines() if not line.startswith(" ")] == [
        f"{PAPER[name].command}, Figure {number}" for name, number in FIGURE
    ]
    assert not (tmp_path / "results").exists()


def test_command_takes_what_any_paper_has(tmp_path):
    code, out, _, _ = run(tmp_path, "figures", "--figure", "9")
    assert code == 0 and out.startswith("unified-bound, Figure 9.") and "wb," not in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("unified-bound", "--figure", "12"), "figure '12' is unknown; unified-bound has: 1, 2"),
        (("--dataset", "imagenet"), "data set 'imagenet' is unknown"),
        (("resnet",), "paper 'resnet' is unknown"),
    ],
)
def test_command_refuses_what_no_paper_has(tmp_path, arguments, named):
    code, out, messages, _ = run(tmp_path, "figures", *arguments)
    assert code == 2 and out == "" and len(messages) == 1 and named in messages[0]


def test_command_names_a_folder_that_cannot_be_written(tmp_path):
    fill(Store(tmp_path / "store"), UB, FIGURE["unified_bound", "2"].panels)
    (tmp_path / "file").write_text("")
    code, _, messages, _ = run(tmp_path, "figures", "unified-bound", "--figure", "2", "--out", "file/figures")
    assert code == 2 and "cannot be written" in messages[0] and "--out" in messages[0]


def test_generated_numbers_tell_cells_apart():
    """What the tests above rest on: the generated levels differ, and groups do too."""
    cells = cells_of(UB, FIGURE["unified_bound", "2"].panels[0])
    assert len({level(cell) for cell in cells}) > 20 and of_group(50, 1) == 40
    assert logit_measure(10, 0.5)["magnitude"] != logit_measure(10, 0.6)["magnitude"]
