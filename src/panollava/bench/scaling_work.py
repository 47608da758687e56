"""What `panollava bench scaling` trains and asks: random checkpoints, panoramas of the world, the first two stages.

All of it lies in one folder, which every launch reads and none changes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panollava.backbones.assemble import ModelSettings
from panollava.bench.random_checkpoints import write_checkpoints
from panollava.bench.sizes import LARGE, TINY, Size
from panollava.corpus.store import write_store
from panollava.corpus.world_records import world_rows
from panollava.training.language_stages import finetune_lora, train_resampler
from panollava.training.recipe import Recipe
from panollava.training.vision_stage import train_vision
from panollava.vlm.views import ViewSettings

STORE, CHECKPOINTS = "store", "checkpoints"
VISION, RESAMPLER, TUNED = "train_vision", "train_resampler", "finetune_lora"
LORA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Load:
    """A size of model and of work, the same for every number of processes.

    height: of the panoramas, in pixels.
    train, test: panoramas that are drawn from, and panoramas whose questions are answered.
    aligned, tuned: (batch size, accumulation) of a step of train_resampler and of finetune_lora.
    records: of a panorama in a step.
    asked_at_once: panoramas that are answered together.
    """

    size: Size
    settings: ModelSettings
    height: int
    train: int
    test: int
    aligned: tuple[int, int]
    tuned: tuple[int, int]
    records: int
    asked_at_once: int
    workers: int

    def recipe(self, step: tuple[int, int], *, steps: int, compiled: bool = False) -> Recipe:
        """Return the recipe of a stage whose `step` is (batch size, accumulation), as the hub recipe has it."""
        on_gpu = self.size.device == "cuda"
        return Recipe(
            learning_rates={"vision_tower": 1e-5, "resampler": 1e-4, "lora": 2e-4, "mask_head": 2e-4},
            steps=steps, batch_size=step[0], accumulation=step[1], warmup=0.0, schedule="constant_with_warmup",
            save_steps=10**6, seed=0, bf16=on_gpu, workers=self.workers, activation_checkpointing=on_gpu,
            compile=compiled, mask_weight=0.1,
        )  # fmt: skip

    def lora(self) -> dict[str, object]:
        """Return the adapters of finetune_lora."""
        return {**self.size.lora, "dropout": 0.0, "targets": LORA}


SETTINGS = ModelSettings(
    views=ViewSettings("anyres_e2p", panorama_height=1024), tokens_per_side=7, resampler="mlp",
    resampler_hidden_size=2048, resampler_layers=2, position_code="ray", position_frequencies=6, mask_hidden_size=256,
)  # fmt: skip
SMALL = replace(SETTINGS, tokens_per_side=4, resampler_hidden_size=64, resampler_layers=1, mask_hidden_size=32)
LOADS = {
    "tiny": Load(TINY, SMALL, height=128, train=32, test=8, aligned=(2, 2), tuned=(1, 4), records=4, asked_at_once=2,
                 workers=0),
    "7b": Load(LARGE, SETTINGS, height=1024, train=128, test=64, aligned=(4, 4), tuned=(1, 16), records=8,
               asked_at_once=4, workers=4),
}  # fmt: skip


def prepare(load: Load, work: Path, cores: int) -> None:
    """Write what a launch needs into the folder `work`, unless it is there.

    Each stage takes two steps, so that the next one starts from weights that were trained.
    """
    parts = write_checkpoints(load.size, work)
    if not (work / STORE).is_dir():
        for split, count in (("train", load.train), ("test", load.test)):
            rows = world_rows(split, count, seed=0, height=load.height, korean_share=0.25, workers=cores)
            write_store(work / STORE, split, rows, jpeg_quality=95)
    options: dict[str, Any] = {"dtype": load.size.dtype, "settings": load.settings}
    store, vision, resampler, tuned = (work / name for name in (STORE, VISION, RESAMPLER, TUNED))
    checkpoints = work / CHECKPOINTS
    if not vision.is_dir():
        recipe = replace(load.recipe((4, 1), steps=2), overlap=("vicreg", "exact"), activation_checkpointing=False)
        train_vision(parts.encoder, store, vision, checkpoints / VISION, recipe=recipe, blocks=1, **options)
    options["records"] = load.records
    if not resampler.is_dir():
        recipe = load.recipe(load.aligned, steps=2)
        train_resampler(parts, store, vision, resampler, checkpoints / RESAMPLER, recipe=recipe, **options)
    if not tuned.is_dir():
        options |= {"recipe": load.recipe(load.tuned, steps=2), "lora": load.lora(), "save_lora_only": True}
        finetune_lora(parts, store, resampler, tuned, checkpoints / TUNED, **options)
