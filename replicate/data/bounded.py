"""Reading files that come from elsewhere, whole and no further than they can be right."""

from __future__ import annotations

from pathlib import Path

from replicate.errors import BadInput


def read(path: Path, largest: int, remedy: str) -> bytes:
    """The bytes of the file at ``path``, but no more than ``largest`` + 1, so that a file that is too large can be told.

    Raises ``BadInput`` if it is missing or no regular file, with ``remedy``, or if it cannot be read.
    """
    try:
        if not path.is_file():
            raise BadInput(f"file {str(path)!r} is {'not a file' if path.exists() else 'missing'}; {remedy}")
        with open(path, "rb") as file:
            return file.read(largest + 1)
    except OSError as error:
        raise BadInput(f"file {str(path)!r} cannot be read ({error.strerror}); mend its permissions") from None
