"""Ask a model plain questions about no panorama, and count the right answers: what has it kept, what has it forgotten?

    python examples/plain_questions.py data/pretrained/smollm2     # a language model before any training here
    python examples/plain_questions.py data/finetune_lora          # a trained folder or a full checkpoint

With prompts and a file, the model's answers to the prompts are written there: dialogues about no panorama, which
`text_chat` in params.yaml mixes into finetuning so that less is forgotten. Answers of the untouched language model are
best: they ask it for nothing but what it says anyway.

    python examples/plain_questions.py data/pretrained/smollm2 examples/plain_prompts.txt plain_chat.jsonl
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from panollava import PanoLLaVAModel
from panollava.backbones.presets import loading_options
from panollava.corpus.messages import with_question, without_panorama
from panollava.hashes import file_hash
from panollava.io import replacing

QUESTIONS = Path(__file__).with_name("plain_questions.jsonl")
LONGEST = 64
# A question to its answer, and whether the answer has ended.
Ask = Callable[[str], tuple[str, bool]]


def main() -> None:
    """Count right answers, or write answers to prompts."""
    parser = argparse.ArgumentParser(description="Ask a model plain questions about no panorama.")
    parser.add_argument("model", help="a language model, a trained folder of PanoLLaVA, or a full checkpoint")
    parser.add_argument("prompts", nargs="?", type=Path, help="a text file, a prompt a line")
    parser.add_argument("out", nargs="?", type=Path, help="the JSONL file to write the answers to these to")
    options = parser.parse_args()
    if options.prompts is not None and options.out is None:
        parser.error("name the file to write as well")
    disable_progress_bar()
    set_verbosity_error()
    ask = opened(options.model)
    if options.out is None:
        count(ask)
    else:
        write(ask, options.prompts.read_text("utf-8").splitlines(), options.out)


def opened(path: str) -> Ask:
    """Return how a model is asked: a PanoLLaVA without a panorama, or a language model by its own chat template."""
    options = loading_options(path)
    if AutoConfig.from_pretrained(path, **options).model_type == "panollava":
        engine = PanoLLaVAModel.from_pretrained(path).engine

        def ask(question: str) -> tuple[str, bool]:
            messages = without_panorama(with_question([], question))
            (answer,) = engine.answer_text([messages], max_new_tokens=[LONGEST])
            return answer.text, answer.ended

        return ask
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, **options)
    tokenizer: Any = AutoTokenizer.from_pretrained(path, **options)

    def ask_plainly(question: str) -> tuple[str, bool]:
        chat = [{"role": "user", "content": question}]
        written = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
        inputs = tokenizer.apply_chat_template(chat, **written)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=LONGEST)[0, inputs["input_ids"].shape[1] :]
        return tokenizer.decode(ids, skip_special_tokens=True).strip(), len(ids) < LONGEST

    return ask_plainly


def is_right(answer: str, accepted: Sequence[str]) -> bool:
    """Return whether an answer holds an accepted one, in whole words."""
    words = re.findall(r"[^\W_]+", answer.casefold())
    said = f" {' '.join(words)} "
    return any(f" {one.casefold()} " in said for one in accepted)


def count(ask: Ask) -> None:
    """Ask the plain questions, and print each answer and how many are right."""
    right = 0
    asked = [json.loads(line) for line in QUESTIONS.read_text("utf-8").splitlines()]
    for one in asked:
        answer, _ = ask(one["question"])
        good = is_right(answer, one["answers"])
        right += good
        print(f"{'right' if good else 'WRONG'}  {one['question']}  {' '.join(answer.split())}")
    print(f"{right} of {len(asked)} right")


def write(ask: Ask, prompts: Sequence[str], out: Path) -> None:
    """Write the answers to prompts as dialogues; those that did not end are left out and counted."""
    answers = [(prompt, *ask(prompt)) for prompt in prompts if prompt.strip()]
    kept = [(prompt, answer) for prompt, answer, ended in answers if ended and answer]
    with replacing(out) as file:
        for prompt, answer in kept:
            line = json.dumps({"conversations": [{"human": prompt, "assistant": answer}]}, ensure_ascii=False)
            file.write(f"{line}\n".encode())
    print(f"{out}: {len(kept)} dialogues; {len(answers) - len(kept)} left out, whose answer did not end")
    print(f"text_chat: {{path: {out}, share: 0.1, sha256: {file_hash(out)[:12]}}}")


if __name__ == "__main__":
    main()
