"""The exported student's backbone as transformers' sequence classifier, which CrossEncoder loads with any backend."""

from __future__ import annotations

import json
from pathlib import Path

from lrkd.errors import UserError


def write_backbone(export: Path, folder: Path) -> None:
    """Write the encoder with an untrained linear head: what a CrossEncoder computes does not depend on its weights.

    Args:
        export: A folder that ``export`` wrote, with ``cross_encoder``.
        folder: The folder to make.

    Raises:
        UserError: ``export`` has no ``cross_encoder``.
    """
    settings = export / "cross_encoder" / "config.json"
    if not settings.is_file():
        raise UserError(f"{export}: holds no cross_encoder, from which the peers' backbone is made; export it with one")
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from lrkd.pretrained import load_tokenizer

    init = json.loads(settings.read_text(encoding="utf-8"))["init_args"]
    encoder = dict(init["encoder_config"])
    labels = init["label_set"]["labels"]
    config = AutoConfig.for_model(encoder.pop("model_type"), **encoder, num_labels=len(labels))
    model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer = load_tokenizer(init["encoder"])
    tokenizer.model_max_length = json.loads(settings.read_text(encoding="utf-8"))["max_length"]
    tokenizer.save_pretrained(folder)
