"""Documents from Kafka (``bluesky_kafka``), taken up after a restart where the oldest open run begins."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from txm_stream.errors import MissingPackageError, UnreachableError

logger = logging.getLogger("txm_stream")

REMEDY = "pip install 'txm-stream[kafka]'"
_ANSWER_S = 10.0
_COMMIT_EVERY_S = 2.0

_SETTINGS = {"enable.auto.commit": False, "session.timeout.ms": 10_000, "log_level": 2}
"""A consumer that was killed is given up by Kafka after 10 s, and its successor goes on."""
_Places = dict[tuple[str, int], int]


class KafkaSource:
    """What a RunEngine publishes to Kafka topics.

    Parameters
    ----------
    servers
        ``host:port`` of the brokers, with commas.
    topics
        Topics that exist.
    group
        Name of this consumer; Kafka keeps its place by this name.

    Notes
    -----
    The place that is kept is where the oldest run begins that is not :meth:`settled`, so that after a restart this
    run comes again as a whole. A group that Kafka does not know yet begins with what is published from now on.

    Raises
    ------
    MissingPackageError
        ``bluesky_kafka`` is not installed.
    """

    def __init__(self, servers: str, topics: Iterable[str], *, group: str) -> None:
        try:
            import bluesky_kafka  # noqa: F401
        except ImportError as error:
            raise MissingPackageError(f"Kafka needs bluesky-kafka and confluent-kafka ({error}); {REMEDY}") from error
        self.servers = servers
        self.topics = list(topics)
        self.group = group
        self._is_reading = False
        self._consumer: Any = None
        self._places: _Places = {}
        self._begins: dict[str, _Places] = {}
        self._committed: _Places = {}
        self._commit_at = 0.0
        self._lock = threading.Lock()

    def follow(self, take: Callable[[str, dict[str, Any]], None], ended: threading.Event) -> None:
        """Hand every document to ``take`` as it comes, until ``ended`` is set.

        Raises
        ------
        UnreachableError
            No broker answers, or a topic does not exist.
        """
        from bluesky_kafka import RemoteDispatcher

        check_topics(self.servers, self.topics)
        self._places = self._begin_here()
        self._committed = dict(self._places)

        class Dispatcher(RemoteDispatcher):  # type: ignore[misc]
            def process_document(_, consumer: Any, topic: str, name: str, document: dict[str, Any]) -> bool:
                self._note_place(name, document)
                take(name, document)
                self._commit(at_once=name == "start")
                return True

        def go_on() -> bool:
            if not self._is_reading and self._consumer.assignment():
                self._is_reading = True
                logger.info("reading from Kafka: %s", ", ".join(self.topics))
            self._commit(at_once=ended.is_set())
            return not ended.is_set()

        settings = _SETTINGS | {"auto.offset.reset": "earliest", "error_cb": _warn}
        dispatcher = Dispatcher(self.topics, self.servers, self.group, consumer_config=settings)
        self._consumer = dispatcher._bluesky_consumer._consumer  # handed out with documents only
        dispatcher.start(continue_polling=go_on)

    def _begin_here(self) -> _Places:
        """Return the places kept; those of a group that Kafka does not know are kept now, at the end of the topics.

        Kafka's own "latest" is found some time after a consumer believes to be reading.
        """
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": self.group} | _SETTINGS)
        try:
            found = consumer.list_topics(timeout=_ANSWER_S).topics
            parts = [TopicPartition(topic, part) for topic in self.topics for part in found[topic].partitions]
            kept = consumer.committed(parts, timeout=_ANSWER_S)
            unknown = [place for place in kept if place.offset < 0]
            for place in unknown:
                place.offset = consumer.get_watermark_offsets(place, timeout=_ANSWER_S)[1]
            if unknown:
                consumer.commit(offsets=unknown, asynchronous=False)
        finally:
            consumer.close()
        return {(place.topic, place.partition): place.offset for place in kept}

    def settled(self, uid: str) -> None:
        """Take note that a run is done: it need not come again."""
        with self._lock:
            self._begins.pop(uid, None)

    def _note_place(self, name: str, document: dict[str, Any]) -> None:
        found = self._consumer.position(self._consumer.assignment())
        places = {(place.topic, place.partition): place.offset for place in found if place.offset >= 0}
        with self._lock:
            if name == "start":
                self._begins[str(document["uid"])] = dict(self._places)
            self._places = self._places | places

    def _commit(self, *, at_once: bool) -> None:
        """Tell Kafka where to begin after a restart."""
        if not self._is_reading or (not at_once and time.monotonic() < self._commit_at):
            return
        from confluent_kafka import KafkaException, TopicPartition

        self._commit_at = time.monotonic() + _COMMIT_EVERY_S
        with self._lock:
            places = {
                key: min([offset, *(begin.get(key, offset) for begin in self._begins.values())])
                for key, offset in self._places.items()
            }
        if places == self._committed:
            return
        try:
            offsets = [TopicPartition(*key, offset) for key, offset in places.items()]
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            logger.warning("Kafka does not keep the place: %s", error)
        else:
            self._committed = places


def _warn(error: Any) -> None:
    logger.warning("Kafka: %s", error.str())


def check_topics(servers: str, topics: Iterable[str], timeout_s: float = _ANSWER_S) -> int:
    """Return how many brokers there are.

    Raises
    ------
    UnreachableError
        No broker answers in time, or a topic does not exist; the message names those that do.
    """
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    try:
        found = AdminClient({"bootstrap.servers": servers, "log_level": 2}).list_topics(timeout=timeout_s)
    except KafkaException as error:
        raise UnreachableError(f"no Kafka broker answers at {servers}: {error.args[0].str()}") from error
    absent = [topic for topic in topics if topic not in found.topics]
    if absent:
        there = ", ".join(sorted(name for name in found.topics if not name.startswith("__"))) or "none"
        raise UnreachableError(f"Kafka at {servers} has no topic {', '.join(absent)}; topics there: {there}")
    return len(found.brokers)
