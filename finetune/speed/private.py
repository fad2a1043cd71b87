"""PyTorch's private names that this room uses, and a check that each measure still works with them.

A measure is tried once, on a few numbers, before it is used. A name that is missing in this version of PyTorch, or that
gives other numbers, turns that one measure off with one warning; PyTorch's own way is taken instead.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

PRIVATE = {
    "fused convolutions": ("ops.mkldnn._convolution_pointwise",),
    "gradients of convolutions": (
        "ops.aten.convolution_backward",
        "ops.aten.hardtanh_backward",
        "ops.aten.threshold_backward",
    ),
    "ReLU of bf16 by its bits": ("ops.aten.threshold_backward", "Tensor._is_view"),
    "linear layers by oneDNN": ("ops.mkldnn._linear_pointwise",),
    "kept lists of Adam": ("_fused_adam_", "_fused_adamw_", "_foreach_add_"),
}
"""Measure → the names below `torch` that it needs."""


class Unsupported(Exception):
    """The processor cannot do it, which is nobody's fault: the measure is off without a warning."""


def works(measure: str, check: Callable[[], bool]) -> bool:
    """Whether a measure may be used; to be called once, as it may warn.

    Args:
        measure: one of `PRIVATE`.
        check: tries it; true if the numbers are those of PyTorch's own way. It may raise anything.
    """
    try:
        if check():
            return True
        problem = "it gives other numbers than PyTorch's own way"
    except Unsupported:
        return False
    except Exception as error:  # a name that is gone, or that takes other arguments, raises whatever it raises
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    names = ", ".join(f"torch.{name}" for name in PRIVATE[measure])
    warnings.warn(
        f"{measure}: off with this version of PyTorch ({problem}; it uses {names}). The results stay the same, "
        "they only take longer",
        RuntimeWarning,
        stacklevel=2,
    )
    return False
