# Every target does its own set-up; that costs nothing once it is done.
#   make demo    from a fresh clone to a report          make test    lint, then every test
PYTHON ?= python3
PYTEST_FLAGS ?= -n 2 --dist worksteal
STAMP := .venv/.installed
BEGUN := .venv/.installing
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test bench fuzz survive lint format clean FORCE

setup: $(STAMP)
	@:

demo: setup
	.venv/bin/finetune run recipes/vehicles.yaml

test: lint
	.venv/bin/python -m pytest $(PYTEST_FLAGS)

# Side by side with what people write by hand, half an hour on an idle machine; BENCH_FLAGS="T1 --rounds 5".
bench: setup
	.venv/bin/python benchmarks/speed.py $(BENCH_FLAGS)

# Foreign bytes into the readers of recipes, weights and images, a minute each. FUZZ_FLAGS=--full: by count, not time.
fuzz: setup
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.fuzz $(FUZZ_FLAGS)

# Kills, full disks, failing calls through the command line, half an hour or more; SURVIVE_FLAGS="C12 E" takes some rows.
survive: setup
	@for tool in strace unshare mount prlimit; do \
		command -v $$tool >/dev/null || echo "$$tool is missing (packages strace, util-linux): its rows are not run"; done
	OMP_NUM_THREADS=1 .venv/bin/python -m tests.survive $(SURVIVE_FLAGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

format: setup
	.venv/bin/ruff check --fix-only --quiet .
	.venv/bin/ruff format .

# Caches and build leftovers; never runs/ and data/, which are the user's.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

# The stamp names the folder it was made for: the scripts of a copied or moved .venv run the code of the old folder.
ifneq ($(shell cat $(STAMP) 2>/dev/null)$(wildcard $(BEGUN)),$(CURDIR))
$(STAMP): FORCE
endif

# editable_mode=compat: by a path, not by a finder, so that `import finetune` in the clone's parent folder finds the
# package and not the clone as an empty namespace.
# BEGUN stands while pip works. One that is still there tells of a killed install, which pip cannot mend: it takes a
# half-copied package for an installed one. Then, as after a move, the environment is made anew. An update that pip
# itself gives up (no network, versions that don't fit) leaves what was there.
$(STAMP): pyproject.toml constraints.txt
	@mkdir -p .venv
	@if [ -e $(STAMP) ] && [ "$$(cat $(STAMP))" != "$(CURDIR)" ]; then touch $(BEGUN); fi
	@if [ -e $(BEGUN) ]; then find .venv -mindepth 1 -maxdepth 1 ! -path $(BEGUN) -exec rm -rf {} +; fi
	@touch $(BEGUN)
	@echo "installing into .venv (from nothing, PyTorch and all: about 6 GB, some minutes)"
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@.venv/bin/python -m pip install --quiet -c constraints.txt --config-settings editable_mode=compat -e '.[dev]' \
		|| { [ ! -e $(STAMP) ] || rm $(BEGUN); exit 1; }
	@echo "$(CURDIR)" >$(STAMP) && rm $(BEGUN)
