"""Photographs as pixels: decoded once, kept in a file, and mapped from there by every later start.

A JPEG costs a hundred times as much to decode as its pixels cost to read, so a folder of photographs is decoded once, on
all cores, into a cache: one flat file of uint8 pixels, an index, and a small JSON that is written last. Nothing ever reads
the whole of it: the file is mapped, a batch touches the pages of its own windows, and lets them go again.

The cache is ``$REPLICATE_CACHE``, else ``$XDG_CACHE_HOME/replicate``, else ``~/.cache/replicate``. It is found again by a
stamp of the photographs' names, sizes and times of change, which opens none of them: another file with the name, size and time
of an old one is not noticed. Inodes would tell, but where each job unpacks its data anew they are new each time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import mmap
import multiprocessing
import os
import secrets
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Final, TextIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from replicate.data import bounded
from replicate.errors import BadInput

if sys.platform != "win32":
    import fcntl

__all__ = ["CACHE_VARIABLE", "File", "Photographs", "cache_folder", "decoded", "kept"]

CACHE_VARIABLE: Final = "REPLICATE_CACHE"

#: Raise it when the files of the cache change their meaning: older ones are then decoded again.
_FORMAT: Final = 2
_PIXELS, _INDEX, _ABOUT = "pixels", "index.npy", "about.json"
_ENTRY: Final = np.dtype(
    [("offset", "<i8"), ("height", "<i4"), ("width", "<i4"), ("label", "<i8"), ("sha256", "u1", (32,))], align=False
)
#: A process of its own pays off from so many photographs on.
_SHARE: Final = 250
#: Photographs whose heads are read to tell how much room all will take.
_SAMPLED: Final = 256


class Photographs:
    """N photographs of varying size with their labels; pixels stay in the mapped file until they are asked for.

    ``labels`` int64 [N]; ``sizes`` int64 [N, 2], height and width in pixels; ``digests`` uint8 [N, 32], the sha256 of
    each photograph's file. ``one_size`` is the (height, width) that all photographs of the data set have, those that
    :meth:`take` left out included, or None.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        sizes: NDArray[np.int64],
        labels: NDArray[np.int64],
        digests: NDArray[np.uint8],
        one_size: tuple[int, int] | None,
        file: Path | None = None,
        mapped: mmap.mmap | None = None,
    ) -> None:
        """``file`` has the pixels, where they are ``mapped``."""
        self._pixels = pixels
        self._offsets = offsets
        self._file = file
        self._mapped = mapped
        self.sizes = sizes
        self.labels = labels
        self.digests = digests
        self.one_size = one_size

    @classmethod
    def of(cls, images: Sequence[NDArray[np.uint8]], labels: Sequence[int]) -> Photographs:
        """Photographs from arrays uint8 [H, W, 3] in memory, and the label of each; a digest is then one of pixels."""
        sizes = np.array([image.shape[:2] for image in images], dtype=np.int64).reshape(-1, 2)
        ends = np.cumsum(3 * sizes.prod(axis=1))
        digests = [np.frombuffer(hashlib.sha256(image.tobytes()).digest(), dtype=np.uint8) for image in images]
        return cls(
            np.concatenate([image.reshape(-1) for image in images]),
            np.concatenate([[0], ends[:-1]]).astype(np.int64),
            sizes,
            np.array(labels, dtype=np.int64),
            np.stack(digests),
            _one_size(sizes),
        )

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.labels)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """One photograph, uint8 [H, W, 3], as a view of the file that cannot be written to."""
        height, width = (int(side) for side in self.sizes[index])
        begin = int(self._offsets[index])
        view = self._pixels[begin : begin + 3 * height * width].reshape(height, width, 3)
        view.flags.writeable = False
        return view

    def take(self, indices: NDArray[Any]) -> Photographs:
        """Those at ``indices`` (integers [M], or booleans [N]), in that order, of the same file: no pixel is copied."""
        return Photographs(
            self._pixels,
            self._offsets[indices],
            self.sizes[indices],
            self.labels[indices],
            self.digests[indices],
            self.one_size,
            self._file,
            self._mapped,
        )

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the file itself.
        return self.__dict__ if self._file is None else {**self.__dict__, "_pixels": None, "_mapped": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._file is not None:
            self._mapped = _mapped(self._file)
            self._pixels = np.frombuffer(self._mapped, dtype=np.uint8)

    def let_go(self) -> None:
        """Let the system have back the memory of the pixels that were read. They stay in the file, and mostly in its cache."""
        # Pages of a mapped file that a process has read count as its own until it says this: an epoch would look like
        # gigabytes, to a person and to a cluster that stops what grows.
        if self._mapped is not None and hasattr(self._mapped, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)


def _mapped(file: Path) -> mmap.mmap:
    with open(file, "rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)


def _one_size(sizes: NDArray[np.int64]) -> tuple[int, int] | None:
    if not len(sizes) or (sizes != sizes[0]).any():
        return None
    return int(sizes[0, 0]), int(sizes[0, 1])


@dataclass(frozen=True)
class File:
    """A photograph's file: where it is, its ``name`` within the data set (``train/n01532829/a.jpg``), the label, bytes,
    and the time of its last change in nanoseconds."""

    path: str
    name: str
    label: int
    bytes: int
    changed: int


def cache_folder() -> Path:
    """Where decoded photographs are kept. Raises ``BadInput`` if there is no such place."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    if shared and os.path.isabs(shared):  # relative ones are to be ignored, says the XDG specification
        return Path(shared) / "replicate"
    try:
        return Path.home() / ".cache" / "replicate"
    except RuntimeError:
        raise BadInput(f"there is no home folder to keep decoded photographs in; name a folder with {CACHE_VARIABLE}") from None


def decoded(title: str, files: Sequence[File], *, stream: TextIO | None = None) -> tuple[Photographs, str]:
    """The photographs in ``files``, in that order, and the fingerprint of their names and bytes (64 hex digits).

    Mapped from the cache if it has them as they are now; else decoded into it first, with progress on ``stream``
    (standard error). One process decodes, others that want the same wait for it; one that is killed leaves nothing that
    looks done, and what it leaves is removed by the next.

    Raises ``BadInput`` if a photograph cannot be read as a whole, the cache cannot be written or is too small, or processes
    cannot be started.
    """
    stream = sys.stderr if stream is None else stream
    place = _place(title, files)
    if (found := _opened(place, len(files))) is not None:
        return found
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place, title, stream) as alone:
            if (found := _opened(place, len(files))) is not None:  # made by the one we waited for
                return found
            if alone:
                _remove_leftovers(place)
            _decode_into(place, title, files, stream)
    except OSError as error:
        raise _unwritable(place.parent, error.strerror or str(error), error.errno) from None
    if (found := _opened(place, len(files))) is None:
        raise _unwritable(place.parent, "what was written cannot be read back")
    return found


def kept(title: str, files: Sequence[File]) -> tuple[Photographs, str] | None:
    """What :func:`decoded` would tell, if the cache has these photographs; nothing is decoded."""
    return _opened(_place(title, files), len(files))


# --- the cache -------------------------------------------------------------------------------------------------------


def _place(title: str, files: Sequence[File]) -> Path:
    """The folder of the cache for these files: ``<name>-<where they are>-<what they are>``."""
    root = os.path.commonpath([file.path for file in files])
    here = hashlib.sha256(f"{title}\n{os.path.realpath(root)}".encode(errors="surrogateescape")).hexdigest()[:10]
    stamp = hashlib.sha256(f"{_FORMAT}\n".encode())
    for file in files:
        line = f"{file.name}\0{file.label}\0{file.bytes}\0{file.changed}\n"
        stamp.update(line.encode(errors="surrogateescape"))
    return cache_folder() / f"{title.lower()}-{here}-{stamp.hexdigest()[:16]}"


def _opened(place: Path, count: int) -> tuple[Photographs, str] | None:
    """What is in a folder of the cache; None if there is none, or it is damaged."""
    try:
        about = json.loads((place / _ABOUT).read_bytes())
        packed = (place / _INDEX).read_bytes()
        if about["format"] != _FORMAT or hashlib.sha256(packed).hexdigest() != about["index"]:
            return None
        index = np.load(io.BytesIO(packed), allow_pickle=False)
        if index.dtype != _ENTRY or index.shape != (count,):
            return None
        mapped = _mapped(place / _PIXELS)
        if len(mapped) != about["bytes"]:
            return None
        fingerprint = str(about["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sizes = np.stack([index["height"], index["width"]], axis=1).astype(np.int64)
    photographs = Photographs(
        np.frombuffer(mapped, dtype=np.uint8),
        index["offset"].astype(np.int64),
        sizes,
        index["label"].astype(np.int64),
        index["sha256"],
        _one_size(sizes),
        place / _PIXELS,
        mapped,
    )
    return photographs, fingerprint


@contextlib.contextmanager
def _alone(place: Path, title: str, stream: TextIO) -> Iterator[bool]:
    """Whether this process alone writes to ``place``; waits for one that does. False where files cannot be locked: two
    then decode at once, and the faster one's work stays."""
    if sys.platform == "win32":
        yield False
        return
    with open(_prefix(place) + ".lock", "ab") as file:
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _tell(stream, f"waiting for another process that decodes {title}\n")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True


def _prefix(place: Path) -> str:
    return str(place).rpartition("-")[0]


def _remove_leftovers(place: Path) -> None:
    """Remove what killed processes left. Only while no other process writes to ``place``."""
    for path in place.parent.glob(f".{Path(_prefix(place)).name}-*"):
        shutil.rmtree(path, ignore_errors=True)


def _decode_into(place: Path, title: str, files: Sequence[File], stream: TextIO) -> None:
    """Write the folder ``place`` of the cache. Raises ``OSError`` if it cannot be written, ``BadInput`` as
    :func:`decoded` does."""
    _check_room(place.parent, files)
    temporary = place.parent / f".{Path(_prefix(place)).name}-{os.getpid()}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        index = np.zeros(len(files), dtype=_ENTRY)
        index["label"] = [file.label for file in files]
        (temporary / _PIXELS).touch()
        progress = _Count(title, len(files), place.parent, stream)
        for rows in _rows([file.path for file in files], temporary / _PIXELS):
            for row, offset, height, width, digest in rows:
                index["offset"][row], index["height"][row], index["width"][row] = offset, height, width
                index["sha256"][row] = np.frombuffer(digest, dtype=np.uint8)
            progress.add(len(rows))
        progress.end()
        packed = io.BytesIO()
        np.save(packed, index, allow_pickle=False)
        about = {
            "format": _FORMAT,
            "title": title,
            "photographs": len(files),
            "bytes": (temporary / _PIXELS).stat().st_size,
            "index": hashlib.sha256(packed.getvalue()).hexdigest(),
            "fingerprint": _fingerprint(files, index["sha256"]),
        }
        (temporary / _INDEX).write_bytes(packed.getvalue())
        (temporary / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        for name in (_PIXELS, _INDEX, _ABOUT):
            with open(temporary / name, "r+b") as file:
                os.fsync(file.fileno())
        if place.exists():
            if _opened(place, len(files)) is not None:
                return  # another process was faster
            os.rename(place, temporary / "damaged")
        os.rename(temporary, place)
        shutil.rmtree(place / "damaged", ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for older in place.parent.glob(Path(_prefix(place)).name + "-*"):
        if older != place:  # of these files as they were; who has it mapped keeps it
            shutil.rmtree(older, ignore_errors=True)


def _fingerprint(files: Sequence[File], digests: NDArray[np.uint8]) -> str:
    """sha256 over every name and the sha256 of its bytes, in the order of the names: the same wherever they lie."""
    lines = sorted(f"{file.name}\0{bytes(digest).hex()}\n" for file, digest in zip(files, digests, strict=True))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def _unwritable(folder: Path, why: str, number: int | None = None) -> BadInput:
    """``number`` is the system's for what went wrong, if it has one."""
    remedy = ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free space there or "
    elif number in bounded.DENIED:
        remedy = "mend its permissions or "
    return BadInput(
        f"decoded photographs cannot be kept in {str(folder)!r} ({why}); {remedy}name another folder with {CACHE_VARIABLE}"
    )


def _check_room(folder: Path, files: Sequence[File]) -> None:
    """Raises ``BadInput`` if the pixels will not fit, going by the heads of a few photographs: better now than in an hour."""
    pixels = []
    for file in files[:: max(1, len(files) // _SAMPLED)]:
        with contextlib.suppress(Exception), _open(file.path) as picture:  # decoding will say what is wrong with it
            pixels.append(picture.width * picture.height)
    needed = 3 * sum(pixels) * len(files) // max(1, len(pixels))
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise _unwritable(folder, f"{needed / 1e9:,.1f} GB needed, {free / 1e9:,.1f} GB free", errno.ENOSPC)


# --- decoding --------------------------------------------------------------------------------------------------------

#: Row of a photograph, offset of its pixels in the file, height, width, sha256 of its file.
_Row = tuple[int, int, int, int, bytes]


def _open(source: str | io.BytesIO) -> Image.Image:
    # ImageNet has a PNG among its JPEG files. Other formats are refused: some of them make Pillow start programs.
    return Image.open(source, formats=("JPEG", "PNG"))


def decode(path: str) -> tuple[NDArray[np.uint8], bytes]:
    """Pixels uint8 [H, W, 3] of a photograph, in RGB, and the sha256 of its file. Raises ``BadInput`` if it is damaged."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise bounded.unreadable(f"photograph {path!r}", error) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which is not used
            with _open(io.BytesIO(data)) as picture:
                pixels = _rgb(picture)
    except Exception as error:
        # Pillow answers damaged files with nearly every built-in exception there is; all mean the same here.
        why = "no JPEG or PNG file" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise BadInput(
            f"photograph {path!r} is damaged ({why or type(error).__name__}); replace it by the original JPEG or PNG file"
        ) from None
    return pixels, hashlib.sha256(data).digest()


def _rgb(picture: Image.Image) -> NDArray[np.uint8]:
    """Pixels uint8 [H, W, 3]."""
    if picture.mode.startswith("I"):  # grey in 16 bits, which Pillow would cut off at 255; of colours it takes the upper byte
        grey = (np.asarray(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(picture.convert("RGB"))


def _rows(paths: Sequence[str], into: Path) -> Iterator[list[_Row]]:
    """Decode every photograph into the file ``into``, on all cores, in any order; yields what was done, bit by bit."""
    workers = min(_cores(), len(paths) // _SHARE)
    if workers < 2 or multiprocessing.current_process().daemon:  # a daemon may have no children
        end = 0

        def place(count: int) -> int:
            nonlocal end
            end += count
            return end - count

        yield from _share(paths, range(len(paths)), into, place)
    else:
        yield from _in_processes(paths, into, workers)


def _share(paths: Sequence[str], rows: Sequence[int], into: Path, place: Callable[[int], int]) -> Iterator[list[_Row]]:
    """Decode some photographs; ``place`` sets a number of bytes of the file apart and tells where they begin."""
    done: list[_Row] = []
    told = time.monotonic()
    with open(into, "r+b") as file:
        for row in rows:
            pixels, digest = decode(paths[row])
            offset = place(pixels.size)
            file.seek(offset)
            file.write(pixels.data)
            done.append((row, offset, pixels.shape[0], pixels.shape[1], digest))
            if time.monotonic() - told > 0.1:
                yield done
                done, told = [], time.monotonic()
    yield done  # after the file is closed, so that all of it is written


def _in_processes(paths: Sequence[str], into: Path, workers: int) -> Iterator[list[_Row]]:
    # A fork starts at once and needs no guarded main module. It is safe here because the children decode and write, and
    # touch neither torch nor threads; elsewhere than on Linux system libraries may not survive it.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    readers: dict[Connection, Any] = {}
    try:
        try:
            end = context.Value("q", 0)
            for worker in range(workers):
                reader, writer = context.Pipe(duplex=False)
                rows = range(worker, len(paths), workers)
                process = context.Process(target=_work, args=(paths, rows, into, end, writer, os.getpid()), daemon=True)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on forks beside threads
                    process.start()
                writer.close()
                readers[reader] = process
        except OSError as error:
            raise BadInput(
                f"processes that decode photographs cannot be started ({error.strerror or error}); end others or free memory, "
                "and run this again"
            ) from None
        at_work = set(readers)
        while at_work:
            for ready in cast("list[Connection]", wait(list(at_work))):
                try:
                    told = ready.recv()
                except (EOFError, OSError):  # the latter within a message
                    readers[ready].join()
                    code = readers[ready].exitcode
                    raise BadInput(
                        f"a process that decodes photographs was stopped (exit code {code}), maybe for lack of memory; "
                        "free some and run this again"
                    ) from None
                if told is None:
                    at_work.discard(ready)
                elif isinstance(told, BaseException):
                    raise told
                else:
                    yield told
    finally:
        for reader, process in readers.items():
            process.terminate()
            process.join()
            reader.close()


def _work(paths: Sequence[str], rows: Sequence[int], into: Path, end: Any, writer: Connection, parent: int) -> None:
    """What a child does: send lists of rows, then None, or the exception that ended its work."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends its children
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def place(count: int) -> int:
        if os.getppid() != parent:  # it was killed: nobody waits for this
            os._exit(1)
        with end.get_lock():
            end.value += count
            return int(end.value) - count

    try:
        for done in _share(paths, rows, into, place):
            writer.send(done)
        writer.send(None)
    except (Exception, KeyboardInterrupt) as error:
        with contextlib.suppress(OSError):
            writer.send(error)


def _tell(stream: TextIO, text: str) -> None:
    """Say it now. Where nobody listens any more, the work goes on."""
    with contextlib.suppress(OSError):
        stream.write(text)
        stream.flush()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Count:
    """Progress of decoding: one line, rewritten in place on a terminal; elsewhere plain lines, at most one a minute."""

    LIVE_EVERY_SECONDS, PLAIN_EVERY_SECONDS = 0.1, 60.0

    def __init__(self, title: str, total: int, folder: Path, stream: TextIO) -> None:
        self._title, self._total, self._folder, self._stream = title, total, folder, stream
        self._live = stream.isatty()
        self._done = 0
        self._began = self._written_at = time.monotonic()
        self._write(f"decoding {total:,} photographs of {title}, once, into {folder}")

    def add(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        now = time.monotonic()
        if count and now - self._written_at >= (self.LIVE_EVERY_SECONDS if self._live else self.PLAIN_EVERY_SECONDS):
            left = (now - self._began) * (self._total - self._done) / self._done
            told = f"{left:,.0f} s" if left < 120 else f"{left / 60:,.0f} min"
            self._write(f"decoding {self._title}: {self._done:,} of {self._total:,} photographs, {told} left")

    def end(self) -> None:
        """All are done."""
        self._write(f"decoded {self._total:,} photographs of {self._title} in {time.monotonic() - self._began:,.0f} s")
        if self._live:
            _tell(self._stream, "\n")

    def _write(self, line: str) -> None:
        _tell(self._stream, f"\r\033[K{line}" if self._live else f"{line}\n")
        self._written_at = time.monotonic()
