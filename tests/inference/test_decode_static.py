"""Static decoding gives the tokens of growing decoding, whatever its persistent tensors held before.

CUDA graphs need a GPU; there, the same tests run with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import torch
from tiny_models import lively, noting, prefix_of

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention.cuda_graphs import GraphCache
from panollava.attention.plan import use_plans
from panollava.inference import decode_static as decode_static_module
from panollava.inference.decode import Decoded, Limits, decode_growing
from panollava.inference.decode_static import CHECK_EVERY, Shape, StaticRows, decode_static
from panollava.inference.prompts import Prefix, Row

Make = Callable[..., PanoLlavaForConditionalGeneration]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET = 3 * CHECK_EVERY


def made(make_model: Make) -> GraphCache:
    model = make_model()
    lively(model)
    use_plans(model.model.language_model)
    return GraphCache(model.to(DEVICE))


def questions(*owners: int, budget: int = BUDGET, length: int = 9) -> list[Row]:
    ids = torch.randint(5, 60, (len(owners), length)).tolist()
    return [Row(number, owner, ids[number][: length - number % 4], budget) for number, owner in enumerate(owners)]


@torch.inference_mode()
def both(
    graphs: GraphCache, prefix: Prefix, rows: list[Row], ends: Sequence[int] = (), minimum: int = 0
) -> tuple[Decoded, Decoded]:
    limits, model = Limits(tuple(ends), 0, minimum), graphs.model
    return decode_growing(model, prefix, rows, limits), decode_static(graphs, prefix, rows, limits)


def assert_same(growing: Decoded, static: Decoded, ends: Sequence[int] = ()) -> None:
    for one, other in zip(growing.tokens.tolist(), static.tokens.tolist(), strict=True):
        length = next((number + 1 for number, token in enumerate(one) if token in ends), len(one))
        assert one[:length] == other[:length]
    assert torch.allclose(growing.scores, static.scores, rtol=1e-3, atol=1e-4)
    assert torch.allclose(growing.prompt_state, static.prompt_state, rtol=1e-3, atol=1e-3)


def static_rows(graphs: GraphCache) -> dict[Shape, StaticRows]:
    """Return the entries for batches of rows; on a GPU, those of the prefill lie beside them."""
    return {shape: rows for shape, rows in graphs._entries.items() if isinstance(shape, Shape)}


def test_tensors_are_reused_and_nothing_of_earlier_batches_stays(make_model: Make) -> None:
    graphs, ends = made(make_model), list(range(20, 26))
    for owners in ((0, 0, 1), (1, 1, 0), (0, 1, 1, 0), (0, 0, 1)):  # three or four rows: one shape
        asked, prefix = questions(*owners), prefix_of(graphs, 2)
        assert_same(*both(graphs, prefix, asked, ends), ends)
    (rows,) = static_rows(graphs).values()
    assert rows.advance.called


def test_rows_of_many_shapes(make_model: Make) -> None:
    graphs = made(make_model)
    for owners, length in (((0,), 9), ((0, 1, 2, 2, 2), 9), ((2,), 30), ((1, 1), 17)):
        rows, prefix = questions(*owners, length=length), prefix_of(graphs, 3)
        assert_same(*both(graphs, prefix, rows))


def test_an_answer_has_at_least_so_many_tokens(make_model: Make) -> None:
    graphs = made(make_model)
    rows, prefix = questions(0, 0, 0), prefix_of(graphs, 1)
    growing, _ = both(graphs, prefix, rows)
    ends = sorted({*growing.tokens[:, 2].tolist()})
    assert_same(*both(graphs, prefix, rows, ends), ends)
    growing, static = both(graphs, prefix, rows, ends, minimum=10)
    assert_same(growing, static, ends)
    assert not torch.isin(static.tokens[:, :10], torch.tensor(ends, device=DEVICE)).any()


def test_weights_changed_in_place_are_used_and_moved_ones_make_new_tensors(make_model: Make) -> None:
    graphs = made(make_model)
    model: Any = graphs.model
    rows, prefix = questions(0, 0), prefix_of(graphs, 1)
    before = both(graphs, prefix, rows)[1]
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(3, dims=0))
    growing, static = both(graphs, prefix, rows)
    assert_same(growing, static)
    assert not torch.equal(before.tokens, static.tokens)
    entries = list(static_rows(graphs).values())
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.roll(1, dims=0).clone())
    assert_same(*both(graphs, prefix, rows))
    assert not {id(rows) for rows in entries} & {id(rows) for rows in static_rows(graphs).values()}


def test_the_oldest_shapes_make_room(make_model: Make) -> None:
    graphs = made(make_model)
    rows, prefix = questions(0), prefix_of(graphs, 1)
    both(graphs, prefix, rows)
    (shape,) = static_rows(graphs)

    def made_for(shape: Shape, limit: int) -> StaticRows:
        return graphs.entry(shape, lambda: StaticRows(graphs.model, shape, prefix), limit)

    for own in (256, 320):
        made_for(shape._replace(own=own), 2**30)
    assert list(static_rows(graphs)) == [shape, shape._replace(own=256), shape._replace(own=320)]
    oldest = ref(static_rows(graphs)[shape._replace(own=256)])
    made_for(shape, 1)
    assert list(static_rows(graphs)) == [shape]
    assert oldest() is None  # and its memory with it


def test_a_step_is_one_graph_for_each_shape(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, compiled = made(make_model), list[int]()
    traced = decode_static_module.compiled_next_logits(noting(compiled))
    monkeypatch.setattr(decode_static_module, "compiled_next_logits", lambda: traced)
    limits = Limits((), 0)

    @torch.inference_mode()
    def assert_equal(rows: list[Row], prefix: Prefix) -> None:
        growing = decode_growing(graphs.model, prefix, rows, limits)
        assert_same(growing, decode_static(graphs, prefix, rows, limits, compiled=True))

    for _ in range(2):
        assert_equal(questions(0, 0, 1), prefix_of(graphs, 2))
        assert len(compiled) == 2  # the prompt's and the step's
    rows, prefix = questions(0, 0, 1), prefix_of(graphs, 2)
    with torch._dynamo.config.patch(recompile_limit=2):  # PyTorch's own limit is no limit here
        for number in range(1, 4):
            assert_equal([replace(row, ids=row.ids * (2 * number)) for row in rows], prefix)
    assert len(compiled) > 4
