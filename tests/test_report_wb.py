"""Tables with several metrics, of data in rows, and in words: the weight-balancing paper's, as published and from Records."""

import csv
import io
import os
import re
from dataclasses import replace
from decimal import Decimal
from importlib.resources import files

import pytest
from fake_records import measure, put, record
from text_tables import layout

from papers.wb import PAPER
from replicate import grid
from replicate.record import Store
from replicate.report import diff, formats, published, tables, verdicts
from replicate.report.published import Printed
from replicate.report.selection import Replica

TABLES = {table.number: table for table in PAPER.tables}
NUMERIC = [number for number, table in TABLES.items() if not table.descriptive]
EDITIONS = dict.fromkeys(("cifar10", "cifar100", "digits", "mini_imagenet", "mini_imagenet_lt", "mnist"), "official")
COMPARABLE = dict.fromkeys(EDITIONS, "comparable") | {"digits": "not comparable"}


def show(number, form, **how):
    table = TABLES[number]
    return tables.render(PAPER, table, tables.printed(PAPER, table), form, **how)


# --- as published ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [f"table{n}.csv" for n in (1, 2, 3, 4, 6, 7, 8, 9, 10)] + ["text_numbers.csv"])
def test_every_file_is_read_whole_and_written_back_line_for_line(name):
    text = (files("papers") / "published" / "wb" / name).read_text(encoding="utf-8")
    numbers = published.load("wb", name)
    assert published.write("wb", [(*place[:2], number) for place, number in numbers.items()]) == text
    assert len(numbers) == len(list(csv.reader(io.StringIO(text)))) - 1


def test_two_metrics_share_a_place_and_words_are_no_numbers():
    numbers = published.load("wb", "text_numbers.csv")
    assert {place[2]: number.value for place, number in numbers.items() if place[1] == "WD"} == {
        "mean of BN scale": 0.19,
        "variance of BN shift": 0.009,
    }
    words = published.load("wb", "table1.csv")
    assert {number.value for number in words.values()} == {None}
    assert {number.value_text for number in words.values()} == {"yes", "no", "1", "2"}


@pytest.mark.parametrize("number", TABLES)
def test_the_published_table_comes_back_from_csv_with_every_field(number):
    there = dict(published.load("wb", TABLES[number].published))
    assert published.parse(show(number, "csv"), "x") == there
    assert len(tables.printed(PAPER, TABLES[number])) == len(there)


def read_text(text, depth):
    """(row, column path) -> printed text without marks."""
    lines, spans, paths = layout(text, depth)
    return dict(_rows(([line[slice(*span)].strip() for span in spans] for line in lines), depth, paths))


def read_markdown(text, depth, paths):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    clean = ([re.sub(r"[*\\]|</?(u|sub)>", "", cell) for cell in row] for row in rows)
    return dict(_rows((row for row in clean if any(row[depth:])), depth, paths))


def read_latex(text, depth, paths):
    body = text[text.index("\\midrule") : text.index("\\bottomrule")]
    rows = [line.removesuffix(" \\\\").split(" & ") for line in body.splitlines() if line.endswith("\\\\")]
    told = []
    for row in rows:
        cells = []
        for cell in row:
            power = re.search(r"\\times10\^\{(\d+)\}", cell)
            cell = re.sub(r"\\times10\^\{\d+\}", "", cell).replace("\\&", "&")
            cell = re.sub(r"\\(textbf|textit|underline)\{|[${}]|_\{", "", cell).replace("_\\pm ", "±").replace("\\pm ", "±")
            raised = formats.plain(formats.Entry("", "x" * ("±" in cell), int(power[1]))).removeprefix("±x") if power else ""
            cells.append(cell.strip() + raised)
        told.append(cells)
    return dict(_rows(told, depth, paths))


def _rows(lines, depth, paths):
    first = ""
    for line in lines:
        labels, cells = line[:depth], line[depth:]
        if set(labels[0]) - {"-", ":"} or (not labels[0] and any(labels)):
            first = labels[0] or first
            row = "/".join(filter(None, [first, *labels[1:]]))
            yield from (((row, path), cell.rstrip("*+^")) for path, cell in zip(paths, cells, strict=True))


