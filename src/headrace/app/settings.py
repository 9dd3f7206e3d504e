"""Settings: read once, at the edge, into one frozen object.

Keyword arguments win over HEADRACE_* variables, then `[env.<name>]` of headrace.toml, then its top level, then
defaults. Unknown keys are errors. Definitions hold no address and do not say when something runs that streams: that is
all here.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace.app.refresh import Refresh, refreshes
from headrace.core.addresses import shown
from headrace.core.errors import ConfigError
from headrace.core.time import US_PER_DAY, parse_duration
from headrace.ingestion.kafka_source import KafkaSource
from headrace.ingestion.kinesis import KinesisSource

FILE = "headrace.toml"
FOREVER = "forever"
RETENTION = "7d"
STREAM = "stream"
"""How a group runs of which nothing else is said."""
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ENV = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_KINDS: dict[str, type] = {
    "sync": bool,
    **dict.fromkeys(
        (
            "port",
            "partitions",
            "horizon_s",
            "history_mb",
            "writes_per_s",
            "reconcile_s",
            "compute_workers",
            "ingest_workers",
            "lease_s",
        ),
        int,
    ),
}


@dataclass(frozen=True, slots=True, repr=False)
class Settings:
    """Where a project's parts are.

    Attributes:
        folder: the project: holds headrace.toml (if any) and the definitions.
        env: name of the environment; environments share definitions, not state.
        state: folder of the embedded parts.
        log, online, offline, catalog, models, batch, stream, scheduler: part addresses, a URL or "embedded".
        host, port: where the HTTP API listens; other addresses than this machine's own need a key to be made first.
        tls_cert, tls_key, tls_key_password: PEM files with which the HTTP API speaks TLS, relative to the folder.
        sync: event appends survive power loss before they return.
        partitions: partitions of a newly made raw topic.
        horizon_s: as-of horizon of the online store in seconds.
        history_mb: MiB that history takes for one stream or table; a larger archive is cut by key into parts on disk.
        retention: how long raw topics keep events that are archived, "7d" by default; "forever" drops nothing.
        writes_per_s: most records that are written to the online store per second; 0: as many as can be.
        reconcile_s: seconds between two looks whether online and offline agree; 0: none.
        compute_workers: more than 1: processes of the compute layer share the partitions out, and `up` starts so many.
        ingest_workers: more than 1: one process of ingestion writes the online store, another one the archive, and the
            others stand by for both.
        lease_s: after how many seconds without a sign of life what a worker had goes to others.
        owner: owner of whatever names none.
        sources: addresses of the sources that tables name with `on=`, and of the tables that queries read.
        s3: how object storage is reached: endpoint_url, region, access_key_id and so on; what is left out comes from
            AWS_* variables.
        kafka: options of the Kafka client (`security.protocol`, `sasl.*`, `ssl.*`, …) beside those of the URL.
        topics: what the topics of streams are called in Kafka, where not by the project's prefix and the stream's name.
        copied: where the layer `copy` copies events from into raw topics, by stream.
        groups: by group how it runs, where that was said: "stream", or a schedule such as "1h" or "@daily".
        refresh: by table which of its entities are active, and how often their rows are refreshed.
    """

    folder: Path
    env: str = "default"
    state: Path = Path(".headrace")
    log: str = "embedded"
    online: str = "embedded"
    offline: str = "embedded"
    catalog: str = "embedded"
    models: str = "embedded"
    batch: str = "embedded"
    stream: str = "embedded"
    scheduler: str = "embedded"
    host: str = "127.0.0.1"
    port: int = 8321
    tls_cert: str = ""
    tls_key: str = ""
    tls_key_password: str = field(default="", repr=False)
    sync: bool = True
    partitions: int = 1
    horizon_s: int = 600
    history_mb: int = 4096
    retention: str = RETENTION
    writes_per_s: int = 0
    reconcile_s: int = 600
    compute_workers: int = 1
    ingest_workers: int = 1
    lease_s: int = 10
    owner: str = ""
    sources: Mapping[str, str] = field(default_factory=dict)
    s3: Mapping[str, str] = field(default_factory=dict)
    kafka: Mapping[str, str] = field(default_factory=dict)
    topics: Mapping[str, str] = field(default_factory=dict)
    copied: Mapping[str, KafkaSource | KinesisSource] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    refresh: Mapping[str, Refresh] = field(default_factory=dict)

    def __repr__(self) -> str:
        # Addresses and options may hold passwords.
        return f"Settings(folder={str(self.folder)!r}, env={self.env!r}, state={str(self.state)!r})"


SCHEMES: Mapping[str, tuple[str, ...]] = {
    "log": ("kafka",),
    "online": ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
    "offline": ("s3",),
    "catalog": ("postgresql", "postgres"),
    "models": (),
    "batch": (),
    "stream": (),
    "scheduler": (),
}
"""The parts, and the schemes of the addresses that each takes beside "embedded"."""
_TLS = ("tls_cert", "tls_key", "tls_key_password")
_PLAIN = (
    *SCHEMES, "host", "port", *_TLS, "sync", "partitions", "horizon_s", "history_mb", "retention", "writes_per_s",
    "reconcile_s", "compute_workers", "ingest_workers", "lease_s", "owner", "state",
)  # fmt: skip


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
    if _ENV.fullmatch(name) is None:
        raise ConfigError(f'environment "{name}": its state has a folder of that name; write letters, digits, - and _')
    file = home / FILE
    raw = _read(file) if file.is_file() else {}
    project = raw.pop("project", {})
    envs = raw.pop("env", {})
    sources, s3 = dict(raw.pop("sources", {})), dict(raw.pop("s3", {}))
    groups = _runs(raw.pop("groups", {}), f"[groups] of {file}")
    if name != "default" and name not in envs and envs:
        raise ConfigError(f"no [env.{name}] in {file}; it has {', '.join(sorted(envs)) or 'none'}")
    chosen = dict(envs.get(name, {}))
    sources |= chosen.pop("sources", {})
    s3 |= chosen.pop("s3", {})
    kafka = {**dict(_flat(raw.pop("kafka", {}))), **dict(_flat(chosen.pop("kafka", {})))}
    streams = {**_streams(raw.pop("streams", {}), file, environ), **_streams(chosen.pop("streams", {}), file, environ)}
    topics = {name: found for name, found in streams.items() if isinstance(found, str)}
    copied = {name: found for name, found in streams.items() if not isinstance(found, str)}
    refresh = refreshes({**raw.pop("refresh", {}), **chosen.pop("refresh", {})}, str(file))
    groups |= _runs(chosen.pop("groups", {}), f"[env.{name}.groups] of {file}")
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
        if key not in (*_PLAIN, "sources", "s3", "groups"):
            raise ConfigError(f'unknown setting "{key}"; known are {", ".join((*_PLAIN, "sources", "s3", "groups"))}')
        if value is not None:
            merged[key] = value
    sources |= merged.pop("sources", {})
    s3 |= merged.pop("s3", {})
    groups |= _runs(merged.pop("groups", {}), "the given groups")
    default = home / ".headrace" / ("" if name == "default" else name)
    merged["state"] = Path(merged["state"]) if "state" in merged else default
    if not merged["state"].is_absolute():
        merged["state"] = home / merged["state"]
    merged = {key: _typed(key, _expanded(value, environ)) for key, value in merged.items()}
    retention_us(merged.get("retention", RETENTION))
    for key in ("compute_workers", "ingest_workers", "lease_s"):
        if merged.get(key, 1) < 1:
            raise ConfigError(f"{key} = {merged[key]}: give it at least 1")
    for part, schemes in SCHEMES.items():
        _check_address(part, merged.get(part, "embedded"), schemes)
    sources = {key: str(_expanded(value, environ)) for key, value in sources.items()}
    s3, kafka = ({key: str(_expanded(value, environ)) for key, value in _flat(options)} for options in (s3, kafka))
    if topics and merged.get("log", "embedded") == "embedded":
        raise ConfigError(f'streams.{min(topics)} of {file} names a topic of Kafka: give log = "kafka://..." as well')
    return Settings(
        folder=home, env=name, sources=sources, s3=s3, kafka=kafka, topics=topics, copied=copied, groups=groups,
        refresh=refresh, **merged,
    )  # fmt: skip


def _streams(given: Any, file: Path, environ: Mapping[str, str]) -> dict[str, str | KafkaSource | KinesisSource]:
    """Where events of streams are: their topic's name in Kafka, or what they are copied from."""
    found: dict[str, str | KafkaSource | KinesisSource] = {}
    for name, told in given.items() if isinstance(given, Mapping) else [("", given)]:
        where = f"streams.{name or '?'} of {file}"
        texts = isinstance(told, Mapping) and all(isinstance(item, str) and item for item in told.values())
        if name and texts and set(told) == {"topic"}:
            found[name] = told["topic"]
        elif name and texts and "kinesis" in told and set(told) <= {"kinesis", "region", "endpoint"}:
            stream, region, endpoint = (_expanded(told.get(k, ""), environ) for k in ("kinesis", "region", "endpoint"))
            kinesis = found[name] = KinesisSource(stream, region, endpoint)
            kinesis.check(where)
        elif name and texts and set(told) == {"kafka"}:
            kafka = found[name] = KafkaSource(_expanded(told["kafka"], environ))
            kafka.check(where)
        elif isinstance(told, Mapping) and "fields" in told:
            raise ConfigError(
                f"{where}: fields of events are renamed where they are declared, for all environments: "
                'hr.field(alias="amt")'
            )
        elif isinstance(told, Mapping) and "history" in told:
            raise ConfigError(
                f"{where}: events of the past are published like others, in any order: headrace publish {name} FILE"
            )
        else:
            raise ConfigError(
                f'{where} cannot be used; write streams.NAME = {{ topic = "..." }}, or to copy it from '
                'elsewhere { kafka = "kafka://host:9092/TOPIC" } or { kinesis = "STREAM or ARN", region = "...", '
                'endpoint = "..." }'
            )
    return found


