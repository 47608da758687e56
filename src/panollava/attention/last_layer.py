"""The last decoder layer runs its feed-forward part for the needed tokens alone.

No later layer uses the hidden states of the others: of a packed row only the positions before learned tokens are
needed, of a prompt the last token, of a panorama none. Their keys and values come before. Exact; in a model of L layers
it saves most of 1 / L of the work.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

# Model types whose blocks add attention(norm(h)) and then feed_forward(norm(h)); in others the last layer computes all.
PRE_NORM = ("llama", "mistral")


def last_of_rows(ids: Tensor) -> Tensor | None:
    """Return the positions of the last tokens of rows `[B, S]` among all `B S` tokens, `[B]`; None where S is one."""
    rows, length = ids.shape
    return None if length == 1 else torch.arange(1, rows + 1, device=ids.device) * length - 1


def compute_needed_alone(layer: nn.Module, model_type: str) -> None:
    """Turn a decoder layer into one that heeds `plan.needed`; parameters, their names and hooks stay as they are."""
    if model_type in PRE_NORM and not isinstance(layer, LastLayer):
        layer.__class__ = _last(type(layer))  # type: ignore[arg-type] # mypy takes a class for its instances


class LastLayer:
    """Marks the classes that `_last` makes."""


@cache
def _last(base: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of a decoder layer's class, as FSDP 2 makes them: whoever looks for layers still finds it."""

    class LastDecoderLayer(LastLayer, base):  # type: ignore[misc,valid-type] # the base is a value
        def forward(self, hidden_states: Tensor, *args: Any, plan: Any = None, **kwargs: Any) -> Tensor:
            if plan is None or plan.needed is None:
                return super().forward(hidden_states, *args, plan=plan, **kwargs)
            attended, _ = self.self_attn(
                hidden_states=self.input_layernorm(hidden_states), plan=plan.for_last_layer(), **kwargs
            )
            hidden = (hidden_states + attended).flatten(0, 1)
            needed = hidden[plan.needed]
            needed = needed + self.mlp(self.post_attention_layernorm(needed)[None])[0]
            return hidden.index_copy(0, plan.needed, needed).view_as(hidden_states)

    return LastDecoderLayer
