"""Write the table `[tool.nbdev]` of pyproject.toml, for nbdev 3, from settings.ini, for nbdev 2; `--check` says whether it is up to date.

Everything else in pyproject.toml stays as it is. What nbdev 3 wants to know of a project, name, description or links, is not written:
with links it would add a line to every module that nbdev 2 leaves out.
"""
import json, re, sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXTS = 'lib_path nbs_path doc_path branch tst_flags readme_nb title skip_procs'.split()
FLAGS = 'recursive custom_sidebar put_version_in_init jupyter_hooks clean_ids clear_all'.split()
LISTS = 'allowed_metadata_keys allowed_cell_metadata_keys'.split()      # of a string, nbdev 3 would take the letters
HEAD = '[tool.nbdev]\n# made from settings.ini by `python tools/pyproject.py`: nbdev 3 reads this, nbdev 2 does not\n'


def table(settings) -> str:
    "The table that gives nbdev 3 the `settings` of nbdev 2"
    values = {k: settings[k] for k in TEXTS if settings.get(k)}
    values |= {k: settings.getboolean(k) for k in FLAGS if k in settings}
    values |= {k: settings[k].split() for k in LISTS if settings.get(k)}
    values['update_pyproject'] = False      # either version would write the name in its own way
    return HEAD + ''.join(f'{k} = {json.dumps(v, ensure_ascii=False)}\n' for k, v in values.items())


def with_table(text, new) -> str:
    "`text` with its `[tool.nbdev]` replaced, or added at the end"
    old = re.compile(r'^\[tool\.nbdev\][^\n]*\n(?:(?!\[)[^\n]*\n)*?(?=\s*(?:^\[|\Z))', re.M)
    text = text.rstrip('\n') + '\n'
    return old.sub(lambda m: new, text, count=1) if old.search(text) else f'{text}\n{new}'


def render(root=ROOT) -> str:
    "pyproject.toml as it should be"
    cfg = ConfigParser(delimiters=['='])
    if not cfg.read(root/'settings.ini', encoding='utf-8'): raise FileNotFoundError(root/'settings.ini')
    return with_table((root/'pyproject.toml').read_text(encoding='utf-8'), table(cfg['DEFAULT']))


if __name__ == '__main__':
    text, path = render(), ROOT/'pyproject.toml'
    if '--check' in sys.argv[1:]:
        if path.read_text(encoding='utf-8') != text: sys.exit('pyproject.toml is not what settings.ini gives: run tools/pyproject.py.')
    else: path.write_text(text, encoding='utf-8')
