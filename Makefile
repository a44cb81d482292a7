# make demo | figures | prefetch | test | check | clean          see README.md
# Variables: VENV (.venv), PYTHON (python3), PIP_FLAGS (extra flags of pip install), NTPS_CACHE (downloads), RESULTS (of figures)

VENV ?= .venv
PYTHON ?= python3
PIP_FLAGS ?=
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
CLUSTER := $(VENV)/.cluster

DEMO ?= results/demo
DEMO_TEXTS ?= trec6 sms_spam_pypi rotten_tomatoes_pypi commonsense_pypi
DEMO_PAIRS := --models smollm2-135m --datasets $(DEMO_TEXTS) --output $(DEMO)

EXPERIMENT ?= paper
RESULTS ?= results

.PHONY: demo figures prefetch test check clean

demo: $(READY)
	$(PY) cache.py $(DEMO_PAIRS) --splits train --limit 1000
	$(PY) K_sweep.py $(DEMO_PAIRS)
	$(PY) -m fig_plot.summary $(DEMO)

figures: $(READY)
	$(PY) -m fig_plot.render $(RESULTS)

prefetch: $(READY)
	$(PY) -m ntps.prefetch --config configs/experiments/$(EXPERIMENT).yaml

test: $(READY) $(CLUSTER)
	$(PY) -m pytest

check: $(READY)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean:
	rm -rf .venv results/demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.txt requirements-dev.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed: make PYTHON=python3.11 ...')"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet $(PIP_FLAGS) -r requirements.txt -r requirements-dev.txt
	touch $(READY)

# snakemake is an extra: only its own tests need it
$(CLUSTER): $(READY) requirements-cluster.txt
	$(PY) -m pip install --quiet $(PIP_FLAGS) -r requirements-cluster.txt
	touch $(CLUSTER)
