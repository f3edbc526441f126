"""A reader for the Python pickles of CIFAR-10 and CIFAR-100 that runs nothing.

The official files are dictionaries written by Python 2 (protocol 2): byte strings, lists of integers and one uint8
array each. A pickle is a program, so three things stand between a hostile file and this process:

* every opcode is checked before the first one runs, against the few that such a dictionary needs; none of them looks
  up an extension code or a persistent id, or makes an instance of a class;
* the three numpy names that those files contain are answered with stand-ins of our own, which take the arguments that
  a uint8 array has and no others; numpy's own constructors, which trust what they are given, are never called, and
  every other name is refused;
* sizes, memo indices and tuples are bounded by the length of the file, so it can cost no more memory than it takes on
  disk, times a small constant.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from replicate.data import bounded
from replicate.errors import BadInput

__all__ = ["LARGEST", "parse", "read"]

#: Bytes; the largest official file (CIFAR-100, train) has 155,249,918.
LARGEST = 200_000_000
#: An array needs six tuples, one of them with eight entries; there is one array in a file.
MOST_TUPLES = 16
#: The official CIFAR-100 training file has 50,000 file names and two lists of 50,000 labels: some 250,000 opcodes.
MOST_OPCODES = 2_000_000
#: Characters of a line inside the pickle: a module, a name, or an integer in decimal digits.
LONGEST_LINE = 64

_PROTO, _STOP, _GLOBAL, _INT = 0x80, 0x2E, 0x63, 0x49
_SHORT_BINSTRING, _BINSTRING, _BINUNICODE = 0x55, 0x54, 0x58
_PUT = {0x71: 1, 0x72: 4}  # BINPUT, LONG_BINPUT: bytes of the index that follows
_GET = {0x68: 1, 0x6A: 4}  # BINGET, LONG_BINGET
_NUMBER = {0x4B: 1, 0x4D: 2, 0x4A: 4}  # BININT1, BININT2, BININT
_TUPLE = frozenset({0x74, 0x85, 0x86, 0x87})  # TUPLE, TUPLE1, TUPLE2, TUPLE3
# EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, MARK, NONE, NEWTRUE, NEWFALSE, APPEND, APPENDS, SETITEM, SETITEMS, REDUCE, BUILD
_PLAIN = frozenset(b"}])(N\x88\x89aesuRb")


def read(path: Path) -> bytes:
    """The bytes of the file at ``path``.

    Raises ``BadInput`` if it is missing, no regular file, unreadable or larger than any CIFAR file.
    """
    data = bounded.read(path, LARGEST, _REMEDY)
    if len(data) > LARGEST:
        raise BadInput(f"file {str(path)!r} has more than {LARGEST:,} bytes, no CIFAR file is as large; {_REMEDY}")
    return data


def parse(data: bytes, path: Path) -> dict[bytes, Any]:
    """The dictionary in ``data``: keys are bytes, values bytes, integers, lists, dictionaries or uint8 arrays.

    Nothing in ``data`` is executed; arrays are read-only views of it. ``path`` names the file in messages. Raises
    ``BadInput`` for anything but such a dictionary: another format, a truncated or damaged file, foreign content.
    """
    try:
        _inspect(data)
        told = _Reader(io.BytesIO(data), encoding="bytes").load()
        if not isinstance(told, dict) or not all(isinstance(key, bytes) for key in told):
            raise pickle.UnpicklingError("it holds no dictionary with byte-string keys")
        return {key: _finished(value) for key, value in told.items()}
    except Exception as error:
        # The unpickler answers damaged input with nearly every built-in exception there is; all mean the same here.
        why = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"file {str(path)!r} is not a CIFAR batch ({why[:200]}); {_REMEDY}") from None


_REMEDY = "expected a file of the official archive's Python version: put it there, or fetch it with: replicate data get"


def _finished(value: Any) -> Any:
    return value.finished() if isinstance(value, _Array) else value


# --- opcodes ---------------------------------------------------------------------------------------------------------


def _inspect(data: bytes) -> None:
    """Walk over every opcode, running none. Raises ``UnpicklingError`` at the first that is not allowed, or out of
    bounds, or cut off, and if anything follows the end."""
    end = len(data)
    if data[:1] != b"\x80":
        raise pickle.UnpicklingError("it is not a pickle of protocol 2")
    at = count = tuples = 0
    previous = -1
    tuple_memos: set[int] = set()
    while at < end:
        code = data[at]
        at += 1
        count += 1
        if count > MOST_OPCODES:
            raise pickle.UnpicklingError(f"more than {MOST_OPCODES:,} opcodes")
        if size := _NUMBER.get(code):
            at += size
        elif size := _PUT.get(code):
            index = int.from_bytes(data[at : at + size], "little")
            at += size
            if index > count:  # the unpickler would make room for that many
                raise pickle.UnpicklingError(f"memo index {index} at byte {at - size} is out of bounds")
            if previous in _TUPLE:
                tuple_memos.add(index)
        elif size := _GET.get(code):
            # Tuples that hold one another twice, and so on, take for ever to hash when used as a key.
            if int.from_bytes(data[at : at + size], "little") in tuple_memos:
                raise pickle.UnpicklingError(f"a tuple is used twice at byte {at - 1}")
            at += size
        elif code == _SHORT_BINSTRING:
            at += 1 + (data[at] if at < end else 0)
        elif code in (_BINSTRING, _BINUNICODE):
            length = int.from_bytes(data[at : at + 4], "little")
            at += 4 + length
        elif code in _TUPLE:
            tuples += 1
            if tuples > MOST_TUPLES:  # hashing a deeply nested one would exhaust the C stack
                raise pickle.UnpicklingError(f"more than {MOST_TUPLES} tuples")
        elif code == _GLOBAL:
            at = _line(data, _line(data, at))
        elif code == _INT:
            at = _line(data, at)
        elif code == _PROTO:
            if at != 1 or data[1:2] != b"\x02":
                raise pickle.UnpicklingError("it is not a pickle of protocol 2")
            at += 1
        elif code == _STOP:
            if at != end:
                raise pickle.UnpicklingError(f"{end - at} bytes follow its end")
            return
        elif code not in _PLAIN:
            names = {known.code: known.name for known in pickletools.opcodes}
            raise pickle.UnpicklingError(f"opcode {names.get(chr(code), f'0x{code:02x}')} at byte {at - 1} is not allowed")
        previous = code
    raise pickle.UnpicklingError("it is cut off")


def _line(data: bytes, at: int) -> int:
    after = data.find(b"\n", at, at + LONGEST_LINE) + 1
    if not after:
        raise pickle.UnpicklingError(f"a line at byte {at} does not end")
    return after


# --- what the three numpy names stand for ----------------------------------------------------------------------------


class _Refusing:
    """No attributes, and none that a pickle could set."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("foreign content")


