"""The text that the stand-in language models learn from: scenes told in words and degrees, then questions and answers.

Text only. No image, no ray code and no feature of an encoder enters, and no scene of the pipeline's own splits: the
scenes are drawn under the split name `text`. Some scenes are told as a text, in a random order, sometimes with objects
repeated, in English or Korean; the others in glances.
"""

from dataclasses import dataclass
from random import Random

from panollava.backbones.standins.glances import Glance, glances
from panollava.corpus.questions import Question, ask
from panollava.corpus.wording import LANGUAGES, WORDS, answer_text, object_text, question_text
from panollava.corpus.world.scenes import Scene, sample_scene

KOREAN_SHARE = 0.35
PLAIN_SHARE = 0.25
SPLIT = "text"
PER_TYPE = {
    "existence": 2, "colour": 2, "shape": 2, "count": 2, "direction8": 2, "relation": 2, "look": 2, "nearest": 1,
    "turn": 1, "pointing": 1, "grounding": 2, "detection": 1, "description": 1, "dialogue": 1,
}  # fmt: skip


@dataclass(frozen=True)
class ToldScene:
    """A scene as a text or, where that is empty, in glances; and dialogues about it, lists of (question, answer)."""

    text: str
    glances: list[Glance]
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


def tell(seed: int, index: int, *, questions: int = 16, plain_share: float = PLAIN_SHARE) -> ToldScene:
    """Return scene number `index` of the text corpus with up to `questions` dialogues about it, reproducibly."""
    rng = Random(f"{seed}/{SPLIT}/{index}")
    scene = sample_scene(seed, split=SPLIT, index=index)
    told_in = _language(rng)
    plain = rng.random() < plain_share
    text = scene_text(scene, told_in, rng) if plain else ""
    glanced = [] if plain else glances(scene, told_in, rng)
    asked = ask(scene, rng, per_type=PER_TYPE)
    rng.shuffle(asked)
    dialogues = []
    for turns in asked[:questions]:
        language = told_in if rng.random() < 0.7 else _language(rng)
        dialogues.append([_turn(question, language, rng) for question in turns])
    return ToldScene(text, glanced, dialogues)


def _language(rng: Random) -> str:
    return LANGUAGES[rng.random() < KOREAN_SHARE]


def _turn(question: Question, language: str, rng: Random) -> tuple[str, str]:
    return question_text(question, language, rng), answer_text(question, language)
