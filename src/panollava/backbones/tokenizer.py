"""The stand-ins' tokenizer: a byte-level BPE trained on their own text, in which a whole number is one piece."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from panollava.backbones.templates import chat_template

# Numbers of up to three digits with their sign; what stands before a number; words with the space before them; other
# punctuation; space. No piece but white space ends in a space (`, ` before a number aside), so a prompt has the same
# tokens whatever answer follows it.
PIECES = r"-?\d{1,3}|, (?=-?\d)| ?\[(?=-?\d)| (?=-?\d)| ?\p{L}+| ?[^\s\p{L}\d]+|\s+"
# Every yaw and every pitch in whole degrees shall be one token.
NUMBERS = " ".join(str(number) for number in range(-180, 181))


def train_tokenizer(texts: Iterable[str], family: str, *, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of at most `vocabulary` tokens on `texts` and give it the chat template of `family`."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=chat_template(family),
        clean_up_tokenization_spaces=False,
    )