DEPTH = {"2": 1, "3": 2, "6": 1, "text": 1}


@pytest.mark.parametrize("number", [number for number in NUMERIC if number != "text"])
def test_the_published_table_comes_back_cell_by_cell(number):
    there = {place[:2]: printed for place, printed in published.load("wb", TABLES[number].published).items()}
    depth = DEPTH.get(number, 2)
    told = read_text(show(number, "text"), depth)
    assert told.keys() == there.keys()
    for place, printed in there.items():
        mantissa, spread, power = re.fullmatch(r"([\d.]+)(?:±([\d.]+))? ?(?:×10(.+))?", told[place]).groups()
        tens = Decimal(10) ** "⁰¹²³⁴⁵⁶⁷⁸⁹".index(power) if power else 1
        assert Decimal(mantissa) * tens == Decimal(printed.value_text)
        assert (Decimal(spread) * tens if spread else None) == (Decimal(printed.std_text) if printed.std_text else None)
    paths = list(dict.fromkeys(path for _, path in told))
    heads = len(TABLES[number].columns[0].path) + len(TABLES[number].metrics[0].path) if depth < 3 else 0
    markdown = read_markdown(show(number, "markdown"), depth, paths)
    assert {place: cell for place, cell in markdown.items() if place in there} == told and heads
    assert read_latex(show(number, "latex"), depth, paths) == told


def test_methods_are_written_once_in_their_group_beside_their_adjustments():
    lines = show("8", "text").splitlines()
    shown = [
        line[:21].rstrip() for line in lines[5 : lines.index("") + 40] if re.match(r"( {15}|\S.{14})  (N/A|Add|Mult)", line)
    ]
    assert shown[:5] == [
        "Naive            N/A",
        "CB               N/A",
        "WD               N/A",
        " " * 17 + "Add",
        " " * 17 + "Mult",
    ]
    assert "WD w/o BN&ETF    N/A" in shown
    lines = show("2", "text").splitlines()  # the slash of w/o divides nothing
    assert any(line.startswith("WD w/o BN    2.19×10²") for line in lines)
    assert "{llrrrrrr}" in show("8", "latex") and "\\cmidrule(lr){3-4} \\cmidrule(lr){5-8}" in show("8", "latex")
    assert re.search(r"^\|:-+\|:-+\|-+:\|", show("8", "markdown"), re.MULTILINE)


def test_a_transposed_table_has_data_in_rows_and_methods_with_metrics_in_columns():
    lines = show("3", "text").splitlines()
    assert lines[3].split() == ["before", "after"] * 3 and re.findall(r"- ([^-]+) -", lines[2]) == ["Naive", "WD w/o BN", "WD"]
    assert lines[5].split()[:3] == ["ResNet34", "C100", "7.51×10¹"] and lines[6].split()[:2] == ["C100-LT", "4.16×10¹"]
    assert "MLP3       MNIST    1.58×10²  1.54×10²  2.48×10²*  3.53×10²+  2.36×10²+  7.96×10²*" in lines
    assert "In each row, metric by metric: * best, + second best, ^ best baseline." in lines
    some = tables.render(
        PAPER, TABLES["3"], tables.printed(PAPER, TABLES["3"]), "csv", columns=TABLES["3"].columns[6:7]
    ).splitlines()
    assert [line.split(",")[2:6] for line in some[1:3]] == [
        ["MLP3/MNIST", "Naive/before", "FDR", "1.58e2"],
        ["MLP3/MNIST", "Naive/after", "FDR", "1.54e2"],
    ]


def test_metrics_without_a_path_are_told_apart_by_their_kind():
    text = show("text", "text")
    assert "mean of BN scale" in text.splitlines()[3] and "1.0               0.012" in text and "*" not in text
    assert "(Naive, variance of BN shift): text says std almost unchanged, then prints variances." in squeezed(text)


