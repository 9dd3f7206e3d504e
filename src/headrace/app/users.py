"""Who does what: the user of this process, for the records of the catalog."""

from __future__ import annotations

import getpass


def os_user() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
