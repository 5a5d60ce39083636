"""A data loader that goes on in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from lrkd.data.sampler import LengthBucketSampler
from lrkd.data.types import TripleBatch
from lrkd.errors import UserError


class ResumableLoader(DataLoader[TripleBatch]):
    """The training batches of a :class:`LengthBucketSampler`, from where a checkpoint left off.

    The sampler's order follows from seed and epoch, so the place in it is all there is to remember: a loader that has
    loaded a state leaves out that epoch's first batches without making them. An iterator begins when its first batch
    is asked for, because Lightning asks a resumed run's loader for an iterator before it tells the sampler the epoch.
    """

    sampler: LengthBucketSampler
    _handed_out = 0
    _resumed: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[TripleBatch]:  # type: ignore[override]
        state, self._resumed = self._resumed, None
        goes_on = state is not None and state["epoch"] == self.sampler.epoch
        self.sampler.first = self._handed_out = state["batches"] if state is not None and goes_on else 0
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """The epoch, how many of its batches were handed out, and what their order follows from."""
        place = {"epoch": self.sampler.epoch, "batches": self._handed_out}
        return self._resumed or place | {"of": len(self), "global_batch_size": self.sampler.global_batch_size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            UserError: The state stands in the middle of an epoch whose batches were of another size.
        """
        before, now = state_dict["global_batch_size"], self.sampler.global_batch_size
        if 0 < state_dict["batches"] < state_dict["of"] and before != now:
            raise UserError(
                f"cannot resume in the middle of an epoch of {before} pairs a batch (over all processes) with {now}: "
                f"give data.init_args.batch_size so that batch_size times processes is {before}"
            )
        self._resumed = state_dict
