"""The stages on tiny backbones, run by one process or, as a script under `torchrun`, by several; see test_processes.py.

Arguments: the folder with backbones and store, the one where one process has run, and the one to work in, where
outcome.json is written last.
"""

import json
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tiny_backbones
import torch
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from ruamel.yaml import YAML
from tiny_backbones import LORA, MODEL
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor

from panollava.attention.compiling import compile_layers
from panollava.backbones.assemble import Parts
from panollava.backbones.presets import Backbone
from panollava.params import Evaluate
from panollava.training import fit, language_stages, vision_stage
from panollava.training.dialogues import Draw, Draws
from panollava.training.fit import Outcome
from panollava.training.scratch import scratch
from panollava.training.trainer import PanoTrainer
from stages import evaluate

STEPS, BATCH = 4, 4
RATES = tiny_backbones.RECIPE.learning_rates | {"language_model": 1e-3}
RECIPE = replace(
    tiny_backbones.RECIPE, steps=STEPS, batch_size=BATCH, learning_rates=RATES, validate_every=3, keep="best"
)
# Without adapters, but for the first layer.
FULL: dict[str, Any] = {"lora": None, "freeze_layers": 1}
OVERLAP = replace(RECIPE, overlap=("vicreg", "exact"))
ACCUMULATED = replace(RECIPE, batch_size=1, accumulation=BATCH)
SETTINGS: dict[str, Any] = {"dtype": torch.float32, "settings": MODEL}
PARAMS = evaluate.EvaluateParams(
    seed=0, weights="standin", encoder="clip", llm="llama", evaluate=Evaluate(batch_size=2, shuffled=9, resamples=20)
)
FILE = Path(__file__).resolve().parents[2] / "docs/fsdp.yaml"
# What `accelerate launch --config_file docs/fsdp.yaml` hands to the processes.
FSDP = {"ACCELERATE_USE_FSDP": "true"} | {
    name.upper(): str(value).lower() if isinstance(value, bool) else str(value)
    for name, value in YAML(typ="safe").load(FILE.read_text("utf-8"))["fsdp_config"].items()
}


