"""Replica against published number, place by place, with verdicts and the order of methods."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from replicate.data import editions
from replicate.data.editions import OFFICIAL
from replicate.errors import BadInput
from replicate.protocol import Column, Metric, Paper, Table
from replicate.record import Store
from replicate.report import formats, published, tables, verdicts
from replicate.report.published import Printed
from replicate.report.selection import Replica
from replicate.report.verdicts import RULES, Verdict

FORMATS = ("text", "markdown", "csv")
FIELDS = (
    "paper", "table", "row", "column_path", "metric", "selection", "replica", "replica_sd", "replica_n",
    "published", "published_std", "published_n", "difference", "low90", "high90", "low95", "high95",
    "verdict", "seeds_needed", "judged", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One number of a table. ``level`` is ours as it is compared: the mean, or where a paper reports the best of its seeds the
    best of ours. ``difference`` is that minus published in the unit of the metric, or where margins are on the log scale the
    ratio of the two, of the selection shown; ``verdict`` is always on the selection as-published, whose number is ``judged``.
    ``best``: ``level`` is no mean. ``fully_specified``: the paper fixes the whole protocol. A replica that is not comparable
    has no ``printed`` number beside it."""

    paper: Paper
    spot: tables.Spot
    replica: Replica | None
    judged: Replica | None
    printed: Printed | None
    level: float | None
    best: bool
    difference: float | None
    verdict: Verdict
    fully_specified: bool
    edition: str
    variant: str | None
    quick: bool

    @property
    def key(self) -> tables.Key:
        return self.spot.key

    @property
    def label(self) -> str:
        """Block title and row label."""
        return tables.row_path(self.spot.block, self.spot.row.label)

    @property
    def path(self) -> str:
        """Column and metric."""
        return "/".join((*self.spot.column.path, *tables.metric_head(self.spot.table, self.spot.metric)))

    @property
    def scale(self) -> str:
        """``"linear"``, or ``"log"`` where differences are ratios."""
        return _rule(self.spot)[1]


def closest(columns: Iterable[Column], store: Store, comparability: Callable[[str, str], str]) -> dict[str, str]:
    """Of each data source the edition with Records that is most like the paper's; the official one where none is comparable."""
    rank = ("comparable", "other split", "not comparable")
    found = {}
    for source in dict.fromkeys(column.data.source for column in columns):
        best = min(store.editions(source), key=lambda edition: rank.index(comparability(source, edition)), default=OFFICIAL)
        found[source] = OFFICIAL if comparability(source, best) == "not comparable" else best
    return found


def judged_by(
    table: Table, store: Store, editions: Mapping[str, str], comparability: Callable[[str, str], str]
) -> dict[str, dict[str, str]]:
    """``edition_of`` and ``comparability`` as :func:`compare` takes them: these editions, and the closest ones of the table's
    other data, which are judged with them."""
    every = {**closest(table.columns, store, comparability), **editions}
    return {"edition_of": every, "comparability": {source: comparability(source, edition) for source, edition in every.items()}}


def compare(
    store: Store,
    paper: Paper,
    table: Table,
    *,
    selection: str = "as-published",
    edition_of: Mapping[str, str],
    comparability: Mapping[str, str],
    variant: str | None = None,
    quick: bool = False,
    columns: Sequence[Column] | None = None,
    grid: str | None = None,
) -> list[Row]:
    """Every number that the paper prints in these columns of the table, columns outermost, then metrics, then rows in print
    order; nothing of a descriptive table.

    ``comparability`` says of each data source whether the edition in use is ``"comparable"``, an ``"other split"`` or
    ``"not comparable"``. All columns of the table whose source has an edition here are judged together, whichever are shown, so
    that a verdict does not depend on what was asked for. Raises ``BadInput`` as :func:`replicate.report.tables.replicas` does.
    """
    chosen = tuple(table.columns if columns is None else columns)
    beside = judged_beside(table, chosen, edition_of)
    names = {column.name for column in chosen}
    replicas: dict[tables.Key, Replica] = {}
    judged: dict[tables.Key, Replica] = {}
    for found in tables.runs(
        store, paper, table, edition_of=edition_of, variant=variant, quick=quick, columns=[*chosen, *beside], grid=grid
    ):
        shown = found.replicas(paper, table, selection)
        replicas |= {key: replica for key, replica in shown.items() if key[2] in names}
        judged |= shown if selection == "as-published" else found.replicas(paper, table, "as-published")
    return compared(
        paper,
        table,
        replicas,
        judged,
        selection=selection,
        edition_of=edition_of,
        comparability=comparability,
        variant=variant,
        quick=quick,
        columns=chosen,
        beside=beside,
    )


