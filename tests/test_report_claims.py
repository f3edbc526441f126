"""Claims: exact facts on the numbers that papers print, and the rule for ours, on made Records and against scipy."""

import csv
import importlib
import io
import math
import os
from pathlib import Path

import pytest
from fake_records import COLUMN, measure, write_groups, write_level
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_cli import assert_refused, call_here, call_without_torch

from papers import PAPERS
from replicate import grid
from replicate.errors import BadInput
from replicate.protocol import Above, Claim, Optimum, over
from replicate.record import Store
from replicate.report import claims, published
from replicate.report.claims import judged

__all__ = ["call_here"]  # a fixture

PAPER = {name: importlib.import_module(f"papers.{name}").PAPER for name in PAPERS}
UB, WB, LORT = (PAPER[name] for name in ("unified_bound", "wb", "lort"))
EDITIONS = dict.fromkeys(("cifar10", "cifar100", "digits", "mini_imagenet", "mini_imagenet_lt", "mnist"), "official")
C10, STEP = COLUMN["cifar10-lt/10"], COLUMN["cifar10-step/10"]
RATIO_10 = [COLUMN[f"{name}/10"] for name in ("cifar10-lt", "cifar10-step", "cifar100-lt", "cifar100-step")]


def claim(paper, name):
    return next(one for one in paper.claims if one.name == name)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # many small files
    return Store(tmp_path / "store")


# --- on the papers' own numbers ----------------------------------------------------------------------------------------

#: Word, comparisons that hold, that have both numbers, that lack one, and of those with spreads how many are within them.
FACTS = {
    "unified_bound": {
        "drw-harms-vs": ("holds", 4, 4, 0, 2, 4),
        "adrw-over-drw": ("holds", 16, 16, 0, 5, 16),
        "tla-mends-vs": ("holds", 15, 15, 1, 3, 15),
        "proposed-best": ("holds", 69, 69, 3, 6, 69),
        "proposed-best-sam": ("does not", 33, 35, 5, 8, 35),
        "sam-helps": ("holds", 41, 41, 7, 0, 41),
        "best-t0": ("open", 0, 0, 8, 0, 0),
    },
    "wb": {
        "wd-raises-fdr": ("holds", 12, 12, 0, 0, 0),
        "ce-over-cb": ("holds", 12, 12, 0, 0, 0),
        "bn-decay-matters": ("holds", 12, 12, 0, 0, 0),
        "fixed-bn-makes-up": ("holds", 6, 6, 0, 0, 0),
        "random-layer": ("holds", 11, 11, 0, 0, 0),
        "bn-scale": ("holds", 1, 1, 0, 0, 0),
        "wb-over-wd": ("holds", 4, 4, 0, 1, 4),
        "fr-etf-fdr": ("holds", 6, 6, 0, 0, 0),
        "mult-over-add": ("holds", 3, 3, 0, 0, 3),
        "mult-over-add-elsewhere": ("does not", 11, 15, 0, 9, 15),
        "one-stage-over-wb": ("does not", 3, 4, 0, 1, 4),
        "dr-trades": ("holds", 3, 3, 0, 0, 3),
    },
    "lort": {
        "lort-best-second-stage": ("holds", 24, 24, 0, 0, 0),
        "lort-best-baseline": ("holds", 60, 60, 15, 0, 0),
        "cb-bce-best-baseline": ("holds", 20, 20, 0, 0, 0),
        "best-delta": ("open", 0, 0, 12, 0, 0),
    },
}
AGAINST = {
    "proposed-best-sam": {
        ("w/ SAM/VS+TLA+ADRW", "w/ SAM/LDAM+DRW", "CIFAR-100/Step/100", 49.1, 49.1, False),
        ("w/ SAM/VS+TLA+ADRW", "w/ SAM/LDAM+ADRW", "CIFAR-100/Step/100", 49.1, 49.3, False),
    },
    "mult-over-add-elsewhere": {
        ("WD&FR&ETF/Mult", "WD&FR&ETF/Add", "CIFAR10-LT/Accuracy/Average", 80.1, 80.2, False),
        ("WD/Mult", "WD/Add", "mini-ImageNet-LT/Accuracy/Average", 54.6, 54.7, False),
        ("WD w/o BN&ETF/Mult", "WD w/o BN&ETF/Add", "mini-ImageNet-LT/Accuracy/Average", 52.9, 52.9, False),
        ("WD fixed BN&ETF/Mult", "WD fixed BN&ETF/Add", "mini-ImageNet-LT/Accuracy/Average", 51.1, 52.9, True),
    },
    # The known failure: Table 9 has 54.2 below 54.8, more than its spreads leave open.
    "one-stage-over-wb": {("WD&FR&ETF/Mult", "WB/N/A", "mini-ImageNet-LT/Accuracy/Average", 54.2, 54.8, True)},
}


