"""Nothing in a data file is executed, and nothing but a CIFAR batch is read."""

from __future__ import annotations

import contextlib
import copyreg
import io
import pickle
import struct
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from data_files import HEAD, array, batch, integers, pickled, text
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate.data import pickles
from replicate.errors import BadInput

PATH = Path("somewhere/data_batch_1")
IMAGES = np.arange(2 * 3 * 2 * 2, dtype=np.uint8).reshape(2, 3, 2, 2)
GOOD = batch(IMAGES, [3, 9])
EXTENSION = 200


def refused(data: bytes) -> str:
    with pytest.raises(BadInput) as caught:
        pickles.parse(data, PATH)
    message = str(caught.value)
    assert "\n" not in message
    assert repr(str(PATH)) in message
    assert "replicate data get" in message
    return message


@pytest.fixture
def fired(monkeypatch):
    """A module ``trap`` whose functions and classes note that they ran."""
    notes: list[str] = []

    class Trap:
        def __new__(cls, *arguments, **named):
            notes.append("new")
            return super().__new__(cls)

        def __setstate__(self, state):
            notes.append("setstate")

    trap = types.ModuleType("trap")
    trap.fire = lambda *arguments: notes.append("call")
    trap.Trap = Trap
    trap.box = types.SimpleNamespace(fire=trap.fire)
    monkeypatch.setitem(sys.modules, "trap", trap)
    copyreg.add_extension("trap", "fire", EXTENSION)
    yield notes
    copyreg.remove_extension("trap", "fire", EXTENSION)
    copyreg._extension_cache.pop(EXTENSION, None)


