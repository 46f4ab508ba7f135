# make demo: both tables on the drawn world, from scratch.   make test: the quick suite.   Both set everything up first.
# CONTRIBUTING.md says what the other suites prove and how long they take.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A file at a time, in order of name: xdist would leave files with few and long tests for the end, to one process.
PARALLEL = --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: lock demo reproduce test test-slow test-newest test-oldest test-build setup-plan test-plan test-sky plan-tpu plan-gpu proofs lint docs docs-serve dist pages pictures setup setup-test clean

# Huge pages halve the time that the kernel spends on XLA's buffers; where there are none the setting is ignored.
HUGE_PAGES = GLIBC_TUNABLES=glibc.malloc.hugetlb=1
demo: setup
	$(HUGE_PAGES) $(BIN)/python -m naturel_jax.main --config configs/demo.py

test: setup-test lint
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not proof"

test-slow: setup-test
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not proof"

# The quick suite with the newest libraries that the ranges of requirements.txt and pyproject.toml admit, or the oldest.
test-newest: RESOLUTION = highest
# Old libraries warn about the newer ones that they use in turn, which is no error of ours.
test-oldest: RESOLUTION = lowest-direct
test-oldest: WARNINGS = -W default
test-newest test-oldest: test-%:
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/python -m pip install -q uv
	.venv-$*/bin/uv pip install -q --python .venv-$*/bin/python --upgrade --resolution $(RESOLUTION) -e '.[test]'
	.venv-$*/bin/uv pip freeze --python .venv-$*/bin/python
	.venv-$*/bin/python -m pytest $(PARALLEL) $(WARNINGS) -m "not slow and not proof"

# TensorFlow, Beam and TFDS's own test case, and object stores where TensorFlow is installed: 2 GB in an environment of
# its own.
test-build:
	$(PYTHON) -m venv .venv-build
	.venv-build/bin/python -m pip install -q -e '.[build,test]'
	.venv-build/bin/python -m pytest tests/build
	.venv-build/bin/python -m pytest -m "not slow and not proof" tests/storage

# The TPU compiler (2 GB in an environment of its own) on the CPU: a step is compiled for TPUs that are not here.
PLAN = .venv-plan/bin/naturel-plan --config
PLANS = for remat in none dots full; do $(PLAN) siglip_tp --topology v5e:2x4 --config.compute.remat=$$remat; done; \
	$(PLAN) siglip_tp --topology v5e:16x16; $(PLAN) negclip_ap --topology v5e:2x4; \
	for remat in none dots; do for attention in "" splash; do $(PLAN) siglip_tp --topology v5e:2x4 \
		--config.init=hf:google/siglip2-base-patch16-512 --config.data.batch_size=64 --config.compute.remat=$$remat \
		--config.compute.attention=$$attention; done; done
setup-plan:
	$(PYTHON) -m venv .venv-plan
	.venv-plan/bin/python -m pip install -q -e '.[plan-tpu]' pytest

# Two of the recipes' steps, and what their programs are made of.
test-plan: setup-plan
	.venv-plan/bin/python -m pytest -m proof tests/planning/test_tpu_programs.py -k step_on_tpus

# SkyPilot (half a gigabyte in an environment of its own) reads and executes launch/tpu.sky.yaml; nothing is rented.
test-sky: setup-test
	$(PYTHON) -m venv .venv-sky
	.venv-sky/bin/python -m pip install -q 'skypilot>=0.14.1,<0.15'
	$(BIN)/python -m pytest -m proof tests/repository/test_launch.py

plan-tpu: setup-plan
	.venv-plan/bin/python -m pytest -m proof tests/planning/test_plan.py tests/planning/test_tpu_programs.py
	.venv-plan/bin/python -m proofs.record plan --tail=400 -- sh -c '$(PLANS)'
	.venv-plan/bin/python -m proofs.record fits_tpu -- .venv-plan/bin/python -m perf.fits tpu
	.venv-plan/bin/python -m proofs.record padding -- .venv-plan/bin/python -m perf.padding

# The GPU compiler (6 GB in an environment of its own) likewise.
PLAN_GPU = .venv-plan-gpu/bin/naturel-plan --config
PLANS_GPU = for remat in none dots full; do $(PLAN_GPU) siglip_tp --topology h100x8 --config.compute.remat=$$remat; done; \
	for remat in none dots; do $(PLAN_GPU) siglip_tp --topology h100x8 --config.compute.remat=$$remat \
		--config.compute.attention=cudnn; done; \
	$(PLAN_GPU) siglip_tp --topology h100x4x8; $(PLAN_GPU) negclip_ap --topology a100x8; \
	$(PLAN_GPU) siglip_tp --topology h100x8 --config.data.batch_size=1536 --search
