"""The reproducibility checklist: what is counted, what is told apart, and how it is printed."""

import os
import sys

import pytest
from fake_records import put, record

from papers import lort, wb
from papers.unified_bound import COLUMNS, DIGITS_LT, PAPER
from replicate import cli, grid
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import checklist

C10 = COLUMNS[0]
ENVIRONMENT = {
    "device": "Device 1", "numerics": {"device": "cuda", "dtype": "float32", "threads": None, "compiled": False},
    "versions": {"replicate": "0.1.0", "torch": "2.9.0"}, "commit": "0123456789ab+",
}  # fmt: skip


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)
    return Store(tmp_path / "store")


def fill(
    store, methods, column=C10, seeds=(0,), seconds=36.0, paper=PAPER, edition="official", failed=None, device="Device 1", **how
):
    """Records of every epoch of these methods' cells, each of so many seconds."""
    for cell in grid.cells(paper, "table", columns=[column], methods=methods, seeds=seeds, **how):
        length, groups = cell.programme.length, cell.column.groups
        half = {name: [25] * length for name in groups}
        made = record([half, half], failed=failed, groups=groups, images=dict.fromkeys(groups, 50))
        made.curves["seconds"] = [seconds] * length
        made.environment, made.fingerprint = {**ENVIRONMENT, "device": device}, "fedcba9876543210"
        made.class_counts = [5000, 500, 50]
        made.made_for = {
            "paper": cell.paper, "grid": cell.grid, "method": cell.method, "column": cell.column.name,
            "point": dict(cell.point), "variant": cell.variant, "quick": cell.quick,
        }  # fmt: skip
        put(store, cell, made, edition=edition)


def own(store, paper=PAPER):
    runs = checklist.gathered(paper, store)[checklist.OWN]
    return runs, dict(checklist.answers(paper, store, checklist.OWN, runs))


def test_shared_beginnings_are_counted_once(store):
    fill(store, ["CE", "CE+DRW"], seeds=(0, 1))
    runs, told = own(store)
    assert (len(runs.epochs), runs.alone) == (2 * (200 + 40), 4 * 200)
    assert sum(runs.seconds().values()) == pytest.approx(2 * 240 * 36)
    assert told["Compute"] == [
        "Device 1 (cuda), float32, eager: 4 runs, 4.8 hours of training and evaluation (Measures and reading data apart)",
        "480 epochs trained; 800 if every run were trained alone: shared beginnings count once",
    ]


def test_an_adjustment_trains_nothing_and_editions_share_nothing(store):
    fill(store, ["WD", "WD/Add", "WD/Mult"], column=wb.C10_LT, paper=wb.PAPER)
    runs, _ = own(store, wb.PAPER)
    length = grid.cells(wb.PAPER, "table", columns=[wb.C10_LT], methods=["WD"])[0].programme.length
    assert (len(runs.epochs), runs.alone) == (length, 3 * length)
    fill(store, ["WD"], column=wb.C10_LT, paper=wb.PAPER, edition="0123456789ab", device="Device 2")
    runs, told = own(store, wb.PAPER)
    assert len(runs.epochs) == 2 * length and set(runs.seconds()) == {f"Device {n} (cuda), float32, eager" for n in (1, 2)}
    assert sum("cifar10@" in line for line in told["Data"]) == 2


def test_classifiers_on_one_backbone_add_up_their_shares(store):
    fill(store, ["Vanilla FC", "CE"], column=lort.COLUMNS[0], paper=lort.PAPER)
    runs, _ = own(store, lort.PAPER)
    points = len(lort.RATES) * len(lort.DECAYS)
    assert len(runs.epochs) == 200 + 20 * points and runs.alone == 200 + 220 * points


def test_runs_of_an_earlier_protocol_are_counted_and_named(store):
    fill(store, ["CE", "CE+DRW"])
    for path in (store.root / "records").glob("*/*.json"):
        text = path.read_text()
        path.write_text(text.replace('"method":"CE"', '"method":"Gone"'))
    runs, told = own(store)
    assert runs.unknown == 1 and len(runs.epochs) == 400
    assert told["Compute"][-1] == "1 run of an earlier protocol, whose beginnings are counted as unshared"


