"""The advisor without images: what comes first and why, how good the map will be, beamline's rules, when to stop."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from txm_stream.energies import Advisor, predicted_rmse
from txm_stream.energies.gaps import halve_widest_gap, image_changes
from txm_stream.energies.judged_error import JudgedError
from txm_stream.energies.rules import candidate_energies, move_seconds, wants_flat
from txm_stream.errors import BadProfileError, BadReferenceError
from txm_stream.phantoms import nickel_energies, nickel_states
from txm_stream.profile import Steering
from txm_stream.unmixing import References

GRID = np.arange(8200.0, 8500.0, 0.25)
PLANNED = tuple(nickel_energies(101))


def references_of(n_states, *, shift_eV=0.0):
    spectra = nickel_states(n_states)
    return References(spectra.names, GRID, spectra(GRID - shift_eV))


def follow(advisor, visits, *, sigma=0.05, rmse=None):
    """Visit what is advised; ``rmse(advisor)`` judges the map after each visit."""
    sequence = []
    for seq in range(visits):
        advice = advisor.advise(seq)
        if advice.stop:
            break
        advisor.visit(seq, advice.energy_eV, sigma)
        sequence.append(advice)
        if rmse is not None:
            advisor.measure(rmse([a.energy_eV for a in sequence]))
    return sequence


def judged(references, *, scale=0.2):
    """A map whose error follows the least-squares one to the power of a denoised map's."""

    def rmse(energies):
        try:
            return scale * predicted_rmse(energies, references, sigma=0.05) ** 0.8
        except BadReferenceError:
            return float("nan")

    return rmse


@pytest.mark.parametrize("n_states", [2, 3])
def test_the_first_visits_are_the_white_line_and_both_sides_of_the_edge(n_states):
    references = references_of(n_states)
    sequence = follow(Advisor(Steering(), references, planned_eV=PLANNED), 5)
    first = [advice.energy_eV for advice in sequence]
    line = references.energies_eV[references.mu.mean(axis=1).argmax()]
    assert first[0] == pytest.approx(line, abs=0.5)
    assert sum(energy < 8342 for energy in first) == 2
    assert sum(energy > line + 1 for energy in first) == 2
    assert "white line" in sequence[0].reason


@pytest.mark.parametrize("n_states", [2, 3])
def test_a_quarter_of_the_visits_tells_as_much_as_the_planned_list_in_a_fifth_of_its_time(n_states):
    references, rules = references_of(n_states), Steering()
    visits = 25 if n_states == 2 else 33
    advisor = Advisor(rules, references, planned_eV=PLANNED)
    sequence = [a.energy_eV for a in follow(advisor, visits, rmse=judged(references, scale=1.0))]
    assert predicted_rmse(sequence, references) < 1.02 * predicted_rmse(PLANNED, references)
    steps = zip([None, *sequence[:-1]], sequence, strict=True)
    moves = [move_seconds(rules, before, np.array([energy]))[0] for before, energy in steps]
    flats: list[float] = []
    for energy in sequence:
        flats += [energy] if wants_flat(rules, energy, flats_eV=flats) else []
    ways_out = len({round(energy, 1) for energy in sequence}) + 8
    further = len(flats) * (rules.whole_flat_s - rules.flat_s)
    seconds = sum(moves) + visits * rules.exposure_s + ways_out * rules.flat_s + further
    assert seconds < 101 * (rules.move_s + rules.exposure_s + rules.flat_s) / 5


def test_the_design_stays_good_where_the_calibration_is_off_by_three_tenths():
    references = references_of(2)
    advisor = Advisor(Steering(), references, planned_eV=PLANNED)
    sequence = [a.energy_eV for a in follow(advisor, 25, rmse=judged(references, scale=1.0))]
    for shift in (-0.3, 0.3):
        moved = references_of(2, shift_eV=shift)
        assert predicted_rmse(sequence, moved) < 1.05 * predicted_rmse(PLANNED, moved)


def test_energies_keep_to_windows_steps_and_backlash():
    windows = ((8210.0, 8330.0), (8336.0, 8347.0), (8349.0, 8460.0))
    rules = Steering(windows_eV=windows, least_step_eV=2.0, backlash_eV=5.0)
    sequence = [a.energy_eV for a in follow(Advisor(rules, references_of(2)), 40)]
    assert all(any(low <= energy <= high for low, high in windows) for energy in sequence)
    distinct = np.unique(sequence)
    assert np.diff(distinct[distinct > 8348.9]).min() >= 2.0
    assert move_seconds(rules, 8350.0, np.array([8349.0, 8351.0, 8350.0])).tolist() == [6.0, 3.0, 0.0]


