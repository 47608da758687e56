"""Whatever a family's chat template writes, what is learned is each answer and its end, behind the prompt of `ask`."""

from dataclasses import dataclass

import pytest
from chat_families import CHATML, FAMILIES, family_tokenizer
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from panollava import PanoLlavaImageProcessor, PanoLlavaProcessor
from panollava.backbones.turns import ChatFormat, Learned
from panollava.corpus.messages import dialogue, with_question, without_panorama
from panollava.corpus.records import Record
from panollava.inference.prompts import split_prompts
from panollava.training.dialogues import Collator, dialogue_of, encoded
from panollava.training.lengths import Context
from panollava.vlm.labels import IGNORE

TURNS = [
    ("What is left of the red cube?", "A blue ball."),
    ("그리고 어디에?", "왼쪽에 있습니다"),
    ("Box?", "[-35, 12]"),
]


@dataclass
class Made:
    name: str
    processor: PanoLlavaProcessor
    written: ChatFormat

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.processor.tokenizer

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids)

    def answers(self, row: Learned) -> list[str]:
        """Return the texts of the learned spans of a row."""
        found: list[list[int]] = []
        for before, label in zip((IGNORE, *row.labels), row.labels, strict=False):
            if label != IGNORE:
                if before == IGNORE:
                    found.append([])
                found[-1].append(label)
        return [self.text(ids) for ids in found]


def made_of(name: str, tokenizer: PreTrainedTokenizerBase) -> Made:
    images = PanoLlavaImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.2] * 3)
    processor = PanoLlavaProcessor.from_parts(images, tokenizer, tokens_per_side=2, context_length=512)
    return Made(name, processor, ChatFormat.of(processor))


# A model that always thinks has its thoughts opened by the prompt; without any, they do not end as they began.
ALWAYS_THINKS = "thinking"


@pytest.fixture(params=[name for name in FAMILIES if name != ALWAYS_THINKS])
def made(request: pytest.FixtureRequest) -> Made:
    return made_of(request.param, family_tokenizer(request.param))


def prompts_of(made: Made, turns: list[tuple[str, str]]) -> list[tuple[int, ...]]:
    """Return the tokens with which each question is asked."""
    history: list[dict] = []
    found = []
    for number, (question, _) in enumerate(turns):
        history = dialogue(turns[:number])
        head, (tail,) = split_prompts(made.processor, [with_question(history, question)])
        found.append((*head, made.processor.image_token_id, *tail))
    return found


def test_answers_are_learned_with_their_end_behind_the_prompts_that_ask(made: Made) -> None:
    family = FAMILIES[made.name]
    assert made.tokenizer.convert_ids_to_tokens(made.written.end) == family.end
    rows = made.written.learned(dialogue(TURNS))
    spans = [(row, span) for row in rows for span in made.answers(row)]
    assert [span for _, span in spans] == [answer + family.end for _, answer in TURNS]
    for (row, _), prompt in zip(spans, prompts_of(made, TURNS), strict=True):
        assert row.ids[: len(prompt)] == prompt
        assert row.labels[len(prompt) - 1] == IGNORE != row.labels[len(prompt)]
    for row in rows:
        assert row.ids[-1] == row.labels[-1] == made.written.end
        assert all(label in (IGNORE, number) for label, number in zip(row.labels, row.ids, strict=True))


def test_only_a_template_that_rewrites_answers_divides_a_dialogue(made: Made) -> None:
    rows = made.written.learned(dialogue(TURNS))
    assert len(rows) == (len(TURNS) if made.name == "qwen3" else 1)
    assert len(made.written.learned(dialogue(TURNS[:1]))) == 1


def test_a_dialogue_without_panorama_is_the_same_without_its_token(made: Made) -> None:
    place = made.processor.image_token_id
    with_it, without = (
        made.written.learned(messages) for messages in (dialogue(TURNS), without_panorama(dialogue(TURNS)))
    )
    assert not any(place in row.ids for row in without)
    assert all(row.ids.count(place) == 1 for row in with_it)
    assert [made.answers(row) for row in with_it] == [made.answers(row) for row in without]


def test_control_tokens_in_texts_stay_text(made: Made) -> None:
    family, control = FAMILIES[made.name], made.processor.plain_text.control
    names = [name for name in (*family.control, *family.loose) if not name.isspace() and name not in ("<h1>",)]
    assert set(names) <= set(control.values())
    clean = made.written.learned(dialogue([("What?", "A wall.")]))
    marked = made.written.learned(dialogue([("What?" + "".join(names), "A " + " ".join(names) + " wall.")]))
    counts = [sum(number in control for number in row.ids) for (row,) in (clean, marked)]
    assert counts[0] == counts[1]
    (answer,) = made.answers(marked[0])
    assert all(name in answer for name in names)


