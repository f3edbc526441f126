"""The logits-retargeting paper's whole commands, as a user runs them."""

import csv
import io
import json
import re
import shutil
from types import SimpleNamespace

import pytest
from test_cli import assert_refused, call, call_here, call_without_torch, contents, records

from replicate.report import published

__all__ = ["call_here"]  # a fixture

QUICK = ("--dataset", "digits", "--seeds", "0", "--quick")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A finished quick run of every table that digits have: its folder, and what it told. Read only."""
    folder = tmp_path_factory.mktemp("lort")
    return SimpleNamespace(folder=folder, told=call(folder, "lort", *QUICK))


def test_a_quick_run_prints_every_table_that_digits_have(quick):
    code, out, err = quick.told
    assert code == 0, err
    assert re.findall(r"^lort: quick run of .*table (\w+)", out, re.M) == ["1", "3"]
    # 13 rows of Table 1, four backbones and six second stages on each: 41 cells; a backbone of one epoch and its packs of one,
    # the four backbones of Table 3, two of which share their first epoch, and a pack on each.
    assert re.search(r"^41 cells: 0 done before, 41 trained now in \d+ epochs\.$", out, re.M), out[-300:]
    written = {path.name for path in (quick.folder / "results/lort").iterdir()}
    assert {f"table{n}.digits.quick.{s}" for n in (1, 3) for s in ("txt", "md", "csv", "tex")} == written


def test_classifiers_on_one_backbone_are_one_line_of_progress(quick):
    assert re.search(
        r"^\[2-10/41\] Vanilla Cosine and 8 more classifiers, digits/45 seed 0  epoch 2/2 ", quick.told.err, re.M
    ), quick.told.err
    named = re.findall(r"^\[\d+-\d+/41\] (\S+) and 5 more classifiers, ", quick.told.err, re.M)
    assert named == ["CE", "CE-DRW", "LDAM-DRW", "BS"]
    told = [json.loads(path.read_text()) for path in records(quick.folder)]
    assert sum(record.get("adjusted") is not None for record in told) == 2 and len(told) == 41


def test_a_second_call_trains_nothing(quick, tmp_path):
    shutil.copytree(quick.folder, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path / "store")
    code, out, err = call(tmp_path, "lort", *QUICK)
    assert (code, err) == (0, "") and "41 cells: 41 done before, 0 trained now in 0 epochs." in out
    assert contents(tmp_path / "store") == before


def test_tables_and_diff_print_from_records_alone(quick):
    for number in ("1", "3"):
        which = ("lort", "--table", number, "--quick", "--dataset", "digits")
        code, out, err = call_without_torch(quick.folder, "tables", *which)
        assert (code, err) == (0, "")
        assert out.rstrip() == (quick.folder / f"results/lort/table{number}.digits.quick.txt").read_text().rstrip()
        assert "QUICK RUN" in out and "STAND-IN" in out and "best of 1 seed" in out
        code, out, err = call_without_torch(quick.folder, "diff", *which)
        assert code == 0 and "not comparable" in out, err


def test_published_tables_come_back(tmp_path):
    for number in ("1", "2", "3"):
        code, out, err = call_without_torch(tmp_path, "tables", "lort", "--published", "--table", number, "--format", "csv")
        assert (code, err) == (0, "")
        assert published.parse(out, "printed") == dict(published.load("lort", f"table{number}.csv"))


def test_plan_prints_passes_of_both_samplers(tmp_path, call_here, known_speed):
    code, out, err = call_here(tmp_path, "plan", "lort", "--table", "1", "--dataset", "digits", "--seeds", "0")
    assert code == 0, err
    assert re.search(r"^digits/45 +43 +2120 +60 +60 ", out, re.M), out
    assert "36 classifiers on 10 passes of frozen backbones (plain sampler)." in out
    assert "4 classifiers on 10 passes of frozen backbones (class-balanced sampler)." in out


@pytest.mark.parametrize(("ratio", "numbers"), [("100", ["1", "2", "3"]), ("50", ["2"]), ("10", ["2"])])
def test_a_ratio_means_the_tables_that_have_it(tmp_path, call_here, known_speed, ratio, numbers):
    code, out, err = call_here(
        tmp_path, "lort", "--dataset", "cifar100-lt", "--ratio", ratio, "--seeds", "0", "--quick", "--plan"
    )
    assert code == 0, err
    assert re.findall(r"^lort, Table (\w+): ", out, re.M) == numbers


def test_a_variant_means_the_tables_that_it_moves(tmp_path, call_here, known_speed):
    which = ("--dataset", "cifar100-lt", "--ratio", "100", "--variant", "320-epochs", "--seeds", "0", "--quick", "--plan")
    # Quick stages have one epoch, whose rate is another where the schedule is longer.
    code, out, err = call_here(tmp_path, "lort", *which)
    assert code == 0, err
    assert re.findall(r"^lort, Table (\w+): ", out, re.M) == ["1", "2"]
    assert_refused(call(tmp_path, "lort", "--table", "3", *which), "'320-epochs'", "table 3")


def test_rows_that_are_quoted_cannot_be_trained(tmp_path):
    assert_refused(call(tmp_path, "lort", "--table", "2", "--method", "BBN"), "'BBN'", "LORT")
    assert_refused(call(tmp_path, "lort", "--dataset", "imagenet-lt"), "'imagenet-lt'", "cifar100-lt, digits")


def test_measures_of_a_run_that_is_not_quick(tmp_path):
    which = ("--table", "1", "--dataset", "digits", "--seeds", "0")
    code, out, err = call(tmp_path, "lort", *which, "--method", "Vanilla FC", "--method", "LORT", "--method", "CE")
    assert code == 0, err
    code, out, err = call_without_torch(tmp_path, "measures", "lort", "--dataset", "digits")
    assert code == 0, err
    assert "Logits Magnitude" in out and re.search(r"^LORT +\d", out, re.M)
    code, out, err = call_without_torch(tmp_path, "measures", "lort", "--dataset", "digits", "--normals")
    assert code == 0 and "Few" in out, err
    code, out, err = call(tmp_path, "measures", "lort", "--dataset", "digits", "--sample", "7")
    assert code == 0 and re.search(r"^Vanilla FC", out, re.M), err
    assert_refused(call(tmp_path, "measures", "lort", "--dataset", "digits", "--sample", "600"), "600", "0 to 599")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "results/lort/table1.digits.csv").read_text())))
    best = [line for line in lines if line["row"] == "Vanilla FC" and line["metric"] == "top1_accuracy_pct"]
    assert [(line["statistic"], line["n"]) for line in best] == [("best", "1")] * 4
