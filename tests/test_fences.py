"""Code that stands in text: every fenced Python block of the pages, README.md, CONTRIBUTING.md and the records runs, and every `privkd`
command in a shell block parses. `<!-- illustration: the reason -->` on the line before a fence leaves its block out.
The blocks of a page share a process, in order, in a temporary folder. The page's cells are not run before them (nbdev_test runs those)."""
import argparse, ast, json, os, re, shlex, subprocess, sys
from itertools import takewhile
from textwrap import dedent
from typing import NamedTuple

import pytest
from conftest import ROOT, TINY

LANGUAGES = {'py': 'python', 'python': 'python', 'python3': 'python', 'bash': 'shell', 'sh': 'shell', 'shell': 'shell'}


class Block(NamedTuple):
    where: str      # page[cell]
    language: str   # 'python' or 'shell'
    code: str
    reason: str     # why it is an illustration, or ''


def fences(text, where=''):
    "The Python and shell blocks of a Markdown text, in a list or a quotation too"
    lines, before = iter(text.split('\n')), ''
    for line in lines:
        fence = re.match(r'([ >]*)(`{3,}|~{3,})[ {.]*(\w*)', line)
        if fence:
            closed = re.compile(rf'[ >]*{fence[2]}{fence[2][0]}*\s*$')
            inside = [re.sub(r'^ *> ?', '', l) if '>' in fence[1] else l for l in takewhile(lambda l: not closed.match(l), lines)]
            reason = re.match(r'[ >]*<!-- *illustration: *(.*?\S) *-->\s*$', before)
            language = LANGUAGES.get(fence[3].lower())
            if language: yield Block(where, language, dedent('\n'.join(inside)), reason[1] if reason else '')
        if fence or line.strip(' >'): before = line


def texts(path):
    "`(where, Markdown)` of a notebook's Markdown cells, or of a whole file"
    name = path.relative_to(ROOT).as_posix()
    if path.suffix != '.ipynb': return [(name, path.read_text(encoding='utf-8'))]
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    return [(f'{name}[{i}]', ''.join(c['source'])) for i, c in enumerate(cells) if c['cell_type'] == 'markdown']


def read_blocks():
    "Page -> its blocks; made and hidden folders are left out"
    paths = [*ROOT.glob('nbs/**/*.ipynb'), ROOT/'README.md', ROOT/'CONTRIBUTING.md', *ROOT.glob('records/**/*.md')]
    names = sorted(p.relative_to(ROOT).as_posix() for p in paths)
    return {n: [b for where, md in texts(ROOT/n) for b in fences(md, where)] for n in names if not re.search(r'(^|/)([._]|runs/)', n)}


BLOCKS = read_blocks()


def chosen(language):
    "Page -> its blocks of a language that are no illustrations"
    found = {n: [b for b in blocks if b.language == language and not b.reason] for n, blocks in BLOCKS.items()}
    return {n: blocks for n, blocks in found.items() if blocks}


def fragments(code):
    "Assignments that end in a comma: an argument or a table's row, which Python takes for a tuple, and which proves nothing"
    values = [n.value for n in ast.parse(code).body if isinstance(n, ast.Assign)]
    return [ast.unparse(v) for v in values if isinstance(v, ast.Tuple) and len(v.elts) == 1 and ast.get_source_segment(code, v)[0] != '(']


def commands(code):
    "Arguments of every `privkd` command of a shell block, also behind a path, `$`, variables or a launcher's `-m privkd_nb.cli`"
    for line in code.replace('\\\n', ' ').split('\n'):
        words = list(takewhile(lambda w: not re.match(r'[|<>&;]|\d>', w), shlex.split(line, comments=True)))
        while words and re.match(r'\$$|\w+=', words[0]): words.pop(0)
        if words and words[0].rsplit('/', 1)[-1] == 'privkd': yield words[1:]
        elif 'privkd_nb.cli' in words: yield words[words.index('privkd_nb.cli')+1:]


class Parsed(BaseException): "Raised where a command would start to work"


@pytest.fixture
def parse(monkeypatch):
    "Parses arguments of `privkd` and stops there; a usage error is a SystemExit of argparse"
    from privkd_nb.cli import main
    parse_args = argparse.ArgumentParser.parse_args
    def stop(self, args=None, namespace=None): raise Parsed(parse_args(self, args, namespace))
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
    def f(words):
        with pytest.raises(Parsed): main(words)
    return f


# ---- what is read

def test_there_are_blocks_to_run():
    assert {'README.md', 'CONTRIBUTING.md'} < set(BLOCKS) and sum(n.startswith('nbs/') for n in BLOCKS) > 40
    assert chosen('python') and [w for blocks in chosen('shell').values() for b in blocks for w in commands(b.code)]


def test_fences_are_found_where_readers_see_them():
    text = '''
```python
a
```
1. in a list

   <!-- illustration: needs a GPU -->
   ```Python
   b
     c
   ```
> ~~~py
> d
>
> ```
> ~~~
<!-- illustration: -->

```{.python .x}
e
```
<!-- illustration: two hours -->
````sh
f
```python
````
```python
g
```
```
h
```
```json
i
```
```python
not closed'''
    found = [(b.language, b.code, b.reason) for b in fences(text)]
    assert found == [('python', 'a', ''), ('python', 'b\n  c', 'needs a GPU'), ('python', 'd\n\n```', ''), ('python', 'e', ''),
                     ('shell', 'f\n```python', 'two hours'), ('python', 'g', ''), ('python', 'not closed', '')]


def test_commands_are_found_in_lines():
    lines = ['$ privkd run --init \\', '  copy_ft  # said', 'A=1 bin/privkd pack a b > c', 'python -m privkd_nb.cli run | cat', '# privkd']
    assert list(commands('\n'.join(lines))) == [['run', '--init', 'copy_ft'], ['pack', 'a', 'b'], ['run']]


def test_fragments_are_found():
    assert fragments("cos='x',\n") and fragments('f = lambda: 1/0,') and not fragments('a = (1,)\nb = 1, 2\nc = 3')


def test_commands_that_do_not_parse_are_found(parse):
    for words in (['run', '--no_such_option', '1'], ['no_such_command'], ['pack', 'one']):
        with pytest.raises(SystemExit): parse(words)
    parse(['run', '--init', 'copy_ft'])


# ---- the pages

TRAIN = {'README.md'} # Pages whose runs are tiny here; they are executed in full where their outputs are stored


@pytest.mark.parametrize('page', chosen('python'))
def test_python_blocks_run(page, tmp_path):
    blocks = chosen('python')[page]
    for b in blocks: assert not fragments(b.code), f'{b.where}: a fragment, which no run tests: write it as a statement, or mark it'
    script = tmp_path/'blocks.py'
    script.write_text('\n\n'.join([TINY*(page in TRAIN), *(f'# {b.where}\n{b.code}' for b in blocks)]), encoding='utf-8')
    (tmp_path/'work').mkdir()
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    p = subprocess.run([sys.executable, str(script)], cwd=tmp_path/'work', env=env, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0, p.stderr[-3000:]


@pytest.mark.parametrize('page', chosen('shell'))
def test_privkd_commands_parse(page, parse, capsys):
    for b in chosen('shell')[page]:
        for words in commands(b.code):
            try: parse(words)
            except SystemExit: pytest.fail(f'{b.where}: privkd {" ".join(words)}\n{capsys.readouterr().err}')
