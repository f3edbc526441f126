"""What a Store says of folders that cannot be used, and what it clears away."""

import os
import time
from pathlib import Path

import pytest

from replicate.errors import BadInput
from replicate.record import Store, exists, require_writable, seeds_in, write_atomically

LONG = "x" * 300  # no file system takes such a name


@pytest.mark.parametrize(
    "ask",
    [
        lambda root: seeds_in(str(root)),
        lambda root: Store(root).editions("digits"),
        lambda root: list(Store(root).records()),
        lambda root: Store(root).record("digits", "official", "0" * 64, 0),
        lambda root: Store(root).measure("fdr", "digits", "official", "0" * 64, 0),
        lambda root: Store(root).epochs_left([], {"digits": "official"}),
        lambda root: exists(root / "file"),
        lambda root: Store(root).require_writable(),
    ],
)
def test_a_path_that_cannot_be_is_one_line(tmp_path, ask):
    with pytest.raises(BadInput, match=r"\(File name too long\)") as refused:
        ask(tmp_path / LONG)
    assert "\n" not in str(refused.value)


def test_a_folder_that_may_not_be_read_is_one_line(tmp_path, monkeypatch):
    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", closed)
    monkeypatch.setattr(Path, "exists", closed)
    for ask in (lambda: seeds_in(str(tmp_path)), lambda: exists(tmp_path), lambda: list(Store(tmp_path).records())):
        with pytest.raises(BadInput, match=r"cannot be read \(Permission denied\); mend its permissions"):
            ask()


def test_a_record_that_may_not_be_read_is_one_line(tmp_path):
    (tmp_path / f"records/digits@official/{'0' * 24}-s0.json").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"Record .* cannot be read \(Is a directory\)"):
        list(Store(tmp_path).records())


def test_what_is_not_there_is_no_error(tmp_path):
    store = Store(tmp_path / "none")
    assert (seeds_in(str(store.root)), store.editions("digits"), list(store.records())) == ({}, [], [])


def test_a_probe_leaves_nothing_and_minds_no_other_one(tmp_path, monkeypatch):
    (tmp_path / f".probe-{os.getpid()}").mkdir()  # where every probe of a process had one name
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: (unlink(path), unlink(path, **how)))  # somebody was faster
    require_writable(tmp_path, "store", "--store")
    assert [path.name for path in tmp_path.iterdir()] == [f".probe-{os.getpid()}"]


def test_files_half_written_long_ago_are_cleared_away(tmp_path, monkeypatch):
    def killed(one, other):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    monkeypatch.setattr(Path, "unlink", lambda path: None)
    kept = tmp_path / "checkpoints/digits@official/.a.pt"
    for path in (tmp_path / "checkpoints/digits@official/a.pt", tmp_path / "measures/digits@official/fdr/b.json", kept):
        with pytest.raises(KeyboardInterrupt):
            write_atomically(path, b"half")
    monkeypatch.undo()
    old, measure, young = (path for path in sorted(tmp_path.rglob(".*")) if path.is_file())
    kept.write_bytes(b"whole, though its name begins with a dot")
    for path in (old, measure, kept):
        if path is not young:
            os.utime(path, (time.time() - 25 * 3600,) * 2)
    Store(tmp_path).require_writable()
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted([kept, young])
