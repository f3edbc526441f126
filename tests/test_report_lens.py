"""The selection lens: the same runs under every Selection, and what looking at the test set gains, by hand."""

import csv
import importlib
import io
import os
import statistics
from pathlib import Path

import pytest
from fake_records import COLUMN, OFFICIAL, put, record, write
from test_cli import assert_refused, call_here, call_without_torch

from papers.unified_bound import PAPER, TABLE_1
from replicate import grid
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import lens
from replicate.report.selection import SELECTIONS

__all__ = ["call_here"]  # a fixture

C10, C10_10, DIGITS = COLUMN["cifar10-lt/100"], COLUMN["cifar10-lt/10"], COLUMN["digits/45"]
WB, LORT = (importlib.import_module(f"papers.{name}").PAPER for name in ("wb", "lort"))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # many small files
    return Store(tmp_path / "store")


def cell(method, column=C10, seed=0, paper=PAPER, grid_name="table"):
    return grid.cells(paper, grid_name, columns=[column], methods=[method], seeds=(seed,))[0]


def seen(store, columns=(C10,), paper=PAPER, table=TABLE_1, **how):
    return lens.lines(store, paper, table, edition_of=OFFICIAL, columns=columns, **how)


#: Halves of 100 images each, and by seed what comes of them.
CURVES = {
    0: [[60, 50, 10], [20, 40, 40]],  # whole: 80, 90, 50: best in epoch 2, 45 %; half 0 says epoch 1: 20; half 1 epoch 2: 50
    1: [[30, 70, 50], [30, 40, 50]],  # whole: 60, 110, 100: epoch 2, 55 %; half 0 says epoch 2: 40; half 1 epoch 3: 50
}
LOOKED, FITTED, LAST = {0: 45.0, 1: 55.0}, {0: 35.0, 1: 45.0}, {0: 25.0, 1: 50.0}


def test_each_selection_and_the_gain_of_each_seed(store):
    for seed, halves in CURVES.items():
        write(store, cell("CE", seed=seed), halves)
    (line,) = seen(store)
    assert (line.row, line.path, line.edition) == ("w/o SAM/CE", "CIFAR-10/LT/100", "cifar10@official")
    told = {name: dict(replica.values) for name, replica in line.replicas.items()}
    assert told == {
        "as-published": pytest.approx(LOOKED), "cross-fitted": pytest.approx(FITTED), "best-on-validation": {},
        "last-epoch": pytest.approx(LAST),
    }  # fmt: skip
    assert line.gains == pytest.approx({0: 10.0, 1: 10.0}) and line.looked == line.replicas["as-published"]
    assert line.of_best is None
    shown = lens.render([line], "text").splitlines()
    assert shown[0] == ("unified-bound: table 1 under every selection, accuracy (%), mean over seeds (cifar10@official)")
    assert shown[3].split() == ["row", "as-published", "cross-fitted", "last-epoch", "seeds", "gain"]
    assert shown[5].split() == ["w/o", "SAM/CE", "50.00", "40.00", "37.50", "2", "+10.00±0.00"]
    notes = " ".join(lens.render([line], "markdown").replace("\\", "").split())
    assert "Gain from looking at the test set: median +10.00, largest +10.00 points (w/o SAM/CE, CIFAR-10/LT/100)" in notes
    assert "best-on-validation: no number, for there is no validation split." in notes


def test_the_mean_over_columns_averages_each_seed_before_its_spread(store):
    for seed, halves in CURVES.items():
        write(store, cell("CE", seed=seed), halves)
        write(store, cell("CE", C10_10, seed), [[10 + 20 * seed, 10], [10 + 20 * seed, 10]])  # no gain; levels 10 and 30
    write(store, cell("LDAM"), [[10], [10]])  # in one column alone
    found = seen(store, (C10, C10_10))
    shown = lens.render(found, "text")
    whole = shown[shown.index("mean over 2 columns") :].splitlines()
    assert whole[3].split() == ["w/o", "SAM/CE", "35.00", "30.00", "23.75", "2", "+5.00±0.00"] and not whole[4]
    ldam = next(line for line in shown.splitlines() if line.startswith("w/o SAM/LDAM"))
    assert ldam.split() == ["w/o", "SAM/LDAM", "10.00", "10.00", "10.00", "1", "+0.00"]


def test_a_paper_that_selects_on_validation_gains_nothing_by_its_own_rule(store):
    table = next(table for table in WB.tables if table.number == "4")
    groups = table.columns[0].groups
    classes = {name: last - first for name, (first, last) in groups.items()}

    def counts(*percent):  # of ten images of each class
        return {name: [round(10 * n * p / 100) for p in percent] for name, n in classes.items()}

    images = {name: 10 * n for name, n in classes.items()}
    for seed in (0, 1, 2):
        made = record([counts(40, 60, 50), counts(40, 50, 60)], validation=counts(50, 20, 30), groups=groups, images=images)
        put(store, cell("Naive", table.columns[0], seed, WB), made)
    (line,) = seen(store, table.columns, WB, table)
    assert line.replicas["as-published"].values == line.replicas["best-on-validation"].values
    assert line.replicas["as-published"].mean == pytest.approx(40.0)  # the epoch that validation likes best
    assert line.looked.mean == pytest.approx(55.0)  # epochs 2 and 3 are equal on all images
    assert line.replicas["cross-fitted"].mean == pytest.approx(50.0) and line.gains == pytest.approx(
        dict.fromkeys(range(3), 5.0)
    )
    told = " ".join(lens.render([line], "text").split())
    assert "best-on-test" in told and "Gain that looking at the test set would give: median +5.00" in told
    assert "its own gain is 0 by construction" in told


