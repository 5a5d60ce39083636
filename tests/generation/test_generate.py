import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_llms import CHATML, save

from lrkd.__main__ import main
from lrkd.data.pairs import write_table
from lrkd.data.rationales import read_rationales
from lrkd.data.types import PAIRS_SCHEMA
from lrkd.generation import generate, transformers_engine
from lrkd.generation.jobs import Completion
from lrkd.generation.store import CompletionStore
from lrkd.prompts import PromptBook
from lrkd.prompts.card import TeacherCard

BOOK = PromptBook.load("esci")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llm"), CHATML)


def arguments(root, out, model, **options):
    settings = {"root": root, "out": out, "model": model, "precision": "float32", "device": "cpu"} | options
    return ["rationales", "generate"] + [
        word
        for name, value in settings.items()
        for word in (f"--{name}", *([str(v) for v in value] if isinstance(value, list) else [str(value)]))
    ]


class Parrot:
    """An engine that answers by the prompt alone, well or badly by the pair's number."""

    weights = None

    def __init__(self, model, **settings):
        self.teacher, self.sampling = model, settings["sampling"]

    def generate(self, jobs):
        for job in reversed(jobs):
            self.prompts.append(job.prompt)
            number = int(job.key.pair_id.partition("-i")[2])
            ending = ("Verdict: Exact", "Verdict: Exakt", "No verdict", "Verdict: Irrelevant")[number % 4]
            text = f"Looked at {job.prompt.shared[-20:]}\n{ending}"
            yield Completion(job.key, text, number != 4, 100, 10)


@pytest.fixture
def parrot(monkeypatch):
    monkeypatch.setattr(transformers_engine, "TransformersEngine", Parrot)
    monkeypatch.setattr(Parrot, "prompts", [], raising=False)
    return Parrot


def store_of(out):
    return CompletionStore(out / generate.STORE_FILE)


def test_every_pair_perspective_and_sample_is_there_and_counted(tiny_root, tmp_path, parrot, capsys):
    main(arguments(tiny_root, tmp_path, "polly", samples=2, temperature=0.5))
    with store_of(tmp_path) as store:
        pairs = pq.read_table(tiny_root / "pairs.parquet")["pair_id"].to_pylist()
        assert store.keys() == {(p, q.name, s) for p in pairs for q in BOOK.perspectives for s in (0, 1)}
        counts = store.counts()
        assert {c.teacher for c in store} == {"polly"}
        assert {c.prompt_version for c in store} == {BOOK.version}
    # 24 pairs: numbers 0 mod 4 say Exact (6, of which 4 was cut off), 3 mod 4 Irrelevant (6); twice a perspective
    assert counts.parsed == {p.name: 22 for p in BOOK.perspectives}
    failures = {"cut_off": 2, "no_verdict": 12, "unknown_label": 12}
    assert counts.failures == {p.name: failures for p in BOOK.perspectives}
    assert (counts.prompt_tokens, counts.tokens) == (14_400, 1_440)
    table = read_rationales(tmp_path)
    assert table.num_rows == 66
    assert set(table["verdict"].to_pylist()) == {"Exact", "Irrelevant"}
    printed = capsys.readouterr().out
    assert f"Read 24 pairs from {tiny_root / 'pairs.parquet'}; prompts {BOOK.version}, items as '{{title}}'" in printed
    assert "144 completions wanted (user_intent, structured_analysis, business_rule; 2 each), 0 of them" in printed
    assert "user_intent: 22 parsed; without a rationale: 2 cut_off, 12 no_verdict, 12 unknown_label" in printed
    assert "Wrote 66 rationales" in printed


def test_no_prompt_depends_on_the_gold_label(tiny_root, tmp_path, parrot):  # trap 16
    pairs = pq.read_table(tiny_root / "pairs.parquet")
    labels = pairs["label"].to_pylist()
    for name, column in {"as_is": labels, "turned": labels[1:] + labels[:1], "none": [None] * len(labels)}.items():
        changed = pairs.set_column(pairs.schema.get_field_index("label"), "label", pa.array(column, pa.string()))
        write_table(changed, tmp_path / name / "pairs.parquet", PAIRS_SCHEMA)
    prompts = []
    for name in ("as_is", "turned", "none"):
        parrot.prompts.clear()
        main(arguments(tmp_path / name, tmp_path / name / "out", "polly", item_text="{title} {brand}"))
        prompts.append(list(parrot.prompts))
    assert prompts[0] == prompts[1] == prompts[2]
    assert "Query: coffee mug without handle\nProduct: Cast iron pan brand 0" in {
        p.shared[-65:] for p in prompts[0]
    } | {p.shared[p.shared.index("Query: ") :] for p in prompts[0]}


