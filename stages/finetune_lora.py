"""Stage finetune_lora, and with `--blind` its twin finetune_blind: LoRA on the language model, the resampler and the
mask head.

The twin takes the same steps on the same questions without visual tokens. Its score shows how much the questions alone
give away.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from panollava.params import FinetuneLora, Model, Strict, Weights, read_launch, read_params
from panollava.training.language_stages import finetune_lora
from panollava.training.text_chat import TextChat
from stages import run_stage
from stages.language import LLM, language_recipe, parts
from stages.training import ENCODER, STORE, model_settings, run


class FinetuneParams(Strict):
    """What this stage reads from params.yaml."""

    seed: int
    weights: Weights
    model: dict[Weights, Model]
    finetune_lora: dict[Weights, FinetuneLora]


def main() -> None:
    """Write data/finetune_lora or data/finetune_blind, with numbers and loss curve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blind", action="store_true", help="remove the visual tokens")
    blind = parser.parse_args().blind
    stage = "finetune_blind" if blind else "finetune_lora"
    params = read_params(FinetuneParams, stage=stage)
    settings, model = params.finetune_lora[params.weights], params.model[params.weights]
    recipe = language_recipe(settings, model, read_launch(params.weights), params.seed)
    previous = Path("data/train_resampler")
    run(
        stage,
        params,
        [STORE, ENCODER, LLM, previous],
        lambda checkpoints: finetune_lora(
            parts(),
            STORE,
            previous,
            Path("data") / stage,
            checkpoints,
            recipe=replace(recipe, mask_weight=settings.mask_weight),
            records=settings.records_per_panorama,
            lora=settings.lora.model_dump(),
            save_lora_only=settings.save_lora_only,
            text_chat=None if settings.text_chat is None else TextChat(**settings.text_chat.model_dump()),
            blind=blind,
            **model_settings(model),
        ),
    )


if __name__ == "__main__":
    run_stage(main)
