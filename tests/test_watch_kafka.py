"""A watch of Kafka topics: the same result, and after a kill it goes on where the open run began."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bluesky_kafka import Publisher
from confluent_kafka import Producer
from watching import ENERGIES, Documents, StartWatch, TakeScan, assert_same_result

from txm_stream.callbacks.kafka_source import check_topics
from txm_stream.callbacks.tiled_server import EmbeddedServer
from txm_stream.doctor import examine_source
from txm_stream.errors import UnreachableError

TOPIC = "beamline.documents"


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """The mock cluster of librdkafka: its broker listens on TCP as long as this producer lives."""
    owner = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 3})
    (found,) = owner.list_topics(timeout=10).brokers.values()
    address = f"{found.host}:{found.port}"
    producer = Producer({"bootstrap.servers": address})
    producer.produce(TOPIC, b"\xc0")  # makes the topic; what is no document is passed over
    assert producer.flush(10) == 0
    yield address
    owner.flush(1)


def publish(broker: str, documents: Documents) -> None:
    publisher = Publisher(TOPIC, broker, key="beamline")
    for entry in documents:
        publisher(*entry)
    publisher.flush()


def test_a_killed_kafka_watch_reads_the_open_run_again(
    broker: str, take_scan: TakeScan, shared_server: EmbeddedServer, start_watch: StartWatch
) -> None:
    earlier, scan = take_scan(seed=12), take_scan(seed=13)
    before, after = scan.split("primary", 4)
    source = f"kafka://{broker}/{TOPIC}"
    first = start_watch(source)
    first.wait_for("reading from Kafka")
    publish(broker, [*earlier.documents, *before])
    first.wait_for(f"run {earlier.uid[:8]} (scan {earlier.documents[0][1]['scan_id']}) final")
    first.wait_for("visit 4 at")
    first.kill()
    publish(broker, after)  # nobody listens: Kafka keeps it
    second = start_watch(source, "--runs", "1")
    words, answer = second.answer()
    assert words == "1 runs done: 1 final, 0 failed"
    (run,) = answer["runs"]
    assert (run["run_uid"], run["status"], run["energies"]) == (scan.uid, "final", len(ENERGIES))
    for done in (earlier, scan):
        assert_same_result(shared_server, done.uid)


def test_brokers_and_topics_that_are_not_there_are_named(broker: str) -> None:
    assert check_topics(broker, [TOPIC]) == 1
    with pytest.raises(UnreachableError, match="no Kafka broker answers at "):
        check_topics("127.0.0.1:1", [TOPIC], timeout_s=1.0)
    finding = {finding.name: finding for finding in examine_source(f"kafka://{broker}/{TOPIC}")}["Kafka"]
    assert finding.works
    assert "1 brokers answer" in finding.text
    absent = {finding.name: finding for finding in examine_source("kafka://127.0.0.1:1/x")}["Kafka"]
    assert not absent.works
    assert absent.needed
    assert "check address" in absent.remedy
