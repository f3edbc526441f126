"""The four Selections, against cases worked by hand and against a brute force over exact fractions."""

from fractions import Fraction

import pytest
from fake_records import record
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.errors import BadInput
from replicate.protocol import Metric
from replicate.report.selection import SELECTIONS, choose, sentence

LOW, MIDDLE, HIGH = (("nu", 0.15),), (("nu", 1.0),), (("nu", 3.0),)


def select(runs, selection, selects_on="test"):
    """Balanced accuracy over all classes of what is chosen."""
    return choose(runs, selection, selects_on).replica()


def test_as_published_takes_the_best_epoch_of_each_seed_then_the_best_point():
    runs = {
        LOW: {0: record([[10, 60, 50], [20, 40, 50]]), 1: record([[80, 10, 10], [60, 10, 10]])},  # bests 50, 70
        HIGH: {0: record([[10, 40, 50], [20, 50, 60]]), 1: record([[50, 60, 60], [60, 60, 59]])},  # bests 55, 60
    }
    told = select(runs, "as-published")
    assert told.values == pytest.approx({0: 50.0, 1: 70.0}) and told.points == (LOW,)
    assert told.epochs == {0: (2,), 1: (1,)}  # the tie of epochs 2 and 3 goes to the earlier
    assert (told.mean, told.sd, told.n) == (pytest.approx(60.0), pytest.approx(10.0), 2)  # population sd
    assert (told.planned, told.finished, told.competing, told.failed) == (2, 2, 2, ())


def test_ties_go_to_the_earlier_point_though_sums_differ_in_the_last_bit():
    # 0.1 + 0.2 and 0.3 differ as floats.
    runs = {
        LOW: {0: record([[30], [30]]), 1: record([[0], [0]])},
        HIGH: {0: record([[10], [10]]), 1: record([[20], [20]])},
    }
    assert 0.1 + 0.2 > 0.3
    assert select(runs, "as-published").points == select(runs, "last-epoch").points == (LOW,)


def test_a_failing_or_unfinished_point_never_blanks_its_row_and_never_wins_with_fewer_seeds():
    runs = {
        (("nu", 0.1),): {0: record([[99], [99]])},
        LOW: {0: record([[50], [50]]), 1: record([[52], [52]])},
        HIGH: {0: record([[90], [90]]), 1: record([[0], [0]], failed={"epoch": 1, "loss": "nan"})},
        (("nu", 9.0),): {},
    }
    told = select(runs, "as-published")
    assert (told.points, told.mean) == ((LOW,), pytest.approx(51.0))
    assert (told.planned, told.finished, told.competing, told.failed) == (4, 3, 1, ((HIGH, 1),))


def test_where_every_run_failed_there_is_no_number():
    for selection in SELECTIONS:
        told = select({LOW: {0: record([[5], [5]], failed={"epoch": 1, "loss": "inf"})}}, selection)
        assert (told.mean, told.sd, told.n, told.points, told.finished) == (None, None, 0, (), 0)
        assert told.failed == ((LOW, 0),)


def test_cross_fitted_chooses_on_one_half_and_reports_the_other():
    runs = {
        LOW: {0: record([[60, 50, 10], [20, 30, 40]])},  # half 0: epoch 1, level 60; half 1: epoch 3, level 40
        HIGH: {0: record([[10, 20, 55], [70, 11, 12]])},  # half 0: epoch 3, level 55; half 1: epoch 1, level 70
    }
    told = select(runs, "cross-fitted")
    # On half 0 LOW wins at epoch 1: 20 on half 1. On half 1 HIGH wins at epoch 1: 10 on half 0.
    assert told.values == pytest.approx({0: 15.0})
    assert told.points == (LOW, HIGH) and told.epochs == {0: (1, 1)}


