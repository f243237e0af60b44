"The hub's code paths, against a small server on the loopback interface that answers as the hub does."
import hashlib, json, os, re, subprocess, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

FAULTY = {'de-DE': '503', 'fr-FR': 'cut', 'es-ES': 'page', 'it-IT': 'silent', 'ja-JP': 'wrong', 'da-DK': '429', 'fi-FI': 'still', 'el-GR': '401'}   # of IllHub
SHA = '0123456789abcdef0123456789abcdef01234567'


def make_repositories(root: Path):
    "Made-up rows in the layout of the real repositories: (kind, name) -> folder"
    from datasets import ClassLabel, Dataset, Features, Sequence, Value
    from privkd_nb.models.tiny import tiny_model
    langs = ['en-US', 'sw-KE', *FAULTY]
    massive, tsm, uner, model = root/'massive', root/'tsm', root/'uner', root/'tiny'
    feats = Features(dict(id=Value('string'), locale=Value('string'), partition=Value('string'), scenario=ClassLabel(names=['a', 'b']), intent=ClassLabel(names=['set', 'ask']), utt=Value('string')))
    for lang, split in [(l, s) for l in langs for s in ('train', 'validation', 'test')]:
        (massive/lang/split).mkdir(parents=True)
        Dataset.from_list([dict(id=str(i), locale=lang, partition=split, scenario=0, intent=i % 2, utt=f'{lang} {split} {i}') for i in range(4)], features=feats).to_parquet(str(massive/lang/split/'0000.parquet'))
    for split in ('train', 'validation', 'test'):
        (tsm/'spanish'/split).mkdir(parents=True)
        Dataset.from_list([dict(text=f'{split} {i}', label=i % 3) for i in range(3)]).to_parquet(str(tsm/'spanish'/split/'0000.parquet'))
    names = ['O', 'B-PER', 'I-PER', 'B-ORG', 'I-ORG', 'B-LOC', 'I-LOC']
    feats = Features(dict(idx=Value('string'), text=Value('string'), tokens=Sequence(Value('string')), ner_tags=Sequence(ClassLabel(names=names)), annotator=Sequence(Value('string'))))
    (uner/'da_ddt').mkdir(parents=True)
    for split in ('train', 'validation', 'test'):
        Dataset.from_list([dict(idx='0', text='Anna i Aarhus', tokens=['Anna', 'i', 'Aarhus'], ner_tags=[1, 0, 5], annotator=['x'])], features=feats).to_parquet(str(uner/'da_ddt'/f'{split}.parquet'))
    (uner/'README.md').write_text('---\nconfigs:\n- config_name: da_ddt\n  data_files:\n' + ''.join(f'  - split: {s}\n    path: da_ddt/{s}.parquet\n' for s in ('train', 'validation', 'test')) + '---\n')
    pairs, names = Features(dict(premise=Value('string'), hypothesis=Value('string'), label=ClassLabel(names=['entailment', 'neutral', 'contradiction']))), ('train', 'validation', 'test')
    for split in names:
        for lang in ('de', 'en'):
            (root/'xnli'/lang).mkdir(parents=True, exist_ok=True)
            Dataset.from_list([dict(premise=f'{lang} {split} {i}', hypothesis='It is dry.', label=i) for i in range(3)], features=pairs).to_parquet(str(root/'xnli'/lang/f'{split}-00000-of-00001.parquet'))
    (root/'xnli'/'README.md').write_text('---\nconfigs:\n' + ''.join(f'- config_name: {l}\n  data_files:\n' + ''.join(f'  - split: {s}\n    path: {l}/{s}-*\n' for s in names) for l in ('de', 'en')) + '---\n')
    tiny_model(labels=['no', 'yes'], seed=4).save_pretrained(model)
    return {('datasets', 'AmazonScience/massive'): massive, ('datasets', 'cardiffnlp/tweet_sentiment_multilingual'): tsm, ('datasets', 'BramVanroy/universal_ner'): uner, ('datasets', 'facebook/xnli'): root/'xnli', ('models', 'someone/tiny'): model}


