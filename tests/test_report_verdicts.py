"""The rules of comparison: against scipy, against brute force and simulation, and against cases worked by hand."""

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from replicate.report import verdicts
from replicate.report.published import Printed
from replicate.report.selection import Replica
from replicate.report.verdicts import Summary, judge, levels, pool, sample_sd, summaries


def replica(*values, overall=()):
    epochs = {seed: (1,) for seed, _ in enumerate(values)}
    how = {"planned": 1, "finished": 1, "competing": 1, "overall": dict(enumerate(overall))}
    return Replica("as-published", dict(enumerate(values)), ((),), epochs, **how)


def printed(value, std=None, n=5, kind="sd, kind not stated", **changes):
    told = {"table": "T", "metric": "balanced_accuracy_pct", "statistic": "mean", "provenance": "own", "specified": "full"}
    words = {"value_text": str(value), "std_text": "" if std is None else str(std), "note": "", **told, **changes}
    return Printed(value=value, std=std, n=n, spread_kind=kind, **words)


def side(value, sd, n, **changes):
    """A summary whose spread rests on its own row."""
    return Summary(value, n, sd, n - 1, **changes)


# --- spreads ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8))
def test_population_spreads_become_sample_spreads(values):
    sd, n = sample_sd(statistics.pstdev(values), len(values), "population sd")
    assert n == len(values) and sd == pytest.approx(statistics.stdev(values), abs=1e-9)


def test_spreads_of_a_kind_or_a_number_not_stated_are_read_as_the_wider_ones():
    assert sample_sd(0.4, 5, "sd, kind not stated") == (pytest.approx(0.4 * math.sqrt(5 / 4)), 5)
    assert sample_sd(0.4, None, "kind not stated") == (pytest.approx(0.4 * math.sqrt(2)), 2)
    assert sample_sd(0.4, 5, "sample sd") == (0.4, 5)
    with pytest.raises(ValueError, match="one run"):
        sample_sd(0.4, 1, "population sd")


def test_pooling_weighs_by_degrees_of_freedom():
    assert pool([(1.0, 3), (2.0, 2)]) == (pytest.approx(math.sqrt((2 * 1 + 1 * 4) / 3)), 3, 2)
    assert pool([(1.0, 1)]) is None and pool([]) is None


@given(st.lists(st.lists(st.floats(-5, 5), min_size=2, max_size=6), min_size=1, max_size=4))
def test_pooling_is_the_spread_within_groups(groups):
    sd, df, rows = pool((statistics.stdev(group), len(group)) for group in groups)
    within = sum(sum((x - statistics.mean(group)) ** 2 for x in group) for group in groups)
    assert (df, rows) == (sum(len(group) - 1 for group in groups), len(groups))
    assert sd == pytest.approx(math.sqrt(within / df), abs=1e-6)


def test_rows_that_deviate_together_count_for_fewer():
    assert verdicts.together([{0: 1.0, 1: 2.0, 2: 4.0}, {0: 3.0, 1: 5.0, 2: 9.0}]) == pytest.approx(
        1.0
    )  # one is twice the other
    assert verdicts.together([{0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.0, 1: 3.0, 2: 1.0}]) == 0.0  # no correlation: 2 * 0 - 1, cut off
    assert verdicts.together([{0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}]) == 0.0  # two runs always lie on a line
    assert verdicts.together([{0: 1.0, 1: 2.0, 2: 3.0}]) == verdicts.together([]) == 0.0
    assert pool([(1.0, 3)] * 4, 0.5) == (1.0, pytest.approx(8 / 2.5), pytest.approx(4 / 2.5))
    rows = {("", name, "x"): replica(*(value + place for value in (1.0, 2.0, 4.0))) for place, name in enumerate("abc")}
    theirs = {key: printed(3.0, 0.5 + place / 10) for place, key in enumerate(rows)}
    for ours, other in summaries(rows, theirs).values():  # three rows that go up and down as one
        assert (ours.rows, ours.df, other.rows, other.df) == (1.0, 2.0, 1.0, 4.0)


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_intervals_hold_what_they_promise_whether_or_not_rows_share_beginnings(share):
    draws = np.random.default_rng(7)
    rows, n, inside = 12, 3, []
    for _ in range(400):
        common, own = draws.normal(size=(2, 1, n)), draws.normal(size=(2, rows, n))
        runs = math.sqrt(share) * common + math.sqrt(1 - share) * own
        ours, theirs = (dict(enumerate(side)) for side in runs)
        here = {("", str(row), "x"): replica(*values) for row, values in ours.items()}
        there = {
            ("", str(row), "x"): printed(float(values.mean()), float(values.std(ddof=1)), n=n, kind="sample sd")
            for row, values in theirs.items()
        }
        told = [judge(*sides, margin=1.0) for sides in summaries(here, there).values()]
        inside.append(statistics.mean(one.interval90[0] < 0 < one.interval90[1] for one in told))
    assert statistics.mean(inside) == pytest.approx(0.90, abs=0.04)


