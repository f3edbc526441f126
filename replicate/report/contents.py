"""What a paper's results folder holds, as one page in Markdown: of each table how much was run, on what, and with which
verdicts. No torch."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from replicate.protocol import Paper
from replicate.report import diff, formats

_HEADS = ("table", "read as", "data", "numbers", "seeds", "verdicts", "files")


@dataclass(frozen=True)
class Written:
    """A table in files that begin with ``stem``; ``read_as`` names its grid or variant where that is not the table's own.
    ``rows`` are all its numbers, those that have not been run among them."""

    stem: str
    read_as: str
    rows: Sequence[diff.Row]


def render(paper: Paper, written: Sequence[Written]) -> str:
    """The page, ending with a line feed."""
    lines = [f"# {paper.command}: what was run", "", f"*{paper.title}*. {paper.citation}", ""]
    if written:
        lines += [*formats.markdown_table([_HEADS, *map(_line, written)], left=len(_HEADS)), ""]
    else:
        lines += ["Nothing yet.", ""]
    notes = [
        "`replicate results` writes this folder from the Records and Measures in it; `replicate tables` and `replicate diff` "
        "print the same. Numbers are those that the paper prints in the columns that have this data, without rows added here; "
        "verdicts are of numbers that have a replica. A stand-in is no part of the paper and has none."
    ]
    if paper.claims:
        notes.append("What the paper claims, by its own numbers and by ours: [claims.md](claims.md), [claims.csv](claims.csv).")
    for note in notes:
        lines += [*textwrap.wrap(note, formats.WIDTH, break_on_hyphens=False), ""]
    return "\n".join(lines)


def _line(table: Written) -> tuple[str, ...]:
    own = [row for row in table.rows if row.verdict.word != "quoted"]
    run = [row for row in own if row.level is not None]
    stand_in = any(row.spot.column.stand_in for row in own)
    seeds = sorted({row.replica.n for row in run if row.replica is not None})
    return (
        own[0].spot.table.number,
        table.read_as,
        ", ".join(dict.fromkeys(row.edition for row in own)) + (", a stand-in" if stand_in else ""),
        f"{len(run)} of {len(own)}",
        " to ".join(str(n) for n in dict.fromkeys((*seeds[:1], *seeds[-1:]))),
        "" if stand_in else diff.tally(run),
        ", ".join(_files(table.stem, verdicts=not stand_in)),
    )


def _files(stem: str, verdicts: bool) -> Iterator[str]:
    """Links to a table's files."""
    yield from (f"[{suffix}]({stem}.{suffix})" for suffix in ("md", "csv", "txt", "tex"))
    if verdicts:
        yield f"[verdicts]({stem}.verdicts.md)"