def test_the_label_column_is_not_even_read(tiny_root, tmp_path, parrot):  # trap 16
    pairs = pq.read_table(tiny_root / "pairs.parquet").drop_columns(["label"])
    pq.write_table(pairs, tmp_path / "pairs.parquet")
    main(arguments(tmp_path, tmp_path / "out", "polly"))
    assert read_rationales(tmp_path / "out").num_rows == 33


def test_what_is_written_for_can_be_narrowed(tiny_root, tmp_path, parrot):
    def keys(out, **options):
        main(arguments(tiny_root, tmp_path / out, "polly", **options))
        with store_of(tmp_path / out) as store:
            return store.keys()

    pairs = pq.read_table(tiny_root / "pairs.parquet")
    validation = {r["pair_id"] for r in pairs.to_pylist() if r["split"] == "val"}
    assert {k.pair_id for k in keys("val", split="val")} == validation
    found = keys("some", perspectives=["neutral", "user_intent"], limit=3)
    assert found == {(p, q, 0) for p in pairs["pair_id"].to_pylist()[:3] for q in ("neutral", "user_intent")}
    # every third pair has no rationale; neutral has none at all
    missing = keys("missing", perspectives=["neutral", "user_intent"], missing_only=True)
    without = {f"q{n // 3}-i{n}" for n in range(0, 24, 3)}
    assert {k.pair_id for k in missing if k.perspective == "user_intent"} == without
    assert len({k.pair_id for k in missing if k.perspective == "neutral"}) == 24


def test_parts_merge_into_the_whole(tiny_root, tmp_path, parrot, capsys):
    main(arguments(tiny_root, tmp_path / "whole", "polly"))
    for part in (0, 1, 2):
        main(arguments(tiny_root, tmp_path / f"part{part}", "polly", part=part, parts=3))
    folders = [str(tmp_path / f"part{part}") for part in (0, 1, 2)]
    main(["rationales", "merge", "--stores", *folders, "--out", str(tmp_path / "merged")])
    assert "72 completions are new" in capsys.readouterr().out
    assert read_rationales(tmp_path / "merged").equals(read_rationales(tmp_path / "whole"))


def test_a_second_run_goes_on_and_adds_perspectives_and_samples(tiny_root, tmp_path, parrot, capsys):
    main(arguments(tiny_root, tmp_path, "polly", perspectives=["user_intent"], temperature=1, limit=5))
    first = read_rationales(tmp_path)
    parrot.prompts.clear()
    main(arguments(tiny_root, tmp_path, "polly", samples=2, temperature=1))
    assert "144 completions wanted" in capsys.readouterr().out
    assert len(parrot.prompts) == 139
    rows = read_rationales(tmp_path).to_pylist()
    assert all(row in rows for row in first.to_pylist())
    parrot.prompts.clear()
    main(arguments(tiny_root, tmp_path, "polly", samples=2, temperature=1))
    assert parrot.prompts == []


