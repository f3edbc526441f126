"""Lanes on a CPU: processes that live for the whole run, on images that are in memory once for all of them."""

from __future__ import annotations

import contextlib
import io
import mmap
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from replicate.engine import numerics
from replicate.engine.loop import DeviceData
from replicate.engine.state import of_memory
from replicate.errors import BadInput
from replicate.launch import memory
from replicate.launch.lanes import LAST, Broken, Event, Job, Lane, Materials, MemoryShort
from replicate.record import Store

if sys.platform != "win32":
    from multiprocessing.reduction import recv_handle, send_handle

#: Whether images can be shared with worker processes here: that takes Unix sockets, over which open files are sent.
POSSIBLE: Final = sys.platform != "win32"
#: A worker that is told to stop does so at the end of a step; after so long it is killed.
PATIENCE_SECONDS: Final = 20.0
#: Arrays begin at multiples of so many bytes, as those that are allocated do.
_ALIGNED: Final = 64


# --- memory that processes share -------------------------------------------------------------------------------------


class Shared:
    """A value whose arrays and CPU tensors lie in a file without a name, which other processes map instead of copying it.

    Nothing of it is left once the processes that have it are gone, however they end. Raises ``BadInput`` if there is not the
    room.
    """

    def __init__(self, value: object) -> None:
        buffers: list[pickle.PickleBuffer] = []
        packed = io.BytesIO()
        _Pickler(packed, protocol=5, buffer_callback=buffers.append).dump(value)
        self._value, self._spans = packed.getvalue(), []
        try:
            # Not in /dev/shm, which containers often limit to 64 MiB.
            self._file = os.fdopen(os.memfd_create("replicate") if hasattr(os, "memfd_create") else _on_disk(), "w+b")
            end = 0
            for buffer in buffers:
                raw = buffer.raw()
                begin = -(-end // _ALIGNED) * _ALIGNED
                end = begin + raw.nbytes
                self._file.write(bytes(begin - self._file.tell()))
                self._file.write(raw)
                self._spans.append((begin, end))
            self._file.flush()
        except OSError as error:
            size = sum(buffer.raw().nbytes for buffer in buffers) / 2**20
            raise BadInput(
                f"{size:,.0f} MiB of images cannot be kept where worker processes share them ({error.strerror}); free memory, "
                "or train one cell after another with --workers 1"
            ) from None

    def send(self, channel: Connection, to: int) -> None:
        """Send it to the process with this id, which asks for it by :func:`received`."""
        channel.send((self._value, self._spans))
        send_handle(channel, self._file.fileno(), to)


def _on_disk() -> int:
    number, path = tempfile.mkstemp()
    os.unlink(path)
    return number


def received(channel: Connection) -> Any:
    """A value that another process sent; what is written into its arrays would be seen by all."""
    packed, spans = channel.recv()
    with os.fdopen(recv_handle(channel), "rb+") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0) if spans and spans[-1][1] else b"")
    return pickle.loads(packed, buffers=[mapped[begin:end] for begin, end in spans])


class _Pickler(pickle.Pickler):
    """Packs tensors by the arrays behind them, each once: views of one memory are views of one memory again."""

    def __init__(self, *arguments: Any, **how: Any) -> None:
        super().__init__(*arguments, **how)
        self._memories: dict[int, NDArray[np.uint8]] = {}

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        storage = value.untyped_storage()
        if storage.data_ptr() not in self._memories:
            self._memories[storage.data_ptr()] = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        where = value.dtype, value.storage_offset(), tuple(value.shape), value.stride()
        return _tensor, (self._memories[storage.data_ptr()], *where)


