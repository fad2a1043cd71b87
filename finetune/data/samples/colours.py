"""One palette for everything drawn, so that no colour belongs to a class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from finetune.data.samples.solid import Colour

PAINTS: tuple[Colour, ...] = (
    (196, 36, 40), (226, 112, 34), (238, 190, 40), (92, 148, 54), (36, 106, 72), (44, 142, 160),
    (40, 86, 168), (30, 48, 96), (112, 58, 132), (128, 40, 52), (142, 98, 60), (206, 186, 148),
    (236, 236, 232), (178, 182, 186), (112, 116, 122), (50, 52, 58),
)  # fmt: skip
"""Paints of vehicles, buildings, fences, clothes and signs."""

SKINS: tuple[Colour, ...] = ((232, 190, 160), (198, 144, 108), (146, 98, 68), (92, 62, 46))


@dataclass(frozen=True)
class Paint:
    """The colours of one vehicle."""

    body: Colour
    trim: Colour
    load: Colour
    glass: Colour
    tyre: Colour
    rim: Colour
    metal: Colour
    dark: Colour
    lamp: Colour
    tail: Colour
    skin: Colour
    top: Colour
    legs: Colour


def jitter(rng: np.random.Generator, colour: Colour, amount: float = 18.0) -> Colour:
    """A colour near `colour`, 0 to 255."""
    r, g, b = np.clip(np.asarray(colour) + rng.normal(0, amount / 2, 3) + rng.normal(0, amount), 4, 251).tolist()
    return r, g, b


def any_paint(rng: np.random.Generator) -> Colour:
    """A colour out of the palette, jittered."""
    return jitter(rng, PAINTS[int(rng.integers(len(PAINTS)))])


def any_paints(rng: np.random.Generator) -> Paint:
    """The colours of a vehicle, drawn alike for every class."""
    body = any_paint(rng)
    dark = jitter(rng, (44, 46, 50), 8)
    sky = rng.uniform(0.0, 1.0)
    glass = jitter(rng, (60 + 90 * sky, 74 + 98 * sky, 88 + 104 * sky), 8)
    return Paint(
        body=body,
        trim=body if rng.random() < 0.4 else any_paint(rng),
        load=any_paint(rng),
        glass=glass,
        tyre=jitter(rng, (38, 38, 40), 7),
        rim=any_paint(rng) if rng.random() < 0.35 else jitter(rng, (176, 178, 182), 22),
        metal=jitter(rng, (150, 152, 156), 20),
        dark=dark,
        lamp=(250, 244, 214),
        tail=(206, 40, 36),
        skin=SKINS[int(rng.integers(len(SKINS)))],
        top=any_paint(rng),
        legs=any_paint(rng),
    )