def test_a_network_that_several_rows_print_counts_once_on_the_log_scale():
    rows = {("", name, "x"): replica(100.0, 110.0, 120.0) for name in "abc"} | {("", "d", "x"): replica(50.0, 40.0, 45.0)}
    theirs = {key: printed(110.0, 8.0) for key in rows} | {("", "d", "x"): printed(46.0, 3.0)}
    assert [side.rows for side in summaries(rows, theirs, "log")["", "a", "x"]] == [2, 2]
    assert summaries({}, theirs)["", "a", "x"][1].rows == 4 and summaries({}, theirs, "log")["", "a", "x"][1].rows == 2


def test_each_side_is_pooled_over_the_rows_of_its_own_column_and_floored():
    ours = {("", "a", "x"): replica(1.0, 3.0), ("", "b", "x"): replica(5.0, 5.0, 5.0), ("", "a", "y"): replica(1.0, 1.0)}
    theirs = {("", "a", "x"): printed(2.0, 0.8), ("", "b", "x"): printed(None), ("", "a", "y"): printed(2.0, 0.0)}
    told = summaries(ours, theirs)
    mine, other = told["", "a", "x"]
    assert (mine.value, mine.n, mine.df, mine.rows) == (2.0, 2, 3, 2) and mine.sd == pytest.approx(math.sqrt(2 / 3))
    assert (other.n, other.df) == (5, 4) and other.sd == pytest.approx(0.8 * math.sqrt(5 / 4))
    assert told["", "b", "x"][0].sd == mine.sd and told["", "b", "x"][1] is None
    assert [s.sd for s in told["", "a", "y"]] == [0.1, 0.1]


def test_a_side_without_any_spread_gets_the_others():
    told = summaries({("", "a", "x"): replica(1.0, 3.0)}, {("", "a", "x"): printed(2.0)})
    assert told["", "a", "x"][1].sd == told["", "a", "x"][0].sd == pytest.approx(math.sqrt(2))
    told = summaries({("", "a", "x"): replica(1.0)}, {("", "a", "x"): printed(2.0, 0.4, n=None)})
    assert told["", "a", "x"][0].sd == told["", "a", "x"][1].sd == pytest.approx(0.4 * math.sqrt(2))
    told = summaries({("", "a", "x"): replica(1.0)}, {("", "a", "x"): printed(2.0, n=None)})
    assert told["", "a", "x"][0].sd is None and told["", "a", "x"][1].n == 1


# --- intervals and tests ---------------------------------------------------------------------------------------------

SIDES = st.builds(side, value=st.floats(0, 100), sd=st.floats(0.1, 3), n=st.integers(3, 9))


@given(SIDES, SIDES)
def test_p_values_are_welchs(ours, theirs):
    expected = stats.ttest_ind_from_stats(ours.value, ours.sd, ours.n, theirs.value, theirs.sd, theirs.n, equal_var=False)
    assert verdicts.p_value(ours, theirs) == pytest.approx(expected.pvalue, rel=1e-9, abs=1e-300)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(3, 7), st.integers(3, 7))
def test_intervals_are_welchs(seed, n, m):
    draws = np.random.default_rng(seed)
    a, b = draws.normal(70, 1.5, n), draws.normal(70.5, 0.8, m)
    told = stats.ttest_ind(a, b, equal_var=False)
    sides = [side(float(x.mean()), float(x.std(ddof=1)), len(x)) for x in (a, b)]
    verdict = judge(*sides)
    assert verdict.difference == pytest.approx(told.statistic * math.sqrt(sum(s.variance for s in sides)))
    for interval, share in ((verdict.interval90, 0.90), (verdict.interval95, 0.95)):
        expected = told.confidence_interval(share)
        assert interval == pytest.approx((expected.low, expected.high), rel=1e-9)


@given(SIDES, SIDES, st.floats(0.2, 3))
def test_a_match_is_what_two_one_sided_tests_call_equivalent(ours, theirs, margin):
    """Schuirmann's procedure at 5 %, each side by scipy's test of summaries."""

    def one_sided(shift, alternative):
        told = stats.ttest_ind_from_stats(
            ours.value - shift, ours.sd, ours.n, theirs.value, theirs.sd, theirs.n, equal_var=False, alternative=alternative
        )
        return told.pvalue

    p = max(one_sided(-margin, "greater"), one_sided(margin, "less"))
    assume(abs(p - 0.05) > 1e-9)
    assert (judge(ours, theirs, margin=margin).word == "match") is bool(p < 0.05)


