"""Linear probes on what a student makes of pairs."""

from lrkd.evaluate.probe.command import probe

__all__ = ["probe"]
