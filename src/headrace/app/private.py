"""The state folder is its owner's: it holds events, features and predictions as they are."""

from __future__ import annotations

from pathlib import Path

_OWNER = 0o700


def private_folder(folder: Path) -> Path:
    """The folder; it and what is missing above it are made so that no other user of the machine can look in.

    A folder that is there stays as it is: who opened it to a group has a reason.
    """
    for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
        missing.mkdir(mode=_OWNER, exist_ok=True)
    return folder


def others_can_read(folder: Path) -> bool:
    """True if users of the machine beside the owner and the group can look into the folder."""
    return bool(folder.stat().st_mode & 0o005)
