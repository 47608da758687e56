"""`panollava compare` on the miniature pipeline: experiments out of the DVC cache, with nothing checked out."""

import json
import shutil

from panollava.cli import main


def test_experiments_are_compared_from_the_cache(miniature, monkeypatch, capsys):
    miniature.dvc("exp", "run", "--name", "vicuna", "-S", "llm=vicuna")
    miniature.git("restore", ".")
    miniature.dvc("checkout", "--quiet")
    status, predictions = miniature.git("status", "--porcelain"), "data/evaluate/predictions.jsonl"
    content = (miniature.root / predictions).read_bytes()
    monkeypatch.chdir(miniature.root)
    assert main(["compare", "main", "vicuna", "--json", str(miniature.root.parent / "out.json"), "--draws", "500"]) == 0
    output = capsys.readouterr().out
    assert "A: main. B: vicuna." in output
    assert "| closed questions, mean accuracy | en | 32 | 0.375 | 0.500 | +0.125 |" in output
    row = json.loads((miniature.root.parent / "out.json").read_text())["rows"][0]
    assert (row["metric"], row["a"], row["b"]) == ("evaluate.en.accuracy.value", 0.375, 0.5)
    assert miniature.git("status", "--porcelain") == status
    assert (miniature.root / predictions).read_bytes() == content

    assert main(["compare", "workspace", "vicuna", "--draws", "500"]) == 0
    output = capsys.readouterr().out
    assert "A: workspace. B: vicuna." in output
    assert "| 0.375 | 0.500 | +0.125 |" in output

    # A file beside a revision, and several runs of one side.
    assert main(["compare", f"{predictions},vicuna", "HEAD", "--draws", "500"]) == 0
    assert "| 0.438 | 0.375 | -0.062 |" in capsys.readouterr().out


def test_what_has_no_predictions_is_named(miniature, monkeypatch, capsys):
    monkeypatch.chdir(miniature.root)
    assert main(["compare", "HEAD", "no-such-experiment"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("panollava: no-such-experiment: no file, git revision or experiment of this repository")
    shutil.copy("data/evaluate/predictions.jsonl", miniature.root.parent / "kept.jsonl")
    miniature.git("clone", "--quiet", ".", str(miniature.root.parent / "clone"))
    shutil.rmtree(miniature.root / ".dvc/cache")
    for folder in (miniature.root, miniature.root.parent / "clone"):
        monkeypatch.chdir(folder)
        assert main(["compare", "HEAD", "../kept.jsonl"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("panollava: HEAD: data/evaluate/predictions.jsonl is neither in the DVC cache")
        assert "`dvc pull`, or run that revision again" in error
