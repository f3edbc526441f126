"""Tables: the published numbers come back from every format cell by cell, and ours stand where they belong."""

import csv
import io
import os
import re
import subprocess
import sys
from functools import partial

import pytest
from fake_records import COLUMN, OFFICIAL, record, write, write_level
from text_tables import assert_committed, committed, layout

from papers.unified_bound import CIFAR_COLUMNS, DIGITS_LT, PAPER, README_TABLE, TABLE_1
from replicate import grid
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import formats, published, tables
from replicate.report.selection import SELECTIONS, Replica, choose

C10, C100 = COLUMN["cifar10-lt/100"], COLUMN["cifar100-lt/100"]
ACCURACY = "balanced_accuracy_pct"
EDITIONS = {"digits": "official", "cifar10": "official", "cifar100": "0123456789ab"}


# --- reading a table back --------------------------------------------------------------------------------------------


TITLES = {block.title for table in PAPER.tables for block in table.blocks}


def read_text(text):
    """(block, label, column path) -> printed text without marks."""
    lines, spans, paths = layout(text, 1)
    found, block = {}, ""
    for line in lines:
        if line in TITLES:
            block = line
        elif line != lines[0]:
            label, *cells = [line[slice(*span)].strip() for span in spans]
            found |= {(block, label, path): cell.rstrip("*+^") for path, cell in zip(paths, cells, strict=True)}
    return found


def read_markdown(text, levels=3):
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|") and not line.startswith("|:")]
    rows = [[cell.strip() for cell in row] for row in rows]
    heads = []
    for row in rows[:levels]:
        last, filled = "", []
        for cell in row[1:]:
            last = cell or last
            filled.append(last)
        heads.append(filled)
    paths = ["/".join(path) for path in zip(*heads, strict=True)]
    found, block = {}, ""
    for label, *cells in rows[levels:]:
        if label.startswith("**"):
            block = label.strip("*")
        elif label:
            for path, cell in zip(paths, cells, strict=True):
                found[block, label, path] = re.sub(r"[*]|</?(u|sub)>", "", cell)
    return found


def read_latex(text, levels=3):
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    lines = [line.removesuffix(" \\\\") for line in body.splitlines() if line.endswith("\\\\")]
    heads = []
    for line in lines[:levels]:
        filled = []
        for cell in line.split(" & ")[1:]:
            many = re.fullmatch(r"\\multicolumn\{(\d+)\}\{c\}\{(.*)\}", cell)
            filled += [many[2]] * int(many[1]) if many else [cell]
        heads.append(filled)
    paths = ["/".join(path) for path in zip(*heads, strict=True)]
    found, block = {}, ""
    for line in lines[levels:]:
        title = re.fullmatch(r"\\multicolumn\{9\}\{l\}\{\\textit\{(.*)\}\}", line)
        if title:
            block = title[1]
            continue
        label, *cells = [cell.strip() for cell in line.split(" & ")]
        for path, cell in zip(paths, cells, strict=True):
            cell = re.sub(r"\$_\{\\pm (.*)\}\$", r"±\1", cell)
            found[block, label, path] = re.sub(r"\\(textbf|textit|underline)\{|\}", "", cell)
    return found


def expected(table):
    """From the CSV alone: (block, label, path) -> value±std, empty where illegible."""
    numbers = published.load("unified_bound", table.published)
    return {
        (block.title, row.label, "/".join(column.path)): f"{n.value_text}±{n.std_text}" if n.value is not None else ""
        for block in table.blocks
        for row in block.rows
        for column in table.columns
        for n in [numbers[f"{block.title}/{row.label}", "/".join(column.path), ACCURACY]]
    }


@pytest.mark.parametrize("table", [TABLE_1, README_TABLE], ids=["table 1", "released"])
@pytest.mark.parametrize("form, read", [("text", read_text), ("markdown", read_markdown), ("latex", read_latex)])
def test_the_published_table_comes_back_cell_by_cell(table, form, read):
    shown = tables.render(PAPER, table, tables.printed(PAPER, table), form)
    told = read(shown)
    assert told == expected(table)
    assert len(told) == {"1": 128, "released": 32}[table.number]