def test_cross_fitted_averages_halves_of_the_same_seeds():
    runs = {
        LOW: {0: record([[60], [20]]), 1: record([[60], [20]])},
        HIGH: {1: record([[10], [70]]), 2: record([[10], [70]])},
    }
    told = select(runs, "cross-fitted")
    assert told.values == pytest.approx({0: 40.0, 1: 40.0}) and (told.finished, told.competing) == (2, 1)
    # Those that most points share: LOW is out. On half 0 MIDDLE is best (30 on the other half), on half 1 HIGH (10).
    runs[MIDDLE] = {1: record([[20], [30]]), 2: record([[20], [30]])}
    told = select(runs, "cross-fitted")
    assert told.values == pytest.approx({1: 20.0, 2: 20.0}) and (told.finished, told.competing) == (3, 2)


def test_best_on_validation_reports_the_test_set():
    runs = {
        LOW: {0: record([[10, 20, 30], [10, 20, 30]], validation=[5, 9, 9])},
        HIGH: {0: record([[90, 90, 90], [90, 90, 90]], validation=[8, 8, 8])},
    }
    told = select(runs, "best-on-validation")
    assert (told.values, told.points, told.epochs) == ({0: pytest.approx(20.0)}, (LOW,), {0: (2,)})


def test_best_on_validation_has_no_number_without_a_validation_split():
    told = select({LOW: {0: record([[10], [10]])}}, "best-on-validation")
    assert (told.mean, told.points, told.finished) == (None, (), 1)


def test_last_epoch_ignores_better_ones_in_both_choices():
    runs = {LOW: {0: record([[99, 10], [99, 20]])}, HIGH: {0: record([[30, 20], [30, 20]])}}
    told = select(runs, "last-epoch")
    assert (told.values, told.points, told.epochs) == ({0: pytest.approx(20.0)}, (HIGH,), {0: (2,)})


def test_one_seed_has_no_spread_and_unknown_selections_are_refused():
    assert select({LOW: {3: record([[10], [20]])}}, "as-published").sd is None
    with pytest.raises(BadInput, match=r"'best'.*as-published, cross-fitted, best-on-validation, last-epoch"):
        select({}, "best")


# --- several stages, adjustments, several metrics --------------------------------------------------------------------


def test_epochs_compete_within_the_last_stage_and_are_counted_over_the_chain():
    curve = [90, 80, 10, 30, 30]
    runs = {(): {0: record([curve, curve], validation=[9, 9, 1, 2, 3], stage_starts=(1, 3))}}
    told = {name: select(runs, name) for name in SELECTIONS}
    assert {name: number.epochs[0] for name, number in told.items()} == {
        "as-published": (4,), "cross-fitted": (4, 4), "best-on-validation": (5,), "last-epoch": (5,),
    }  # fmt: skip
    assert [number.values[0] for number in told.values()] == [pytest.approx(30.0)] * 4


def test_as_published_is_what_the_paper_does():
    runs = {
        LOW: {0: record([[10, 90], [10, 90]], validation=[8, 7])},
        HIGH: {0: record([[20, 30], [20, 30]], validation=[1, 2])},
    }
    by_test, by_validation = select(runs, "as-published"), select(runs, "as-published", "validation")
    assert (by_test.points, by_test.mean) == ((LOW,), pytest.approx(90.0))
    assert (by_validation.points, by_validation.mean, by_validation.epochs) == ((LOW,), pytest.approx(10.0), {0: (1,)})
    assert by_validation.values == select(runs, "best-on-validation", "validation").values
    assert select({LOW: {0: record([[10], [10]])}}, "as-published", "validation").mean is None


def test_the_sentence_for_as_published_follows_the_paper():
    assert sentence("as-published", "test") == SELECTIONS["as-published"] and "whole test set" in SELECTIONS["as-published"]
    assert "best epoch on the validation split" in sentence("as-published", "validation")
    for name in ("best-on-validation", "last-epoch"):
        assert sentence(name, "validation") == sentence(name, "test") == SELECTIONS[name]


TAUS = (1.0, 1.5, 2.0)


def adjusted(curve, validation, handed_over, last, **how):
    """Halves and validation counts by epoch, then (epoch, halves, validation counts) by tau of each state."""
    return record(curve, validation=validation, adjusted=("tau", TAUS, handed_over, last), **how)


