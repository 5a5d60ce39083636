"""Training that goes on in the middle of an epoch, and only on the data that it began with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lrkd.data.sampler import LengthBucketSampler
from lrkd.errors import UserError


class ResumableLoader(DataLoader[Any]):
    """The training batches of a :class:`LengthBucketSampler`, from where a checkpoint left off.

    The sampler's order follows from seed and epoch, so the place in it is all there is to remember: a loader that has
    loaded a state leaves out that epoch's first batches without making them. An iterator begins when its first batch
    is asked for, because Lightning asks a resumed run's loader for an iterator before it tells the sampler the epoch.
    """

    sampler: LengthBucketSampler
    _handed_out = 0
    _resumed: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
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


class ResumableDataModule(L.LightningDataModule):
    """A data module whose training goes on in the middle of an epoch; on other data it is refused.

    Args:
        source: Where the data is, for messages.
        seed: Of the shuffle.
        num_workers: Processes that make batches.
    """

    def __init__(self, source: str, seed: int, num_workers: int) -> None:
        super().__init__()
        self.source, self.seed, self.num_workers = source, seed, num_workers
        self._train_loader: ResumableLoader | None = None
        self._resumed: dict[str, Any] | None = None

    def fingerprint(self) -> dict[str, str]:
        """What a training depends on: the name of each input, and the digest of its content."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Kept in checkpoints: so that a run is not resumed on other data, and goes on in the middle of an epoch."""
        place = self._train_loader.state_dict() if self._train_loader is not None else None
        return {"fingerprint": self.fingerprint(), "train_loader": place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume on other data.

        Raises:
            UserError: It differs from what the checkpoint was trained on; names what.
        """
        if self.trainer is not None and self.trainer.state.fn == "fit":
            mine = self.fingerprint()
            different = [k for k in mine | state_dict["fingerprint"] if mine.get(k) != state_dict["fingerprint"].get(k)]
            if different:
                raise UserError(
                    f"cannot resume: the checkpoint was trained on other {' and '.join(different)} than "
                    f"{self.source} hold now; start a new run without --ckpt_path"
                )
            # Lightning would hand it to the loader, but not to one that it asks for before (for the number of steps).
            self._resumed = state_dict.get("train_loader")

    def loader(self, dataset: Dataset[Any], lengths: np.ndarray, batch_size: int, *, train: bool) -> DataLoader[Any]:
        """This process's batches of rows of like length; shuffled and resumable in training.

        Args:
            dataset: Takes a :class:`~lrkd.data.sampler.BatchRequest`, gives a batch.
            lengths: (N,) int: each row's length.
            batch_size: Rows a process and step.
            train: Whether it is for training.
        """
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        sampler = LengthBucketSampler(
            lengths,
            batch_size,
            shuffle=train,
            seed=self.seed,
            num_replicas=world,
            rank=rank,
            accumulate=self.trainer.accumulate_grad_batches if train and self.trainer is not None else 1,
        )
        loader = (ResumableLoader if train else DataLoader)(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_as_is,
            generator=torch.Generator(),  # of its own: making an iterator then leaves the model's dropout alone
        )
        if isinstance(loader, ResumableLoader):
            if self._resumed is not None:
                loader.load_state_dict(self._resumed)
            self._train_loader = loader
        return loader


def _as_is(batch: Any) -> Any:
    return batch
