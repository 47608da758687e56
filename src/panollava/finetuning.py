"""The high-level API: finetune a model on one's own records, without a pipeline.

What trains is what the stage finetune_lora trains: LoRA weights on the language model, the resampler, and the mask head
where answers have masks. A killed run that is started again from the same model, on the same data and with the same
settings continues where it was.
"""

import hashlib
import math
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import send_to_device
from peft import get_peft_model
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm
from transformers import set_seed

from panollava.backbones.files import new_checkpoint
from panollava.backbones.trained import NEW, trained_state, write_parts, write_trained
from panollava.chat import PanoLLaVAModel
from panollava.corpus.image_paths import image_file
from panollava.corpus.images import open_panorama, to_working_size
from panollava.corpus.masks import mask_of
from panollava.corpus.problems import RecordErrors, RecordLocation
from panollava.corpus.reading import record_file
from panollava.corpus.records import Record
from panollava.corpus.splits import image_contents
from panollava.corpus.validation import read_dataset
from panollava.io import check_vacant
from panollava.report.model_card import trained_further, write_model_card
from panollava.tasks.checks import answer_problems
from panollava.training.dialogues import Collator, Draw, Draws
from panollava.training.fit import RESAMPLER, in_float32
from panollava.training.language_stages import LORA, MASK_HEAD
from panollava.training.lengths import Context
from panollava.training.lora import lora_config, lora_targets
from panollava.training.processes import divided
from panollava.training.recipe import Recipe
from panollava.training.scratch import scratch
from panollava.training.trainer import PanoTrainer, set_trainable, trainable_table
from panollava.vlm.labels import IGNORE
from panollava.vlm.processing_panollava import PanoLlavaProcessor

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# What the masks' loss weighs beside the answers', as in the stage.
MASK_WEIGHT = 0.1


class PanoDataset(Dataset):
    """The panoramas of a record file, or of a folder with one, each with all of its records.

    Everything is checked at once; images are then decoded when they are asked for, at most `image_height` high.
    """

    def __init__(self, path: str | Path, *, image_height: int = 1024, allow_any_aspect: bool = False) -> None:
        """Read the records and check every image.

        Raises:
            RecordErrors: a ValueError with everything that is wrong in the dataset.
        """
        self.file = record_file(Path(path))
        self.image_height, self.allow_any_aspect = image_height, allow_any_aspect
        self.records = read_dataset(self.file, answer_problems, allow_any_aspect=allow_any_aspect)
        panoramas: dict[str, list[Record]] = {}
        for record in self.records:
            panoramas.setdefault(record.image_id, []).append(record)
        self.panoramas = list(panoramas.values())

    def __len__(self) -> int:
        return len(self.panoramas)

    def __getitem__(self, index: int) -> Draw:
        records, height = self.panoramas[index], self.image_height
        file = image_file(self.file.parent, records[0].image_path)
        image = open_panorama(file, allow_any_aspect=self.allow_any_aspect, working_height=height)
        return Draw(to_working_size(image, height), records)

    def image_files(self) -> list[Path]:
        """Return the image file of each panorama."""
        return [image_file(self.file.parent, records[0].image_path) for records in self.panoramas]

    def has_masks(self) -> bool:
        """Return whether any answer names an object that has a mask."""
        return any(
            mask_of(turn, [item for record in records for item in record.objects]) is not None
            for records in self.panoramas
            for record in records
            for turn in record.conversations
        )


@dataclass(frozen=True)
class Finetuned:
    """What a training run reports: its logged losses, and the mean loss of an answer's token in the validation data."""

    history: list[dict[str, float]]
    validation_loss: float | None


