"""The examples and the notebooks run from top to bottom, on tiny models and a tiny finished run."""

import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from PIL import Image
from ruamel.yaml import YAML
from tiny_backbones import LLMS, tiny_tokenizer, write_panoramas, write_parts
from tiny_models import write_dataset, write_images, write_resampler_folder

from panollava.corpus.text_chat import read_text_chat
from panollava.hashes import file_hash
from stages import evaluate

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def quick_params() -> evaluate.EvaluateParams:
    """Return the project's parameters with an evaluation that takes seconds."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text("utf-8"))
    params["evaluate"] |= {"shuffled": 1, "resamples": 10}
    return evaluate.EvaluateParams(**{name: params[name] for name in evaluate.EvaluateParams.model_fields})


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny finished run: models, a test split, predictions, metrics, a loss curve and a figure."""
    root = tmp_path_factory.mktemp("run")
    data = root / "data"
    parts = write_parts("clip", "llama", root / "backbones")
    write_resampler_folder(parts, data / "train_resampler", lora=data / "finetune_lora")
    shutil.copytree(data / "finetune_lora", data / "finetune_blind")
    for split in ("train", "test"):
        write_panoramas(data / "store", 2, split=split)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(evaluate, "read_params", lambda view, stage: quick_params())
        evaluate.main()
    (root / "plots/finetune_lora").mkdir(parents=True)
    pd.DataFrame({"step": [1, 2], "loss": [2.0, 1.5]}).to_csv(root / "plots/finetune_lora/loss.csv", index=False)
    (root / "plots/figures").mkdir()
    plt.figure(figsize=(1, 1)).savefig(root / "plots/figures/accuracy.png")
    plt.close("all")
    return root


def start(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> None:
    """Run an example as its own program would run."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_basic_usage_answers_and_writes_a_mask(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    panorama = write_images(tmp_path, 1)[0]
    monkeypatch.chdir(run)
    start(monkeypatch, "basic_usage.py", str(panorama), "--object", "the blue ball", "--mask", str(tmp_path / "m.png"))
    said = capsys.readouterr().out
    assert said.count("Q: ") == said.count("A: ") == 4
    assert "Where is the blue ball, in degrees?" in said
    with Image.open(tmp_path / "m.png") as mask, Image.open(panorama) as image:
        assert (mask.size, mask.mode) == (image.size, "1")


def test_custom_training_writes_a_model_that_opens(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, validation = (
        str(write_dataset(tmp_path / name, 2, seed=seed)) for seed, name in enumerate(("train", "val"))
    )
    model = str(run / "data/train_resampler")
    monkeypatch.chdir(tmp_path)
    start(monkeypatch, "custom_training.py", train, validation, "--model", model, "--output", "mine", "--steps", "2")
    said = capsys.readouterr().out
    assert "training on 6 records of 2 panoramas" in said
    assert "validation loss" in said
    assert "the answer in the data: a red cube" in said
    assert (tmp_path / "mine" / "adapter_config.json").is_file()


def test_plain_questions_are_counted_and_prompts_answered(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = str(run / "data/finetune_lora")
    start(monkeypatch, "plain_questions.py", trained)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 21
    assert said[-1].endswith(" of 20 right")
    prompts, out = tmp_path / "prompts.txt", tmp_path / "chat.jsonl"
    prompts.write_text("Hello!\n\nWho are you?\n")
    tokenizer = tiny_tokenizer("llama")
    tokenizer.save_pretrained(run / "backbones/own")  # with its template, and a model that ends at once
    model = LLMS["llama"](len(tokenizer))
    model.generation_config.eos_token_id = list(range(3, len(tokenizer)))
    model.save_pretrained(run / "backbones/own")
    start(monkeypatch, "plain_questions.py", str(run / "backbones/own"), str(prompts), str(out))
    found = read_text_chat(out)
    assert {question for ((question, _),) in found} <= {"Hello!", "Who are you?"}
    said = capsys.readouterr().out
    assert f"{len(found)} dialogues; {2 - len(found)} left out" in said
    assert f"sha256: {file_hash(out)[:12]}" in said


def test_an_answer_is_right_in_whole_words() -> None:
    is_right = runpy.run_path(str(ROOT / "examples" / "plain_questions.py"))["is_right"]
    assert is_right("It is CO2, or carbon dioxide.", ["carbon dioxide"])
    assert is_right("4", ["4", "four"])
    assert not is_right("It is 14.", ["4", "four"])


def executed(notebook: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **paths: str) -> list[Any]:
    """Return the outputs of a notebook that runs in its own folder, in a process of its own."""
    found = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    places = {"PYTHONPATH": found, "PANOLLAVA_ROOT": str(run), "PANOLLAVA_INDEX": "0", "IPYTHONDIR": str(tmp_path)}
    for name, value in (places | paths).items():
        monkeypatch.setenv(name, value)
    book = nbformat.read(notebook, as_version=4)
    NotebookClient(book, timeout=120, resources={"metadata": {"path": str(notebook.parent)}}).execute()
    return [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(outputs: list[Any]) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def pictures(outputs: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_demo_notebook_draws_the_panorama_the_box_the_mask_and_the_objects(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = executed(ROOT / "notebooks/demo.ipynb", run, tmp_path, monkeypatch)
    assert pictures(outputs) == 4
    assert "Q: Describe the panorama." in printed(outputs)


def test_the_analysis_notebook_reads_a_finished_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = executed(ROOT / "notebooks/analysis.ipynb", run, tmp_path, monkeypatch)
    assert pictures(outputs) == 5  # accuracy, confusion, directions, losses, one figure of the report
    tables = "".join(output.get("data", {}).get("text/plain", "") for output in outputs)
    for column in ("blind", "model", "shuffled", "most frequent"):
        assert column in tables
    markdown = "".join(output.get("data", {}).get("text/markdown", "") for output in outputs)
    assert "| Measure | Language | n | Model |" in markdown


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(notebook: Path) -> None:
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
