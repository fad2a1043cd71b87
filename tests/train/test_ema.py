"""Averaged weights, and the statistics that belong to them."""

from __future__ import annotations

import torch
from torch import nn

from finetune.train.optimizer import Ema


def test_weights_and_statistics_are_averaged_together() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    learning = frozenset(name for name, _ in network[:2].named_parameters())
    ema = Ema(network, 0.5, learning)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    averaged = {*learning, "1.running_mean", "1.running_var"}
    for step in range(1, 6):
        decay = min(0.5, (1 + step) / (10 + step))
        network(torch.randn(8, 4) + step)  # moves the statistics
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        ema.update(step)
        for name, value in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if name in averaged else value.clone()
    live = {name: value.clone() for name, value in network.state_dict().items()}
    ema.swap()
    torch.testing.assert_close(dict(network.state_dict()), expected)
    ema.swap()
    torch.testing.assert_close(dict(network.state_dict()), live, rtol=0, atol=0)
