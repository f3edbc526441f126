"""Programmes, keys and shared beginnings."""

import itertools
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papers.unified_bound import PAPER
from replicate import grid
from replicate.errors import BadInput
from replicate.protocol import CrossEntropy, Drops, Feed, Free, Method, Objective, Sgd, Stage, VectorScaling, canonical

COLUMN = {column.name: column for column in PAPER.columns}
C10 = COLUMN["cifar10-lt/100"]


def programme(method, column=C10, variant=None, name="table", **kwargs):
    return grid.cells(PAPER, name, columns=[column], methods=[method], variant=variant, **kwargs)[0].programme


def rates(p):
    return [p.epoch(e).rate for e in range(1, p.length + 1)]


def test_schedule_as_released():
    told = rates(programme("CE"))
    assert told[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])
    assert set(told[5:160]) == {0.1} and set(told[160:180]) == {1e-3} and set(told[180:]) == {1e-5}
    assert len(told) == 200


def test_text_variant_changes_the_two_drops_only():
    told, text = rates(programme("CE+DRW")), rates(programme("CE+DRW", variant="text"))
    assert text[:160] == told[:160]
    assert set(text[160:180]) == {1e-2} and set(text[180:]) == {1e-3}


def test_released_schedule_keeps_its_slope_over_a_doubled_warm_up():
    told = rates(programme("CE+SAM", name="released"))
    assert told[:11] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.1])
    assert (told[319], told[320], told[359], told[360]) == (0.1, 1e-3, 1e-3, 1e-5) and len(told) == 400


def test_deferred_parts_set_in_after_epoch_160():
    p = programme("VS+TLA+ADRW")
    before, after = p.epoch(160).objective, p.epoch(161).objective
    assert before.loss == VectorScaling(0.05, 1.0) and before.weights is None
    assert after.loss == VectorScaling(0.0, 1.0) and after.weights.nu == 0.15
    assert p.switches == (160,) and programme("CE").switches == ()


def test_released_resume_restarts_momentum_once():
    p = programme("VS+TLA+ADRW+SAM", COLUMN["cifar100-lt/100"], name="released")
    restarts = [e for e in range(1, 401) if p.epoch(e).restart_momentum]
    assert restarts == [321]
    assert (p.epoch(320).sam_radius, p.epoch(321).sam_radius) == (0.2, 0.4)
    assert {p.epoch(e).weight_decay for e in (1, 320, 400)} == {2e-4}
    assert p.epoch(400).objective.loss == VectorScaling(0.0, 0.75)


def test_table_1_of_one_column_costs_2800_epochs_instead_of_9200():
    assert grid.cost(grid.cells(PAPER, "table", columns=[C10])) == grid.Cost(46, 9200, 2800)


def test_variants_cost_forty_epochs_each():
    planned = [
        cell
        for variant in (None, "text", "text-mean")
        for cell in grid.cells(PAPER, "table", columns=[C10], methods=["CE+DRW"], variant=variant)
    ]
    assert [grid.cost(planned[:n]).epochs_shared for n in (1, 2, 3)] == [200, 240, 280]


def test_released_grid_has_the_32_scripted_runs():
    planned = grid.cells(PAPER, "released")
    assert len(planned) == 32 and {cell.programme.length for cell in planned} == {400}
    assert grid.cost(planned).cells == 32


@pytest.mark.parametrize("variant", ["text", "text-mean"])
def test_a_scripted_run_is_no_place_for_a_variant_of_which_it_fixes_a_part(variant):
    plain, other = (grid.cells(PAPER, "released", variant=name) for name in (None, variant))
    assert [cell.programme.key("") for cell in plain] == [cell.programme.key("") for cell in other]
    assert not grid.moves(PAPER, "released", PAPER.grids["released"].columns, list(PAPER.methods("released")), variant)


def test_dividing_by_the_batch_means_nothing_without_weights():
    text, mean = programme("VS", variant="text"), programme("VS", variant="text-mean")
    assert text.keys("x") == mean.keys("x")
    assert programme("CE+DRW", variant="text").keys("x")[-1] != programme("CE+DRW", variant="text-mean").keys("x")[-1]


def test_figure_3_at_the_papers_switch_is_table_1():
    cells = {cell.point: cell for cell in grid.cells(PAPER, "figure3", columns=[C10], methods=["CE+DRW"])}
    assert cells[(("switch", 160),)].programme.keys("x") == programme("CE+DRW").keys("x")
    ce = {cell.point: cell for cell in grid.cells(PAPER, "figure3", columns=[C10], methods=["CE+None"])}
    assert rates(ce[(("switch", 60),)].programme)[59:62] == [0.1, 1e-3, 1e-3]
    assert rates(ce[(("switch", 60),)].programme)[80] == 1e-5


def test_keys_depend_on_everything_that_decides_numbers_and_on_no_name():
    p = programme("CE")
    assert p.keys("official") != p.keys("0123456789ab")
    assert grid.cell_key(p.keys("x")[-1], 0) != grid.cell_key(p.keys("x")[-1], 1)
    start = p.start
    for other in (
        replace(start, head="cosine"),
        replace(start, data=replace(start.data, ratio=10)),
        replace(start, data=replace(start.data, test=10)),
        replace(start, network=replace(start.network, backbone="convnet3")),
    ):
        assert grid.Programme(other, p.runs).keys("x")[0] != p.keys("x")[0]


