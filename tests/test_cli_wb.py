"""The weight-balancing paper's whole commands, as a user runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from data_files import write_ready
from test_cli import assert_refused, call, call_here, call_without_torch, contents, environment, records

from replicate.data.folders import RECIPES, WNIDS
from replicate.report import published

__all__ = ["call_here"]  # a fixture

QUICK = ("--dataset", "digits", "--seeds", "0", "--quick")
METHODS = ("--method", "WD", "--method", "WD/Add", "--method", "WB", "--method", "WD fixed BN")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A finished quick run of every table that digits have: its folder, and what it told. Read only."""
    folder = tmp_path_factory.mktemp("wb")
    return SimpleNamespace(folder=folder, told=call(folder, "wb", *QUICK))


def test_a_quick_run_prints_every_table_that_digits_have(quick):
    code, out, err = quick.told
    assert code == 0, err
    titles = re.findall(r"^wb: quick run of .*table (\w+)", out, re.M)
    assert titles == ["2", "3", "4", "6", "8"]
    # 22 methods, one of them with three constants in each of three rows, of which a quick run takes the first; Table 3 adds 3.
    assert re.search(r"^25 cells: 0 done before, 25 trained now in \d+ epochs\.$", out, re.M), out[-300:]
    written = {path.name for path in (quick.folder / "results/wb").iterdir()}
    assert {f"table{n}.digits.quick.{s}" for n in (2, 3, 4, 6, 8) for s in ("txt", "md", "csv", "tex")} == written


def test_adjusted_cells_train_nothing(quick):
    adjusted = re.findall(r"^\[\d+/25\] (\S.*/(?:Add|Mult))(?: constant=0.05)? digits/45 seed 0(.*)$", quick.told.err, re.M)
    assert len(adjusted) == 10 and not any("epoch" in rest for _, rest in adjusted), quick.told.err
    told = [json.loads(path.read_text()) for path in records(quick.folder)]
    assert sum(record.get("adjusted") is not None for record in told) == 10


def test_a_second_call_trains_nothing(quick, tmp_path):
    shutil.copytree(quick.folder, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path / "store")
    code, out, err = call(tmp_path, "wb", *QUICK)
    assert (code, err) == (0, "") and "25 cells: 25 done before, 0 trained now in 0 epochs." in out
    assert contents(tmp_path / "store") == before


def test_tables_prints_from_records_alone(quick):
    code, out, err = call_without_torch(quick.folder, "tables", "wb", "--table", "4", "--quick", "--dataset", "digits")
    assert (code, err) == (0, "")
    assert out.rstrip() == (quick.folder / "results/wb/table4.digits.quick.txt").read_text().rstrip()
    assert "QUICK RUN" in out and "STAND-IN" in out
    code, out, err = call_without_torch(quick.folder, "diff", "wb", "--table", "4", "--quick", "--dataset", "digits")
    assert code == 0 and "not comparable" in out


def test_published_tables_come_back(tmp_path):
    for number, name in (("4", "table4.csv"), ("3", "table3.csv"), ("2", "table2.csv"), ("8", "table8.csv")):
        code, out, err = call_without_torch(tmp_path, "tables", "wb", "--published", "--table", number, "--format", "csv")
        assert (code, err) == (0, "")
        assert published.parse(out, "printed") == dict(published.load("wb", name))
    for arguments in (("--table", "1"), ("--table", "1", "--published")):
        code, out, err = call_without_torch(tmp_path, "tables", "wb", *arguments)
        assert (code, err) == (0, "") and "Devising loss functions" in out and "Kim and Kim" in out


def test_plan_of_table_4(tmp_path, call_here, known_speed):
    code, out, err = call_here(tmp_path, "plan", "wb", "--table", "4", "--seeds", "0")
    assert code == 0, err
    assert re.search(r"^cifar100-lt/100 +12 +3850 +1610 +1610 ", out, re.M), out


def test_networks_are_told_apart(tmp_path, call_here, known_speed):
    code, out, err = call_here(
        tmp_path, "wb", "--table", "3", "--dataset", "mnist", "--network", "mlp3", "--seeds", "0", "--plan"
    )
    assert code == 0, err
    assert re.search(r"^mnist/1/mlp3 +3 +450 +450 +450 ", out, re.M) and "mlp4" not in out


def test_several_data_sets_mean_every_table_that_has_one_of_them(tmp_path, call_here, known_speed):
    """As ``run_all.sh cifar`` names them."""
    names = ("cifar10-lt", "cifar100-lt", "cifar10", "cifar100")
    which = [argument for name in names for argument in ("--dataset", name)]
    code, out, err = call_here(tmp_path, "plan", "wb", *which, "--seeds", "0", "--quick")
    assert code == 0, err
    assert re.findall(r"^wb, Table (\w+): ", out, re.M) == ["2", "3", "4", "6", "7", "8", "10", "text"]


def test_a_method_means_the_tables_that_have_its_row(tmp_path, call_here, known_speed):
    arguments = ("--dataset", "cifar100-lt", "--method", "WD fixed BN", "--seeds", "0")
    code, out, err = call_here(tmp_path, "plan", "wb", *arguments)
    assert code == 0, err
    assert re.findall(r"^wb, Table (\w+): ", out, re.M) == ["2"] and re.search(r"^cifar100-lt/100 +20 ", out, re.M)
    assert_refused(call(tmp_path, "wb", "--table", "6", "--method", "WB"), "'WB'", "table 6", "WD&ETF&DR")