def shard_on_cpus() -> None:
    """Let accelerate shard models as `docs/fsdp.yaml` says; by itself it does so on GPUs alone."""
    os.environ.update(FSDP)
    init = AcceleratorState.__init__

    def sharded(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = sharded


def count_split_parameters() -> list[list[str]]:
    """Return a list that fills with the names of the parameters of which a process held a part after training."""
    found: list[list[str]] = []
    moved = fit._moved

    def watched(model: torch.nn.Module, *args: Any) -> dict[str, float]:
        parameters = model.named_parameters()
        found.append([n for n, p in parameters if isinstance(p, DTensor) and p.to_local().numel() < p.numel()])
        return moved(model, *args)

    fit._moved = watched
    return found


class KilledError(Exception):
    """What stops a run in its fourth step."""


def finetune(
    parts: Parts,
    store: Path,
    previous: Path,
    out: Path,
    *,
    killed: bool = False,
    compiled: bool = False,
    **options: Any,
) -> Outcome:
    """Finetune as the stage does."""
    training_step = PanoTrainer.training_step

    def until_killed(self: PanoTrainer, *args: Any, **kwargs: Any) -> torch.Tensor:
        # In the step's last batch: accelerate's state outlives this trainer, but not the process that is really killed.
        if killed and self.state.global_step == 3 and self.accelerator.sync_gradients:
            raise KilledError
        return training_step(self, *args, **kwargs)

    PanoTrainer.training_step = until_killed
    try:
        with scratch(out.name, {"seed": 0}, [store, previous]) as checkpoints:
            recipe = replace(ACCUMULATED, compile=compiled)
            options = {"lora": LORA} | options
            options |= {"recipe": recipe, "records": 3, "save_lora_only": True, **SETTINGS}
            return language_stages.finetune_lora(parts, store, previous, out, checkpoints, **options)
    finally:
        PanoTrainer.training_step = training_step


def finetune_rounded(parts: Parts, store: Path, previous: Path) -> Outcome:
    """Finetune for a step in mixed precision, with activation checkpointing."""
    recipe = replace(ACCUMULATED, steps=1, bf16=True, activation_checkpointing=True)
    folders = (parts, store, previous, Path("data/rounded"), Path("ckpt/rounded"))
    return language_stages.finetune_lora(
        *folders, recipe=recipe, records=3, lora=LORA, save_lora_only=False, **SETTINGS
    )


def killed_and_resumed(*folders: Any, compiled: bool = False, **options: Any) -> Outcome:
    """Finetune, be stopped after the checkpoint of step 2, and finetune again, now perhaps compiled."""
    try:
        finetune(*folders, killed=True, **options)
    except KilledError:
        return finetune(*folders, compiled=compiled, **options)
    raise AssertionError("the run was not stopped")


def run_all(parts: Parts, store: Path, earlier: Path) -> dict[str, Outcome]:
    """Train, finetune and evaluate in the current folder; each stage reads what the one before wrote in `earlier`."""
    data, options = Path("data"), {"records": 3, **SETTINGS}
    outcomes = {}
    outcomes["train_vision"] = vision_stage.train_vision(
        parts.encoder, store, data / "train_vision", Path("ckpt/vision"), recipe=OVERLAP, blocks=1, **SETTINGS
    )
    folders = (parts, store, earlier / "train_vision", data / "train_resampler", Path("ckpt/resampler"))
    outcomes["train_resampler"] = language_stages.train_resampler(*folders, recipe=RECIPE, **options)
    outcomes["finetune_lora"] = killed_and_resumed(parts, store, earlier / "train_resampler", data / "finetune_lora")
    outcomes["finetune_blind"] = finetune(
        parts, store, earlier / "train_resampler", data / "finetune_blind", blind=True
    )
    outcomes["full"] = killed_and_resumed(parts, store, earlier / "train_resampler", data / "full", **FULL)
    evaluate.STORE, evaluate.MODEL, evaluate.BLIND = store, earlier / "finetune_lora", earlier / "finetune_blind"
    evaluate.read_params = lambda view, stage: PARAMS
    evaluate.run()
    return outcomes


def main() -> None:
    """Run everything as several processes do, then the finetuning once more, sharded and with compiled layers.

    Record what each one did.
    """
    shared, earlier, work = (Path(argument).resolve() for argument in sys.argv[1:])
    os.chdir(work)
    os.environ["DVC_ROOT"] = str(work)
    written: list[str] = []
    drawn: list[int] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(arguments[0])

    sys.addaudithook(watch)
    draw = Draws.__getitem__

    def noting(self: Draws, index: int) -> Draw:
        if self.count == STEPS * BATCH:  # validation draws fewer
            drawn.append(index)
        return draw(self, index)

    Draws.__getitem__ = noting
    content = json.loads((shared / "parts.json").read_text())
    parts = Parts(Backbone(**content["encoder"]), Backbone(**content["llm"]))
    PartialState(cpu=True)
    outcomes = run_all(parts, shared / "store", earlier)
    each_drew = gather_object([list(drawn)])
    shard_on_cpus()
    split = count_split_parameters()
    # Code for a CPU takes a while to make.
    language_stages.compile_layers = partial(compile_layers, backend="aot_eager")
    folders = (parts, shared / "store", earlier / "train_resampler", Path("data/sharded"))
    outcomes["sharded"] = killed_and_resumed(*folders, compiled=True)
    compilations = counters["stats"]["unique_graphs"]
    outcomes["rounded"] = finetune_rounded(parts, shared / "store", earlier / "train_resampler")
    folders = (parts, shared / "store", earlier / "train_resampler", Path("data/sharded_full"))
    outcomes["sharded_full"] = finetune(*folders, **FULL)
    inside = [file for file in written if file.startswith(str(work)) or not file.startswith("/")]
    found = {
        "history": {name: outcome.history for name, outcome in outcomes.items()},
        "moved": {name: outcome.moved for name, outcome in outcomes.items()},
        "validations": {name: outcome.validations for name, outcome in outcomes.items()},
        "kept": {name: outcome.kept_step for name, outcome in outcomes.items()},
        "drawn": each_drew,
        "split": split,
        "compilations": compilations,
        "written": gather_object([inside]),
    }
    if PartialState().is_main_process:
        Path("outcome.json").write_text(json.dumps(found))
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
