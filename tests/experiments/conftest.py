"""A miniature of the pipeline in a git repository of its own: the same params, settings and DVC rules, tiny stages.

It is built once for all tests; each gets a copy. Every stage appends its name to a log outside the repository, so a
test can see what has run.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]

PARAMS = """\
encoder: clip
llm: llama # the language model
seed: 0
encoders: {clip: {skill: 0.25, lr: 2e-5}, dinov2: {skill: 0.4375, lr: 2e-5}}
llms: {llama: {skill: 0.125}, vicuna: {skill: 0.25}}
gate:
  evaluate.en.accuracy.value: {better: higher, abs: 0.01}
  latency.first_token_ms: {better: lower, rel: 0.2}
"""

PIPELINE = """\
metrics: [metrics/combinations.json]
stages:
  vision:
    cmd: python -m stages.miniature vision
    deps: [src]
    params: [seed, encoder, "encoders.${encoder}"]
    outs: [data/vision.json]
  language:
    cmd: python -m stages.miniature language
    deps: [data/vision.json]
    params: [llm, "llms.${llm}"]
    outs: [data/language.json]
  evaluate:
    cmd: python -m stages.miniature evaluate
    deps: [data/language.json]
    outs: [data/evaluate]
    metrics:
      - metrics/evaluate.json: {cache: false}
      - metrics/latency.json: {cache: false}
"""

STAGE = """\
import json, os, sys, time
from pathlib import Path
import panollava
from ruamel.yaml import YAML

stage = sys.argv[1]
p = YAML(typ="safe").load(Path("params.yaml"))
with open(os.environ["MINIATURE_LOG"], "a") as log:
    print(stage, p["encoder"], p["llm"], panollava.__file__, file=log)
if (stop := Path(os.environ["MINIATURE_LOG"]).with_name("stop")).exists() and stop.read_text() == f"{stage} {p['llm']}":
    time.sleep(600)

def read(name):
    return json.loads(Path(name).read_text())

def write(name, *values):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text("\\n".join(map(json.dumps, values)))

if stage == "vision":
    write("data/vision.json", p["encoders"][p["encoder"]]["skill"] + p["seed"])
if stage == "language":
    write("data/language.json", read("data/vision.json") + p["llms"][p["llm"]]["skill"])
if stage == "evaluate":
    value = read("data/language.json")
    accuracy = {"value": value, "low": value - 0.0625, "high": value + 0.0625, "blind": 0.25, "majority": 0.125}
    lines = []
    for number in range(32):
        right = number < 32 * value
        lines.append({
            "variant": "model", "image_id": f"test_{number:02}", "record": 0, "turn": 0, "language": "en",
            "task": "choice", "type": "existence",
            "question": "Is it there?", "reference": "yes", "references": ["yes"], "answer": {"text": "yes"},
            "prediction": "yes" if right else "no", "score": 0.5, "parsed": True, "correct": right,
            "error_deg": None, "direction": None, "iou": None, "boxes": None,
        })
    write("data/evaluate/predictions.jsonl", *lines)
    english = {"accuracy": accuracy, "detection": {"ap50": value / 2, "ap": value / 4}}
    write("metrics/evaluate.json", {"evaluate": {"en": english}})
    write("metrics/latency.json", {"latency": {"first_token_ms": 10.0, "per_token_ms": 2.0}})
"""


@dataclass(frozen=True)
class Miniature:
    """The miniature project in `root`; its stages log to `log`."""

    root: Path

    @property
    def log(self) -> Path:
        return self.root.parent / "log"

    @property
    def stop(self) -> Path:
        """The file that makes the stage named in it hang, as `STAGE LLM`."""
        return self.root.parent / "stop"

    def environment(self) -> dict[str, str]:
        """Return what `make` sets up: this interpreter first on PATH, an editable installation of this workspace."""
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH")}
        return kept | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.root / "src"),
            "MINIATURE_LOG": str(self.log),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment(), capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def git(self, *arguments: str) -> str:
        return self.run("git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments).strip()

    def stages_run(self) -> list[str]:
        """Return the stages that ran since the last call, as `STAGE ENCODER LLM`."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return [" ".join(line.split()[:3]) for line in lines]

    def read_json(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())


def _build(root: Path) -> None:
    files = {
        "params.yaml": PARAMS,
        "dvc.yaml": PIPELINE,
        "stages/miniature.py": STAGE,
        "src/panollava/__init__.py": "",
        "README.md": "# Miniature\n",
        "docs/experiments.md": "# Experiments\n",
        ".gitignore": "/data/*\n__pycache__/\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("stages/__init__.py", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, root / name)
    miniature = Miniature(root)
    miniature.run("git", "init", "--quiet", "--initial-branch", "main")
    miniature.dvc("repro", "--quiet")
    miniature.git("add", ".")
    miniature.git("commit", "--quiet", "--message", "the miniature and its results")
    miniature.log.unlink()


@pytest.fixture(scope="session")
def built_miniature(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built") / "project"
    _build(root)
    return root


@pytest.fixture
def miniature(built_miniature: Path, tmp_path: Path) -> Miniature:
    """A copy of the miniature project with a complete, committed run of `clip` and `llama`."""
    shutil.copytree(built_miniature, tmp_path / "project")
    return Miniature(tmp_path / "project")
