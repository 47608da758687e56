"""Static decoding says what growing decoding says, whatever its persistent tensors held before.

Captured graphs need a GPU; there, the same tests run with them.
"""

from collections.abc import Callable
from dataclasses import replace
from weakref import ref

import pytest
import torch
from tiny_models import lively, noting, prefix_of

from panollava import PanoLlavaForConditionalGeneration
from panollava.attention import cuda_graphs as captured
from panollava.attention.attending import attending
from panollava.attention.cuda_graphs import kept
from panollava.attention.shared_prefix import SHARED_ATTENTION
from panollava.inference import decode_static as static_rows
from panollava.inference.decode import Prefix, Row, Said, decode_growing
from panollava.inference.decode_static import LOOK_EVERY, Shape, StaticRows, decode_static

Make = Callable[..., PanoLlavaForConditionalGeneration]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BUDGET = 3 * LOOK_EVERY


def made(make_model: Make) -> PanoLlavaForConditionalGeneration:
    model = make_model()
    lively(model)
    return model.to(DEVICE)


def questions(*owners: int, budget: int = BUDGET, length: int = 9) -> list[Row]:
    ids = torch.randint(5, 60, (len(owners), length)).tolist()
    return [Row(number, owner, ids[number][: length - number % 4], budget) for number, owner in enumerate(owners)]


@torch.inference_mode()
def both(
    model: PanoLlavaForConditionalGeneration, prefix: Prefix, rows: list[Row], ends: list[int], minimum: int = 0
) -> tuple[Said, Said]:
    with attending(model, SHARED_ATTENTION):
        return decode_growing(model, prefix, rows, ends, 0, minimum), decode_static(
            model, prefix, rows, ends, 0, minimum
        )


def assert_same(growing: Said, static: Said, ends: list[int]) -> None:
    for one, other in zip(growing.tokens.tolist(), static.tokens.tolist(), strict=True):
        length = next((place + 1 for place, token in enumerate(one) if token in ends), len(one))
        assert one[:length] == other[:length]
    assert torch.allclose(growing.scores, static.scores, rtol=1e-3, atol=1e-4)
    assert torch.allclose(growing.first, static.first, rtol=1e-3, atol=1e-3)


def kept_rows(model: PanoLlavaForConditionalGeneration) -> dict[Shape, StaticRows]:
    """Return what is kept for batches of rows; on a GPU, what is kept for looks lies beside it."""
    return {shape: rows for shape, rows in captured._SHAPES[model].known.items() if isinstance(shape, Shape)}


def test_the_tensors_are_used_again_and_nothing_stays_behind(make_model: Make) -> None:
    model, ends = made(make_model), list(range(20, 26))
    for owners in ((0, 0, 1), (1, 1, 0), (0, 1, 1, 0), (0, 0, 1)):  # three or four rows: one shape
        asked, prefix = questions(*owners), prefix_of(model, 2)
        assert_same(*both(model, prefix, asked, ends), ends)
    (rows,) = kept_rows(model).values()
    assert rows.advance.called


def test_rows_of_many_shapes(make_model: Make) -> None:
    model = made(make_model)
    for owners, length in (((0,), 9), ((0, 1, 2, 2, 2), 9), ((2,), 30), ((1, 1), 17)):
        rows, prefix = questions(*owners, length=length), prefix_of(model, 3)
        assert_same(*both(model, prefix, rows, []), [])


def test_an_answer_has_at_least_so_many_tokens(make_model: Make) -> None:
    model = made(make_model)
    rows, prefix = questions(0, 0, 0), prefix_of(model, 1)
    (growing, static), ends = both(model, prefix, rows, []), []
    ends = sorted({*growing.tokens[:, 2].tolist()})
    assert_same(*both(model, prefix, rows, ends), ends)
    growing, static = both(model, prefix, rows, ends, minimum=10)
    assert_same(growing, static, ends)
    assert not torch.isin(static.tokens[:, :10], torch.tensor(ends, device=DEVICE)).any()


def test_weights_that_changed_in_place_are_read_and_those_that_moved_make_new_tensors(make_model: Make) -> None:
    model = made(make_model)
    rows, prefix = questions(0, 0), prefix_of(model, 1)
    before = both(model, prefix, rows, [])[1]
    with torch.no_grad():
        model.lm_head.weight.copy_(model.lm_head.weight.roll(3, dims=0))
    growing, static = both(model, prefix, rows, [])
    assert_same(growing, static, [])
    assert not torch.equal(before.tokens, static.tokens)
    kept = captured._SHAPES[model]
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.roll(1, dims=0).clone())
    assert_same(*both(model, prefix, rows, []), [])
    assert captured._SHAPES[model] is not kept


def test_the_oldest_shapes_make_room(make_model: Make) -> None:
    model = made(make_model)
    rows, prefix = questions(0), prefix_of(model, 1)
    both(model, prefix, rows, [])
    (shape,) = kept_rows(model)

    def made_for(shape: Shape, limit: int) -> StaticRows:
        return kept(model, shape, lambda: StaticRows(model, shape, prefix), limit)

    for own in (256, 320):
        made_for(shape._replace(own=own), 2**30)
    assert list(kept_rows(model)) == [shape, shape._replace(own=256), shape._replace(own=320)]
    oldest = ref(kept_rows(model)[shape._replace(own=256)])
    made_for(shape, 1)
    assert list(kept_rows(model)) == [shape]
    assert oldest() is None  # and its memory with it


def test_a_step_is_one_graph_for_each_shape(make_model: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model, graphs = made(make_model), list[int]()

    traced = static_rows.compiled_next_logits(noting(graphs))
    monkeypatch.setattr(static_rows, "compiled_next_logits", lambda: traced)
    for _ in range(2):
        rows, prefix = questions(0, 0, 1), prefix_of(model, 2)
        with attending(model, SHARED_ATTENTION), torch.inference_mode():
            growing = decode_growing(model, prefix, rows, [], 0)
            static = decode_static(model, prefix, rows, [], 0, compiled=True)
        assert_same(growing, static, [])
        assert len(graphs) == 2  # the prompt's and the step's
    rows, prefix = questions(0, 0, 1), prefix_of(model, 2)
    with attending(model, SHARED_ATTENTION), torch.inference_mode():
        for number in range(1, 10):  # more shapes than are compiled by default
            longer = [replace(row, ids=row.ids * (2 * number)) for row in rows]
            growing = decode_growing(model, prefix, longer, [], 0)
            assert_same(growing, decode_static(model, prefix, longer, [], 0, compiled=True), [])
    assert len(graphs) > 10


def test_what_is_kept_does_not_keep_the_model(make_model: Make) -> None:
    model = made(make_model)
    both(model, prefix_of(model, 1), questions(0), [])
    gone = ref(model)
    del model
    assert gone() is None