def test_words_are_printed_as_they_are_and_nothing_is_made_of_them(tmp_path):
    table = TABLES["1"]
    text = show("1", "text")
    told = read_text(text, 1)
    there = {place[:2]: number.value_text for place, number in published.load("wb", "table1.csv").items()}
    assert told == there and len(told) == 96
    paths = list(dict.fromkeys(path for _, path in told))
    assert {k: v for k, v in read_markdown(show("1", "markdown"), 1, paths).items() if k in there} == there
    assert read_latex(show("1", "latex"), 1, paths) == there
    assert "Training of linear layer (Ma et al.): footnote 1: no linear layer required." in text
    assert "illegible" not in text and "Published" not in text and "*" not in text
    store = Store(tmp_path)
    how = {"selection": "as-published", "edition_of": EDITIONS}
    assert tables.replicas(store, PAPER, table, **how) == {}
    assert tables.render(PAPER, table, {}, "text", columns=[], **how) == text
    assert diff.compare(store, PAPER, table, comparability=COMPARABLE, **how) == []


def squeezed(text):
    return " ".join(text.split())


def test_what_is_said_of_single_numbers_stands_under_them_once():
    text = squeezed(show("8", "text"))
    assert text.count("row label printed one line off in the source text; row assigned by the repeating FDR values") == 1
    assert "WD/Mult, WB/N/A, WD&ETF/Mult, WD&FR&ETF/N/A: row label printed" in text
    assert (
        "WB/N/A (CIFAR10-LT/FDR/Train, CIFAR10-LT/FDR/Test): differs from the WD rows although the extractor weights are "
        "frozen." in text
    )
    assert "WB/N/A (CIFAR100-LT(ResNeXt50)/FDR/Train): equals the WD&FR&ETF value" in squeezed(show("10", "text"))
    assert "WB/N/A (CIFAR100-LT(ResNeXt50)/FDR/Train): equals" in squeezed(show("10", "markdown").replace("\\", ""))
    assert "mean over" not in show("4", "text") and "std not printed" not in show("4", "text")
    assert "test-set FDR" in show("3", "text")
    table = TABLES["3"]
    assert "test-set FDR" not in tables.render(PAPER, table, tables.printed(PAPER, table), "text", columns=table.columns[6:])


# --- powers of ten ---------------------------------------------------------------------------------------------------


def replica(*values):
    epochs = {seed: (1,) for seed, _ in enumerate(values)}
    return Replica("as-published", dict(enumerate(values)), ((),), epochs, planned=1, finished=1, competing=1)


def printed(value, std):
    return Printed("T", "FDR", float(value), float(std) if std else None, value, std, "mean", 5, "", "own", "full", "")


@pytest.mark.parametrize(
    "number, told",
    [
        (printed("1.28e2", ""), "1.28×10²"),
        (printed("6.51e2", "3.3e1"), "6.51±0.33 ×10²"),
        (printed("1.01e2", "0.1e1"), "1.01±0.01 ×10²"),
        (printed("1.82e3", "2.58e3"), "1.82±2.58 ×10³"),
        (printed("3.90e4", "4.57e4"), "3.90±4.57 ×10⁴"),
        (printed("3.19e5", "2.0e4"), "3.19±0.20 ×10⁵"),
        (replica(99.96), "1.00×10²"),
        (replica(99.94), "9.99×10¹"),
        (replica(9.996, 9.996), "1.00±0.00 ×10¹"),
        (replica(640.0, 660.0), "6.50±0.10 ×10²"),
        (replica(0.0123), "1.23×10⁻²"),
        (replica(0.0), "0.00×10⁰"),
        (replica(1.0), "1.00×10⁰"),
        (None, ""),
        (replica(), ""),
    ],
)
def test_discriminant_ratios_are_powers_of_ten(number, told):
    assert formats.plain(tables.entry(number, "FDR", 2)) == told