def judged_beside(table: Table, columns: Sequence[Column], edition_of: Mapping[str, str]) -> tuple[Column, ...]:
    """Columns of the table that are judged together with these although they are not shown; none beside a stand-in."""
    if all(column.stand_in for column in columns):
        return ()
    return tuple(column for column in table.columns if column not in columns and column.data.source in edition_of)


def compared(
    paper: Paper,
    table: Table,
    replicas: Mapping[tables.Key, Replica],
    judged: Mapping[tables.Key, Replica],
    *,
    selection: str = "as-published",
    edition_of: Mapping[str, str],
    comparability: Mapping[str, str],
    variant: str | None = None,
    quick: bool = False,
    columns: Sequence[Column],
    beside: Sequence[Column] = (),
) -> list[Row]:
    """As :func:`compare`, of numbers of ours that were read before: those that are shown, and those of the selection
    as-published, which are judged, also in the columns ``beside``."""
    chosen = tuple(columns)

    def standing(column: Column) -> str:
        return "not comparable" if quick or column.stand_in else comparability[column.data.source]

    table = tables.as_published(table)
    if all(standing(column) == "not comparable" for column in chosen):
        table = tables.without_quoted(table)  # published numbers are not shown, and these rows have no others
    numbers = tables.printed(paper, table)
    every = [*chosen, *beside]
    spots = _by_column(tables.spots(table, every), table, every)
    sides = _sides(spots, judged, numbers)
    said = _verdicts(spots, sides, numbers, {column.name: standing(column) for column in every})
    best = tables.best_of_seeds(paper, selection)
    names = {column.name for column in chosen}
    rows = []
    for spot in spots:
        if spot.column.name not in names:
            continue
        source, key = spot.column.data.source, spot.key
        replica = replicas.get(key)
        number = None if standing(spot.column) == "not comparable" else numbers.get(key)
        level = None if replica is None else replica.mean
        if replica is not None and best:
            level = replica.best if number is None else _as_best(replica, sides[key], _rule(spot)[1])
        rows.append(
            Row(
                paper=paper,
                spot=spot,
                replica=replica,
                judged=judged.get(key),
                printed=number,
                level=level,
                best=best,
                difference=_difference(level, number, _rule(spot)[1]),
                verdict=said[key],
                fully_specified=key in numbers and numbers[key].specified == "full",
                edition=f"{source}@{edition_of[source]}",
                variant=None if spot.column.stand_in else variant,
                quick=quick,
            )
        )
    return rows


def _by_column(spots: Iterable[tables.Spot], table: Table, columns: Sequence[Column]) -> list[tables.Spot]:
    place = {column.name: number for number, column in enumerate(columns)}
    return sorted(spots, key=lambda spot: (place[spot.column.name], table.metrics.index(spot.metric)))


def _rule(spot: tables.Spot) -> tuple[float | None, str]:
    """Margin and scale; no margin where no rule covers the metric."""
    return verdicts.margin(spot.metric.kind, (*spot.column.path, *spot.metric.path)) or (None, "linear")


def _as_best(replica: Replica, sides: _Sides, scale: str) -> float | None:
    """The best of our seeds as the verdict takes it: of the published number of seeds."""
    ours, theirs = sides
    if ours is None or theirs is None:
        return replica.best
    value = verdicts.alike(ours, theirs).value
    return math.exp(value) if scale == "log" else value


def _difference(level: float | None, number: Printed | None, scale: str) -> float | None:
    if level is None or number is None or number.value is None:
        return None
    return level / number.value if scale == "log" else level - number.value


#: Ours and theirs.
_Sides = tuple[verdicts.Summary | None, verdicts.Summary | None]


def _sides(
    spots: Sequence[tables.Spot], replicas: Mapping[tables.Key, Replica], printed: Mapping[tables.Key, Printed]
) -> dict[tables.Key, _Sides]:
    """Both sides of every spot that has one, pooled over the rows of its column."""
    sides: dict[tables.Key, _Sides] = {}
    for _, alike in itertools.groupby(spots, key=lambda spot: spot.key[2:]):
        here = {spot.key: spot for spot in alike}
        sides |= verdicts.summaries(
            {key: replicas[key] for key in here if key in replicas},
            {key: printed[key] for key in here if key in printed},
            _rule(next(iter(here.values())))[1],
        )
    return sides


