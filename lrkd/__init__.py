"""lrkd: distil multi-perspective LLM reasoning into a small, fast relevance model (arXiv 2601.21611)."""

__version__ = "0.1.0"
