"""What transformers, peft and the hub expect of the model, on tiny random backbones of every family."""

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny_configs import TEXT_CONFIGS, VISION_CONFIGS
from torch import Tensor
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, BatchFeature

from panollava import PanoLlavaForConditionalGeneration, PanoLlavaModel, PanoLlavaProcessor

Make = Callable[..., PanoLlavaForConditionalGeneration]
LORA_TARGETS = r"model\.language_model\..*\.(q|k|v|o|gate|up|down)_proj"
GREEDY = {"do_sample": False, "max_new_tokens": 6, "eos_token_id": None}

families = pytest.mark.parametrize(
    ("vision", "language"), [*((v, "llama") for v in VISION_CONFIGS), ("clip", "mistral")]
)
languages = pytest.mark.parametrize("language", TEXT_CONFIGS)


@pytest.fixture
def inputs(processor: PanoLlavaProcessor, panorama: Tensor) -> BatchFeature:
    return processor(images=panorama, text="USER: <pano>\nwhat? ASSISTANT:", return_tensors="pt")


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    """Most of these tests only run models; those that train switch gradients on."""
    with torch.no_grad():
        yield


def with_labels(inputs: BatchFeature) -> dict[str, Tensor]:
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["input_ids"] == 300, -100)}


# 1, 2: saving and loading


@families
@pytest.mark.parametrize("resampler", ["mlp", "perceiver", "c_abstractor"])
def test_a_saved_model_loads_bit_equal(
    make_model: Make, inputs: BatchFeature, tmp_path: Path, vision: str, language: str, resampler: str
) -> None:
    model = make_model(vision, language, resampler=resampler)
    model.save_pretrained(tmp_path)
    loaded, report = PanoLlavaForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    assert {name for name, _ in loaded.named_buffers()} == {name for name, _ in model.named_buffers()}


def test_auto_classes_load_the_folder(
    make_model: Make, processor: PanoLlavaProcessor, panorama: Tensor, tmp_path: Path
) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is PanoLlavaForConditionalGeneration
    assert type(AutoModel.from_pretrained(tmp_path)) is PanoLlavaModel
    loaded_processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded_processor) is PanoLlavaProcessor
    inputs = loaded_processor(images=panorama, text="<pano>\nwhat?", return_tensors="pt")
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


# 3, 4: generation


@families
def test_greedy_generation_is_an_argmax_loop(
    make_model: Make, inputs: BatchFeature, vision: str, language: str
) -> None:
    model = make_model(vision, language)
    ids = inputs["input_ids"]
    for _ in range(6):
        step = model(ids, pixel_values=inputs["pixel_values"], view_poses=inputs["view_poses"])
        ids = torch.cat((ids, step.logits[:, -1:].argmax(-1)), dim=1)
    for settings in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(**inputs, **GREEDY, **settings), ids), settings


@languages
def test_a_left_padded_batch_generates_what_its_prompts_do(
    make_model: Make, processor: PanoLlavaProcessor, language: str
) -> None:
    model = make_model("siglip", language)
    images = [torch.randint(0, 256, (3, 64, 128), dtype=torch.uint8) for _ in range(2)]
    texts = ["<pano>\nwhat is left of the red cube?", "is it <pano>"]
    batch = processor(images=images, text=texts, padding=True, return_tensors="pt")
    assert (batch["attention_mask"][1] == 0).any()
    together = model.generate(**batch, **GREEDY)[:, batch["input_ids"].shape[1] :]
    for row, image, text in zip(together, images, texts, strict=True):
        alone = processor(images=image, text=text, return_tensors="pt")
        assert torch.equal(model.generate(**alone, **GREEDY)[0, alone["input_ids"].shape[1] :], row)


def test_several_sequences_and_several_panoramas_per_prompt(make_model: Make, processor: PanoLlavaProcessor) -> None:
    model = make_model()
    images = [torch.randint(0, 256, (3, 64, 128), dtype=torch.uint8) for _ in range(3)]
    texts = ["<pano> or <pano>?", "<pano>!"]
    batch = processor(images=images, text=texts, padding=True, return_tensors="pt")
    greedy = model.generate(**batch, **GREEDY)
    beams = model.generate(**batch, **GREEDY, num_beams=2, num_return_sequences=2)
    assert beams.shape[0] == 4
    # Each prompt keeps its own panoramas when the batch is expanded.
    sampled = model.generate(
        **batch, max_new_tokens=6, eos_token_id=None, do_sample=True, top_k=1, num_return_sequences=2
    )
    assert torch.equal(sampled, greedy.repeat_interleave(2, dim=0))
    swapped = processor(images=[images[1], images[0], images[2]], text=texts, padding=True, return_tensors="pt")
    assert not torch.equal(model(**swapped).logits[0], model(**batch).logits[0])
    assert torch.equal(model(**swapped).logits[1], model(**batch).logits[1])


