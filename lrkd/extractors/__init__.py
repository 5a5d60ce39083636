"""Latent reasoning extractors: one a file; subclass :class:`Extractor` for your own."""

from lrkd.extractors.base import AttentiveExtractor, Extractor, ExtractorFactory, TokenStates
from lrkd.extractors.gat import GATExtractor
from lrkd.extractors.interaction import InteractionExtractor
from lrkd.extractors.mlp import MLPExtractor
from lrkd.extractors.poly_encoder import PolyEncoderExtractor
from lrkd.extractors.token_graph import FullGraph, LexicalGraph, SimilarityGraph, TokenGraph, UnionGraph, WindowGraph

__all__ = [
    "AttentiveExtractor",
    "Extractor",
    "ExtractorFactory",
    "FullGraph",
    "GATExtractor",
    "InteractionExtractor",
    "LexicalGraph",
    "MLPExtractor",
    "PolyEncoderExtractor",
    "SimilarityGraph",
    "TokenGraph",
    "TokenStates",
    "UnionGraph",
    "WindowGraph",
]
