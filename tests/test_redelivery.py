"""Results that their server did not take are offered to it again, less and less often, until it takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from txm_stream.callbacks import redelivery
from txm_stream.callbacks.journal import Journal
from txm_stream.callbacks.publisher import PublishReport
from txm_stream.callbacks.redelivery import Redelivery, delivered_later
from txm_stream.callbacks.report import RunReport
from txm_stream.callbacks.run_log import RunLog
from txm_stream.callbacks.scratch import FRAMES, Hold

WAITS = RunReport("run", "final", visits=7, undelivered=True, publish=PublishReport(delivered=3, spooled=4))


class Clock:
    """Time that passes when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(redelivery, "time", clock)
    return clock


@pytest.fixture
def run(tmp_path: Path) -> RunLog:
    (tmp_path / "run").mkdir()
    journal = Journal(tmp_path / "run" / FRAMES, disk_bytes=0, memory_bytes=0)
    return RunLog("run", {}, tmp_path / "run", journal, parts=["a part"])


def offered_at(clock: Clock, waiting: Redelivery, seconds: float) -> list[float]:
    """Return the times at which results were offered, each time in vain."""
    times, end = [], clock.now + seconds
    while clock.now < end:
        clock.now += 1.0
        for again in waiting.due():
            assert waiting.due() == []
            assert again.hold is not None
            again.hold.release()
            waiting.settle(again, WAITS)
            times.append(clock.now)
    return times


def test_offers_become_rare(clock: Clock, run: RunLog) -> None:
    waiting = Redelivery()
    waiting.settle(run, WAITS)
    times = [round(at - 1000) for at in offered_at(clock, waiting, 1200)]
    assert times == [5, 15, 35, 75, 155, 315, 615, 915]


def test_an_offer_is_the_run_with_nothing_but_its_results(clock: Clock, run: RunLog) -> None:
    waiting = Redelivery()
    waiting.settle(run, WAITS)
    clock.now += 5
    (offer,) = waiting.due()
    assert (offer.uid, offer.kind, offer.folder, offer.parts) == ("run", "results", run.folder, ["a part"])
    assert offer.end_reason is not None
    assert not offer.documents


def test_what_is_delivered_is_not_offered_again(clock: Clock, run: RunLog) -> None:
    waiting = Redelivery()
    waiting.settle(run, RunReport("run", "final"))
    assert offered_at(clock, waiting, 100) == []
    waiting.settle(run, WAITS)
    clock.now += 5
    (offer,) = waiting.due()
    waiting.settle(offer, RunReport("run", "final"))
    assert offered_at(clock, waiting, 1000) == []


def test_damaged_files_alone_are_not_offered_again(clock: Clock, run: RunLog) -> None:
    waiting = Redelivery()
    waiting.settle(run, RunReport("run", "final", undelivered=True, publish=PublishReport(delivered=3, dropped=1)))
    assert offered_at(clock, waiting, 1000) == []


def test_what_another_process_delivers_is_left_to_it(clock: Clock, run: RunLog) -> None:
    waiting = Redelivery()
    waiting.settle(run, WAITS)
    other = Hold(run.folder)
    clock.now += 100
    assert waiting.due() == []
    other.release()
    (offer,) = waiting.due()
    assert offer.hold is not None
    offer.hold.release()
    waiting.settle(offer, WAITS)
    run.folder.rmdir()
    assert offered_at(clock, waiting, 1000) == []


def test_the_report_says_what_became_of_the_results() -> None:
    still = delivered_later(WAITS, RunReport("x", "final", undelivered=True, publish=PublishReport(1, 3)))
    assert (still.run_uid, still.visits, still.undelivered, still.publish) == ("run", 7, True, PublishReport(4, 3))
    done = delivered_later(still, RunReport("x", "final", publish=PublishReport(3)))
    assert (done.undelivered, done.publish, done.publish.complete) == (False, PublishReport(7), True)
