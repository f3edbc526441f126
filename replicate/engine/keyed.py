"""Randomness keyed by (cell seed, purpose, epoch): a resumed or shared run draws what an uninterrupted one draws."""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator of its own for one purpose in one epoch (counted over the whole chain).

    Draws are made on the CPU and moved, so every device sees the same ones. Nothing here touches a global generator.
    """
    digest = hashlib.sha256(f"{seed}:{purpose}:{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
