"""The analysis printed from Measures alone."""

import pytest
from fake_records import COLUMN, OFFICIAL, measure, write_level

from papers.unified_bound import PAPER
from replicate import grid
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import bounds

TOLD = {
    "minimal_logit": [2.0, -1.0],
    "lipschitz": {"at_minimum": [0.1, 0.2], "maximum": [0.3, 0.4]},
    "sum": {"at_minimum": {"classes": [0.05, 0.06], "total": 0.11}, "maximum": {"classes": [0.15, 0.16], "total": 0.31}},
    "balanced_accuracy": 0.5,
}


@pytest.fixture
def measured(tmp_path):
    """A store with two seeds of CE and one of CE+DRW; only CE's first seed has its Measure."""
    store = Store(tmp_path)
    planned = grid.cells(PAPER, "table", columns=[COLUMN["cifar10-lt/100"]], methods=["CE", "CE+DRW"], seeds=(0, 1))
    for cell in planned[:3]:
        write_level(store, cell, 70.0)
    measure(store, planned[0], bounds.MEASURE, TOLD)
    return store, planned


def test_a_line_for_every_run_that_has_the_measure(measured):
    store, planned = measured
    assert list(bounds.lines(store, planned, OFFICIAL)) == [("CE", "cifar10-lt/100", 0, -1.0, 0.11, 0.31, 50.0)]


def test_a_line_for_every_class(measured):
    store, planned = measured
    found = list(bounds.lines(store, planned, OFFICIAL, classes=True))
    assert found == [
        ("CE", "cifar10-lt/100", 0, 0, 2.0, 0.1, 0.3, 0.05, 0.15),
        ("CE", "cifar10-lt/100", 0, 1, -1.0, 0.2, 0.4, 0.06, 0.16),
    ]
    printed = bounds.render(found, classes=True)
    assert "Lemma 4, maximum" in printed and "-1.000" in printed and printed.endswith("\n")


def test_a_damaged_measure_is_named(measured):
    store, planned = measured
    (path,) = store.root.glob("measures/*/*/*.json")
    path.write_text("{")
    with pytest.raises(BadInput, match=path.name):
        list(bounds.lines(store, planned, OFFICIAL))
