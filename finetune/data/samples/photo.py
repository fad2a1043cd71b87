"""What a camera does to a picture: light, lens, sensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from finetune.data.samples.chance import uniform


def develop(rng: np.random.Generator, picture: Image.Image, size: int) -> Image.Image:
    """The finished photograph, `size` pixels square, of an RGB picture drawn several times larger.

    Lens blur, downsampling, haze, exposure, colour temperature, contrast, vignette and sensor noise, each at random.
    """
    small = picture.resize((size, size), Image.Resampling.BOX)
    if rng.random() < 0.5:
        small = small.filter(ImageFilter.GaussianBlur(uniform(rng, 0.2, 1.0) * size / 128))
    light = np.asarray(small, dtype=np.float64) / 255
    haze = uniform(rng, 0.0, 0.35) if rng.random() < 0.3 else 0.0
    light = light * (1 - haze) + haze * np.array([0.78, 0.80, 0.82])
    warm = rng.normal(0, 0.07)
    light = light * np.array([1 + warm, 1 + rng.normal(0, 0.02), 1 - warm]) * float(np.exp(rng.normal(0.05, 0.15)))
    light = _vignette(rng, light, size)
    light = np.clip(light, 0, 1) ** float(np.exp(rng.normal(-0.08, 0.16)))
    light = (light - 0.5) * uniform(rng, 0.75, 1.15) + 0.5
    noise = uniform(rng, 0.003, 0.03)
    light = light + rng.normal(0, noise, light.shape) + rng.normal(0, noise * 0.7, light.shape[:2])[..., None]
    return Image.fromarray(np.clip(light * 255, 0, 255).astype(np.uint8))


def _vignette(rng: np.random.Generator, light: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Darker towards the edges, and a gradient as of a shadow that falls across the scene."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    fall = 1 - uniform(rng, 0.0, 0.35) * (x * x + y * y) / 2
    angle = uniform(rng, 0, 2 * np.pi)
    slope = 1 + uniform(rng, 0.0, 0.25) * (x * np.cos(angle) + y * np.sin(angle))
    return np.asarray(light * (fall * slope)[..., None])
