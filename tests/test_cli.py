"""The command line: answers on standard output, one clear message and exit code 1 for what a user can put right."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_backbones import write_parts as write_backbones
from tiny_models import write_dataset, write_resampler_folder
from transformers import AutoModelForImageTextToText

from panollava import PanoLLaVAModel
from panollava.chat import Chat
from panollava.cli import main
from panollava.cli.model import LANGUAGES
from panollava.corpus.wording import DETECT
from panollava.terminal import printable

SHORT = ("--max-new-tokens", "6")
ask = Chat.ask  # some tests put another one in its place


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA folder and a dataset."""
    root = tmp_path_factory.mktemp("cli")
    write_resampler_folder(write_backbones("clip", "llama", root), root / "base", lora=root / "lora")
    write_dataset(root / "set", 1)
    return root


@pytest.fixture
def image(root: Path) -> str:
    return str(root / "set" / "0_0.png")


def test_ask_prints_the_answer_and_nothing_else(root: Path, image: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = "무엇이 보이나요?"
    assert main(["ask", image, question, "--model", str(root / "lora"), *SHORT]) == 0
    wanted = PanoLLaVAModel.from_pretrained(root / "lora").generate(image, question, max_new_tokens=6)
    assert capsys.readouterr().out == wanted + "\n"


def test_detect_prints_a_line_for_each_object(
    root: Path, image: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["detect", image, "모든 빨간색 물체", "--language", "ko", "--model", str(root / "lora"), *SHORT]
    assert main(command) == 1
    assert "panollava: the answer is no list of labelled boxes" in capsys.readouterr().err
    said = {"모든 빨간색 물체를 검출하세요.": "빨간색 공 [170, -12, 20.4, 15]; 빨간색 원뿔 [-35, 0, 9, 9]"}
    monkeypatch.setattr(Chat, "ask", lambda chat, question, **options: said[question])
    assert main(command) == 0
    assert capsys.readouterr().out == "빨간색 공 [170, -12, 20, 15]\n빨간색 원뿔 [-35, 0, 9, 9]\n"
    assert tuple(DETECT) == LANGUAGES


def test_segment_writes_a_picture_of_the_panorama_s_size(
    root: Path, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, question = tmp_path / "mask.png", "Give the box of the red cube."
    assert main(["segment", image, question, str(out), "--model", str(root / "lora")]) == 0
    wanted = PanoLLaVAModel.from_pretrained(root / "lora").segment(image, question)
    with Image.open(out) as mask:
        assert mask.size == Image.open(image).size
        assert (np.asarray(mask) == wanted).all()
    assert f"{out}: {wanted.mean():.1%} of the pixels" in capsys.readouterr().out


class Terminal(io.StringIO):
    """What somebody types."""

    def isatty(self) -> bool:
        return True


def test_numbers_are_not_computed_for_a_file_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("panollava.bench.running.run", lambda *options: pytest.fail("it was computed"))
    monkeypatch.setattr("panollava.experiments.compare.compare_sources", lambda *a, **k: pytest.fail("it was computed"))
    for command in (["bench", "views"], ["compare", "a", "b"]):
        assert main([*command, "--json", str(tmp_path)]) == 1
        assert f"{tmp_path} is a folder; choose the name of a new file" in capsys.readouterr().err


def test_chat_without_standard_input_is_refused(
    image: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert main(["chat", image]) == 1
    assert capsys.readouterr().err.startswith("panollava: standard input is closed")


def test_chat_answers_each_line_until_an_empty_one(
    root: Path, image: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = f"what is there?\n{'9' * 3000}\nbytes \udcff\nand left of it?\n\nnot asked\n"
    monkeypatch.setattr("sys.stdin", Terminal(typed))
    assert main(["chat", image, "--model", str(root / "lora"), *SHORT]) == 0
    conversation = PanoLLaVAModel.from_pretrained(root / "lora").chat(image)
    answers = [conversation.ask(text, max_new_tokens=6) for text in ("what is there?", "and left of it?")]
    output = capsys.readouterr()
    assert output.out == "".join(f"{printable(answer)}\n" for answer in answers)
    assert "shorten the text" in output.err
    assert "'bytes \\udcff' holds bytes that are not UTF-8" in output.err


def test_through_a_pipe_each_line_has_its_answer_in_one_line(
    root: Path, image: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["what is there?", "9" * 3000, "", "bytes \udcff", "and left of it?"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    monkeypatch.setattr(Chat, "ask", lambda chat, question, **options: f"{ask(chat, question, **options)}\n\x1b[2Jtwo")
    assert main(["chat", image, "--model", str(root / "lora"), *SHORT]) == 1
    output = capsys.readouterr()
    answers = output.out.removesuffix("\n").split("\n")
    assert [bool(answer) for answer in answers] == [True, False, False, False, True]
    assert all(answer.endswith(" \\x1b[2Jtwo") for answer in answers if answer)
    told = output.err.splitlines()
    assert told[0].startswith("line 2: the prompt that ends with '9999")
    assert told[1].startswith("line 4: 'bytes \\udcff' holds bytes that are not UTF-8")
    assert told[2] == "panollava: 2 of 5 questions were refused; their lines are empty"


def test_a_full_context_forgets_the_oldest_questions(
    root: Path, image: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [f"question {number}: {'where is it? ' * 60}" for number in range(12)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(questions)))
    conversations: list[Chat] = []
    monkeypatch.setattr(
        Chat, "ask", lambda chat, *args, **options: conversations.append(chat) or ask(chat, *args, **options)
    )
    assert main(["chat", image, "--model", str(root / "lora"), *SHORT]) == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == len(questions)
    assert output.err.count("the context is full; from here on, the oldest questions are forgotten") == 1
    kept = [message["content"][-1]["text"] for message in conversations[-1].messages if message["role"] == "user"]
    assert kept == questions[-len(kept) :]
    assert 1 < len(kept) < len(questions)
    # The answer is the one that a conversation of the kept questions gets.
    again = PanoLLaVAModel.from_pretrained(root / "lora").chat(image)
    again.messages = conversations[-1].messages[:-2]
    assert ask(again, kept[-1], max_new_tokens=6) == conversations[-1].messages[-1]["content"][0]["text"]


def test_merge_writes_a_checkpoint_and_overwrites_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "full"
    assert main(["merge", str(root / "lora"), str(out)]) == 0
    merged = AutoModelForImageTextToText.from_pretrained(out).state_dict()
    wanted = PanoLLaVAModel.from_pretrained(root / "lora").model.state_dict()
    assert merged.keys() == wanted.keys()
    assert all(torch.equal(merged[name], wanted[name].cpu()) for name in wanted)
    capsys.readouterr()
    assert main(["merge", str(root / "lora"), str(out)]) == 1
    assert capsys.readouterr().err == f"panollava: {out} exists and is not an empty folder; choose another name or " \
        "remove it first\n"  # fmt: skip
    assert main(["merge", str(root / "base"), str(tmp_path / "other")]) == 1
    assert "base has neither LoRA weights nor weights of the language model" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_validate_lists_every_problem(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(root / "set")]) == 0
    assert "3 records, 1 images, 3 turns" in capsys.readouterr().out
    file = tmp_path / "records.json"
    file.write_text('[{"image_id": "a", "image_path": "gone.png", "conversations": []}, {"image_id": 3}]')
    assert main(["validate", str(file)]) == 1
    output = capsys.readouterr().out
    assert "record 0: conversations" in output
    assert "record 1: image_id" in output
    assert main(["validate", str(tmp_path / "nothing")]) == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_import_writes_a_dataset_that_validates(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "train.tsv", tmp_path / "out"
    table.write_text("url\tquery\tannotation\n0_0.png\tart\tA wall.\n0_0.png\tart\tNone\ngone.png\tart\tA door.\n")
    command = ["import", "quic360", str(table), str(out), "--images", str(root / "set")]
    assert main(command) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("panollava: 1 of 2 images are missing or cannot be used; --drop-bad-images leaves")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.tsv"]
    assert main([*command, "--drop-bad-images", "--licence", "as agreed"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{out}: 1 records, 1 images, 1 turns"
    assert lines[2:] == [
        "licence: as agreed",
        "read: 3 rows, imported: 2, left out: 1",
        "left out: 1 rows of images missing or not usable",
        "also left out: 1 images missing or not usable",
    ]
    assert main(["validate", str(out)]) == 0
    assert main(command) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err
    for wrong in (["import", "quic", "a", "b"], [*command, "--seed", "-1"]):
        with pytest.raises(SystemExit):
            main(wrong)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "gone.jpg"}, "gone.jpg: no such image file"),
        ({"image": __file__}, "not a readable image"),
        ({"question": " "}, "the question is empty"),
        ({"model": "data/finetune_lora"}, "there is no data/finetune_lora here; run `make repro`"),
        ({"model": "."}, "has no config.json"),
        ({"model": ""}, "has no config.json"),
        ({"model": __file__}, "is a file; expected the folder"),
        ({"model": "nobody/nothing"}, "is neither a folder nor a checkpoint available from the hub"),
        ({"model": "a/b/c"}, "is neither a folder nor a checkpoint available from the hub"),
        ({"image": "\x1b[31m.jpg"}, "\\x1b[31m.jpg': no such image file"),
        ({"question": "\udcff"}, "holds bytes that are not UTF-8"),
    ],
)
def test_what_a_user_can_put_right_is_one_line(
    root: Path, image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    changes: dict[str, str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("panollava.backbones.presets.hub_reachable", lambda: False)
    given = {"image": image, "question": "what?", "model": str(root / "lora")} | changes
    assert main(["ask", given["image"], given["question"], "--model", given["model"]]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("panollava: ")
    assert output.err.count("\n") == 1
    assert message in output.err


def test_other_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("panollava.corpus.validation.validate_dataset", broken)
    with pytest.raises(KeyError, match="a bug"):
        main(["validate", "."])


def test_gate_and_grid_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str | None, bool]] = []
    monkeypatch.setattr(
        "panollava.experiments.gate.command", lambda base, *, accepting: calls.append((base, accepting)) or 2
    )
    assert [main(["gate"]), main(["gate", "--base", "main"]), main(["gate", "--accept"])] == [2, 2, 2]
    assert calls == [(None, False), ("main", False), (None, True)]
    with pytest.raises(SystemExit):
        main(["gate", "--base", "main", "--accept"])

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("panollava.experiments.grid.run_grid", interrupted)
    assert main(["grid"]) == 130


def test_ablation_draws_the_arms_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(arms: list[str]) -> dict[str, object]:
        row = {"seeds": 1, "accuracy": {"low": 0.25, "mean": 0.5, "high": 0.75}}
        return {"version": "1.2", "ablation": dict.fromkeys(arms, row)}

    monkeypatch.chdir(tmp_path)
    (tmp_path / "plots").mkdir()
    monkeypatch.setattr("panollava.experiments.ablation.run_ablation", run)
    assert main(["ablation", "mlp"]) == 0
    assert "Made by version 1.2." in (table := capsys.readouterr().out)
    assert "| mlp | 1 | 0.500 [0.250, 0.750] |" in table
    drawn = (tmp_path / "plots/ablation.png").read_bytes()
    assert main(["ablation"]) == 0
    assert all(f"| {arm} |" in capsys.readouterr().out for arm in ["default"])
    assert (tmp_path / "plots/ablation.png").read_bytes() != drawn


def test_documents_are_written_or_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("panollava.report.documents.write_documents", lambda root: ["README.md"])
    assert main(["documents"]) == 0
    assert capsys.readouterr().out == "README.md\n"

    def outdated(root: Path) -> None:
        raise ValueError("README.md of HEAD: run `make results`")

    monkeypatch.setattr("panollava.report.documents.check_documents", outdated)
    assert main(["documents", "--check"]) == 1
    assert capsys.readouterr().err == "panollava: README.md of HEAD: run `make results`\n"


@pytest.mark.parametrize("count", ["0", "-1", "1.5", "٣", "1_0", " 5", "9" * 5000, ""])
def test_a_number_of_tokens_is_a_positive_whole_number(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["ask", "a.jpg", "what?", f"--max-new-tokens={count}"])
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert "is not a positive whole number" in told
    assert len(told) < 400


COMMANDS = (
    "ask", "chat", "detect", "segment", "merge", "view", "import", "validate", "compare", "gate", "grid", "ablation",
    "documents", "bench", "train", "evaluate", "convert",
)  # fmt: skip


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], *([command] for command in COMMANDS)):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, "--help"])
        assert caught.value.code == 0
    output = capsys.readouterr().out
    assert all(f"usage: panollava {command} " in output for command in COMMANDS)


def test_help_needs_no_library_of_models() -> None:
    code = "import sys, panollava.cli; sys.exit(bool({'torch', 'transformers', 'pandas', 'dvc'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
