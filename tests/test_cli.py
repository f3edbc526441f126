"""Whole commands, run as a user runs them: what they print, write, refuse, and how they survive being stopped."""

import csv
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import data_files
import numpy as np
import pytest
import torch

from papers.unified_bound import PAPER
from replicate import cli
from replicate.cli import run as run_module
from replicate.data.sources import ARCHIVES
from replicate.errors import BadInput
from replicate.report import published, tables

ROOT = Path(__file__).resolve().parent.parent
QUICK = ("--dataset", "digits", "--seeds", "0", "--quick", "--method", "CE", "--method", "CE+DRW", "--method", "CE+DRW+SAM")
#: Three cells of 60 epochs that share the first 48.
FULL = ("--dataset", "digits", "--seeds", "0", "--method", "CE", "--method", "CE+DRW", "--method", "CE+ADRW")
FULL_EPOCHS = 60 + 12 + 12
SUFFIXES = {"text": "txt", "markdown": "md", "csv": "csv", "latex": "tex"}


class Told(NamedTuple):
    code: int
    out: str
    err: str


def script():
    installed = shutil.which("replicate", path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, "-m", "replicate"]


def environment(**more):
    """The environment without what would move stores or data, and without GPUs, which start slowly."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATE_")}
    if len(script()) > 1:  # the package is not installed, and relative search paths do not hold in another folder
        kept["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "CUDA_VISIBLE_DEVICES": "", **more}


def call(folder, *arguments, before=(), **more):
    """Run ``replicate`` to its end in ``folder``; ``before``: words in front of the command."""
    done = subprocess.run(
        [*before, *script(), *arguments], cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=300
    )
    return Told(done.returncode, done.stdout, done.stderr)


def call_without_torch(folder, *arguments, **more):
    """:func:`call`, and make sure that torch was not imported; that alone takes ten times as long as the command."""
    told = call(folder, *arguments, **{"PYTHONPROFILEIMPORTTIME": "1", **more})
    lines = told.err.splitlines(keepends=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    assert {"replicate", "papers"} <= imported and "torch" not in imported
    return told._replace(err="".join(line for line in lines if not line.startswith("import time:")))


@pytest.fixture
def call_here(monkeypatch, capfd):
    """:func:`call` within this process, which has torch already: for what differs only after torch is imported."""

    def run(folder, *arguments):
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["replicate", *arguments])
        monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
        for name in ("REPLICATE_STORE", "REPLICATE_DATA"):
            monkeypatch.delenv(name, raising=False)
        threads = torch.get_num_threads()
        try:
            cli.main()
        except SystemExit as stop:
            return Told(stop.code, *capfd.readouterr())
        finally:
            torch.set_num_threads(threads)
        return Told(0, *capfd.readouterr())

    return run


def assert_refused(told, *named):
    """Exit code 2, nothing printed, and one line that names the value and what is allowed or to be done."""
    assert told.code == 2, told
    assert told.out == ""
    assert len(told.err.splitlines()) == 1 and told.err.startswith("replicate: "), told.err
    for text in named:
        assert text in told.err


def contents(folder):
    """Every file under ``folder``, with the time of its last change."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def records(folder):
    return sorted(folder.glob("store/records/*/*.json"))


def checkpoints(folder):
    return sorted(folder.glob("store/checkpoints/*/*.pt"))


# --- one quick run and what reads it ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A finished quick run of three methods on digits: its folder, and what it told. Read only."""
    folder = tmp_path_factory.mktemp("quick")
    return SimpleNamespace(folder=folder, told=call(folder, "unified-bound", *QUICK))


