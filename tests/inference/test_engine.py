"""Answers by a shared prefix are the answers that each question gets alone, and their scores are probabilities."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from PIL import Image

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaProcessor
from panollava.corpus.messages import Message, without_panorama
from panollava.corpus.records import Record
from panollava.inference import prompts
from panollava.inference.answer import Answer, part_probabilities
from panollava.inference.decode import Decoded, Limits
from panollava.inference.decode_static import decode_static
from panollava.inference.engine import Engine
from panollava.inference.prompts import Prefix, Row, batches
from panollava.tasks.questions import panorama_questions
from panollava.training.dialogues import Collator
from panollava.vlm.labels import IGNORE

Make = Callable[..., PanoLlavaForConditionalGeneration]
TEXTS = (
    ("what?", "is there a red cube", "빨간 공은 어디에 있나요?"),
    ("where is the blue ball of the left room", "a", "how many?", "what is left of it", "b"),
    (),
    ("what is left of the red cube?",),
)
BUDGETS = ((5, 9, 5), (5, 5, 9, 5, 9), (), (5,))


@pytest.fixture
def panoramas() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (64, 128, 3), dtype=np.uint8)) for _ in TEXTS]


def dialogue(text: str, *, image: bool = True) -> list[Message]:
    question = [*([{"type": "image"}] if image else []), {"type": "text", "text": text}]
    if text != "what is left of it":
        return [{"role": "user", "content": question}]
    first = [{"role": "user", "content": [*question[:-1], {"type": "text", "text": "is there a cube?"}]}]
    return [*first, {"role": "assistant", "content": "yes"}, {"role": "user", "content": question[-1:]}]


def lively(model: PanoLlavaForConditionalGeneration) -> PanoLlavaForConditionalGeneration:
    """Return a random model that says different things to different prompts, and may end a sentence."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "vision_tower" not in name:
                weight.mul_(10)
    model.generation_config.eos_token_id = [1, *range(20, 40)]
    return model


def alone(
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    image: Image.Image | None,
    text: str,
    n: int,
) -> Answer:
    """Answer one question by plain `generate`, and score it teacher forced."""
    prompt = processor.apply_chat_template(dialogue(text), tokenize=False, add_generation_prompt=True)
    prompt = prompt if image is not None else prompt.replace("<pano>", "")
    images = {} if image is None else {"images": image}
    inputs = processor(text=prompt, return_tensors="pt", add_special_tokens=False, **images)
    inputs.pop("token_type_ids", None)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=n, pad_token_id=2)
    length = inputs["input_ids"].shape[1]
    visual = {name: inputs[name] for name in ("pixel_values", "view_poses") if name in inputs}
    with torch.no_grad():
        logits = model(input_ids=ids, **visual).logits[0, length - 1 : -1]
    score = logits.log_softmax(-1).gather(-1, ids[0, length:, None]).sum().exp()
    ends = model.generation_config.eos_token_id
    said = [int(token) for token in ids[0, length:] if token not in (ends if isinstance(ends, list) else [ends])]
    return Answer(processor.decode(said, skip_special_tokens=True).strip(), float(score))


def assert_like_alone(
    make_engine: type[Engine],
    model: PanoLlavaForConditionalGeneration,
    processor: PanoLlavaProcessor,
    panoramas: list[Image.Image],
) -> None:
    dialogues = [[dialogue(text) for text in own] for own in TEXTS]
    answers = make_engine(model, processor).answer(panoramas, dialogues, max_new_tokens=BUDGETS)
    assert [len(own) for own in answers] == [len(own) for own in TEXTS]
    for image, own, texts, budgets in zip(panoramas, answers, TEXTS, BUDGETS, strict=True):
        for answer, text, budget in zip(own, texts, budgets, strict=True):
            wanted = alone(model, processor, image, text, budget)
            assert answer.text == wanted.text, text
            assert answer.score == pytest.approx(wanted.score, rel=1e-3), text
    texts = [answer.text for own in answers for answer in own]
    assert len(set(texts)) > len(texts) / 2, "the test model says the same to everything"


class StaticEngine(Engine):
    """Decodes on a CPU as a GPU does it, but for the CUDA graphs."""

    def decode(self, prefix: Prefix, batch: Sequence[Row], limits: Limits) -> Decoded:
        return decode_static(self.graphs, prefix, batch, limits)


engines = pytest.mark.parametrize("make_engine", [Engine, StaticEngine])


@engines
@pytest.mark.parametrize("language", ["llama", "mistral"])
def test_a_shared_prefix_changes_no_answer(
    make_model: Make,
    processor: PanoLlavaProcessor,
    panoramas: list[Image.Image],
    make_engine: type[Engine],
    language: str,
) -> None:
    assert_like_alone(make_engine, lively(make_model("clip", language)), processor, panoramas)


