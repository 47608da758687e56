"""A disk that is full: whatever writes, names the file or folder, keeps what was there, and leaves nothing else."""

import ast
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from full_disk import full_disk
from huggingface_hub import ModelCardData
from peft import get_peft_model
from tiny_backbones import write_panoramas
from tiny_backbones import write_parts as write_backbones
from tiny_models import LORA, write_dataset, write_resampler_folder

from panollava import PanoLLaVAModel
from panollava.backbones.files import new_checkpoint
from panollava.backbones.presets import write_pointer
from panollava.backbones.trained import load_finetuned, read_parts, write_parts, write_trained
from panollava.corpus.importers import import_dataset
from panollava.corpus.importers.common import Request
from panollava.experiments.runner import write_rows
from panollava.io import write_json, write_text
from panollava.report.model_card import write_model_card
from panollava.tasks.prediction_files import write_lines
from panollava.training import language_stages
from panollava.training.lora import lora_config

SOURCE = [Path(__file__).resolve().parents[1] / name for name in ("src", "stages")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return a model as train_resampler writes it, and an adapter on top."""
    root = tmp_path_factory.mktemp("made")
    parts = write_backbones("clip", "llama", root)
    write_resampler_folder(parts, root / "resampler", lora=root / "lora")
    model, processor = load_finetuned(root / "resampler")
    write_dataset(root / "dataset", 2)
    base, _ = load_finetuned(root / "resampler")
    adapted = get_peft_model(base, lora_config(**LORA))
    return SimpleNamespace(
        root=root, parts=read_parts(root / "lora"), model=model, processor=processor, base=base, adapted=adapted
    )


def save_full(made: SimpleNamespace, out: Path) -> None:
    PanoLLaVAModel(made.model, made.processor).save_pretrained(out)


def save_processor(made: SimpleNamespace, out: Path) -> None:
    with new_checkpoint(out) as folder:
        made.processor.save_pretrained(folder)


def stage(made: SimpleNamespace, out: Path) -> None:
    names = {name for name, _ in made.model.named_parameters() if "resampler" in name}
    language_stages._write(made.model, made.processor, made.parts, names, out, torch.float32)


def finetuning_stage(made: SimpleNamespace, out: Path) -> None:
    names = {"mask_head.expand.bias"}
    language_stages._write(made.base, made.processor, made.parts, names, out, torch.float32, made.adapted)


def import_llava(made: SimpleNamespace, out: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A wall. " * 100}]
    file = made.root / "talk.json"
    if not file.exists():
        image = next(iter((made.root / "dataset").glob("*.png")))
        file.write_text(f'[{{"id": 1, "image": "{image.name}", "conversations": {turns}}}]'.replace("'", '"'))
    import_dataset("llava", Request(file, made.root / "dataset"), out)


# What writes a file, and replaces it.
FILES: dict[str, Callable[[SimpleNamespace, Path], object]] = {
    "text": lambda made, path: write_text(path, "x" * 1000),
    "json": lambda made, path: write_json(path, {"x": "x" * 1000}),
    "predictions": lambda made, path: write_lines(path, [{"x": "x" * 1000}]),
    "pointer": lambda made, path: write_pointer(made.parts.encoder, path),
    "parts.json": lambda made, path: write_parts(made.parts, path.parent),
    "trained.safetensors": lambda made, path: write_trained({"a": torch.ones(1000)}, path.parent),
    "README.md": lambda made, path: write_model_card(
        path.parent, ModelCardData(), made.model.config, made.processor, full=False
    ),
    "metrics/rows.json": lambda made, path: write_rows(path.parent.parent, "rows", {"a": {"b": "x" * 1000}}),
    "images/train.arrow": lambda made, path: write_panoramas(path.parent.parent, 2),
}
# What writes a folder, whether it is there and empty or not.
FOLDERS = {
    "full checkpoint": save_full,
    "processor": save_processor,
    "stage": stage,
    "finetuning stage": finetuning_stage,
    "import": import_llava,
}


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_stays_what_it_was(made: SimpleNamespace, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    FILES[name](made, path)
    before = content(tmp_path)
    with full_disk(100), pytest.raises(OSError, match=rf"nothing was written: '{path}'"):
        FILES[name](made, path)
    assert content(tmp_path) == before
    assert {file.name for file in tmp_path.iterdir()} == {Path(file).parts[0] for file in before}


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_does_not_appear(made: SimpleNamespace, tmp_path: Path, name: str, exists: bool) -> None:
    out = tmp_path / "out"
    FOLDERS[name](made, out)
    sizes = sorted({len(file) for file in content(out).values()})
    shutil.rmtree(out)
    if exists:
        out.mkdir()
    for limit in (sizes[0] - 1, sizes[len(sizes) // 2], sizes[-1] - 1):
        with full_disk(limit), pytest.raises(OSError, match=rf"nothing was written: '{out}'"):
            FOLDERS[name](made, out)
        assert [path.name for path in tmp_path.iterdir()] == (["out"] if exists else [])
        assert not content(tmp_path)
    FOLDERS[name](made, out)
    assert content(out)


# Calls that write to a path, and the modules that make them: into a folder or a file of `panollava.io`.
WRITING = {"write_text", "write_bytes", "save_pretrained", "save_file", "to_csv", "copyfile", "savefig", "mkdtemp"}
WRITERS = {
    "panollava/io.py": {"mkdtemp"},
    "panollava/corpus/importers/writing.py": {"copyfile", "write_text"},
    "panollava/backbones/standins/encoders.py": {"save_pretrained", "write_text"},
    "panollava/backbones/standins/llms.py": {"save_pretrained", "write_text"},
    "panollava/training/language_stages.py": {"save_pretrained"},
    "panollava/training/checkpoints.py": {"save_file"},
    "panollava/chat.py": {"save_pretrained"},
    "panollava/finetuning.py": {"save_pretrained"},
    "panollava/cli/model.py": {"save_pretrained"},  # the one of `PanoLLaVAModel`
    "panollava/experiments/runner.py": {"to_csv"},
    "panollava/report/style.py": {"savefig"},
    "panollava/training/running.py": {"to_csv"},
    "panollava/backbones/packaged/efficientnet.py": {"save_file"},
    "panollava/backbones/packaged/smollm2.py": {"save_pretrained"},
    "panollava/bench/random_checkpoints.py": {"save_pretrained"},
}


def written(path: Path) -> set[str]:
    calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    methods = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    functions = {call.id for call in calls if isinstance(call, ast.Name)} - {"write_text"}  # that of `panollava.io`
    return (methods | functions) & WRITING


def test_every_writer_is_known() -> None:
    files = {str(path.relative_to(root)): path for root in SOURCE for path in root.rglob("*.py")}
    assert {name: names for name, path in files.items() if (names := written(path))} == WRITERS
