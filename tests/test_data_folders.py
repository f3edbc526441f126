"""mini-ImageNet-LT's folders: what is found ready, what the recipe draws, and what is said of other layouts."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from data_files import photograph, write_imagenet, write_ready
from hypothesis import given, settings
from hypothesis import strategies as st

from papers.wb import MINI_BALANCED, MINI_DATA, SHOTS_MINI
from replicate.data import decoded, editions, folders, sources
from replicate.data.folders import Recipe, draw
from replicate.data.longtail import split
from replicate.errors import BadInput
from replicate.protocol import SOURCES

WNIDS = ("n01532829", "n01558993", "n01704323", "n02089867", "n13133613")
UNEQUAL = ("n01704323", "n02089867")
COUNTS = {"train": (8, 5, 4, 2, 2), "val": (2,) * 5, "test": (3,) * 5}  # as TINY trains
TINY = Recipe(train=8, validation=3, test=4, ratio=4)


@pytest.fixture(autouse=True)
def few_classes(tmp_path, monkeypatch):
    """Five classes in place of a hundred, two of them unequal, and a cache of one's own."""
    monkeypatch.setattr(folders, "WNIDS", WNIDS)
    monkeypatch.setenv("REPLICATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(folders, "RECIPES", {"mini_imagenet": replace(TINY, ratio=1), "mini_imagenet_lt": TINY})


@pytest.fixture
def hundred(monkeypatch):
    monkeypatch.setattr(folders, "WNIDS", ALL)
    monkeypatch.setattr(folders, "RECIPES", RECIPES)


ALL, RECIPES = folders.WNIDS, folders.RECIPES


@pytest.fixture
def ready(tmp_path) -> Path:
    return write_ready(tmp_path, WNIDS, COUNTS)


def refused(folder: Path | None, source: str = "mini_imagenet_lt") -> str:
    """What is said of a folder, before any photograph is opened."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoded, "_open", lambda path: pytest.fail("a photograph was opened"))
        with pytest.raises(BadInput) as caught:
            sources.load(source, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- constants -------------------------------------------------------------------------------------------------------


def test_the_classes(hundred):
    assert len(set(folders.WNIDS)) == 100 == SOURCES["mini_imagenet_lt"].classes == SOURCES["mini_imagenet"].classes
    assert list(folders.WNIDS) == sorted(folders.WNIDS)
    assert len(folders.UNEQUAL) == 10
    assert set(folders.WNIDS) > folders.UNEQUAL


def test_the_recipes_are_the_protocols(hundred):
    for source, data in (("mini_imagenet_lt", MINI_DATA), ("mini_imagenet", MINI_BALANCED)):
        recipe = folders.RECIPES[source]
        assert recipe.class_counts(100) == data.class_counts()
        assert (recipe.train, recipe.validation, recipe.test, recipe.ratio, recipe.seed) == (
            data.largest,
            data.validation,
            data.test,
            data.ratio,
            0,
        )
    counts = folders.RECIPES["mini_imagenet_lt"].class_counts(100)
    assert (counts[0], counts[-1], sum(counts)) == (500, 5, 10847)
    assert folders.RECIPES["mini_imagenet"].class_counts(100) == (500,) * 100
    for name, (first, last) in SHOTS_MINI.items():
        within = {"Many": lambda n: n > 100, "Medium": lambda n: 20 <= n <= 100, "Few": lambda n: n < 20}[name]
        assert [label for label, count in enumerate(counts) if within(count)] == list(range(first, last))
    assert [last - first for first, last in SHOTS_MINI.values()] == [35, 35, 30]


# --- a ready folder --------------------------------------------------------------------------------------------------


def test_a_ready_folder(ready, tmp_path):
    images = sources.load("mini_imagenet_lt", tmp_path)
    for part, photos, labels in (
        ("train", images.train_images, images.train_labels),
        ("val", images.validation_images, images.validation_labels),
        ("test", images.test_images, images.test_labels),
    ):
        assert labels.tolist() == np.repeat(np.arange(5), COUNTS[part]).tolist() == photos.labels.tolist()
        paths = [path for wnid in WNIDS for path in sorted((ready / part / wnid).iterdir())]
        assert len(photos) == len(paths)
        for k, path in enumerate(paths):
            assert np.array_equal(photos[k], decoded.decode(str(path))[0])
    assert images.edition == f"{images.fingerprint[:12]}-8x8"
    assert f"was found ready: edition @{images.edition}, not comparable (all photographs have 8x8 pixels)" in images.notice


@pytest.mark.parametrize("side", [223, 224])
def test_small_copies_of_one_size_are_never_compared(side, ready, tmp_path, monkeypatch):
    """Whoever made them, and however: of those that are known the edition says it, of others its name."""
    for path in ready.rglob("*.jpg"):
        path.write_bytes(photograph(side, side - 40))
    images = sources.load("mini_imagenet_lt", tmp_path)
    word = "not comparable" if side == 223 else "other split"
    assert editions.comparability("mini_imagenet_lt", images.edition) == word and word in images.notice
    assert images.edition == images.fingerprint[:12] + ("-223x183" if side == 223 else "")
    known = {("mini_imagenet_lt", images.fingerprint[:12]): ("not comparable", "a known copy")}
    monkeypatch.setattr(editions, "EDITIONS", known)
    assert sources.load("mini_imagenet_lt", tmp_path).edition == images.fingerprint[:12]
    assert [sources._status("mini_imagenet_lt", tmp_path).note] == [
        f"edition @{images.fingerprint[:12]}, not comparable (a known copy)"
    ]


def test_photographs_of_several_small_sizes_are_another_split(ready, tmp_path):
    """They are resized as full-size ones are."""
    (ready / "val" / WNIDS[0] / f"{WNIDS[0]}0000.jpg").write_bytes(photograph(9, 8))
    images = sources.load("mini_imagenet_lt", tmp_path)
    assert images.edition == images.fingerprint[:12]
    assert editions.comparability("mini_imagenet_lt", images.edition) == "other split"


@pytest.mark.parametrize("change", ["fewer", "more"])
def test_other_training_counts_are_no_mini_imagenet_lt(change, ready, tmp_path):
    for label in (1, 3):
        first = sorted((ready / "train" / WNIDS[label]).iterdir())[0]
        if change == "fewer":
            first.unlink()
        else:
            shutil.copy(first, first.with_name("another.jpg"))
    told, place = refused(tmp_path), str(ready / "train")
    found = 4 if change == "fewer" else 6
    assert f"class {WNIDS[1]} (and 1 more) has {found} photographs in {place!r}, where mini-ImageNet-LT has 5:" in told
    assert f"or move {str(ready)!r} away" in told
    assert sources._status("mini_imagenet_lt", tmp_path).state == "unusable"


def test_the_edition_follows_every_part(ready, tmp_path):
    editions = {sources.load("mini_imagenet_lt", tmp_path).edition}
    for part in COUNTS:
        next((ready / part / WNIDS[1]).iterdir()).write_bytes(photograph(8, 8, 1000))
        editions.add(sources.load("mini_imagenet_lt", tmp_path).edition)
    assert len(editions) == 3 + 1


def test_hidden_files_and_other_folders_beside_the_parts_do_not_matter(ready, tmp_path):
    before = sources.load("mini_imagenet_lt", tmp_path).edition
    (ready / "train" / ".DS_Store").write_bytes(b"x")
    (ready / "val" / WNIDS[0] / "._a.jpg").write_bytes(b"x")
    (ready / "test" / ".cache").mkdir()
    (ready / "README.txt").write_text("about")
    (ready / "scripts").mkdir()
    assert sources.load("mini_imagenet_lt", tmp_path).edition == before


def test_a_second_start_opens_no_photograph(ready, tmp_path, monkeypatch):
    before = sources.load("mini_imagenet_lt", tmp_path)
    monkeypatch.setattr(decoded, "decode", lambda path: pytest.fail("a photograph was opened"))
    after = sources.load("mini_imagenet_lt", tmp_path)
    assert after.edition == before.edition
    assert np.array_equal(after.test_images[5], before.test_images[5])


def test_missing_parts_and_classes_are_named(ready, tmp_path):
    shutil.rmtree(ready / "val" / WNIDS[2])
    shutil.rmtree(ready / "val" / WNIDS[4])
    message = refused(tmp_path)
    assert f"{str(ready / 'val')!r} lacks the class {WNIDS[2]} (and 1 more)" in message
    assert "5 classes" in message
    shutil.rmtree(ready / "val")
    shutil.rmtree(ready / "test")
    assert f"{str(ready)!r} has no folder val and no folder test" in refused(tmp_path)


def test_unknown_classes_are_named(ready, tmp_path):
    (ready / "train" / "n00000001").mkdir()
    message = refused(tmp_path)
    assert f"{str(ready / 'train')!r} has a folder 'n00000001', which is no class" in message
    assert "move it away" in message


def test_empty_classes_and_foreign_files_are_named(ready, tmp_path):
    place = ready / "test" / WNIDS[3]
    first = sorted(place.iterdir())[0]
    (place / "list.txt").write_text("a.jpg")
    assert f"{str(place / 'list.txt')!r} is no photograph, by its name; allowed are .jpg" in refused(tmp_path)
    (place / "list.txt").unlink()
    content = first.read_bytes()
    first.write_bytes(b"")
    assert f"photograph {str(first)!r} is empty" in refused(tmp_path)
    first.unlink()
    first.mkdir()
    assert f"photograph {str(first)!r} is no file" in refused(tmp_path)
    first.rmdir()
    first.symlink_to("nowhere.jpg")
    assert f"photograph {str(first)!r} cannot be read" in refused(tmp_path)
    first.unlink()
    first.write_bytes(content)
    for path in place.iterdir():
        path.unlink()
    assert f"the folder of class {WNIDS[3]}, {str(place)!r}, is empty" in refused(tmp_path)


@pytest.mark.parametrize("layout", ["file", "flat", "files for parts", "empty"])
def test_other_layouts_are_named(layout, tmp_path):
    place = tmp_path / "mini-imagenet-lt"
    if layout == "file":
        place.write_bytes(b"packed")
    else:
        place.mkdir()
    if layout == "flat":
        (place / "images").mkdir()
        (place / "images" / "a.jpg").write_bytes(photograph(8, 8))
    if layout == "files for parts":
        for part in ("train", "val", "test"):
            (place / part).write_bytes(b"packed")
    message = refused(tmp_path)
    assert str(place) in message
    assert "is a file where a folder" in message if layout == "file" else "it must hold train, val and test" in message


def test_folders_that_the_system_does_not_show(ready, tmp_path, monkeypatch):
    for number, remedy in ((errno.EACCES, "mend its permissions"), (errno.EIO, "mend that and run this again")):
        why = OSError(number, os.strerror(number))
        monkeypatch.setattr(folders.os, "scandir", lambda place, why=why: (_ for _ in ()).throw(why))
        for look in (folders._folders, folders._photographs):
            with pytest.raises(BadInput, match=rf"cannot be read \({why.strerror}\); {remedy}$"):
                look(ready)


@pytest.mark.parametrize("part", ["val", "test"])
def test_classes_that_are_evaluated_are_of_equal_size(part, ready, tmp_path):
    """Accuracy of a group of classes is the mean over its classes: of images only if they are equally many."""
    next((ready / part / WNIDS[3]).iterdir()).unlink()
    told = refused(tmp_path)
    assert WNIDS[3] in told and str(ready / part) in told and "the same number" in told


def test_a_damaged_photograph_is_named(ready, tmp_path):
    path = sorted((ready / "val" / WNIDS[1]).iterdir())[1]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(BadInput, match=rf"{path.name}' is damaged"):
        sources.load("mini_imagenet_lt", tmp_path)


def test_nothing_there(tmp_path):
    for folder in (None, tmp_path, tmp_path / "absent"):
        message = refused(folder)
        assert all(way in message for way in ("mini-imagenet-lt/{train,val,test}/WNID", "imagenet/train/WNID", "--data DIR"))
        assert "mini-imagenet-lt" not in refused(folder, "mini_imagenet")


# --- the recipe ------------------------------------------------------------------------------------------------------

SIZES = {WNIDS[0]: 32, WNIDS[1]: 35, WNIDS[2]: 15, WNIDS[3]: 17, WNIDS[4]: 33}


@pytest.fixture
def imagenet(tmp_path) -> Path:
    return write_imagenet(tmp_path, {**SIZES, "n00000001": 2})  # other classes are no fault


def paths_by_digest(place: Path) -> dict[bytes, Path]:
    return {decoded.decode(str(path))[1]: path for path in place.rglob("*.JPEG")}


def names(photos, by_digest) -> list[Path]:
    return [by_digest[bytes(digest)] for digest in photos.digests]


def test_photographs_drawn_by_the_recipe(imagenet, tmp_path):
    images = sources.load("mini_imagenet_lt", tmp_path)
    assert np.bincount(images.train_labels).tolist() == [8, 5, 4, 2, 2] == list(TINY.class_counts(5))
    assert np.bincount(images.validation_labels).tolist() == [3] * 5
    assert np.bincount(images.test_labels).tolist() == [4] * 5
    by_digest = paths_by_digest(imagenet)
    parts = [images.train_images, images.validation_images, images.test_images]
    told = [names(part, by_digest) for part in parts]
    for part, of_part in zip(parts, told, strict=True):
        assert of_part == sorted(of_part)
        assert len(set(of_part)) == len(of_part)
        assert [path.parent.name for path in of_part] == [WNIDS[label] for label in part.labels]
        assert np.array_equal(part[1], decoded.decode(str(of_part[1]))[0])
    equal = [{path for path in of_part if path.parent.name not in UNEQUAL} for of_part in told]
    assert not equal[0] & equal[1] | equal[0] & equal[2] | equal[1] & equal[2]
    assert "was drawn from ImageNet-1k by the recipe" in images.notice


def test_the_balanced_set_differs_in_the_last_draw_alone(imagenet, tmp_path):
    tailed, balanced = (sources.load(source, tmp_path) for source in ("mini_imagenet_lt", "mini_imagenet"))
    by_digest = paths_by_digest(imagenet)
    assert np.bincount(balanced.train_labels).tolist() == [8] * 5
    assert set(names(tailed.train_images, by_digest)) < set(names(balanced.train_images, by_digest))
    for part in ("validation_images", "test_images"):
        assert names(getattr(tailed, part), by_digest) == names(getattr(balanced, part), by_digest)
    assert tailed.edition != balanced.edition


def test_a_ready_folder_comes_first_and_is_no_balanced_set(ready, imagenet, tmp_path):
    assert not folders.read("mini_imagenet_lt", tmp_path).drawn
    assert folders.read("mini_imagenet", tmp_path).drawn
    shutil.rmtree(tmp_path / "imagenet")
    assert "mini-ImageNet is not in" in refused(tmp_path, "mini_imagenet")


def test_only_drawn_photographs_are_decoded(imagenet, tmp_path, monkeypatch):
    seen = []
    decode = decoded.decode
    monkeypatch.setattr(decoded, "decode", lambda path: (seen.append(path), decode(path))[1])
    images = sources.load("mini_imagenet_lt", tmp_path)
    assert len(seen) == len(images.train_labels) + len(images.validation_labels) + len(images.test_labels)
    seen.clear()
    (imagenet / WNIDS[0] / "new.JPEG").write_bytes(photograph(9, 9))  # another draw
    sources.load("mini_imagenet_lt", tmp_path)
    assert seen


def test_the_order_of_the_folder_does_not_matter(imagenet, tmp_path, monkeypatch):
    before = sources.load("mini_imagenet_lt", tmp_path).edition
    scandir = os.scandir

    class Reversed(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(folders.os, "scandir", lambda place: Reversed(reversed(sorted(scandir(place), key=lambda e: e.name))))
    assert sources.load("mini_imagenet_lt", tmp_path).edition == before


@pytest.mark.parametrize(("wnid", "count", "least"), [(WNIDS[1], 24, 32), (WNIDS[2], 14, 15)])
def test_too_few_photographs_of_a_class(wnid, count, least, tmp_path):
    place = write_imagenet(tmp_path, {**SIZES, wnid: count})
    message = refused(tmp_path)
    assert f"class {wnid} in {str(place)!r} has {count} photographs" in message
    assert f"8 to train, 3 to validate and 4 to test: at least {least} are needed" in message


def test_missing_classes_of_imagenet(tmp_path):
    place = write_imagenet(tmp_path, dict.fromkeys(WNIDS[:3], 1))
    assert f"{str(place)!r} lacks the class {WNIDS[3]} (and 1 more)" in refused(tmp_path)


def test_parts_of_unequal_classes_can_overlap_and_others_cannot(hundred):
    """At full size, as the released code draws."""
    counts = [732 if wnid in folders.UNEQUAL else 1300 for wnid in ALL]
    train, validation, test = draw(counts, RECIPES["mini_imagenet"])
    for label, wnid in enumerate(ALL):
        parts = [set(part[label].tolist()) for part in (train, validation, test)]
        assert [len(part) for part in parts] == [500, 100, 100]
        assert set().union(*parts) <= set(range(counts[label]))
        overlap = len(parts[0] & parts[1])
        # 100 of 732 drawn beside 500 of 732: 68 on average, standard deviation 4.3.
        assert 45 < overlap < 90 if wnid in folders.UNEQUAL else overlap == 0
    tailed = draw(counts, RECIPES["mini_imagenet_lt"])
    assert [len(part) for part in tailed[0]] == list(RECIPES["mini_imagenet_lt"].class_counts(100))
    assert all(set(few) <= set(many) for few, many in zip(tailed[0], train, strict=True))
    assert all(np.array_equal(a, b) for k in (1, 2) for a, b in zip(tailed[k], (validation, test)[k - 1], strict=True))
    # What the generator gave when this was written.
    assert tailed[0][99].tolist() == [68, 385, 450, 882, 887]
    assert test[0][:5].tolist() == [24, 41, 67, 69, 84]
    assert validation[2][:5].tolist() == [0, 1, 7, 20, 22]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    more=st.lists(st.integers(0, 40), min_size=5, max_size=5),
    ratio=st.integers(1, 8),
    train=st.integers(1, 9),
)
def test_every_draw(seed, more, ratio, train):
    recipe = Recipe(train=train, validation=2, test=3, ratio=ratio, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "WNIDS", WNIDS)
        counts = [30 + count for count in more]
        folders._check_sizes(Path("x"), counts, recipe)
        parts = draw(counts, recipe)
        again = draw(counts, recipe)
    assert [len(part) for part in parts[0]] == list(recipe.class_counts(5))
    assert {len(part) for part in parts[1]} == {2}
    assert {len(part) for part in parts[2]} == {3}
    for label in range(5):
        places = [part[label].tolist() for part in parts]
        assert all(part == sorted(set(part)) for part in places)
        assert all(0 <= place < counts[label] for part in places for place in part)
        if WNIDS[label] not in UNEQUAL:
            assert max(Counter(chain.from_iterable(places)).values()) == 1
    assert all(np.array_equal(a, b) for one, other in zip(parts, again, strict=True) for a, b in zip(one, other, strict=True))


@settings(max_examples=40, deadline=None)
@given(least=st.integers(0, 60), train=st.integers(1, 60), validation=st.integers(1, 20), test=st.integers(1, 20))
def test_classes_that_pass_are_large_enough(least, train, validation, test):
    """Where the numbers are told to be enough, the draw never runs out."""
    recipe = Recipe(train=train, validation=validation, test=test)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "WNIDS", WNIDS)
        counts = [least + 3 * k for k in range(5)]
        while True:
            try:
                folders._check_sizes(Path("x"), counts, recipe)
                break
            except BadInput:
                counts = [count + 5 for count in counts]
        draw(counts, recipe)


# --- the split -------------------------------------------------------------------------------------------------------


@pytest.fixture
def five(monkeypatch):
    """Protocols on five classes in place of a hundred."""
    for module in ("replicate.data.longtail", "replicate.protocol"):
        monkeypatch.setattr(f"{module}.SOURCES", {**SOURCES, **{name: replace(SOURCES[name], classes=5) for name in RECIPES}})


def test_the_parts_are_the_split(ready, tmp_path, five):
    images, data = sources.load("mini_imagenet_lt", tmp_path), replace(MINI_DATA, largest=8, ratio=4)
    made, shown = split(images, data), split(images, data.shown(test=2, validation=1))
    assert made.class_counts == COUNTS["train"]
    assert made.train_labels.tolist() == images.train_labels.tolist()
    assert len(made.validation_images) == len(made.validation_labels) == 10
    assert made.test_half.tolist() == [0, 1, 0] * 5
    assert shown.fingerprint == made.fingerprint == sources.fingerprint(made.train_images.digests, made.train_labels)
    assert shown.test_labels.tolist() == np.repeat(np.arange(5), 2).tolist()
    assert shown.validation_labels.tolist() == list(range(5))
    assert np.array_equal(shown.test_images[2], made.test_images[3])
    assert np.array_equal(shown.validation_images[1], made.validation_images[2])


@pytest.mark.parametrize("way", ["ready", "imagenet"])
def test_photographs_must_have_the_protocols_counts(way, request, tmp_path, five):
    request.getfixturevalue(way)
    images = sources.load("mini_imagenet_lt", tmp_path)
    assert split(images, replace(MINI_DATA, largest=8, ratio=4)).class_counts == (8, 5, 4, 2, 2)
    with pytest.raises(ValueError, match="mini_imagenet_lt has classes of 8 to 2 training images, not those of the protocol"):
        split(images, replace(MINI_DATA, largest=8, ratio=2))


# --- on real photographs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_folder() -> Path:
    folder = os.environ.get("REPLICATE_DATA")
    if not folder or not (Path(folder) / "mini-imagenet-lt").is_dir():
        pytest.skip("needs real photographs: set REPLICATE_DATA to a folder that has mini-imagenet-lt")
    return Path(folder)


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def test_the_real_folder_has_the_layout(real_folder, hundred):
    files, drawn = folders._listed("mini_imagenet_lt", real_folder, RECIPES["mini_imagenet_lt"])
    assert [len(part) for part in files] == [10847, 1000, 3000]
    assert not drawn


@pytest.mark.slow
def test_real_photographs(real_folder, real_cache, hundred, monkeypatch):
    monkeypatch.setenv("REPLICATE_CACHE", str(real_cache))
    images = sources.load("mini_imagenet_lt", real_folder)
    assert ("mini_imagenet_lt", images.edition) in editions.EDITIONS
    assert editions.comparability("mini_imagenet_lt", images.edition) == "not comparable"
    made = split(images, MINI_DATA)
    assert made.class_counts == MINI_DATA.class_counts()
    assert made.train_images.one_size == (84, 84)
    assert (len(made.validation_labels), len(made.test_labels)) == (1000, 3000)
    monkeypatch.setattr(decoded, "decode", lambda path: pytest.fail("a photograph was opened"))
    assert sources.load("mini_imagenet_lt", real_folder).edition == images.edition


MEMORY = """
import resource, sys
from pathlib import Path
import torch
from papers.wb import MINI_DATA
from replicate.data import sources
from replicate.data.augment import feeder
from replicate.data.longtail import split
from replicate.protocol import RandomResizedCropFlip
torch.set_num_threads(1)
train = split(sources.load("mini_imagenet_lt", Path(sys.argv[1])), MINI_DATA).train_images
made = feeder(train, MINI_DATA, RandomResizedCropFlip(), torch.device("cpu"))
draws = made.draw(torch.arange(len(made)), torch.Generator().manual_seed(0))
made.batch(draws, 0, 64)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for first in range(0, len(made), 64):
    made.batch(draws, first, min(first + 64, len(made)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_an_epoch_of_real_photographs_takes_little_memory(real_folder, real_cache):
    """219 MiB of pixels pass by."""
    root = str(Path(folders.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "REPLICATE_CACHE": str(real_cache)}
    script = [sys.executable, "-c", MEMORY, str(real_folder)]
    told = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert int(told.stdout) < 100 * 1024  # KiB
