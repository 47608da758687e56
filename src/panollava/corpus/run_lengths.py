"""The run lengths of a mask in COCO's compressed string (RLE), as pycocotools writes it."""

import re

import numpy as np

# pycocotools counts pixels in 32 bits; a difference of two runs then takes up to 7 characters of 5 bits.
MASK_PIXELS = 2**32 - 1
NUMBER_CHARACTERS = 7
# Far above any mask of an object: the string is that of eight million runs.
STRING_CHARACTERS = 2**23
_FOREIGN = re.compile("[^0-o]")


def rle_runs(counts: str) -> np.ndarray:
    """Return the run lengths `[runs]` in a compressed COCO run-length string, zeros first.

    The encoding is that of pycocotools' `rleFrString`: 5 bits per character from '0', sign-extended; from the fourth
    run on, the difference from the run before last. The C decoder reads past the end of a malformed string.

    Raises:
        ValueError: the string is not such an encoding, or longer than `STRING_CHARACTERS`.
    """
    if len(counts) > STRING_CHARACTERS:
        raise ValueError(f"the COCO run-length string has {len(counts)} characters, at most {STRING_CHARACTERS}")
    foreign = _FOREIGN.search(counts)
    if foreign is not None:
        raise ValueError(
            f"character {foreign[0]!r} at position {foreign.start()} is not part of a COCO run-length string"
        )
    codes = np.frombuffer(counts.encode("ascii"), np.uint8) - np.uint8(48)
    ends = np.flatnonzero(codes < 0x20)
    if len(codes) and (not len(ends) or ends[-1] != len(codes) - 1):
        raise ValueError("the COCO run-length string ends in the middle of a number")
    lengths = np.diff(ends, prepend=-1)
    if lengths.max(initial=0) > NUMBER_CHARACTERS:
        at = int((ends - lengths)[lengths.argmax()]) + 1
        raise ValueError(
            f"the number at position {at} has {lengths.max()} characters; a run has at most {NUMBER_CHARACTERS}"
        )
    # The sign is the highest bit of the last character; those before it are lower.
    values = (codes[ends] & 0x1F).astype(np.int64) - 2 * (codes[ends] & 0x10)
    for back in range(1, NUMBER_CHARACTERS):
        long = lengths > back
        values[long] = 32 * values[long] + (codes[ends[long] - back] & 0x1F)
    # Sums of differences: run 3 adds to run 1, run 4 to run 2, and so on.
    for first in (1, 2):
        values[first::2] = values[first::2].cumsum()
    return values
