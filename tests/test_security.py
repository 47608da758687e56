"""The promises of SECURITY.md about code: none from a checkpoint runs, no pickle is read, YAML makes plain values.

The other promises have their tests beside the code: images in tests/corpus, control characters in test_terminal.py.
"""

import ast
import io
import json
import pickle
import re
import socket
from pathlib import Path

import pytest
import torch
from jinja2.exceptions import SecurityError
from tiny_backbones import write_llm
from tiny_backbones import write_parts as write_backbones
from tiny_models import write_images, write_resampler_folder

from panollava import PanoLLaVAModel
from panollava.backbones.loading import load_llm
from panollava.backbones.presets import resolve
from panollava.vlm.processing_panollava import PanoLlavaProcessor

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "src/panollava").rglob("*.py"), *(ROOT / "stages").glob("*.py")])
# Classes whose `from_pretrained` has no code to run, and takes no option about it.
WITHOUT_CODE = {"PeftConfig", "PeftModel", "PanoLLaVAModel"}
# The functions that say it: their result holds `trust_remote_code=False`.
OPTIONS = {"loading_options", "model_options"}


def calls() -> list[tuple[Path, ast.Call]]:
    return [(path, node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Call)]  # fmt: skip


def name_of(node: ast.expr) -> str:
    """Return a dotted name, or an empty string."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def says_no_code(call: ast.Call) -> bool:
    """Return whether a call has the options that forbid code, written where it stands or just above."""
    spread = [ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg is None]
    plain = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    return plain.get("trust_remote_code") == "False" or any(
        value.split("(")[0] in OPTIONS or value == "options" for value in spread
    )


def test_every_load_of_a_checkpoint_forbids_code() -> None:
    loads = [
        (path, call)
        for path, call in calls()
        if name_of(call.func).endswith((".from_pretrained", ".get_image_processor_dict"))
        and name_of(call.func).split(".")[0] not in WITHOUT_CODE
    ]
    assert len(loads) > 5
    wrong = [f"{path.relative_to(ROOT)}:{call.lineno}" for path, call in loads if not says_no_code(call)]
    assert not wrong


def test_nothing_reads_pickles_or_runs_text() -> None:
    forbidden = re.compile(
        r"(torch|joblib|pickle|marshal|dill|shelve|np|numpy)\.(load|loads|open)|eval|exec|compile|__import__|os\.system"
    )
    found = [(path, call) for path, call in calls() if forbidden.fullmatch(name_of(call.func))]
    known = [call for path, call in found if path.name == "efficientnet.py"]
    # One file of one package, known by its hash.
    assert [ast.unparse(call) for call in known] == ["torch.load(file, map_location='cpu', weights_only=True)"]
    wrong = [f"{path.name}:{call.lineno}" for path, call in found if call not in known]
    wrong += [
        f"{path.name}:{call.lineno}"
        for path, call in calls()
        for keyword in call.keywords
        if (keyword.arg, ast.unparse(keyword.value)) in (("shell", "True"), ("allow_pickle", "True"))
        or (keyword.arg, ast.unparse(keyword.value)) in (("weights_only", "False"), ("trust_remote_code", "True"))
    ]
    assert not wrong


def test_yaml_makes_plain_values_alone() -> None:
    readers = [(path, call) for path, call in calls() if name_of(call.func).split(".")[-1] in ("YAML", "yaml_load")]
    assert readers
    assert all(ast.unparse(call).count("typ='safe'") == 1 for _, call in readers)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A full checkpoint in which each Python file notes that it ran."""
    folder = write_resampler_folder(write_backbones("clip", "llama", tmp_path), tmp_path / "base")
    PanoLLaVAModel.from_pretrained(folder, device="cpu").save_pretrained(tmp_path / "full")
    return tmp_path / "full"


@pytest.mark.parametrize("place", ["own", "generate", "tokenizer", "processor"])
def test_code_in_a_checkpoint_is_not_run_whatever_is_on_standard_input(
    checkpoint: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr("builtins.input", lambda prompt="": "yes")
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Evil: pass\n"
    own = sorted(checkpoint.glob("*.py"))
    assert own, "an export brings its own code"
    for file in own if place == "own" else [checkpoint / "evil.py"]:
        file.write_text(code)
    if place == "generate":
        (checkpoint / "custom_generate").mkdir()
        (checkpoint / "custom_generate/generate.py").write_text(code + "def generate(*a, **k): pass\n")
    maps = {"tokenizer": {"AutoTokenizer": ["evil.Evil", None]}, "processor": {"AutoProcessor": "evil.Evil"}}
    if place in maps:
        file = checkpoint / f"{place}_config.json"
        settings = {"auto_map": maps[place], f"{place}_class": "Evil"}
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    (checkpoint / "files.json").unlink()  # an attacker leaves out, or fits, what would show the change
    image = write_images(tmp_path, 1)[0]
    try:
        PanoLLaVAModel.from_pretrained(checkpoint, device="cpu").generate(image, "what?", max_new_tokens=2)
    except ValueError as error:
        assert place != "own"
        assert "code" in str(error)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"])
def test_chat_templates_run_in_a_sandbox(checkpoint: Path, text: str) -> None:
    processor = PanoLlavaProcessor.from_pretrained(checkpoint)
    processor.chat_template = text
    with pytest.raises(SecurityError, match="unsafe"):
        processor.apply_chat_template([{"role": "user", "content": "what?"}], tokenize=False)


def test_a_pickle_in_place_of_weights_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",)

    llm = tmp_path / "llm"
    write_llm("llama", llm)
    (llm / "model.safetensors").unlink()
    (llm / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="llm"):
        load_llm(resolve("llama", str(llm)), torch.float32)
    (llm / "pytorch_model.bin").rename(llm / "model.safetensors")
    with pytest.raises(ValueError, match="llm"):
        load_llm(resolve("llama", str(llm)), torch.float32)
    assert not (tmp_path / "ran").exists()


def test_a_local_model_opens_no_connection(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for folder in (tmp_path / "base", checkpoint):
        PanoLLaVAModel.from_pretrained(folder, device="cpu").generate(
            write_images(tmp_path, 1)[0], "?", max_new_tokens=1
        )
