"""Groups of different size in two flat arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Groups:
    """G groups: the members of group g are ``members[offsets[g] : offsets[g + 1]]``."""

    members: np.ndarray
    """(M,) int64."""
    offsets: np.ndarray
    """(G + 1,) int64."""

    @classmethod
    def of(cls, group: np.ndarray, number: int, members: np.ndarray) -> Groups:
        """Put members into groups; within one they keep their order.

        Args:
            group: (M,) int: the group of each member, 0 to G - 1.
            number: G.
            members: (M,) int64.
        """
        order = np.argsort(group, kind="stable")
        return cls(members[order], np.searchsorted(group[order], np.arange(number + 1)))

    def start(self, group: np.ndarray) -> np.ndarray:
        """Where groups (...,) begin among the members."""
        return np.asarray(self.offsets[group])

    def count(self, group: np.ndarray) -> np.ndarray:
        """How many members groups (...,) have."""
        return np.asarray(self.offsets[group + 1] - self.offsets[group])
