"""What the users type - `dvc exp run -S`, `dvc metrics diff`, a temporary experiment - on the miniature pipeline."""

import json


def test_another_language_model_reruns_only_what_depends_on_it(miniature):
    before = (miniature.root / "params.yaml").read_text()
    miniature.dvc("exp", "run", "--name", "vicuna", "-S", "llm=vicuna")
    assert miniature.stages_run() == ["language clip vicuna", "evaluate clip vicuna"]
    assert (miniature.root / "params.yaml").read_text() == before.replace("llm: llama", "llm: vicuna")

    # Another seed reaches everything; back at the first parameters nothing runs: the results are in the run cache.
    miniature.dvc("exp", "run", "--name", "seed", "-S", "llm=llama", "-S", "seed=1")
    assert miniature.stages_run() == ["vision clip llama", "language clip llama", "evaluate clip llama"]
    miniature.dvc("exp", "run", "--name", "again", "-S", "seed=0")
    assert miniature.stages_run() == []

    difference = json.loads(miniature.dvc("metrics", "diff", "again", "vicuna", "--json"))
    accuracy = difference["metrics/evaluate.json"]["evaluate.en.accuracy.value"]
    assert accuracy == {"old": 0.375, "new": 0.5, "diff": 0.125}


def test_compiled_files_and_unused_presets_change_nothing(miniature):
    assert list((miniature.root / "src").rglob("*.pyc")) or list((miniature.root / "stages").rglob("*.pyc"))
    params = miniature.root / "params.yaml"
    params.write_text(params.read_text().replace("vicuna: {skill: 0.25}", "vicuna: {skill: 0.5}"))
    assert miniature.dvc("status", "--json").strip() == "{}"
    params.write_text(params.read_text().replace("llama: {skill: 0.125}", "llama: {skill: 0.5}"))
    assert list(json.loads(miniature.dvc("status", "--json"))) == ["language"]


def test_temporary_experiment_runs_the_code_of_its_own_snapshot(miniature):
    miniature.dvc("exp", "run", "--temp", "--name", "temporary", "-S", "llm=vicuna")
    modules = [line.split()[3] for line in miniature.log.read_text().splitlines()]
    assert len(modules) == 2
    for module in modules:
        assert module.startswith(str(miniature.root / ".dvc/tmp/exps")), "the experiment imported the main workspace"
    assert miniature.git("status", "--porcelain") == ""
