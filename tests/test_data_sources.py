"""Data sets as files have them: what is read, which edition it is, what is said of what cannot be used, fetching."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.server
import importlib.util
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from data_files import batch, idx, pickled, text, write_cifar10, write_mnist, write_ready

from replicate.data import editions, folders, sources
from replicate.errors import BadInput
from replicate.protocol import SOURCES

TRAIN, TEST, SIDE = 10, 3, 4
PLACE = "cifar-10-batches-py"


@pytest.fixture
def small(monkeypatch):
    """CIFAR-10 with 10 training and 3 test images of 4 x 4 pixels a class, to spare the tests 180 MB."""
    source = replace(SOURCES["cifar10"], train_per_class=TRAIN, test_per_class=TEST, side=SIDE)
    monkeypatch.setattr(sources, "SOURCES", {**SOURCES, "cifar10": source})


@pytest.fixture
def files(small, tmp_path):
    return write_cifar10(tmp_path, train=TRAIN, test=TEST, side=SIDE)


@pytest.fixture
def official(files, monkeypatch):
    """The small files are the official ones."""
    archive = official_archive(files)
    monkeypatch.setattr(sources, "ARCHIVES", {**sources.ARCHIVES, "cifar10": archive})
    return archive


def official_archive(
    files: dict[str, bytes], url: str = "http://127.0.0.1:9/small.tar.gz", packed: bytes = b""
) -> sources.Archive:
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    test = {"test_batch": sums.pop("test_batch")}
    return replace(sources.ARCHIVES["cifar10"], url=url, md5=hashlib.md5(packed).hexdigest(), train=sums, test=test)


def refused(folder: Path | None, source: str = "cifar10") -> str:
    with pytest.raises(BadInput) as caught:
        sources.load(source, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_images_and_labels_stand_in_the_order_of_the_files(files, tmp_path):
    images = sources.load("cifar10", tmp_path)
    assert images.train_images.shape == (10 * TRAIN, 3, SIDE, SIDE)
    assert images.test_images.shape == (10 * TEST, 3, SIDE, SIDE)
    assert images.train_images.dtype == images.test_images.dtype == np.uint8
    assert images.train_labels.dtype == images.test_labels.dtype == np.int64
    content = b"".join(files[f"data_batch_{k}"] for k in range(1, 6))
    pixels = images.train_images.tobytes()
    per_file = len(pixels) // 5
    for k in range(5):
        assert pixels[k * per_file : (k + 1) * per_file] in files[f"data_batch_{k + 1}"]
    assert images.train_images[17].tobytes() in content
    assert images.test_images.tobytes() in files["test_batch"]
    assert np.array_equal(np.bincount(images.train_labels), [TRAIN] * 10)
    assert images.train_images.flags.writeable  # torch.from_numpy warns of what is not


def test_official_files_have_the_official_edition(official, tmp_path):
    images = sources.load("cifar10", tmp_path)
    assert (images.edition, images.notice) == ("official", None)
    assert images.fingerprint == sources.fingerprint(
        images.train_images, images.train_labels, images.test_images, images.test_labels
    )


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
def test_one_changed_pixel_makes_another_edition(name, official, files, tmp_path):
    before = sources.load("cifar10", tmp_path)
    content = bytearray(files[name])
    content[content.index(b"filenames") - 20] ^= 1
    (tmp_path / PLACE / name).write_bytes(content)
    after = sources.load("cifar10", tmp_path)
    assert after.edition == after.fingerprint[:12] != before.fingerprint[:12]
    assert after.notice is not None
    assert "\n" not in after.notice
    assert f"@{after.edition}, other split" in after.notice


def test_the_edition_follows_content_not_the_file(official, files, tmp_path):
    """Without file names the MD5 sum is another and the images are the same."""
    before = sources.load("cifar10", tmp_path)
    path = tmp_path / PLACE / "data_batch_1"
    first = 10 * TRAIN // 5
    path.write_bytes(batch(before.train_images[:first], before.train_labels[:first].tolist()).replace(b"image_s", b"other_s"))
    after = sources.load("cifar10", tmp_path)
    assert after.fingerprint == before.fingerprint
    assert after.edition == before.fingerprint[:12]


def test_missing_files_are_named(files, tmp_path):
    for folder in (None, tmp_path / "absent", tmp_path / PLACE):
        message = refused(folder)
        assert all(way in message for way in ("--data DIR", "REPLICATE_DATA", "replicate data get cifar10", PLACE))
    (tmp_path / PLACE / "data_batch_4").unlink()
    (tmp_path / PLACE / "test_batch").unlink()
    assert "lacks data_batch_4, test_batch" in refused(tmp_path)


def test_foreign_content_is_named(files, tmp_path):
    images = np.zeros((20, 3, SIDE, SIDE), np.uint8)
    labels = list(range(10)) * 2
    for content, why in (
        (pickled(labels=text(b"x")), "no image array of 48 columns"),
        (batch(images[:, :, :2], labels), "no image array of 48 columns"),
        (batch(images, labels, key="fine_labels"), "no list 'labels'"),
        (batch(images, labels[1:]), "no list 'labels' with an integer for each of 20 images"),
        (batch(images, [*labels[1:], 10]), "labels 0 to 10, allowed are 0 to 9"),
        (batch(images, [*labels[1:], -1]), "labels -1 to 9"),
        (files["data_batch_1"][:-5], "cut off"),
    ):
        (tmp_path / PLACE / "data_batch_1").write_bytes(content)
        message = refused(tmp_path)
        assert why in message
        assert "data_batch_1" in message
    (tmp_path / PLACE / "data_batch_1").write_bytes(batch(images, [0] * 20))
    assert "28 training images of class 0, expected 10 of every class" in refused(tmp_path)
    (tmp_path / PLACE / "data_batch_1").write_bytes(files["data_batch_1"])
    (tmp_path / PLACE / "test_batch").write_bytes(batch(images, labels))
    assert "2 test images of class 0, expected 3 of every class" in refused(tmp_path)


def test_a_folder_in_place_of_a_file(files, tmp_path):
    (tmp_path / PLACE / "data_batch_2").unlink()
    (tmp_path / PLACE / "data_batch_2").mkdir()
    assert "is not a file" in refused(tmp_path)


def test_unknown_data_sets_are_named():
    assert "cifar10, cifar100, digits" in refused(None, "svhn")


def test_digits(digits):
    assert digits.train_images.shape == (1797, 1, 8, 8)
    assert digits.train_images.dtype == np.uint8
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 255)
    assert set(np.unique(digits.train_images)) == {round(v * 255 / 16) for v in range(17)}
    assert np.bincount(digits.train_labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert len(digits.test_labels) == len(digits.test_images) == 0
    assert (digits.edition, digits.notice) == ("official", None)


def test_other_digits_are_another_edition(monkeypatch):
    monkeypatch.setattr(sources, "DIGITS_FINGERPRINT", "of another release")
    images = sources.load("digits", None)
    assert images.edition == images.fingerprint[:12]
    assert images.notice is not None


def test_digits_are_what_scikit_learn_itself_reads(monkeypatch, tmp_path):
    from sklearn.datasets import load_digits

    read = sources.load("digits", None)
    told = load_digits()
    assert (read.train_images[:, 0] == np.rint(told.images * 255 / 16)).all() and (read.train_labels == told.target).all()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert sources.load("digits", None).fingerprint == read.fingerprint  # of a release that keeps its file elsewhere


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert "pip install scikit-learn" in refused(None, "digits")


def test_fingerprints_follow_type_shape_and_values():
    a = np.arange(6, dtype=np.int64)
    same = [a, a.astype(">i8"), np.arange(12, dtype=np.int64)[::2] // 2]
    assert len({sources.fingerprint(x) for x in same}) == 1
    other = [a.reshape(2, 3), a.astype(np.int32), a + 1, a[:5]]
    assert len({sources.fingerprint(x) for x in [a, *other]}) == 5
    assert sources.fingerprint(a, a) != sources.fingerprint(a)
    assert sources.fingerprint(a[:0], a) != sources.fingerprint(a, a[:0])


def test_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("REPLICATE_DATA", raising=False)
    assert sources.data_folder(None) is None
    monkeypatch.setenv("REPLICATE_DATA", "")
    assert sources.data_folder(None) is None
    monkeypatch.setenv("REPLICATE_DATA", "~/images")
    assert sources.data_folder(None) == Path.home() / "images"
    assert sources.data_folder(tmp_path) == tmp_path


def test_comparability():
    assert editions.comparability("cifar10", "official") == "comparable"
    assert editions.comparability("cifar100", "official") == "comparable"
    assert editions.comparability("digits", "official") == "not comparable"
    assert editions.comparability("cifar10", "0123456789ab") == "other split"
    assert {(source, told[0]) for (source, _), told in editions.EDITIONS.items()} == {
        ("cifar10", "comparable"),
        ("cifar100", "other split"),
        ("mnist", "comparable"),
        ("mini_imagenet_lt", "not comparable"),
    }
    assert editions.comparability("mnist", "official") == "comparable"
    assert editions.comparability("mnist", "0123456789ab") == "other split"
    assert editions.comparability("mini_imagenet_lt", "0123456789ab") == "other split"
    assert editions.comparability("mini_imagenet", "0123456789ab") == "other split"
    assert editions.comparability("mini_imagenet", "0123456789ab-84x84") == "not comparable"


# --- MNIST -----------------------------------------------------------------------------------------------------------

DIGIT_FILES = [f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]


@pytest.fixture
def few(monkeypatch):
    """MNIST with 60 training and 20 test images."""
    monkeypatch.setattr(sources, "MNIST_IMAGES", {"train": 60, "t10k": 20})


def published(files: dict[str, bytes], url: str = "http://127.0.0.1:9/") -> sources.LooseFiles:
    """The sums of these files, as if they were the official ones, gzipped in our way."""
    return sources.LooseFiles(
        url,
        "MNIST/raw",
        {name: hashlib.md5(gzip.compress(content, mtime=0)).hexdigest() for name, content in files.items()},
        {name: hashlib.md5(content).hexdigest() for name, content in files.items()},
    )


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(packed, few, tmp_path):
    files = write_mnist(tmp_path, train=60, test=20, packed=packed)
    images = sources.load("mnist", tmp_path)
    assert images.train_images.shape == (60, 1, 28, 28)
    assert images.test_images.shape == (20, 1, 28, 28)
    assert images.train_images.tobytes() == files["train-images-idx3-ubyte"][16:]
    assert images.test_images.tobytes() == files["t10k-images-idx3-ubyte"][16:]
    assert images.train_labels.tolist() == list(files["train-labels-idx1-ubyte"][8:])
    assert images.test_labels.tolist() == list(files["t10k-labels-idx1-ubyte"][8:])
    assert images.train_images.dtype == np.uint8
    assert images.train_labels.dtype == np.int64
    assert images.train_images.flags.writeable
    assert images.edition == images.fingerprint[:12]
    assert f"MNIST in {str(tmp_path)!r} is not the official release: edition @{images.edition}, other split" in images.notice


@pytest.mark.parametrize("packed", [False, True])
def test_official_files_of_mnist(packed, few, tmp_path, monkeypatch):
    """By content: plain or packed in any way."""
    files = write_mnist(tmp_path, train=60, test=20, packed=packed)
    monkeypatch.setattr(sources, "ARCHIVES", {**sources.ARCHIVES, "mnist": published(files)})
    images = sources.load("mnist", tmp_path)
    assert (images.edition, images.notice) == ("official", None)
    other = {**published(files).files, "t10k-labels-idx1-ubyte": "0" * 32}
    monkeypatch.setattr(sources, "ARCHIVES", {**sources.ARCHIVES, "mnist": replace(published(files), files=other)})
    assert sources.load("mnist", tmp_path).edition == images.fingerprint[:12]


def test_plain_files_come_before_packed_ones(few, tmp_path):
    files = write_mnist(tmp_path, train=60, test=20)
    for name in files:
        (tmp_path / "MNIST" / "raw" / f"{name}.gz").write_bytes(b"never read")
    sources.load("mnist", tmp_path)


def test_missing_files_of_mnist(few, tmp_path):
    for folder in (None, tmp_path):
        message = refused(folder, "mnist")
        assert all(way in message for way in ("--data DIR", "REPLICATE_DATA", "replicate data get mnist", "MNIST/raw"))
    write_mnist(tmp_path, train=60, test=20)
    (tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
    assert "lacks train-labels-idx1-ubyte" in refused(tmp_path, "mnist")


def damaged_digits():
    images, labels = np.zeros((60, 28, 28)), np.arange(60) % 10
    return {
        "labels for images": ("train-images-idx3-ubyte", idx(labels), "begins with 00000801, an IDX file of bytes in 3 dim"),
        "images for labels": ("train-labels-idx1-ubyte", idx(images), "begins with 00000803, an IDX file of bytes in 1 dim"),
        "floats": ("train-images-idx3-ubyte", b"\0\0\x0d\x03" + idx(images)[4:], "begins with 00000d03"),
        "empty": ("train-images-idx3-ubyte", b"", "begins with nothing"),
        "head cut off": ("train-images-idx3-ubyte", idx(images)[:14], "is cut off after 14 bytes, within its head"),
        "cut off": ("train-images-idx3-ubyte", idx(images)[:-1], "47,055 bytes, its head promises 47,056"),
        "too long": ("train-labels-idx1-ubyte", idx(labels) + b"\0", "69 bytes, its head promises 68"),
        "fewer images": ("train-images-idx3-ubyte", idx(images[1:]), "59 images of 28x28 pixels, expected 60 x 28 x 28"),
        "other pixels": ("train-images-idx3-ubyte", idx(images[:, 1:]), "60 images of 27x28 pixels, expected 60 x 28 x 28"),
        "test files": ("train-labels-idx1-ubyte", idx(labels[:20]), "20 labels, expected 60"),
        "other labels": ("t10k-labels-idx1-ubyte", idx(np.arange(20)), "labels up to 19, allowed are 0 to 9"),
        "a promise": ("train-labels-idx1-ubyte", b"\0\0\x08\x01\xff\xff\xff\xff", "8 bytes, its head promises 4,294,967,303"),
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", damaged_digits())
def test_damaged_files_of_mnist_are_named(damage, packed, few, tmp_path):
    write_mnist(tmp_path, train=60, test=20, packed=packed)
    name, content, why = damaged_digits()[damage]
    path = tmp_path / "MNIST" / "raw" / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content) if packed else content)
    message = refused(tmp_path, "mnist")
    assert why in message
    assert str(path) in message
    assert "replicate data get mnist" in message


def test_packed_files_that_are_damaged_or_endless(few, tmp_path, monkeypatch):
    files = write_mnist(tmp_path, train=60, test=20, packed=True)
    path = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    for content in (b"", b"\x1f\x8b", good[:-4], good[:-12], good[:30], b"no gzip", good[:20] + b"\xff\xff" + good[22:]):
        path.write_bytes(content)
        message = refused(tmp_path, "mnist")
        assert "cannot be unpacked" in message or "begins with nothing" in message
        assert str(path) in message
    path.write_bytes(gzip.compress(files["train-labels-idx1-ubyte"] + bytes(10_000_000)))
    monkeypatch.setattr("replicate.data.idx.LARGEST", 1_000_000)
    assert "has more than 1,000,000 bytes" in refused(tmp_path, "mnist")
    path.unlink()
    path.mkdir()
    assert "is not a file" in refused(tmp_path, "mnist")


def test_reading_files_needs_no_torch():
    script = (
        "import sys, replicate.data.longtail, replicate.data.sources as sources\n"
        "sources.load('digits', None)\nprint('torch' in sys.modules)"
    )
    root = str(Path(sources.__file__).parents[2])
    told = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert told.stdout == "False\n"


def test_status(files, tmp_path):
    told = {status.source: status for status in sources.status(tmp_path)}
    assert list(told) == list(SOURCES)
    assert (told["cifar10"].state, told["cifar10"].comparability) == ("present", "other split")
    assert len(told["cifar10"].edition) == 12
    assert (told["cifar100"].state, told["cifar100"].edition) == ("missing", None)
    assert (told["digits"].state, told["digits"].edition, told["digits"].note) == ("present", "official", "")
    (tmp_path / PLACE / "data_batch_5").unlink()
    broken = {status.source: status for status in sources.status(tmp_path)}["cifar10"]
    assert broken.state == "unusable"
    assert "data_batch_5" in broken.note
    assert [status.source for status in sources.status(None) if status.state != "missing"] == ["digits"]


def test_status_of_photographs(tmp_path, monkeypatch):
    """Nothing is decoded to tell it."""
    wnids = ("n01532829", "n01704323")
    monkeypatch.setattr(folders, "WNIDS", wnids)
    recipe = folders.Recipe(train=2, ratio=2)
    monkeypatch.setattr(folders, "RECIPES", {"mini_imagenet": recipe, "mini_imagenet_lt": recipe})
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))

    def status(source: str = "mini_imagenet_lt") -> sources.Status:
        return {status.source: status for status in sources.status(tmp_path)}[source]

    assert status().state == status("mini_imagenet").state == "missing"
    place = write_ready(tmp_path, wnids, {"train": (2, 1), "val": (1, 1), "test": (1, 1)})
    told = status()
    assert (told.state, told.edition, told.comparability) == ("present", None, None)
    assert "once the photographs are decoded" in told.note
    assert not (tmp_path / "cache").exists()
    edition = sources.load("mini_imagenet_lt", tmp_path).edition
    assert (status().edition, status().comparability) == (edition, "not comparable")
    assert "all photographs have 8x8 pixels" in status().note
    assert status("mini_imagenet").state == "missing"
    shutil.rmtree(place / "val")
    assert status().state == "unusable"
    assert "has no folder val" in status().note
    (tmp_path / "imagenet" / "train").mkdir(parents=True)
    assert status("mini_imagenet").state == "unusable"


def test_real_images_are_known_editions(cifar_folder):
    """The copies that this project measures on, in full size."""
    status = {status.source: status for status in sources.status(cifar_folder)}
    for source in ("cifar10", "cifar100", "mnist"):
        if status[source].state == "missing":
            pytest.skip(f"needs {source} in REPLICATE_DATA")
        assert status[source].state == "present"
        assert status[source].edition == "official" or (source, status[source].edition) in editions.EDITIONS


# --- fetching --------------------------------------------------------------------------------------------------------


def tar(members: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        folder = tarfile.TarInfo(PLACE)
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, content in members.items():
            told = tarfile.TarInfo(name)
            told.size = len(content)
            told.mode = 0o4777
            archive.addfile(told, io.BytesIO(content))
        for told in special:
            archive.addfile(told)
    return packed.getvalue()


@pytest.fixture(scope="module")
def server():
    """A web server on this machine: (its address, what it serves by path, the paths asked for). ``/short`` breaks off."""
    served: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = served.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) * (2 if self.path == "/short" else 1)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", served, asked
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(server, small, tmp_path, monkeypatch):
    """Serves an archive and fetches it into an empty folder."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    address, served, asked = server
    asked.clear()
    files = write_cifar10(tmp_path / "made", train=TRAIN, test=TEST, side=SIDE)
    target = tmp_path / "target"

    def fetch(packed: bytes | None = None, *, path: str = "/small.tar.gz", md5: str | None = None, **options) -> Path:
        packed = tar({f"{PLACE}/{name}": content for name, content in files.items()}) if packed is None else packed
        served.clear()
        served[path] = packed
        archive = official_archive(files, f"{address}{path}", packed)
        archive = replace(archive, md5=md5 or archive.md5)
        monkeypatch.setattr(sources, "ARCHIVES", {**sources.ARCHIVES, "cifar10": archive})
        return sources.get("cifar10", target, archives={"cifar10": archive}, timeout=10, **options)

    fetch.files, fetch.target, fetch.asked = files, target, asked
    return fetch


