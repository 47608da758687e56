"""Stage train_resampler: align the resampler with the frozen language model."""

from pathlib import Path

from panollava.params import Model, Strict, TrainResampler, Weights, read_launch, read_params
from panollava.settings import resampler_arguments
from panollava.training.language_stages import train_resampler
from stages import run_stage
from stages.language import LLM, parts
from stages.training import ENCODER, STORE, logs, run


class TrainResamplerParams(Strict):
    """What this stage reads from params.yaml."""

    seed: int
    weights: Weights
    model: dict[Weights, Model]
    train_resampler: dict[Weights, TrainResampler]


def main() -> None:
    """Write data/train_resampler, metrics/train_resampler.json and plots/train_resampler/loss.csv."""
    params = read_params(TrainResamplerParams, stage="train_resampler")
    settings, model = params.train_resampler[params.weights], params.model[params.weights]
    launch, previous = read_launch(params.weights), Path("data/train_vision")
    run(
        "train_resampler",
        params,
        [STORE, ENCODER, LLM, previous],
        lambda checkpoints: train_resampler(
            parts(),
            STORE,
            previous,
            Path("data/train_resampler"),
            checkpoints,
            **resampler_arguments(settings, model, launch, params.seed, STORE, logs("train_resampler")),
        ),
    )


if __name__ == "__main__":
    run_stage(main)
