"""What is decided by the kind of processor."""

from __future__ import annotations

import pytest
import torch

from finetune.device import bf16_is_fast, choose
from finetune.speed.processor import mkl_is_slow

ZEN5 = {"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_bf16": True, "amx_bf16": False}
ZEN3 = {"cpu_name": "AMD EPYC", "avx512_f": False, "avx512_bf16": False, "amx_bf16": False}
XEON = {"cpu_name": "Intel Xeon", "avx512_f": True, "avx512_bf16": True, "amx_bf16": True}
XEON_WITHOUT_AMX = {**XEON, "amx_bf16": False}
UNKNOWN: dict[str, object] = {}


def be(processor: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)


@pytest.mark.parametrize(
    ("processor", "slow"),
    [(ZEN5, True), (ZEN3, False), (XEON, False), (XEON_WITHOUT_AMX, False), (UNKNOWN, False)],
)
def test_where_mkl_is_slow(processor: dict[str, object], slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    be(processor, monkeypatch)
    mkl_is_slow.cache_clear()
    try:
        assert mkl_is_slow() is slow
    finally:
        mkl_is_slow.cache_clear()


@pytest.mark.parametrize(
    ("processor", "fast"),
    [(ZEN5, True), (ZEN3, False), (XEON, True), (XEON_WITHOUT_AMX, False), (UNKNOWN, False)],
)
def test_where_bf16_is_the_default(processor: dict[str, object], fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    be(processor, monkeypatch)
    assert bf16_is_fast() is fast
    assert choose("cpu").precision == ("bf16" if fast else "fp32")
    assert choose("cpu", light=True).precision == "fp32"
    assert choose("cpu", "bf16").precision == "bf16"
