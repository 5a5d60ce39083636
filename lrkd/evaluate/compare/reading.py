"""What a report's figures mean and do not mean, as every report says it."""

from __future__ import annotations

from lrkd.evaluate.compare.slice_scores import MOST_RESAMPLES


def how_to_read(resamples: int, seed: int, baseline: str | None) -> list[str]:
    """Sentences for the report's end; ``docs/compare.md`` says more.

    Args:
        resamples: How often queries were drawn.
        seed: The draws' seed.
        baseline: The contender that the differences are to.
    """
    items = [
        f"Intervals: in each of {resamples:,} resamples (seed {seed}) as many queries as a fold has are drawn from it "
        "with replacement, each with all its pairs; the metrics of every run are computed on them and averaged over "
        "the method's runs. The middle 95 % of these averages is the interval.",
        "They speak of queries: how far the figure would move on other queries of the same kind, with the models as "
        "they are. They do not speak of training again: for that there is the standard deviation over runs, which also "
        "holds the folds' own differences. With one seed a gain may be luck of that seed, however clear its interval.",
        "All methods see the same draws. Figures of two rows move together, so their intervals may overlap where their "
        "difference is clear: compare methods by the difference, not by overlap.",
    ]
    if baseline is not None:
        items.append(
            "p is twice the share of resamples in which the difference is on the other side of 0. Holm's correction "
            "keeps the chance that any of the rows' finds in one metric is false below the level; looking at several "
            "metrics or baselines is not corrected for."
        )
    return [
        *items,
        "AUROC's interval is to first order in the queries' weights. ECE has none: drawing queries again adds noise, "
        "whose absolute value ECE sums, so resampled values lie above it.",
        f"Slices are drawn {min(resamples, MOST_RESAMPLES):,} times.",
        "Few queries make intervals too narrow: below some 50 do not lean on them.",
    ]
