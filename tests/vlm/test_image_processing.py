"""The image processor: formats, sizes, anti-aliasing and the seam."""

import importlib.util
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_configs import poses_of
from torch import Tensor

from panollava import PanoLlavaImageProcessor
from panollava.vlm.geometry import angular_distance, erp_rays, rotation
from panollava.vlm.image_processing_panollava import blur_panorama, reduce_panorama, views_of_panorama
from panollava.vlm.views import VIEW_STRATEGIES, box_factor, sample_views, view_rays


def test_pil_numpy_and_torch_give_the_same(image_processor: PanoLlavaImageProcessor, panorama: Tensor) -> None:
    rows_first = panorama.permute(1, 2, 0).numpy()
    inputs = [image_processor(image) for image in (panorama, rows_first, panorama.numpy(), Image.fromarray(rows_first))]
    for other in inputs[1:]:
        assert torch.equal(inputs[0]["pixel_values"], other["pixel_values"])
    assert inputs[0]["pixel_values"].shape == (1, 5, 3, 32, 32)
    assert torch.equal(inputs[0]["view_poses"][0], poses_of("anyres_e2p", stride_deg=90))


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
    assert image_processor(panorama, views={"strategy": "cubemap"})["pixel_values"].shape[1] == 6


def test_the_views_of_adaptive_are_the_same_whatever_the_panorama_s_size(
    image_processor: PanoLlavaImageProcessor, panorama: Tensor
) -> None:
    views = {"strategy": "adaptive", "token_budget": 40, "panorama_height": 64}
    larger = torch.randint(0, 256, (3, 100, 200), dtype=torch.uint8)
    inputs = image_processor([panorama, larger], views=views, tokens_per_side=2)
    assert inputs["pixel_values"].shape[1] * 4 <= 40
    wanted = poses_of("adaptive", view_size=32, token_budget=40, tokens_per_side=2, panorama_height=64)
    assert torch.equal(inputs["view_poses"][1], wanted)


def test_rows_and_roll_reach_the_views(image_processor: PanoLlavaImageProcessor, panorama: Tensor) -> None:
    inputs = image_processor(
        panorama, views={"strategy": "e2p", "pitches_deg": [30, -30], "roll_deg": 15, "stride_deg": 60}
    )
    wanted = poses_of("e2p", pitches_deg=[30, -30], roll_deg=15, stride_deg=60)
    assert torch.equal(inputs["view_poses"][0], wanted)


def test_small_panoramas_are_sampled_as_they_are(panorama: Tensor) -> None:
    poses = poses_of("e2p")
    assert torch.equal(views_of_panorama(panorama, poses, 32), sample_views(panorama[None].float(), poses, 32)[0])


def test_fine_texture_is_averaged_and_not_aliased() -> None:
    stripes = (torch.arange(2048) % 2 * 255).to(torch.uint8).expand(3, 1024, 2048)
    views = views_of_panorama(stripes, poses_of("anyres_e2p"), 32)
    assert (views - 127.5).abs().max() < 3


def grating(height: int, yaw_deg: float, pitch_deg: float, period_deg: float, across: float = 0.0) -> Tensor:
    """Return a panorama `[3, height, 2 height]` of bytes: stripes evenly apart on the sphere around a centre.

    The phase is the angle from a plane through the centre, tilted by `across` radians, and so a smooth function of the
    direction; `period_deg` is the width of a pair of stripes.
    """
    turn = rotation(*torch.tensor([yaw_deg, pitch_deg, 0.0]).deg2rad())
    normal = turn[:, 0] * math.cos(across) + turn[:, 1] * math.sin(across)
    angle = (erp_rays(height, 2 * height) @ normal).clamp(-1, 1).asin()
    return (127.5 + 127.5 * (angle * (360 / period_deg)).sin()).round().to(torch.uint8).expand(3, -1, -1)


