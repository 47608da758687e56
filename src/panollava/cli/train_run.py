"""What `panollava train` does: prepare the store, find the backbones, run the stages one after the other.

Each stage is the function that the pipeline's stage calls, in the same kind of scratch folder (.scratch in the current
folder, where a killed run finds its checkpoints).
"""

import argparse
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from tqdm import tqdm

from panollava.backbones.assemble import Parts
from panollava.backbones.files import FILES
from panollava.backbones.presets import Backbone, write_pointer
from panollava.backbones.resolving import resolve_encoder, resolve_llm
from panollava.backbones.trained import TRAINED
from panollava.cli.run_record import as_yaml, is_made
from panollava.cli.train_settings import read_launch_settings, read_settings
from panollava.cli.training import STAGES
from panollava.corpus.prepare import prepared_splits
from panollava.corpus.reading import record_file
from panollava.corpus.store import IMAGES, RECORDS, open_images, open_split, write_store
from panollava.hashes import file_hash
from panollava.io import check_writable, write_text
from panollava.params import Launch, Params
from panollava.settings import finetune_arguments, resampler_arguments, vision_arguments
from panollava.tasks.checks import answer_problems
from panollava.terminal import say
from panollava.training.fit import Outcome
from panollava.training.language_stages import finetune_lora, train_resampler
from panollava.training.processes import from_main
from panollava.training.running import run_stage
from panollava.training.scratch import PATIENCE
from panollava.training.trackers import check_trackers
from panollava.training.vision_stage import train_vision

BEFORE = {"train_resampler": "train_vision", "finetune_lora": "train_resampler", "finetune_blind": "train_resampler"}
BLIND = "finetune_blind"


@dataclass(frozen=True)
class Run:
    """A run of the command: what it trains, where, and the settings of both kinds."""

    stages: list[str]
    store: Path
    out: Path
    previous: Path | None
    params: Params
    launch: Launch

    def folder_before(self, stage: str) -> Path | None:
        """Return the folder that a stage continues from; the first stage of a run may have one of its own."""
        if stage not in BEFORE:
            return None
        first = self.stages[0] == stage or (stage == BLIND and self.stages[0] == "finetune_lora")
        return self.previous if first and self.previous is not None else self.out / BEFORE[stage]


def is_store(dataset: Path) -> bool:
    """Return whether a folder is a store of panoramas."""
    return (dataset / RECORDS).is_dir() and (dataset / IMAGES).is_dir()


def train_stages(options: argparse.Namespace) -> None:
    """Run the stages that the options of the command ask for.

    Raises:
        ValueError: whatever is wrong with settings, data or backbones, before anything is computed where it can be.
    """
    params, source = read_settings(options)
    launch = read_launch_settings(options)
    check_trackers(launch.report_to)
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    stages = list(STAGES.values()) if options.stage == "all" else [STAGES[options.stage]]
    if options.blind:
        if "finetune_lora" not in stages:
            raise ValueError("--blind finetunes a twin, but --stage is vision or resampler; use finetune or all")
        stages.append(BLIND)
    out, dataset = Path(options.output), Path(options.dataset)
    store = dataset if is_store(dataset) else out / "store"
    previous = None if options.previous is None else Path(options.previous)
    run = Run(stages, store, out, previous, params, launch)
    check_run(run)
    if state.is_main_process:
        check_writable(out / "params.yaml")
        prepare(run, dataset)
        write_text(out / "params.yaml", as_yaml(params.model_dump(mode="json")))
    state.wait_for_everyone()
    check_splits(run)
    parts = from_main(lambda: backbones(run))
    if state.is_main_process:
        say(f"settings of {source}, changed by the options:\n{as_yaml(chosen_settings(run, stages))}".rstrip())
    for stage in stages:
        run_one(run, stage, parts)
        gc.collect()
        torch.cuda.empty_cache()
    if state.is_main_process and "finetune_lora" in stages:
        say(f"panollava evaluate {out / 'finetune_lora'} {store} --output {out}   scores it on the test split")
    state.destroy_process_group()


def check_run(run: Run) -> None:
    """Refuse a run whose first stage has nothing to continue from.

    Raises:
        ValueError: with the folder that is missing.
    """
    first = run.stages[0]
    before = run.folder_before(first)
    if before is None:
        if run.previous is not None:
            raise ValueError("--previous names the folder of the stage before, and vision is the first stage")
    elif not (before / TRAINED).is_file():
        raise ValueError(
            f"{before} has no {TRAINED}: {first} continues from the folder of {BEFORE[first]}; run that stage first, "
            "run all with --stage all, or name a folder with --previous"
        )


def prepare(run: Run, dataset: Path) -> None:
    """Write the store of a dataset of records, unless it is there already."""
    if run.store == dataset:
        return
    settings, params = run.params.preprocess[run.params.weights], run.params
    file = record_file(dataset)
    wanted = {
        "records": file_hash(file),
        "dataset": params.dataset.model_dump(mode="json", exclude={"world", "source"}),
        "preprocess": settings.model_dump(mode="json"),
        "seed": params.seed,
    }
    record = run.out / "settings" / "preprocess.yaml"
    if is_made(run.store / RECORDS, record, wanted):
        return
    splits = prepared_splits(
        dataset,
        answer_problems,
        shares=params.dataset.shares.model_dump(),
        seed=params.seed,
        image_height=settings.image_height,
        allow_any_aspect=params.dataset.allow_any_aspect,
    )
    for split, rows in splits.items():
        count = write_store(
            run.store, split, tqdm(rows, desc=split, unit=" panoramas"), jpeg_quality=settings.jpeg_quality
        )
        say(f"{run.store}: {count} panoramas for {split}")
    write_text(record, as_yaml(wanted))


