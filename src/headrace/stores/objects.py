"""Object storage: what its client is told, files in it for Arrow, and its errors in words.

Delta tables and Parquet sources use one client, that of delta-rs, so that there is one set of options and credentials.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from headrace.core.errors import ConfigError, StoreError, Unreachable

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_OPTIONS: Final = {
    "endpoint_url": "aws_endpoint",
    "region": "aws_region",
    "access_key_id": "aws_access_key_id",
    "secret_access_key": "aws_secret_access_key",
    "session_token": "aws_session_token",
    "virtual_hosted_style": "aws_virtual_hosted_style_request",
    "allow_http": "allow_http",
    "connect_timeout": "connect_timeout",
    "timeout": "timeout",
    "max_retries": "max_retries",
    "retry_timeout": "retry_timeout",
}
_ALWAYS: Final = {
    # A commit is a file that must not exist yet: whoever puts it second is refused by the server.
    "aws_conditional_put": "etag",
    "retry_timeout": "30s",
    "max_retries": "5",
}
_NOISE: Final = re.compile(r"\x1b\[[0-9;]*m|↳")
_STATUS: Final = re.compile(r"status code\s+(?:\S\s+)?([1-5]\d\d)(?: ([A-Z][A-Za-z ]+))?")
_FRAME: Final = re.compile(r"^(\d+: |at \./)")
_FULL: Final = re.compile(r"No space left|File too large|quota exceeded|os error (27|28|122)", re.IGNORECASE)
_DAMAGED: Final = re.compile(
    r"corrupted|Parquet input source|Json error|No such file|found gap|truncated", re.IGNORECASE
)
_SERVER: Final = re.compile(r"(https?://)(?:[^/@\s]*@)?([^/\s]+)")
_CODE: Final = re.compile(r"<Code>([^<]*)</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]*)</Message>")


def s3_options(given: Mapping[str, str]) -> dict[str, str]:
    """What delta-rs is told about S3: `[s3]` of headrace.toml; what that leaves out comes from AWS_* variables.

    Raises ConfigError naming a key that is not known.
    """
    for key in given:
        if key not in _OPTIONS:
            raise ConfigError(f'unknown key "{key}" in [s3]; known are {", ".join(_OPTIONS)}')
    options = _ALWAYS | {_OPTIONS[key]: value for key, value in given.items()}
    if given.get("endpoint_url", "").startswith("http://") and "allow_http" not in given:
        raise ConfigError(
            f'[s3] endpoint_url = "{given["endpoint_url"]}" is not encrypted; write https://, or allow_http = true'
        )
    return options


def object_files(root: str, options: Mapping[str, str] | None) -> FileSystem:
    """The objects below a URI as Arrow's files, with paths relative to it."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import PyFileSystem

    return PyFileSystem(DeltaStorageHandler(root, None if options is None else dict(options)))


def failure(what: str, error: Exception) -> StoreError:
    """What went wrong, in one line without keys and signatures: Unreachable if it may work later, else StoreError."""
    text = _NOISE.sub("", str(error))
    lines = [line for found in text.splitlines() if (line := found.strip()) and not _FRAME.match(line)]
    lines = lines or [type(error).__name__]
    server = _SERVER.search(text)
    where = f"{server[1]}{server[2]}" if server else ""
    status = _STATUS.search(" ".join(lines))
    if status is not None:
        code, message = _CODE.search(text), _MESSAGE.search(text)
        said = ": ".join(found[1] for found in (code, message) if found is not None) or (status[2] or "").strip()
        kind = Unreachable if status[1][0] == "5" or status[1] in ("408", "429") else StoreError
        return kind(f"{what}: {where or 'the server'} answers {status[1]} {said}".rstrip())
    if "HTTP error" in text or "error sending request" in text:
        return Unreachable(f"{what}: {where or 'the server'} does not answer: {lines[-1]}")
    told = "; ".join(lines)[:500]
    if _FULL.search(text):
        return StoreError(f"{what}, for the disk is full ({told}): free some space and do it again")
    if _DAMAGED.search(text):
        return StoreError(
            f"{what}, for a file is damaged or gone ({told}): restore it from a backup; the logs are whole"
        )
    return StoreError(f"{what}: {told}")
