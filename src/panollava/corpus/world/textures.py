"""Procedural textures of the world's grounds and walls: brightness patterns in [0, 1] of plane coordinates in metres.

Patterns come from tileable noise that is the same in every process; `fade` (1 near, 0 far) removes detail finer than a
pixel.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]  # float32 where speed matters

NOISE_SIZE = 512
_FAR = 1 << 14  # added before truncation, so that negative coordinates round down too


@lru_cache(maxsize=16)
def noise(exponent: float) -> Floats:
    """Return tileable noise `[512, 512]` in [0, 1] with mean 1/2, whose amplitude falls as frequency**-exponent."""
    rng = np.random.Generator(np.random.PCG64(7))
    spectrum = np.fft.rfft2(rng.standard_normal((NOISE_SIZE, NOISE_SIZE)))
    fy, fx = np.fft.fftfreq(NOISE_SIZE)[:, None] * NOISE_SIZE, np.fft.rfftfreq(NOISE_SIZE)[None] * NOISE_SIZE
    frequency = np.hypot(fy, fx)
    spectrum *= np.maximum(frequency, 2.0) ** -exponent * (frequency > 0)
    field = np.fft.irfft2(spectrum, s=(NOISE_SIZE, NOISE_SIZE))
    return np.clip(0.5 + field / (5 * field.std()), 0, 1).astype(np.float32)


def lookup(exponent: float, u: Floats, v: Floats) -> Floats:
    """Return the noise at texel coordinates `u`, `v` (they broadcast): nearest texel, wrapped."""
    column = (u + _FAR).astype(np.int32) & (NOISE_SIZE - 1)
    row = (v + _FAR).astype(np.int32) & (NOISE_SIZE - 1)
    return noise(exponent).ravel().take(row * NOISE_SIZE + column)


def _lines(x: Floats, width: float) -> Floats:
    """Return 1 on a joint of `width` cells around each integer of `x`, else 0."""
    part = x - np.floor(x)
    return ((part < width / 2) | (part > 1 - width / 2)).astype(np.float32)


def _cells(x: Floats, y: Floats) -> Floats:
    """Return one random number per integer cell."""
    return lookup(0.0, np.floor(x) * 7, np.floor(y) * 13)


def ground_pattern(kind: str, x: Floats, z: Floats, fade: Floats) -> Floats:
    """Return the brightness `[h, W]` of a ground at plane coordinates `x`, `z` `[h, W]`; `fade` is `[h, 1]`."""
    stain = lookup(1.5, x * 25, z * 25) - 0.5
    if kind == "tiles":
        x, z = x / 0.6, z / 0.6
        return 0.62 + fade * (0.5 * (_cells(x, z) - 0.5) - 0.5 * _lines(x, 0.07) - 0.4 * _lines(z, 0.07)) + 0.2 * stain
    if kind == "checkerboard":
        parity = (np.floor(x / 0.7) + np.floor(z / 0.7)) % 2
        return 0.5 + fade * (0.7 * parity - 0.35) + 0.3 * stain
    if kind == "wooden floor":
        z = z / 0.18
        x = x / 1.6 + 0.37 * np.floor(z)
        grain = lookup(1.0, x * 40, z * 12) - 0.5
        return 0.55 + fade * (0.7 * (_cells(x, z) - 0.5) + 0.5 * grain - 0.35 * _lines(z, 0.1)) + 0.2 * stain
    if kind == "carpet":
        weave = lookup(0.3, x * 60, z * 60) - 0.5
        band = np.abs((x / 1.1) % 1 - 0.5) < 0.12
        return 0.5 + fade * (0.5 * weave + 0.25 * band) + 0.4 * stain
    if kind == "paving stones":
        z = z / 0.5
        x = x / 0.9 + 0.5 * (np.floor(z) % 2)
        joint = np.maximum(_lines(x, 0.06), _lines(z, 0.1))
        return 0.6 + fade * (0.7 * (_cells(x, z) - 0.5) - 0.45 * joint) + 0.3 * stain
    if kind == "grass":
        return 0.5 + fade * 0.9 * (lookup(0.4, x * 50, z * 50) - 0.5) + 0.9 * stain
    if kind == "sand":
        return 0.6 + fade * 0.25 * (lookup(0.4, x * 50, z * 50) - 0.5) + 0.9 * stain
    if kind == "asphalt":
        return 0.45 + fade * 0.8 * (lookup(0.1, x * 60, z * 60) - 0.5) + 0.5 * stain
    raise ValueError(f"ground {kind!r} has no pattern")


def wall_pattern(kind: str, u: Floats, v: Floats) -> Floats:
    """Return the brightness `[h, W]` of a room's wall at `u` `[W]` metres along it and `v` `[h, W]` metres up."""
    u = np.broadcast_to(u, v.shape)
    stain = lookup(1.5, u * 40, v * 40) - 0.5
    if kind == "brick wall":
        v = v / 0.2
        u = u / 0.5 + 0.5 * (np.floor(v) % 2)
        return 0.45 + 0.5 * (_cells(u, v) - 0.5) + 0.4 * np.maximum(_lines(u, 0.08), _lines(v, 0.16)) + 0.3 * stain
    if kind == "panelled wall":
        upper = v > -0.6
        groove = _lines(u / np.where(upper, np.float32(1.3), np.float32(0.25)), 0.06)
        rail = np.abs(v + 0.6) < 0.05
        return 0.62 - 0.18 * ~upper - 0.3 * groove + 0.2 * rail + 0.2 * stain
    if kind == "striped wallpaper":
        return 0.5 + 0.3 * (np.floor(u / 0.3) % 2) + 0.3 * stain
    if kind == "plaster wall":
        return 0.6 + 0.8 * stain + 0.15 * (lookup(0.5, u * 60, v * 60) - 0.5)
    raise ValueError(f"wall {kind!r} has no pattern")
