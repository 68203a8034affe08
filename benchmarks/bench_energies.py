"""Steered scans against the beamline's list and other choices of energies, through the real plans and RunEngine.

Every scan runs on simulated devices with a virtual clock (moves 3 s, exposures 0.5 s, flats 2.5 s, jitter 2 px); the
maps compared are final ones, their errors those in the pixels inside the particles that have a map. Phantoms:
core–shell and one state per region, two and three states, many and few quanta.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from energy_cases import PHOTONS, Case, Scan, error, listed, steered
from energy_repeats import STOPPED_AT, Repeats, measure_repeats, print_repeats

from txm_stream.energies import Advisor
from txm_stream.judgement import judge
from txm_stream.profile import Profile, Steering

COMPARED_AT = (12, 24, 58)


def checkpoints(most: int) -> list[int]:
    """Return the numbers of visits at which maps are compared."""
    return [n for n in (8, 10, 12, 14, 17, 20, 24, 28, 33, 40, 48, 58, 70) if n <= most]


def crossing(visits: list[int], errors: list[float], target: float) -> float:
    """Return at how many visits errors fall below a target, interpolated in their logarithms; NaN: never."""
    for k, value in enumerate(errors):
        if value <= target:
            if k == 0:
                return float(visits[0])
            steps = np.log([errors[k - 1], value])
            share = (steps[0] - np.log(target)) / (steps[0] - steps[1])
            return float(visits[k - 1] + share * (visits[k] - visits[k - 1]))
    return float("nan")


@dataclass
class Outcome:
    """The figures of one case."""

    case: str
    list_rmse: float = float("nan")
    list_s: float = float("nan")
    visits: float = float("nan")
    seconds: float = float("nan")
    shifted_visits: float = float("nan")
    shifted_seconds: float = float("nan")
    stops: list[tuple[float, float, float, float]] = field(default_factory=list)
    others: dict[str, list[float]] = field(default_factory=dict)
    unknown: float = float("nan")
    unknown_full: float = float("nan")
    n_states: int = 0
    curve: tuple[list[int], list[float]] = ((), ())
    predicted: list[float] = field(default_factory=list)
    repeats: Repeats | None = None


def frames_and_time(
    case: Case, planned: Sequence[float], shift_eV: float, most: int
) -> tuple[Outcome, Scan, list[float]]:
    """Compare a steered scan with the list: visits and seconds to the same map, and how well it would have stopped."""
    profile, references = Profile(), case.references(shift_eV)
    whole = listed(case, planned, profile)
    out = Outcome(
        str(case), list_rmse=error(*whole.finish(len(planned), references, profile)), list_s=whole.seconds[-1]
    )
    scan = steered(case, most, planned, references)
    at = checkpoints(most)
    errors = [error(*scan.finish(n, references, profile)) for n in at]
    out.visits = crossing(at, errors, out.list_rmse)
    out.n_states, out.curve, out.predicted = case.n_states, (at, errors), scan.predicted
    if np.isfinite(out.visits):
        out.seconds = scan.seconds[min(int(np.ceil(out.visits)), len(scan.seconds)) - 1]
    for n in STOPPED_AT:  # targets that the scan reaches on its way; the advisor, too, wants two forecasts
        target = errors[at.index(n)]
        told = [*enumerate(scan.predicted, start=1)]
        below = [k for k, value in told[7:] if value <= target and np.isfinite(scan.predicted[k - 2])]
        if below and below[0] <= most:
            stop = below[0]
            true = error(*scan.finish(stop, references, profile))
            out.stops.append(
                (stop, crossing(at, list(np.minimum.accumulate(errors)), target), scan.predicted[stop - 1], true)
            )
        else:
            out.stops.append((float("nan"), float(n), float("nan"), float("nan")))
    return out, scan, [float(np.exp(np.interp(n, at, np.log(errors)))) for n in COMPARED_AT if n <= most]


def other_choices(case: Case, planned: Sequence[float], draws: int) -> Iterator[tuple[str, list[float]]]:
    """Yield uniform, random and coarse-to-fine choices from the list, with their errors at the compared numbers."""
    profile, references = Profile(), case.references()
    energies = np.asarray(planned)
    rng = np.random.default_rng(case.seed)

    def rmse(chosen: Any) -> float:
        scan = listed(case, energies[np.asarray(chosen)], profile)
        return error(*scan.finish(len(chosen), references, profile))

    yield "uniform", [rmse(np.linspace(0, len(energies) - 1, n).round().astype(int)) for n in COMPARED_AT]
    yield "coarse to fine", [rmse(coarse_to_fine(len(energies))[:n]) for n in COMPARED_AT]
    if draws:
        drawn = [
            [rmse(np.sort(rng.choice(len(energies), n, replace=False))) for _ in range(draws)] for n in COMPARED_AT
        ]
        yield f"random, mean of {draws}", [float(np.nanmean(values)) for values in drawn]


def coarse_to_fine(count: int) -> list[int]:
    """Return indices in an order in which every prefix is about even."""
    order = [0, count - 1]
    step = count - 1
    while len(order) < count:
        step = max(step // 2, 1)
        order += [k for k in range(0, count, step) if k not in order]
    return order


def unknown_references(case: Case, planned: Sequence[float]) -> tuple[float, float]:
    """Return the map correlation of a steered scan of 15 % of the energies, and of the whole list; no references."""
    profile = Profile()
    whole = listed(case, planned, profile)
    full = judge(*whole.finish(len(planned), None, profile)).map_correlation
    visits = round(0.15 * len(planned))
    scan = steered(case, visits, planned, None)
    return judge(*scan.finish(visits, None, profile)).map_correlation, full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", type=Path, help="the beamline's list in keV or eV; default: 101 energies like it")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--most", type=int, default=58)
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--parts", default="advice,frames,shifted,others,unknown,repeats")
    parser.add_argument("--states", default="2,3")
    parser.add_argument("--output", type=Path, default=Path("bench_energies"))
    options = parser.parse_args()
    planned = beamline_list(options.list)
    parts = options.parts.split(",")
    options.output.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for n_states in map(int, options.states.split(",")):
        for noise in PHOTONS:
            for seed in range(options.seeds):
                for chemistry in ("core-shell", "region"):
                    case = Case(n_states, chemistry, seed, noise, options.size)
                    outcomes.append(measure(case, planned, parts, options))
                    (options.output / "energies.json").write_text(json.dumps([asdict(o) for o in outcomes], indent=1))
    if "frames" in parts:
        summarise(outcomes, len(planned))
        stopping(outcomes)
    if "repeats" in parts:
        print_repeats([outcome.repeats for outcome in outcomes if outcome.repeats])
    if "frames" in parts:
        print(f"pictures: {draw(outcomes, len(planned), options.output / 'energies.png')}")


def summarise(outcomes: list[Outcome], planned: int) -> None:
    """Print the worst, the mean and the middle of what the cases say, against the targets."""

    def line(name: str, values: list[float], target: str) -> None:
        known = [value for value in values if np.isfinite(value)]
        if known:
            middle = f"mean {np.mean(known):.3f}  median {np.median(known):.3f}"
            print(f"{name:58s} worst {max(known):.3f}  {middle}  (target {target})")

    for n_states, target in ((2, "1/4"), (3, "1/3")):
        those = [o for o in outcomes if o.n_states == n_states]
        line(f"visits over the list's, {n_states} states", [o.visits / planned for o in those], target)
    line("time over the list's", [o.seconds / o.list_s for o in outcomes], "1/3")
    line("the same, references off by 0.3 eV", [o.shifted_visits / planned for o in outcomes], "1/3.5")
    stops = [stop for o in outcomes for stop in o.stops]
    line("|predicted over true − 1| at the stop", [abs(p / t - 1) for _, _, p, t in stops], "0.15")
    line("|visits at the stop over those needed − 1|", [abs(n / needed - 1) for n, needed, _, _ in stops], "0.3")
    for place, visits in enumerate(COMPARED_AT):
        worst = [
            o.others["steered"][place] / min(values[place] for name, values in o.others.items() if name != "steered")
            for o in outcomes
            if len(o.others) > 1 and len(o.others["steered"]) > place
        ]
        line(f"error over that of the best other choice, {visits} visits", worst, "1")
    line(
        "1 − correlation over that of the whole list, unknown",
        [1 - o.unknown / o.unknown_full for o in outcomes],
        "0.02",
    )


def stopping(outcomes: list[Outcome]) -> None:
    """Print how scans stop, by number of states and noise."""
    print("| states, noise | predicted/true (range) | within 15 % | off on the mean | stops within 30 % or 2 | off |")
    print("|---|---|---|---|---|---|")
    for n_states, noise in sorted({(o.n_states, o.case.split(", ")[-1]) for o in outcomes}):
        stops = [s for o in outcomes if o.n_states == n_states and o.case.endswith(noise) for s in o.stops]
        reached = np.array([stop for stop in stops if np.isfinite(stop[0])]).reshape(-1, 4)
        visits, needed, predicted, true = reached.T
        ratio, late = predicted / true, np.abs(visits - needed)
        good = int(np.sum(late <= np.maximum(2, 0.3 * needed) + 1e-9))
        print(
            f"| {n_states}, {noise} | {ratio.mean():.2f} ({ratio.min():.2f} to {ratio.max():.2f}) "
            f"| {int(np.sum(np.abs(ratio - 1) <= 0.15))} of {len(ratio)} | {np.abs(ratio - 1).mean():.1%} "
            f"| {good} of {len(stops)} | {np.mean(late / needed):.0%} |"
        )


def draw(outcomes: list[Outcome], planned: int, path: Path) -> Path:
    """Draw error against visits, true and forecast, of every case."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 4
    rows = -(-len(outcomes) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    for axes, out in zip(figure.subplots(rows, columns, squeeze=False).ravel(), outcomes, strict=False):
        axes.loglog(*out.curve, "o-", markersize=4, label="steered, true")
        axes.loglog(range(1, len(out.predicted) + 1), out.predicted, "-", color="0.5", label="forecast")
        axes.loglog(planned, out.list_rmse, "s", label="the whole list")
        for name, values in out.others.items():
            if name != "steered":
                axes.loglog(COMPARED_AT[: len(values)], values, "--", marker=".", label=name)
        axes.set_title(out.case, fontsize=9)
        axes.set_xlabel("visits")
        axes.set_ylabel("abundance RMSE")
        axes.grid(which="both", alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, format="png")
    return path


def measure(case: Case, planned: Sequence[float], parts: list[str], options: Any) -> Outcome:
    """Measure one case and print it."""
    began = time.monotonic()
    out = Outcome(str(case), n_states=case.n_states)
    if "advice" in parts:
        print(f"  advice with 500 candidates after 120 visits: {advice_ms(case, planned):.0f} ms (<= 100)")
    if "frames" in parts:
        out, _, ours = frames_and_time(case, planned, 0.0, options.most)
        out.others["steered"] = ours
    if "shifted" in parts:
        shifted, _, _ = frames_and_time(case, planned, 0.3, options.most)
        out.shifted_visits, out.shifted_seconds = shifted.visits, shifted.seconds
    if "others" in parts:
        out.others |= dict(other_choices(case, planned, options.draws))
    if "unknown" in parts:
        out.unknown, out.unknown_full = unknown_references(case, planned)
    if "repeats" in parts:
        out.repeats = measure_repeats(case, planned, options.repeats)
    print(f"{case}  ({time.monotonic() - began:.0f} s)")
    if "frames" in parts:
        print(f"  list: RMSE {out.list_rmse:.4f} in {out.list_s:.0f} s")
        print(f"  steered to the same: {out.visits:.1f} visits (1/{len(planned) / out.visits:.1f}),", end=" ")
        print(f"{out.seconds:.0f} s (1/{out.list_s / out.seconds:.1f})")
    if "shifted" in parts:
        print(
            f"  references off by 0.3 eV: {out.shifted_visits:.1f} visits (1/{len(planned) / out.shifted_visits:.1f}),",
            end=" ",
        )
        print(f"{out.shifted_seconds:.0f} s")
    for stop, true_stop, predicted, true in out.stops:
        print(
            f"  stop at {stop:.0f}, true crossing {true_stop:.1f}; predicted {predicted:.4f}, true {true:.4f}", end=" "
        )
        print(f"({predicted / true:.2f})")
    for name, values in out.others.items():
        print(f"  {name:20s} " + "  ".join(f"{n}: {value:.4f}" for n, value in zip(COMPARED_AT, values, strict=False)))
    if "unknown" in parts:
        print(f"  unknown references, 15 %: correlation {out.unknown:.3f} of {out.unknown_full:.3f}")
    print(flush=True)
    return out


def advice_ms(case: Case, planned: Sequence[float]) -> float:
    """Return how long advice takes, median in ms; it knows no images, so their size does not matter."""
    advisor = Advisor(Steering(target_rmse=1e-3), case.references(), planned_eV=planned)
    rng = np.random.default_rng(0)
    for index, energy in enumerate(rng.choice(np.asarray(planned), 120)):
        advisor.visit(index, float(energy), 0.05)
    advisor.measure(0.05)
    times = []
    for _ in range(20):
        began = time.perf_counter()
        advisor.advise(120)
        times.append(1e3 * (time.perf_counter() - began))
    return float(np.median(times))


def beamline_list(path: Path | None) -> list[float]:
    """Return the energies of a list in eV; default: pre-edge, 80 energies of 1 eV across the edge, post-edge."""
    if path is None:
        return [*np.arange(8212.0, 8312.0, 10), *np.arange(8312.0, 8393.0), *np.arange(8417.0, 8780.0, 40)]
    energies = np.loadtxt(path).ravel()
    return [float(e) for e in (energies * 1000 if energies.max() < 100 else energies)]


if __name__ == "__main__":
    main()
