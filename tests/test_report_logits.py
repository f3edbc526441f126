"""The logits-retargeting paper's figures printed from a store: what is derived, what is chosen, what is refused."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fake_records import measure, put, record
from test_cli import assert_refused, call, call_here, call_without_torch
from torch import nn
from torch.nn import functional

from papers.lort import PAPER
from replicate import grid
from replicate.adjust import adjusted_logits, log_prior
from replicate.errors import BadInput
from replicate.measures.logits import logit_statistics
from replicate.protocol import AdditiveAdjustment, MultiplicativeAdjustment, TauNormalisation
from replicate.record import Store
from replicate.report import logits
from replicate.report.logits import Statistics

__all__ = ["call_here"]  # a fixture

DIGITS = next(column for column in PAPER.columns if column.name == "digits/45")
TABLE = PAPER.tables[0]
GROUPS = {name: list(bounds) for name, bounds in DIGITS.groups.items()}
IMAGES = {"Many": 120, "Medium": 90, "Few": 90}
COUNTS = (90, 61, 42, 30, 22, 15, 10, 6, 4, 2)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(scope="module")
def classifier():
    """Features [300, 4] of 10 classes, their labels, and a linear head."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 10
    features = torch.randn(300, 4, generator=draw) + 2 * torch.randn(10, 4, generator=draw)[labels]
    head = nn.Linear(4, 10)
    with torch.no_grad():
        head.weight.normal_(generator=draw)
        head.bias.normal_(generator=draw)
    return features, labels, head


def told_of(z, labels, head):
    return logit_statistics(z, labels, 10, head.weight, head.bias)


@pytest.fixture(scope="module")
def told(classifier):
    features, labels, head = classifier
    with torch.no_grad():
        return told_of(head(features), labels, head)


# --- what is derived --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adjustment", [TauNormalisation((0.7, 1.9)), AdditiveAdjustment((0.25, 2.0))])
@pytest.mark.parametrize("place", [0, 1])
def test_statistics_of_adjusted_logits_are_those_measured_on_them(classifier, told, adjustment, place):
    """Lengths of class vectors included: bias and all, without a look at the logits themselves."""
    features, labels, head = classifier
    value = adjustment.values[place]
    z = adjusted_logits(adjustment, value, features, head, log_prior(COUNTS))
    if isinstance(adjustment, TauNormalisation):
        head = SimpleNamespace(weight=head.weight / head.weight.norm(dim=1, keepdim=True) ** value, bias=head.bias)
    expected = Statistics.of(told_of(z, labels, head))
    found = Statistics.of(told).adjusted(adjustment, value, COUNTS)
    for name in Statistics.__dataclass_fields__:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=3e-4, abs=3e-4), name
    if isinstance(adjustment, TauNormalisation):
        # Spread over magnitude is what normalisation leaves.
        before = Statistics.of(told)
        for sd in logits.READINGS.values():
            assert found.regularized(sd) == pytest.approx(before.regularized(sd), rel=1e-9)


def test_other_adjustments_and_missing_numbers_are_none(told):
    statistics = Statistics.of(told)
    assert statistics.adjusted(None, 0.0, COUNTS) is statistics
    assert statistics.adjusted(MultiplicativeAdjustment((0.5,)), 0.5, COUNTS) is None
    cosine = Statistics.of({**{name: numbers for name, numbers in told.items() if name != "bias"}, "norm": [0.0] + [2.0] * 9})
    found = cosine.adjusted(TauNormalisation((1.0,)), 1.0, COUNTS)
    assert found.positive_mean == [None] * 10 and found.magnitude[0] is None
    assert found.magnitude[1] == statistics.magnitude[1] / 2
    assert replace(statistics, magnitude=[0.0] * 10).regularized("sd") == [None] * 10


def test_normals_of_a_group_are_those_of_all_its_pairs(classifier, told):
    features, labels, head = classifier
    with torch.no_grad():
        z = head(features).double().numpy()
    own = np.eye(10, dtype=bool)[labels.numpy()]
    for first, last in ((0, 4), (7, 10), (2, 3)):
        positive, negative = z[:, first:last][own[:, first:last]], z[:, first:last][~own[:, first:last]]
        expected = (positive.mean(), positive.std(), negative.mean(), negative.std())
        assert logits.normals(Statistics.of(told), first, last) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    empty = replace(Statistics.of(told), count=[0, *[30] * 9], positive_mean=[None] * 10)
    assert logits.normals(empty, 0, 1)[:2] == (None, None)


