"""What the rules of :mod:`replicate.report.verdicts` say of the authors' own second run against their table: how far two runs
of one protocol by the same hands lie apart, and what margins and verdicts are worth. No torch.

Nothing here is ours. The second run takes the place of a replica; where it does not state its number of seeds, that is an open
question, and verdicts are given for several answers to it.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from replicate.errors import BadInput
from replicate.protocol import Paper, SecondRun
from replicate.report import formats, published, tables, verdicts
from replicate.report.published import Printed
from replicate.report.verdicts import Verdict

FORMATS = ("text", "markdown", "csv")
FIELDS = (
    "paper", "table", "row", "column_path", "second_run", "second_run_std", "published", "published_std", "difference",
    "seeds_assumed", "verdict", "low90", "high90", "low95", "high95", "note",
)  # fmt: skip
#: Seeds of a run that does not state their number: as the rules take it, the fewest with a verdict, as many as the paper.
ASSUMED = (None, 3, 5)


@dataclass(frozen=True)
class Pair:
    """One number of both runs, and the verdict by each number of :data:`ASSUMED` seeds, None being the rules' own reading."""

    key: tables.Key
    row: str
    path: str
    again: Printed
    printed: Printed
    said: dict[int | None, Verdict]

    @property
    def difference(self) -> float | None:
        """Second run minus table, in points; None where one is illegible."""
        if self.again.value is None or self.printed.value is None:
            return None
        return self.again.value - self.printed.value


def compare(paper: Paper, run: SecondRun) -> list[Pair]:
    """Every number that both have a place for, in the table's order, columns outermost. Holm's family is every number that the
    table prints as its own, as for a replica. Raises ``BadInput`` if a CSV is missing."""
    table = next(table for table in paper.tables if table.number == run.table)
    theirs = tables.printed(paper, table)
    there = published.load(paper.name, run.published)
    spots = {
        spot.key: spot
        for column in table.columns
        for spot in tables.spots(table, [column])
        if spot.place[0] in run.rows and (run.rows[spot.place[0]], *spot.place[1:]) in there
    }
    again = {key: there[run.rows[spot.place[0]], spot.place[1], spot.place[2]] for key, spot in spots.items()}
    of = {n: _verdicts(_assuming(again, n), theirs) for n in ASSUMED}
    return [
        Pair(key, spot.place[0], spot.place[1], again[key], theirs[key], {n: of[n][key] for n in ASSUMED})
        for key, spot in spots.items()
    ]


def _assuming(again: dict[tables.Key, Printed], n: int | None) -> dict[tables.Key, Printed]:
    return {key: replace(number, n=number.n or n) for key, number in again.items()}


def _verdicts(again: dict[tables.Key, Printed], theirs: dict[tables.Key, Printed]) -> dict[tables.Key, Verdict]:
    one, other = verdicts.summaries({}, again), verdicts.summaries({}, theirs)
    sides = {key: (one[key][1], other[key][1]) for key in again}
    family = sum(number.value is not None and number.provenance == "own" for number in theirs.values())
    tested = {key: p for key, (a, b) in sides.items() if a and b and (p := verdicts.p_value(a, b)) is not None}
    level = dict(zip(tested, verdicts.levels(list(tested.values()), family), strict=True))
    first = verdicts.ALPHA / family
    return {key: verdicts.judge(*sides[key], level=level.get(key, first)) for key in again}


def order(paper: Paper, run: SecondRun, pairs: Sequence[Pair]) -> tuple[int, int]:
    """How many pairs of rows keep their order, of how many that the table's spreads separate; over all columns."""
    one = verdicts.summaries({}, {pair.key: pair.again for pair in pairs})
    table = next(table for table in paper.tables if table.number == run.table)
    other = verdicts.summaries({}, tables.printed(paper, table))
    columns = dict.fromkeys(pair.key[2] for pair in pairs)
    told = [
        verdicts.ranking((one[pair.key][1], other[pair.key][1]) for pair in pairs if pair.key[2] == column)
        for column in columns
    ]
    return sum(kept for kept, _ in told), sum(separable for _, separable in told)


def gains(pairs: Sequence[Pair], run: SecondRun) -> dict[str, tuple[float, float]]:
    """By column the run's ``gain`` in the table and in the second run, in points, where all four numbers are legible."""
    level = {
        (pair.row, pair.path): (pair.printed.value, pair.again.value)
        for pair in pairs
        if pair.printed.value is not None and pair.again.value is not None
    }
    proposed, baseline = ({path: both for (row, path), both in level.items() if row == name} for name in run.gain)
    return {
        path: (both[0] - baseline[path][0], both[1] - baseline[path][1]) for path, both in proposed.items() if path in baseline
    }