@pytest.mark.parametrize(
    "form, read",
    [("text", read_text), ("markdown", partial(read_markdown, levels=2)), ("latex", partial(read_latex, levels=2))],
)
def test_table_2_is_printed_as_published(form, read):
    table = next(table for table in PAPER.tables if table.number == "2")
    there = {("", *place[:2]): number.value_text for place, number in published.load("unified_bound", "table2.csv").items()}
    told = read(tables.render(PAPER, table, tables.printed(PAPER, table), form))
    assert told == there and len(told) == 15 * 8


def test_the_published_table_comes_back_from_csv_with_every_field():
    text = tables.render(PAPER, TABLE_1, tables.printed(PAPER, TABLE_1), "csv")
    assert published.parse(text, "x") == dict(published.load("unified_bound", "table1.csv"))


def test_every_row_of_a_table_has_a_published_number():
    for table in (TABLE_1, README_TABLE):
        assert len(tables.printed(PAPER, table)) == sum(len(b.rows) for b in table.blocks) * len(table.columns)


def test_illegible_numbers_stay_empty_in_every_format():
    values = tables.printed(PAPER, TABLE_1)
    lines = tables.render(PAPER, TABLE_1, values, "text", columns=[C100]).splitlines()
    assert "CE" in lines and "CE+DRW       40.8±0.6" in lines
    markdown = tables.render(PAPER, TABLE_1, values, "markdown", columns=[C100]).splitlines()
    assert [""] in [[cell.strip() for cell in line.split("|")[2:-1]] for line in markdown if line.startswith("| CE ")]
    assert "CE &  \\\\" in tables.render(PAPER, TABLE_1, values, "latex", columns=[C100]).splitlines()


# --- layout ----------------------------------------------------------------------------------------------------------


def test_text_has_spanning_heads_blocks_and_rules():
    lines = tables.render(PAPER, TABLE_1, tables.printed(PAPER, TABLE_1), "text", columns=CIFAR_COLUMNS[:4]).splitlines()
    assert re.fullmatch(r" {13}-+ CIFAR-10 -+", lines[2])
    assert re.fullmatch(r" {13}-+ LT -+  -+ Step -+", lines[3])
    assert lines[4].split() == ["100", "10", "100", "10"]
    rule = lines[5]
    assert [i for i, line in enumerate(lines) if line == rule] == [5, 7, 11, 15, 20, 22, 26, 30]
    assert (lines[6], lines[21]) == ("w/o SAM", "w/ SAM")


def test_text_aligns_points_and_leaves_room_for_heads_over_narrow_columns():
    pair = CIFAR_COLUMNS[4:6]
    values = {
        ("w/o SAM", "CE", pair[0].name, ACCURACY): replica(9.5),
        ("w/o SAM", "LDAM", pair[0].name, ACCURACY): replica(10.5),
    }
    values["w/o SAM", "CE", pair[1].name, ACCURACY] = replica(1.0)
    lines = tables.render(PAPER, TABLE_1, values, "text", columns=pair, edition_of=OFFICIAL).splitlines()
    assert lines[2:5] == [" " * 13 + "- CIFAR-100 -", " " * 13 + "----- LT ----", " " * 13 + "100     10"]
    assert lines[8:10] == ["CE            9.5+   1.0", "LDAM         10.5*^"]
    assert read_text("\n".join(lines))["w/o SAM", "CE", "CIFAR-100/LT/10"] == "1.0"


def test_latex_is_balanced_and_has_one_cell_a_column():
    shown = tables.render(PAPER, TABLE_1, tables.printed(PAPER, TABLE_1), "latex")
    assert shown.count("{") == shown.count("}") and shown.count("$") % 2 == 0
    opened = []
    for word, name in re.findall(r"\\(begin|end)\{(\S+?)\}", shown):
        assert word == "begin" or opened.pop() == name
        opened += [name] * (word == "begin")
    assert not opened
    for line in shown.splitlines():
        if line.endswith("\\\\") and "textit{w/" not in line:
            spans = [int(n) for n in re.findall(r"multicolumn\{(\d)\}", line)]
            assert line.count(" & ") + 1 + sum(n - 1 for n in spans) == 9
    assert "\\cmidrule(lr){2-5} \\cmidrule(lr){6-9}" in shown
    assert formats.escape_latex("a_b & 5 % ±1 --x") == "a\\_b \\& 5 \\% $\\pm$1 -{}-x"


def replica(*values):
    epochs = {seed: (1,) for seed, _ in enumerate(values)}
    return Replica("as-published", dict(enumerate(values)), ((),), epochs, planned=1, finished=1, competing=1)


