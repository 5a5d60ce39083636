"""``compare``: finished runs side by side, with intervals, tests, slices, ensembles and plots; see ``docs/compare.md``.

The data flow: :mod:`scored` reads what runs predicted, :mod:`contenders` makes the rows of the tables of it (methods,
ensembles, the majority), :mod:`query_statistics` and :mod:`bootstrap` turn them into metrics and resampled metrics,
:mod:`estimates` and :mod:`slices` into what the tables show, and :mod:`report`, :mod:`page` and the plots show it.
"""

from lrkd.evaluate.compare.command import compare

__all__ = ["compare"]
