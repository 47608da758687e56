"""Let a model's language model attend in another way for a while: packed rows, or rows behind shared prefixes."""

from collections.abc import Iterator
from contextlib import contextmanager

from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration


@contextmanager
def attending(model: PanoLlavaForConditionalGeneration, implementation: str) -> Iterator[None]:
    """Set the language model's attention, `PACKED_ATTENTION` or `SHARED_ATTENTION`, and put the usual one back."""
    config = model.model.language_model.config
    usual = config._attn_implementation
    config._attn_implementation = implementation  # the library's own setter walks all modules: a millisecond of a 7B's
    try:
        yield
    finally:
        config._attn_implementation = usual
