"""One number explained: which one is meant, what stands behind it, and how it looks."""

import csv
import math
import os
import re
import sys
from pathlib import Path

import pytest
from fake_records import write, write_groups, write_level

from papers import lort, unified_bound, wb
from papers.unified_bound import COLUMNS, DIGITS_LT, PAPER
from replicate import cli, grid
from replicate.data.editions import comparability
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import tables, why

C10 = COLUMNS[0]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    return Store(tmp_path / "store")


def explain(store, label, dataset="cifar10-lt", ratio=100, paper=PAPER, selection="as-published", **how):
    found = why.places(paper, label, dataset, ratio, **how)
    return why.explain(paper, store, found, comparability, selection)


def fill(store, method, levels, edition="official", column=C10):
    """Levels: of each seed, by the value of nu."""
    for seed, of_point in enumerate(levels):
        for cell in grid.cells(PAPER, "table", columns=[column], methods=[method], seeds=(seed,)):
            nu = dict(cell.point).get("nu")
            if nu in of_point:
                write_level(store, cell, of_point[nu], edition=edition)


# --- which number ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("paper", [unified_bound.PAPER, wb.PAPER, lort.PAPER], ids=lambda paper: paper.name)
def test_every_replicated_row_of_every_column_can_be_named(paper):
    for table in paper.tables:
        for block in table.blocks:
            for row in block.rows:
                for column in (*table.columns, *table.stand_ins) if row.method else ():
                    how = {"table": table.number, "network": column.tag or column.network, "then": column.then or None}
                    (found,) = why.places(paper, tables.row_path(block, row.label), column.dataset, column.ratio, **how)
                    assert (found.method, found.column) == (row.method, column)


def test_a_method_goes_before_a_label_that_reads_like_it():
    (found,) = why.places(PAPER, "CE+DRW", "cifar10-lt", 100)
    assert found.names[1] == "w/o SAM/CE+DRW"
    (found,) = why.places(PAPER, "w/ SAM/CE+DRW", "cifar10-lt", 100)
    assert found.method == "CE+DRW+SAM"
    assert [place.table.number for place in why.places(wb.PAPER, "WD", "cifar10-lt", 100)] == ["2", "3", "8"]


@pytest.mark.parametrize(
    ("paper", "named", "message"),
    [
        (
            PAPER,
            ("CE+DRX", "cifar10-lt", 100),
            "row or method 'CE\\+DRX' is unknown; unified-bound has: CE, LDAM, VS, .*CE\\+SAM$",
        ),
        (PAPER, ("CE", "cifar", 100), "data set 'cifar' is unknown for 'CE'; allowed: cifar10-lt, cifar10-step, .*digits$"),
        (PAPER, ("CE", "cifar10-lt", 50), "ratio '50' is unknown for 'CE'; allowed: 100, 10$"),
        (PAPER, ("CE", "cifar10-lt", 100, "2"), "table '2' is not replicated; unified-bound has: 1, released$"),
        (wb.PAPER, ("WD", "mnist", 1), "several networks; add --network: mlp3, mlp4, mlp5, resblock1, resblock2$"),
        (wb.PAPER, ("WD", "mnist", 1, None, "mlp9"), "network 'mlp9' is unknown for 'WD'; allowed: mlp3, .*resblock2$"),
        (lort.PAPER, ("CE", "cifar100-lt", 100, "3"), "several second stages; add --then: 'Vanilla', .*'LORT\\(ours\\)'$"),
        (lort.PAPER, ("LORT", "cifar100-lt", 10, None, None, "BS"), "second stage 'BS' is unknown for 'LORT'; allowed: none"),
        (PAPER, ("OLTR", "imagenet-lt", 256), "row 'OLTR' is in table 2, which is printed as published"),
        (lort.PAPER, ("RIDE", "cifar100-lt", 10), "row 'RIDE' is quoted by the paper from elsewhere"),
    ],
)
def test_a_wrong_name_is_one_line_with_what_is_allowed(paper, named, message):
    label, dataset, ratio, table, network, then = (*named, *[None] * (6 - len(named)))
    with pytest.raises(BadInput, match=message) as raised:
        why.places(paper, label, dataset, ratio, table=table, network=network, then=then)
    assert "\n" not in str(raised.value)


def test_a_name_means_what_has_the_data_and_the_one_row_goes_before_one_of_several():
    (found,) = why.places(lort.PAPER, "LORT (ours)", "digits", 45)  # in table 2 it is a path, and without this data
    assert (found.table.number, found.method) == ("1", "LORT")
    (found,) = why.places(lort.PAPER, "CE", "cifar100-lt", 100)  # table 3 has it before several second stages
    assert found.table.number == "1"


