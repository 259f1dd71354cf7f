"""Window pairs for analysis and synthesis with exact reconstruction.

A pair is good when analysis times synthesis, summed over frames one hop apart, is one at every sample.
`window_pair` checks that sum, so a pair that leaves here reconstructs its input.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import ConfigError

WindowKind = Literal["sqrt_hann", "hann_dual", "asymmetric_hann"]

Window = npt.NDArray[np.float64]


def periodic_hann(length: int) -> Window:
    """Hann window whose period is `length` (the last sample is not zero): the kind that overlap-adds."""
    return 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)


def window_pair(kind: WindowKind, analysis_window: int, window: int, hop: int) -> tuple[Window, Window]:
    """Analysis and synthesis window of one kind.

    Parameters
    ----------
    kind : {"sqrt_hann", "hann_dual", "asymmetric_hann"}
        ``sqrt_hann``: the square root of a periodic Hann window on both sides.
        ``hann_dual``: a periodic Hann analysis window and its dual, Hann over the sum of squared Hanns [1]_.
        ``asymmetric_hann``: a long analysis window with a short fall, and the short synthesis window
        that turns their product into a Hann window of length `window` [2]_.
    analysis_window : int
        Samples that one analysis sees. Equal to `window` for the two symmetric kinds.
    window : int
        Samples of the synthesis window; the newest ones of the frame. A multiple of `hop`, at least two hops.
    hop : int
        Samples between frames.

    Returns
    -------
    analysis : float64 [analysis_window]
    synthesis : float64 [window]
        Applies to the last `window` samples of the inverse transform.

    Raises
    ------
    ConfigError
        For lengths that the kind cannot serve, or a pair that does not reconstruct.

    References
    ----------
    .. [1] D. Griffin and J. Lim, "Signal estimation from modified short-time Fourier transform", 1984, eq. 6.
    .. [2] D. Mauler and R. Martin, "A low delay, variable resolution, perfect reconstruction spectral
       analysis-synthesis system for speech enhancement", 2007, eqs. 4-7.
    """
    if kind not in get_args(WindowKind):
        raise ConfigError(f"window kind {kind!r} is unknown; known are {', '.join(get_args(WindowKind))}")
    if hop < 1 or window < 2 * hop or window % hop:
        raise ConfigError(f"window {window} must be a multiple of the hop {hop} and at least two hops")
    if kind == "asymmetric_hann":
        if window != 2 * hop or analysis_window < window:
            raise ConfigError(
                f"asymmetric_hann needs window == 2 * hop and analysis_window >= window; "
                f"found window {window}, hop {hop}, analysis_window {analysis_window}"
            )
        rise = np.sqrt(periodic_hann(2 * (analysis_window - hop))[: analysis_window - hop])
        product = periodic_hann(window)
        fall = np.sqrt(product[hop:])
        analysis = np.concatenate([rise, fall])
        # `rise` is positive wherever the synthesis window starts, unless both windows start together at zero.
        head = analysis[-window:-hop]
        ramp = np.divide(product[:hop], head, out=np.zeros(hop), where=head > 0)
        synthesis = np.concatenate([ramp, fall])
    else:
        if analysis_window != window:
            raise ConfigError(f"{kind} needs analysis_window == window; found {analysis_window} and {window}")
        hann = periodic_hann(window)
        if kind == "sqrt_hann":
            analysis = np.sqrt(hann)
            synthesis = analysis / _overlap_sum(hann, hop)
        else:
            analysis = hann
            synthesis = hann / _overlap_sum(hann**2, hop)
    error = np.abs(_overlap_sum(analysis[-window:] * synthesis, hop) - 1.0).max()
    if error > 1e-12:
        raise ConfigError(f"{kind} with window {window} and hop {hop} does not reconstruct: error {error:.1e}")
    return analysis, synthesis


def _overlap_sum(product: Window, hop: int) -> Window:
    """Sum of copies of `product` one hop apart, at each of its samples."""
    one_hop = product.reshape(-1, hop).sum(axis=0)
    return np.tile(one_hop, product.size // hop)
