"""The settings of `panollava train`: those of a params.yaml, changed by the options of the command.

The file is params.yaml of the current folder, or one that is named, or else the one of this package (defaults.yaml).
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from panollava.cli.training import DEFAULTS, STAGES
from panollava.params import LAUNCH_FILE, PARAMS_FILE, Launch, Params, ParamsError, parse_params, read_launch
from panollava.yaml_files import parse_yaml, read_yaml

# The options that set one key in the section of each stage that runs.
KEYS = (
    "batch_size", "accumulation", "warmup", "validate_every", "keep", "patience", "records_per_panorama",
    "load_in_4bit", "freeze_layers",
)  # fmt: skip
# The part of a stage that --learning-rate is for.
MAIN_PART = {"train_vision": "vision_tower", "train_resampler": "resampler", "finetune_lora": "lora"}
LORA: dict[str, Any] = {
    "rank": 32, "alpha": 64, "dropout": 0.0,
    "targets": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}  # fmt: skip
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Change = tuple[str, Any]


def read_settings(options: argparse.Namespace) -> tuple[Params, str]:
    """Return the settings of a run, validated, and where those come from that no option gives.

    Raises:
        ParamsError: a setting that is unknown, or has a value that cannot be; an unknown preset.
    """
    file = PARAMS_FILE if options.params is None else Path(options.params)
    if options.params is None and not file.is_file():
        file = DEFAULTS
    values = read_yaml(file)
    source = f"the defaults of panollava train ({file})" if file is DEFAULTS else str(file)
    weights = options.weights
    if weights not in values.get("model", {}):
        raise ParamsError(f"{source} has no settings for --weights {weights}; it has {', '.join(values['model'])}")
    values["weights"] = weights
    values["dataset"] |= {"source": "records", "path": str(options.dataset)}
    if options.allow_any_aspect:
        values["dataset"]["allow_any_aspect"] = True
    if options.seed is not None:
        values["seed"] = options.seed
    values["encoder"] = _preset(values, "encoder", options.encoder, {"feature_layer": -1})
    values["llm"] = _preset(values, "llm", options.llm, {"chat_template": "own"})
    if options.feature_layer is not None:
        values["encoders"][values["encoder"]]["feature_layer"] = options.feature_layer
    if options.chat_template is not None:
        values["llms"][values["llm"]]["chat_template"] = options.chat_template
    for key, value in _changes(options, values):
        _put(values, key, value, weights)
    return parse_params(values, source), source


def read_launch_settings(options: argparse.Namespace) -> Launch:
    """Return the launch settings: of launch.yaml in the current folder, changed by the options of the command.

    Without that file, a GPU gets 8 workers, activation checkpointing and compiled layers, a CPU nothing of them.
    """
    if LAUNCH_FILE.is_file():
        launch = read_launch(options.weights)
    else:
        gpu = torch.cuda.is_available()
        launch = Launch(
            workers=8 if gpu else 0, save_steps=200, activation_checkpointing=gpu, compile=gpu, report_to=[]
        )
    given = {name: value for name, value in vars(options).items() if name in Launch.model_fields and value is not None}
    if options.report_to == ["none"]:
        given["report_to"] = []
    return launch.model_copy(update=given)


def _preset(values: dict[str, Any], kind: str, name: str | None, rest: dict[str, Any]) -> str:
    """Return the name of a preset; a hub id or a folder becomes one, unless a preset has that hub id already."""
    presets = values[f"{kind}s"]
    if name is None:
        return str(values[kind])
    if name in presets:
        return name
    if known := [key for key, preset in presets.items() if preset["hub"] == name]:
        return str(known[0])
    if not Path(name).is_dir() and not HUB_ID.fullmatch(name):
        raise ParamsError(
            f"--{kind} {name!r} is no preset ({', '.join(presets)}), no folder here, and no hub id (owner/name)"
        )
    presets[name] = {"hub": name, "standin": name, **rest}
    return name


def _changes(options: argparse.Namespace, values: dict[str, Any]) -> Iterator[Change]:
    """Yield the settings that the options of the command change; `--set` comes last."""
    stages = [STAGES[options.stage]] if options.stage in STAGES else list(STAGES.values())
    if options.learning_rate is not None and len(stages) > 1:
        raise ParamsError(
            "--learning-rate means another part in each stage; name one --stage, or one part, such as "
            f"--set finetune_lora.learning_rate.lora={options.learning_rate}"
        )
    given = vars(options)
    for stage in stages:
        section = values[stage][options.weights]
        for unit, other in (("steps", "epochs"), ("epochs", "steps")):
            if given[unit] is not None:
                yield f"{stage}.{unit}", given[unit]
                yield f"{stage}.{other}", None
        for name in KEYS:
            if given[name] is not None and (name in section or len(stages) == 1):
                yield f"{stage}.{name}", given[name]
        if stage == "finetune_lora":
            yield from _lora_changes(options, section)
        if options.learning_rate is not None:
            full = stage == "finetune_lora" and options.use_lora is not True and _is_full(options, section)
            part = "language_model" if full else MAIN_PART[stage]
            yield f"{stage}.learning_rate.{part}", options.learning_rate
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals:
            raise ParamsError(f"--set {text}: expected KEY=VALUE, such as model.views.strategy=cubemap")
        yield key, parse_yaml(f"value: {value}".encode(), f"--set {text}")["value"]


def _is_full(options: argparse.Namespace, section: dict[str, Any]) -> bool:
    return options.use_lora is False or (section["lora"] is None and options.lora_rank is None)


def _lora_changes(options: argparse.Namespace, section: dict[str, Any]) -> Iterator[Change]:
    if options.use_lora is False:
        if options.lora_rank is not None:
            raise ParamsError("--lora-rank is for adapters, and --no-use-lora trains without; leave one of them out")
        yield "finetune_lora.lora", None
    elif options.use_lora or options.lora_rank is not None:
        lora = section["lora"] or LORA
        rank = options.lora_rank or lora["rank"]
        # Alpha keeps its ratio to the rank, which decides how much an adapter weighs.
        yield "finetune_lora.lora", lora | {"rank": rank, "alpha": max(round(rank * lora["alpha"] / lora["rank"]), 1)}


def _put(values: dict[str, Any], key: str, value: Any, weights: str) -> None:
    """Set a dotted key, in the section of `weights` where there is one for each.

    Raises:
        ParamsError: there is no such key, with those that there are.
    """
    parts = key.split(".")
    found = values.get(parts[0])
    if isinstance(found, dict) and weights in found and parts[1:2] != [weights]:
        parts.insert(1, weights)
    inner: Any = values
    for place, part in enumerate(parts):
        if not isinstance(inner, dict) or part not in inner:
            there = f"{'.'.join(parts[:place])} has {', '.join(inner)}" if isinstance(inner, dict) and place else ""
            raise ParamsError(f"there is no setting {'.'.join(parts)}" + (f"; {there}" if there else ""))
        if place < len(parts) - 1:
            inner = inner[part]
    inner[parts[-1]] = value
