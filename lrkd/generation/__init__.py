"""Prompts in, rationales out: the engines that write them, and the store that a killed run goes on from."""
