"""What the logits-retargeting paper's module says, against the paper's own facts and numbers."""

import csv
from importlib.resources import files

import pytest
from text_tables import assert_committed, committed

from papers.lort import CIFAR_COLUMNS, COLUMNS, DIGITS_LT, GRIDS, PAPER, TABLE_3_COLUMNS, TABLE_3_DIGITS
from replicate import grid
from replicate.protocol import BEST_ON_TEST, CLASS_BALANCED, EVALUATING
from replicate.record import Store
from replicate.report import tables

TABLES = {table.number: table for table in PAPER.tables}
C100 = CIFAR_COLUMNS[0]


def programme(method, column=C100, name="table", **kwargs):
    return grid.cells(PAPER, name, columns=[column], methods=[method], **kwargs)[0].programme


def test_class_counts_and_groups():
    totals = {100: 10847, 50: 12608, 10: 19573}
    sizes = {100: [35, 35, 30], 50: [41, 41, 18], 10: [69, 31]}
    for column in CIFAR_COLUMNS:
        counts = column.data.class_counts()
        assert (sum(counts), counts[0], counts[-1]) == (totals[column.ratio], 500, 500 // column.ratio)
        assert [last - first for first, last in column.groups.values()] == sizes[column.ratio]
        for name, (first, last) in column.groups.items():
            for count in counts[first:last]:
                assert name == ("Many" if count > 100 else "Few" if count < 20 else "Medium")
        assert column.data.mirrored and column.data.validation is None
        assert column.data.evaluated == 20_000
    assert not DIGITS_LT.data.mirrored


def test_the_two_stages_as_stated():
    p = programme("LORT")
    assert p.length == 220 and p.stage_starts == (1, 201) and p.frozen_from == 201
    first, second = p.epoch(1), p.epoch(201)
    assert (first.rate, first.weight_decay, first.momentum, first.feed.batch) == (0.01, 5e-3, 0.9, 64)
    assert 0 < p.epoch(200).rate < 1e-6 and p.epoch(101).rate == pytest.approx(0.005)
    assert (second.trained, second.batch_norm, second.begins, second.starts_from) == ("head", EVALUATING, True, None)
    assert (first.trained, first.batch_norm, first.hands_over) == (None, None, None)
    assert second.objective.loss.delta == 0.98
    assert programme("LORT", DIGITS_LT).epoch(41).objective.loss.delta == 0.83


def test_table_1_of_one_seed_rides_one_backbone_and_forty_passes():
    rows = [row.method for block in TABLES["1"].blocks for row in block.rows]
    assert len(rows) == 13
    planned = grid.cells(PAPER, "table", columns=[C100], methods=rows)
    cost = grid.cost(planned)
    # 25 pairs of learning rate and weight decay; times 3 scales, 2 margins, 3 gammas and 2 betas.
    heads = 25 * (3 + 1 + 2 + 1 + 3 + 2 + 1 + 1 + 1)
    assert cost.frozen == {None: (heads, 20), CLASS_BALANCED: (25, 20)}
    assert (cost.cells, cost.epochs_shared) == (3 + heads + 25, 200 + 20 + 20)
    packs = {cell.programme.pack("x") for cell in planned} - {None}
    assert len(packs) == 2 and len({cell.programme.keys("x")[200] for cell in planned}) == 1
    assert (
        sum(cell.programme.epoch(201).feed.sampler == CLASS_BALANCED for cell in planned if cell.programme.length > 200) == 25
    )


def test_features_without_augmentation_are_one_pass_for_all_samplers():
    planned = grid.cells(PAPER, "table", columns=[C100], methods=["LORT", "Re-Sampling"], variant="plain-features")
    assert grid.cost(planned).epochs_shared == 200 + 1


def test_variants_move_what_they_name():
    long = programme("LORT", variant="320-epochs")
    assert long.length == 340 and long.epoch(320).rate == pytest.approx(0, abs=1e-12)  # the schedule is stepped before
    assert 0.0099 < long.epoch(1).rate < 0.01 == programme("LORT").epoch(1).rate
    best = programme("LORT", variant="best-backbone")
    assert (best.epoch(1).hands_over, best.epoch(200).hands_over, best.epoch(201).hands_over) == (*[BEST_ON_TEST] * 2, None)
    assert best.epoch(201).starts_from == BEST_ON_TEST and best.epoch(202).starts_from is None and best.frozen_from == 201
    assert programme("LDAM-DRW", TABLE_3_COLUMNS[1], "table3", variant="best-backbone").epoch(201).starts_from == BEST_ON_TEST
    alike = grid.cells(PAPER, "table", columns=[C100], variant="best-backbone")
    assert grid.cost(alike).epochs_shared == 240  # it rides passes as the table does
    plain = programme("LORT", variant="plain-features")
    assert plain.keys("x")[200] == programme("LORT").keys("x")[200]
    assert plain.epoch(201).feed.augmentation is None
    assert programme("CE", TABLE_3_COLUMNS[1], "table3", variant="320-epochs").length == 220  # its backbones are its own


def test_heads_and_losses_of_the_rows():
    told = {cell.method: cell.programme for cell in reversed(grid.cells(PAPER, "table", columns=[C100]))}
    forms = {method: p.epoch(201).head for method, p in told.items() if p.length > 200}
    assert {method for method, form in forms.items() if form} == {"Vanilla Cosine", "Learnable Weight Scaling"}
    assert told["Vanilla Cosine"].epoch(201).objective.scale == 8
    assert told["LDAM Loss"].epoch(201).objective.loss.scale == 1
    balanced = told["Balanced-Softmax Loss"].epoch(201).objective.loss
    assert (balanced.gamma, balanced.tau) == (0, 1)
    bce = told["Class-Balanced Loss (with BCE loss)"].epoch(201).objective
    assert (bce.mean, bce.weights.beta) == ("batch", 0.999)
    assert told["MaxNorm"].epoch(201).projection.share == 0.1
    assert told["tau-normalized"].keys("x") == told["Post-hoc Logit Adjustment"].keys("x") == told["Vanilla FC"].keys("x")
    assert 1.9 in told["tau-normalized"].adjustment.values and len(told["tau-normalized"].adjustment.values) == 21


def test_table_3_has_four_backbones_and_keeps_the_cosine_classifier():
    planned = grid.cells(PAPER, "table3", columns=list(TABLE_3_COLUMNS))
    cost = grid.cost(planned)
    assert cost.frozen == {None: (4 * 25 * (1 + 3 + 2 + 1 + 2 + 1), 80)}
    # CE and CE-DRW share 160 epochs; LDAM-DRW and BS have losses of their own from the start.
    assert cost.epochs_shared == 200 + 40 + 200 + 200 + 80
    for cell in planned:
        p, cosine = cell.programme, cell.method == "LDAM-DRW"
        assert p.start.head == ("cosine" if cosine else "linear")
        assert (p.epoch(160).rate, p.epoch(161).rate, p.epoch(181).rate) == (0.1, 1e-2, 1e-3)
        assert (p.epoch(1).weight_decay, p.epoch(1).rate) == (2e-4, 0.02)
        drw = p.epoch(161).objective.weights is not None
        assert drw == ("DRW" in cell.method) and p.epoch(160).objective.weights is None
        if p.length > 200:
            loss = p.epoch(201).objective
            assert (loss.scale or getattr(loss.loss, "scale", 1)) == (30 if cosine else 1)
    vanilla = [cell.programme for cell in planned if cell.column.then == "Vanilla"]
    assert [p.length for p in vanilla] == [200] * 4


def test_table_2_shares_its_column_with_table_1():
    assert programme("LORT").key("x") in {
        cell.programme.key("x") for cell in grid.cells(PAPER, "table", columns=[C100], methods=["LORT"])
    }
    quoted = [row for block in TABLES["2"].blocks for row in block.rows if row.method is None]
    assert len(quoted) == 20 and [row.label for row in quoted if row.elsewhere] == ["EWB-FDR"]


def test_figures_4_and_5_ride_the_backbone_of_table_1():
    table = grid.cells(PAPER, "table", columns=[C100])
    for name, points in (("figure4", 13 * 25), ("figure5", 50), ("later-code", 1)):
        found = grid.cells(PAPER, name, columns=[C100])
        assert len(found) == points
        assert grid.cost([*table, *found]).epochs_shared == 240
    known = {cell.programme.key("x") for cell in table}
    assert sum(cell.programme.key("x") in known for cell in grid.cells(PAPER, "figure5", columns=[C100])) == 50
    assert sum(cell.programme.key("x") in known for cell in grid.cells(PAPER, "figure4", columns=[C100])) == 25
    assert grid.cells(PAPER, "figure4", columns=[C100])[0].programme.epoch(201).objective.loss.delta == 0


def test_every_grid_compiles_on_every_column():
    for name in GRIDS:
        for quick in (False, True):
            assert grid.cells(PAPER, name, quick=quick)


def test_every_printed_number_has_its_place_in_a_table():
    """Rows and columns of the tables name every line of the CSVs, and no other."""
    for table in PAPER.tables:
        lines = csv.DictReader((files("papers") / "published/lort" / table.published).read_text().splitlines())
        printed = {(line["row"], line["column_path"]) for line in lines}
        paths = ["/".join((*column.path, *metric.path)) for column in table.columns for metric in table.metrics]
        paths += ["/".join(path) for path in table.beside]
        rows = [row.label for block in table.blocks if not block.added for row in block.rows]
        assert {(row, path) for row in rows for path in paths} == printed, table.number


def test_quirks_of_tables_exist_and_variants_belong_to_one():
    names = {quirk.name for quirk in PAPER.quirks}
    for table in PAPER.tables:
        assert set(table.quirks) <= names, table.number
    assert {quirk.variant for quirk in PAPER.quirks} - {None} == {variant.name for variant in PAPER.variants}


def test_columns_are_told_apart_by_name():
    names = [column.name for column in (*COLUMNS, *TABLE_3_COLUMNS, *TABLE_3_DIGITS)]
    assert len(set(names)) == len(names) == 4 + 7 + 7


@pytest.mark.parametrize("number", ["1", "3"])
def test_committed_digits_tables_are_what_their_committed_records_give(number):
    table = TABLES[number]
    values = assert_committed(PAPER, table, list(table.stand_ins))
    rows = sum(len(block.rows) for block in table.blocks)
    assert len(values) == rows * len(table.metrics) * len(table.stand_ins)
    assert all(value.n == 3 for value in values.values())


def test_the_table_in_the_readme_is_the_committed_one():
    root = committed(PAPER).parent.parent
    how = {"selection": "as-published", "edition_of": {"digits": "official"}, "columns": [DIGITS_LT]}
    values = tables.replicas(Store(root / "results" / "lort"), PAPER, TABLES["1"], **how)
    lines = (root / "README.md").read_text(encoding="utf-8").splitlines()
    gained = []
    for block in TABLES["1"].blocks:
        for row in block.rows:
            every, few = (values[block.title, row.label, DIGITS_LT.name, name] for name in ("All", "Few"))
            honest = every.cross_fitted
            told = [f"{x.mean:.1f}<sub>±{x.sd:.1f}</sub>" for x in (every, honest, few)]
            assert f"| {row.label} | {every.best:.1f} | {' | '.join(told)} |" in lines
            gained.append(every.best - honest.mean)
    text = " ".join(lines)
    assert f"is worth {min(gained):.1f} to {max(gained):.1f} points to a row here" in text
