"""Readings of a protocol side by side: which rows stand there, and what each is away from, by hand."""

import csv
import importlib
import io
import os
from pathlib import Path

import pytest
from fake_records import COLUMN, OFFICIAL, measure, write_groups, write_level
from test_cli import assert_refused, call_here, call_without_torch

from papers.unified_bound import PAPER, TABLE_1
from replicate import grid
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import readings

__all__ = ["call_here"]  # a fixture

C10, C10_10, DIGITS = COLUMN["cifar10-lt/100"], COLUMN["cifar10-lt/10"], COLUMN["digits/45"]
WB = importlib.import_module("papers.wb").PAPER
COMPARABLE = dict.fromkeys(OFFICIAL, "comparable")
METHODS = ("CE", "LDAM", "CE+DRW", "LDAM+DRW")


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # many small files
    return Store(tmp_path / "store")


def fill(store, method, variant, levels, column=C10, **how):
    """Levels in percent, seed by seed."""
    for seed, level in enumerate(levels):
        (cell,) = grid.cells(PAPER, "table", columns=[column], methods=[method], seeds=(seed,), variant=variant, **how)
        write_level(store, cell, level)


def seen(store, columns=(C10,), variants=("text", "text-mean"), methods=METHODS, paper=PAPER, table=TABLE_1, **how):
    how = {"edition_of": OFFICIAL, "comparability": COMPARABLE, "columns": columns, "variants": variants, **how}
    return readings.lines(store, paper, table, methods=methods, **how)


def test_each_reading_beside_the_published_number_and_the_one_followed(store):
    fill(store, "CE+DRW", None, [75.0, 75.4, 75.2])  # published 75.8±0.3
    fill(store, "CE+DRW", "text", [76.0, 75.8])
    fill(store, "CE+DRW", "text-mean", [74.0])
    here, text, mean = found = seen(store)
    assert [(line.name, line.row.label, line.row.replica.n) for line in found] == [
        ("here", "w/o SAM/CE+DRW", 3), ("text", "w/o SAM/CE+DRW", 2), ("text-mean", "w/o SAM/CE+DRW", 1),
    ]  # fmt: skip
    assert [line.row.difference for line in found] == pytest.approx([-0.6, 0.1, -1.8])
    # By seeds that both have: 76.0 - 75.0 and 75.8 - 75.4; 74.0 - 75.0.
    assert here.changes == {} and text.changes == pytest.approx({0: 1.0, 1: 0.4}) and mean.changes == pytest.approx({0: -1.0})
    shown = readings.render(found, "text").splitlines()
    assert shown[0] == "unified-bound: table 1 under every reading (cifar10@official)" and shown[2] == "CIFAR-10/LT/100"
    assert shown[5].split() == ["w/o", "SAM/CE+DRW", "here", "75.20±0.16", "3", "75.8±0.3", "-0.60", *shown[5].split()[7:]]
    assert shown[6].split()[:4] == ["text", "75.90±0.10", "2", "+0.10"] and shown[6].endswith(" +0.70±0.30")
    assert shown[7].split()[:4] == ["text-mean", "74.00", "1", "-1.80"] and shown[7].endswith(" -1.00")
    notes = " ".join("\n".join(shown[8:]).split())
    assert (
        "Mean distance from published, in points, over the numbers that both have: text 0.10, here 0.60 (1 number); "
        "text-mean 1.80, here 0.60 (1 number)." in notes
    )
    assert "text: learning-rate drops as worded: /10 at 160 and 180." in notes
    assert "Quirk lr-drops:" in notes and "Quirk weighted-mean:" in notes and "Quirk subset" not in notes


def test_the_mean_distance_is_over_numbers_that_both_readings_have(store):
    for variant, level in ((None, 75.0), ("text", 76.0)):
        fill(store, "CE+DRW", variant, [level])  # 0.8 and 0.2 away from 75.8
        fill(store, "LDAM+DRW", variant, [level + 2.0])  # 0.7 and 0.3 away from 77.7
    fill(store, "LDAM", "text", [60.0])  # under one reading alone
    told = " ".join(readings.render(seen(store), "text").split())
    assert "over the numbers that both have: text 0.25, here 0.75 (2 numbers)." in told
    (alone,) = [line for line in seen(store) if line.row.spot.row.method == "LDAM" and line.name == "text"]
    assert alone.changes == {} and alone.row.difference == pytest.approx(-13.8)


def test_rows_that_a_reading_leaves_as_they_are_do_not_stand_under_it(store):
    """A variant of the second stage leaves the first one as it is."""
    table = next(table for table in WB.tables if table.number == "4")
    column = table.columns[0]
    for variant in (None, "max-norm-batch"):
        for method in ("WD", "WB"):
            (cell,) = grid.cells(WB, "table", columns=[column], methods=[method], variant=variant)
            write_groups(store, cell, {"": 40.0 + 10 * (variant is not None)})
    found = seen(store, [column], ["max-norm-batch"], ["WD", "WB"], WB, table)
    assert {line.row.spot.row.method for line in found} == {"WB"}
    averages = [line for line in found if line.row.path.endswith("Average")]
    assert [(line.name, round(line.row.level, 2)) for line in averages] == [("here", 40.0), ("max-norm-batch", 50.0)]