def retention_us(setting: str) -> int | None:
    """The setting in µs; None if nothing is dropped. Raises ConfigError if it is no duration of a day or more."""
    if setting == FOREVER:
        return None
    try:
        found = parse_duration(setting)
    except ValueError:
        found = 0
    if found < US_PER_DAY:
        raise ConfigError(f'retention = "{setting}": write "{FOREVER}", or at least a day, such as "7d"')
    return found


def _check_address(part: str, address: str, schemes: tuple[str, ...]) -> None:
    scheme = address.split("://", 1)[0]
    if address == "embedded" or ("://" in address and scheme in schemes):
        return
    if not schemes:
        raise ConfigError(
            f'{part} = "{shown(address)}": this version has an embedded {part} only; leave {part} out, '
            f'or write "embedded"'
        )
    taken = " or ".join(f'"{known}://..."' for known in schemes)
    raise ConfigError(f'{part} = "{shown(address)}": {part} takes "embedded" or {taken}')


def _runs(given: Any, where: str) -> dict[str, str]:
    """How groups run, by name: `[groups.spend]` with `run = "1h"`, or `spend = "1h"` for short."""
    found = {}
    for name, told in given.items() if isinstance(given, Mapping) else [("", given)]:
        run = told.get("run") if isinstance(told, Mapping) and set(told) == {"run"} else told
        if not name or not isinstance(run, str):
            raise ConfigError(f'{where}: {name or "it"} is {told!r}; write {name or "GROUP"} = {{ run = "1h" }}')
        if run != STREAM:
            _check_schedule(run, f"{where}: group {name}")
        found[name] = run
    return found


def _check_schedule(schedule: str, where: str) -> None:
    from headrace.orchestration.schedule import period_of

    try:
        period_of(schedule)
    except ConfigError as error:
        raise ConfigError(f'{where}: {error}; "{STREAM}" runs it in the stream') from None


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
