"""The denoiser protocol, its registry of entry points, and the check every denoiser passes."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

import numpy as np

from txm_stream.arrays import Image, Stack
from txm_stream.errors import BadProfileError, TxmStreamError

GROUP = "txm_stream.denoisers"


@runtime_checkable
class Denoiser(Protocol):
    """Callable that removes white Gaussian noise of standard deviation ``sigma`` from an image (y, x).

    One that sets ``takes_sigma_map = True`` also takes ``sigma`` as an image (y, x); one that has
    ``many(images, sigma)`` denoises several images of equal noise at once, each by itself; one that has
    ``components(images, sigma)`` denoises the components of one stack, whose edges are in the same places, together; a
    class with ``takes_device = True`` is made with ``device="cpu"`` or ``"cuda"``.
    """

    def __call__(self, image: Image, sigma: float) -> Image:
        """Return the denoised image, float32, same shape; the input stays as it is."""
        ...


def takes_sigma_map(denoiser: Denoiser) -> bool:
    """Whether a denoiser is told how the noise differs from pixel to pixel."""
    return bool(getattr(denoiser, "takes_sigma_map", False))


def denoise_images(images: Stack, sigma: float | Image, denoiser: Denoiser) -> Stack:
    """Return images (n, y, x) denoised; noise ``sigma`` as (y, x) becomes its rms where the denoiser takes no map."""
    told = _told(sigma, denoiser)
    many = getattr(denoiser, "many", None)
    if many is not None:
        return np.asarray(many(images, told))
    return np.stack([denoiser(np.ascontiguousarray(image), told) for image in images])  # type: ignore[arg-type]


def denoise_components(images: Stack, sigma: float | Image, denoiser: Denoiser) -> Stack:
    """Return the components (K, y, x) of one stack denoised: together, where the denoiser knows how."""
    together = getattr(denoiser, "components", None)
    if together is None:
        return denoise_images(images, sigma, denoiser)
    return np.asarray(together(images, _told(sigma, denoiser)))


def denoise_mirrored(images: Stack, sigma: float | Image, denoiser: Denoiser, *, up: int = 1, along: int = 1) -> Stack:
    """Return what :func:`denoise_components` makes of components seen mirrored: −1 turns y (``up``) or x (``along``).

    What a denoiser prefers of one orientation does not add up in the mean of several (cycle spinning: Coifman and
    Donoho 1995, DOI 10.1007/978-1-4612-2544-7_9).
    """
    seen = sigma if np.ndim(sigma) == 0 else np.ascontiguousarray(np.asarray(sigma)[::up, ::along])
    return denoise_components(images[:, ::up, ::along], seen, denoiser)[:, ::up, ::along]


def _told(sigma: float | Image, denoiser: Denoiser) -> float | Image:
    if np.ndim(sigma) and not takes_sigma_map(denoiser):
        return float(np.sqrt(np.mean(np.square(sigma, dtype=np.float64))))
    return sigma


def available_denoisers() -> tuple[str, ...]:
    """Return the names of installed denoisers (an entry may still lack its optional package)."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def load_denoiser(name: str, *, device: str = "cpu") -> Denoiser:
    """Return the denoiser ``name``; ``"auto"`` is the best one for final results: the UNet.

    ``device`` is "cpu" or "cuda"; denoisers that know only the CPU stay there.

    Raises
    ------
    BadProfileError
        There is no such denoiser, or its optional package is missing.
    """
    wanted = "unet" if name == "auto" else name
    for entry in entry_points(group=GROUP):
        if entry.name == wanted:
            try:
                make = entry.load()
                loaded: Denoiser = make(device=device) if getattr(make, "takes_device", False) else make()
            except ImportError as error:
                raise BadProfileError(
                    f"denoiser {wanted!r} needs a package that is missing: pip install 'txm-stream[{wanted}]'"
                ) from error
            return loaded
    raise BadProfileError(f"no denoiser {name!r}; available: {', '.join(available_denoisers())}")


def check_denoiser(denoiser: Denoiser, *, size: int = 96, seed: int = 0) -> None:
    """Check that ``denoiser`` keeps the contract; raise :class:`TxmStreamError` naming what it breaks.

    It must keep shape, dtype and input, return finite values, remove noise (error below 85 % of the noise on a
    piecewise smooth image at three levels), keep a constant, commute with scaling to 5 % of the noise, and give
    the same answer twice (to 1e-4 of the noise). Its ``many`` must answer as it does image by image, its
    ``components`` be no worse than that.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, : size + 7] / size
    clean = ((y - 0.5) ** 2 + (x - 0.5) ** 2 < 0.1) * 1.0 + 0.3 * np.sin(3 * x) + (y > 0.7) * 0.4
    for sigma in (0.02, 0.1, 0.4):
        noisy = (clean + sigma * rng.standard_normal(clean.shape)).astype(np.float32)
        kept = noisy.copy()
        out = denoiser(noisy, sigma)
        if not np.array_equal(noisy, kept):
            raise TxmStreamError("denoiser changed its input; it must return a new array")
        if out.shape != noisy.shape or out.dtype != np.float32:
            raise TxmStreamError(f"denoiser returned {out.shape} {out.dtype}, expected {noisy.shape} float32")
        if not np.isfinite(out).all():
            raise TxmStreamError("denoiser returned values that are not finite")
        error = float(np.sqrt(np.mean((out - clean) ** 2)))
        if error > 0.85 * sigma:
            raise TxmStreamError(
                f"denoiser leaves an error of {error:.3g} at noise {sigma:g}; expected below {0.85 * sigma:.3g}"
            )
        if not np.allclose(out, denoiser(noisy, sigma), rtol=0, atol=1e-4 * sigma):
            raise TxmStreamError("denoiser gives two answers for one input; fix its seed")
        scaled = denoiser((100 * noisy).astype(np.float32), 100 * sigma) / 100
        if float(np.sqrt(np.mean((scaled - out) ** 2))) > 0.05 * sigma:
            raise TxmStreamError("denoiser does not scale: D(100 y, 100 sigma) must be 100 D(y, sigma)")
    flat = np.full((size, size), 3.0, dtype=np.float32)
    if float(np.abs(denoiser(flat, 0.1) - 3.0).max()) > 0.01:
        raise TxmStreamError("denoiser changes a constant image")
    _check_several(denoiser, clean, rng)


def _check_several(denoiser: Denoiser, clean: Image, rng: np.random.Generator) -> None:
    truth = np.stack([clean, 0.3 * clean[::-1], 0.2 * clean[:, ::-1]])
    sigma = 0.1
    noisy = (truth + sigma * rng.standard_normal(truth.shape)).astype(np.float32)
    single = np.stack([denoiser(image, sigma) for image in noisy])
    for name, allowed in (("many", 1.0), ("components", 1.1)):
        several = getattr(denoiser, name, None)
        if several is None:
            continue
        out = np.asarray(several(noisy, sigma))
        if out.shape != noisy.shape or out.dtype != np.float32 or not np.isfinite(out).all():
            raise TxmStreamError(f"denoiser's {name}() must return finite float32 of shape {noisy.shape}")
        if name == "many" and not np.allclose(out, single, rtol=0, atol=1e-3 * sigma):
            raise TxmStreamError("denoiser's many() must answer as the denoiser does image by image")
        if np.mean((out - truth) ** 2) > allowed**2 * np.mean((single - truth) ** 2) + 1e-6 * sigma**2:
            raise TxmStreamError(f"denoiser's {name}() leaves a larger error than the denoiser does image by image")
