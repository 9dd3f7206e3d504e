"""Settings: read once, at the edge, into one frozen object.

Keyword arguments win over HEADRACE_* variables, then `[env.<name>]` of headrace.toml, then its top level, then
defaults. Unknown keys are errors. Definitions hold no address: they are all here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.core.errors import ConfigError

FILE = "headrace.toml"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_KINDS: dict[str, type] = {"sync": bool, "port": int, "partitions": int, "horizon_s": int, "history_mb": int}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where a project's parts are.

    Attributes:
        folder: the project: holds headrace.toml (if any) and the definitions.
        env: name of the environment; environments share definitions, not state.
        state: folder of the embedded parts.
        log, online, offline, catalog, models: part addresses, a URL or "embedded".
        kafka: options of the Kafka client (`security.protocol`, `sasl.*`, `ssl.*`, …) beside those of the URL.
        host, port: where the HTTP API listens.
        sync: event appends survive power loss before they return.
        partitions: partitions of a newly made raw topic.
        horizon_s: as-of horizon of the online store in seconds.
        history_mb: MiB that history takes for one stream or table; a larger archive is cut by key into parts on disk.
        owner: owner of whatever names none.
        sources: addresses of the sources that tables name with `on=`, and of the tables that queries read.
    """

    folder: Path
    env: str = "default"
    state: Path = Path(".headrace")
    log: str = field(default="embedded", repr=False)
    online: str = "embedded"
    offline: str = "embedded"
    catalog: str = "embedded"
    models: str = "embedded"
    host: str = "127.0.0.1"
    port: int = 8321
    sync: bool = True
    partitions: int = 1
    horizon_s: int = 600
    history_mb: int = 4096
    owner: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)


_PARTS = ("log", "online", "offline", "catalog", "models")
_SCHEMES: dict[str, tuple[str, ...]] = {"log": ("kafka",)}
"""Parts that need not be embedded, and the schemes of their URLs."""
_PLAIN = (*_PARTS, "host", "port", "sync", "partitions", "horizon_s", "history_mb", "owner", "state")


def find_folder(start: Path | None = None) -> Path:
    """The project: `start` or the nearest folder above it with headrace.toml, else `start` itself."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FILE).is_file():
            return folder
    return here


def load_settings(
    folder: str | Path | None = None, *, env: str | None = None, environ: Mapping[str, str] | None = None, **given: Any
) -> Settings:
    """Read the settings of a project; raises ConfigError naming the key and every place that was looked at."""
    environ = os.environ if environ is None else environ
    home = find_folder(Path(folder) if folder is not None else None)
    name = env or environ.get("HEADRACE_ENV") or "default"
    file = home / FILE
    raw = _read(file) if file.is_file() else {}
    project = raw.pop("project", {})
    envs = raw.pop("env", {})
    sources = dict(raw.pop("sources", {}))
    if name != "default" and name not in envs and not (environ.get("HEADRACE_ENV") == name or env == name):
        raise ConfigError(f"no [env.{name}] in {file}; it has {', '.join(sorted(envs)) or 'none'}")
    chosen = dict(envs.get(name, {}))
    sources |= chosen.pop("sources", {})
    kafka = {**dict(_flat(raw.pop("kafka", {}))), **dict(_flat(chosen.pop("kafka", {})))}
    merged: dict[str, Any] = {}
    for where, values in ((f"[project] of {file}", project), (str(file), raw), (f"[env.{name}] of {file}", chosen)):
        for key, value in values.items():
            if key not in _PLAIN:
                raise ConfigError(f'unknown key "{key}" in {where}; known are {", ".join(_PLAIN)}')
            merged[key] = value
    for key in _PLAIN:
        value = environ.get(f"HEADRACE_{key.upper()}")
        if value is not None:
            merged[key] = value
    for key, value in given.items():
        if key not in _PLAIN and key != "sources":
            raise ConfigError(f'unknown setting "{key}"; known are {", ".join((*_PLAIN, "sources"))}')
        if value is not None:
            merged[key] = value
    sources |= merged.pop("sources", {})
    default = home / ".headrace" / ("" if name == "default" else name)
    merged["state"] = Path(merged["state"]) if "state" in merged else default
    if not merged["state"].is_absolute():
        merged["state"] = home / merged["state"]
    merged = {key: _typed(key, _expanded(value, environ)) for key, value in merged.items()}
    for key in _PARTS:
        _check_address(key, str(merged.get(key, "embedded")))
    sources = {key: str(_expanded(value, environ)) for key, value in sources.items()}
    kafka = {key: str(_expanded(value, environ)) for key, value in kafka.items()}
    return Settings(folder=home, env=name, sources=sources, kafka=kafka, **merged)


def _check_address(part: str, address: str) -> None:
    """Raise ConfigError unless an adapter of this part has the scheme of this address; the rest of it stays untold."""
    scheme = address.split("://")[0] if "://" in address else ""
    schemes = _SCHEMES.get(part, ())
    if address != "embedded" and scheme not in schemes:
        known = " or ".join(['"embedded"', *[f'"{name}://..."' for name in schemes]])
        raise ConfigError(f"{part} is given a {scheme or 'strange'} address: this version knows {known}")


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of a table of options; TOML reads `sasl.mechanism = ...` as a table in a table."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value).lower() if isinstance(value, bool) else value


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML: {error}") from None


def _expanded(value: Any, environ: Mapping[str, str]) -> Any:
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ConfigError(f'"{value}" needs the environment variable {match[1]}, which is not set')
        return environ[match[1]]

    return _VARIABLE.sub(replace, value)


def _typed(key: str, value: Any) -> Any:
    kind = _KINDS.get(key)
    if kind is None or isinstance(value, kind):
        return value
    if kind is bool and str(value).lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        return str(value).lower() in ("1", "true", "yes", "on")
    try:
        return kind(value) if kind is not bool else _no_bool(key, value)
    except ValueError:
        raise ConfigError(f'{key} = "{value}" is no {kind.__name__}') from None


def _no_bool(key: str, value: Any) -> bool:
    raise ConfigError(f'{key} = "{value}" is neither true nor false')
