"""The page of recipes: its table is what its formulas give, and its numbers are those of the models it names."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM, PreTrainedModel, SiglipVisionConfig, SiglipVisionModel

from panollava.params import load_params
from panollava.vlm.views import view_poses

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/recipes.md").read_text("utf-8")
COMPUTED = PAGE.partition("*Measured*")[0]
ROWS = re.findall(r"^\| (.+?) \| (.+?) \| ([\d.]+) GB \| ([\d.]+) min \|$", COMPUTED, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """Return the names that the page's Python defines."""
    names: dict[str, Any] = {}
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(code, names)
    return names


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def on_meta(model: type[PreTrainedModel], config: Any) -> Any:
    with torch.device("meta"):
        return model(config)


def test_the_sizes_are_those_of_the_models(page: dict[str, Any]) -> None:
    llm = on_meta(MistralForCausalLM, MistralConfig())
    layer = llm.model.layers[0]
    linear = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    adapters = len(llm.model.layers) * sum(32 * (each.in_features + each.out_features) for each in linear)
    assert page["LANGUAGE"] == pytest.approx(size(llm), rel=1e-3)
    assert page["LAYER"] == pytest.approx(size(layer), rel=1e-3)
    assert page["ADAPTERS"] == pytest.approx(adapters, rel=1e-3)
    assert page["ENDS"] == size(llm.lm_head) + size(llm.model.embed_tokens)
    assert page["ENCODER"] == pytest.approx(size(on_meta(SiglipVisionModel, SiglipVisionConfig())), rel=0.01)
    model = load_params(ROOT / "params.yaml").model["hub"]
    views = len(view_poses(model.views, view_size=224, tokens_per_side=model.tokens_per_side))
    assert page["ROW"] == views * model.tokens_per_side**2 + 800


def test_the_table_is_what_the_formulas_give(page: dict[str, Any]) -> None:
    memory, minutes, adapters = page["memory"], page["minutes"], page["ADAPTERS"]
    last = 12 * page["LAYER"] + page["ENDS"] / 2
    wanted = [
        (memory(adapters), minutes(adapters, 165)),
        (memory(adapters, bits=4.127), minutes(adapters, 165)),
        (memory(adapters, batch=4), minutes(adapters, 312)),
        (memory(last), minutes(last, 312)),
        (memory(adapters), minutes(adapters, 312, gpus=8)),
        (memory(page["LANGUAGE"], gpus=8), minutes(page["LANGUAGE"], 312, gpus=8)),
    ]
    assert [(row[2], row[3]) for row in ROWS] == [(f"{size / 1e9:.1f}", f"{time:.1f}") for size, time in wanted]
    for machine, _, found, _ in ROWS:
        assert float(found) < float(re.findall(r"(\d+) GB", machine)[0]), "it fits"
