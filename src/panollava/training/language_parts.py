"""Which parts of a language model train: all of it, adapters alone, and how many of its first layers stay frozen.

With `freeze_layers` N above zero, the embeddings and the first N layers stay as they are. Without adapters the layers
behind them, the last norm and the head train; a head that is tied to the embeddings stays frozen with them. With
adapters, the first N layers get none. With N = 0 everything trains, or every layer gets adapters.
"""

from panollava.vlm.modeling_panollava import PanoLlavaForConditionalGeneration

LANGUAGE, HEAD = "model.language_model.", "lm_head."


def check_frozen_layers(model: PanoLlavaForConditionalGeneration, freeze_layers: int) -> None:
    """Refuse to freeze all layers of the language model.

    Raises:
        ValueError: with how many there are.
    """
    layers = len(model.model.language_model.layers)
    if freeze_layers >= layers:
        raise ValueError(
            f"freeze_layers is {freeze_layers}, but the language model has {layers} layers, of which at least one "
            f"must train; set it to {layers - 1} or less, 0 to freeze none"
        )


def trained_parts(model: PanoLlavaForConditionalGeneration, freeze_layers: int) -> list[str]:
    """Return the name parts of the language model's parameters that train without adapters.

    Raises:
        ValueError: no layer would train.
    """
    check_frozen_layers(model, freeze_layers)
    language = model.model.language_model
    head = [HEAD] if any(name.startswith(HEAD) for name, _ in model.named_parameters()) else []
    if freeze_layers == 0:
        return [LANGUAGE, *head]
    embeddings = language.get_input_embeddings()
    others = [
        f"{LANGUAGE}{name}."
        for name, module in language.named_children()
        if module not in (embeddings, language.layers) and next(module.parameters(), None) is not None
    ]
    layers = [f"{LANGUAGE}layers.{number}." for number in range(freeze_layers, len(language.layers))]
    return [*layers, *others, *head]


def without_adapters(model: PanoLlavaForConditionalGeneration, freeze_layers: int) -> str | None:
    """Return the pattern of the layers that get no adapters, None where all get some.

    Raises:
        ValueError: all layers would be without.
    """
    check_frozen_layers(model, freeze_layers)
    numbers = "|".join(map(str, range(freeze_layers)))
    return rf"model\.language_model\.layers\.({numbers})\..*" if freeze_layers else None
