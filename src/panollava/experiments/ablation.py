"""The ablation study: each arm changes some parameters of the default and runs with several seeds.

A seed draws everything anew, the world and the weights. The experiments are named ARM-sSEED; `runner.py` runs them.
`panollava ablation default code-yaw` runs two arms.
"""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panollava.experiments.gate import flatten
from panollava.experiments.runner import own_files, run_missing, version_line, write_rows
from panollava.markdown import NOTHING, degrees, markdown_table, share
from panollava.params import PARAMS_FILE, load_params

NAME = "ablation"
FIGURE = Path("plots/ablation.png")  # `panollava ablation` draws it
SEEDS = (0, 1, 2)

# Each arm by the parameters that it changes; * stands for the chosen weights. The first arm is the default. Views and
# resamplers have about as many visual tokens as the stand-ins' default (144). The last two arms have a world of their
# own, with all objects near the poles; compare them with each other alone.
SPHERE = {
    "model.*.views.strategy": "sphere",
    "model.*.views.stride_deg": "90",
    "model.*.tokens_per_side": "5",
    "train_vision.*.pairing": "none",
}
POLES = {"dataset.world.min_latitude_deg": "60"}
ARMS: dict[str, dict[str, str]] = {
    "default": {},
    "overlap-none": {"train_vision.*.pairing": "none"},
    "overlap-strip": {"train_vision.*.pairing": "strip"},
    "overlap-batchwise": {"train_vision.*.loss": "vicreg_batchwise"},
    "code-none": {"model.*.position_code": "none"},
    "code-yaw": {"model.*.position_code": "yaw"},
    "unrotated": {"train_resampler.*.augmentation.yaw_steps": "1", "finetune_lora.*.augmentation.yaw_steps": "1"},
    "resize": {"model.*.views.strategy": "resize", "model.*.tokens_per_side": "12", "train_vision.*.pairing": "none"},
    "cubemap": {"model.*.views.strategy": "cubemap", "model.*.tokens_per_side": "5", "train_vision.*.pairing": "none"},
    "e2p": {"model.*.views.strategy": "e2p"},
    "anyres": {"model.*.views.strategy": "anyres"},
    "sphere": SPHERE,
    "adaptive": {
        "model.*.views.strategy": "adaptive",
        "model.*.views.token_budget": "144",
        "model.*.tokens_per_side": "3",
        "train_vision.*.pairing": "none",
    },
    "mlp": {"model.*.resampler": "mlp"},
    "perceiver": {"model.*.resampler": "perceiver"},
    "c_abstractor": {"model.*.resampler": "c_abstractor"},
    "poles-anyres_e2p": POLES,
    "poles-sphere": POLES | SPHERE,
}

# Name in the table's files -> key in a language's block of metrics/evaluate.json.
MEASURES = {
    "accuracy": "accuracy.value",
    "blind": "accuracy.blind",
    "median_deg": "direction.median_deg",
    "grounding": "grounding.iou50",
    "ap50": "detection.ap50",
    "masks": "segmentation.miou",
}


def cells(arms: Sequence[str], seeds: Sequence[int], weights: str) -> dict[str, dict[str, str]]:
    """Return the experiments of arms and seeds: name -> the parameters that the experiment sets.

    Raises:
        ValueError: an unknown arm.
    """
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise ValueError(f"ablation: no arm is called {', '.join(unknown)}; choose from {', '.join(ARMS)}")
    found = {}
    for arm in arms:
        settings = {key.replace("*", weights): value for key, value in ARMS[arm].items()}
        for seed in seeds:
            found[f"{arm}-s{seed}"] = settings | {"seed": str(seed)}
    return found


def summarise(metrics: Mapping[str, dict[str, Any]], arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Return a row for each arm: mean, lowest and highest value over seeds of each measure, in the first language."""
    rows: dict[str, Any] = {}
    for arm in arms:
        runs = [next(iter(metrics[f"{arm}-s{seed}"]["evaluate"].values())) for seed in seeds]
        leaves = [flatten(run) for run in runs]
        rows[arm] = {"seeds": len(seeds)}
        for name, key in MEASURES.items():
            values = [value for run in leaves if isinstance(value := run.get(key), float | int)]
            if len(values) == len(seeds):
                rows[arm][name] = {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}
    return rows


def markdown(content: Mapping[str, Any]) -> str:
    """Return the content of metrics/ablation.json as a table: a row an arm, each number as mean [lowest, highest]."""
    header = [
        "Arm",
        "Seeds",
        "QA accuracy",
        "Blind",
        "Direction, median error",
        "Grounding, IoU ≥ 0.5",
        "AP50",
        "Masks, IoU",
    ]
    lines = []
    for arm, row in content[NAME].items():
        spelt = []
        for name in MEASURES:
            spell = degrees if name == "median_deg" else share
            block = row.get(name)
            low, mean, high = (spell(block[key]) for key in ("low", "mean", "high")) if block else (NOTHING,) * 3
            spelt.append(f"{mean} [{low}, {high}]" if block else NOTHING)
        lines.append([arm, str(row["seeds"]), *spelt])
    return f"{version_line(content)}{markdown_table(header, lines)}"


def run_ablation(arms: Sequence[str], root: Path = Path(), seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Run the missing experiments, write metrics/ablation.json and .csv, and return the content of the first.

    Raises:
        ValueError: an unknown arm, or an error of `run_missing`.
    """
    weights = load_params(root / PARAMS_FILE).weights
    metrics = run_missing(root, cells(arms, seeds, weights), [*own_files(NAME), FIGURE.as_posix()])
    return write_rows(root, NAME, summarise(metrics, arms, seeds))
