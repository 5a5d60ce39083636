"""What a checkpoint keeps as hyperparameters: plain values, and components as ``{"class_path", "init_args"}``.

The command line gives a module its components (extractor, guidance) ready made and keeps their specification. From
Python the specification itself is passed: objects would be saved into checkpoints and then refuse to load.
"""

from __future__ import annotations

import functools
import json
from importlib import import_module
from itertools import chain
from typing import Any, TypeVar

from lrkd.errors import UserError

T = TypeVar("T")


def component_factory(spec: dict[str, Any], base: type[T], argument: str) -> functools.partial[T]:
    """What a specification names, with its ``init_args`` bound.

    Args:
        spec: ``class_path`` and, optionally, ``init_args``.
        base: What the class must derive from.
        argument: Whose value this is, for messages.

    Raises:
        UserError: The specification has other keys, or names no such class.
    """
    if not isinstance(spec.get("class_path"), str) or not set(spec) <= {"class_path", "init_args"}:
        raise UserError(f"{argument}: expected {{'class_path': ..., 'init_args': {{...}}}}, got {spec!r}")
    module, _, name = spec["class_path"].rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"{argument}: cannot import {spec['class_path']!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{argument}: {spec['class_path']} is not a subclass of {base.__module__}.{base.__qualname__}")
    return functools.partial(found, **spec.get("init_args") or {})


def component_spec(value: object, argument: str) -> dict[str, Any] | None:
    """The specification to keep in a checkpoint for what was passed from Python.

    Args:
        value: None, a specification, or a ``functools.partial`` of an importable class with plain keyword arguments.
        argument: Whose value this is, for messages.

    Raises:
        UserError: A bare class, an instance or another callable, or arguments that are not plain: they would be saved
            and then not load.
    """
    made = value.func if isinstance(value, functools.partial) else value
    kind = made if isinstance(made, type) else type(made)
    # A class inside a function or another class is not found again by its module and name.
    importable = made is kind and "." not in kind.__qualname__
    if isinstance(value, functools.partial) and importable and not value.args:
        value = {"class_path": _path(kind), "init_args": dict(value.keywords)}
    if value is None or isinstance(value, dict):
        if value is not None and not _plain(value.get("init_args")):
            raise UserError(
                f"{argument}: init_args that a checkpoint can keep are plain values (numbers, texts, lists, dicts), "
                f"got {value['init_args']!r:.80}"
            )
        return value
    raise UserError(
        f"{argument}: a checkpoint cannot keep {value!r:.80}; pass {{'class_path': '{_path(kind)}', "
        "'init_args': {}} of a class that stands in a module"
    )


def _plain(value: object) -> bool:
    """Whether a checkpoint loads it again under torch's weights-only default."""
    if isinstance(value, dict):
        return all(map(_plain, chain.from_iterable(value.items())))
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def refuse_different_hyperparameters(given: dict[str, Any], saved: dict[str, Any]) -> None:
    """Compare a model's hyperparameters with a checkpoint's.

    Raises:
        UserError: They differ; names each with both values.
    """
    ignored = {"encoder_config", "_instantiator", "_class_path"}
    different = [
        f"{name} is {given.get(name)!r} here and {saved[name]!r} there"
        for name in sorted(saved.keys() - ignored)
        if json.dumps(given.get(name), sort_keys=True, default=str)
        != json.dumps(saved[name], sort_keys=True, default=str)
    ]
    if different:
        raise UserError(
            f"the checkpoint was trained with other settings: {'; '.join(different)}. A checkpoint keeps its settings: "
            "drop the option, or start a new run without --ckpt_path"
        )