@pytest.mark.parametrize("name", PAPERS)
def test_each_claim_on_the_papers_own_numbers(name):
    told = judged(PAPER[name])
    assert [one.claim.name for one in told] == list(FACTS[name]) and {one.of for one in told} == {"published"}
    for one in told:
        both = [part for part in one.comparisons if part.word != "missing"]
        known = [part for part in both if part.separable is not None]
        facts = (
            one.word, sum(part.word == "holds" for part in both), len(both), len(one.comparisons) - len(both),
            sum(not part.separable for part in known), len(known),
        )  # fmt: skip
        assert facts == FACTS[name][one.claim.name], one.claim.name
        against = {
            (part.above, part.below, part.where.partition(", ")[2], *part.numbers, part.separable) for part in one.against
        }
        assert against == AGAINST.get(one.claim.name, set())
        assert one.data == "" and all(part.seeds == 0 for part in one.comparisons)


def best(paper, name, path, metric, among=None):
    """The row or rows with the largest number in a column of a CSV."""
    numbers = {
        row: number.value
        for (row, column, kind), number in published.load(paper, name).items()
        if column == path and kind == metric and number.value is not None and (among is None or among(row))
    }
    return {row for row, value in numbers.items() if value == max(numbers.values())}


def test_what_is_best_is_best_in_the_files_themselves():
    for column in UB.tables[0].columns:
        path = "/".join(column.path)
        assert best("unified_bound", "table1.csv", path, "balanced_accuracy_pct", lambda row: row.startswith("w/o")) == {
            "w/o SAM/VS+TLA+ADRW"
        }
    for group in ("All", "Few"):
        assert best("lort", "table1.csv", f"CIFAR100-LT/IR=100/{group}", "top1_accuracy_pct") == {
            "Class-Balanced Loss (with BCE loss)"
        }
    first = [row.label for row in LORT.tables[1].blocks[0].groups[0]]
    for path in ("CIFAR100-LT/IR=100", "CIFAR100-LT/IR=50", "CIFAR100-LT/IR=10", "ImageNet-LT/All", "iNaturalist2018/All"):
        assert best("lort", "table2.csv", path, "top1_accuracy_pct", first.__contains__) == {"LORT (ours)"}
    rows = {}
    for (row, column, _), number in published.load("lort", "table3.csv").items():
        rows.setdefault(row, {})[column.rpartition("=")[2]] = number.value
    assert len(rows) == 4 and all(max(of, key=of.get) == "LORT(ours)" for of in rows.values())


def test_a_difference_is_within_the_spread_where_scipy_says_so():
    """VS 88.3 and VS+DRW 88.1 on CIFAR-10/Step/10: ten rows of five runs, spreads of a kind not stated."""
    (told,) = judged(UB, claims=[claim(UB, "drw-harms-vs")])
    column = [number for (row, path, _), number in published.load("unified_bound", "table1.csv").items()
              if path == "CIFAR-10/Step/10"]  # fmt: skip
    s = math.sqrt(sum(number.std**2 * 5 / 4 for number in column) / len(column))
    wide = stats.t.ppf(0.975, 4 * len(column)) * s * math.sqrt(2 / 5)
    part = next(part for part in told.comparisons if part.where == "table 1, CIFAR-10/Step/10")
    assert part.difference == pytest.approx(0.2) and wide > 0.2 and part.separable is False