# --- print -----------------------------------------------------------------------------------------------------------


def render(paper: Paper, run: SecondRun, format: str) -> str:
    """As ``text``, ``markdown`` or ``csv``, ending with a line feed. Raises ``BadInput`` for another format."""
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    pairs = compare(paper, run)
    if format == "csv":
        return _csv(paper, run, pairs)
    from tabulate import tabulate

    markdown = format == "markdown"
    title = f"{paper.command}: the authors' own second run against table {run.table} ({run.title})"
    heads = ("row", "data", "second run", f"table {run.table}", "difference", *(f"verdict, {_seeds(n)}" for n in ASSUMED))
    shown = [tuple(formats.escape_markdown(cell) for cell in _cells(pair)) if markdown else _cells(pair) for pair in pairs]
    body = tabulate(
        shown, heads, "pipe" if markdown else "simple", disable_numparse=True,
        colalign=("left", "left", "right", "right", "right", *["left"] * len(ASSUMED)),
    )  # fmt: skip
    lines = [f"**{title}**" if markdown else title, "", *(line.rstrip() for line in body.splitlines()), ""]
    for note in _notes(paper, run, pairs):
        lines += formats.wrapped(note, markdown)
    return "\n".join(lines) + "\n"


def _seeds(n: int | None) -> str:
    return "seeds not stated" if n is None else f"if {n} seeds"


def _cells(pair: Pair) -> tuple[str, ...]:
    return (
        pair.row,
        pair.path,
        formats.plain(tables.entry(pair.again, pair.again.metric, 0)),
        formats.plain(tables.entry(pair.printed, pair.printed.metric, 0)),
        "" if pair.difference is None else f"{pair.difference:+.2f}",
        *(pair.said[n].word for n in ASSUMED),
    )


def _notes(paper: Paper, run: SecondRun, pairs: Sequence[Pair]) -> Iterator[str]:
    told = [(abs(pair.difference), pair) for pair in pairs if pair.difference is not None]
    most, at = max(told, key=lambda one: one[0])
    yield (
        f"{len(told)} of {len(pairs)} numbers are legible in both. Median absolute difference "
        f"{statistics.median(apart for apart, _ in told):.2f} points, under 1.0 in {sum(apart < 1 for apart, _ in told)}; "
        f"largest {most:.2f} ({at.row}, {at.path})."
    )
    for n in ASSUMED:
        words = Counter(pair.said[n].word for pair in pairs if pair.difference is not None)
        counts = ", ".join(f"{words[word]} {word}" for word in ("match", "higher", "lower", "open") if words[word])
        why = " (an n that is not stated counts as 2, and fewer than three runs are always open)" if n is None else ""
        yield f"Verdicts, {_seeds(n)}: {counts}{why}."
    yield "Order: {} of {} separable pairs keep their order.".format(*order(paper, run, pairs))
    shares = gains(pairs, run)
    if shares:
        each = "; ".join(f"{path} {claimed:+.2f} and {again:+.2f}" for path, (claimed, again) in shares.items())
        share = statistics.median(100 * again / claimed for claimed, again in shares.values())
        yield (
            f"Gain of {run.gain[0]} over {run.gain[1]}, in the table and in the second run: {each}. In the median "
            f"{share:.0f} % of it remains."
        )
    yield "Both runs are the authors'; nothing here is ours. The rules are those of replicas; see `replicate diff`."


def _csv(paper: Paper, run: SecondRun, pairs: Sequence[Pair]) -> str:
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(FIELDS)
    for pair in pairs:
        for n in ASSUMED:
            verdict = pair.said[n]
            ends = (*(verdict.interval90 or (None, None)), *(verdict.interval95 or (None, None)))
            lines.writerow(
                (
                    paper.name, pair.printed.table, pair.row, pair.path, pair.again.value_text, pair.again.std_text,
                    pair.printed.value_text, pair.printed.std_text,
                    "" if pair.difference is None else f"{pair.difference:.4f}", n or "", verdict.word,
                    *("" if end is None else f"{end:.4f}" for end in ends), "; ".join((run.title, verdict.reason)),
                )
            )  # fmt: skip
    return out.getvalue()
