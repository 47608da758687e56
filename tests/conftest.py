"""Shared fixtures: tiny random encoders and language models of every family, a tiny tokenizer, tiny panoramas."""

from collections.abc import Callable

import pytest
import torch
from tiny_configs import TEXT_CONFIGS, VISION_CONFIGS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from panollava import PanoLlavaConfig, PanoLlavaForConditionalGeneration, PanoLlavaImageProcessor, PanoLlavaProcessor

CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ 'USER: ' + message['content'] + ' ASSISTANT:' }}{% endif %}{% endfor %}"
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_remembered(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANOLLAVA_CACHE", str(tmp_path_factory.mktemp("remembered")))


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, made in the process; every text survives the round trip."""
    special = ["<s>", "</s>", "<pad>"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(["USER: what is left of the red cube? ASSISTANT: a blue ball"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.fixture
def image_processor() -> PanoLlavaImageProcessor:
    """An image processor for 32-pixel views: the whole panorama and four around the horizon."""
    return PanoLlavaImageProcessor(
        size={"height": 32, "width": 32},
        image_mean=[0.4, 0.5, 0.6],
        image_std=[0.2, 0.25, 0.3],
        views={"stride_deg": 90.0},
    )


@pytest.fixture
def processor(image_processor: PanoLlavaImageProcessor, tokenizer: PreTrainedTokenizerFast) -> PanoLlavaProcessor:
    """A processor of 2 x 2 tokens a view, five views, hence 20 placeholders a panorama."""
    return PanoLlavaProcessor.from_parts(image_processor, tokenizer, tokens_per_side=2, context_length=256)


@pytest.fixture
def make_config() -> Callable[..., PanoLlavaConfig]:
    """A factory of tiny configurations by family; keywords change fields, `text` those of the language model.

    The placeholder's id lies beyond the language model's vocabulary.
    """

    def make(
        vision: str = "clip", language: str = "llama", text: dict | None = None, **changes: object
    ) -> PanoLlavaConfig:
        fields = {
            "image_token_id": 300,
            "tokens_per_side": 2,
            "views": {"stride_deg": 90.0},
            "resampler_hidden_size": 32,
            "resampler_layers": 1,
        }
        return PanoLlavaConfig(
            vision_config=VISION_CONFIGS[vision](),
            text_config=TEXT_CONFIGS[language](**(text or {})),
            **(fields | changes),
        )

    return make


@pytest.fixture
def make_model(make_config: Callable[..., PanoLlavaConfig]) -> Callable[..., PanoLlavaForConditionalGeneration]:
    """A factory of tiny random models in evaluation mode; the arguments are those of `make_config`."""

    def make(*args: object, **kwargs: object) -> PanoLlavaForConditionalGeneration:
        return PanoLlavaForConditionalGeneration(make_config(*args, **kwargs)).eval()

    return make


@pytest.fixture
def panorama() -> Tensor:
    """A random panorama `[3, 64, 128]` of bytes."""
    return torch.randint(0, 256, (3, 64, 128), dtype=torch.uint8)