class Hub(BaseHTTPRequestHandler):
    repositories = {}

    def log_message(self, *a): pass

    def reply(self, code, body=b'', **headers):
        self.send_response(code)
        for k, v in {'Content-Length': str(len(body)), **headers}.items(): self.send_header(k.replace('_', '-'), v)
        self.end_headers()
        if self.command != 'HEAD': self.wfile.write(body)

    def files(self, folder): return [p for p in sorted(folder.rglob('*')) if p.is_file()]

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).lstrip('/')
        for (kind, name), folder in self.repositories.items():
            for prefix in (f'api/{kind}/{name}', f"{'datasets/' if kind == 'datasets' else ''}{name}/resolve"):
                if path == prefix or path.startswith(prefix+'/'): return self.answer(kind, name, folder, prefix, path[len(prefix)+1:])
        self.reply(404, X_Error_Code='RepoNotFound', X_Error_Message='Repository not found')

    do_HEAD = do_GET

    def do_POST(self):
        "paths-info: what is known of some paths"
        path, body = unquote(urlsplit(self.path).path).lstrip('/'), self.rfile.read(int(self.headers.get('Content-Length', 0))).decode()
        for (kind, name), folder in self.repositories.items():
            if path.startswith(f'api/{kind}/{name}/paths-info'):
                wanted = json.loads(body)['paths'] if body.startswith('{') else [unquote(p.split('=', 1)[1].replace('+', ' ')) for p in body.split('&') if p.startswith('paths=')]
                return self.json([self.entry(folder, folder/w) for w in wanted if (folder/w).exists()])
        self.reply(404, X_Error_Code='RepoNotFound')

    def json(self, obj): self.reply(200, json.dumps(obj).encode(), Content_Type='application/json')

    def entry(self, folder, p):
        rel = p.relative_to(folder).as_posix()
        oid = hashlib.sha1(rel.encode()).hexdigest()
        return dict(type='file', path=rel, size=p.stat().st_size, oid=oid) if p.is_file() else dict(type='directory', path=rel, size=0, oid=oid)

    def answer(self, kind, name, folder, prefix, rest):
        if not prefix.startswith('api/'):
            rest = rest.removeprefix('refs/convert/parquet/') if rest.startswith('refs/') else rest.split('/', 1)[1]
            p = folder/rest
            if not p.is_file(): return self.reply(404, X_Error_Code='EntryNotFound', X_Repo_Commit=SHA)
            return self.reply(200, p.read_bytes(), ETag=f'"{hashlib.sha1(p.read_bytes()).hexdigest()}"', X_Repo_Commit=SHA, Content_Type='application/octet-stream')
        if rest.startswith('tree/'):
            rest = rest[5:].removeprefix('refs/convert/parquet')
            for known in (SHA, 'main'): rest = rest.removeprefix(known)
            at = folder/rest.strip('/')
            if not at.exists(): return self.reply(404, X_Error_Code='EntryNotFound')
            deep = 'recursive=True' in self.path or 'recursive=true' in self.path
            return self.json([self.entry(folder, p) for p in sorted(at.rglob('*') if deep else at.iterdir())])
        if rest in ('', 'revision/main', 'revision/refs/convert/parquet', f'revision/{SHA}'):
            return self.json(dict(id=name, modelId=name, sha=SHA, private=False, disabled=False, gated=False, tags=[], downloads=0, likes=0, cardData={}, siblings=[dict(rfilename=p.relative_to(folder).as_posix()) for p in self.files(folder)]))
        self.reply(404, X_Error_Code='EntryNotFound')


@pytest.fixture(scope='module')
def hub(tmp_path_factory):
    Hub.repositories = make_repositories(tmp_path_factory.mktemp('repos'))
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def client(code, endpoint, home):
    "Run code in a process of its own, because the hub's address is read at import"
    env = {k: v for k, v in os.environ.items() if k not in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE')} | dict(HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET='1', HF_HOME=str(home), PRIVKD_CACHE=str(home/'privkd'))
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, env=env)


MASSIVE = "from privkd_nb.data.tasks import load_task; t = load_task('massive', languages='en-US,sw-KE'); print(t.labels, sorted(set(t.train.language)), t.test.text[0], t.test.label[1], len(t.train))"


def test_massive_and_then_without_the_hub(hub, tmp_path):
    p = client(MASSIVE, hub, tmp_path)
    assert p.stdout.strip() == "['ask', 'set'] ['en-US', 'sw-KE'] en-US test 0 ask 8", p.stderr[-1500:]
    assert client(MASSIVE, 'http://127.0.0.1:9', tmp_path).stdout == p.stdout             # from the cache


def test_tweets(hub, tmp_path):
    p = client("from privkd_nb.data.tasks import load_task; t = load_task('tsm', languages='es'); print(t.labels, t.train.label.tolist())", hub, tmp_path)
    assert p.stdout.strip() == "['negative', 'neutral', 'positive'] ['negative', 'neutral', 'positive']", p.stderr[-1500:]


def test_pairs(hub, tmp_path):
    p = client("from privkd_nb.data.tasks import load_task; t = load_task('xnli', languages='en,de'); print(t.labels, t.test.loc[3].tolist(), len(t.train))", hub, tmp_path)
    assert p.stdout.strip() == "['contradiction', 'entailment', 'neutral'] ['0', 'en test 0', 'It is dry.', 'entailment', 'en'] 6", p.stderr[-1500:]