def _verdicts(
    spots: Sequence[tables.Spot],
    sides: Mapping[tables.Key, _Sides],
    printed: Mapping[tables.Key, Printed],
    standing: Mapping[str, str],
) -> dict[tables.Key, Verdict]:
    """The verdict of every spot; Holm's family is every number that the table prints as its own."""
    quoted = {key for key, number in printed.items() if number.provenance == "quoted"}
    family = sum(number.value is not None and key not in quoted for key, number in printed.items())
    tested: dict[tables.Key, float] = {}
    for spot in spots:
        ours, theirs = sides.get(spot.key, (None, None))
        comparable = spot.key not in quoted and standing[spot.column.name] == "comparable" and _rule(spot)[0] is not None
        if ours is not None and theirs is not None and comparable:
            p = verdicts.p_value(ours, theirs)
            if p is not None:
                tested[spot.key] = p
    # A place that cannot be rejected (too few seeds, say) still counts; its interval is as wide as the first step's.
    first = verdicts.ALPHA / max(family, 1)
    level = dict(zip(tested, verdicts.levels(list(tested.values()), family), strict=True))
    found = {}
    for spot in spots:
        ours, theirs = sides.get(spot.key, (None, None))
        found[spot.key] = verdicts.judge(
            ours,
            theirs,
            margin=_rule(spot)[0],
            level=level.get(spot.key, first),
            comparability=standing[spot.column.name],
            quoted=spot.key in quoted,
        )
    return found


def exit_code(rows: Iterable[Row]) -> int:
    """1 if a fully specified row is higher or lower than published, and that number is not marked as suspect; else 0."""
    differ = [row.printed for row in rows if row.fully_specified and row.verdict.word in ("higher", "lower")]
    return int(any(number is not None and not number.suspect for number in differ))


# --- print -----------------------------------------------------------------------------------------------------------


def render(rows: Sequence[Row], format: str) -> str:
    """The comparison as ``text``, ``markdown`` or ``csv``, ending with a line feed; the first two with the order of methods,
    the claimed gains, what is said of single published numbers, and the rules. Raises ``BadInput`` for another format."""
    if format not in FORMATS:
        raise BadInput(f"format {format!r} is unknown; allowed: {', '.join(FORMATS)}")
    if format == "csv":
        return _csv(rows)
    from tabulate import tabulate

    markdown = format == "markdown"
    lines = [f"**{_title(rows)}**" if markdown else _title(rows)] if rows else []
    heads = ("row", "replica", "seeds", "published", "difference", "90 % interval", "verdict")
    without: list[str] = []
    for path, alike in itertools.groupby(rows, key=lambda row: row.path):
        here = list(alike)
        if all(row.replica is None for row in here):
            without.append(path)
            continue
        lines += ["", f"### {path}" if markdown else path]
        shown = [_line(row) for row in here]
        if markdown:
            shown = [tuple(formats.escape_markdown(text) for text in line) for line in shown]
        aligned = ("left", "right", "right", "right", "right", "left", "left")
        body = tabulate(shown, heads, "pipe" if markdown else "simple", disable_numparse=True, colalign=aligned)
        lines += [*([""] if markdown else []), *(line.rstrip() for line in body.splitlines()), *([""] if markdown else [])]
        for claim in _claims(here):
            lines += formats.wrapped(claim, markdown)
    if gains := list(_gains_over(rows)):
        lines.append("")
        for claim in gains:
            lines += formats.wrapped(claim, markdown)
    lines.append("")
    for note in (*_data(rows), *_counts(rows), *_without(without), *_remarks(rows), *RULES.splitlines()):
        lines += formats.wrapped(note, markdown)
    return "\n".join(lines) + "\n"


def _title(rows: Sequence[Row]) -> str:
    row = rows[0]
    selections = dict.fromkeys(r.replica.selection for r in rows if r.replica is not None)
    marks = [*selections, *dict.fromkeys(r.edition for r in rows)]
    marks += [f"variant {row.variant}"] * bool(row.variant) + ["QUICK RUN"] * row.quick
    marks += ["STAND-IN"] * any(r.spot.column.stand_in for r in rows)
    return f"{row.paper.command}: table {row.spot.table.number}, replica against published ({', '.join(marks)})"


def decimals(paper: Paper, table: Table, metric: Metric) -> int:
    """Digits after the point of replicas: two where margins are known, else one more than the paper prints."""
    return 2 if verdicts.margin(metric.kind) is not None else tables.decimals(paper, table, metric.kind) + 1


def _decimals(row: Row) -> int:
    return decimals(row.paper, row.spot.table, row.spot.metric)


def _line(row: Row) -> tuple[str, ...]:
    replica = row.replica
    return (
        row.label,
        ours(row),
        str(replica.n) if replica is not None and replica.n else "",
        theirs(row),
        *apart(row),
        said(row),
    )


