"""The image processor: formats, sizes, anti-aliasing and the seam."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from panollava import PanoLlavaImageProcessor
from panollava.vlm.image_processing_panollava import reduce_panorama, views_of_panorama
from panollava.vlm.views import sample_views, view_poses


def test_pil_numpy_and_torch_give_the_same(image_processor: PanoLlavaImageProcessor, panorama: Tensor) -> None:
    rows_first = panorama.permute(1, 2, 0).numpy()
    inputs = [image_processor(image) for image in (panorama, rows_first, panorama.numpy(), Image.fromarray(rows_first))]
    for other in inputs[1:]:
        assert torch.equal(inputs[0]["pixel_values"], other["pixel_values"])
    assert inputs[0]["pixel_values"].shape == (1, 5, 3, 32, 32)
    assert torch.equal(inputs[0]["view_poses"][0], view_poses("anyres_e2p", stride_deg=90))


def test_a_flat_colour_is_normalised_by_the_encoder_s_own_statistics(image_processor: PanoLlavaImageProcessor) -> None:
    image = Image.new("RGB", (300, 150), (51, 102, 204))
    pixels = image_processor(image, return_tensors="pt")["pixel_values"]
    expected = (torch.tensor([0.2, 0.4, 0.8]) - torch.tensor([0.4, 0.5, 0.6])) / torch.tensor([0.2, 0.25, 0.3])
    assert torch.allclose(pixels, expected.view(3, 1, 1).expand_as(pixels), atol=1e-5)


def test_sizes_may_differ_within_a_batch_and_settings_per_call(
    image_processor: PanoLlavaImageProcessor, panorama: Tensor
) -> None:
    larger = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8)
    both = image_processor([panorama, larger])["pixel_values"]
    for index, image in enumerate((panorama, larger)):
        assert torch.equal(both[index], image_processor(image)["pixel_values"][0])
    assert image_processor(panorama, view_strategy="cubemap")["pixel_values"].shape[1] == 6


def test_the_views_of_adaptive_are_the_same_whatever_the_panorama_s_size(
    image_processor: PanoLlavaImageProcessor, panorama: Tensor
) -> None:
    settings = {"view_strategy": "adaptive", "token_budget": 40, "tokens_per_side": 2, "panorama_height": 64}
    larger = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8)
    inputs = image_processor([panorama, larger], **settings)
    assert inputs["pixel_values"].shape[1] * 4 <= 40
    wanted = view_poses("adaptive", view_size=32, token_budget=40, tokens_per_side=2, panorama_height=64)
    assert torch.equal(inputs["view_poses"][1], wanted)


def test_rows_and_roll_reach_the_views(image_processor: PanoLlavaImageProcessor, panorama: Tensor) -> None:
    inputs = image_processor(panorama, view_strategy="e2p", pitches_deg=[30, -30], roll_deg=15, stride_deg=60)
    wanted = view_poses("e2p", pitches_deg=[30, -30], roll_deg=15, stride_deg=60)
    assert torch.equal(inputs["view_poses"][0], wanted)


def test_small_panoramas_are_sampled_as_they_are(panorama: Tensor) -> None:
    poses = view_poses("e2p")
    assert torch.equal(views_of_panorama(panorama, poses, 32), sample_views(panorama[None].float(), poses, 32)[0])


def test_fine_texture_is_averaged_and_not_aliased() -> None:
    stripes = (torch.arange(2048) % 2 * 255).to(torch.uint8).expand(3, 1024, 2048)
    views = views_of_panorama(stripes, view_poses("anyres_e2p"), 32)
    assert (views - 127.5).abs().max() < 3


@pytest.mark.parametrize("width", [512, 500, 498])
def test_reducing_leaves_no_seam(width: int) -> None:
    panorama = torch.rand(3, width // 2, width)
    reduced = reduce_panorama(panorama, 64, 128)
    assert reduced.shape == (3, 64, 128)
    # Half a turn is a whole number of columns before and after.
    turned = reduce_panorama(panorama.roll(width // 2, -1), 64, 128)
    assert torch.allclose(turned, reduced.roll(64, -1), atol=1e-5)
    assert torch.allclose(reduced.mean(), panorama.mean(), atol=5e-3)


def test_reducing_keeps_directions(image_processor: PanoLlavaImageProcessor) -> None:
    """A bright meridian stays where it is."""
    panorama = torch.zeros(3, 256, 512)
    panorama[..., 380:390] = 255  # centre at column 384.5, a quarter turn to the right of the image's centre 255.5
    reduced = reduce_panorama(panorama, 64, 128)[0, 32]
    centre = (reduced * torch.arange(128)).sum() / reduced.sum()
    assert (centre + 0.5) * 4 - 0.5 == pytest.approx(384.5, abs=0.05)


@pytest.mark.parametrize("size", [(200, 150), (100, 100), (100, 200)])
def test_other_shapes_are_refused_by_size(image_processor: PanoLlavaImageProcessor, size: tuple[int, int]) -> None:
    good = Image.new("RGB", (64, 32))
    with pytest.raises(ValueError, match=f"image 1 is {size[0]} x {size[1]} pixels"):
        image_processor([good, Image.new("RGB", size)])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_colour_modes_are_converted(image_processor: PanoLlavaImageProcessor, mode: str) -> None:
    colour = Image.new("RGB", (64, 32), (102, 102, 102))
    assert torch.equal(image_processor(colour.convert(mode))["pixel_values"], image_processor(colour)["pixel_values"])


def test_alpha_arrays_and_oblong_views_are_refused(image_processor: PanoLlavaImageProcessor, panorama: Tensor) -> None:
    with pytest.raises(ValueError, match="4 channels"):
        image_processor(np.zeros((4, 32, 64), dtype=np.uint8), do_convert_rgb=False)
    with pytest.raises(ValueError, match="views are square"):
        image_processor(panorama, size={"height": 32, "width": 64})