def test_entities(hub, tmp_path):
    p = client("from privkd_nb.data.tasks import load_task; t = load_task('uner', languages='da'); print(list(t.train.tokens[0]), list(t.train.ner_tags[0]), t.labels[:2])", hub, tmp_path)
    assert p.stdout.strip() == "['Anna', 'i', 'Aarhus'] ['B-PER', 'O', 'B-LOC'] ['O', 'B-LOC']", p.stderr[-1500:]


def test_a_model(hub, tmp_path):
    from privkd_nb.models.encoders import weights_hash
    from privkd_nb.models.tiny import tiny_model
    p = client("from privkd_nb.models.loading import load_encoder; from privkd_nb.models.encoders import weights_hash; print(weights_hash(load_encoder('someone/tiny')))", hub, tmp_path)
    assert p.stdout.strip() == weights_hash(tiny_model(labels=['no', 'yes'], seed=4)), p.stderr[-1500:]


def test_a_model_of_the_hub_is_named_by_the_commit_that_was_downloaded(hub, tmp_path):
    code = "from privkd_nb.models.content import content_of, download_commit as d; n = 'someone/tiny'; print(content_of(n), d(n), content_of(n))"
    assert client(code, hub, tmp_path).stdout.split() == ['someone/tiny', 'None', f'someone/tiny@{SHA[:12]}']


@pytest.mark.parametrize('code', ["from privkd_nb.data.tasks import load_task; load_task('massive', languages='en-US')", "from privkd_nb.models.loading import load_encoder; load_encoder('no/model')"])
def test_without_a_network_it_fails_within_seconds_and_says_what_to_do(code, tmp_path):
    start = time.time()
    p = client(code, 'http://127.0.0.1:9', tmp_path)
    last = p.stderr.strip().splitlines()[-1]
    assert 'InputError' in last and 'cannot be reached' in last and 'data_dir' in last and 'local folder' in last
    assert time.time()-start < 30                                          # importing torch and transformers included


