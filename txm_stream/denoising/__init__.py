"""Image denoisers as plug-ins: each is a prox, ``(image, sigma) -> image`` of the same shape and dtype."""

from __future__ import annotations

from txm_stream.denoising.plugin import (
    Denoiser,
    available_denoisers,
    check_denoiser,
    denoise_components,
    denoise_images,
    denoise_mirrored,
    load_denoiser,
    takes_sigma_map,
)

__all__ = [
    "Denoiser",
    "available_denoisers",
    "check_denoiser",
    "denoise_components",
    "denoise_images",
    "denoise_mirrored",
    "load_denoiser",
    "takes_sigma_map",
]