def test_marks_are_for_best_second_best_and_best_baseline_of_each_block_as_printed():
    levels = {"CE": 70.04, "LDAM": 71.26, "VS": 71.34, "CE+ADRW": 73.0, "LDAM+ADRW": 71.31}
    values = {("w/o SAM", label, C10.name, ACCURACY): replica(level) for label, level in levels.items()}
    values["w/ SAM", "VS", C10.name, ACCURACY] = replica(90.0)  # alone in its block: nothing to beat
    shown = tables.render(PAPER, TABLE_1, values, "text", columns=[C10], edition_of=OFFICIAL)
    cells = [tuple(line.split()) for line in shown.splitlines() if re.search(r" \d\d\.\d", line)]
    assert cells == [
        ("CE", "70.0"), ("LDAM", "71.3+^"), ("VS", "71.3+^"), ("CE+ADRW", "73.0*"), ("LDAM+ADRW", "71.3+"), ("VS", "90.0"),
    ]  # fmt: skip
    shown = re.sub(" +", " ", tables.render(PAPER, TABLE_1, values, "markdown", columns=[C10], edition_of=OFFICIAL))
    assert "| LDAM | <u>*71.3*</u> |" in shown and "| CE+ADRW | **73.0** |" in shown and "| VS | 90.0 |" in shown
    shown = tables.render(PAPER, TABLE_1, values, "latex", columns=[C10], edition_of=OFFICIAL)
    assert "LDAM & \\underline{\\textit{71.3}} \\\\" in shown and "CE+ADRW & \\textbf{73.0} \\\\" in shown


def test_spread_is_written_in_each_formats_way():
    values = {("w/o SAM", "CE", C10.name, ACCURACY): replica(71.0, 72.0)}
    told = {form: tables.render(PAPER, TABLE_1, values, form, columns=[C10], edition_of=OFFICIAL) for form in tables.FORMATS}
    assert "71.5±0.5" in told["text"] and "71.5<sub>±0.5</sub>" in told["markdown"] and "71.5$_{\\pm 0.5}$" in told["latex"]
    assert "71.5000,0.5000,mean,2,population sd,replica" in told["csv"]


def test_unknown_formats_are_refused():
    with pytest.raises(BadInput, match=r"'html'.*text, markdown, csv, latex"):
        tables.render(PAPER, TABLE_1, {}, "html")


# --- ours, from a store ----------------------------------------------------------------------------------------------


def cells(column, methods=None, **options):
    return grid.cells(PAPER, "table", columns=[column], methods=methods, **options)


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)  # many small files
    return Store(tmp_path / "store")


def show(store, form="text", columns=(C10,), **options):
    told = {"selection": "as-published", "edition_of": EDITIONS, "columns": columns, **options}
    values = tables.replicas(store, PAPER, TABLE_1, **told)
    return values, tables.render(PAPER, TABLE_1, values, form, **told)


def squeezed(text):
    return " ".join(text.split())


def test_rows_take_the_records_of_their_method_column_and_edition(store):
    for seed in (0, 3):
        for number, cell in enumerate(cells(C100, ["CE", "LDAM", "VS+SAM"], seeds=(seed,))):
            write_level(store, cell, 40 + number + seed, edition="0123456789ab")
    write_level(store, cells(C100, ["VS"])[0], 99.0)  # of another edition
    values, shown = show(store, columns=None)
    assert {key: number.values for key, number in values.items()} == {
        ("w/o SAM", "CE", C100.name, ACCURACY): {0: pytest.approx(40.0), 3: pytest.approx(43.0)},
        ("w/o SAM", "LDAM", C100.name, ACCURACY): {0: pytest.approx(41.0), 3: pytest.approx(44.0)},
        ("w/ SAM", "VS", C100.name, ACCURACY): {0: pytest.approx(42.0), 3: pytest.approx(45.0)},
    }
    told = read_text(shown)
    assert told["w/ SAM", "VS", "CIFAR-100/LT/100"] == "43.5±1.5"
    assert sum(bool(text) for text in told.values()) == 3
    assert "Seeds: 2 for each value (0, 3), mean ± population standard deviation." in shown
    assert "cifar100@0123456789ab" in shown
    assert "Not run, or not yet finished: 125 of 128 values, left empty." in squeezed(shown)


