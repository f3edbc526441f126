"""Decoded photographs: what they are, when they are decoded, and what is left by processes that fail."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_files import photograph
from PIL import Image

from replicate.data import bounded
from replicate.data import decoded as room
from replicate.data.decoded import File, Photographs, cache_folder, decoded, kept
from replicate.errors import BadInput

COUNT = 12
ROOT = Path(room.__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def listed(folder: Path) -> list[File]:
    """Every file in ``folder`` by name; the label is the name's number modulo 3."""
    made = []
    for path in sorted(folder.iterdir()):
        told = path.stat()
        made.append(File(str(path), f"train/{path.name}", int(path.stem) % 3, told.st_size, told.st_mtime_ns))
    return made


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "photographs"
    place.mkdir()
    for number in range(COUNT):
        (place / f"{number:03}.jpg").write_bytes(photograph(8 + number, 30 - number, number))
    return place


def opened(folder: Path) -> tuple[Photographs, str]:
    return decoded("Some", listed(folder), stream=io.StringIO())


def refused(folder: Path) -> str:
    with pytest.raises(BadInput) as caught:
        opened(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """Paths of the photographs that were decoded, in this process."""
    paths: list[str] = []
    decode = room.decode
    monkeypatch.setattr(room, "decode", lambda path: (paths.append(path), decode(path))[1])
    return paths


def entries(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.suffix != ".lock"]


# --- what they are ---------------------------------------------------------------------------------------------------


def as_pillow(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_pixels_labels_and_sizes(folder):
    files = listed(folder)
    photos, fingerprint = decoded("Some", files, stream=io.StringIO())
    assert len(photos) == COUNT
    assert photos.labels.tolist() == [number % 3 for number in range(COUNT)]
    assert photos.labels.dtype == np.int64
    assert photos.sizes.tolist() == [[8 + number, 30 - number] for number in range(COUNT)]
    assert photos.one_size is None
    for number, file in enumerate(files):
        assert photos[number].dtype == np.uint8
        assert np.array_equal(photos[number], as_pillow(file.path))
        with pytest.raises(ValueError, match="read-only"):
            photos[number][:] = 0
    assert len(fingerprint) == 64


def test_a_view_copies_no_pixel(folder):
    photos, _ = opened(folder)
    taken = photos.take(np.array([5, 5, 2]))
    assert taken.labels.tolist() == [2, 2, 2]
    assert np.array_equal(taken[2], photos[2])
    assert np.shares_memory(taken[0], photos[5])
    assert np.shares_memory(photos.take(np.arange(COUNT) == 7)[0], photos[7])
    assert len(photos.take(np.arange(0))) == 0
    photos.let_go()
    assert np.array_equal(taken[0], photos[5])


def test_grey_photographs_and_disguised_ones_are_read_in_colour(folder):
    """As they are among ImageNet's: a PNG, CMYK, grey."""
    (folder / "000.jpg").write_bytes(photograph(5, 6, kind="PNG"))
    for number, mode in ((1, "L"), (2, "CMYK")):
        packed = io.BytesIO()
        Image.open(io.BytesIO(photograph(5, 6))).convert(mode).save(packed, "JPEG")
        (folder / f"{number:03}.jpg").write_bytes(packed.getvalue())
    photos, _ = opened(folder)
    for number in range(3):
        assert np.array_equal(photos[number], as_pillow(str(folder / f"{number:03}.jpg")))


def test_grey_photographs_in_16_bits_keep_their_upper_byte(folder):
    levels = np.array([[0, 255, 256], [511, 30_000, 65_535]], dtype=np.uint16)
    Image.fromarray(levels).save(folder / "000.jpg", "PNG")
    with Image.open(folder / "000.jpg") as picture:
        assert picture.mode.startswith("I")
    photos, _ = opened(folder)
    assert np.array_equal(photos[0], np.repeat(np.array([[0, 0, 1], [1, 117, 255]])[:, :, None], 3, axis=2))


def test_photographs_from_arrays():
    images = [np.random.default_rng(k).integers(0, 256, (3 + k, 4, 3), dtype=np.uint8) for k in range(3)]
    photos = Photographs.of(images, [2, 0, 1])
    assert all(np.array_equal(photos[k], images[k]) for k in range(3))
    assert photos.one_size is None
    assert Photographs.of(images[:1] * 2, [0, 0]).one_size == (3, 4)
    assert photos.take(np.array([0])).one_size is None


def test_the_fingerprint_follows_names_and_bytes(folder, tmp_path):
    before = opened(folder)[1]
    shutil.copytree(folder, tmp_path / "elsewhere")  # other times of change
    assert opened(tmp_path / "elsewhere")[1] == before
    (folder / "000.jpg").rename(folder / "099.jpg")
    renamed = opened(folder)[1]
    (folder / "099.jpg").write_bytes((folder / "099.jpg").read_bytes() + b"\0")
    assert len({before, renamed, opened(folder)[1]}) == 3


# --- when they are decoded -------------------------------------------------------------------------------------------


def test_a_second_start_opens_no_photograph(folder, counted, monkeypatch):
    assert kept("Some", listed(folder)) is None
    before, fingerprint = opened(folder)
    assert len(counted) == COUNT
    for path in folder.iterdir():  # as many bytes and the same time, but no photograph: it would show
        told = path.stat()
        path.write_bytes(bytes(told.st_size))
        os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    monkeypatch.setattr(room, "_open", None)
    after, again = opened(folder)
    assert len(counted) == COUNT
    assert again == fingerprint == kept("Some", listed(folder))[1]
    assert all(np.array_equal(before[k], after[k]) for k in range(COUNT))
    assert np.array_equal(before.digests, after.digests)


@pytest.mark.parametrize("change", ["bytes", "time", "added", "removed", "renamed"])
def test_a_changed_folder_is_decoded_again(change, folder, cache, counted):
    opened(folder)
    path = folder / "003.jpg"
    if change == "bytes":
        path.write_bytes(photograph(40, 40, 77))
    elif change == "time":
        os.utime(path, ns=(0, 5))
    elif change == "added":
        (folder / "050.jpg").write_bytes(photograph(9, 9))
    elif change == "removed":
        path.unlink()
    else:
        path.rename(folder / "051.jpg")
    counted.clear()
    photos, _ = opened(folder)
    files = listed(folder)
    assert len(counted) == len(photos) == len(files)
    assert all(np.array_equal(photos[k], as_pillow(file.path)) for k, file in enumerate(files))
    assert len(entries(cache)) == 1  # what was decoded before is of no use to anybody


def test_two_data_sets_stay_apart(folder, cache):
    decoded("Some", listed(folder), stream=io.StringIO())
    decoded("Other", listed(folder), stream=io.StringIO())
    assert len(entries(cache)) == 2


def damages():
    def cut(place):
        os.truncate(place / "pixels", (place / "pixels").stat().st_size - 1)

    def flip(place):
        content = bytearray((place / "index.npy").read_bytes())
        content[-40] ^= 1
        (place / "index.npy").write_bytes(content)

    def other_format(place):
        about = json.loads((place / "about.json").read_text())
        (place / "about.json").write_text(json.dumps({**about, "format": 0}))

    return {
        "pixels cut off": cut,
        "no pixels": lambda place: (place / "pixels").unlink(),
        "pixels empty": lambda place: (place / "pixels").write_bytes(b""),
        "index changed": flip,
        "index empty": lambda place: (place / "index.npy").write_bytes(b""),
        "about cut off": lambda place: (place / "about.json").write_bytes(b'{"format": 1'),
        "about is a list": lambda place: (place / "about.json").write_bytes(b"[]"),
        "about is no text": lambda place: (place / "about.json").write_bytes(b"\xff\xfe\0"),
        "no about": lambda place: (place / "about.json").unlink(),
        "another format": other_format,
        "empty": lambda place: [path.unlink() for path in place.iterdir()],
    }


@pytest.mark.parametrize("damage", damages())
def test_a_damaged_cache_is_made_anew(damage, folder, cache, counted):
    _, before = opened(folder)
    damages()[damage](entries(cache)[0])
    assert kept("Some", listed(folder)) is None
    counted.clear()
    photos, after = opened(folder)
    assert len(counted) == COUNT
    assert after == before
    assert np.array_equal(photos[3], as_pillow(str(folder / "003.jpg")))
    assert [path.name[0] for path in entries(cache)] == ["s"]
    assert sorted(path.name for path in entries(cache)[0].iterdir()) == ["about.json", "index.npy", "pixels"]


# --- in several processes --------------------------------------------------------------------------------------------


@pytest.fixture
def parallel(monkeypatch):
    monkeypatch.setattr(room, "_SHARE", 1)
    monkeypatch.setattr(room, "_cores", lambda: 3)


def test_several_processes_decode_the_same(folder, cache, parallel, counted):
    photos, fingerprint = opened(folder)
    assert counted == []  # in this process
    assert all(np.array_equal(photos[k], as_pillow(file.path)) for k, file in enumerate(listed(folder)))
    shutil.rmtree(cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_SHARE", 1000)
        alone, again = opened(folder)
    assert len(counted) == COUNT
    assert again == fingerprint
    assert all(np.array_equal(photos[k], alone[k]) for k in range(COUNT))


def test_a_damaged_photograph_is_told_by_every_process(folder, cache, parallel):
    (folder / "007.jpg").write_bytes((folder / "007.jpg").read_bytes()[:-60])
    assert "007.jpg' is damaged" in refused(folder)
    assert entries(cache) == []


def test_a_process_that_dies_is_told(folder, cache, parallel, monkeypatch):
    parent = os.getpid()

    def decode(path):
        if path.endswith("004.jpg") and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((1, 1, 3), np.uint8), bytes(32)

    monkeypatch.setattr(room, "decode", decode)
    assert "exit code -9" in refused(folder)
    assert entries(cache) == []


def run(script: str, *arguments: object, **options) -> subprocess.Popen:
    head = (
        "import io, os, sys, time\nfrom pathlib import Path\nsys.path[:0] = [{!r}, {!r}]\n"
        "from replicate.data import decoded as room\nfrom test_data_decoded import listed\n"
    ).format(str(ROOT), str(ROOT / "tests"))
    return subprocess.Popen([sys.executable, "-c", head + script, *map(str, arguments)], text=True, **options)


KILLED = """
decode, seen = room.decode, []
def slow(path):
    seen.append(path)
    if len(seen) == 5:
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(60)
    return decode(path)
room.decode = slow
room._SHARE, room._cores = (1, lambda: 2) if sys.argv[2] == "2" else (1000, lambda: 1)
room.decoded("Some", listed(Path(sys.argv[1])), stream=io.StringIO())
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_process_leaves_nothing_that_looks_done(processes, folder, cache):
    process = run(KILLED, folder, processes, stdout=subprocess.PIPE)
    decoding = [int(process.stdout.readline()) for _ in range(processes)]
    process.kill()
    process.wait()
    process.stdout.close()
    left = entries(cache)
    assert [path.name.startswith(".some-") for path in left] == [True]
    assert kept("Some", listed(folder)) is None
    for child in decoding:  # children hold the lock until they notice, and these are asleep
        if child != process.pid:
            os.kill(child, signal.SIGKILL)
    photos, _ = opened(folder)
    assert len(photos) == COUNT
    assert [path.name.startswith("some-") for path in entries(cache)] == [True]


def test_children_end_with_their_parent(folder, cache):
    script = """
decode = room.decode
def slow(path):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(0.3)
    return decode(path)
room.decode, room._SHARE, room._cores = slow, 1, lambda: 2
room.decoded("Some", listed(Path(sys.argv[1])), stream=io.StringIO())
"""
    process = run(script, folder, stdout=subprocess.PIPE)
    children = {int(process.stdout.readline()) for _ in range(2)}
    assert process.pid not in children
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(os.path.exists(f"/proc/{child}/cmdline") and Path(f"/proc/{child}/cmdline").read_bytes() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.stdout.close()
    assert entries(cache)[0].name.startswith(".some-")


def test_two_at_once_decode_once(folder, cache):
    script = """
decode = room.decode
room.decode = lambda path: (time.sleep(0.1), decode(path))[1]
photos, fingerprint = room.decoded("Some", listed(Path(sys.argv[1])))
print(fingerprint, int(photos[3].astype(int).sum()))
"""
    both = [run(script, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0][0] == told[1][0] != ""
    assert sum("decoded 12 photographs of Some" in errors for _, errors in told) == 1
    assert sum("waiting for another process that decodes Some" in errors for _, errors in told) == 1
    assert len(entries(cache)) == 1


def test_without_locks_the_faster_one_stays(folder, cache, monkeypatch):
    """Another process finishes while this one decodes."""
    monkeypatch.setattr(room.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    rows = room._rows

    def slower(paths, into):
        monkeypatch.setattr(room, "_rows", rows)
        opened(folder)
        yield from rows(paths, into)

    monkeypatch.setattr(room, "_rows", slower)
    photos, _ = opened(folder)
    assert len(photos) == COUNT
    assert [path.name[0] for path in entries(cache)] == ["s"]


# --- what cannot be read or kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (photograph(40, 40, 1)[:-100], "is damaged (image file is truncated"),
        (photograph(40, 40, 1)[:30], "is damaged"),
        (photograph(40, 40, 1, kind="PNG")[:-40], "is damaged"),
        (b"GIF89a", "is damaged (no JPEG or PNG file)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is damaged (no JPEG or PNG file)"),
        (bytes(500), "is damaged (no JPEG or PNG file)"),
    ],
)
def test_damaged_photographs_are_named(content, why, folder, cache):
    (folder / "005.jpg").write_bytes(content)
    message = refused(folder)
    assert "005.jpg" in message
    assert why in message
    assert "replace it" in message
    assert entries(cache) == []


def test_a_photograph_that_vanishes(folder):
    files = listed(folder)
    (folder / "005.jpg").unlink()
    with pytest.raises(BadInput, match=r"005.jpg' cannot be read \(No such file or directory\); mend that and run this again"):
        decoded("Some", files, stream=io.StringIO())


def test_a_cache_that_cannot_be_written(folder, cache, monkeypatch):
    cache.write_bytes(b"a file")
    assert f"{str(cache)!r} (File exists); name another folder with REPLICATE_CACHE" in refused(folder)
    cache.unlink()

    for number, remedy in (
        (errno.ENOSPC, "free space there or name"),
        (errno.EDQUOT, "free space there or name"),
        (errno.EACCES, "mend its permissions or name"),
        (errno.EROFS, "name"),
    ):
        why = OSError(number, os.strerror(number))
        monkeypatch.setattr(room, "_rows", lambda paths, into, why=why: (_ for _ in ()).throw(why))
        assert f"({os.strerror(number)}); {remedy} another folder with REPLICATE_CACHE" in refused(folder)
        assert entries(cache) == []


def test_permissions_are_named_where_they_are_in_the_way(folder, monkeypatch):
    """A superuser, as in a container, is never refused, so the system is made to say so."""
    for number, remedy in ((errno.EACCES, "mend its permissions"), (errno.EIO, "mend that and run this again")):
        why = OSError(number, os.strerror(number))
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", lambda *_, why=why: (_ for _ in ()).throw(why))
            for read in (lambda: room.decode("a.jpg"), lambda: bounded.read(folder / "000.jpg", 1, "")):
                with pytest.raises(BadInput) as caught:
                    read()
                assert str(caught.value).endswith(f"cannot be read ({why.strerror}); {remedy}")


def test_processes_that_cannot_be_started(folder, cache, parallel, monkeypatch):
    begin, begun = room.multiprocessing.get_context("fork").Process.start, []

    def start(process):
        if begun:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        begun.append(process)
        begin(process)

    monkeypatch.setattr(room.multiprocessing.get_context("fork").Process, "start", start)
    told = refused(folder)
    assert told.startswith(f"processes that decode photographs cannot be started ({os.strerror(errno.EAGAIN)});")
    assert entries(cache) == []
    assert not begun[0].is_alive()


def test_a_process_that_dies_within_a_message_is_told(folder, cache, parallel, monkeypatch):
    def work(paths, rows, into, end, writer, parent):
        os.write(writer.fileno(), b"\0\0\1\0cut off")

    monkeypatch.setattr(room, "_work", work)
    assert "was stopped (exit code 0)" in refused(folder)


def test_room_is_asked_for_before_decoding(folder, cache, counted, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(1, 1, 100))
    message = refused(folder)
    assert "0.0 GB needed, 0.0 GB free" in message
    assert "REPLICATE_CACHE" in message
    assert counted == []


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("REPLICATE_CACHE", "~/pixels")
    assert cache_folder() == Path.home() / "pixels"
    monkeypatch.delenv("REPLICATE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "replicate"
    for relative in ("here", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache_folder() == Path.home() / ".cache" / "replicate"
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    with pytest.raises(BadInput, match="REPLICATE_CACHE"):
        cache_folder()


# --- progress --------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress(folder, monkeypatch, cache):
    plain = io.StringIO()
    decoded("Some", listed(folder), stream=plain)
    assert plain.getvalue().splitlines() == [
        f"decoding 12 photographs of Some, once, into {cache}",
        "decoded 12 photographs of Some in 0 s",
    ]
    monkeypatch.setattr(room._Count, "LIVE_EVERY_SECONDS", 0.0)
    live = Terminal()
    decoded("Other", listed(folder), stream=live)
    assert live.getvalue().count("\n") == 1
    assert "\r\033[Kdecoding Other: 12 of 12 photographs, 0 s left" in live.getvalue()
    again = io.StringIO()
    decoded("Some", listed(folder), stream=again)
    assert again.getvalue() == ""


class Unheard(Terminal):
    def write(self, text):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def test_progress_that_nobody_reads_stops_nothing(folder, monkeypatch):
    flock, asked = room.fcntl.flock, []

    def busy(file, how):
        asked.append(how)
        if len(asked) == 1:
            raise BlockingIOError
        flock(file, how)

    monkeypatch.setattr(room.fcntl, "flock", busy)
    photos, _ = decoded("Some", listed(folder), stream=Unheard())
    assert len(photos) == COUNT
    assert len(asked) == 2  # it waited all the same
