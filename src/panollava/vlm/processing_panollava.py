"""The processor: panoramas and prompts in, model inputs out; one `<pano>` in a prompt stands for one whole panorama."""

from typing import Any, Self

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase, ProcessorMixin

from .image_processing_panollava import PanoLlavaImageProcessor
from .plain_text import PANORAMA_TOKEN, PlainText

# Chat templates of language models expect plain strings; this lets any of them take images in a message's content.
FLATTEN_CONTENT = (
    "{%- set flat = namespace(messages=[]) -%}"
    "{%- for message in messages -%}"
    "{%- set text = namespace(content='') -%}"
    "{%- if message['content'] is string -%}"
    "{%- set text.content = message['content'] -%}"
    "{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- set piece = '" + PANORAMA_TOKEN + "\n' if part['type'] == 'image' else part['text'] -%}"
    "{%- set text.content = text.content + piece -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- set flat.messages = flat.messages + [{'role': message['role'], 'content': text.content}] -%}"
    "{%- endfor -%}"
    "{%- set messages = flat.messages -%}"
)
# What some templates ask for is fixed, so that the same dialogue is the same text on every day and in every place:
# whether the model thinks aloud first, unless a caller says so, and the day (the one that Llama 3's template names).
WITHOUT_THINKING = "{%- if enable_thinking is not defined -%}{%- set enable_thinking = false -%}{%- endif -%}"
FIXED_DAY = (
    "{%- macro strftime_now(format) -%}"
    "{{- format | replace('%d', '26') | replace('%b', 'Jul') | replace('%B', 'July') | replace('%m', '07')"
    " | replace('%Y', '2024') | replace('%A', 'Friday') | replace('%H:%M', '12:00') -}}"
    "{%- endmacro -%}"
)
WITHOUT_START = "{%- set bos_token = '' -%}"


def panoramic(tokenizer: PreTrainedTokenizerBase) -> str:
    """Give a language model's tokenizer the token of a panorama; return its chat template, which takes images then.

    A pad token is set where there is none, to the end of sequence.

    Raises:
        ValueError: no chat template, or neither a pad token nor an end of sequence.
    """
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise ValueError(f"the tokenizer {tokenizer.name_or_path!r} has no chat template; set one first")
    tokenizer.add_tokens([PANORAMA_TOKEN], special_tokens=True)
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has neither a pad token nor an end of sequence; set its "
                "eos_token"
            )
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.bos_token is None:
        template = WITHOUT_START + template
    if "strftime_now" in template:
        template = FIXED_DAY + template
    if "enable_thinking" in template:
        template = WITHOUT_THINKING + template
    return FLATTEN_CONTENT + template


class PanoLlavaProcessor(ProcessorMixin):
    """Join the image processor and a tokenizer that knows `<pano>`.

    `tokens_per_side` is the model's: each `<pano>` is expanded to one placeholder for each token of its views. A prompt
    longer than the language model's context is refused. Padding goes to the left, so that all prompts of a batch end
    together.
    """

    text_kwargs = {"padding": False, "padding_side": "left"}  # noqa: RUF012

    def __init__(
        self,
        image_processor: PanoLlavaImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        tokens_per_side: int,
        chat_template: str | None = None,
    ):
        if image_processor.tokens_per_side not in (None, tokens_per_side):
            raise ValueError(
                f"tokens_per_side is {tokens_per_side}, but the image processor chooses its views for "
                f"{image_processor.tokens_per_side}; both are the model's"
            )
        self.tokens_per_side = tokens_per_side
        self.image_token = PANORAMA_TOKEN
        self.image_token_id: int = tokenizer.convert_tokens_to_ids(PANORAMA_TOKEN)  # type: ignore[assignment] # one token
        if self.image_token_id is None or self.image_token_id == tokenizer.unk_token_id:
            raise ValueError(f"the tokenizer has no {PANORAMA_TOKEN}; build the processor with `from_parts`")
        # Where `text_kwargs` of a class is not read, as by transformers older than 5.23.
        tokenizer.padding_side = "left"
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.plain_text = PlainText(tokenizer, chat_template or "")

    @classmethod
    def from_parts(
        cls,
        image_processor: PanoLlavaImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        *,
        tokens_per_side: int,
        context_length: int,
    ) -> Self:
        """Return a processor on a language model's own tokenizer, which gains `<pano>` and the model's context length.

        The id of `<pano>` may lie beyond the language model's vocabulary; set `image_token_id` of the model's
        configuration to the processor's. The tokenizer's chat template is taken over, see `panoramic`.

        Raises:
            ValueError: what `panoramic` raises.
        """
        template = panoramic(tokenizer)
        tokenizer.model_max_length = context_length
        return cls(image_processor, tokenizer, tokens_per_side, chat_template=template)

    @property
    def context_length(self) -> int:
        """Return how many tokens the language model's context holds."""
        return self.tokenizer.model_max_length

    def require_context(self, what: str, tokens: int) -> None:
        """Refuse a sequence that the language model's context does not hold; `what` names it in the message.

        Raises:
            ValueError: with the length, the context and what helps.
        """
        if tokens > self.context_length:
            raise ValueError(
                f"{what} has {tokens} tokens, but the language model's context holds {self.context_length}; "
                "shorten the text, lower tokens_per_side or choose a view strategy with fewer views"
            )

    def tokens_of_panorama(self, poses: Tensor) -> int:
        """Return how many visual tokens the model makes of a panorama that is seen at `poses` `[V, 6]`."""
        return len(poses) * self.tokens_per_side**2

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """Return the placeholders of one panorama."""
        return self.image_token * self.tokens_of_panorama(torch.as_tensor(image_inputs["view_poses"][image_idx]))

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """Return one dialogue or several as prompts, see `ProcessorMixin`; control tokens in their texts stay text.

        Without `tokenize` such tokens are hidden in the prompt, see `plain_text`; this processor reads them as text.

        Raises:
            ValueError: a text that is no valid Unicode, or a control token in it that the tokenizer cannot read.
        """
        several = bool(conversation) and isinstance(conversation[0], list | tuple)
        plain = self.plain_text.messages
        hidden = [plain(one) for one in conversation] if several else plain(conversation)
        return super().apply_chat_template(hidden, *args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> BatchFeature:
        """Return the model's inputs for `images` and `text`, see `ProcessorMixin`.

        Raises:
            ValueError: a prompt longer than the context, or as many `<pano>` as there are not panoramas.
        """
        inputs = super().__call__(*args, **kwargs)
        for index, ids in enumerate(inputs.get("input_ids", [])):
            self.require_context(f"prompt {index}", len(ids))
        return inputs
