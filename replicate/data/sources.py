"""Data sets as files have them: CIFAR-10, CIFAR-100, MNIST, mini-ImageNet's photographs, and scikit-learn's digits.

CIFAR is A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009, in the layout of the archives at
https://www.cs.toronto.edu/~kriz/cifar.html ("python version"). MNIST is the four files of Y. LeCun, C. Cortes and
C. Burges, laid out as torchvision does. Photographs are read by :mod:`replicate.data.folders`. Which copy of a data set was
read is its *edition*: ``official`` if every file has the published MD5 sum, else the first twelve hex digits of the
content's fingerprint. Small copies of photographs add their size: ``0123456789ab-84x84``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import math
import os
import secrets
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from replicate.data import editions, folders, idx, pickles
from replicate.data.decoded import Photographs
from replicate.data.editions import OFFICIAL, comparability
from replicate.errors import BadInput
from replicate.protocol import SOURCES

__all__ = [
    "ARCHIVES",
    "FOLDER_VARIABLE",
    "Archive",
    "Images",
    "LooseFiles",
    "Pixels",
    "Status",
    "data_folder",
    "fingerprint",
    "get",
    "load",
    "status",
]

FOLDER_VARIABLE: Final = "REPLICATE_DATA"


#: N images: uint8 [N, C, H, W], or photographs of varying size.
Pixels = NDArray[np.uint8] | Photographs


@dataclass(frozen=True, eq=False)
class Images:
    """A data set as its files have it.

    ``train_images`` and ``test_images`` are uint8 [N, C, H, W], ``train_labels`` and ``test_labels`` int64 [N], all in
    the order of the files. Digits have no test set of their own: its test arrays are empty. Photographs stand class by
    class and are :class:`~replicate.data.decoded.Photographs` instead of arrays; they alone come with validation images.
    ``fingerprint`` is the sha256 of all arrays, or of the photographs' names and files; ``notice`` is a line for the user
    if the files are not the official ones.
    """

    source: str
    train_images: Pixels
    train_labels: NDArray[np.int64]
    test_images: Pixels
    test_labels: NDArray[np.int64]
    edition: str
    fingerprint: str
    notice: str | None = None
    validation_images: Photographs | None = None
    validation_labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Archive:
    """Where a data set can be had, and what is in it: MD5 sums of the archive and of the ``train`` and ``test`` files
    in ``folder``, and the names of its ``other`` files, which are kept but never read."""

    url: str
    md5: str
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    labels: bytes
    other: tuple[str, ...] = ()

    @property
    def files(self) -> dict[str, str]:
        """MD5 sum of every file that is read, by name."""
        return {**self.train, **self.test}


@dataclass(frozen=True)
class LooseFiles:
    """Where a data set can be had that is published as gzipped files, one by one: ``url`` of their folder, ``folder`` here;
    by name (without ``.gz``) the MD5 sum of the file as published, ``packed``, and of its content, ``files``."""

    url: str
    folder: str
    packed: Mapping[str, str]
    files: Mapping[str, str]


# The sums of the archives are published beside them; those of the files are the ones that torchvision checks.
ARCHIVES: Mapping[str, Archive | LooseFiles] = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        labels=b"labels",
        other=("batches.meta", "readme.html"),
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        labels=b"fine_labels",
        other=("meta", "file.txt~"),
    ),
    "mnist": LooseFiles(
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        folder="MNIST/raw",
        packed={
            "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        files={
            "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
            "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
            "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
            "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
        },
    ),
}

#: Images in the training and test files of MNIST; their classes differ in size.
MNIST_IMAGES: Mapping[str, int] = {"train": 60_000, "t10k": 10_000}

#: Fingerprint of the digits as scikit-learn 1.9 has them; should a release change them, that is another edition.
DIGITS_FINGERPRINT: Final = "1504d79317b281b146bbffea9accebd6a5b9ba056f2a63d7fdcf09024c701d4d"


# --- reading ---------------------------------------------------------------------------------------------------------


def data_folder(given: Path | None) -> Path | None:
    """The folder that holds the data sets' folders: ``given`` (``--data``), else ``$REPLICATE_DATA``, else None."""
    if given is None and (named := os.environ.get(FOLDER_VARIABLE)):
        given = Path(named)
    return None if given is None else given.expanduser()


