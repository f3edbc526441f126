"""The index of large stores: it changes no number, and never stands for a file that is not the one it was made from."""

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import pytest

import replicate
from replicate import grid, index, record
from replicate.errors import BadInput
from replicate.index import Index, Outline
from replicate.record import Store, file_name
from replicate.report import diff, tables
from replicate.report.selection import SELECTIONS

#: By paper the methods whose Records the tests write.
METHODS = {
    "unified_bound": ("CE", "CE+DRW", "LDAM+ADRW", "VS+TLA+ADRW"),
    "wb": ("Naive", "WD", "WD/Add", "WD/Mult", "WB", "WD&ETF/Mult"),
    "lort": ("Vanilla FC", "tau-normalized", "Learnable Weight Scaling", "CE"),
}
OLD = 1_700_000_000  # when the files of these tests were last changed, in seconds


def paper(name):
    return import_module(f"papers.{name}").PAPER


def made(cell, draw, epochs=60):
    """A Record with 10 classes as JSON data, its counts drawn at random; ties of epochs and of points are common."""
    images = {name: 5 * (last - first) for name, (first, last) in cell.column.groups.items()}
    stages, adjustment = cell.programme.stage_starts, cell.programme.adjustment
    validated = bool(cell.column.data.validation)

    def counts(many):
        return {name: [draw.randrange(images[name] + 1) for _ in range(many)] for name in images}

    curves = {name: [draw.random() for _ in range(epochs)] for name in ("loss", "rate", "seconds")}
    curves |= {"train": counts(epochs), "test": [counts(epochs), counts(epochs)]}
    totals = {"train": images, "test": [images, images]}
    if validated:
        curves["validation"], totals["validation"] = counts(epochs), images
    adjusted = None
    if adjustment is not None:
        many = len(adjustment.values)
        state = {"epoch": draw.randrange(1, epochs), "test": [counts(many), counts(many)]}
        state |= {"validation": counts(many)} if validated else {}
        adjusted = {"parameter": adjustment.parameter, "values": list(adjustment.values), "handed over": state, "last": state}
    key = cell.programme.key("official")
    return {
        "key": grid.cell_key(key, cell.seed), "seed": cell.seed, "programme_key": key,
        "source": cell.programme.start.data.source, "edition": "official", "spec": cell.programme.spec(),
        "class_counts": [9] * 10, "groups": {name: list(bounds) for name, bounds in cell.column.groups.items()},
        "epochs": epochs, "curves": curves, "totals": totals,
        "per_class": {"60": {"train": [1] * 10, "test": [[1] * 10, [2] * 10]}}, "best": {"test": 1, "half 0": 1, "half 1": 1},
        "environment": {"device": "cpu", "versions": {"replicate": "1"}, "commit": "0" * 12}, "fingerprint": "f" * 64,
        "made_for": {"paper": cell.paper, "method": cell.method}, "failed": None,
        "stage_starts": [1] if len(stages) == 1 else [1, epochs - 19], "adjusted": adjusted, "format": 1,
    }  # fmt: skip


