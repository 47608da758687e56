"""What the last decoder layer computes for those tokens alone whose hidden states are read: its feed-forward part.

What the other tokens get there, nothing looks at: of a packed row only the positions before answers are read, of a
prompt the last token, of a panorama none. All else a token is needed for, its keys and values, comes before. So a
panorama need not attend there either; that is up to the ways to attend (`packing.py`, `shared_prefix.py`). Exact; in a
model of L layers it saves most of 1 / L of the work.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def last_of_rows(ids: Tensor) -> Tensor | None:
    """Return the places of the last tokens of rows `[B, S]` among all `B S` tokens, `[B]`; None where there is one."""
    rows, length = ids.shape
    return None if length == 1 else torch.arange(1, rows + 1, device=ids.device) * length - 1


class ReadAlone:
    """Hooks of a language model's last layer that heed the argument `read` of the model's forward.

    `read` `[K]` are places among the `B S` tokens of a batch, each once; without it, all are read. The hidden states of
    the others then mean nothing. The last layer's attention alone gets the same places as `read_in_last_layer`.

    Raises:
        ValueError: a language model whose layers have other parts.
    """

    read: Tensor | None = None
    shape: torch.Size

    def __init__(self, language_model: PreTrainedModel) -> None:
        modules = dict(language_model.named_modules())
        last = f"layers.{language_model.config.num_hidden_layers - 1}"
        attention, feed_forward = modules.get(f"{last}.self_attn"), modules.get(f"{last}.mlp")
        if attention is None or feed_forward is None:
            raise ValueError(
                f"language model of type {language_model.config.model_type!r} is not supported: its layers have no "
                "self_attn and mlp, as those of LLaMA, Vicuna and Mistral have"
            )
        hooks = feed_forward._forward_hooks.values()
        if any(isinstance(hook, MethodType) and isinstance(hook.__self__, ReadAlone) for hook in hooks):
            return  # another model has been built around this language model
        # Not of the layer: activation checkpointing runs again what is inside, later, perhaps after other passes.
        attention.register_forward_pre_hook(self._remember, with_kwargs=True)
        feed_forward.register_forward_pre_hook(self._take)
        feed_forward.register_forward_hook(self._put_back)

    def _remember(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self.read = kwargs.get("read")
        return args, kwargs | {"read_in_last_layer": self.read}

    def _take(self, feed_forward: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        (hidden,) = args
        self.shape = hidden.shape
        return args if self.read is None else (hidden.flatten(0, 1)[self.read][None],)

    def _put_back(self, feed_forward: nn.Module, args: tuple[Tensor], result: Tensor) -> Tensor:
        if self.read is None:
            return result
        whole = result.new_zeros(self.shape).flatten(0, 1).index_copy(0, self.read, result[0])
        self.read = None
        return whole.view(self.shape)