def test_a_borrowed_spread_has_its_degrees_of_freedom_once():
    key = ("", "a", "x")
    sides = summaries({key: replica(70.0, 71.0, 72.0)}, {key: printed(69.0)})[key]
    assert [s.borrowed for s in sides] == [False, True] and sides[1].sd == sides[0].sd == pytest.approx(1.0)
    error, df = verdicts.standard_error(*sides)
    assert (error, df) == (pytest.approx(math.sqrt(1 / 3 + 1 / 5)), 2)  # Welch's would be 3.9
    assert verdicts.p_value(*sides) == pytest.approx(2 * stats.t.sf(2 / math.sqrt(1 / 3 + 1 / 5), 2))
    sides = summaries({key: replica(70.0)}, {key: printed(69.0, 0.5, kind="sample sd")})[key]
    assert [s.borrowed for s in sides] == [True, False]
    assert verdicts.standard_error(*sides) == (pytest.approx(0.5 * math.sqrt(1 + 1 / 5)), 4)


def test_equal_levels_are_told_apart_as_often_as_the_level_says_with_a_borrowed_spread():
    draws = np.random.default_rng(7)
    key = ("", "a", "x")
    wrong = 0
    for ours, theirs in zip(draws.normal(70, 3, (4000, 3)), draws.normal(70, 3 / math.sqrt(5), 4000), strict=True):
        sides = summaries({key: replica(*map(float, ours))}, {key: printed(float(theirs))})[key]
        wrong += verdicts.p_value(*sides) < 0.05
    assert wrong / 4000 == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 4000))


def closed(p_values, alpha=0.05):
    """The closed procedure by brute force: a hypothesis falls if every set of hypotheses with it does, by its smallest p."""
    places = range(len(p_values))
    sets = [of for size in range(1, len(p_values) + 1) for of in itertools.combinations(places, size)]
    return [all(min(p_values[i] for i in of) <= alpha / len(of) for of in sets if place in of) for place in places]


@settings(max_examples=60)
@given(st.lists(st.sampled_from([0.001, 0.006, 0.009, 0.011, 0.014, 0.018, 0.024, 0.03, 0.049, 0.2]), min_size=1, max_size=6))
def test_levels_reject_where_every_intersection_is_rejected(p_values):
    assert [p <= level for p, level in zip(p_values, levels(p_values), strict=True)] == closed(p_values)


def holm_adjusted(p_values):
    """Textbook: sort, multiply by what is left, running maximum."""
    order, running, adjusted = sorted(range(len(p_values)), key=p_values.__getitem__), 0.0, [0.0] * len(p_values)
    for rank, place in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = running
    return adjusted


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12), st.integers(0, 5))
def test_levels_reject_exactly_where_holm_does(p_values, others):
    adjusted = holm_adjusted(p_values + [1.0] * others)[: len(p_values)]
    assume(all(abs(p - 0.05) > 1e-9 for p in adjusted))
    told = levels(p_values, len(p_values) + others)
    assert [p <= level for p, level in zip(p_values, told, strict=True)] == [p <= 0.05 for p in adjusted]


def test_levels_step_down_by_hand():
    # 0.01 <= 0.05/4, 0.015 <= 0.05/3, 0.03 > 0.05/2 stops; 0.04 <= 0.05/1 would pass alone but is not reached.
    assert levels([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.025, 0.0125, 0.025, 0.05 / 3])
    assert levels([]) == [] and levels([0.5], 10) == [0.005]


# --- words -----------------------------------------------------------------------------------------------------------


def test_match_higher_lower_by_hand():
    # SE = sqrt(2 * 0.25/5) = 0.3162, df = 8: half-widths 1.860 * SE = 0.588 and 2.306 * SE = 0.729.
    def word(difference, **options):
        return judge(side(70 + difference, 0.5, 5), side(70.0, 0.5, 5), **options)

    assert word(0.4).word == "match" and word(0.4).interval90 == pytest.approx((-0.188, 0.988), abs=1e-3)
    assert word(-0.4).word == "match"
    assert word(0.42).word == "open"  # 1.008 is outside the margin, 0 inside (-0.309, 1.149)
    assert word(0.42).interval95 == pytest.approx((-0.309, 1.149), abs=1e-3)
    assert (word(0.75).word, word(-0.75).word) == ("higher", "lower")
    assert word(0.75, level=0.01).word == "open"  # 3.355 * SE = 1.061
    assert word(0.75, margin=2.0).word == "match"