def test_grids_without_a_table_are_summed_up_by_what_the_paper_chooses_on(tmp_path):
    code, out, err = call(tmp_path, "wb", "--grid", "figure6", "--dataset", "digits", "--seeds", "0", "--quick")
    assert code == 0, err
    for path in records(tmp_path):
        record = json.loads(path.read_text())
        best = record["best"]["validation"]
        assert best == 2  # of two stages of one epoch each
        correct = sum(sum(counts[best - 1] for counts in half.values()) for half in record["curves"]["test"])
        assert re.search(rf"^{re.escape(record['made_for']['method'])} .* {correct:.2f} +2 ", out, re.M), out
    assert "best epoch on validation images" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("wb", "--dataset", "imagenet"), ("'imagenet'", "cifar10-lt", "mini-imagenet-lt", "mnist", "digits")),
        (("wb", "--method", "WDD"), ("'WDD'", "WD&ETF")),
        (("wb", "--table", "5"), ("'5'", "has: 1, 2, 3, 4, 6, 7, 8, 9, 10, text")),
        (("wb", "--table", "1"), ("table 1", "replicate tables wb --table 1")),
        (("wb", "--dataset", "mnist", "--network", "vgg"), ("'vgg'", "mlp3", "resblock2")),
        (("wb", "--dataset", "mnist", "--table", "3", "--network", "mlp3"), ("MNIST", "--data")),
        (("wb", "--dataset", "mini-imagenet-lt"), ("mini-ImageNet-LT", "--data")),
        (("wb", "--variant", "text"), ("'text'", "max-norm-batch")),
        (("tables", "wb", "--table", "11"), ("'11'",)),
    ],
)
def test_refusals_name_the_value_and_what_is_allowed(tmp_path, arguments, named):
    assert_refused(call(tmp_path, *arguments), *named)
    assert not any(tmp_path.rglob("*.json"))


def test_list_names_every_table_and_network(tmp_path):
    code, out, _ = call_without_torch(tmp_path, "list")
    assert code == 0
    assert "Exploring Weight Balancing" in out and "mnist --ratio 1 --network mlp3: nothing done" in out
    assert "variant max-norm-batch" in out and "grid figure6" in out


# --- photographs ------------------------------------------------------------------------------------------------------

PHOTOGRAPHS = ("wb", "--table", "9", "--dataset", "mini-imagenet-lt", "--seeds", "0", "--quick", "--data", ".")


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A hundred classes of photographs of 16x16 pixels, as many to train on as the recipe has."""
    counts = {"train": RECIPES["mini_imagenet_lt"].class_counts(100), "val": (1,) * 100, "test": (2,) * 100}
    return write_ready(tmp_path_factory.mktemp("photographs"), WNIDS, counts, side=16)


@pytest.fixture
def photographs(tmp_path, ready):
    return shutil.copytree(ready, tmp_path / ready.name)


def test_photographs_are_trained_from_a_ready_folder_and_decoded_once(tmp_path, photographs):
    cache = {"REPLICATE_CACHE": str(tmp_path / "cache")}
    code, out, err = call(tmp_path, *PHOTOGRAPHS, "--method", "WD", "--method", "WD/Add", **cache)
    assert code == 0, err
    assert "decoded 11,147 photographs" in err and "quick run of table 9" in out
    assert "2 cells: 0 done before, 2 trained now in 1 epoch." in out
    code, out, err = call(tmp_path, *PHOTOGRAPHS, "--method", "WD", "--method", "WB", **cache)
    assert code == 0 and "decod" not in err and "2 cells: 1 done before, 1 trained now in 1 epoch." in out


@pytest.mark.parametrize("fault", ["corrupt", "empty", "missing", "layout"])
def test_folders_that_cannot_be_used_are_named_before_training(tmp_path, photographs, fault):
    if fault == "corrupt":
        named = sorted((photographs / "test" / WNIDS[7]).iterdir())[0]
        named.write_bytes(named.read_bytes()[:100])
    elif fault == "empty":
        named = photographs / "val" / WNIDS[3]
        for path in named.iterdir():
            path.unlink()
    elif fault == "missing":
        named = photographs / "train" / WNIDS[99]
        shutil.rmtree(named)
        named = Path(named.name)
    else:
        named = photographs
        for part in ("train", "val", "test"):
            shutil.rmtree(photographs / part)
        (photographs / "images").mkdir()
    told = call(tmp_path, *PHOTOGRAPHS, "--method", "WD", REPLICATE_CACHE=str(tmp_path / "cache"))
    assert told.code == 2 and told.out == "" and not list(tmp_path.glob("store/*/*"))
    last = told.err.splitlines()[-1]  # decoding, where it began, has said so before
    assert last.startswith("replicate: ") and named.name in last, told.err
    assert "Traceback" not in told.err


# --- real images ------------------------------------------------------------------------------------------------------


@pytest.fixture
def real_images():
    folder = os.environ.get("REPLICATE_DATA")
    if not folder or not (Path(folder) / "mini-imagenet-lt").is_dir():
        pytest.skip("needs real photographs: set REPLICATE_DATA to a folder that has mini-imagenet-lt")
    return folder


WITH_PEAK = """
import resource, sys
from replicate import cli
sys.argv[0] = "replicate"
try:
    cli.main()
finally:
    print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


@pytest.mark.slow
def test_quick_run_on_real_photographs(tmp_path, real_images):
    """The whole path, and its memory: below 3 GiB with the 14,847 photographs."""
    which = ("wb", "--table", "9", "--seeds", "0", "--quick", "--method", "WD", "--method", "WD/Mult", "--method", "WB")
    done = subprocess.run(
        [sys.executable, "-c", WITH_PEAK, *which, "--data", real_images],
        cwd=tmp_path, env=environment(REPLICATE_CACHE=str(tmp_path / "cache")), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "3 cells: 0 done before, 3 trained now in 2 epochs." in done.stdout
    assert int(re.search(r"^peak (\d+)$", done.stderr, re.M)[1]) < 3 * 2**20  # KiB
