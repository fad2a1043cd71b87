"""The temperature by which a network's logits are divided, so that its confidence can be taken at its word.

Networks that have learned for long are too sure of themselves, heads with a strong prior not sure enough. One number,
fitted on images that the weights were not fitted to, mends most of it and changes no answer (Guo et al. 2017).

The temperature of the lowest loss goes to 0 where every image is right: n right answers would then be proof that no
mistake will ever be made. So sharpening is believed only as far as n images support it, by smoothed targets as in Platt
1999 (as if one image more had been spread over all classes). Softening needs no such care.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar

from finetune.evaluate.metrics import ECE_BINS, confidence_bins, probabilities

LOWEST, HIGHEST = 0.05, 20.0
"""Temperatures outside which none is looked for."""

MOST_LOGITS = 2_000_000
"""Numbers used at most: of more, every second, third, … image is taken. One parameter needs no more."""


def fit_temperature(logits: np.ndarray, labels: np.ndarray, loss: str = "cross_entropy") -> float:
    """The temperature at which `probabilities(logits, loss, temperature)` fits the labels best.

    The loss on these images is never higher than at temperature 1, and no answer changes.

    Args:
        logits: float [N, C], of images that the weights were not fitted to; rows that are not finite are left out.
        labels: int64 [N].
        loss: what the network was trained with.

    Returns:
        A number from `LOWEST` to `HIGHEST`, to four decimals; 1 where there is nothing to fit it to.
    """
    usable = np.isfinite(logits).all(axis=1) if logits.ndim == 2 else np.zeros(0, dtype=bool)
    logits, labels = logits[usable].astype(np.float64), labels[usable]
    if not logits.size or logits.shape[1] < 2:
        return 1.0
    every = math.ceil(logits.size / MOST_LOGITS)
    logits, labels = logits[::every], labels[::every]
    # The middle of the three: softening is taken as it is, sharpening only as far as the cautious fit allows. On a few
    # images that are all answered rightly, the plain fit would sharpen without end.
    best = _lowest(logits, labels, loss, 0.0)
    cautious = _lowest(logits, labels, loss, 1 / (len(labels) + 1))
    return round(sorted((best, 1.0, cautious))[1], 4)


def _lowest(logits: np.ndarray, labels: np.ndarray, loss: str, smoothing: float) -> float:
    """The temperature with the lowest mean loss, `smoothing` of each target spread over all classes."""
    images = np.arange(len(labels))
    tiny = np.finfo(np.float64).tiny

    # on a logarithmic scale, so that halving and doubling are steps of the same size for the search
    def mean_loss(log_temperature: float) -> float:
        logs = np.log(np.maximum(probabilities(logits, loss, math.exp(log_temperature)), tiny))
        return -float((1 - smoothing) * logs[images, labels].mean() + smoothing * logs.mean())

    bounds = (math.log(LOWEST), math.log(HIGHEST))
    optimum = minimize_scalar(mean_loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    return math.exp(float(optimum.x))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Softmax probabilities at a further temperature, float64 [N, C]."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(probabilities) / temperature
        powers = np.exp(logs - logs.max(axis=1, keepdims=True, initial=-np.inf))
        result: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return result


def ece_of_the_calibrated(probabilities: np.ndarray, draws: int = 100, seed: int = 0) -> float:
    """The calibration error that so many images show on average although every confidence is true.

    The error is a sum of absolute gaps, so chance adds to it and never takes away: with few images it is never 0.

    Args:
        probabilities: float64 [N, C]; rows that are not finite are left out.
        draws: of right and wrong answers.
        seed: of the draws.
    """
    confidence = probabilities[np.isfinite(probabilities).all(axis=1)].max(axis=1, initial=0.0)
    if not len(confidence):
        return 0.0
    random = np.random.default_rng(np.random.SeedSequence(seed))
    bins = confidence_bins(confidence, ECE_BINS)
    gaps = []
    for _ in range(draws):
        right = random.random(len(confidence)) < confidence
        gaps.append(np.abs(np.bincount(bins, weights=right - confidence, minlength=ECE_BINS)).sum())
    return float(np.mean(gaps) / len(confidence))