def test_match_comes_before_higher():
    verdict = judge(side(70.5, 0.1, 5), side(70.0, 0.1, 5))
    assert verdict.word == "match" and verdict.interval95[0] > 0


def test_fewer_than_three_seeds_are_always_open():
    for n in (1, 2):
        verdict = judge(Summary(50.0, n, 0.1, 40, 10), side(70.0, 0.1, 5))
        assert (verdict.word, verdict.seeds_needed, verdict.difference) == ("open", 3, -20.0)
        assert verdicts.p_value(Summary(50.0, n, 0.1, 40, 10), side(70.0, 0.1, 5)) is None
    assert judge(Summary(50.0, 1), Summary(70.0, 1)).word == "open"


def test_words_without_a_level_verdict():
    ours, theirs = side(70.0, 0.5, 5), side(70.0, 0.5, 5)
    assert judge(ours, theirs, comparability="other split").word == "other split"
    assert judge(ours, theirs, comparability="not comparable") == verdicts.Verdict(
        "not comparable", reason="stand-in data or a quick run"
    )
    assert judge(ours, None, comparability="not comparable").word == "not comparable"
    assert judge(ours, theirs, quoted=True).word == judge(None, theirs, quoted=True).word == "quoted"
    assert [judge(*sides).reason for sides in ((None, theirs), (ours, None), (None, None))] == [
        "no replica", "no published number", "neither number",
    ]  # fmt: skip
    assert {judge(*sides).word for sides in ((None, theirs), (ours, None), (None, None))} == {"missing"}
    assert judge(ours, theirs, margin=None).word == "no rule"


def test_margins():
    assert verdicts.margin("balanced_accuracy_pct", "CIFAR-10/LT/100") == (1.0, "linear")
    assert verdicts.margin("balanced_accuracy_pct", ("ImageNet-LT", "All")) == (1.0, "linear")
    assert [verdicts.margin("top1_accuracy_pct", ("X", group))[0] for group in ("Many", "Medium", "Med.", "Few")] == [2.0] * 4
    assert verdicts.margin("FDR") == (math.log(1.25), "log") and verdicts.margin("logit") is None
    assert verdicts.margin("FDR", ("CIFAR100-LT", "FDR", "Train")) == (math.log(1.25), "log")
    assert verdicts.margin("accuracy_pct", ("CIFAR100-LT", "Accuracy", "Few")) == (2.0, "linear")
    assert verdicts.margin("accuracy_pct", ("CIFAR100-LT", "Accuracy", "Average")) == (1.0, "linear")
    assert verdicts.margin("mean of BN scale", ("C100", "WD")) is None


def test_fdr_is_judged_by_its_ratio_and_only_where_the_spread_is_small():
    theirs = {("", "a", "x"): printed(100.0, 10.0, kind="population sd")}

    def verdict(*values):
        ours, other = summaries({("", "a", "x"): replica(*values)}, theirs, "log")["", "a", "x"]
        return judge(ours, other, margin=math.log(1.25))

    assert verdict(103.0, 105.0, 107.0, 104.0, 106.0).difference == pytest.approx(math.log(1.05))
    assert verdict(103.0, 105.0, 107.0, 104.0, 106.0).word == "match"
    assert verdict(203.0, 205.0, 207.0, 204.0, 206.0).word == "higher"
    wild = verdict(40.0, 100.0, 160.0, 100.0, 100.0)
    assert wild.word == "open" and wild.seeds_needed is None and "sd/mean is 0.42" in wild.reason


def test_log_verdicts_by_hand():
    """Values 90, 100, 110: sample sd 10, s = 0.1 with 2 degrees of freedom; published 100 of 5 runs, population sd 17.9."""
    key = ("", "a", "x", "FDR")
    theirs = {key: printed(100.0, 0.2 * 100 * math.sqrt(4 / 5), kind="population sd")}
    ours, other = summaries({key: replica(90.0, 100.0, 110.0)}, theirs, "log")[key]
    assert (ours.value, ours.sd, ours.df, ours.ratio) == pytest.approx((math.log(100), 0.1, 2, 0.1))
    assert (other.value, other.sd, other.df, other.ratio) == pytest.approx((math.log(100), 0.2, 4, 0.2))
    error, df = verdicts.standard_error(ours, other)
    a, b = 0.1**2 / 3, 0.2**2 / 5
    assert (error, df) == pytest.approx((math.sqrt(a + b), (a + b) ** 2 / (a**2 / 2 + b**2 / 4)))
    # t(5.92) = 1.947 at 90 %: 1.947 * 0.1065 = 0.2073 < ln 1.25 = 0.2231; a factor of 1.05 is ln 1.05 = 0.0488 too far.
    told = judge(ours, other, margin=math.log(1.25))
    assert told.word == "match" and told.interval90 == pytest.approx((-0.2073, 0.2073), abs=2e-3)
    ours, other = summaries({key: replica(94.5, 105.0, 115.5)}, theirs, "log")[key]
    told = judge(ours, other, margin=math.log(1.25))
    assert told.word == "open" and told.difference == pytest.approx(math.log(1.05))
    assert told.seeds_needed is None  # t(4) = 2.132 times the published 0.0894 alone is 0.191, and 0.191 + 0.049 > 0.223


