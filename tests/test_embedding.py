"""``rationales embed``: what is stored, what is refused, and what a kill leaves behind."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lrkd import embedding
from lrkd.data.rationales import read_rationales
from lrkd.data.targets import KEY, VECTORS, TargetStore, read_fingerprint
from lrkd.data.types import RATIONALES_FILE, RATIONALES_SCHEMA
from lrkd.embedding import embed_rationales
from lrkd.errors import UserError
from lrkd.sentence_encoder import SentenceEncoder


@pytest.fixture(scope="module")
def encoder(tiny_sentence_encoder):
    return SentenceEncoder(tiny_sentence_encoder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_root, tiny_sentence_encoder):
    """A store made in one go, in chunks of 8."""
    out = tmp_path_factory.mktemp("embedded") / "targets"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "CHUNK", 8)
        embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=out)
    return out


@pytest.fixture
def root(tmp_path, tiny_root):
    """A data root of one's own, to change."""
    return Path(shutil.copytree(tiny_root, tmp_path / "root"))


def rewrite(root, **columns):
    table = read_rationales(root)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), RATIONALES_SCHEMA.field(name), pa.array(values))
    pq.write_table(table, root / RATIONALES_FILE)


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


def test_every_rationale_has_its_own_unit_vector(finished, tiny_root, encoder):
    store, rationales = TargetStore.open(finished), read_rationales(tiny_root)
    assert store.index.equals(rationales.select([*KEY, "verdict"]))
    assert sorted(path.name for path in finished.iterdir()) == ["fingerprint.json", "index.parquet", "vectors.npy"]
    np.testing.assert_allclose(np.linalg.norm(store.vectors, axis=1), 1, atol=1e-5)
    for row in (0, 17, rationales.num_rows - 1):  # alone, not in a batch of like lengths
        alone = encoder.encode([rationales["rationale"][row].as_py()], 1)[0]
        np.testing.assert_allclose(store.vectors[row], alone, atol=1e-5)


def test_a_vector_is_the_normalised_mean_of_the_last_hidden_states(finished, tiny_root, tiny_encoder):
    import torch
    from transformers import AutoModel, AutoTokenizer

    text = read_rationales(tiny_root)["rationale"][3].as_py()
    tokens = AutoTokenizer.from_pretrained(tiny_encoder)(text, return_tensors="pt", truncation=True)
    with torch.no_grad():
        mean = AutoModel.from_pretrained(tiny_encoder).eval()(**tokens).last_hidden_state[0].mean(0)
    np.testing.assert_allclose(TargetStore.open(finished).vectors[3], mean / mean.norm(), atol=1e-5)


def test_the_fingerprint_says_how_the_vectors_were_made(finished, encoder, tiny_sentence_encoder):
    found = dataclasses.asdict(read_fingerprint(finished))
    assert found.pop("weights") == encoder.weights
    assert len(found.pop("rationales")) == 64
    assert found == {
        "encoder": tiny_sentence_encoder,
        "pooling": encoder.pooling,
        "normalised": True,
        "max_length": 64,
        "dtype": "float32",
        "text": "{rationale}",
        "precision": "float32",
    }
    assert '"pooling_mode": "mean"' in encoder.pooling


def test_bfloat16_computes_in_bfloat16(finished, tiny_root, tiny_sentence_encoder, tmp_path):
    embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=tmp_path / "brief", precision="bfloat16")
    brief, full = TargetStore.open(tmp_path / "brief").vectors, TargetStore.open(finished).vectors
    assert brief.dtype == np.float32
    assert not np.allclose(brief, full, atol=1e-5)
    assert (brief * full).sum(1).min() > 0.99


def test_half_precision_is_stored_as_such(finished, tiny_root, tiny_sentence_encoder, tmp_path):
    embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=tmp_path / "half", dtype="float16")
    half = TargetStore.open(tmp_path / "half").vectors
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, TargetStore.open(finished).vectors, atol=1e-3)


@pytest.mark.parametrize("text", ["{verdict}: {rationale}", "{perspective} {rationale}", "{verdict}"])
def test_the_template_decides_what_is_embedded(text, finished, tiny_root, tiny_sentence_encoder, encoder, tmp_path):
    embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=tmp_path / "out", text=text)
    store = TargetStore.open(tmp_path / "out")
    row = read_rationales(tiny_root).slice(5, 1).to_pylist()[0]
    np.testing.assert_allclose(store.vectors[5], encoder.encode([text.format(**row)], 1)[0], atol=1e-5)
    assert np.abs(store.vectors - TargetStore.open(finished).vectors).max() > 1e-3


