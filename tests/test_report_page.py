"""The page: markup, numbers and verdicts, what stands behind a number; in a browser where there is one."""

import html as entities
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import fake_records
import pytest

import replicate
from papers import lort, unified_bound, wb
from replicate import cli, grid
from replicate.cli.request import asked_for
from replicate.cli.run import run_command
from replicate.data.editions import comparability
from replicate.errors import BadInput
from replicate.record import Store
from replicate.report import diff, page, tables

RESULTS = Path(__file__).parent.parent / "results"
PAPERS = {"unified_bound": unified_bound.PAPER, "wb": wb.PAPER, "lort": lort.PAPER}
ENVIRONMENT = {
    "device": "Device 1", "numerics": {"device": "cpu", "dtype": "float32", "threads": 2, "compiled": False},
    "versions": {"replicate": "0.1.0", "torch": "2.9.0"}, "commit": "0123456789ab",
}  # fmt: skip
NOISE = (-0.3, 0.1, 0.0, 0.2, 0.0)
VOID = {"meta", "br", "wbr", "input", "path", "use", "link", "img", "rect", "image", "circle", "stop", "line"}


def write(store, cell, percent, edition="official"):
    """As the tests of other readers, with training counts, which figures need, and an environment."""
    kept = []
    fake_records.write_groups(SimpleNamespace(write=kept.append), cell, percent, edition=edition)
    (made,) = kept
    made.environment, made.fingerprint, made.class_counts = ENVIRONMENT, "fedcba9876543210", [90, 2]
    made.curves["train"] = {name: [1, 2, 3] for name in made.groups}
    made.totals["train"] = dict.fromkeys(made.groups, 4)
    store.write(made)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Runs of some rows of each paper at their published levels, on two editions and on digits."""
    made = Store(tmp_path_factory.mktemp("page") / "store")
    fsync, os.fsync = os.fsync, lambda file: None
    try:
        table, columns = unified_bound.TABLE_1, {column.name: column for column in unified_bound.COLUMNS}
        printed = tables.printed(unified_bound.PAPER, table)
        level = {row.method: (block.title, row.label) for block in table.blocks for row in block.rows}
        fill = ("cifar10-lt/100", "official", 5), ("cifar100-lt/100", "c5d1248f4937", 3), ("digits/45", "official", 3)
        for name, edition, seeds in fill:
            for seed in range(seeds):
                for cell in grid.cells(unified_bound.PAPER, "table", columns=[columns[name]], seeds=(seed,)):
                    number = printed.get((*level[cell.method], name, "balanced_accuracy_pct"))
                    value = number.value if number is not None and number.value is not None else 61.25
                    shift = {"CE": 3.0, "LDAM": -3.0}.get(cell.method, 0.0)
                    write(made, cell, {"": value + shift + NOISE[seed]}, edition)
        for seed in range(2):
            how = {"columns": [columns["cifar10-lt/100"]], "methods": ["CE+DRW"], "seeds": (seed,)}
            for cell in grid.cells(unified_bound.PAPER, "table", variant="text", **how):
                write(made, cell, {"": 76.5 + NOISE[seed]})
        for seed in range(5):
            for column in lort.TABLE_3.columns[:3]:
                for cell in grid.cells(lort.PAPER, "table3", columns=[column], methods=["CE", "BS"], seeds=(seed,)):
                    if dict(cell.point).get("rate", 0.1) == 0.1 and dict(cell.point).get("decay", 0.0) == 0.0:
                        write(made, cell, {"": 45.0 + NOISE[seed]})
            methods = ["Vanilla FC", "Post-hoc Logit Adjustment"]
            for cell in grid.cells(lort.PAPER, "table", columns=[lort.COLUMNS[0]], methods=methods, seeds=(seed,)):
                write(made, cell, {"Many": 78.0, "Medium": 47.0, "Few": 14.0 + NOISE[seed]})
            for cell in grid.cells(wb.PAPER, "table3", columns=[wb.TABLE_3_COLUMNS[6]], methods=["WD"], seeds=(seed,)):
                write(made, cell, {"": 97.0})
                told = {"random_layer": {"before": 236.0 + NOISE[seed], "after": 700.0}}
                fake_records.measure(made, cell, "separation", told)
    finally:
        os.fsync = fsync
    return made


def chapters(store, papers=None):
    papers = papers or PAPERS

    def of(name):
        return papers[name], store

    return page.chapters(list(papers), comparability, of)


@pytest.fixture(scope="module")
def chaptered(store):
    return chapters(store)


@pytest.fixture(scope="module")
def html(chaptered):
    return page.render(chaptered, replicate.__version__)


class Markup(HTMLParser):
    """Elements as [tag, attributes, text inside, number of the element around it], in order; raises for tags without an end."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open = [], []
        self.feed(text)
        assert not self.open, [self.elements[number][:2] for number in self.open]

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), "", self.open[-1] if self.open else None])
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), "", self.open[-1] if self.open else None])

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.elements[self.open.pop()][0] == tag, (tag, self.getpos())

    def handle_data(self, data):
        for number in self.open:
            self.elements[number][2] += data

    def within(self, number):
        """The elements inside one, it being the first."""
        inside = {number}
        for place, element in enumerate(self.elements):
            if element[3] in inside:
                inside.add(place)
        return [self.elements[place] for place in sorted(inside)]

    def all(self, tag):
        return [number for number, element in enumerate(self.elements) if element[0] == tag]

    def by_id(self, name):
        return next(number for number, element in enumerate(self.elements) if element[1].get("id") == name)