@pytest.mark.parametrize(
    "part, named",
    [
        (Above(("1",), (("CE", "w/o SAM/CE"),)), "row 'CE' of table 1"),
        (Above(("1",), (("w/o SAM/CE", "w/o SAM/LDAM"),), columns=("CIFAR-10",)), "column 'CIFAR-10' of table 1"),
        (Above(("1",), (("100", "1000"),), by="column"), "column 'CIFAR-10/LT/1000' of table 1"),
        (Above(("1",), (("w/o SAM/CE", "w/o SAM/LDAM"),), metrics=("Few",)), "metric 'Few' of table 1"),
        (Above(("9",), ()), "table 9; allowed: 1, 2, released"),
        (Optimum("figure9", "1", "CE", "cifar10-lt/100", "switch", 60), "grid 'figure9'; allowed: table, full"),
        (Optimum("figure3", "1", "CE+DRW", "mnist", "switch", 60), "column 'mnist' of grid figure3"),
        (Optimum("figure3", "1", "CE+DRW", "cifar10-lt/100", "switch", 61), "switch 61 of grid figure3; allowed: 20, 40"),
    ],
)
def test_a_claim_about_what_is_not_there_is_refused(part, named):
    with pytest.raises(BadInput, match=r"claim 'x' is about .*; mend the claim in its paper's module") as told:
        judged(UB, claims=[Claim("x", "", "", (part,))])
    assert named in str(told.value)


def test_best_of_leaves_itself_out():
    assert over("a", "a", "b", "c") == (("a", "b"), ("a", "c"))


# --- on ours -----------------------------------------------------------------------------------------------------------


def fill(store, level, columns, seeds=5, paper=UB, editions=EDITIONS):
    """Records of every method that ``level`` maps to a level in percent, or to one of a seed."""
    for column in columns:
        for cell in grid.cells(paper, "table", columns=[column], methods=list(level), seeds=range(seeds)):
            value = level[cell.method]
            percent = value(cell.seed) if callable(value) else value
            write_level(store, cell, percent, edition=editions[cell.programme.start.data.source])


def here(paper, name, store, **how):
    how = {"edition_of": EDITIONS, **how}
    found = [one for one in judged(paper, store, claims=[claim(paper, name)], **how) if one.of != "published"]
    return found[0] if found else None


def noisy(level, apart):
    """Over seeds 0 to 4, of mean ``level``; every other row has the same noise, so that pairs differ by little."""
    return lambda seed: level + apart * (-2, 1, 0, 2, -1)[seed]


def test_ours_hold_where_every_interval_lies_above_0(store):
    fill(store, {"VS": noisy(60.0, 1.0), "VS+DRW": noisy(59.0, 1.1)}, RATIO_10)
    told = here(UB, "drw-harms-vs", store)
    assert (told.word, told.reason, told.data) == ("holds", "4 of 4 comparisons hold", "cifar10@official, cifar100@official")
    for part in told.comparisons:
        differences = [noisy(60.0, 1.0)(seed) - noisy(59.0, 1.1)(seed) for seed in range(5)]
        expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
        assert part.difference == pytest.approx(1.0, abs=0.011) and part.seeds == 5
        assert part.interval == pytest.approx((expected.low, expected.high), abs=0.02)
        assert part.numbers == pytest.approx((60.0, 59.0), abs=0.011)


def test_ours_do_not_where_one_interval_lies_below_0(store):
    fill(store, {"VS": 60.0, "VS+DRW": 59.0}, RATIO_10[:3])
    fill(store, {"VS": 58.0, "VS+DRW": 60.0}, RATIO_10[3:])
    told = here(UB, "drw-harms-vs", store)
    assert (told.word, told.reason) == ("does not", "3 of 4 comparisons hold; 1 the other way round")
    (against,) = told.against
    assert (against.where, against.difference) == ("table 1, CIFAR-100/Step/10", pytest.approx(-2.0))


def test_ours_are_open_where_an_interval_has_0_or_a_number_is_missing(store):
    fill(store, {"VS": 60.0, "VS+DRW": 59.0}, RATIO_10[:2])
    assert (here(UB, "drw-harms-vs", store).word, here(UB, "drw-harms-vs", store).reason) == (
        "open", "2 of 4 comparisons hold; 2 without 3 common seeds",
    )  # fmt: skip
    fill(store, {"VS": noisy(60.0, 0.0), "VS+DRW": noisy(59.9, 1.0)}, RATIO_10[2:])
    told = here(UB, "drw-harms-vs", store)
    assert (told.word, told.reason) == ("open", "2 of 4 comparisons hold; 2 open")
    assert all(low < 0 < high for low, high in (part.interval for part in told.comparisons[2:]))


