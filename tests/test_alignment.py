"""Alignment: known shifts, sign convention, large shifts, frames that show nothing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from txm_stream import align_stack
from txm_stream.alignment.batch import register_batch
from txm_stream.alignment.causal import CausalRegistration
from txm_stream.alignment.matching import coarse_shift, taper
from txm_stream.errors import BadProfileError, BadStackError
from txm_stream.metrics import shift_rmse_px
from txm_stream.phantoms import growing_scan, make_phantom, nickel_energies
from txm_stream.resampling import shift_image

ENERGIES = nickel_energies(24)


def measured(shape=(128, 128), *, amplitude=2.0, photons=500.0, seed=0, margin=24, chemistry="core-shell"):
    phantom = make_phantom(shape, seed=seed, margin=margin, chemistry=chemistry)
    rng = np.random.default_rng(seed)
    motion = amplitude * rng.uniform(-1, 1, (len(ENERGIES), 2))
    clean = phantom.stack(ENERGIES, motion)
    counts = rng.poisson(photons * np.exp(-clean)).astype(np.float32)
    return -np.log(np.maximum(counts, 0.5) / photons), motion, phantom


def in_white_noise(seed, chemistry, level=10):
    """Return a stack with noise of ``level``/255 of its range, its motion, the clean stack, σ, and the phantom."""
    phantom = make_phantom((192, 256), seed=seed, chemistry=chemistry)
    rng = np.random.default_rng(seed)
    motion = rng.uniform(-2, 2, (len(ENERGIES), 2))
    clean = phantom.stack(ENERGIES, motion)
    sigma = level / 255 * float(np.ptp(clean))
    return clean + np.float32(sigma) * rng.standard_normal(clean.shape, dtype=np.float32), motion, clean, sigma, phantom


@pytest.mark.parametrize(("seed", "chemistry"), [(0, "core-shell"), (1, "core-shell"), (1, "region"), (3, "region")])
def test_known_shifts_are_recovered(seed, chemistry):
    stack, motion, phantom = measured(seed=seed, chemistry=chemistry)
    found = align_stack(stack, energies_eV=ENERGIES)
    assert found.keep.all()
    assert shift_rmse_px(found.shifts_px, motion) < 0.06
    # the registered stack shows the phantom where it was measured, up to the free common offset
    offset = (found.shifts_px + motion).mean(axis=0)
    inner = found.mask & phantom.inside
    truth = shift_image(phantom.optical_density(float(ENERGIES[-1])), offset)
    assert np.std((found.stack[-1] - truth)[inner]) < 0.12
    assert np.isnan(found.stack[:, ~found.mask]).all()
    assert 0 < np.median(found.sigma_px) < 0.1


@pytest.mark.parametrize(("seed", "chemistry"), [(1, "core-shell"), (1, "region"), (2, "core-shell")])
def test_shifts_that_look_like_chemistry_are_found(seed, chemistry):
    """Errors in proportion to a chemical loading are another chemistry to first order; only edges tell them apart."""
    stack, motion, _, _, phantom = in_white_noise(seed, chemistry)
    found = align_stack(stack)
    loads = np.linalg.svd(phantom.stack(ENERGIES).reshape(len(ENERGIES), -1), full_matrices=False)[0]
    direction = loads[:, 1] / loads[:, 0]
    direction -= direction.mean()
    error = found.shifts_px + motion
    error -= error.mean(axis=0)
    along = np.abs(direction @ error) / np.linalg.norm(direction)
    print(
        f"error {shift_rmse_px(found.shifts_px, motion):.4f} px, along the chemistry {along / np.sqrt(len(ENERGIES))}"
    )
    assert shift_rmse_px(found.shifts_px, motion) < 0.03
    assert np.sqrt(np.mean(error**2)) < 2 * np.sqrt(np.mean(found.sigma_px**2))


def test_shift_is_what_is_applied_to_the_data():
    phantom = make_phantom((96, 96), seed=1)
    frame = phantom.optical_density(8450.0)
    moved = phantom.optical_density(8450.0, (3.0, -5.0))  # features 3 px further down and 5 px to the left
    window = taper((96, 96))
    coarse = coarse_shift(moved, frame, window, around=None, reach_px=20)
    np.testing.assert_allclose(coarse, [-3, 5], atol=1)  # the Newton steps do the rest
    both = align_stack(np.stack([frame, moved]) + 0.001 * np.random.default_rng(0).standard_normal((2, 96, 96)))
    np.testing.assert_allclose(both.shifts_px[1] - both.shifts_px[0], [-3, 5], atol=0.02)
    inner = (slice(12, -12), slice(12, -12))
    np.testing.assert_allclose(shift_image(moved, [-3, 5])[inner], frame[inner], atol=1e-3)


@pytest.mark.parametrize(("seed", "chemistry"), [(0, "core-shell"), (1, "core-shell"), (1, "region")])
def test_causal_registration_does_not_take_chemistry_for_motion(seed, chemistry):
    """One white-line frame, then in order of energy; the bound is .014 px, one template reads .04 px and more."""
    stack, motion, clean, sigma, _ = in_white_noise(seed, chemistry)
    first = int(np.argmax(clean.mean(axis=(1, 2))))
    causal = CausalRegistration((192, 256))
    shifts, errors = np.zeros_like(motion), np.zeros(len(motion))
    for t in [first, *(t for t in range(len(motion)) if t != first)]:
        found = causal.partial_fit(stack[t], sigma)
        shifts[t], errors[t] = found.shift_px, found.sigma_px
    rms = shift_rmse_px(shifts, motion)
    print(f"causal {rms:.4f} px, said {np.sqrt(np.mean(errors**2)):.4f} px")
    assert rms < 0.032
    assert 0.4 < np.sqrt(np.mean(errors**2)) / rms < 1.3


def test_causal_registration_follows_shifts_of_twenty_pixels():
    phantom = make_phantom((128, 128), seed=5, margin=32)
    rng = np.random.default_rng(0)
    motion = np.array([[0, 0], [20, -20], [-20, 20], [18, 19], [-19, -17], [0, 20]], dtype=float)
    causal = CausalRegistration((128, 128))
    applied = []
    for shift in motion:
        frame = phantom.optical_density(8352.0, shift) + 0.05 * rng.standard_normal((128, 128))
        found = causal.partial_fit(frame.astype(np.float32), 0.05)
        assert found.accepted
        applied.append(found.shift_px)
    assert shift_rmse_px(np.array(applied), motion) < 0.1


def test_shifts_of_twenty_pixels_in_a_scan():
    stack, motion, _ = measured(amplitude=10.0, margin=32, seed=4)
    stack, motion = stack[8:18], motion[8:18] * 2
    phantom = make_phantom((128, 128), seed=4, margin=32)
    clean = phantom.stack(ENERGIES[8:18], motion)
    stack = clean + 0.05 * np.random.default_rng(0).standard_normal(clean.shape, dtype=np.float32)
    found = align_stack(stack)
    assert found.keep.all()
    assert np.abs(motion).max() > 15
    assert shift_rmse_px(found.shifts_px, motion) < 0.1


def test_a_single_visit_far_from_many_at_rest_is_no_false_peak():
    """A steered scan repeats energies, whose visits share a shift; the one white-line frame is elsewhere."""
    phantom = make_phantom((128, 128), n_states=3, seed=1)
    rng = np.random.default_rng(2)
    energies = np.array([8352.5, *[8349.5] * 12, *[8345.0] * 6, 8516.5, 8777.0, 8341.0])
    motion = np.repeat(0.4 * rng.standard_normal((6, 2)), [1, 12, 6, 1, 1, 1], axis=0)
    motion[0] = 4.5, 5.0
    stack = phantom.stack(energies, motion) + np.float32(0.05) * rng.standard_normal((22, 128, 128), dtype=np.float32)
    found = register_batch(stack, np.full(22, 0.05))
    assert found.keep.all()
    assert shift_rmse_px(found.shifts_px, motion) < 0.1


@pytest.mark.parametrize("seed", [0, 3])
def test_another_particle_that_looks_alike_is_a_false_peak_however_clear(seed):
    """Before the edge something else shows, at a high signal: its brightest grain matches the brightest one later."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]

    def grain(row, column, radius):
        return np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * radius**2))

    sample = grain(57, 60, 5) + 0.5 * grain(48, 50, 14)
    other = grain(60, 40, 4) + 0.25 * sum(grain(*place, 2) for place in rng.uniform(8, 88, (14, 2)))
    shown = np.r_[np.full(10, 0.02), np.linspace(0.1, 1, 8), np.ones(18)]
    amount = np.r_[0.02, 0.02, 0.03, 0.19, 0.09, 0.05, 0.05, 0.08, 0.07, 0.05, np.full(26, 0.05)]
    motion = 0.4 * rng.standard_normal((36, 2))
    pairs = zip(shown, amount, motion, strict=True)
    stack = np.stack([ndimage.shift(a * sample + b * other, move) for a, b, move in pairs]).astype(np.float32)
    stack += 0.001 * rng.standard_normal(stack.shape, dtype=np.float32)
    found = register_batch(stack, np.full(36, 0.001))
    assert found.keep.all()
    assert shift_rmse_px(found.shifts_px, motion) < 0.05


