"""The pipeline with small numbers in a folder of its own: real stages, tiny backbones, a world of a few panoramas.

`STEPS` are its stages in order, then an import and a merge; each runs in a process of its own and starts from a copy of
the folder as the step before left it.
"""

import hashlib
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from ruamel.yaml import YAML
from tiny_backbones import write_encoder, write_llm
from torch import Tensor

PROJECT = Path(__file__).resolve().parents[2]
SMALL = {"steps": 4, "batch_size": 2}


def prepare(folder: Path) -> None:
    """Write backbones, parameters and a small LLaVA file to import."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    shutil.copy(PROJECT / "dvc.yaml", folder)
    here = Path.cwd()
    os.chdir(folder)
    try:
        write_encoder("clip", Path("backbones/clip"))
        write_llm("llama", Path("backbones/llama"))
        _write_parameters()
        _write_source()
    finally:
        os.chdir(here)


def _write_parameters() -> None:
    yaml = YAML()
    params = yaml.load(PROJECT / "params.yaml")
    params["encoders"]["clip"]["standin"] = "backbones/clip"
    params["llms"]["llama"]["standin"] = "backbones/llama"
    params["dataset"]["world"]["panoramas"] = {"train": 3, "validation": 1, "test": 2}
    params["preprocess"]["standin"]["image_height"] = 64
    params["model"]["standin"] |= {"resampler_hidden_size": 32, "resampler_layers": 1, "position_frequencies": 2}
    params["model"]["standin"]["views"] |= {"strategy": "e2p", "stride_deg": 60}
    for stage in ("train_vision", "train_resampler", "finetune_lora"):
        params[stage]["standin"] |= SMALL
    params["train_vision"]["standin"]["encoder_blocks"] = 1
    params["finetune_lora"]["standin"]["lora"] |= {"rank": 2, "alpha": 4}
    params["evaluate"] |= {"shuffled": 1, "resamples": 10}
    yaml.dump(params, Path("params.yaml"))
    launch = yaml.load(PROJECT / "launch.yaml")
    launch["standin"]["save_steps"] = 1
    yaml.dump(launch, Path("launch.yaml"))


def _write_source() -> None:
    from panollava.corpus.world_records import world_row

    Path("source").mkdir()
    samples = []
    for index in range(3):
        world_row(index, seed=0, split="train", height=64, korean_share=0).image.save(f"source/{index}.png")
        turns = [{"from": "human", "value": f"<image>\nQuestion {index}?"}, {"from": "gpt", "value": "An answer."}]
        samples.append({"id": str(index), "image": f"{index}.png", "conversations": turns})
    Path("source/llava.json").write_text(json.dumps(samples), encoding="utf-8")


def _stage(name: str, *arguments: str) -> Callable[[], None]:
    def run() -> None:
        sys.argv = [name, *arguments]
        runpy.run_module(f"stages.{name}", run_name="__main__")

    return run


def _command(*arguments: str) -> Callable[[], None]:
    def run() -> None:
        from panollava.cli import main

        sys.exit(main(list(arguments)))

    return run


STEPS: dict[str, Callable[[], None]] = {
    "preprocess": _stage("preprocess"),
    "resolve_encoder": _stage("resolve_encoder"),
    "resolve_llm": _stage("resolve_llm"),
    "train_vision": _stage("train_vision"),
    "train_resampler": _stage("train_resampler"),
    "finetune_lora": _stage("finetune_lora"),
    "finetune_blind": _stage("finetune_lora", "--blind"),
    "evaluate": _stage("evaluate"),
    "import": _command("import", "llava", "source/llava.json", "imported", "--images", "source"),
    "merge": _command("merge", "data/finetune_lora", "merged"),
}
# The folder that a step writes, for steps whose folder somebody opens.
OUTPUTS = {
    "preprocess": "data/store",
    "train_vision": "data/train_vision",
    "train_resampler": "data/train_resampler",
    "finetune_lora": "data/finetune_lora",
    "finetune_blind": "data/finetune_blind",
    "import": "imported",
    "merge": "merged",
}
# Wall-clock times differ from run to run.
MEASURED = ("metrics/latency.json",)


def open_store(folder: str) -> str:
    """Return a digest of what the three splits of a store hold."""
    from panollava.corpus.store import open_split

    digest = hashlib.sha256()
    for split in ("train", "validation", "test"):
        for row in open_split(Path(folder), split):
            digest.update(row["records"].encode() + row["image"].tobytes())
    return digest.hexdigest()


def open_records(folder: str) -> str:
    """Return a digest of the records of a dataset, after its images have been decoded."""
    from panollava.corpus.records import records_to_json
    from panollava.corpus.validation import read_dataset

    return hashlib.sha256(records_to_json(read_dataset(Path(folder))).encode()).hexdigest()


def open_vision(folder: str) -> str:
    """Return a digest of the weights that train_vision wrote."""
    from panollava.backbones.files import check_files, load_weights
    from panollava.backbones.trained import TRAINED

    check_files(Path(folder))
    return _weights_digest(load_weights(Path(folder) / TRAINED))


def open_model(folder: str) -> str:
    """Return a digest of a model's weights and of its answer to a question."""
    from PIL import Image

    from panollava import PanoLLaVAModel

    model = PanoLLaVAModel.from_pretrained(folder, device="cpu")
    answer = model.generate(Image.new("RGB", (128, 64), "red"), "What colour is it?", max_new_tokens=8)
    return _weights_digest(model.model.state_dict()) + repr(answer)


def _weights_digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode() + value.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


OPENERS: dict[str, Callable[[str], str]] = {
    "preprocess": open_store,
    "train_vision": open_vision,
    "train_resampler": open_model,
    "finetune_lora": open_model,
    "finetune_blind": open_model,
    "import": open_records,
    "merge": open_model,
}


def prepared(folder: Path, run: Callable[[str, Path], None]) -> dict[str, Path]:
    """Return the folder that each step starts from; `run` runs a step in a folder."""
    starts, current = {}, folder / "0"
    prepare(current)
    for number, step in enumerate(STEPS, start=1):
        starts[step] = current
        following = folder / str(number)
        shutil.copytree(current, following)
        run(step, following)
        current = following
    return starts
