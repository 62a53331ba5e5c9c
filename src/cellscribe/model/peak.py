"""Peak of this machine: matrix products and nothing else, in GFLOP/s.

A share of a measured peak is more exact than one of a data sheet, which does not know the clock and
the core count of this machine. The peak is the fastest of many repeats: all slower ones were
disturbed. There are two shapes: 2048^3, where the machine does best, and 4096 x 256 x 768, the
product of a batch of tokens in the 10M encoder. On a GPU 8192^3 replaces the first, because 2048^3
does not fill one.
"""

from __future__ import annotations

import time

SHAPES = ((2048, 2048, 2048), (4096, 256, 768))
GPU_SHAPES = ((8192, 8192, 8192), (4096, 256, 768))


def measure_peak(
    device: str = "cpu",
    *,
    seconds: float = 1.0,
    shapes: tuple[tuple[int, int, int], ...] | None = None,
) -> dict[str, dict[str, float]]:
    """Fastest matrix product by dtype and shape.

    Parameters
    ----------
    device
        Where to multiply.
    seconds
        Time spent on each dtype and shape, at least three products whatever they take.
    shapes
        ``(M, K, N)`` of the products ``[M, K] @ [K, N]``.

    Returns
    -------
    dict
        ``{"float32": {"2048x2048x2048": GFLOP/s, ...}, "bf16": {...}}``, a product-sum being two
        operations.
    """
    import torch

    shapes = shapes or (SHAPES if torch.device(device).type == "cpu" else GPU_SHAPES)
    dtypes = {"float32": torch.float32, "bf16": torch.bfloat16}
    with torch.inference_mode():
        return {
            name: {
                "x".join(map(str, shape)): _gflops(shape, dtype, device, seconds)
                for shape in shapes
            }
            for name, dtype in dtypes.items()
        }


def _gflops(shape: tuple[int, int, int], dtype: object, device: str, seconds: float) -> float:
    import torch

    m, k, n = shape
    left = torch.randn(m, k, device=device).to(dtype)  # type: ignore[call-overload]
    right = torch.randn(k, n, device=device).to(dtype)  # type: ignore[call-overload]
    out = left @ right
    on_gpu = out.device.type == "cuda"
    # A launch costs as much as a small product: time ten of them together.
    together = 10 if on_gpu else 1
    best, deadline, repeats = float("inf"), time.perf_counter() + seconds, 0
    while repeats < 3 or time.perf_counter() < deadline:
        if on_gpu:
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(together):
            torch.matmul(left, right, out=out)
        if on_gpu:
            torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - start) / together)
        repeats += 1
    return 2e-9 * m * k * n / best


def highest(peaks: dict[str, dict[str, float]]) -> float:
    """Fastest of all dtypes and shapes, GFLOP/s."""
    return max(rate for by_shape in peaks.values() for rate in by_shape.values())
