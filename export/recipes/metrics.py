"""Error functions that every recipe can use, on numpy arrays or torch tensors.

The error is ``prediction - target``: `mean_bias_error` is positive where a model predicts too much. Shapes must be
equal (nothing is broadcast, which would average the wrong pairs). A target that is NaN is missing: no mean counts it.
On tensors the result is a tensor that can be differentiated, and the gradient of a missing target is exactly zero.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from streamproc.errors import ConfigError

Values = TypeVar("Values", npt.NDArray[Any], Tensor)


def mean_squared_error(prediction: Values, target: Values) -> Values:
    """MSE: the mean of ``(prediction - target)^2``, in squared units of the target, 0 and up.

    Parameters
    ----------
    prediction, target : arrays or tensors of one shape
        NaN in `target`: missing.

    Returns
    -------
    A scalar of the same kind.

    Raises
    ------
    ConfigError
        For shapes that differ, or where every target is missing.
    """
    return (_errors(prediction, target) ** 2).mean()


def mean_absolute_error(prediction: Values, target: Values) -> Values:
    """MAE or L1: the mean of ``|prediction - target|``, in units of the target. See `mean_squared_error`."""
    return abs(_errors(prediction, target)).mean()


def mean_bias_error(prediction: Values, target: Values) -> Values:
    """MBE: the mean of ``prediction - target``; positive where too much is predicted. See `mean_squared_error`."""
    return _errors(prediction, target).mean()


def error_to_signal_ratio(prediction: Values, target: Values) -> Values:
    """ESR: energy of the error over energy of the target, 0 and up; 1 is what predicting silence gets.

    See `mean_squared_error`; a target without energy is refused too, because the ratio says nothing then.
    """
    error, present = _errors(prediction, target), target[~_missing(target)]
    energy = (present**2).sum()
    if not float(energy) > 0.0:
        raise ConfigError("the error-to-signal ratio needs a target with energy; every value of this one is 0")
    return (error**2).sum() / energy


def _errors(prediction: Values, target: Values) -> Values:
    """Return ``prediction - target`` wherever there is a target, flat."""
    if prediction.shape != target.shape:
        raise ConfigError(
            f"prediction {list(prediction.shape)} and target {list(target.shape)} must have one shape; "
            f"nothing is broadcast here"
        )
    present = ~_missing(target)
    # Selecting before subtracting, not after: NaN times a zero mask would still be NaN, in the gradient as well.
    errors = prediction[present] - target[present]
    if not len(errors):
        raise ConfigError(f"none of {int(np.prod(target.shape))} targets is present: there is nothing to average")
    return errors


def _missing(target: Values) -> Values:
    return torch.isnan(target) if isinstance(target, Tensor) else np.isnan(target)
