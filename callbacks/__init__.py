"""Bluesky and Tiled around the pipeline; no numerics in here."""

from __future__ import annotations

if __name__ != "txm_stream.callbacks":
    raise ImportError(
        "import this package as txm_stream.callbacks, not by its bare name: a second copy of every class would exist"
    )
