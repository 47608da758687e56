"""What a training stage trains and how: learning rates by a part of the parameters' names, then the usual numbers."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """At how many evenly spaced yaws panoramas are shown (1: as they are), and by how much they tilt at most."""

    yaw_steps: int = 1
    tilt_deg: float = 0.0


NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training run.

    A step sees `accumulation` batches of `batch_size` panoramas, however many processes divide them among themselves.
    `overlap` is (loss, pairing) for the stage that trains on views alone. With `load_in_4bit` the language model's
    frozen weights are held in 4 bits; `augmentation` rotates panoramas. `save_steps`, `workers`,
    `activation_checkpointing` and `compile` (the last two of the language model's layers) change no result.
    """

    learning_rates: Mapping[str, float]
    steps: int
    batch_size: int
    accumulation: int
    warmup: float
    schedule: str
    save_steps: int
    seed: int
    bf16: bool
    workers: int = 0
    activation_checkpointing: bool = False
    overlap: tuple[str, str] | None = None
    mask_weight: float = 0.0
    compile: bool = False
    load_in_4bit: bool = False
    augmentation: Augmentation = NO_AUGMENTATION

    @property
    def step_panoramas(self) -> int:
        """How many panoramas a step sees."""
        return self.batch_size * self.accumulation

    @property
    def draws(self) -> int:
        """How many panoramas all steps see together."""
        return self.steps * self.step_panoramas
