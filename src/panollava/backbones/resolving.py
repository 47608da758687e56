"""From the choices of a preset to a checked backbone: whatever cannot work is refused before anything is computed.

The stages resolve_encoder and resolve_llm and `panollava train` all go through here.
"""

from panollava.backbones.encoder_check import check_encoder
from panollava.backbones.families import check_family
from panollava.backbones.presets import Backbone, resolve
from panollava.backbones.template_check import check_template
from panollava.backbones.templates import chosen_template


def resolve_encoder(
    name: str, source: str, *, feature_layer: int | list[int], view_size: int | None = None
) -> Backbone:
    """Return an image encoder; `source` is a folder or a hub id.

    Raises:
        ValueError: no such checkpoint; a family, layer or size of views that cannot be used, with what would be right.
    """
    encoder = resolve(name, source, feature_layer=feature_layer, view_size=view_size)
    check_encoder(encoder)
    return encoder


def resolve_llm(name: str, source: str, *, chat_template: str) -> Backbone:
    """Return a language model whose dialogues are written as a preset's `chat_template` says.

    Raises:
        ValueError: no such checkpoint; a family that would compute something else here; a tokenizer or a template that
            does not serve.
    """
    llm = resolve(name, source, chat_template=chosen_template(chat_template))
    check_family(llm)
    check_template(llm)
    return llm
