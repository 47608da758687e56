"""Stage finetune_lora, and with `--blind` its twin finetune_blind: the language model, by LoRA or itself, the resampler
and the mask head.

The twin takes the same steps on the same questions without visual tokens. Its score shows how much the questions alone
give away.
"""

import argparse
from pathlib import Path

from panollava.params import FinetuneLora, Model, Strict, Weights, read_launch, read_params
from panollava.settings import finetune_arguments
from panollava.training.language_stages import finetune_lora
from stages import run_stage
from stages.language import LLM, parts
from stages.training import ENCODER, STORE, logs, run


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
    launch, previous = read_launch(params.weights), Path("data/train_resampler")
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
            blind=blind,
            **finetune_arguments(settings, model, launch, params.seed, STORE, logs(stage)),
        ),
    )


if __name__ == "__main__":
    run_stage(main)
