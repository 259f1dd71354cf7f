"""How training uses memory."""

from __future__ import annotations

import ctypes
import platform


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks rather than return them to the system after every operation.

    Training frees and asks for the same tens of megabytes all the time; faulting the pages in again took a quarter
    of every step. Other C libraries are left as they are.
    """
    if platform.system() != "Linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        m_trim_threshold, m_mmap_max, m_arena_max = -1, -4, -8
        mallopt(m_arena_max, 1)  # secondary arenas cannot hold blocks of this size
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)
