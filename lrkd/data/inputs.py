"""What a training is made from, told by its data module: for records of lineage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Input:
    """Files that a training reads.

    Args:
        kind: What they are: ``pairs``, ``rationales``, ``targets``, ``preferences``.
        files: Where they are.
        metadata: What to know of them, the digest of what they were made from among it.
    """

    kind: str
    files: list[Path]
    metadata: dict[str, Any]
