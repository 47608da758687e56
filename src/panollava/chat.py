"""The high-level API: open a trained PanoLLaVA, ask it about panoramas, and load, merge and save its LoRA weights.

`PanoLLaVAModel` wraps the model and its processor; both stay in reach as `.model` and `.processor` for everything that
transformers does with them. A `Chat` is one conversation about one panorama.
"""

from collections.abc import Mapping
from operator import index
from pathlib import Path
from typing import Any, Self, SupportsIndex

import numpy as np
import torch
from huggingface_hub import ModelCardData
from numpy.typing import NDArray
from peft import PeftModel
from PIL import Image

from panollava.backbones.adapter import ADAPTER
from panollava.backbones.checkpoint import load_checkpoint
from panollava.backbones.files import new_checkpoint
from panollava.backbones.matching import Origin, check_lora, trained_names
from panollava.backbones.trained import PARTS, TRAINED, load_finetuned, load_trained, read_parts
from panollava.corpus.images import Source, open_panorama
from panollava.corpus.messages import Message, with_answer, with_question, without_first_turn
from panollava.corpus.patch_masks import splat
from panollava.corpus.records import LabelledBox
from panollava.corpus.wording import detection_question
from panollava.inference.engine import Engine
from panollava.inference.prompts import Prefix, Row, room_for_answer, split_prompts
from panollava.report.model_card import read_card_data, trained_further, with_scores, write_model_card
from panollava.tasks.spellings import parse_detection
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.processing_panollava import PanoLlavaProcessor

MAX_NEW_TOKENS = 256
MASK_ROWS = 512