@engines
@pytest.mark.parametrize("window", [8, 40, 50])
def test_a_sliding_window_shorter_than_the_prompt_changes_no_answer(
    make_model: Make,
    processor: PanoLlavaProcessor,
    panoramas: list[Image.Image],
    make_engine: type[Engine],
    window: int,
) -> None:
    """8 is shorter than the panorama, 40 and 50 lie between the lengths of the prompts."""
    model = make_model("clip", "mistral")
    model.config.text_config.sliding_window = window
    assert_like_alone(make_engine, lively(model), processor, panoramas)


def test_batches_hold_one_longest_answer_and_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "TOKENS_PER_BATCH", 100)
    rows = [Row(index, 0, [5] * (index % 7 + 1), 4 + 4 * (index % 2)) for index in range(60)]
    found = list(batches(rows))
    assert sorted(row.index for batch in found for row in batch) == list(range(60))
    for batch in found:
        assert len({row.max_new_tokens for row in batch}) == 1
        assert len(batch) * max(len(row.ids) + row.max_new_tokens for row in batch) <= 100
    huge = [Row(0, 0, [5] * 500, 4)]
    assert list(batches(huge)) == [huge]


def test_an_answer_ends_where_the_context_ends(
    make_model: Make, processor: PanoLlavaProcessor, panoramas: list[Image.Image]
) -> None:
    model = make_model()
    model.generation_config.eos_token_id = None
    text = "9" * (256 - 20 - len(processor.tokenizer("USER: \n ASSISTANT:")["input_ids"]) - 3)
    engine = Engine(model, processor)
    found = engine.answer(panoramas[:1], [[dialogue(text)]], max_new_tokens=[[9]])[0][0]
    assert found == engine.answer(panoramas[:1], [[dialogue(text)]], max_new_tokens=[[3]])[0][0]
    with pytest.raises(ValueError, match="has 257 tokens, but the language model's context holds 256"):
        engine.answer(panoramas[:1], [[dialogue(text + "999")]], max_new_tokens=[[1]])


def test_each_panorama_is_encoded_once(
    make_model: Make, processor: PanoLlavaProcessor, panoramas: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = make_model(), []
    encode = model.model.encode_views
    monkeypatch.setattr(model.model, "encode_views", lambda pixels: seen.append(len(pixels)) or encode(pixels))
    dialogues = [[dialogue(text) for text in own] for own in TEXTS]
    Engine(model, processor).answer(panoramas, dialogues, max_new_tokens=BUDGETS)
    assert seen == [len(panoramas)]


def test_each_part_of_an_answer_has_the_probability_of_its_own_tokens(processor: PanoLlavaProcessor) -> None:
    tokenizer = processor.tokenizer
    for text in ("red cube [1, 2, 3, 4]; 파란색 공 [-5, 6, 7, 8];", "nothing", "a;;b", ""):
        ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        scores = [-0.1 * (number + 1) for number in range(len(ids))]
        found = part_probabilities(tokenizer, ids, [*scores, -9.0])  # what is after the end counts nowhere
        assert len(found) == len(text.split(";"))
        marks = [place for place, token in enumerate(ids) if tokenizer.decode(token) == ";"] + [len(ids) - 1]
        starts = [0, *(mark + 1 for mark in marks)]
        wanted = [math.exp(sum(scores[start:mark])) for start, mark in zip(starts, marks, strict=False)]
        assert found == pytest.approx(wanted)
        beyond = [*ids[:-1], 10**6, ids[-1]]  # of a padded vocabulary
        assert part_probabilities(tokenizer, beyond, [*scores[:-1], -5.0, scores[-1]]) == found


def test_the_parts_of_an_answer_make_up_its_score(
    make_model: Make, processor: PanoLlavaProcessor, panoramas: list[Image.Image]
) -> None:
    model = lively(make_model())
    model.generation_config.eos_token_id = None
    answer = Engine(model, processor).answer(panoramas[:1], [[dialogue("what?")]], max_new_tokens=[[9]])[0][0]
    assert answer.parts is not None
    assert ";" not in answer.text
    assert answer.parts == (pytest.approx(answer.score),)


@engines
def test_blind_answers_are_those_of_each_question_alone(
    make_model: Make, processor: PanoLlavaProcessor, make_engine: type[Engine]
) -> None:
    model = lively(make_model())
    texts = ["what?", "is there a red cube", "what?", "what is left of it", "what?"]
    budgets = [6, 6, 6, 9, 3]
    dialogues = [dialogue(text) for text in texts]
    for answer, text, budget in zip(
        make_engine(model, processor).answer_blind(dialogues, max_new_tokens=budgets), texts, budgets, strict=True
    ):
        wanted = alone(model, processor, None, text, budget)
        assert answer.text == wanted.text
        assert answer.score == pytest.approx(wanted.score, rel=1e-3)


def test_prompts_must_show_one_panorama_after_one_beginning(
    make_model: Make, processor: PanoLlavaProcessor, panoramas: list[Image.Image]
) -> None:
    def answer(*dialogues: list[Message]) -> None:
        budgets = [[4] * len(dialogues)]
        Engine(make_model(), processor).answer(panoramas[:1], [list(dialogues)], max_new_tokens=budgets)

    with pytest.raises(ValueError, match="prompt 1 holds 0 panoramas"):
        answer(dialogue("a"), dialogue("a", image=False))
    late = [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}]}]
    with pytest.raises(ValueError, match="prompts 0 and 1 differ before the panorama"):
        answer(dialogue("a"), late)
    with pytest.raises(ValueError, match=r"ends with '9999.*tokens, but the language model's context holds 256"):
        answer(dialogue("9" * 300))


