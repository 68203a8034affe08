"""The same steered scan again and again: how much of an error is the sample's, and how much the draw of the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from energy_cases import Case, error, repeated, steered

from txm_stream.profile import Profile

STOPPED_AT = (12, 20, 33)
"""Visits after which the true error is the target of a stop."""


@dataclass(frozen=True)
class Repeats:
    """Errors after some visits of a steered scan and of its repeats (1 + draw, 3); forecasts of the scan (3)."""

    case: str
    errors: list[list[float]]
    forecasts: list[float]


def measure_repeats(case: Case, planned: Sequence[float], draws: int) -> Repeats:
    """Steer a scan, and measure its energies again with other noise."""
    profile, references = Profile(), case.references()
    scan = steered(case, STOPPED_AT[-1] + 1, planned, references)  # nothing is forecast after the last visit
    scans = [scan, *(repeated(case, scan.energies_eV, planned, draw) for draw in range(draws))]
    errors = [[error(*each.finish(n, references, profile)) for n in STOPPED_AT] for each in scans]
    return Repeats(str(case), errors, [scan.predicted[n - 1] for n in STOPPED_AT])


def stops_by_mean(errors: Sequence[Sequence[float]]) -> list[float]:
    """Return visits at the stop over those needed of an advisor that knows the rms error of all other repeats.

    It knows the sample, but not what its own draw of the noise did to the map. The curve is a power law between its
    three points, and beyond.
    """
    table, visits = np.array(errors), np.log(STOPPED_AT)
    ratios = []
    for k, own in enumerate(table):
        mean = 0.5 * np.log(np.mean(np.delete(table, k, axis=0) ** 2, axis=0))
        for place, target in enumerate(np.log(own)):
            after = int(np.clip(np.sum(mean > target), 1, len(mean) - 1))
            share = (mean[after - 1] - target) / (mean[after - 1] - mean[after])
            stop = visits[after - 1] + share * (visits[after] - visits[after - 1])
            ratios.append(float(np.exp(stop - visits[place])))
    return ratios


def print_repeats(cases: Sequence[Repeats]) -> None:
    """Print by how much the true error differs between repeats, what that leaves of stops, and its forecasts."""
    print("| states, kind, noise | repeats differ by | forecast/mean | stops within 30 %, mean known | off |")
    print("|---|---|---|---|---|")

    def column(each: Repeats) -> tuple[str, ...]:
        states, kind, _, noise = each.case.split(", ")
        return states, kind, noise

    for name in sorted({column(each) for each in cases}):
        those = [each for each in cases if column(each) == name]
        errors = np.array([each.errors for each in those])
        spread = np.mean(np.var(np.log(errors), axis=1, ddof=1)) ** 0.5
        told = np.array([each.forecasts for each in those]) / np.mean(errors**2, axis=1) ** 0.5
        late = np.abs(np.array([stops_by_mean(each.errors) for each in those]) - 1)
        forecast = f"{told.mean():.2f} ({told.min():.2f} to {told.max():.2f})"
        good = f"{int(np.sum(late <= 0.3))} of {late.size}"
        print(f"| {', '.join(name)} | {spread:.1%} | {forecast} | {good} | {late.mean():.0%} |")
