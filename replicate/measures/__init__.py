"""Measures: numbers of a trained cell beyond accuracy, each kept in a file of its own so that a new one never retrains.

A measure has a module: pure functions of features, logits and weights, in float64, and ``measure``, which computes them for a
trained state, its data and its cell. Everything but ``class_bound`` is about the network that the last stage hands over, in
evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replicate.engine.loop import DeviceData
from replicate.engine.state import State
from replicate.grid import Cell
from replicate.measures import bounds, etf_cosine, forgetting, logits, relu_fdr, second_stage, separation
from replicate.measures.bounds import class_bound, training_logits
from replicate.measures.fisher import fisher_discriminant_ratio

__all__ = ["MEASURES", "applies", "class_bound", "fisher_discriminant_ratio", "training_logits"]

#: By name: a function of a trained state, its data and its cell, giving JSON data; None where the measure does not apply.
MEASURES: dict[str, Callable[[State, DeviceData, Cell], dict[str, Any] | None]] = {
    "class_bound": bounds.measure,
    "separation": separation.measure,
    "forgetting": forgetting.measure,
    "relu_fdr": relu_fdr.measure,
    "etf_cosine": etf_cosine.measure,
    "second_stage": second_stage.measure,
    "logits": logits.measure,
}

_APPLIES: dict[str, Callable[[Cell], bool]] = {
    "forgetting": forgetting.applies,
    "relu_fdr": relu_fdr.applies,
    "etf_cosine": etf_cosine.applies,
    "second_stage": second_stage.applies,
}


def applies(name: str, cell: Cell) -> bool:
    """Whether a measure has something to say of a cell, told from the cell alone: where not, no image need be read.

    Raises ``KeyError`` for a measure that is not known here.
    """
    if name not in MEASURES:
        raise KeyError(name)
    return name not in _APPLIES or _APPLIES[name](cell)
