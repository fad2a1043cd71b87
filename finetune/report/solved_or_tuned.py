"""What a gate has said of the solved head and the tuned network, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.report.tables import number


def gate_sentence(gate: Mapping[str, Any] | None) -> str:
    """Which of the two was kept and why, with the figures of both; empty where nothing was to be chosen.

    Args:
        gate: as `finetune.train.gate.decide` gives it.
    """
    if gate is None:
        return ""
    solved, tuned = (
        f"macro F1 {number(gate[name]['macro_f1'])}, accuracy {number(gate[name]['accuracy'])}"
        for name in ("solved", "tuned")
    )
    change = gate["difference"]
    low, high = (f"{bound:+.3f}" for bound in change["macro_f1_ci95"])
    figures = (
        f"on {gate['images']:,} validation images that neither had learned from, tuned: {tuned}; solved: {solved} "
        f"(macro F1 {change['macro_f1']:+.3f}, 95 % interval {low} to {high}; McNemar's p {gate['p']:.2g})"
    )
    if gate["kept"] == "tuned":
        return f"tuning paid, and the tuned network was kept: {figures}"
    return f"tuning did not clearly pay, and the solved head of all these images was kept: {figures}"
