"""The one exception that is the user's to mend."""

from __future__ import annotations


class BadInput(Exception):
    """Something given from outside cannot be used.

    The message is one line: it names the value, what is allowed, and what to do next. The command line prints it and
    exits with 2.
    """
