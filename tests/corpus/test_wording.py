"""Questions and answers in words: complete in both languages, with the right Korean particles."""

import re
import string
from random import Random

import pytest

from panollava.corpus.records import Turn
from panollava.corpus.vocabulary import LANGUAGES, WORDS, box_text
from panollava.corpus.wording import (
    DETECT,
    TEMPLATES,
    answer_text,
    detection_question,
    question_text,
    template_key,
    turn_json,
)
from panollava.corpus.world.scenes import COLOURS, sample_scene
from panollava.corpus.world_questions import GENERATORS, WorldQuestion, sample_dialogues

PARTICLE = re.compile(r"(?:정육면체|공|원뿔|원기둥|물체)(은|는|이|가|을|를|과|와)(?= )")


@pytest.fixture(scope="module")
def questions() -> list[WorldQuestion]:
    per_type = dict.fromkeys((*GENERATORS, "dialogue"), 2)
    scenes = [sample_scene(4, split="train", index=index) for index in range(120)]
    return [
        q
        for i, scene in enumerate(scenes)
        for turns in sample_dialogues(scene, Random(i), per_type=per_type)
        for q in turns
    ]


class Nth(Random):
    """Choose the n-th phrasing."""

    def __init__(self, number: int) -> None:
        super().__init__(0)
        self.number = number

    def choice(self, seq):
        return seq[self.number]


def test_both_languages_have_the_same_templates() -> None:
    assert TEMPLATES["en"].keys() == TEMPLATES["ko"].keys()


def test_templates_of_a_type_have_the_same_slots() -> None:
    for kind in TEMPLATES["en"]:
        slots = {
            frozenset(name for _, name, _, _ in string.Formatter().parse(text) if name)
            for language in LANGUAGES
            for text in TEMPLATES[language][kind]
        }
        assert len(slots) == 1, kind


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_phrasing_of_every_type_occurs(questions: list[WorldQuestion], language: str) -> None:
    found = set()
    for question in questions:
        for number, template in enumerate(TEMPLATES[language][template_key(question)]):
            text = question_text(question, language, Nth(number))
            assert not re.search(r"[{}:]", text)
            literal = [part for part, *_ in string.Formatter().parse(template) if part.strip()]
            assert all(part.strip() in text for part in literal)
            found.add((template_key(question), number))
    assert found == {(kind, n) for kind, texts in TEMPLATES[language].items() for n in range(len(texts))}


@pytest.mark.parametrize("language", LANGUAGES)
def test_turns_are_valid_records_in_one_language(questions: list[WorldQuestion], language: str) -> None:
    for question in questions:
        turn = Turn.model_validate(turn_json(question, language, Random(0)))
        assert (turn.task, turn.type, turn.language) == (question.task, question.type, language)
        assert (turn.answer is None) == (question.task == "description")
        text = f"{turn.human} {turn.assistant}"
        if language == "en":
            assert text.isascii()
        else:
            assert not re.search(r"[A-Za-z]", text)
        if turn.task == "choice":
            assert turn_json(question, language, Random(0))["answer"] == {"text": turn.assistant}


def test_questions_contain_their_slots(questions: list[WorldQuestion]) -> None:
    for question in questions:
        text = question_text(question, "en", Random(1))
        for name, value in question.slots.items():
            if name in ("yaw", "pitch"):
                assert f"{name} {value}" in text
            elif name == "described" and value[0] == "place":
                assert {"ground": "on the ground", "air": "in the air"}[value[1]] in text
            elif name in ("counted", "described"):
                assert (value[1] if isinstance(value[1], str) else " ".join(value[1])) in text
            else:
                assert (value if isinstance(value, str) else " ".join(value)) in text


def test_korean_questions_have_the_right_particles(questions: list[WorldQuestion]) -> None:
    found = set()
    for question in questions:
        for number in range(len(TEMPLATES["ko"][template_key(question)])):
            text = question_text(question, "ko", Nth(number))
            for match in PARTICLE.finditer(text):
                noun, particle = match.group()[: -len(match.group(1))], match.group(1)
                assert particle in ("은이을과" if noun != "정육면체" and noun != "물체" else "는가를와"), text
                found.add(particle)
    assert found == set("은는이가을를과와")


def answer_of(kind: str, answer: object, language: str) -> str:
    return answer_text(WorldQuestion(kind, "choice", answer), language)


def test_answers_in_words() -> None:
    assert [answer_of("existence", value, "en") for value in (True, False)] == ["yes", "no"]
    assert [answer_of("existence", value, "ko") for value in (True, False)] == ["예", "아니요"]
    assert answer_of("count", 0, "ko") == "0"
    assert answer_of("direction8", 7, "en") == answer_of("turn", 7, "en") == "front left"
    assert answer_of("dialogue_direction8", 3, "ko") == "오른쪽 뒤"
    assert answer_of("relation", "left", "ko") == "왼쪽"
    assert (
        answer_of("dialogue_left", ("white", "ball"), "ko") == answer_of("look", ("white", "ball"), "ko") == "하얀색 공"
    )
    assert answer_of("pointing", (-12, 5), "en") == "-12, 5"
    assert answer_of("grounding", [-180, -12, 20, 15], "ko") == box_text([-180, -12, 20, 15]) == "[-180, -12, 20, 15]"
    objects = [(("red", "cube"), [1, 2, 3, 4]), (("blue", "cone"), [-5, 6, 7, 8])]
    assert answer_of("detection_described", objects, "ko") == "빨간색 정육면체 [1, 2, 3, 4]; 파란색 원뿔 [-5, 6, 7, 8]"
    assert answer_of("detection", objects, "en") == "red cube [1, 2, 3, 4]; blue cone [-5, 6, 7, 8]"
    assert (
        answer_of("description", ("plaza", [(("red", "cube"), 2)]), "ko")
        == "광장에 물체가 1개 있습니다: 오른쪽에 빨간색 정육면체."
    )
    two = answer_of("description", ("room", [(("red", "cube"), 2), (("blue", "cone"), 4)]), "en")
    assert two == "A room with 2 objects: red cube at the right, blue cone at the back."


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_user_s_detection_question_is_worded_like_those_of_the_world(
    questions: list[WorldQuestion], language: str
) -> None:
    assert DETECT.keys() == set(LANGUAGES)
    phrasing = {"en": "every {} object", "ko": "모든 {} 물체"}[language]
    for colour in COLOURS:
        question = WorldQuestion("detection_described", "detection", [], {"described": ("colour", colour)})
        text = phrasing.format(WORDS[language][colour])
        assert detection_question(f" {text} ", language) == question_text(question, language, Nth(0))
    before, after = DETECT[language].split("{")[0], DETECT[language].split("}")[1]
    for question in questions:
        if question.task == "detection":
            text = question_text(question, language, Nth(0))
            end = len(text) - len(after) - (language == "ko")  # the particle
            assert detection_question(text[len(before) : end], language) == text
    with pytest.raises(ValueError, match="language 'fr': detection questions exist in en, ko"):
        detection_question("tout", "fr")
    with pytest.raises(ValueError, match="description is empty"):
        detection_question(" ", language)