def test_an_exported_teacher_is_asked_as_it_was_trained(tiny_root, tmp_path, parrot, capsys):
    """The parrot's name is its folder, as that of a model which vLLM serves from one is."""
    book = tmp_path / "own.yaml"
    book.write_text(PromptBook.load("esci").to_json().replace("Judge as the shopper", "Judge as a shopper"))
    own = PromptBook.load(str(book))
    (tmp_path / "polly").mkdir()
    TeacherCard("{title} by {brand}", 20, own.version, "sft", "runs/sft").write(tmp_path / "polly", own)
    main(arguments(tiny_root, tmp_path / "out", tmp_path / "polly"))
    assert f"prompts {own.version}, items as '{{title}} by {{brand}}', 20 characters" in capsys.readouterr().out
    mug = next(prompt for prompt in parrot.prompts if "Cast iron pan" in prompt.shared)
    assert "Product: Cast iron pan by bra" in mug.shared
    assert "Judge as a shopper" in "".join(prompt.user for prompt in parrot.prompts)
    main(arguments(tiny_root, tmp_path / "out", tmp_path / "polly", prompts=book, item_chars=20))  # as trained
    for option, value, message in (
        ("prompts", "esci", f"was trained with '{own.version}' and would be asked with '{BOOK.version}'"),
        ("item_text", "{title}", "was trained with '{title} by {brand}' and would be asked with '{title}'"),
        ("item_chars", 30, "was trained with 20 and would be asked with 30"),
    ):
        for place in ({"model": tmp_path / "polly"}, {"model": "coco", "adapter": tmp_path / "polly"}):
            with pytest.raises(SystemExit):
                main(arguments(tiny_root, tmp_path / "other", **place | {option: value}))
            assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 2}, "temperature above 0"),
        ({"samples": 0}, "at least 1"),
        ({"top_p": 0}, "top_p above 0"),
        ({"perspectives": ["mood"]}, "no perspective 'mood'"),
        ({"part": 2, "parts": 2}, "part 2: is 0 to 1"),
        ({"limit": 0}, "no pair to write for"),
        ({"label_set": "wands"}, "the label set 'wands' has"),
        ({"item_text": "{label}"}, "names ['label']"),
        ({"server": "http://localhost:1/v1", "adapter": "x"}, "adapter: a server applies"),
    ],
)
def test_mistakes_are_named(tiny_root, tmp_path, parrot, capsys, options, message):
    with pytest.raises(SystemExit):
        main(arguments(tiny_root, tmp_path, "polly", **options))
    assert message in capsys.readouterr().err


def test_other_settings_and_foreign_rationales_are_refused(tiny_root, tmp_path, parrot, capsys):
    main(arguments(tiny_root, tmp_path, "polly", limit=1))
    with pytest.raises(SystemExit):
        main(arguments(tiny_root, tmp_path, "coco", limit=1))
    assert "teacher 'polly', not 'coco'" in capsys.readouterr().err
    out = tmp_path / "foreign"
    out.mkdir()
    shutil.copy(tiny_root / "rationales.parquet", out)
    before = (out / "rationales.parquet").read_bytes()
    with pytest.raises(SystemExit):
        main(arguments(tiny_root, out, "polly"))
    assert "would be lost" in capsys.readouterr().err
    assert (out / "rationales.parquet").read_bytes() == before


def test_a_tiny_model_writes_and_what_is_cut_off_is_a_failure(tiny_root, tmp_path, folder):
    main(arguments(tiny_root, tmp_path, folder, limit=2, max_new_tokens=4))
    with store_of(tmp_path) as store:
        assert all(c.failure == "cut_off" for c in store if not c.finished)
        assert any(not c.finished for c in store)
        assert all(c.tokens == 4 for c in store if not c.finished)
        assert len(store) == 6
        assert store.made["weights"]


def test_killed_and_restarted_equals_uninterrupted(tiny_root, tmp_path, folder):  # trap 17
    options = {"samples": 3, "temperature": 1.0, "top_p": 0.9, "max_new_tokens": 24, "token_budget": 2000}
    main(arguments(tiny_root, tmp_path / "whole", folder, **options))
    killed = tmp_path / "killed"
    path = killed / generate.STORE_FILE
    counts = []
    for wanted in (10, 60):
        command = [sys.executable, "-m", "lrkd", *arguments(tiny_root, killed, folder, **options)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ.copy())
        while process.poll() is None and rows_in(path) < wanted:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        counts.append(rows_in(path))
    assert 10 <= counts[0] <= counts[1] < 216
    assert not (killed / "rationales.parquet").exists()
    main(arguments(tiny_root, killed, folder, **options))
    with store_of(killed) as store, store_of(tmp_path / "whole") as whole:
        assert len(store) == len(whole) == 24 * 3 * 3
        assert list(store) == list(whole)  # keys and texts: no key missing, none twice
    assert read_rationales(killed).equals(read_rationales(tmp_path / "whole"))


def rows_in(path):
    if not path.is_file():
        return 0
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return database.execute("SELECT count(*) FROM completions").fetchone()[0]
    except sqlite3.OperationalError:  # no table yet
        return 0
    finally:
        database.close()
