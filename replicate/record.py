"""Records, Measures and the Store: what is left of a trained cell, as atomic JSON files. No torch, never a pickle."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate.errors import BadInput
from replicate.grid import Cell, cell_key, epochs_left

if TYPE_CHECKING:
    from replicate.index import Index

FORMAT = 1
NAME = re.compile(r"(?P<key>[0-9a-f]{24})-s(?P<seed>\d+)\.json")
#: Name of a file that :func:`write_atomically` writes first.
_TEMPORARY = re.compile(r"\..+\.\d+\.[0-9a-f]{8}")
#: A temporary file that is older was left by a process that was killed.
_LEFT_SECONDS = 24 * 3600.0


@dataclass
class Record:
    """What a finished (or failed) cell leaves.

    ``curves`` has one entry an epoch, counted over the whole chain: ``loss`` (mean over images; SAM: of the perturbed
    pass), ``rate`` (learning rate), ``seconds``, and correct counts: ``train[group]``, ``validation[group]`` where there is
    one, ``test[half][group]`` for the two fixed halves of the test set (parity of an image's place in its class).
    ``totals`` holds the image counts behind them, in the same shape. ``per_class`` maps an epoch (the last, every best,
    every switch) to counts of each class: ``train`` [C], ``test`` [2][C]. ``stage_starts`` is the first epoch of every stage.
    ``best`` maps ``test``, ``half 0``, ``half 1`` and ``validation`` to the epoch of best balanced accuracy there, within the
    last stage. ``failed`` is None, or the epoch and loss at which training broke off.

    ``adjusted``, where the method ends in an adjustment, holds ``parameter`` (``tau`` or ``gamma``), its ``values`` and, for
    the state that was handed over (``handed over``) and for the last one (``last``), the ``epoch`` and correct counts for every
    value: ``validation[group]`` and ``test[half][group]``. The curves are those of the training before it.

    ``environment`` is that of the process which finished the cell. Where epochs came from checkpoints that others made, with
    another device, mode, version or commit, ``stretches`` has [first epoch, environment] of each stretch, as far as checkpoints
    tell; it is empty, and in no file, where there is nothing more to tell.
    """

    key: str
    seed: int
    programme_key: str
    source: str
    edition: str
    spec: dict[str, Any]
    class_counts: list[int]
    groups: dict[str, list[int]]
    epochs: int
    curves: dict[str, Any]
    totals: dict[str, Any]
    per_class: dict[str, Any]
    best: dict[str, int]
    environment: dict[str, Any]
    fingerprint: str
    made_for: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, Any] | None = None
    stage_starts: list[int] = field(default_factory=lambda: [1])
    adjusted: dict[str, Any] | None = None
    stretches: list[Any] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def from_json(cls, told: Any) -> Record:
        """Raises ``ValueError`` for data that is not a Record of this format."""
        if not isinstance(told, dict) or told.get("format") != FORMAT:
            raise ValueError("not a Record of this format")
        try:
            record = cls(**told)
        except TypeError as error:
            raise ValueError(str(error)) from None
        done = record.epochs
        if record.failed is None and any(len(record.curves[name]) != done for name in ("loss", "rate", "seconds")):
            raise ValueError(f"its curves do not have {done} epochs")
        if record.failed is None and len(record.accuracy("test")) != done:
            raise ValueError(f"its test counts do not have {done} epochs")
        if record.failed is None and len(record.accuracy("validation")) not in (0, done):
            raise ValueError(f"its validation counts do not have {done} epochs")
        return record

    def accuracy(self, split: str, *, half: int | None = None, group: str | None = None) -> list[float]:
        """Balanced accuracy, epoch by epoch over the whole chain, as a share: on ``"train"``, ``"validation"`` or ``"test"``
        (or one half of it), over all classes or those of one group. Empty if the split does not exist.

        It is the share of correct images wherever the classes of a split are of equal size. Where they are not, groups weigh by
        their number of classes; that is balanced accuracy if each class is a group. Training images, which differ in number on
        purpose, are counted each alike. Raises ``KeyError`` for a group that the Record does not have.
        """
        if split not in self.curves or split not in self.totals:
            return []
        return self._series(split, self.curves[split], half, group)

    def peak(self, split: str, *, half: int | None = None, last: bool = False) -> tuple[int, float] | None:
        """Epoch of the best balanced accuracy on a split or a half of it, within the last stage and the earlier of equal ones,
        or the ``last`` epoch; and that accuracy, as in :meth:`accuracy`. None if the split does not exist."""
        curve = self.accuracy(split, half=half)
        if not curve:
            return None
        first = len(curve) if last else self.stage_starts[-1]
        epoch = first + earliest_best(curve[first - 1 :])
        return epoch, curve[epoch - 1]

    @property
    def seconds(self) -> float:
        """What all epochs took together."""
        return math.fsum(self.curves["seconds"])

    def adjusted_accuracy(
        self, split: str, *, half: int | None = None, group: str | None = None, last: bool = False
    ) -> list[float]:
        """As :meth:`accuracy`, but for every value of the adjustment instead of every epoch: of the state that was handed over,
        or of the ``last`` one. Empty without an adjustment or such a split."""
        told = (self.adjusted or {}).get("last" if last else "handed over", {})
        return self._series(split, told[split], half, group) if split in told else []

    def _series(self, split: str, counts: Any, half: int | None, group: str | None) -> list[float]:
        names = list(self.groups) if group is None else [group]
        halves: tuple[int | None, ...] = (None,)
        if split == "test":
            halves = (0, 1) if half is None else (half,)

        def of(told: Any, name: str) -> list[Any]:
            return [told[name] if h is None else told[h][name] for h in halves]

        curves = {name: [sum(parts) for parts in zip(*of(counts, name), strict=True)] for name in names}
        totals = {name: sum(of(self.totals[split], name)) for name in names}
        sizes = {name: self.groups[name][1] - self.groups[name][0] for name in names}
        alike = all(totals[name] * sizes[names[0]] == totals[names[0]] * sizes[name] for name in names)
        if split == "train" or alike:
            total = sum(totals.values())
            return [sum(row) / total for row in zip(*curves.values(), strict=True)]
        classes = sum(sizes.values())
        return [
            sum(sizes[name] * row[place] / totals[name] for place, name in enumerate(names)) / classes
            for row in zip(*curves.values(), strict=True)
        ]


def earliest_best(levels: Sequence[float]) -> int:
    """The first place of the largest level."""
    # Equal sums of counts may differ in the last bit of their shares; rounding makes such ties ties.
    rounded = [round(level, 10) for level in levels]
    return rounded.index(max(rounded))


def file_name(programme_key: str, seed: int) -> str:
    """Name of the file that holds a Record or a checkpoint's Measures."""
    return f"{programme_key[:24]}-s{seed}.json"


def _checkpoint_name(key: str, epoch: int, seed: int) -> str:
    return f"{key[:24]}-e{epoch}-s{seed}.pt"


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` so that ``path`` holds either all of it or what it held before. Raises ``OSError``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _json(value: Any) -> bytes:
    return (json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n").encode()


def seeds_in(folder: str) -> Mapping[str, Set[int]]:
    """Seeds with a Record in one folder, by the first 24 digits of the programme key. Raises ``BadInput`` if it may not be
    read."""
    found: dict[str, set[int]] = {}
    for name in _names(Path(folder)):
        if match := NAME.fullmatch(name):
            found.setdefault(match["key"], set()).add(int(match["seed"]))
    return found


def _names(folder: Path) -> list[str]:
    """Of the files in a folder; none where there is no such folder. Raises ``BadInput`` if it may not be read."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable("folder", folder, error) from None


def exists(path: Path) -> bool:
    """Whether a file is there. Raises ``BadInput`` if its folder may not be read."""
    try:
        return path.exists()
    except OSError as error:
        raise unreadable("file", path, error) from None


def unreadable(what: str, path: Path, error: OSError) -> BadInput:
    """The line for what is there and may not be read, or has no possible name."""
    return BadInput(f"{what} {str(path)!r} cannot be read ({error.strerror}); mend its permissions, or name another folder")


def require_writable(folder: Path, what: str, option: str) -> None:
    """Make a folder where there is none. Raises ``BadInput``, which says ``what`` it is for and by which ``option`` another one
    is named, if nothing can be written there."""
    probe = folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(
            f"{what} {str(folder)!r} is not writable ({error.strerror}); name a folder you may write to with {option}"
        ) from None


class Store:
    """The folder of Records, Measures and checkpoints; beside it, folders of Records that are only read.

    ``records/<source>@<edition>/<programme key>-s<seed>.json``, ``measures/`` likewise with one folder a measure, and
    ``checkpoints/`` likewise with an epoch in the name. Files are written whole or not at all, so any number of readers and
    a writer that is killed leave it usable.
    """

    def __init__(self, root: Path, also: Sequence[Path] = (), index: Index | None = None) -> None:
        """``index`` spares a report of many Records most of their files; see :mod:`replicate.index`."""
        self.root = Path(root)
        self.also = tuple(Path(path) for path in also)
        self._index = index

    def require_writable(self) -> None:
        """Raises ``BadInput`` if nothing can be written there; removes what killed processes left half written."""
        require_writable(self.root, "store", "--store")
        for folder, _, names in itertools.chain.from_iterable(
            os.walk(self.root / kind) for kind in ("records", "measures", "checkpoints", "index")
        ):
            for name in filter(_TEMPORARY.fullmatch, names):
                path = Path(folder, name)
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                        path.unlink()

    def editions(self, source: str) -> list[str]:
        """Editions of a data set that Records exist for, official first."""
        begins = f"{source}@"
        found = {
            name.removeprefix(begins)
            for root in (self.root, *self.also)
            for name in _names(root / "records")
            if name.startswith(begins) and os.path.isdir(root / "records" / name)
        }
        return sorted(found, key=lambda edition: (edition != "official", edition))

    def seeds(self, source: str, edition: str) -> dict[str, list[int]]:
        """Seeds with a Record, by the first 24 digits of the programme key."""
        folders = [os.path.join(root, "records", f"{source}@{edition}") for root in (self.root, *self.also)]
        first, *others = map(seeds_in if self._index is None else self._index.seeds, folders)
        found = {key: sorted(seeds) for key, seeds in first.items()}
        for of_folder in others:
            for key, seeds in of_folder.items():
                found[key] = sorted({*found.get(key, ()), *seeds})
        return found

    def record(self, source: str, edition: str, programme_key: str, seed: int) -> Record | None:
        """The Record, or None. Raises ``BadInput`` naming a file that is damaged."""
        for root in (self.root, *self.also):
            folder, name = os.path.join(root, "records", f"{source}@{edition}"), file_name(programme_key, seed)
            record: Record | None = None if self._index is None else self._index.outline(folder, name)
            if record is None:
                path = Path(folder, name)
                try:
                    text = path.read_bytes()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise unreadable("Record", path, error) from None
                record = parse(path, text)
            if record.key != cell_key(programme_key, seed):
                raise _damaged(Path(folder, name), "its key is another cell's")
            return record
        return None

    def of(self, cell: Cell, edition: str) -> Record | None:
        """The Record of a cell on an edition of its data, or None."""
        return self.record(cell.programme.start.data.source, edition, cell.programme.key(edition), cell.seed)

    def records(self) -> Iterator[Record]:
        """Every Record, the store's own first, in order of their files' names. Raises ``BadInput`` naming a file that is
        damaged or may not be read."""
        seen = set()
        for root in (self.root, *self.also):
            folders = (root / "records" / name for name in sorted(_names(root / "records")) if "@" in name)
            for path in (folder / name for folder in folders for name in sorted(_names(folder)) if NAME.fullmatch(name)):
                if (name := f"{path.parent.name}/{path.name}") not in seen:
                    seen.add(name)
                    known = None if self._index is None else self._index.outline(str(path.parent), path.name)
                    try:
                        record = known or parse(path, path.read_bytes())
                    except OSError as error:
                        raise unreadable("Record", path, error) from None
                    yield record

    def write(self, record: Record) -> Path:
        """Raises ``BadInput`` if the store cannot be written."""
        place, told = f"{record.source}@{record.edition}", asdict(record)
        if not record.stretches:
            del told["stretches"]
        return self._write(self.root / "records" / place / file_name(record.programme_key, record.seed), told)

    def measure(self, name: str, source: str, edition: str, trained_key: str, seed: int) -> dict[str, Any] | None:
        """A Measure of a trained cell, or None. ``trained_key`` is the key after its last epoch: an adjustment has no Measures
        of its own. Raises ``BadInput`` naming a file that is damaged."""
        place = Path("measures") / f"{source}@{edition}" / name
        for root in (self.root, *self.also):
            path = root / place / file_name(trained_key, seed)
            try:
                told = json.loads(path.read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise unreadable("Measure", path, error) from None
            except ValueError:
                raise _damaged(path, "it is not JSON") from None
            if isinstance(told, dict):
                return told
            raise _damaged(path, "it is not a Measure")
        return None

    def write_measure(self, name: str, source: str, edition: str, trained_key: str, seed: int, told: dict[str, Any]) -> Path:
        """Raises ``BadInput`` if the store cannot be written."""
        place = f"{source}@{edition}"
        return self._write(self.root / "measures" / place / name / file_name(trained_key, seed), told)

    def files(
        self, source: str, edition: str, programme_key: str, trained_key: str, seed: int, measures: Sequence[str]
    ) -> Iterator[Path]:
        """The store's own files of a cell: its Record, then those of these Measures that it has."""
        place = f"{source}@{edition}"
        records = self.root / "records" / place / file_name(programme_key, seed)
        of_measures = (self.root / "measures" / place / name / file_name(trained_key, seed) for name in measures)
        yield from (path for path in (records, *of_measures) if path.is_file())

    def checkpoint(self, source: str, edition: str, key: str, epoch: int, seed: int) -> Path:
        """Where the state after ``epoch`` with this chain key belongs."""
        return self.root / "checkpoints" / f"{source}@{edition}" / _checkpoint_name(key, epoch, seed)

    def _checkpoints(self, source: str, edition: str) -> frozenset[str]:
        """Names of the checkpoints that are there."""
        return frozenset(_names(self.root / "checkpoints" / f"{source}@{edition}"))

    def _furthest(self, cell: Cell, edition: str, there: Set[str]) -> int:
        """Epoch of the furthest checkpoint on the cell's way among those that are ``there``, 0 if there is none."""
        chain, pack, first = cell.programme.keys(edition), cell.programme.pack(edition), cell.programme.frozen_from
        for epoch in range(cell.programme.length, 0, -1) if there else ():
            names = [chain[epoch]] if pack is None or first is None or epoch < first else [chain[epoch], pack]
            if any(_checkpoint_name(name, epoch, cell.seed) in there for name in names):
                return epoch
        return 0

    def epochs_left(self, planned: Sequence[Cell], edition_of: Mapping[str, str]) -> dict[tuple[str, int], tuple[Cell, float]]:
        """Distinct epochs still to train (see :func:`replicate.grid.epochs_left`), given what is in the store."""

        there = {source: self._checkpoints(source, edition) for source, edition in edition_of.items()}

        def edition(cell: Cell) -> str:
            return edition_of[cell.programme.start.data.source]

        return epochs_left(
            planned,
            edition_of,
            finished=lambda cell: self.of(cell, edition(cell)) is not None,
            begun=lambda cell: self._furthest(cell, edition(cell), there[cell.programme.start.data.source]),
        )

    def _write(self, path: Path, told: dict[str, Any]) -> Path:
        try:
            write_atomically(path, _json(told))
        except OSError as error:
            raise BadInput(
                f"store {str(self.root)!r} cannot be written ({error.strerror}); free space there or name another with --store"
            ) from None
        return path


def parse(path: Path, text: bytes) -> Record:
    """The Record whose file holds ``text``. Raises ``BadInput`` naming a ``path`` that is damaged."""
    try:
        return Record.from_json(json.loads(text))
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise _damaged(path, str(error) or type(error).__name__) from None


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(f"file {str(path)!r} is damaged ({why}); delete it and run again: only that cell is trained again")
