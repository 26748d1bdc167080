"""All right answers of each query, of whatever rows: none of them is a negative of that query."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.uint64]


class Answers:
    """Of N rows, what each asks (`question`), the identity of its target and its content, `[N]` each.

    Right for a query are the targets of all rows that ask the same, and whatever has the identity of one of these.
    """

    def __init__(self, asked: Numbers, identities: Numbers, contents: Numbers) -> None:
        self._identities = _Values(asked, identities)
        self._contents = _Values(identities, contents)

    def of(self, asked: int) -> frozenset[int]:
        """The contents that are right for a query; empty where its one row says it all."""
        found = {content for identity in self._identities.of(asked) for content in self._contents.of(identity)}
        return frozenset(found) if len(found) > 1 else frozenset()


class _Values:
    """The distinct values of each key."""

    def __init__(self, keys: Numbers, values: Numbers) -> None:
        import numpy as np

        pairs = np.unique(np.stack([keys, values], axis=1), axis=0)
        self._keys, self._values = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])

    def of(self, key: int) -> list[int]:
        import numpy as np

        start, end = (int(np.searchsorted(self._keys, np.uint64(key), side)) for side in ("left", "right"))
        found: list[int] = self._values[start:end].tolist()
        return found
