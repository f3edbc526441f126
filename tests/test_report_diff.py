"""Replica beside published number: words, exit code, and what is printed."""

import csv
import io
import os
from dataclasses import replace

import pytest
from fake_records import COLUMN, write, write_level

from papers.unified_bound import CIFAR_COLUMNS, DIGITS_LT, PAPER, TABLE_1
from replicate import grid
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import diff, tables, verdicts
from replicate.report.verdicts import RULES

C10, C100 = COLUMN["cifar10-lt/100"], COLUMN["cifar100-lt/100"]
EDITIONS = {"digits": "official", "cifar10": "official", "cifar100": "0123456789ab"}
ACCURACY = "balanced_accuracy_pct"
COMPARABLE = {"digits": "not comparable", "cifar10": "comparable", "cifar100": "other split"}
NOISE = (-0.3, 0.1, 0.0, 0.2, 0.0)  # over seeds, of mean 0


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # many small files
    return Store(tmp_path / "store")


def fill(store, column, seeds=5, shift=0.0, edition="official", only=None, **options):
    """Records at the published levels of a column (50 where illegible), plus ``shift`` of a method and noise of a seed."""
    shift = shift if callable(shift) else (lambda method, by=shift: by)
    printed = tables.printed(PAPER, TABLE_1)
    level = {row.method: printed.get((b.title, row.label, column.name, ACCURACY)) for b in TABLE_1.blocks for row in b.rows}
    for seed in range(seeds):
        for cell in grid.cells(PAPER, "table", columns=[column], methods=only, seeds=(seed,), **options):
            number = level[cell.method]
            value = 50.0 if number is None or number.value is None else number.value
            write_level(store, cell, value + shift(cell.method) + NOISE[seed], edition=edition)


def compare(store, columns=(C10,), **options):
    rows = diff.compare(store, PAPER, TABLE_1, edition_of=EDITIONS, comparability=COMPARABLE, columns=columns, **options)
    return rows, {row.key[:2]: row for row in rows}


def test_equal_levels_match_and_exit_with_0(store):
    fill(store, C10)
    rows, told = compare(store)
    assert len(rows) == 16 and diff.exit_code(rows) == 0
    assert {row.verdict.word for row in rows} == {"match", "missing"}
    assert {row.key for row in rows if row.verdict.word == "missing"} == {row.key for row in rows if row.key[0] == "w/ SAM"}
    assert told["w/o SAM", "CE"].fully_specified and not told["w/o SAM", "VS"].fully_specified
    assert told["w/o SAM", "CE"].difference == pytest.approx(0.0, abs=1e-6)


def test_only_fully_specified_rows_decide_the_exit_code(store):
    fill(store, C10, shift=lambda method: -3.0 if method == "VS" else 0.0)
    rows, told = compare(store)
    assert told["w/o SAM", "VS"].verdict.word == "lower" and diff.exit_code(rows) == 0
    fill(store, C10, shift=lambda method: 3.0 if method == "CE+DRW" else 0.0)
    rows, told = compare(store)
    assert told["w/o SAM", "CE+DRW"].verdict.word == "higher" and diff.exit_code(rows) == 1


def test_two_seeds_are_open_whatever_they_say(store):
    fill(store, C10, seeds=2, shift=-9.0)
    rows, told = compare(store)
    assert {row.verdict.word for row in rows if row.key[0] == "w/o SAM"} == {"open"} and diff.exit_code(rows) == 0
    assert told["w/o SAM", "CE"].verdict.seeds_needed == 3


def test_holms_family_is_every_number_that_the_table_prints(store):
    fill(store, C10, seeds=3, only=["CE"], shift=0.75)
    key = "w/o SAM", "CE", C10.name, ACCURACY
    ours = tables.replicas(store, PAPER, TABLE_1, selection="as-published", edition_of=EDITIONS, columns=[C10])
    theirs = {place: number for place, number in tables.printed(PAPER, TABLE_1).items() if place[2] == C10.name}
    sides = verdicts.summaries(ours, theirs)[key]
    assert verdicts.judge(*sides).word == "higher"
    told = compare(store)[1][key[:2]].verdict
    assert told == verdicts.judge(*sides, level=0.05 / 119) and told.word == "open"


def test_a_verdict_does_not_depend_on_which_columns_are_shown(store):
    columns = [column for column in CIFAR_COLUMNS if column.data.source == "cifar10"]
    for column in columns:
        fill(store, column, shift=-5.0)
    words = set()
    for shift in (-0.8, -1.0, -1.2, -1.4, -1.6):
        fill(store, C10, only=["CE"], shift=shift)
        alone = compare(store)[1]["w/o SAM", "CE"]
        (one,) = [row for row in compare(store, columns)[0] if row.key == alone.key]
        assert one.verdict == alone.verdict
        words.add(alone.verdict.word)
    assert {"open", "lower"} <= words
    assert {row.spot.column.name for row in compare(store)[0]} == {C10.name}