def load(source: str, folder: Path | None) -> Images:
    """Read and check a data set of :data:`~replicate.protocol.SOURCES`, from ``folder``; ``"digits"`` needs none.

    ``folder`` holds ``cifar-10-batches-py``, ``cifar-100-python``, ``MNIST/raw``, ``mini-imagenet-lt`` or
    ``imagenet/train``. Photographs are decoded at the first time, which can take minutes. Raises ``BadInput`` if files are
    missing or damaged, or do not hold the images and labels that this data set has.
    """
    if source == "digits":
        return _digits()
    if source in folders.RECIPES:
        return _photographs(source, folder)
    if source not in ARCHIVES:
        raise BadInput(f"data set {source!r} is unknown; allowed: {', '.join(SOURCES)}")
    archive = ARCHIVES[source]
    title = SOURCES[source].title
    remedy = (
        f"name the folder that holds {archive.folder} with --data DIR or {FOLDER_VARIABLE}, "
        f"or fetch it: replicate data get {source}"
    )
    if folder is None:
        raise BadInput(f"{title} needs a data folder and none is named; {remedy}")
    place = folder / archive.folder
    missing = [name for name in archive.files if not os.path.exists(_path(place, name, archive))]
    if len(missing) == len(archive.files):
        raise BadInput(f"{title} is not in {str(folder)!r}; {remedy}")
    if missing:
        raise BadInput(f"{title} is incomplete, {str(place)!r} lacks {', '.join(missing)}; {remedy}")

    if isinstance(archive, LooseFiles):
        train_images, train_labels, train_official = _loose(source, place, archive, "train")
        test_images, test_labels, test_official = _loose(source, place, archive, "t10k")
    else:
        train_images, train_labels, train_official = _batches(source, place, archive.train, archive.labels)
        test_images, test_labels, test_official = _batches(source, place, archive.test, archive.labels)
        _check_counts(source, place, "training", train_labels, SOURCES[source].train_per_class)
        _check_counts(source, place, "test", test_labels, SOURCES[source].test_per_class)
    mark = fingerprint(train_images, train_labels, test_images, test_labels)
    edition, notice = OFFICIAL, None
    if not (train_official and test_official):
        edition = mark[:12]
        notice = f"{title} in {str(folder)!r} is not the official release: {_judged(source, edition)}"
    return Images(source, train_images, train_labels, test_images, test_labels, edition, mark, notice)


def _judged(source: str, edition: str) -> str:
    """An edition that is not official, what its numbers are good for, and why."""
    known = editions.why(source, edition)
    return f"edition @{edition}, {comparability(source, edition)}{f' ({known})' if known else ''}"


def _path(place: Path, name: str, archive: Archive | LooseFiles) -> Path:
    """Where a file is, or would be: gzipped ones are as good where they are published, plain ones come first."""
    plain, packed = place / name, place / f"{name}.gz"
    if isinstance(archive, LooseFiles) and packed.exists() and not plain.exists():
        return packed
    return plain


def _batches(
    source: str, place: Path, sums: Mapping[str, str], key: bytes
) -> tuple[NDArray[np.uint8], NDArray[np.int64], bool]:
    """Images [N, 3, 32, 32] and labels [N] of several files in a row, and whether all are the official ones."""
    known = SOURCES[source]
    shape = (known.channels, known.side, known.side)
    images, labels, official = [], [], True
    for name, published in sums.items():
        path = place / name
        data = pickles.read(path)
        official &= hashlib.md5(data, usedforsecurity=False).hexdigest() == published
        told = pickles.parse(data, path)
        found, marks = told.get(b"data"), told.get(key)
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.shape[1] != math.prod(shape):
            raise _foreign(path, source, f"no image array of {math.prod(shape):,} columns")
        if not isinstance(marks, list) or len(marks) != len(found) or any(type(mark) is not int for mark in marks):
            raise _foreign(path, source, f"no list {key.decode()!r} with an integer for each of {len(found):,} images")
        if marks and not 0 <= min(marks) <= max(marks) < known.classes:
            raise _foreign(path, source, f"labels {min(marks)} to {max(marks)}, allowed are 0 to {known.classes - 1}")
        images.append(found.reshape(-1, *shape))
        labels.extend(marks)
    # Joining copies, so the result can be written to and the files' bytes are let go.
    return np.concatenate(images), np.array(labels, dtype=np.int64), official


