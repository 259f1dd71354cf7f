"""Second-order sections for the usual filters, designed in closed form.

Every section is a row ``[b0, b1, b2, 1, a1, a2]`` in the order of `scipy.signal`, so designs from there work too.

References
----------
.. [1] R. Bristow-Johnson, "Cookbook formulae for audio equalizer biquad filter coefficients", W3C note, 2021.
.. [2] S. Butterworth, "On the theory of filter amplifiers", 1930: poles on a circle, equal angles apart.
"""

from __future__ import annotations

from math import cos, pi, sin, sqrt, tan
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError

Sections = npt.NDArray[np.float64]
"""A cascade of second-order sections, float64 ``[n_sections, 6]``."""

BandKind = Literal["peak", "low_shelf", "high_shelf", "low_pass", "high_pass", "notch"]

BUTTERWORTH_Q = sqrt(0.5)
"""Quality of a second-order section that neither rings nor sags: the Butterworth response."""


def band_section(kind: BandKind, freq_hz: float, gain_db: float, q: float, sample_rate: float) -> Sections:
    """Design one section with the formulas of [1]_.

    Parameters
    ----------
    kind : {"peak", "low_shelf", "high_shelf", "low_pass", "high_pass", "notch"}
    freq_hz : float
        Centre (peak, notch), midpoint of the slope (shelves) or cut-off; below half the sample rate.
    gain_db : float
        Gain at the centre or on the shelf. The other kinds have none and ignore it.
    q : float
        Quality: centre over bandwidth; for shelves and passes `BUTTERWORTH_Q` is the steepest without a bump.
    sample_rate : float

    Returns
    -------
    float64 [1, 6]
    """
    root_gain = 10.0 ** (gain_db / 40.0)  # the cookbook's A: its square is the gain
    omega = 2.0 * pi * freq_hz / sample_rate
    c = cos(omega)
    alpha = sin(omega) / (2.0 * q)
    if kind == "peak":
        b = (1.0 + alpha * root_gain, -2.0 * c, 1.0 - alpha * root_gain)
        a = (1.0 + alpha / root_gain, -2.0 * c, 1.0 - alpha / root_gain)
    elif kind in ("low_shelf", "high_shelf"):
        # The high shelf is the low shelf mirrored at a quarter of the sample rate: z -> -z, hence every sign below.
        side = 1.0 if kind == "low_shelf" else -1.0
        up, down, slope = root_gain + 1.0, root_gain - 1.0, 2.0 * sqrt(root_gain) * alpha
        b = (
            root_gain * (up - side * down * c + slope),
            side * 2.0 * root_gain * (down - side * up * c),
            root_gain * (up - side * down * c - slope),
        )
        a = (
            up + side * down * c + slope,
            -side * 2.0 * (down + side * up * c),
            up + side * down * c - slope,
        )
    else:
        b = {
            "low_pass": ((1.0 - c) / 2.0, 1.0 - c, (1.0 - c) / 2.0),
            "high_pass": ((1.0 + c) / 2.0, -1.0 - c, (1.0 + c) / 2.0),
            "notch": (1.0, -2.0 * c, 1.0),
        }[kind]
        a = (1.0 + alpha, -2.0 * c, 1.0 - alpha)
    return check_sections((*b, *a))


def butterworth_high_pass(cutoff_hz: float, order: int, sample_rate: float) -> Sections:
    """Design a high-pass of any order that is flat above its cut-off and falls by ``6 * order`` dB per octave.

    Notes
    -----
    The poles of [2]_ come in pairs at angles ``theta`` from the real axis, each a section of quality
    ``1 / (2 cos theta)``; an odd order has one real pole besides, a first-order section from the bilinear transform.
    """
    angles = [pi * (k + 0.5 * (1 + order % 2)) / order for k in range(order // 2)]
    sections = [band_section("high_pass", cutoff_hz, 0.0, 0.5 / cos(angle), sample_rate) for angle in angles]
    if order % 2:
        warped = tan(pi * cutoff_hz / sample_rate)
        b = 1.0 / (1.0 + warped)
        sections.append(np.array([[b, -b, 0.0, 1.0, (warped - 1.0) * b, 0.0]]))
    return np.concatenate(sections)


def check_sections(sections: npt.ArrayLike) -> Sections:
    """Return sections as float64 ``[n, 6]`` with ``a0 == 1``, or raise `ConfigError` if they are no stable filter."""
    sos = np.array(sections, np.float64, ndmin=2)
    if sos.ndim != 2 or sos.shape[0] < 1 or sos.shape[1] != 6:
        raise ConfigError(f"sections must be [n, 6]: b0 b1 b2 a0 a1 a2 per row; found the shape {list(sos.shape)}")
    if not np.isfinite(sos).all() or not sos[:, 3].all():
        raise ConfigError("sections must be finite, and no a0 may be zero")
    sos /= sos[:, 3:4]
    # The stability triangle: both poles lie inside the unit circle exactly if |a2| < 1 and |a1| < 1 + a2.
    a1, a2 = sos[:, 4], sos[:, 5]
    unstable = np.flatnonzero((np.abs(a2) >= 1.0) | (np.abs(a1) >= 1.0 + a2))
    if unstable.size:
        row = int(unstable[0])
        raise ConfigError(f"section {row} is not stable: a1 = {a1[row]:g}, a2 = {a2[row]:g}")
    return sos
