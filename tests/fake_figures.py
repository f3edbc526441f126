"""Records and Measures behind figures, generated: every number a plain function of its cell, for the tests of figures."""

import zlib

from fake_records import measure, put, record

from replicate import grid
from replicate.protocol import SOURCES

GROUP_SIZE = 1000  # images of each class, in each half of the test set, in the validation split and in the training set


def level(cell):
    """A percentage with one decimal that tells cells apart, with a seed's own shift."""
    return 50 + zlib.crc32(f"{cell.method}{cell.point}{cell.column.name}".encode()) % 400 / 10 + cell.seed


def of_group(percent, place):
    """The accuracy of one group: later ones are lower by ten points each."""
    return percent - 10 * place


def write_run(store, cell, percent=None, *, epochs=3, best=2, train=None, edition="official", **how):
    """A Record whose test accuracy by group is :func:`of_group` in its ``best`` epoch and 20 points lower in others, and whose
    training accuracy rises to ``train`` (by group, in percent) in the last."""
    percent = level(cell) if percent is None else percent
    groups = cell.column.groups
    images = {name: GROUP_SIZE * (last - first) for name, (first, last) in groups.items()}

    def counts(name, percent):
        return round(images[name] * percent / 100)

    def curve(name, place):
        return [counts(name, of_group(percent, place) - (0 if epoch == best else 20)) for epoch in range(1, epochs + 1)]

    halves = [{name: curve(name, place) for place, name in enumerate(groups)} for _ in (0, 1)]
    adjusted = None
    if (adjustment := cell.programme.adjustment) is not None:
        of_value = {name: [of[best - 1]] * len(adjustment.values) for name, of in halves[0].items()}
        adjusted = (adjustment.parameter, adjustment.values, (best, [of_value, of_value], of_value))
    made = record(
        halves, groups=groups, images=images, adjusted=adjusted, **how,
        validation=halves[0] if cell.column.data.validation else None,
    )  # fmt: skip
    reached = train or {name: of_group(95, place) for place, name in enumerate(groups)}
    made.curves["train"] = {
        name: [counts(name, reached[name] * epoch / epochs) for epoch in range(1, epochs + 1)] for name in groups
    }
    made.totals["train"] = dict(images)
    put(store, cell, made, edition=edition)


def logit_measure(classes, shift):
    """As the Measure ``logits`` has it; magnitudes fall from head to tail."""
    return {
        "epoch": 1,
        "magnitude": [5 - 4 * c / classes + shift for c in range(classes)],
        "positive_mean": [4 - 3 * c / classes + shift for c in range(classes)],
        "positive_sd": [1.5] * classes,
        "negative_mean": [-1 + c / classes for c in range(classes)],
        "negative_sd": [1.0 + shift / 10] * classes,
        "sd": [2.0] * classes,
        "norm": [2 - c / classes for c in range(classes)],
        "bias": [0.0] * classes,
        "count": [100] * classes,
    }


def separation(classes, shift):
    """As the Measure ``separation`` has what figures show."""
    matrix = [[1.0 if a == b else round(0.9 * shift - abs(a - b) / classes, 4) for a in range(classes)] for b in range(classes)]
    norms = [3 + shift + c / classes for c in range(classes)]
    return {
        "cosine": {"matrix": matrix},
        "feature_norm": {"train": {"mean_of_norms": norms}},
        "classifier_norm": {"ratio": [1 + shift * c / classes for c in range(classes)]},
    }


def relu_fdr(blocks, shift):
    steps = [
        f"block {block} {name}" for block in range(1, blocks + 1) for name in ("linear", "normalised", "batch norm", "ReLU")
    ]
    return {"trained": [{"step": step, "fdr": 10.0 ** (place / 8) * (1 + shift)} for place, step in enumerate(steps)]}


def write_measures(store, cell, name, edition="official"):
    classes, shift = SOURCES[cell.column.data.source].classes, len(cell.method) / 10 + cell.seed / 100
    told = {
        "logits": lambda: logit_measure(classes, shift),
        "separation": lambda: separation(classes, shift % 1),
        "forgetting": lambda: {"score": [shift + 10 * c / classes for c in range(classes)]},
        "relu_fdr": lambda: relu_fdr(int(cell.column.tag[3]), shift),
    }[name]()
    measure(store, cell, name, told, edition=edition)


def cells_of(paper, panel, *, seed=0, quick=False):
    """Of the runs that a panel shows; of a table that is searched, the first point of each method."""
    name = panel.grid or next(table.grid for table in paper.tables if table.number == panel.table)
    found = grid.cells(paper, name, columns=[panel.column], methods=panel.methods, seeds=(seed,), quick=quick)
    if panel.over or not panel.table:
        return found
    return list({cell.method: cell for cell in reversed(found)}.values())[::-1]


def fill(store, paper, panels, *, seeds=(0,), **how):
    """Every Record and Measure that these panels show."""
    for panel in panels:
        for seed in seeds:
            for cell in cells_of(paper, panel, seed=seed):
                if store.of(cell, how.get("edition", "official")) is None:
                    write_run(store, cell, **how)
                name = panel.measure[0] if panel.measure else "logits"
                if name in paper.measures:
                    write_measures(store, cell, name, how.get("edition", "official"))
