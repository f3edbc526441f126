"""What papers claim in prose, judged by one rule on the numbers that they print and by one on ours. No torch.

A paper module lists its claims with the comparisons that decide them (:class:`replicate.protocol.Claim`); :func:`judged` says
of each whether it holds, :func:`render` prints that with the comparisons that speak against it.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replicate.errors import BadInput
from replicate.protocol import BALANCED_ACCURACY, Above, Claim, Column, Metric, Optimum, Paper, Table
from replicate.record import Store
from replicate.report import formats, tables, verdicts
from replicate.report.published import Printed
from replicate.report.selection import Replica, choose
from replicate.report.verdicts import ALPHA, FLOOR, LEAST_SEEDS, Summary

FORMATS = ("text", "markdown", "csv")
FIELDS = (
    "paper", "claim", "sentence", "source", "of", "verdict", "above", "below", "where", "metric", "number_above",
    "number_below", "difference", "low95", "high95", "seeds", "comparison", "note",
)  # fmt: skip
#: What is said of a claim; of a comparison also ``missing``, where one of its numbers is.
WORDS = HOLDS, NOT, OPEN = "holds", "does not", "open"
MISSING = "missing"

#: The rules, a paragraph a line.
RULES = f"""\
A claim is a set of comparisons, each of two numbers of which the first is claimed to be larger. Where the source is a table \
alone, the claim is read off it, or what holds elsewhere is asked of it; it is no sentence of the paper.
published: the claim holds where the first number is larger as printed in every comparison that has both; it does not where it \
is smaller or equal in one; it is open where the paper prints none. Within the spread: comparisons whose difference does not \
exceed the 95 % interval that the printed spreads leave, pooled over the rows of their column.
here: differences paired by seed, of at least {LEAST_SEEDS} seeds that both rows have, with a standard deviation of at least \
{FLOOR}; of FDR, differences of logarithms. The claim holds if the 95 % interval of every comparison lies above 0 (all of them \
must, so no correction for their number is due); it does not if the interval of one lies below 0 after Holm's correction over \
all comparisons of the claim; else it is open. Means are compared even where the paper reports the best of its runs.
Stand-ins and editions of data that are not comparable say nothing of a claim about the paper's data. Redrawn editions count: \
it is their levels that are not the paper's."""


@dataclass(frozen=True)
class Compared:
    """One comparison: ``above`` is claimed to be larger than ``below`` at ``where``, of ``metric`` (its kind).

    ``numbers``: as printed, or means over the ``seeds`` that both have; None where one is missing. ``difference`` of the two
    and its 95 % ``interval`` before correction: in the unit of the metric, or the ratio where ``scale`` is ``"log"``.
    ``word``: one of :data:`WORDS` or :data:`MISSING`. ``separable``: of printed numbers, whether their spreads tell them apart;
    None where they do not say. ``reason``: why a number is missing, or empty."""

    above: str
    below: str
    where: str
    metric: str
    scale: str
    word: str
    numbers: tuple[float | None, float | None] = (None, None)
    difference: float | None = None
    interval: tuple[float, float] | None = None
    seeds: int = 0
    separable: bool | None = None
    reason: str = ""


@dataclass(frozen=True)
class Judged:
    """A claim and what is said of it: ``word`` is one of :data:`WORDS`, ``reason`` one sentence. ``of``: ``"published"``, the
    paper's own numbers; ``"here"``, ours; ``"stand-in"``, ours on data that are no part of the paper. ``data``: the editions of
    ours, empty without Records."""

    claim: Claim
    of: str
    word: str
    reason: str
    comparisons: tuple[Compared, ...] = field(repr=False)
    data: str = ""

    @property
    def against(self) -> tuple[Compared, ...]:
        """The comparisons that speak against the claim."""
        return tuple(one for one in self.comparisons if one.word == NOT)


def judged(
    paper: Paper,
    store: Store | None = None,
    *,
    edition_of: Mapping[str, str] | None = None,
    comparability: Mapping[str, str] | None = None,
    selection: str = "as-published",
    variant: str | None = None,
    stand_in: bool = False,
    datasets: Collection[str] = (),
    claims: Sequence[Claim] | None = None,
    known: Mapping[str, Mapping[tables.Key, Replica]] | None = None,
) -> list[Judged]:
    """Every claim of a paper on its own numbers and, with a ``store``, on ours; claim by claim, published first.

    ``edition_of`` says for each data source which edition to read; others are not read. ``comparability`` says of it what
    :func:`replicate.report.diff.compare` is told. ``stand_in`` judges ours on the stand-ins instead, and published numbers not
    at all; claims that have no counterpart there are left out. ``datasets`` keeps to comparisons on these, ``claims`` to some
    of the paper's. ``known`` are numbers of ours that were read before under the same selection, by table: these tables are not
    read again. Raises ``BadInput`` for a claim about something that its table does not have, and for a damaged Record.
    """
    chosen = paper.claims if claims is None else claims
    numbers = _Numbers(paper, store, edition_of or {}, comparability or {}, selection, variant, stand_in, known or {})
    found: list[Judged] = []
    for claim in chosen:
        pairs = [pair for part in claim.comparisons for pair in _pairs(paper, claim, part, stand_in)]
        pairs = [pair for pair in pairs if not datasets or (pair.column is not None and pair.column.dataset in datasets)]
        if not pairs:
            continue
        if stand_in:  # several tables may have one stand-in
            pairs = list({(pair.above[1:], pair.below[1:]): pair for pair in reversed(pairs)}.values())[::-1]
        else:
            found.append(_published(claim, pairs, numbers))
        if store is not None:
            found.append(_here(claim, pairs, numbers, "stand-in" if stand_in else "here"))
    return found


# --- what is compared ------------------------------------------------------------------------------------------------

#: Table number or grid, then as :data:`replicate.report.tables.Key`.
_Place = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class _Pair:
    """Two places, and the part of the claim that compares them. ``column``: of ours; None for one that is not replicated."""

    part: Above | Optimum
    above: _Place
    below: _Place
    names: tuple[str, str]
    where: str
    metric: Metric
    path: tuple[str, ...]
    column: Column | None

    @property
    def scale(self) -> str:
        return (verdicts.margin(self.metric.kind, self.path) or (None, "linear"))[1]

    @property
    def floor(self) -> float:
        """Of the standard deviation of differences; none where no rule says what is small."""
        return FLOOR if verdicts.margin(self.metric.kind, self.path) else 0.0


def _pairs(paper: Paper, claim: Claim, part: Above | Optimum, stand_in: bool) -> Iterator[_Pair]:
    if isinstance(part, Optimum):
        yield from _of_optimum(paper, claim, part, stand_in)
        return
    for number in part.tables:
        yield from _of_table(_table(paper, claim, number), claim, part, stand_in)


def _table(paper: Paper, claim: Claim, number: str) -> Table:
    found = next((table for table in paper.tables if table.number == number), None)
    if found is None:
        raise _unknown(claim, f"table {number}", [table.number for table in paper.tables])
    return tables.as_published(found)


def _unknown(claim: Claim, name: str, allowed: Iterable[str]) -> BadInput:
    return BadInput(
        f"claim {claim.name!r} is about {name}; allowed: {', '.join(allowed)}; mend the claim in its paper's module"
    )


def _of_table(table: Table, claim: Claim, part: Above, stand_in: bool) -> Iterator[_Pair]:
    if stand_in and part.columns:
        return  # it is about columns of the paper's own
    columns: dict[str, Column | None] = {tables.column_path(c): c for c in (table.stand_ins if stand_in else table.columns)}
    if not columns:
        return
    if not stand_in:
        columns |= {"/".join(path): None for path in table.beside}
    rows = {tables.row_path(block, row.label): (block.title, row.label) for block in table.blocks for row in block.rows}
    metrics = {tables.metric_name(metric): metric for metric in table.metrics}
    stems = dict.fromkeys(path.rpartition("/")[0] for path in part.columns or columns)

    def checked(what: str, names: Iterable[str], allowed: Iterable[str]) -> list[str]:
        for name in (names := list(names)):
            if name not in allowed:
                raise _unknown(claim, f"{what} {name!r} of table {table.number}", allowed)
        return names

    # What stands on the axis that pairs are of does not matter: a pair's names take its place.
    of_rows = checked("row", part.rows or rows, rows)[: 1 if part.by == "row" else None]
    of_columns = stems if part.by == "column" else checked("column", part.columns or columns, columns)
    of_metrics = checked("metric", part.metrics or metrics, metrics)[: 1 if part.by == "metric" else None]
    for path, row, name, names in itertools.product(of_columns, of_rows, of_metrics, part.pairs):
        at = {
            "row": [(one, path, name) for one in names],
            "column": [(row, f"{path}/{one}", name) for one in names],
            "metric": [(row, path, one) for one in names],
        }[part.by]
        checked("row", [of_row for of_row, _, _ in at], rows)
        checked("column", [of_column for _, of_column, _ in at], columns)
        checked("metric", [of_metric for _, _, of_metric in at], metrics)
        first = metrics[at[0][2]]
        shown = {"row": (path, *first.path), "column": (row, path, *first.path), "metric": (row, path)}[part.by]
        column = columns[at[0][1]]
        above, below = (
            (table.number, *rows[of_row], of_column if (there := columns[of_column]) is None else there.name, of_metric)
            for of_row, of_column, of_metric in at
        )
        where = f"table {table.number}, {'/'.join(shown)}"
        yield _Pair(part, above, below, names, where, first, (*at[0][1].split("/"), *first.path), column)


def _of_optimum(paper: Paper, claim: Claim, part: Optimum, stand_in: bool) -> Iterator[_Pair]:
    if stand_in:
        return  # its values are of the paper's own data
    if part.grid not in paper.grids:
        raise _unknown(claim, f"grid {part.grid!r}", paper.grids)
    grid = paper.grids[part.grid]
    columns = {column.name: column for column in grid.columns}
    if part.column not in columns:
        raise _unknown(claim, f"column {part.column!r} of grid {part.grid}", columns)
    values = grid.values.get(part.parameter, ())
    values = values[part.column] if isinstance(values, Mapping) else values
    if part.value not in values:
        raise _unknown(claim, f"{part.parameter} {part.value:g} of grid {part.grid}", (f"{value:g}" for value in values))
    column = columns[part.column]

    def place(value: float) -> _Place:
        return part.grid, "", part.method, column.name, f"{part.parameter}={value:g}"

    for value in values:
        if value != part.value:
            yield _Pair(
                part=part,
                above=place(part.value),
                below=place(value),
                names=(f"{part.parameter} {part.value:g}", f"{part.parameter} {value:g}"),
                where=f"{part.method}, {tables.column_path(column)}",
                metric=BALANCED_ACCURACY,
                path=(),
                column=column,
            )


# --- the numbers -----------------------------------------------------------------------------------------------------


class _Numbers:
    """The numbers of both sides, each table and grid read once."""

    def __init__(
        self,
        paper: Paper,
        store: Store | None,
        edition_of: Mapping[str, str],
        comparability: Mapping[str, str],
        selection: str,
        variant: str | None,
        stand_in: bool,
        known: Mapping[str, Mapping[tables.Key, Replica]],
    ) -> None:
        self.paper, self.store, self.edition_of, self.stand_in = paper, store, edition_of, stand_in
        self._comparability, self._selection, self._variant, self._known = comparability, selection, variant, known
        self._theirs: dict[str, dict[_Place, tuple[Printed, Summary | None]]] = {}
        self._ours: dict[tuple[Any, ...], dict[_Place, Mapping[int, float]]] = {}

    def theirs(self, pair: _Pair, place: _Place) -> tuple[Printed | None, Summary | None]:
        """As printed, and with the spread of its column; a figure prints nothing."""
        if isinstance(pair.part, Optimum):
            return None, None
        if place[0] not in self._theirs:
            self._theirs[place[0]] = dict(self._read_theirs(next(t for t in self.paper.tables if t.number == place[0])))
        return self._theirs[place[0]].get(place, (None, None))

    def _read_theirs(self, table: Table) -> Iterator[tuple[_Place, tuple[Printed, Summary | None]]]:
        printed = tables.printed(self.paper, table)
        for metric in table.metrics:
            here = {key: number for key, number in printed.items() if key[3] == tables.metric_name(metric)}
            scale = (verdicts.margin(metric.kind) or (None, "linear"))[1]
            for key, (_, summary) in verdicts.summaries({}, here, scale).items():
                yield (table.number, *key), (here[key], summary)

    def ours(self, pair: _Pair, place: _Place) -> Mapping[int, float]:
        """By seed, as the selection reads them; empty without Records."""
        column = pair.column
        if self.store is None or column is None or not self._counts(column):
            return {}
        part = pair.part
        at = (part.grid, part.method, part.column, part.parameter) if isinstance(part, Optimum) else (place[0],)
        if at not in self._ours:
            read = self._read_grid(part) if isinstance(part, Optimum) else self._read_table(place[0])
            self._ours[at] = dict(read)
        return self._ours[at].get(place, {})

    def _counts(self, column: Column) -> bool:
        source = column.data.source
        if source not in self.edition_of or column.stand_in is not self.stand_in:
            return False
        return self.stand_in or self._comparability.get(source, "comparable") != "not comparable"

    def _read_table(self, number: str) -> Iterator[tuple[_Place, Mapping[int, float]]]:
        assert self.store is not None
        table = next(t for t in self.paper.tables if t.number == number)
        columns = [column for column in (*table.columns, *table.stand_ins) if self._counts(column)]
        how: dict[str, Any] = {"edition_of": self.edition_of, "variant": self._variant, "columns": columns}
        found = self._known.get(number)
        if found is None:
            found = tables.replicas(self.store, self.paper, tables.as_published(table), selection=self._selection, **how)
        yield from (((number, *key), replica.values) for key, replica in found.items())

    def _read_grid(self, part: Optimum) -> Iterator[tuple[_Place, Mapping[int, float]]]:
        """Accuracy by seed at every value of the parameter, all else chosen for that value alone."""
        assert self.store is not None
        table = next(t for t in self.paper.tables if t.number == part.table)
        column = next(column for column in self.paper.grids[part.grid].columns if column.name == part.column)
        how: dict[str, Any] = {"edition_of": self.edition_of, "variant": self._variant, "grid": part.grid}
        for found in tables.runs(self.store, self.paper, table, columns=[column], methods=[part.method], **how):
            for value in dict.fromkeys(dict(point)[part.parameter] for point in found.runs):
                runs = {point: of_seed for point, of_seed in found.runs.items() if dict(point)[part.parameter] == value}
                values = choose(runs, self._selection, self.paper.selects_on).replica().values
                yield (part.grid, "", part.method, part.column, f"{part.parameter}={value:g}"), values


# --- the rules -------------------------------------------------------------------------------------------------------


def _published(claim: Claim, pairs: Sequence[_Pair], numbers: _Numbers) -> Judged:
    compared = tuple(_as_printed(pair, numbers) for pair in pairs)
    there = [one for one in compared if one.word != MISSING]
    holding = [one for one in there if one.word == HOLDS]
    word = OPEN if not there else HOLDS if len(holding) == len(there) else NOT
    parts = [f"{len(holding)} of {_count(len(there))}"] if there else ["the paper prints no number of it"]
    if there and len(there) < len(compared):
        parts.append(f"{len(compared) - len(there)} more have a number that is blank or illegible")
    if there:
        known = [one for one in there if one.separable is not None]
        within = sum(not one.separable for one in known)
        parts.append(f"{within} of {len(known)} within the spread" if known else "no spread is printed")
    return Judged(claim, "published", word, "; ".join(parts), compared)


def _as_printed(pair: _Pair, numbers: _Numbers) -> Compared:
    (first, one), (second, other) = (numbers.theirs(pair, place) for place in (pair.above, pair.below))
    told = _told(pair)
    if first is None or second is None or first.value is None or second.value is None:
        return Compared(**told, word=MISSING, reason="not printed")
    return Compared(
        **told,
        word=HOLDS if first.value > second.value else NOT,
        numbers=(first.value, second.value),
        difference=first.value / second.value if pair.scale == "log" else first.value - second.value,
        separable=verdicts.apart(one, other) if one is not None and other is not None else None,
    )


def _told(pair: _Pair) -> dict[str, Any]:
    above, below = pair.names
    return {"above": above, "below": below, "where": pair.where, "metric": pair.metric.kind, "scale": pair.scale}


def _here(claim: Claim, pairs: Sequence[_Pair], numbers: _Numbers, of: str) -> Judged:
    sides = [[numbers.ours(pair, place) for place in (pair.above, pair.below)] for pair in pairs]
    differences = [
        verdicts.paired(_scaled(above, pair.scale), _scaled(below, pair.scale), pair.floor)
        for pair, (above, below) in zip(pairs, sides, strict=True)
    ]
    tested = {
        place: told.p_value
        for place, told in enumerate(differences)
        if told is not None and told.n >= LEAST_SEEDS and told.p_value is not None
    }
    level = dict(zip(tested, verdicts.levels([p for p in tested.values() if p is not None], len(pairs)), strict=True))
    compared = tuple(
        _as_run(pair, above, below, told, level.get(place))
        for place, (pair, (above, below), told) in enumerate(zip(pairs, sides, differences, strict=True))
    )
    count = {word: sum(one.word == word for one in compared) for word in (*WORDS, MISSING)}
    word = NOT if count[NOT] else HOLDS if count[HOLDS] == len(compared) else OPEN
    if not any(one.seeds for one in compared):
        return Judged(claim, of, OPEN, "no number of ours", compared)
    parts = [f"{count[HOLDS]} of {_count(len(compared))} hold"]
    parts += [f"{count[NOT]} the other way round"] * bool(count[NOT]) + [f"{count[OPEN]} open"] * bool(count[OPEN])
    parts += [f"{count[MISSING]} without {LEAST_SEEDS} common seeds"] * bool(count[MISSING])
    used = {pair.column.data.source for pair, one in zip(pairs, compared, strict=True) if pair.column and one.seeds}
    data = ", ".join(f"{source}@{numbers.edition_of[source]}" for source in sorted(used))
    return Judged(claim, of, word, "; ".join(parts), compared, data)


def _scaled(values: Mapping[int, float], scale: str) -> Mapping[int, float]:
    """Logarithms on the log scale; what has none is left out."""
    return values if scale == "linear" else {seed: math.log(value) for seed, value in values.items() if value > 0}


def _as_run(
    pair: _Pair, above: Mapping[int, float], below: Mapping[int, float], told: verdicts.Paired | None, level: float | None
) -> Compared:
    if told is None:
        return Compared(**_told(pair), word=MISSING, reason="no common seed" if above and below else "no number of ours")
    seeds = [seed for seed in above if seed in below]
    word = MISSING if told.n < LEAST_SEEDS else OPEN
    p = told.p_value
    if level is not None and p is not None:
        if told.mean > 0 and p <= ALPHA:
            word = HOLDS
        elif told.mean < 0 and p <= level:
            word = NOT
    log = pair.scale == "log"
    interval = told.interval()
    return Compared(
        **_told(pair),
        word=word,
        numbers=(_mean(above, seeds), _mean(below, seeds)),
        difference=math.exp(told.mean) if log else told.mean,
        interval=(math.exp(interval[0]), math.exp(interval[1])) if log and interval else interval,
        seeds=told.n,
        reason="" if told.n >= LEAST_SEEDS else f"fewer than {LEAST_SEEDS} common seeds",
    )


def _mean(values: Mapping[int, float], seeds: Sequence[int]) -> float:
    return math.fsum(values[seed] for seed in seeds) / len(seeds)


def _count(number: int) -> str:
    return f"{number} comparison{'s'[: number != 1]}"


# --- print -----------------------------------------------------------------------------------------------------------


def render(paper: Paper, found: Sequence[Judged], format: str, *, selection: str = "as-published", note: str = "") -> str:
    """Claims with what is said of them as ``text``, ``markdown`` or ``csv``, ending with a line feed; the first two with the
    comparisons against them and the rules. ``found``: of :func:`judged`, of several editions one after another. ``note``: what
    was asked for, for the title. Raises ``BadInput`` for another format."""
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if format == "csv":
        return _csv(paper, found)
    markdown = format == "markdown"
    marks = [selection] * any(one.of != "published" for one in found) + [note] * bool(note)
    title = f"{paper.command}: claims" + (f" ({', '.join(marks)})" if marks else "")
    lines = [f"**{title}**" if markdown else title, ""]
    for claim in dict.fromkeys(one.claim for one in found):
        head = f"{claim.name}: {claim.sentence} [{claim.source}]"
        lines += _wrapped(head, "- " if markdown else "", "  ", markdown)
        for one in _shown([one for one in found if one.claim == claim]):
            lines += _wrapped(_sentence(one), "  - " if markdown else "  ", "    ", markdown)
            lines += [
                line
                for against in one.against
                for line in _wrapped(_counterexample(against, one.of), "    - ", " " * 6, markdown)
            ]
    lines.append("")
    for rule in RULES.splitlines():
        lines += _wrapped(rule, "- " if markdown else "", "  ", markdown)
    return "\n".join(lines) + "\n"


def _shown(found: Sequence[Judged]) -> list[Judged]:
    """Of several editions those that have Records; of none, one that says so."""
    ours = [one for one in found if one.of != "published"]
    return [one for one in found if one.of == "published"] + ([one for one in ours if one.data] or ours[:1])


def _sentence(one: Judged) -> str:
    of = {"published": "published", "here": "here", "stand-in": "STAND-IN, no evidence on the claim"}[one.of]
    return f"{of}{f', {one.data}' if one.data else ''}: {one.word}; {one.reason}."


def _counterexample(one: Compared, of: str) -> str:
    """Such as ``WD&FR&ETF/Mult 54.2 is not above WB/N/A 54.8 (-0.6): table 9, mini-ImageNet-LT/Accuracy/Average``."""
    above, below = (_number(number, one, of) for number in one.numbers)
    assert one.difference is not None
    log = one.scale == "log"
    apart = f"×{one.difference:.2f}" if log else f"{round(one.difference, 10):+.{1 if of == 'published' else 2}f}"
    if of == "published":
        if one.separable is False:
            apart += ", within the spread"
    elif one.interval is not None:
        low, high = (f"×{end:.2f}" if log else f"{end:+.2f}" for end in one.interval)
        apart += f" [{low}, {high}], {one.seeds} seeds"
    return f"{one.above} {above} is not above {one.below} {below} ({apart}): {one.where}"


def _number(number: float | None, one: Compared, of: str) -> str:
    if number is None:
        return ""
    if one.metric == tables.POWERS_OF_TEN:
        mantissa, _, power = f"{number:.2e}".partition("e")
        return formats.plain(formats.Entry(mantissa, power=int(power)))
    return f"{number:g}" if of == "published" else f"{number:.2f}"


def _wrapped(text: str, first: str, rest: str, markdown: bool) -> list[str]:
    text = formats.escape_markdown(text) if markdown else text
    return textwrap.wrap(
        text, formats.WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def _csv(paper: Paper, found: Sequence[Judged]) -> str:
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(FIELDS)
    for one in found:
        for part in one.comparisons:
            low, high = part.interval or (None, None)
            notes = [one.data, one.reason, part.reason, *(["within the spread"] * (part.separable is False))]
            notes += ["ratios, not differences"] * (part.scale == "log")
            lines.writerow(
                (
                    paper.name, one.claim.name, one.claim.sentence, one.claim.source, one.of, one.word, part.above, part.below,
                    part.where, part.metric, *("" if x is None else f"{x:.6g}" for x in part.numbers),
                    *("" if x is None else f"{x:.4f}" for x in (part.difference, low, high)), part.seeds or "", part.word,
                    "; ".join(dict.fromkeys(filter(None, notes))),
                )
            )  # fmt: skip
    return out.getvalue()
