# make demo · make test · make check · make check-long · make bench; the first call of any of them sets up .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check check-long format bench clean
setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/tropism demo

test: setup
	$(BIN)/python -m pytest -m 'not long' -n auto --maxprocesses 8 --dist loadfile

check: setup
	$(BIN)/python setup.py
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

check-long: setup
	$(BIN)/python -m pytest -m long

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[bench]'
	$(BIN)/python bench/start.py
	$(BIN)/python bench/update.py
	$(BIN)/python bench/generate.py
	$(BIN)/python bench/pretrain.py
	$(BIN)/python bench/sft_step.py
	$(BIN)/python bench/reward_step.py
	$(BIN)/python bench/dpo_step.py
	$(BIN)/python bench/rl_step.py
	$(BIN)/python bench/rl_step.py --peer rloo
	$(BIN)/python bench/memory.py
	$(BIN)/python bench/busy.py
	$(BIN)/python bench/parity.py

clean:
	rm -rf .venv runs
