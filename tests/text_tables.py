"""Reading printed tables back: what several test files need to know of their layout."""

import re


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
