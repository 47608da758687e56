"""Latencies: all of them, positive, and consistent with each other where one contains the other."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaProcessor
from panollava.inference.engine import Engine
from panollava.inference.latency import measure_latency


def test_every_latency_is_measured(
    make_model: Callable[..., PanoLlavaForConditionalGeneration], processor: PanoLlavaProcessor
) -> None:
    model = make_model()
    model.generation_config.eos_token_id = list(range(1, 300))  # an early end would make a token look too cheap
    engine = Engine(model, processor)
    panorama = Image.fromarray(np.zeros((64, 128, 3), dtype=np.uint8))
    for panoramas in ([panorama], [panorama] * 3):
        latency = measure_latency(engine, panoramas)
        assert set(latency) == {
            "projection_ms", "encoder_ms", "first_token_ms", "per_token_ms", "follow_up_ms", "peak_memory_mb"
        }  # fmt: skip
        assert all(value > 0 for value in latency.values()), latency
