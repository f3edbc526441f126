"""Photographs in folders, one a class: mini-ImageNet-LT found ready, or drawn from ImageNet-1k by its recipe.

The hundred classes of mini-ImageNet (O. Vinyals et al., "Matching Networks for One Shot Learning", 2016) are ImageNet
classes, named by their WordNet ids; the label of a class is its place in ascending order. Two layouts are read:

``mini-imagenet-lt/{train,val,test}/WNID/*.jpg``
    The three parts as they are found; every class must have as many training photographs as the recipe gives it.

``imagenet/train/WNID/*.JPEG``
    ImageNet-1k's training photographs, of which the parts are drawn by the recipe of the code released with Hasegawa and
    Sato, ICLR 2024, and its ancestor (R. Vigneswaran et al., "Feature Generation for Long-tail Classification", 2021): see
    :func:`draw`. The seed behind the published split is unknown; ours is 0.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from replicate.data import bounded
from replicate.data.decoded import File, Photographs, decoded, kept
from replicate.errors import BadInput
from replicate.protocol import SOURCES

__all__ = ["PARTS", "RECIPES", "UNEQUAL", "WNIDS", "Parts", "Recipe", "draw", "found", "is_there", "read"]

PARTS: Final = ("train", "val", "test")

_MINI_IMAGENET: Final = """
    n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01855672 n01910747 n01930112 n01981276
    n02074367 n02089867 n02091244 n02091831 n02099601 n02101006 n02105505 n02108089 n02108551 n02108915
    n02110063 n02110341 n02111277 n02113712 n02114548 n02116738 n02120079 n02129165 n02138441 n02165456
    n02174001 n02219486 n02443484 n02457408 n02606052 n02687172 n02747177 n02795169 n02823428 n02871525
    n02950826 n02966193 n02971356 n02981792 n03017168 n03047690 n03062245 n03075370 n03127925 n03146219
    n03207743 n03220513 n03272010 n03337140 n03347037 n03400231 n03417042 n03476684 n03527444 n03535780
    n03544143 n03584254 n03676483 n03770439 n03773504 n03775546 n03838899 n03854065 n03888605 n03908618
    n03924679 n03980874 n03998194 n04067472 n04146614 n04149813 n04243546 n04251144 n04258138 n04275548
    n04296562 n04389033 n04418357 n04435653 n04443257 n04509417 n04515003 n04522168 n04596742 n04604644
    n04612504 n06794110 n07584110 n07613480 n07697537 n07747607 n09246464 n09256479 n13054560 n13133613
