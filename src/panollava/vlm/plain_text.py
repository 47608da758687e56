"""Text of users is plain text: a control token of the language model that is written in it is not read as one.

The first character of such a token is written as a private one, so the tokenizer does not find the token. The
tokenizer's normaliser runs on the text between control tokens, and writes the character back. Other text stays as it
is, and so do its token ids.
"""

from collections.abc import Sequence
from typing import Any

from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

# The placeholder of a panorama.
PANORAMA_TOKEN = "<pano>"
# Private characters stand this far above the characters that they hide.
PRIVATE = 0x100000


class PlainText:
    """The control tokens of a tokenizer and its chat template, and how text hides them.

    Control tokens are the special tokens, and added tokens that the template writes, whole or joined from parts. The
    tokenizer learns to read hidden ones as text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        template += _rendered(tokenizer, template)
        self.control = {
            number: token.content
            for number, token in tokenizer.added_tokens_decoder.items()
            if token.special or (token.content in template and not token.content.isspace())
        }
        self.hidden = {ord(content[0]): PRIVATE + ord(content[0]) for content in self.control.values()}
        if tokenizer.is_fast:
            self._teach(tokenizer)
        # Those that a tokenizer finds all the same: one that is not fast, or a vocabulary that holds them as words.
        self.unsafe = self._found(tokenizer)

    def text(self, text: str, *, placeholders: bool) -> str:
        """Return a text with its control tokens hidden; those of panoramas stay where `placeholders` may stand in it.

        Raises:
            ValueError: half of a surrogate pair, or a control token that the tokenizer cannot read as text.
        """
        check_unicode(text)
        names = [name for name in self.control.values() if name in text]
        if placeholders:
            names = [name for name in names if name != PANORAMA_TOKEN]
        if not names:
            return text
        for name in self.unsafe:
            if name in names:
                raise ValueError(
                    f"{name} in {text[:60]!r} is a control token that this language model's tokenizer cannot read as "
                    "text; reword it"
                )
        if not placeholders:
            return text.translate(self.hidden)
        return PANORAMA_TOKEN.join(part.translate(self.hidden) for part in text.split(PANORAMA_TOKEN))

    def messages(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return chat messages with the control tokens in their texts hidden; an answer holds no panorama."""
        found = []
        for message in messages:
            content, question = message.get("content"), message.get("role") != "assistant"
            if isinstance(content, str):
                content = self.text(content, placeholders=question)
            elif content is not None:
                content = [
                    part | {"text": self.text(part["text"], placeholders=question)} if "text" in part else part
                    for part in content
                ]
            found.append(message | {"content": content})
        return found

    def _teach(self, tokenizer: PreTrainedTokenizerBase) -> None:
        backend: Any = tokenizer.backend_tokenizer
        known = backend.normalizer
        missing = [
            normalizers.Replace(chr(private), chr(plain))
            for plain, private in self.hidden.items()
            if known is None or known.normalize_str(chr(private)) != chr(plain)
        ]
        if missing:
            backend.normalizer = normalizers.Sequence(missing if known is None else [*missing, known])

    def _found(self, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        names = list(self.control.values())
        if not (tokenizer.is_fast and names):
            return names
        read = tokenizer([name.translate(self.hidden) for name in names], add_special_tokens=False)["input_ids"]
        known = self.control.keys() - {tokenizer.unk_token_id}
        return [name for name, ids in zip(names, read, strict=True) if not known.isdisjoint(ids)]


def _rendered(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Return a dialogue as a template writes it, where added tokens may stand in it that are not special.

    A template may join such a token from parts, as in '<|' + message['role'] + '|>'.
    """
    added = tokenizer.added_tokens_decoder.values()
    if not template or all(token.special or token.content in template for token in added):
        return ""
    chat = [{"role": role, "content": "a"} for role in ("user", "assistant")]
    return str(tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False))


def check_unicode(text: str) -> None:
    """Refuse half of a surrogate pair, which no tokenizer reads: it comes from bytes that were no UTF-8, or cut text.

    Raises:
        ValueError: with its position.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the text {text[:60]!r} is not valid Unicode: character {error.start} is {text[error.start]!r}, half of "
            "a pair, as from bytes that are not UTF-8; write the character whole"
        ) from None
