"""Patch grids: the right number of leading tokens is dropped for every family, and the order is rows, then columns."""

import pytest
import torch
from tiny_configs import VISION_CONFIGS
from transformers import AutoModel, LlamaConfig

from panollava.vlm.vision import encode_views, num_prefix_tokens, patch_grid


@pytest.mark.parametrize("family", VISION_CONFIGS)
def test_every_patch_of_the_image_and_nothing_else_is_in_the_grid(family: str) -> None:
    config = VISION_CONFIGS[family]()
    tower = AutoModel.from_config(config).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        hidden = tower(images, output_hidden_states=True).hidden_states[0]
        moved = tower(images + torch.rand(3, 1, 1), output_hidden_states=True).hidden_states[0]
        corner = images.clone()
        corner[:, :, 8:16, 24:] += 1  # row 1, column 3 of the 4 x 4 patches
        changed = patch_grid(tower(corner, output_hidden_states=True).hidden_states[0] - hidden, config)
    assert patch_grid(hidden, config).shape == (2, 4, 4, 32)
    prefix = num_prefix_tokens(config)
    assert prefix == {"clip": 1, "siglip": 0, "dinov2": 1, "dinov2_registers": 4}[family]
    # Leading tokens do not depend on the image at the first layer, patches do.
    assert torch.equal(hidden[:, :prefix], moved[:, :prefix])
    assert ((hidden - moved)[:, prefix:].abs().amax(-1) > 0).all()
    affected = changed.abs().amax(-1) > 1e-6
    assert affected.nonzero()[:, 1:].unique(dim=0).tolist() == [[1, 3]]


def test_unknown_encoders_and_odd_token_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="'llama' is not supported"):
        num_prefix_tokens(LlamaConfig())
    with pytest.raises(ValueError, match=r"17 tokens.*remaining 17"):
        patch_grid(torch.zeros(1, 17, 8), VISION_CONFIGS["siglip"]())


@pytest.mark.parametrize("layer", [-4, 3, 9])
def test_a_hidden_state_that_the_encoder_does_not_have_is_refused(layer: int) -> None:
    tower = AutoModel.from_config(VISION_CONFIGS["clip"]()).eval()
    with pytest.raises(ValueError, match=f"is {layer}, but this clip_vision_model has 3 hidden states"):
        encode_views(tower, torch.rand(1, 1, 3, 32, 32), layer)