def check_splits(run: Run) -> None:
    """Refuse a store that lacks the panoramas to train on, or those to validate on where that is asked for.

    Raises:
        ValueError: with the split that is missing.
    """
    validated = [stage for stage in run.stages if section(run.params, stage).validate_every is not None]
    for split in ("train", "validation") if validated else ("train",):
        open_images(run.store, split) if run.stages == ["train_vision"] else open_split(run.store, split)


def section(params: Params, stage: str) -> Any:
    """Return the settings of a stage; the twin's are those of what it is the twin of."""
    sections: dict[str, Any] = {
        "train_vision": params.train_vision,
        "train_resampler": params.train_resampler,
        "finetune_lora": params.finetune_lora,
        BLIND: params.finetune_lora,
    }
    return sections[stage][params.weights]


def backbones(run: Run) -> tuple[Backbone, Backbone | None]:
    """Return the two backbones, and write their pointers; the stage vision needs no language model."""
    params = run.params
    encoder, llm = params.encoders[params.encoder], params.llms[params.llm]
    standin = params.weights == "standin"
    first = resolve_encoder(
        params.encoder,
        encoder.standin if standin else encoder.hub,
        feature_layer=encoder.feature_layer,
        view_size=encoder.view_size,
    )
    write_pointer(first, run.out / "encoder.json")
    if run.stages == ["train_vision"]:
        return first, None
    second = resolve_llm(params.llm, llm.standin if standin else llm.hub, chat_template=llm.chat_template)
    write_pointer(second, run.out / "llm.json")
    return first, second


def chosen_settings(run: Run, stages: list[str]) -> dict[str, Any]:
    """Return the settings that decide the results of stages, in the shape of params.yaml."""
    content, weights = run.params.model_dump(mode="json"), run.params.weights
    kept: dict[str, Any] = {name: content[name] for name in ("seed", "weights", "encoder")}
    kept["encoders"] = {run.params.encoder: content["encoders"][run.params.encoder]}
    if stages != ["train_vision"]:
        kept["llm"] = content["llm"]
        kept["llms"] = {run.params.llm: content["llms"][run.params.llm]}
    kept["model"] = {weights: content["model"][weights]}
    for name in dict.fromkeys("finetune_lora" if stage == BLIND else stage for stage in stages):
        kept[name] = {weights: content[name][weights]}
    return kept


def run_one(run: Run, stage: str, parts: tuple[Backbone, Backbone | None]) -> None:
    """Run a stage, unless it is finished under the same settings."""
    state, out = PartialState(), run.out / stage
    before = run.folder_before(stage)
    inputs = [run.store, run.out / "encoder.json"]
    if before is not None:
        inputs += [run.out / "llm.json", before]
    places = {"store": str(run.store), "previous": None if before is None else str(before)}
    wanted = chosen_settings(run, [stage]) | places
    record = run.out / "settings" / f"{stage}.yaml"
    if from_main(lambda: is_made(out / FILES, record, wanted)):
        state.print(f"{stage} is finished: {out} stays as it is", flush=True)
        return
    own = section(run.params, stage)
    model, logs = run.params.model[run.params.weights], run.out / "runs" / stage
    state.print(f"{stage}:", flush=True)
    train = trainer(run, stage, parts, before, own, (model, run.launch, run.params.seed, run.store, logs))
    run_stage(stage, wanted, inputs, train, metrics=run.out / "metrics", plots=run.out / "plots")
    if state.is_main_process:
        write_text(record, as_yaml(wanted))
        say(f"{stage} is finished: {out}")


def trainer(
    run: Run, stage: str, parts: tuple[Backbone, Backbone | None], before: Path | None, own: Any, settings: Any
) -> Callable[[Path], Outcome]:
    """Return the function that trains a stage, given the folder for its checkpoints."""
    encoder, llm = parts
    out = run.out / stage
    if stage == "train_vision":
        arguments = vision_arguments(own, *settings)
        say_length(run, arguments["recipe"])
        return lambda checkpoints: train_vision(encoder, run.store, out, checkpoints, **arguments)
    assert llm is not None
    assert before is not None
    both, folder = Parts(encoder, llm), before
    if stage == "train_resampler":
        arguments = resampler_arguments(own, *settings)
        say_length(run, arguments["recipe"])
        return lambda checkpoints: train_resampler(both, run.store, folder, out, checkpoints, **arguments)
    arguments = finetune_arguments(own, *settings) | {"blind": stage == BLIND}
    say_length(run, arguments["recipe"])
    return lambda checkpoints: finetune_lora(both, run.store, folder, out, checkpoints, **arguments)


def say_length(run: Run, recipe: Any) -> None:
    """Say how long a stage trains, in steps and in epochs."""
    panoramas = len(open_images(run.store, "train"))
    told = f"  {recipe.steps} steps of {recipe.step_panoramas} panoramas: {recipe.draws / panoramas:.3g} epochs"
    PartialState().print(told, flush=True)
