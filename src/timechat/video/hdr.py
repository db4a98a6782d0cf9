"""HDR to SDR: linear light of PQ and HLG frames, a tone curve, and the gamma of SDR displays.

A frame is converted in five steps, with light in multiples of the reference white of 203 cd/m² (ITU-R BT.2408):

1. Code values → linear light. PQ: the EOTF of SMPTE ST 2084. HLG: the inverse OETF of ARIB STD-B67 and the OOTF with
   gamma 1.2, for a display of 1000 cd/m².
2. Primaries of BT.2020 → BT.709, if the frame has those of BT.2020 or does not say. Negative light becomes 0.
3. Tone curve on the largest of red, green and blue, `m`. Up to `KNEE` light stays as it is; above, it becomes
   `KNEE + (1 - KNEE) * (1 - exp(-(m - KNEE) / (1 - KNEE)))`. The curve has no kink and approaches 1. All three
   colours are scaled by the same factor, so that hues stay.
4. SDR signal: the inverse of the EOTF of ITU-R BT.1886, `light ** (1 / 2.4)`.
5. Rounding to 8 bits.

The decoder library has no such conversion. Diffuse white and everything darker than `KNEE` keeps its brightness;
highlights are compressed.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Names of the HDR transfer functions, by their numbers in ITU-T H.273."""

KNEE = 0.8
"""Light, in multiples of reference white, above which it is compressed."""

_REFERENCE_WHITE = 203.0  # cd/m²
_HLG_PEAK = 1000.0  # cd/m²
_HLG_GAMMA = 1.2
_BT2020_PRIMARIES = 9
_UNKNOWN_PRIMARIES = 2
_LUMINANCE_2020 = np.array([0.2627, 0.6780, 0.0593], np.float32)
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def to_sdr(pixels: NDArray[np.uint16], transfer: int, primaries: int) -> NDArray[np.uint8]:
    """Return HDR pixels as SDR pixels of BT.709.

    Args:
        pixels: uint16 `(height, width, 3)`, RGB, full range.
        transfer: Transfer function, a key of `HDR_TRANSFERS`.
        primaries: Colour primaries, as in ITU-T H.273.
    """
    light = _linear_light(transfer)[pixels]  # float32 (height, width, 3)
    if HDR_TRANSFERS[transfer] == "HLG":
        scene = light @ _LUMINANCE_2020
        light *= (_HLG_PEAK / _REFERENCE_WHITE) * np.power(scene, _HLG_GAMMA - 1)[..., None]
    if primaries in (_BT2020_PRIMARIES, _UNKNOWN_PRIMARIES):
        light = np.maximum(light @ _BT2020_TO_BT709.T, 0)
    brightest = light.max(axis=-1, keepdims=True)
    light *= _tone_curve(brightest) / np.maximum(brightest, 1e-9)
    signal: NDArray[np.uint8] = np.rint(255 * np.power(light, 1 / 2.4)).astype(np.uint8)
    return signal


def _tone_curve(light: NDArray[np.float32]) -> NDArray[np.float32]:
    above = np.maximum(light - KNEE, 0)
    compressed = KNEE + (1 - KNEE) * (1 - np.exp(-above / (1 - KNEE)))
    return np.where(light <= KNEE, light, compressed).astype(np.float32)


@cache
def _linear_light(transfer: int) -> NDArray[np.float32]:
    """Linear light of each 16-bit code value, `(65536,)`: for HLG scene light from 0 to 1."""
    signal = np.arange(65536) / 65535
    if HDR_TRANSFERS[transfer] == "PQ":
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        power = signal ** (1 / m2)
        light = 10000 / _REFERENCE_WHITE * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return light.astype(np.float32)
