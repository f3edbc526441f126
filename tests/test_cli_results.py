"""What is written in the results folder: whole tables, verdicts, claims, and the Records behind them."""

import csv
import json
import os
import re
import shutil

import pytest
from fake_records import COLUMN, write_level
from test_cli import ROOT, SUFFIXES, assert_refused, call, call_here, call_without_torch, contents, copy, quick

from papers import PAPERS
from papers.unified_bound import PAPER
from replicate import grid
from replicate.record import Store

__all__ = ["call_here", "copy", "quick"]  # fixtures

C10, C10_STEP, C100 = COLUMN["cifar10-lt/100"], COLUMN["cifar10-step/100"], COLUMN["cifar100-lt/100"]
OTHER = "0123456789ab"  # an edition


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # many small files


def fill(folder, columns=(C10,), methods=("CE", "CE+DRW"), edition="official", level=70.0, **options):
    store = Store(folder / "store")
    for seed in range(3):
        for cell in grid.cells(PAPER, "table", columns=columns, methods=methods, seeds=(seed,), **options):
            write_level(store, cell, level + seed, edition=edition)
            store.write_measure("class_bound", cell.programme.start.data.source, edition,
                                cell.programme.keys(edition)[-1], seed, {"seed": seed})  # fmt: skip


def names(folder, paper="unified_bound"):
    return {path.name for path in (folder / "results" / paper).iterdir() if path.is_file()}


def of(stem, verdicts=True):
    files = {f"{stem}.{suffix}" for suffix in SUFFIXES.values()}
    return files | ({f"{stem}.verdicts.md", f"{stem}.verdicts.csv"} if verdicts else set())


ALWAYS = {"claims.md", "claims.csv", "README.md"}


