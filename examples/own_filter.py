"""Any recursive filter as a model file: a linear recurrent network, exact, with its state outside.

From the root of a checkout::

    python -m export onnx examples.own_filter:build --out telephone.onnx
    streamproc denoise in.wav out.wav --model telephone.onnx
    streamproc bench telephone.onnx
"""

import scipy.signal

from export.models import IirFilter

SAMPLE_RATE = 48_000


def build() -> IirFilter:
    """Return the band of a telephone, 300 to 3400 Hz, as `scipy.signal` designs it."""
    sections = scipy.signal.ellip(5, 0.5, 50, [300, 3400], "bandpass", output="sos", fs=SAMPLE_RATE)
    return IirFilter.from_sections(sections, SAMPLE_RATE, hop=64, name="telephone")
