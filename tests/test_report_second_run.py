"""The authors' own second run against their table: what the rules say of it, as exact facts."""

import csv
import io
import statistics
from collections import Counter
from dataclasses import replace

import pytest
from test_cli import assert_refused, call_here, call_without_torch

from papers.unified_bound import CIFAR_COLUMNS, PAPER, SECOND_RUNS, TABLE_1
from replicate.errors import BadInput
from replicate.report import diff, published, second_run, tables

__all__ = ["call_here"]  # a fixture

(RUN,) = SECOND_RUNS


@pytest.fixture(scope="module")
def pairs():
    return second_run.compare(PAPER, RUN)


def legible(pairs):
    return [pair for pair in pairs if pair.difference is not None]


def words(pairs, n):
    return Counter(pair.said[n].word for pair in pairs)


def test_every_row_of_the_run_stands_beside_its_row_of_the_table(pairs):
    theirs, again = (published.load("unified_bound", name) for name in ("table1.csv", "released_code_readme.csv"))
    assert len(pairs) == 4 * len(CIFAR_COLUMNS)
    for pair in pairs:
        assert pair.printed == theirs[pair.row, pair.path, "balanced_accuracy_pct"]
        assert pair.again == again[RUN.rows[pair.row], pair.path, "balanced_accuracy_pct"]
        assert pair.again.n is None and pair.again.note.startswith("re-run by the authors")


def test_the_runs_differ_by_0_22_in_the_median_and_by_under_1_in_28_of_30(pairs):
    apart = {(pair.row, pair.path): abs(pair.difference) for pair in legible(pairs)}
    assert len(apart) == 30 and 0.22 <= statistics.median(apart.values()) < 0.23
    assert {place: round(d, 2) for place, d in apart.items() if d >= 1.0} == {
        ("w/o SAM/VS", "CIFAR-10/LT/100"): 1.49,
        ("w/o SAM/VS", "CIFAR-10/Step/100"): 4.09,
    }


def test_by_the_rules_a_run_that_does_not_state_its_seeds_leaves_all_open(pairs):
    assert words(pairs, None) == {"open": 30, "missing": 2}
    assert {(pair.row, pair.path) for pair in pairs if pair.said[None].word == "missing"} == {
        ("w/o SAM/CE", "CIFAR-100/LT/100"),
        ("w/o SAM/VS", "CIFAR-100/LT/100"),
    }


def test_with_three_or_five_seeds_all_but_the_suspect_row_match_or_stay_open(pairs):
    assert words(pairs, 3) == {"match": 23, "higher": 3, "open": 4, "missing": 2}
    assert words(pairs, 5) == {"match": 25, "higher": 3, "open": 2, "missing": 2}
    for n in (3, 5):
        assert {(pair.row, pair.path) for pair in pairs if pair.said[n].word == "higher"} == {
            ("w/o SAM/VS", "CIFAR-10/LT/100"), ("w/o SAM/VS", "CIFAR-10/Step/100"), ("w/o SAM/VS", "CIFAR-10/Step/10"),
        }  # fmt: skip
    assert {(pair.row, pair.path) for pair in pairs if pair.said[5].word == "open"} == {
        ("w/o SAM/LDAM+DRW", "CIFAR-10/Step/100"), ("w/o SAM/LDAM+DRW", "CIFAR-100/Step/100"),
    }  # fmt: skip


def test_verdicts_are_those_of_diff(pairs):
    """The second run as if it were a replica of five seeds: the same sides, levels and words as the rows of diff."""
    again = {pair.key: replace(pair.again, n=5) for pair in pairs}
    theirs = tables.printed(PAPER, TABLE_1)
    sides = {key: (second, table) for key, (_, second) in diff.verdicts.summaries({}, again).items()
             for _, table in [diff.verdicts.summaries({}, theirs)[key]]}  # fmt: skip
    spots = [spot for column in CIFAR_COLUMNS for spot in tables.spots(TABLE_1, [column]) if spot.key in again]
    standing = {column.name: "comparable" for column in CIFAR_COLUMNS}
    assert diff._verdicts(spots, sides, theirs, standing) == {pair.key: pair.said[5] for pair in pairs}


def test_one_pair_of_rows_changes_its_order_and_a_quarter_of_the_gain_remains(pairs):
    # LDAM+DRW stands above the suspect VS of CIFAR-10/Step/100 in Table 1, and below it in the second run.
    assert second_run.order(PAPER, RUN, pairs) == (42, 43)
    gains = second_run.gains(pairs, RUN)
    assert {path: (round(claimed, 2), round(again, 2)) for path, (claimed, again) in gains.items()} == {
        "CIFAR-10/LT/100": (2.3, 0.52), "CIFAR-10/LT/10": (0.3, 0.12), "CIFAR-10/Step/100": (4.8, 0.59),
        "CIFAR-10/Step/10": (1.0, 0.11), "CIFAR-100/LT/10": (0.8, 0.4), "CIFAR-100/Step/100": (1.6, 0.86),
        "CIFAR-100/Step/10": (0.6, 0.15),
    }  # fmt: skip
    assert statistics.median(again / claimed for claimed, again in gains.values()) == pytest.approx(0.25)


def test_it_prints_every_pair_and_the_facts():
    for form in ("text", "markdown"):
        shown = " ".join(second_run.render(PAPER, RUN, form).replace("|", " ").replace("\\", "").split())
        assert "w/o SAM/VS CIFAR-10/Step/100 80.19±0.09 76.1±0.7 +4.09 open higher higher" in shown
        assert "w/o SAM/CE CIFAR-100/LT/100 38.06±1.03 missing missing missing" in shown
        assert "30 of 32 numbers are legible in both. Median absolute difference 0.22 points, under 1.0 in 28" in shown
        assert "Verdicts, seeds not stated: 30 open" in shown and "if 5 seeds: 25 match, 3 higher, 2 open." in shown
        assert "In the median 25 % of it remains." in shown and "nothing here is ours" in shown
    with pytest.raises(BadInput, match=r"'latex'.*text, markdown, csv"):
        second_run.render(PAPER, RUN, "latex")


def test_the_csv_has_a_line_for_each_pair_and_number_of_seeds(pairs):
    lines = list(csv.DictReader(io.StringIO(second_run.render(PAPER, RUN, "csv"))))
    assert len(lines) == 3 * len(pairs) and tuple(lines[0]) == second_run.FIELDS
    counts = Counter((line["seeds_assumed"], line["verdict"]) for line in lines)
    assert counts["", "open"] == 30 and counts["5", "match"] == 25 and counts["3", "higher"] == 3


def test_the_command(tmp_path, call_here):
    code, out, err = call_without_torch(tmp_path, "diff", "unified-bound", "--second-run")
    assert (code, err) == (0, "") and out == second_run.render(PAPER, RUN, "text")
    assert_refused(call_here(tmp_path, "diff", "wb", "--second-run"), "'wb'", "allowed: unified-bound")
    assert_refused(call_here(tmp_path, "diff", "unified-bound", "--second-run", "--table", "1"), "--table")