class PanoLLaVATrainer:
    """Finetune LoRA weights and the resampler of a model on a dataset, and write the result to a folder.

    Where answers of the training data have masks, the mask head trains along, at the learning rate of the LoRA weights.
    The folder is one that `PanoLLaVAModel.from_pretrained` opens. It holds what was trained and the names of the two
    backbones where the model still has their weights, as after the stage train_resampler; else a full checkpoint.
    """

    def __init__(
        self,
        *,
        model: PanoLLaVAModel,
        train_dataset: PanoDataset,
        val_dataset: PanoDataset | None = None,
        output_dir: str | Path = "finetuned",
        steps: int | None = None,
        batch_size: int = 4,
        accumulation: int = 1,
        records_per_panorama: int = 8,
        learning_rate: float = 2e-4,
        resampler_learning_rate: float = 2e-5,
        rank: int = 32,
        alpha: int = 64,
        dropout: float = 0.0,
        save_steps: int = 100,
        workers: int = 0,
        activation_checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        """Take the settings; `steps` is by default as many as show every panorama three times.

        Raises:
            ValueError: an output folder that is not empty, an image that is in both datasets, or records that the
                language model's context does not hold, all of them named.
        """
        self.model, self.train_dataset, self.val_dataset = model, train_dataset, val_dataset
        self.out, self.records = Path(output_dir), records_per_panorama
        check_vacant(self.out)
        if val_dataset is not None:
            check_disjoint(train_dataset, val_dataset)
        check_lengths(model.processor, *([train_dataset] if val_dataset is None else [train_dataset, val_dataset]))
        self.lora: dict[str, Any] = {"rank": rank, "alpha": alpha, "dropout": dropout, "targets": list(TARGETS)}
        rates = {RESAMPLER: resampler_learning_rate, LORA: learning_rate}
        self.masked = train_dataset.has_masks()
        self.recipe = Recipe(
            learning_rates=rates | {MASK_HEAD: learning_rate} if self.masked else rates,
            steps=math.ceil(3 * len(train_dataset) / (batch_size * accumulation)) if steps is None else steps,
            batch_size=batch_size,
            accumulation=accumulation,
            warmup=0.05,
            schedule="cosine",
            save_steps=save_steps,
            seed=seed,
            bf16=torch.cuda.is_available(),
            workers=workers,
            activation_checkpointing=activation_checkpointing,
            mask_weight=MASK_WEIGHT if self.masked else 0.0,
        )
        self.collator = Collator(model.processor)

    def train(self) -> Finetuned:
        """Train, write the output folder, evaluate; the model that was handed in is the trained one from then on.

        Prints what trains and what is frozen, and the validation loss.

        Raises:
            ValueError: the model has LoRA weights that are not merged, or would be divided by FSDP.
            RuntimeError: another process runs the same training.
        """
        if self.model.adapted is not None:
            raise ValueError("the model has LoRA weights loaded; call merge_lora_weights() before training new ones")
        if divided():
            raise ValueError("this trainer keeps the model whole; under FSDP run the stages (docs/many_gpus.md)")
        files = [self.train_dataset.file, *self.train_dataset.image_files()]
        with self.model.engine.lock, scratch("finetune", self._settings(), files) as checkpoints:
            self.model.engine.weights_changed()  # they will; and training needs the memory
            history = self._fit(checkpoints)
            self._write()
        loss = None if self.val_dataset is None else self.evaluate(self.val_dataset)
        if loss is not None:
            PartialState().print(f"validation loss {loss:.4f}", flush=True)
        return Finetuned(history, loss)

    @torch.no_grad()
    def evaluate(self, dataset: PanoDataset) -> float:
        """Return the mean loss of an answer's token over all records of a dataset."""
        model, total, tokens = self.model.model, 0.0, 0
        for panorama in tqdm(range(len(dataset)), desc="evaluate", unit="panorama"):
            whole = dataset[panorama]
            for start in range(0, len(whole.records), self.records):
                batch = self.collator([Draw(whole.image, whole.records[start : start + self.records])])
                # Divided by one, the loss is the sum over the tokens.
                total += model(**send_to_device(batch, model.device), num_items_in_batch=1).loss.item()
                tokens += int((batch["labels"][:, 1:] != IGNORE).sum())
        return total / tokens

    def _settings(self) -> dict[str, Any]:
        """Return what decides the result besides the data: the settings, and the resampler that training starts from.

        The resampler stands for the whole model: it was trained along with everything else.
        """
        digest = hashlib.sha256()
        for name, value in self._trained_state().items():
            digest.update(name.encode() + value.float().numpy().tobytes())
        recipe, config = asdict(self.recipe), self.model.model.config.to_dict()
        return {"recipe": recipe, "lora": self.lora, "records": self.records, "config": config,
                "image_height": self.train_dataset.image_height, "start": digest.hexdigest()}  # fmt: skip

    def _fit(self, checkpoints: Path) -> list[dict[str, float]]:
        recipe = self.recipe
        set_seed(recipe.seed)
        lora = self.lora | {"targets": lora_targets(self.model.model, self.lora["targets"])}
        adapted = get_peft_model(self.model.model, lora_config(**lora))
        self.model.adapted = adapted
        table = trainable_table(adapted, set_trainable(adapted, recipe.learning_rates))
        PartialState().print(table, flush=True)
        draws = Draws(self.train_dataset, seed=recipe.seed, count=recipe.draws, records=self.records)
        patches = self.model.model.config.patch_side if self.masked else None
        collator = Collator(self.model.processor, patches=patches)
        with in_float32(adapted) if recipe.bf16 else nullcontext():
            history = PanoTrainer(adapted, recipe, checkpoints, draws=draws, collator=collator).run()
        adapted.eval()
        return history

    def _trained_state(self) -> dict[str, Tensor]:
        """Return the resampler, and what else was trained before."""
        model, origin = self.model.model, self.model.origin
        names = {name for name, _ in model.named_parameters() if name.startswith(NEW)}
        return trained_state(model, names if origin is None else names | origin.trained)

    def _write(self) -> None:
        model, adapted = self.model, self.model.adapted
        model.card = trained_further(model.card, self.train_dataset.records)
        if model.origin is None or adapted is None:
            model.merge_lora_weights()
            if PartialState().is_main_process:
                model.save_pretrained(self.out)
            return
        if not PartialState().is_main_process:
            return
        with new_checkpoint(self.out) as folder:
            write_trained(self._trained_state(), folder)
            write_parts(model.origin.parts, folder)
            model.model.config.save_pretrained(folder)
            model.processor.save_pretrained(folder)
            adapted.save_pretrained(str(folder))
            # In place of the card that PEFT writes.
            write_model_card(folder, model.card, model.model.config, model.processor, full=False)


def check_lengths(processor: PanoLlavaProcessor, *datasets: PanoDataset) -> None:
    """Refuse records that the language model's context does not hold.

    Raises:
        RecordErrors: with every such record of all datasets.
    """
    located = ((RecordLocation(d.file, index), record) for d in datasets for index, record in enumerate(d.records))
    problems = Context(processor).problems(located)
    if problems:
        raise RecordErrors(problems)


def check_disjoint(train: PanoDataset, validation: PanoDataset) -> None:
    """Refuse an image that is trained on and validated on; files that hold the same bytes are the same image.

    Raises:
        ValueError: with the image_id in both datasets.
    """
    known = {content: name for name, content in image_contents(train.records, train.file.parent).items()}
    for name, content in image_contents(validation.records, validation.file.parent).items():
        if content in known:
            raise ValueError(
                f"{validation.file}: image_id {name!r} is the image of {known[content]!r} in {train.file}; "
                "one panorama is trained on or validated on, not both"
            )
