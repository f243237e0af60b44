# make run     install, then the main job; parameters pass through: make run INIT=scratch DATASET=massive
# make study   install, then a study of yours; with its plan alone: make study FILE=study.yaml ARGS=--dry-run
# make test    install, then everything that CI runs
# make docs    the site, in _docs; make preview serves it; make sample remakes the sample study (some half an hour on two cores)
# make pages   the pages with results, executed at real settings (some quarter of an hour on two cores)
PYTHON ?= python3
BIN := .venv/bin
export PRIVKD_CACHE ?= $(CURDIR)/.cache
export TOKENIZERS_PARALLELISM = false
unexport PYTHONDONTWRITEBYTECODE

# a parameter given on the command line, INIT=copy_base, becomes an option, --init copy_base
PARAMETERS := DATASET DATA_DIR LANGUAGES EVAL_LANGUAGES SCENARIO FRACTION UNLABELLED WITHOUT_LABELS TEXT_COLUMN TEXT_PAIR_COLUMN LABEL_COLUMN \
              LABEL_SEPARATOR LANGUAGE_COLUMN LANGUAGE TEST BASE \
              TEACHER LABELS TEACHER_SCENARIO TEACHER_FRACTION TEACHER_EPOCHS INIT STUDENT PARTS LAYERS DEPTH WIDTH HEADS FFN REFIT CALIBRATION \
              VOCAB VOCAB_TEXT LOSSES CLASS_WEIGHTS TEMP SCHEDULE STAGES MATCH METER EPOCHS LR \
              BATCH_SIZE MAX_LENGTH PATIENCE BATCHING MAX_TOKENS EMBEDDING_ROWS UNPADDING MEMORY COMPILE PRECISION CACHE BUDGET SEED OUT_DIR TINY \
              REDO
OPTIONS = $(foreach p,$(PARAMETERS),$(if $(filter command,$(firstword $(origin $(p)))),--$(shell echo $(p) | tr A-Z a-z) '$($(p))'))

.PHONY: run study test install prepare readme docs preview pages sample lab clean

run: install
	$(BIN)/privkd run $(OPTIONS) </dev/null

study: install
	$(BIN)/privkd study $(FILE) $(OPTIONS) $(ARGS) </dev/null

test: install
	PATH="$(CURDIR)/$(BIN):$$PATH" sh tests/all.sh

install: .venv/installed

.venv/installed: settings.ini setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --no-compile --upgrade pip 'setuptools<81' wheel 'setuptools-scm<9'  # the last is what seqeval finds its version with
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt torch
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt --no-build-isolation -e '.[dev]'
	$(BIN)/python -c 'import privkd_nb.jobs.distil'	# compiles what is used, where pip would compile all of torch
	touch $@

prepare: install
	$(BIN)/nbdev_export
	$(BIN)/nbdev_clean
	$(MAKE) readme

readme: install
	$(BIN)/python tools/readme.py

# what the pages with results show, and README.md from it
pages: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/results.py
	$(MAKE) readme

# the site in _docs, by Quarto where it is installed; `make preview` serves it on this machine
docs: install
	$(BIN)/python tools/site.py

preview: docs
	$(BIN)/python -m http.server $(or $(PORT),3000) --bind 127.0.0.1 --directory _docs

# 72 runs, then their tables as the package's 'sample' study; interrupted, it goes on where it was
STUDY = $(BIN)/privkd study --init scratch copy_base copy_ft --losses ce paper --seed 0 1 2 --controls off --out_dir runs/sample --workers 2
sample: install
	$(STUDY) --fraction .03 .1 .3
	$(STUDY) --fraction .1 --scenario cl
	$(BIN)/privkd pack runs/sample privkd_nb/sample
	$(BIN)/python tools/pictures.py

lab: install
	$(BIN)/jupyter lab --notebook-dir nbs

clean:
	rm -rf .venv .cache build dist *.egg-info _docs _proc runs
