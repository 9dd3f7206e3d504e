"""TLS of the service: certificate and key from files."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError

# Of TLS 1.2 only what has forward secrecy and is authenticated; the suites of TLS 1.3 all are.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


@dataclass(frozen=True, slots=True)
class Tls:
    """A certificate (PEM, with what it hangs on), its private key (PEM), and the key's password if it has one."""

    cert: Path
    key: Path
    password: str = field(default="", repr=False)

    def check(self) -> None:
        """Raise ConfigError if files are missing, do not fit each other or cannot be decrypted."""
        for what, path in (("tls_cert", self.cert), ("tls_key", self.key)):
            if not path.is_file():
                raise ConfigError(f"{what} = {path}: there is no such file")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key, lambda: self.password)
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error.__class__.__name__
            raise ConfigError(
                f"certificate {self.cert} and key {self.key} cannot be used ({reason}): both must be PEM and belong to "
                "each other, and an encrypted key needs tls_key_password"
            ) from None

    def options(self) -> dict[str, Any]:
        """The same for uvicorn; TLS 1.2 is the least that is spoken."""
        return {
            "ssl_certfile": str(self.cert),
            "ssl_keyfile": str(self.key),
            "ssl_keyfile_password": self.password or None,
            "ssl_ciphers": _CIPHERS,
        }