@pytest.fixture(scope="module")
def markup(html):
    return Markup(html)


# --- markup ----------------------------------------------------------------------------------------------------------


def test_every_table_has_a_caption_scopes_and_rows_of_equal_width(markup):
    found = markup.all("table")
    assert len(found) > 20
    for number in found:
        inside = markup.within(number)
        tags = Counter(element[0] for element in inside)
        assert tags["caption"] == 1 and tags["thead"] == 1 and tags["tbody"] >= 1
        assert all(element[1].get("scope") for element in inside if element[0] == "th")
        rows = [place for place in markup.all("tr") if markup.elements[place] in inside]
        body = [row for row in rows if markup.elements[markup.elements[row][3]][0] == "tbody"]
        widths = set()
        for row in (rows[0], *body):  # the first row of heads spans every column
            cells = [e for e in markup.elements if e[3] == row and e[0] in ("td", "th")]
            widths.add(sum(int(e[1].get("colspan", 1)) for e in cells))
            assert any(e[0] == "th" for e in cells)
        assert len(widths) == 1, markup.elements[number][2][:80]


def test_headings_landmarks_and_what_a_screen_reader_needs(markup):
    levels = [int(e[0][1]) for e in markup.elements if re.fullmatch("h[1-6]", e[0])]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    tags = Counter(e[0] for e in markup.elements)
    assert tags["main"] == tags["header"] == tags["footer"] == 1 and markup.elements[0][1] == {"lang": "en"}
    regions = [e for e in markup.elements if e[1].get("role") == "region"]
    assert regions and all(e[1].get("aria-label") and e[1].get("tabindex") == "0" for e in regions)
    chips = [e for e in markup.elements if "verdict" in e[1].get("class", "").split()]
    assert chips and all(re.search("[a-z]{3}", e[2]) for e in chips)  # a word, never colour alone


def test_ids_are_unique_and_nothing_is_fetched(html, markup):
    ids = Counter(e[1]["id"] for e in markup.elements if "id" in e[1])
    assert not [name for name, count in ids.items() if count > 1]
    links = {e[1]["href"] for e in markup.elements if e[0] == "a"}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)
    assert all(link.startswith(("#", "https://arxiv.org/abs/")) for link in links)
    assert not any("src" in e[1] or e[0] in ("link", "base", "iframe", "object", "embed") for e in markup.elements)
    style = "".join(e[2] for e in markup.elements if e[0] == "style")
    assert "@import" not in style and not re.search(r"url\((?!#)", style)
    assert all(e[1].get("xlink:href", e[1].get("href", "#"))[:1] == "#" for e in markup.elements if e[0] == "use")
    assert "default-src 'none'" in html


def test_colours_have_the_contrast_that_text_needs_in_both_modes():
    css = (page.FILES / "page.css").read_text(encoding="utf-8")

    def luminance(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    modes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    ]
    assert len(modes) == 3  # light, dark, print
    for mode in modes:
        pairs = [(text, under) for text in ("ink", "quiet", "link") for under in ("paper", "raised")]
        pairs += [(name, name[3:]) for name in mode if name.startswith("on-")]
        assert len(pairs) == 12
        for text, under in pairs:
            a, b = sorted((luminance(mode[text]), luminance(mode[under])))
            assert (b + 0.05) / (a + 0.05) >= 4.5, (text, under)


