"""What other programs read: LaTeX that compiles, CSVs for `diff`, Markdown whose columns stand below each other."""

import os
import re
import shutil
import subprocess
from importlib import import_module

import pytest
from fake_records import measure, write_groups

from papers import PAPERS
from replicate import grid
from replicate.record import Store
from replicate.report import formats, published, tables
from replicate.report.formats import Entry, Sheet

LOADED = {name: import_module(f"papers.{name}").PAPER for name in PAPERS}
TABLES = [(name, table) for name, paper in LOADED.items() for table in paper.tables]
NAMES = [f"{name} {table.number}" for name, table in TABLES]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Replicas of every table, one for a stand-in too: one seed, the first point of every method, with its Measures."""
    store = Store(tmp_path_factory.mktemp("filled"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda file: None)  # many small files
        _fill(store)
    return store


def _fill(store):
    for name, table in TABLES:
        for column in (*table.columns, *table.stand_ins):
            for number, cell in enumerate(_first(grid.cells(LOADED[name], table.grid, columns=[column], seeds=(0, 1)))):
                write_groups(store, cell, {"": 30.0 + number % 50})
                for measured, told in _measures(table.metrics, 12345.6 + number).items():
                    measure(store, cell, measured, told)


def _measures(metrics, value):
    """Measures that have this value for every metric."""
    told = {}
    for metric in metrics:
        inner = told
        for step in (metric.measure or ())[:-1]:
            inner = inner.setdefault(step, {})
        inner |= {metric.measure[-1]: value} if metric.measure else {}
    return told


def _first(cells):
    return {(cell.method, cell.column.name, cell.seed): cell for cell in reversed(cells)}.values()


def rendered(store, name, table, format):
    """As published, and where it is replicated ours of its own data and of a stand-in."""
    paper = LOADED[name]
    yield tables.render(paper, table, tables.printed(paper, table), format)
    for columns in (table.columns, table.stand_ins):
        if columns:
            how = {"selection": "as-published", "edition_of": dict.fromkeys((c.data.source for c in columns), "official")}
            values = tables.replicas(store, paper, table, columns=columns, **how)
            assert values
            yield tables.render(paper, table, values, format, columns=columns, **how)


# --- LaTeX -----------------------------------------------------------------------------------------------------------


def compiled(folder, *parts):
    """Compiles tables one after another and gives the log; skips where there is no TeX with booktabs."""
    if shutil.which("pdflatex") is None:
        pytest.skip("needs pdflatex: install a TeX distribution")
    if shutil.which("kpsewhich") and not subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).stdout:
        pytest.skip("needs booktabs: install the LaTeX package")
    body = "\n\\clearpage\n".join(parts)
    text = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n"
    (folder / "tables.tex").write_text(text, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "tables.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=300)
    log = (folder / "tables.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-3000:]
    assert (folder / "tables.pdf").stat().st_size > 10_000
    return log


def test_every_table_compiles(tmp_path, filled):
    parts = [part for name, table in TABLES for part in rendered(filled, name, table, "latex")]
    assert len(parts) > 2 * len(TABLES)
    log = compiled(tmp_path, *parts)
    assert "Missing character" not in log and "undefined" not in log


def sheet(*labels, entry=None):
    rows = [((label,), [entry or Entry("1.0", "0.1", quoted=True)]) for label in labels]
    return Sheet("A", [["x"]], [("[t]", [rows, rows])], ["[..]: quoted"], "")


def test_a_bracket_or_star_at_the_start_of_a_row_is_no_argument_of_the_line_before(tmp_path):
    told = formats.latex(sheet("[2em]", "*", "[a", ""))
    rows = [line for line in told.splitlines() if line.endswith("\\\\") and "&" in line]
    assert [row.partition(" & ")[0] for row in rows[1:]] == 2 * ["{}[2em]", "{}*", "{}[a", ""]
    compiled(tmp_path, told)


def test_a_quoted_number_with_a_spread_and_one_of_ours_is_set_as_it_is_printed():
    entry = Entry("1.28", "0.1", 2, quoted=True, ours="1.30")
    assert formats.latex(sheet("a", entry=entry)).count("a & [$1.28_{\\pm 0.1}\\times10^{2}$] ours 1.30 \\\\") == 2


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, table", TABLES, ids=NAMES)
def test_the_csv_of_a_published_table_has_the_lines_of_its_file(name, table):
    """So that ``diff <(sort a) <(sort b)`` says nothing."""
    paper = LOADED[name]
    text, file = published._read(name, table.published)
    ours = tables.render(paper, table, tables.printed(paper, table), "csv").splitlines()
    theirs = text.splitlines()
    if table.number == "released":  # the file has blocks of other protocols too
        theirs = [line for line in theirs if line in ours]
        assert len(theirs) == 1 + 4 * 8, file
    assert sorted(ours) == sorted(theirs) and ours[0] == theirs[0]


@pytest.mark.parametrize("name, table", TABLES, ids=NAMES)
def test_the_csv_of_ours_is_read_back_and_names_places_as_the_published_one_does(filled, name, table):
    if table.descriptive:
        pytest.skip("a table of words: there is none of ours")
    known = published.load(name, table.published)
    _, *own = rendered(filled, name, table, "csv")
    for number, text in enumerate(own):
        found = published.parse(text, "ours")
        assert published.write(name, [(*place[:2], value) for place, value in found.items()]) == text
        places = {place for place in found if not place[2].endswith("_mean")}
        if number == 0:
            added = {row.label for block in table.blocks if block.added for row in block.rows}
            assert {place for place in places if place not in known} == {
                place for place in places if place[0].removeprefix("added here/") in added
            }
            assert {p for p, value in found.items() if value.provenance == "quoted"} == {
                p for p in known if known[p].provenance == "quoted" and p in places
            }
        assert sum(value.value is not None for value in found.values()) >= len(found) / 3


# --- Markdown --------------------------------------------------------------------------------------------------------


def pipes(line):
    return tuple(match.start() for match in re.finditer(r"(?<!\\)\|", line))


@pytest.mark.parametrize("name, table", TABLES, ids=NAMES)
def test_columns_of_markdown_stand_below_each_other(filled, name, table):
    for text in rendered(filled, name, table, "markdown"):
        lines = [line for line in text.splitlines() if line.startswith("|")]
        assert len(lines) > 2 and len({pipes(line) for line in lines}) == 1
        cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        assert all(re.fullmatch(r":-+|-+:", cell) for cell in cells[1])
        assert sum(all(re.fullmatch(r":-+|-+:", cell) for cell in row) for row in cells) == 1
        ends = [rule.endswith(":") for rule in cells[1]]
        for line in (*lines[:1], *lines[2:]):
            for right, cell in zip(ends, re.split(r"(?<!\\)\|", line)[1:-1], strict=True):
                assert cell.startswith(" ") and cell.endswith(" ")
                assert cell.strip() == (cell[1:-1].lstrip() if right else cell[1:-1].rstrip())


def test_a_pipe_in_a_label_breaks_no_row():
    lines = [line for line in formats.markdown(sheet("a|b")).splitlines() if "a\\|b" in line]
    assert len(lines) == 2 and all(len(pipes(line)) == 3 for line in lines)