def test_frames_that_show_nothing_are_rejected():
    stack, motion, _ = measured(seed=2)
    rng = np.random.default_rng(0)
    stack[5] = rng.standard_normal(stack[5].shape) * 3
    stack[9] = np.nan
    found = align_stack(stack)
    assert not found.keep[9]
    assert not found.keep[5]
    assert found.keep.sum() == len(stack) - 2
    assert np.isnan(found.stack[[5, 9]]).all()
    assert np.isnan(found.sigma_px[[5, 9]]).all()
    kept = found.keep
    assert shift_rmse_px(found.shifts_px[kept], motion[kept]) < 0.06


def test_bad_pixels_stay_bad_and_do_not_move_the_result():
    stack, motion, _ = measured(seed=0)
    holed = stack.copy()
    holed[:, 40:43, 60] = np.nan
    found = align_stack(holed)
    assert shift_rmse_px(found.shifts_px, motion) < 0.08
    hole = np.isnan(found.stack[3]) & found.mask
    y, x = np.argwhere(hole).mean(axis=0)
    np.testing.assert_allclose([y, x], [41 + found.shifts_px[3, 0], 60 + found.shifts_px[3, 1]], atol=1)


def test_a_registered_stack_stays_where_it_is():
    stack, _, _ = measured(amplitude=0.0, seed=6)
    found = align_stack(stack)
    assert np.sqrt(np.mean(found.shifts_px**2)) < 0.06


