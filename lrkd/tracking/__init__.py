"""Weights & Biases: a run's place among others, examples, confusion matrices, lineage."""
