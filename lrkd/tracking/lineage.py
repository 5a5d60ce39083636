"""Where a run comes from, as W&B artifacts: pairs, rationales and targets in, the best checkpoint out.

Inputs are references: their place and their checksum, no data is uploaded. Each one's metadata names the digest of what
it was made from (a target store's that of its rationales, the rationales' that of their pairs), so that the whole way
from pairs to checkpoint can be read off the run's lineage.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lrkd.data.inputs import Input
from lrkd.runs import read_run

if TYPE_CHECKING:
    from wandb import Artifact, Run

WEIGHTS = ("state_dict", "hyper_parameters", "datamodule_hyper_parameters", "pytorch-lightning_version", "epoch",
           "global_step", "loops")  # fmt: skip
"""What of a checkpoint is uploaded: all but what only resuming needs, two thirds of it being the optimiser's state."""


def input_artifacts(root: str, inputs: list[Input]) -> list[Artifact]:
    """What a run is made from, by reference; named after the data root, so that one project takes several."""
    name = Path(root).resolve().name
    return [_reference(valid_name(f"{name}-{it.kind}"), it.kind, it.files, it.metadata) for it in inputs]


def checkpoint_artifact(checkpoint: Path) -> Artifact:
    """A finished run's checkpoint, without what only resuming needs, beside the run's ``run.json`` and ``config.yaml``.

    Downloaded, it is a run's folder that ``python -m lrkd test --ckpt_path .../checkpoints/best.ckpt`` takes. The same
    checkpoint gives the same digest, so it is uploaded once.
    """
    from wandb import Artifact

    folder = checkpoint.parents[1]
    run = read_run(folder)
    metadata = {"run": folder.name, "method": run.method, "seed": run.seed, "fold": run.fold, "best": run.best,
                "made from pairs": run.fingerprint}  # fmt: skip
    artifact = Artifact(valid_name(f"{run.method}-checkpoint"), "model", metadata=metadata)
    content = torch.load(checkpoint, weights_only=True, map_location="cpu")
    with artifact.new_file(f"checkpoints/{checkpoint.name}", mode="wb") as file:
        torch.save({name: value for name, value in content.items() if name in WEIGHTS}, file)
    for name in ("run.json", "config.yaml"):
        artifact.add_file(str(folder / name))
    return artifact


def declare_input(run: Run, artifact: Artifact) -> None:
    """Record that a run uses an artifact, online or offline."""
    if run.offline:
        # use_artifact refuses to work offline. This is what it does online, less the wait for the server's answer;
        # `wandb sync` then records the use.
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
    elif not run.disabled:
        run.use_artifact(artifact)


def _reference(name: str, kind: str, files: list[Path], metadata: dict[str, Any]) -> Artifact:
    from wandb import Artifact

    artifact = Artifact(name, kind, metadata=metadata)
    for file in files:
        artifact.add_reference(file.resolve().as_uri())
    return artifact


def valid_name(name: str) -> str:
    """W&B takes letters, digits, ``-``, ``_`` and ``.``, at most 128."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)[-128:]
