"""The text corpus of the stand-in language models: reproducible, complete, and text only."""

import ast
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from panollava.backbones.standins.described_scenes import SPLIT, scene_text, tell
from panollava.backbones.standins.train import told as told_module
from panollava.corpus.world_questions import box_answer
from panollava.corpus.vocabulary import LANGUAGES, label
from panollava.corpus.world.scenes import sample_scene

PACKAGE = Path(told_module.__file__).resolve().parents[1]


def imported(module: Path) -> set[str]:
    """Return the modules of the package that a module imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        for node in ast.walk(ast.parse(waiting.pop().read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("panollava.") and not node.level:
                name = (node.module or "").removeprefix("panollava.")
                path = PACKAGE / f"{name.replace('.', '/')}.py"
                if name not in found and path.is_file():
                    found.add(name)
                    waiting.append(path)
    return found


def test_no_pixel_and_no_ray_can_enter() -> None:
    modules = imported(Path(told_module.__file__))
    assert {"backbones.glances", "corpus.questions", "corpus.wording", "corpus.world.scenes"} <= modules
    assert not [name for name in modules if name.startswith("vlm") or "render" in name or "views" in name]


def test_the_scenes_are_not_those_of_the_pipeline() -> None:
    assert SPLIT not in ("train", "validation", "test")
    assert sample_scene(0, split=SPLIT, index=0) != sample_scene(0, split="train", index=0)


def test_seed_and_index_decide_everything() -> None:
    assert [tell(1, index) for index in range(20)] == [tell(1, index) for index in range(20)]
    assert len({str(tell(1, index)) for index in range(20)}) == 20
    assert tell(1, 3) != tell(2, 3)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_scene_is_told_completely(language: str) -> None:
    for index in range(50):
        scene = sample_scene(0, split=SPLIT, index=index)
        text = scene_text(scene, language, Random(index))
        told = Counter(re.findall(r"([^;:]+?) (\[[^]]*\])", text))
        wanted = {
            (f" {label((o.colour, o.shape), language)}", str(box_answer(o))): o.grounded and f"{o.distance:.1f}"
            for o in scene.objects
        }
        assert set(told) == set(wanted)
        assert max(told.values()) <= 2
        assert sum(told.values()) >= len(wanted)
        for (_, box), distance in wanted.items():
            after = text.split(box)[1].split(";")[0]
            assert (distance in after) if distance else not re.search(r"\d", after)


def test_dialogues_are_many_and_in_both_languages() -> None:
    told = [tell(0, index, plain_share=1.0) for index in range(200)]
    assert all(0 < len(t.dialogues) <= 16 for t in told)
    assert sum(len(t.dialogues) for t in told) / len(told) > 14
    korean = [bool(re.search(r"[가-힣]", question)) for t in told for d in t.dialogues for question, _ in d]
    assert 0.25 < sum(korean) / len(korean) < 0.45
    assert {len(d) for t in told for d in t.dialogues} == {1, 3}
    # Some scenes are told in one language and asked about in the other.
    mixed = [
        bool(re.search(r"[가-힣]", t.text)) != bool(re.search(r"[가-힣]", question))
        for t in told
        for d in t.dialogues
        for question, _ in d
    ]
    assert 0.05 < sum(mixed) / len(mixed) < 0.3


def test_most_scenes_are_told_in_glances_and_none_in_both_ways() -> None:
    told = [tell(0, index) for index in range(400)]
    assert all(bool(t.text) != bool(t.glances) for t in told)
    assert 0.18 < sum(bool(t.text) for t in told) / len(told) < 0.32
