# make demo | mini | evidence | finetuning | which | report | readme | paper | figures | prefetch | docs | test | check | clean          see README.md
# Variables: VENV (.venv), PYTHON (python3), PIP_FLAGS (extra flags of pip install), NTPS_CACHE (downloads), RESULTS (of figures)

VENV ?= .venv
PYTHON ?= python3
PIP_FLAGS ?=
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
CLUSTER := $(VENV)/.cluster
DOCS := $(VENV)/.docs

# what the pages of the site are, or link to
PAGES := README.md CHANGELOG.md CITATION.cff docs configs/experiments examples/rank.ipynb

DEMO ?= results/demo
DEMO_TEXTS ?= trec6 sms_spam_pypi rotten_tomatoes_pypi commonsense_pypi
DEMO_PAIRS := --models smollm2-135m --datasets $(DEMO_TEXTS) --output $(DEMO)

# the reproduction on twelve real data sets; LIMIT, STEPS, SIZES and LAYERS make it smaller (LIMIT=60 STEPS=2 SIZES=30 LAYERS=0,15,30);
# DTYPE=float32: instead of bfloat16, here and below, for CPUs that have no instructions for it
MINI ?= results/mini-run
TABLES ?= results/mini
SIZES ?= 300 2400
FEWER := $(if $(LIMIT),--limit $(LIMIT)) $(if $(DTYPE),--dtype $(DTYPE))
THESE := $(if $(LAYERS),--layers $(LAYERS))
SHORTER := $(FEWER) $(if $(STEPS),--max_steps $(STEPS) --eval_every $(STEPS))
MINI_FILE := --config configs/experiments/mini.yaml --output $(MINI)
CONTROL_FILE := --config configs/experiments/mini_control.yaml --output $(MINI)
AFTER_FILE := --config configs/experiments/mini_after_lora.yaml --output $(MINI)/after_lora
SIZES_FILE := --config configs/experiments/mini_sizes.yaml
AS_RELEASED := --order released --rule fraction --targets probe_accuracy probe_mse probe_train_accuracy probe_train_mse lora_gain_linear

# the two halves of docs/confirmation.md
HALF ?= discovery
EVIDENCE ?= results/evidence-run
EVIDENCE_MODELS ?= smollm2-135m gemma3-270m
EVIDENCE_FILE = --config configs/experiments/evidence_$(HALF).yaml --output $(EVIDENCE)

# data sets of the arm of docs/differences.md in which LoRA adapts all linear modules
ARM ?= trec6 trec50 bbc_headline bias_type

# docs/which-model.md
WHICH ?= results/which-run
WHICH_FILE = --config configs/experiments/which_model.yaml --output $(WHICH)

EXPERIMENT ?= paper
RESULTS ?= results

# make paper: the grid of an experiment file, GRID the folder of its results
GRID ?= results/$(EXPERIMENT)
GRID_FILE := --config configs/experiments/$(EXPERIMENT).yaml
PLANNED := cache linear_training lora_finetuning from_scratch
SCRIPTS := cache K_sweep linear_sklearn linear_training lora_finetuning from_scratch alignment_vis
OFFLINE := HF_HUB_OFFLINE=1 $(PY)

.PHONY: demo mini evidence finetuning which report readme paper figures prefetch docs test check clean

demo: $(READY)
	$(PY) cache.py $(DEMO_PAIRS) --splits train --limit 1000 --partitions 5 --layers 0,4,8,11,15,19,22,26,30
	$(PY) K_sweep.py $(DEMO_PAIRS)
	$(PY) -m fig_plot.summary $(DEMO)

