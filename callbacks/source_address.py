"""What ``--from`` names: a 0MQ proxy, Kafka topics, a Tiled server or the folder of an embedded one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qs, urlsplit

from txm_stream.errors import BadSourceError

_FORMS = (
    "zmq://HOST:PORT[?prefix=NAME], kafka://HOST:PORT[,HOST:PORT]/TOPIC[,TOPIC], "
    "http(s)://SERVER[/PATH], or the folder of an embedded server"
)


@dataclass(frozen=True)
class SourceAddress:
    """An address taken apart.

    ``where`` is ``host:port`` of a 0MQ proxy, ``host:port[,…]`` of Kafka's brokers, or the address or folder of Tiled.
    """

    kind: Literal["zmq", "kafka", "tiled"]
    where: str
    topics: tuple[str, ...] = ()
    prefix: str = ""


def read_address(text: str) -> SourceAddress:
    """Take an address apart.

    Raises
    ------
    BadSourceError
        It is of no known form; the message lists the forms.
    """
    if "://" not in text:
        return SourceAddress("tiled", text)
    split = urlsplit(text)
    if split.scheme in ("http", "https") and split.netloc:
        return SourceAddress("tiled", text)
    topics = tuple(filter(None, split.path.strip("/").split(",")))
    has_ports = all(part.rpartition(":")[0] and part.rpartition(":")[2].isdecimal() for part in split.netloc.split(","))
    if split.scheme == "zmq" and has_ports and not topics and "," not in split.netloc:
        return SourceAddress("zmq", split.netloc, prefix=parse_qs(split.query).get("prefix", [""])[0])
    if split.scheme == "kafka" and has_ports and topics:
        return SourceAddress("kafka", split.netloc, topics)
    raise BadSourceError(f"{text!r} is no source of documents; give {_FORMS}")
