"""How a table looks: one :class:`Sheet`, as text, as Markdown or as LaTeX with booktabs."""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

WIDTH = 110  # of wrapped footnotes

MARKS = ("best", "second best", "best baseline")
_TEXT_MARKS = dict(zip(MARKS, "*+^", strict=True))


@dataclass(frozen=True)
class Entry:
    """A number ready for print: mean (or best) and spread as text, empty where there is none, times ten to the ``power`` where
    there is one, and its marks of :data:`MARKS`.

    ``quoted``: it is not ours, and stands in square brackets. ``gain`` over another number, and ``ours``, this project's own
    number beside a quoted one, follow it as text. ``key`` says which number of its table it is."""

    mean: str = ""
    spread: str = ""
    power: int | None = None
    marks: frozenset[str] = frozenset()
    quoted: bool = False
    gain: str = ""
    ours: str = ""
    key: tuple[str, str, str, str] = ("", "", "", "")

    @property
    def brackets(self) -> tuple[str, str]:
        """What stands before and after the number."""
        return ("[", "]") if self.quoted and self.mean else ("", "")

    def followed(self, number: str, gain: str) -> str:
        """The ``number`` as a format writes it, and what follows it, with the gain as the format writes that."""
        return " ".join(filter(None, (number, gain and f"({gain})", self.ours and f"ours {self.ours}")))


@dataclass(frozen=True)
class Sheet:
    """Heads [level][column], and blocks of groups of rows (labels, entries), in print order; notes: paragraphs under it.

    Every row has equally many labels. ``ranked`` says among which numbers marks are given, empty where there is none."""

    title: str
    heads: Sequence[Sequence[str]]
    blocks: Sequence[tuple[str, Sequence[Sequence[tuple[Sequence[str], Sequence[Entry]]]]]]
    notes: Sequence[str]
    ranked: str

    @property
    def label_widths(self) -> list[int]:
        """Characters of each column of labels; there is at least one."""
        labels = [labels for _, groups in self.blocks for group in groups for labels, _ in group]
        return [max(map(len, column)) for column in zip(*labels, strict=True)] or [0]

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
    labels = sheet.label_widths
    columns = list(range(len(sheet.heads[0])))
    means = [max(len(entries[c].mean) + entries[c].quoted for _, entries in rows) for c in columns]
    numbers = [max(len(_text_number(entries[c], means[c])) for _, entries in rows) for c in columns]
    widths = [
        max(len(sheet.heads[-1][c]), *(len(_text_entry(entries[c], means[c], numbers[c])) for _, entries in rows))
        for c in columns
    ]
    spans = sheet.spans
    for text, first, count in itertools.chain(*spans[:-1]):  # a long head widens the last column under it
        widths[first + count - 1] += max(0, len(text) + 4 * (count > 1) - _span_width(widths, first, count))
    lines = [sheet.title, ""]
    for level, of_level in enumerate(spans):
        cells = []
        for text, first, count in of_level:
            width = _span_width(widths, first, count)
            cells.append(text.ljust(width) if level == len(spans) - 1 or count == 1 else f" {text} ".center(width, "-"))
        lines.append("  ".join([*(" " * width for width in labels), *cells]))
    rule = "  ".join("-" * width for width in (*labels, *widths))
    for number, (title, groups) in enumerate(sheet.blocks):
        lines.append(rule)
        if title:
            lines.append(title)
            lines.append(rule)
        for place, group in enumerate(groups):
            if place:
                lines.append(rule)
            for names, entries in group:
                named = [name.ljust(width) for name, width in zip(names, labels, strict=True)]
                shown = [_text_entry(entries[c], means[c], numbers[c]).ljust(widths[c]) for c in columns]
                lines.append("  ".join([*named, *shown]))
        if number == len(sheet.blocks) - 1:
            lines.append(rule)
    if sheet.ranked:
        legend = ", ".join(f"{sign} {mark}" for mark, sign in _TEXT_MARKS.items())
        lines.append(f"{sheet.ranked}: {legend}.")
    for note in sheet.notes:
        lines += wrapped(note)
    return "\n".join(line.rstrip() for line in lines) + "\n"


def wrapped(text: str, markdown: bool = False) -> list[str]:
    """A sentence under a table as lines of print; an item of a list in Markdown."""
    text = escape_markdown(text) if markdown else text
    first = "- " if markdown else ""
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent="  ", break_on_hyphens=False)


def signed(points: float, digits: int = 2) -> str:
    """A difference for print, never minus nothing."""
    return f"{round(points, digits) + 0.0:+.{digits}f}"  # adding 0 makes a minus before zero a plus


def _span_width(widths: Sequence[int], first: int, count: int) -> int:
    return sum(widths[first : first + count]) + 2 * (count - 1)


def _text_number(entry: Entry, width: int) -> str:
    if not entry.mean:
        return ""
    marks = "".join(sign for mark, sign in _TEXT_MARKS.items() if mark in entry.marks)
    return plain(entry, width) + marks


def _text_entry(entry: Entry, mean: int, number: int) -> str:
    """Gains stand in a column of their own; ``mean`` and ``number`` are the widths of what stands before them."""
    told = _text_number(entry, mean)
    return entry.followed(told.ljust(number) if entry.gain else told, entry.gain)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(entry: Entry, width: int = 0) -> str:
    """A number without its marks and what follows it, such as ``71.5±0.4``, ``1.28×10²`` or ``6.51±0.33 ×10²``; the mean
    right-aligned."""
    spread = f"±{entry.spread}" if entry.spread else ""
    before, after = entry.brackets
    return (before + entry.mean).rjust(width) + spread + _power(entry) + after


