"""The text that the stand-in language models learn from: scenes told in words and degrees, then questions and answers.

Text only. No image, no ray code and no feature of an encoder enters, and no scene of the pipeline's own splits: the
scenes are drawn under the split name `text`. A scene is told in a random order, sometimes in several glances that
repeat objects, in English or Korean.
"""

from dataclasses import dataclass
from random import Random

from panollava.corpus.questions import Question, ask
from panollava.corpus.wording import LANGUAGES, WORDS, answer_text, object_text, question_text
from panollava.corpus.world.scenes import Scene, sample_scene

KOREAN_SHARE = 0.35
SPLIT = "text"
PER_TYPE = {
    "existence": 2, "colour": 2, "shape": 2, "count": 2, "direction8": 2, "relation": 2, "look": 2, "nearest": 1,
    "turn": 1, "pointing": 1, "grounding": 2, "detection": 1, "description": 1, "dialogue": 1,
}  # fmt: skip


@dataclass(frozen=True)
class ToldScene:
    """A scene in words and dialogues about it, each a list of (question, answer) turns."""

    text: str
    dialogues: list[list[tuple[str, str]]]


def scene_text(scene: Scene, language: str, rng: Random) -> str:
    """Tell a scene: its kind, then every object with its box, and the distance of those that stand on the ground."""
    told = list(scene.objects)
    for item in scene.objects:
        if rng.random() < 0.3:
            told.append(item)
    rng.shuffle(told)
    metres = {"en": "m", "ko": "미터"}[language]
    parts = [object_text(o, language) + (f" {o.distance:.1f} {metres}" if o.grounded else "") for o in told]
    return f"{WORDS[language][scene.kind]}: {'; '.join(parts)}."


def tell(seed: int, index: int, *, questions: int = 12) -> ToldScene:
    """Return scene number `index` of the text corpus with up to `questions` dialogues about it, reproducibly."""
    rng = Random(f"{seed}/{SPLIT}/{index}")
    scene = sample_scene(seed, split=SPLIT, index=index)
    told_in = _language(rng)
    text = scene_text(scene, told_in, rng)
    asked = ask(scene, rng, per_type=PER_TYPE)
    rng.shuffle(asked)
    dialogues = []
    for turns in asked[:questions]:
        language = told_in if rng.random() < 0.7 else _language(rng)
        dialogues.append([_turn(question, language, rng) for question in turns])
    return ToldScene(text, dialogues)


def _language(rng: Random) -> str:
    return LANGUAGES[rng.random() < KOREAN_SHARE]


def _turn(question: Question, language: str, rng: Random) -> tuple[str, str]:
    return question_text(question, language, rng), answer_text(question, language)
