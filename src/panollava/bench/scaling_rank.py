"""What each process of a launch of `panollava bench scaling` does: train or ask, and measure.

`accelerate launch … -m panollava.bench.scaling_rank SIZE WORK OUT [--steps N] [--save-steps N] [--what NAME …]` writes
OUT.json: for each NAME the seconds of each step, the losses and the peak memory of a process. OUT is also the folder
for what the stages write. A launch that was killed goes on from its last checkpoint. All answer with one model.
"""

import argparse
import gc
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from panollava.backbones.trained import load_finetuned, read_parts
from panollava.bench.scaling_report import ALIGNED, ANSWERS, WORKS
from panollava.bench.scaling_work import CHECKPOINTS, LOADS, RESAMPLER, STORE, TUNED, VISION, Load
from panollava.corpus.store import open_split, panorama_records
from panollava.inference.engine import Engine
from panollava.io import write_json
from panollava.tasks.evaluation import answer_with_images
from panollava.tasks.questions import panorama_questions
from panollava.tasks.segmentation import constant_mask
from panollava.training.fit import Outcome
from panollava.training.language_stages import finetune_lora, train_resampler

COMPILED = ", compiled"


def train(what: str, load: Load, work: Path, out: Path, steps: int, save_steps: int) -> Outcome:
    """Run a training stage for some steps."""
    stage, compiled = what.partition(",")[0], what.endswith(COMPILED)
    recipe = load.recipe(load.aligned if stage == ALIGNED else load.tuned, steps=steps, compiled=compiled)
    recipe = replace(recipe, save_steps=save_steps)
    parts = read_parts(work / RESAMPLER)
    places = (out / what.replace(", ", "_"), out / CHECKPOINTS / what.replace(", ", "_"))
    options: dict[str, Any] = {
        "recipe": recipe, "records": load.records, "dtype": load.size.dtype, "settings": load.settings,
    }  # fmt: skip
    if stage == ALIGNED:
        return train_resampler(parts, work / STORE, work / VISION, *places, **options)
    options |= {"lora": load.lora(), "save_lora_only": True}
    return finetune_lora(parts, work / STORE, work / RESAMPLER, *places, **options)


def answer(load: Load, work: Path) -> dict[str, Any]:
    """Answer the questions of the test panoramas; the first panoramas once before, which warms up."""
    device = PartialState().device
    model, processor = load_finetuned(work / TUNED)
    engine, split = Engine(model.to(device), processor), open_split(work / STORE, "test")
    questions = [panorama_questions(row["image_id"], panorama_records(row)) for row in split]
    constant = constant_mask([one.mask for own in questions for one in own if one.mask is not None])
    options: dict[str, Any] = {"shuffled": 1, "batch_size": load.asked_at_once, "seed": 0, "constant": constant}
    warm = min(load.asked_at_once * PartialState().num_processes, len(split))
    answer_with_images(engine, split.select(range(warm)), questions[:warm], **options)
    PartialState().wait_for_everyone()
    started = time.perf_counter()
    found = answer_with_images(engine, split, questions, **options)
    PartialState().wait_for_everyone()
    return {"seconds": time.perf_counter() - started, "answers": [one.as_line() for one in found]}


def measured(what: str, load: Load, work: Path, out: Path, steps: int, save_steps: int) -> dict[str, Any]:
    """Return the numbers of one training or of the answers, on all processes."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    if what == ANSWERS:
        numbers = answer(load, work)
    else:
        history = train(what, load, work, out, steps, save_steps).history
        columns = {name: [entry[name] for entry in history] for name in ("step", "loss", "seconds", "waited")}
        numbers = columns | {"panoramas": load.recipe(load.aligned if ALIGNED in what else load.tuned, steps=1).draws}
    peaks = gather_object([torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0])
    gc.collect()  # the model of this one makes room for the next
    if on_gpu:
        torch.cuda.empty_cache()
    return numbers | {"peak_gb": peaks}


def main() -> None:
    """Measure what was asked for, one after the other; the main process writes after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("size", choices=LOADS)
    parser.add_argument("work", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--save-steps", type=int, default=10**6)
    parser.add_argument("--what", nargs="+", choices=WORKS, default=WORKS)
    options = parser.parse_args()
    # Without a GPU, accelerate looks for other processes only when it is told to.
    state = PartialState(cpu=not torch.cuda.is_available())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    about = {"processes": state.num_processes, "device": device, "torch": torch.__version__}
    found: dict[str, Any] = {}
    for what in options.what:
        found[what] = measured(what, LOADS[options.size], options.work, options.out, options.steps, options.save_steps)
        if state.is_main_process:
            write_json(options.out.with_suffix(".json"), about | {"measured": found})
    state.wait_for_everyone()
    state.destroy_process_group()


if __name__ == "__main__":
    main()
