"""The high-level API: open a trained PanoLLaVA, ask it about panoramas, and load, merge and save its LoRA weights.

`PanoLLaVAModel` wraps the model and its processor; both stay in reach as `.model` and `.processor` for everything that
transformers does with them. A `Chat` is one conversation about one panorama.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from PIL import Image
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig

from panollava.backbones.assemble import ADAPTER, PARTS, TRAINED, Parts, load_finetuned, load_trained, read_parts
from panollava.corpus.folders import new_folder
from panollava.corpus.images import open_panorama
from panollava.corpus.records import LabelledBox
from panollava.corpus.wording import detection_question
from panollava.tasks.answering import compute_prefix, generate, prompt_ids, split_prompts
from panollava.tasks.answers import parse_detection
from panollava.tasks.captured import forget
from panollava.tasks.decoding import Prefix, Row
from panollava.tasks.prompts import Message
from panollava.vlm.configuration_panollava import PanoLlavaConfig
from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration
from panollava.vlm.patch_masks import splat
from panollava.vlm.processing_panollava import PanoLlavaProcessor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_NEW_TOKENS = 256
MASK_ROWS = 512
# What PEFT puts before the names of the model that it wraps.
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Origin:
    """What a model's weights are: those of two backbones, but for the parameters that were trained since."""

    parts: Parts
    trained: frozenset[str]


