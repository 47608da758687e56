"""Let a model's language model attend in another way for a while: packed rows, or rows behind shared prefixes."""

from collections.abc import Iterator
from contextlib import contextmanager

from .modeling_panollava import PanoLlavaForConditionalGeneration


@contextmanager
def attending(model: PanoLlavaForConditionalGeneration, implementation: str) -> Iterator[None]:
    """Set the language model's attention, `PACKED_ATTENTION` or `SHARED_ATTENTION`, and put the usual one back."""
    language_model = model.model.language_model
    usual = language_model.config._attn_implementation
    language_model.set_attn_implementation(implementation)
    try:
        yield
    finally:
        language_model.set_attn_implementation(usual)
