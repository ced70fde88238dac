"""How many threads the surrogates' linear algebra has: one."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache

import scipy.linalg  # noqa: F401  before the libraries in use are looked up
from threadpoolctl import ThreadpoolController


def one_thread() -> AbstractContextManager[object]:
    """Let numpy and scipy compute in one thread as long as the context lasts.

    The matrices are small: several threads mostly wait for one another, on a busy machine fifty times as long as one
    takes, and how many there are changes the last digits.
    """
    found: AbstractContextManager[object] = _libraries().limit(limits=1, user_api="blas")
    return found


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
