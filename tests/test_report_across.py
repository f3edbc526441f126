"""The cross-paper table: the same method on the same data, as several papers print it, beside ours."""

import csv
import io
from collections import Counter, defaultdict
from dataclasses import replace
from importlib import import_module

import pytest
from fake_records import write_groups, write_level

from papers import PAPERS
from replicate import grid
from replicate.data.editions import EDITIONS, comparability
from replicate.errors import BadInput
from replicate.protocol import Across
from replicate.record import Store
from replicate.report import across, published

LOADED = {name: import_module(f"papers.{name}").PAPER for name in PAPERS}


def lines(root, selection="as-published", papers=None):
    return across.lines([(paper, Store(root)) for paper in (papers or LOADED.values())], comparability, selection)


def found(told, method, data):
    return [line for line in told if (line.method, line.data) == (method, data)]


def test_every_shared_name_is_used_by_two_sources_and_every_named_number_is_accuracy():
    methods, data = defaultdict(set), defaultdict(set)
    for paper in LOADED.values():
        for of in paper.across:
            for shared, names in ((methods, of.rows), (data, of.columns)):
                for name in names.values():
                    shared[name].add(of.by or paper.name)
            for place, _ in published.every(paper.name, of.published):
                if place[0] in of.rows and place[1] in of.columns:
                    assert place[2].endswith("accuracy_pct")
    assert all(len(sources) > 1 for sources in (*methods.values(), *data.values()))


def test_numbers_are_those_that_the_papers_print(tmp_path):
    told = lines(tmp_path)
    for line in told:
        numbers = [
            number
            for of in line.paper.across
            for place, number in published.every(line.paper.name, of.published)
            if place[:2] == (line.row, line.path)
        ]
        assert line.number in numbers and line.number.value is not None and line.replica is None
    assert [(line.paper.name, line.number.table, line.number.value_text, line.number.provenance) for line in found(
        told, "LDAM-DRW", "CIFAR-100-LT, ratio 100"
    )] == [
        ("unified_bound", "Table 1", "42.7", "own"),
        ("lort", "Table 2", "42.0", "quoted"),
        ("lort", "Table 3", "44.43", "own"),
    ]  # fmt: skip
    assert [line.number.value_text for line in found(told, "CE, weight decay 5e-3", "CIFAR-100-LT, ratio 100")] == [
        "46.0", "47.9", "47.18", "46.76", "48.44",
    ]  # fmt: skip
    sources = Counter((line.method, line.data, line.by or line.paper.name) for line in told)
    of_place = Counter((method, data) for method, data, _ in sources)
    assert len(of_place) > 25 and min(of_place.values()) > 1
    assert not found(told, "CE-DRW with SAM", "CIFAR-10-LT, ratio 100")  # the paper's own is illegible: one source is left


def test_what_two_papers_quote_of_large_data_sets_is_one_number(tmp_path):
    """A fact about the papers that the table's notes rest on."""
    told = [line for line in lines(tmp_path) if line.data in ("ImageNet-LT", "iNaturalist 2018")]
    values = defaultdict(set)
    for line in told:
        assert line.number.provenance == "quoted"
        values[line.method, line.data].add(line.number.value)
    assert len(values) > 15 and all(len(of) == 1 for of in values.values())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """CE under the protocols of three papers, at official data; and a redrawn edition of it, which is never shown."""
    root = tmp_path_factory.mktemp("store")
    kept = Store(root)

    def cells(name, of, method, column, seeds):
        paper = LOADED[name]
        columns = [c for c in paper.grids[of].columns if c.name == column]
        return grid.cells(paper, of, columns=columns, methods=[method], seeds=seeds)

    for level, cell in zip((70.0, 72.0), cells("unified_bound", "table", "CE", "cifar10-lt/100", (0, 1)), strict=True):
        write_level(kept, cell, level)
        write_level(kept, cell, 99.0, edition="0123456789ab")
    for cell in cells("unified_bound", "table", "CE", "cifar100-lt/100", (0,)):
        write_level(kept, cell, 38.5)
    for cell in cells("wb", "table", "Naive", "cifar10-lt/100", (0,)):
        write_groups(kept, cell, {"": 69.0})
    of_lort = cells("lort", "table3", "CE", "cifar100-lt/100/Vanilla", (0, 1, 2))
    for level, cell in zip((41.0, 42.0, 40.0), of_lort, strict=True):
        write_groups(kept, cell, {"": level})
    return root


