"""Lanes on a GPU: threads of this process, each with a stream of its own, on images that are there once."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import queue
from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any, Final, Protocol

import torch

from replicate.engine import captured
from replicate.engine.loop import DeviceData
from replicate.launch.lanes import LAST, Event, Job, Lane, Materials, settle
from replicate.record import Store

#: Lanes at most: launches of so many small networks keep a large GPU busy.
MOST: Final = 8
#: A thread that is told to stop does so at the end of a step; after so long it is given up.
PATIENCE_SECONDS: Final = 60.0


class Meter(Protocol):
    """Tells how many lanes the device's memory takes; see :class:`replicate.launch.memory.Gpu`."""

    def begin(self) -> None:
        """A lane begins."""

    def fit(self) -> int:
        """How many lanes fit, by what the first one took."""


class Streams:
    """Lanes that are threads; ``measures`` are computed of each cell, ``meter`` measures the device's memory."""

    def __init__(
        self, materials: Materials[DeviceData], store: Store, measures: Sequence[str], device: torch.device, meter: Meter
    ) -> None:
        self._materials = materials
        self._store, self._measures = store, measures
        self._device = device
        self._meter = meter
        self._lanes: dict[int, tuple[Lane, Any]] = {}
        self._threads: dict[int, Thread] = {}
        self._busy: set[int] = set()
        self._heard: queue.Queue[tuple[int, Event | BaseException]] = queue.Queue()

    def start(self, lane: int, job: Job) -> None:
        """Train the job's group in a thread of its own."""
        if lane not in self._lanes:
            # A lane's stream stays the same one: the allocator keeps what it freed for that stream alone.
            stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
            self._lanes[lane] = Lane(self._store, self._measures), stream
        data = self._materials.of(job.first, lane)
        settle(self._device)  # images were moved there on another stream
        self._meter.begin()
        self._busy.add(lane)
        self._threads[lane] = Thread(target=self._run, args=(lane, job, data), daemon=True)
        self._threads[lane].start()

    def _run(self, lane: int, job: Job, data: DeviceData) -> None:
        one, stream = self._lanes[lane]
        try:
            with contextlib.nullcontext() if stream is None else torch.cuda.stream(stream):
                one.do(job, data, lambda event: self._heard.put((lane, event)))
        except BaseException as error:
            self._heard.put((lane, error))

    def share(self, lane: int, threads: int) -> None:
        """These lanes train on a GPU."""

    def wait(self, hear: Callable[[int, Event], None]) -> None:
        """Hear the next event of any lane. Raises what ended a lane."""
        while True:
            with contextlib.suppress(queue.Empty):
                lane, told = self._heard.get(timeout=0.5)  # not for ever: on Windows that could not be interrupted
                break
        if isinstance(told, BaseException):
            raise told
        if isinstance(told, LAST):
            self._busy.discard(lane)
        hear(lane, told)

    def let_go(self, short: int) -> bool:
        """Features that free lanes remember, data that none of the others trains on, and what the allocator keeps for them."""
        settle(self._device)  # what is let go may still be read by what was queued
        free = self._lanes.keys() - self._busy
        for lane in free:
            del self._lanes[lane]
        self._materials.only(self._busy)
        gc.collect()
        if self._device.type == "cuda":
            with captured.LOCK:
                torch.cuda.empty_cache()
        return bool(free - {short})

    def fit(self) -> int:
        """As many as the meter says."""
        return self._meter.fit()

    def close(self) -> None:
        """Stop every thread as Ctrl-C stops the main one, at the end of a step."""
        for thread in self._threads.values():
            if thread.is_alive() and thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
        for thread in self._threads.values():
            thread.join(PATIENCE_SECONDS)
