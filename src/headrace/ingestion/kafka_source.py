"""Where a stream of events comes from, if it is copied from a topic of Kafka."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from headrace.core.errors import ConfigError

_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


@dataclass(frozen=True, slots=True)
class KafkaSource:
    """A topic that others write, on whatever cluster.

    Attributes:
        url: `kafka://[user:password@]host:port[,...]/TOPIC[?option=value]`; may hold a password.
    """

    url: str = field(repr=False)

    def check(self, where: str) -> None:
        """Raise ConfigError unless this may be the address of a topic; never names a password."""
        url = urlsplit(self.url)
        if url.scheme != "kafka" or not url.netloc or not _TOPIC.fullmatch(url.path.strip("/")):
            raise ConfigError(f"{where}: kafka = is no address of a topic; write kafka://host:9092/TOPIC")

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"topic {urlsplit(self.url).path.strip('/')} of Kafka at {urlsplit(self.url).netloc.rpartition('@')[2]}"
