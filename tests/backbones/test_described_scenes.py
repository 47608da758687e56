"""The text corpus of the stand-in language models: reproducible, complete, and text only."""

import ast
import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from panollava.backbones.standins import described_scenes
from panollava.backbones.standins.described_scenes import SPLIT, describe_scene, scene_text
from panollava.corpus.vocabulary import LANGUAGES, label
from panollava.corpus.world.scenes import sample_scene
from panollava.corpus.world_questions import box_answer

PACKAGE = Path(described_scenes.__file__).resolve().parents[2]


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


def test_neither_pixels_nor_rays_are_imported() -> None:
    modules = imported(Path(described_scenes.__file__))
    assert {
        "backbones.standins.observations",
        "corpus.world_questions",
        "corpus.wording",
        "corpus.world.scenes",
    } <= modules
    assert not [name for name in modules if name.startswith("vlm") or "render" in name or "views" in name]


def test_no_scene_belongs_to_a_split_of_the_pipeline() -> None:
    assert SPLIT not in ("train", "validation", "test")
    assert sample_scene(0, split=SPLIT, index=0) != sample_scene(0, split="train", index=0)


def test_seed_and_index_determine_a_scene() -> None:
    assert [describe_scene(1, index) for index in range(20)] == [describe_scene(1, index) for index in range(20)]
    assert len({str(describe_scene(1, index)) for index in range(20)}) == 20
    assert describe_scene(1, 3) != describe_scene(2, 3)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_description_names_every_object(language: str) -> None:
    for index in range(50):
        scene = sample_scene(0, split=SPLIT, index=index)
        text = scene_text(scene, language, Random(index))
        described = Counter(re.findall(r"([^;:]+?) (\[[^]]*\])", text))
        wanted = {
            (f" {label((o.colour, o.shape), language)}", str(box_answer(o))): o.grounded and f"{o.distance:.1f}"
            for o in scene.objects
        }
        assert set(described) == set(wanted)
        assert max(described.values()) <= 2
        assert sum(described.values()) >= len(wanted)
        for (_, box), distance in wanted.items():
            after = text.split(box)[1].split(";")[0]
            assert (distance in after) if distance else not re.search(r"\d", after)


def test_dialogues_are_many_and_in_both_languages() -> None:
    scenes = [describe_scene(0, index, text_share=1.0) for index in range(200)]
    assert all(0 < len(s.dialogues) <= 16 for s in scenes)
    assert sum(len(s.dialogues) for s in scenes) / len(scenes) > 14
    korean = [bool(re.search(r"[가-힣]", question)) for s in scenes for d in s.dialogues for question, _ in d]
    assert 0.25 < sum(korean) / len(korean) < 0.45
    assert {len(d) for s in scenes for d in s.dialogues} == {1, 3}
    # Some scenes have dialogues in the other language.
    mixed = [
        bool(re.search(r"[가-힣]", s.text)) != bool(re.search(r"[가-힣]", question))
        for s in scenes
        for d in s.dialogues
        for question, _ in d
    ]
    assert 0.05 < sum(mixed) / len(mixed) < 0.3


def test_a_scene_is_either_a_text_or_observations() -> None:
    scenes = [describe_scene(0, index) for index in range(400)]
    assert all(bool(s.text) != bool(s.observations) for s in scenes)
    assert 0.18 < sum(bool(s.text) for s in scenes) / len(scenes) < 0.32