def test_a_paper_that_reports_the_best_of_its_runs_gains_from_that_too(store):
    column, table = LORT.tables[0].columns[0], LORT.tables[0]
    for seed in range(5):
        write(store, cell("Vanilla FC", column, seed, LORT), [[40 + seed], [40 + seed]])
    (line,) = seen(store, [column], LORT, table)
    assert line.of_best == pytest.approx(2.0) and line.gains == pytest.approx(dict.fromkeys(range(5), 0.0))
    shown = lens.render([line], "text")
    assert shown.splitlines()[5].split()[-6:] == ["42.00", "42.00", "5", "+0.00±0.00", "44.00", "+2.00"]
    assert "Gain from reporting the best of the seeds, over their mean: median +2.00" in shown


def test_the_csv_has_a_line_for_each_row_and_column(store):
    for seed, halves in CURVES.items():
        for column in (C10, C10_10):
            write(store, cell("CE", column, seed), halves)
    found = seen(store, (C10, C10_10))
    lines = list(csv.DictReader(io.StringIO(lens.render(found, "csv"))))
    assert tuple(lines[0]) == lens.FIELDS and [line["column_path"] for line in lines] == ["CIFAR-10/LT/100", "CIFAR-10/LT/10"]
    first = lines[0]
    assert {name: first[name.replace("-", "_")] for name in SELECTIONS} == {
        "as-published": "50.0000", "cross-fitted": "40.0000", "best-on-validation": "", "last-epoch": "37.5000",
    }  # fmt: skip
    assert (first["gain"], first["gain_sd"], first["seeds"], first["best_of_seeds"]) == ("10.0000", "0.0000", "2", "")


def test_marks_of_stand_ins_variants_and_quick_runs(store):
    for one in grid.cells(PAPER, "table", columns=[DIGITS], methods=["CE"]):
        write(store, one, [[50], [50]], validation=[5])
    told = lens.render(seen(store, [DIGITS], variant="text"), "text")
    assert "STAND-IN" in told.splitlines()[0] and "variant" not in told and "says nothing of the paper's own gain" in told
    assert "best-on-validation" in told.splitlines()[3]
    for how in ({"variant": "text"}, {"quick": True}):
        write(store, grid.cells(PAPER, "table", columns=[C10], methods=["CE"], **how)[0], [[50], [50]])
        marked = lens.render(seen(store, **how), "text", quick="quick" in how).splitlines()[0]
        assert ("variant text" in marked, "QUICK RUN" in marked) == ("variant" in how, "quick" in how)


def test_tables_without_accuracy_or_records_have_no_lens(store):
    assert seen(store) == []
    without = [table.number for table in WB.tables if lens.accuracy(table) is None]
    assert without == ["1", "2", "3", "text"]
    assert [lens.accuracy(table).path for table in LORT.tables] == [("All",), (), ()]
    failed = {"epoch": 1, "loss": "nan"}
    write(store, cell("CE"), [[1], [1]], failed=failed)
    assert seen(store) == []
    write(store, cell("LDAM"), [[1], [1]])
    with pytest.raises(BadInput, match=r"'latex'.*text, markdown, csv"):
        lens.render(seen(store), "latex")


def test_the_committed_digits_under_the_lens(tmp_path, call_here):
    results = Path(__file__).parent.parent / "results"
    if not results.is_dir():
        pytest.skip("needs the results folder of a checkout")
    where = ("--results", str(results))
    code, out, err = call_without_torch(tmp_path, "lens", "unified-bound", "--table", "1", "--dataset", "digits", *where)
    assert (code, err) == (0, "") and "Gain from looking at the test set: median +0.72, largest +1.17 points" in out
    told = call_here(tmp_path, "lens", "unified-bound", "--table", "1", "--dataset", "digits", "--format", "csv", *where)
    lines = list(csv.DictReader(io.StringIO(told.out)))
    gains = [float(line["as_published"]) - float(line["cross_fitted"]) for line in lines]
    assert [float(line["gain"]) for line in lines] == pytest.approx(gains, abs=2e-4) and min(gains) >= 0
    assert statistics.median(gains) == pytest.approx(0.72, abs=0.005)
    told = call_here(tmp_path, "lens", "wb", "--dataset", "digits", *where)
    assert told.code == 0 and next(line for line in told.out.splitlines() if " under every selection" in line).startswith(
        "wb: table 4"
    )
    assert_refused(call_here(tmp_path, "lens", "wb", "--table", "2", *where), "table 2 of wb", "allowed: 4, 6, 7, 8, 9, 10")
    told = call_here(tmp_path, "lens", "unified-bound", "--table", "released", *where)
    assert (told.code, told.out) == (0, "") and "no Records yet; run `replicate unified-bound --table released`" in told.err
