# make reproduce   run all numbered notebooks on the embedded benchmark (PROFILE=mini)
# make report      join the executed notebooks into runs/$(PROFILE)/report.html
# make slider      explore alpha in a browser, served to this machine alone
# make test        style, types and tests, but for the tests that take minutes
# make test-all    the same with those
# make lab         open the notebooks in JupyterLab
# make gallery     copy the default run's pictures to figures/gallery
# make clean       remove the environment, the caches and runs/$(PROFILE)
#
# Each sets up the virtual environment first, once.

PYTHON ?= python3
PROFILE ?= mini

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CACHES := .mypy_cache .pytest_cache .ruff_cache .hypothesis fitclip_kit.egg-info

PROFILES := $(notdir $(basename $(wildcard notebooks/profiles/*.yaml)))
ifneq ($(words $(PROFILE)) $(filter-out $(PROFILES),$(PROFILE)),1 )
$(error no profile "$(PROFILE)"; there: $(PROFILES))
endif

# OpenMP threads wait for each other by spinning for a fraction of a millisecond, then sleep: two
# that spin for long can be far slower than one on a shared machine.
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 100000
export PYTHONHASHSEED := 0

.PHONY: help setup reproduce report slider test test-all lab gallery clean

help:
	@sed -n 's/^# make /make /p' Makefile

setup: $(INSTALLED)

# Written last, so an interrupted install does not count: what it left is cleared the next time.
$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "Python 3.11 or newer is needed, $(PYTHON) is %d.%d. Name another: make PYTHON=python3.12 ..." % v[:2] or 0)'
	@if test -e $@; then rm $@; else rm -rf $(VENV); fi
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c requirements.lock -e '.[dev]'
	@touch $@

reproduce: setup
	$(BIN)/fitclip run --profile $(PROFILE)

report: setup
	$(BIN)/fitclip report --profile $(PROFILE)

slider: setup
	$(BIN)/fitclip slider --profile $(PROFILE)

test: TESTS := -m "not slow"
test test-all: setup
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -n auto --dist loadfile $(TESTS)

lab: setup
	$(BIN)/python -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

gallery:
	mkdir -p figures/gallery
	cp runs/mini/01_data_prep/frames.png runs/mini/03_student_distillation/training.png \
	   runs/mini/04_alpha_sweep/figure3.png runs/mini/04_alpha_sweep/outcomes.parquet \
	   runs/mini/05_subset_size/figure4.png runs/mini/06_label_share/figure5.png \
	   runs/mini/07_supplementary_figures/figure1.png \
	   runs/mini/07_supplementary_figures/figure2.png \
	   runs/mini/07_supplementary_figures/tower_map.png \
	   runs/mini/08_supplementary_tables/claims.md \
	   figures/gallery/

clean:
	rm -rf $(VENV) $(CACHES) runs/$(PROFILE)
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