def test_runs_of_a_variant_are_explained_apart(store):
    fill(store, "CE+DRW", [{None: 75.0}] * 3)
    for seed in range(3):
        for cell in grid.cells(PAPER, "table", columns=[C10], methods=["CE+DRW"], seeds=(seed,), variant="text"):
            write_level(store, cell, 76.0)
    told = explain(store, "CE+DRW", variant="text")
    assert "Variant text: " in told and "76.00±0.00" in told and "75.00" not in told
    assert told.endswith("--method CE+DRW --variant text --seeds 0-2\n")
    assert "Variant" not in explain(store, "CE+DRW") and "--variant text --seeds 0-4" in explain(
        store, "LDAM+DRW", variant="text"
    )
    with pytest.raises(BadInput, match="'max-norm-batch' trains 'WD' no other way"):
        why.places(wb.PAPER, "WD", "cifar10-lt", 100, variant="max-norm-batch")
    with pytest.raises(BadInput, match="stand-in data has none"):
        why.places(PAPER, "CE+DRW", "digits", 45, variant="text")
    with pytest.raises(BadInput, match="'txt' is unknown; unified-bound has: text, text-mean"):
        why.places(PAPER, "CE+DRW", "cifar10-lt", 100, variant="txt")


def test_a_row_that_is_added_has_what_the_paper_prints_of_its_own_and_the_mean(store):
    column = lort.PAPER.tables[0].columns[0]
    for seed, percent in enumerate((40.0, 50.0)):
        for cell in grid.cells(lort.PAPER, "table", columns=[column], methods=["CE"], seeds=(seed,)):
            write_groups(store, cell, {"": percent})
    told = explain(store, "CE", "cifar100-lt", paper=lort.PAPER, table="1")
    assert re.search(r"metric +best of seeds +mean of seeds\n", told)
    assert re.search(r"All +50\.00 +45\.00±5\.00\n", told) and "the paper does not print it" in told
    last = explain(store, "CE", "cifar100-lt", paper=lort.PAPER, table="1", selection="last-epoch")
    assert re.search(r"metric +mean of seeds\n", last)


def test_the_command_prints_it_and_refuses_a_wrong_name(monkeypatch, tmp_path, capsys):
    results = Path(__file__).parent.parent / "results"
    rest = ["digits", "45", "--store", str(tmp_path), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["replicate", "why", "unified-bound", "VS+TLA+ADRW", *rest])
    cli.main()
    out = capsys.readouterr().out
    with open(results / "unified_bound" / "table1.digits.csv", newline="", encoding="utf-8") as file:
        (line,) = (line for line in csv.DictReader(file) if line["row"] == "w/o SAM/VS+TLA+ADRW")
    assert "STAND-IN" in out and f"{float(line['value']):.2f}±{float(line['std']):.2f}" in out
    monkeypatch.setattr(sys, "argv", ["replicate", "why", "unified-bound", "VS+TLA", *rest])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 2 and "row or method 'VS+TLA' is unknown" in capsys.readouterr().err


# --- what is said ----------------------------------------------------------------------------------------------------


def test_numbers_verdict_choices_and_seeds(store):
    levels = [{0.15: 78.0, 0.75: 78.9, 2.0: 78.8}, {0.15: 78.4, 0.75: 78.5, 2.0: 78.4}, {0.15: 78.2, 0.75: 78.4, 2.0: 77.7}]
    fill(store, "CE+ADRW", levels)
    told = explain(store, "CE+ADRW")
    assert re.search(r"balanced_accuracy_pct +78\.60±0\.22 +78\.6±0\.5 +\+0\.00 +\[-0\.\d\d, \+0\.\d\d\] +match", told)
    assert "match, the 90 % interval lies inside the margin (under our grid)." in told
    assert "Grid point nu=0.75: 3 of 6 points competed, by mean balanced accuracy (%) on test images." in told
    ranks = re.findall(r"^  nu=([\d.]+) +([\d.]+) +(\S+)$", told, re.MULTILINE)
    assert ranks == [("0.75", "78.60", "chosen"), ("2", "78.30", "-0.30"), ("0.15", "78.20", "-0.40")]
    assert [line.split()[:3] for line in told.splitlines() if re.match(r"  \d +\d", line)] == [
        ["0", "2", "78.90"],
        ["1", "2", "78.50"],
        ["2", "2", "78.40"],
    ]
    (cell,) = (
        cell for cell in grid.cells(PAPER, "table", columns=[C10], methods=["CE+ADRW"]) if dict(cell.point) == {"nu": 0.75}
    )
    assert f"Key of the programme, which names the files of its Records: {cell.programme.key('official')[:12]}." in told
    assert "Trained so at nu=0.75:\n  epochs 1-160: learning rate 0.02 to 0.1; objective loss=CrossEntropy" in told
    assert "weights=InversePrior(nu=0.75)" in told
    assert "--method CE+ADRW --seeds 0-2\n" in told


def test_lines_fit_but_for_commands(store):
    fill(store, "CE+ADRW", [{0.75: 78.0}] * 2)
    for told in (explain(store, "CE+ADRW"), explain(store, "WD/Add", paper=wb.PAPER), explain(store, "VS", ratio=10)):
        lines = told.splitlines()
        assert all(len(line) <= 100 for line in lines if not line.startswith("  replicate ")) and told.endswith("\n")


