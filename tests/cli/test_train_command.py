"""`panollava train` and `evaluate`: the pipeline's stages and numbers without DVC, and messages for what is wrong."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file
from tiny_backbones import LORA, MODEL, write_panoramas, write_parts
from tiny_models import write_dataset

from panollava.backbones.templates import chat_template
from panollava.backbones.trained import load_finetuned, read_parts
from panollava.cli import main, train_run, train_settings, training
from panollava.params import load_params
from panollava.settings import finetune_arguments, resampler_arguments, vision_arguments
from panollava.tasks.prediction_files import read_predictions
from panollava.training.language_stages import finetune_lora, train_resampler
from panollava.training.trackers import TRACKERS
from panollava.training.vision_stage import train_vision

PROJECT = Path(__file__).resolve().parents[2]
STAGES = ("train_vision", "train_resampler", "finetune_lora", "finetune_blind")
SHORT = ("--weights", "standin", "--steps", "2", "--batch-size", "2")


def read(path: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(path.read_text("utf-8"))


def write_params(folder: Path) -> None:
    """Write a params.yaml with the presets `clip` and `llama` as tiny backbones in a folder, and a tiny model."""
    content = read(PROJECT / "params.yaml")
    for kind, name in (("encoders", "clip"), ("llms", "llama")):
        content[kind][name]["standin"] = name
    content["model"]["standin"] |= {
        "views": content["model"]["standin"]["views"] | {"strategy": "e2p", "stride_deg": 60},
        "tokens_per_side": 4, "resampler": "mlp", "resampler_hidden_size": 32, "resampler_layers": 1,
        "position_frequencies": 2,
    }  # fmt: skip
    content["train_vision"]["standin"]["encoder_blocks"] = 1
    content["finetune_lora"]["standin"]["lora"] = LORA
    content["preprocess"]["standin"]["image_height"] = 64
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with params.yaml, tiny backbones and a store."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_parts("clip", "llama", Path())
    write_params(folder)
    for split, count in (("train", 3), ("validation", 2), ("test", 2)):
        write_panoramas(folder / "store", count, split=split)
    write_dataset(folder / "set", 12)
    return folder


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope="module")
def trained(project: Path) -> SimpleNamespace:
    """Return the output of all stages with the twin, then evaluated; and what was printed."""
    with pytest.MonkeyPatch.context() as patch, pytest.warns():
        patch.chdir(project)
        assert main(["train", "store", "--output", "all", *SHORT, "--blind", "--validate-every", "1"]) == 0
        command = ["evaluate", "all/finetune_lora", "store", "--output", "all", "--blind", "all/finetune_blind"]
        assert main([*command, "--resamples", "10", "--samples", "1"]) == 0
    return SimpleNamespace(out=project / "all", project=project)


def test_all_stages_write_folders_numbers_curves_and_settings(trained: SimpleNamespace) -> None:
    for stage in STAGES:
        assert (trained.out / stage / "files.json").is_file()
        numbers = json.loads((trained.out / f"metrics/{stage}.json").read_text())[stage]
        assert numbers["validation"]["last_step"] == 2
        header = (trained.out / f"plots/{stage}/loss.csv").read_text().splitlines()[0]
        assert header == "step,loss,learning_rate,validation_loss"
        settings = read(trained.out / f"settings/{stage}.yaml")
        own = settings["finetune_lora" if stage == "finetune_blind" else stage]["standin"]
        assert (own["steps"], own["epochs"], own["batch_size"], own["validate_every"]) == (2, None, 2, 1)
        assert ("llms" in settings) is (stage != "train_vision")
    assert read_parts(trained.out / "finetune_lora").llm.name == "llama"


def test_the_written_settings_are_a_params_file(trained: SimpleNamespace) -> None:
    found = load_params(trained.out / "params.yaml")
    assert (found.weights, found.train_vision["standin"].steps) == ("standin", 2)
    assert found.model == load_params(trained.project / "params.yaml").model


def test_weights_are_those_of_the_stages(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.project)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    params, parts = load_params(trained.out / "params.yaml"), read_parts(trained.out / "finetune_lora")
    launch = SimpleNamespace(save_steps=1, workers=0, activation_checkpointing=False, compile=False, report_to=[])
    common: Any = (params.model["standin"], launch, params.seed, Path("store"), tmp_path / "logs")
    folder = {stage: tmp_path / stage for stage in STAGES}
    train_vision(
        parts.encoder, Path("store"), folder["train_vision"], tmp_path / "c1",
        **vision_arguments(params.train_vision["standin"], *common),
    )  # fmt: skip
    train_resampler(
        parts, Path("store"), folder["train_vision"], folder["train_resampler"], tmp_path / "c2",
        **resampler_arguments(params.train_resampler["standin"], *common),
    )  # fmt: skip
    finetune_lora(
        parts, Path("store"), folder["train_resampler"], folder["finetune_lora"], tmp_path / "c3",
        **finetune_arguments(params.finetune_lora["standin"], *common),
    )  # fmt: skip
    for stage in STAGES[:3]:
        for file in folder[stage].glob("*.safetensors"):
            wanted, found = load_file(file), load_file(trained.out / stage / file.name)
            assert wanted.keys() == found.keys()
            assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_evaluation_is_that_of_the_stage(
    trained: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from panollava.params import Evaluate
    from stages import evaluate as stage

    monkeypatch.chdir(trained.project)
    settings = Evaluate(batch_size=16, shuffled=160, resamples=10)
    params = stage.EvaluateParams(seed=0, weights="standin", encoder="clip", llm="llama", evaluate=settings)
    monkeypatch.setattr(stage, "read_params", lambda model, stage: params)
    for name, place in (("STORE", "store"), ("MODEL", "all/finetune_lora"), ("BLIND", "all/finetune_blind")):
        monkeypatch.setattr(stage, name, Path(place))
    for name in ("PREDICTIONS", "METRICS", "LATENCY"):
        monkeypatch.setattr(stage, name, tmp_path / name)
    stage.run()
    files = (tmp_path / "METRICS", trained.out / "metrics/evaluate.json")
    wanted, found = (json.loads(file.read_text()) for file in files)
    assert found["evaluate"] == wanted["evaluate"]
    assert {name: found[name] for name in ("encoder", "llm", "seed")} == {"encoder": "clip", "llm": "llama", "seed": 0}
    assert read_predictions(trained.out / "evaluate/predictions.jsonl") == read_predictions(tmp_path / "PREDICTIONS")
    assert "blind" in found["evaluate"]["en"]["accuracy"]
    page = (trained.out / "plots/report.html").read_text()
    assert "finetune_blind" in page
    assert (trained.out / "plots/figures/losses.png").is_file()


def test_finished_stages_stay_and_other_settings_are_refused(
    trained: SimpleNamespace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = {file: file.stat().st_mtime_ns for file in trained.out.glob("*/*.safetensors")}
    assert main(["train", "store", "--output", "all", *SHORT, "--validate-every", "1"]) == 0
    said = capsys.readouterr().out
    assert said.count("stays as it is") == 3
    assert times == {file: file.stat().st_mtime_ns for file in trained.out.glob("*/*.safetensors")}
    assert main(["train", "store", "--output", "all", *SHORT, "--accumulation", "3", "--validate-every", "1"]) == 1
    told = capsys.readouterr().err
    assert "train_vision.standin.accumulation was 1, now 3; choose another --output, or remove all/train_vision" in told


def test_a_killed_run_goes_on_from_its_checkpoint(
    trained: SimpleNamespace, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "store", "--output", "killed", "--stage", "finetune", "--previous", "all/train_resampler"]
    command += [*SHORT, "--steps", "3", "--save-steps", "2"]

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    from panollava.training.trainer import PanoTrainer

    step = PanoTrainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(PanoTrainer, "training_step", killed)
        assert main(command) == 130
    assert not Path("killed/finetune_lora").exists()
    assert main(command) == 0
    assert "resuming from" in capsys.readouterr().out
    assert Path("killed/finetune_lora/files.json").is_file()


def test_records_are_divided_and_asked(
    trained: SimpleNamespace, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "set", "--output", "own", "--stage", "finetune", "--previous", "all/train_resampler", *SHORT]
    assert main([*command, "--no-use-lora", "--freeze-layers", "1", "--learning-rate", "1e-3"]) == 0
    said = capsys.readouterr().out
    for line in ("10 panoramas for train", "1 panoramas for validation", "1 panoramas for test"):
        assert f"own/store: {line}" in said
    assert "language_model: 0.001" in said
    assert "2 steps of 2 panoramas: 0.4 epochs" in said
    assert not Path("own/finetune_lora/adapter_config.json").exists()
    assert main(["evaluate", "own/finetune_lora", "set", "--output", "asked", "--resamples", "10"]) == 0
    said = capsys.readouterr().out
    assert "asked/store: 12 panoramas as test" in said
    assert "if the model was trained on some of them" in said
    first = Path("asked/evaluate/predictions.jsonl").read_text()
    again = ["evaluate", "own/finetune_lora", "set", "--output", "asked", "--resamples", "10"]
    assert main(again) == 0
    assert "panoramas as test" not in capsys.readouterr().out
    assert Path("asked/evaluate/predictions.jsonl").read_text() == first
    assert main([*again, "--image-height", "32"]) == 1
    assert "image_height was 1024, now 32; choose another --output" in capsys.readouterr().err
    assert main(["evaluate", "own/finetune_lora", "set", "--output", "own"]) == 1
    assert "own/store is there already; name it as DATASET" in capsys.readouterr().err
    scores = json.loads(Path("asked/metrics/evaluate.json").read_text())
    assert "blind" not in json.dumps(scores["evaluate"])
    command = ["evaluate", "own/finetune_lora", "set", "--output", "part", "--resamples", "10"]
    assert main([*command, "--split", "test"]) == 0
    asked = {p.image_id for p in read_predictions(Path("part/evaluate/predictions.jsonl"))}
    (row,) = train_run.open_images(Path("own/store"), "test")
    assert asked == {row["image_id"]}
    load_finetuned(Path("own/finetune_lora"))


def settings(*arguments: str) -> Any:
    """Return the settings of a command line."""
    from panollava.cli import build_parser

    options = build_parser().parse_args(["train", "store", "--output", "out", *arguments])
    return train_settings.read_settings(options)[0]


def test_options_reach_the_stages_that_run(here: Path) -> None:
    found = settings("--weights", "standin", "--epochs", "2", "--warmup", "5", "--lora-rank", "8", "--seed", "7")
    for section in (found.train_vision, found.train_resampler, found.finetune_lora):
        assert (section["standin"].epochs, section["standin"].steps, section["standin"].warmup) == (2, None, 5)
    assert found.finetune_lora["standin"].lora is not None
    assert (found.finetune_lora["standin"].lora.rank, found.finetune_lora["standin"].lora.alpha) == (8, 16)
    assert (found.seed, found.dataset.source, found.dataset.path) == (7, "records", "store")
    one = settings("--weights", "standin", "--stage", "vision", "--batch-size", "3")
    assert [s["standin"].batch_size for s in (one.train_vision, one.train_resampler)] == [3, 4]


@pytest.mark.parametrize(
    ("stage", "part", "more"),
    [
        ("vision", "vision_tower", ()),
        ("resampler", "resampler", ()),
        ("finetune", "lora", ()),
        ("finetune", "language_model", ("--no-use-lora",)),
    ],
)
def test_the_learning_rate_is_that_of_the_main_part(here: Path, stage: str, part: str, more: tuple[str, ...]) -> None:
    found = settings("--weights", "standin", "--stage", stage, "--learning-rate", "5e-6", *more).model_dump()
    name = training.STAGES[stage]
    before = load_params().model_dump()[name]["standin"]["learning_rate"]
    assert found[name]["standin"]["learning_rate"] == before | {part: 5e-6}


def test_set_reaches_every_key_and_comes_last(here: Path) -> None:
    found = settings("--weights", "standin", "--steps", "5", "--set", "model.views.strategy=cubemap",
                     "--set", "train_vision.standin.steps=9", "--set", "dataset.shares.test=0.3")  # fmt: skip
    assert (found.model["standin"].views.strategy, found.train_vision["standin"].steps) == ("cubemap", 9)
    assert (found.train_resampler["standin"].steps, found.dataset.shares.test) == (5, 0.3)
    assert found.model["hub"].views.strategy == "anyres_e2p"


def test_any_checkpoint_is_a_preset(here: Path) -> None:
    found = settings("--encoder", "clip", "--llm", "mistralai/Mistral-7B-Instruct-v0.1")
    assert (found.encoder, found.llm) == ("clip", "mistral")
    more = ("--feature-layer", "-3", "--llm", "llama", "--chat-template", "vicuna")
    found = settings("--encoder", "google/siglip2-so400m", *more)
    assert found.encoders["google/siglip2-so400m"].hub == "google/siglip2-so400m"
    assert found.encoders["google/siglip2-so400m"].feature_layer == -3
    assert found.llms["llama"].chat_template == "vicuna"
    assert settings("--weights", "standin", "--encoder", str(here / "clip")).encoder == str(here / "clip")


def test_a_model_without_a_chat_template_is_refused_before_any_training(
    here: Path, trained: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["train", "store", "--output", "bare", "--stage", "resampler", "--previous", "all/train_vision", *SHORT]
    assert main([*command, "--llm", "./llama"]) == 1
    assert "has no chat template" in capsys.readouterr().err
    assert not Path("bare/train_resampler").exists()


def test_a_folder_of_any_model_is_trained_with_its_own_chat_template(
    here: Path, trained: SimpleNamespace, tmp_path: Path
) -> None:
    shutil.copytree("llama", tmp_path / "chatty")
    template = chat_template("mistral")
    (tmp_path / "chatty/chat_template.jinja").write_text(template, "utf-8")
    out = tmp_path / "out"
    command = ["train", "store", "--output", str(out), "--stage", "resampler", "--previous", "all/train_vision"]
    assert main([*command, *SHORT, "--llm", str(tmp_path / "chatty")]) == 0
    assert read_parts(out / "train_resampler").llm.chat_template is None
    assert template in (out / "train_resampler/chat_template.jinja").read_text("utf-8")


def test_an_encoder_that_cannot_be_used_is_refused_before_any_training(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree("clip", tmp_path / "odd")
    config = json.loads((tmp_path / "odd/config.json").read_text("utf-8"))
    (tmp_path / "odd/config.json").write_text(json.dumps(config | {"model_type": "blip", "vision_config": {}}), "utf-8")
    command = ["train", "store", "--output", "odd", "--stage", "vision", *SHORT, "--encoder", str(tmp_path / "odd")]
    assert main(command) == 1
    assert "is not supported; use one of" in capsys.readouterr().err
    assert not Path("odd/train_vision").exists()


def test_without_params_there_are_the_defaults_of_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, wanted = read(training.DEFAULTS), read(PROJECT / "params.yaml")
    for name in ("preprocess", "model", *STAGES[:3]):
        wanted[name] = {"hub": wanted[name]["hub"]}
    assert own == wanted | {"weights": "hub", "gate": {}}
    monkeypatch.chdir(tmp_path)
    assert settings().train_vision["hub"].steps == wanted["train_vision"]["hub"]["steps"]
    assert TRACKERS == training.TRACKERS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--encoder", "klip"],
            r"--encoder 'klip' is no preset \(clip, .*siglip\), no folder here",
        ),
        (["--llm", "my model"], r"--llm 'my model' is no preset \(llama, .*no hub id"),
        (["--set", "model.view=3"], r"there is no setting model.standin.view; model.standin has .*views"),
        (["--set", "speed=3"], r"there is no setting speed"),
        (["--set", "seed"], r"--set seed: expected KEY=VALUE"),
        (["--set", "seed=[1"], r"--set seed=\[1, line 1"),
        (["--set", "seed=x"], r"seed = 'x': Input should be a valid integer"),
        (["--learning-rate", "1e-4"], r"--learning-rate means another part in each stage; name one --stage"),
        (["--no-use-lora", "--lora-rank", "8"], r"--lora-rank is for adapters, and --no-use-lora trains without"),
        (["--no-use-lora", "--load-in-4bit"], r"weights of 4 bits cannot"),
        (["--keep", "best"], r"keep: best needs a validation loss; set validate_every"),
        (["--warmup", "30", "--steps", "20"], r"warmup = 30 steps, but steps = 20"),
        (["--stage", "vision", "--blind"], r"--blind finetunes a twin, but --stage is vision or resampler"),
        (["--stage", "vision", "--previous", "all"], r"--previous names the folder of the stage before, and vision is"),
        (
            ["--stage", "finetune"],
            r"bad/train_resampler has no trained.safetensors: finetune_lora continues",
        ),
        (["--stage", "vision", "--freeze-layers", "1"], r"there is no setting train_vision.standin.freeze_layers"),
        (["--params", "none.yaml"], r"there is no none.yaml here"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    import re

    assert main(["train", "store", "--output", "bad", "--weights", "standin", *arguments]) == 1
    told = capsys.readouterr().err
    assert re.search(message, told), told
    assert not Path("bad/train_vision").exists()


def test_data_that_cannot_train_is_named(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--output", str(tmp_path / "out"), *SHORT]
    assert main(["train", "nowhere", *out]) == 1
    assert "nowhere: no such file or folder; expected a record file" in capsys.readouterr().err
    alone = write_panoramas(tmp_path / "alone", 1)
    assert main(["train", str(alone), *out, "--validate-every", "1"]) == 1
    assert "validation.arrow: no such split; splits in this folder: train" in capsys.readouterr().err
    assert main(["train", str(write_dataset(tmp_path / "few", 2)), *out]) == 1
    assert "2 panoramas at shares train 0.8" in capsys.readouterr().err
    assert main(["evaluate", "nothing", "store", "--output", str(tmp_path / "e")]) == 1
    assert "nothing" in capsys.readouterr().err


def test_a_twin_of_another_language_model_is_refused(
    trained: SimpleNamespace, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "twin"
    other.mkdir()
    for file in Path("all/finetune_blind").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "files.json").unlink()
    content = json.loads((other / "parts.json").read_text())
    content["llm"] |= {"fingerprint": "0", "name": "vicuna"}
    (other / "parts.json").write_text(json.dumps(content))
    command = ["evaluate", "all/finetune_lora", "store", "--output", str(tmp_path / "e"), "--blind", str(other)]
    assert main(command) == 1
    assert "is a twin on the language model vicuna" in capsys.readouterr().err


def test_the_model_s_settings_are_those_of_the_tests(here: Path) -> None:
    assert load_params().model["standin"].tokens_per_side == MODEL.tokens_per_side
