"""The loss of the mask head: least at the truth, alike for small and large objects, and blind to how views are cut."""

import pytest
import torch
from tiny_configs import poses_of
from torch import Tensor

from panollava.training.mask_loss import mask_losses

POSES = poses_of("cubemap")


def disc(size: int) -> Tensor:
    covered = torch.zeros(1, 6, 8, 8)
    covered[0, 0, :size, :size] = 1
    return covered


def scores(covered: Tensor, sure: float) -> Tensor:
    return (2 * covered - 1) * sure


def test_surer_and_right_is_better_and_wrong_is_worse() -> None:
    covered = disc(3)
    right = [mask_losses(scores(covered, sure), covered, POSES).item() for sure in (0.5, 2.0, 8.0, 20.0)]
    assert right == sorted(right, reverse=True)
    assert right[-1] < 1e-3
    assert mask_losses(scores(covered, -2.0), covered, POSES).item() > right[0]


@pytest.mark.parametrize("size", [1, 4])
def test_nothing_drawn_costs_a_whole_dice_whatever_the_size(size: int) -> None:
    loss = mask_losses(torch.full((1, 6, 8, 8), -20.0), disc(size), POSES)
    share = float((disc(size)[0, 0] > 0).float().mean()) / 6
    assert loss.item() == pytest.approx(1 + 10 * 20 * share, rel=0.35)


def test_queries_do_not_mix() -> None:
    covered = torch.cat((disc(2), disc(5)))
    logits = torch.randn(2, 6, 8, 8)
    together = mask_losses(logits, covered, POSES)
    for number in range(2):
        alone = mask_losses(logits[number : number + 1], covered[number : number + 1], POSES)
        assert torch.allclose(together[number], alone[0])


def test_no_query_no_loss() -> None:
    assert mask_losses(torch.zeros(0, 6, 8, 8), torch.zeros(0, 6, 8, 8), POSES).sum() == 0
