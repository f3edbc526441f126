"""Records with chosen test counts, for the tests of what reads Records."""

from papers.unified_bound import PAPER
from replicate import grid
from replicate.record import Record

COLUMN = {column.name: column for column in PAPER.columns}
OFFICIAL = {"cifar10": "official", "cifar100": "official", "digits": "official"}


def record(
    halves, *, seed=0, size=100, validation=None, failed=None, stage_starts=(1,), adjusted=None, groups=None, images=None
):
    """A Record whose halves of the test set have these correct counts, epoch by epoch, of ``size`` images each.

    Counts are spread over two groups of classes, so that readers have to add them up; every class has one image in each half.
    With ``groups`` (name -> first class and the one after the last) counts are mappings from group to counts, and ``images``
    are those of each group in a half and in the validation split. ``adjusted`` is a parameter, its values, then for ``handed
    over`` and perhaps ``last`` an epoch, halves and validation counts for each value.
    """
    few = size // 3
    images = images or {"majority": size - few, "minority": few}
    groups = groups or {"majority": (0, size - few), "minority": (size - few, size)}

    def split(counts):
        if isinstance(counts, dict):
            return {name: list(of_group) for name, of_group in counts.items()}
        return {"majority": [c - c // 3 for c in counts], "minority": [c // 3 for c in counts]}

    def of_state(epoch, of_halves, of_validation=None):
        told = {"epoch": epoch, "test": [split(counts) for counts in of_halves]}
        return told if of_validation is None else {**told, "validation": split(of_validation)}

    curves_of_half = [split(counts) for counts in halves]
    epochs = len(next(iter(curves_of_half[0].values())))
    curves = {"loss": [1.0] * epochs, "rate": [0.1] * epochs, "seconds": [0.0] * epochs}
    curves["test"], totals = curves_of_half, {"test": [dict(images) for _ in halves]}
    if validation is not None:
        curves["validation"], totals["validation"] = split(validation), dict(images)
    if adjusted is not None:
        parameter, values, *states = adjusted
        told = [of_state(*state) for state in states]
        adjusted = {"parameter": parameter, "values": list(values), "handed over": told[0], "last": told[-1]}
    return Record(
        key="", seed=seed, programme_key="", source="cifar10", edition="official", spec={}, class_counts=[],
        groups={name: list(bounds) for name, bounds in groups.items()}, epochs=epochs, curves=curves, totals=totals,
        per_class={}, best={}, environment={}, fingerprint="", failed=failed, stage_starts=list(stage_starts),
        adjusted=adjusted,
    )  # fmt: skip


def put(store, cell, made, *, edition="official"):
    """Put a Record into a store where ``cell`` belongs."""
    made.programme_key = cell.programme.key(edition)
    made.key = grid.cell_key(made.programme_key, cell.seed)
    made.source, made.edition, made.seed = cell.programme.start.data.source, edition, cell.seed
    store.write(made)


def write(store, cell, halves, *, edition="official", **how):
    """Put a Record of :func:`record` into a store where ``cell`` belongs."""
    put(store, cell, record(halves, **how), edition=edition)


def write_level(store, cell, percent, *, edition="official"):
    """A Record of two epochs whose best test accuracy is ``percent``, to two decimals."""
    best = round(percent * 100)
    write(store, cell, [[best // 2 - 50, best - best // 2], [best // 2 - 50, best // 2]], size=5000, edition=edition)


def write_groups(store, cell, percent, *, apart=0.0, edition="official"):
    """A Record of three epochs whose best one, the second, has these accuracies by group of classes (``""``: of every other
    group), in percent to two decimals; in the halves of the test set ``apart`` points more and less. An adjustment's best
    value, the sixth, has them too; the state before it has ten points less."""
    groups, adjustment = cell.column.groups, cell.programme.adjustment
    images = {name: 10_000 * (last - first) for name, (first, last) in groups.items()}

    def counts(shift, below=0.0):
        level = {name: percent.get(name, percent.get("")) + shift - below for name in groups}
        return {name: round(images[name] * level[name] / 100) for name in groups}

    def curves(epochs, best, below=0.0):
        return [
            {name: [0] * (best - 1) + [count] + [0] * (epochs - best) for name, count in counts(shift, below).items()}
            for shift in (apart, -apart)
        ]

    how = {"groups": groups, "images": images, "validation": None, "adjusted": None}
    if cell.column.data.validation:
        how["validation"] = {name: [1, 2, 1] for name in groups}
    if adjustment is not None:
        values = adjustment.values
        on_validation = {name: [1] * 5 + [2] + [1] * (len(values) - 6) for name in groups}
        how["adjusted"] = (adjustment.parameter, values, (2, curves(len(values), 6), on_validation))
    put(store, cell, record(curves(3, 2, below=10.0 if adjustment is not None else 0.0), **how), edition=edition)


def measure(store, cell, name, told, *, edition="official"):
    """Put a Measure of a cell's trained state into a store."""
    source, key = cell.programme.start.data.source, cell.programme.keys(edition)[-1]
    store.write_measure(name, source, edition, key, cell.seed, told)
