"""The student: encoder, extractor, head."""

from lrkd.student.lrkd import StudentLRKD

__all__ = ["StudentLRKD"]