class PanoLLaVAModel:
    """A PanoLLaVA that answers questions about panoramas, greedily, one question at a time: not from several threads.

    Attributes:
        model, processor: the transformers model, in evaluation mode, and its processor.
        adapted: PEFT's wrapper around the model while LoRA weights are loaded and not merged, else None.
        origin: the backbones below the trained weights; None for a full checkpoint, and once LoRA has been merged.
    """

    def __init__(
        self,
        model: PanoLlavaForConditionalGeneration,
        processor: PanoLlavaProcessor,
        origin: Origin | None = None,
        *,
        compiled: bool = False,
    ) -> None:
        if compiled and model.device.type != "cuda":
            raise ValueError(f"compiled is for a GPU, and the model is on {model.device}; leave it out")
        self.model, self.processor, self.origin, self.compiled = model.eval(), processor, origin, compiled
        self.adapted: PeftModel | None = None

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
        `compiled`, for a GPU that answers for long: decoding is compiled, half a minute for each new length of prompts
        and answers, and is faster from then on.

        Raises:
            ValueError: not a PanoLLaVA, or backbones other than those it was trained on; `compiled` without a GPU.
        """
        folder, origin = Path(path), None
        if (folder / PARTS).is_file():
            model, processor = load_finetuned(folder, dtype=dtype)
            if not (folder / ADAPTER).is_file():
                origin = Origin(read_parts(folder), trained_names(folder))
        else:
            check_checkpoint(path)
            model = PanoLlavaForConditionalGeneration.from_pretrained(path, dtype=dtype or "auto")
            processor = PanoLlavaProcessor.from_pretrained(path)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model.to(place), processor, origin, compiled=compiled)  # type: ignore[arg-type] # transformers decorates `to`

    def chat(self, image: Image.Image | str | Path) -> "Chat":
        """Return a new conversation about a panorama, given as an image or as its file."""
        return Chat(self.model, self.processor, _panorama(image), compiled=self.compiled)

    def generate(self, image: Image.Image | str | Path, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> str:
        """Return the answer to one question about a panorama, given as an image or as its file.

        Raises:
            ValueError: an empty question, one longer than the context, or an image that is no panorama.
        """
        return self.chat(image).ask(question, max_new_tokens=max_new_tokens)

    def segment(self, image: Image.Image | str | Path, question: str) -> NDArray[np.bool_]:
        """Return the mask `[H, W]` of what a question about a panorama asks for, as in "Give the box of the red cube."

        Only questions of the kind that training had masks for give sensible ones: those that name one object.

        Raises:
            ValueError: as for `generate`.
        """
        return self.chat(image).segment(question)

    def detect(
        self,
        image: Image.Image | str | Path,
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
        if self.adapted is not None:
            raise ValueError("LoRA weights are loaded already; call merge_lora_weights() first, or load the model anew")
        check_lora(self, folder)
        if (folder / TRAINED).is_file():
            names = load_trained(self.model, folder)
            if self.origin is not None:
                self.origin = Origin(self.origin.parts, self.origin.trained | set(names))
        self.adapted = PeftModel.from_pretrained(self.model, str(folder)).eval()
        forget(self.model)

    def merge_lora_weights(self) -> None:
        """Add loaded LoRA weights to the weights of the language model; without any, nothing is to be done."""
        if self.adapted is not None:
            self.model = self.adapted.merge_and_unload().eval()
            forget(self.model)
            self.adapted = self.origin = None

    def save_pretrained(self, out: str | Path) -> None:
        """Write a full checkpoint, loaded LoRA weights merged, that plain transformers opens.

        Raises:
            ValueError: `out` exists and is not an empty folder.
        """
        with new_folder(Path(out)) as folder:
            self.merge_lora_weights()
            self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)


class Chat:
    """A conversation about one panorama, each question with all turns before it in view.

    The keys and values of the panorama are computed once, here; what changes from turn to turn is text alone, so the
    answers are those that a fresh prompt with the whole conversation would get. Change no weights meanwhile.
    """

    def __init__(
        self,
        model: PanoLlavaForConditionalGeneration,
        processor: PanoLlavaProcessor,
        panorama: Image.Image,
        *,
        compiled: bool = False,
    ) -> None:
        self.model, self.processor, self.panorama, self.compiled = model, processor, panorama, compiled
        self.messages: list[Message] = []
        head, _ = self._split(self._with_question("?"))
        self.prefix: Prefix = compute_prefix(model, processor, [panorama], head)

    def ask(self, question: str, *, max_new_tokens: int = MAX_NEW_TOKENS) -> str:
        """Return the answer to the next question; an answer stops early where the context ends.

        Raises:
            ValueError: an empty question, or no room for it in the context; the conversation stays as it was.
        """
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; an answer has at least one token")
        messages, tail, room = self._asked(question)
        row = Row(0, 0, tail, min(max_new_tokens, room))
        answer = generate(self.model, self.processor, self.prefix, [row], compiled=self.compiled)[0].text
        self.messages = [*messages, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return answer

    def segment(self, question: str) -> NDArray[np.bool_]:
        """Return the mask `[H, W]` of what the next question asks for; the conversation stays as it was.

        Raises:
            ValueError: an empty question, or no room for it in the context.
        """
        _, tail, _ = self._asked(question)
        row = Row(0, 0, tail, 1, masked=True)
        patches, poses = generate(self.model, self.processor, self.prefix, [row])[0].patches, self.prefix.poses
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

    def _asked(self, question: str) -> tuple[list[Message], list[int], int]:
        """Return the conversation with the next question, the tokens after the panorama, and the room for an answer."""
        if not question.strip():
            raise ValueError("the question is empty")
        messages = self._with_question(question)
        _, tail = self._split(messages)
        length, context = len(self.prefix.ids) + len(tail), self.processor.tokenizer.model_max_length
        if length >= context:
            raise ValueError(
                f"the conversation has {length} tokens with this question, {len(self.prefix.ids)} of them the "
                f"panorama, but the language model's context holds {context}; ask a shorter one or start a new chat"
            )
        return messages, tail, context - length

    def _with_question(self, question: str) -> list[Message]:
        panorama = [] if self.messages else [{"type": "image"}]
        content = [*panorama, {"type": "text", "text": question}]
        return [*self.messages, {"role": "user", "content": content}]

    def _split(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        """Return the token ids before and after the panorama."""
        head, tails = split_prompts(prompt_ids(self.processor, [messages]), self.model.config.image_token_id)
        return head, tails[0]


def _panorama(image: Image.Image | str | Path) -> Image.Image:
    return image if isinstance(image, Image.Image) else open_panorama(Path(image))


def trained_names(folder: Path) -> frozenset[str]:
    """Return the names of the parameters in a trained folder."""
    with safe_open(folder / TRAINED, framework="pt") as file:
        return frozenset(file.keys())


def check_checkpoint(path: str | Path) -> None:
    """Refuse what is not a full checkpoint of PanoLLaVA, a folder or a hub id.

    Raises:
        ValueError: with what it is instead.
    """
    folder = Path(path)
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"{path} holds LoRA weights without {PARTS}, which would name the model below them; open that model first, "
            "then call load_lora_weights"
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"{path} has no config.json; it must be a checkpoint's folder or that of a finished stage")
    try:
        config = AutoConfig.from_pretrained(path)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is neither a folder nor a checkpoint that the hub gives us: {reason}") from error
    if not isinstance(config, PanoLlavaConfig):
        raise ValueError(f"{path} is a checkpoint of {config.model_type!r}, not of {PanoLlavaConfig.model_type!r}")


def check_lora(model: PanoLLaVAModel, folder: Path) -> None:
    """Refuse a folder that holds no LoRA weights, or weights for another model.

    Only a folder that names its backbones can be told from one of another model of the same shapes.

    Raises:
        ValueError: with what differs.
    """
    for name in (ADAPTER, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: it is not a LoRA folder")
    problems = _differing_parts(model.origin, folder)
    if (folder / "config.json").is_file():
        problems += _differing_settings(model.model.config, PanoLlavaConfig.from_pretrained(folder))
    # Shapes that differ follow from the former, and say less.
    if problems := problems or _differing_layers(model.model, folder):
        raise ValueError(f"{folder} does not belong to this model:\n" + "\n".join(f"  {line}" for line in problems))


def _differing_parts(origin: Origin | None, folder: Path) -> list[str]:
    if not (folder / PARTS).is_file():
        return []
    wanted = read_parts(folder)
    if origin is None:
        return [
            f"it was trained on {wanted.llm.name} ({wanted.llm.source}) with its own weights, but this is a full "
            "checkpoint, or a model with LoRA weights merged; open the LoRA folder itself with from_pretrained"
        ]
    pairs = {"encoder": (wanted.encoder, origin.parts.encoder), "language model": (wanted.llm, origin.parts.llm)}
    return [
        f"{kind}: trained on {theirs.name} ({theirs.source}, {theirs.fingerprint[:12]}), "
        f"this is {ours.name} ({ours.source}, {ours.fingerprint[:12]})"
        for kind, (theirs, ours) in pairs.items()
        if theirs.fingerprint != ours.fingerprint
    ]


def _differing_settings(ours: PanoLlavaConfig, theirs: PanoLlavaConfig) -> list[str]:
    pairs = zip(_settings(theirs).items(), _settings(ours).values(), strict=True)
    return [f"{name}: {there!r} there, {here!r} here" for (name, there), here in pairs if there != here]


def _settings(config: PanoLlavaConfig) -> dict[str, object]:
    """Return the fields that a LoRA folder and its model share; of the two backbones, their families and sizes."""
    described = {
        name: f"{part.model_type}, {part.num_hidden_layers} layers of {part.hidden_size}"
        for name, part in (("vision_config", config.vision_config), ("text_config", config.text_config))
    }
    values = config.to_dict()
    return described | {name: values[name] for name in PanoLlavaConfig.__annotations__ if name not in described}


def _differing_layers(model: nn.Module, folder: Path) -> list[str]:
    """Return where the shapes of LoRA weights `A` `[r, in]` and `B` `[out, r]` are not those of the model's layers."""
    config = PeftConfig.from_pretrained(str(folder))
    shapes = {name: tuple(m.weight.shape) for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    problems, found = [], set()
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 # not a mapping
            name, _, half = key.removeprefix(PEFT_PREFIX).partition(".lora_")
            rows, columns = file.get_slice(key).get_shape()
            found.add(name)
            if name not in shapes:
                problems.append(f"{name}: the model has no such layer")
            elif half.startswith("A") and columns != shapes[name][1]:
                problems.append(f"{name}: {columns} inputs there, {shapes[name][1]} here")
            elif half.startswith("B") and rows != shapes[name][0]:
                problems.append(f"{name}: {rows} outputs there, {shapes[name][0]} here")
    targets = {name for name in shapes if check_target_module_exists(config, name)}
    return problems + [f"{name}: no weights for this layer" for name in sorted(targets - found)]
