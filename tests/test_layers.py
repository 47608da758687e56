"""The package's own rules: imports run one way, `vlm/` stands alone, no attribute is guessed."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "src/panollava"
# A package imports only from itself and from those before it.
LAYERS = (
    "io",
    "remembered",
    "hashes",
    "markdown",
    "terminal",
    "closed_answers",
    "vlm",
    "auto",
    "attention",
    "metrics",
    "corpus",
    "inference",
    "tasks",
    "backbones",
    "evaluating",
    "training",
    "yaml_files",
    "params",
    "settings",
    "experiments",
    "bench",
    "report",
    "viewer",
    "chat",
    "finetuning",
    "cli",
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    """Return the layer of a module; the package's `__init__.py` is a layer of its own, above all others."""
    first = path.relative_to(PACKAGE).parts[0]
    return "panollava" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path) -> list[ast.Import | ast.ImportFrom]:
    return [
        node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Import | ast.ImportFrom)
    ]


def imported_layers(path: Path) -> list[str]:
    """Return the layers that a module names in absolute imports; `panollava` for the package itself."""
    names = []
    for node in imports(path):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif node.level == 0 and node.module == "panollava":
            names += [f"panollava.{alias.name}" if alias.name in LAYERS else "panollava" for alias in node.names]
        elif node.level == 0:
            names.append(node.module or "")
    parts = [name.split(".") for name in names]
    return [name[1] if len(name) > 1 else name[0] for name in parts if name[0] == "panollava"]


def test_imports_run_one_way():
    ranks = {name: rank for rank, name in enumerate((*LAYERS, "panollava"))}
    assert not [path for path in MODULES if layer(path) not in ranks], "of no known layer"
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for path in MODULES
        for other in imported_layers(path)
        if other == "panollava" or ranks[other] > ranks[layer(path)]
    ]
    assert not wrong, "\n".join(wrong)


def test_parameters_are_read_by_experiments_and_commands_alone():
    readers = {layer(path) for path in MODULES if "params" in imported_layers(path)}
    assert readers <= {"settings", "experiments", "cli"}
    assert not {"experiments", "report"} & set(imported_layers(PACKAGE / "params.py"))


def test_only_vlm_has_relative_imports_and_no_others():
    relative = {
        path: [node for node in imports(path) if isinstance(node, ast.ImportFrom) and node.level] for path in MODULES
    }
    model = [path for path in MODULES if layer(path) == "vlm"]
    # `from .module import name`: the one form that save_pretrained follows when it copies the model's code.
    assert all(node.level == 1 and node.module and "." not in node.module for path in model for node in relative[path])
    assert not [path for path in model if imported_layers(path)]
    assert not [path for path in MODULES if relative[path] and path not in model]


def test_no_attribute_guessing():
    wrong = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
    ]
    assert not wrong


def test_modules_without_a_model_do_not_wait_for_its_libraries():
    stages = ("preprocess", "resolve_encoder", "resolve_llm", "visualise")
    names = ["panollava.experiments.gate", *(f"stages.{stage}" for stage in stages)]
    lines = ["import sys", *(f"import {name}\nif 'transformers' in sys.modules: sys.exit('{name}')" for name in names)]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], cwd=PACKAGE.parents[1], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stderr} imports transformers"