def test_a_finished_store_of_the_same_settings_is_left_alone(finished, tiny_root, tiny_sentence_encoder, capsys):
    before = contents(finished)
    embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=finished)
    assert contents(finished) == before
    assert "nothing to do" in capsys.readouterr().out


# Trap 45: what differs is refused, and named; the store in the way stays as it is.


@pytest.fixture(scope="module")
def other_encoders(tmp_path_factory, tiny_sentence_encoder):
    """The same weights with another pooling, and another's weights with the same pooling."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("others")
    for name in ("pooling", "weights"):
        shutil.copytree(tiny_sentence_encoder, folder / name)
    config = next((folder / "pooling").glob("*Pooling/config.json"))
    config.write_text(config.read_text().replace('"mean"', '"cls"'))
    weights = load_file(folder / "weights" / "model.safetensors")
    save_file({key: value + 1e-4 for key, value in weights.items()}, folder / "weights" / "model.safetensors")
    return folder


@pytest.mark.parametrize("unfinished", [False, True], ids=["finished", "unfinished"])
@pytest.mark.parametrize("change", ["weights", "pooling", "max_length", "dtype", "text", "precision", "rationales"])
def test_a_store_made_otherwise_is_refused(
    change, unfinished, finished, root, tiny_sentence_encoder, other_encoders, tmp_path
):  # trap 45
    out = tmp_path / "out"
    store = shutil.copytree(finished, out.with_name("out.partial") if unfinished else out)
    if unfinished:
        (store / "index.parquet").unlink()
        np.save(store / embedding.DONE, np.zeros(52, bool))
    settings = {
        "max_length": {"max_length": 16},
        "dtype": {"dtype": "float16"},
        "text": {"text": "Why: {rationale}"},
        "precision": {"precision": "bfloat16"},
    }
    encoder = str(other_encoders / change) if change in ("weights", "pooling") else tiny_sentence_encoder
    if change == "rationales":
        rewrite(root, rationale=["changed", *read_rationales(root)["rationale"].to_pylist()[1:]])
    before = contents(store)
    with pytest.raises(UserError, match=rf"holds targets made otherwise \({change}: [^;]*\)"):
        embed_rationales(root=root, encoder=encoder, out=out, **settings.get(change, {}))
    assert contents(store) == before


def test_a_changed_verdict_is_another_store_too(finished, root, tiny_sentence_encoder):  # trap 45
    rewrite(root, verdict=["Exact"] * 52)
    with pytest.raises(UserError, match="rationales:"):
        embed_rationales(root=root, encoder=tiny_sentence_encoder, out=finished)


def test_the_same_weights_in_another_place_are_the_same_encoder(finished, tiny_root, tiny_sentence_encoder, tmp_path):
    moved = shutil.copytree(tiny_sentence_encoder, tmp_path / "moved")
    before = contents(finished)
    embed_rationales(root=tiny_root, encoder=str(moved), out=finished)
    assert contents(finished) == before


def test_rationales_beside_the_root_are_embedded_in_the_order_given(
    finished, root, tiny_sentence_encoder, tmp_path, capsys
):
    table, files = read_rationales(root), [tmp_path / "b.parquet", tmp_path / "a"]
    (root / RATIONALES_FILE).unlink()
    files[1].mkdir()
    pq.write_table(table.slice(0, 20), files[0])
    pq.write_table(pa.concat_tables([table.slice(19, 1), table.slice(20)]), files[1] / RATIONALES_FILE)
    out = tmp_path / "out"
    embed_rationales(root=root, encoder=tiny_sentence_encoder, out=out, rationales=files)
    assert f"Read 53 rationales from {files[0]}, {files[1] / RATIONALES_FILE}" in capsys.readouterr().out
    store, one = TargetStore.open(out), TargetStore.open(finished)
    # A key of both files: the second file's samples are counted on, and nothing is lost.
    assert store.index["sample"].to_pylist()[20:] == [2 + n for n in one.index["sample"].to_pylist()[19:]]
    np.testing.assert_allclose(store.vectors, one.vectors[[*range(20), 19, *range(20, 52)]], atol=1e-5)
    with pytest.raises(UserError, match=r"a/rationales\.parquet: given twice"):
        embed_rationales(root=root, encoder=tiny_sentence_encoder, out=out, rationales=[*files, files[1]])


def test_texts_are_batched_by_tokens_not_by_characters(root, tiny_sentence_encoder, encoder, tmp_path, monkeypatch):
    texts = ["☃" * 90, "shoes " * 9] * 26  # an unknown word is one token, however long
    rewrite(root, rationale=texts)
    batches = []
    inner = encoder.model.encode
    monkeypatch.setattr(type(encoder.model), "encode", lambda _, t, **kw: batches.append(t) or inner(t, **kw))
    embed_rationales(root=root, encoder=tiny_sentence_encoder, out=tmp_path / "out", batch_size=26)
    counts = [set(encoder.token_counts(batch)) for batch in batches]
    assert [len(batch) for batch in batches] == [26, 26]
    assert all(len(count) == 1 for count in counts)
    assert max(counts[0]) > max(counts[1])


# Killed and restarted

KILLED_IN_THE_SECOND_CHUNK = """
import os, signal, sys
from pathlib import Path
from lrkd import embedding

