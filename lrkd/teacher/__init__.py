"""The teacher: an LLM that learns to reason from several perspectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrkd.teacher.dpo import TeacherDPO
    from lrkd.teacher.sft import TeacherSFT

__all__ = ["TeacherDPO", "TeacherSFT"]


def __getattr__(name: str) -> Any:
    """The modules, imported when they are asked for: this package's commands need no torch for their ``--help``."""
    if name == "TeacherSFT":
        from lrkd.teacher.sft import TeacherSFT

        return TeacherSFT
    if name == "TeacherDPO":
        from lrkd.teacher.dpo import TeacherDPO

        return TeacherDPO
    raise AttributeError(name)
