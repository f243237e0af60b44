"nbdev 3 reads `[tool.nbdev]` of pyproject.toml, nbdev 2 reads settings.ini; they must be told the same."
import re, tomllib
from configparser import ConfigParser

import pytest
from conftest import ROOT, load_tool


@pytest.fixture(scope='module')
def tool(): return load_tool('pyproject')


def test_pyproject_is_what_settings_ini_gives(tool):
    assert tool.render() == (ROOT/'pyproject.toml').read_text(encoding='utf-8'), 'run tools/pyproject.py'


def test_both_versions_read_the_same(monkeypatch):
    from nbdev.config import get_config
    new = tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['tool']['nbdev']
    monkeypatch.chdir(ROOT)             # where nbdev 2 looks for settings.ini first
    old = get_config(path=ROOT)
    assert [new[k] for k in ('lib_path', 'nbs_path', 'doc_path')] == [old[k].name for k in ('lib_path', 'nbs_path', 'doc_path')]
    for k in 'branch tst_flags readme_nb recursive clean_ids clear_all put_version_in_init jupyter_hooks custom_sidebar'.split():
        assert new[k] == old[k] and type(new[k]) is type(old[k]), k
    assert new['allowed_cell_metadata_keys'] == old.allowed_cell_metadata_keys.split()


def test_other_tables_are_left_alone(tool):
    new, before, after = '[tool.nbdev]\na = 1\n', '[project]\nname="x"\n', '[tool.uv]\nkeys = [\n  { file = "a" },\n]\n'
    for old in ('[tool.nbdev]\n', '[tool.nbdev]\nb = 2\n# c\n\nd = ["e"]\n'):
        assert tool.with_table(f'{before}\n{old}\n{after}', new) == f'{before}\n{new}\n{after}'
        assert tool.with_table(f'{before}\n{old}', new) == f'{before}\n{new}'
    assert tool.with_table(f'{before}\n{after}', new) == f'{before}\n{after}\n{new}'


def test_lists_are_lists_and_flags_are_flags(tool):
    settings = ConfigParser()
    given = dict(lib_path='x', recursive='True', clean_ids='no', allowed_cell_metadata_keys='tags doc', skip_procs='')
    settings.read_dict({'DEFAULT': given})
    *rows, own = tool.table(settings['DEFAULT']).splitlines()[2:]
    assert rows == ['lib_path = "x"', 'recursive = true', 'clean_ids = false', 'allowed_cell_metadata_keys = ["tags", "doc"]']
    assert own == 'update_pyproject = false'


def test_nbdev_2_leaves_the_table(tmp_path, monkeypatch):
    from nbdev import config
    (tmp_path/'pyproject.toml').write_bytes((ROOT/'pyproject.toml').read_bytes())
    monkeypatch.setattr(config, 'get_config', lambda: config.AttrDict(lib_name='privkd_nb', min_python='3.11'))
    config.update_proj(tmp_path)
    assert (tmp_path/'pyproject.toml').read_bytes() == (ROOT/'pyproject.toml').read_bytes()


def test_one_minimum_python_everywhere(tool):
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    least = cfg['DEFAULT']['min_python']
    assert tomllib.loads((ROOT/'pyproject.toml').read_text(encoding='utf-8'))['project']['requires-python'] == f'>={least}'
    assert set(re.findall(r'Python (\d\.\d+)', (ROOT/'README.md').read_text(encoding='utf-8'))) == {least}
    assert 'python_version' not in cfg['DEFAULT']['dev_requirements']
