"""Files in the layout of the official CIFAR archives, small or hostile, for the tests of ``replicate.data``."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

HEAD = b"\x80\x02"


def text(value: bytes) -> bytes:
    """A Python 2 string."""
    return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value


def array(shape: tuple[int, ...], content: bytes, *, dtype: bytes = b"u1", module: bytes = b"numpy.core.multiarray") -> bytes:
    """A numpy array as Python 2 wrote it, whether or not its parts agree."""
    sizes = b"(" + b"".join(b"J" + struct.pack("<i", size) for size in shape) + b"t"
    dtype = (
        b"cnumpy\ndtype\n(" + text(dtype) + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    made = b"c" + module + b"\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    return made + b"(K\x01" + sizes + dtype + b"\x89" + text(content) + b"tb"


def integers(values: list[int]) -> bytes:
    return b"](" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"e"


def pickled(**entries: bytes) -> bytes:
    """A dictionary of encoded entries."""
    return HEAD + b"}(" + b"".join(text(key.encode()) + value for key, value in entries.items()) + b"u."


def batch(images: np.ndarray, labels: list[int], key: str = "labels") -> bytes:
    """A batch file: ``images`` uint8 [N, C, H, W]."""
    return pickled(
        batch_label=text(b"training batch 1 of 5"),
        **{key: integers(labels)},
        data=array((len(images), images[0].size), images.tobytes()),
        filenames=b"](" + b"".join(text(b"image_s_%06d.png" % k) + b"q\x01" for k in range(len(images))) + b"e",
    )


def write_cifar10(folder: Path, *, train: int, test: int, side: int, seed: int = 0) -> dict[str, bytes]:
    """Write a ``cifar-10-batches-py`` of random images, ``train`` and ``test`` of each class, into ``folder``; returns its
    files by name."""
    draw = np.random.default_rng(seed)
    files = {}
    for name, each in {**{f"data_batch_{k}": train // 5 for k in range(1, 6)}, "test_batch": test}.items():
        labels = draw.permutation(np.repeat(np.arange(10), each))
        images = draw.integers(0, 256, (len(labels), 3, side, side), dtype=np.uint8)
        files[name] = batch(images, labels.tolist())
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / name).write_bytes(content)
    return files
