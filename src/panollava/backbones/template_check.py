"""Check a language model's tokenizer and chat template before anything is computed: that answers can be learned."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from panollava.backbones.presets import Backbone
from panollava.remembered import recall, remember

KIND, CHECKED = "templates", "1"
# Answers as they come: words, numbers, lists, other scripts; and a second turn.
DIALOGUES = (
    (("Is there a red cube?", "Yes."), ("And where?", "Behind you.")),
    (("At which yaw?", "-35"),),
    (("Give the box.", "[-35, 12, 20, 15]"),),
    (("어디에 있나요?", "왼쪽에 있습니다"), ("How many?", "3"), ("Which one?", '"The exit", (left)')),
)


def check_template(llm: Backbone) -> None:
    """Refuse a language model whose tokenizer or chat template does not serve; what passed once is remembered.

    Raises:
        ValueError: with the name of the preset and the reason.
    """
    template = hashlib.sha256((llm.chat_template or "").encode()).hexdigest()
    key = "/".join((CHECKED, version("transformers"), llm.source, llm.fingerprint, template))
    if recall(KIND, key):
        return
    _check(llm)
    remember(KIND, key, True)


def _check(llm: Backbone) -> None:
    # Here, for they import what takes seconds.
    from panollava.backbones.loading import load_tokenizer
    from panollava.backbones.turns import ChatFormat
    from panollava.vlm.plain_text import PANORAMA_TOKEN, PlainText
    from panollava.vlm.processing_panollava import panoramic

    tokenizer = load_tokenizer(llm)
    try:
        template = panoramic(tokenizer)
        written = ChatFormat(tokenizer, template, PlainText(tokenizer, template))
        place, heads = tokenizer.convert_tokens_to_ids(PANORAMA_TOKEN), set()
        for turns in DIALOGUES:
            for row in written.learned(_messages(turns, PANORAMA_TOKEN + "\n")):
                if row.ids.count(place) != 1:
                    raise ValueError("the chat template does not keep the panorama of the first question")
                heads.add(row.ids[: row.ids.index(place)])
            written.learned(_messages(turns, ""))
        if len(heads) != 1:
            raise ValueError("the chat template writes what stands before the panorama now so, now otherwise")
    except ValueError as error:
        raise ValueError(f"{llm.name}: {error}") from error


def _messages(turns: Sequence[tuple[str, str]], before: str) -> list[dict[str, Any]]:
    """Return a dialogue as chat messages, with something before its first question."""
    texts = [text for turn in turns for text in turn]
    texts[0] = before + texts[0]
    roles = ("user", "assistant") * len(turns)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