def test_where_moves_cost_nothing_it_moves_more_and_where_they_cost_much_it_stays():
    def moves(rules):
        sequence = [a.energy_eV for a in follow(Advisor(rules, references_of(3), planned_eV=PLANNED), 40)]
        return int((np.diff(sequence) != 0).sum())

    assert moves(Steering(move_s=30.0)) < moves(Steering(move_s=3.0)) < moves(Steering(move_s=0.0, flat_s=0.0))


def test_noisy_energies_are_avoided_and_rejected_visits_made_again():
    quiet, loud = (Advisor(Steering(move_s=0, flat_s=0), references_of(2), planned_eV=PLANNED) for _ in range(2))
    usual = [a.energy_eV for a in follow(quiet, 30)]
    favourite = max(set(usual), key=usual.count)
    sequence = []
    for seq in range(30):
        energy = loud.advise(seq).energy_eV
        loud.visit(seq, energy, 0.5 if abs(energy - favourite) < 1 else 0.05)
        sequence.append(energy)
    assert sum(abs(e - favourite) < 1 for e in sequence) < sum(abs(e - favourite) < 1 for e in usual) / 2
    again = Advisor(Steering(), references_of(2), planned_eV=PLANNED)
    first = again.advise(0).energy_eV
    again.visit(0, first, float("inf"))
    assert again.advise(1).energy_eV == first


