"""Progress on long work: one line a group of cells that are trained together."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TextIO

from replicate.grid import Cell


@dataclass
class _Lane:
    """What runs in one lane: its line, the part of it that stays, the epochs of its chain, and images a second."""

    head: str
    line: str
    length: int
    rate: float = 0.0


class Progress:
    """Writes one line a group. On a terminal it is rewritten in place; where several run side by side, what is rewritten is one
    line about all, below the lines of those that are done. Elsewhere plain lines, at most one a minute and one at the end.

    ``work`` is in passes of one image (see :func:`replicate.grid.epoch_work`); the time left follows from what was measured so
    far in this run, and from how many lanes there are.
    """

    PLAIN_EVERY_SECONDS = 60.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._work_left = 0.0
        self._work_done = 0.0
        self._seconds = 0.0
        self._lanes: dict[int, _Lane] = {}
        self._most = 1  # lanes at once
        self._written_at = time.monotonic()

    def expect(self, work: float) -> None:
        """Tell the work of the whole plan; or of what is to be done again, beside the rest."""
        self._work_left += work

    @property
    def seconds_left(self) -> float:
        """Time that the rest of the plan takes at the speed measured so far."""
        return self._work_left * self._seconds / max(self._work_done, 1e-9) / self._most

    def begin(self, cell: Cell, place: int, of: int, together: int = 1, lane: int = 0) -> None:
        """A cell starts in a lane, the ``place``-th of ``of``; or, ``together``, several that are trained on one backbone."""
        head = f"[{place}/{of}] {cell.label}"
        if together > 1:
            data = f"{cell.column.dataset}/{cell.column.ratio} seed {cell.seed}"
            head = f"[{place}-{place + together - 1}/{of}] {cell.method} and {together - 1} more classifiers, {data}"
        self._lanes[lane] = _Lane(head, head, cell.programme.length)
        self._most = max(self._most, len(self._lanes))
        if self._live:
            self._rewrite()

    def epoch(self, number: int, *, loss: float, accuracy: float, work: float, seconds: float, lane: int = 0) -> None:
        """An epoch is done: mean loss, test accuracy in percent, its work and seconds."""
        self._work_left -= work
        self._work_done += work
        self._seconds += seconds
        told = self._lanes[lane]
        told.rate = work / max(seconds, 1e-9)
        told.line = (
            f"{told.head}  epoch {number}/{told.length}  loss {loss:.4f}  accuracy {accuracy:.1f}  "
            f"{told.rate:,.0f} images/s  {duration(self.seconds_left)} left"
        )
        if self._live:
            self._rewrite()
        elif time.monotonic() - self._written_at >= self.PLAIN_EVERY_SECONDS:
            self._plain(told.line)

    def end(self, note: str | None, lane: int = 0) -> None:
        """What ran in a lane is done, or why it is not."""
        line = self._lanes.pop(lane).line + (f"  {note}" if note else "")
        if not self._live:
            self._plain(line)
            return
        self._stream.write(f"\r\033[K{line}\n")
        self._rewrite()

    def _rewrite(self) -> None:
        lanes = list(self._lanes.values())
        line = lanes[0].line if lanes else ""
        if len(lanes) > 1:
            rate = sum(lane.rate for lane in lanes)
            line = f"{len(lanes)} side by side  {rate:,.0f} images/s  {duration(self.seconds_left)} left"
        self._stream.write(f"\r\033[K{line}")
        self._stream.flush()

    def _plain(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()
        self._written_at = time.monotonic()


def duration(seconds: float) -> str:
    """Such as ``45 s``, ``12 min``, ``3 h 05 min``, ``2 d 4 h``."""
    seconds = max(0.0, seconds)
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24} h"