FIRE = b"ctrap\nfire\n)R"
ROUTES = {
    "GLOBAL and REDUCE": HEAD + FIRE + b".",
    "protocol 0": b"ctrap\nfire\n(S'x'\ntR.",
    "INST": b"(S'x'\nitrap\nfire\n.",
    "INST in protocol 2": HEAD + b"(itrap\nfire\n.",
    "OBJ": HEAD + b"(ctrap\nfire\nU\x01xo.",
    "OBJ of a class": HEAD + b"(ctrap\nTrap\no.",
    "NEWOBJ": HEAD + b"ctrap\nTrap\n)\x81.",
    "NEWOBJ_EX": b"\x80\x04ctrap\nTrap\n)}\x92.",
    "REDUCE of a class": HEAD + b"ctrap\nTrap\n)R.",
    "BUILD": HEAD + b"ctrap\nTrap\n)\x81}b.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x04trap\x8c\x04fire\x93)R.",
    "dotted name": b"\x80\x04\x8c\x04trap\x8c\x08box.fire\x93)R.",
    "framed": b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00ctrap\nfire\n)R.",
    "EXT1": HEAD + b"\x82" + bytes([EXTENSION]) + b")R.",
    "EXT2": HEAD + b"\x83" + struct.pack("<H", EXTENSION) + b")R.",
    "EXT4": HEAD + b"\x84" + struct.pack("<I", EXTENSION) + b")R.",
    "a value of the dictionary": pickled(data=FIRE),
    "a key of the dictionary": HEAD + b"}" + FIRE + b"K\x01s.",
    "an entry of a list": pickled(labels=b"](" + FIRE + b"e"),
    "dropped again": HEAD + FIRE + b"0" + GOOD[2:],
    "after the batch": GOOD[:-1] + FIRE + b".",
    "an array's content": GOOD.replace(b"\x89T", b"\x89" + FIRE + b"T").replace(b"\x89U", b"\x89" + FIRE + b"U"),
    "an array's type": GOOD.replace(b"cnumpy\nndarray\n", b"ctrap\nTrap\n)R"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("route", ROUTES)
def test_no_opcode_runs_anything(route, fired):
    # The same file, read as it usually is, does run something: these are real attacks.
    with contextlib.suppress(Exception):
        pickle.loads(ROUTES[route], encoding="bytes")
    assert fired
    fired.clear()
    refused(ROUTES[route])
    assert not fired


@pytest.mark.parametrize("route", [name for name in ROUTES if not name.startswith("EXT")])
def test_the_reader_itself_would_refuse_too(route, fired):
    with pytest.raises(Exception, match="not allowed"):
        pickles._Reader(io.BytesIO(ROUTES[route]), encoding="bytes").load()
    assert not fired


@pytest.mark.parametrize(
    "name", ["posix\nsystem", "os\nsystem", "builtins\neval", "numpy\nload", "numpy.core.multiarray\nfromfile"]
)
def test_commands_are_not_run(name, tmp_path):
    command = text(f"touch {tmp_path / 'ran'}".encode())
    assert name.replace("\n", ".") in refused(HEAD + b"c" + name.encode() + b"\n(" + command + b"tR.")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("code", [b"Pname\n", b"U\x01xQ"])
def test_persistent_ids_are_refused(code):
    assert "PERSID" in refused(HEAD + code + b".")
    with pytest.raises(pickle.UnpicklingError, match="persistent id"):
        pickles._Reader(io.BytesIO(HEAD + code + b"."), encoding="bytes").load()


def test_a_batch_is_read():
    told = pickles.parse(GOOD, PATH)
    assert set(told) == {b"batch_label", b"labels", b"data", b"filenames"}
    assert told[b"labels"] == [3, 9]
    assert told[b"data"].dtype == np.uint8
    assert np.array_equal(told[b"data"], IMAGES.reshape(2, -1))
    assert told[b"filenames"] == [b"image_s_000000.png", b"image_s_000001.png"]


def test_arrays_in_column_order_and_of_either_numpy_are_read():
    columns = np.asfortranarray(IMAGES.reshape(2, -1))
    entry = array((2, 12), columns.tobytes(order="F"), module=b"numpy._core.multiarray").replace(b"\x89U", b"\x88U")
    assert np.array_equal(pickles.parse(pickled(data=entry), PATH)[b"data"], columns)


def test_python_itself_agrees():
    """numpy's own unpickling gives the same: the stand-ins leave nothing out."""
    plain = pickle.loads(GOOD.replace(b"numpy.core.", b"numpy._core."), encoding="bytes")
    ours = pickles.parse(GOOD, PATH)
    assert plain.keys() == ours.keys()
    assert np.array_equal(plain.pop(b"data"), ours.pop(b"data"))
    assert plain == ours


SETTING = b"(N}U\x08__call__K\x01stb"  # state (None, {"__call__": 1}): sets attributes where it can
BAD_ARRAYS = {
    "object dtype": array((1,), b"", dtype=b"O8"),
    "structured dtype": array((1,), b"\0" * 8, dtype=b"V8"),
    "other dtype": array((1,), b"\0" * 8, dtype=b"f8"),
    "dtype state with fields": array((1,), b"\0").replace(b"NNNJ", b"N)]J"),
    "dtype state of another kind": array((1,), b"\0").replace(
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb", b"}b"
    ),
    "more claimed than there": array((2**31 - 1, 3072), b"\0"),
    "negative size": array((-1, -1), b"\0"),
    "many dimensions": array((1,) * 5, b"\0"),
    "no state": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR",
    "state of another kind": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR}b",
    "short state": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01tb",
    "made with a size": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(J\xff\xff\xff\x7ftU\x01btR",
    "made of an object dtype": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01OtR",
    "ndarray called": b"cnumpy\nndarray\n((J\xff\xff\xff\x7ftcnumpy\ndtype\n(U\x02u1tRtR",
    "dtype called without arguments": b"cnumpy\ndtype\n)R",
    "attribute of ndarray": b"cnumpy\nndarray\n" + SETTING,
    "attribute of dtype": b"cnumpy\ndtype\n" + SETTING,
    "attribute of _reconstruct": b"cnumpy.core.multiarray\n_reconstruct\n" + SETTING,
    "attribute of a list": b"]" + SETTING,
    "entry of ndarray": b"cnumpy\nndarray\nK\x01K\x01s",
    "item of ndarray": b"cnumpy\nndarray\nK\x01a",
}