mini: $(READY)
	$(PY) cache.py $(MINI_FILE) $(FEWER) $(THESE)
	$(PY) K_sweep.py $(MINI_FILE)
	$(PY) linear_sklearn.py $(MINI_FILE)
	$(PY) linear_training.py $(MINI_FILE) $(FEWER)
	$(PY) lora_finetuning.py $(MINI_FILE) $(SHORTER)
	for folder in $(MINI)/adapters/smollm2-135m/*-seed0; do \
		one="--datasets $$(basename $$folder -seed0) --adapter $$folder"; \
		$(PY) cache.py $(AFTER_FILE) $$one $(FEWER) $(THESE) && $(PY) K_sweep.py $(AFTER_FILE) $$one || exit 1; \
	done
	$(PY) cache.py $(CONTROL_FILE) $(FEWER) $(THESE)
	$(PY) K_sweep.py $(CONTROL_FILE)
	$(PY) linear_sklearn.py $(CONTROL_FILE)
	$(PY) from_scratch.py $(MINI_FILE) $(SHORTER)
	for n in $(SIZES); do \
		here="--output $(MINI)/texts-$$n"; \
		$(PY) cache.py $(SIZES_FILE) $$here --limit $$n $(THESE) && $(PY) K_sweep.py $(SIZES_FILE) $$here || exit 1; \
	done
	$(PY) alignment_vis.py --models smollm2-135m --datasets rotten_tomatoes_pypi amazon3 nyt3 --output $(MINI)
	$(PY) -m ntps.selection --results $(MINI)
	$(PY) -m ntps.gain --results $(MINI)
	$(PY) -m fig_plot.render $(MINI)

# docs/confirmation.md, one pair after the other, resumable; moments and states of a finished pair are removed
evidence: $(READY)
	for model in $(EVIDENCE_MODELS); do \
		for data in $$($(PY) -c "import json; print(*json.load(open('configs/experiments/halves.json'))['$(HALF)'])"); do \
			pair="$(EVIDENCE_FILE) --models $$model --datasets $$data"; \
			if [ -f $(EVIDENCE)/accuracy/linear_training/$$model/$$data.json ]; then continue; fi; \
			$(PY) cache.py $$pair $(FEWER) && $(PY) K_sweep.py $$pair && $(PY) linear_sklearn.py $$pair \
				&& $(PY) -m report.rows $(EVIDENCE) --models $$model --datasets $$data \
				&& $(PY) linear_training.py $$pair $(FEWER) && $(PY) -m report.evidence $(EVIDENCE) || exit 1; \
			rm -rf $(EVIDENCE)/moments/$$model/$$data $(EVIDENCE)/states/$$model/$$data; \
		done; \
	done

# docs/finetuning.md, after `make evidence`: LoRA until it has settled and the gradient kernel, one data set after the other, resumable
finetuning: $(READY)
	for data in $$($(PY) -c "import json; print(*json.load(open('configs/experiments/halves.json'))['$(HALF)'])"); do \
		pair="$(EVIDENCE_FILE) --models smollm2-135m --datasets $$data"; \
		$(PY) lora_finetuning.py $$pair $(FEWER) && $(PY) -m ntps.finetune_probe $$pair --dtype bfloat16 --limit 2000 $(FEWER) \
			&& $(PY) lora_finetuning.py $$pair --output $(EVIDENCE)/short --seeds 0 --max_steps 100 --eval_every 20 --patience 5 $(FEWER) \
			&& $(PY) -m report.hits $(EVIDENCE) --models smollm2-135m --datasets $$data \
			&& $(PY) -m report.kernel_variants $(EVIDENCE) --models smollm2-135m --datasets $$data && $(PY) -m report.evidence $(EVIDENCE) || exit 1; \
	done
	for data in $(ARM); do \
		$(PY) lora_finetuning.py $(EVIDENCE_FILE) --models smollm2-135m --datasets $$data --output $(EVIDENCE)/all-linear --seeds 0 \
			--lora_targets all-linear $(FEWER) && $(PY) -m report.evidence $(EVIDENCE) || exit 1; \
	done
	$(PY) -m report.finetuning

# docs/which-model.md, after `make finetuning`: its adapters, and none, on every data set, resumable; nothing but the tables is left
which: $(READY)
	half=$$($(PY) -c "import json; print(*json.load(open('configs/experiments/halves.json'))['discovery'])") || exit 1; \
	for adapter in "" $$half; do \
		folder=$${adapter:+$(EVIDENCE)/adapters/smollm2-135m/$$adapter-seed0}; \
		for data in $$half; do \
			model=smollm2-135m$${folder:++$$(basename $$folder)-??????}; \
			pair="$(WHICH_FILE) --datasets $$data $${folder:+--adapter $$folder}"; \
			ls $(WHICH)/accuracy/linear_sklearn/$$model/$$data.json >/dev/null 2>&1 || { \
				$(PY) cache.py $$pair $(FEWER) && $(PY) K_sweep.py $$pair && $(PY) linear_sklearn.py $$pair || exit 1; }; \
			rm -rf $(WHICH)/moments/$$model/$$data $(WHICH)/states/$$model/$$data; \
		done; \
	done
	$(PY) -m report.which_model --run $(WHICH)

report: $(READY)
	if [ -d $(MINI) ]; then \
		$(PY) -m ntps.export $(MINI) $(TABLES) && $(PY) -m report.label_length $(MINI) --models smollm2-135m --output $(TABLES)/label_length.csv || exit 1; \
	fi
	for part in $(notdir $(wildcard $(addprefix $(MINI)/,after_lora texts-* rerun float32))); do \
		$(PY) -m ntps.export $(MINI)/$$part $(TABLES)/$$part --brief || exit 1; \
	done
	$(PY) -m ntps.selection --results $(TABLES)
	$(PY) -m ntps.selection --results $(TABLES) $(AS_RELEASED) --output $(TABLES)/selection_released
	$(PY) -m ntps.gain --results $(TABLES) && cp $(TABLES)/gain.json configs/gain.json
	$(PY) -m report.reference --folders $(TABLES)
	$(PY) -m report.reproduction --folder $(TABLES)

# what README.md says that commands print
readme: $(READY)
	$(PY) -m report.readme

# disk and hours first, on this device, and on a terminal a question; what is there is not done again
paper: $(READY)
	@for script in $(PLANNED); do \
		printf '%s.py: ' $$script; $(PY) $$script.py $(GRID_FILE) --output $(GRID) --plan | tail -n 1; \
	done
	@echo 'This and the downloads of models and texts is what it takes; --plan of each script says more.'
	@if [ -t 0 ]; then printf 'Go on? [y/N] '; read answer; [ "$$answer" = y ]; fi
	$(PY) -m ntps.pin $(GRID_FILE)
	$(PY) -m ntps.prefetch $(GRID_FILE)
	for script in $(PLANNED); do $(OFFLINE) $$script.py $(GRID_FILE) --output $(GRID) --plan || exit 1; done
	for script in $(SCRIPTS); do $(OFFLINE) $$script.py $(GRID_FILE) --output $(GRID) || exit 1; done
	$(PY) -m fig_plot.render $(GRID)

figures: $(READY)
	$(PY) -m fig_plot.render $(RESULTS)

prefetch: $(READY)
	$(PY) -m ntps.prefetch --config configs/experiments/$(EXPERIMENT).yaml

# build/site/index.html; a link that leads nowhere is an error
docs: $(DOCS)
	rm -rf build/docs && mkdir -p build/docs
	tar -c $(PAGES) | tar -x -C build/docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build

test: $(READY) $(CLUSTER)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4

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

$(DOCS): $(READY) requirements-docs.txt
	$(PY) -m pip install --quiet $(PIP_FLAGS) -r requirements-docs.txt
	touch $(DOCS)