def listed(folder):
    """The rows of the page of contents, without the files."""
    rows = [line for line in (folder / "results/unified_bound/README.md").read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")][:6] for row in rows[2:]]


def test_the_committed_folder_is_what_the_command_writes_from_its_records(tmp_path):
    """On a fresh clone: nothing is trained, nothing changes."""
    if not (ROOT / "results").is_dir():
        pytest.skip("needs the results folder of a checkout")
    shutil.copytree(ROOT / "results", tmp_path / "results")
    before = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    code, out, err = call_without_torch(tmp_path, "results")
    assert (code, err) == (0, "") and len(out.splitlines()) == 3
    after = {path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert [str(path) for path in after if after[path] != before[path]] == []


@pytest.mark.parametrize("command", ["tables", "diff", "lens", "readings"])
def test_without_a_paper_the_committed_numbers_of_all_are_printed(tmp_path, call_here, command):
    if not (ROOT / "results").is_dir():
        pytest.skip("needs the results folder of a checkout")
    where = ("--results", str(ROOT / "results"))
    each = [call_here(tmp_path, command, paper.replace("_", "-"), *where) for paper in PAPERS]
    every = call_here(tmp_path, command, *where)
    assert every.code == max(one.code for one in each) == 0
    assert every.out == "\n".join(one.out for one in each if one.out) and every.err == "".join(one.err for one in each)
    assert "cifar10@" in every.out and ("STAND-IN" in every.out) == (command in ("tables", "lens"))
    lines = call_here(tmp_path, command, *where, "--format", "csv").out.splitlines()
    assert (
        len(lines) > 3 and lines.count(lines[0]) == 1 and {len(line) for line in csv.reader(lines)} == {lines[0].count(",") + 1}
    )


def test_a_table_that_a_command_cannot_read_is_refused_only_if_no_paper_has_another(tmp_path, call_here):
    refused = call_here(tmp_path, "lens", "--table", "3")
    assert refused.code == 0 and "lort, table 3: no Records yet" in refused.err
    assert_refused(call_here(tmp_path, "lens", "wb", "--table", "3"), "table 3 of wb", "allowed: 4, 6, 7, 8, 9, 10")
    assert_refused(call_here(tmp_path, "lens", "--dataset", "mnist"), "table 3 of wb has no accuracy")
    assert_refused(call_here(tmp_path, "readings", "--dataset", "digits"), "no other reading of any paper", "text-mean (")
    told = call_here(tmp_path, "diff", "--second-run")
    assert told == call_here(tmp_path, "diff", "unified-bound", "--second-run") and told.code == 0


def test_records_measures_tables_verdicts_and_claims_go_to_the_folder(tmp_path, call_here):
    fill(tmp_path)
    code, out, err = call_here(tmp_path, "results", "unified-bound")
    assert (code, err) == (0, "")
    assert out == "results/unified_bound: 1 table written; records: 6 of 6 copied; measures: 6 of 6 copied\n"
    assert names(tmp_path) == of("table1") | ALWAYS
    for kind in ("records", "measures"):
        kept, copied = (contents(tmp_path / root / kind) for root in ("store", "results/unified_bound"))
        assert kept.keys() == copied.keys()
        for name in kept:
            told = [(tmp_path / root / kind / name).read_bytes() for root in ("store", "results/unified_bound")]
            assert told[0] == told[1]
    # The same from the folder alone, as from a clone of it; and again, where nothing is new.
    shutil.rmtree(tmp_path / "store")
    files = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    assert call_here(tmp_path, "results", "unified-bound")[:1] == (0,)
    assert files == {path: path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()}
    for command, file in ((("tables",), "table1.txt"), (("diff", "--format", "csv"), "table1.verdicts.csv")):
        told = call_here(tmp_path, command[0], "unified-bound", *command[1:])
        assert told.out == (tmp_path / "results/unified_bound" / file).read_text()


def test_files_hold_what_was_there_before_and_the_store_comes_first(tmp_path, call_here):
    fill(tmp_path, methods=("CE",), level=60.0)
    assert call_here(tmp_path, "results", "unified-bound").code == 0
    shutil.rmtree(tmp_path / "store")
    fill(tmp_path, methods=("CE+DRW",), level=70.0)
    assert call_here(tmp_path, "results", "unified-bound").code == 0
    text = (tmp_path / "results/unified_bound/table1.csv").read_text()
    assert ",61.0000," in text and ",71.0000," in text
    fill(tmp_path, methods=("CE",), level=65.0)
    code, out, _ = call_here(tmp_path, "results", "unified-bound")
    assert code == 0 and "records: 3 of 6 copied" in out and "measures: 0 of 6 copied" in out
    assert ",66.0000," in (tmp_path / "results/unified_bound/table1.csv").read_text()
    assert len(list((tmp_path / "results/unified_bound/records").rglob("*.json"))) == 6


def test_official_data_share_a_file_and_every_other_edition_has_its_own(tmp_path, call_here):
    """Names stay as they are when more is trained, so that no file is left behind."""
    fill(tmp_path)
    call_here(tmp_path, "results", "unified-bound")
    fill(tmp_path, columns=(C10_STEP, C100))
    call_here(tmp_path, "results", "unified-bound")
    assert names(tmp_path) == of("table1") | ALWAYS
    fill(tmp_path, columns=(C10, C100), edition=OTHER)
    call_here(tmp_path, "results", "unified-bound")
    assert names(tmp_path) == of("table1") | of(f"table1.cifar10@{OTHER}") | of(f"table1.cifar100@{OTHER}") | ALWAYS
    verdicts = (tmp_path / f"results/unified_bound/table1.cifar100@{OTHER}.verdicts.csv").read_text()
    assert "other split" in verdicts and "CIFAR-10/" not in verdicts


def test_stand_ins_have_no_verdicts_and_variants_a_table_of_their_own(tmp_path, call_here):
    fill(tmp_path, columns=(COLUMN["digits/45"],))
    fill(tmp_path, methods=("CE+DRW",), variant="text")
    call_here(tmp_path, "results", "unified-bound")
    assert names(tmp_path) == of("table1.digits", verdicts=False) | of("table1.text") | ALWAYS
    assert "variant text" in (tmp_path / "results/unified_bound/table1.text.verdicts.csv").read_text()
    assert listed(tmp_path) == [
        ["1", "", "digits@official, a stand-in", "2 of 16", "3", ""],
        ["1", "variant `text`", "cifar10@official", "1 of 64", "3", "1 open"],
    ]


def test_another_grid_is_written_where_it_adds_to_the_table(tmp_path, call_here):
    fill(tmp_path)
    call_here(tmp_path, "results", "unified-bound")
    assert names(tmp_path) == of("table1") | ALWAYS  # CE and CE+DRW stand in the whole search, too
    searched = next(
        cell
        for cell in grid.cells(PAPER, "full", columns=[C10], methods=["VS"])
        if dict(cell.point) == {"tau": 2.0, "gamma": 0.25}
    )
    write_level(Store(tmp_path / "store"), searched, 75.0)
    call_here(tmp_path, "results", "unified-bound")
    assert names(tmp_path) == of("table1") | of("table1.full") | ALWAYS
    assert [line[1:5] for line in listed(tmp_path)] == [
        ["", "cifar10@official", "2 of 64", "3"],
        ["grid `full`", "cifar10@official", "3 of 64", "1 to 3"],
    ]


def test_the_contents_link_every_file_and_each_link_is_there(tmp_path, call_here):
    fill(tmp_path)
    fill(tmp_path, columns=(COLUMN["digits/45"],))
    call_here(tmp_path, "results", "unified-bound")
    links = re.findall(r"\]\((.*?)\)", (tmp_path / "results/unified_bound/README.md").read_text())
    assert len(links) == len(set(links)) and set(links) == names(tmp_path) - {"README.md", "table1.verdicts.csv"}


def test_quick_runs_and_other_papers_records_stay_in_the_store(tmp_path, call_here):
    fill(tmp_path, quick=True)
    code, out, _ = call_here(tmp_path, "results", "unified-bound")
    assert code == 0 and "0 tables written; records: 0 of 0 copied" in out and names(tmp_path) == ALWAYS
    assert listed(tmp_path) == [] and "Nothing yet." in (tmp_path / "results/unified_bound/README.md").read_text()
    fill(tmp_path)
    code, out, _ = call_here(tmp_path, "results", "lort")
    assert code == 0 and out.startswith("results/lort: 0 tables written; records: 0 of 0 copied")


def test_training_some_cells_writes_the_whole_table(copy, call_here):
    """What was asked for is printed; the file loses no row that has a Record."""
    table = copy / "results/unified_bound/table1.digits.quick.txt"
    before = [line for line in table.read_text().splitlines() if line.startswith("CE")]
    code, out, err = call_here(copy, "unified-bound", "--dataset", "digits", "--seeds", "0", "--quick", "--method", "LDAM")
    assert code == 0, err
    assert "Not asked for: 15 of 16 values, left empty." in out and "Not run" not in out
    after = table.read_text()
    assert "Not run, or not yet finished: 12 of 16 values" in after
    marks = str.maketrans("", "", "*+^")  # another row may be the best now
    assert [line.split()[0] for line in before] == ["CE", "CE+DRW", "CE+ADRW", "CE+DRW", "CE+ADRW"]
    for line in before:
        assert line.translate(marks).split() in [told.translate(marks).split() for told in after.splitlines()]


def test_diff_shows_the_methods_that_were_asked_for_and_exits_by_them(tmp_path, call_here):
    fill(tmp_path, methods=("CE",), level=70.5)
    fill(tmp_path, methods=("CE+DRW",), level=10.0)
    where = ("diff", "unified-bound", "--table", "1", "--dataset", "cifar10-lt", "--ratio", "100", "--format", "csv")
    code, out, err = call_here(tmp_path, *where)
    assert (code, err) == (1, "")
    words = {line["row"]: line["verdict"] for line in csv.DictReader(out.splitlines())}
    assert words["w/o SAM/CE+DRW"] == "lower"
    code, out, err = call_here(tmp_path, *where, "--method", "CE")
    assert (code, err) == (0, "")
    lines = [line for line in csv.DictReader(out.splitlines()) if line["replica"]]
    assert [(line["row"], line["verdict"]) for line in lines] == [("w/o SAM/CE", words["w/o SAM/CE"])]


@pytest.mark.parametrize("how", ["cut off", "not a Record"])
def test_a_damaged_record_is_named_and_nothing_is_written(tmp_path, how):
    fill(tmp_path)
    path = sorted((tmp_path / "store/records").rglob("*.json"))[0]
    path.write_bytes(path.read_bytes()[:-100] if how == "cut off" else json.dumps([1]).encode())
    assert_refused(call(tmp_path, "results", "unified-bound"), path.name, "damaged")
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    fill(tmp_path)
    (tmp_path / "results").write_text("mine")
    assert_refused(call(tmp_path, "results", "unified-bound"), "results 'results'", "--results")
    assert (tmp_path / "results").read_text() == "mine"
    assert_refused(call(tmp_path, "results", "nonesuch"), "'nonesuch'", "unified-bound, wb, lort")
