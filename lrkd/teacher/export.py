"""``teacher export``: a trained teacher as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import yaml
from rich.console import Console

from lrkd.errors import UserError
from lrkd.hparams import component_factory
from lrkd.prompts.card import TeacherCard
from lrkd.runs import read_run

if TYPE_CHECKING:
    from lrkd.teacher.base import Teacher


def export_teacher(*, run: Path, out: Path, merge: bool = True) -> None:
    """Write a run's best checkpoint as a folder that ``AutoModelForCausalLM.from_pretrained`` and vLLM load.

    Beside the weights stand the tokenizer and how the teacher was trained to be asked: ``prompts.yaml``, its prompt
    book, and ``lrkd.json``, how it saw items. `rationales generate` reads both.

    Args:
        run: The folder of a finished fit of TeacherSFT or TeacherDPO.
        out: The folder to make.
        merge: Add the adapters to the weights; if not, the folder holds the adapters alone, and needs their base model.

    Raises:
        UserError: The run is none of a teacher, or the folder is there already.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; give another --out, or delete it")
    record = read_run(run)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    from lrkd.teacher.base import Teacher
    from lrkd.teacher.policy import export

    spec = {"class_path": config["model"]["class_path"]}
    kind = cast("type[Teacher]", component_factory(spec, Teacher, f"{run}/config.yaml: model").func)
    teacher = kind.load_from_checkpoint(record.checkpoint, map_location="cpu", weights_only=True)
    export(teacher.llm, teacher.tokenizer, out, merge=merge)
    text = teacher.hparams["text"] or {"item_text": None, "item_chars": None}
    card = TeacherCard(**text, prompt_version=teacher.book.version, method=record.method, run=str(run))
    card.write(out, teacher.book)
    what = "adapters" if teacher.adapted and not merge else "weights"
    Console(highlight=False, soft_wrap=True).print(
        f"Wrote the {what} of {record.checkpoint} to {out}; next:\n"
        f"  python -m lrkd rationales generate --model {out} --root ... --out ..."
    )
