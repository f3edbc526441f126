"""A reader for the IDX files of MNIST, plain or gzipped.

An IDX file is a magic number (two zero bytes, the type of its values, the number of dimensions), the length of each
dimension as a 32-bit big-endian integer, and the values, the last dimension running fastest. Source: Y. LeCun, C. Cortes,
C. Burges, "The MNIST database of handwritten digits". Only unsigned bytes are read here.
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replicate.data import bounded
from replicate.errors import BadInput

__all__ = ["LARGEST", "parse", "read"]

#: Bytes; the largest official file (training images) has 47,040,016. Nothing is unpacked beyond this.
LARGEST = 50_000_000
_UNSIGNED_BYTE = 0x08
_REMEDY = "replace it by the official file, or move its folder away and run: replicate data get mnist"


def read(path: Path) -> bytes:
    """The content of the file at ``path``, unpacked if its name ends in ``.gz``.

    Raises ``BadInput`` if it is missing, no regular file, unreadable, damaged, or larger than any file of MNIST.
    """
    data = bounded.read(path, LARGEST, _REMEDY)
    if path.suffix == ".gz" and len(data) <= LARGEST:
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(LARGEST + 1)
        except (OSError, EOFError, zlib.error, struct.error) as error:
            why = " ".join(str(error).split())
            raise BadInput(f"file {str(path)!r} cannot be unpacked ({why}): it is damaged or cut off; {_REMEDY}") from None
    if len(data) > LARGEST:
        raise BadInput(f"file {str(path)!r} has more than {LARGEST:,} bytes, no file of MNIST is as large; {_REMEDY}")
    return data


def parse(data: bytes, path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array in ``data``, with so many ``dimensions``: a read-only view of it. ``path`` names the file in messages.

    Raises ``BadInput`` for another magic number (a file of another kind, or images in place of labels) and for more or
    fewer values than the lengths promise.
    """
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if data[:4] != magic:
        raise BadInput(
            f"file {str(path)!r} begins with {data[:4].hex() or 'nothing'}, an IDX file of bytes in {dimensions} "
            f"dimension{'s' * (dimensions > 1)} with {magic.hex()}; {_REMEDY}"
        )
    head = 4 + 4 * dimensions
    if len(data) < head:
        raise BadInput(f"file {str(path)!r} is cut off after {len(data):,} bytes, within its head; {_REMEDY}")
    shape = struct.unpack(f">{dimensions}I", data[4:head])
    promised = head + math.prod(shape)
    if len(data) != promised:
        raise BadInput(f"file {str(path)!r} is damaged: {len(data):,} bytes, its head promises {promised:,}; {_REMEDY}")
    return np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape)
