"""LoRA weights in a folder, as PEFT writes them: whether they are whole and fit a model."""

import re
from collections.abc import Iterable
from pathlib import Path

from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from safetensors import safe_open
from torch import nn

from panollava.backbones.files import check_weights, load_weights
from panollava.backbones.loading import reading
from panollava.io import read_json

ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What PEFT puts before the names of the model that it wraps.
PEFT_PREFIX = "base_model.model."


def check_adapter(model: nn.Module, folder: Path) -> None:
    """Refuse LoRA weights that are damaged or do not fit a model.

    Raises:
        ValueError: with the file and what is wrong with it.
    """
    if (kind := read_json(folder / ADAPTER).get("peft_type")) != "LORA":
        raise ValueError(f"{folder / ADAPTER}: peft_type is {kind!r}; expected 'LORA'")
    check_weights(folder / ADAPTER_WEIGHTS)
    if problems := differing_layers(model, folder):
        others = f" (and {len(problems) - 1} others)" if problems[1:] else ""
        raise ValueError(f"{folder / ADAPTER_WEIGHTS} does not fit this model: {problems[0]}{others}")
    load_weights(folder / ADAPTER_WEIGHTS)


def differing_layers(model: nn.Module, folder: Path) -> list[str]:
    """Return where the shapes of LoRA weights `A` `[r, in]` and `B` `[out, r]` are not those of the model's layers."""
    shapes = {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    targets = _targets(folder, shapes)
    problems, found = [], set()
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 # not a mapping
            name, _, half = key.removeprefix(PEFT_PREFIX).partition(".lora_")
            shape = file.get_slice(key).get_shape()
            found.add((name, half[:1]))
            if name not in shapes:
                problems.append(f"{name}: the model has no such layer")
            elif len(shape) != 2:
                problems.append(f"{name}: the shape {shape} there, expected two dimensions")
            elif half.startswith("A") and shape[1] != shapes[name][1]:
                problems.append(f"{name}: {shape[1]} inputs there, {shapes[name][1]} here")
            elif half.startswith("B") and shape[0] != shapes[name][0]:
                problems.append(f"{name}: {shape[0]} outputs there, {shapes[name][0]} here")
    lacking = sorted(name for name in targets if not {(name, "A"), (name, "B")} <= found)
    return problems + [f"{name}: no weights for this layer" for name in lacking]


def _targets(folder: Path, names: Iterable[str]) -> set[str]:
    """Return the names of the layers that LoRA weights are for."""
    with reading(folder / ADAPTER):
        config = PeftConfig.from_pretrained(str(folder))
        for pattern in (config.target_modules, config.exclude_modules, *config.rank_pattern, *config.alpha_pattern):
            # Some patterns take years to match: they repeat groups, or repeat often.
            if isinstance(pattern, str) and (re.search(r"\)[*+?{]", pattern) or len(re.findall(r"[*+{]", pattern)) > 3):
                raise ValueError(f"the pattern {pattern[:80]!r} is too complex; list the names of the layers instead")
        return {name for name in names if check_target_module_exists(config, name)}