def test_two_seeds_decide_nothing_and_none_is_told(store):
    told = here(UB, "drw-harms-vs", store)
    assert (told.word, told.reason, told.data) == ("open", "no number of ours", "")
    fill(store, {"VS": 70.0, "VS+DRW": 50.0}, RATIO_10, seeds=2)
    told = here(UB, "drw-harms-vs", store)
    assert (told.word, told.reason) == ("open", "0 of 4 comparisons hold; 4 without 3 common seeds")
    assert {(part.word, part.seeds, part.reason) for part in told.comparisons} == {("missing", 2, "fewer than 3 common seeds")}


def test_only_seeds_that_both_rows_have_count(store):
    fill(store, {"VS": 60.0}, [C10])
    for cell in grid.cells(UB, "table", columns=[C10], methods=["VS+DRW"], seeds=(2, 3, 4, 5, 6)):
        write_level(store, cell, 59.0 if cell.seed < 5 else 99.0)
    part = here(UB, "drw-harms-vs", store).comparisons[0]
    assert (part.word, part.seeds, part.numbers) == ("holds", 3, pytest.approx((60.0, 59.0)))
    (store.root / "records/cifar10@official").rename(store.root / "gone")
    fill(store, {"VS": 60.0}, [C10], seeds=3)
    for cell in grid.cells(UB, "table", columns=[C10], methods=["VS+DRW"], seeds=(3, 4, 5)):
        write_level(store, cell, 50.0)
    assert here(UB, "drw-harms-vs", store).comparisons[0].reason == "no common seed"


def test_against_a_claim_holms_correction_counts_all_its_comparisons(store):
    """t = -2.9 with four degrees of freedom: p = 0.044, below 0.05 and above 0.05/4."""
    fill(store, {"VS": noisy(60.0, 0.0), "VS+DRW": noisy(60.92, 0.45)}, [C10])
    part = here(UB, "drw-harms-vs", store).comparisons[0]
    p = stats.ttest_1samp([60.0 - noisy(60.92, 0.45)(seed) for seed in range(5)], 0.0).pvalue
    assert 0.0125 < p < 0.05 and part.interval[1] < 0 and part.word == "open"
    told = here(UB, "drw-harms-vs", store, datasets={"cifar10-lt"})
    assert (told.word, len(told.comparisons)) == ("does not", 1)  # alone it is rejected


def test_spreads_that_are_small_by_luck_are_floored(store):
    fill(store, {"VS": 60.0, "VS+DRW": 59.9}, RATIO_10)
    told = here(UB, "drw-harms-vs", store)  # 0.1 points at every seed: 2.776 * 0.1/sqrt(5) = 0.124 wide
    assert told.word == "open" and told.comparisons[0].interval == pytest.approx((0.1 - 0.1242, 0.1 + 0.1242), abs=1e-3)


def test_discriminant_ratios_are_compared_by_their_logarithms(store):
    columns = WB.tables[1].columns
    level = {"Naive": 1.0, "CB": 1.0, "WD": 1.2, "WD&CB": 3.0}
    for cell in grid.cells(WB, "table", columns=columns, methods=list(level), seeds=range(5)):
        write_groups(store, cell, {"": 40.0})
        times = 10.0 ** (cell.seed - 2) * level[cell.method]  # over four orders of magnitude, alike at each seed
        measure(store, cell, "separation", {"fdr": {"train": 100 * times, "test": 10 * times}})
    told = here(WB, "wd-raises-fdr", store)
    assert (told.word, told.reason) == ("holds", "12 of 12 comparisons hold")
    assert {round(part.difference, 6) for part in told.comparisons} == {1.2, 3.0} and {p.scale for p in told.comparisons} == {
        "log"
    }
    width = math.exp(2.7764 * 0.1 / math.sqrt(5))  # the floor, of the logarithm
    ce = next(part for part in told.comparisons if part.above == "WD & CE")
    assert ce.interval == pytest.approx((1.2 / width, 1.2 * width), rel=1e-4)


