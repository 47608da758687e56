"""Questions for the tests of tasks: those of the synthetic world, and single ones made by hand."""

from random import Random
from typing import Any

from panollava.corpus.records import Record
from panollava.corpus.vocabulary import LANGUAGES
from panollava.corpus.wording import turn_json
from panollava.corpus.world.scenes import sample_scene
from panollava.corpus.world_questions import sample_dialogues
from panollava.inference.answer import Answer
from panollava.tasks.choice import CLOSED_TYPES
from panollava.tasks.prediction import Prediction, Variant
from panollava.tasks.questions import Question, panorama_questions
from panollava.tasks.scoring import score

PER_TYPE = dict.fromkeys((*CLOSED_TYPES, "nearest", "turn", "pointing", "grounding"), 2)
PER_TYPE |= {"detection": 1, "detection_described": 1, "description": 1, "dialogue": 1}


def world_questions(panoramas: int = 12) -> list[list[Question]]:
    """Return the questions of synthetic panoramas, each in both languages."""
    questions = []
    for index in range(panoramas):
        rng = Random(index)
        scene = sample_scene(0, split="test", index=index)
        records = [
            Record.model_validate(
                {"image_id": f"p{index}", "image_path": "a.png"}
                | {"conversations": [turn_json(question, language, rng) for question in dialogue]}
            )
            for dialogue in sample_dialogues(scene, rng, per_type=PER_TYPE)
            for language in LANGUAGES
        ]
        questions.append(panorama_questions(f"p{index}", records))
    return questions


def lines(variant: Variant, questions: list[list[Question]], say: Any) -> list[Prediction]:
    return [score(variant, q, Answer(say(q), 0.5)) for own in questions for q in own]


def question(task: str, answer: dict | None, text: str = "x", image_id: str = "p", **turn: Any) -> Question:
    content = {"human": "?", "assistant": text, "task": task, **turn} | ({} if answer is None else {"answer": answer})
    record = Record.model_validate({"image_id": image_id, "image_path": "a.png", "conversations": [content]})
    return panorama_questions(image_id, [record])[0]