def test_a_store_without_records_gives_no_numbers(store):
    values, shown = show(store)
    assert values == {} and set(read_text(shown).values()) == {""}
    assert shown.startswith("unified-bound: replica of table 1.") and "16 of 16 values, left empty" in squeezed(shown)
    assert {n.value for n in published.parse(show(store, "csv")[1], "x").values()} == {None}
    with pytest.raises(BadInput, match="no column is left of table 1; allowed: CIFAR-10/LT/100, "):
        show(store, columns=())


def test_one_value_of_nu_stands_for_a_row_and_the_csv_says_which(store):
    for seed in (0, 1):
        for cell in cells(C10, ["CE+ADRW"], seeds=(seed,)):
            write_level(store, cell, 70 + (cell.point == (("nu", 0.75),)) + 0.1 * seed)
    values, shown = show(store, "csv")
    number = values["w/o SAM", "CE+ADRW", C10.name, ACCURACY]
    assert (number.points, number.mean, number.planned) == (((("nu", 0.75),),), pytest.approx(71.05), 6)
    line = published.parse(shown, "x")["w/o SAM/CE+ADRW", "CIFAR-10/LT/100", ACCURACY]
    assert "selection as-published; point nu=0.75; seed 0 epoch 2, seed 1 epoch 2; edition cifar10@official" in line.note
    assert (line.specified, line.provenance, line.n) == ("unpublished: nu", "replica", 2)


def test_failed_and_unfinished_grid_points_are_told_and_do_not_blank_their_row(store):
    failed = {"epoch": 7, "loss": "nan"}
    for seed in (0, 1):
        for cell in cells(C10, ["CE+ADRW"], seeds=(seed,)):
            nu = dict(cell.point)["nu"]
            if nu < 2:
                write_level(store, cell, 70 + nu)
            elif seed:
                write(store, cell, [[1], [1]], failed=failed)
    values, shown = show(store)
    assert values["w/o SAM", "CE+ADRW", C10.name, ACCURACY].mean == pytest.approx(71.0)
    told = squeezed(shown)
    assert "w/o SAM CE+ADRW nu=2 seed 1, CIFAR-10/LT/100; w/o SAM CE+ADRW nu=3 seed 1, CIFAR-10/LT/100." in told
    assert "4 of 6 for CIFAR-10/LT/100 (all rows)" in told
    note = published.parse(show(store, "csv")[1], "x")["w/o SAM/CE+ADRW", "CIFAR-10/LT/100", ACCURACY].note
    assert "4 of 6 grid points competed; failed: nu=2 seed 1; failed: nu=3 seed 1" in note


def test_a_row_whose_every_run_failed_is_empty_and_says_so(store):
    write(store, cells(C10, ["LDAM"])[0], [[1], [1]], failed={"epoch": 1, "loss": "inf"})
    values, shown = show(store)
    assert values["w/o SAM", "LDAM", C10.name, ACCURACY].mean is None
    assert read_text(shown)["w/o SAM", "LDAM", "CIFAR-10/LT/100"] == ""
    assert "Failed, and in no number: w/o SAM LDAM seed 0, CIFAR-10/LT/100." in shown


def test_values_of_other_numbers_of_seeds_are_named(store):
    for seed in (0, 1, 2):
        for cell in cells(C10, ["CE", "LDAM", "VS"][: 3 - (seed > 1)], seeds=(seed,)):
            write_level(store, cell, 70.0)
    write_level(store, grid.cells(PAPER, "table", columns=[C100], methods=["CE"])[0], 40.0, edition="0123456789ab")
    shown = squeezed(show(store, columns=(C10, C100))[1])
    assert (
        "Seeds: 0 for CIFAR-100/LT/100 (all rows); 0, 1 for CIFAR-10/LT/100 (w/o SAM VS); 0, 1, 2 for the others; "
        "mean ± population standard deviation." in shown
    )
    assert "Data: cifar10@official, cifar100@0123456789ab (other split)." in shown


