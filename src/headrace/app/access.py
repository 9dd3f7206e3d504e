"""What the HTTP service is guarded with: keys of the catalog, TLS, and where it may listen."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from headrace.core.errors import ConfigError

if TYPE_CHECKING:
    from headrace.app.settings import Settings
    from headrace.app.wiring import Parts
    from headrace.serving.tls import Tls


def is_loopback(host: str) -> bool:
    """True if only this machine can reach what listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tls_of(settings: Settings) -> Tls | None:
    """TLS as it is set; None if it is not. Raises ConfigError if it cannot be used."""
    from headrace.serving.tls import Tls

    if not (settings.tls_cert or settings.tls_key):
        return None
    if not (settings.tls_cert and settings.tls_key):
        given, other = ("tls_cert", "tls_key") if settings.tls_cert else ("tls_key", "tls_cert")
        raise ConfigError(f"{given} is set without {other}; TLS needs both")
    folder = settings.folder
    tls = Tls(folder / settings.tls_cert, folder / settings.tls_key, settings.tls_key_password)
    tls.check()
    return tls


def check_address(parts: Parts) -> None:
    """Raise ConfigError if the API would be open to other machines without a key, or if its TLS cannot be used."""
    tls_of(parts.settings)
    host = parts.settings.host
    if not is_loopback(host) and not parts.catalog.keys.generation():
        raise ConfigError(
            f"host = {host} is open to other machines, and no key was ever made: whoever reaches it could read and "
            "publish anything. Make one with: headrace keys make NAME --scope publish --scope score (or listen on "
            "127.0.0.1)"
        )
