"""``rationales crossfit``: a policy's own rationales for training pairs that it was not trained on."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from lrkd.data.rationales import key_order, merge_rationales, rationales_path, write_rationales
from lrkd.errors import UserError
from lrkd.experiments.fits import finish_fit, lrkd

COMMAND = ["--method=policy", "--trainer.logger=false"]


def crossfit(*, fit_config: str | list[str], out: Path, parts: int = 3) -> None:
    """Cut the training queries into parts; for each, train on the others and write rationales for its pairs.

    SFT memorises its training pairs: on them a policy hardly ever contradicts itself, and there is nothing for
    `rationales conflicts` to mine. Cross-fitted, every rationale is one that the policy would write for a new query.
    The final policy is still trained on all parts, by `fit` without this.

    What is finished is not repeated, so the same command goes on after a kill. How many samples are written, and how,
    is data.init_args.samples and data.init_args.sampling in the config.

    Args:
        fit_config: The configs of the SFT `fit`, in order, as for `fit --config`.
        out: The folder to make: a run a part, and rationales.parquet with all parts' rationales.
        parts: How many parts; each policy is trained on all but one of them.

    Raises:
        UserError: A fit or a prediction failed: what it said stands above.
    """
    if parts < 2:
        raise UserError(f"parts is at least 2, got {parts}")
    configs = [fit_config] if isinstance(fit_config, str) else fit_config
    written = []
    for part in range(parts):
        folder = out / f"part{part}"
        options = [*(f"--config={path}" for path in configs), *COMMAND, f"--trainer.default_root_dir={folder}"]
        options += [f"--data.init_args.crossfit_part={part}", f"--data.init_args.crossfit_parts={parts}"]
        run = _folder(options)
        predict = ["--data.init_args.predict_split=held_out", f"--data.init_args.predict_out={folder}"]
        print(f"part {part + 1} of {parts}: {run}", flush=True)
        checkpoint = run / "checkpoints" / "best.ckpt"
        if not (finish_fit(run, options) and lrkd("predict", f"--ckpt_path={checkpoint}", *predict)):
            raise UserError(f"part {part + 1} of {parts} failed: what it said stands above; the same command goes on")
        written.append(rationales_path(folder))
    rationales, _ = merge_rationales(written)
    write_rationales(rationales, key_order(rationales), rationales_path(out))
    Console(highlight=False, soft_wrap=True).print(
        f"Wrote {rationales.num_rows:,} rationales of {parts} policies to {rationales_path(out)}; next:\n"
        f"  python -m lrkd rationales conflicts --rationales {rationales_path(out)} --root ... --out ..."
    )


def _folder(options: list[str]) -> Path:
    """Where the fit with these options lives."""
    from lrkd.cli import PlannedFit

    return PlannedFit(["fit", *options]).folder