def test_stand_in_data_prints_alone_with_the_same_rows_and_is_marked(store):
    for number, cell in enumerate(cells(DIGITS_LT)):
        write_level(store, cell, 80 + number / 10)
    values, shown = show(store, columns=[DIGITS_LT], variant="text")
    assert len(values) == 16
    told = read_text(shown)
    assert len(told) == 16 and told["w/ SAM", "VS+TLA+ADRW", "Digits/LT/45"] == "81.5"
    assert "STAND-IN: Digits/LT/45 is no part of the paper" in shown and "never compared with a published number" in squeezed(
        shown
    )
    assert "Seeds: 1 for each value (0), so no spread." in shown
    assert "Quirk" not in shown and "Variant" not in shown and "CIFAR" not in shown
    lines = list(csv.DictReader(io.StringIO(show(store, "csv", columns=[DIGITS_LT], variant="text")[1])))
    assert len(lines) == 16 and all("stand-in: never compared" in line["note"] and line["specified"] == "" for line in lines)
    assert not any("variant" in line["note"] for line in lines)


def test_quick_runs_have_keys_and_marks_of_their_own(store):
    write_level(store, cells(C10, ["CE"], quick=True)[0], 12.0)
    assert show(store)[0] == {}
    values, shown = show(store, quick=True)
    assert list(values) == [("w/o SAM", "CE", C10.name, ACCURACY)]
    assert shown.startswith("unified-bound: quick run of table 1.")
    assert f"QUICK RUN: epochs of every stretch {grid.QUICK_EPOCHS}, " in shown
    assert "never compared with a published number" in squeezed(shown)
    assert "quick: never compared" in show(store, "csv", quick=True)[1]


def test_a_variant_has_a_table_of_its_own(store):
    write_level(store, cells(C10, ["CE"])[0], 71.0)
    write_level(store, cells(C10, ["CE"], variant="text")[0], 72.0)
    values, shown = show(store, variant="text")
    assert values["w/o SAM", "CE", C10.name, ACCURACY].mean == pytest.approx(72.0)
    assert "replica of table 1, variant text." in shown and "Variant text: learning-rate drops as worded" in shown
    assert "variant text" in show(store, "csv", variant="text")[1]


def test_the_tables_quirks_stand_under_it_wrapped(store):
    write_level(store, cells(C10, ["CE"])[0], 71.0)
    for form in ("text", "markdown", "latex"):
        shown = show(store, form)[1]
        notes = shown[shown.index("Selection as-published") :]
        for quirk in PAPER.quirks:
            assert (f"Quirk {quirk.name}: " in squeezed(notes)) == (quirk.name in TABLE_1.quirks)
        assert max(map(len, notes.splitlines())) <= formats.WIDTH


def test_selection_without_a_validation_split_says_so(store):
    write_level(store, cells(C10, ["CE"])[0], 71.0)
    values, shown = show(store, selection="best-on-validation")
    assert values["w/o SAM", "CE", C10.name, ACCURACY].mean is None
    assert "No validation split, so no number under this selection: CIFAR-10/LT/100." in squeezed(shown)


def test_another_grid_prints_in_the_tables_layout(store):
    for cell in grid.cells(PAPER, "full", columns=[C10], methods=["VS"]):
        write_level(store, cell, 75 + dict(cell.point)["tau"] - dict(cell.point)["gamma"])
    values, shown = show(store, grid="full")
    assert values["w/o SAM", "VS", C10.name, ACCURACY].points == ((("gamma", 0.05), ("tau", 2.0)),)
    assert values["w/o SAM", "VS", C10.name, ACCURACY].planned == 25
    assert "Grid full (Table 1, the paper's whole search)" in shown
    with pytest.raises(BadInput, match=r"'wide'.*table, full"):
        show(store, grid="wide")


def test_methods_and_columns_narrow_what_is_read(store):
    for cell in (*cells(C10, ["CE", "LDAM"]), *cells(COLUMN["cifar10-lt/10"], ["CE"])):
        write_level(store, cell, 70.0)
    told = {"selection": "last-epoch", "edition_of": EDITIONS}
    assert len(tables.replicas(store, PAPER, TABLE_1, **told)) == 3
    assert list(tables.replicas(store, PAPER, TABLE_1, methods=["CE"], columns=[C10], **told)) == [
        ("w/o SAM", "CE", C10.name, ACCURACY)
    ]
    with pytest.raises(BadInput, match="'cifar100'"):
        tables.replicas(store, PAPER, TABLE_1, selection="last-epoch", edition_of={"cifar10": "official"})


def test_each_selection_reaches_the_table(store):
    write(store, cells(C10, ["CE"])[0], [[60, 50], [20, 40]])
    key = ("w/o SAM", "CE", C10.name, ACCURACY)
    told = {name: show(store, selection=name)[0][key] for name in SELECTIONS}
    runs = {(): {0: record([[60, 50], [20, 40]])}}
    assert {name: number.values for name, number in told.items()} == {
        name: choose(runs, name).replica().values for name in SELECTIONS
    }


