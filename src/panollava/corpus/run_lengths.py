"""The run lengths of a mask in COCO's compressed string (RLE), as pycocotools writes it."""

import numpy as np

# pycocotools counts pixels in 32 bits; a difference of two runs then takes up to 7 characters of 5 bits.
MASK_PIXELS = 2**32 - 1
RLE_CHARACTERS = 7


def rle_runs(counts: str) -> np.ndarray:
    """Return the run lengths `[runs]` in a compressed COCO run-length string, zeros first.

    The encoding is that of pycocotools' `rleFrString`: 5 bits per character from '0', sign-extended; from the fourth
    run on, the difference from the run before last. The C decoder reads past the end of a malformed string.

    Raises:
        ValueError: the string is not such an encoding.
    """
    codes = np.frombuffer(counts.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64) - 48
    foreign = np.flatnonzero((codes < 0) | (codes >= 64))
    if len(foreign):
        at = int(foreign[0])
        raise ValueError(f"character {counts[at]!r} at position {at} is not part of a COCO run-length string")
    ends = np.flatnonzero((codes & 0x20) == 0)
    if len(codes) and (not len(ends) or ends[-1] != len(codes) - 1):
        raise ValueError("the COCO run-length string ends in the middle of a number")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts + 1
    if lengths.max(initial=0) > RLE_CHARACTERS:
        at = int(starts[lengths.argmax()])
        raise ValueError(
            f"the number at position {at} has {lengths.max()} characters; a run has at most {RLE_CHARACTERS}"
        )
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    values = np.add.reduceat((codes & 0x1F) << (5 * place), starts) if len(codes) else codes
    values = np.where(codes[ends] & 0x10, values - (np.int64(1) << (5 * lengths)), values)
    # Sums of differences: run 3 adds to run 1, run 4 to run 2, and so on.
    for first in (1, 2):
        values[first::2] = values[first::2].cumsum()
    return values
