"""LoRA on linear layers, PEFT's own but for one thing: the low-rank product is added by the matrix product itself.

PEFT writes the product, scales it, and adds it to the layer's output: three passes over memory forwards and one
backwards. Here the small factor is scaled, and the product accumulates in place. Equal up to the order of rounding.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import PartialState
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn


class FusedLinear(Linear):
    """PEFT's LoRA layer with one active adapter; anything else (merged, disabled, several) goes PEFT's way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Map `[..., C]` to `[..., D]`."""
        names = self.active_adapters
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1:
            return super().forward(x, *args, **kwargs)
        down, up, scaling = self.lora_A[names[0]], self.lora_B[names[0]], self.scaling[names[0]]
        if down.weight.dtype != x.dtype and not torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        rows = x.flatten(0, -2)
        result = self.base_layer(rows)
        low = down(self.lora_dropout[names[0]](rows)).to(result.dtype)
        result.addmm_(low, (up.weight * scaling).to(result.dtype).T)
        return result.unflatten(0, x.shape[:-1])


def lora_targets(model: Any, targets: Sequence[str]) -> list[str]:
    """Return the names of the language model's linear layers that get adapters, `targets` or, for `all`, every one.

    Prints which names no layer has, and which layers get no adapters.

    Raises:
        ValueError: no layer has any of the names.
    """
    language = model.model.language_model
    linear = Counter(name.split(".")[-1] for name, part in language.named_modules() if isinstance(part, nn.Linear))
    family, has = language.config.model_type, ", ".join(sorted(linear))
    chosen = sorted(linear) if targets == "all" else list(targets)
    if not linear.keys() & set(chosen):
        raise ValueError(f"lora.targets: {family} has no layers {', '.join(chosen)}; its linear layers are {has}")
    lines = []
    if unknown := [name for name in chosen if name not in linear]:
        lines.append(f"lora.targets: {family} has no layers {', '.join(unknown)}")
    if missed := sorted(linear.keys() - set(chosen)):
        count = sum(linear[name] for name in missed)
        lines.append(
            f"lora.targets: {count} of {linear.total()} linear layers of {family} get no adapters: "
            f"{', '.join(missed)}; add these names, or write `all`"
        )
    if experts := sum(weight.ndim == 3 for weight in language.parameters()):
        lines.append(f"lora.targets: {experts} weights of experts of {family} get no adapters, for LoRA is for layers")
    if lines:
        PartialState().print("\n".join(lines), flush=True)
    return chosen


def lora_config(*, rank: int, alpha: int, dropout: float, targets: list[str]) -> LoraConfig:
    """Return PEFT's configuration; the pattern is anchored, for encoders name their projections alike."""
    pattern = rf"model\.language_model\..*\.({'|'.join(targets)})"
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=pattern, bias="none")
    config._register_custom_module({nn.Linear: FusedLinear})
    return config