def test_ours_stand_beside_the_print_whose_protocol_they_follow(store):
    told = lines(store)
    ub, wb = found(told, "CE", "CIFAR-10-LT, ratio 100")
    assert ub.ours == ("mean", pytest.approx(71.0), pytest.approx(1.0)) and ub.replica.n == 2
    assert wb.ours == ("mean", pytest.approx(69.0), None)
    assert ub.protocol == "resnet32, 200 epochs, decay 0.0002, 12,406 images"
    assert wb.protocol == "resnet34_3x3, 320 epochs, decay 0, 12,360 images"
    here = found(told, "CE", "CIFAR-100-LT, ratio 100")
    assert [(line.paper.name, line.number.value) for line in here if line.replica] == [("unified_bound", None), ("lort", 41.59)]
    assert here[-1].ours == ("best", pytest.approx(42.0), None)  # as this paper reports
    (honest,) = (line for line in lines(store, "cross-fitted") if line.replica and line.paper.name == "lort")
    assert honest.ours[0] == "mean" and honest.ours[1] == pytest.approx(41.0)
    assert all(line.replica is None for line in told if line.protocol == "quoted" or line.by)


def test_a_comparable_copy_stands_in_where_there_is_no_official_one_and_is_named(tmp_path):
    columns = [column for column in LOADED["unified_bound"].columns if column.name == "cifar10-lt/100"]
    cells = [grid.cells(LOADED["unified_bound"], "table", columns=columns, methods=[method])[0] for method in ("CE", "CE+DRW")]
    kept = Store(tmp_path)
    (copy,) = [edition for (source, edition), (told, *_) in EDITIONS.items() if source == "cifar10" and told == "comparable"]
    write_level(kept, cells[0], 99.0, edition="0123456789ab")  # redrawn: never shown
    assert all(line.replica is None for line in lines(tmp_path))
    write_level(kept, cells[0], 70.0, edition=copy)
    told = lines(tmp_path)
    (line,) = [line for line in told if line.replica]
    assert line.edition == f"cifar10@{copy}" and line.ours[1] == pytest.approx(70.0)
    assert f"70.00  1 run, on cifar10@{copy}\n" in across.render(told, "text")
    (row,) = [row for row in csv.DictReader(io.StringIO(across.render(told, "csv"))) if row["replica"]]
    assert (row["replica"], row["edition"]) == ("70.0000", f"cifar10@{copy}")
    write_level(kept, cells[0], 60.0)
    (line,) = [line for line in lines(tmp_path) if line.replica]
    assert line.edition == "official" and line.ours[1] == pytest.approx(60.0)
    assert "60.00  1 run\n" in across.render(lines(tmp_path), "text")


def cells_of(row):
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_text_and_markdown_say_the_same(store):
    told = lines(store)
    text, markdown = (across.render(told, form) for form in ("text", "markdown"))
    assert max(map(len, markdown.splitlines())) > 100
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({tuple(i for i, sign in enumerate(row) if sign == "|") for row in rows}) == 1
    assert len(rows) == 2 + len(told)
    for line, row in zip(told, rows[2:], strict=True):
        *_, shown, of, ours, _ = cells_of(row)
        value = f"{line.number.value_text}±{line.number.std_text}" if line.number.std_text else line.number.value_text
        assert shown == (f"[{value}]" if line.number.provenance == "quoted" else value)
        assert (of == "") == (line.number.n is None or line.number.value is None)
        assert (ours == "") == (line.replica is None)
        assert f"  {shown}" in text and (not ours or f"{ours}  " in text)
    assert "71.00±1.00  mean of 2" in text and "42.00  best of 3" in text and "41.59  best of 5" in text
    assert "[42.0]" in text and "no second observation" in text.replace("\n  ", " ")
    assert "selection as-published: per seed the best epoch on the validation split" in text.replace("\n  ", " ")


def test_the_csv_has_every_line_whole(store):
    told = lines(store)
    rows = list(csv.DictReader(io.StringIO(across.render(told, "csv"))))
    assert len(rows) == len(told) and tuple(rows[0]) == across.FIELDS
    for line, row in zip(told, rows, strict=True):
        assert (row["method"], row["data"], row["paper"]) == (line.method, line.data, line.paper.name)
        assert (row["published"], row["published_std"]) == (line.number.value_text, line.number.std_text)
        assert row["note"] == line.number.note
    (row,) = (row for row in rows if row["paper"] == "unified_bound" and row["replica"] == "71.0000")
    assert (row["replica_sd"], row["replica_n"], row["replica_statistic"]) == ("1.0000", "2", "mean")
    with pytest.raises(BadInput, match="allowed: text, markdown, csv"):
        across.render(told, "latex")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"rows": {"w/o SAM/EC": "CE"}}, "row 'w/o SAM/EC' is not in 'table1.csv' of unified-bound; mend its ACROSS"),
        ({"columns": {"CIFAR-10": "CIFAR-10"}}, "is not in 'table1.csv' of unified-bound; mend its ACROSS"),
    ],
)
def test_a_name_that_a_csv_does_not_have_is_refused(tmp_path, wrong, message):
    paper = LOADED["unified_bound"]
    broken = replace(paper, across=(replace(paper.across[0], **wrong),))
    with pytest.raises(BadInput, match=message):
        lines(tmp_path, papers=[broken])
    assert lines(tmp_path, papers=[replace(paper, across=(Across("table2.csv", {}, {}),))]) == []