def test_powers_of_ten_in_every_format():
    table = replace(TABLES["6"], metrics=TABLES["6"].metrics[:1])
    column = table.columns[0].name
    values = {
        ("", "WD&ETF", column, "FDR/Train"): replica(640.0, 660.0),
        ("", "WD&ETF&DR", column, "FDR/Train"): replica(99.96),
    }
    told = {form: tables.render(PAPER, table, values, form, edition_of=EDITIONS) for form in tables.FORMATS}
    assert "6.50±0.10 ×10²*" in told["text"] and "1.00×10²+" in told["text"]
    assert "| **6.50**<sub>±0.10</sub> ×10² |" in told["markdown"] and " *1.00*×10² |" in told["markdown"]
    assert "\\textbf{6.50}$_{\\pm 0.10}\\times10^{2}$" in told["latex"]
    alone = tables.render(PAPER, table, dict([*values.items()][:1]), "latex", edition_of=EDITIONS)
    assert "$6.50_{\\pm 0.10}\\times10^{2}$" in alone
    assert ",FDR,6.5000e2,1.0000e1,mean,2,population sd,replica" in told["csv"] and ",FDR,9.9960e1,," in told["csv"]
    without = replace(table, metrics=(replace(table.metrics[0], spread=False),))
    shown = tables.render(PAPER, without, values, "text", edition_of=EDITIONS)
    assert "6.50×10²*" in shown and "±" not in shown and "the paper prints no spread" in shown


# --- ours, from a store ----------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # many small files
    return Store(tmp_path / "store")


NOISE = (-0.3, 0.1, 0.0, 0.2, 0.0)  # over seeds, of mean 0


def fill(store, number, columns, *, seeds=5, only=None, measured=True, shift=0.0, factor=1.0, **options):
    """Records and Measures at the published levels of a table, with ``shift`` points, a ``factor`` of FDR, and noise of a seed.

    The best epoch on validation is the second of three, the best value of an adjustment there the sixth."""
    table = TABLES[number]
    there = tables.printed(PAPER, table)
    level = {}
    for spot in tables.spots(table, columns):
        value = there[spot.key].value if spot.key in there else 50.0
        level.setdefault((spot.row.method, spot.column.name), {})[spot.metric.path[-1] if spot.metric.path else ""] = value
    methods = only or list(dict.fromkeys(method for method, _ in level))
    for seed in range(seeds):
        for cell in grid.cells(PAPER, table.grid, columns=columns, methods=methods, seeds=(seed,), **options):
            told, groups = level[cell.method, cell.column.name], cell.column.groups
            images = {name: 1000 * (last - first) for name, (first, last) in groups.items()}
            shares = {name: (told.get(name, 50.0) + shift + NOISE[seed]) / 100 for name in groups}
            half = {name: [0, round(images[name] * share), 0] for name, share in shares.items()}
            adjustment, adjusted = cell.programme.adjustment, None
            if adjustment is not None:
                values = adjustment.values
                counts = [{name: [0] * 5 + of[1:2] + [0] * (len(values) - 6) for name, of in half.items()}] * 2
                adjusted = (adjustment.parameter, values, (2, counts, {name: [1] * 5 + [2] + [0] * 15 for name in groups}))
            validation = {name: [1, 2, 2] for name in groups}
            how = {"groups": groups, "images": images, "validation": validation, "adjusted": adjusted}
            put(store, cell, record([half, half], **how))
            if measured:
                by = factor * (1 + NOISE[seed] / 10)
                separation = {
                    "fdr": {"train": by * told.get("Train", 1.0), "test": by * told.get("Test", 1.0)},
                    "random_layer": {"before": by * told.get("before", 1.0), "after": by * told.get("after", 1.0)},
                    "batch_norm": {"top": {"scale_mean": 0.25 + NOISE[seed] / 100, "shift_variance": 0.0091}},
                }
                measure(store, cell, "separation", separation)


def ours(store, number, columns, form="text", **options):
    how = {"selection": "as-published", "edition_of": EDITIONS, "columns": columns, **options}
    values = tables.replicas(store, PAPER, TABLES[number], **how)
    return values, tables.render(PAPER, TABLES[number], values, form, **how)


def compare(store, number, columns, **options):
    how = {"edition_of": EDITIONS, "comparability": COMPARABLE, "columns": columns, **options}
    return diff.compare(store, PAPER, TABLES[number], **how)


C100 = TABLES["4"].columns


