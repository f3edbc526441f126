"""Files as the official data sets have them, small or hostile, for the tests of ``replicate.data``."""

from __future__ import annotations

import gzip
import io
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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


def idx(values: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.astype(np.uint8).tobytes()


def write_mnist(folder: Path, *, train: int, test: int, packed: bool = False, seed: int = 0) -> dict[str, bytes]:
    """Write a ``MNIST/raw`` of random images into ``folder``, gzipped where ``packed`` says so; returns the files' contents,
    unpacked, by name."""
    draw = np.random.default_rng(seed)
    files = {}
    for part, count in (("train", train), ("t10k", test)):
        files[f"{part}-images-idx3-ubyte"] = idx(draw.integers(0, 256, (count, 28, 28)))
        files[f"{part}-labels-idx1-ubyte"] = idx(draw.permutation(np.arange(count) % 10))
    place = folder / "MNIST" / "raw"
    place.mkdir(parents=True)
    for name, content in files.items():
        (place / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return files


def photograph(height: int, width: int, seed: int = 0, kind: str = "JPEG") -> bytes:
    """An image file of smooth random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    packed = io.BytesIO()
    Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(packed, kind)
    return packed.getvalue()


def write_ready(folder: Path, wnids: Sequence[str], counts: dict[str, Sequence[int]], side: int = 8) -> Path:
    """Write a ``mini-imagenet-lt`` into ``folder``: photographs of each class by part, all of one size, no two alike."""
    place, seed = folder / "mini-imagenet-lt", 0
    for part, of_class in counts.items():
        for wnid, count in zip(wnids, of_class, strict=True):
            (place / part / wnid).mkdir(parents=True)
            for number in range(count):
                (place / part / wnid / f"{wnid}{number:04}.jpg").write_bytes(photograph(side, side, seed))
                seed += 1
    return place


def write_imagenet(folder: Path, counts: dict[str, int]) -> Path:
    """Write an ``imagenet/train`` into ``folder``: so many photographs of each class, of several sizes, no two alike."""
    place, seed = folder / "imagenet" / "train", 0
    for wnid, count in counts.items():
        (place / wnid).mkdir(parents=True)
        for number in range(count):
            content = photograph(12 + seed % 5, 12 + seed % 7, seed)
            (place / wnid / f"{wnid}_{number}.JPEG").write_bytes(content)
            seed += 1
    return place
