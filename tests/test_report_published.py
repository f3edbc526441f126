"""The printed numbers: what is in the files, and that nothing is lost or filled in on the way."""

import csv
import io
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate.errors import BadInput
from replicate.report import published
from replicate.report.published import FIELDS, Printed

ACCURACY = "balanced_accuracy_pct"


def test_table_1_has_119_legible_numbers_and_9_empty_ones():
    numbers = published.load("unified_bound", "table1.csv")
    assert len(numbers) == 128
    empty = {place for place, number in numbers.items() if number.value is None}
    assert empty == {(f"w/o SAM/{row}", "CIFAR-100/LT/100", ACCURACY) for row in ("CE", "LDAM", "VS")} | {
        (f"w/ SAM/{row}", "CIFAR-10/LT/100", ACCURACY)
        for row in ("CE+DRW", "LDAM+DRW", "VS", "CE+ADRW", "LDAM+ADRW", "VS+TLA+ADRW")
    }
    assert all((number.std is None) == (number.value is None) for number in numbers.values())


def test_a_number_is_kept_as_printed():
    number = published.load("unified_bound", "table1.csv")["w/o SAM/LDAM", "CIFAR-100/Step/100", ACCURACY]
    assert (number.value, number.std, number.value_text, number.std_text) == (39.2, 0.0, "39.2", "0.0")
    assert (number.statistic, number.n, number.spread_kind) == ("mean", 5, "sd, kind not stated")
    assert (number.provenance, number.specified, number.decimals) == ("own", "full", 1)
    again = published.load("unified_bound", "released_code_readme.csv")
    number = again["400 Epochs with tuned wd, SAM, and RandAug/CE", "CIFAR-10/LT/100", ACCURACY]
    assert (number.value_text, number.decimals, number.n) == ("79.75", 2, None)


@pytest.mark.parametrize("name", ["table1.csv", "table2.csv", "released_code_readme.csv", "sam_ancestor_readme.csv"])
def test_every_file_is_read_whole_and_written_back_line_for_line(name):
    text = (files("papers") / "published" / "unified_bound" / name).read_text(encoding="utf-8")
    numbers = published.load("unified_bound", name)
    assert published.write("unified_bound", [(*place[:2], number) for place, number in numbers.items()]) == text
    assert len(numbers) == len(list(csv.reader(io.StringIO(text)))) - 1


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
NUMBER = st.decimals(-1000, 1000, places=2).map(str)
PRINTED = st.builds(
    lambda value, std, n, **words: Printed(
        value=float(value) if value else None, std=float(std) if std else None, value_text=value, std_text=std, n=n, **words
    ),
    value=NUMBER | st.just(""),
    std=NUMBER | st.just(""),
    n=st.none() | st.integers(1, 9),
    **{name: TEXT for name in ("table", "metric", "statistic", "spread_kind", "provenance", "specified", "note")},
)


@given(st.lists(st.tuples(TEXT, TEXT, PRINTED), max_size=5, unique_by=lambda line: (line[0], line[1], line[2].metric)))
def test_writing_and_reading_are_inverse(numbers):
    expected = {(row, path, number.metric): number for row, path, number in numbers}
    assert published.parse(published.write("p", numbers), "x") == expected


LINE = "p,Table 1,r,c,balanced_accuracy_pct,1.0,0.1,mean,5,,own,full,"


@pytest.mark.parametrize(
    "line, message",
    [
        (LINE.replace("1.0", "one"), "line 2: could not convert string to float: 'one'"),
        (LINE.replace("1.0", "nan"), "'nan' is not finite"),
        (LINE.replace("mean,5", "mean,5.5"), "line 2"),
        (LINE + ",more", "line 2: not 13 fields"),
        (LINE.removesuffix(",full,"), "line 2: not 13 fields"),
        (f"{LINE}\n{LINE}", "line 3: r at c is there twice"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(line, message):
    with pytest.raises(BadInput, match=message) as raised:
        published.parse(",".join(FIELDS) + "\n" + line + "\n", "some.csv")
    assert "some.csv" in str(raised.value) and "\n" not in str(raised.value)


def test_other_columns_and_unknown_tables_are_refused():
    with pytest.raises(BadInput, match="mend its first line"):
        published.parse("a,b\n1,2\n", "some.csv")
    with pytest.raises(BadInput, match=r"'table9.csv'.*released_code_readme.csv, sam_ancestor_readme.csv, table1.csv"):
        published.load("unified_bound", "table9.csv")
    with pytest.raises(BadInput, match="allowed: none"):
        published.load("no_such_paper", "table1.csv")