def put(root, told, stat=OLD):
    path = Path(root, "records", f"{told['source']}@{told['edition']}", file_name(told["programme_key"], told["seed"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(told, separators=(",", ":")) + "\n")
    os.utime(path, (stat, stat))
    return path


def cells(name, methods=None, seeds=(0, 1), columns=None, grids=("table",)):
    columns = paper(name).columns[:1] if columns is None else columns
    known = [paper(name).grids[of] for of in grids]
    return [
        cell
        for of, label in zip(known, grids, strict=True)
        for cell in grid.cells(
            paper(name), label, columns=columns, methods=[m for m in of.methods if methods is None or m in methods], seeds=seeds
        )
    ]


@pytest.fixture
def low(monkeypatch):
    """Folders of few Records have an index too."""
    monkeypatch.setattr(index, "LEAST", 2)


@pytest.fixture
def parsed(monkeypatch):
    """Names of the files that were read as Records."""
    names, parse = [], record.parse

    def counted(path, text):
        names.append(path.name)
        return parse(path, text)

    monkeypatch.setattr(record, "parse", counted)
    return names


def store_of(root, name):
    draw = random.Random(name)
    for cell in cells(name, METHODS[name], seeds=(0, 1, 2)):
        put(root, made(cell, draw))
    return root


def printed(store, name):
    """Every table of the first column, under every Selection, in every format, and its comparison."""
    of = paper(name)
    column = of.columns[0]
    editions = {column.data.source: "official"}
    shown = []
    for table in of.tables:
        columns = [c for c in table.columns if c == column]
        if not columns or table.grid != "table":
            continue
        for selection in SELECTIONS:
            how = {"selection": selection, "edition_of": editions, "columns": columns}
            values = tables.replicas(store, of, table, **how)
            shown += [tables.render(of, table, values, form, **how) for form in tables.FORMATS]
            rows = diff.compare(store, of, table, comparability={column.data.source: "comparable"}, **how)
            shown += [diff.render(rows, form) for form in diff.FORMATS]
    return shown


@pytest.mark.parametrize("name", METHODS)
def test_numbers_are_the_same_with_and_without_an_index(tmp_path, low, name):
    store_of(tmp_path, name)
    failing = made(cells(name, METHODS[name])[0], random.Random(1)) | {"failed": {"epoch": 3, "loss": "nan"}}
    put(tmp_path, failing)
    expected = printed(Store(tmp_path), name)
    assert len(set(expected)) > 20
    for _ in ("built", "read"):
        assert printed(Store(tmp_path, index=Index(tmp_path)), name) == expected
    assert list((tmp_path / "index").glob("*.json"))


def test_an_indexed_store_reads_the_chosen_records_alone(tmp_path, parsed, monkeypatch):
    monkeypatch.setattr(index, "LEAST", 200)
    of, seeds = paper("unified_bound"), range(6)
    column = of.columns[0]
    planned = cells("unified_bound", seeds=seeds)
    for cell in planned:
        put(tmp_path, made(cell, random.Random(cell.label)))
    assert len(planned) > index.LEAST
    how = {"selection": "as-published", "edition_of": {"cifar10": "official"}, "columns": [column]}
    expected = tables.replicas(Store(tmp_path), of, of.tables[0], **how)
    assert len(parsed) == len(set(parsed)) == len(planned)
    parsed.clear()
    assert tables.replicas(Store(tmp_path, index=Index(tmp_path)), of, of.tables[0], **how) == expected
    rows = len(expected)
    assert len(planned) <= len(parsed) <= len(planned) + rows * len(seeds)  # the first time all, then the chosen ones whole
    parsed.clear()
    assert tables.replicas(Store(tmp_path, index=Index(tmp_path)), of, of.tables[0], **how) == expected
    assert len(parsed) == len(set(parsed)) <= rows * len(seeds) < len(planned) / 2
    parsed.clear()
    found = list(Store(tmp_path, index=Index(tmp_path)).records())
    assert len(found) == len(planned) and sum(one.seconds for one in found) > 0 and not parsed


def test_an_outline_holds_what_its_record_does(tmp_path, low):
    for name in ("unified_bound", "wb"):
        store_of(tmp_path, name)
    plain, indexed = Store(tmp_path), Store(tmp_path, index=Index(tmp_path))
    seen = 0
    for whole, outline in zip(plain.records(), indexed.records(), strict=True):
        assert isinstance(outline, Outline)
        assert (outline.seconds, outline.failed, outline.environment) == (whole.seconds, whole.failed, whole.environment)
        for split, half, last in [("test", None, False), ("test", 0, False), ("test", 1, True), ("validation", None, False)]:
            assert outline.peak(split, half=half, last=last) == whole.peak(split, half=half, last=last)
        assert "curves" not in vars(outline) or "adjusted" in vars(outline)
        seen += outline.adjusted is not None
        assert asdict(outline) == asdict(whole)
        with pytest.raises(AttributeError):
            outline.no_such_field  # noqa: B018
    assert seen > 0


@pytest.fixture
def small(tmp_path, low):
    """A store of a few Records with an index, the planned cells, and a way to read it in a new process."""
    planned = cells("unified_bound", methods=("CE", "CE+DRW", "LDAM"), seeds=(0, 1))
    for cell in planned:
        put(tmp_path, made(cell, random.Random(cell.label), epochs=4))

    def read():
        store = Store(tmp_path, index=Index(tmp_path))
        return [store.of(cell, "official") for cell in planned]

    assert all(isinstance(one, Outline) for one in read())
    return tmp_path, planned, read


def test_changed_new_and_vanished_files_are_seen(small, parsed):
    root, planned, read = small
    places = [root / "records" / "cifar10@official" / file_name(c.programme.key("official"), c.seed) for c in planned]
    read()
    assert parsed == []
    before = read()[0].peak("test")
    put(root, made(planned[0], random.Random("another"), epochs=4), OLD)  # perhaps the same size, and the same time
    assert read()[0].peak("test") != before
    assert parsed == [places[0].name]
    places[1].unlink()
    assert read()[1] is None
    put(root, made(planned[1], random.Random("again"), epochs=4), OLD + 1)
    assert read()[1] is not None
    assert parsed == [places[0].name, places[1].name]
    read()
    assert len(parsed) == 2


def test_a_file_that_changes_after_the_folder_was_looked_at_is_read_again(small, parsed):
    root, planned, _ = small
    store = Store(root, index=Index(root))
    before = store.of(planned[0], "official").peak("test")
    path = put(root, made(planned[0], random.Random("another"), epochs=4), OLD + 1)
    assert store.of(planned[0], "official").peak("test") != before
    outline = store.of(planned[1], "official")
    for gone in path.parent.iterdir():
        gone.unlink()
    assert store.of(planned[2], "official") is None
    with pytest.raises(BadInput, match=r"cannot be read any more \(No such file or directory\); run the command again"):
        outline.accuracy("test")


def test_a_file_that_was_just_written_has_no_outline_yet(small, parsed):
    root, planned, read = small
    path = put(root, made(planned[0], random.Random("new"), epochs=4), time.time())
    assert not isinstance(read()[0], Outline) and not isinstance(read()[0], Outline)
    os.utime(path, (OLD, OLD))
    assert isinstance(read()[0], Outline)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b'"test":[', b'"test":[1', 1),
        lambda data: b"\x00" * 100,
        lambda data: signed(b"[[1,1]"),
        lambda data: signed(json.dumps([[index.FORMAT + 1, 1], {"made": "otherwise"}]).encode()),
    ],
    ids=["empty", "cut", "one digit", "zeros", "no JSON", "other format"],
)
def test_a_damaged_index_is_made_again(small, parsed, damage):
    root, planned, read = small
    (path,) = (root / "index").iterdir()
    whole, expected = path.read_bytes(), [one.peak("test") for one in read()]
    assert damage(whole) != whole
    path.write_bytes(damage(whole))
    assert [one.peak("test") for one in read()] == expected
    assert len(parsed) == len(planned) and path.read_bytes() == whole


