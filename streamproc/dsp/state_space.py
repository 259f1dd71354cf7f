"""Linear recurrences with a state: from filters to matrices, and evaluated a whole block at a time.

A filter with a state is ``s(t+1) = A s(t) + b x(t)``, ``y(t) = c s(t) + d x(t)``. The same filter has many such forms:
they give the same output in exact arithmetic, and very different ones when numbers are rounded. `normal_form` is the
one for exact work, `delay_chain` the one that recurrent networks are introduced with, `transposed_direct` the one whose
states stay comparable when a design changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..spec import Block, StateDtype
from .cookbook import check_sections

Matrix = npt.NDArray[Any]
"""float64 until it is prepared for an evaluation in float32."""

_LONGEST = 64
_MOST_ROWS = 32
"""Pieces that go into one product: beyond about 64**3 multiplications BLAS may wake threads, which an audio callback
must not wait for."""

_NARROWEST = 0.1
"""Angle of a pole, against its distance from the unit circle, from which on it is a rotation. All sections of a
Butterworth filter up to order 15 are; below, one of the two states would be a small difference of large numbers."""

_QUIET = 1e-30
_DOUBLINGS = 60


@dataclass(frozen=True, eq=False)
class StateSpace:
    """A linear recurrence with one input and one output.

    Parameters
    ----------
    a : float64 [n, n]
        State to next state.
    b, c : float64 [n]
        Input to next state; state to output.
    d : float
        Input to output.

    Raises
    ------
    ConfigError
        If the shapes do not fit together or a value is not finite.
    """

    a: Matrix
    b: Matrix
    c: Matrix
    d: float

    def __post_init__(self) -> None:
        n = len(self.b)
        shapes = [np.shape(self.a), np.shape(self.b), np.shape(self.c)]
        if n < 1 or shapes != [(n, n), (n,), (n,)]:
            raise ConfigError(f"a state space needs a [n, n], b [n] and c [n] with n at least 1; found {shapes}")
        # One sum instead of many tests: this runs when a parameter moves, in the audio thread.
        if not np.isfinite(self.a.sum() + self.b.sum() + self.c.sum() + self.d):
            raise ConfigError("a state space must be finite")

    @property
    def n_states(self) -> int:
        """Numbers that are carried from sample to sample."""
        return len(self.b)

    @property
    def radius(self) -> float:
        """Largest magnitude of a pole: below 1 for a filter that forgets its past."""
        return float(np.abs(np.linalg.eigvals(self.a)).max())

    def run(self, x: npt.ArrayLike) -> Matrix:
        """Return the output for `x` [frames], sample by sample in float64: the definition, slow."""
        state = np.zeros(self.n_states)
        samples = np.asarray(x, np.float64)
        y = np.empty_like(samples)
        for t, sample in enumerate(samples):
            y[t] = self.c @ state + self.d * sample
            state = self.a @ state + self.b * sample
        return y

    def scaled(self, scale: npt.ArrayLike) -> StateSpace:
        """Return the same filter with state ``i`` multiplied by ``scale[i]``."""
        s = np.asarray(scale, np.float64)
        return StateSpace(self.a * s[:, None] / s, self.b * s, self.c / s, self.d)


def transposed_direct(sections: npt.ArrayLike) -> StateSpace:
    """Return a cascade of second-order sections [n, 6] in the transposed direct form II, two states per section."""
    return _cascade(
        [
            _Section(-a1, 1.0, -a2, 0.0, b1 - a1 * b0, b2 - a2 * b0, 1.0, 0.0, b0)
            for b0, b1, b2, _, a1, a2 in check_sections(sections)
        ]
    )


def delay_chain(b: npt.ArrayLike, a: npt.ArrayLike) -> StateSpace:
    """Return ``b(z) / a(z)`` as the recurrent network of textbooks: ``order + 1`` hidden units that are a delay line.

    The hidden units hold the newest and the `order` values before it of ``w(t) = x(t) - a1 w(t-1) - a2 w(t-2) - ..``;
    the output layer holds `b`. In the words of a recurrent layer, ``h(t) = W_hh h(t-1) + W_ih x(t)`` and
    ``y(t) = W_o h(t)``,
    the first row of ``W_hh`` is ``[-a1, -a2, .., 0]``, ones below its diagonal shift, ``W_ih`` is ``[1, 0, ..]``.

    Parameters
    ----------
    b, a : array_like [up to order + 1]
        As `scipy.signal.lfilter` takes them; ``a[0]`` is not zero.

    Raises
    ------
    ConfigError
        If the filter is not stable or a coefficient not finite.

    Notes
    -----
    Exact for low orders. The poles of a high order move by much when a coefficient is rounded: use `normal_form`.
    """
    num, den = (np.atleast_1d(np.asarray(part, np.float64)) for part in (b, a))
    if num.ndim != 1 or den.ndim != 1 or not den.size or not den[0]:
        raise ConfigError("b and a must be lists of coefficients, and a[0] not zero")
    num, den = num / den[0], den / den[0]
    order = max(num.size, den.size) - 1
    hidden = np.diag(np.ones(order), -1)
    hidden[0, : den.size - 1] = -den[1:]
    from_input = np.zeros(order + 1)
    from_input[0] = 1.0
    layer = np.zeros(order + 1)
    layer[: num.size] = num
    # The output of a recurrent layer sees the state after the step, c and d see the one before.
    space = StateSpace(hidden, from_input, layer @ hidden, float(layer @ from_input))
    if space.radius >= 1.0:
        raise ConfigError(f"a is not stable: a pole has the magnitude {space.radius:g}, allowed is less than 1")
    return space


def normal_form(sections: npt.ArrayLike) -> StateSpace:
    """Return a cascade of second-order sections as 2 x 2 blocks that bear rounding well.

    A pair of complex poles ``p`` becomes the rotation ``[[Re p, -Im p], [Im p, Re p]]``, whose gain is ``|p|`` in every
    direction [1]_. Real poles, and pairs so close to the axis that the rotation would be badly scaled, become one pole
    behind the other. Every state is scaled to unit power for white input of unit power [2]_.

    Parameters
    ----------
    sections : array_like [n, 6]
        Rows ``b0 b1 b2 a0 a1 a2``, as every design of `scipy.signal` gives with ``output="sos"``.

    Raises
    ------
    ConfigError
        If the shape is wrong, or a section is not finite or not stable.

    References
    ----------
    .. [1] C. W. Barnes and A. T. Fam, "Minimum norm recursive digital filters that are free of overflow limit
       cycles", IEEE Trans. Circuits and Systems 24(10), 1977.
    .. [2] C. T. Mullis and R. A. Roberts, "Synthesis of minimum roundoff noise fixed point digital filters", IEEE
       Trans. Circuits and Systems 23(9), 1976.
    """
    blocks, rotates = [], []
    for b0, b1, b2, _, a1, a2 in check_sections(sections):
        c1, c2 = b1 - a1 * b0, b2 - a2 * b0
        middle, gap = -a1 / 2, a2 - a1 * a1 / 4
        if gap > 0:
            first = second = middle
            imaginary = gap**0.5
        else:
            # The larger root first, the other from the product: no difference of near-equal numbers.
            first = middle + np.copysign((-gap) ** 0.5, middle)
            second = a2 / first if first else 0.0
            imaginary = 0.0
        rotate = gap > 0 and imaginary >= _NARROWEST * (1.0 - a2**0.5)
        unit = imaginary if rotate else 1.0
        blocks.append(
            _Section(first, -(imaginary**2) / unit, unit, second, 1.0, 0.0, c1, (c2 + second * c1) / unit, b0)
        )
        rotates.append(rotate)
    space = _cascade(blocks)
    power = np.diagonal(_power_of_states(space)).copy()
    for row, rotate in enumerate(rotates):
        if rotate:  # one scale for both: they stay a rotation
            power[2 * row : 2 * row + 2] = power[2 * row : 2 * row + 2].mean()
    return space.scaled(np.where(power > 0, power, 1.0) ** -0.5)


class _Section(NamedTuple):
    """One second-order section: ``A`` by rows, then ``b``, ``c`` and ``d`` of two states."""

    a11: float
    a12: float
    a21: float
    a22: float
    b1: float
    b2: float
    c1: float
    c2: float
    d: float


def _cascade(sections: list[_Section]) -> StateSpace:
    """Join sections, each fed by the one before, into one recurrence: block lower triangular."""
    n = 2 * len(sections)
    a, b, c, d = np.zeros((n, n)), np.zeros(n), np.zeros(n), 1.0
    for k, section in enumerate(sections):
        here = slice(2 * k, 2 * k + 2)
        own_b = np.array([section.b1, section.b2])
        a[here, : 2 * k] = own_b[:, None] * c[: 2 * k]
        a[here, here] = (section.a11, section.a12), (section.a21, section.a22)
        b[here] = own_b * d
        c[: 2 * k] *= section.d
        c[here] = section.c1, section.c2
        d *= section.d
    return StateSpace(a, b, c, d)


def _power_of_states(space: StateSpace) -> Matrix:
    """Return the covariance of the states for white input of unit power, by doubling the time that it sums over."""
    power, total = space.a, np.outer(space.b, space.b)
    for _ in range(_DOUBLINGS):
        later = power @ total @ power.T
        total = total + later
        if np.abs(later).max() <= 1e-12 * np.abs(total).max():
            break
        power = power @ power
    return total


class BlockMatrices(NamedTuple):
    """What evaluates up to `length` samples of a recurrence at once. Signals are rows: ``[channels, frames]``.

    The first ``n`` samples need the first ``n_states + n`` rows and ``n`` columns of `out` and the last ``n`` rows of
    `into`, so that one set serves every ``n`` up to `length`::

        y          = [state, x] @ out[: n_states + n, :n]
        next state = state @ (A^n).T + x @ into[length - n :]

    Parameters
    ----------
    out : [n_states + length, length]
        The observability matrix, transposed, above the Toeplitz matrix of the impulse response.
    into : [length, n_states]
        What is left in the state of each sample, oldest first.
    powers : [levels, n_states, n_states]
        ``(A^(2^k)).T``.
    """

    out: Matrix
    into: Matrix
    powers: Matrix

    @property
    def length(self) -> int:
        """Most samples at once."""
        return len(self.into)


def powers_of_two(space: StateSpace, levels: int) -> Matrix:
    """Return ``(A^(2^k)).T`` for ``k`` below `levels`: float64 [levels, n_states, n_states]."""
    powers = np.empty((levels, space.n_states, space.n_states))
    powers[0] = space.a.T
    for level in range(1, levels):
        np.matmul(powers[level - 1], powers[level - 1], out=powers[level])
    return powers


def block_matrices(space: StateSpace, length: int, levels: int | None = None) -> BlockMatrices:
    """Prepare the evaluation of blocks of up to `length` samples, in float64.

    Parameters
    ----------
    space : StateSpace
    length : int
    levels : int, optional
        Powers of two of ``A`` to prepare; as many as `length` needs unless given.
    """
    if length < 1:
        raise ConfigError(f"length must be at least 1 sample, found {length}")
    needed = length.bit_length()
    powers = powers_of_two(space, max(levels or 0, needed))
    n = space.n_states
    seen, left = np.empty((n, length)), np.empty((length, n))
    seen[:, 0], left[0] = space.c, space.b
    done = 1
    for power in powers[: needed - 1 + (length & (length - 1) > 0)]:
        more = min(done, length - done)
        np.matmul(power, seen[:, :more], out=seen[:, done : done + more])
        np.matmul(left[:more], power, out=left[done : done + more])
        done += more
    response = np.zeros(2 * length)  # from a long silence before the impulse, which ends with sample `length`
    response[length] = space.d
    response[length + 1 :] = left[: length - 1] @ space.c
    now = np.arange(length)
    out = np.concatenate([seen, response[length + now - now[:, None]]])
    return BlockMatrices(out, left[::-1].copy(), powers)


class BlockRecurrence:
    """A recurrence that runs on blocks of any size, without latency, as matrix products.

    Parameters
    ----------
    n_states, n_channels : int
    dtype : {"float64", "float32"}
        Of the state and of everything that is computed.

    Notes
    -----
    A block shorter than `length` is one product with a part of the prepared matrices. A longer one is cut into rows of
    `length` samples: what the rows leave in the state is summed over the rows before by doubling [1]_, which takes
    ``log2`` of their number of products, then all rows are one product again. Rounding depends on how a stream is cut,
    by about 1e-15 of full scale in float64 and 1e-7 in float32.

    References
    ----------
    .. [1] P. M. Kogge and H. S. Stone, "A parallel algorithm for the efficient solution of a general class of
       recurrence equations", IEEE Trans. Computers C-22(8), 1973.
    """

    def __init__(self, n_states: int, n_channels: int, dtype: StateDtype = "float64") -> None:
        self.n_states = n_states
        self.length = length = _LONGEST if n_states <= _LONGEST else _LONGEST // 2
        self._most_rows = rows = max(2, _MOST_ROWS // n_channels)
        self._levels = length.bit_length() + rows.bit_length()
        self.state: Matrix = np.zeros((n_channels, n_states), dtype)
        self._carried: Matrix = np.zeros((2, n_channels, n_states), dtype)
        self._operand: Matrix = np.zeros((n_channels, n_states + length), dtype)
        self._result: Matrix = np.zeros((n_channels, length), dtype)
        self._rows: Matrix = np.zeros((n_channels, rows, n_states + length), dtype)
        self._row_results: Matrix = np.zeros((n_channels, rows, length), dtype)
        self._left: Matrix = np.zeros((n_channels, rows, n_states), dtype)
        self._moved: Matrix = np.zeros((n_channels, rows, n_states), dtype)
        self._matrices = BlockMatrices(
            np.zeros((n_states + length, length), dtype),
            np.zeros((length, n_states), dtype),
            np.zeros((self._levels, n_states, n_states), dtype),
        )
        self._row_level = length.bit_length() - 1

    def design(self, space: StateSpace) -> None:
        """Take over a recurrence with as many states; the state stays."""
        for mine, theirs in zip(self._matrices, block_matrices(space, self.length, self._levels), strict=True):
            np.copyto(mine, theirs, casting="same_kind")

    def run(self, x: Block, out: Block) -> None:
        """Filter a block [channels, n] of any size; `out` may be `x`."""
        n, start, length = x.shape[1], 0, self.length
        while n - start >= 2 * length:
            n_rows = min((n - start) // length, self._most_rows)
            stop = start + n_rows * length
            self._run_rows(x[:, start:stop], out[:, start:stop], n_rows)
            start = stop
        while start < n:
            stop = min(n, start + length)
            self._run_piece(x[:, start:stop], out[:, start:stop])
            start = stop
        # In silence the state would fade into denormal numbers, which cost a hundred times as much. This rounds it
        # to multiples of 1e-46 (1e-37 in float32), so that it becomes zero instead.
        self.state += _QUIET
        self.state -= _QUIET

    def _run_piece(self, x: Block, out: Block) -> None:
        n, n_states = x.shape[1], self.n_states
        matrices, state, operand = self._matrices, self.state, self._operand[:, : self.n_states + x.shape[1]]
        operand[:, :n_states] = state
        operand[:, n_states:] = x
        result = self._result[:, :n]
        np.matmul(operand, matrices.out[: n_states + n, :n], out=result)
        current, (other, spare) = operand[:, :n_states], self._carried
        for level in range(n.bit_length()):
            if n >> level & 1:
                np.matmul(current, matrices.powers[level], out=other)
                current, other, spare = other, spare, other
        np.matmul(operand[:, n_states:], matrices.into[self.length - n :], out=state)
        state += current
        out[:] = result

    def _run_rows(self, x: Block, out: Block, n_rows: int) -> None:
        n_states, matrices, state = self.n_states, self._matrices, self.state
        shape = (x.shape[0], n_rows, self.length)
        rows, left, moved = self._rows[:, :n_rows], self._left[:, :n_rows], self._moved[:, :n_rows]
        rows[:, :, n_states:] = x.reshape(shape)
        np.matmul(rows[:, :, n_states:], matrices.into, out=left)
        np.matmul(state, matrices.powers[self._row_level], out=self._carried[0])
        left[:, 0] += self._carried[0]
        distance, level = 1, self._row_level
        while distance < n_rows:
            np.matmul(left[:, :-distance], matrices.powers[level], out=moved[:, distance:])
            left[:, distance:] += moved[:, distance:]
            distance, level = 2 * distance, level + 1
        rows[:, 0, :n_states] = state
        rows[:, 1:, :n_states] = left[:, :-1]
        np.copyto(state, left[:, -1])
        results = self._row_results[:, :n_rows]
        np.matmul(rows, matrices.out, out=results)
        out.reshape(shape)[:] = results


def evaluate(space: StateSpace, x: Block, block: int = 1024, dtype: StateDtype = "float64") -> Matrix:
    """Return the output for a whole signal [channels, frames] from silence, as `BlockRecurrence` computes it in blocks.

    The result has the type that was computed with, not yet rounded to that of a stream.
    """
    recurrence = BlockRecurrence(space.n_states, x.shape[0], dtype)
    recurrence.design(space)
    y = np.empty(x.shape, dtype)
    for start in range(0, x.shape[1], block):
        recurrence.run(x[:, start : start + block], y[:, start : start + block])
    return y
