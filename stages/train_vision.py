"""Stage train_vision: adapt encoder and resampler trunk to overlapping views, without a language model."""

from pathlib import Path

from panollava.backbones.presets import read_pointer
from panollava.params import Model, Strict, TrainVision, Weights, read_launch, read_params
from panollava.settings import vision_arguments
from panollava.training.vision_stage import train_vision
from stages import run_stage
from stages.training import ENCODER, STORE, logs, run


class TrainVisionParams(Strict):
    """What this stage reads from params.yaml."""

    seed: int
    weights: Weights
    model: dict[Weights, Model]
    train_vision: dict[Weights, TrainVision]


def main() -> None:
    """Write data/train_vision, metrics/train_vision.json and plots/train_vision/loss.csv."""
    params = read_params(TrainVisionParams, stage="train_vision")
    settings, model = params.train_vision[params.weights], params.model[params.weights]
    launch = read_launch(params.weights)
    run(
        "train_vision",
        params,
        [STORE / "images", ENCODER],
        lambda checkpoints: train_vision(
            read_pointer(ENCODER),
            STORE,
            Path("data/train_vision"),
            checkpoints,
            **vision_arguments(settings, model, launch, params.seed, STORE, logs("train_vision")),
        ),
    )


if __name__ == "__main__":
    run_stage(main)
