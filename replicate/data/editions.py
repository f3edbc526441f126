"""Which copies of a data set are known, and what numbers made on them can stand beside. Needs neither images nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: The edition whose every file is the published one.
OFFICIAL: Final = "official"

#: Editions that are not official, yet known: whether their numbers can stand beside published ones, and why.
EDITIONS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("cifar10", "0cff24a527f3"): (
        "comparable",
        "official order and split; 849 training and 173 test images come from a JPEG copy",
    ),
    ("cifar100", "c5d1248f4937"): (
        "other split",
        "official images; 500 training and 100 test images of each class drawn anew",
    ),
    ("mnist", "e78deba9817a"): (
        "comparable",
        "official images and split; the training images of a class stand in another order",
    ),
    ("mini_imagenet_lt", "194e64ef548c"): (
        "not comparable",
        "84x84 pixels; 10 validation and 30 test photographs a class",
    ),
}


def comparability(source: str, edition: str) -> str:
    """Whether levels measured on this edition can stand beside published ones: ``"comparable"``, ``"other split"``
    (differences can, levels cannot) or ``"not comparable"`` (stand-in data, small copies). Unknown editions of full size are
    other splits."""
    if source == "digits":
        return "not comparable"
    if edition == OFFICIAL:
        return "comparable"
    if told := EDITIONS.get((source, edition)):
        return told[0]
    return "not comparable" if "-" in edition else "other split"


def why(source: str, edition: str) -> str:
    """What is known of an edition that is not official; empty if nothing is."""
    told = EDITIONS.get((source, edition))
    size = edition.partition("-")[2]
    return told[1] if told else f"all photographs have {size} pixels" if size else ""


def named(source: str, edition: str) -> str:
    """Such as ``cifar100@official`` or ``cifar100@0123456789ab (other split)``; with what is known of a copy."""
    if edition == OFFICIAL:
        return f"{source}@{edition}"
    known = why(source, edition)
    return f"{source}@{edition} ({comparability(source, edition)}{f': {known}' if known else ''})"