@pytest.mark.parametrize(("height", "pitch_deg"), [(1024, 0), (1024, 40), (1024, 90), (1024, -75), (2048, 90)])
@pytest.mark.parametrize(("across", "frequency", "bound"), [(0, 0.9, 0.02), (math.pi / 2, 0.9, 0.02), (0.7, 0.75, 0.1)])
def test_gratings_finer_than_a_view_s_pixels_average_out(
    height: int, pitch_deg: float, across: float, frequency: float, bound: float
) -> None:
    """Frequencies are in cycles a pixel at the centre of the view: 1.8 and 1.5 times what it can show."""
    size = 96
    poses = poses_of("e2p", fov_deg=60, stride_deg=360, pitches_deg=[pitch_deg])
    pixel_deg = math.degrees(2 * math.tan(math.radians(30)) / size)
    panorama = grating(height, 0, pitch_deg, pixel_deg / frequency, across)
    centre = slice(size // 2 - 12, size // 2 + 12)
    full = sample_views(panorama[None].float(), poses, size)[0, :, :, centre, centre].var()
    left = views_of_panorama(panorama, poses, size)[0, :, centre, centre].var()
    assert full > 127.5**2 / 2 * 0.2  # unfiltered, it aliases into stripes that are not there
    assert left < 127.5**2 / 2 * bound


def test_blurring_is_even_on_the_sphere_and_leaves_no_seam() -> None:
    panorama = torch.zeros(1, 128, 256)
    panorama[0, 127 - 42, 255] = 1  # at 30 degrees south, astride the seam
    panorama[0, 20, 100] = 1
    blurred = blur_panorama(panorama, 2.0)
    assert torch.allclose(blur_panorama(panorama.roll(77, -1), 2.0), blurred.roll(77, -1), atol=1e-6)
    assert torch.allclose(blurred.sum(), torch.tensor(2.0), atol=1e-4)
    for row, width in ((127 - 42, 2 / math.cos(math.radians((85.5 / 128 - 0.5) * 180))), (20, None)):
        width = width or 2 / math.cos(math.radians((0.5 - 20.5 / 128) * 180))
        profile = blurred[0, row].roll(128 - int(blurred[0, row].argmax()), -1)
        spread = (profile * (torch.arange(256) - 128.0) ** 2).sum() / profile.sum()
        assert spread.sqrt() == pytest.approx(width, rel=0.01)


def test_views_of_a_fine_panorama_are_the_same_wherever_the_seam_is() -> None:
    panorama = torch.randint(0, 256, (3, 512, 1024), dtype=torch.uint8)
    poses = poses_of("sphere", fov_deg=90, stride_deg=90)
    turned = poses.clone()
    turned[:, 0] += math.pi / 2
    assert box_factor(poses[0], 32, 512, 1024) > 1
    views = views_of_panorama(panorama, turned, 32)
    assert torch.allclose(views, views_of_panorama(panorama.roll(-256, -1), poses, 32), atol=1e-2)


@pytest.mark.parametrize("strategy", VIEW_STRATEGIES)
@pytest.mark.parametrize("height", [256, 1024])
def test_a_panorama_of_its_own_rays_keeps_them_through_the_filters(strategy: str, height: int) -> None:
    budget = {"token_budget": 128, "tokens_per_side": 4, "panorama_height": 256, "view_size": 40}
    poses = poses_of(strategy, **budget, roll_deg=10)
    views = F.normalize(views_of_panorama(erp_rays(height, 2 * height).permute(2, 0, 1), poses, 40), dim=1)
    error = angular_distance(views.permute(0, 2, 3, 1), view_rays(poses, 40, 40))
    # Clamping rows at the poles and blurring there costs at most a part of a pixel of a view, 2.6 degrees.
    assert error.max() < math.radians(2.6)
    assert error.median() < 1e-3


def test_the_other_sampler_agrees_to_a_grey_level(image_processor: PanoLlavaImageProcessor) -> None:
    """Where OpenCV is missing, it says so."""
    rays = (erp_rays(512, 1024) * 100 + 128).round().to(torch.uint8).permute(2, 0, 1)
    plain = {"do_normalize": False, "do_rescale": False}
    views = {"pitches_deg": [50, 0, -90]}
    if importlib.util.find_spec("cv2") is None:
        with pytest.raises(ValueError, match="OpenCV is not installed"):
            image_processor(rays, views=views | {"sampler": "opencv"}, **plain)
        return
    for image in (rays, rays[:, ::8, ::8]):  # with the filters and without
        ours, theirs = (
            image_processor(image, return_tensors="pt", views=views | {"sampler": sampler}, **plain)["pixel_values"]
            for sampler in ("torch", "opencv")
        )
        assert (ours - theirs).abs().max() < 1.6
        assert (ours - theirs).abs().mean() < 0.5


def test_an_unknown_sampler_is_refused(image_processor: PanoLlavaImageProcessor, panorama: Tensor) -> None:
    with pytest.raises(ValueError, match="sampler 'scipy' is unknown; choose torch or opencv"):
        image_processor(panorama, views={"sampler": "scipy"})


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