def _loose(source: str, place: Path, archive: LooseFiles, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64], bool]:
    """Images [N, 1, 28, 28] and labels [N] of a pair of IDX files, and whether both are the official ones."""
    known, official, read = SOURCES[source], True, []
    for name, dimensions in ((f"{part}-images-idx3-ubyte", 3), (f"{part}-labels-idx1-ubyte", 1)):
        path = _path(place, name, archive)
        data = idx.read(path)
        official &= hashlib.md5(data, usedforsecurity=False).hexdigest() == archive.files[name]
        values = idx.parse(data, path, dimensions)
        shape = (MNIST_IMAGES[part], known.side, known.side)[:dimensions]
        if values.shape != shape:
            what = "images of {}x{} pixels".format(*values.shape[1:]) if dimensions == 3 else "labels"
            raise _foreign(path, source, f"{len(values):,} {what}, expected {' x '.join(map(str, shape))}")
        if dimensions == 1 and values.max() >= known.classes:
            raise _foreign(path, source, f"labels up to {values.max()}, allowed are 0 to {known.classes - 1}")
        read.append(values)
    # Copied, so that they can be written to and the files' bytes are let go.
    return read[0][:, None].copy(), read[1].astype(np.int64), official


def _photographs(source: str, folder: Path | None) -> Images:
    parts = folders.read(source, folder)
    edition = _edition(source, parts)
    how = "drawn from ImageNet-1k by the recipe, with a seed of ours" if parts.drawn else "found ready"
    return Images(
        source,
        parts.train,
        parts.train.labels,
        parts.test,
        parts.test.labels,
        edition,
        parts.fingerprint,
        f"{SOURCES[source].title} in {str(folder)!r} was {how}: {_judged(source, edition)}",
        parts.validation,
        parts.validation.labels,
    )


def _edition(source: str, parts: folders.Parts) -> str:
    """The edition of photographs. Unknown ones that are trained at their own size have it in their name: later it alone is
    there to judge them by."""
    edition, size = parts.fingerprint[:12], parts.train.one_size
    if (source, edition) in editions.EDITIONS or size is None or max(size) >= SOURCES[source].side:
        return edition
    return f"{edition}-{size[0]}x{size[1]}"


def _check_counts(source: str, place: Path, split: str, labels: NDArray[np.int64], each: int) -> None:
    counts = np.bincount(labels, minlength=SOURCES[source].classes)
    if (wrong := np.flatnonzero(counts != each)).size:
        raise _foreign(
            place, source, f"{counts[wrong[0]]:,} {split} images of class {wrong[0]}, expected {each:,} of every class"
        )


def _foreign(path: Path, source: str, why: str) -> BadInput:
    return BadInput(
        f"{str(path)!r} does not hold {SOURCES[source].title} ({why}); "
        f"replace it by the official file, or move it away and run: replicate data get {source}"
    )


def _digits() -> Images:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise BadInput("the digits are scikit-learn's, which is not installed; run: pip install scikit-learn")
    # Its file alone: importing scikit-learn takes as long as importing torch.
    file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if file.exists():
        told = np.loadtxt(file, delimiter=",")
        levels, target = told[:, :-1].reshape(-1, 8, 8), told[:, -1]
    else:  # a release that keeps it elsewhere
        levels, target = importlib.import_module("sklearn.datasets").load_digits(return_X_y=True)
        levels = levels.reshape(-1, 8, 8)
    # Grey levels 0..16 become 0..255, as if the scan had been stored in 8 bits; halves round to even.
    images = np.rint(levels * 255 / 16).astype(np.uint8)[:, None]
    labels = target.astype(np.int64)
    none, no_labels = images[:0], labels[:0]
    mark = fingerprint(images, labels, none, no_labels)
    if mark == DIGITS_FINGERPRINT:
        return Images("digits", images, labels, none, no_labels, OFFICIAL, mark)
    edition = mark[:12]
    notice = f"the installed scikit-learn has other digits than the known ones: edition @{edition}, not comparable"
    return Images("digits", images, labels, none, no_labels, edition, mark, notice)


