"""What a training stage trains and how: learning rates by a part of the parameters' names, then the usual numbers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Augmentation:
    """At how many evenly spaced yaws panoramas are shown (1: as they are), and by how much they tilt at most."""

    yaw_steps: int = 1
    tilt_deg: float = 0.0


NO_AUGMENTATION = Augmentation()


@dataclass(frozen=True)
class TextChat:
    """Which file of dialogues about no panorama, their share of all, and how the SHA-256 of the file begins."""

    path: str
    share: float
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """The numbers of one training run.

    A step sees `accumulation` batches of `batch_size` panoramas, however many processes divide them among themselves.
    `overlap` is (loss, pairing) for the stage that trains on views alone. With `load_in_4bit` the language model's
    frozen weights are held in 4 bits; `augmentation` rotates panoramas. `warmup` is a share of the steps below 1, else
    a number of steps.

    Every `validate_every` steps, and after the last, the validation split's loss is computed. The weights that stay are
    the `last` ones, or the `best`: those of the smallest validation loss. Training stops early after `patience`
    validations in a row that are not better than the best one before.

    `save_steps`, `workers`, `activation_checkpointing` and `compile` (the last two of the language model's layers)
    change no result. Nor do the trackers in `report_to`, which log into a folder below `logs`.
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
    validate_every: int | None = None
    keep: Literal["last", "best"] = "last"
    patience: int | None = None
    report_to: tuple[str, ...] = ()
    logs: str = "runs"

    @property
    def step_panoramas(self) -> int:
        """How many panoramas a step sees."""
        return self.batch_size * self.accumulation

    @property
    def draws(self) -> int:
        """How many panoramas all steps see together."""
        return self.steps * self.step_panoramas


def steps_of_epochs(epochs: float, panoramas: int, step_panoramas: int) -> int:
    """Return the steps in which each of `panoramas` is drawn `epochs` times, the last step filled up.

    A draw is one panorama with at most `records_per_panorama` of its records, chosen anew in each epoch. So an epoch
    shows every panorama once, and not every record of a panorama that has more.
    """
    # Exact for the decimals that people write: 0.1 x 800 / 8 is 10 steps, not 11.
    return max(math.ceil(round(epochs * panoramas / step_panoramas, 9)), 1)
