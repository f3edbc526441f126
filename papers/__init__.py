"""One module per paper. A module states the paper's protocol in the words of :mod:`replicate.protocol` and nothing else.

To add a paper, add its module's name to ``PAPERS`` (see CONTRIBUTING.md).
"""

PAPERS = ("unified_bound", "wb", "lort")