def test_it_stops_at_the_target_and_knows_before_how_long_it_takes():
    references = references_of(2)
    rmse = judged(references)
    advisor = Advisor(Steering(target_rmse=0.008), references, planned_eV=PLANNED)
    sequence = follow(advisor, 200, rmse=rmse)
    energies = [a.energy_eV for a in sequence]
    end = advisor.advise(len(sequence))
    assert rmse(energies) < end.predicted_rmse <= 0.008 < sequence[-1].predicted_rmse
    assert end.stop
    assert "target" in end.reason
    assert np.isnan(end.energy_eV)
    halfway = sequence[len(sequence) // 2]
    assert halfway.visits_left == pytest.approx(len(sequence) - len(sequence) // 2, rel=0.4, abs=2)
    assert halfway.seconds_left > 0.4 * halfway.visits_left
    assert halfway.predicted_rmse > halfway.next_rmse > 0.008


def test_forecasts_that_are_off_by_chance_do_not_stop_it_early():
    """Forecasts ± 8 %: were the last one believed alone, scans would stop after 87 % of the visits they need."""
    references = references_of(2)
    rmse = judged(references)

    def visits(error):
        advisor = Advisor(Steering(target_rmse=0.0075), references, planned_eV=PLANNED)
        return len(follow(advisor, 100, rmse=lambda energies: rmse(energies) * error()))

    needed = visits(lambda: 1.0)
    drawn = [np.random.default_rng(seed) for seed in range(15)]
    made = [visits(lambda rng=rng: np.exp(0.08 * rng.standard_normal())) / needed for rng in drawn]
    assert np.mean(made) > 0.96
    assert np.std(made) < 0.1


def test_a_judgement_counts_more_where_the_last_was_carried_far():
    """An energy that tells two states apart is new: least squares promises more than a denoised map keeps."""
    for fell, share in ((0.95, 0.25), (0.2, 0.9)):
        judged_error, variance = JudgedError(), 0.01
        for _ in range(8):
            judged_error.judge(0.05, variance)
        carried = float(judged_error.noise_rmse(variance * fell))
        judged_error.judge(0.05, variance * fell)
        now = float(judged_error.noise_rmse(variance * fell))
        assert np.log(now / carried) / np.log(0.05 / carried) == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(
    ("rules", "elapsed_s", "reason"),
    [
        ({"most_visits": 12}, 0.0, "12 visits are all"),
        ({"most_s": 60.0}, 61.0, "time of 60 s is over"),
        ({"least_gain": 0.03}, 0.0, "no further visit"),
    ],
)
def test_it_stops_when_budget_or_gain_is_gone_and_never_before_the_least_set(rules, elapsed_s, reason):
    references = references_of(2)
    advisor = Advisor(Steering(**rules), references, planned_eV=PLANNED)
    assert not advisor.advise(0, elapsed_s=elapsed_s).stop
    sequence = follow(advisor, 100, rmse=judged(references))
    end = advisor.advise(len(sequence), elapsed_s=elapsed_s)
    assert end.stop
    assert reason in end.reason
    assert len(sequence) >= 5


def test_a_fit_that_misses_the_data_sends_visits_into_the_gaps():
    advisor = Advisor(Steering(), references_of(2), planned_eV=PLANNED)
    follow(advisor, 12, rmse=judged(references_of(2)))
    advisor.measure(0.02, misfit_share=0.8)
    reasons = []
    for seq in range(12, 20):
        advice = advisor.advise(seq)
        advisor.visit(seq, advice.energy_eV, 0.05)
        reasons.append(advice.reason)
    assert sum("misses 80%" in reason for reason in reasons) == 4


def test_without_references_gaps_are_halved_where_images_change_until_spectra_are_stable():
    spectra = nickel_states(2)
    advisor = Advisor(Steering(), planned_eV=PLANNED)
    visited = []
    for seq in range(24):
        advice = advisor.advise(seq)
        assert not advice.stop
        advisor.visit(seq, advice.energy_eV, 0.05)
        visited.append(advice.energy_eV)
        loads = spectra(np.array(visited))
        advisor.images(np.array(visited), image_changes(loads, np.random.default_rng(0).random((2, 10, 10))))
    assert len(np.unique(visited)) == 24
    assert {min(PLANNED), max(PLANNED)} <= set(np.round(visited, 6)) | {min(visited), max(visited)}
    near = sum(8335 < energy < 8365 for energy in visited)
    assert near >= 12
    for _ in range(4):
        order = np.argsort(visited)
        advisor.found(References(("1", "2"), np.array(visited)[order], spectra(np.array(visited)[order])))
    reasons = []
    for seq in range(24, 32):
        advice = advisor.advise(seq)
        advisor.visit(seq, advice.energy_eV, 0.05)
        reasons.append(advice.reason)
    assert sum("information per second" in reason for reason in reasons) == 4
    assert sum("checked" in reason for reason in reasons) == 4


def test_the_widest_change_is_halved():
    candidates = np.arange(8300.0, 8400.0, 1.0)
    visited = np.array([8300.0, 8340.0, 8350.0, 8399.0])
    assert halve_widest_gap(candidates, visited) == pytest.approx(8374, abs=1)
    change = np.abs(np.subtract.outer([0.0, 0.1, 1.0, 1.05], [0.0, 0.1, 1.0, 1.05]))
    assert halve_widest_gap(candidates, visited, change) == 8345.0
    assert halve_widest_gap(candidates[:2], candidates[:2]) is None
    images = np.random.default_rng(1).random((2, 8, 8))
    loads = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    stack = np.tensordot(loads, images, axes=1)
    expected = np.sqrt(((stack[:, None] - stack[None]) ** 2).mean(axis=(2, 3)))
    np.testing.assert_allclose(image_changes(loads, images), expected, atol=1e-12)


def test_flats_are_due_at_new_energies_and_until_there_are_eight():
    rules = Steering()
    eight = [8300.0 + k for k in range(8)]
    assert wants_flat(rules, 8300.0, flats_eV=[8300.0] * 7)
    assert not wants_flat(rules, 8300.0, flats_eV=eight)
    assert wants_flat(rules, 8310.0, flats_eV=eight)
    assert wants_flat(Steering(flats="each"), 8300.0, flats_eV=eight)
    assert not wants_flat(Steering(flats="none"), 8300.0, flats_eV=[])


def test_there_are_never_more_than_500_candidates_and_the_edge_keeps_its_grid():
    candidates = candidate_energies([(8200.0, 9200.0)], step_eV=0.5, edge_eV=8345.0)
    assert len(candidates) <= 500
    edge = candidates[(candidates > 8330) & (candidates < 8400)]
    np.testing.assert_allclose(np.diff(edge), 0.5)
    assert {8200.0, 9200.0} <= set(candidates)


def test_advice_is_quick_and_can_be_written_down():
    import time

    advisor = Advisor(Steering(target_rmse=0.01), references_of(3), planned_eV=(8200.0, 8499.0))
    follow(advisor, 60, rmse=judged(references_of(3)))
    began = time.perf_counter()
    for _ in range(5):
        advice = advisor.advise(60)
    assert (time.perf_counter() - began) / 5 < 0.1 * 3
    assert json.loads(json.dumps(asdict(advice)))["seq"] == 60


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Advisor(Steering()), BadProfileError, "steering.windows_eV"),
        (lambda: Advisor(Steering(windows_eV=((8360.0, 8400.0),)), references_of(2)), BadReferenceError, "edge"),
        (lambda: Steering(windows_eV=((8400.0, 8300.0),)), ValueError, "lowest, highest"),
        (lambda: Steering(target_rmse=-1.0), ValueError, "greater than 0"),
    ],
)
def test_bad_rules_are_one_clear_line(make, error, message):
    with pytest.raises(error, match=message):
        make()
