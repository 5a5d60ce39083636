"""Latent reasoning extractors: one a file; subclass :class:`Extractor` for your own."""

from lrkd.extractors.base import Extractor, ExtractorFactory, TokenStates
from lrkd.extractors.mlp import MLPExtractor

__all__ = ["Extractor", "ExtractorFactory", "MLPExtractor", "TokenStates"]