@pytest.mark.parametrize(
    ("stack", "energies", "error", "message"),
    [
        (np.zeros((5, 40, 40)), None, BadStackError, "no frame"),
        (np.full((5, 40, 40), np.nan), None, BadStackError, "no frame"),
        (np.zeros((40, 40)), None, BadStackError, "expected numbers"),
        (np.zeros((3, 20, 20)), None, BadStackError, "at least 32"),
        (np.random.default_rng(0).random((4, 40, 40)), ENERGIES, BadStackError, "24 energies for 4 frames"),
    ],
)
def test_bad_input_is_one_clear_line(stack, energies, error, message):
    with pytest.raises(error, match=message):
        align_stack(stack, energies_eV=energies)


def test_an_unknown_device_is_refused():
    with pytest.raises(BadProfileError, match="'auto', 'cpu' and 'cuda'"):
        align_stack(np.zeros((3, 40, 40)), device="tpu")


@pytest.mark.parametrize("mode", ["proportional", "fitted"])
def test_magnification_that_grows_with_energy(mode):
    scan = growing_scan()
    found = align_stack(scan.stack, energies_eV=scan.energies_eV, magnification=mode)
    error = scan.placement_error_px(found.shifts_px, found.magnification)
    print(f"{mode}: growth {found.growth:.4f} ± {found.growth_sigma:.4f}, error {error:.3f} px")
    assert found.keep.all()
    assert found.growth == pytest.approx(1.0, abs=0.02)
    assert error < 0.05
    without = align_stack(scan.stack)
    assert scan.placement_error_px(without.shifts_px, without.magnification) > 10 * error


@pytest.mark.parametrize("mode", ["proportional", "fitted"])
def test_drift_of_twenty_pixels_and_growth_with_particles_leaving_the_field(mode):
    scan = growing_scan(drift_px=20.0, seed=0)
    found = align_stack(scan.stack, energies_eV=scan.energies_eV, magnification=mode)
    error = scan.placement_error_px(found.shifts_px, found.magnification)
    print(f"{mode}: growth {found.growth:.4f} ± {found.growth_sigma:.4f}, error {error:.3f} px")
    assert found.keep.all()
    assert error < 0.15


def test_no_magnification_is_found_where_there_is_none():
    scan = growing_scan(growth=0.0)
    found = align_stack(scan.stack, energies_eV=scan.energies_eV, magnification="fitted")
    assert abs(found.growth) < max(4 * found.growth_sigma, 0.005)
    assert scan.placement_error_px(found.shifts_px, found.magnification) < 0.05
