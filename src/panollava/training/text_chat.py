"""Text-only chat mixed into finetuning: a share of the dialogues is about no panorama, so that the model keeps them.

They see no visual tokens: in a packed row they are records without prefix.
"""

from pathlib import Path

from panollava.corpus.text_chat import Texts, read_text_chat
from panollava.hashes import file_hash
from panollava.training.dialogues import encoded_text
from panollava.training.recipe import TextChat
from panollava.vlm.processing_panollava import PanoLlavaProcessor


def open_texts(chosen: TextChat | None, processor: PanoLlavaProcessor, seed: int) -> Texts | None:
    """Return the dialogues that a training mixes in; None where its share is nothing.

    Raises:
        ValueError: a file that is missing, holds something else than its hash says, or no dialogues; a dialogue that
            the context does not hold or the chat template cannot write.
    """
    if chosen is None or not chosen.share:
        return None
    file = Path(chosen.path)
    if file.is_file() and not (found := file_hash(file)).startswith(chosen.sha256):
        raise ValueError(
            f"text_chat: {file} has the SHA-256 {found[:16]}…, but params.yaml says {chosen.sha256}; the numbers of a "
            f"run belong to one file: give sha256: {found[:16]} to train on this one"
        )
    dialogues = read_text_chat(file)
    for number, dialogue in enumerate(dialogues):
        what = f"{file}: dialogue {number}, which begins with {dialogue[0][0][:60]!r},"
        try:
            rows = encoded_text(processor, dialogue)
        except ValueError as error:
            raise ValueError(f"{what} cannot be learned: {error}") from error
        processor.require_context(what, max(len(row.ids) for row in rows))
    return Texts(dialogues, chosen.share, seed)
