"""What the weight-balancing paper's module says, against the paper's own facts and numbers."""

import csv
import math
from importlib.resources import files

import pytest
from text_tables import assert_committed, committed

from papers.wb import COLUMNS, GRIDS, PAPER, TABLE_3_COLUMNS
from replicate import grid
from replicate.record import Store
from replicate.report import tables

C10, C100, MINI, RESNEXT, DIGITS = COLUMNS
TABLES = {table.number: table for table in PAPER.tables}


def cells_of(number, column, **kwargs):
    table = TABLES[number]
    methods = [row.method for block in table.blocks for row in block.rows]
    return grid.cells(PAPER, table.grid, columns=[column], methods=methods, **kwargs)


def programme(method, column=C100, name="table"):
    return grid.cells(PAPER, name, columns=[column], methods=[method])[0].programme


def test_class_counts_and_groups():
    assert C10.data.class_counts() == (4980, 2985, 1790, 1073, 643, 386, 231, 139, 83, 50)
    counts = C100.data.class_counts()
    assert counts[:5] == (480, 458, 437, 417, 399) and counts[-4:] == (6, 5, 5, 5) and sum(counts) == 10457
    assert sum(MINI.data.class_counts()) == 10847
    for column, many, few in ((C10, 1000, 200), (C100, 100, 20), (MINI, 100, 20)):
        for name, (first, last) in column.groups.items():
            for count in column.data.class_counts()[first:last]:
                assert name == ("Many" if count > many else "Few" if count < few else "Medium")
    assert [last - first for first, last in C100.groups.values()] == [34, 35, 31]
    for column in (*COLUMNS, *TABLE_3_COLUMNS):
        ends = [bound for bounds in column.groups.values() for bound in bounds]
        assert ends == sorted(ends) and ends[0] == 0  # groups stand side by side and leave no class out
        assert ends[-1] == (100 if column.data.source in ("cifar100", "mini_imagenet", "mini_imagenet_lt") else 10)


def test_cosine_schedule_as_stepped_before_each_epoch():
    p = programme("WB")
    assert p.length == 330 and p.stage_starts == (1, 321)
    second = [p.epoch(epoch).rate for epoch in range(321, 331)]
    assert [round(rate, 5) for rate in second] == [
        0.00976,
        0.00905,
        0.00794,
        0.00655,
        0.005,
        0.00345,
        0.00206,
        0.00095,
        0.00024,
        0,
    ]
    first = [p.epoch(epoch).rate for epoch in range(1, 321)]
    assert first[0] < 0.01 and first[159] == pytest.approx(0.005) and first[-1] == 0
    assert (p.epoch(320).weight_decay, p.epoch(321).weight_decay) == (5e-3, 0.1)
    assert programme("WD", MINI).epoch(1).weight_decay == 3e-3
    assert programme("WD", TABLE_3_COLUMNS[6], "table3").epoch(1).weight_decay == 1e-2


def test_table_4_of_one_seed_needs_five_backbones_and_one_second_stage():
    planned = cells_of("4", C100)
    assert len(planned) == 12
    assert grid.cost(planned) == grid.Cost(12, 12 * 320 + 10, 5 * 320 + 10)
    roots = {cell.programme.keys("x")[320] for cell in planned}
    assert len(roots) == 5
    assert programme("WB").keys("x")[:321] == programme("WD").keys("x")


def test_adjustments_share_the_training_and_nothing_else():
    plain, add, mult = (programme(method) for method in ("WD", "WD/Add", "WD/Mult"))
    assert plain.keys("x") == add.keys("x") == mult.keys("x")
    assert len({p.key("x") for p in (plain, add, mult)}) == 3
    assert add.adjustment.values[0] == 1 and add.adjustment.values[-1] == 2 and len(add.adjustment.values) == 21
    assert mult.adjustment.values[0] == 0 and mult.adjustment.values[-1] == 1 and len(mult.adjustment.values) == 21


def test_tables_2_3_and_4_share_backbones():
    of_3 = programme("WD w/o BN", TABLE_3_COLUMNS[1], "table3")
    assert of_3.key("x") == programme("WD w/o BN").key("x")
    assert programme("WB", RESNEXT).key("x") != programme("WB").key("x")
    constants = [dict(cell.point)["constant"] for cell in cells_of("2", C100) if cell.method == "WD fixed BN"]
    assert constants == [pytest.approx(0.01 * step) for step in range(1, 21)]
    assert [dict(c.point)["constant"] for c in cells_of("2", DIGITS) if c.method == "WD fixed BN"] == [0.05, 0.1, 0.2]


