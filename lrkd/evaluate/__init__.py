"""Evaluation: finished runs compared, and what a student's latents look at."""
