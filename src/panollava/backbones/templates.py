"""Chat templates by name: those that PanoLLaVA ships, the model's own, or that of a file."""

from pathlib import Path

CHAT_TEMPLATES = Path(__file__).parent / "chat_templates"
SHIPPED = ("llama", "vicuna", "mistral")
OWN, SUFFIX = "own", ".jinja"
CHOICES = f"{OWN} (the model's own), {', '.join(SHIPPED)}, or the path of a {SUFFIX} file"


def is_choice(value: str) -> bool:
    """Return whether a preset's `chat_template` is a name that is known, or the path of a template."""
    return value in (OWN, *SHIPPED) or value.endswith(SUFFIX)


def chat_template(family: str) -> str:
    """Return the chat template of a language-model preset, with `{% generation %}` marks around what is learned."""
    return (CHAT_TEMPLATES / f"{family}{SUFFIX}").read_text(encoding="utf-8")


def chosen_template(value: str) -> str | None:
    """Return a preset's `chat_template` as a pointer holds it: None for the model's own, a name, or a file's text.

    The text itself, so that a trained folder does not depend on the file.

    Raises:
        ValueError: no such file, or one that is no template.
    """
    if value == OWN:
        return None
    if value in SHIPPED:
        return value
    file = Path(value)
    if not file.is_file():
        raise ValueError(f"chat_template is {value!r}, but there is no such file; it may be {CHOICES}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"chat_template {value}: byte {error.start} is not UTF-8; save the file as UTF-8") from error
    if "{" not in text:
        raise ValueError(f"chat_template {value} is no Jinja template: it holds no {{ }} or {{% %}}")
    return text


def template_of(chosen: str) -> str:
    """Return the template of what `chosen_template` returned, where that is not None."""
    return chat_template(chosen) if chosen in SHIPPED else chosen
