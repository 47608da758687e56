"""Several threads may use one model: every answer is the one that its question gets alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image
from tiny_backbones import write_parts as write_backbones
from tiny_models import lively, write_images, write_resampler_folder

from panollava import PanoLLaVAModel
from panollava.inference.decode_static import decode_static
from panollava.inference.engine import Engine

QUESTIONS = ("What is there?", "어떤 객체들을 볼 수 있나요?", "And what is left of it, in degrees?", "red?")
THREADS = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder, a LoRA folder on top of it, and panoramas."""
    root = tmp_path_factory.mktemp("threads")
    write_resampler_folder(write_backbones("clip", "llama", root), root / "base", lora=root / "lora")
    write_images(root, 2)
    return root


@pytest.fixture
def model(root: Path, monkeypatch: pytest.MonkeyPatch) -> PanoLLaVAModel:
    """A model that decodes as on a GPU: on persistent tensors, which two answers at once would overwrite."""
    monkeypatch.setattr(Engine, "decode", lambda engine, *batch: decode_static(engine.graphs, *batch))
    model = PanoLLaVAModel.from_pretrained(root / "base", device="cpu")
    lively(model.model)
    return model


@pytest.fixture
def images(root: Path) -> list[Image.Image]:
    return [Image.open(root / name).convert("RGB") for name in ("0_0.png", "0_1.png")]


def at_once(calls: list[Callable[[], object]]) -> list[object]:
    """Return what calls return that start together, each in a thread."""
    with ThreadPoolExecutor(max_workers=THREADS) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def test_threads_get_the_answers_of_one_after_another(model: PanoLLaVAModel, images: list[Image.Image]) -> None:
    asked = [(image, question, 4 + number) for image in images for number, question in enumerate(QUESTIONS)] * 2
    calls = [lambda a=a: model.generate(a[0], a[1], max_new_tokens=a[2]) for a in asked]
    calls += [lambda image=image: model.segment(image, "Give the box of the red cube.").tolist() for image in images]
    wanted = [call() for call in calls]
    assert len({str(each) for each in wanted}) > len(QUESTIONS)
    assert at_once(calls) == wanted


def test_conversations_of_one_model_do_not_mix(model: PanoLLaVAModel, images: list[Image.Image]) -> None:
    def talk(image: Image.Image) -> list[str]:
        conversation = model.chat(image)
        return [conversation.ask(question, max_new_tokens=5) for question in QUESTIONS]

    calls = [lambda image=image: talk(image) for image in images * 2]
    assert at_once(calls) == [call() for call in calls]


def test_threads_that_share_a_conversation_take_turns(model: PanoLLaVAModel, images: list[Image.Image]) -> None:
    conversation = model.chat(images[0])
    at_once([lambda text=text: conversation.ask(text, max_new_tokens=5) for text in QUESTIONS * 2])
    turns = [message["content"] for message in conversation.messages]
    assert len(turns) == 4 * len(QUESTIONS)
    again = model.chat(images[0])
    for question, answer in zip(turns[::2], turns[1::2], strict=True):
        assert [{"type": "text", "text": again.ask(question[-1]["text"], max_new_tokens=5)}] == answer


def test_an_answer_comes_from_the_weights_before_or_after_a_change(
    root: Path, model: PanoLLaVAModel, images: list[Image.Image]
) -> None:
    question, conversation = QUESTIONS[0], model.chat(images[0])
    before = model.generate(images[0], question, max_new_tokens=6)
    asking = [lambda: model.generate(images[0], question, max_new_tokens=6)] * 6
    said = at_once([*asking, lambda: model.load_lora_weights(root / "lora"), *asking, model.merge_lora_weights])
    after = model.generate(images[0], question, max_new_tokens=6)
    assert before != after
    assert set(said) <= {before, after, None}
    # A conversation from before answers with the new weights, the panorama's keys and values included.
    assert conversation.ask(question, max_new_tokens=6) == after