class PanoLLaVAModel:
    """A PanoLLaVA that answers questions about panoramas, greedily, one question at a time.

    Several threads may use one model. Each call waits for its turn and gets the answer that it would get alone. Weights
    may be loaded and merged meanwhile: each answer comes from the weights before or after. For any other use of
    `.model` and `.processor` while threads answer, hold `engine.lock`, and call `engine.weights_changed()` after a
    change of weights.

    Attributes:
        engine: the inference engine, which owns what is reused between answers.
        adapted: PEFT's wrapper around the model while LoRA weights are loaded and not merged, else None.
        origin: the backbones below the trained weights; None for a full checkpoint, and once LoRA has been merged.
        card: the metadata of the model card that `save_pretrained` writes.
    """

    def __init__(
        self,
        model: PanoLlavaForConditionalGeneration,
        processor: PanoLlavaProcessor,
        origin: Origin | None = None,
        *,
        card: ModelCardData | None = None,
        compiled: bool = False,
    ) -> None:
        self.engine, self.origin = Engine(model, processor, compiled=compiled), origin
        self.card = ModelCardData() if card is None else card
        self.adapted: PeftModel | None = None

    @property
    def model(self) -> PanoLlavaForConditionalGeneration:
        """Return the transformers model, in evaluation mode."""
        return self.engine.model

    @property
    def processor(self) -> PanoLlavaProcessor:
        """Return its processor."""
        return self.engine.processor

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> Self:
        """Return the model of a full checkpoint (folder or hub id) or of the folder of a training stage.

        LoRA weights in such a folder are merged. `device` is a GPU where there is one, `dtype` that of the checkpoint.
        `compiled`, for a GPU that answers for long: the language model is compiled, half a minute for each new length
        of prompts and answers, and is faster from then on.

        Raises:
            ValueError: not a PanoLLaVA, or backbones other than those it was trained on; an unknown device, or a GPU
                that is not there; `compiled` without a GPU.
        """
        place = _device(device)
        folder, origin = Path(path), None
        if (folder / PARTS).is_file():
            model, processor = load_finetuned(folder, dtype=dtype)
            if not (folder / ADAPTER).is_file():
                origin = Origin(read_parts(folder), trained_names(folder))
        else:
            model, processor = load_checkpoint(path, dtype)
        model = model.to(place)  # type: ignore[arg-type] # transformers decorates `to`
        return cls(model, processor, origin, card=read_card_data(path), compiled=compiled)

    def chat(self, image: Source) -> "Chat":
        """Return a new conversation about a panorama, given as a file, its bytes or a PIL image."""
        return Chat(self.engine, open_panorama(image))

    def generate(self, image: Source, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> str:
        """Return the answer to one question about a panorama, given as a file, its bytes or a PIL image.

        Raises:
            ValueError: an empty question, one longer than the context, or an image that is no panorama.
        """
        return self.chat(image).ask(question, max_new_tokens=max_new_tokens)

    def segment(self, image: Source, question: str) -> NDArray[np.bool_]:
        """Return the mask `[H, W]` of what a question about a panorama asks for, as in "Give the box of the red cube."

        Only questions of the kind that training had masks for give sensible ones: those that name one object.

        Raises:
            ValueError: as for `generate`.
        """
        return self.chat(image).segment(question)

    def detect(
        self,
        image: Source,
        description: str,
        *,
        language: str = "en",
        max_new_tokens: int = MAX_NEW_TOKENS,
    ) -> list[LabelledBox]:
        """Return all objects of a panorama that a description fits, as in "every red object", with boxes in degrees.

        Korean (`ko`) descriptions are noun phrases too: "모든 빨간색 물체".

        Raises:
            ValueError: as for `generate`, and an answer that is no list of labelled boxes, with its text.
        """
        return self.chat(image).detect(description, language=language, max_new_tokens=max_new_tokens)

    def load_lora_weights(self, path: str | Path) -> None:
        """Load a LoRA folder on top of the model, with the resampler that was trained along with it if it has one.

        Nothing is loaded unless everything matches.

        Raises:
            ValueError: no LoRA folder, or one for another model, with what differs; LoRA weights are loaded already.
        """
        folder = Path(path)
        with self.engine.lock:
            if self.adapted is not None:
                raise ValueError(
                    "LoRA weights are loaded already; call merge_lora_weights() first, or load the model anew"
                )
            check_lora(self.model, self.origin, folder)
            self.engine.weights_changed()
            if (folder / TRAINED).is_file():
                names = load_trained(self.model, folder)
                if self.origin is not None:
                    self.origin = Origin(self.origin.parts, self.origin.trained | set(names))
            self.adapted = PeftModel.from_pretrained(self.model, str(folder)).eval()
            # A folder that names its base models also knows what it was trained on.
            self.card = read_card_data(folder) if (folder / PARTS).is_file() else trained_further(self.card)

    def merge_lora_weights(self) -> None:
        """Add loaded LoRA weights to the weights of the language model; without any, nothing is to be done."""
        with self.engine.lock:
            if self.adapted is not None:
                self.engine.weights_changed()
                self.adapted.merge_and_unload()  # in place
                self.adapted = self.origin = None

    def save_pretrained(self, out: str | Path, *, metrics: Mapping[str, Any] | None = None) -> None:
        """Write a full checkpoint, loaded LoRA weights merged, that plain transformers opens, with its model card.

        `metrics`, the content of the metrics/evaluate.json of these weights, puts their scores into the card.

        Raises:
            ValueError: `out` exists and is not an empty folder; metrics of other base models.
        """
        card = self.card if metrics is None else with_scores(self.card, metrics)
        with self.engine.lock, new_checkpoint(Path(out)) as folder:
            self.merge_lora_weights()
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_model_card(folder, card, self.model.config, self.processor)


class Chat:
    """A conversation about one panorama, each question with all turns before it in view.

    The keys and values of the panorama are computed once, and again only when the model has been given other weights.
    What changes from turn to turn is text alone, so the answers are those that a fresh prompt with the whole
    conversation would get. Threads that share a conversation take turns, in no particular order.
    """

    def __init__(self, engine: Engine, panorama: Image.Image) -> None:
        self.engine, self.panorama = engine, panorama
        self.messages: list[Message] = []
        with engine.lock:
            self._prefix, self._weights_version = self._prefill(), engine.weights_version

    @property
    def prefix(self) -> Prefix:
        """Return the keys and values of the panorama under the present weights."""
        with self.engine.lock:
            if self._weights_version != self.engine.weights_version:
                self._prefix, self._weights_version = self._prefill(), self.engine.weights_version
            return self._prefix

    def _prefill(self) -> Prefix:
        head, _ = split_prompts(self.engine.processor, [with_question([], "?")])
        return self.engine.prefill([self.panorama], head)

    def ask(self, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> str:
        """Return the answer to the next question; an answer stops early where the context ends.

        Raises:
            ValueError: an empty question, no room for it in the context, or `max_new_tokens` below one. The
                conversation stays as it was.
            TypeError: a question that is no text, or `max_new_tokens` that is no whole number.
        """
        longest = _answer_length(max_new_tokens)
        with self.engine.lock:
            messages, tail, room = self._asked(question)
            answer = self.engine.generate(self.prefix, [Row(0, 0, tail, min(longest, room))])[0].text
            self.messages = with_answer(messages, answer)
        return answer

    def segment(self, question: str) -> NDArray[np.bool_]:
        """Return the mask `[H, W]` of what the next question asks for; the conversation stays as it was.

        Raises:
            ValueError: an empty question, or no room for it in the context.
        """
        with self.engine.lock:
            _, tail, _ = self._asked(question)
            prefix = self.prefix
            patches, poses = self.engine.generate(prefix, [Row(0, 0, tail, 1, masked=True)])[0].patches, prefix.poses
        assert patches is not None
        assert poses is not None
        # Finer than its patches a mask is smooth anyway; the weights of millions of pixels would fill the memory.
        rows = min(self.panorama.height, MASK_ROWS)
        mask = Image.fromarray((splat(patches[None], poses[0].cpu(), rows, 2 * rows)[0] > 0).numpy())
        return np.asarray(mask.resize(self.panorama.size, Image.Resampling.NEAREST))

    def detect(
        self, description: str, *, language: str = "en", max_new_tokens: int = MAX_NEW_TOKENS
    ) -> list[LabelledBox]:
        """Return all objects that a description fits, as in "every red object"; this is a turn of the conversation.

        Raises:
            ValueError: as for `ask`, and an answer that is no list of labelled boxes, with its text.
        """
        answer = self.ask(detection_question(description, language), max_new_tokens=max_new_tokens)
        objects, unparsed = parse_detection(answer)
        if unparsed:
            raise ValueError(f"the answer is no list of labelled boxes, or was cut short: {answer!r}")
        return [LabelledBox(label=label, box_deg=box) for label, box in objects]

    def make_room(self, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> int:
        """Forget the oldest turns until the next question and its longest answer fit; return how many are forgotten.

        None is forgotten for a question that does not fit alone; `ask` refuses it.
        """
        longest = _answer_length(max_new_tokens)
        with self.engine.lock:
            kept, forgotten = self.messages, 0
            if self._is_far_too_long(question) or self._room(with_question([], question)) < 1:
                return 0
            while kept and self._room(with_question(kept, question)) < longest:
                kept, forgotten = without_first_turn(kept), forgotten + 1
            self.messages = kept
        return forgotten

    def _is_far_too_long(self, question: str) -> bool:
        """Return whether no tokenizing is needed to see that the context does not hold a question."""
        processor = self.engine.processor
        # The longest token is looked for only where it may decide.
        return len(question) > processor.context_length and len(question) > processor.context_length * max(
            map(len, processor.tokenizer.get_vocab())
        )

    def _room(self, messages: list[Message]) -> int:
        """Return how many tokens the context has left, negative where it is too short already."""
        _, (tail,) = split_prompts(self.engine.processor, [messages])
        return self.engine.processor.context_length - len(self.prefix.ids) - len(tail)

    def _asked(self, question: str) -> tuple[list[Message], list[int], int]:
        """Return the conversation with the next question, the tokens after the panorama, and the room for an answer."""
        if not isinstance(question, str):
            raise TypeError(f"the question is of type {type(question).__name__}; give a text, one question at a time")
        if not question.strip():
            raise ValueError("the question is empty")
        if self._is_far_too_long(question):
            raise ValueError(
                f"the question has {len(question)} characters, but the language model's context holds "
                f"{self.engine.processor.context_length} tokens; shorten it"
            )
        messages = with_question(self.messages, question)
        _, (tail,) = split_prompts(self.engine.processor, [messages])
        return messages, tail, room_for_answer(self.engine.processor, messages, len(self.prefix.ids) + len(tail))


def _device(device: str | torch.device | None) -> torch.device:
    gpus = torch.cuda.device_count()
    try:
        place = torch.device(device or ("cuda" if gpus else "cpu"))
        if place.type == "cuda" and (place.index or 0) >= gpus:
            raise ValueError(f"device is {str(place)!r}, but there are {gpus} GPUs; leave it out to use what is there")
        torch.empty(0, device=place)
    except RuntimeError as error:
        raise ValueError(f"device is {device!r}, which PyTorch does not have here; give cpu, cuda or cuda:1") from error
    return place


def _answer_length(tokens: int) -> int:
    """Return `max_new_tokens`, which may be a whole number of any library."""
    # Not `int`, which also makes a number of 1.5 and of "9".
    if isinstance(tokens, bool) or not isinstance(tokens, SupportsIndex):
        raise TypeError(f"max_new_tokens is {tokens!r}; give a whole number, at least 1")
    if (longest := index(tokens)) < 1:
        raise ValueError(f"max_new_tokens is {longest}; an answer has at least one token")
    return longest