plan-gpu:
	$(PYTHON) -m venv .venv-plan-gpu
	.venv-plan-gpu/bin/python -m pip install -q -e '.[plan-gpu]' pytest
	.venv-plan-gpu/bin/python -m pytest -m proof tests/planning/test_topologies.py tests/planning/test_gpu_programs.py
	.venv-plan-gpu/bin/python -m proofs.record plan_gpu --tail=400 -- sh -c '$(PLANS_GPU)'
	.venv-plan-gpu/bin/python -m proofs.record fits_gpu -- .venv-plan-gpu/bin/python -m perf.fits gpu
	.venv-plan-gpu/bin/python -m pip install -q tokamax==0.0.12
	.venv-plan-gpu/bin/python -m proofs.record kernels -- sh -c \
		'for part in agreement compiled; do .venv-plan-gpu/bin/python -m perf.kernels $$part; done'

# The poster's tables with the real data and weights, on GPUs (or DEVICE=gpu13, DEVICE=tpu). Says first what it
# downloads (docs/reproduce.md), and asks nothing.
DEVICE ?= gpu
reproduce: setup
	$(BIN)/python -m pip install -q -e '.[$(DEVICE),order]'
	$(BIN)/python -m naturel_jax.reproduce --workdir reproduction

# What is too long for every change: dated results under proofs/. Records those that are older than what they measure,
# for half an hour; the next call goes on. proofs/proofs.toml lists the commands.
MINUTES ?= 30
proofs: setup-test
	$(BIN)/python -m proofs.stale --record --minutes $(MINUTES)

lint: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in build/site. A broken link, heading or reference to the code is an error.
docs: $(VENV)/.docs
	PYTHONPATH=.ci $(BIN)/zensical build --strict --clean

docs-serve: $(VENV)/.docs
	PYTHONPATH=.ci $(BIN)/zensical serve

# The wheel and the source archive, in build/dist, and what PyPI would say about them.
dist: $(VENV)/.python
	$(BIN)/uv tool run --from build pyproject-build --outdir build/dist .
	$(BIN)/uv tool run twine check --strict build/dist/*

# What is derived from others: the notebook of the tutorial, the tables of config fields and of models, the diagram of a
# batch and the chart of exchanges.
pages: setup
	$(BIN)/python .ci/pages.py
	$(BIN)/python .ci/diagram.py
	$(BIN)/python .ci/models.py
	$(BIN)/python -m perf.exchange --plot docs/assets/exchange.svg

# Executes the tutorial's notebook in build/tutorial, and takes the pictures of the documentation from what it leaves
# there. A few minutes; needs Chromium.
pictures: setup-test
	$(BIN)/python -m pip install -q -e '.[notebook]'
	$(BIN)/python .ci/pictures.py

# requirements.lock: the newest versions, with hashes, for Python 3.11 to 3.14 on Linux and macOS, and what the tests need
# beside them. `make test` installs both, and PyTorch for whatever the machine has.
LOCKED = $(BIN)/uv pip compile -q pyproject.toml --universal --python-version 3.11 --fork-strategy fewest --no-annotate --no-header
lock: $(VENV)/.python
	$(LOCKED) --extra test > $(VENV)/tests  # first: the tests may need an older version of what both have
	sed -E '/^(torch|triton|nvidia|cuda)/d' $(VENV)/tests > tests/constraints.txt
	sed '/^#/!d' requirements.lock > $(VENV)/lock
	$(LOCKED) --generate-hashes -c tests/constraints.txt >> $(VENV)/lock
	mv $(VENV)/lock requirements.lock

setup: $(VENV)/.runtime
setup-test: $(VENV)/.test

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"Python 3.11 or newer is needed, this is {v.major}.{v.minor}: make PYTHON=python3.12 ..." if v < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q uv
	touch $@

# The locked versions, so that a release of today changes neither the tests nor the demo's tables; `make test-newest`
# tries the newest. With uv, which downloads in parallel, in a third of the time; with pip where uv cannot: uv reads none
# of pip's settings, such as a mirror's address.
$(VENV)/.runtime: $(VENV)/.python requirements.txt requirements.lock pyproject.toml
	$(BIN)/uv pip install -q --python $(BIN)/python -c requirements.lock -e . || $(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.test: $(VENV)/.runtime tests/constraints.txt
	$(BIN)/python -m pip install -q -c tests/constraints.txt -e '.[test]'
	-$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib  # for the tests' many processes; a demo compiles what it imports
	touch $@

$(VENV)/.docs: $(VENV)/.python pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")' > $@.txt
	$(BIN)/python -m pip install -q -r $@.txt
	touch $@

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest .venv-build .venv-plan .venv-plan-gpu .venv-sky build *.egg-info