def nothing_is_left(folder: Path) -> None:
    assert not folder.exists() or list(folder.iterdir()) == []


def test_an_archive_is_fetched_checked_and_unpacked(fetch):
    told: list[tuple[int, int | None]] = []
    extra = {f"{PLACE}/batches.meta": b"names", f"{PLACE}/readme.html": b"about"}
    packed = tar({**{f"{PLACE}/{name}": content for name, content in fetch.files.items()}, **extra})
    place = fetch(packed, progress=lambda arrived, total: told.append((arrived, total)))
    assert place == fetch.target / PLACE
    assert list(fetch.target.iterdir()) == [place]
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {
        **fetch.files,
        "batches.meta": b"names",
        "readme.html": b"about",
    }
    assert all(not path.stat().st_mode & 0o7111 for path in place.iterdir())
    assert told[-1] == (len(packed), len(packed))
    assert sources.load("cifar10", fetch.target).edition == "official"


def test_what_is_there_is_not_fetched_again(fetch):
    fetch()
    fetch()
    assert fetch.asked == ["/small.tar.gz"]


def test_other_files_are_never_overwritten(fetch):
    place = fetch.target / PLACE
    place.mkdir(parents=True)
    (place / "test_batch").write_bytes(b"mine")
    with pytest.raises(BadInput, match="in the way"):
        fetch()
    assert [path.name for path in place.iterdir()] == ["test_batch"]
    assert fetch.asked == []