class IllHub(Hub):
    "A hub with faults: the owner of a repository says which; what follows 'later-' befalls files other than config.json"

    def drip(self, data):
        "A byte at a time, so that no byte is late"
        try:
            for c in data: self.wfile.write(bytes([c])); self.wfile.flush(); time.sleep(.3)
        except OSError: pass

    def do_GET(self):
        parts = unquote(urlsplit(self.path).path).lstrip('/').removeprefix('api/models/').removeprefix('api/datasets/').removeprefix('datasets/').split('/')
        fault = 'drip' if 'agent-harnesses' in parts else parts[0]           # the library's telemetry
        if fault.startswith('later-'):
            fault = '' if parts[-1] == 'config.json' or not parts[-1].endswith('safetensors') else fault.removeprefix('later-')
            if fault in ('cut', 'slow', 'wrong', 'still', 'trickle') and self.command == 'HEAD': fault = 'head'
            if not fault: return self.answer_for('someone/tiny', parts)
        if parts[0] == 'AmazonScience':
            fault = FAULTY.get(next((l for l in FAULTY if l in parts), ''), '') if parts[-1].endswith('parquet') else ''
            if fault in ('cut', 'wrong', 'still') and self.command == 'HEAD': fault = 'head'
            if not fault: return Hub.do_GET(self)
        body = (self.repositories['models', 'someone/tiny']/'model.safetensors').read_bytes()
        size = {'Content-Length': str(len(body)), 'ETag': f'"{"0"*64 if any(w in self.path for w in ("later-wrong", "ja-JP")) else "1"*40}"', 'X-Repo-Commit': SHA}
        if fault.isdigit(): return self.reply(int(fault), b'Internal', **({'Retry-After': '77'} if fault == '429' else {}), **({'X-Error-Code': 'GatedRepo'} if fault == '403' else {}))
        if fault == 'silent': time.sleep(60)
        if fault == 'drip': self.drip(b'HTTP/1.1 200 OK\r\nX-Long: '+b'x'*100)
        if fault == 'page': return self.reply(200, b'<html>Log in</html>', Content_Type='text/html; charset=utf-8')
        if fault == 'text': return self.reply(200, b'<html>Log in</html>', Content_Type='text/plain')
        if fault == 'loop': return self.reply(302, Location=self.path)
        if fault == 'hang-up': return self.connection.close()
        if fault in ('head', 'wrong'): return self.reply(200, body, **size)
        if fault in ('cut', 'slow', 'still', 'trickle'):
            self.send_response(200)
            for k, v in size.items(): self.send_header(k, v)
            self.end_headers()
            if fault == 'slow':                                            # slow, but it goes on for longer than a fault may last
                for i in range(0, len(body), len(body)//12+1): self.wfile.write(body[i:i+len(body)//12+1]); self.wfile.flush(); time.sleep(.2)
                return
            if fault == 'trickle': return self.drip(body[:300])
            self.wfile.write(body[:1000]); self.wfile.flush()
            if fault == 'still': time.sleep(60)

    do_HEAD = do_GET

    def answer_for(self, name, parts):
        files = 'resolve' in parts
        self.answer('models', name, self.repositories['models', name], 'x' if files else 'api/', '/'.join(parts[3 if files else 2:]))


@pytest.fixture(scope='module')
def ill_hub(hub):
    server = ThreadingHTTPServer(('127.0.0.1', 0), IllHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


FAULTS = '''
import json, sys, time
import privkd_nb.hub as hub
from privkd_nb.models.loading import load_encoder
from privkd_nb.core import InputError
from privkd_nb.data.sources import download_part, hub_parts
from privkd_nb.data.catalog import CATALOG
import transformers.models.xlm_roberta.modeling_xlm_roberta, datasets
hub.WAIT = 1.
for name in json.loads(sys.argv[1]):
    start = time.monotonic()
    try: found = type(load_encoder(name) if '/' in name else download_part(CATALOG['massive'], name, dict(hub_parts(CATALOG['massive'], name))[name], name)).__name__
    except InputError as e: found = str(e)
    except BaseException as e: found = f'{type(e)}: {e}'
    print(json.dumps([name, found, time.monotonic()-start]))
'''


def found_for(names, endpoint, home):
    code = f'import sys; sys.argv = ["", {json.dumps(json.dumps(names))}]\n{FAULTS}'
    p = client(code, endpoint, home)
    rows = [json.loads(l) for l in p.stdout.splitlines() if l.startswith('["')]
    assert len(rows) == len(names), p.stderr[-2000:]
    return {n: (found, seconds) for n, found, seconds in rows}


def test_every_failure_is_one_sentence_soon(ill_hub, tmp_path):
    import privkd_nb.hub as hub
    assert hub.WAIT <= 10                                                   # the faults below wait a second instead
    expected = {
        '401': 'answered 401 .*`hf auth login`.*HF_TOKEN', '403': 'answered 403 .*ask for access at .*/403/tiny', '404': 'answered 404',
        '429': 'answered 429 .*try again in 77 s', '500': 'answered 500', '502': 'answered 502', '503': 'answered 503', 'silent': 'does not answer .nothing within 1 s',
        'drip': 'does not answer', 'page': 'answered 200 with a web page', 'loop': 'redirects', 'hang-up': 'breaks off|cannot be reached',
        'later-503': 'answered 503', 'later-429': 'try again in 77 s', 'later-silent': 'does not answer', 'later-cut': 'breaks off|broke off', 'later-page': 'web page',
        'later-still': 'bytes', 'later-trickle': 'less than 100 bytes a second', 'later-wrong': 'was damaged on its way', 'text': 'proxy'}
    models = [f'{k}/tiny' for k in expected]+['later-slow/tiny']
    parts = [models, [*FAULTY]]                                             # most of the time is waiting
    with ThreadPoolExecutor(2) as pool: answers = pool.map(lambda p: found_for(p[1], ill_hub, tmp_path/str(p[0])), enumerate(parts))
    found = {k: v for answer in answers for k, v in answer.items()}
    for fault, words in expected.items():
        sentence, seconds = found[f'{fault}/tiny']
        assert re.search(words, sentence) and '\n' not in sentence, (fault, sentence)
        assert f'{fault}/tiny' in sentence and seconds < 15, (fault, sentence, seconds)
    assert found['later-slow/tiny'][0] == 'XLMRobertaForSequenceClassification', found['later-slow/tiny']
    for language, fault in FAULTY.items():
        sentence, seconds = found[language]
        assert re.search(expected[fault if fault in expected else f'later-{fault}'], sentence) and 'massive' in sentence and seconds < 15, (fault, sentence, seconds)


def test_a_misspelt_folder_is_not_only_a_matter_of_the_network(tmp_path, monkeypatch):
    from huggingface_hub import constants
    from privkd_nb.core import InputError
    from privkd_nb.hub import check_available
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.chdir(tmp_path)
    (tmp_path/'my_teacher').mkdir()
    (tmp_path/'my_teacher'/'config.json').write_text('{}')
    with pytest.raises(InputError, match="there is no folder my_teachr here, and the model my_teachr is not cached.* Did you mean 'my_teacher'"): check_available('my_teachr')
    with pytest.raises(InputError, match='^the model nobody/x is not cached'): check_available('nobody/x')