@pytest.fixture
def copy(quick, tmp_path):
    """The folder of the quick run once more, to be changed."""
    shutil.copytree(quick.folder, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_quick_run_trains_and_prints_a_marked_table(quick):
    code, out, err = quick.told
    assert code == 0, err
    # One line a cell, since standard error is no terminal here; an epoch that another cell has is not trained again.
    assert re.findall(r"^\[(\d)/3\] (\S+) digits/45 seed 0  epoch (\d)/(\d)  loss ", err, re.M) == [
        ("1", "CE", "1", "1"),
        ("2", "CE+DRW", "2", "2"),
        ("3", "CE+DRW+SAM", "2", "2"),
    ]
    assert "3 cells: 0 done before, 3 trained now in 4 epochs." in out
    table, _, after = out.partition("This table as text, Markdown, CSV and LaTeX: ")
    assert "quick run of the rows of table 1 on a stand-in, Digits" in table.splitlines()[1]
    body = [line.rstrip() for line in table.splitlines()]
    assert body.index("w/o SAM") < body.index("w/ SAM")
    filled = re.findall(r"^(\S+) +(\d+\.\d)\S*$", table, re.M)
    assert [label for label, _ in filled] == ["CE", "CE+DRW", "CE+DRW"]
    assert "QUICK RUN: " in table and "STAND-IN: Digits/LT/45 is no part of the paper" in table
    assert "Not asked for: 13 of 16 values, left empty." in table and "Not run" not in table
    assert after.startswith("results/unified_bound/table1.digits.quick.*; its Records: store/records")


def test_a_quick_run_writes_its_table_in_every_format_and_its_records(quick):
    written = {path.name: path.read_text() for path in (quick.folder / "results/unified_bound").iterdir()}
    assert set(written) == {f"table1.digits.quick.{suffix}" for suffix in SUFFIXES.values()}
    # What is written is the whole table, in which other rows are not run; those were not asked for.
    shown = written["table1.digits.quick.txt"].replace("Not run, or not yet finished: 13", "Not asked for: 13")
    assert shown in quick.told.out
    assert (
        re.search(r"^\| CE\+DRW +\|", written["table1.digits.quick.md"], re.M)
        and r"\toprule" in written["table1.digits.quick.tex"]
    )
    numbers = published.parse(written["table1.digits.quick.csv"], "ours")
    filled = {row: number for (row, path, _), number in numbers.items() if number.value is not None and path == "Digits/LT/45"}
    assert set(filled) == {"w/o SAM/CE", "w/o SAM/CE+DRW", "w/ SAM/CE+DRW"} and len(numbers) == 16
    for number in filled.values():
        assert number.provenance == "replica" and number.n == 1
        assert "quick: never compared" in number.note and "stand-in: never compared" in number.note
    made = [json.loads(path.read_text()) for path in records(quick.folder)]
    assert sorted(told["made_for"]["method"] for told in made) == ["CE", "CE+DRW", "CE+DRW+SAM"]
    assert all(told["made_for"]["quick"] and told["source"] == "digits" for told in made)
    # Epochs of two batches: no Measure over the whole training set is worth its time.
    assert not (quick.folder / "store/measures").exists()


def test_a_second_call_trains_nothing(copy, quick):
    before = contents(copy / "store")
    code, out, err = call(copy, "unified-bound", *QUICK)
    assert (code, err) == (0, "")
    assert "3 cells: 3 done before, 0 trained now in 0 epochs." in out
    assert out.partition("This table")[0] == quick.told.out.partition("This table")[0]
    assert contents(copy / "store") == before


@pytest.mark.parametrize("form", SUFFIXES)
def test_tables_prints_from_records_alone_what_the_run_wrote(quick, form):
    before = contents(quick.folder)
    code, out, err = call_without_torch(
        quick.folder, "tables", "unified-bound", "--table", "1", "--quick", "--dataset", "digits", "--format", form
    )
    assert (code, err) == (0, "")
    assert out.rstrip("\n") == (
        (quick.folder / f"results/unified_bound/table1.digits.quick.{SUFFIXES[form]}").read_text().rstrip("\n")
    )
    assert contents(quick.folder) == before


def test_tables_without_a_number_passes_over_tables_that_lack_the_data_set_or_method(quick):
    """Not every table of a paper has every data set and method; without ``--table`` those that do are meant."""
    text = (quick.folder / "results/unified_bound/table1.digits.quick.txt").read_text()
    for which in (["--dataset", "digits"], ["--dataset", "digits", "--method", "CE"]):
        code, out, err = call_without_torch(quick.folder, "tables", "unified-bound", "--quick", *which)
        assert code == 0, err
        assert text.splitlines()[0] in out and "replicate: " not in err


def test_tables_reads_the_store_of_the_environment_and_committed_records(quick, tmp_path):
    request = ("tables", "unified-bound", "--table", "1", "--quick", "--dataset", "digits")
    text = (quick.folder / "results/unified_bound/table1.digits.quick.txt").read_text().strip()
    assert call_without_torch(tmp_path, *request, REPLICATE_STORE=str(quick.folder / "store")).out.strip() == text
    shutil.copytree(quick.folder / "store/records", tmp_path / "committed/unified_bound/records")
    assert call_without_torch(tmp_path, *request, "--results", "committed").out.strip() == text
    code, out, err = call_without_torch(tmp_path, *request)
    assert (code, out) == (0, "") and "no Records yet" in err and len(err.splitlines()) == 1


def test_a_store_that_is_not_there_is_refused_and_folders_without_records_are_named(tmp_path, call_here, monkeypatch):
    for command in (["tables"], ["diff", "wb"], ["why", "wb", "WD", "cifar10-lt", "100"], ["list"], ["checklist"]):
        assert_refused(call_here(tmp_path, *command, "--store", "typo"), "'typo' is not a folder", "leave out --store")
    told = call_here(tmp_path, "tables", "wb", "--table", "2", "--results", "nowhere")
    assert told.err.endswith(f"looked in 'store' and {os.path.join('nowhere', 'wb')!r}\n") and told.code == 0


@pytest.mark.parametrize("selection", ["as-published", "cross-fitted", "best-on-validation", "last-epoch"])
def test_tables_under_every_selection(quick, selection):
    code, out, err = call_without_torch(
        quick.folder, "tables", "unified-bound", "--table", "1", "--quick", "--dataset", "digits", "--selection", selection
    )
    assert (code, err) == (0, "") and f"Selection {selection}: " in out
    assert len(re.findall(r"^(?:CE|CE\+DRW) +\d+\.\d", out, re.M)) == 3


@pytest.mark.parametrize("which", [["--table", "1"], []])
def test_diff_compares_no_stand_in(quick, which):
    request = ("diff", "unified-bound", *which, "--quick", "--dataset", "digits")
    code, out, err = call_without_torch(quick.folder, *request)
    assert code == 0 and "replicate: " not in err, err
    assert len(re.findall(r"^w/o? SAM/\S+ +\d+\.\d\d +1 +not comparable$", out, re.M)) == 3
    assert "QUICK RUN, STAND-IN" in out.splitlines()[0]
    if which:
        lines = list(csv.DictReader(io.StringIO(call_without_torch(quick.folder, *request, "--format", "csv").out)))
        assert len(lines) == 16
        assert sum(line["verdict"] == "not comparable" for line in lines) == sum(line["replica"] != "" for line in lines) == 3
        assert not any(line["published"] or line["difference"] for line in lines)


def test_plan_option_counts_what_is_left_and_trains_nothing(quick, call_here):
    before = contents(quick.folder)
    arguments = [argument if argument != "0" else "0-1" for argument in QUICK]
    code, out, err = call_here(quick.folder, "unified-bound", *arguments, "--plan")
    assert (code, err) == (0, "")
    # Each seed: cells of 1, 2 and 2 epochs, of which the first two share one; seed 0 is done.
    assert re.search(r"^digits/45 +6 +10 +8 +4 +\d+ s +\d+ MiB$", out, re.M), out
    assert "grid table, seeds 0, 1, quick" in out and "Nothing was trained." in out
    assert contents(quick.folder) == before


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The plan of one CIFAR column where there is no CIFAR."""
    folder = tmp_path_factory.mktemp("plan")
    told = call(folder, "plan", "unified-bound", "--dataset", "cifar10-lt", "--ratio", "100", "--seeds", "0")
    return SimpleNamespace(folder=folder, told=told)


def test_plan_of_a_column_at_ratio_100(plan):
    code, out, err = plan.told
    assert code == 0, err
    heads = ("cells", "epochs, each cell alone", "epochs, beginnings shared", "left to train", "time left", "disk")
    assert all(head in out for head in heads)
    assert re.search(r"^cifar10-lt/100 +46 +9200 +2800 +2800 +\d.*(?:min|h) +\d+ MiB$", out, re.M), out
    assert re.search(r"resnet32 [1-9][\d,]* images/s\. Nothing was trained\.", out)
    assert list(plan.folder.iterdir()) == []


def test_plan_says_once_that_data_is_missing(plan):
    (line,) = plan.told.err.splitlines()
    assert line.startswith("cifar10 is planned for the official edition: CIFAR-10 needs a data folder") and "--data" in line


# --- published numbers -----------------------------------------------------------------------------------------------


def test_published_numbers_come_back(tmp_path):
    code, out, err = call_without_torch(tmp_path, "tables", "unified-bound", "--published", "--table", "1", "--format", "csv")
    assert (code, err) == (0, "")
    assert published.parse(out, "printed") == dict(published.load("unified_bound", "table1.csv"))


def test_published_numbers_of_some_rows_alone(tmp_path, call_here):
    which = ("tables", "unified-bound", "--published", "--table", "1")
    told = call_here(tmp_path, *which, "--method", "CE", "--format", "csv")
    assert {row for row, _, _ in published.parse(told.out, "printed")} == {"w/o SAM/CE"}
    for options in (["--selection", "last-epoch"], ["--variant", "text"], ["--quick"], ["--grid", "released"]):
        assert_refused(call_here(tmp_path, *which, *options), "--published", options[0], "leave one out")
    whole = ("tables", "unified-bound", "--published", "--table", "2", "--dataset", "cifar10-lt")
    assert_refused(call_here(tmp_path, *whole), "table 2 is printed as published, whole", "leave out")
    assert_refused(call_here(tmp_path, "tables", "wb", "--grid", "figure2"), "'figure2'", "allowed: table, table3;", "measures")


@pytest.mark.parametrize(
    ("form", "mark"), [("text", "^w/o SAM\n---"), ("markdown", r"^\| \*\*w/o SAM\*\*"), ("latex", r"^\\midrule$")]
)
def test_published_tables_in_every_format(tmp_path, form, mark):
    code, out, err = call_without_torch(tmp_path, "tables", "unified-bound", "--published", "--format", form)
    assert (code, err) == (0, "")
    assert re.search(mark, out, re.M)
    assert [title.split()[0] for title in out.split("unified-bound: table ")[1:]] == ["1", "2", "released"]
    texts = [number.value_text for table in PAPER.tables for number in tables.printed(PAPER, table).values()]
    assert len(texts) == 16 * 8 + 15 * 8 + 4 * 8 and all(text in out for text in texts)


# --- stopping and going on -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return SimpleNamespace(folder=folder, told=call(folder, "unified-bound", *FULL))


def stopped(folder, number, arguments=("unified-bound", *FULL), stop=os.kill):
    """Start a run in a group of processes of its own, ``stop`` it by a signal as soon as it has saved a further state, and wait
    for its end; returns what it told and its number."""
    saved = len(checkpoints(folder))
    # A shell that runs the tests in the background has them ignore Ctrl-C, and what a process ignores, its children do too.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [*script(), *arguments], cwd=folder, env=environment(), start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, handler)
    try:
        deadline = time.monotonic() + 120
        while len(checkpoints(folder)) == saved and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        stop(process.pid, number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    return Told(process.returncode, out, err), process.pid


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """The same run killed, stopped by Ctrl-C, and finished, one after another in one folder; ``copy``: that after the kill."""
    folder = tmp_path_factory.mktemp("interrupted")
    killed, _ = stopped(folder, signal.SIGKILL)
    saved = [path.name for path in checkpoints(folder)]
    whole = {path.name: bool(torch.load(path, weights_only=True)) for path in checkpoints(folder)}
    # What a process leaves that is killed while it writes; the real one is almost never caught at it.
    place = folder / "store/records/digits@official"
    place.mkdir(parents=True, exist_ok=True)
    (place / f".{'0' * 24}-s0.json.1.0a1b2c3d").write_bytes(b'{"format":1,"key":"')
    (checkpoints(folder)[0].parent / f".{checkpoints(folder)[0].name}.1.0a1b2c3d").write_bytes(b"PK\x03\x04")
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("killed") / "copy")
    ctrl_c, _ = stopped(folder, signal.SIGINT)
    between = len(records(folder))
    return SimpleNamespace(
        folder=folder, killed=killed, saved=saved, whole=whole, copy=copy, ctrl_c=ctrl_c, between=between,
        finished=call(folder, "unified-bound", *FULL),
    )  # fmt: skip


def without_clocks(path):
    """A Record or Measure as data, without what differs between two runs of the same cell."""
    told = json.loads(path.read_text())
    if "curves" in told:
        del told["curves"]["seconds"]
        del told["environment"]["commit"]  # changes when somebody saves a file of the checkout meanwhile
    return told


def test_an_uninterrupted_run_has_records_measures_and_counts(uninterrupted):
    code, out, err = uninterrupted.told
    assert code == 0, err
    assert f"3 cells: 0 done before, 3 trained now in {FULL_EPOCHS} epochs." in out
    assert "STAND-IN" in out and "QUICK" not in out
    made = [without_clocks(path) for path in records(uninterrupted.folder)]
    assert [told["epochs"] for told in made] == [60, 60, 60]
    assert len(list(uninterrupted.folder.glob("store/measures/digits@official/class_bound/*.json"))) == 3


def test_list_counts_finished_cells(uninterrupted, quick):
    code, out, err = call_without_torch(uninterrupted.folder, "list")
    assert (code, err) == (0, "")
    assert "    digits --ratio 45: 3 Records of 16 cells a seed, up to 1 seeds (digits@official)\n" in out
    assert out.partition("\nwb: ")[0].count("cifar10-lt --ratio 100: nothing done") == 2  # both tables have this column
    assert "  variant text-mean: " in out and "  grid figure3: " in out and "VS+TLA+ADRW+SAM" in out
    # A quick run is no cell of a table.
    assert "digits --ratio 45: nothing done" in call_without_torch(quick.folder, "list").out


def test_diff_of_a_whole_run_on_a_stand_in_stays_apart_from_the_paper(uninterrupted):
    where = ("diff", "unified-bound", "--table", "1")
    code, out, err = call_without_torch(uninterrupted.folder, *where, "--dataset", "digits")
    assert (code, err) == (0, "")
    assert len(re.findall(r" not comparable$", out, re.M)) == 3
    assert "STAND-IN" in out.splitlines()[0] and "QUICK" not in out.splitlines()[0]
    code, out, err = call_without_torch(uninterrupted.folder, *where)  # nothing there to differ from
    assert (code, out) == (0, "") and "table 1: no Records on the paper's own data yet; run `replicate unified-bound" in err


def test_a_killed_run_leaves_whole_checkpoints_alone(interrupted):
    assert interrupted.killed.code == -signal.SIGKILL
    assert interrupted.saved and all(interrupted.whole.values())


@pytest.fixture
def out_of_time(interrupted, tmp_path, call_here):
    """What the run tells that goes on after the kill and has no time."""
    shutil.copytree(interrupted.copy, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path / "store")
    told = call_here(tmp_path, "unified-bound", *FULL, "--time-limit", "0")
    assert contents(tmp_path / "store") == before
    return told


def test_out_of_time_is_no_error_and_says_what_is_left(out_of_time):
    code, out, err = out_of_time
    assert (code, err) == (0, "")
    assert re.search(r"^3 cells: \d done before, 0 trained now in 0 epochs\.$", out, re.M)
    left = re.search(r"^time limit: (\d) cells? in (\d+) epochs? are left.*; the same command goes on", out, re.M)
    assert left
    # The killed run saved a state at epoch 12 at least, and did not get to the end.
    assert 1 <= int(left[1]) <= 3 and 1 <= int(left[2]) <= FULL_EPOCHS - 12


def test_no_time_is_promised_before_any_was_measured(out_of_time):
    assert "time limit: " in out_of_time.out and "about 0 s" not in out_of_time.out


def test_ctrl_c_is_one_line_and_code_130(interrupted):
    code, out, err = interrupted.ctrl_c
    assert code == 130 and out == "" and "Traceback" not in err
    *progress, message = [line for line in err.splitlines() if line]
    assert message == "stopped; the last checkpoint stays: the same command goes on from it"
    assert all(re.match(r"\[\d/3\] .* epoch ", line) for line in progress)


def test_the_same_command_goes_on_and_changes_no_number(interrupted, uninterrupted):
    code, out, err = interrupted.finished
    assert code == 0, err
    done = re.search(r"^3 cells: (\d) done before, (\d) trained now in (\d+) epochs\.$", out, re.M)
    assert int(done[1]) == interrupted.between and int(done[1]) + int(done[2]) == 3
    assert 1 <= int(done[3]) <= FULL_EPOCHS - 24  # at least two states were saved, the second one later than the first
    for kind in ("store/records/*/*.json", "store/measures/*/*/*.json"):
        told, expected = (
            {path.name: without_clocks(path) for path in run.folder.glob(kind)} for run in (interrupted, uninterrupted)
        )
        # A name that begins with a dot is a leftover of the killed run: it may stay, and counts for nothing.
        told = {name: value for name, value in told.items() if not name.startswith(".")}
        assert len(expected) == 3 and told == expected
    tables = [sorted((run.folder / "results/unified_bound").iterdir()) for run in (interrupted, uninterrupted)]
    files = ["README.md", *(f"table1.digits.{suffix}" for suffix in sorted(SUFFIXES.values()))]
    assert [path.name for path in tables[0]] == files
    assert [path.read_bytes() for path in tables[0]] == [path.read_bytes() for path in tables[1]]


# --- bad input: one line, exit code 2 --------------------------------------------------------------------------------

RUN = ("unified-bound",)
WRONG = {
    "command": (("trian",), "'trian'", "unified-bound, wb, lort, across, bench, checklist, claims, data, diff, figures"),
    "paper of plan": (("plan", "unifed"), "'unifed'", "unified-bound"),
    "paper of tables": (("tables", "unifed"), "'unifed'", "unified-bound"),
    "paper of diff": (("diff", "unifed"), "'unifed'", "unified-bound"),
    "paper left out": (("why",), "PAPER"),
    "option": ((*RUN, "--datset", "digits"), "--datset", "--dataset"),
    "argument": ((*RUN, "digits"), "digits"),
    "method": ((*RUN, "--method", "CE+SAM"), "'CE+SAM'", "CE+DRW+SAM"),
    "method of another grid": ((*RUN, "--grid", "released", "--method", "CE"), "'CE'", "CE+SAM"),
    "method of plan": (("plan", "unified-bound", "--method", "ce"), "'ce'", "CE"),
    "data set": ((*RUN, "--dataset", "imagenet"), "'imagenet'", "cifar10-lt", "digits"),
    "data set of tables": (("tables", "--dataset", "imagenet"), "'imagenet'", "cifar10-lt", "digits"),
    "ratio": ((*RUN, "--dataset", "cifar10-lt", "--ratio", "50"), "50", "100, 10"),
    "ratio of another data set": ((*RUN, "--dataset", "digits", "--ratio", "100"), "100", "45"),
    "ratio in words": ((*RUN, "--ratio", "ten"), "'ten'", "integer"),
    "table": ((*RUN, "--table", "7"), "'7'", "1, 2, released"),
    "table of diff": (("diff", "unified-bound", "--table", "7"), "'7'", "1, 2, released"),
    "table that is printed alone": ((*RUN, "--table", "2"), "table 2", "replicate tables unified-bound --table 2"),
    "grid": ((*RUN, "--grid", "figure5"), "'figure5'", "table, full, released"),
    "grid without a table": (("tables", "--grid", "figure1"), "'figure1'", "table"),
    "variant": ((*RUN, "--variant", "txt"), "'txt'", "text-mean"),
    "selection": (("tables", "--selection", "best"), "'best'", "cross-fitted"),
    "format": (("tables", "--format", "html"), "'html'", "markdown"),
    "format of diff": (("diff", "unified-bound", "--format", "latex"), "'latex'", "markdown"),
    "time limit": ((*RUN, "--time-limit", "-5"), "-5"),
    # No moment is later than nan: such a run would never stop. The store keeps one from starting if it is taken.
    "time limit that is no number": ((*RUN, "--time-limit", "nan", "--store", "/proc/none"), "nan", "--time-limit"),
    "time limit in words": ((*RUN, "--time-limit", "soon"), "'soon'"),
    "data to fetch": (("data", "get", "digits"), "'digits'", "cifar10, cifar100"),
    "data to fetch, mistyped": (("data", "get", "cifar"), "'cifar'", "cifar10, cifar100"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_words(tmp_path, what):
    arguments, *named = WRONG[what]
    assert_refused(call(tmp_path, *arguments), *named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", ["x", "3-1", "-1", "", "0,,2", "1-", "0-4-8", "0.5"])
def test_wrong_seeds(tmp_path, seeds):
    assert_refused(call(tmp_path, *RUN, "--dataset", "digits", "--seeds", seeds), f"{seeds!r}", "0-4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit on memory: other systems have none")
@pytest.mark.parametrize("seeds", ["0-1000", "0-99999999999", "9" * 5000])
def test_more_seeds_than_anybody_runs(tmp_path, seeds):
    # Without the limit, a range that is made before it is counted would take the machine's memory.
    limit = ("sh", "-c", 'ulimit -v 2000000 && exec "$@"', "sh")
    assert_refused(call(tmp_path, *RUN, "--dataset", "digits", "--seeds", seeds, before=limit), "seeds")


def test_a_gpu_that_is_not_here(tmp_path):
    assert_refused(call(tmp_path, *RUN, *QUICK, "--device", "cuda"), "'cuda'", "leave out --device")
    assert records(tmp_path) == []


def test_a_device_that_is_none(tmp_path, call_here):
    assert_refused(call_here(tmp_path, *RUN, *QUICK, "--device", "gpu0"), "'gpu0'", "allowed: cpu, cuda")
    assert records(tmp_path) == []


def test_what_click_refuses_says_what_is_allowed_too(tmp_path, call_here):
    assert_refused(call_here(tmp_path, "data", "nope"), "'nope'", " has: get")
    assert_refused(call_here(tmp_path, "tables", "--seeds", "0-2"), "'--seeds'", " has: --table, --dataset, ")
    assert_refused(call_here(tmp_path, "list", "wb"), "(wb)", "list --help")
    assert_refused(call_here(tmp_path, "why", "wb"), "'ROW'", "why --help")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, as Linux has it")
def test_output_that_cannot_be_written_is_one_line(tmp_path):
    with open("/dev/full", "w") as full:
        for command in (["list"], ["tables", "lort", "--published"]):
            done = subprocess.run(
                [*script(), *command], cwd=tmp_path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True
            )
            assert_refused(Told(done.returncode, "", done.stderr), "No space left", "send it elsewhere")


def test_help_and_version_are_no_errors(tmp_path):
    for arguments in (["--help"], ["--version"], [*RUN, "--help"], ["tables", "-h"]):
        code, out, err = call_without_torch(tmp_path, *arguments)
        assert (code, err) == (0, "") and ("Usage: " in out or "version" in out)


def test_no_command_prints_the_help_and_not_an_error_of_many_lines(tmp_path):
    _, out, err = call(tmp_path)
    assert "Commands:\n" in out + err and "replicate: " not in err


# --- data that is missing or not what it should be -------------------------------------------------------------------

CIFAR = ("unified-bound", "--dataset", "cifar10-lt", "--ratio", "100", "--seeds", "0", "--quick")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def with_first_file(folder, content):
    """A CIFAR folder in which every file is there and the first one has this content; returns that one's path."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name in ARCHIVES["cifar10"].files:
        (place / name).write_bytes(b"")
    (place / "data_batch_1").write_bytes(content)
    return place / "data_batch_1"


def images(side):
    return data_files.batch(np.zeros((20, 3, side, side), np.uint8), [k % 10 for k in range(20)])


def test_no_data_folder(tmp_path):
    assert_refused(call(tmp_path, *CIFAR), "CIFAR-10", "--data DIR", "REPLICATE_DATA", "replicate data get cifar10")


@pytest.mark.parametrize("how", ["option", "environment"])
def test_data_folder_that_is_missing(tmp_path, how):
    gone = str(tmp_path / "gone")
    told = call(tmp_path, *CIFAR, "--data", gone) if how == "option" else call(tmp_path, *CIFAR, REPLICATE_DATA=gone)
    assert_refused(told, "CIFAR-10", repr(gone), "replicate data get cifar10")


def test_data_folder_that_lacks_a_file(tmp_path):
    with_first_file(tmp_path, b"").unlink()
    assert_refused(call(tmp_path, *CIFAR, "--data", "."), "incomplete", "data_batch_1", "replicate data get cifar10")


FOREIGN = {
    "cut off": images(32)[:-1000],
    "cut off at the start": images(32)[:10],
    "empty": b"",
    "text": b"<html><body>404 not found</body></html>\n",
    "images of another size": images(28),
    "pickle of another kind": pickle.dumps({"data": [1, 2, 3]}, protocol=4),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_file_that_is_no_cifar_batch(tmp_path, what):
    path = with_first_file(tmp_path, FOREIGN[what])
    assert_refused(call(tmp_path, *CIFAR, "--data", str(tmp_path)), repr(str(path)), "replicate data get")
    assert records(tmp_path) == []


def test_too_few_images(tmp_path):
    data_files.write_cifar10(tmp_path, train=5, test=1, side=32)
    told = call(tmp_path, *CIFAR, "--data", str(tmp_path))
    assert_refused(told, repr(str(tmp_path / "cifar-10-batches-py")), "expected 5,000 of every class")


def test_a_malicious_file_is_refused_and_nothing_in_it_runs(tmp_path):
    marker = tmp_path / "executed"
    hostile = pickle.dumps(Hostile(str(marker)), protocol=2)
    pickle.loads(hostile)
    marker.rmdir()  # raises unless the file does run when it is read by Python's own reader
    path = with_first_file(tmp_path / "data", hostile)
    assert_refused(call(tmp_path, *CIFAR, "--data", "data"), f"data/{path.parent.name}/{path.name}", "mkdir")
    code, out, err = call_without_torch(tmp_path, "data", REPLICATE_DATA="data")
    assert (code, err) == (0, "") and out.startswith("folder: data\n")
    assert re.search(r"^cifar10 +unusable +.*mkdir", out, re.M)
    assert not marker.exists()


def test_data_says_what_is_there_and_what_is_missing(tmp_path):
    code, out, err = call_without_torch(tmp_path, "data")
    assert (code, err) == (0, "")
    assert "folder: none given (--data DIR or REPLICATE_DATA)" in out.splitlines()
    assert re.findall(r"^(\w+) +(present|missing|unusable)\b", out, re.M) == [
        ("cifar10", "missing"),
        ("cifar100", "missing"),
        ("digits", "present"),
        ("mnist", "missing"),
        ("mini_imagenet", "missing"),
        ("mini_imagenet_lt", "missing"),
    ]
    assert list(tmp_path.iterdir()) == []


def test_data_option_goes_before_the_environment(tmp_path):
    with_first_file(tmp_path / "one", b"")
    (tmp_path / "two").mkdir()
    code, out, err = call_without_torch(tmp_path, "data", "--data", "two", REPLICATE_DATA="one")
    assert (code, err) == (0, "") and out.startswith("folder: two\n")
    assert re.search(r"^cifar10 +missing +CIFAR-10 is not in 'two'", out, re.M)


def test_data_finds_real_cifar(tmp_path, cifar_folder):
    code, out, err = call_without_torch(tmp_path, "data", REPLICATE_DATA=str(cifar_folder))
    assert (code, err) == (0, "")
    assert f"folder: {cifar_folder}" in out.splitlines() and re.search(r"^cifar10 +present\b", out, re.M)


# --- stores that cannot be used --------------------------------------------------------------------------------------


def test_store_that_is_a_file(tmp_path):
    (tmp_path / "store").write_text("mine")
    assert_refused(call(tmp_path, *RUN, *QUICK), "'store'", "--store")
    assert (tmp_path / "store").read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, where not even root can make a folder")
def test_store_that_cannot_be_written(tmp_path):
    assert_refused(call(tmp_path, *RUN, *QUICK, "--store", "/proc/replicate"), "'/proc/replicate'", "--store")


def test_results_that_cannot_be_written_are_refused_before_anything_is_trained(tmp_path, call_here):
    (tmp_path / "results").write_text("mine")
    assert_refused(call_here(tmp_path, *RUN, *QUICK), "results 'results'", "--results")
    assert not records(tmp_path)


def test_files_that_change_while_a_run_goes_on_are_not_trained_on():
    first, second = SimpleNamespace(edition="official"), SimpleNamespace(edition="0a1b2c3d4e5f")
    read = iter([second])
    load = run_module._loader({"digits": first}, {"digits": "official"}, None)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run_module, "read_images", lambda source, data: next(read))
        assert load("digits") is first
        with pytest.raises(BadInput, match=r"digits has changed .*'official' to '0a1b2c3d4e5f'.*run the command") as refused:
            load("digits")
    assert "\n" not in str(refused.value)


def damage(path, how):
    told = json.loads(path.read_text())
    if how == "cut off":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "of another cell":
        other = next(p for p in sorted(path.parent.iterdir()) if p != path)
        path.write_bytes(other.read_bytes())
    elif how == "nested without end":
        path.write_bytes(b"[" * 100_000)
    elif how == "without test counts":
        del told["curves"]["test"]
        path.write_text(json.dumps(told))
    elif how == "an epoch short":
        told["curves"]["test"][0]["majority"].pop()
        path.write_text(json.dumps(told))


DAMAGES = ("cut off", "of another cell", "nested without end", "without test counts", "an epoch short")


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_record_is_named_by_what_reads_it(copy, how):
    path = records(copy)[1].relative_to(copy)
    damage(copy / path, how)
    left = (copy / path).read_bytes()
    for command in ("tables", "diff"):
        told = call_without_torch(copy, command, "unified-bound", "--table", "1", "--quick", "--dataset", "digits")
        assert_refused(told, repr(str(path)), "delete it and run again")
    assert (copy / path).read_bytes() == left


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_record_stops_a_run_before_it_trains(copy, how, call_here):
    path = records(copy)[1].relative_to(copy)
    damage(copy / path, how)
    before = contents(copy / "store")
    assert_refused(call_here(copy, *RUN, *QUICK), repr(str(path)), "delete it and run again")
    assert contents(copy / "store") == before


# --- run_all.sh ------------------------------------------------------------------------------------------------------

NEEDS_SCRIPT = pytest.mark.skipif(
    not (ROOT / "run_all.sh").exists(), reason="needs a checkout: the script is no part of the package"
)


@NEEDS_SCRIPT
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["cfar"], 2, "run_all.sh: 'cfar' is unknown; allowed: digits, cifar, mnist, mini-imagenet, all, test"),
        (["digits"], 2, "run_all.sh: no Python 3.10 or newer was found"),
        (["--help"], 0, ""),
        (["-h"], 0, ""),
    ],
)
def test_run_all_sets_nothing_up_for_a_wrong_word_or_help(tmp_path, arguments, code, told):
    # A Python that is not there keeps the script from setting anything up, should it try.
    env = environment(REPLICATE_VENV=str(tmp_path / "venv"), PYTHON=str(tmp_path / "python"))
    done = subprocess.run([ROOT / "run_all.sh", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    if code:
        assert done.stdout == "" and len(done.stderr.splitlines()) == 1 and done.stderr.startswith(told)
    else:
        assert done.stderr == "" and "set -e" not in done.stdout
        assert "./run_all.sh [digits|cifar|mnist|mini-imagenet|all|test]" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def set_up(tmp_path):
    """Runs run_all.sh in a folder of the user's, with a Python that installs nothing and notes what it is called with: the
    arguments, and the store. Its environment is half made, without pip. ``ends`` maps a paper to an exit code."""
    called = tmp_path / "called"
    python, venv, folder = tmp_path / "a python", tmp_path / "venv", tmp_path / "mine"
    (venv / "bin").mkdir(parents=True)
    folder.mkdir()
    python.write_text(
        f"""#!/usr/bin/env bash
case "$1 ${{2:-}}" in
    "-m venv") cp "$0" "$3/bin/python"; touch "$3/pip" ;;
    "-m pip") exec test -e "{venv}/pip" ;;
    --version*) echo "Python 3" ;;
    -c*) ;;
    *) echo "$* $REPLICATE_STORE" >>"{called}"; name=ENDS_${{2//-/_}}; exit "${{!name:-0}}" ;;
esac
"""
    )
    python.chmod(0o755)
    (venv / "bin/python").write_text("#!/bin/sh\nexit 1\n")
    (venv / "bin/python").chmod(0o755)

    def run(*arguments, ends=None, **more):
        env = environment(REPLICATE_VENV=str(venv), PYTHON=str(python), **more)
        env |= {f"ENDS_{paper.replace('-', '_')}": str(code) for paper, code in (ends or {}).items()}
        script = os.path.relpath(ROOT / "run_all.sh", folder)
        done = subprocess.run([script, *arguments], cwd=folder, env=env, capture_output=True, text=True, timeout=60)
        lines = called.read_text().splitlines() if called.exists() else []
        return done, [line.partition(f"{venv}/bin/replicate ")[2] for line in lines]

    run.beside = os.path.dirname(os.path.relpath(ROOT / "run_all.sh", folder))
    return run


@NEEDS_SCRIPT
def test_run_all_helps_from_another_folder(set_up):
    done, called = set_up("--help")
    assert done.returncode == 0 and "digits|cifar" in done.stdout and done.stderr == "" and called == []


@NEEDS_SCRIPT
def test_run_all_mends_an_environment_that_is_half_made(set_up):
    done, called = set_up("mnist")
    assert done.returncode == 0 and "making " in done.stderr and len(called) == 1
    assert "making " not in set_up("mnist")[0].stderr


@NEEDS_SCRIPT
def test_run_all_means_given_paths_from_where_it_is_called(set_up):
    beside = set_up.beside
    _, (called,) = set_up("mnist", "--results", "out")
    assert called == f"wb --results {beside}/results --dataset mnist --results out {beside}/store"
    assert set_up("mnist", REPLICATE_STORE="kept")[1][-1].endswith(" kept")


@NEEDS_SCRIPT
def test_run_all_goes_on_after_a_paper_with_failed_cells_and_stops_at_anything_else(set_up):
    done, called = set_up("digits", ends={"unified-bound": 1})
    assert done.returncode == 1 and [line.split()[0] for line in called] == ["unified-bound", "wb", "lort"]
    done, called = set_up("digits", ends={"wb": 2})
    assert done.returncode == 2 and [line.split()[0] for line in called[3:]] == ["unified-bound", "wb"]


# --- real images -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_quick_run_on_real_cifar(tmp_path, cifar_folder):
    which = ("--method", "CE", "--method", "CE+DRW")
    code, out, err = call(tmp_path, *CIFAR, *which, REPLICATE_DATA=str(cifar_folder))
    assert code == 0, err
    assert "quick run of table 1." in out and "QUICK RUN: " in out and "Quirk lr-drops: " in out
    assert "2 cells: 0 done before, 2 trained now in 2 epochs." in out
    edition = records(tmp_path)[0].parent.name
    assert len(records(tmp_path)) == 2 and re.fullmatch(r"cifar10@(official|[0-9a-f]{12})", edition)
    # Another copy than the official one is used, with one notice, and its table has a name of its own.
    official = edition.endswith("@official")
    assert err.count("is not the official release") == (0 if official else 1)
    stem = "table1.quick" if official else f"table1.{edition}.quick"
    text = (tmp_path / f"results/unified_bound/{stem}.txt").read_text()
    for told in (json.loads(path.read_text()) for path in records(tmp_path)):
        assert told["class_counts"][0] == 5000 and told["class_counts"][-1] == 50

    where = ("--table", "1", "--quick", "--dataset", "cifar10-lt", "--ratio", "100")
    assert call_without_torch(tmp_path, "tables", *where, *which).out.strip() in out
    assert call_without_torch(tmp_path, "tables", "--table", "1", "--quick").out.strip() == text.strip()
    code, out, err = call_without_torch(tmp_path, "diff", "unified-bound", *where)
    assert (code, err) == (0, "") and len(re.findall(r" not comparable$", out, re.M)) == 2
    again = call(tmp_path, *CIFAR, *which, "--data", str(cifar_folder))
    assert again.code == 0 and "2 cells: 2 done before, 0 trained now in 0 epochs." in again.out