def test_a_published_discriminant_ratio_without_a_spread_gets_ours():
    key = ("", "a", "x", "FDR")
    ours, other = summaries({key: replica(96.0, 100.0, 104.0)}, {key: printed(150.0)}, "log")[key]
    assert ours.sd == other.sd == 0.1 and (other.n, other.ratio) == (5, None)  # 0.04, raised to the floor
    assert judge(ours, other, margin=math.log(1.25)).word == "lower"
    ours, other = summaries({key: replica(100.0)}, {key: printed(150.0)}, "log")[key]
    assert judge(ours, other, margin=math.log(1.25)).reason == "no spread is known in this column"


def test_rows_whose_spread_says_nothing_on_the_log_scale_stay_out_of_pools_tests_and_orders():
    calm, wild = ("", "a", "x", "FDR"), ("", "b", "x", "FDR")
    mine = {calm: replica(98.0, 100.0, 102.0), wild: replica(10.0, 100.0, 190.0)}
    told = summaries(mine, {calm: printed(50.0), wild: printed(400.0)}, "log")
    assert told[calm][0].sd == 0.1 and told[calm][0].rows == 1 and told[wild][0].ratio == pytest.approx(0.9)
    verdict = judge(*told[wild], margin=math.log(1.25))
    assert (verdict.word, verdict.seeds_needed) == ("open", None) and "sd/mean is 0.90" in verdict.reason
    assert verdicts.p_value(*told[wild]) is None and verdicts.p_value(*told[calm]) == pytest.approx(0.0109, abs=1e-4)
    assert verdicts.ranking(told.values()) == (0, 0)
    alone = summaries({wild: mine[wild]}, {wild: printed(100.0)}, "log")[wild]
    assert alone[0].sd is None and "sd/mean is 0.90" in judge(*alone, margin=math.log(1.25)).reason
    assert judge(*alone, margin=math.log(1.25), comparability="other split").word == "other split"


def test_nothing_without_a_logarithm_is_compared_on_the_log_scale():
    key = ("", "a", "x", "FDR")
    assert summaries({key: replica(0.0, 1.0, 2.0)}, {key: printed(1.0)}, "log")[key][0] is None
    assert summaries({key: replica(1.0, 2.0)}, {key: printed(0.0)}, "log")[key][1] is None


def test_without_a_rule_the_difference_stands_alone():
    told = judge(Summary(0.25, 5), Summary(0.19, 1), margin=None)
    assert (told.word, told.interval90, told.seeds_needed) == ("no rule", None, None)
    assert told.difference == pytest.approx(0.06) and told.reason == "no rule has a margin for this metric"


# --- how many seeds ----------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(
    st.floats(-3, 3), st.floats(0.1, 2), st.floats(0.1, 1), st.integers(3, 6), st.integers(1, 6), st.sampled_from([0.05, 0.001])
)
def test_seeds_needed_is_the_fewest_that_settle(difference, sd, other_sd, n, rows, level):
    def verdict(seeds):
        return judge(
            Summary(70 + difference, seeds, sd, rows * (seeds - 1), rows),
            Summary(70.0, 5, other_sd, 4 * rows, rows),
            level=level,
        )

    told = verdict(n)
    if told.word == "open" and told.seeds_needed is not None:
        assert verdict(told.seeds_needed).word in ("match", "higher", "lower")
        assert all(verdict(fewer).word == "open" for fewer in range(n, min(told.seeds_needed, n + 40)))
        assert told.seeds_needed == n + 1 or verdict(told.seeds_needed - 1).word == "open"
    elif told.word == "open":
        assert verdict(verdicts.MOST_SEEDS).word == "open"


