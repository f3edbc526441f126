"""How a table looks: one :class:`Sheet`, as text, as Markdown or as LaTeX with booktabs."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

WIDTH = 110  # of wrapped footnotes

MARKS = ("best", "second best", "best baseline")
_TEXT_MARKS = dict(zip(MARKS, "*+^", strict=True))


@dataclass(frozen=True)
class Entry:
    """A number ready for print: mean and spread as text, empty where there is none, and its marks of :data:`MARKS`."""

    mean: str = ""
    spread: str = ""
    marks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Sheet:
    """Heads [level][column], and blocks of groups of rows (label, entries), in print order; notes: paragraphs under it."""

    title: str
    heads: Sequence[Sequence[str]]
    blocks: Sequence[tuple[str, Sequence[Sequence[tuple[str, Sequence[Entry]]]]]]
    notes: Sequence[str]
    marked: bool

    @property
    def spans(self) -> list[list[tuple[str, int, int]]]:
        """Of each level the heads as (text, first column, columns); a head does not span two heads of the level above."""
        told = []
        for level in range(len(self.heads)):
            spans, first = [], 0
            above = list(zip(*self.heads[: level + 1], strict=True))
            last_level = level == len(self.heads) - 1
            for _, alike in itertools.groupby(range(len(above)), key=lambda c: (above[c], c if last_level else None)):
                count = len(list(alike))
                spans.append((self.heads[level][first], first, count))
                first += count
            told.append(spans)
        return told


# --- text ------------------------------------------------------------------------------------------------------------


def text(sheet: Sheet) -> str:
    """Columns as wide as the rule of dashes under the heads, two blanks apart."""
    rows = [row for _, groups in sheet.blocks for group in groups for row in group]
    labels = max((len(label) for label, _ in rows), default=0)
    columns = list(range(len(sheet.heads[0])))
    means = [max(len(entries[c].mean) for _, entries in rows) for c in columns]
    widths = [max(len(sheet.heads[-1][c]), *(len(_text_entry(entries[c], means[c])) for _, entries in rows)) for c in columns]
    spans = sheet.spans
    for text, first, count in itertools.chain(*spans[:-1]):  # a long head widens the last column under it
        widths[first + count - 1] += max(0, len(text) + 4 * (count > 1) - _span_width(widths, first, count))
    lines = [sheet.title, ""]
    for level, of_level in enumerate(spans):
        cells = []
        for text, first, count in of_level:
            width = _span_width(widths, first, count)
            cells.append(text.ljust(width) if level == len(spans) - 1 or count == 1 else f" {text} ".center(width, "-"))
        lines.append("  ".join([" " * labels, *cells]))
    rule = "  ".join("-" * width for width in (labels, *widths))
    for number, (title, groups) in enumerate(sheet.blocks):
        lines.append(rule)
        if title:
            lines.append(title)
            lines.append(rule)
        for place, group in enumerate(groups):
            if place:
                lines.append(rule)
            for label, entries in group:
                shown = [_text_entry(entries[c], means[c]).ljust(widths[c]) for c in columns]
                lines.append("  ".join([label.ljust(labels), *shown]))
        if number == len(sheet.blocks) - 1:
            lines.append(rule)
    if sheet.marked:
        legend = ", ".join(f"{sign} {mark}" for mark, sign in _TEXT_MARKS.items())
        lines.append(f"In each block and column: {legend}.")
    for note in sheet.notes:
        lines += textwrap.wrap(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _span_width(widths: Sequence[int], first: int, count: int) -> int:
    return sum(widths[first : first + count]) + 2 * (count - 1)


def _text_entry(entry: Entry, width: int) -> str:
    if not entry.mean:
        return ""
    spread = f"±{entry.spread}" if entry.spread else ""
    return entry.mean.rjust(width) + spread + "".join(sign for mark, sign in _TEXT_MARKS.items() if mark in entry.marks)


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(sheet: Sheet) -> str:
    """One header row a level; Markdown has neither spans nor rules, so a head stands over its first column, and an empty row
    separates groups."""
    count = len(sheet.heads[0])
    lines = [f"**{escape_markdown(sheet.title)}**", ""]
    for level, spans in enumerate(sheet.spans):
        cells = [""] * count
        for text, first, _ in spans:
            cells[first] = escape_markdown(text)
        lines.append(_markdown_row("", cells))
        if level == 0:
            lines.append("|:--" + "|--:" * count + "|")
    for number, (title, groups) in enumerate(sheet.blocks):
        if title:
            lines.append(_markdown_row(f"**{escape_markdown(title)}**", [""] * count))
        elif number:
            lines.append(_markdown_row("", [""] * count))
        for place, group in enumerate(groups):
            if place:
                lines.append(_markdown_row("", [""] * count))
            for label, entries in group:
                lines.append(_markdown_row(escape_markdown(label), [_markdown_entry(entry) for entry in entries]))
    lines.append("")
    if sheet.marked:
        lines.append("- In each block and column: **best**, *second best*, <u>best baseline</u>.")
    for note in sheet.notes:
        lines += textwrap.wrap(
            escape_markdown(note),
            WIDTH,
            initial_indent="- ",
            subsequent_indent="  ",
            break_on_hyphens=False,
            break_long_words=False,
        )
    return "\n".join(lines) + "\n"


def _markdown_row(label: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([label, *cells]) + " |"


def _markdown_entry(entry: Entry) -> str:
    text = entry.mean
    for mark, before, after in (("best", "**", "**"), ("second best", "*", "*"), ("best baseline", "<u>", "</u>")):
        if mark in entry.marks:
            text = f"{before}{text}{after}"
    return text + (f"<sub>±{entry.spread}</sub>" if entry.spread else "")


def escape_markdown(text: str) -> str:
    """``text`` so that Markdown prints it as it is, in a table too."""
    return re.sub(r"([\\`*_|<>])", r"\\\1", text)


# --- LaTeX -----------------------------------------------------------------------------------------------------------


def latex(sheet: Sheet) -> str:
    """A floating table* with its footnotes in a minipage."""
    count = len(sheet.heads[0])
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{escape_latex(sheet.title)}}}",
        f"\\begin{{tabular}}{{l{'r' * count}}}",
        "\\toprule",
    ]
    spans = sheet.spans
    for level, of_level in enumerate(spans):
        cells = [
            escape_latex(text) if columns == 1 else f"\\multicolumn{{{columns}}}{{c}}{{{escape_latex(text)}}}"
            for text, _, columns in of_level
        ]
        lines.append(" & ".join(["", *cells]) + " \\\\")
        if level < len(spans) - 1:
            lines.append(" ".join(f"\\cmidrule(lr){{{first + 2}-{first + columns + 1}}}" for _, first, columns in of_level))
    for title, groups in sheet.blocks:
        if title:
            lines += ["\\midrule", f"\\multicolumn{{{count + 1}}}{{l}}{{\\textit{{{escape_latex(title)}}}}} \\\\"]
        for group in groups:
            lines.append("\\midrule")
            for label, entries in group:
                lines.append(" & ".join([escape_latex(label), *(_latex_entry(entry) for entry in entries)]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    notes = [escape_latex(note) for note in sheet.notes]
    if sheet.marked:
        notes.insert(0, "In each block and column: \\textbf{best}, \\textit{second best}, \\underline{best baseline}.")
    lines += ["", "\\smallskip", "\\begin{minipage}{\\linewidth}", "\\footnotesize"]
    for note in notes:
        lines += [*textwrap.wrap(note, WIDTH, break_on_hyphens=False, break_long_words=False), ""]
    return "\n".join([*lines[:-1], "\\end{minipage}", "\\end{table*}"]) + "\n"


def _latex_entry(entry: Entry) -> str:
    text = entry.mean
    for mark, command in (("best", "textbf"), ("second best", "textit"), ("best baseline", "underline")):
        if mark in entry.marks:
            text = f"\\{command}{{{text}}}"
    return text + (f"$_{{\\pm {entry.spread}}}$" if entry.spread else "")


_LATEX = {sign: f"\\{sign}" for sign in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "<": "$<$",
    ">": "$>$",
}


def escape_latex(text: str) -> str:
    """``text`` so that LaTeX prints it as it is."""
    return "".join(_LATEX.get(sign, sign) for sign in text).replace("--", "-{}-")