def signed(body):
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


@pytest.mark.parametrize("text", ["{", '{"format":1}', "[]"])
def test_a_damaged_record_is_named_as_without_an_index(small, text):
    root, planned, read = small
    name = file_name(planned[0].programme.key("official"), planned[0].seed)
    path = root / "records" / "cifar10@official" / name
    path.write_text(text)
    os.utime(path, (OLD, OLD))
    with pytest.raises(BadInput) as plain:
        Store(root).of(planned[0], "official")
    with pytest.raises(BadInput) as indexed:
        read()
    assert str(indexed.value) == str(plain.value) and str(path) in str(plain.value)
    assert Store(root, index=Index(root)).of(planned[1], "official") is not None
    with pytest.raises(BadInput):
        list(Store(root, index=Index(root)).records())


def test_another_cells_record_is_refused(small):
    root, planned, _ = small
    told = made(planned[1], random.Random(0), epochs=4) | {"programme_key": planned[0].programme.key("official")}
    put(root, told)
    read_all = [Store(root, index=Index(root)) for _ in range(2)]  # as it is indexed, and from the index
    for store in (Store(root), *read_all):
        with pytest.raises(BadInput, match="its key is another cell's"):
            store.of(planned[0], "official")


def test_where_the_index_cannot_be_written_files_are_read(small, parsed):
    root, planned, read = small
    expected = [one.peak("test") for one in read()]
    (path,) = (root / "index").iterdir()
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    assert [one.peak("test") for one in read()] == expected
    assert [one.peak("test") for one in read()] == expected
    assert len(parsed) == 2 * len(planned)