def test_no_number_of_seeds_settles_what_the_published_spread_leaves_open():
    verdict = judge(side(71.0, 0.1, 5), side(70.0, 2.0, 5))
    assert (verdict.word, verdict.seeds_needed) == ("open", None) and verdict.reason.startswith("no number of seeds")


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(0.1, 1), st.integers(3, 5), st.integers(1, 6), st.booleans())
def test_seeds_needed_with_a_borrowed_spread(difference, sd, n, rows, best):
    """More seeds of ours make the one spread that is known of both sides better known."""
    c = verdicts._largest(5)[0]

    def verdict(seeds):
        df = rows * (seeds - 1)
        shifted = 70 + difference - (c * sd if best and seeds != 5 else 0)
        ours = Summary(shifted, seeds, sd, df, rows, runs=(70 + difference,) * seeds)
        theirs = Summary(70.0, 5, sd, df, rows, statistic="best" if best else "mean", borrowed=True)
        return judge(ours, theirs)

    told = verdict(n)
    assert told.difference == pytest.approx(difference)
    if told.word == "open" and told.seeds_needed is not None:
        assert verdict(told.seeds_needed).word in ("match", "higher", "lower")
        assert all(verdict(fewer).word == "open" for fewer in range(n + 1, min(told.seeds_needed, n + 40)))
    elif told.word == "open":
        assert all(verdict(more).word == "open" for more in (n + 1, 5, 50, verdicts.MOST_SEEDS) if more > n)


def test_five_seeds_against_a_best_of_five_need_not_settle_what_four_would():
    """A best of five varies by 0.448 s^2, the mean of four with c s by s^2/4 and a little: the fifth seed adds noise."""
    theirs = Summary(70.0, 5, 0.42, 40, 10, statistic="best")

    def verdict(seeds):
        value = 70.0 if seeds == 5 else 70.0 - verdicts._largest(5)[0] * 0.42
        return judge(Summary(value, seeds, 0.42, 10 * (seeds - 1), 10, runs=(value,) * seeds), theirs, margin=0.615)

    assert [verdict(seeds).word for seeds in (3, 4, 5, 6)] == ["open", "match", "open", "match"]
    assert (verdict(3).seeds_needed, verdict(5).seeds_needed) == (4, 6)


# --- the best of n -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, mean", [(2, 0.56419), (3, 0.84628), (4, 1.02938), (5, 1.16296), (10, 1.53875), (20, 1.86748)])
def test_expected_largest_of_n_normals_is_what_tables_of_order_statistics_say(n, mean):
    assert verdicts._largest(n)[0] == pytest.approx(mean, abs=1e-5)


def test_best_of_five_against_simulation():
    draws = np.random.default_rng(3).normal(70, 2, (40_000, 10))
    best = draws[:, :5].max(axis=1)
    mean, variance = verdicts._largest(5)
    assert (best.mean(), best.var()) == (pytest.approx(70 + 2 * mean, abs=0.03), pytest.approx(4 * variance, rel=0.03))
    # A mean of ten with c s, s of these ten alone, stands for a best of five: same level, variance as the rule has it.
    shifted = draws.mean(axis=1) + mean * draws.std(axis=1, ddof=1)
    ours = verdicts.as_best(Summary(70.0, 10, 2.0, 9), 5)
    assert shifted.mean() == pytest.approx(ours.value, abs=0.08)  # s is 2.8 % short of sigma with nine degrees of freedom
    assert shifted.var() == pytest.approx(ours.variance, rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_largest_of_n_normals(n):
    def moment(power):
        return integrate.quad(lambda x: x**power * n * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1), -10, 10)[0]

    assert verdicts._largest(n) == pytest.approx((moment(1), moment(2) - moment(1) ** 2), abs=1e-7)


def test_best_of_five_meets_best_of_five_or_a_shifted_mean():
    assert verdicts._largest(5)[0] == pytest.approx(1.163, abs=5e-4)
    key = ("", "a", "x")
    theirs = {key: printed(72.0, statistic="best")}
    ours, other = summaries({key: replica(70.0, 71.0, 72.0, 71.5, 70.5)}, theirs)[key]
    assert judge(ours, other).difference == pytest.approx(0.0)
    assert judge(ours, other).word == "open"  # one best of five against another: SE = s sqrt(2 * 0.4475)
    error, _ = verdicts.standard_error(verdicts.as_best(ours, 5), other)
    assert error == pytest.approx(ours.sd * math.sqrt(2 * 0.44753), rel=1e-4)
    ours, other = summaries({key: replica(70.0, 71.0, 72.0)}, theirs)[key]
    assert judge(ours, other).difference == pytest.approx(71 + 1.16296 * 1.0 - 72, abs=1e-4)
    assert verdicts.as_best(ours, 5).variance == pytest.approx(1 / 3 + 1.16296**2 / 4, rel=1e-4)
    assert verdicts.as_best(Summary(70.0, 2), 5) == Summary(70.0, 2)


