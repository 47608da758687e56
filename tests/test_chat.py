"""The high-level API says what plain transformers says, and what it loads, merges and saves stays the same model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_backbones import write_encoder, write_llm
from tiny_backbones import write_parts as write_backbones
from tiny_models import lively, write_images, write_resampler_folder
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from panollava import PanoLLaVAModel
from panollava.backbones.assemble import Parts
from panollava.chat import MAX_NEW_TOKENS, Chat
from panollava.corpus.patch_masks import splat
from panollava.inference.decode_static import decode_static
from panollava.inference.engine import Engine

QUESTIONS = ("What is there?", "이 파노라마에서 어떤 객체들을 볼 수 있나요?", "And what is left of it?")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with backbones, a base folder, a LoRA folder on top of it, and panoramas."""
    root = tmp_path_factory.mktemp("models")
    write_resampler_folder(write_backbones("clip", "llama", root), root / "base", lora=root / "lora")
    write_images(root, 2)
    return root


@pytest.fixture
def image(root: Path) -> Image.Image:
    return Image.open(root / "0_0.png")


def opened(folder: Path) -> PanoLLaVAModel:
    return PanoLLaVAModel.from_pretrained(folder, device="cpu")


def logits(model: PanoLLaVAModel, image: Image.Image) -> Tensor:
    inputs = model.processor(images=image, text="<pano>\nwhat is there?", return_tensors="pt")
    with torch.no_grad():
        return model.model(input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"]).logits


def plain(model: PanoLLaVAModel, image: Image.Image, turns: list[str]) -> str:
    """Answer the last of alternating questions and answers with transformers alone, from a whole prompt."""
    roles = ("user", "assistant")
    messages = [
        {"role": roles[number % 2], "content": [*([] if number else [{"type": "image"}]), {"type": "text", "text": t}]}
        for number, t in enumerate(turns)
    ]
    prompt = model.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = model.processor(images=image, text=prompt, return_tensors="pt", add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    ids = model.model.generate(**inputs, do_sample=False, max_new_tokens=8)
    return model.processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("question", QUESTIONS)
def test_generate_says_what_transformers_says(root: Path, image: Image.Image, question: str) -> None:
    model = opened(root / "lora")
    lively(model.model)
    answer = model.generate(image, question, max_new_tokens=8)
    assert answer == plain(model, image, [question])
    assert answer == model.generate(root / "0_0.png", question, max_new_tokens=8)
    assert answer != model.generate(root / "0_1.png", question, max_new_tokens=8)


@pytest.mark.parametrize("llm", ["llama", "vicuna", "mistral"])
def test_later_turns_see_earlier_ones_and_the_panorama_is_computed_once(
    tmp_path: Path, image: Image.Image, llm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny Mistral's sliding window is shorter than the panorama."""
    model = opened(write_resampler_folder(write_backbones("clip", llm, tmp_path), tmp_path / "base"))
    lively(model.model)
    encoded, turns = [], []
    with monkeypatch.context() as patch:
        encode = model.model.model.encode_views
        patch.setattr(model.model.model, "encode_views", lambda pixels: encoded.append(1) or encode(pixels))
        conversation = model.chat(image)
        for question in QUESTIONS:
            turns += [question, conversation.ask(question, max_new_tokens=8)]
    assert encoded == [1]
    for number in range(1, len(turns), 2):
        assert turns[number] == plain(model, image, turns[:number])
    assert turns[-1] != model.generate(image, QUESTIONS[-1], max_new_tokens=8)


def test_nothing_is_kept_of_a_panorama_or_of_weights_that_have_changed(root: Path, image: Image.Image) -> None:
    model, question, shown = opened(root / "base"), QUESTIONS[0], image.convert("RGB")
    lively(model.model)
    first = model.generate(shown, question, max_new_tokens=8)
    shown.paste(Image.open(root / "0_1.png"))  # the same object, another panorama
    second = model.generate(shown, question, max_new_tokens=8)
    assert second == plain(model, shown, [question]) != first
    model.load_lora_weights(root / "lora")
    third = model.generate(shown, question, max_new_tokens=8)
    assert third == plain(model, shown, [question]) != second
    model.merge_lora_weights()
    assert model.generate(shown, question, max_new_tokens=8) == third


def test_a_question_without_room_or_text_leaves_the_conversation_as_it_was(root: Path, image: Image.Image) -> None:
    model = opened(root / "base")
    conversation = model.chat(image)
    conversation.ask("a?", max_new_tokens=2)
    before = list(conversation.messages)
    context, visual = model.processor.tokenizer.model_max_length, len(conversation.prefix.ids)
    # Longer than the context only together with the panorama, and longer by itself.
    for question in ("9" * (context - visual), "9" * (2 * context)):
        with pytest.raises(ValueError, match=rf"has \d+ tokens, but the language model.s context holds {context}"):
            conversation.ask(question)
    with pytest.raises(ValueError, match="question is empty"):
        conversation.ask("  ")
    with pytest.raises(ValueError, match="max_new_tokens is 0"):
        conversation.ask("a?", max_new_tokens=0)
    assert conversation.messages == before


@pytest.mark.parametrize(
    ("tokens", "error"),
    [(None, TypeError), (1.5, TypeError), ("9", TypeError), (True, TypeError), (0, ValueError), (-3, ValueError)],
)
def test_a_length_that_is_no_positive_whole_number_is_refused(
    root: Path, image: Image.Image, tokens: object, error: type[Exception]
) -> None:
    conversation = opened(root / "base").chat(image)
    with pytest.raises(error, match=f"max_new_tokens is {tokens!r}; "):
        conversation.ask("what?", max_new_tokens=tokens)
    assert conversation.messages == []


def test_whole_numbers_of_other_libraries_and_huge_ones_are_taken(root: Path, image: Image.Image) -> None:
    model = opened(root / "base")
    lively(model.model)
    wanted = model.generate(image, "what?", max_new_tokens=4)
    for tokens in (np.int64(4), np.uint8(4), torch.tensor(4)):
        assert model.generate(image, "what?", max_new_tokens=tokens) == wanted
    model.processor.tokenizer.model_max_length = 200  # where the context ends, every answer does
    assert model.generate(image, "what?", max_new_tokens=10**30) == model.generate(image, "what?", max_new_tokens=200)


@pytest.mark.parametrize("question", [None, b"what?", ["what?"], 3])
def test_a_question_that_is_no_text_is_refused(root: Path, image: Image.Image, question: object) -> None:
    conversation = opened(root / "base").chat(image)
    with pytest.raises(TypeError, match=f"question is of type {type(question).__name__}; give a text"):
        conversation.ask(question)
    with pytest.raises(TypeError, match=f"question is of type {type(question).__name__}; give a text"):
        conversation.segment(question)


@pytest.mark.parametrize("wrong", [None, 3, [], np.zeros((64, 128, 3), dtype=np.uint8)])
def test_an_image_of_another_type_is_refused(root: Path, wrong: object) -> None:
    with pytest.raises(ValueError, match=f"the given image: a {type(wrong).__name__}; expected a path"):
        opened(root / "base").generate(wrong, "what?")


def test_a_question_of_megabytes_is_refused_before_it_is_tokenised(
    root: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversation = opened(root / "base").chat(image)
    tokenised: list[int] = []
    template = type(conversation.engine.processor).apply_chat_template

    def watched(self: Any, dialogues: Any, **options: Any) -> Any:
        tokenised.append(max(len(str(dialogue)) for dialogue in dialogues))
        return template(self, dialogues, **options)

    monkeypatch.setattr(type(conversation.engine.processor), "apply_chat_template", watched)
    for question in ("a" * 3_000_000, "가 " * 1_000_000):
        assert conversation.make_room(question) == 0
        with pytest.raises(ValueError, match=f"has {len(question)} characters, but the language model's context holds"):
            conversation.ask(question)
    assert not tokenised
    with pytest.raises(ValueError, match="tokens, but the language model's context holds"):
        conversation.ask("What is there? " * 1000)
    assert max(tokenised) < 20_000


def test_an_answer_ends_where_the_context_ends(root: Path, image: Image.Image) -> None:
    model = opened(root / "base")
    model.model.generation_config.eos_token_id = None
    conversation = model.chat(image)
    room = model.processor.tokenizer.model_max_length - len(conversation.prefix.ids)
    positions: list[int] = []
    language_model = model.model.model.language_model
    language_model.register_forward_pre_hook(
        lambda module, args, kwargs: positions.append(int(kwargs["position_ids"].max())), with_kwargs=True
    )
    conversation.ask("9" * (room - 40), max_new_tokens=room)
    # The last token of the answer is not read again.
    assert max(positions) == model.processor.tokenizer.model_max_length - 2


def test_loading_and_merging_lora_equals_the_lora_folder(root: Path, image: Image.Image) -> None:
    wanted, model = logits(opened(root / "lora"), image), opened(root / "base")
    bare = logits(model, image)
    model.load_lora_weights(root / "lora")
    torch.testing.assert_close(logits(model, image), wanted)
    model.merge_lora_weights()
    torch.testing.assert_close(logits(model, image), wanted)
    assert model.adapted is None
    assert (bare - wanted).abs().max() > 0.1


def test_a_saved_model_is_a_full_checkpoint_for_transformers(root: Path, image: Image.Image, tmp_path: Path) -> None:
    model = opened(root / "base")
    model.load_lora_weights(root / "lora")
    wanted = logits(model, image)
    model.save_pretrained(tmp_path / "deep" / "full")
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["full"]
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "deep" / "full").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "deep" / "full")
    torch.testing.assert_close(logits(PanoLLaVAModel(loaded, processor), image), wanted)
    again = opened(tmp_path / "deep" / "full")
    torch.testing.assert_close(logits(again, image), wanted)
    assert again.generate(image, "what?", max_new_tokens=4) == model.generate(image, "what?", max_new_tokens=4)


def test_saving_overwrites_nothing_and_leaves_nothing_half_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(root / "base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    with pytest.raises(ValueError, match="mine exists and is not an empty folder"):
        model.save_pretrained(tmp_path / "mine")

    def full(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model.processor, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_lora_of_another_model_is_refused_and_changes_nothing(root: Path, image: Image.Image, tmp_path: Path) -> None:
    model = opened(root / "base")
    before = logits(model, image)
    clip, llama = write_encoder("clip", tmp_path / "clip", seed=1), write_llm("llama", tmp_path / "llama", seed=1)
    write_resampler_folder(Parts(clip, llama), tmp_path / "a", lora=tmp_path / "other_backbones")
    with pytest.raises(ValueError, match="does not belong to this model") as caught:
        model.load_lora_weights(tmp_path / "other_backbones")
    assert f"encoder: trained on clip ({tmp_path / 'clip'}" in str(caught.value)
    assert f"language model: trained on llama ({tmp_path / 'llama'}" in str(caught.value)
    assert "\n" not in str(caught.value)
    parts = write_backbones("clip", "llama", root)
    write_resampler_folder(parts, tmp_path / "b", lora=tmp_path / "wider", resampler_hidden_size=64)
    with pytest.raises(ValueError, match="resampler_hidden_size: 64 there, 32 here"):
        model.load_lora_weights(tmp_path / "wider")
    with pytest.raises(ValueError, match=r"base has no adapter_config\.json: it is not a LoRA folder"):
        model.load_lora_weights(root / "base")
    assert torch.equal(logits(model, image), before)


def test_bare_adapters_are_compared_layer_by_layer(root: Path, image: Image.Image, tmp_path: Path) -> None:
    """Without the names of its backbones, a LoRA folder of another shape is still refused."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (bare / name).write_bytes((root / "lora" / name).read_bytes())
    model = opened(root / "base")
    wanted = logits(model, image)
    model.load_lora_weights(bare)
    assert not torch.allclose(logits(model, image), wanted)
    with pytest.raises(ValueError, match="LoRA weights are loaded already"):
        model.load_lora_weights(bare)
    with pytest.raises(ValueError, match=r"without parts\.json"):
        opened(bare)

    config = json.loads((bare / "adapter_config.json").read_text())
    config["target_modules"] = config["target_modules"].replace("up_proj", "down_proj")
    (bare / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"layers\.0\.mlp\.down_proj: no weights for this layer"):
        opened(root / "base").load_lora_weights(bare)


def test_a_merged_model_takes_no_second_lora_of_the_plain_one(root: Path, tmp_path: Path) -> None:
    model = opened(root / "lora")
    with pytest.raises(ValueError, match="or a model with LoRA weights merged"):
        model.load_lora_weights(root / "lora")


def test_what_is_no_panollava_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a checkpoint of 'llama'"):
        opened(root / "llama")
    with pytest.raises(ValueError, match=r"has no config\.json"):
        opened(tmp_path)
    (root / "llama" / "config.json").write_text((root / "llama" / "config.json").read_text() + " ")
    try:
        with pytest.raises(ValueError, match="it is another model than the one that was trained on"):
            opened(root / "base")
    finally:
        (root / "llama" / "config.json").write_text((root / "llama" / "config.json").read_text()[:-1])


def test_static_decoding_notices_that_layers_have_changed(
    root: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "decode", lambda engine, *batch: decode_static(engine.graphs, *batch))
    model, question = opened(root / "base"), QUESTIONS[0]
    lively(model.model)
    for change in (lambda: None, lambda: model.load_lora_weights(root / "lora"), model.merge_lora_weights):
        change()
        assert model.generate(image, question, max_new_tokens=8) == plain(model, image, [question])


@pytest.mark.parametrize("device", ["gpu", "cpu:x", "cuda:99", "xla"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(tmp_path: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}', "):
        PanoLLaVAModel.from_pretrained(tmp_path / "nothing", device=device)


def test_compiled_decoding_needs_a_gpu(root: Path) -> None:
    with pytest.raises(ValueError, match="compiled is for a GPU, and the model is on cpu"):
        PanoLLaVAModel.from_pretrained(root / "lora", device="cpu", compiled=True)


def test_an_unreachable_hub_id_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="nobody/nothing is neither a folder nor a checkpoint available from the hub"):
        PanoLLaVAModel.from_pretrained("nobody/nothing")


def test_detect_asks_for_a_description_and_reads_the_boxes(
    root: Path, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, asked = opened(root / "lora"), []
    with pytest.raises(ValueError, match="no list of labelled boxes, or was cut short: "):  # it has learned nothing
        model.detect(image, "every red object", max_new_tokens=8)
    answers = iter(
        ["red cube [170, -12, 20, 15]; red ball [-35, 0, 9, 9]", "공 [1, 2, 3, 4]", "red cube [1, 2, 3, 4]; r"]
    )
    monkeypatch.setattr(
        Chat, "ask", lambda chat, question, **options: asked.append((question, options)) or next(answers)
    )
    found = model.detect(image, "every red object", max_new_tokens=99)
    assert [(item.label, item.box_deg) for item in found] == [
        ("red cube", (170, -12, 20, 15)),
        ("red ball", (-35, 0, 9, 9)),
    ]
    assert [item.label for item in model.chat(image).detect("모든 공", language="ko")] == ["공"]
    assert asked == [
        ("Detect every red object.", {"max_new_tokens": 99}),
        ("모든 공을 검출하세요.", {"max_new_tokens": MAX_NEW_TOKENS}),
    ]
    with pytest.raises(ValueError, match=r"cut short: 'red cube \[1, 2, 3, 4\]; r'"):
        model.detect(image, "every red object")


def test_a_mask_is_where_the_scores_of_patches_are_positive(root: Path, image: Image.Image) -> None:
    model = opened(root / "lora")
    with torch.no_grad():  # a new head says no everywhere
        model.model.mask_head.query.weight.mul_(20)
    question = "Give the box of the red cube."
    conversation = model.chat(image)
    mask = conversation.segment(question)
    assert (mask.shape, mask.dtype, conversation.messages) == ((image.height, image.width), bool, [])
    prompt = model.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}],
        tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    inputs = model.processor(images=image, text=prompt, return_tensors="pt", add_special_tokens=False)
    inputs.pop("token_type_ids", None)
    with torch.no_grad():
        patches = model.model(
            **inputs, mask_queries=torch.tensor([[0, inputs["input_ids"].shape[1] - 1, 0]])
        ).mask_logits
    drawn = splat(patches, inputs["view_poses"][0], image.height, image.width)[0] > 0
    assert 0 < drawn.float().mean() < 1
    assert (mask == drawn.numpy()).all()
    with pytest.raises(ValueError, match="empty"):
        conversation.segment("  ")