def test_committed_records_are_indexed_beside_the_store_and_never_beside_themselves(small, parsed, tmp_path_factory):
    root, planned, _ = small
    results = tmp_path_factory.mktemp("results")
    (root / "records").rename(results / "records")
    for _ in range(2):
        store = Store(root, also=[results], index=Index(root))
        assert all(isinstance(store.of(cell, "official"), Outline) for cell in planned)
    assert len(parsed) == len(planned) and [path.name for path in results.iterdir()] == ["records"]
    missing = root / "no-store"
    store = Store(missing, also=[results], index=Index(missing))
    parsed.clear()
    assert store.of(planned[0], "official") is not None and not missing.exists() and len(parsed) == 1


def test_small_folders_have_no_index(tmp_path):
    store_of(tmp_path, "unified_bound")
    count = len(list(tmp_path.glob("records/*/*")))
    assert 0 < count < index.LEAST
    assert len(list(Store(tmp_path, index=Index(tmp_path)).records())) == count
    assert not (tmp_path / "index").exists()


def _read(root):
    index.LEAST = 2
    store = Store(root, index=Index(root))
    return sorted(one.peak("test") for one in store.records())


def test_several_processes_build_it_at_once(small):
    root, _, _ = small
    expected = _read(root)
    (path,) = (root / "index").iterdir()
    whole = path.read_bytes()
    path.unlink()
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(_read, [root] * 8) == [expected] * 8
    assert [one.name for one in (root / "index").iterdir()] == [path.name] and path.read_bytes() == whole


# --- 20,000 Records --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """20,000 Records of 60 epochs and 10 classes of one paper: every point of the grids of its tables, under many seeds."""
    root = tmp_path_factory.mktemp("large")
    of = paper("lort")
    draw = random.Random(0)
    programmes = {}
    for name in ("table", "table3"):
        for cell in grid.cells(of, name, columns=[c for c in of.columns if not c.stand_in]):
            programmes.setdefault(cell.programme.key("official"), cell)
    of_seeds = (replace(cell, seed=seed) for seed in itertools.count() for cell in programmes.values())
    for cell in itertools.islice(of_seeds, 20_000):
        put(root, made(cell, draw))
    return root


def seconds(*command):
    """Wall time and output of a command in a process of its own, which must end well."""
    from_here = {**os.environ, "PYTHONPATH": str(Path(replicate.__file__).parents[1])}
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "replicate", *command], capture_output=True, text=True, env=from_here)
    took = time.monotonic() - start
    assert done.returncode in (0, 1) and "replicate:" not in done.stderr and done.stdout, done.stderr
    return took, done.stdout


@pytest.mark.slow
def test_20000_records_are_read_within_seconds(large, tmp_path):
    where = ("--store", str(large))
    first, built = seconds("tables", "lort", *where)
    took = {"first build": first}
    for command in (("tables", "lort"), ("diff", "lort"), ("page", "--out", str(tmp_path / "page.html"))):
        took[command[0]], shown = seconds(*command, *where)
        assert command[0] != "tables" or shown == built
    assert (tmp_path / "page.html").stat().st_size > 100_000
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(took, f"{memory:.2f} GiB")
    assert took.pop("first build") < 120 and max(took.values()) < 10 and memory < 1
