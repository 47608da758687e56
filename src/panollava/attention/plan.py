"""The attention plan: how the tokens of one pass attend, as one typed argument of the model's forward.

A language model that `use_plans` has prepared attends by transformers' attention interface: with a plan as the plan
says, without one by SDPA under the usual mask. So one model serves packed training, shared prefixes and plain
`generate`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from panollava.attention.scores import ScoreRule, attend_by_scores

IMPLEMENTATION = "panollava"
# transformers hands a mask of four dimensions to the attention as it is, and so builds none of its own.
NO_MASK = torch.empty(1, 1, 0, 0)
# Model types whose blocks add attention(norm(h)) and then feed_forward(norm(h)); in others the last layer computes all.
PRE_NORM = ("llama", "mistral")


@dataclass(frozen=True, kw_only=True)
class Plan(ABC):
    """How the tokens of one pass attend.

    needed: the positions `[K]` among the `B S` tokens of the batch, each once, whose last hidden states are needed;
        None for all. The hidden states of the others then mean nothing.
    in_last_layer: whether it is the plan of the last layer, where tokens that are not needed need not attend.
    """

    needed: Tensor | None = None
    in_last_layer: bool = False

    @property
    def mask(self) -> Tensor:
        """Return the attention mask to pass with the plan: an empty one."""
        return NO_MASK

    def needing_all(self) -> Self:
        """Return the same plan for a pass whose hidden states are all needed."""
        return replace(self, needed=None)

    def for_last_layer(self) -> Self:
        """Return the plan for the last layer."""
        return replace(self, in_last_layer=True)

    @abstractmethod
    def attend(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, *, scale: float, dropout: float,
        window: int | None, rule: ScoreRule | None = None,
    ) -> Tensor:  # fmt: skip
        """Return the output `[B, S, H, v]` of an attention `layer` for `query` `[B, H, S, d]`.

        Heads of `value` are v wide, in most families as wide as the others. `window` is the layer's sliding window in
        tokens, if it has one; `rule` what becomes of its scores, if anything does.
        """


def planned_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    plan: Plan | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as the plan says, without one by SDPA; the interface is that of transformers' attention functions.

    `softcap` caps scores, `s_aux` `[H]` are sinks: what families without a form in SDPA hand over.
    """
    rule = None if softcap is None and s_aux is None else ScoreRule(softcap, s_aux)
    if plan is None and rule is not None:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        output = attend_by_scores(query, key, value, attention_mask, scale=scale, dropout=dropout, rule=rule)
        return output.transpose(1, 2).contiguous(), None
    if plan is None:
        options = {"scaling": scaling, "dropout": dropout, "sliding_window": sliding_window, **kwargs}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    options = {"scale": scale, "dropout": dropout, "window": sliding_window, "rule": rule}
    output = plan.attend(module, query, key, value, **options)
    return output.contiguous(), None  # as transformers' own functions return it, for some layers take a view of it


AttentionInterface.register(IMPLEMENTATION, planned_attention)
AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)


def use_plans(language_model: PreTrainedModel) -> None:
    """Let a language model take plans; again does nothing."""
    language_model.set_attn_implementation(IMPLEMENTATION)
    layers: nn.ModuleList = language_model.get_submodule("layers")  # type: ignore[assignment]
    last = layers[-1]
    if language_model.config.model_type in PRE_NORM and not isinstance(last, LastLayer):
        last.__class__ = _last_layer(type(last))  # type: ignore[arg-type] # mypy takes a class for its instances


def last_of_rows(ids: Tensor) -> Tensor | None:
    """Return the positions of the last tokens of rows `[B, S]` among all `B S` tokens, `[B]`; None where S is one."""
    rows, length = ids.shape
    return None if length == 1 else torch.arange(1, rows + 1, device=ids.device) * length - 1


class LastLayer:
    """The last decoder layer runs its feed-forward part for the needed tokens alone.

    No later layer uses the hidden states of the others: of a packed row only the positions before learned tokens are
    needed, of a prompt the last token, of a panorama none. Their keys and values come before. Exact; in a model of L
    layers it saves most of 1 / L of the work.
    """


@cache
def _last_layer(base: type[nn.Module]) -> type[nn.Module]:
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