def test_discriminant_ratios_are_told_as_ratios(store):
    table = next(table for table in WB.tables if table.number == "4")
    column = table.columns[0]
    for variant, levels in ((None, [10.0, 20.0]), ("max-norm-batch", [20.0, 10.0])):
        for seed, level in enumerate(levels):
            (cell,) = grid.cells(WB, "table", columns=[column], methods=["WB"], seeds=(seed,), variant=variant)
            write_groups(store, cell, {"": 50.0})
            measure(store, cell, "separation", {"fdr": {"train": level, "test": level}})
    found = seen(store, [column], ["max-norm-batch"], ["WB"], WB, table)
    (line,) = [line for line in found if line.name != "here" and line.row.path.endswith("FDR/Test")]
    assert line.changes == pytest.approx({0: 2.0, 1: 0.5})
    told = [line for line in readings.render(found, "text").splitlines() if line.split()[:1] == ["max-norm-batch"]]
    assert any(line.endswith("×1.00") for line in told)  # the geometric mean of 2 and 1/2
    lines = list(csv.DictReader(io.StringIO(readings.render(found, "csv"))))
    (line,) = [x for x in lines if x["reading"] == "max-norm-batch" and x["column_path"].endswith("FDR/Test")]
    assert (line["change"], line["change_sd"], line["change_seeds"]) == ("1.0000", "", "2") and "ratios" in line["note"]


def test_the_csv_has_a_line_for_each_number_and_reading(store):
    for column in (C10, C10_10):
        fill(store, "CE+DRW", None, [75.0], column)
        fill(store, "CE+DRW", "text", [76.0], column)
    lines = list(csv.DictReader(io.StringIO(readings.render(seen(store, (C10, C10_10)), "csv"))))
    assert tuple(lines[0]) == readings.FIELDS
    assert [(line["column_path"], line["reading"], line["replica"], line["change"]) for line in lines] == [
        ("CIFAR-10/LT/100", "here", "75.0000", ""), ("CIFAR-10/LT/100", "text", "76.0000", "1.0000"),
        ("CIFAR-10/LT/10", "here", "75.0000", ""), ("CIFAR-10/LT/10", "text", "76.0000", "1.0000"),
    ]  # fmt: skip
    assert (lines[1]["published"], lines[1]["difference"], lines[1]["verdict"]) == ("75.8", "0.2000", "open")


def test_stand_ins_quick_runs_and_other_formats(store):
    fill(store, "CE+DRW", None, [50.0], DIGITS)
    assert seen(store, [DIGITS]) == []
    fill(store, "CE+DRW", "text", [75.0], quick=True)
    assert seen(store) == []
    (line,) = seen(store, quick=True)
    shown = readings.render([line], "markdown")
    assert "QUICK RUN" in shown.splitlines()[0] and "not comparable" in shown and line.row.printed is None
    with pytest.raises(BadInput, match=r"'latex'.*text, markdown, csv"):
        readings.render([line], "latex")


def test_the_command_says_what_is_missing_or_has_no_other_reading(tmp_path, call_here):
    where = ("--results", str(tmp_path / "none"))
    told = call_here(tmp_path, "readings", "unified-bound", "--table", "1", *where)
    assert (told.code, told.out) == (0, "")
    assert told.err == (
        "unified-bound, table 1: no Records of another reading yet; run `replicate unified-bound --table 1` with the same "
        "options and --variant text or text-mean, or name their folder by --store or --results; looked in "
        f"'store' and '{tmp_path / 'none' / 'unified_bound'}'\n"
    )
    assert_refused(call_here(tmp_path, "readings", "wb", "--table", "2", *where), "no other reading of wb", "max-norm-batch")
    assert_refused(call_here(tmp_path, "readings", "unified-bound", "--dataset", "digits", *where), "no other reading")
    assert_refused(call_here(tmp_path, "readings", "unified-bound", "--variant", "txt", *where), "'txt'", "text, text-mean")


def test_the_committed_readings(tmp_path):
    results = Path(__file__).parent.parent / "results"
    if not results.is_dir():
        pytest.skip("needs the results folder of a checkout")
    where = ("--table", "1", "--results", str(results), "--format", "csv")
    code, out, err = call_without_torch(tmp_path, "readings", "unified-bound", *where)
    assert (code, err) == (0, "")
    lines = [line for line in csv.DictReader(io.StringIO(out)) if line["row"] == "w/o SAM/CE+DRW"]
    assert [line["reading"] for line in lines] == ["here", "text", "text-mean"]
    for line in lines[1:]:
        change = float(line["replica"]) - float(lines[0]["replica"])
        assert float(line["change"]) == pytest.approx(change, abs=1e-4) and line["change_seeds"] == "1"
