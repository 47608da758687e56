"""The pipeline files against the code: every stage declares exactly the parameters and all the modules that it uses."""

import ast
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import dvc.api
import pytest
from dvc.repo import Repo
from pydantic import BaseModel
from ruamel.yaml import YAML

from panollava.params import Launch

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src"
FILES = ("dvc.yaml", "studies/dvc.yaml")
STAGES_OF = {file: YAML(typ="safe").load((PROJECT / file).read_text("utf-8"))["stages"] for file in FILES}
ALL_STAGES = {name: content for stages in STAGES_OF.values() for name, content in stages.items()}
PARAMS = YAML(typ="safe").load((PROJECT / "params.yaml").read_text("utf-8"))
STAGES = list(ALL_STAGES)
# The shape of params.yaml is no result: what a stage reads from it is declared key by key. Nor are messages. The
# package's __init__ only registers classes.
NO_DEPENDENCY = {
    "src/panollava/params.py", "src/panollava/yaml_files.py", "src/panollava/terminal.py", "src/panollava/__init__.py",
    "stages/__init__.py",
}  # fmt: skip


def script(stage: str) -> Path:
    """Return the script that a stage runs."""
    command = ALL_STAGES[stage]["cmd"].split()
    assert command[:2] == ["python", "-m"]
    return PROJECT / f"{command[2].replace('.', '/')}.py"


def module_files(name: str) -> Iterator[Path]:
    """Yield the files of ours that importing a module by name runs or may mean."""
    parts = name.split(".")
    root = PROJECT if parts[0] == "stages" else SOURCE
    if parts[0] in ("stages", "panollava"):
        path = root.joinpath(*parts)
        yield from (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file())


@cache
def imports(file: Path) -> list[str]:
    """Return the full names that a file imports, of every `from a import b` also `a.b`."""
    names: list[str] = []
    package = file.relative_to(SOURCE).parent.parts if file.is_relative_to(SOURCE) else ()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            names += [base or "", *(f"{base}.{alias.name}" for alias in node.names)]
    return names


@cache
def used_files(stage: str) -> set[str]:
    """Return all files of ours that a stage imports, directly or not, itself included."""
    found, waiting = {script(stage)}, [script(stage)]
    while waiting:
        for name in imports(waiting.pop()):
            for file in module_files(name):
                if file not in found and file.relative_to(PROJECT).as_posix() not in NO_DEPENDENCY:
                    found.add(file)
                    waiting.append(file)
    return {file.relative_to(PROJECT).as_posix() for file in found}


def dependencies(stage: str) -> list[str]:
    return ALL_STAGES[stage].get("deps", [])


def outputs(stage: str) -> Iterator[str]:
    content = ALL_STAGES[stage]
    for entry in (*content.get("outs", []), *content.get("metrics", []), *content.get("plots", [])):
        yield entry if isinstance(entry, str) else next(iter(entry))


def listed(file: str, deps: list[str]) -> bool:
    """Return whether a list of dependencies holds a file or a folder above it."""
    return any(file == dep or file.startswith(f"{dep}/") for dep in deps)


def test_a_stage_depends_on_all_code_that_it_imports() -> None:
    missing = [
        f"{stage}: - {file}"
        for stage in STAGES
        for file in sorted(used_files(stage))
        if not listed(file, dependencies(stage)) and (PROJECT / file).stat().st_size
    ]
    assert not missing, "missing in the pipeline files:\n" + "\n".join(missing)


def test_a_stage_depends_on_no_code_that_it_does_not_use() -> None:
    superfluous = [
        f"{stage}: - {dep}"
        for stage in STAGES
        for dep in dependencies(stage)
        if dep.startswith(("src", "stages")) and not dep.endswith("templates")
        if not any(listed(file, [dep]) for file in used_files(stage))
    ]
    assert not superfluous, "not used, or not there:\n" + "\n".join(superfluous)
    folders = [dep for stage in STAGES for dep in dependencies(stage) if dep.endswith("templates")]
    assert all((PROJECT / folder).is_dir() for folder in folders)


def asks_questions(path: str) -> bool:
    """Return whether a file or a folder holds the wording of questions, or data made of it."""
    return (
        "question" in path or "wording" in path or "/rotation" in path or "/tasks" in path or path.endswith("/records")
    )


def test_rewording_a_question_does_not_retrain_the_encoder() -> None:
    assert any(asks_questions(file) for file in used_files("preprocess")), "the test knows the modules by their names"
    assert not [file for file in used_files("train_vision") if asks_questions(file)]
    deps = dependencies("train_vision")
    assert not [dep for dep in deps if asks_questions(dep)]
    # A reworded question runs preprocess again. Of its two outputs only the images, which stay the same, lead here.
    made = {out: stage for stage in STAGES for out in outputs(stage)}
    assert {dep: made[dep] for dep in deps if dep in made} == {
        "data/store/images": "preprocess",
        "data/encoder.json": "resolve_encoder",
    }
    assert "preprocess" not in {made.get(dep) for dep in dependencies("resolve_encoder")}
    # No folder as a whole brings back what the modules leave out.
    assert not [dep for dep in deps if dep in ("data/store", "src/panollava/corpus", "src/panollava/training")]


def test_resolving_a_checkpoint_depends_on_no_data() -> None:
    for stage in ("resolve_encoder", "resolve_llm"):
        assert not [file for file in used_files(stage) if "corpus" in file]


