"""A language model's configuration made tiny, for a trial of its family: what decides how it attends stays.

Smaller get the vocabulary, the feed-forward widths, the sliding window, and the number of layers (to one period that
still holds a layer of each kind). Heads become fewer and the hidden states narrower in the same measure: a head keeps
its width.
"""

from typing import Any

from transformers import PreTrainedConfig

VOCABULARY, FEED_FORWARD, WINDOW = 256, 48, 8
# How many key-value heads are kept, and how many heads that share one.
KEY_VALUE_HEADS, GROUP = 2, 2
# Those of the checkpoint lie beyond the small vocabulary.
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
# How a checkpoint's weights are packed says nothing about its family; nor where they would be read from.
LEFT_OUT = ("quantization_config", "dtype", "torch_dtype", "auto_map", "_name_or_path")
# Layers of another kind before those of the rest: one is enough.
LEADING = ("first_k_dense_replace",)


def shrunk(config: PreTrainedConfig, *, fewer_heads: bool = True) -> PreTrainedConfig:
    """Return a tiny configuration of the same family; the heads may be left as they are.

    Raises:
        KeyError: the configuration does not say how many layers, heads or hidden units there are.
    """
    names, values = config.attribute_map, {k: v for k, v in config.to_dict().items() if k not in LEFT_OUT}
    layers = names.get("num_hidden_layers", "num_hidden_layers")
    for name in LEADING:
        if isinstance(values.get(name), int):
            values[name] = min(values[name], 1)
    many, few = values[layers], layers_needed(values, values[layers])
    for name, value in values.items():
        if isinstance(value, list) and len(value) == many:
            value = values[name] = value[:few]
        if "vocab_size" in name and isinstance(value, int):
            values[name] = min(value, VOCABULARY)
        elif "intermediate_size" in name or name in ("n_inner", "ffn_dim", "ffn_hidden_size"):
            values[name] = _at_most(value, FEED_FORWARD)
        elif name == "sliding_window":
            values[name] = _at_most(value, WINDOW)
        elif name == "per_layer_config" and value:
            values[name] = {int(layer): own for layer, own in value.items() if int(layer) < few}
    values |= {layers: few} | {name: number for name, number in SPECIAL.items() if name in values}
    if fewer_heads:
        values |= _fewer_heads(values, names)
    return type(config).from_dict(values)


def layers_needed(values: dict[str, Any], many: int) -> int:
    """Return how many of the first layers hold a layer of each kind, two at least."""
    kinds = [[str(entry) for entry in v] for v in values.values() if isinstance(v, list) and len(v) == many]
    return next(count for count in range(min(2, many), many + 1) if all(set(k[:count]) == set(k) for k in kinds))


def _at_most(value: Any, limit: int) -> Any:
    if isinstance(value, list):
        return [_at_most(entry, limit) for entry in value]
    return min(value, limit) if isinstance(value, int) and not isinstance(value, bool) else value


def _fewer_heads(values: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """Return fewer heads and narrower hidden states, or nothing where the heads do not share keys evenly."""
    of_heads, of_width = (names.get(name, name) for name in ("num_attention_heads", "hidden_size"))
    heads, width, pairs = values[of_heads], values[of_width], values.get("num_key_value_heads") or values[of_heads]
    if not isinstance(heads, int) or not isinstance(pairs, int) or heads % pairs:
        return {}
    kept = min(pairs, KEY_VALUE_HEADS)
    fewer = kept * min(heads // pairs, GROUP)
    if width % heads and not values.get("head_dim"):
        return {}
    narrower = {
        of_heads: fewer,
        of_width: max(8 * (width * fewer // heads // 8), 8) if width % heads else width // heads * fewer,
    }
    return narrower | ({"num_key_value_heads": kept} if values.get("num_key_value_heads") else {})
