"""What the papers print: the CSV files in ``papers/published/<paper>/``, one line a number.

A value stays as it is printed: its text is kept beside the number, so that the decimals of a paper are known, and what is
illegible or blank in the source stays empty.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
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


@dataclass(frozen=True)
class Printed:
    """One number as it is printed. ``value`` and ``std`` are None where nothing legible is; units are those of ``metric``.

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


def load(paper: str, name: str) -> Mapping[tuple[str, str], Printed]:
    """The numbers of ``papers/published/<paper>/<name>``: (row, column path) -> number, in the file's order.

    Rows are such as ``w/o SAM/CE`` (block title, label), column paths such as ``CIFAR-10/LT/100``. Raises ``BadInput`` for a
    file that is not there or cannot be read.
    """
    return _load(paper, name)


@cache
def _load(paper: str, name: str) -> Mapping[tuple[str, str], Printed]:
    folder = files("papers") / "published" / paper
    try:
        text = (folder / name).read_text(encoding="utf-8")
    except OSError:
        known = sorted(p.name for p in folder.iterdir() if p.name.endswith(".csv")) if folder.is_dir() else []
        raise BadInput(
            f"published table {name!r} of {paper!r} is not there; allowed: {', '.join(known) or 'none'}; see papers/published"
        ) from None
    return MappingProxyType(parse(text, f"papers/published/{paper}/{name}"))


def parse(text: str, name: str) -> dict[tuple[str, str], Printed]:
    """The numbers of a CSV in the format of :data:`FIELDS`: (row, column path) -> number. ``name`` is for messages.

    Raises ``BadInput`` for other columns, a number that is none, or a place that has two numbers.
    """
    lines = csv.DictReader(io.StringIO(text), restkey="")
    if tuple(lines.fieldnames or ()) != FIELDS:
        raise BadInput(f"file {name!r} has columns {lines.fieldnames}; allowed: {', '.join(FIELDS)}; mend its first line")
    found: dict[tuple[str, str], Printed] = {}
    for line in lines:
        place = line["row"], line["column_path"]
        try:
            if None in line.values() or "" in line:
                raise ValueError(f"not {len(FIELDS)} fields")
            printed = Printed(
                table=line["table"],
                metric=line["metric"],
                value=_number(line["value"]),
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
        if place in found:
            raise BadInput(
                f"file {name!r}, line {lines.line_num}: {' at '.join(place)} is there twice; delete one of the lines"
            )
        found[place] = printed
    return found


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
