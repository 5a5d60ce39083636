"""Evaluation: finished runs compared."""
