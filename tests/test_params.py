"""params.yaml in the eyes of the stages: it loads, and every slip is named with its dotted path."""

import copy
import math
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from panollava.params import MOVED, Launch, Params, ParamsError, Tracker, load_params, read_launch
from panollava.training.trackers import TRACKERS
from panollava.vlm.views import ViewSettings

PARAMS = Path(__file__).resolve().parents[1] / "params.yaml"


@pytest.fixture
def content() -> dict[str, Any]:
    return YAML(typ="safe").load(PARAMS.read_text("utf-8"))


def refusal(content: dict[str, Any], tmp_path: Path) -> str:
    """Return the message with which a changed file is refused."""
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(content, file)
    with pytest.raises(ParamsError) as error:
        load_params(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_the_file_of_the_project_loads() -> None:
    params = load_params(PARAMS)
    assert params.encoder in params.encoders
    assert params.llm in params.llms
    for section in (params.preprocess, params.model, params.train_vision, params.train_resampler, params.finetune_lora):
        assert set(section) == {"standin", "hub"}


@pytest.mark.parametrize(
    "path",
    [
        "evaluate.speed",
        "finetune_lora.hub.lora.rnak",
        "encoders.clip.feature_layers",
        "dataset.world.panoramas.holdout",
        "model.hub.views.tilt_deg",
        "sede",
        "gate.evaluate.worse",
    ],
)
def test_an_unknown_key_is_named(content: dict[str, Any], tmp_path: Path, path: str) -> None:
    if path.startswith("gate"):
        content["gate"]["evaluate"] = {"better": "higher", "worse": 1}
    else:
        *folders, key = path.split(".")
        section = content
        for name in folders:
            section = section[name]
        section[key] = 7
    message = refusal(content, tmp_path)
    assert f"{path} = " in message
    assert "Extra inputs are not permitted" in message


@pytest.mark.parametrize(
    "path",
    [
        "seed",
        "model.standin.views",
        *(f"model.hub.views.{field.name}" for field in fields(ViewSettings)),
        "train_vision.hub.learning_rate",
        "llms.vicuna.hub",
    ],
)
def test_a_missing_key_is_named(content: dict[str, Any], tmp_path: Path, path: str) -> None:
    *folders, key = path.split(".")
    section = content
    for name in folders:
        section = section[name]
    del section[key]
    message = refusal(content, tmp_path)
    assert f"  {path} = " in message
    assert "Field required" in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "0"),
        ("weights", "standins"),
        ("train_resampler.standin.steps", 0),
        ("train_resampler.standin.steps", 1.5),
        ("train_resampler.standin.warmup", 1.0),
        ("train_resampler.standin.warmup", -0.1),
        ("train_resampler.standin.epochs", 0.0),
        ("train_resampler.standin.validate_every", 0),
        ("train_resampler.standin.keep", "first"),
        ("train_resampler.standin.patience", 0),
        ("finetune_lora.hub.freeze_layers", -1),
        ("train_vision.hub.encoder_blocks", -1),
        ("finetune_lora.standin.save_lora_only", "yes"),
        ("finetune_lora.standin.lora.targets", []),
        ("finetune_lora.standin.lora.targets", "q_proj"),
        ("model.hub.resampler", "linear"),
        ("model.hub.position_code", "xyz"),
        ("train_vision.standin.pairing", "homography"),
        ("dataset.world.korean_share", 1.5),
        ("dataset.world.min_latitude_deg", 76.0),
        ("dataset.world.min_latitude_deg", -1.0),
        ("preprocess.standin.jpeg_quality", 200),
        ("llms.llama.chat_template", "chatml"),
        ("model.hub.views.fov_deg", "90"),
        ("model.hub.views.token_budget", 1.5),
        ("robustness.yaws_deg", [45.0]),
        ("robustness.yaws_deg", [45.0, 0.0]),
        ("robustness.yaws_deg", [45.0, 405.0]),
        ("robustness.tilts_deg", []),
        ("robustness.panoramas", 0),
        ("seed", -1),
        ("seed", 2**32),
        ("dataset.path", ""),
        ("dataset.path", None),
        ("dataset.world.korean_share", math.nan),
        ("dataset.shares.train", math.inf),
        ("train_vision.standin.learning_rate.resampler", math.nan),
        ("finetune_lora.hub.learning_rate.lora", -1e-4),
    ],
)
def test_a_wrong_value_is_named_and_shown(content: dict[str, Any], tmp_path: Path, path: str, value: object) -> None:
    *folders, key = path.split(".")
    section = content
    for name in folders:
        section = section[name]
    section[key] = value
    assert f"  {path} = {value!r}: " in refusal(content, tmp_path)


