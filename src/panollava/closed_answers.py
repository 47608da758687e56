"""When two answers in few words are the same: letter case, spaces and punctuation at the end do not count."""

import unicodedata

SENTENCE_MARKS = ".,;:!?…。、，！？；："


def normalise_answer(text: str) -> str:
    """Return a closed answer in the form for comparison: NFC, case folded, single spaces, no punctuation at its end."""
    words = " ".join(unicodedata.normalize("NFC", text).casefold().split())
    # Case folding can decompose a character, so compose again.
    return unicodedata.normalize("NFC", words.rstrip(SENTENCE_MARKS + " "))