def fingerprint(*arrays: NDArray[Any]) -> str:
    """sha256 (64 hex digits) over the type, the shape and the values of each array, the same on every machine."""
    digest = hashlib.sha256()
    for array in arrays:
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{plain.dtype.str}{plain.shape}".encode())
        digest.update(plain.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


@dataclass(frozen=True)
class Status:
    """What there is of one data set. ``state``: ``"present"``, ``"missing"`` or ``"unusable"``; ``edition`` and
    ``comparability`` are None unless it is present and, for photographs, decoded; ``note`` is one line, or empty."""

    source: str
    state: str
    edition: str | None
    comparability: str | None
    note: str


def status(folder: Path | None) -> tuple[Status, ...]:
    """What there is of every data set in ``folder``, in the order of :data:`~replicate.protocol.SOURCES`.

    Reads and checks every file, about a second a data set; photographs are only counted, and their edition is known once
    they have been decoded.
    """
    return tuple(_status(source, folder) for source in SOURCES)


def _status(source: str, folder: Path | None) -> Status:
    try:
        if source in folders.RECIPES:
            if (parts := folders.found(source, folder)) is None:
                note = "the edition is known once the photographs are decoded, which the first training on them does"
                return Status(source, "present", None, None, note)
            edition = _edition(source, parts)
            return Status(source, "present", edition, comparability(source, edition), _judged(source, edition))
        images = load(source, folder)
    except BadInput as error:
        return Status(source, "unusable" if _is_there(source, folder) else "missing", None, None, str(error))
    return Status(source, "present", images.edition, comparability(source, images.edition), images.notice or "")


def _is_there(source: str, folder: Path | None) -> bool:
    if folder is None or source == "digits":
        return False
    if source in folders.RECIPES:
        return folders.is_there(source, folder)
    return os.path.exists(folder / ARCHIVES[source].folder)


# --- fetching --------------------------------------------------------------------------------------------------------

#: Called with the bytes that have arrived and the bytes expected (None: unknown).
Progress = Callable[[int, "int | None"], None]

#: Bytes; the archives have 170,498,071 and 169,001,437. No answer of a server is read beyond this.
LARGEST_ARCHIVE = 200_000_000
_CHUNK = 1 << 18


def get(
    source: str,
    folder: Path,
    *,
    progress: Progress | None = None,
    archives: Mapping[str, Archive | LooseFiles] = ARCHIVES,
    timeout: float = 30.0,
) -> Path:
    """Fetch a data set's official archive, or files, into ``folder``; returns the folder with its files.

    An archive goes to a temporary file in ``folder``, is checked against its MD5 sum, and is unpacked beside its
    final place, to which it is moved as a whole; loose files are gathered and checked there in the same way, and stay
    packed. So a process that is killed on the way leaves hidden leftovers (``.replicate-*``) and nothing that looks done.
    Does nothing if the official files are there. ``timeout``: seconds without an answer.

    Raises ``BadInput`` if there is nothing to fetch under this name, the server cannot be reached, what it sends is
    not what is published, other files are in the way, or ``folder`` cannot be written to.
    """
    if source not in archives:
        why = "is unknown"
        if source == "digits":
            why = "comes with scikit-learn"
        elif source in folders.RECIPES:
            why = "is made of ImageNet-1k, which needs an account at image-net.org"
        raise BadInput(f"data set {source!r} {why}; replicate data get fetches: {', '.join(archives)}")
    archive = archives[source]
    place = folder / archive.folder
    if place.exists():
        if _is_official(place, archive):
            return place
        raise BadInput(f"{str(place)!r} is in the way and is not the official release; move it away and run this again")
    temporary = folder / f".replicate-{source}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(parents=True)
        try:
            unpacked = temporary / place.name
            if isinstance(archive, Archive):
                packed = temporary / "archive"
                by_hand = f"download it elsewhere and unpack it in {str(folder)!r}"
                _download(archive.url, archive.md5, "archive", by_hand, packed, progress, timeout)
                unpacked.mkdir()
                _unpack(archive, packed, unpacked)
            else:
                unpacked.mkdir()
                for name, md5 in archive.packed.items():
                    to = unpacked / f"{name}.gz"
                    by_hand = f"download it elsewhere and put it into {str(place)!r}"
                    _download(archive.url + to.name, md5, "file", by_hand, to, progress, timeout)
                place.parent.mkdir(exist_ok=True)
            os.rename(unpacked, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if place.exists() and _is_official(place, archive):
            return place  # another process was faster
        raise BadInput(
            f"{archive.folder} cannot be written to {str(folder)!r} ({error.strerror or error}); "
            "free space there or name another folder with --data DIR"
        ) from None
    return place


def _is_official(place: Path, archive: Archive | LooseFiles) -> bool:
    read = idx.read if isinstance(archive, LooseFiles) else pickles.read
    for name, published in archive.files.items():
        with contextlib.suppress(OSError, BadInput):
            content = read(_path(place, name, archive))
            if hashlib.md5(content, usedforsecurity=False).hexdigest() == published:
                continue
        return False
    return True


def _download(url: str, md5: str, what: str, by_hand: str, to: Path, progress: Progress | None, timeout: float) -> None:
    digest, arrived = hashlib.md5(usedforsecurity=False), 0
    try:
        answer = urllib.request.urlopen(url, timeout=timeout)
    except (urllib.error.URLError, HTTPException, OSError) as error:
        raise _unreachable(url, error, by_hand) from None
    with answer, open(to, "wb") as file:
        expected = answer.headers.get("Content-Length", "")
        total = int(expected) if expected.isdigit() else None
        while True:
            try:
                chunk = answer.read(_CHUNK)
            except (HTTPException, OSError) as error:
                raise _unreachable(url, error, by_hand) from None
            if not chunk:
                break
            arrived += len(chunk)
            if arrived > LARGEST_ARCHIVE:
                break
            digest.update(chunk)
            file.write(chunk)
            if progress is not None:
                progress(arrived, total)
        file.flush()
        os.fsync(file.fileno())
    if digest.hexdigest() != md5:
        raise BadInput(f"what {url} sent ({arrived:,} bytes) is not the {what} with MD5 {md5}; run this again, or {by_hand}")


def _unreachable(url: str, error: Exception, by_hand: str) -> BadInput:
    reason = " ".join(str(getattr(error, "reason", None) or error or type(error).__name__).split())
    return BadInput(f"{url} cannot be fetched ({reason}); check the network, or {by_hand}")


def _unpack(archive: Archive, packed: Path, into: Path) -> None:
    """Write the archive's files to the folder ``into``. Only regular files with the expected names are taken, and
    under names of our own, so nothing in the archive can choose where, what kind or with which rights."""
    expected = {*archive.files, *archive.other}
    name = archive.url.rpartition("/")[2]
    try:
        with tarfile.open(packed, "r:gz") as members:
            for member in members:
                path = PurePosixPath(member.name)
                if member.isdir() and path == PurePosixPath(archive.folder):
                    continue
                if not member.isreg() or path.parent != PurePosixPath(archive.folder) or path.name not in expected:
                    raise BadInput(f"{name} holds {member.name!r}, which is not expected; report this")
                expected.discard(path.name)
                if member.size > pickles.LARGEST:
                    raise BadInput(f"{name} holds {member.size:,} bytes as {path.name}; report this")
                content = members.extractfile(member)
                assert content is not None
                with content, open(into / path.name, "xb") as file:
                    shutil.copyfileobj(content, file, _CHUNK)
                    file.flush()
                    os.fsync(file.fileno())
    except (tarfile.TarError, zlib.error, EOFError, ValueError) as error:
        raise BadInput(f"{name} cannot be unpacked ({error}); report this") from None
    if lacking := [file for file in archive.files if file in expected]:
        raise BadInput(f"{name} lacks {', '.join(lacking)}; report this")