def test_the_best_value_of_a_grid(store):
    (column,) = (c for c in UB.grids["figure3"].columns if c.name == "cifar10-lt/100")

    def write(level):
        for cell in grid.cells(UB, "figure3", columns=[column], methods=["CE+DRW"], seeds=range(5)):
            write_level(store, cell, level[dict(cell.point)["switch"]])

    values = UB.grids["figure3"].values["switch"][column.name]
    write({value: 70.0 - abs(value - 60) / 20 for value in values})
    told = here(UB, "best-t0", store)
    assert (told.word, told.reason) == ("holds", "8 of 8 comparisons hold")
    assert {part.below: round(part.difference, 6) for part in told.comparisons}["switch 140"] == 4.0
    write({value: 70.0 - abs(value - 80) / 20 for value in values})
    told = here(UB, "best-t0", store)
    assert (told.word, [part.below for part in told.against]) == ("does not", ["switch 80"])
    assert told.reason == "6 of 8 comparisons hold; 1 the other way round; 1 open"  # 60 and 100 are equal


def test_columns_are_compared_row_by_row(store):
    table = LORT.tables[2]
    level = {"LORT(ours)": 47.0, "CB-BCE": 46.0, "Vanilla": 41.0, "BS": 45.5, "Focal": 44.0, "LDAM": 43.0, "CE": 42.0}
    for cell in grid.cells(LORT, "table3", columns=table.columns, seeds=range(3)):
        if all(value in (0.01, 0.0, 0.5, 0.9999, 1.0) for _, value in cell.point):
            write_groups(store, cell, {"": level[cell.column.then] + ("LORT" in cell.column.then) * (cell.method == "BS") * -9})
    told = here(LORT, "lort-best-second-stage", store)
    assert (told.word, len(told.comparisons)) == ("does not", 24)
    assert {part.where for part in told.against} == {"table 3, backbone=BS/CIFAR100-LT/IR=100"} and len(told.against) == 6
    assert {part.where for part in told.comparisons if part.word == "holds"} == {
        f"table 3, backbone={label}/CIFAR100-LT/IR=100" for label in ("CE", "CE-DRW", "LDAM-DRW")
    }
    quoted = here(LORT, "lort-best-baseline", store)
    assert quoted.word == "open" and {part.word for part in quoted.comparisons} == {"missing"}


# --- which data count --------------------------------------------------------------------------------------------------


def test_a_redrawn_edition_counts_and_one_that_is_not_comparable_does_not(store):
    redrawn = {**EDITIONS, "cifar100": "0123456789ab"}
    fill(store, {"VS": 60.0, "VS+DRW": 59.0}, RATIO_10, editions=redrawn)
    assert here(UB, "drw-harms-vs", store).reason == "2 of 4 comparisons hold; 2 without 3 common seeds"
    told = here(UB, "drw-harms-vs", store, edition_of=redrawn, comparability={"cifar100": "other split"})
    assert (told.word, told.data) == ("holds", "cifar10@official, cifar100@0123456789ab")
    told = here(UB, "drw-harms-vs", store, edition_of=redrawn, comparability={"cifar100": "not comparable"})
    assert (told.word, told.data) == ("open", "cifar10@official")


def test_stand_ins_are_judged_apart_and_never_beside_published_numbers(store):
    digits = COLUMN["digits/45"]
    fill(store, {"CE": 80.0, "CE+DRW": 82.0, "CE+ADRW": 84.0, "LDAM+DRW": 85.0, "LDAM+ADRW": 83.0}, [digits])
    for one in judged(UB, store, edition_of=EDITIONS):
        assert one.of == "published" or (one.of, one.reason) == ("here", "no number of ours")
    told = judged(UB, store, edition_of=EDITIONS, stand_in=True)
    assert {one.of for one in told} == {"stand-in"}
    assert [one.claim.name for one in told] == [
        "adrw-over-drw", "tla-mends-vs", "proposed-best", "proposed-best-sam", "sam-helps",
    ]  # fmt: skip
    assert (told[0].word, told[0].reason, told[0].data) == (
        "does not", "1 of 2 comparisons hold; 1 the other way round", "digits@official",
    )  # fmt: skip
    shown = claims.render(UB, told, "text")
    assert "STAND-IN, no evidence on the claim, digits@official: does not; 1 of 2" in " ".join(shown.split())
    assert "  published: " not in shown


