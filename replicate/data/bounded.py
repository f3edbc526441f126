"""Reading files that come from elsewhere, whole and no further than they can be right."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from replicate.errors import BadInput

#: What the system says of a file or folder whose permissions are in the way.
DENIED: Final = frozenset({errno.EACCES, errno.EPERM})


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
        raise unreadable(f"file {str(path)!r}", error) from None


def unreadable(what: str, error: OSError) -> BadInput:
    """What to say of a file or folder that the system does not let this process read."""
    remedy = "mend its permissions" if error.errno in DENIED else "mend that and run this again"
    return BadInput(f"{what} cannot be read ({error.strerror or error}); {remedy}")
