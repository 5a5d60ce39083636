"""The synthetic catalogue: pairs with gold labels by rule, and rationales from three perspectives that err.

For the quickstart and the tests, where no real data is at hand; see ``docs/synthetic.md`` for what it can't show.
"""

from lrkd.data.synthetic.command import synthesize_data

__all__ = ["synthesize_data"]
