"""A watch of Kafka topics: the same result, and after a kill it goes on where the open run began."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bluesky_kafka import Publisher
from confluent_kafka import Producer
from watching import Documents


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The mock cluster of librdkafka: its brokers listen on TCP as long as this producer lives."""
    owner = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 3})
    (found,) = owner.list_topics(timeout=10).brokers.values()
    yield f"{found.host}:{found.port}"
    owner.flush(1)


def make_topic(broker: str, topic: str) -> None:
    producer = Producer({"bootstrap.servers": broker})
    producer.produce(topic, b"\xc0")  # no document: what cannot be read is passed over
    assert producer.flush(10) == 0


def publish(broker: str, topic: str, documents: Documents) -> None:
    publisher = Publisher(topic, broker, key="beamline", flush_on_stop_doc=True)
    for entry in documents:
        publisher(*entry)
    publisher.flush()