def test_labels_stay_text(store):
    label = '<script>alert("1")'
    first = unified_bound.TABLE_1.blocks[0]
    row = replace(first.groups[0][0], label=label)
    blocks = (
        replace(first, title="<b>", groups=((row, *first.groups[0][1:]), *first.groups[1:])),
        unified_bound.TABLE_1.blocks[1],
    )
    paper = replace(
        unified_bound.PAPER,
        title="A & <i>B</i>",
        tables=(replace(unified_bound.TABLE_1, blocks=blocks),),
        figures=(),
        claims=(),
    )
    told = page.render(chapters(store, {"unified_bound": paper}), "0")
    found = Markup(told)
    assert len(found.all("script")) == 1 and not found.all("i")
    assert sum(label in e[2] for e in found.elements if e[0] == "th") >= 2  # of the paper's data, and of the stand-in
    assert any(e[2] == "A & <i>B</i>" for e in found.elements if e[0] == "h2")


# --- numbers and verdicts --------------------------------------------------------------------------------------------


def test_the_summary_counts_the_verdicts_of_diff(store, markup):
    words = set()
    summary = markup.within(markup.by_id("summary"))
    for name, paper in PAPERS.items():
        told = Counter()
        for table in paper.tables:
            for place, (columns, editions) in enumerate(page.editions(table, store, comparability)):
                standing = {source: comparability(source, edition) for source, edition in editions.items()}
                how = {"edition_of": editions, "comparability": standing, "columns": columns}
                rows = diff.compare(store, paper, table, **how)
                if (place == 0 or any(row.replica for row in rows)) and not any(column.stand_in for column in columns):
                    words |= {row.verdict.word for row in rows}
                if place == 0:  # every number once, on the data most like the paper's
                    told.update(row.verdict.word for row in rows)
        place = next(e[3] for e in markup.elements if e[0] == "th" and e[2] == paper.command)
        shown = {e[1]["data-count"]: int(e[2]) for e in markup.within(place) if "data-count" in e[1]}
        assert {word: count for word, count in shown.items() if count} == dict(told), name
    assert {"match", "higher", "lower", "other split", "quoted", "missing", "open"} <= words
    assert {e[1]["data-word"] for e in summary if "data-word" in e[1]} == words


def test_the_verdict_of_a_cell_is_that_of_diff(chaptered):
    view = chaptered[0].views[0]
    rows = {row.key[:3]: row for row in view.rows}
    cells = {cell.title: cell for _, groups in view.blocks for group in groups for _, line in group for cell in line}
    assert cells["w/o SAM, CE, CIFAR-10/LT/100"].word == "higher" == rows["w/o SAM", "CE", "cifar10-lt/100"].verdict.word
    assert cells["w/o SAM, LDAM, CIFAR-10/LT/100"].word == "lower"
    assert cells["w/o SAM, VS, CIFAR-10/LT/100"].word == "match" and cells["w/o SAM, VS, CIFAR-10/LT/100"].under_our_grid
    assert cells["w/o SAM, CE, CIFAR-10/LT/10"].word == "missing"
    other = chaptered[0].views[1]
    assert other.mark == "edition cifar100@c5d1248f4937" and set(other.counts) == {"other split", "missing"}


def test_every_published_number_is_there_once(markup):
    for paper in PAPERS.values():
        for table in paper.tables:
            section = markup.by_id(f"{paper.command}-table-{table.number}")
            shown = Counter(e[1]["value"] for e in markup.within(section) if e[0] == "data")
            printed = Counter(number.value_text for number in tables.printed(paper, table).values() if number.value_text)
            assert shown == printed, (paper.name, table.number)


def test_other_readings_that_were_run_stand_with_the_quirks(markup, chaptered):
    table = next(number for number in markup.all("table") if markup.elements[number][1].get("class") == "readings")
    (section,) = [e for e in markup.all("section") if markup.elements[e][1].get("aria-labelledby") == "unified-bound-quirks"]
    assert markup.elements[table] in markup.within(section)
    parts = markup.within(table)
    cells = [element[2] for element in parts if element[0] in ("td", "th")]
    lines = [cells[first : first + 10] for first in range(10, len(cells), 10)]
    assert [line[:7] for line in lines] == [
        ["w/o SAM/CE+DRW", "1", "CIFAR-10/LT/100", "here", "75.80±0.17", "5", "75.8±0.3"],
        ["w/o SAM/CE+DRW", "1", "CIFAR-10/LT/100", "text", "76.40±0.20", "2", "75.8±0.3"],
    ]
    assert (lines[0][7], lines[0][9], lines[1][7], lines[1][9]) == ("+0.00", "", "+0.60", "+0.70±0.00")
    assert [chapter.paper.name for chapter in chaptered if chapter.readings] == ["unified_bound"]


