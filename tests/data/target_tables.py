"""Target stores in memory, and the targets of pairs that are called a, b, c, ..."""

import numpy as np
import pyarrow as pa

from lrkd.data.pair_targets import Targets
from lrkd.data.targets import Fingerprint, TargetStore

FINGERPRINT_OF_TESTS = Fingerprint("made up", "w", "mean", True, 64, "float32", "{rationale}", "r")


def store_of(*rows):
    """A store in memory; a row is (pair_id, perspective, sample, verdict, vector)."""
    names = ("pair_id", "perspective", "sample", "verdict")
    index = pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)})
    return TargetStore(np.array([row[4] for row in rows], np.float32), index, FINGERPRINT_OF_TESTS)


def targets_of(store, labels, query=None, fit=None, **settings):
    """Targets of the pairs a, b, c, ... with these labels; all of them train, each with a query of its own."""
    pairs = [chr(ord("a") + i) for i in range(len(labels))]
    every = np.arange(len(pairs))
    return Targets(
        store,
        pa.array(pairs),
        pa.array(labels, pa.string()),
        every if query is None else np.array(query),
        every if fit is None else np.array(fit),
        **{"mode": "unified", "consistent": True, "centring": "none"} | settings,
    )