def apart(row: Row) -> tuple[str, str]:
    """Difference and its 90 % interval for print, empty where there is none: the interval is of the number that is judged."""
    digits = _decimals(row)
    judged = row.replica is not None and row.judged is not None and row.replica.selection == row.judged.selection
    inner = row.verdict.interval90 if judged else None
    return (
        "" if row.difference is None else _apart(row.difference, row.scale, digits),
        "" if inner is None else "[{}, {}]".format(*(_apart(end, row.scale, digits) for end in _ends(inner, row.scale))),
    )


def theirs(row: Row) -> str:
    """The published number for print."""
    return formats.plain(tables.entry(row.printed, row.spot.metric.kind, _decimals(row)))


def ours(row: Row) -> str:
    """Ours for print: with a spread if it is a mean."""
    digits = _decimals(row)
    if not row.best or row.level is None:
        return formats.plain(tables.entry(row.replica, row.spot.metric.kind, digits))
    return f"{row.level:.{digits}f}"


def _ends(interval: tuple[float, float], scale: str) -> tuple[float, float]:
    """An interval of logarithms as one of ratios."""
    low, high = interval
    return (math.exp(low), math.exp(high)) if scale == "log" else interval


def _apart(difference: float, scale: str, digits: int) -> str:
    return f"×{difference:.{digits}f}" if scale == "log" else f"{difference:+.{digits}f}"


def said(row: Row) -> str:
    """The verdict in words, such as ``open: 9 seeds would settle it; under our grid``."""
    verdict = row.verdict
    word = verdict.word
    if word in ("open", "missing"):
        word += f": {verdict.reason}"
    level = verdict.word in ("match", "higher", "lower", "open")
    return word + ("; under our grid" if level and not row.fully_specified else "")


def orders(rows: Sequence[Row]) -> Iterator[str]:
    """Order and claimed gains of each column that has any, one sentence each."""
    for path, alike in itertools.groupby(rows, key=lambda row: row.path):
        for claim in _claims(list(alike)):
            yield f"{path}: {claim}"


def _claims(rows: Sequence[Row]) -> Iterator[str]:
    """Order and claimed gains of one column; gains of accuracy over all classes alone."""
    spot = rows[0].spot
    ours = {row.key: row.judged for row in rows if row.judged is not None}
    theirs = {row.key: row.printed for row in rows if row.printed is not None}
    if not ours or not theirs or _rule(spot)[0] is None:
        return
    scale = rows[0].scale
    # Which pairs are separable is the paper's own matter where it prints spreads, whatever is known of our rows.
    alone = {key: theirs for key, (_, theirs) in verdicts.summaries({}, theirs, scale).items()}
    sides = {
        key: (here, there if there is None or there.borrowed else alone[key])
        for key, (here, there) in verdicts.summaries(ours, theirs, scale).items()
    }
    kept, separable = verdicts.ranking(sides[key] for key in verdicts.one_per_network(theirs, scale))
    if separable:
        yield f"Order: {kept} of {separable} separable pairs keep their order."
    if scale == "log" or spot.metric.group is not None:
        return
    for block, alike in itertools.groupby(rows, key=lambda row: row.spot.block.title):
        both = [row for row in alike if row.printed is not None and row.printed.value is not None]
        best = {
            baseline: max((row for row in both if row.spot.row.baseline is baseline), key=_published_value, default=None)
            for baseline in (True, False)
        }
        told = _gain(best[False], best[True])
        if told:
            yield f"Gain{' ' if block else ''}{block}: {told}"


def _published_value(row: Row) -> float:
    assert row.printed is not None and row.printed.value is not None
    return row.printed.value


def _gain(proposed: Row | None, baseline: Row | None) -> str:
    """The claim that the best proposed row makes over the best baseline, and what remains of it."""
    if proposed is None or baseline is None or proposed.judged is None or baseline.judged is None:
        return ""
    claimed = _published_value(proposed) - _published_value(baseline)
    remains = _remains(proposed.judged, baseline.judged, claimed)
    return f"{proposed.spot.row.label} over {baseline.spot.row.label}: {remains}" if remains else ""


def _remains(proposed: Replica, baseline: Replica, claimed: float) -> str:
    """A claimed gain beside ours, paired by seed."""
    gain = verdicts.gain(proposed.values, baseline.values, claimed)
    if gain is None:
        return ""
    interval = "" if gain.interval is None else ", 95 % interval [{:+.2f}, {:+.2f}]".format(*gain.interval)
    return (
        f"published {gain.claimed:+.2f}, here {gain.ours:+.2f} over {gain.seeds} seed{'s'[: gain.seeds != 1]}{interval}: "
        f"{100 * gain.share:.0f} % remains."
    )