def test_the_best_run_brings_its_own_number_of_a_group():
    many, overall = (70.0, 74.0, 72.0, 71.0, 73.0), (50.0, 48.0, 52.0, 49.0, 51.0)
    one = replica(*many, overall=overall)
    assert (one.best, replica(*many).best, replica().best) == (72.0, 74.0, None)
    assert replica(*many, overall=(50.0,) * 5).best == 70.0  # a tie goes to the earlier seed
    key, theirs = ("", "a", "Many"), printed(72.5, statistic="best")
    ours, other = summaries({key: one}, {key: theirs})[key]
    r = np.corrcoef(many, overall)[0, 1]
    assert ours.correlation == other.correlation == pytest.approx(r)
    assert judge(ours, other, margin=2.0).difference == pytest.approx(-0.5)
    ours, other = summaries({key: replica(*many[:3], overall=overall[:3])}, {key: theirs})[key]
    r, s = np.corrcoef(many[:3], overall[:3])[0, 1], statistics.stdev(many[:3])
    shifted = statistics.mean(many[:3]) + r * 1.16296 * s
    assert judge(ours, other, margin=2.0).difference == pytest.approx(shifted - 72.5, abs=1e-4)


def test_correlations_are_pooled_over_the_rows_of_a_column_and_one_where_nothing_is_known():
    rows = {
        ("", "a", "x"): replica(1.0, 2.0, 3.0, overall=(5.0, 7.0, 9.0)),
        ("", "b", "x"): replica(1.0, 2.0, 3.0, overall=(9.0, 8.0, 7.0)),
        ("", "c", "x"): replica(1.0, 9.0, overall=(9.0, 1.0)),  # two runs say nothing
    }
    others = {
        ("", "a", "y"): replica(1.0, 2.0, 4.0),
        ("", "a", "z"): replica(1.0, 1.0, 1.0, overall=(3.0, 4.0, 6.0)),
        ("", "a", "w"): replica(1.0, 2.0, 1.0, overall=(3.0, 3.0, 3.0)),
    }
    told = summaries(rows | others, {})
    assert told["", "a", "x"][0].correlation == told["", "b", "x"][0].correlation
    # Centred: (-1, 0, 1) with (-2, 0, 2) and with (1, 0, -1), so products 4 - 2, squares 2 + 2 and 8 + 2.
    assert told["", "a", "x"][0].correlation == pytest.approx(2 / math.sqrt(4 * 10))
    assert told["", "a", "y"][0].correlation == told["", "a", "z"][0].correlation == 1.0
    assert told["", "a", "w"][0].correlation == 0.0  # whichever run is best, it is so by nothing


@pytest.mark.parametrize("r", [-0.6, 0.0, 0.7, 1.0])
def test_a_group_of_the_best_of_five_against_simulation(r):
    draws = np.random.default_rng(5)
    overall = draws.normal(size=(40_000, 10))
    group = 70 + 2 * (r * overall + math.sqrt(1 - r**2) * draws.normal(size=overall.shape))
    best = group[np.arange(len(group)), overall[:, :5].argmax(axis=1)]
    theirs = Summary(0.0, 5, 2.0, 36, 9, statistic="best", correlation=r)
    ours = verdicts.as_best(Summary(70.0, 10, 2.0, 9, correlation=r), 5)
    assert best.mean() == pytest.approx(ours.value, abs=0.05)
    assert best.var() == pytest.approx(theirs.variance, rel=0.04)
    # Ten runs by their mean plus r c s, r and s of these ten alone.
    centred, level = (x - x.mean(axis=1, keepdims=True) for x in (group, overall))
    found = (centred * level).sum(axis=1) / np.sqrt((centred**2).sum(axis=1) * (level**2).sum(axis=1))
    shifted = group.mean(axis=1) + found * verdicts._largest(5)[0] * group.std(axis=1, ddof=1)
    assert shifted.mean() == pytest.approx(ours.value, abs=0.1)
    assert shifted.var() == pytest.approx(ours.variance, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(st.floats(-2, 2), st.integers(3, 4), st.integers(6, 10), st.sampled_from([1.0, 0.5, -0.3]))
@example(0.6875, 3, 6, 1.0)  # five seeds do not settle it, four and six would
def test_seeds_needed_against_a_best_of_five(difference, n, rows, r):
    """Five seeds of ours are compared by the best of them, any other number by mean plus r c s, with the error of r and s."""
    theirs = Summary(70.0, 5, 0.4, 4 * rows, rows, statistic="best", correlation=r)

    def verdict(seeds):
        shifted = 70 + difference - verdicts._largest(5)[0] * r * 0.4
        runs = (70 + difference,) * 5 if seeds == 5 else ()
        return judge(Summary(shifted, seeds, 0.4, rows * (seeds - 1), rows, runs=runs, correlation=r), theirs)

    told = verdict(n)
    assert told.difference == pytest.approx(difference)
    if told.word == "open" and told.seeds_needed is not None:
        assert verdict(told.seeds_needed).word != "open" and verdict(told.seeds_needed - 1).word == "open"


# --- claims ------------------------------------------------------------------------------------------------------------


@given(
    st.dictionaries(st.integers(0, 9), st.floats(-50, 50), max_size=6),
    st.dictionaries(st.integers(0, 9), st.floats(-50, 50), max_size=6),
    st.floats(0.001, 0.2),
)
def test_differences_by_seed_are_scipys(first, second, level):
    seeds = [seed for seed in first if seed in second]
    told = verdicts.paired(first, second)
    if not seeds:
        assert told is None
        return
    differences = [first[seed] - second[seed] for seed in seeds]
    assert (told.n, told.mean) == (len(seeds), pytest.approx(statistics.fmean(differences), abs=1e-9))
    if len(seeds) < 2:
        assert told.interval() is told.p_value is None
        return
    assume(statistics.stdev(differences) > 1e-3)
    expected = stats.ttest_1samp(differences, 0.0)
    assert told.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    low, high = told.interval(level)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(1 - level)), rel=1e-6, abs=1e-9)
    assume(abs(told.p_value - level) > 1e-6)
    assert (low > 0 or high < 0) is (told.p_value < level)