def test_other_selections_and_cross_fitted_halves(store):
    cell = next(c for c in grid.cells(PAPER, "table", columns=[C10], methods=["CE"]))
    write(store, cell, [[3000, 3900, 3500], [3000, 3600, 3800]], size=5000)
    assert re.search(r"balanced_accuracy_pct +73\.00 ", explain(store, "CE", selection="last-epoch"))
    assert "The verdict is of the selection as-published" in explain(store, "CE", selection="last-epoch")
    assert "The verdict is of the selection as-published" not in explain(store, "CE")
    crossed = explain(store, "CE", selection="cross-fitted")
    assert re.search(r"^  0 +2 and 3 +71\.00 ", crossed, re.MULTILINE)
    none = explain(store, "CE", selection="best-on-validation")
    assert "Nothing could be chosen" in none and "--seeds 0\n" in none


def test_an_adjustment_and_its_runners_up(store):
    for seed in range(3):
        for cell in grid.cells(wb.PAPER, "table", columns=[wb.C10_LT], methods=["WD/Add"], seeds=(seed,)):
            write_groups(store, cell, {"": 70.0 + seed})
    told = explain(store, "WD/Add", paper=wb.PAPER)
    assert "wb, table 8: WD/Add, CIFAR10-LT" in told
    assert "Adjustment: tau by mean balanced accuracy (%) on validation images." in told and "tau=1.25" in told
    assert re.search(r"^  tau=1\.25 +[\d.]+ +chosen$", told, re.MULTILINE) and "and 15 more" in told
    assert "^ epochs chosen; before the adjustment." in told
    assert "FDR/Train" in told and "missing, no replica" not in told.partition("Selection")[0].partition("Accuracy")[0]


def test_without_runs_it_says_what_would_make_them(store):
    told = explain(store, "VS+TLA+ADRW")
    assert "Published: balanced_accuracy_pct 81.1." in told and "No runs yet. This makes them:" in told
    assert told.endswith(
        "  replicate unified-bound --table 1 --dataset cifar10-lt --ratio 100 --method VS+TLA+ADRW --seeds 0-4\n"
    )
    assert "This is the first of 6 grid points, nu=0.15." in told and "epochs 161-200:" in told


def test_each_edition_is_explained_apart(store):
    fill(store, "CE", [{None: 71.0}] * 3)
    fill(store, "CE", [{None: 70.0}] * 3, edition="0123456789ab")
    told = explain(store, "CE")
    assert told.count("unified-bound, table 1: w/o SAM/CE") == 2 and "71.00±0.00" in told and "70.00±0.00" in told
    assert "other split" in told and told.index("cifar10@official") < told.index("cifar10@0123456789ab")


def test_quirks_of_the_table_and_whether_their_variant_moves_the_number(store):
    fill(store, "CE", [{None: 71.0}])
    told = explain(store, "CE")
    assert "  lr-drops: " in told and "--variant text trains this row otherwise." in told
    assert "  figure-2: " not in told
    batch = explain(store, "WB", paper=wb.PAPER)
    assert "No runs yet" in batch
    for method, said in (("WB", "trains this row otherwise"), ("WD", "leaves this row as it is")):
        cell = grid.cells(wb.PAPER, "table", columns=[wb.C10_LT], methods=[method])[0]
        write_groups(store, cell, {"": 70.0})
        assert f"--variant max-norm-batch {said}." in explain(store, method, paper=wb.PAPER, table="8")


def test_stand_ins_are_marked_and_compared_with_nothing(store):
    fill(store, "CE", [{None: 80.0}] * 3, column=DIGITS_LT)
    told = explain(store, "CE", "digits", 45)
    assert "STAND-IN, no part of the paper." in told and "not comparable" in told and "Quirks are about" in told
    assert "71.5" not in told


# --- the plot --------------------------------------------------------------------------------------------------------


def test_a_plot_has_its_range_its_marks_and_its_width():
    lines = why.plot([0.0, 1.0, 2.0, 3.0], marked=[4], starts=[3])
    assert lines[0] == "        3    █" and lines[-3] == "        0 ▁███"
    assert lines[-2] == "    epoch   |^" and lines[-1].split() == ["1", "4"]
    heights = [sum("▁▂▃▄▅▆▇█".find(line[10 + place : 11 + place]) + 1 for line in lines[:8]) for place in range(4)]
    assert heights == [1, 22, 43, 64]


def test_a_long_plot_is_averaged_and_gaps_stay_gaps():
    lines = why.plot([float(number // 5) for number in range(400)])
    assert max(map(len, lines)) == 10 + why.PLOT and lines[-1].endswith("400")
    assert lines[7][10] == "▁" and lines[0].endswith("█")
    gap = why.plot([1.0, math.nan, 2.0])
    assert all(line[11:12] in ("", " ") for line in gap[:8])
    flat = why.plot([5.0, 5.0])
    assert flat[7] == "        5 ▁▁" and flat[0].strip() == "5"
