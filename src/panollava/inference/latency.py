"""How long an answer takes, in milliseconds: medians over a few panoramas after a warm-up, and the peak of the memory.

One panorama and one question at a time, as a person asks; the image is decoded already.
"""

import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from PIL import Image

from panollava.corpus.messages import with_question
from panollava.inference.engine import Engine
from panollava.inference.prompts import Prefix, Row, split_prompts

Result = TypeVar("Result")
DECODED_TOKENS = 16
# On a GPU, work runs as it is once and is captured as a CUDA graph the second time.
WARM_UPS = 2
QUESTIONS = ("What does the panorama show?", "In which direction is the nearest object?")


@torch.inference_mode()
def measure_latency(engine: Engine, panoramas: Sequence[Image.Image]) -> dict[str, float]:
    """Return the latencies on `panoramas`, the first of which is the warm-up and counts only if it is the only one.

    projection_ms: from the panorama to its views.
    encoder_ms: the views through the image encoder.
    first_token_ms: panorama and question to the first token, views and encoder included.
    per_token_ms: each further token.
    follow_up_ms: the first token of a second question about the same panorama.
    peak_memory_mb: of the process so far on a CPU, of the tensors during these measurements on a GPU.
    """
    device = engine.model.device
    times: dict[str, list[float]] = defaultdict(list)
    with engine.lock:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        for _ in range(WARM_UPS):
            _measure_one(engine, panoramas[0])
        for panorama in panoramas[1:] or panoramas:
            for name, value in _measure_one(engine, panorama).items():
                times[name].append(value)
    latency = {name: round(statistics.median(values), 3) for name, values in times.items()}
    return latency | {"peak_memory_mb": round(peak_memory_mb(device), 1)}


def _measure_one(engine: Engine, panorama: Image.Image) -> dict[str, float]:
    """Return the latencies on one panorama; the engine's lock is held by the caller."""
    first, second = ([with_question([], text)] for text in QUESTIONS)
    processor, device = engine.processor, engine.model.device

    def first_answer() -> Prefix:
        head, tails = split_prompts(processor, first)
        prefix = engine.prefill([panorama], head)
        engine.generate(prefix, [Row(0, 0, tails[0], 1)])
        return prefix

    def follow_up(prefix: Prefix, tokens: int) -> None:
        _, tails = split_prompts(processor, second)
        engine.generate(prefix, [Row(0, 0, tails[0], tokens)], min_new_tokens=tokens)

    times = {}
    views, times["projection_ms"] = timed(device, lambda: processor.image_processor(panorama, return_tensors="pt"))
    pixels = views["pixel_values"].to(device)
    _, times["encoder_ms"] = timed(device, lambda: engine.model.model.encode_views(pixels))
    prefix, times["first_token_ms"] = timed(device, first_answer)
    _, times["follow_up_ms"] = timed(device, lambda: follow_up(prefix, 1))
    _, longer = timed(device, lambda: follow_up(prefix, 1 + DECODED_TOKENS))
    times["per_token_ms"] = (longer - times["follow_up_ms"]) / DECODED_TOKENS
    return times


def timed(device: torch.device, function: Callable[[], Result]) -> tuple[Result, float]:
    """Return the result of a function and its time in milliseconds, the work of a GPU included."""
    synchronise(device)
    start = time.perf_counter()
    result = function()
    synchronise(device)
    return result, (time.perf_counter() - start) * 1e3


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was told; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_mb(device: torch.device) -> float:
    """Return the largest memory in use so far, or since the counter of a GPU was reset, in units of 2^20 bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in units of 1024 bytes, macOS in bytes.
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