def test_launch_settings_belong_to_no_stage() -> None:
    settings = YAML(typ="safe").load((PROJECT / "launch.yaml").read_text("utf-8"))
    keys = {key for section in settings.values() for key in section}
    assert keys == set(Launch.model_fields)
    for stage in STAGES:
        assert "launch.yaml" not in dependencies(stage)
        assert not [entry for entry in ALL_STAGES[stage]["params"] if "launch" in str(entry)]
    assert not keys & {part for path in leaves(PARAMS) for part in path}


def test_every_dependency_in_data_is_an_output_or_committed() -> None:
    made = {out for stage in STAGES for out in outputs(stage)}
    for stage in STAGES:
        for dep in dependencies(stage):
            # The user's own data and the stand-ins are in place before any stage.
            given = dep.startswith(("src", "stages", "data/standins")) or dep == "${dataset.path}"
            assert given or dep in made, f"{stage}: nobody makes {dep}"


def test_outputs_belong_to_one_stage_and_metrics_and_plots_lie_in_git() -> None:
    made = [out for stage in STAGES for out in outputs(stage)]
    assert len(made) == len(set(made))
    for stage in STAGES:
        for kind in ("metrics", "plots"):
            for entry in ALL_STAGES[stage].get(kind, []):
                (options,) = entry.values()
                assert options["cache"] is False, entry
        for out in ALL_STAGES[stage].get("outs", []):
            assert isinstance(out, str), f"{stage}: {out} has options; no output may persist"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("workspace")
    Repo.init(str(folder), no_scm=True).close()
    (folder / "studies").mkdir()
    for name in (*FILES, "params.yaml"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


def address(stage: str) -> str:
    """Return the name by which DVC knows a stage: that of a study holds its pipeline file."""
    return stage if stage in STAGES_OF["dvc.yaml"] else f"studies/dvc.yaml:{stage}"


def declared(workspace: Path, monkeypatch: pytest.MonkeyPatch, *stages: str, **changes: str) -> dict[str, Any]:
    """Return the parameters that dvc.yaml declares for stages, under changed top-level values."""
    monkeypatch.chdir(workspace)
    with (workspace / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(PARAMS | changes, file)
    return dvc.api.params_show(stages=[address(stage) for stage in stages])


def view(stage: str, monkeypatch: pytest.MonkeyPatch) -> type[BaseModel]:
    """Return the model by which a stage's script reads its parameters."""
    monkeypatch.syspath_prepend(str(PROJECT))
    module = import_module(f"stages.{script(stage).stem}")
    models = [
        value for name, value in vars(module).items() if name.endswith("Params") and value.__module__ == module.__name__
    ]
    (model,) = models
    return model


CHOICES = [{}, {"weights": "hub"}, {"weights": "hub", "encoder": "siglip", "llm": "mistral"}]


@pytest.mark.parametrize("changes", CHOICES, ids=lambda changes: " ".join(changes.values()) or "default")
def test_a_stage_declares_exactly_the_parameters_that_it_reads(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    for stage in STAGES:
        values = declared(workspace, monkeypatch, stage, **changes)
        model = view(stage, monkeypatch)
        model.model_validate(values)
        assert values.keys() == model.model_fields.keys(), stage
        for name, value in values.items():
            with pytest.raises(ValueError, match="Extra inputs"):
                model.model_validate(values | {f"{name}_": value})
            with pytest.raises(ValueError, match="Field required"):
                model.model_validate({key: kept for key, kept in values.items() if key != name})


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    else:
        yield path


def test_every_parameter_is_declared_by_some_stage(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: set[tuple[str, ...]] = set()
    kinds = {"weights": ["standin", "hub"], "encoder": list(PARAMS["encoders"]), "llm": list(PARAMS["llms"])}
    for number in range(max(map(len, kinds.values()))):
        choice = {kind: values[number % len(values)] for kind, values in kinds.items()}
        found |= set(leaves(declared(workspace, monkeypatch, *STAGES, **choice)))
    # The gate's rules are read by `make gate`, which is no stage.
    assert {path for path in leaves(PARAMS) if path[0] != "gate"} == found


def test_no_stage_of_the_pipeline_waits_for_a_study() -> None:
    made = {out for stage in STAGES_OF["studies/dvc.yaml"] for out in outputs(stage)}
    assert not made & {dep for stage in STAGES_OF["dvc.yaml"] for dep in dependencies(stage)}


def test_studies_run_in_the_root_and_know_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT))
    for stage, content in STAGES_OF["studies/dvc.yaml"].items():
        assert content["wdir"] == ".."
        assert address(stage) == import_module(f"stages.{script(stage).stem}").STAGE


def test_the_vision_stage_knows_no_language_model(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = declared(workspace, monkeypatch, "train_vision")
    assert not {"llm", "llms"} & values.keys()
    assert "data/llm.json" not in dependencies("train_vision")


def test_the_blind_twin_differs_in_nothing_but_its_name() -> None:
    seeing, blind = (ALL_STAGES[name] for name in ("finetune_lora", "finetune_blind"))
    assert blind["cmd"] == f"{seeing['cmd']} --blind"
    assert blind["params"] == seeing["params"]
    assert blind["deps"] == seeing["deps"]


def test_scripts_run_as_modules_with_the_package_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PROJECT))
    for stage in STAGES:
        module = import_module(f"stages.{script(stage).stem}")
        assert callable(module.main)
        assert module.__doc__
    assert str(SOURCE) in sys.path
