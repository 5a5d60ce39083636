"""Fixtures that several test modules share."""

from __future__ import annotations

import os

# Before anything imports the libraries that read them: a test never reaches the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def esci_mini() -> Path:
    """The data root ESCI-mini, which is not part of the repository."""
    path = os.environ.get("LRKD_ESCI_MINI") or Path(__file__).parents[1].parent / "shared" / "data" / "esci_mini"
    if not (Path(path) / "pairs.parquet").is_file():
        pytest.skip(f"ESCI-mini is not at {path}; set LRKD_ESCI_MINI to its folder")
    return Path(path)