ROWS = st.builds(
    grid.Epoch,
    objective=st.just(Objective(CrossEntropy())),
    rate=st.sampled_from([0.1, 0.01]),
    momentum=st.just(0.9),
    weight_decay=st.sampled_from([0.0, 2e-4]),
    feed=st.just(Feed(8)),
    sam_radius=st.sampled_from([None, 0.1]),
)


@settings(max_examples=80, deadline=None)
@given(first=st.lists(ROWS, min_size=1, max_size=8), second=st.lists(ROWS, min_size=1, max_size=8))
def test_keys_agree_exactly_as_long_as_the_rows_do(first, second):
    def chain(rows):
        runs = tuple((len(list(alike)), row) for row, alike in itertools.groupby(rows))
        return grid.Programme(programme("CE").start, runs).keys("x")

    a, b = chain(first), chain(second)
    alike = list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
    for epoch in range(1, min(len(first), len(second)) + 1):
        assert (a[epoch] == b[epoch]) == (epoch <= len(alike))


def test_a_part_that_is_absent_moves_no_key_and_a_revision_moves_its_own():
    class Later(Feed):
        pass

    told = canonical(Feed(8))
    assert told == {"kind": "Feed", "batch": 8}
    Later.revision = 2
    assert canonical(Later(8)) == {"kind": "Later", "revision": 2, "batch": 8}
    assert canonical(1.0) == 1 and canonical((1, 2.5, None)) == [1, 2.5, None]
    with pytest.raises(TypeError, match="nu"):
        canonical(Free("nu"))


def test_branches_are_where_programmes_part():
    planned = [cell.programme for cell in grid.cells(PAPER, "table", columns=[C10])]
    assert set(grid.branch_epochs(planned).values()) == {160}


def test_epochs_left_counts_each_distinct_epoch_once_and_goes_on_from_checkpoints():
    planned = grid.cells(PAPER, "table", columns=[C10], methods=["CE", "CE+DRW"])
    editions = {"cifar10": "official"}

    def left(finished=lambda cell: False, begun=lambda cell: 0):
        return len(grid.epochs_left(planned, editions, finished, begun))

    assert left() == 240
    assert left(begun=lambda cell: 160) == 80
    assert left(finished=lambda cell: cell.method == "CE", begun=lambda cell: 160) == 40
    assert left(finished=lambda cell: True) == 0


def test_quick_keeps_an_epoch_of_every_stretch_and_has_keys_of_its_own():
    p = programme("CE+DRW", quick=True)
    assert p.length == 2 and {row.batches for _, row in p.runs} == {2} and p.start.data.test == 10
    assert p.epoch(2).objective.weights is not None and p.epoch(2).rate == 1e-3
    assert not set(p.keys("x")) & set(programme("CE+DRW").keys("x"))
    assert grid.cost(grid.cells(PAPER, "table", columns=[C10], quick=True)).cells == 16


def test_digits_keep_one_nu_outside_the_full_grid():
    digits = COLUMN["digits/45"]
    assert grid.cost(grid.cells(PAPER, "table", columns=[digits])).cells == 16
    assert grid.axes(PAPER.grids["full"], "CE+ADRW", digits) == ("nu",)
    assert digits.data.class_counts()[0] == 90 and digits.data.class_counts()[-1] == 2


def test_a_switch_outside_its_stage_is_refused():
    stage = Stage(10, Objective(CrossEntropy()), Sgd(Drops(0.1, ())), Feed(8))
    with pytest.raises(ValueError, match="outside"):
        grid.compile_method(Method(stage).then_from(10, weights=None), C10, {})
    with pytest.raises(TypeError, match="rate"):
        Method(stage).then_from(5, rate=0.1)
    with pytest.raises(TypeError, match="nu"):
        grid.compile_method(PAPER.methods("table")["CE+ADRW"], C10, C10.values)


def test_unknown_names_are_one_line():
    with pytest.raises(BadInput, match="allowed: CE, LDAM"):
        grid.cells(PAPER, "table", methods=["Magic"])
    with pytest.raises(BadInput, match="text, text-mean"):
        grid.cells(PAPER, "table", variant="other")


@pytest.mark.parametrize(
    "room", ["papers.unified_bound", "replicate.protocol", "replicate.grid", "replicate.record", "replicate.report.tables",
             "replicate.report.diff", "replicate.cli", "replicate.cli.report", "replicate.cli.plan", "replicate.cli.run",
             "replicate.cli.measures", "replicate.cli.data"],
)  # fmt: skip
def test_rooms_that_must_not_load_torch(room):
    code = f"import sys, {room}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_paper_imports_the_protocol_alone():
    code = (
        "import sys, papers.unified_bound; print(sorted(m for m in sys.modules if m.split('.')[0] in ('papers', 'replicate')))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "['papers', 'papers.unified_bound', 'replicate', 'replicate.protocol']"