def test_rows_take_accuracies_of_groups_and_numbers_of_measures(store):
    fill(store, "4", C100)
    values, shown = ours(store, "4", C100)
    assert len(values) == 72 and all(value.n == 5 for value in values.values())
    there = tables.printed(PAPER, TABLES["4"])
    for key, value in values.items():
        if key[3] != "Accuracy/Average":
            assert value.mean == pytest.approx(there[key].value, rel=6e-3), key  # 8.81e4 and 8.85e4 are one network's
    few = values["", "WD&ETF/Add", "cifar100-lt/100", "Accuracy/Few"]
    assert few.points == ((("tau", 1.25),),) and set(few.epochs.values()) == {(2,)}
    wd, add = (values["", row, "cifar100-lt/100", "FDR/Train"] for row in ("WD/N/A", "WD/Add"))
    assert wd.values == add.values  # an adjustment has no Measure of its own
    assert "31.7±0.2*" in shown and "1.28×10²   4.16×10¹   64.6±0.2" in shown
    line = published.parse(ours(store, "4", C100, "csv")[1], "x")["WD/Add", "CIFAR100-LT/Accuracy/Few", "accuracy_pct"]
    assert (line.provenance, line.specified) == ("replica", "unpublished: search criterion of tau, gamma")
    assert "point tau=1.25; seed 0 epoch 2" in line.note


def test_the_csv_of_replicas_is_read_back_and_printed_alike(store):
    for number, columns in (("4", C100), ("3", TABLES["3"].columns[5:8])):
        fill(store, number, columns, seeds=3)
        values, text = ours(store, number, columns, "csv")
        numbers = published.parse(text, "x")
        for spot in tables.spots(TABLES[number], columns):
            there, here = numbers[spot.place], values[spot.key]
            assert (there.value, there.std, there.n) == (
                pytest.approx(here.mean, rel=1e-4),
                pytest.approx(here.sd, rel=2e-3),
                3,
            )
        again = {spot.key: numbers[spot.place] for spot in tables.spots(TABLES[number], columns)}
        assert tables.render(PAPER, TABLES[number], again, "csv", columns=columns) == text


def test_notes_say_what_is_chosen_where_and_that_measures_are_of_the_state_handed_over(store):
    fill(store, "4", C100, seeds=2, only=["WD", "WD/Add"])
    shown = squeezed(ours(store, "4", C100)[1])
    assert (
        "Selection as-published: per seed the best epoch on the validation split, reported on the test set; one value" in shown
    )
    assert "Adjusted rows: the state that training hands over, its tau or gamma chosen after training's own" in shown
    assert "Numbers of Measures are of the state that training hands over, at the chosen parameters." in shown
    assert "Seeds: 2 for each value (0, 1), mean ± population standard deviation where the paper prints a spread." in shown
    assert "Not run, or not yet finished: 60 of 72 values, left empty." in shown
    assert "Adjusted rows: the last state, its" in squeezed(ours(store, "4", C100, selection="last-epoch")[1])
    assert "Adjusted rows" not in ours(store, "6", C100)[1]


@pytest.mark.parametrize(
    "number, source, about, others",
    [
        ("3", "mnist", {"validation", "random-layer"}, {"counts", "normalisation", "network", "mini-split", "mini-84"}),
        ("3", "cifar10", {"counts", "normalisation", "network"}, {"mini-split", "mini-84"}),
        ("9", "mini_imagenet_lt", {"mini-split", "mini-84", "network"}, {"counts", "normalisation"}),
    ],
)
def test_quirks_are_those_of_the_data_that_are_shown(number, source, about, others):
    columns = [column for column in TABLES[number].columns if column.data.source == source]
    shown = tables.render(PAPER, TABLES[number], {}, "text", edition_of=EDITIONS, columns=columns)
    told = set(re.findall(r"^Quirk ([a-z0-9-]+):", shown, re.M))
    assert told >= about and not told & others
    assert told <= set(TABLES[number].quirks)