def test_training_is_chosen_before_its_adjustment_and_the_adjustment_by_the_mean_over_seeds():
    runs = {
        LOW: {  # better before any adjustment
            0: adjusted([[10, 20], [10, 20]], [6, 5], (1, [[1, 2, 3], [1, 2, 4]], [4, 6, 2]), (2, [[0, 0, 0]] * 2, [9, 0, 0])),
            1: adjusted([[10, 20], [10, 20]], [5, 6], (2, [[5, 6, 7], [5, 6, 8]], [4, 2, 6]), (2, [[0, 0, 0]] * 2, [9, 0, 0])),
        },
        HIGH: {  # better after it
            s: adjusted([[90, 90]] * 2, [5, 5], (1, [[99, 99, 99]] * 2, [9, 9, 9]), (2, [[0, 0, 0]] * 2, [0, 0, 0]))
            for s in (0, 1)
        },
    }
    for selection, selects_on in (("as-published", "validation"), ("best-on-validation", "test")):
        told = select(runs, selection, selects_on)
        # On validation 4+4, 6+2 and 2+6 of 100 tie: the first tau, 1 of 100 and 5 of 100.
        assert told.points == ((*LOW, ("tau", 1.0)),) and told.values == pytest.approx({0: 1.0, 1: 5.0})
        assert told.epochs == {0: (1,), 1: (2,)}


def test_a_paper_that_chooses_on_the_test_set_adjusts_on_it_too():
    made = adjusted([[10, 60], [10, 60]], [9, 1], (2, [[1, 3, 2], [1, 4, 9]], [9, 0, 0]), (2, [[7, 0, 0]] * 2, [0, 0, 9]))
    told = select({(): {0: made}}, "as-published")
    assert told.points == ((("tau", 2.0),),) and told.values[0] == pytest.approx(5.5) and told.epochs == {0: (2,)}
    last = select({(): {0: made}}, "last-epoch")
    assert last.points == ((("tau", 1.0),),) and last.values[0] == pytest.approx(7.0) and last.epochs == {0: (2,)}


def test_cross_fitting_chooses_training_and_adjustment_on_one_half():
    runs = {
        LOW: {0: adjusted([[60, 10], [20, 30]], None, (2, [[1, 9, 5], [30, 20, 10]]), (2, [[0, 0, 0]] * 2))},
        HIGH: {0: adjusted([[10, 55], [70, 11]], None, (1, [[2, 4, 8], [50, 60, 40]]), (2, [[0, 0, 0]] * 2))},
    }
    told = select(runs, "cross-fitted", "validation")
    # Half 0: LOW (60), there tau 1.5 (9): 20 on half 1. Half 1: HIGH (70), there tau 1.5 (60): 4 on half 0.
    assert told.values == pytest.approx({0: 12.0}) and told.epochs == {0: (2, 1)}
    assert told.points == ((*LOW, ("tau", 1.5)), (*HIGH, ("tau", 1.5)))


GROUPS = {"Many": (0, 2), "Few": (2, 3)}
MANY, FEW = Metric(("Many",), "accuracy_pct", "Many"), Metric(("Few",), "accuracy_pct", "Few")


def test_choices_are_by_all_classes_whatever_is_reported():
    def made(many, few):
        return record([{"Many": many, "Few": few}] * 2, groups=GROUPS, images={"Many": 20, "Few": 10})

    choice = choose({LOW: {0: made([20, 10], [0, 9])}, HIGH: {0: made([18, 4], [0, 10])}}, "as-published")
    # LOW: 20 and 19 of 30; HIGH: 18 and 14 of 30.
    assert [choice.replica(metric).values[0] for metric in (MANY, FEW)] == pytest.approx([100.0, 0.0])
    assert choice.replica().values[0] == pytest.approx(100 * 20 / 30)
    assert choice.replica(FEW).points == (LOW,) and choice.replica(FEW).epochs == {0: (1,)}