def _gains_over(rows: Sequence[Row]) -> Iterator[str]:
    """Where a table prints gains over one of its columns: each claimed gain and what remains of it, row by row."""
    reference = rows[0].spot.table.gains_over if rows else None
    if reference is None:
        return
    for label, alike in itertools.groupby(sorted(rows, key=lambda row: row.label), key=lambda row: row.label):
        # Both numbers of every second stage, by the last part of its column's path.
        both = {
            row.spot.column.path[-1]: (row.judged, row.printed.value)
            for row in alike
            if row.judged is not None and row.printed is not None and row.printed.value is not None
        }
        if reference not in both:
            continue
        before, published_before = both.pop(reference)
        for path, (judged, value) in both.items():
            if remains := _remains(judged, before, value - published_before):
                yield f"Gain {label}, {path} over {reference}: {remains}"


def _data(rows: Sequence[Row]) -> Iterator[str]:
    """What is known of copies of the data that are not official."""
    there = dict.fromkeys(row.edition.partition("@")[::2] for row in rows if row.replica is not None)
    if told := [editions.named(source, edition) for source, edition in there if edition != OFFICIAL]:
        yield f"Data: {', '.join(told)}."


def tally(rows: Iterable[Row]) -> str:
    """How many rows have each verdict, such as ``3 match, 1 open``; empty without rows."""
    return ", ".join(f"{count} {word}" for word, count in Counter(row.verdict.word for row in rows).most_common())


def _counts(rows: Sequence[Row]) -> Iterator[str]:
    own = [row for row in rows if row.verdict.word != "quoted"]
    for title, full in (("Fully specified rows", True), ("Rows under our grid", False)):
        if words := tally(row for row in own if row.fully_specified is full):
            yield f"{title}: {words}."
    if len(own) < len(rows):
        yield f"Quoted by the paper from elsewhere, and not judged: {len(rows) - len(own)} numbers and blanks."
    yield from how_best(rows)


def how_best(rows: Sequence[Row]) -> Iterator[str]:
    """What stands for our seeds where a paper reports the best of its own: one sentence, or none."""
    told = [row for row in rows if row.best and row.level is not None and row.replica is not None]
    if told:
        shifted = any(row.level != row.replica.best for row in told if row.replica is not None)
        yield "Replica: of our seeds the one that is best over all classes" + (
            "; where we have another number of seeds than the paper, the mean plus r c s, which the best of as many seeds as "
            "the paper's is expected to have."
            if shifted
            else "."
        )


def _without(paths: Sequence[str]) -> Iterator[str]:
    if paths:
        yield f"No Records: {'; '.join(paths)}."


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    shown = {row.spot.place for row in rows if row.printed is not None}
    if shown:
        yield from published.remarks(published.load(rows[0].paper.name, rows[0].spot.table.published), shown)


def _csv(rows: Sequence[Row]) -> str:
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(FIELDS)
    for row in rows:
        replica, number, verdict = row.replica, row.printed, row.verdict
        kind = row.spot.metric.kind
        mean, sd = tables.figures(replica, kind)
        marks = [row.edition]
        marks += [f"variant {row.variant}"] * bool(row.variant) + ["quick"] * row.quick
        marks += ["stand-in"] * row.spot.column.stand_in + ["ratios, not differences"] * (row.scale == "log")
        if row.best and replica is not None:
            marks.append(f"mean {mean}" + (f" population sd {sd}" if sd else ""))
        ends = [
            end
            for interval in (verdict.interval90, verdict.interval95)
            for end in (_ends(interval, row.scale) if interval else (None, None))
        ]
        lines.writerow(
            (
                row.paper.name,
                number.table if number is not None else f"Table {row.spot.table.number}",
                *row.spot.place,
                "" if replica is None else replica.selection,
                *((tables.figure(row.level, kind), "") if row.best else (mean, sd)),
                "" if replica is None else replica.n,
                "" if number is None else number.value_text,
                "" if number is None else number.std_text,
                "" if number is None or number.n is None else number.n,
                *("" if x is None else f"{x:.4f}" for x in (row.difference, *ends)),
                verdict.word,
                "" if verdict.seeds_needed is None else verdict.seeds_needed,
                "fully specified" if row.fully_specified else "under our grid",
                "; ".join([*marks, verdict.reason]),
            )
        )
    return out.getvalue()