def test_spreads_of_differences_have_a_floor():
    told = verdicts.paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 1.5, 2: 2.5}, floor=0.1)
    assert (told.mean, told.error) == (0.5, pytest.approx(0.1 / math.sqrt(3)))
    assert told.interval() == pytest.approx((0.5 - 4.3027 * 0.1 / math.sqrt(3), 0.5 + 4.3027 * 0.1 / math.sqrt(3)), abs=1e-4)
    alike = verdicts.paired({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert (alike.p_value, alike.interval()) == (1.0, (0.0, 0.0))
    assert verdicts.paired({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0}).p_value == 0.0


def test_printed_numbers_are_apart_by_their_pooled_spread():
    # SE = 0.5 sqrt(2/5) = 0.316; t(40) = 2.021: 0.639.
    one, other = Summary(70.0, 5, 0.5, 40, 10), Summary(70.63, 5, 0.5, 40, 10)
    assert verdicts.apart(one, other) is False and verdicts.apart(one, Summary(70.65, 5, 0.5, 40, 10)) is True
    assert verdicts.apart(one, Summary(70.65, 5)) is None
    assert verdicts.apart(Summary(3.0, 5, 0.1, 4, ratio=0.4), Summary(9.0, 5, 0.1, 4, ratio=0.1)) is None


def test_ranking_counts_separable_pairs_that_keep_their_order():
    # s = 0.1, n = 5: SE = 0.0632, t(40) = 2.021: pairs more than 0.128 apart are separable.
    def row(ours, theirs):
        return Summary(ours, 3, 0.5, 10), None if theirs is None else Summary(theirs, 5, 0.1, 40)

    assert verdicts.ranking([row(70.0, 70.0), row(71.0, 70.1), row(69.0, 72.0)]) == (0, 2)
    assert verdicts.ranking([row(70.0, 70.0), row(69.0, 70.2), row(75.0, 72.0), (None, row(0, 80)[1]), row(99.0, None)]) == (
        2,
        3,
    )
    assert verdicts.ranking([row(70.0, 70.0), row(70.0, 75.0)]) == (0, 1)  # a tie is not kept
    assert verdicts.ranking([]) == (0, 0)


def test_gains_are_paired_by_seed():
    proposed, baseline = {0: 72.0, 1: 73.0, 2: 75.0, 9: 99.0}, {0: 71.0, 1: 71.5, 2: 73.0, 5: 0.0}
    told = verdicts.gain(proposed, baseline, 3.0)
    assert (told.seeds, told.ours, told.share) == (3, pytest.approx(1.5), pytest.approx(0.5))
    expected = stats.ttest_rel([72.0, 73.0, 75.0], [71.0, 71.5, 73.0]).confidence_interval(0.95)
    assert told.interval == pytest.approx((expected.low, expected.high))
    assert verdicts.gain({0: 1.0}, {0: 0.5}, 1.0).interval is None
    assert verdicts.gain({0: 1.0}, {1: 0.5}, 1.0) is None and verdicts.gain({0: 1.0}, {0: 0.5}, 0.0) is None