@pytest.mark.parametrize("kind", BAD_ARRAYS)
def test_foreign_content_is_refused(kind):
    refused(pickled(data=BAD_ARRAYS[kind]))
    assert pickles.parse(GOOD, PATH)[b"labels"] == [3, 9]  # and has left nothing behind


HOSTILE = {
    "a memo of four thousand million entries": (HEAD + b"}r\xff\xff\xff\xff.", "memo index"),
    "tuples in tuples": (HEAD + b"}(" + b")" + b"\x85" * 100_000 + b"K\x01u.", "tuples"),
    # Each holds the one before twice: 2^60 steps to hash, were it used as a key.
    "tuples that hold one twice": (
        HEAD + b"}(" + b")q\x01" + b"".join(b"h%ch%c\x86q%c" % (k, k, k + 1) for k in range(1, 15)) + b"K\x01u.",
        "a tuple is used twice",
    ),
    "a string beyond the end": (HEAD + b"}(U\x01aT\xff\xff\xff\x7fabcu.", "cut off"),
    "a line that does not end": (HEAD + b"c" + b"a" * 1000 + b"\nb\n.", "does not end"),
    "an integer of many digits": (HEAD + b"I" + b"9" * 5000 + b"\n.", "does not end"),
    "a list as a key": (HEAD + b"}(]K\x01u.", "unhashable"),
    "another protocol": (b"\x80\x03}.", "protocol 2"),
    "a second header": (HEAD + HEAD + b"}.", "protocol 2"),
    "something after the end": (GOOD + b"\0", "follow its end"),
    "a list": (HEAD + b"].", "no dictionary"),
    "keys that are no strings": (HEAD + b"}(K\x01K\x02u.", "no dictionary"),
    "nothing": (b"", "protocol 2"),
    "text": (b"<!DOCTYPE html><title>404</title>", "protocol 2"),
    "a gzip archive": (b"\x1f\x8b\x08" + bytes(100), "protocol 2"),
    "an end without a value": (HEAD + b".", "somewhere"),
    "a mark and no value": (HEAD + b"(.", "somewhere"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_or_foreign_files_are_refused(kind):
    data, why = HOSTILE[kind]
    assert why in refused(data)


def test_deep_lists_do_no_harm():
    nested = pickled(labels=b"]" + b"(]" * 50_000 + b"e" * 50_000)
    assert list(pickles.parse(nested, PATH)) == [b"labels"]


def test_too_many_opcodes_are_refused(monkeypatch):
    monkeypatch.setattr(pickles, "MOST_OPCODES", 100)
    assert "100 opcodes" in refused(pickled(labels=integers(list(range(200)))))


def test_every_truncation_is_refused():
    for length in range(len(GOOD)):
        refused(GOOD[:length])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_refused(data):
    for content in (data, HEAD + data):
        try:
            told = pickles.parse(content, PATH)
        except BadInput as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(told, dict)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(2, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damage_gives_a_batch_or_is_refused(changes):
    damaged = bytearray(GOOD)
    for place, value in changes:
        damaged[place] = value
    try:
        told = pickles.parse(bytes(damaged), PATH)
    except BadInput as error:
        assert "\n" not in str(error)
    else:
        assert all(isinstance(key, bytes) for key in told)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    def message(path: Path) -> str:
        with pytest.raises(BadInput) as caught:
            pickles.read(path)
        assert repr(str(path)) in str(caught.value)
        return str(caught.value)

    assert "is missing" in message(tmp_path / "absent")
    assert "is not a file" in message(tmp_path)
    (tmp_path / "large").write_bytes(bytes(1000))
    assert len(pickles.read(tmp_path / "large")) == 1000
    monkeypatch.setattr(pickles, "LARGEST", 999)
    assert "more than 999 bytes" in message(tmp_path / "large")