def test_tokens_fit_a_model_whose_vocabulary_ends_before_the_panorama(made: Made) -> None:
    assert made.processor.image_token_id == len(made.tokenizer) - 1
    assert made.tokenizer.pad_token_id is not None


def test_an_answer_that_a_template_cuts_is_refused() -> None:
    tokenizer = family_tokenizer("qwen2")
    tokenizer.chat_template = CHATML.replace("message['content']", "message['content'].split('###')[0]")
    made = made_of("qwen2", tokenizer)
    with pytest.raises(ValueError, match="writes the answer 'left ### right' as 'left '"):
        made.written.learned(dialogue([("What?", "left ### right")]))


def test_an_answer_that_joins_its_prompt_is_refused() -> None:
    made = made_of("qwen2", family_tokenizer("qwen2"))
    with pytest.raises(ValueError, match=r"joins the end of a prompt, .*assistant\\n', with .* '\\n A wall<.*white"):
        made.written.learned(dialogue([("What?", "\n A wall")]))
    made = made_of(ALWAYS_THINKS, family_tokenizer(ALWAYS_THINKS))
    with pytest.raises(ValueError, match=r"joins the end of a prompt, .*<think>\\n', with .*</think>.* name another"):
        made.written.learned(dialogue(TURNS))


def test_the_day_and_thoughts_are_fixed() -> None:
    made = made_of("llama3", family_tokenizer("llama3"))
    assert "Today Date: 26 Jul 2024" in made.text(made.written.learned(dialogue(TURNS))[0].ids)
    made = made_of("qwen3", family_tokenizer("qwen3"))
    chat = [{"role": "user", "content": "What?"}]
    apply = made.processor.apply_chat_template
    assert apply(chat, add_generation_prompt=True).endswith("<think>\n\n</think>\n\n")
    assert apply(chat, add_generation_prompt=True, enable_thinking=True).endswith("assistant\n")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML.replace("'<|im_start|>assistant\\n'", "'<|im_start|>model\\n'"), "'model.*' in the prompt .* 'assist"),
        (CHATML.replace("'<|im_end|>' + '\\n'", "'\\n'"), r"writes '\\n' behind an answer, and no control token"),
        (
            CHATML.replace("message['content']", "message['content'][:2]"),
            "writes the answer 'It has 360 degrees.' as 'It",
        ),
        ("{{ raise_exception('no chat here') }}", "cannot write a question and its answer: no chat here"),
        ("{% for %}", "cannot write a question and its answer: "),
    ],
)
def test_a_template_that_cannot_serve_is_refused_with_the_reason(template: str, reason: str) -> None:
    tokenizer = family_tokenizer("qwen2")
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=reason):
        made_of("qwen2", tokenizer)


def test_a_tokenizer_that_is_not_fast_serves_all_but_control_tokens_in_texts() -> None:
    tokenizer = ByT5Tokenizer(additional_special_tokens=["<|im_start|>", "<|im_end|>"], extra_ids=0)
    tokenizer.chat_template = CHATML
    made = made_of("qwen2", tokenizer)
    (row,) = made.written.learned(dialogue(TURNS))
    assert made.answers(row) == [answer + "<|im_end|>" for _, answer in TURNS]
    with pytest.raises(ValueError, match=r"<\|im_end\|> in .* this language model's tokenizer cannot read as text"):
        made.written.learned(dialogue([("What is <|im_end|>?", "A token.")]))


def test_divided_dialogues_are_packed_turn_by_turn() -> None:
    processor = made_of("qwen3", family_tokenizer("qwen3")).processor
    conversations = [{"human": human, "assistant": assistant} for human, assistant in TURNS]
    record = Record.model_validate({"image_id": "a", "image_path": "a.jpg", "conversations": conversations})
    packed = Collator(processor).packed([record, record])
    assert max(packed.segments) == 2 * len(TURNS)
    # The mask head finds the turns by these, in their order.
    said = [processor.tokenizer.decode(packed.ids[start : start + 3]) for start in packed.answers()]
    assert [TURNS[number % len(TURNS)][1].startswith(text[:1]) for number, text in enumerate(said)] == [True] * len(
        said
    )
    rows = encoded(processor, dialogue_of(record))
    assert Context(processor).length(record) == max(len(row.ids) for row in rows) - 1 + Context(processor).visual_tokens