def test_stand_ins_have_a_section_of_their_own_without_published_numbers_or_verdicts(markup, chaptered):
    section = markup.by_id("unified-bound-stand-ins")
    around = markup.elements[markup.elements[section][3]]
    assert around[1]["class"] == "stand-ins"
    inside = markup.within(markup.elements[section][3])
    assert not any(e[0] == "data" or "data-v" in e[1] for e in inside)
    assert "STAND-IN" in around[2] and "▸" not in around[2] and "61.2" in around[2]
    for chapter in chaptered:
        for view in chapter.views:
            assert not any("Digits" in "".join(text for text, *_ in level) for level in view.heads)
        assert not any(view.counts for view in chapter.stand_ins)


def test_published_layouts_come_out_right(markup, chaptered):
    of = {view.id: view for chapter in chaptered for view in (*chapter.views, *chapter.stand_ins)}
    transposed = of["wb-table-3"]
    labels = [[text for text, _ in labels] for labels, _ in transposed.blocks[0][1][0]]
    assert labels[0] == ["ResNet34", "C100"] and ["MLP3", "MNIST"] in labels
    assert [text for text, *_ in transposed.heads[0]] == ["Naive", "WD w/o BN", "WD"]
    best = of["lort-table-1"]
    titles = [title for title, _ in best.blocks]
    assert titles[0] == "best of 5 seeds" and titles[-2:] == [
        "cross-fitted, mean of 5 seeds",
        "cross-fitted, mean of 5 seeds: added here",
    ]
    gains = of["lort-table-3"]
    lines = {labels[0][0]: cells for labels, cells in gains.blocks[0][1][0]}
    assert lines["backbone=CE"][1].theirs.gain == "+0.08" and lines["backbone=CE"][1].ours.gain == "+0.00"
    quoted = of["lort-table-2"]
    words = Counter(cell.word for _, groups in quoted.blocks for group in groups for _, cells in group for cell in cells)
    assert words["quoted"] > 200 and len(quoted.heads[-1]) == 11
    assert "yes" in markup.elements[markup.by_id("wb-table-1")][2] and not of["wb-table-1"].counts
    repeated = [labels[0] for _, groups in of["wb-table-4"].blocks for group in groups for labels, _ in group]
    assert ("WD", False) in repeated and ("WD", True) in repeated


# --- what stands behind a number -------------------------------------------------------------------------------------