def test_the_interval_of_what_is_judged_stands_beside_nothing_else(store):
    fill(store, C10, seeds=3)
    rows = {selection: compare(store, selection=selection)[1]["w/o SAM", "CE"] for selection in ("as-published", "last-epoch")}
    assert rows["as-published"].verdict == rows["last-epoch"].verdict
    assert all(diff.apart(rows["as-published"])) and diff.apart(rows["last-epoch"])[1] == ""


def test_a_redrawn_edition_has_no_level_verdict_but_an_order(store):
    fill(store, C100, edition="0123456789ab", shift=-5.0)
    rows, _ = compare(store, [C100])
    assert {row.verdict.word for row in rows if row.printed.value is not None} == {"other split"} and diff.exit_code(rows) == 0
    fill(store, C10, seeds=3, shift=0.75)
    beside = [row.verdict for row in compare(store, [C10, C100])[0] if row.spot.column == C10]
    assert beside == [row.verdict for row in compare(store)[0]]  # no part of Holm's correction either
    shown = diff.render(rows, "text")
    assert "cifar100@0123456789ab" in shown and "65 of 65 separable pairs keep their order." in shown


def test_stand_in_data_and_quick_runs_never_meet_a_published_number(store):
    fill(store, DIGITS_LT, seeds=3)
    fill(store, C10, seeds=3, quick=True, shift=-40.0)
    for rows in (compare(store, [DIGITS_LT])[0], compare(store, quick=True)[0]):
        assert {row.verdict.word for row in rows} == {"not comparable"} and diff.exit_code(rows) == 0
        assert all(row.printed is None and row.difference is None and row.verdict.difference is None for row in rows)
        shown = diff.render(rows, "text")
        assert "keep their order" not in shown and "71.5" not in shown and ("STAND-IN" in shown) != ("QUICK RUN" in shown)


def test_quoted_numbers_are_never_ours(store, monkeypatch):
    quoted = {key: replace(number, provenance="quoted") for key, number in tables.printed(PAPER, TABLE_1).items()}
    monkeypatch.setattr(tables, "printed", lambda paper, table: quoted)
    fill(store, C10, seeds=3, shift=9.0)
    rows, _ = compare(store)
    assert {row.verdict.word for row in rows} == {"quoted"}


def test_verdicts_stay_as_published_whatever_selection_is_shown(store):
    for seed in range(5):
        cell = grid.cells(PAPER, "table", columns=[C10], methods=["CE"], seeds=(seed,))[0]
        best = 3575 + round(50 * NOISE[seed])
        write(store, cell, [[best, 3000], [best, 3000]], size=5000)
    looked, last = (compare(store, selection=name)[1]["w/o SAM", "CE"] for name in ("as-published", "last-epoch"))
    assert (looked.difference, last.difference) == (pytest.approx(0.0, abs=0.01), pytest.approx(-11.5))
    assert looked.verdict == last.verdict and last.verdict.word == "match" and last.judged == looked.replica
    assert "last-epoch" in diff.render(compare(store, selection="last-epoch")[0], "text").splitlines()[0]


def test_nothing_in_the_store_is_missing(store):
    rows, _ = compare(store)
    assert all(row.replica is None and row.verdict.word == "missing" for row in rows)
    text = " ".join(diff.render(rows, "text").split())
    assert "No Records: CIFAR-10/LT/100." in text


def test_text_and_markdown_show_numbers_words_order_gains_and_rules(store):
    fill(store, C10, shift=lambda method: -0.5 if method == "VS+TLA+ADRW" else 0.0)
    rows, _ = compare(store)
    for form in ("text", "markdown"):
        shown = " ".join(diff.render(rows, form).replace("|", " ").replace("\\", "").split())
        assert "w/o SAM/CE 71.50±0.17 5 71.5±0.4 +0.00" in shown
        assert "w/o SAM/VS 78.80±0.17 5 78.8±0.2 +0.00" in shown and "match; under our grid" in shown
        assert "missing: no published number" in shown
        assert "Order: 42 of 42 separable pairs keep their order." in shown
        assert "VS+TLA+ADRW over VS+DRW: published +1.00, here +0.50 over 5 seeds" in shown and "50 % remains" in shown
        assert "Fully specified rows: 4 match" in shown
        assert all(line[:60] in shown for line in RULES.splitlines())


def test_csv_has_a_line_for_each_place(store):
    fill(store, C10, seeds=3)
    rows, _ = compare(store)
    lines = list(csv.DictReader(io.StringIO(diff.render(rows, "csv"))))
    assert len(lines) == 16 and tuple(lines[0]) == diff.FIELDS
    first = lines[0]
    assert (first["row"], first["column_path"], first["verdict"]) == ("w/o SAM/CE", "CIFAR-10/LT/100", rows[0].verdict.word)
    assert float(first["difference"]) == pytest.approx(rows[0].difference, abs=1e-4)
    assert [float(first[name]) for name in ("low90", "high90")] == pytest.approx(rows[0].verdict.interval90, abs=1e-4)
    assert (first["judged"], lines[2]["judged"], first["published"]) == ("fully specified", "under our grid", "71.5")


def test_unknown_formats_are_refused():
    with pytest.raises(BadInput, match=r"'latex'.*text, markdown, csv"):
        diff.render([], "latex")