def test_shares_and_correlation_by_hand():
    assert logits.shares([1.0, None, -3.0]) == [0.25, None, -0.75]
    assert logits.shares([0.0, None]) == [None, None]
    assert logits.correlation([1, 2, None, 3], [2, 4, 0, 6]) == pytest.approx(1)
    # Deviations -1, 0, 1 and 1, -2, 1: no correlation.
    assert logits.correlation([1, 2, 3], [3, 0, 3]) == pytest.approx(0)
    assert logits.correlation([1, 1], [1, 2]) is logits.correlation([1, None], [1, 2]) is None
    # Norms that differ in the last digit that a Measure keeps do not vary.
    assert logits.correlation([1.2345, 1.2346, 1.2345], [1, 2, 3]) is None


# --- what is chosen ---------------------------------------------------------------------------------------------------


def cells(method, which="table", seeds=(0,)):
    return grid.cells(PAPER, which, columns=[DIGITS], methods=[method], seeds=seeds)


def finish(store, cell, level, *, adjusted=None):
    """A Record of two epochs of the last stage: so many correct images of each half, ``level`` of them 300."""
    counts = {"Many": [0, level * 2 // 5], "Medium": [0, level * 3 // 10], "Few": [0, level * 3 // 10]}
    if adjusted is not None:
        parameter, *values = adjusted
        of_value = {group: [numbers[1] - n for n in reversed(range(len(values)))] for group, numbers in counts.items()}
        adjusted = (parameter, values, (2, [of_value, of_value]))
    put(store, cell, record([counts, counts], groups=GROUPS, images=IMAGES, adjusted=adjusted), edition="official")


def statistics(scale, **changed):
    """A Measure of ten classes whose magnitudes are ``scale`` times 1 to 10."""
    lists = {name: [scale * 1.0] * 10 for name in ("positive_mean", "positive_sd", "negative_mean", "negative_sd", "sd")}
    magnitude = [scale * (i + 1.0) for i in range(10)]
    return {"epoch": 2, "magnitude": magnitude, **lists, "norm": [2.0] * 10, "bias": [0.0] * 10, "count": [60] * 10, **changed}


def lines(store, *methods, **more):
    return list(logits.lines(store, PAPER, TABLE, {"digits": "official"}, columns=[DIGITS], methods=list(methods), **more))


@pytest.fixture
def finished(store):
    """Vanilla FC, its two adjustments, and two seeds of every point of LORT, the third of them best; all have Measures."""
    (vanilla,), (tau,), (additive,) = cells("Vanilla FC"), cells("tau-normalized"), cells("Post-hoc Logit Adjustment")
    finish(store, vanilla, 200)
    finish(store, tau, 200, adjusted=("tau", *tau.programme.adjustment.values))
    finish(store, additive, 180, adjusted=("tau", *additive.programme.adjustment.values))
    measure(store, vanilla, "logits", statistics(1.0))
    for seed in (0, 1):
        for place, cell in enumerate(cells("LORT", seeds=(seed,))):
            finish(store, cell, 260 if place == 2 else 240)
            measure(store, cell, "logits", statistics(0.5 if place == 2 else 99.0, epoch=seed))
    return store


def test_the_chosen_point_of_every_method_is_told_by_increasing_accuracy(finished):
    found = lines(finished, "LORT", "Vanilla FC", "tau-normalized", "Post-hoc Logit Adjustment", "CE")
    assert [(told.method, told.point, len(told.by_seed)) for told in found] == [
        ("LORT", "rate=0.1 decay=0", 2),
        ("Vanilla FC", "", 1),
        ("tau-normalized", "tau=2", 1),
        ("Post-hoc Logit Adjustment", "tau=2", 1),
    ]
    assert found[0].accuracy == pytest.approx(100 * 260 / 300) and found[0].by_seed[1].magnitude[9] == 5.0
    assert found[2].by_seed[0].magnitude[0] == 1 / 4 and found[2].by_seed[0].norm[0] == 0.5  # 2 ** tau
    assert found[3].by_seed[0].magnitude == found[1].by_seed[0].magnitude
    counts = DIGITS.data.class_counts()
    shift = found[3].by_seed[0].positive_mean[9] - 1.0
    assert shift == pytest.approx(-2 * math.log(counts[9] / sum(counts)))
    text = logits.render(found)
    fig3, *regularized = text.split("Regularized Standard Deviation, ")
    methods = [line.split("  ")[0] for line in fig3.splitlines() if line[:4] in ("Vani", "tau-", "LORT", "Post")]
    assert methods == ["Post-hoc Logit Adjustment", "Vanilla FC", "tau-normalized", "LORT"]
    # Shares of 1 to 10 in 55; the norm does not vary, so there is no correlation.
    assert "0.0182" in fig3 and "0.182" in fig3 and "rate=0.1 decay=0" in fig3
    assert len(regularized) == 3 and "the class's own" in regularized[1]
    assert text.endswith("\n") and "\n\n\n" not in text


def test_consecutive_classes_are_averaged_in_tens():
    hundred = statistics(1.0)
    hundred = {name: numbers if name == "epoch" else numbers * 10 for name, numbers in hundred.items()}
    hundred["magnitude"] = [1.0] * 50 + [3.0] * 50
    told = logits.Told("data", "CE", 50.0, "", {"Many": (0, 50), "Few": (50, 100)}, {0: Statistics.of(hundred)})
    text = logits.render([told, told])
    assert "0-9" in text and "90-99" in text and text.count("0.15 ") == 5 and text.count("CE ") == 4
    assert "0.333" in text.partition("sigma over all images")[2]


def test_every_class_and_the_normals_of_groups(finished):
    found = lines(finished, "Vanilla FC", "LORT")
    classes = [line.split() for line in logits.render(found, "classes").splitlines() if line.startswith(("Vanilla", "LORT"))]
    assert len(classes) == 30 and classes[0] == ["Vanilla", "FC", "0", "0", "1", "1", "1", "1", "2"]
    assert classes[-1] == ["LORT", "rate=0.1", "decay=0", "1", "9", "5", "0.1", "0.1", "0.1", "2"]
    normals = [line.split() for line in logits.render(found, "normals").splitlines() if line.startswith(("Vanilla", "LORT"))]
    assert [line[-5:] for line in normals[:3]] == [[g, "1", "1", "1", "1"] for g in ("Many", "Medium", "Few")]
    assert normals[3] == ["LORT", "Many", "0.5", "0.5", "0.5", "0.5"]


def test_runs_without_a_measure_are_left_out_and_a_damaged_one_is_named(finished):
    for path in finished.root.glob("measures/*/logits/*.json"):
        if json.loads(path.read_text())["epoch"] == 1:  # seed 1
            path.unlink()
    (told,) = lines(finished, "LORT", "CE")
    assert list(told.by_seed) == [0]
    for path in finished.root.glob("measures/*/logits/*.json"):
        path.write_text("[]")
    with pytest.raises(BadInput, match="is damaged"):
        lines(finished, "LORT")
    for path in finished.root.glob("measures/*/logits/*.json"):
        path.write_text('{"norm": [1], "magnitude": 2}')
    with pytest.raises(BadInput, match=r"Measure 'logits/\w+-s0\.json' is damaged"):
        lines(finished, "LORT")


def test_accuracy_over_delta_at_the_best_of_all_else(store):
    for cell in cells("LORT", "figure4"):
        point = dict(cell.point)
        if point["delta"] in (0.0, 0.98):
            finish(store, cell, 200 + int(50 * point["delta"]) + 10 * (point["rate"] == 0.01))
    which = {"columns": [DIGITS], "methods": ["LORT"], "grid": "figure4"}
    found = list(logits.smoothing(store, PAPER, TABLE, {"digits": "official"}, **which))
    assert [line[:4] for line in found] == [
        ("digits/45", 0.0, 1, "rate=0.01 decay=0"),
        ("digits/45", 0.98, 1, "rate=0.01 decay=0"),
    ]
    assert [group for group, _ in found[0][-1]] == list(GROUPS)
    # 210 of 300 in each half: 84, 63 and 63 of the groups.
    assert found[0][4] == pytest.approx(70) and dict(found[0][-1])["Few"] == pytest.approx(70)
    text = logits.render_smoothing(found)
    assert "0.98" in text and text.count("70.00") == 4 and text.endswith("\n")


def test_accuracy_over_rate_and_decay(store):
    for seed in (0, 1):
        for cell in cells("LORT", "figure5", seeds=(seed,)):
            point = dict(cell.point)
            if point["rate"] < 0.1 or seed:
                finish(store, cell, 200 + 10 * seed + 50 * (point["decay"] == 0.05))
    methods = ["LORT", "Class-Balanced Loss (with BCE loss)"]
    which = {"columns": [DIGITS], "methods": methods, "grid": "figure5"}
    found = list(logits.sensitivity(store, PAPER, TABLE, {"digits": "official"}, **which))
    assert len(found) == 25 and {line[0] for line in found} == {"LORT"}
    assert {line[2:5]: line[5] for line in found}[0.1, 0.05, 1] == pytest.approx(100 * 259 / 300, abs=0.4)
    text = logits.render_sensitivity(found)
    # Seed 0 is not there at the largest rate: only seed 1 is read anywhere, so that seeds do not look like a difference.
    assert "mean over 1 seed\n" in text and "over 25 points" in text
    assert {line[4] for line in found} == {1}
    levels = {line[2:4]: line[5] for line in found}
    assert {levels[rate, 0.0] for rate in (0.001, 0.01, 0.1)} == {levels[0.1, 0.0]}
    header, *rows = text.partition("\n\n")[2].splitlines()
    assert header.split()[-5:] == ["0", "0.0005", "0.005", "0.05", "0.1"] and len(rows) == 6


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_every_view_without_torch(finished, tmp_path):
    for view, word in ((), "(Fig. 3)"), (("--classes",), "sigma/L"), (("--normals",), "(Fig. 2)"):
        code, out, err = call_without_torch(tmp_path, "measures", "lort", *view)
        assert (code, err) == (0, "") and word in out and "tau-normalized" in out and out.count("digits/45: ") <= 4
    for cell in (*cells("LORT", "figure4"), *cells("LORT", "figure5")):
        finish(finished, cell, 240)
    for view, word in (("--smoothing", "(Fig. 4)"), ("--sensitivity", "(Fig. 5)")):
        code, out, err = call_without_torch(tmp_path, "measures", "lort", view, "--dataset", "digits")
        assert (code, err) == (0, "") and word in out and "80.00" in out


@pytest.mark.parametrize(
    "words, told",
    [
        (("lort", "--steps"), "--steps is a view of wb, which lort does not have"),
        (("wb", "--normals"), "--normals is a view of lort, which wb does not have"),
        (("unified-bound", "--sample", "0"), "--sample is a view of lort, which unified-bound does not have"),
        (("lort", "--normals", "--smoothing"), "--normals and --smoothing are two views"),
        (("lort", "--smoothing", "--table", "1"), "--smoothing is about grid figure4"),
        (("lort", "--sensitivity", "--grid", "table"), "--sensitivity is about grid figure5"),
        (("lort",), "no Measures are there for 'lort'"),
        (("lort", "--smoothing"), "run `replicate lort --grid figure4` on the same data first"),
        (("lort", "--sample", "0"), "no finished runs are there"),
        (("lort", "--sample", "x"), "'x' is not a valid integer"),
    ],
)
def test_what_is_refused(tmp_path, words, told):
    assert_refused(call(tmp_path, "measures", *words), told)


SAMPLE = ("measures", "lort", "--sample", "5", "--dataset", "digits")


@pytest.fixture
def restored(monkeypatch):
    """Checkpoints whose networks have class vectors of zeros and a bias that grows with the class."""
    from replicate.engine import cell as engine
    from replicate.engine import loop

    def state(cell, store, edition, device):
        made = loop.start(cell.programme, cell.seed, device)
        with torch.no_grad():
            made.model.head.weight.zero_()
            made.model.head.bias.copy_(torch.arange(10.0) / 4)
        return made

    monkeypatch.setattr(engine, "restored", state)


def test_logits_of_one_image(finished, tmp_path, call_here, restored, digits):
    finish(finished, cells("CE")[0], 230)
    code, out, err = call_here(tmp_path, *SAMPLE)
    assert (code, err) == (0, ""), err
    assert "test image 5, true class" in out and "Published" not in out
    (truth,) = [int(line.split("true class")[1].split()[0]) for line in out.splitlines() if "true class" in line]
    rows = [" ".join(line.split()) for line in out.splitlines() if line.startswith(("Vanilla", "CE", "LORT"))]
    assert [row.split()[0] for row in rows] == ["Vanilla", "CE", "LORT", "LORT"]
    assert rows[3] == f"LORT 1 {truth / 4:.2f} 9 2.25 9 2.25, 8 2.00, 7 1.75, 6 1.50, 5 1.25"


def test_images_and_checkpoints_that_are_not_there(finished, tmp_path, call_here, restored, monkeypatch):
    assert_refused(call_here(tmp_path, *SAMPLE[:3], "600", *SAMPLE[4:]), "digits/45 has 0 to 599")
    assert_refused(call_here(tmp_path, *SAMPLE[:3], "-1", *SAMPLE[4:]), "test image -1 is not there")
    assert_refused(call_here(tmp_path, *SAMPLE, "--method", "tau-normalized"), "adjusts a trained network")
    monkeypatch.setattr("replicate.engine.cell.restored", lambda *what: None)
    told = call_here(tmp_path, *SAMPLE)
    assert_refused(told, "no checkpoint of Vanilla FC")
    assert "replicate lort --dataset digits --ratio 45 --method 'Vanilla FC'" in told.err


def test_published_logits_stand_beside_the_image_they_are_about():
    z = functional.one_hot(torch.tensor(3), 100).tolist()
    text = logits.render_sample(PAPER, "cifar100-lt/100", 7202, 75, [("CE", 0, z)], official=True)
    assert text.count("Published: ") == 3 and "LORT (ours), logit of true class 75 (Few): 1.57" in text
    for index, official in ((7203, True), (7202, False)):
        assert "Published" not in logits.render_sample(PAPER, "", index, 75, [("CE", 0, z)], official=official)