def test_the_command_behind_a_number_runs_its_cells(store, chaptered):
    checked = 0
    for chapter in chaptered:
        for view in (*chapter.views, *chapter.stand_ins):
            for _, groups in view.blocks:
                behind = [dict(cell.behind) for group in groups for _, line in group for cell in line if cell.behind]
                for told in behind[:: max(1, len(behind) // 5)]:
                    name, *rest = shlex.split(told["command"])[1:]
                    options = dict(run_command(name).make_context(name, rest).params)
                    which = {key: options[key] for key in ("table", "datasets", "ratios", "networks", "methods", "grid")}
                    which |= {key: options[key] for key in ("variant", "quick", "seeds")}
                    (request,) = asked_for(name, which, stand_ins=False, default=True)
                    edition = told["data"].partition("@")[2].partition(",")[0]
                    keys = {cell.programme.key(edition)[:12] for cell in request.cells()}
                    assert set(told["key"].split(", ")) <= keys
                    assert len(request.seeds) == len(re.findall(r"seed \d+:", told["seeds"]))
                    checked += 1
    assert checked > 20


def test_what_stands_behind_a_number_is_what_its_records_say(chaptered):
    view = chaptered[0].views[0]
    cell = next(
        c for _, groups in view.blocks for g in groups for _, line in g for c in line if "ADRW, CIFAR-10/LT/100" in c.title
    )
    told = dict(cell.behind)
    assert told["device"] == "Device 1 (cpu), float32, 2 threads, eager"
    assert told["data"] == "cifar10@official, fingerprint fedcba987654"
    assert told["code"] == "commit 0123456789ab, torch 2.9.0, replicate 0.1.0"
    assert told["chosen"] == "nu=0.15, 6 of 6 grid points competed, selection as-published"
    assert re.fullmatch("[0-9a-f]{12}", told["key"]) and "seed 1: 78.70 (epoch 2)" in told["seeds"]
    assert told["command"].endswith("--method CE+ADRW --seeds 0-4")


# --- the file, and a browser -----------------------------------------------------------------------------------------


def test_the_command_writes_one_file_of_bounded_size(monkeypatch, tmp_path, capsys):
    out = tmp_path / "deep" / "page.html"
    monkeypatch.setattr(
        sys, "argv", ["replicate", "page", "--store", str(tmp_path), "--results", str(RESULTS), "--out", str(out)]
    )
    cli.main()
    assert f"page: {out} (" in capsys.readouterr().out
    text = out.read_text(encoding="utf-8")
    assert 300_000 < len(text.encode()) < 3 * 2**20 and text.endswith("</html>")
    assert [file.name for file in out.parent.iterdir()] == ["page.html"]


def test_a_place_that_cannot_be_written_is_bad_input(monkeypatch, tmp_path):
    monkeypatch.setattr(page, "chapters", lambda *of: [])
    monkeypatch.setattr(page, "render", lambda *of: "")
    (tmp_path / "file").write_text("")
    command = cli.cli.get_command(None, "page")
    with pytest.raises(BadInput, match="cannot be written"):
        command.main(["--store", str(tmp_path), "--out", str(tmp_path / "file" / "page.html")], standalone_mode=False)


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
#: What is done in the page; answers go to the document around it.
LOOK = """<script>
"use strict";
const errors = [];
addEventListener("error", event => errors.push(event.message));
addEventListener("securitypolicyviolation", event => errors.push(event.violatedDirective));
addEventListener("load", () => {
  const all = what => [...document.querySelectorAll(what)];
  const table = document.querySelector("#unified-bound-table-1 table");
  const column = () => [...table.tBodies[0].rows].filter(row => row.className !== "block").map(row => row.cells[1].dataset.s);
  const head = table.tHead.rows[2].cells[0], orders = [column()], sorts = [];
  for (let press = 0; press < 3; press += 1) {
    head.querySelector("button").click();
    orders.push(column());
    sorts.push(head.getAttribute("aria-sort"));
  }
  const there = cell => cell.checkVisibility() && !cell.classList.contains("off");
  const shown = () => all("td[data-v]").filter(there).map(cell => cell.dataset.v);
  const before = shown().length;
  const filtered = {};
  for (const radio of all("fieldset input")) {
    radio.click();
    filtered[radio.value] = [shown(), document.querySelector("[role=status]").textContent];
  }
  document.querySelector("fieldset input").click();
  const opened = document.querySelector("details.behind");
  opened.querySelector("summary").click();
  const panel = opened.querySelector("div").getBoundingClientRect();
  parent.postMessage({ errors, orders, sorts, before, filtered, open: opened.open,
    panel: [panel.left, panel.right, panel.top, panel.bottom], inner: [innerWidth, innerHeight],
    wide: document.documentElement.scrollWidth,
    fetched: performance.getEntriesByType("resource").map(entry => entry.name) }, "*");
});
</script></body>"""


@pytest.fixture(scope="module")
def looked(html, tmp_path_factory):
    """What the page does in a browser, by its width in pixels."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("needs a Chromium: none is installed")
    folder = tmp_path_factory.mktemp("browser")
    (folder / "page.html").write_text(html.replace("</body>", LOOK), encoding="utf-8")
    told = {}
    for width in (390, 1280):
        around = (
            f'<iframe width="{width}" height="800" src="page.html"></iframe><pre id="told"></pre><script>addEventListener('
            '"message", event => { document.getElementById("told").textContent = JSON.stringify(event.data); });</script>'
        )
        (folder / "around.html").write_text(around, encoding="utf-8")
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
             "--virtual-time-budget=30000", "--enable-logging=stderr", "--dump-dom", (folder / "around.html").as_uri()],
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found and found[1], done.stderr[-2000:]
        told[width] = json.loads(entities.unescape(found[1]))
        told[width]["console"] = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return told


@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser_it_has_no_error_asks_for_nothing_and_does_not_scroll_sideways(looked, width):
    told = looked[width]
    assert told["errors"] == [] and told["console"] == [] and told["fetched"] == []
    assert told["inner"][0] == width and told["wide"] <= width
    left, right, top, bottom = told["panel"]
    assert told["open"] and 0 <= left < right <= width and 0 <= top < bottom <= told["inner"][1]


def test_in_a_browser_a_column_sorts_down_up_and_back(looked):
    published, down, up, back = looked[1280]["orders"]
    assert looked[1280]["sorts"] == ["descending", "ascending", None]
    numbers = sorted(map(float, published))
    assert list(map(float, up)) == numbers and list(map(float, down)) == numbers[::-1] and back == published != up


def test_in_a_browser_a_verdict_is_filtered(looked, chaptered):
    told = looked[1280]
    for word, (shown, said) in told["filtered"].items():
        if word == "":
            assert len(shown) == told["before"] and said == ""
            continue
        assert set(shown) == {word} and said.startswith(f"{len(shown)} numbers: ")
        if word not in ("quoted", "missing"):  # columns that are not replicated have these too, and are not counted
            assert len(shown) == sum(chapter.counts[word] for chapter in chaptered)
    assert {"", "match", "higher", "lower"} < set(told["filtered"])
