"""What a conference's reproducibility checklist asks, filled in from Records. No torch.

The questions are those of the NeurIPS and ICLR checklists that numbers can answer. What is not there is said to be not run.
Runs on the paper's own data, on stand-ins, and shortened runs are told apart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from replicate import grid as grids
from replicate.data.editions import named
from replicate.errors import BadInput
from replicate.grid import Cell
from replicate.protocol import (
    AdditiveAdjustment,
    Column,
    MultiplicativeAdjustment,
    Paper,
    Table,
    TauNormalisation,
    fill,
)
from replicate.record import Record, Store
from replicate.report import provenance, tables
from replicate.report.formats import WIDTH, escape_markdown
from replicate.report.selection import sentence

FORMATS = ("text", "markdown")
NOT_RUN = "not run"
OWN, STAND_IN, QUICK = "the paper's own data", "stand-in data, no part of the paper", "shortened runs, which mean nothing"


@dataclass
class Runs:
    """What the Records of one kind say, added up.

    ``epochs`` maps each trained epoch, by its key in the chain and seed, to its seconds and device: Records that share a
    beginning carry it both, and it was trained once. ``alone`` counts epochs as if each were trained alone."""

    records: int = 0
    failed: list[str] = field(default_factory=list)
    seeds: dict[int, int] = field(default_factory=dict)
    epochs: dict[tuple[str, int], tuple[float, str]] = field(default_factory=dict)
    alone: int = 0
    unknown: int = 0  # Records that no grid of the paper describes any more
    data: dict[tuple[str, ...], int] = field(default_factory=dict)
    devices: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    commits: dict[str, int] = field(default_factory=dict)

    def add(self, record: Record, cell: Cell | None) -> None:
        """Enter a Record; ``cell`` is that which it was made for, None where there is no such any more."""
        self.records += 1
        self.seeds[record.seed] = self.seeds.get(record.seed, 0) + 1
        if record.failed is not None:
            self.failed.append(f"{record.made_for.get('method')} on {record.made_for.get('column')}, seed {record.seed}")
        device = provenance.device(record)
        for counts, told in (
            (self.devices, device),
            (self.versions, provenance.versions(record)),
            (self.commits, provenance.commit(record)),
        ):
            counts[told] = counts.get(told, 0) + 1
        of_data = _data(record)
        self.data[of_data] = self.data.get(of_data, 0) + 1
        seconds = record.curves["seconds"]
        self.alone += len(seconds)
        chain: Sequence[str] = [f"{record.key} {number}" for number in range(len(seconds) + 1)]
        if cell is None:
            self.unknown += 1
        else:
            chain = cell.programme.keys(record.edition)
        for key, of_epoch in zip(chain[1:], seconds, strict=False):
            self.epochs.setdefault((key, record.seed), (of_epoch, device))

    def seconds(self) -> dict[str, float]:
        """Seconds of training by device, every epoch once."""
        found: dict[str, float] = {}
        for seconds, device in self.epochs.values():
            found[device] = found.get(device, 0.0) + seconds
        return found


def _data(record: Record) -> tuple[str, ...]:
    """Source with edition, fingerprint of the training subset, and counts in words."""
    counts = record.class_counts
    told = f"{sum(counts):,} training images in {len(counts)} classes of {max(counts):,} to {min(counts):,}" if counts else ""
    parts = [told]
    for split in ("validation", "test"):
        totals = record.totals.get(split)
        if totals:
            halves = totals if isinstance(totals, list) else [totals]
            parts.append(f"{sum(sum(half.values()) for half in halves):,} {split} images")
    return named(record.source, record.edition), provenance.fingerprint(record), ", ".join(filter(None, parts))


def gathered(paper: Paper, store: Store) -> dict[str, Runs]:
    """The Records that were made for a paper, by kind: :data:`OWN`, :data:`STAND_IN`, :data:`QUICK`."""
    found = {kind: Runs() for kind in (OWN, STAND_IN, QUICK)}
    stand_ins = {column.name for column in paper.columns if column.stand_in}

    @cache
    def cells(grid: str, method: str, column: str, variant: str | None, quick: bool) -> Mapping[str, Cell]:
        """By nominal key of the programme."""
        if grid not in paper.grids or method not in paper.grids[grid].methods:
            return {}
        columns = [one for one in paper.grids[grid].columns if one.name == column]
        try:
            made = grids.cells(paper, grid, columns=columns, methods=[method], variant=variant, quick=quick)
        except BadInput:  # a variant that is no more
            return {}
        return {provenance.written(cell.point): cell for cell in made}

    for record in store.records():
        told = record.made_for
        if told.get("paper") != paper.name or told.get("precision"):  # another precision is another protocol
            continue
        names = told["grid"], told["method"], told["column"], told["variant"], told["quick"]
        cell = cells(*names).get(provenance.written(tuple(told["point"].items())))
        if cell is not None and cell.programme.key(record.edition) != record.programme_key:
            cell = None
        kind = QUICK if told["quick"] else STAND_IN if told["column"] in stand_ins else OWN
        found[kind].add(record, cell)
    return found


# --- questions and answers -------------------------------------------------------------------------------------------

#: A question, and its answers, one a line.
Answer = tuple[str, list[str]]


def answers(paper: Paper, store: Store, kind: str, runs: Runs) -> list[Answer]:
    """The checklist for one kind of runs."""
    if not runs.records:
        return [("Experiments", [NOT_RUN])]
    told: list[Answer] = []
    if kind != QUICK:
        told.append(("Results: which numbers of which table are there", list(_filled(paper, store, kind))))
    told.append(("Number of runs", list(_runs(runs))))
    if kind == QUICK:
        told.append(("Results", ["none: shortened runs are compared with nothing"]))
    else:
        told.append(("Error bars and their definition", list(_spread(paper))))
        told.append(("How hyper-parameters and epochs were selected", list(_selection(paper, kind))))
    told.append(("Compute", list(_compute(runs))))
    told.append(("Data", list(_of_data(runs))))
    told.append(("Code and versions", list(_code(runs))))
    return told


def _filled(paper: Paper, store: Store, kind: str) -> Iterator[str]:
    for table in paper.tables:
        columns = list(table.stand_ins if kind == STAND_IN else table.columns)
        own = tables.without_quoted(table)
        if not columns or not own.blocks:
            continue
        shown = 0
        for editions in _rounds(columns, store):
            here = [column for column in columns if column.data.source in editions]
            found = tables.replicas(store, paper, table, selection="as-published", edition_of=editions, columns=here)
            there = {key: replica for key, replica in found.items() if replica.n}
            if not there:
                continue
            shown += 1
            many = sorted({replica.n for replica in there.values()})
            seeds = f"{many[0]} seed{'s'[: many[0] != 1]}" if len(many) == 1 else f"{many[0]} to {many[-1]} seeds"
            marks = ", ".join(f"{source}@{edition}" for source, edition in editions.items())
            total = sum(1 for _ in tables.spots(own, columns))
            yield f"table {table.number}: {len(there)} of {total} numbers, each of {seeds} ({marks})"
        if not shown:
            yield f"table {table.number}: {NOT_RUN}"


def _rounds(columns: Iterable[Column], store: Store) -> Iterator[dict[str, str]]:
    """Editions by source, none mixed: official ones, then one round for each other edition."""
    found = {source: store.editions(source) for source in dict.fromkeys(column.data.source for column in columns)}
    official = {source: "official" for source, editions in found.items() if "official" in editions}
    if official:
        yield official
    for source, editions in found.items():
        yield from ({source: edition} for edition in editions if edition != "official")


def _runs(runs: Runs) -> Iterator[str]:
    yield f"{_count(runs.records - len(runs.failed), 'finished run')}, {len(runs.failed)} failed"
    told = ", ".join(f"{_count(runs.seeds[seed], 'run')} of {seed}" for seed in sorted(runs.seeds))
    yield f"seeds {provenance.listed(runs.seeds)}: {told}"
    yield from (f"failed: {name}" for name in runs.failed)
    yield "all randomness is drawn from the seed, the purpose and the epoch; a resumed or shared run draws what a lone one does"


def _spread(paper: Paper) -> Iterator[str]:
    yield "± is the population standard deviation over seeds (divided by n), around their mean; what varies is the seed alone"
    if paper.reports == "best":
        yield "each row and column is of the seed that is best over all classes there; mean and ± stand below"
    what = "bests" if paper.reports == "best" else "means"
    yield f"verdicts: intervals of the difference of {what} after Welch, standard deviations pooled over the rows of a column"


def _selection(paper: Paper, kind: str) -> Iterator[str]:
    yield f"selection as-published: {sentence('as-published', paper.selects_on)}"
    yield f"the same runs without that look: cross-fitted ({sentence('cross-fitted', paper.selects_on)}), and the last epoch"
    alike: dict[str, list[str]] = {}
    for table in paper.tables:
        for line in _searched(paper, table, kind):
            alike.setdefault(line, []).append(table.number)
    for line, numbers in alike.items():
        yield f"table{'s'[: len(numbers) != 1]} {', '.join(numbers)}: {line}"
    yield "replicate why names the chosen point of every number and how close the others were"


def _searched(paper: Paper, table: Table, kind: str) -> Iterator[str]:
    """Grid points of each method of a table in its columns: how many, and of what."""
    if table.descriptive:
        return
    grid = paper.grids[table.grid]
    columns = table.stand_ins if kind == STAND_IN else table.columns
    values: dict[str, dict[float, None]] = {}
    most = 1
    for column in columns:
        for block in table.blocks:
            for row in block.rows:
                if row.method is None:
                    continue
                points = grids.points(grid, row.method, column)
                most = max(most, len(points))
                for name in grids.axes(grid, row.method, column):
                    values.setdefault(name, {}).update(dict.fromkeys(point[name] for point in points))
                adjustment = fill(grid.methods[row.method], points[0]).adjustment if points else None
                if adjustment is not None:
                    name = f"{adjustment.parameter} of the {_ADJUSTMENTS[type(adjustment)]}"
                    values.setdefault(name, {}).update(dict.fromkeys(adjustment.values))
    if values:
        told = "; ".join(f"{name} in {_values(sorted(of))}" for name, of in values.items())
        yield f"searched {told}; at most {_count(most, 'point')} of training for a row and column"
    elif columns:
        yield "nothing searched"


_ADJUSTMENTS = {
    AdditiveAdjustment: "additive adjustment",
    MultiplicativeAdjustment: "multiplicative adjustment",
    TauNormalisation: "normalisation",
}


def _values(values: Sequence[float]) -> str:
    if len(values) > 8:
        return f"{values[0]:g} to {values[-1]:g} ({len(values)} values)"
    return ", ".join(f"{value:g}" for value in values)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s'[: number != 1]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} minutes" if seconds < 3600 else f"{seconds / 3600:.1f} hours"


def _compute(runs: Runs) -> Iterator[str]:
    seconds = runs.seconds()
    for device, count in runs.devices.items():
        took = _duration(seconds.get(device, 0.0))
        yield f"{device}: {_count(count, 'run')}, {took} of training and evaluation (Measures and reading data apart)"
    epochs = _count(len(runs.epochs), "epoch")
    yield f"{epochs} trained; {runs.alone:,} if every run were trained alone: shared beginnings count once"
    if runs.unknown:
        yield f"{_count(runs.unknown, 'run')} of an earlier protocol, whose beginnings are counted as unshared"


def _of_data(runs: Runs) -> Iterator[str]:
    for (source, fingerprint, counts), count in runs.data.items():
        yield f"{source}: {counts or 'counts not recorded'}; training subset {fingerprint} ({_count(count, 'run')})"
    yield "licences: not recorded"


def _code(runs: Runs) -> Iterator[str]:
    yield from (f"commit {commit}: {_count(count, 'run')}" for commit, count in runs.commits.items())
    yield from (f"{versions}: {_count(count, 'run')}" for versions, count in runs.versions.items())
    if any(commit.endswith("+") for commit in runs.commits):
        yield "+: files differed from that commit"


# --- print -----------------------------------------------------------------------------------------------------------


def render(paper: Paper, store: Store, form: str) -> str:
    """The checklist of one paper as ``text`` or ``markdown``, ending with a line feed. Raises ``BadInput`` for another format
    and for a damaged Record."""
    if form not in FORMATS:
        raise BadInput(f"format {form!r} is unknown; allowed: {', '.join(FORMATS)}")
    markdown = form == "markdown"
    escape: Callable[[str], str] = escape_markdown if markdown else str
    lines = [f"## {escape(paper.command)}: {escape(paper.title)}" if markdown else f"{paper.command}: {paper.title}"]
    found = gathered(paper, store)
    for kind, runs in found.items():
        if not runs.records and kind != OWN:
            continue
        lines += ["", f"### On {kind}" if markdown else f"On {kind}"]
        if not runs.records:
            lines += [
                *([""] if markdown else []),
                f"{'- ' if markdown else '  '}{NOT_RUN}; `replicate {paper.command}` runs it",
            ]
            continue
        for question, told in answers(paper, store, kind, runs):
            lines += ["", f"**{question}**", ""] if markdown else ["", f"  {question}"]
            for line in told:
                lines += textwrap.wrap(
                    escape(line),
                    WIDTH,
                    initial_indent="- " if markdown else "  - ",
                    subsequent_indent="  " if markdown else "    ",
                    break_on_hyphens=False,
                    break_long_words=False,
                )
    return "\n".join(lines) + "\n"
