"""One PNG that shows a result: mean image, map with its σ, spectra with the fit, references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from txm_stream.arrays import AnyArray, Mask, Vector
from txm_stream.io.named_images import map_images, stack_unit
from txm_stream.io.whole_file import whole_file
from txm_stream.results import Result

_LARGEST_PX = 1024
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe–Ito
_NO_VALUE = "0.85"


def save_summary(path: Path | str, result: Result, *, title: str = "", dpi: int = 110) -> Path:
    """Draw the summary figure as a PNG of ``dpi`` pixels per inch (11 to 26 inches wide); return its path.

    Top row: mean denoised image and one panel per state (or the edge-50 map). Bottom row: mean spectra inside the
    particles – noisy, denoised, fit –, the references, and the σ map (rms over states). Pixels that say nothing are
    light grey. Images above 1024 px a side are thinned for display; stacks are read frame by frame.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    maps = map_images(result)
    columns = max(3, 1 + len(maps))
    figure = Figure(figsize=(3.7 * columns, 7.4), layout="constrained", dpi=dpi)
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, columns)
    inside = inside_particles(result)
    _image(figure.add_subplot(grid[0, 0]), _mean_image(result.denoised), "mean, denoised", stack_unit(result))
    for index, named in enumerate(maps, start=1):
        limits = (0.0, 1.0) if named.unit == "abundance" else None
        _image(figure.add_subplot(grid[0, index]), named.image, named.name, named.unit, limits)
    split = columns - 1 if result.references is None else columns - 2
    _spectra(figure.add_subplot(grid[1, :split]), result, inside)
    if result.references is not None:
        _references(figure.add_subplot(grid[1, columns - 2]), result.references, result)
    last = figure.add_subplot(grid[1, columns - 1])
    if result.phase_sigma is not None:
        _image(last, np.sqrt(np.mean(np.square(result.phase_sigma), axis=0)), "σ of the map", "abundance")
    elif result.fit is not None:
        _image(last, result.fit, "reduced χ²", "")
    else:
        _metrics(last, result)
    figure.suptitle("\n".join(line for line in (title, _headline(result)) if line), fontsize=11)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png")
    return Path(path)


def inside_particles(result: Result) -> Mask:
    """Return the pixels inside the particles (y, x): edge jump above 25 % of its 98th percentile.

    Without an edge jump: where the edge-50 map says something, else the mask.
    """
    if result.scale is None and result.edge50 is not None and np.isfinite(result.edge50).any():
        return np.asarray(np.isfinite(result.edge50) & result.mask, dtype=bool)
    if result.scale is None or not np.isfinite(result.scale).any():
        return np.asarray(result.mask, dtype=bool)
    with np.errstate(invalid="ignore"):
        inside = result.scale > 0.25 * np.nanpercentile(result.scale, 98.0)
    return np.asarray(inside & result.mask, dtype=bool)


def mean_spectrum(stack: AnyArray, inside: Mask) -> Vector:
    """Average a stack (T, y, x) over pixels, frame by frame; NaN where a frame has none of them."""
    means = np.full(len(stack), np.nan)
    for index, frame in enumerate(stack):
        values = np.asarray(frame)[inside]
        values = values[np.isfinite(values)]
        if len(values):
            means[index] = float(values.mean(dtype=np.float64))
    return means


def fitted_spectrum(result: Result, inside: Mask, denoised: Vector) -> Vector | None:
    """Return the mean fit (T,): scale x abundances x references plus the background [1, E] that is left over."""
    if result.references is None or result.phase_map is None or result.scale is None:
        return None
    amount = np.nanmean((result.phase_map * result.scale)[:, inside], axis=1, dtype=np.float64)
    model = np.asarray(result.references @ amount, dtype=np.float64)
    known = np.isfinite(model) & np.isfinite(denoised)
    if known.sum() < 3:
        return None
    axis = result.energies_eV - result.energies_eV.mean()
    nuisance = np.stack([np.ones_like(axis), axis], axis=1)
    left = np.linalg.lstsq(nuisance[known], (denoised - model)[known], rcond=None)[0]
    return np.asarray(model + nuisance @ left, dtype=np.float64)


def _mean_image(stack: AnyArray) -> AnyArray:
    total, count = np.zeros(stack.shape[1:]), np.zeros(stack.shape[1:])
    for frame in stack:
        values = np.asarray(frame)
        good = np.isfinite(values)
        total[good] += values[good]
        count += good
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _image(axes: Any, image: AnyArray, title: str, unit: str, limits: tuple[float, float] | None = None) -> None:
    import matplotlib as mpl

    step = -(-max(image.shape) // _LARGEST_PX)
    finite = image[np.isfinite(image)]
    if limits is None:
        low, high = np.percentile(finite, [1.0, 99.0]) if finite.size else (0.0, 1.0)
        limits = (float(low), float(high) if high > low else float(low) + 1.0)
    colours = mpl.colormaps["cividis"].with_extremes(bad=_NO_VALUE)
    shown = axes.imshow(
        np.ma.masked_invalid(image[::step, ::step]),
        cmap=colours,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.figure.colorbar(shown, cax=axes.inset_axes((1.02, 0.0, 0.045, 1.0)), label=unit)


def _spectra(axes: Any, result: Result, inside: Mask) -> None:
    order = np.argsort(result.energies_eV, kind="stable")
    energies = result.energies_eV[order]
    denoised = mean_spectrum(result.denoised, inside)
    fit = fitted_spectrum(result, inside, denoised)
    axes.plot(energies, mean_spectrum(result.noisy, inside)[order], "o", ms=5, mfc="none", color="0.6", label="noisy")
    axes.plot(energies, denoised[order], color=_COLOURS[0], label="denoised")
    if fit is not None:
        axes.plot(energies, fit[order], "--", color=_COLOURS[1], label="fit")
    axes.set(xlabel="energy (eV)", ylabel=stack_unit(result))
    axes.set_title(f"mean of {int(inside.sum())} pixels inside", fontsize=10)
    _legend_below(axes, columns=3)


def _legend_below(axes: Any, *, columns: int) -> None:
    """Put the legend where no curve can be."""
    axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=columns)


def _references(axes: Any, references: AnyArray, result: Result) -> None:
    order = np.argsort(result.energies_eV, kind="stable")
    for j, column in enumerate(references.T):
        name = result.states[j] if j < len(result.states) else f"state {j + 1}"
        axes.plot(result.energies_eV[order], column[order], color=_COLOURS[j % len(_COLOURS)], label=name)
    axes.set(xlabel="energy (eV)", ylabel="edge jumps")
    axes.set_title("references", fontsize=10)
    _legend_below(axes, columns=1)  # names may be long


def _metrics(axes: Any, result: Result) -> None:
    axes.set_axis_off()
    lines = [f"{len(result.energies_eV)} visits", *result.warnings[:6]]
    axes.text(0.0, 1.0, "\n".join(lines), va="top", fontsize=9, transform=axes.transAxes, wrap=True)


def _headline(result: Result) -> str:
    parts = [f"{len(result.energies_eV)} visits", f"rank {result.rank}", f"σ {result.sigma:.3g} {stack_unit(result)}"]
    if np.isfinite(result.predicted_rmse):
        parts.append(f"predicted RMSE {result.predicted_rmse:.3f}")
    return " · ".join([*parts, *([result.map_method] if result.map_method else [])])
