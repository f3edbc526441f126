"""Progress on long work: one line a cell."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from replicate.grid import Cell


class Progress:
    """Writes one line a cell: rewritten in place on a terminal; elsewhere plain lines, at most one a minute and one at the end.

    ``work`` is in passes of one image (see :func:`replicate.grid.epoch_work`); the time left follows from what was measured so
    far in this run.
    """

    PLAIN_EVERY_SECONDS = 60.0

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._work_left = 0.0
        self._work_done = 0.0
        self._seconds = 0.0
        self._head = self._line = ""
        self._written_at = time.monotonic()
        self._length = 0

    def expect(self, work: float) -> None:
        """Tell the work of the whole plan."""
        self._work_left = work

    @property
    def seconds_left(self) -> float:
        """Time that the rest of the plan takes at the speed measured so far."""
        return self._work_left * self._seconds / max(self._work_done, 1e-9)

    def begin(self, cell: Cell, place: int, of: int, together: int = 1) -> None:
        """A cell starts, the ``place``-th of ``of``; or, ``together``, several that are trained on one backbone."""
        self._head = f"[{place}/{of}] {cell.label}"
        if together > 1:
            data = f"{cell.column.dataset}/{cell.column.ratio} seed {cell.seed}"
            self._head = f"[{place}-{place + together - 1}/{of}] {cell.method} and {together - 1} more classifiers, {data}"
        self._length = cell.programme.length
        self._line = self._head
        if self._live:
            self._rewrite()

    def epoch(self, number: int, *, loss: float, accuracy: float, work: float, seconds: float) -> None:
        """An epoch is done: mean loss, test accuracy in percent, its work and seconds."""
        self._work_left -= work
        self._work_done += work
        self._seconds += seconds
        rate = work / max(seconds, 1e-9)
        self._line = (
            f"{self._head}  epoch {number}/{self._length}  loss {loss:.4f}  accuracy {accuracy:.1f}  "
            f"{rate:,.0f} images/s  {duration(self.seconds_left)} left"
        )
        if self._live:
            self._rewrite()
        elif time.monotonic() - self._written_at >= self.PLAIN_EVERY_SECONDS:
            self._plain()

    def end(self, note: str | None) -> None:
        """The cell is done, or why it is not."""
        if note:
            self._line += f"  {note}"
        if self._live:
            self._rewrite()
            self._stream.write("\n")
            self._stream.flush()
        else:
            self._plain()

    def _rewrite(self) -> None:
        self._stream.write(f"\r\033[K{self._line}")
        self._stream.flush()

    def _plain(self) -> None:
        self._stream.write(self._line + "\n")
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