def test_a_missing_measure_leaves_its_seed_out_and_says_so(store):
    fill(store, "6", C100, seeds=3)
    cell = grid.cells(PAPER, "table", columns=C100, methods=["WD&ETF"], seeds=(1,))[0]
    measure(store, cell, "separation", {"fdr": {"train": None}})
    values, shown = ours(store, "6", C100)
    train = values["", "WD&ETF", "cifar100-lt/100", "FDR/Train"]
    assert (train.n, train.unmeasured) == (2, (1,)) and values["", "WD&ETF", "cifar100-lt/100", "Accuracy/Few"].n == 3
    assert "Measures not there, or without a number: seed 1 of CIFAR100-LT (WD&ETF)." in squeezed(shown)
    line = published.parse(ours(store, "6", C100, "csv")[1], "x")["WD&ETF", "CIFAR100-LT/FDR/Train", "FDR"]
    assert line.n == 2 and line.note.endswith("no Measure: seed 1")
    assert "; seed 0 as handed over, seed 2 as handed over; " in line.note  # whatever epoch a selection names


def test_a_quick_run_leaves_discriminant_ratios_empty(store):
    fill(store, "4", C100, seeds=1, measured=False, quick=True)
    values, shown = ours(store, "4", C100, quick=True)
    assert {key[3] for key, value in values.items() if value.n} == {
        f"Accuracy/{g}" for g in ("Many", "Medium", "Few", "Average")
    }
    assert "Quick runs have no Measures, so these cells are empty: FDR/Train, FDR/Test." in shown
    assert "QUICK RUN" in shown and "×10" not in shown and "Measures not there" not in shown
    rows = compare(store, "4", C100, quick=True)
    assert {row.verdict.word for row in rows} <= {"not comparable", "missing"} and all(row.printed is None for row in rows)
    assert "row label" not in diff.render(rows, "text")


def test_a_stand_in_prints_in_the_same_layout(store):
    (digits,) = TABLES["3"].stand_ins
    fill(store, "3", [digits], seeds=2)
    shown = ours(store, "3", [digits])[1]
    assert shown.startswith("wb: replica of the rows of table 3 on a stand-in, MLP3/Digits: FDR\n")
    assert "MLP3  Digits" in shown
    (digits,) = TABLES["4"].stand_ins
    assert ours(store, "4", [digits])[1].startswith(
        "wb: replica of the rows of table 4 on a stand-in, Digits-LT: FDR and accuracy (%)\n"
    )


# --- beside the published numbers ------------------------------------------------------------------------------------


def claims(text):
    """What is said of order and gains, up to its first words, above the rules."""
    return re.findall(r"^(Order: \d+ of \d+ \w+|Gain\b.*)", text[: text.index("Difference d:")], re.MULTILINE)


def test_equal_levels_match_and_the_names_are_those_of_the_csvs(store):
    columns = TABLES["3"].columns[6:8]
    fill(store, "3", columns, factor=1.02)
    rows = compare(store, "3", columns)
    assert len(rows) == 12 and {row.verdict.word for row in rows} == {"match"} and diff.exit_code(rows) == 0
    assert all(row.difference == pytest.approx(1.02, rel=1e-6) for row in rows)
    lines = list(csv.DictReader(io.StringIO(diff.render(rows, "csv"))))
    assert {(line["row"], line["column_path"], line["metric"]) for line in lines} == {
        place for place in published.load("wb", "table3.csv") if place[0] in ("MLP3/MNIST", "MLP4/MNIST")
    }
    assert all(line["difference"] == "1.0200" and "ratios, not differences" in line["note"] for line in lines)
    low, high = (float(lines[0][name]) for name in ("low90", "high90"))
    assert low * high == pytest.approx(1.02**2, rel=1e-3) and low < 1 < 1.02 < high
    text = diff.render(rows, "text")
    assert re.search(r"WD w/o BN\s+2\.53±0\.04 ×10²\s+5\s+2\.48×10²\s+×1\.02\s+\[×0\.\d\d, ×1\.\d\d\]\s+match", text)
    assert "MLP3/MNIST/before" in text and claims(text) == ["Order: 2 of 2 separable", "Order: 3 of 3 separable"] * 2


