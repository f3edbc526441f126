"""Reading printed tables back, and the committed ones: what several test files need to know of their layout."""

import re
from pathlib import Path

import pytest

from replicate.record import Store
from replicate.report import tables


def committed(paper):
    """Folder of the paper's committed tables and Records; skips where there is none."""
    folder = Path(__file__).parent.parent / "results" / paper.name
    if not folder.is_dir():
        pytest.skip("needs the results folder of a checkout")
    return folder


def assert_committed(paper, table, columns, source="digits", edition="official", name="digits", variant=None):
    """The committed files of a table are what its committed Records give, in every format; returns the values."""
    folder = committed(paper)
    how = {"selection": "as-published", "edition_of": {source: edition}, "columns": columns, "variant": variant}
    values = tables.replicas(Store(folder), paper, table, **how)
    for form, suffix in (("text", "txt"), ("markdown", "md"), ("csv", "csv"), ("latex", "tex")):
        written = (folder / f"table{table.number}.{name}.{suffix}").read_text(encoding="utf-8")
        assert tables.render(paper, table, values, form, **how) == written
    return values


def layout(text, labels):
    """Of a table as text, whose first ``labels`` columns are row labels: the lines of its body, rules included, the span of
    every column as the rules of dashes mark it out, and the path of heads over each column that is no label."""
    lines = text.splitlines()
    rules = [i for i, line in enumerate(lines) if re.fullmatch(r"-+(  -+)*", line)]
    spans = [match.span() for match in re.finditer("-+", lines[rules[0]])]

    def level(line):
        """The head over each column: one in dashes covers all its columns."""
        wide = {
            span: m[1]
            for m in re.finditer(r"-+ (\S+(?: \S+)*) -+", line)
            for span in spans
            if m.start() <= span[0] and span[1] <= m.end()
        }
        return [wide.get(span, line[slice(*span)].strip()) for span in spans[labels:]]

    paths = ["/".join(filter(None, levels)) for levels in zip(*map(level, lines[2 : rules[0]]), strict=True)]
    return lines[rules[0] : rules[-1]], spans, paths