def test_what_decay_and_projection_act_on():
    assert (
        programme("WD").epoch(1).decayed is None and programme("WD w/o BN").epoch(1).decayed == "convolutions and linear layers"
    )
    assert programme("Naive").epoch(1).weight_decay == 0
    projection = programme("WB").epoch(321).projection
    assert (projection.share, projection.each) == (0.1, "epoch")
    batch = grid.cells(PAPER, "table", columns=[C100], methods=["WB"], variant="max-norm-batch")[0].programme
    assert batch.epoch(321).projection.each == "batch" and batch.keys("x")[320] == programme("WB").keys("x")[320]
    norm = programme("WD+WD&Norm&CB", name="figure6")
    assert norm.epoch(321).projection is None and norm.epoch(321).unit_rows and not norm.epoch(322).unit_rows


def test_every_grid_compiles_on_every_column():
    for name in GRIDS:
        for quick in (False, True):
            assert grid.cells(PAPER, name, quick=quick)
    lengths = {cell.programme.length for cell in grid.cells(PAPER, "table3", columns=list(TABLE_3_COLUMNS[6:]))}
    assert lengths == {150}


def test_every_printed_number_has_its_place_in_a_table():
    """Rows and columns of the tables name every line of the CSVs, and no other."""
    for number, table in TABLES.items():
        if table.descriptive or number == "text":
            continue
        lines = csv.DictReader((files("papers") / "published/wb" / table.published).read_text().splitlines())
        printed = {(line["row"], line["column_path"], line["metric"]) for line in lines}
        places = set()
        for block in table.blocks:
            for row in block.rows:
                for column in table.columns:
                    for metric in table.metrics:
                        data, method = "/".join(column.path), row.label
                        if table.transposed:
                            places.add((data, "/".join((method, *metric.path)), metric.kind))
                        else:
                            places.add((method, "/".join((data, *metric.path)), metric.kind))
        assert places == printed, number


def test_quirks_of_tables_exist():
    names = {quirk.name for quirk in PAPER.quirks}
    for table in PAPER.tables:
        assert set(table.quirks) <= names, table.number


@pytest.mark.parametrize("number", ["2", "3", "4", "6", "8"])
def test_committed_digits_tables_are_what_their_committed_records_give(number):
    table = TABLES[number]
    values = assert_committed(PAPER, table, list(table.stand_ins))
    rows = sum(len(block.rows) for block in table.blocks)
    assert len(values) == rows * len(table.metrics) and all(value.n == 3 for value in values.values())


def in_powers_of_ten(value):
    power = math.floor(math.log10(value))
    return f"{value / 10**power:.2f}×10{'⁰¹²³⁴'[power]}"


def test_the_mnist_rows_in_the_readme_are_the_committed_ones_beside_the_published():
    root = committed(PAPER).parent.parent
    table = TABLES["3"]
    columns = [column for column in TABLE_3_COLUMNS if column.data.source == "mnist"]
    values = assert_committed(PAPER, table, columns, "mnist", "e78deba9817a", "mnist@e78deba9817a")
    printed = tables.printed(PAPER, table)
    shown = [line for line in (root / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| MLP")]
    expected = []
    for column in columns:
        for method in ("Naive", "WD w/o BN", "WD"):
            keys = [("", method, column.name, name) for name in ("before", "after")]
            if keys[0] in values:
                numbers = [in_powers_of_ten(value) for key in keys for value in (printed[key].value, values[key].mean)]
                (seeds,) = {values[key].n for key in keys}
                expected.append(f"| {column.path[0]} | {method} | {seeds} | {' | '.join(numbers)} |")
    assert shown == expected and len(shown) == 9


def test_the_table_in_the_readme_is_the_committed_one():
    root = committed(PAPER).parent.parent
    values = tables.replicas(
        Store(root / "results" / "wb"),
        PAPER,
        TABLES["4"],
        selection="as-published",
        edition_of={"digits": "official"},
        columns=[DIGITS],
    )
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    found = 0
    for row in TABLES["4"].blocks[0].rows:
        method, _, adjustment = row.label.partition("/")
        line = next(line for line in lines if line.startswith(f"| {method} | {adjustment.replace('N/A', '')} |"))
        for group in ("Many", "Medium", "Few", "Average"):
            value = values["", row.label, DIGITS.name, f"Accuracy/{group}"]
            found += f" {value.mean:.1f}<sub>±{value.sd:.1f}</sub> |" in line
    assert found == 12 * 4
