"""A picture for print: the maps, their σ, or a denoised frame, with a bar for the length and one for the colours."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from txm_stream.errors import ExportError
from txm_stream.io.named_images import NamedImage, map_images, sigma_images, stack_unit
from txm_stream.io.summary_figure import inside_particles, mean_spectrum
from txm_stream.io.whole_file import whole_file
from txm_stream.results import Result

What = Literal["map", "sigma", "frame"]
_PANEL_IN = 3.2
_DPI = 300
_NO_VALUE = "0.85"


def save_picture(
    path: Path | str,
    result: Result,
    *,
    what: What,
    energy_eV: float | None = None,
    pixel_nm: float | None = None,
    title: str = "",
) -> Path:
    """Draw maps, σ maps or a frame as a PNG of 300 pixels per inch; return its path.

    One panel per state; all panels have the same colour scale. A bar gives the length, in µm or nm where the pixel
    size is known, else in px. Pixels that say nothing are light grey.

    Parameters
    ----------
    what
        "map": abundances from 0 to 1, or the edge-50 map; "sigma": their standard deviation; "frame": one denoised
        visit.
    energy_eV
        Of the frame; the nearest visit is taken. Default: the visit at which the particles absorb most.

    Raises
    ------
    ExportError
        The result has no such image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    images = _images(result, what, energy_eV)
    rows, columns = images[0].image.shape
    width, height = _PANEL_IN * len(images) + 0.9, _PANEL_IN * min(max(rows / columns, 0.4), 2.5) + 0.5
    figure = Figure(figsize=(width, height), layout="constrained", dpi=_DPI)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(images), squeeze=False)[0]
    low, high = _limits(images, what)
    shown: Any = None
    for axes, named in zip(panels, images, strict=True):
        shown = _draw(axes, named, low, high)
    _scale_bar(panels[0], columns, pixel_nm)
    unit = images[0].unit
    figure.colorbar(shown, ax=list(panels), label=f"σ of the {unit}" if what == "sigma" else unit, shrink=0.9, pad=0.02)
    if title and len(images) > 1:
        figure.suptitle(title, fontsize=9)
    elif title:
        panels[0].set_title(f"{title}\n{images[0].name}", fontsize=9)
    with whole_file(path) as partial:
        figure.savefig(partial, format="png")
    return Path(path)


def _images(result: Result, what: What, energy_eV: float | None) -> tuple[NamedImage, ...]:
    if what == "frame":
        if energy_eV is None:
            index = int(np.nanargmax(mean_spectrum(result.denoised, inside_particles(result))))
        else:
            index = int(np.argmin(np.abs(result.energies_eV - energy_eV)))
        name = f"{result.energies_eV[index]:.2f} eV, denoised"
        return (NamedImage(name, stack_unit(result), np.asarray(result.denoised[index])),)
    images = map_images(result) if what == "map" else sigma_images(result)
    if not images:
        raise ExportError(f"the result has no {what}; there is: --what frame, or the summary without --what")
    return images


def _limits(images: tuple[NamedImage, ...], what: What) -> tuple[float, float]:
    """Return the range of the colours: 0 to 1 for abundances, from 0 for σ, percentiles for the rest."""
    if what == "map" and images[0].unit == "abundance":
        return 0.0, 1.0
    values = np.concatenate([named.image[np.isfinite(named.image)].ravel() for named in images])
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    low = 0.0 if what == "sigma" else float(low)
    return low, float(high) if high > low else low + 1.0


def _draw(axes: Any, named: NamedImage, low: float, high: float) -> Any:
    import matplotlib as mpl

    colours = mpl.colormaps["cividis"].with_extremes(bad=_NO_VALUE)
    image = np.ma.masked_invalid(named.image)
    axes.set_title(named.name.removeprefix("sigma "), fontsize=10)
    axes.set_axis_off()
    return axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="nearest")


def _scale_bar(axes: Any, columns: int, pixel_nm: float | None) -> None:
    """Draw a bar of a round length, at most a quarter of the image, into the lower left corner."""
    from matplotlib.font_manager import FontProperties
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    length, label = bar_length(columns * (pixel_nm or 1.0) / 4.0, nm=pixel_nm is not None)
    pixels = length / (pixel_nm or 1.0)
    bar = AnchoredSizeBar(
        axes.transData,
        *(pixels, label, "lower left"),
        pad=0.4,
        borderpad=0.5,
        sep=3,
        color="white",
        label_top=True,
        size_vertical=columns / 120.0,
        fill_bar=True,
        fontproperties=FontProperties(size=9),
    )
    bar.patch.set(facecolor="black", edgecolor="none", alpha=0.55)
    axes.add_artist(bar)


def bar_length(most: float, *, nm: bool) -> tuple[float, str]:
    """Return the largest of 1, 2, 5 × 10ⁿ that is at most ``most``, in nm or px, with its label."""
    power = 10.0 ** math.floor(math.log10(most))
    length = next(factor * power for factor in (5.0, 2.0, 1.0) if factor * power <= most * (1 + 1e-9))
    if not nm:
        return length, f"{length:g} px"
    return length, f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
