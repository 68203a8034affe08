"""Addresses of sources: what is meant, and what to give instead."""

from __future__ import annotations

import pytest

from txm_stream.callbacks.source_address import SourceAddress, read_address
from txm_stream.errors import BadSourceError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("zmq://beamline:5578", SourceAddress("zmq", "beamline:5578")),
        ("zmq://10.0.0.1:5578?prefix=fxi", SourceAddress("zmq", "10.0.0.1:5578", prefix="fxi")),
        ("kafka://broker:9092/fxi.raw", SourceAddress("kafka", "broker:9092", ("fxi.raw",))),
        ("kafka://a:9092,b:9092/fxi.raw,fxi.fly", SourceAddress("kafka", "a:9092,b:9092", ("fxi.raw", "fxi.fly"))),
        ("https://tiled.example.org/api/v1/fxi", SourceAddress("tiled", "https://tiled.example.org/api/v1/fxi")),
        ("results/server", SourceAddress("tiled", "results/server")),
    ],
)
def test_an_address_is_taken_apart(text: str, address: SourceAddress) -> None:
    assert read_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["zmq://beamline", "zmq://a:1,b:2", "kafka://broker:9092", "kafka://broker/topic", "ftp://x:1/y", "https://"],
)
def test_what_is_no_address_is_told_the_forms(text: str) -> None:
    with pytest.raises(BadSourceError, match=r"kafka://HOST:PORT\[,HOST:PORT\]/TOPIC"):
        read_address(text)