def _power(entry: Entry) -> str:
    if entry.power is None:
        return ""
    return f"{' ' if entry.spread else ''}×10{str(entry.power).translate(_RAISED)}"


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(sheet: Sheet) -> str:
    """One header row a level; Markdown has neither spans nor rules, so a head stands over its first column, and an empty row
    separates groups. Columns are aligned in the source too."""
    count, labels = len(sheet.heads[0]), len(sheet.label_widths)
    rows: list[list[str]] = []
    for spans in sheet.spans:
        cells = [""] * count
        for text, first, _ in spans:
            cells[first] = escape_markdown(text)
        rows.append([""] * labels + cells)
    empty = [""] * (labels + count)
    for number, (title, groups) in enumerate(sheet.blocks):
        if title:
            rows.append([f"**{escape_markdown(title)}**", *empty[1:]])
        elif number:
            rows.append(empty)
        for place, group in enumerate(groups):
            if place:
                rows.append(empty)
            rows += [[*map(escape_markdown, names), *map(_markdown_entry, entries)] for names, entries in group]
    lines = [f"**{escape_markdown(sheet.title)}**", "", *markdown_table(rows, labels), ""]
    if sheet.ranked:
        lines.append(f"- {sheet.ranked}: **best**, *second best*, <u>best baseline</u>.")
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


def markdown_table(rows: Sequence[Sequence[str]], left: int) -> Iterator[str]:
    """The lines of a table whose first row is its head, pipes below each other. Cells are Markdown; the first ``left`` columns
    are aligned left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = [f":{'-' * (width + 1)}" if c < left else f"{'-' * (width + 1)}:" for c, width in enumerate(widths)]
    for number, row in enumerate(rows):
        padded = [cell.ljust(widths[c]) if c < left else cell.rjust(widths[c]) for c, cell in enumerate(row)]
        yield f"| {' | '.join(padded)} |"
        if number == 0:
            yield f"|{'|'.join(rules)}|"


def _markdown_entry(entry: Entry) -> str:
    text = entry.mean
    for mark, before, after in (("best", "**", "**"), ("second best", "*", "*"), ("best baseline", "<u>", "</u>")):
        if mark in entry.marks:
            text = f"{before}{text}{after}"
    before, after = entry.brackets
    spread = f"<sub>±{entry.spread}</sub>" if entry.spread else ""
    return entry.followed(before + text + spread + _power(entry) + after, entry.gain)


def escape_markdown(text: str) -> str:
    """``text`` so that Markdown prints it as it is, in a table too."""
    return re.sub(r"([\\`*_|<>])", r"\\\1", text)


# --- LaTeX -----------------------------------------------------------------------------------------------------------


def latex(sheet: Sheet) -> str:
    """A floating table* with its footnotes in a minipage."""
    count, labels = len(sheet.heads[0]), len(sheet.label_widths)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}",
        "\\centering",
        f"\\caption{{{escape_latex(sheet.title)}}}",
        f"\\begin{{tabular}}{{{'l' * labels}{'r' * count}}}",
        "\\toprule",
    ]
    spans = sheet.spans
    for level, of_level in enumerate(spans):
        cells = [
            escape_latex(text) if columns == 1 else f"\\multicolumn{{{columns}}}{{c}}{{{escape_latex(text)}}}"
            for text, _, columns in of_level
        ]
        lines.append(_latex_row([*([""] * labels), *cells]))
        if level < len(spans) - 1:
            rules = ((first + labels + 1, first + labels + columns) for _, first, columns in of_level)
            lines.append(" ".join(f"\\cmidrule(lr){{{first}-{last}}}" for first, last in rules))
    for title, groups in sheet.blocks:
        if title:
            lines += ["\\midrule", f"\\multicolumn{{{labels + count}}}{{l}}{{\\textit{{{escape_latex(title)}}}}} \\\\"]
        for group in groups:
            lines.append("\\midrule")
            for names, entries in group:
                lines.append(_latex_row([*map(escape_latex, names), *map(_latex_entry, entries)]))
    lines += ["\\bottomrule", "\\end{tabular}"]
    notes = [escape_latex(note) for note in sheet.notes]
    if sheet.ranked:
        notes.insert(0, f"{sheet.ranked}: \\textbf{{best}}, \\textit{{second best}}, \\underline{{best baseline}}.")
    lines += ["", "\\smallskip", "\\begin{minipage}{\\linewidth}", "\\footnotesize"]
    for note in notes:
        lines += [*textwrap.wrap(note, WIDTH, break_on_hyphens=False, break_long_words=False), ""]
    return "\n".join([*lines[:-1], "\\end{minipage}", "\\end{table*}"]) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    """Of a row that began with a bracket or a star, what ends or rules off the row before would take that for its own."""
    row = " & ".join(cells) + " \\\\"
    return "{}" + row if row.startswith(("[", "*")) else row


def _latex_entry(entry: Entry) -> str:
    text = entry.mean
    for mark, command in (("best", "textbf"), ("second best", "textit"), ("best baseline", "underline")):
        if mark in entry.marks:
            text = f"\\{command}{{{text}}}"
    rest = f"_{{\\pm {entry.spread}}}" if entry.spread else ""
    if entry.power is not None:
        rest += f"\\times10^{{{entry.power}}}"
    if entry.power is not None and not entry.marks:  # a mark is set in text, a bare mantissa with its power
        text, rest = f"${text}{rest}$", ""
    before, after = entry.brackets
    number = before + text + (f"${rest}$" if rest else "") + after
    return entry.followed(number, entry.gain and f"${entry.gain}$")


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
