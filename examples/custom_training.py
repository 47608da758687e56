"""Finetune a model on your own panoramas, open the result and ask it a question.

    python examples/custom_training.py my/train my/validation --output my_model

A dataset is a .json or .jsonl file of records, or a folder that holds annotations.json (or .jsonl) and the images.
One record is one dialogue about one panorama:

    {"image_id": "hall", "image_path": "images/hall.jpg",
     "conversations": [{"human": "What is on the left?", "assistant": "A wooden door."}]}

`panollava validate my/train` lists everything that is wrong with a dataset.
"""

import argparse
from pathlib import Path

from panollava import PanoDataset, PanoLLaVAModel, PanoLLaVATrainer


def main() -> None:
    """Train, reload, ask."""
    parser = argparse.ArgumentParser(description="Finetune a PanoLLaVA on your own panoramas.")
    parser.add_argument("train", type=Path, help="records to train on")
    parser.add_argument("validation", type=Path, help="records of other panoramas, for the validation loss")
    # The stage train_resampler leaves both backbones as they are, so the result is a small LoRA folder.
    # From a finetuned model, training goes on as well, and the result is a full checkpoint.
    parser.add_argument("--model", default="data/train_resampler", help="where to start (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("my_model"), help="a new folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="optimiser steps (default: as many as show each panorama 3 times)")
    options = parser.parse_args()

    # Reading a dataset checks every record and every image, and reports all problems at once.
    train, validation = PanoDataset(options.train), PanoDataset(options.validation)
    print(f"training on {len(train.records)} records of {len(train)} panoramas")

    trainer = PanoLLaVATrainer(
        model=PanoLLaVAModel.from_pretrained(options.model),
        train_dataset=train,
        val_dataset=validation,
        output_dir=options.output,
        steps=options.steps,
        batch_size=2,  # panoramas per step; lower it where memory runs out, and raise `accumulation` instead
        learning_rate=2e-4,  # of the LoRA weights
        resampler_learning_rate=2e-5,  # of the resampler between encoder and language model
        rank=16,  # of the LoRA weights: larger learns more and needs more memory
        alpha=32,
    )
    # Prints which parts train, and the validation loss. A killed run continues from its last checkpoint.
    result = trainer.train()
    for entry in result.history[-3:]:
        print(f"step {entry['step']}: loss {entry['loss']:.3f}")

    # The folder opens like any other model, here and with `panollava ask --model`.
    model = PanoLLaVAModel.from_pretrained(options.output)
    turn = validation.records[0].conversations[0]
    print(f"Q: {turn.human}\nA: {model.generate(validation.image_files()[0], turn.human)}")
    print(f"the answer in the data: {turn.assistant}")


if __name__ == "__main__":
    main()