"""
_FEWER: Final = "n01704323 n02089867 n02606052 n03062245 n03075370 n03400231 n04418357 n04443257 n04612504 n07584110"

#: The classes of mini-ImageNet; the label of each is its place here.
WNIDS: tuple[str, ...] = tuple(_MINI_IMAGENET.split())

#: Classes of which ImageNet has fewer than 1,300 training photographs; the recipe draws them in another way.
UNEQUAL: frozenset[str] = frozenset(_FEWER.split())


@dataclass(frozen=True)
class Recipe:
    """The numbers of the mini-ImageNet-LT recipe: photographs of each class to train on (before the long tail), to
    validate and to test; the share ``held_out`` for testing, and of the rest for validation, before those are chosen; the
    imbalance ``ratio`` (1: balanced); the seed."""

    train: int = 500
    validation: int = 100
    test: int = 100
    held_out: float = 0.2
    ratio: int = 100
    seed: int = 0

    def class_counts(self, classes: int) -> tuple[int, ...]:
        """Training photographs of each class [C]: int(train * (1/ratio)^(c/(C-1)))."""
        return tuple(int(self.train * (1.0 / self.ratio) ** (c / (classes - 1.0))) for c in range(classes))


#: What is drawn from ImageNet-1k, by data set.
RECIPES: Mapping[str, Recipe] = {"mini_imagenet": Recipe(ratio=1), "mini_imagenet_lt": Recipe()}
#: The folder in which a data set is found ready.
READY: Mapping[str, str] = {"mini_imagenet_lt": "mini-imagenet-lt"}
IMAGENET: Final = "imagenet/train"

_SUFFIXES: Final = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Parts:
    """The photographs of a data set, class by class and in the order of their names; ``fingerprint`` is that of all names
    and bytes (64 hex digits); ``drawn``: by the recipe rather than found ready."""

    train: Photographs
    validation: Photographs
    test: Photographs
    fingerprint: str
    drawn: bool


def read(source: str, folder: Path | None, recipe: Recipe | None = None) -> Parts:
    """The photographs of ``"mini_imagenet_lt"`` or ``"mini_imagenet"`` in ``folder``, decoded at the first time.

    ``recipe`` replaces the one of :data:`RECIPES`. Raises ``BadInput`` if there is no such folder, it has another layout,
    classes are missing, unknown, empty or of another size, or a photograph is damaged; all but the last before one is opened.
    """
    files, drawn = _listed(source, folder, recipe or RECIPES[source])
    return _divided(decoded(SOURCES[source].title, [file for part in files for file in part]), files, drawn)


def found(source: str, folder: Path | None) -> Parts | None:
    """What :func:`read` would tell, or None if the photographs were not decoded yet; opens none.

    Raises ``BadInput`` as :func:`read` does, but for damaged photographs."""
    files, drawn = _listed(source, folder, RECIPES[source])
    told = kept(SOURCES[source].title, [file for part in files for file in part])
    return None if told is None else _divided(told, files, drawn)


def _divided(told: tuple[Photographs, str], files: tuple[list[File], ...], drawn: bool) -> Parts:
    photographs, fingerprint = told
    ends = np.cumsum([0, *map(len, files)])
    train, validation, test = (photographs.take(np.arange(ends[k], ends[k + 1])) for k in range(3))
    return Parts(train, validation, test, fingerprint, drawn)


def is_there(source: str, folder: Path) -> bool:
    """Whether ``folder`` has something that could be this data set."""
    return any((folder / place).exists() for place in (READY.get(source), IMAGENET) if place is not None)


# --- layouts ---------------------------------------------------------------------------------------------------------


def _listed(source: str, folder: Path | None, recipe: Recipe) -> tuple[tuple[list[File], ...], bool]:
    """The files of the three parts, and whether the recipe drew them."""
    title = SOURCES[source].title
    ready = READY.get(source)
    ways = [f"{ready}/{{train,val,test}}/WNID/*.jpg"] if ready else []
    ways.append(f"ImageNet-1k's training photographs as {IMAGENET}/WNID/*.JPEG")
    remedy = f"name the folder that holds {' or '.join(ways)} with --data DIR or REPLICATE_DATA"
    if folder is None:
        raise BadInput(f"{title} needs a data folder and none is named; {remedy}")
    if ready and (folder / ready).exists():
        return _ready(folder / ready, title, recipe), False
    if (folder / IMAGENET).exists():
        return _drawn(folder / IMAGENET, recipe), True
    raise BadInput(f"{title} is not in {str(folder)!r}; {remedy}")


def _ready(place: Path, title: str, recipe: Recipe) -> tuple[list[File], ...]:
    tail = dict(zip(WNIDS, recipe.class_counts(len(WNIDS)), strict=True))
    remedy = f"it must hold {', '.join(PARTS[:-1])} and {PARTS[-1]}, each with a folder for each of the {len(WNIDS)} classes"
    held = _folders(place)
    if lacking := [part for part in PARTS if part not in held]:
        raise BadInput(f"{str(place)!r} has no folder {' and no folder '.join(lacking)}; {remedy}, named by their WordNet ids")
    parts = []
    for part in PARTS:
        classes = _folders(place / part)
        if unknown := sorted(classes - set(WNIDS)):
            raise BadInput(
                f"{str(place / part)!r} has a folder {unknown[0]!r}{_more(unknown)}, which is no class of mini-ImageNet; "
                f"{remedy}, and nothing else: move it away"
            )
        if missing := [wnid for wnid in WNIDS if wnid not in classes]:
            raise BadInput(f"{str(place / part)!r} lacks the class {missing[0]}{_more(missing)}; {remedy}: add what is missing")
        files, counts = [], Counter[str]()
        for label, wnid in enumerate(WNIDS):
            names = _photographs(place / part / wnid)
            counts[wnid] = len(names)
            files += [_file(place / part / wnid, name, part, label) for name in names]
        if part == PARTS[0] and (odd := [wnid for wnid in WNIDS if counts[wnid] != tail[wnid]]):
            # Under other counts it is another problem, whose numbers say nothing about the published ones.
            raise BadInput(
                f"class {odd[0]}{_more(odd)} has {counts[odd[0]]:,} photographs in {str(place / part)!r}, where {title} has "
                f"{tail[odd[0]]:,}: add or remove some, or move {str(place)!r} away"
            )
        usual = Counter(counts.values()).most_common(1)[0][0]
        if part != PARTS[0] and (odd := [wnid for wnid in WNIDS if counts[wnid] != usual]):
            # Accuracy over a group of classes is counted over its images, which is the mean over classes only if they are
            # equal.
            raise BadInput(
                f"{str(place / part)!r} has {counts[odd[0]]} photographs of class {odd[0]}{_more(odd)} and {usual} of others; "
                "every class that is evaluated needs the same number: add or remove some"
            )
        parts.append(files)
    return tuple(parts)


def _drawn(place: Path, recipe: Recipe) -> tuple[list[File], ...]:
    classes = _folders(place)
    if missing := [wnid for wnid in WNIDS if wnid not in classes]:
        raise BadInput(
            f"{str(place)!r} lacks the class {missing[0]}{_more(missing)}; it must hold ImageNet-1k's training photographs of "
            f"the {len(WNIDS)} classes of mini-ImageNet, each in a folder named by its WordNet id: add what is missing"
        )
    names = [_photographs(place / wnid) for wnid in WNIDS]
    _check_sizes(place, [len(of_class) for of_class in names], recipe)
    return tuple(
        [_file(place / wnid, names[label][number], part, label) for label, wnid in enumerate(WNIDS) for number in chosen[label]]
        for part, chosen in zip(PARTS, draw([len(of_class) for of_class in names], recipe), strict=True)
    )


def _folders(place: Path) -> set[str]:
    """Names of the folders in ``place``, hidden ones apart."""
    try:
        with os.scandir(place) as entries:
            return {entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()}
    except NotADirectoryError:
        raise BadInput(f"{str(place)!r} is a file where a folder of photographs is expected; move it away") from None
    except OSError as error:
        raise bounded.unreadable(f"folder {str(place)!r}", error) from None


def _photographs(place: Path) -> list[str]:
    """Sorted names of the photographs in the folder of a class."""
    try:
        with os.scandir(place) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise bounded.unreadable(f"folder {str(place)!r}", error) from None
    if not names:
        raise BadInput(f"the folder of class {place.name}, {str(place)!r}, is empty; put its photographs there")
    if foreign := [name for name in names if not name.lower().endswith(_SUFFIXES)]:
        raise BadInput(
            f"{str(place / foreign[0])!r}{_more(foreign)} is no photograph, by its name; allowed are .jpg, .jpeg and .png: "
            "move it away"
        )
    return names


def _file(folder: Path, name: str, part: str, label: int) -> File:
    path = os.path.join(folder, name)
    try:
        told = os.stat(path)
    except OSError as error:
        raise BadInput(f"photograph {path!r} cannot be read ({error.strerror}); mend or remove it") from None
    if not stat.S_ISREG(told.st_mode) or not told.st_size:
        what = "empty" if stat.S_ISREG(told.st_mode) else "no file"
        raise BadInput(f"photograph {path!r} is {what}; replace it by the original JPEG file")
    return File(path, f"{part}/{folder.name}/{name}", label, told.st_size, told.st_mtime_ns)


def _more(names: Sequence[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


# --- the recipe ------------------------------------------------------------------------------------------------------


def draw(counts: Sequence[int], recipe: Recipe) -> tuple[list[NDArray[np.int64]], ...]:
    """Which photographs of each class train, validate and test: for each part a list [C] of ascending places in the class.

    ``counts`` [C]: photographs of each class of :data:`WNIDS`. Classes that are not :data:`UNEQUAL` together: a share
    ``held_out`` is set apart for testing, stratified by class, and of the rest the same share for validation; of each part
    as many as are needed are chosen at random. Each unequal class: three independent permutations, of which the first
    gives its first ``train`` to training, the second the next ``validation``, the third the next ``test``, so that parts
    can overlap. At last the long tail is chosen from the training part, so a balanced set differs in nothing else.

    All randomness is one ``numpy.random.RandomState``'s, in this order, class by class. Source: the recipe of the released
    code (see the module), whose generator is numpy's global one. Raises ``ValueError`` if a class is too small.
    """
    from sklearn.model_selection import train_test_split

    generator = np.random.RandomState(recipe.seed)
    sizes = (recipe.train, recipe.validation, recipe.test)
    equal = [label for label, wnid in enumerate(WNIDS) if wnid not in UNEQUAL]
    labels = np.repeat(equal, [counts[label] for label in equal])
    within = np.concatenate([np.arange(counts[label]) for label in equal])

    def divided(indices: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        share = recipe.held_out
        kept, apart = train_test_split(indices, test_size=share, random_state=generator, stratify=labels[indices])
        return kept, apart

    rest, test = divided(np.arange(len(labels)))
    train, validation = divided(rest)

    chosen: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    for label, wnid in enumerate(WNIDS):
        if wnid in UNEQUAL:
            first = 0
            for part, size in zip(chosen, sizes, strict=True):
                part.append(generator.permutation(counts[label])[first : first + size])
                first += size
        else:
            for part, pool, size in zip(chosen, (train, validation, test), sizes, strict=True):
                of_class = np.sort(within[pool[labels[pool] == label]])
                part.append(generator.permutation(of_class)[:size])
        for name, part, size in zip(PARTS, chosen, sizes, strict=True):
            if len(part[-1]) < size:
                raise ValueError(f"class {wnid} has {counts[label]} photographs, {len(part[-1])} for {name}, {size} needed")
    tail = recipe.class_counts(len(WNIDS))
    if recipe.ratio != 1:
        chosen[0][:] = [generator.permutation(part)[:count] for part, count in zip(chosen[0], tail, strict=True)]
    return tuple([np.sort(part) for part in parts] for parts in chosen)


def _check_sizes(place: Path, counts: Sequence[int], recipe: Recipe) -> None:
    """Raises ``BadInput`` if the recipe could run out of photographs of a class."""
    needed = recipe.train + recipe.validation + recipe.test
    kept = 1 - recipe.held_out
    # Shares are rounded twice, so a class needs one or two more than the shares alone say.
    shares = (
        (recipe.train + 2) / kept**2,
        (recipe.validation + 2) / (kept * recipe.held_out),
        (recipe.test + 1) / recipe.held_out,
    )
    needed_equal = max(needed, int(np.ceil(max(shares))))
    for wnid, count in zip(WNIDS, counts, strict=True):
        least = needed if wnid in UNEQUAL else needed_equal
        if count < least:
            raise BadInput(
                f"class {wnid} in {str(place)!r} has {count:,} photographs, too few for {recipe.train} to train, "
                f"{recipe.validation} to validate and {recipe.test} to test: at least {least:,} are needed; "
                "add the missing ones of ImageNet-1k's training photographs"
            )
