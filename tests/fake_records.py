"""Records with chosen test counts, for the tests of what reads Records."""

from papers.unified_bound import PAPER
from replicate import grid
from replicate.record import Record

COLUMN = {column.name: column for column in PAPER.columns}
OFFICIAL = {"cifar10": "official", "cifar100": "official", "digits": "official"}


def record(halves, *, seed=0, size=100, validation=None, failed=None):
    """A Record whose halves of the test set have these correct counts, epoch by epoch, of ``size`` images each.

    Counts are spread over two groups of classes, so that readers have to add them up.
    """

    def split(counts):
        return {"majority": [c - c // 3 for c in counts], "minority": [c // 3 for c in counts]}

    epochs = len(halves[0])
    curves = {"loss": [1.0] * epochs, "rate": [0.1] * epochs, "seconds": [0.0] * epochs}
    curves["test"] = [split(counts) for counts in halves]
    totals = {"test": [{"majority": size - 40, "minority": 40} for _ in halves]}
    if validation is not None:
        curves["validation"], totals["validation"] = split(validation), {"majority": size - 40, "minority": 40}
    return Record(
        key="", seed=seed, programme_key="", source="cifar10", edition="official", spec={}, class_counts=[], groups={},
        epochs=epochs, curves=curves, totals=totals, per_class={}, best={}, environment={}, fingerprint="", failed=failed,
    )  # fmt: skip


def write(store, cell, halves, *, edition="official", validation=None, size=100, failed=None):
    """Put such a Record into a store where ``cell`` belongs."""
    made = record(halves, seed=cell.seed, size=size, validation=validation, failed=failed)
    made.programme_key = cell.programme.keys(edition)[-1]
    made.key = grid.cell_key(made.programme_key, cell.seed)
    made.source, made.edition = cell.programme.start.data.source, edition
    store.write(made)


def write_level(store, cell, percent, *, edition="official"):
    """A Record of two epochs whose best test accuracy is ``percent``, to two decimals."""
    best = round(percent * 100)
    write(store, cell, [[best // 2 - 50, best - best // 2], [best // 2 - 50, best // 2]], size=5000, edition=edition)