def test_a_number_that_is_marked_as_suspect_does_not_decide_the_exit_code(store):
    fill(store, "10", TABLES["10"].columns)
    fill(store, "10", TABLES["10"].columns, only=["WB"], factor=0.26)  # of training features as of WD's network, which WB has
    rows = {row.key[3]: row for row in compare(store, "10", TABLES["10"].columns) if row.label == "WB/N/A"}
    train, test = rows["FDR/Train"], rows["FDR/Test"]
    assert [row.verdict.word for row in (train, test)] == ["lower", "lower"] and train.fully_specified and test.fully_specified
    assert (diff.exit_code([train]), diff.exit_code([test]), diff.exit_code([train, test])) == (0, 1, 1)


def test_each_metric_has_its_own_margin_section_and_pool(store):
    fill(store, "4", C100, shift=1.2, factor=2.0)
    rows = compare(store, "4", C100)
    words = {}
    for row in rows:
        words.setdefault(row.key[3], set()).add(row.verdict.word)
    assert words["FDR/Train"] == words["FDR/Test"] == {"higher"}  # ln 2 = 0.69 is far outside ln 1.25
    assert words["Accuracy/Many"] == words["Accuracy/Few"] == {"match"}  # 1.2 is inside 2.0
    assert "match" not in words["Accuracy/Average"] and diff.exit_code(rows) == 1
    text = squeezed(diff.render(rows, "text"))
    assert text.count("Gain: WD&FR&ETF/Mult over WD/Mult: published +2.20, here ") == 1
    assert "match; under our grid" in text and "no rule: a metric that has no margin." in text


def test_a_published_spread_too_large_for_the_log_scale_leaves_its_row_open_alone(store):
    columns = TABLES["8"].columns
    fill(store, "8", columns, only=["Naive", "WD", "WB"])
    rows = {row.key[1:2] + row.key[3:]: row for row in compare(store, "8", columns)}
    wild = rows["WD/N/A", "FDR/Train"].verdict
    assert wild.word == "open" and wild.seeds_needed is None and "sd/mean is 1.27" in wild.reason
    # Of the published rows only Naive's, 1.17/8.17 of a population of 5, is small enough to be pooled.
    there = {key: number for key, number in tables.printed(PAPER, TABLES["8"]).items() if key[3] == "FDR/Train"}
    spreads = {key: side.sd for key, (_, side) in verdicts.summaries({}, there, "log").items()}
    assert list(spreads.values()) == [pytest.approx(1.17 / 8.17 * (5 / 4) ** 0.5)] * 18
    assert rows["Naive/N/A", "FDR/Train"].verdict.word == "match"
    text = squeezed(diff.render(list(rows.values()), "text"))
    assert "WB/N/A (CIFAR10-LT/FDR/Train, CIFAR10-LT/FDR/Test): differs from the WD rows" in text
    assert text.count("row label printed one line off") == 1


def test_numbers_without_a_rule_stand_side_by_side(store):
    fill(store, "text", TABLES["text"].columns)
    rows = compare(store, "text", TABLES["text"].columns)
    assert {row.verdict.word for row in rows} == {"no rule"} and diff.exit_code(rows) == 0
    text = diff.render(rows, "text")
    assert re.search(r"WD\s+0\.250±0\.002\s+5\s+0\.19\s+\+0\.060\s+no rule", text)
    assert re.search(r"WD\s+0\.0091±0\.0000\s+5\s+0\.009\s+\+0\.0001\s+no rule", text)
    assert not claims(text)
    values, shown = ours(store, "text", TABLES["text"].columns)
    assert "0.25" in shown and "0.009" in shown and len(values) == 4


def test_other_selections_read_the_same_runs(store):
    fill(store, "4", C100, only=["WD", "WD/Mult"])
    told = {name: ours(store, "4", C100, selection=name)[0] for name in ("as-published", "best-on-validation", "last-epoch")}
    key = "", "WD/N/A", "cifar100-lt/100", "Accuracy/Many"
    assert told["as-published"][key].values == told["best-on-validation"][key].values
    assert told["last-epoch"][key].mean == 0 and told["last-epoch"][(*key[:3], "FDR/Train")].n == 5
    rows = {row.key: row for row in compare(store, "4", C100, selection="last-epoch")}
    assert rows[key].verdict.word == "match" and rows[key].difference == pytest.approx(-75.9)
