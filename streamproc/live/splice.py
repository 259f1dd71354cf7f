"""Join processed sound, dry sound and gaps into one stream without clicks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..spec import Block

Weight = float | npt.NDArray[np.float32]


class _Fader:
    """A weight that travels between 0 and 1 on half a cosine."""

    def __init__(self, fade: int, max_block: int, weight: float) -> None:
        self._curve = (0.5 - 0.5 * np.cos(np.pi * np.arange(fade + 1) / fade)).astype(np.float32)
        self._end = fade
        self._weights = np.zeros(max_block, np.float32)
        self.jump(weight)

    def jump(self, weight: float) -> None:
        """Be at 0 or 1 at once."""
        self._at = self._end if weight else 0

    @property
    def is_zero(self) -> bool:
        """Whether the weight is 0 now."""
        return self._at == 0

    @property
    def is_one(self) -> bool:
        """Whether the weight is 1 now."""
        return self._at == self._end

    def move(self, up: bool, n: int) -> Weight:
        """Return the weights of the next `n` samples: a number at rest, else an array valid until the next call."""
        goal = self._end if up else 0
        if self._at == goal:
            return float(up)
        weights = self._weights[:n]
        count = min(n, abs(goal - self._at))
        if up:
            weights[:count] = self._curve[self._at + 1 : self._at + 1 + count]
            self._at += count
        else:
            # The curve is symmetric, so falling is one minus rising from the mirrored place.
            mirrored = self._end - self._at
            np.subtract(1.0, self._curve[mirrored + 1 : mirrored + 1 + count], out=weights[:count])
            self._at -= count
        weights[count:] = float(up)
        return weights


class Splice:
    """The last step before the device: what is heard of the processed (wet) and of the unprocessed (dry) sound.

    Parameters
    ----------
    n_channels : int
    fade : int
        Samples that every transition takes.
    max_block : int

    Notes
    -----
    Where both sounds are there - the bypass key, the return after a miss - one fades into the other. When processed
    sound suddenly ends there is nothing left to fade, so the jump itself is faded: the difference between the last
    sample heard and the first one of the replacement is added to the replacement and dies away. The replacement is
    at full level at once, which for speech is far less noticeable than fading it in. Processed and dry sound are the
    same signal but for the noise; that is why weights add up to one, not powers.
    """

    def __init__(self, n_channels: int, fade: int, max_block: int) -> None:
        self._wet = _Fader(fade, max_block, 1.0)
        self._dry = _Fader(fade, max_block, 0.0)
        self._bridge = _Fader(fade, max_block, 0.0)
        self._jump: Block = np.zeros((n_channels, 1), np.float32)
        self._last: Block = np.zeros((n_channels, 1), np.float32)
        self._scratch: Block = np.zeros((n_channels, max_block), np.float32)

    @property
    def is_wet(self) -> bool:
        """Whether the last sample heard was processed sound and nothing else."""
        return self._wet.is_one and self._dry.is_zero

    @property
    def has_wet(self) -> bool:
        """Whether there was processed sound in the last sample heard."""
        return not self._wet.is_zero

    def play(self, wet: Block, dry: Block, bypass: bool, out: Block) -> None:
        """Fill `out` where processed sound is there. Thread: audio.

        Parameters
        ----------
        wet, dry, out : float32 [channels, n]
            Different arrays. `dry` is what was heard in the place of processed sound: mostly dry sound.
        bypass : bool
            Whether the dry sound is wanted.
        """
        n = out.shape[1]
        if n == 0:
            return
        wet_weight = self._wet.move(not bypass, n)
        dry_weight = self._dry.move(bypass, n)
        if isinstance(wet_weight, float) and wet_weight == 1.0:
            np.copyto(out, wet)
        else:
            np.multiply(wet, wet_weight, out=out)
        self._add(dry, dry_weight, out)
        self._finish(out)

    def replace(self, dry: Block, with_dry: bool, out: Block) -> None:
        """Fill `out` where processed sound is not there, with dry sound or with silence. Thread: audio."""
        n = out.shape[1]
        if n == 0:
            return
        broke_off = self.has_wet
        if broke_off:
            self._wet.jump(0.0)
            self._dry.jump(float(with_dry))
        dry_weight = self._dry.move(with_dry, n)
        out.fill(0.0)
        self._add(dry, dry_weight, out)
        if broke_off:
            np.subtract(self._last, out[:, :1], out=self._jump)
            self._bridge.jump(1.0)
        self._finish(out)

    def _finish(self, out: Block) -> None:
        n = out.shape[1]
        if not self._bridge.is_zero:
            np.multiply(self._jump, self._bridge.move(False, n), out=self._scratch[:, :n])
            np.add(out, self._scratch[:, :n], out=out)
        self._last[:] = out[:, -1:]

    def _add(self, source: Block, weight: Weight, out: Block) -> None:
        if isinstance(weight, float) and weight == 0.0:
            return
        scratch = self._scratch[:, : out.shape[1]]
        np.multiply(source, weight, out=scratch)
        np.add(out, scratch, out=out)