encode, calls = embedding.SentenceEncoder.encode, []

def killed(self, texts, batch_size):
    calls.append(texts)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(self, texts, batch_size)

embedding.SentenceEncoder.encode = killed
embedding.CHUNK = 8
embedding.embed_rationales(root=Path(sys.argv[1]), encoder=sys.argv[2], out=Path(sys.argv[3]))
"""


@pytest.fixture
def encoded(monkeypatch):
    """The texts that are encoded, in chunks of 8."""
    texts = []
    encode = SentenceEncoder.encode
    monkeypatch.setattr(embedding, "CHUNK", 8)
    monkeypatch.setattr(SentenceEncoder, "encode", lambda self, t, n: texts.extend(t) or encode(self, t, n))
    return texts


def test_killed_and_restarted_nothing_is_lost_or_done_twice(
    tiny_root, tiny_sentence_encoder, finished, encoded, tmp_path, capsys
):  # trap 17
    out = tmp_path / "targets"
    command = [sys.executable, "-c", KILLED_IN_THE_SECOND_CHUNK, str(tiny_root), tiny_sentence_encoder, str(out)]
    killed = subprocess.run(command, env=os.environ, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not out.exists()
    done = np.load(out.with_name("targets.partial") / embedding.DONE)
    assert done.sum() == 8
    with pytest.raises(UserError, match="unfinished"):
        TargetStore.open(out.with_name("targets.partial"))

    embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=out)
    texts = read_rationales(tiny_root)["rationale"].to_pylist()
    assert sorted(encoded) == sorted(text for text, there in zip(texts, done, strict=True) if not there)
    assert "8 of them were there from a run that was interrupted" in capsys.readouterr().out
    np.testing.assert_allclose(TargetStore.open(out).vectors, TargetStore.open(finished).vectors, atol=1e-6)
    assert not out.with_name("targets.partial").exists()


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("where", ["write_fingerprint", "pq.write_table", "Path.rename", "Path.unlink"])
def test_a_kill_at_any_step_can_be_gone_on_from(
    where, tiny_root, tiny_sentence_encoder, finished, tmp_path, monkeypatch
):  # trap 17
    out = tmp_path / "targets"

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(f"lrkd.embedding.{where}", killed)
        with pytest.raises(Killed):
            embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=out)
    embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=out)
    np.testing.assert_allclose(np.load(out / VECTORS), TargetStore.open(finished).vectors, atol=1e-5)
    assert TargetStore.open(out).index.num_rows == 52


# Wrong arguments


@pytest.mark.parametrize("text", ["", "why", "{rationale} {label}", "{}"])
def test_a_template_without_rationale_or_with_unknown_fields_is_refused(text, tiny_root, tmp_path):
    with pytest.raises(UserError, match="a template over rationale"):
        embed_rationales(root=tiny_root, encoder="never loaded", out=tmp_path / "out", text=text)


def test_no_rationales_and_unknown_verdicts_are_refused_before_the_encoder_loads(root, tmp_path):
    rewrite(root, verdict=["Perhaps"] * 52)
    with pytest.raises(UserError, match="row 1, column 'verdict'"):
        embed_rationales(root=root, encoder="never loaded", out=tmp_path / "out")
    pq.write_table(RATIONALES_SCHEMA.empty_table(), root / RATIONALES_FILE)
    with pytest.raises(UserError, match="no rationale to embed"):
        embed_rationales(root=root, encoder="never loaded", out=tmp_path / "out")
    (root / RATIONALES_FILE).unlink()
    with pytest.raises(UserError, match="no such file; wanted are rationales"):
        embed_rationales(root=root, encoder="never loaded", out=tmp_path / "out")


@pytest.mark.parametrize("max_length", [3, 65])
def test_a_length_that_the_encoder_cannot_take_is_refused(max_length, tiny_root, tiny_sentence_encoder, tmp_path):
    with pytest.raises(UserError, match=f"max_length {max_length}: .* takes 4 to 64 tokens"):
        embed_rationales(root=tiny_root, encoder=tiny_sentence_encoder, out=tmp_path / "out", max_length=max_length)
