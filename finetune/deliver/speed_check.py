"""The doctor's check of `finetune.speed`: its gain on this machine, and the difference it makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from finetune.device import Compute, choose, own_randomness
from finetune.evaluate.evaluation import forward_of
from finetune.model.backbones import build
from finetune.model.network import Network
from finetune.model.plan import make_plan
from finetune.train.phase import PhaseLearner
from finetune.train.state import Settings

IMAGES, ROUNDS = 32, 3
"""As many as a batch usually has; how often each way is timed, in turn."""

LARGEST = 1e-3
"""Difference of logits, as a share of the largest, up to which the two ways count as the same."""

NETWORK = "timm/mobilenetv2_035"
"""Small, and made of what most convolutional networks are made of."""


def compare_speed() -> tuple[bool, str]:
    """Whether both ways give the same answers to rounding; how much faster inference and a training step are."""
    compute = choose("cpu")
    if compute.speed == "off":
        return True, "off (FINETUNE_SPEED): plain PyTorch"
    network = build(NETWORK, ["one", "two"], weights="none", options={}, preprocess={}, head="linear", seed=0)
    size = network.preprocess.size
    pixels = torch.randint(0, 256, (IMAGES, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    fp32 = compute.in_fp32()
    ways = [forward_of(network, replace(fp32, speed=speed), images=10**6) for speed in ("off", "auto")]
    with torch.inference_mode():
        plain, fast = (way(pixels) for way in ways)
        inference = _gain([partial(way, pixels) for way in ways])
    difference = float((fast - plain).abs().max() / plain.abs().max())
    with own_randomness():
        step = _gain([_step(network, pixels, replace(compute, speed=speed)) for speed in ("off", "auto")])
    told = f"{difference:.0e} of the largest logit off plain PyTorch's answers; inference (fp32) {inference:.2f} times"
    return difference <= LARGEST, f"{told} as fast, a training step ({compute.precision}) {step:.2f} times ({NETWORK})"


def _step(network: Network, pixels: torch.Tensor, compute: Compute) -> Callable[[], object]:
    """A training step of the whole network, at a learning rate of 0."""
    plan = make_plan(
        network.groups, network.parameters, unfreeze={"all": 0}, freeze=(), epochs=1, lr=1.0, backbone_lr=1.0
    )
    module, settings = compute.place(network.module), Settings(keep_statistics=True)
    learner = PhaseLearner(module, plan, plan.phases[0], settings, compute, network.preprocess.example())
    images, labels = network.preprocess.normalise(pixels), torch.arange(IMAGES) % 2
    return lambda: learner.step([((images,), labels)], IMAGES, 0)


def _gain(ways: list[Callable[[], object]]) -> float:
    """How many times as fast the second is as the first: the least seconds of each, in turn, after one for warming."""
    seconds: list[list[float]] = [[], []]
    for number in range(1 + ROUNDS):
        for way, times in zip(ways, seconds, strict=True):
            began = time.perf_counter()
            way()
            if number:
                times.append(time.perf_counter() - began)
    return min(seconds[0]) / min(seconds[1])
