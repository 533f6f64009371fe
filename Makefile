# Everything here runs in .venv, which is made on first use. PYTHON: any Python from 3.11 on.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Large pages for the C library's memory: XLA's buffers fault 40 times less often on a CPU. Ignored where not glibc.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help quickstart demo test test-slow lint bench scaling clean

help:
	@echo "make quickstart   install, train and evaluate a small model on drawn people (about 6 minutes on 2 cores)"
	@echo "make demo         that model on a short drawn video: runs/demo/poses/people.mp4"
	@echo "make test         install, lint, type check, and the default tests"
	@echo "make test-slow    heavier tests: training on real photographs, full-size models"
	@echo "make bench        measure speed beside PyTorch's into docs/performance.md: two hours on 2 cores, goes on where it stopped"
	@echo "make scaling      bring the tables of docs/scaling.md up to date: compiles for TPUs, about two hours on 2 cores; goes on where it stopped"
	@echo "make clean        remove .venv, data/synthetic*, runs/quickstart and runs/demo"

$(VENV)/runtime: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/tracking: $(VENV)/runtime requirements-tracking.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-tracking.txt
	touch $@

# Apart from the rest: where libtpu can be imported, every JAX program looks for a TPU.
$(VENV)/tpu-compiler: $(VENV)/runtime requirements-plan.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $@ -r requirements-plan.txt
	touch $@

$(VENV)/test: $(VENV)/tracking requirements-test.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

quickstart: $(VENV)/runtime
	$(RUN) -m vitpose_jax.data.synthetic --out data/synthetic_source
	$(RUN) -m vitpose_jax.data.build coco --source data/synthetic_source --out data/synthetic
	$(RUN) train.py --config configs/quickstart.py --workdir runs/quickstart
	$(RUN) eval.py --config configs/quickstart.py --checkpoint runs/quickstart --mean_pose

runs/quickstart/checkpoints:
	@echo "make demo shows the model that make quickstart trains, which is not there yet: run make quickstart first"
	@exit 1

demo: runs/quickstart/checkpoints $(VENV)/tracking
	$(RUN) -m vitpose_jax.data.synthetic --video runs/demo/people.mp4 --seed 2
	$(RUN) -m vitpose_jax.inference runs/demo/people.mp4 --checkpoint runs/quickstart \
		--bboxes runs/demo/people.json --smooth --out runs/demo/poses

test: $(VENV)/test $(VENV)/tpu-compiler lint
	PYTHONPATH=$(CURDIR)/$(VENV)/tpu-compiler $(RUN) -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/test $(VENV)/tpu-compiler
	PYTHONPATH=$(CURDIR)/$(VENV)/tpu-compiler $(RUN) -m pytest -m slow

lint: $(VENV)/test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

bench: $(VENV)/test
	$(RUN) -m vitpose_jax.benchmark all --document docs/performance.md

scaling: $(VENV)/tpu-compiler
	PYTHONPATH=$(CURDIR)/$(VENV)/tpu-compiler $(RUN) -m vitpose_jax.plan --document docs/scaling.md

clean:
	rm -rf $(VENV) data/synthetic data/synthetic_source runs/quickstart runs/demo
