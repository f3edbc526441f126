"""The weight-balancing paper's Measures printed from a store, whole or in part."""

import pytest
from fake_records import measure, put, record

from papers.wb import PAPER
from replicate import grid
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import geometry

(DIGITS,) = (column for column in PAPER.columns if column.name == "digits/45")
SEPARATION = {
    "fdr": {"train": 28700.0, "test": 107.0},
    "cosine": {"inter": 0.01, "intra": 0.97, "matrix": []},
    "feature_norm": {"train": {"mean_of_norms": [2.0, 1.5], "norm_of_mean": [1.9, 1.25]}},
    "norm_fit": {"mean_of_norms": {"c_0": 3.0, "gamma_0": 0.25}},
    "classifier_norm": {"norms": [4.0, 2.0], "ratio": [1.0, 0.5]},
    "batch_norm": {"top": {"scale_mean": 0.19, "shift_variance": 0.009}},
}
FORGETTING = {"score": [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0, None, 7.0, 9.0], "epochs": 40}
NEAR = {"from_theorem": {"total": 0.5}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def cells(*methods, seeds=(0,)):
    return grid.cells(PAPER, "table", columns=[DIGITS], methods=list(methods), seeds=seeds)


def finish(store, *planned):
    for cell in planned:
        put(store, cell, record([[1], [1]]))


def test_a_line_for_every_trained_state_with_what_is_there(store):
    naive, other, wd, add, wb, etf = (*cells("Naive", seeds=(0, 1)), *cells("WD", "WD/Add", "WB", "WD&ETF"))
    finish(store, naive, other, add, wb, etf)  # WD was trained for its adjustment alone
    measure(store, naive, "separation", SEPARATION)
    measure(store, naive, "forgetting", FORGETTING)
    measure(store, wd, "separation", {"fdr": {"train": None}})
    near = {"trained": {"from_theorem": {"total": 2.0}}, "exact": NEAR}
    measure(store, wb, "second_stage", {"as_trained": near, "beta_1": near, "unweighted": {"exact": NEAR}})
    told = {"premise": 0.5, "delta": 0.25, "asserted": 8, "satisfied": 8, "smallest_slack": 0.1}
    measure(store, etf, "etf_cosine", told)
    found = list(geometry.lines(store, cells("Naive", "WD", "WD/Add", "WB", "WD&ETF"), {"digits": "official"}))
    assert [line[:3] for line in found] == [
        ("Naive", "digits/45", 0),
        ("WD/Add", "digits/45", 0),
        ("WB", "digits/45", 0),
        ("WD&ETF", "digits/45", 0),
    ]
    assert found[0][3:] == (28700.0, 107.0, 0.01, 0.97, 3.0, 0.25, 0.19, 0.009, 2.5, 8.0, *[None] * 10)
    assert set(found[1][3:]) == {None}
    assert found[2][-6:] == (2.0, 0.5, None, 2.0, 0.5, 0.5) and found[3][-10:-6] == (0.5, 0.25, 1.0, 0.1)
    text = geometry.render(found)
    assert text.count("Naive ") == 2 and text.count("WB ") == 1 and "WD/Add" not in text and text.endswith("\n")
    assert "2.87e+04" in text and "Theorem 1, " in text and "Theorems 2 and 3" in text
    assert "Theorem" not in geometry.render(found[:1])


def test_a_line_for_every_class(store):
    naive, etf = cells("Naive", "WD&ETF")
    finish(store, naive, etf)
    measure(store, naive, "separation", SEPARATION)
    measure(store, naive, "forgetting", {"score": [1.0, None]})
    found = list(geometry.lines(store, [naive, etf], {"digits": "official"}, classes=True))
    assert found == [
        ("Naive", "digits/45", 0, 0, 2.0, 1.9, 1.0, 1.0),
        ("Naive", "digits/45", 0, 1, 1.5, 1.25, 0.5, None),
    ]
    text = geometry.render(found, classes=True)
    assert "classifier norm ratio" in text and "1.25" in text


def test_a_line_for_every_step(store):
    naive, wd = cells("Naive", "WD")
    finish(store, naive, wd)
    steps = [{"step": "block 1 linear", "fdr": 10.0}, {"step": "block 1 ReLU", "fdr": None}]
    untrained = [{"step": "block 1 linear", "fdr": 4.0}, {"step": "block 1 ReLU", "fdr": 3.0}]
    measure(store, naive, "relu_fdr", {"trained": steps, "untrained": untrained})
    found = list(geometry.lines(store, [naive, wd], {"digits": "official"}, steps=True))
    assert found == [
        ("Naive", "digits/45", 0, "block 1 linear", 10.0, 4.0),
        ("Naive", "digits/45", 0, "block 1 ReLU", None, 3.0),
    ]
    assert "FDR untrained" in geometry.render(found, steps=True)


def test_a_store_without_measures_has_no_lines_and_a_damaged_one_is_named(store):
    (naive,) = cells("Naive")
    finish(store, naive)
    for classes in (False, True):
        assert list(geometry.lines(store, [naive], {"digits": "official"}, classes=classes)) == []
    measure(store, naive, "separation", SEPARATION)
    (path,) = store.root.glob("measures/*/*/*.json")
    path.write_text("[]")
    with pytest.raises(BadInput, match=path.name):
        list(geometry.lines(store, [naive], {"digits": "official"}))
