"""What a teacher is asked, and how its answer is read: the prompt book, its rendering and the parsing of verdicts."""

from lrkd.prompts.book import Example, Perspective, PromptBook
from lrkd.prompts.verdict import Answer, Failure, parse_answer

__all__ = ["Answer", "Example", "Failure", "Perspective", "PromptBook", "parse_answer"]