def test_classes_weigh_alike_where_they_differ_in_size():
    each = {"0": (0, 1), "1": (1, 2)}
    # Of 90 and 10 images: more are right in the first epoch, 0.9 and 0.2; more classes in the second, 0.7 and 0.9.
    made = record([{"0": [81, 63], "1": [2, 9]}] * 2, groups=each, images={"0": 90, "1": 10})
    told = select({(): {0: made}}, "as-published")
    assert told.epochs == {0: (2,)} and told.mean == pytest.approx(100 * (0.7 + 0.9) / 2)


def test_measures_are_read_at_the_chosen_points_and_may_be_missing():
    runs = {
        LOW: {s: record([[60, 50, 10], [20, 30, 40]], seed=s) for s in (0, 1)},
        HIGH: {s: record([[10, 20, 55], [70, 11, 12]], seed=s) for s in (0, 1)},
    }
    metric = Metric(("FDR",), "FDR", measure=("separation", "fdr", "train"))
    told = {(LOW, 0): 3.0, (LOW, 1): 5.0, (HIGH, 0): 400.0}

    def measured(way, point, seed):
        assert way == metric.measure
        return told.get((point, seed))

    looked = choose(runs, "as-published").replica(metric, measured)
    assert looked.points == (LOW,) and looked.values == {0: 3.0, 1: 5.0} and looked.unmeasured == ()
    fitted = choose(runs, "cross-fitted").replica(metric, measured)
    assert fitted.points == (LOW, HIGH) and fitted.values == {0: 201.5} and fitted.unmeasured == (1,)
    assert set(fitted.epochs) == {0, 1} and fitted.n == 1
    assert choose(runs, "as-published").replica(metric).values == {}


# --- against a brute force -------------------------------------------------------------------------------------------


@st.composite
def grids(draw):
    epochs, points, seeds = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    counts = st.lists(st.integers(0, 6), min_size=epochs, max_size=epochs)
    return {(("nu", float(p)),): {s: tuple(draw(counts) for _ in range(3)) for s in range(seeds)} for p in range(points)}


def brute(curves, look, report):
    """Every choice of epochs and point by exact fractions; ``look`` and ``report`` give counts of an epoch."""
    best_point, best_level = None, None
    for point, of_seed in curves.items():
        level = sum(Fraction(max(look(c, e) for e in range(len(c[0])))) for c in of_seed.values())
        if best_level is None or level > best_level:
            best_point, best_level = point, level
    values = {}
    for seed, c in curves[best_point].items():
        epoch = max(range(len(c[0])), key=lambda e, c=c: (look(c, e), -e))
        values[seed] = float(report(c, epoch))
    return best_point, values


@settings(deadline=None, max_examples=60)
@given(grids())
def test_selections_agree_with_brute_force(curves):
    runs = {point: {s: record([a, b], size=6, validation=v) for s, (a, b, v) in of.items()} for point, of in curves.items()}

    def whole(c, e):
        return c[0][e] + c[1][e]

    point, values = brute(curves, whole, lambda c, e: Fraction(100 * whole(c, e), 12))
    told = select(runs, "as-published")
    assert told.points == (point,) and told.values == pytest.approx(values)

    point, values = brute(curves, lambda c, e: c[2][e], lambda c, e: Fraction(100 * whole(c, e), 12))
    told = select(runs, "best-on-validation")
    assert told.points == (point,) and told.values == pytest.approx(values)

    one, first = brute(curves, lambda c, e: c[0][e], lambda c, e: Fraction(100 * c[1][e], 6))
    two, second = brute(curves, lambda c, e: c[1][e], lambda c, e: Fraction(100 * c[0][e], 6))
    told = select(runs, "cross-fitted")
    assert told.points == tuple(dict.fromkeys((one, two)))
    assert told.values == pytest.approx({s: (first[s] + second[s]) / 2 for s in first})


@settings(deadline=None, max_examples=60)
@given(grids())
def test_looking_at_the_test_set_never_lowers_the_mean(curves):
    runs = {point: {s: record([a, b], size=6, validation=v) for s, (a, b, v) in of.items()} for point, of in curves.items()}
    looked = select(runs, "as-published").mean
    assert all(select(runs, name).mean <= looked + 1e-9 for name in SELECTIONS)
