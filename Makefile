# make run     install, then the main job; parameters pass through: make run INIT=scratch DATASET=massive
# make test    install, then everything that CI runs
PYTHON ?= python3
BIN := .venv/bin
export PRIVKD_CACHE ?= $(CURDIR)/.cache
export TOKENIZERS_PARALLELISM = false

# a parameter given on the command line, INIT=copy_base, becomes an option, --init copy_base
PARAMETERS := DATASET DATA_DIR LANGUAGES EVAL_LANGUAGES SCENARIO TEACHER_SCENARIO FRACTION TEACHER_FRACTION BASE TEACHER INIT STUDENT PARTS \
              LAYERS DEPTH LOSSES EPOCHS TEACHER_EPOCHS LR BATCH_SIZE MAX_LENGTH PATIENCE SEED OUT_DIR TINY REDO
OPTIONS = $(foreach p,$(PARAMETERS),$(if $(filter command,$(firstword $(origin $(p)))),--$(shell echo $(p) | tr A-Z a-z) '$($(p))'))

.PHONY: run test install prepare readme docs lab clean

run: install
	$(BIN)/privkd run $(OPTIONS) </dev/null

test: install
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/all.sh

install: .venv/installed

.venv/installed: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade pip 'setuptools<81' wheel
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $@

prepare: install
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(MAKE) readme

readme: install
	$(BIN)/python tests/readme.py

# with Quarto the site, without it plain pages
docs: install
	@if command -v quarto >/dev/null; then PATH="$(CURDIR)/$(BIN):$$PATH" nbdev_docs; \
	else echo "Quarto is not installed: making plain pages in _docs"; $(BIN)/jupyter nbconvert --log-level ERROR --to html --output-dir _docs nbs/*.ipynb nbs/api/*.ipynb; fi

lab: install
	$(BIN)/jupyter lab --notebook-dir nbs

clean:
	rm -rf .venv .cache build dist *.egg-info _docs _proc runs
