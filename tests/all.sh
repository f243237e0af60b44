#!/bin/sh
# Everything that CI runs, in the order of how quickly it can fail.
set -eu
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}     # the models are tiny: threads would only wait for each other
step() { printf '\n== %s\n' "$*"; }

# a copy of what is tracked and new, so that checks that rewrite files cannot touch the working tree
copy=$(mktemp -d); trap 'rm -rf "$copy"' EXIT
git ls-files --cached --others --exclude-standard | tar -cf - -T - | tar -xf - -C "$copy"
(cd "$copy" && git init -q . && git add -A && git -c user.name=x -c user.email=x@x commit -qm x)
unchanged() { (cd "$copy" && "$@" >/dev/null && { git diff --exit-code --stat || { echo "'$*' changes the files above: run 'make prepare' and commit"; exit 1; }; }); }

# these need one core, the base the other
checks() {
    step nbdev_clean changes nothing;  unchanged nbdev_clean
    step nbdev_export changes nothing; unchanged nbdev_export
    step README.md is what nbs/index.ipynb gives; python tools/readme.py --check
    step the code keeps its measures; python tools/house.py --check >"$copy/house" || { cat "$copy/house"; exit 1; }
}
(checks) >"$copy/checks" 2>&1 & checking=$!

step the playground base, made once for what follows
python -c 'from privkd_nb.models.playground_base import playground_base; print(playground_base())'

wait $checking || { cat "$copy/checks"; exit 1; }
cat "$copy/checks"

step examples in the pages, and the bench, tiny, by papermill
(timeout 600 papermill nbs/bench.ipynb "$copy/bench.ipynb" -p tiny True --no-progress-bar </dev/null) >"$copy/bench" 2>&1 & benching=$!
python tools/examples.py --n_workers 3 --skip_file_re '^[_.]|^run\.|^study\.|^effect|^bench|^index|^cookbook|^01_first'    # these are executed by papermill, or as README.md
wait $benching || { cat "$copy/bench"; exit 1; }

step tests, three files at a time: some wait for processes and timeouts
python -m pytest -q -n 3 --durations=20 --dist loadfile --no-loadscope-reorder tests --ignore-glob '*_browser.py' --ignore tests/test_site.py

timed=tests/test_explorer_browser.py::test_two_hundred_runs_open_and_answer_quickly
step tests of the site and in a browser, two files at a time
python -m pytest -q -n 2 --durations=10 --dist loadfile --no-loadscope-reorder tests/test_site.py tests/*_browser.py --deselect $timed

step the test that measures the time of a browser, alone
python -m pytest -q $timed
