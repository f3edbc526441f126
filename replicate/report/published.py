"""What the papers print: the CSV files in ``papers/published/<paper>/``, one line a number.

A value stays as it is printed: its text is kept beside the number, so that the decimals of a paper are known, and what is
illegible or blank in the source stays empty.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from replicate.errors import BadInput

#: The columns of every CSV of numbers, published ones and ours.
FIELDS = (
    "paper", "table", "row", "column_path", "metric", "value", "std",
    "statistic", "n", "spread_kind", "provenance", "specified", "note",
)  # fmt: skip

#: Where a number is printed: row such as ``w/o SAM/CE`` (block title, label), column path such as ``CIFAR-10/LT/100``, metric.
#: One row and path may hold several metrics.
Place = tuple[str, str, str]

#: The metric of tables that compare methods in words.
WORDS = "component"
#: What a note says of the gain that is printed beside a number.
_GAIN = re.compile(r"printed gain over \S+ ([+-]\d+(?:\.\d+)?)(?:;|$)")
#: What a note says of nearly every number, or what is printed beside it; anything else is about a few of them.
_USUAL = re.compile(r"mean over \d+ seeds|best of \w+ trials|std not printed|printed gain over|no gain printed")


@dataclass(frozen=True)
class Printed:
    """One number as it is printed. ``value`` and ``std`` are None where nothing legible is, and where ``metric`` is
    :data:`WORDS`; units are those of ``metric``.

    ``statistic``: ``"mean"`` or ``"best"``, of ``n`` runs (None: not stated). ``spread_kind``: what ``std`` is, in words.
    ``provenance``: ``"own"`` for the paper's own runs, ``"quoted"`` for numbers that it takes from elsewhere, or who made
    it. ``specified``: ``"full"`` if the paper fixes the whole protocol of this number, else what it leaves open.
    """

    table: str
    metric: str
    value: float | None
    std: float | None
    value_text: str
    std_text: str
    statistic: str
    n: int | None
    spread_kind: str
    provenance: str
    specified: str
    note: str

    @property
    def decimals(self) -> int:
        """Digits after the point of the value as printed (of its mantissa, in scientific notation); 0 if it is empty."""
        return len(self.value_text.lower().partition("e")[0].partition(".")[2])

    @property
    def suspect(self) -> bool:
        """Whether the number is marked as one that the paper itself contradicts."""
        return "suspect in source" in self.note

    @property
    def gain(self) -> str:
        """The gain that is printed beside the value, with its sign; empty where there is none."""
        found = _GAIN.search(self.note)
        return found[1] if found else ""


def load(paper: str, name: str) -> Mapping[Place, Printed]:
    """The numbers of ``papers/published/<paper>/<name>`` by their places, in the file's order.

    Raises ``BadInput`` for a file that is not there or cannot be read.
    """
    return _load(paper, name)


@cache
def _load(paper: str, name: str) -> Mapping[Place, Printed]:
    return MappingProxyType(parse(*_read(paper, name)))


def _read(paper: str, name: str) -> tuple[str, str]:
    """Text of a published CSV, and what messages call it."""
    folder = files("papers") / "published" / paper
    try:
        return (folder / name).read_text(encoding="utf-8"), f"papers/published/{paper}/{name}"
    except OSError:
        known = sorted(p.name for p in folder.iterdir() if p.name.endswith(".csv")) if folder.is_dir() else []
        raise BadInput(
            f"published table {name!r} of {paper!r} is not there; allowed: {', '.join(known) or 'none'}; see papers/published"
        ) from None


def parse(text: str, name: str) -> dict[Place, Printed]:
    """The numbers of a CSV in the format of :data:`FIELDS` by their places. ``name`` is for messages.

    Raises ``BadInput`` for other columns, a number that is none, or a place that has two numbers.
    """
    found: dict[Place, Printed] = {}
    for line, place, number in _lines(text, name):
        if place in found:
            raise BadInput(f"file {name!r}, line {line}: {' at '.join(place[:2])} is there twice; delete one of the lines")
        found[place] = number
    return found


def every(paper: str, name: str) -> Iterator[tuple[Place, Printed]]:
    """As :func:`load`, of a file too that has several numbers of one place, each from another source (``table``)."""
    for _, place, number in _lines(*_read(paper, name)):
        yield place, number


def _lines(text: str, name: str) -> Iterator[tuple[int, Place, Printed]]:
    """Number of the line, place and number."""
    lines = csv.DictReader(io.StringIO(text), restkey="")
    if tuple(lines.fieldnames or ()) != FIELDS:
        raise BadInput(f"file {name!r} has columns {lines.fieldnames}; allowed: {', '.join(FIELDS)}; mend its first line")
    for line in lines:
        try:
            if None in line.values() or "" in line:
                raise ValueError(f"not {len(FIELDS)} fields")
            words = line["metric"] == WORDS
            printed = Printed(
                table=line["table"],
                metric=line["metric"],
                value=None if words else _number(line["value"]),
                std=_number(line["std"]),
                value_text=line["value"],
                std_text=line["std"],
                statistic=line["statistic"],
                n=int(line["n"]) if line["n"] else None,
                spread_kind=line["spread_kind"],
                provenance=line["provenance"],
                specified=line["specified"],
                note=line["note"],
            )
        except ValueError as error:
            raise BadInput(
                f"file {name!r}, line {lines.line_num}: {error}; a value is a number or empty; mend that line"
            ) from None
        yield lines.line_num, (line["row"], line["column_path"], line["metric"]), printed


def _number(text: str) -> float | None:
    if not text:
        return None
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text!r} is not finite")
    return number


def write(paper: str, numbers: Iterable[tuple[str, str, Printed]]) -> str:
    """Numbers as (row, column path, number), as a CSV in the format of :data:`FIELDS`; :func:`parse` reads it back."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(FIELDS)
    for row, path, p in numbers:
        lines.writerow(
            (paper, p.table, row, path, p.metric, p.value_text, p.std_text, p.statistic, "" if p.n is None else p.n,
             p.spread_kind, p.provenance, p.specified, p.note)
        )  # fmt: skip
    return out.getvalue()


def remarks(numbers: Mapping[Place, Printed], shown: Collection[Place]) -> Iterator[str]:
    """What the notes of ``numbers``, all of a table, say of some legible ones at the places ``shown``: a sentence for each set
    of places. What is said of every number of the table is about its making, and left out."""
    legible = [place for place, number in numbers.items() if number.value_text]
    shown = {place for place in legible if place in shown}
    said: dict[str, list[Place]] = {}
    for place in legible:
        for words in numbers[place].note.split("; "):
            if words and not _USUAL.match(words):
                said.setdefault(words, []).append(place)
    alike: dict[tuple[Place, ...], list[str]] = {}
    for words, places in said.items():
        here = tuple(place for place in places if place in shown)
        if here and len(places) < len(legible):
            alike.setdefault(here, []).append(words)
    for of, parts in alike.items():
        yield f"{_listed(of, shown)}: {'; '.join(parts)}."


def _listed(places: Iterable[Place], shown: Collection[Place]) -> str:
    """Places in words: a row alone where all that is shown of it is meant."""
    of_row: dict[str, list[Place]] = {}
    for place in places:
        of_row.setdefault(place[0], []).append(place)
    parts = []
    for row, here in of_row.items():
        whole = [place for place in shown if place[0] == row]
        if len(here) == len(whole):
            parts.append(row)
            continue
        twice = len({place[:2] for place in whole}) < len(whole)
        parts.append(f"{row} ({', '.join(', '.join(place[1:]) if twice else place[1] for place in here)})")
    return ", ".join(parts)
