"""Outlines of many Records in one file, so that a folder of thousands is read within seconds. No torch, never a pickle.

An outline holds what choosing among runs needs, and stands for the very file that it was made from: it is used only where
that file still has the size and times that it had then. A file that is new, changed or damaged is read as if there were no
index; an index that is missing, damaged or out of date is made anew, and where it cannot be written readers go on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Mapping, Set
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from replicate import record as records
from replicate.errors import BadInput
from replicate.record import Record

FORMAT = 1  # rises when an outline holds something else, or when what it holds is computed otherwise
LEAST = 500  # Records in a folder; fewer are read from their files as fast
SETTLED = 2.0  # seconds; a younger file may change once more within what its time resolves, and gets no outline yet

#: Fields of a Record that an outline holds as they are.
_FIELDS = (
    "key", "seed", "programme_key", "source", "edition", "epochs", "environment", "fingerprint", "made_for", "failed",
    "stage_starts",
)  # fmt: skip
#: Peaks that an outline holds, by name: split, half of it, and whether of the last epoch alone.
_PEAKS: Mapping[str, tuple[str, int | None, bool]] = {
    "test": ("test", None, False),
    "half 0": ("test", 0, False),
    "half 1": ("test", 1, False),
    "validation": ("validation", None, False),
    "last": ("test", None, True),
}
_NAMES = {place: name for name, place in _PEAKS.items()}

#: Size in bytes, times of change of content and of the file in nanoseconds.
State = tuple[int, int, int]


class Outline(Record):
    """A Record of which an index knows the outline; the rest is read from its file when it is first asked for.

    Reading it raises ``BadInput`` naming the file if that is damaged by then, or gone."""

    def __init__(self, path: str, state: State, told: Mapping[str, Any]) -> None:
        self.__dict__.update(told["fields"], _path=path, _state=state, _told=told)

    def _read(self) -> dict[str, Any]:
        self.__dict__.update(vars(_whole(self._path, self._state)))
        return self.__dict__

    def __getattr__(self, name: str) -> Any:
        if name not in Record.__dataclass_fields__:
            raise AttributeError(name)
        return self._read()[name]

    @cached_property
    def adjusted(self) -> dict[str, Any] | None:  # type: ignore[override]  # its default is an attribute of Record's
        found: dict[str, Any] | None = self._read()["adjusted"] if self._told["adjusted"] else None
        return found

    def peak(self, split: str, *, half: int | None = None, last: bool = False) -> tuple[int, float] | None:
        name = _NAMES.get((split, half, last))
        if name not in self._told["peaks"]:
            return super().peak(split, half=half, last=last)
        peak = self._told["peaks"][name]
        return None if peak is None else (peak[0], peak[1])

    @property
    def seconds(self) -> float:
        seconds: float = self._told["seconds"]
        return seconds


@lru_cache(maxsize=2_000)
def _whole(path: str, state: State) -> Record:
    """The Record in a file of this state; the chosen ones are asked for by every table, figure and claim."""
    try:
        return records.parse(Path(path), Path(path).read_bytes())
    except OSError as error:
        raise BadInput(f"Record {path!r} cannot be read any more ({error.strerror}); run the command again") from None


def _told_of(record: Record) -> dict[str, Any]:
    """A Record's outline as JSON data."""
    peaks = {} if record.failed else {name: record.peak(s, half=half, last=last) for name, (s, half, last) in _PEAKS.items()}
    fields = {name: getattr(record, name) for name in _FIELDS}
    return {"fields": fields, "peaks": peaks, "seconds": record.seconds, "adjusted": record.adjusted is not None}


class Index:
    """The outlines of folders of Records, kept in ``<store>/index``; made when a folder is first asked about. For one report:
    which Records there are is looked up once."""

    def __init__(self, store: Path) -> None:
        self._store = Path(store)
        self._seeds: dict[str, Mapping[str, Set[int]]] = {}
        self._folders: dict[str, dict[str, tuple[State, dict[str, Any]]]] = {}

    def seeds(self, folder: str) -> Mapping[str, Set[int]]:
        """As :func:`replicate.record.seeds_in`."""
        if folder not in self._seeds:
            self._seeds[folder] = records.seeds_in(folder)
        return self._seeds[folder]

    def outline(self, folder: str, name: str) -> Outline | None:
        """The Record in the file ``name`` of a folder ``records/<source>@<edition>``, if its outline is known and true."""
        if folder not in self._folders:
            self._folders[folder] = self._outlines(folder)
        state, told = self._folders[folder].get(name, (None, {}))
        if state is None:
            return None
        path = os.path.join(folder, name)
        try:
            unchanged = state == _state(os.stat(path))
        except OSError:
            return None
        return Outline(path, state, told) if unchanged else None

    def _outlines(self, folder: str) -> dict[str, tuple[State, dict[str, Any]]]:
        states = _states(folder)
        if len(states) < LEAST:
            return {}
        path = self._file(folder)
        kept = _load(path)
        found = {name: known for name, known in kept.items() if states.get(name) == known[0]}
        if not os.access(self._store, os.W_OK):
            return found  # to read every file for an outline that cannot be kept takes longer than to go without
        made: dict[str, tuple[State, dict[str, Any]]] = {}
        for name, state in states.items():
            if name not in found and (told := _outlined(Path(folder, name), state)) is not None:
                made[name] = state, told
        found.update(made)
        if made or len(found) < len(kept):
            with contextlib.suppress(OSError):
                records.write_atomically(path, _text(found))
        return found

    def _file(self, folder: str) -> Path:
        """Folders beside the store's own are told apart by where they are."""
        place = Path(folder)
        own = place == self._store / "records" / place.name
        beside = "" if own else f".{hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:12]}"
        return self._store / "index" / f"{place.name}{beside}.json"


def _state(told: os.stat_result) -> State:
    return told.st_size, told.st_mtime_ns, told.st_ctime_ns


def _states(folder: str) -> dict[str, State]:
    """Of every Record's file in the folder."""
    found = {}
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if records.NAME.fullmatch(entry.name):
                with contextlib.suppress(OSError):
                    found[entry.name] = _state(entry.stat())
    return found


def _outlined(path: Path, state: State) -> dict[str, Any] | None:
    """The outline of a Record's file; None of one that is too young, or that no reader can make sense of."""
    if state[1] > time.time_ns() - SETTLED * 1e9:
        return None
    with contextlib.suppress(BadInput, OSError, ValueError, LookupError, TypeError, ArithmeticError):
        told = _told_of(records.parse(path, path.read_bytes()))
        if _state(os.stat(path)) == state:  # else it changed while it was read
            return told
    return None


# The file: a digest of all that follows, a line feed, and JSON.


def _text(outlines: Mapping[str, tuple[State, dict[str, Any]]]) -> bytes:
    body = json.dumps([[FORMAT, records.FORMAT], outlines], separators=(",", ":"), allow_nan=False).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _load(path: Path) -> dict[str, tuple[State, dict[str, Any]]]:
    """What the file holds; nothing if it is missing, damaged or of another format."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        if hashlib.sha256(body).hexdigest().encode() != digest:
            return {}
        format, outlines = json.loads(body)
    except (OSError, ValueError):
        return {}
    if format != [FORMAT, records.FORMAT]:
        return {}
    return {name: (tuple(state), told) for name, (state, told) in outlines.items()}