@pytest.mark.parametrize("angle", [math.nan, math.inf])
@pytest.mark.parametrize("key", ["yaws_deg", "tilts_deg"])
def test_an_infinite_rotation_is_refused(content: dict[str, Any], tmp_path: Path, key: str, angle: float) -> None:
    content["robustness"][key] = [10.0, 20.0, angle]
    assert f"  robustness.{key}.2 = {angle}: " in refusal(content, tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: 0\n a: [1\n", ", line 2: "),
        (b"seed: 0\nseed: 1\n", ", line 2: found duplicate key"),
        (b"seed:\t{\n", ", line "),
        (b"", ": expected keys and values, found None"),
        (b"[1, 2]", r": expected keys and values, found \[1, 2\]"),
        (b"\xff\xfe", ": not YAML: 'utf-8' codec can't decode"),
        (b"seed: " + b"9" * 5000, ": not YAML: Exceeds the limit"),
        (b"[" * 1200, ": not YAML: "),
        (b"seed: !!python/object/apply:os.system [ls]", ", line 1: could not determine a constructor"),
        (b"seed: &a {b: *a}", r"seed = \{'b': \{'b': \{\.\.\.\}\}\}"),
    ],
)
def test_what_is_no_file_of_settings_is_refused_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=message) as error:
        load_params(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 5000


def test_aliases_that_unfold_to_a_billion_values_are_shown_in_short(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    names = "abcdefghij"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{n}: &{n} [{', '.join([f'*{m}'] * 10)}]" for m, n in pairwise(names)]
    path.write_text("\n".join(lines))
    with pytest.raises(ParamsError) as error:
        load_params(path)
    assert len(str(error.value)) < 20_000


def test_a_missing_file_of_settings_says_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"there is no .*params\.yaml here; run this in the project's folder"):
        load_params(tmp_path / "params.yaml")


def test_view_settings_are_those_of_the_file(content: dict[str, Any]) -> None:
    views = content["model"]["hub"]["views"]
    found = load_params(PARAMS).model["hub"].views
    assert found == ViewSettings(**views | {"pitches_deg": tuple(views["pitches_deg"])})
    assert Params.model_validate(content).model_dump(mode="json")["model"]["hub"]["views"] == views


def test_moved_settings_are_told_where_they_went_all_at_once(content: dict[str, Any], tmp_path: Path) -> None:
    content["train_vision"]["hub"]["workers"] = 8
    content["finetune_lora"]["standin"] |= {"save_steps": 500, "compile": False, "activation_checkpointing": False}
    content["finetune_lora"]["standin"]["augmentation"] = {"rolls": 8, "tilt_deg": 0}
    content["robustness"]["rolls_deg"] = content["robustness"].pop("yaws_deg")
    views = content["model"]["standin"].pop("views")
    content["model"]["standin"] |= {f"view_{key}" if key == "strategy" else key: views[key] for key in views}
    content["model"]["standin"]["token_reduction"] = "none"
    message = refusal(content, tmp_path)
    for line in (
        "train_vision.hub.workers: now workers in launch.yaml",
        "finetune_lora.standin.save_steps: now save_steps in launch.yaml",
        "finetune_lora.standin.compile: now compile in launch.yaml",
        "finetune_lora.standin.activation_checkpointing: now activation_checkpointing in launch.yaml",
        "finetune_lora.standin.augmentation.rolls: now augmentation.yaw_steps",
        "robustness.rolls_deg: now robustness.yaws_deg",
        "model.standin.view_strategy: now views.strategy in the same section",
        "model.standin.panorama_height: now views.panorama_height in the same section",
        "model.standin.token_reduction: removed: each view keeps all of its tokens",
    ):
        assert f"\n  {line}" in message
    assert len(message.splitlines()) == 1 + 1 + 3 + 1 + 1 + 7 + 1


def test_no_present_setting_looks_like_a_moved_one() -> None:
    assert load_params(PARAMS)
    moved = {text.split(" in launch.yaml")[0] for text in MOVED.values() if text.endswith("launch.yaml")}
    assert moved <= {f"now {name}" for name in Launch.model_fields}


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("train_vision.standin", {"epochs": 2.0}, "give one of steps and epochs.*steps = 20, epochs = 2.0"),
        ("train_vision.standin", {"steps": None}, "give one of steps and epochs.*steps = None, epochs = None"),
        ("train_resampler.hub", {"warmup": 4000}, "warmup = 4000 steps, but steps = 4000"),
        ("train_resampler.hub", {"keep": "best"}, "keep: best needs a validation loss; set validate_every"),
        ("finetune_lora.hub", {"patience": 3}, "patience needs a validation loss; set validate_every"),
        ("finetune_lora.hub", {"lora": None, "load_in_4bit": True}, "weights of 4 bits cannot"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    content: dict[str, Any], tmp_path: Path, section: str, changes: dict[str, Any], message: str
) -> None:
    stage, weights = section.split(".")
    content[stage][weights] |= changes
    found = refusal(content, tmp_path)
    assert f"  {section} = " in found
    assert re.search(message, found)


def test_the_other_ways_to_train_are_read(content: dict[str, Any], tmp_path: Path) -> None:
    changes = {"steps": None, "epochs": 2, "warmup": 7, "validate_every": 5, "keep": "best", "patience": 1}
    content["finetune_lora"]["hub"] |= changes | {"lora": None, "freeze_layers": 4}
    with (tmp_path / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)
    found = load_params(tmp_path / "params.yaml").finetune_lora["hub"]
    assert found.model_dump(include=set(changes)) == changes
    assert (found.lora, found.freeze_layers) == (None, 4)


@pytest.mark.parametrize(
    ("value", "wanted"), [("none", []), (["none"], []), ([], []), (["wandb", "trackio"], ["wandb", "trackio"])]
)
def test_trackers_are_a_list_or_none(tmp_path: Path, value: Any, wanted: list[str]) -> None:
    content = YAML(typ="safe").load(PARAMS.with_name("launch.yaml").read_text("utf-8"))
    assert content["hub"]["report_to"] == "none"
    content["hub"]["report_to"] = value
    with (tmp_path / "launch.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)
    assert read_launch("hub", tmp_path / "launch.yaml").report_to == wanted
    content["hub"]["report_to"] = ["mlflow"]
    with (tmp_path / "launch.yaml").open("w") as file:
        YAML(typ="safe").dump(content, file)
    with pytest.raises(ParamsError, match=r"hub.report_to.0 = 'mlflow': Input should be 'tensorboard', 'wandb'"):
        read_launch("hub", tmp_path / "launch.yaml")
    assert get_args(Tracker) == TRACKERS


def test_launch_settings_of_both_kinds_of_weights() -> None:
    launch = PARAMS.with_name("launch.yaml")
    assert (read_launch("standin", launch).workers, read_launch("hub", launch).workers) == (0, 8)


def test_a_slip_in_the_launch_settings_is_named(tmp_path: Path) -> None:
    content = YAML(typ="safe").load(PARAMS.with_name("launch.yaml").read_text("utf-8"))
    content["hub"]["workers"], content["standin"]["threads"] = -1, 2
    del content["standin"]["compile"]
    path = tmp_path / "launch.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(content, file)
    with pytest.raises(ParamsError) as error:
        read_launch("standin", path)
    for line in ("hub.workers = -1: ", "standin.threads = 2: Extra inputs", "standin.compile = "):
        assert f"  {line}" in str(error.value)


def test_every_slip_is_reported_at_once(content: dict[str, Any], tmp_path: Path) -> None:
    changed = copy.deepcopy(content)
    changed["seed"], changed["evaluate"]["speed"] = "zero", 1
    del changed["visualise"]["samples"]
    message = refusal(changed, tmp_path)
    assert all(path in message for path in ("seed = 'zero'", "evaluate.speed", "visualise.samples"))


@pytest.mark.parametrize(("kind", "plural"), [("encoder", "encoders"), ("llm", "llms")])
def test_an_unknown_preset_is_refused_with_those_that_exist(
    content: dict[str, Any], tmp_path: Path, kind: str, plural: str
) -> None:
    content[kind] = "gpt"
    message = refusal(content, tmp_path)
    start = f"{kind} = 'gpt' is no preset; {plural} has "
    assert start in message
    assert set(message.split(start)[1].split(", ")) == set(content[plural])


def test_a_preset_of_ones_own_is_taken(content: dict[str, Any], tmp_path: Path) -> None:
    content["encoders"]["mine"] = {"hub": "/models/mine", "standin": "data/standins/clip", "feature_layer": -1}
    content["encoder"] = "mine"
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(content, file)
    assert load_params(path).encoders["mine"].hub == "/models/mine"


def test_an_encoder_may_be_read_at_several_layers_and_at_another_size(content: dict[str, Any], tmp_path: Path) -> None:
    preset = content["encoders"]["clip"]
    preset |= {"feature_layer": [-2, -6], "view_size": 336}
    path = tmp_path / "params.yaml"
    with path.open("w") as file:
        YAML(typ="safe").dump(content, file)
    assert load_params(path).encoders["clip"].feature_layer == [-2, -6]
    for wrong in ({"feature_layer": []}, {"feature_layer": "-2"}, {"view_size": 0}):
        content["encoders"]["clip"] = preset | wrong
        assert f"encoders.clip.{next(iter(wrong))}" in refusal(content, tmp_path)