def test_questions_about_no_panorama_have_the_answers_of_the_language_model_alone(
    make_model: Make, processor: PanoLlavaProcessor
) -> None:
    model, texts = lively(make_model()), ["is it red?", "빨간 공은 어디에?", "is there a ball, or a red cube?"]
    dialogues = [without_panorama(dialogue(text)) for text in texts]
    answers = Engine(model, processor).answer_text(dialogues, max_new_tokens=[6, 6, 3])
    for messages, answer, budget in zip(dialogues, answers, (6, 6, 3), strict=True):
        prompt = processor.apply_chat_template(messages, add_generation_prompt=True)
        assert "<pano>" not in prompt
        inputs = processor(text=[prompt], return_tensors="pt", add_special_tokens=False)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=budget)[0, inputs["input_ids"].shape[1] :]
        ends = model.generation_config.eos_token_id
        ended = int(ids[-1]) in (ends if isinstance(ends, list) else [ends])
        wanted = processor.decode(ids[: len(ids) - ended], skip_special_tokens=True).strip()
        assert (answer.text, answer.ended) == (wanted, ended)


@pytest.mark.parametrize("blind", [False, True])
def test_questions_are_asked_in_the_tokens_of_the_training(
    make_model: Make, processor: PanoLlavaProcessor, monkeypatch: pytest.MonkeyPatch, blind: bool
) -> None:
    turns = [{"human": "is it red?", "assistant": "yes"}, {"human": "빨간 공은 어디에?", "assistant": "left"}]
    record = Record.model_validate({"image_id": "p", "image_path": "a.png", "conversations": turns})
    trained = Collator(processor, blind=blind).packed([record])
    asked: list[list[int]] = []

    def remember(engine: Engine, prefix: Prefix, rows: list[Row]) -> list[Answer]:
        asked.extend(prefix.ids + row.ids for row in rows)
        return [Answer("", 1.0) for _ in rows]

    monkeypatch.setattr(Engine, "generate", remember)
    dialogues = [question.messages for question in panorama_questions("p", [record])]
    if blind:
        Engine(make_model(), processor).answer_blind(dialogues, max_new_tokens=[4, 4])
    else:
        image = Image.fromarray(np.zeros((64, 128, 3), dtype=np.uint8))
        Engine(make_model(), processor).answer([image], [dialogues], max_new_tokens=[[4, 4]])
    learned = [label != IGNORE for label in trained.labels]
    starts = [place for place in range(1, len(learned)) if learned[place] and not learned[place - 1]]
    assert sorted(asked) == sorted(trained.ids[:start] for start in starts)


@engines
def test_masks_are_scored_as_in_training(
    make_model: Make, processor: PanoLlavaProcessor, panoramas: list[Image.Image], make_engine: type[Engine]
) -> None:
    model = lively(make_model())
    asked = [[dialogue(text) for text in own] for own in TEXTS]
    masked = [[number != 1 for number, _ in enumerate(own)] for own in TEXTS]
    answers = make_engine(model, processor).answer(panoramas, asked, max_new_tokens=BUDGETS, masked=masked)
    for panorama, own, wanted, image in zip(answers, asked, masked, panoramas, strict=True):
        for answer, messages, mask in zip(panorama, own, wanted, strict=True):
            assert (answer.patches is not None) == mask
            if answer.patches is None:
                continue
            prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            inputs = processor(images=[image], text=[prompt], add_special_tokens=False, return_tensors="pt")
            last = torch.tensor([[0, inputs["input_ids"].shape[1] - 1, 0]])
            with torch.no_grad():
                alone = model(**inputs, mask_queries=last).mask_logits[0]
            assert torch.allclose(answer.patches, alone, rtol=1e-4)
