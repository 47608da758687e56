"""What bounds a measurement: the machine's own matrix products and copies, and what sharing a panorama can save."""

import torch

from panollava.bench.sizes import Size
from panollava.bench.turns import Side, time_in_turns

ROUNDS = 7


def machine_limits(size: Size) -> dict[str, float]:
    """Return `flops_per_s` of a square matrix product and `bytes_per_s` (read and written) of a copy, at their best."""
    # Normal numbers: products of zeros take less power, and so less time, on some GPUs.
    left, right = (torch.randn(size.matrix, size.matrix, device=size.device, dtype=size.dtype) for _ in range(2))
    source = torch.empty(size.copied_bytes, dtype=torch.uint8, device=size.device).random_()
    target = torch.empty_like(source)
    sides: dict[str, Side] = {"flops_per_s": lambda: left @ right, "bytes_per_s": lambda: target.copy_(source)}
    work = {"flops_per_s": 2 * size.matrix**3, "bytes_per_s": 2 * size.copied_bytes}
    times = time_in_turns(sides, ROUNDS)
    return {name: work[name] / (min(taken) / 1000) for name, taken in times.items()}


def sharing_bound(visual: int, tokens: int, records: int) -> float:
    """Return how many times fewer tokens K records of T tokens take behind one panorama of P: K (P + T) / (P + K T)."""
    return records * (visual + tokens) / (visual + records * tokens)


def device_name(size: Size) -> str:
    """Return what the models run on, as text."""
    return torch.cuda.get_device_name() if size.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
