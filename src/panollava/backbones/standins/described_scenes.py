"""The text corpus of the stand-in language models: descriptions of scenes, then questions and answers about them.

A scene is described as a text, its objects in random order and sometimes repeated, in English or Korean, or as
observations. The corpus is text only, without images, ray codes or features of an encoder. Its scenes have the split
name `text`, so that none belongs to the pipeline's own splits.
"""

from dataclasses import dataclass
from random import Random

from panollava.backbones.standins.observations import Observation, sample_observations
from panollava.corpus.vocabulary import LANGUAGES, WORDS
from panollava.corpus.wording import answer_text, object_text, question_text
from panollava.corpus.world.scenes import Scene, sample_scene
from panollava.corpus.world_questions import WorldQuestion, sample_dialogues

KOREAN_SHARE = 0.35
# The share of scenes that are described as a text.
TEXT_SHARE = 0.25
SPLIT = "text"
PER_TYPE = {
    "existence": 2, "colour": 2, "shape": 2, "count": 2, "direction8": 2, "relation": 2, "look": 2, "nearest": 1,
    "turn": 1, "pointing": 1, "grounding": 2, "detection": 1, "description": 1, "dialogue": 1,
}  # fmt: skip


@dataclass(frozen=True)
class DescribedScene:
    """A scene as a text or, if that is empty, as observations; and dialogues about it, lists of (question, answer)."""

    text: str
    observations: list[Observation]
    dialogues: list[list[tuple[str, str]]]


def scene_text(scene: Scene, language: str, rng: Random) -> str:
    """Describe a scene: its kind, each object with its box, and the distance of objects on the ground."""
    items = list(scene.objects)
    for item in scene.objects:
        if rng.random() < 0.3:
            items.append(item)
    rng.shuffle(items)
    metres = {"en": "m", "ko": "미터"}[language]
    parts = [object_text(o, language) + (f" {o.distance:.1f} {metres}" if o.grounded else "") for o in items]
    return f"{WORDS[language][scene.kind]}: {'; '.join(parts)}."


def describe_scene(seed: int, index: int, *, questions: int = 16, text_share: float = TEXT_SHARE) -> DescribedScene:
    """Return scene `index` of the text corpus with up to `questions` dialogues; equal arguments give equal scenes."""
    rng = Random(f"{seed}/{SPLIT}/{index}")
    scene = sample_scene(seed, split=SPLIT, index=index)
    scene_language = _language(rng)
    as_text = rng.random() < text_share
    text = scene_text(scene, scene_language, rng) if as_text else ""
    observations = [] if as_text else sample_observations(scene, scene_language, rng)
    candidates = sample_dialogues(scene, rng, per_type=PER_TYPE)
    rng.shuffle(candidates)
    dialogues = []
    for turns in candidates[:questions]:
        language = scene_language if rng.random() < 0.7 else _language(rng)
        dialogues.append([_in_words(question, language, rng) for question in turns])
    return DescribedScene(text, observations, dialogues)


def _language(rng: Random) -> str:
    return LANGUAGES[rng.random() < KOREAN_SHARE]


def _in_words(question: WorldQuestion, language: str, rng: Random) -> tuple[str, str]:
    return question_text(question, language, rng), answer_text(question, language)
