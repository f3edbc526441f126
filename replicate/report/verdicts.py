"""What a replica says about a published number: the rules, in one place.

:func:`summaries` reduces both sides to value, standard deviation, number of runs and degrees of freedom; :func:`levels`
is Holm's correction over a table; :func:`judge` speaks. scipy is imported when a quantile is first needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from replicate.report.published import Printed
from replicate.report.selection import Replica

#: Block title and row label, then what names a column: its data and metric.
Key = TypeVar("Key", bound=tuple[str, ...])

FLOOR = 0.1  # of a standard deviation: spreads of a handful of runs are sometimes small by luck, or printed as 0.0
ALPHA = 0.05  # over a table
LEAST_SEEDS = 3
MOST_SEEDS = 1000  # searched for the number that would settle an open verdict
LARGEST_RATIO = 0.3  # sd/mean above which the log scale says nothing
GROUPS = ("Many", "Medium", "Med.", "Few")

#: The rules, a paragraph a line.
RULES = """\
Difference d: replica minus published, the replica always under the selection as-published. SE^2 = s_r^2/n_r+s_p^2/n_p. \
Each s is a sample standard deviation of single runs, pooled over the rows of its column (one data set, one metric), at least \
0.1, with the pool's degrees of freedom; those of d after Welch. Rows that share beginnings deviate together from seed to \
seed and say less of s: R rows count as R/(1 + q(R-1)) on both sides, q the mean square of our rows' correlations over seeds; \
one network under several adjustments counts once. A published spread that is a population's, or of a kind not \
stated, is multiplied by sqrt(n/(n-1)); an n that is not stated is taken as 2, the fewest with a spread. A side without any \
spread in the column gets the other side's, with its degrees of freedom; a number without spread and n counts as one run.
Margin: 1.0 point for accuracy over all classes, 2.0 for Many, Medium and Few; a factor of 1.25, on the log scale, for \
FDR, and only where sd/mean is below 0.3. There d is the difference of logarithms, printed as a ratio, and s is sd/mean; a \
row whose own is 0.3 or more stays out of the pool. no rule: a metric that has no margin.
match: the 90 % interval of d lies inside the margin. higher, lower: not a match, and the 95 % interval excludes 0 after \
Holm's correction over all numbers that the table prints as its own (one that is not replicated counts as not rejected). \
open: else, with how many seeds of ours would settle it if d and s stayed; with fewer than 3 seeds always.
other split: data of a redrawn edition, whose levels are not the paper's. not comparable: stand-in data and quick runs, \
which never meet a published number. quoted: the paper took the number from elsewhere. missing: one of the numbers is. A \
best of n runs is the run that is best over all classes, with whatever its groups have. It is compared with our best of n, or \
with mean plus r c s (c = 1.163 for n = 5; r is the correlation over our runs of a group with all classes, pooled as s is).
Only fully specified rows decide the exit code, and of them no number that is marked as suspect in its source; other rows are \
judged under our grid. Order: pairs of rows of a column whose published difference exceeds its 95 % interval, and how many of \
them have the same sign here. Gain: of the best proposed row over the best baseline of a block, as published and here, paired \
by seed."""


@dataclass(frozen=True)
class Summary:
    """One side of a comparison. ``value`` and ``sd`` are in the scale of the comparison (percent, or log FDR).

    ``n`` runs stand behind ``value``; ``runs`` are their own values, where known. ``sd`` is the sample standard deviation of
    single runs, pooled over ``rows`` rows (so many as they count for), with ``df`` degrees of freedom; None where nothing is
    known of it. ``borrowed``: sd and df are the other side's, which knows of no spread of its own.

    ``statistic``: ``"mean"``; ``"best"``, the value of the best of n runs; or ``"shifted"``, a mean plus ``shift`` times
    ``correlation`` times sd. ``correlation``: over single runs, of this metric with the one by which the best run is chosen;
    ``best``: that run's value, None where it is the largest. ``ratio``, on the log scale: sd/mean before the logarithm.
    """

    value: float
    n: int
    sd: float | None = None
    df: float = 0
    rows: float = 1
    statistic: str = "mean"
    shift: float = 0.0
    runs: tuple[float, ...] = ()
    ratio: float | None = None
    borrowed: bool = False
    correlation: float = 1.0
    best: float | None = None

    @property
    def variance(self) -> float:
        """Variance of ``value``; raises ``ValueError`` without an sd."""
        if self.sd is None:
            raise ValueError("nothing is known of the spread")
        if self.statistic == "best":
            return _share_of_best(self.n, self.correlation) * self.sd**2
        shifted = _share_of_shift(self.shift, self.correlation) / self.df if self.shift else 0.0
        return self.sd**2 * (1 / self.n + shifted)


@dataclass(frozen=True)
class Verdict:
    """``word``: ``match``, ``higher``, ``lower``, ``open``, ``other split``, ``not comparable``, ``quoted``, ``missing`` or
    ``no rule``.

    ``difference`` is replica minus published, in points (on the log scale: of logarithms), with its intervals;
    ``interval95`` is corrected by Holm, so that it excludes 0 exactly where the correction rejects. ``seeds_needed``: of an
    open verdict, how many seeds of ours would settle it; None if no number can. ``reason``: one sentence.
    """

    word: str
    difference: float | None = None
    interval90: tuple[float, float] | None = None
    interval95: tuple[float, float] | None = None
    seeds_needed: int | None = None
    reason: str = ""


def margin(metric: str, path: Sequence[str] | str = ()) -> tuple[float, str] | None:
    """Margin and scale (``"linear"`` or ``"log"``) of a metric in a column; None where no rule covers it."""
    parts = path.split("/") if isinstance(path, str) else path
    if metric == "FDR":
        return math.log(1.25), "log"
    if metric.endswith("accuracy_pct"):
        return (2.0 if parts and parts[-1] in GROUPS else 1.0), "linear"
    return None


# --- from numbers to summaries ---------------------------------------------------------------------------------------


def sample_sd(sd: float, n: int | None, kind: str) -> tuple[float, int]:
    """A printed spread as (sample standard deviation, n to use).

    A spread of a kind not stated is taken as a population's: the correction widens the interval, so it claims less. For
    the same reason an n that is not stated is taken as 2, the smallest that has a spread.
    """
    runs = 2 if n is None else n
    if runs < 2:
        raise ValueError("one run has no spread")
    return (sd if kind == "sample sd" else sd * math.sqrt(runs / (runs - 1))), runs


def pool(spreads: Iterable[tuple[float, int]], together: float = 0.0) -> tuple[float, float, float] | None:
    """Sample standard deviations with their n, pooled: (sd, degrees of freedom, how many); None without any. ``together``: the
    mean square of their correlations, by which they count for fewer (Satterthwaite's approximation for equal variances)."""
    told = [(sd, n) for sd, n in spreads if n >= 2]
    if not told:
        return None
    df = sum(n - 1 for _, n in told)
    fewer = 1 + together * (len(told) - 1)
    return math.sqrt(math.fsum((n - 1) * sd**2 for sd, n in told) / df), df / fewer, len(told) / fewer


def together(runs: Iterable[Mapping[int, float]]) -> float:
    """Mean square of the correlations between rows over the seeds that two rows share, 0 to 1; ``runs`` map seeds to values.

    Of each pair the square is corrected for the few seeds that it is of (1 - (1 - r^2)(n - 1)/(n - 2)), so that of rows that
    have nothing to do with each other it is 0 on average. Pairs with fewer than three seeds, or without any spread, say
    nothing; 0 without a pair."""
    found = []
    for one, other in itertools.combinations(runs, 2):
        seeds = sorted(one.keys() & other.keys())
        n = len(seeds)
        if n < LEAST_SEEDS:
            continue
        x, y = (_centred([row[seed] for seed in seeds]) for row in (one, other))
        squares = math.fsum(a * a for a in x) * math.fsum(b * b for b in y)
        if squares > 0:
            r2 = math.fsum(a * b for a, b in zip(x, y, strict=True)) ** 2 / squares
            found.append(1 - (1 - r2) * (n - 1) / (n - 2))
    return min(1.0, max(0.0, math.fsum(found) / len(found))) if found else 0.0


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [value - mean for value in values]


def summaries(
    replicas: Mapping[Key, Replica], printed: Mapping[Key, Printed], scale: str = "linear"
) -> dict[Key, tuple[Summary | None, Summary | None]]:
    """Both sides of every place that has one: (replica, published), with spreads pooled over the rows of each column.

    ``scale`` ``"log"`` compares logarithms, with sd/mean as the spread (delta method).
    """
    keys = dict.fromkeys((*replicas, *printed))
    columns = dict.fromkeys(key[2:] for key in keys)
    ours: dict[tuple[str, ...], tuple[float, float, float] | None] = {}
    theirs: dict[tuple[str, ...], tuple[float, float, float] | None] = {}
    correlations: dict[tuple[str, ...], float] = {}
    for column in columns:
        with_runs = [r for key, r in replicas.items() if key[2:] == column and r.mean is not None]
        correlations[column] = _correlation(with_runs)
        # One network under several adjustments counts once.
        rows = list({tuple(r.values.items()): r for r in with_runs}.values())
        alike = together([r.values for r in rows])
        ours[column] = _pool_scaled(
            ((r.sd * math.sqrt(r.n / (r.n - 1)), r.n, r.mean) for r in rows if r.sd is not None and r.mean is not None),
            scale,
            alike,
        )
        networks = [printed[key] for key in one_per_network(printed, scale) if key[2:] == column]
        theirs[column] = _pool_scaled(
            (
                (*sample_sd(p.std, p.n, p.spread_kind), p.value)
                for p in networks
                if p.value is not None and p.std is not None and (p.n is None or p.n > 1)
            ),
            scale,
            alike,
        )
    found: dict[Key, tuple[Summary | None, Summary | None]] = {}
    for key in keys:
        r, p = replicas.get(key), printed.get(key)
        here, there = ours[key[2:]], theirs[key[2:]]
        ours_here = None if r is None else _of_replica(r, here or there, scale, borrowed=here is None)
        theirs_here = None if p is None else _of_printed(p, there or here, scale, borrowed=there is None)
        correlation = correlations[key[2:]]  # the only one known: papers print no single runs
        found[key] = (
            ours_here and replace(ours_here, correlation=correlation),
            theirs_here and replace(theirs_here, correlation=correlation),
        )
    return found


def _correlation(replicas: Iterable[Replica]) -> float:
    """Over single runs, of a metric with balanced accuracy, pooled over rows as spreads are; 1 where nothing is known of it, as
    of two runs, which always lie on a line."""
    products = squares = others = 0.0
    for replica in replicas:
        if replica.mean is None or not replica.overall or replica.n < LEAST_SEEDS:
            continue
        level = math.fsum(replica.overall[seed] for seed in replica.values) / replica.n
        for seed, value in replica.values.items():
            one, other = value - replica.mean, replica.overall[seed] - level
            products, squares, others = products + one * other, squares + one * one, others + other * other
    if not squares or not others:
        return 0.0 if squares else 1.0
    return max(-1.0, min(1.0, products / math.sqrt(squares * others)))


def one_per_network(printed: Mapping[Key, Printed], scale: str) -> list[Key]:
    """Every place on the linear scale. On the log scale, of discriminant ratios, one of the places of a column that print the
    same number with the same spread: it is one network's, which rows with several adjustments share."""
    if scale == "linear":
        return list(printed)
    return list({(key[2:], number.value_text, number.std_text): key for key, number in printed.items()}.values())


def _pool_scaled(spreads: Iterable[tuple[float, int, float]], scale: str, together: float) -> tuple[float, float, float] | None:
    """:func:`pool` of (sample standard deviation, n, mean), on the log scale of those for which sd/mean says something."""
    if scale == "linear":
        return pool(((sd, n) for sd, n, _ in spreads), together)
    return pool(((sd / mean, n) for sd, n, mean in spreads if mean > 0 and sd / mean < LARGEST_RATIO), together)


def _spread(pooled: tuple[float, float, float] | None, borrowed: bool) -> dict[str, Any]:
    if pooled is None:
        return {}
    return {"sd": max(FLOOR, pooled[0]), "df": pooled[1], "rows": pooled[2], "borrowed": borrowed}


def _of_replica(r: Replica, pooled: tuple[float, float, float] | None, scale: str, borrowed: bool) -> Summary | None:
    if r.mean is None:
        return None
    runs = tuple(r.values.values())
    if scale == "linear":
        return Summary(r.mean, r.n, runs=runs, best=r.best, **_spread(pooled, borrowed))
    if min(runs) <= 0:
        return None  # there is no logarithm
    ratio = None if r.sd is None else r.sd * math.sqrt(r.n / (r.n - 1)) / r.mean
    best = None if r.best is None else math.log(r.best)
    logs = tuple(map(math.log, runs))
    return Summary(math.log(r.mean), r.n, runs=logs, best=best, ratio=ratio, **_spread(pooled, borrowed))


def _of_printed(p: Printed, pooled: tuple[float, float, float] | None, scale: str, borrowed: bool) -> Summary | None:
    if p.value is None or (scale == "log" and p.value <= 0):
        return None
    ratio = None
    n = p.n or 1
    if p.std is not None and p.n != 1:
        sd, n = sample_sd(p.std, p.n, p.spread_kind)
        ratio = sd / p.value if scale == "log" else None
    value = math.log(p.value) if scale == "log" else p.value
    return Summary(value, n, statistic=p.statistic, ratio=ratio, **_spread(pooled, borrowed))


# --- the best of n ---------------------------------------------------------------------------------------------------


@cache
def _largest(n: int) -> tuple[float, float]:
    """Mean and variance of the largest of n standard normal numbers, by Simpson's rule on [-9, 9]."""
    steps = 3600
    width = 18 / steps
    first = second = 0.0
    for i in range(steps + 1):
        x = -9 + i * width
        density = n * math.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (0.5 * math.erfc(-x / math.sqrt(2))) ** (n - 1)
        weight = (1 if i in (0, steps) else 4 if i % 2 else 2) * width / 3 * density
        first += weight * x
        second += weight * x * x
    return first, second - first * first


def _share_of_best(n: int, correlation: float) -> float:
    """Variance, in those of a single run, of the run that is the best of n by a number of this correlation."""
    return correlation**2 * _largest(n)[1] + 1 - correlation**2


def _share_of_shift(shift: float, correlation: float) -> float:
    """Variance of c r s, in those of a single run and times the degrees of freedom that r and s are known with: of normal
    numbers, by the delta method."""
    return shift**2 * (1 - correlation**2 / 2)


def as_best(replica: Summary, n: int) -> Summary:
    """The replica as a best of ``n``: of its own runs if they are n, else mean + r c s, c being the expected largest of n
    standard normal numbers (1.163 for n = 5) and r the correlation with what the best is chosen by: the expected concomitant of
    an order statistic (David and Nagaraja, Order Statistics). Without an sd only the former is possible; else it stays a
    mean."""
    if len(replica.runs) == n:
        return replace(replica, value=max(replica.runs) if replica.best is None else replica.best, statistic="best")
    if replica.sd is None:
        return replica
    shift = _largest(n)[0]
    return replace(replica, value=replica.value + shift * replica.correlation * replica.sd, statistic="shifted", shift=shift)


# --- the comparison --------------------------------------------------------------------------------------------------


def standard_error(replica: Summary, printed: Summary) -> tuple[float, float]:
    """Of the difference: standard error, and degrees of freedom after Welch; those of the one s where a side has the other's,
    for Welch's are of two that err apart. Raises ``ValueError`` without sds."""
    a, b = replica.variance, printed.variance
    if replica.borrowed or printed.borrowed:
        return math.sqrt(a + b), float(min(replica.df, printed.df))
    return math.sqrt(a + b), (a + b) ** 2 / (a**2 / replica.df + b**2 / printed.df)


def p_value(replica: Summary, printed: Summary) -> float | None:
    """Two-sided, of no difference; None where an sd is unknown or too large for the log scale, and below three of our seeds."""
    if replica.sd is None or printed.sd is None or replica.n < LEAST_SEEDS or _ratio(replica, printed) >= LARGEST_RATIO:
        return None
    from scipy.special import stdtr

    replica = alike(replica, printed)
    error, df = standard_error(replica, printed)
    return float(2 * stdtr(df, -abs(replica.value - printed.value) / error))


def _ratio(replica: Summary, printed: Summary) -> float:
    """The larger sd/mean of two sides on the log scale, 0 on the linear one."""
    return max(replica.ratio or 0.0, printed.ratio or 0.0)


def alike(replica: Summary, printed: Summary) -> Summary:
    """The replica as it is compared: as a best of as many runs where the published number is one."""
    return as_best(replica, printed.n) if printed.statistic == "best" else replica


def levels(p_values: Sequence[float], family: int | None = None, alpha: float = ALPHA) -> list[float]:
    """Holm's step-down: the level to test each p-value at, so that ``p <= level`` exactly where the procedure rejects.

    ``family`` is the number of hypotheses, the p-values given and others that are not rejected; the given alone if left out.
    The k-th smallest is tested at alpha/(family - k + 1) until one is not rejected; the rest keep that one's level, and being
    larger are not rejected either.
    """
    many = max(family or 0, len(p_values))
    found = [alpha] * len(p_values)
    level, rejecting = alpha, True
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        if rejecting:
            level = alpha / (many - rank)
            rejecting = p_values[place] <= level
        found[place] = level
    return found


def judge(
    replica: Summary | None,
    printed: Summary | None,
    *,
    margin: float | None = 1.0,
    level: float = ALPHA,
    comparability: str = "comparable",
    quoted: bool = False,
) -> Verdict:
    """The verdict on one printed number.

    ``level`` is that of the two-sided test (see :func:`levels`); ``margin`` is in the scale of the summaries, None if no
    rule gives one. ``comparability`` of our data with the paper's: ``"comparable"``, ``"other split"`` or
    ``"not comparable"``.
    """
    if quoted:
        return Verdict("quoted", reason="the paper quotes this number; it has no protocol of its own")
    if replica is not None and comparability == "not comparable":
        return Verdict("not comparable", reason="stand-in data or a quick run")
    if replica is None or printed is None:
        absent = "no replica" if printed is not None else "no published number" if replica is not None else "neither number"
        return Verdict("missing", reason=absent)
    if margin is None:
        return Verdict("no rule", replica.value - printed.value, reason="no rule has a margin for this metric")

    replica = alike(replica, printed)
    difference = replica.value - printed.value
    inner = outer = None
    if replica.sd is not None and printed.sd is not None:
        from scipy.special import stdtrit

        error, df = standard_error(replica, printed)
        wide90, wide95 = (float(stdtrit(df, 1 - alpha / 2)) * error for alpha in (0.10, level))
        inner, outer = ((difference - wide, difference + wide) for wide in (wide90, wide95))

    def say(word: str, reason: str, seeds: int | None = None) -> Verdict:
        return Verdict(word, difference, inner, outer, seeds, reason)

    if comparability == "other split":
        return say("other split", "a redrawn edition of the data: differences between rows can be compared, levels cannot")
    if (ratio := _ratio(replica, printed)) >= LARGEST_RATIO:
        return say("open", f"sd/mean is {ratio:.2f}: too large for the log scale, whatever the number of seeds")
    if inner is None or outer is None:
        return say("open", "no spread is known in this column")
    if replica.n >= LEAST_SEEDS:
        if -margin < inner[0] and inner[1] < margin:
            return say("match", "the 90 % interval lies inside the margin")
        if outer[0] > 0 or outer[1] < 0:
            return say("higher" if difference > 0 else "lower", "the 95 % interval excludes 0")
    seeds = _seeds_needed(replica, printed, difference, margin, level)
    return say("open", f"{seeds} seeds would settle it" if seeds else "no number of seeds would settle it", seeds)


def _seeds_needed(replica: Summary, printed: Summary, difference: float, margin: float, level: float) -> int | None:
    """The fewest seeds of ours, in every row of the column, that would end in match, higher or lower if d and s stayed.

    Where the published s is ours, it stays so, and its degrees of freedom grow with ours; where ours is the published one, ours
    would be known with as many rows."""
    import numpy as np
    from scipy.special import stdtrit

    assert replica.sd is not None
    n = np.arange(max(LEAST_SEEDS, replica.n + 1), MOST_SEEDS + 1)
    of_replica = replica.rows * (n - 1) if replica.borrowed else np.maximum(replica.df, replica.rows * (n - 1))
    # Against a best of n, n runs are compared by their best, any other number by mean plus a multiple of s.
    shift = _largest(printed.n)[0] if printed.statistic == "best" else 0.0
    a, b = replica.sd**2 * (1 / n + _share_of_shift(shift, replica.correlation) / of_replica), printed.variance
    if printed.statistic == "best":
        a = np.where(n == printed.n, replica.sd**2 * _share_of_best(printed.n, replica.correlation), a)
    df = of_replica if printed.borrowed else (a + b) ** 2 / (a**2 / of_replica + b**2 / printed.df)
    error = np.sqrt(a + b)
    matches = abs(difference) + stdtrit(df, 0.95) * error < margin
    differs = abs(difference) > stdtrit(df, 1 - level / 2) * error
    settled = np.flatnonzero(matches | differs)
    return int(n[settled[0]]) if len(settled) else None


# --- claims ----------------------------------------------------------------------------------------------------------


def ranking(pairs: Iterable[tuple[Summary | None, Summary | None]]) -> tuple[int, int]:
    """Of one column's rows as (replica, published): how many pairs of rows keep their order, of how many separable ones.

    A pair is separable where its published difference exceeds the half-width of its 95 % interval (one pooled s, with the
    pool's degrees of freedom). Pairs with a side missing, or with a spread too large for the log scale, do not count; a tie of
    ours is not kept.
    """
    told = [(r, p) for r, p in pairs if r and p and p.sd is not None and _ratio(r, p) < LARGEST_RATIO]
    kept = separable = 0
    for (r, p), (other_r, other_p) in itertools.combinations(told, 2):
        if apart(p, other_p):
            separable += 1
            kept += (r.value - other_r.value) * (p.value - other_p.value) > 0
    return kept, separable


def apart(one: Summary, other: Summary) -> bool | None:
    """Whether two printed numbers of one table are separable (see :func:`ranking`); None where nothing is known of a spread, or
    it is too large for the log scale."""
    from scipy.special import stdtrit

    if one.sd is None or other.sd is None or _ratio(one, other) >= LARGEST_RATIO:
        return None
    wide = float(stdtrit(min(one.df, other.df), 0.975)) * math.sqrt(one.variance + other.variance)
    return abs(one.value - other.value) > wide


@dataclass(frozen=True)
class Paired:
    """Differences by seed: their mean over ``n`` seeds, and its standard error, None with fewer than two."""

    mean: float
    error: float | None
    n: int

    def interval(self, level: float = ALPHA) -> tuple[float, float] | None:
        """Around the mean, after Student; excludes 0 exactly where :attr:`p_value` is below ``level``."""
        if self.error is None:
            return None
        from scipy.special import stdtrit

        wide = float(stdtrit(self.n - 1, 1 - level / 2)) * self.error
        return self.mean - wide, self.mean + wide

    @property
    def p_value(self) -> float | None:
        """Two-sided, of no difference."""
        if self.error is None:
            return None
        from scipy.special import stdtr

        return float(2 * stdtr(self.n - 1, -abs(self.mean) / self.error)) if self.error else float(self.mean == 0)


def paired(first: Mapping[int, float], second: Mapping[int, float], floor: float = 0.0) -> Paired | None:
    """First minus second of every seed that both have; their sample standard deviation is taken as no less than ``floor``. None
    without a common seed."""
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return None
    n = len(differences)
    mean = math.fsum(differences) / n
    if n < 2:
        return Paired(mean, None, n)
    sd = math.sqrt(math.fsum((d - mean) ** 2 for d in differences) / (n - 1))
    return Paired(mean, max(floor, sd) / math.sqrt(n), n)


@dataclass(frozen=True)
class Gain:
    """A claimed gain of one row over another: as published, ours from differences paired by seed (mean and 95 % interval, in
    points; no interval with fewer than two seeds), and the share of the claim that remains."""

    claimed: float
    ours: float
    interval: tuple[float, float] | None
    seeds: int

    @property
    def share(self) -> float:
        return self.ours / self.claimed


def gain(proposed: Mapping[int, float], baseline: Mapping[int, float], claimed: float) -> Gain | None:
    """``proposed`` and ``baseline`` map seeds to percent; None without a common seed or where nothing was claimed."""
    told = paired(proposed, baseline)
    return None if told is None or claimed <= 0 else Gain(claimed, told.mean, told.interval(), told.n)
