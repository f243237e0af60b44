"Packaging: quick to import, whole as a wheel, one list of parameters."
import ast, json, os, subprocess, sys, zipfile
from dataclasses import fields
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def python(code, **kw): return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, **kw)


def test_importing_is_quick_and_lazy():
    code = "import time, sys; t=time.perf_counter(); import privkd_nb; dt=time.perf_counter()-t; assert 'torch' not in sys.modules and 'pandas' not in sys.modules; print(dt)"
    assert min(float(python(code).stdout) for _ in range(3)) < .3
    plan = "import sys; from privkd_nb.studies.plan import Study; Study(dataset='massive', losses='ce,logits').plan(); print('torch' in sys.modules)"
    assert python(plan).stdout == 'False\n'                  # `privkd study --dry-run` takes what it reads, not seconds more


def test_every_promised_name_exists():
    import privkd_nb
    for name in privkd_nb.__all__: assert getattr(privkd_nb, name).__doc__, name
    with pytest.raises(AttributeError): privkd_nb.nothing


def test_checking_a_configuration_loads_nothing_heavy():
    p = python("import sys; from privkd_nb.jobs.config import RunConfig; RunConfig(); print([m for m in ('torch', 'transformers', 'pandas', 'numpy', 'datasets') if m in sys.modules])")
    assert p.stdout.strip() == '[]', p


def test_the_notebook_has_the_configurations_parameters():
    from privkd_nb.jobs.config import RunConfig
    cells = json.loads((ROOT/'nbs'/'run.ipynb').read_text(encoding='utf-8'))['cells']
    lines = next(c['source'] for c in cells if 'parameters' in c['metadata'].get('tags', []))
    for line, f in zip(lines, fields(RunConfig), strict=True):
        code, _, comment = line.partition('  #') if '  #' in line else line.partition(' # ')
        node = ast.parse(code.strip()).body[0]
        assert (node.target.id, node.annotation.id, ast.literal_eval(node.value)) == (f.name, f.type.__name__, f.default)
        assert comment.strip() == f.metadata['help'], f.name


def test_papermill_understands_every_parameter():
    from papermill import inspect_notebook
    from privkd_nb.jobs.config import RunConfig
    found = inspect_notebook(str(ROOT/'nbs'/'run.ipynb'))
    assert list(found) == [f.name for f in fields(RunConfig)]
    assert all(v['help'] and v['inferred_type_name'] in ('str', 'int', 'float', 'bool') for v in found.values())


def test_a_wheel_works_outside_the_checkout(tmp_path):
    src = tmp_path/'src'
    files = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split('\0')
    for f in filter(None, files):
        if (ROOT/f).exists():
            (src/f).parent.mkdir(parents=True, exist_ok=True)
            (src/f).write_bytes((ROOT/f).read_bytes())
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', str(tmp_path), str(src)], check=True, timeout=300)
    wheel, = tmp_path.glob('*.whl')
    names = zipfile.ZipFile(wheel).namelist()
    assert {'privkd_nb/py.typed', 'privkd_nb/notebooks/run.ipynb', 'privkd_nb/notebooks/bench.ipynb', 'privkd_nb/notebooks/bench_whole.ipynb', 'privkd_nb/playground/sw.json', 'privkd_nb/plot_view.js', 'privkd_nb/choices.js', 'privkd_nb/file_figures.js', 'privkd_nb/file_explorer.js', 'privkd_nb/choices.css', 'privkd_nb/sample/study.json', 'privkd_nb/sample/scores.parquet', 'privkd_nb/jupyter/voila/templates/privkd/index.html.j2'} <= set(names)
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(tmp_path/'site'), str(wheel)], check=True, timeout=300)
    code = "import privkd_nb; from privkd_nb.cli.execution import notebook_path; from privkd_nb.data.tasks import load_task; from privkd_nb.apps.explorer import Explorer; print(privkd_nb.__file__, notebook_path(), len(load_task().train), len(Explorer('sample').study))"
    p = python(code, cwd=tmp_path, env={**os.environ, 'PYTHONPATH': str(tmp_path/'site')})
    assert p.returncode == 0, p.stderr
    assert p.stdout.startswith(str(tmp_path/'site')) and p.stdout.split()[1].endswith('notebooks/run.ipynb')


def test_no_pickle_is_read():
    modules = list((ROOT/'privkd_nb').rglob('*.py'))
    assert modules
    for p in modules:
        text = p.read_text(encoding='utf-8')
        assert 'pickle' not in text and 'torch.load' not in text, p
