"""The processor: one placeholder per panorama, chat templates of text-only models, and prompts that do not fit."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoProcessor, PreTrainedTokenizerFast

from panollava import PanoLlavaImageProcessor, PanoLlavaProcessor


def test_each_placeholder_becomes_the_tokens_of_its_views(processor: PanoLlavaProcessor, panorama: Tensor) -> None:
    inputs = processor(images=[panorama, panorama], text="<pano> and <pano>", return_tensors="pt")
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 2 * 5 * 4
    assert inputs["pixel_values"].shape == (2, 5, 3, 32, 32)
    whole = processor(images=panorama, text="<pano>", views={"strategy": "resize"})
    assert list(whole["input_ids"][0]).count(processor.image_token_id) == 4


def test_text_survives_around_the_placeholder_in_any_language(processor: PanoLlavaProcessor, panorama: Tensor) -> None:
    text = "빨간 상자는 어디에 있나요? <pano>\nWhere?"
    ids = processor(images=panorama, text=text)["input_ids"][0]
    assert processor.decode(ids) == text.replace("<pano>", "<pano>" * 20)
    assert processor.decode(ids, skip_special_tokens=True) == text.replace("<pano>", "")


def test_a_text_only_template_takes_images_and_marks_the_answers(
    processor: PanoLlavaProcessor, panorama: Tensor
) -> None:
    parts = [{"type": "image", "image": panorama}, {"type": "text", "text": "what?"}]
    answer = {"role": "assistant", "content": "a blue ball"}
    listed = [{"role": "user", "content": parts}, answer]
    plain = [{"role": "user", "content": "<pano>\nwhat?"}, answer]
    assert processor.apply_chat_template(listed) == processor.apply_chat_template(plain)
    inputs = processor.apply_chat_template(
        listed, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, return_tensors="pt"
    )
    assert inputs["pixel_values"].shape == (1, 5, 3, 32, 32)
    marked = inputs["input_ids"][inputs["assistant_masks"].bool()]
    assert processor.decode(marked) == " a blue ball</s>"


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(
    processor: PanoLlavaProcessor, panorama: Tensor
) -> None:
    text = "<pano>" + "9" * 236
    assert len(processor(images=panorama, text=text)["input_ids"][0]) == 256
    with pytest.raises(ValueError, match=r"prompt 1 has 257 tokens.* holds 256"):
        processor(images=[panorama, panorama], text=[text, text + "9"], padding=False)


def test_wrong_numbers_of_panoramas_are_refused(processor: PanoLlavaProcessor, panorama: Tensor) -> None:
    with pytest.raises(ValueError, match="number of <pano> tokens"):
        processor(images=[panorama, panorama], text="<pano>")
    with pytest.raises(ValueError, match="no images were passed"):
        processor(text="<pano>")


def test_a_tokenizer_must_bring_placeholder_and_template(
    image_processor: PanoLlavaImageProcessor, tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ValueError, match="no <pano>"):
        PanoLlavaProcessor(image_processor, tokenizer, tokens_per_side=2)
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        PanoLlavaProcessor.from_parts(image_processor, tokenizer, tokens_per_side=2, context_length=256)


def test_a_saved_processor_loads_equal(processor: PanoLlavaProcessor, panorama: Tensor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, PanoLlavaProcessor)
    assert json.loads((tmp_path / "processor_config.json").read_text())["tokens_per_side"] == 2
    padded = loaded(text=["a", "a longer one"], padding=True)["attention_mask"]
    assert padded[0][0] == 0
    assert padded[0][-1] == 1
    assert loaded.tokenizer.model_max_length == 256
    arguments = {"images": panorama, "text": "<pano>\nwhat?", "return_tensors": "pt"}
    for name, value in processor(**arguments).items():
        assert torch.equal(loaded(**arguments)[name], value)
    messages = [{"role": "user", "content": "<pano>\nwhat?"}]
    assert loaded.apply_chat_template(messages) == processor.apply_chat_template(messages)