@pytest.mark.parametrize("path", ["/small.tar.gz", "/short"])
def test_what_is_not_the_archive_is_not_unpacked(path, fetch):
    with pytest.raises(BadInput, match="is not the archive with MD5") as caught:
        fetch(md5="0" * 32, path=path)
    assert "\n" not in str(caught.value)
    nothing_is_left(fetch.target)


def test_an_endless_answer_is_cut_off(fetch, monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_ARCHIVE", 1000)
    with pytest.raises(BadInput, match="is not the archive"):
        fetch()
    nothing_is_left(fetch.target)


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    told = tarfile.TarInfo(name)
    told.type, told.linkname = kind, to
    return told


@pytest.mark.parametrize(
    "member",
    [
        "../outside",
        f"{PLACE}/../../outside",
        "/outside",
        f"{PLACE}/unexpected",
        f"{PLACE}/deeper/test_batch",
        "test_batch",
        link(f"{PLACE}/test_batch", "/etc/passwd", tarfile.SYMTYPE),
        link(f"{PLACE}/test_batch", "/etc/passwd", tarfile.LNKTYPE),
        link(f"{PLACE}/test_batch", "", tarfile.FIFOTYPE),
        link("elsewhere", "", tarfile.DIRTYPE),
    ],
    ids=lambda member: member if isinstance(member, str) else f"{member.name}-{member.type.decode()}",
)
def test_an_archive_with_other_members_is_refused(member, fetch, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    good = {f"{PLACE}/{name}": content for name, content in fetch.files.items() if name != "test_batch"}
    packed = tar({**good, member: b"x"}) if isinstance(member, str) else tar(good, member)
    with pytest.raises(BadInput, match="not expected"):
        fetch(packed)
    nothing_is_left(fetch.target)
    assert [path for path in sorted(tmp_path.rglob("*")) if path not in before and path != fetch.target] == []


def test_an_archive_that_lacks_a_file_or_is_none(fetch):
    with pytest.raises(BadInput, match="lacks data_batch_1"):
        fetch(tar({f"{PLACE}/{name}": content for name, content in fetch.files.items() if name != "data_batch_1"}))
    with pytest.raises(BadInput, match="cannot be unpacked"):
        fetch(b"no archive")
    with pytest.raises(BadInput, match="cannot be unpacked"):
        fetch(tar({f"{PLACE}/{name}": content for name, content in fetch.files.items()})[:-2000])
    nothing_is_left(fetch.target)


def test_no_network(tmp_path, monkeypatch):
    monkeypatch.delenv("http_proxy", raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        archive = replace(sources.ARCHIVES["cifar10"], url=f"http://127.0.0.1:{unused.getsockname()[1]}/x.tar.gz")
        with pytest.raises(BadInput, match="check the network") as caught:
            sources.get("cifar10", tmp_path, archives={"cifar10": archive}, timeout=5)
    assert archive.url in str(caught.value)
    assert "\n" not in str(caught.value)
    nothing_is_left(tmp_path)


def test_a_server_without_the_file(server, tmp_path, monkeypatch):
    monkeypatch.delenv("http_proxy", raising=False)
    archive = replace(sources.ARCHIVES["cifar10"], url=f"{server[0]}/absent.tar.gz")
    with pytest.raises(BadInput, match="Not Found"):
        sources.get("cifar10", tmp_path, archives={"cifar10": archive}, timeout=5)
    nothing_is_left(tmp_path)


def test_an_interrupted_download_leaves_nothing(fetch):
    def interrupt(arrived, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(progress=interrupt)
    nothing_is_left(fetch.target)


def test_a_killed_download_leaves_nothing_that_looks_done(fetch):
    fetch()
    url = sources.ARCHIVES["cifar10"].url
    shutil.rmtree(fetch.target)
    script = (
        "import os, sys\nfrom dataclasses import replace\nfrom pathlib import Path\nfrom replicate.data import sources\n"
        "archive = replace(sources.ARCHIVES['cifar10'], url=sys.argv[1])\n"
        "sources.get('cifar10', Path(sys.argv[2]), archives={'cifar10': archive}, progress=lambda *_: os._exit(9))\n"
    )
    root = Path(sources.__file__).parents[2]
    killed = subprocess.run(
        [sys.executable, "-c", script, url, str(fetch.target)], env={**os.environ, "PYTHONPATH": str(root)}, check=False
    )
    assert killed.returncode == 9
    assert [path.name.startswith(".replicate-cifar10-") for path in fetch.target.iterdir()] == [True]
    assert "is not in" in refused(fetch.target)
    fetch()
    assert sources.load("cifar10", fetch.target).edition == "official"


def test_a_folder_that_cannot_be_written(fetch, tmp_path):
    (tmp_path / "target").write_bytes(b"a file")
    with pytest.raises(BadInput, match="--data DIR"):
        fetch()


@pytest.fixture
def fetch_digits(server, few, tmp_path, monkeypatch):
    """Serves the four files of a small MNIST and fetches them into an empty folder."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    address, served, asked = server
    asked.clear()
    served.clear()
    files = write_mnist(tmp_path / "made", train=60, test=20)
    archive = published(files, f"{address}/mnist/")
    monkeypatch.setattr(sources, "ARCHIVES", {**sources.ARCHIVES, "mnist": archive})
    served.update({f"/mnist/{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()})

    def fetch(**options) -> Path:
        return sources.get("mnist", fetch.target, archives={"mnist": archive}, timeout=10, **options)

    fetch.target, fetch.served, fetch.asked = tmp_path / "target", served, asked
    return fetch


def test_the_files_of_mnist_are_fetched_and_checked(fetch_digits):
    told: list[tuple[int, int | None]] = []
    place = fetch_digits(progress=lambda arrived, total: told.append((arrived, total)))
    assert place == fetch_digits.target / "MNIST" / "raw"
    assert list(fetch_digits.target.iterdir()) == [place.parent]
    assert {path.name: path.read_bytes() for path in place.iterdir()} == {
        path.rpartition("/")[2]: content for path, content in fetch_digits.served.items()
    }
    assert [arrived for arrived, total in told if arrived == total] == [len(c) for c in fetch_digits.served.values()]
    assert sources.load("mnist", fetch_digits.target).edition == "official"
    fetch_digits()
    assert len(fetch_digits.asked) == 4  # what is there is not fetched again


def test_plain_official_files_are_not_fetched_again(fetch_digits, tmp_path):
    fetch_digits.target = tmp_path / "made"
    assert fetch_digits() == tmp_path / "made" / "MNIST" / "raw"
    assert fetch_digits.asked == []
    (tmp_path / "made" / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"mine")
    with pytest.raises(BadInput, match="in the way"):
        fetch_digits()


def test_a_wrong_or_missing_file_of_mnist_leaves_nothing(fetch_digits):
    last = "/mnist/t10k-labels-idx1-ubyte.gz"
    fetch_digits.served[last] += b"x"
    with pytest.raises(BadInput, match=r"t10k-labels-idx1-ubyte.gz sent \(.* bytes\) is not the file with MD5"):
        fetch_digits()
    nothing_is_left(fetch_digits.target)
    del fetch_digits.served[last]
    with pytest.raises(BadInput, match="Not Found"):
        fetch_digits()
    nothing_is_left(fetch_digits.target)


def test_an_interrupted_fetch_of_mnist_leaves_nothing(fetch_digits):
    def interrupt(arrived, total):
        if len(fetch_digits.asked) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_digits(progress=interrupt)
    nothing_is_left(fetch_digits.target)


def test_only_what_has_an_archive_can_be_fetched(tmp_path):
    for source in ("mini_imagenet", "mini_imagenet_lt"):
        with pytest.raises(BadInput, match=r"ImageNet-1k, which needs an account .* fetches: cifar10, cifar100, mnist"):
            sources.get(source, tmp_path)
    with pytest.raises(BadInput, match="comes with scikit-learn"):
        sources.get("digits", tmp_path)
    with pytest.raises(BadInput, match="'svhn' is unknown; replicate data get fetches: cifar10, cifar100"):
        sources.get("svhn", tmp_path)


def test_sums_are_complete():
    for archive in sources.ARCHIVES.values():
        published = archive.packed.values() if isinstance(archive, sources.LooseFiles) else (archive.md5,)
        assert all(len(md5) == 32 and set(md5) <= set("0123456789abcdef") for md5 in (*published, *archive.files.values()))
        assert archive.url.startswith("https://")
    assert list(sources.ARCHIVES["mnist"].packed) == list(sources.ARCHIVES["mnist"].files) == DIGIT_FILES
