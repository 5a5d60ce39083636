"""What the measurements ran on, for the head of every report."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """CPU, cores, versions, and what else was running."""
    from importlib.metadata import version

    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    flags = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "")
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags]
    versions = ", ".join(f"{p} {version(p)}" for p in ("torch", "transformers", "sentence-transformers", "lightning"))
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores ({', '.join(units)}), "
        f"Python {platform.python_version()}, {versions}; load before: {os.getloadavg()[0]:.2f}"
    )
