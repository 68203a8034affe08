"""The streams of a scan that hold frames: of which run each descriptor is, and where its images are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from txm_stream.callbacks.facts import find_image_key
from txm_stream.frames import Role
from txm_stream.profile import Documents


class FrameStreams:
    """Descriptors of the streams that the profile names, of all runs of a scan.

    Attributes
    ----------
    roles
        What the frames of a stream are, by its name.
    start
        Start document of the scan, that is, of its first run.
    parts
        Start documents of its further runs, by uid.
    """

    def __init__(self, documents: Documents) -> None:
        self.documents = documents
        self.roles: dict[str, Role] = {documents.primary: "sample", documents.flat: "flat", documents.dark: "dark"}
        self.start: Mapping[str, Any] = {}
        self.parts: dict[str, Mapping[str, Any]] = {}
        self._descriptors: dict[str, Mapping[str, Any]] = {}

    def add(self, descriptor: Mapping[str, Any]) -> None:
        """Take a descriptor; those of other streams are left out."""
        if descriptor["name"] in self.roles:
            self._descriptors[descriptor["uid"]] = descriptor

    def get(self, uid: str) -> Mapping[str, Any] | None:
        """Return a descriptor, ``None`` where it is another stream's."""
        return self._descriptors.get(uid)

    def descriptor_of(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the descriptor of an event of one of the streams."""
        return self._descriptors[event["descriptor"]]

    def of_run(self, part: str) -> dict[str, Mapping[str, Any]]:
        """Return the descriptors, by uid, of a part of the scan; of a run that is no part: ``""``."""
        return {uid: facts for uid, facts in self._descriptors.items() if facts.get("part", "") == part}

    def start_of(self, descriptor: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the start document of the descriptor's own run."""
        return self.parts.get(str(descriptor.get("part")), self.start)

    def image_key(self, descriptor: Mapping[str, Any]) -> str | None:
        """Return the key of a stream's images, ``None`` where it has none."""
        return find_image_key(self.documents, self.start_of(descriptor), descriptor)

    def frames_per_event(self, descriptor: Mapping[str, Any]) -> int:
        """Return how many images an event of a stream holds, by its descriptor."""
        facts: Mapping[str, Any] = descriptor["data_keys"].get(self.image_key(descriptor), {})
        shape = tuple(facts.get("shape") or ())
        return int(shape[0]) if len(shape) == 3 else 1

    def may_have_images(self, stream: str) -> bool:
        """Whether a stream is known, or may be believed, to have frames."""
        known = [descriptor for descriptor in self._descriptors.values() if descriptor["name"] == stream]
        return not known or any(self.image_key(descriptor) for descriptor in known)
