"""Both sides of the benchmarks have the same weights, and a side that computes something else is refused."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from tiny_bench import MICRO
from torch._dynamo.utils import counters

from panollava.attention.compiling import compile_layers
from panollava.bench import training
from panollava.bench.answers import Ours, Peer
from panollava.bench.asking import check_answers, workloads
from panollava.bench.checks import check_gradients, check_tokens
from panollava.bench.limits import sharing_bound
from panollava.bench.pair import Pair, adapt, build_pair
from panollava.bench.records import Work, random_work
from panollava.bench.sizes import SIZES, Size
from panollava.bench.steps import peer_losses
from panollava.vlm.labels import IGNORE
from panollava.vlm.views import view_poses


def sides(size: Size = MICRO) -> tuple[training.Sides, Pair, Work]:
    pair = build_pair(size)
    work = random_work(pair, size)
    return training.build_sides(pair, work, size), pair, work


def prompts() -> torch.Tensor:
    return torch.randint(299, (MICRO.asked, MICRO.prompt_tokens))


@pytest.mark.parametrize(("name", "visual", "bound"), [("tiny", 576, 5.846), ("7b", 1764, 6.425)])
def test_sizes_are_those_that_the_bounds_belong_to(name: str, visual: int, bound: float) -> None:
    size = SIZES[name]
    config = size.config()
    poses = view_poses(config.view_settings)
    assert len(poses) * config.tokens_per_side**2 == visual
    assert config.vision_config.image_size // config.vision_config.patch_size >= config.tokens_per_side
    assert sharing_bound(visual, size.record_tokens, size.records) == pytest.approx(bound, abs=1e-3)


def test_the_bound_is_the_ratio_of_the_tokens_of_both_layouts() -> None:
    _, pair, work = sides()
    counted = work.separate["input_ids"].numel() / work.dialogue["input_ids"].numel()
    assert sharing_bound(pair.visual_tokens, MICRO.record_tokens, MICRO.records) == counted
    learned = [(batch["labels"] != IGNORE).sum().item() for batch in (work.separate, work.packed, work.dialogue)]
    assert learned == [MICRO.records * MICRO.answer_tokens] * 3


def test_backbones_are_shared_and_what_trains_is_not() -> None:
    pair = build_pair(MICRO)
    ours, peer = adapt(pair, MICRO)
    theirs = {name.replace("multi_modal_projector.", ""): weight for name, weight in peer.named_parameters()}
    # The peer draws no masks; our head for them takes no part in what is timed.
    own = {name: weight for name, weight in ours.named_parameters() if "mask_head." not in name}
    assert own.keys() == theirs.keys()
    for name, weight in own.items():
        assert weight.requires_grad == theirs[name].requires_grad
        assert (weight is theirs[name]) != weight.requires_grad, name
        assert torch.equal(weight, theirs[name])


def test_all_sides_have_the_same_loss_and_gradients() -> None:
    built, pair, work = sides()
    apart = training.check_sides(built, pair, work, MICRO)
    # LoRA's two factors of seven linears in two layers, and what trains of the resampler.
    assert apart["gradients"] > 28
    assert apart["gradient"] < 1e-4


def test_compiled_and_checkpointed_sides_are_ours_on_the_same_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, but for the compiler's back end, which takes a while for a CPU."""
    monkeypatch.setattr(training, "compile_layers", partial(compile_layers, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    built, pair, work = sides()
    built = training.with_variants(built, pair, work)
    assert {training.COMPILED, training.CHECKPOINTED} < set(built.losses)
    parameters = {name: list(built.trained[name].model.parameters()) for name in built.trained}
    for name in (training.COMPILED, training.CHECKPOINTED):
        assert all(one is other for one, other in zip(parameters[name], parameters[training.OURS], strict=True))
    training.check_sides(built, pair, work, MICRO)
    assert counters["stats"]["unique_graphs"] == 1
    before = [value.detach().clone() for value in parameters[training.OURS]]
    built.timed()[training.CHECKPOINTED]()
    assert any(not torch.equal(old, new) for old, new in zip(before, parameters[training.OURS], strict=True))
    recomputed = [
        module.gradient_checkpointing for name in (training.OURS, training.CHECKPOINTED)
        for module in built.trained[name].model.get_base_model().model.language_model.layers
    ]  # fmt: skip
    assert recomputed == [False] * 2 + [True] * 2


def test_bfloat16_sides_of_one_sequence_at_a_time_agree_within_the_tolerance_of_7b() -> None:
    seven = SIZES["7b"]
    size = replace(MICRO, dtype=torch.bfloat16, rows_at_once=1, loss_tolerance=seven.loss_tolerance,
                   gradient_tolerance=seven.gradient_tolerance)  # fmt: skip
    built, pair, work = sides(size)
    assert pair.ours.dtype == torch.bfloat16
    apart = training.check_sides(built, pair, work, size)
    assert apart["gradient"] > 1e-4  # it is bfloat16 that is compared
    work.packed["plan"].segments.clamp_(max=1)  # and a record that sees the earlier ones is told from rounding
    with pytest.raises(ValueError, match=r"^ours: "):
        training.check_sides(built, pair, work, size)


@pytest.mark.parametrize("name", [training.OURS, training.BEST, training.PACKED])
def test_a_side_with_another_mask_or_weight_is_refused(name: str) -> None:
    built, pair, work = sides()
    if name == training.OURS:  # each record sees the earlier ones
        work.packed["plan"].segments.clamp_(max=1)
    elif name == training.PACKED:
        work.masked["attention_mask"].fill_(True).logical_and_(torch.ones_like(work.masked["attention_mask"]).tril())
    else:
        work.separate["position_ids"] = torch.arange(work.separate["input_ids"].shape[1]).expand(MICRO.records, -1) * 2
        built.losses[name] = peer_losses(built.trained[name].model, pair, work.separate, 2, best=True)
    with pytest.raises(ValueError, match=rf"^{name}: the loss is [\d.]+, not [\d.]+"):
        training.check_sides(built, pair, work, MICRO)


def test_a_side_with_other_gradients_is_refused() -> None:
    built, pair, work = sides()
    for parameter in pair.ours.model.resampler.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ValueError, match=r"ours: \d+ parameters have a gradient on one side alone, \S+resampler"):
        training.check_sides(built, pair, work, MICRO)
    wanted = {"a": torch.tensor([3.0, 4.0])}
    assert check_gradients("ours", {"a": torch.tensor([3.0, 4.004])}, wanted, 1e-3) == (
        pytest.approx(8e-4, rel=1e-3),
        1,
    )
    with pytest.raises(ValueError, match=r"the gradient of a has norm 5 and is 0.1 off"):
        check_gradients("ours", {"a": torch.tensor([3.0, 4.1])}, wanted, 1e-3)
    with pytest.raises(ValueError, match="the gradient of a has norm 0"):
        check_gradients("ours", {"a": torch.zeros(2)}, {"a": torch.zeros(2)}, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_all_sides_say_the_same_tokens_and_not_always_the_same(dtype: torch.dtype) -> None:
    exact = dtype == torch.float32
    size = replace(MICRO, dtype=dtype, logit_tolerance=0.0 if exact else SIZES["7b"].logit_tolerance)
    pair, asked = build_pair(size), prompts()
    loads = workloads(Ours(pair), Peer(pair), asked, size)
    shares = check_answers(loads, Peer(pair), asked, size)
    assert min(shares.values()) >= (1.0 if exact else 0.5)
    assert len(shares) == 7
    assert len({tuple(row) for row in Ours(pair).answer(Ours(pair).prefill(), asked.tolist(), 5).tolist()}) > 1


@torch.inference_mode()
def test_a_side_that_says_something_else_is_refused() -> None:
    pair, asked = build_pair(MICRO), prompts()
    pair.peer.model.multi_modal_projector.resampler.projection.contract.weight.mul_(-3)
    loads = workloads(Ours(pair), Peer(pair), asked, MICRO)
    with pytest.raises(ValueError, match=r": ours: token \d of answer \d is \d+, not \d+"):
        check_answers(loads, Peer(pair), asked, MICRO)


def test_a_token_may_be_nearly_the_best_only_where_the_tolerance_says_so() -> None:
    logits = torch.tensor([[[1.0, 0.99, -3.0]]])
    said, wanted = torch.tensor([[1]]), torch.tensor([[0]])
    assert check_tokens("ours", said, wanted, logits, 0.1) == 0.0
    with pytest.raises(ValueError, match=r"token 0 of answer 0 is 1, not 0; its logit is 0.01 behind"):
        check_tokens("ours", said, wanted, logits, 0.0)
    with pytest.raises(ValueError, match=r"token 0 of answer 0 is 2"):
        check_tokens("ours", torch.tensor([[2]]), wanted, logits, 0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_size_without_its_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="size 7b needs a GPU with 80 GB"):
        build_pair(SIZES["7b"])