class _Dtype(_Refusing):
    """A dtype in the file: uint8, for no other is ever made."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subarray, names, fields, size, alignment, flags): of uint8 it says nothing new.
        if not isinstance(state, tuple) or not all(part is None or type(part) in (int, bytes) for part in state):
            raise pickle.UnpicklingError("the array has a structured dtype")


class _Array:
    """An array in the file: made empty, filled by its state."""

    __slots__ = ("_array",)

    def __init__(self) -> None:
        self._array: NDArray[np.uint8] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise pickle.UnpicklingError("the array's state is not that of a numpy array")
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or type(data) is not bytes or type(fortran) not in (bool, int):
            raise pickle.UnpicklingError("the array does not hold plain uint8 values")
        if not isinstance(shape, tuple) or len(shape) > 4 or not all(type(size) is int and size >= 0 for size in shape):
            raise pickle.UnpicklingError("the array's shape is none of up to four sizes")
        if math.prod(shape) != len(data):
            raise pickle.UnpicklingError(f"an array of shape {shape} with {len(data)} bytes")
        self._array = np.frombuffer(data, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")

    def finished(self) -> NDArray[np.uint8]:
        if self._array is None:
            raise pickle.UnpicklingError("an array without content")
        return self._array


class _NumpyArray(_Refusing):
    """Stands for ``numpy.ndarray``, which the files only mention."""

    __slots__ = ()


class _NumpyReconstruct(_Refusing):
    """Stands for ``numpy.core.multiarray._reconstruct``."""

    __slots__ = ()

    def __call__(self, *arguments: object) -> _Array:
        if len(arguments) != 3 or arguments[0] is not _NDARRAY or arguments[1] != (0,) or arguments[2] != b"b":
            raise pickle.UnpicklingError("foreign content in place of an array")
        return _Array()


class _NumpyDtype(_Refusing):
    """Stands for ``numpy.dtype``."""

    __slots__ = ()

    def __call__(self, *arguments: object) -> _Dtype:
        if not arguments or arguments[0] != b"u1":
            raise pickle.UnpicklingError("the array does not hold plain uint8 values")
        return _Dtype()


# Instances, not classes or functions: those have attributes that BUILD could set.
_NDARRAY = _NumpyArray()
_NAMES = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _NumpyDtype(),
    ("numpy.core.multiarray", "_reconstruct"): _NumpyReconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _NumpyReconstruct(),
}


class _Reader(pickle.Unpickler):
    """The second line of defence: what an opcode could ask for is refused here too."""

    def find_class(self, module: str, name: str, /) -> Any:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not allowed")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any, /) -> NoReturn:
        raise pickle.UnpicklingError("it asks for a persistent id, which is not allowed")