def _tensor(
    whole: NDArray[np.uint8], dtype: torch.dtype, offset: int, shape: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    return torch.empty(0, dtype=dtype).set_(torch.from_numpy(whole).untyped_storage(), offset, shape, stride)


# --- lanes that are processes ----------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: Any
    channel: Connection
    holds: Shared | None = None  # what was sent last
    busy: bool = False
    peak: float = 0.0


class Workers:
    """Lanes that are processes, at most ``many``; each computes ``measures`` of the cells that it trains."""

    def __init__(self, many: int, materials: Materials[Shared], store: Store, measures: Sequence[str]) -> None:
        self._materials = materials
        self._told = (store, tuple(measures))
        self._workers: dict[int, _Worker] = {}
        # A worker without work takes no more than this process, which imports the same and holds images besides. So many are
        # started at once, since that takes seconds; they get work when it is known what that takes.
        for lane in range(max(1, min(many, memory.fitting(memory.available(), memory.own_peak())))):
            self._workers[lane] = self._begun()

    def _begun(self) -> _Worker:
        here, there = multiprocessing.Pipe()
        # Spawned: a fork of a process that computes with OpenMP may hang.
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(there, *self._told), daemon=True)
        with _without_ctrl_c():
            process.start()
        there.close()
        return _Worker(process, here)

    def start(self, lane: int, job: Job) -> None:
        """Send the job to the lane's process; one is started where there is none."""
        shared = self._materials.of(job.first, lane)
        if lane not in self._workers:
            self._workers[lane] = self._begun()
        worker = self._workers[lane]
        worker.busy = True
        with contextlib.suppress(OSError):  # it has ended: wait() will notice
            worker.channel.send((job, shared is not worker.holds))
            if shared is not worker.holds:
                worker.holds = shared
                shared.send(worker.channel, worker.process.pid)

    def share(self, lane: int, threads: int) -> None:
        """Tell the lane's process, which listens after every epoch."""
        with contextlib.suppress(OSError):  # it has ended: wait() will notice
            self._workers[lane].channel.send(threads)

    def wait(self, hear: Callable[[int, Event], None]) -> None:
        """Hear the next event of every worker that has one. Raises what ended one."""
        busy = {worker.channel: lane for lane, worker in self._workers.items() if worker.busy}
        for channel in cast("list[Connection]", wait(list(busy))):
            lane = busy[channel]
            worker = self._workers[lane]
            try:
                told, worker.peak = channel.recv()
            except (EOFError, OSError):
                hear(lane, self._ended(lane))
                continue
            if isinstance(told, BaseException):
                raise told
            worker.busy = not isinstance(told, LAST)
            hear(lane, told)

    def _ended(self, lane: int) -> Event:
        """What a worker's end means. Raises :class:`Broken` if it is not for lack of memory."""
        worker = self._workers.pop(lane)
        worker.channel.close()
        worker.process.join()
        # This is how the system ends what takes more memory than there is, and how a kernel ends that gets none.
        if worker.process.exitcode in (-signal.SIGKILL, -signal.SIGABRT):
            return MemoryShort()
        raise Broken(f"a worker process ended with exit code {worker.process.exitcode}")

    def fit(self) -> int:
        """By the memory that the one busy worker has taken so far."""
        return 1 + memory.fitting(memory.available(), max(worker.peak for worker in self._workers.values()))

    def let_go(self, short: int) -> bool:
        """Processes without work, and data that none of the others trains on."""
        free = {lane for lane, worker in self._workers.items() if not worker.busy}
        self._end(free)
        self._materials.only(self._workers.keys())
        return bool(free - {short})

    def close(self) -> None:
        """End every process; those at work leave their latest checkpoints."""
        self._end(set(self._workers))

    def _end(self, lanes: Set[int]) -> None:
        """End the processes of these lanes."""
        workers = [self._workers.pop(lane) for lane in lanes]
        for worker in workers:
            worker.channel.close()  # those without work end by this
            if worker.busy:
                worker.process.terminate()
        until = time.monotonic() + PATIENCE_SECONDS
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Processes that are started inside never see Ctrl-C, which goes to all of a terminal's processes: this one ends them."""
    resource_tracker.ensure_running()  # the first start would start it, and it unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in a worker process ---------------------------------------------------------------------------------------------


def _work(channel: Connection, store: Store, measures: Sequence[str]) -> None:
    """Do jobs until the channel closes or the parent ends; tell each event with the memory taken so far."""
    signal.signal(signal.SIGTERM, _interrupt)
    sys.unraisablehook = _interrupt_again
    threading.Thread(target=_follow_parent, daemon=True).start()

    def tell(told: Event | BaseException) -> None:
        channel.send((told, memory.own_peak()))

    def threads() -> int | None:
        latest = None
        while channel.poll():
            latest = channel.recv()  # while a job is done nothing else comes
        return latest

    with contextlib.suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        numerics.reuse_memory()
        lane, data = Lane(store, measures), cast(DeviceData, None)  # the first job comes with its data
        while True:
            told = channel.recv()
            if isinstance(told, int):  # threads for a job that was over by then
                continue
            job, sent = told
            try:
                if sent:
                    data = cast(DeviceData, None)  # before the next one is there
                    data = received(channel)
                lane.do(job, data, tell, threads)
            except BadInput as error:
                tell(error)
            except Exception as error:
                tell(MemoryShort() if of_memory(error) else Broken(traceback.format_exc()))


def _interrupt(number: int, frame: object) -> None:
    # Once: a second one would interrupt what ends the process, and be printed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _interrupt_again(told: Any) -> None:
    # Where nothing can be raised, such as in a destructor, an interruption is lost, and would be printed.
    if isinstance(told.exc_value, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, _interrupt)
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(told)


def _follow_parent() -> None:
    """A parent that was killed leaves no workers."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_SECONDS)
    os._exit(1)
