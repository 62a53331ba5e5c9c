"""Where a model runs, and in which precision it multiplies there."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from cellscribe.config import Precision
from cellscribe.errors import InputError
from cellscribe.model.attention_cpu import has_bf16_kernel

SLOW_CPU = {
    "float32": "This CPU has no bf16 products (AVX512-BF16): float32 is taken, which is slower.",
    "bf16": "This CPU has no bf16 products (AVX512-BF16): they are emulated; float32 is faster.",
}
MATRIX_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "bf16")
"""CPU features that decide how fast a matrix product is (names of Linux's /proc/cpuinfo)."""
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(device: torch.device, wanted: Precision) -> Precision:
    """Choose the dtype of matrix products, bf16 where the hardware multiplies it.

    Raises
    ------
    InputError
        The device cannot do what is wanted.
    """
    if device.type == "cpu":
        if wanted == "fp16":
            raise InputError("a CPU has no fast fp16 products; choose bf16 or float32")
        if wanted == "auto":
            return "bf16" if has_bf16_kernel() else "float32"
        return wanted
    if wanted == "auto":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return wanted


def choose_device(name: str) -> torch.device:
    """Find a device by name; ``"auto"`` takes a GPU where there is one.

    Raises
    ------
    InputError
        There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"no device {name!r}; choose auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no CUDA device here; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"no device {name!r}; there are {torch.cuda.device_count()} GPUs")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device {name!r} is not supported; choose auto, cpu or cuda")
    return device


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Model name and matrix features of the first core; without /proc, what the platform says."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except FileNotFoundError:
        return {"model": platform.processor() or platform.machine(), "features": []}
    facts = {key.strip(): value.strip() for key, _, value in (s.partition(":") for s in lines)}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    return {
        "model": facts.get("model name", platform.machine()),
        "features": [flag for flag in MATRIX_FLAGS if flag in flags],
    }
