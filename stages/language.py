"""Shared by the stages that train on dialogues: the two backbones."""

from pathlib import Path

from panollava.backbones.assemble import Parts
from panollava.backbones.presets import read_pointer
from stages.training import ENCODER

LLM = Path("data/llm.json")


def parts() -> Parts:
    """Return the two backbones that this run has resolved."""
    return Parts(read_pointer(ENCODER), read_pointer(LLM))