def test_tokens_of_a_panorama_can_be_computed_once(make_model: Make, inputs: BatchFeature) -> None:
    model = make_model()
    images = model.get_image_features(inputs["pixel_values"], inputs["view_poses"])
    assert [len(tokens) for tokens in images.pooler_output] == [20]
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model(**text, mm_encoder_outputs={"image": images}).logits, model(**inputs).logits)
    expected = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**text, **GREEDY, mm_encoder_outputs={"image": images}), expected)


# 5: placeholders


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_number_of_placeholders_is_refused(make_model: Make, inputs: BatchFeature, change: int) -> None:
    ids = inputs["input_ids"].clone()
    first = int((ids[0] == 300).nonzero()[0])
    ids[0, first if change < 0 else first - 1] = 5 if change < 0 else 300
    with pytest.raises(ValueError, match=f"{20 + change} placeholders for 20 visual tokens"):
        make_model()(**{**inputs, "input_ids": ids})


def test_placeholders_without_a_panorama_are_refused(make_model: Make, inputs: BatchFeature) -> None:
    with pytest.raises(ValueError, match="neither pixel_values nor mm_encoder_outputs"):
        make_model()(input_ids=inputs["input_ids"])


# 6: LoRA


def test_lora_touches_the_language_model_alone_and_merges_exactly(
    make_model: Make, inputs: BatchFeature, tmp_path: Path
) -> None:
    base = make_model()
    base.save_pretrained(tmp_path / "base")
    lora = LoraConfig(r=4, target_modules=LORA_TARGETS, modules_to_save=["resampler"], init_lora_weights=False)
    tuned = get_peft_model(base, lora).eval()
    adapted = [name for name, _ in tuned.named_parameters() if "lora_" in name]
    assert len(adapted) == 2 * 7 * 2  # layers, projections, A and B
    assert all(".language_model." in name for name in adapted)
    trained = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or ".resampler.modules_to_save." in name for name in trained)
    assert any(".projection." in name for name in trained)
    with torch.enable_grad():
        tuned(**with_labels(inputs)).loss.backward()
    for name, parameter in tuned.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
        if parameter.grad is not None:
            parameter.add_(parameter.grad)
    wanted = tuned(**inputs).logits
    tuned.save_pretrained(tmp_path / "lora")
    fresh = PanoLlavaForConditionalGeneration.from_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(fresh, tmp_path / "lora").eval()
    assert torch.equal(loaded(**inputs).logits, wanted)
    merged = loaded.merge_and_unload()
    assert type(merged) is PanoLlavaForConditionalGeneration
    assert torch.allclose(merged(**inputs).logits, wanted, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    reloaded = PanoLlavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert torch.equal(reloaded(**inputs).logits, merged(**inputs).logits)


# 7: activation checkpointing and the frozen encoder


@families
def test_activation_checkpointing_changes_nothing(
    make_model: Make, inputs: BatchFeature, vision: str, language: str
) -> None:
    model = make_model(vision, language).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        with torch.enable_grad():
            loss = model(**with_labels(inputs)).loss
        loss.backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any("vision_tower" in name for name in gradients[0])
    for name, value in gradients[0].items():
        assert torch.allclose(gradients[1][name], value, atol=1e-6), name


@pytest.mark.parametrize("vision", VISION_CONFIGS)
def test_a_frozen_encoder_keeps_no_graph_and_no_dropout(make_model: Make, inputs: BatchFeature, vision: str) -> None:
    model = make_model(vision)
    model.model.vision_tower.requires_grad_(False)
    model.train()
    assert not any(module.training for module in model.model.vision_tower.modules())
    assert model.model.language_model.training
    model.activation_checkpointing_enable()  # makes the encoder's embeddings require gradients, as its hooks see them
    with torch.enable_grad():
        assert model.model.encode_views(inputs["pixel_values"]).grad_fn is None
        assert model.model.resampler.trunk(model.model.encode_views(inputs["pixel_values"])).requires_grad
        model(**with_labels(inputs)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.resampler.parameters())
    model.model.vision_tower.requires_grad_(True)
    model.train()
    assert model.model.vision_tower.training
    with torch.enable_grad():
        assert model.model.encode_views(inputs["pixel_values"]).requires_grad


# 8, 9: tied heads, half precision


@languages
@pytest.mark.parametrize("tied", [False, True])
def test_tied_and_untied_heads_survive_saving(
    make_model: Make, inputs: BatchFeature, tmp_path: Path, language: str, tied: bool
) -> None:
    model = make_model("clip", language, text={"tie_word_embeddings": tied})
    model.save_pretrained(tmp_path)
    loaded = PanoLlavaForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    assert loaded.config.tie_word_embeddings == tied
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


@families
def test_half_precision_loads_and_generates(
    make_model: Make, inputs: BatchFeature, tmp_path: Path, vision: str, language: str
) -> None:
    model = make_model(vision, language)
    model.save_pretrained(tmp_path)
    half = PanoLlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert torch.allclose(half(**inputs).logits.float(), model(**inputs).logits, atol=0.02)
    assert half.generate(**inputs, **GREEDY).shape[1] == inputs["input_ids"].shape[1] + 6
    half.save_pretrained(tmp_path / "half")
    assert PanoLlavaForConditionalGeneration.from_pretrained(tmp_path / "half").dtype == torch.bfloat16


# 10: the hub


@pytest.mark.parametrize("resampler", ["perceiver", "c_abstractor"])
def test_an_export_loads_where_the_package_is_not_installed(
    make_model: Make, processor: PanoLlavaProcessor, inputs: BatchFeature, tmp_path: Path, resampler: str
) -> None:
    model = make_model("dinov2_registers", resampler=resampler)
    model.save_pretrained(tmp_path / "export")
    processor.save_pretrained(tmp_path / "export")
    torch.save({"inputs": dict(inputs), "logits": model(**inputs).logits}, tmp_path / "expected.pt")
    script = """
import sys, torch
sys.modules["panollava"] = None  # importing it fails
from transformers import AutoModelForImageTextToText, AutoProcessor
folder, expected = sys.argv[1], torch.load(sys.argv[2])
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    logits = model(**expected["inputs"]).logits
torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-6)
inputs = processor(images=torch.zeros(3, 64, 128, dtype=torch.uint8), text="<pano>", return_tensors="pt")
print(model.generate(**inputs, max_new_tokens=2, eos_token_id=None).shape[1])
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "export", tmp_path / "expected.pt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == "22"


# What transformers 5.16 has as well. A further name: run `make exports` first.
LONG_KNOWN = {
    "transformers": {
        "AltCLIPVisionModel", "AutoConfig", "AutoModel", "BatchFeature", "Cache", "GenerationMixin",
        "MetaClip2VisionModel", "PreTrainedConfig", "PreTrainedModel", "PreTrainedTokenizerBase", "ProcessorMixin",
        "initialization",
    },
    "transformers.image_processing_backends": {"PilBackend"},
    "transformers.image_utils": {"IMAGENET_STANDARD_MEAN", "IMAGENET_STANDARD_STD", "SizeDict"},
    "transformers.modeling_outputs": {"BaseModelOutputWithPast", "BaseModelOutputWithPooling", "ModelOutput"},
    "transformers.processing_utils": {"ImagesKwargs"},
    "transformers.utils": {"torch_compilable_check"},
    "transformers.utils.generic": {"can_return_tuple"},
}  # fmt: skip


def test_an_export_imports_nothing_that_older_versions_lack() -> None:
    folder = Path(inspect.getfile(PanoLlavaForConditionalGeneration)).parent
    imported: dict[str, set[str]] = {}
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("transformers"):
                imported.setdefault(node.module, set()).update(alias.name for alias in node.names)
    assert {module: names - LONG_KNOWN.get(module, set()) for module, names in imported.items()} == {
        module: set() for module in imported
    }


# 11: compilation


@pytest.mark.parametrize(("vision", "language"), [("siglip", "llama"), ("dinov2", "mistral")])
def test_a_fixed_shape_compiles(make_model: Make, inputs: BatchFeature, vision: str, language: str) -> None:
    model = make_model(vision, language)
    compiled = torch.compile(model.forward, backend="aot_eager")
    assert torch.allclose(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5)
