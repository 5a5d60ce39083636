"""Data: the vocabulary, files on disk, importers, splits, audits, the synthetic catalogue and the data module."""