def test_quick_runs_stand_ins_and_the_papers_data_are_told_apart(store):
    assert checklist.render(PAPER, store, "text") == (
        "unified-bound: A Unified Generalization Analysis of Re-Weighting and Logit-Adjustment for Imbalanced Learning\n\n"
        "On the paper's own data\n  not run; `replicate unified-bound` runs it\n"
    )
    fill(store, ["CE"], column=DIGITS_LT, seeds=(0, 1, 2))
    fill(store, ["CE"], quick=True)
    told = checklist.render(PAPER, store, "text")
    parts = told.split("\nOn ")
    assert [part.partition("\n")[0] for part in parts[1:]] == [
        "the paper's own data",
        "stand-in data, no part of the paper",
        "shortened runs, which mean nothing",
    ]
    assert "not run" in parts[1] and "3 finished runs" not in parts[1]
    assert "3 finished runs, 0 failed" in parts[2] and "table 1: 1 of 16 numbers, each of 3 seeds (digits@official)" in parts[2]
    assert "1 finished run, 0 failed" in parts[3] and "none: shortened runs are compared with nothing" in parts[3]


def test_answers_name_runs_spread_choices_data_and_code(store):
    fill(store, ["CE", "CE+ADRW"], seeds=(0, 1, 4))
    fill(store, ["LDAM"], seeds=(2,), failed={"epoch": 3, "loss": "nan"})
    _, told = own(store)
    assert told["Results: which numbers of which table are there"] == [
        "table 1: 2 of 128 numbers, each of 3 seeds (cifar10@official)",
        "table released: not run",
    ]
    assert told["Number of runs"][:3] == [
        "21 finished runs, 1 failed",
        "seeds 0-2,4: 7 runs of 0, 7 runs of 1, 1 run of 2, 7 runs of 4",
        "failed: LDAM on cifar10-lt/100, seed 2",
    ]
    assert "population standard deviation over seeds" in told["Error bars and their definition"][0]
    chosen = told["How hyper-parameters and epochs were selected"]
    assert "per seed the best epoch on the whole test set" in chosen[0]
    assert "table 1: searched nu in 0.15, 0.25, 0.75, 1, 2, 3; at most 6 points of training for a row and column" in chosen
    assert told["Data"] == [
        "cifar10@official: 5,550 training images in 3 classes of 5,000 to 50, 200 test images; training subset fedcba987654 "
        "(22 runs)",
        "licences: not recorded",
    ]
    assert told["Code and versions"] == [
        "commit 0123456789ab+: 22 runs",
        "torch 2.9.0, replicate 0.1.0: 22 runs",
        "+: files differed from that commit",
    ]


def test_a_paper_that_reports_the_best_of_its_seeds_and_one_that_looks_at_validation(store):
    fill(store, ["Vanilla FC"], column=lort.COLUMNS[0], paper=lort.PAPER)
    assert "of the seed that is best over all classes" in own(store, lort.PAPER)[1]["Error bars and their definition"][1]
    fill(store, ["WD/Add"], column=wb.C10_LT, paper=wb.PAPER)
    chosen = own(store, wb.PAPER)[1]["How hyper-parameters and epochs were selected"]
    assert "per seed the best epoch on the validation split" in chosen[0]
    assert any("tau of the additive adjustment in 1 to 2 (21 values)" in line for line in chosen)


def test_both_formats_and_a_wrong_one(store, monkeypatch, capsys, tmp_path):
    fill(store, ["CE"], seeds=(0, 1, 2))
    told = checklist.render(PAPER, store, "markdown")
    assert told.startswith("## unified-bound: ") and "\n### On the paper's own data\n" in told
    assert "\n**Compute**\n\n- Device 1" in told and "\n  " in told and told.endswith("\n")
    with pytest.raises(BadInput, match="format 'html' is unknown; allowed: text, markdown"):
        checklist.render(PAPER, store, "html")
    rest = ["--store", str(store.root), "--results", str(tmp_path / "none")]
    monkeypatch.setattr(sys, "argv", ["replicate", "checklist", *rest])
    cli.main()
    out = capsys.readouterr().out
    assert [line.partition(":")[0] for line in out.splitlines() if line and line[0] in "uwl"] == ["unified-bound", "wb", "lort"]
