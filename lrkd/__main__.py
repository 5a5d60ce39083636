"""``python -m lrkd``: one program, a command a stage; only the stage that is asked for is imported."""

from __future__ import annotations

import os
import sys
from importlib import import_module

from lrkd import __version__
from lrkd.errors import UserError

TRAINING = {
    "fit": "train a student or a teacher",
    "validate": "measure a checkpoint on the validation split",
    "test": "measure a checkpoint on the test split",
    "predict": "score pairs, or write rationales, with a checkpoint",
}

STAGES = {
    "data import": ("lrkd.data.importers:import_data", "ESCI, WANDS or a table of your own into a data root"),
    "data split": ("lrkd.data.split:split_data", "train/val/test and folds, by query"),
    "data audit": ("lrkd.data.audit:audit_data", "leaks, label noise, lengths, yield of rationales"),
    "data synthesize": ("lrkd.data.synthetic:synthesize_data", "a synthetic catalogue with labels and rationales"),
    "teacher create": ("lrkd.teacher.create:create_teacher", "a small untrained language model, to try the method"),
    "teacher export": ("lrkd.teacher.export:export_teacher", "a trained teacher as a folder that transformers loads"),
    "rationales filter": ("lrkd.teacher.filtering:filter_rationales", "rationales whose verdict is the gold label"),
    "rationales conflicts": ("lrkd.teacher.conflicts:mine_conflicts", "preference pairs from conflicting rationales"),
    "rationales crossfit": ("lrkd.teacher.crossfit:crossfit", "a policy's rationales for pairs it was not trained on"),
    "rationales generate": ("lrkd.generation.generate:generate_rationales", "an LLM's rationales for pairs, resumable"),
    "rationales merge": ("lrkd.generation.merge:merge_rationales", "the rationales of several processes into one file"),
    "rationales embed": ("lrkd.embedding:embed_rationales", "rationales into target vectors"),
    "ablation": ("lrkd.experiments.ablation:ablation", "methods by folds and seeds from one file, into one table"),
    "sweep": ("lrkd.experiments.sweep:sweep", "the grid of a W&B sweep file, fitted here without W&B"),
    "compare": ("lrkd.evaluate.compare:compare", "runs side by side: intervals, tests, slices, ensembles, plots"),
    "export": ("lrkd.serve.export:export_student", "a trained student as ONNX with all that serving needs"),
    "score": ("lrkd.serve.score_files:score", "a file of pairs of any size into a file of scores, without torch"),
    "bench": ("lrkd.serve.bench.command:bench", "latency and pairs a second, beside CrossEncoder and a teacher"),
    "attention": ("lrkd.evaluate.attention:plot_attention", "a picture of the tokens that a student's latents look at"),
    "probe": ("lrkd.evaluate.probe:probe", "what can be read from a student's latents and from its [CLS]"),
    "explain": ("lrkd.evaluate.explain:explain", "the teacher's rationales nearest to a student's latents"),
    "serve": ("lrkd.serve.server:serve", "an exported student over HTTP, with a page for people"),
}


def usage() -> str:
    """The top-level help."""
    width = max(map(len, [*TRAINING, *STAGES])) + 2
    lines = [f"  {name:<{width}}{text}" for name, text in TRAINING.items()]
    stages = [f"  {name:<{width}}{text}" for name, (_, text) in STAGES.items()]
    return "\n".join(
        [
            "usage: python -m lrkd COMMAND [options]",
            "",
            "Distil multi-perspective LLM reasoning into a small, fast relevance model.",
            "",
            "data and evaluation:",
            *stages,
            "",
            "training (LightningCLI, with --config):",
            *lines,
            "",
            "`python -m lrkd COMMAND --help` shows a command's options.",
        ]
    )


def _run_stage(name: str, args: list[str]) -> None:
    from jsonargparse import auto_cli

    module, _, function = STAGES[name][0].partition(":")
    command = getattr(import_module(module), function)
    auto_cli(command, args=_listed(args), as_positional=False, prog=f"python -m lrkd {name}", fail_untyped=False)


def _listed(args: list[str]) -> list[str]:
    """``--runs a b`` as ``--runs+ a --runs+ b``, which is how jsonargparse takes several values of a list."""
    listed: list[str] = []
    if not args:
        return listed
    start = 0
    for end in [i for i, arg in enumerate(args) if arg.startswith("--") and i] + [len(args)]:
        option, values = args[start], args[start + 1 : end]
        listed += [option, *values] if len(values) < 2 else [x for value in values for x in (f"{option}+", value)]
        start = end
    return listed


def main(args: list[str] | None = None) -> None:
    """Dispatch one command.

    Args:
        args: The command line after the program's name.

    Raises:
        SystemExit: The command failed (status 2 for the user's mistakes), or only help was asked for.
    """
    args = sys.argv[1:] if args is None else args
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if args[0] == "--version":
        print(f"lrkd {__version__}")
        return
    try:
        if args[0] in TRAINING:
            from lrkd.cli import run

            run(args)
        elif args[0] in STAGES:
            _run_stage(args[0], args[1:])
        elif " ".join(args[:2]) in STAGES:
            _run_stage(" ".join(args[:2]), args[2:])
        else:
            raise UserError(f"no command {' '.join(args[:2])!r}\n\n{usage()}")
    except ValueError as error:
        mistake = _mistake(error)
        if mistake is None or "LRKD_TRACEBACK" in os.environ:
            raise
        print(f"error: {mistake}", file=sys.stderr)
        raise SystemExit(2) from error


def _mistake(error: BaseException | None) -> UserError | None:
    """The user's mistake behind an error: jsonargparse wraps what is raised while it makes a class."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return error


if __name__ == "__main__":
    main()