def test_the_csv_of_replicas_is_read_back_and_printed_alike(store):
    for seed in (0, 1, 2):
        for number, cell in enumerate(cells(C10, seeds=(seed,))):
            write_level(store, cell, 60 + number / 7 + seed / 3)
    values, text = show(store, "csv")
    numbers = published.parse(text, "x")
    assert text.splitlines()[0] == ",".join(published.FIELDS) and len(numbers) == 16
    for (block, label, *_), ours in values.items():
        there = numbers[f"{block}/{label}", "CIFAR-10/LT/100", ACCURACY]
        assert (there.value, there.std, there.n) == (pytest.approx(ours.mean, abs=1e-4), pytest.approx(ours.sd, abs=1e-4), 3)
    keys = {(f"{key[0]}/{key[1]}", "CIFAR-10/LT/100", ACCURACY): key for key in values}
    again = tables.render(PAPER, TABLE_1, {keys[place]: number for place, number in numbers.items()}, "csv", columns=[C10])
    assert again == text


# --- cost ------------------------------------------------------------------------------------------------------------


def test_a_programmes_chain_is_computed_once_not_once_a_seed(store, monkeypatch):
    for seed in range(4):
        for cell in cells(C10, ["CE", "CE+ADRW"], seeds=(seed,)):
            write_level(store, cell, 70.0)
    counted = []
    keys = grid.Programme.keys
    monkeypatch.setattr(grid.Programme, "keys", lambda self, edition: counted.append(1) or keys(self, edition))
    values = tables.replicas(
        store, PAPER, TABLE_1, selection="as-published", edition_of=EDITIONS, columns=[C10], methods=["CE", "CE+ADRW"]
    )
    assert {number.n for number in values.values()} == {4} and len(counted) == 7


def test_printing_a_table_loads_neither_pandas_nor_numpy_nor_scipy():
    code = (
        "import sys; from papers.unified_bound import PAPER, TABLE_1; from replicate.report import diff, tables, verdicts\n"
        "tables.render(PAPER, TABLE_1, tables.printed(PAPER, TABLE_1), 'text')\n"
        "sys.exit(', '.join({'torch', 'numpy', 'pandas', 'scipy', 'tabulate'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_the_committed_digits_table_is_what_its_committed_records_give():
    values = assert_committed(PAPER, PAPER.tables[0], [COLUMN["digits/45"]])
    assert len(values) == 16 and all(value.n == 3 for value in values.values())
    readme = (committed(PAPER).parent.parent / "README.md").read_text(encoding="utf-8")
    for (block, label, *_), value in values.items():
        assert f"{value.mean:.1f}<sub>±{value.sd:.1f}</sub>" in next(
            line for line in readme.splitlines() if line.startswith(f"| {label} |")
        ), (block, label)


def test_the_cifar_rows_in_the_readme_are_the_committed_ones_beside_the_published():
    edition = "0cff24a527f3"
    columns = [column for column in TABLE_1.columns if column.data.source == "cifar10"]
    printed = tables.printed(PAPER, TABLE_1)
    expected = {}
    for variant in (None, *(variant.name for variant in PAPER.variants)):
        name = f"cifar10@{edition}" + (f".{variant}" if variant else "")
        values = assert_committed(PAPER, TABLE_1, columns, "cifar10", edition, name, variant=variant)
        how = {"selection": "last-epoch", "edition_of": {"cifar10": edition}, "columns": columns, "variant": variant}
        last = tables.replicas(Store(committed(PAPER)), PAPER, TABLE_1, **how)
        for key, value in values.items():
            label = key[1] + (f", `{variant}`" if variant else "")
            theirs = f"{printed[key].value_text}<sub>±{printed[key].std_text}</sub>"
            expected[label] = f"| {label} on CIFAR-10-LT | {theirs} | {value.mean:.2f} | {last[key].mean:.2f} |"
            assert value.n == 1 and key == ("w/o SAM", key[1], C10.name, ACCURACY)
    readme = (committed(PAPER).parent.parent / "README.md").read_text(encoding="utf-8").splitlines()
    told = {line.split(" on ")[0].strip("| "): line for line in readme if " on CIFAR-10-LT |" in line}
    assert told == expected and len(told) >= 8