def test_what_several_tables_print_of_one_stand_in_counts_once():
    (told,) = judged(WB, Store(Path("nowhere")), stand_in=True, claims=[claim(WB, "wb-over-wd")])
    assert [part.where for part in told.comparisons] == ["table 4, Digits-LT/Accuracy/Average"]  # and so has table 8
    (told,) = judged(LORT, Store(Path("nowhere")), stand_in=True, claims=[claim(LORT, "lort-best-second-stage")])
    assert len(told.comparisons) == 24  # four backbones


def test_numbers_that_were_read_before_are_not_read_again(store):
    from replicate.report import tables

    fill(store, {"VS": 60.0, "VS+DRW": 59.0}, RATIO_10)
    read = tables.replicas(store, UB, UB.tables[0], selection="as-published", edition_of=EDITIONS)
    nothing = Store(store.root / "empty")
    assert here(UB, "drw-harms-vs", nothing, known={"1": read}) == here(UB, "drw-harms-vs", store)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(0.2, 2)), min_size=1, max_size=6), st.integers(3, 6))
def test_the_rule_against_scipy(pairs, seeds):
    """Of claims with any number of comparisons: every p-value by scipy, Holm by the textbook, then the words."""
    from replicate.report.claims import _here, _Pair

    noise = [(-1) ** seed * (1 + seed / 3) for seed in range(seeds)]
    sides = [({s: 50 + d + e * noise[s] for s in range(seeds)}, dict.fromkeys(range(seeds), 50.0)) for d, e in pairs]
    places = [("1", "", str(i), "c", "m") for i in range(2 * len(pairs))]

    class Given:
        edition_of = {"cifar10": "official"}  # noqa: RUF012

        def ours(self, pair, place):
            i = int(place[2])
            return sides[i // 2][i % 2]

    made = [
        _Pair(Above(("1",), ()), places[2 * i], places[2 * i + 1], ("a", "b"), "w", UB.tables[0].metrics[0], (), C10)
        for i in range(len(pairs))
    ]
    told = _here(Claim("x", "", "", ()), made, Given(), "here")
    p = [stats.ttest_rel([a[s] for s in a], [b[s] for s in a]).pvalue for a, b in sides]
    mean = [sum(a.values()) / seeds - 50 for a, _ in sides]
    order = sorted(range(len(p)), key=p.__getitem__)
    rejected = set()
    for rank, place in enumerate(order):
        if p[place] > 0.05 / (len(p) - rank):
            break
        rejected.add(place)
    expected = [
        "holds" if m > 0 and q <= 0.05 else "does not" if m < 0 and i in rejected else "open"
        for i, (m, q) in enumerate(zip(mean, p, strict=True))
    ]
    assert [part.word for part in told.comparisons] == expected
    assert told.word == ("does not" if "does not" in expected else "holds" if set(expected) == {"holds"} else "open")


# --- print -------------------------------------------------------------------------------------------------------------


def test_text_and_markdown_tell_words_counterexamples_editions_and_rules(store):
    fill(store, {"VS": 58.0, "VS+DRW": 60.0}, RATIO_10[:1])
    told = [*judged(UB, store, edition_of=EDITIONS), *judged(WB)]
    for form in ("text", "markdown"):
        shown = " ".join(claims.render(UB, told, form).replace("\\", "").split())
        assert (
            "drw-harms-vs: At imbalance ratio 10, deferred re-weighting lowers VS: VS+DRW is below VS. [Table 1, Fig. 4]"
            in shown
        )
        assert "published: holds; 4 of 4 comparisons; 2 of 4 within the spread." in shown
        assert "here, cifar10@official: does not; 0 of 4 comparisons hold; 1 the other way round; 3 without" in shown
        assert (
            "w/o SAM/VS 58.00 is not above w/o SAM/VS+DRW 60.00 (-2.00 [-2.12, -1.88], 5 seeds): table 1, CIFAR-10/LT/10"
            in shown
        )
        assert "WD&FR&ETF/Mult 54.2 is not above WB/N/A 54.8 (-0.6): table 9, mini-ImageNet-LT/Accuracy/Average" in shown
        assert "(+0.0, within the spread)" in shown and "published: open; the paper prints no number of it." in shown
        assert all(rule[:60] in shown for rule in claims.RULES.splitlines())
    assert max(map(len, claims.render(UB, told, "text").splitlines())) <= 112
    with pytest.raises(BadInput, match=r"'latex'.*text, markdown, csv"):
        claims.render(UB, told, "latex")


def test_of_several_editions_those_with_records_are_shown(store):
    none = judged(UB, store, claims=[claim(UB, "drw-harms-vs")])
    fill(store, {"VS": 60.0, "VS+DRW": 59.0}, RATIO_10)
    some = [one for one in judged(UB, store, edition_of=EDITIONS, claims=[claim(UB, "drw-harms-vs")]) if one.of == "here"]
    assert "no number of ours" in claims.render(UB, none, "text")
    shown = claims.render(UB, [*none, *some], "text")
    assert "no number of ours" not in shown and "here, cifar10@official, cifar100@official: holds" in " ".join(shown.split())


def test_csv_has_a_line_for_each_comparison(store):
    fill(store, {"VS": 58.0, "VS+DRW": 60.0}, RATIO_10[:1])
    told = judged(UB, store, edition_of=EDITIONS)
    lines = list(csv.DictReader(io.StringIO(claims.render(UB, told, "csv"))))
    assert len(lines) == sum(len(one.comparisons) for one in told) and tuple(lines[0]) == claims.FIELDS
    line = next(line for line in lines if line["of"] == "here" and line["seeds"])
    assert (line["verdict"], line["comparison"], line["difference"], line["seeds"]) == ("does not", "does not", "-2.0000", "5")
    assert (line["number_above"], line["where"]) == ("58", "table 1, CIFAR-10/LT/10") and "cifar10@official" in line["note"]


def test_the_command(tmp_path, call_here):
    code, out, err = call_without_torch(tmp_path, "claims")
    assert (code, err) == (0, "") and [line for line in out.splitlines() if line.endswith(": claims (as-published)")] == [
        "unified-bound: claims (as-published)", "wb: claims (as-published)", "lort: claims (as-published)",
    ]  # fmt: skip
    assert out.count("published: does not;") == 3 and "STAND-IN" not in out
    told = call_here(tmp_path, "claims", "wb", "--table", "9", "--dataset", "mini-imagenet-lt")
    assert told.code == 0 and "wb: claims (as-published, table 9, mini-imagenet-lt)" in told.out
    assert "published: does not; 0 of 1 comparison; 0 of 1 within the spread." in told.out
    code, out, err = call_here(tmp_path, "claims", "--format", "csv")
    assert (code, err) == (0, "") and {line["paper"] for line in csv.DictReader(io.StringIO(out))} == set(PAPERS)
    assert_refused(call_here(tmp_path, "claims", "wb", "--table", "5"), "'5'", "allowed: 1, 2, 3, 4")
    assert_refused(call_here(tmp_path, "claims", "--dataset", "svhn"), "'svhn'", "cifar10-lt")
    assert_refused(call_here(tmp_path, "claims", "wb", "--variant", "text"), "'text'")
    assert_refused(call_here(tmp_path, "claims", "unified-bound", "--table", "released"), "unified-bound", "leave one out")


def test_committed_digits_records_are_no_evidence():
    folder = Path(__file__).parent.parent / "results" / "unified_bound"
    if not folder.is_dir():
        pytest.skip("needs the results folder of a checkout")
    told = judged(UB, Store(folder), edition_of={"digits": "official"})
    assert {one.word for one in told if one.of == "here"} == {"open"}
    apart = judged(UB, Store(folder), edition_of={"digits": "official"}, stand_in=True)
    assert len(apart) == 5 and all(one.of == "stand-in" and one.data == "digits@official" for one in apart)
