"The hub's code paths, against a small server on the loopback interface that answers as the hub does."
import hashlib, json, os, subprocess, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

SHA = '0123456789abcdef0123456789abcdef01234567'


def make_repositories(root: Path):
    "Made-up rows in the layout of the real repositories: (kind, name) -> folder"
    from datasets import ClassLabel, Dataset, Features, Sequence, Value
    from privkd_nb.models.tiny import tiny_model
    massive, tsm, uner, model = root/'massive', root/'tsm', root/'uner', root/'tiny'
    feats = Features(dict(id=Value('string'), locale=Value('string'), partition=Value('string'), scenario=ClassLabel(names=['a', 'b']), intent=ClassLabel(names=['set', 'ask']), utt=Value('string')))
    for lang, split in [(l, s) for l in ('en-US', 'sw-KE') for s in ('train', 'validation', 'test')]:
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
    tiny_model(labels=['no', 'yes'], seed=4).save_pretrained(model)
    return {('datasets', 'AmazonScience/massive'): massive, ('datasets', 'cardiffnlp/tweet_sentiment_multilingual'): tsm, ('datasets', 'BramVanroy/universal_ner'): uner, ('models', 'someone/tiny'): model}


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
    env = {k: v for k, v in os.environ.items() if k not in ('HF_HUB_OFFLINE', 'HF_DATASETS_OFFLINE')} | dict(HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET='1', HF_HOME=str(home), PRIVKD_CACHE=str(home/'privkd'), HF_HUB_DISABLE_TELEMETRY='1')
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120, env=env)


MASSIVE = "from privkd_nb.data.tasks import load_task; t = load_task('massive', languages='en-US,sw-KE'); print(t.labels, sorted(set(t.train.language)), t.test.text[0], t.test.label[1], len(t.train))"


def test_massive_and_then_without_the_hub(hub, tmp_path):
    p = client(MASSIVE, hub, tmp_path)
    assert p.stdout.strip() == "['ask', 'set'] ['en-US', 'sw-KE'] en-US test 0 ask 8", p.stderr[-1500:]
    assert client(MASSIVE, 'http://127.0.0.1:9', tmp_path).stdout == p.stdout             # from the cache


def test_tweets(hub, tmp_path):
    p = client("from privkd_nb.data.tasks import load_task; t = load_task('tsm', languages='es'); print(t.labels, t.train.label.tolist())", hub, tmp_path)
    assert p.stdout.strip() == "['negative', 'neutral', 'positive'] ['negative', 'neutral', 'positive']", p.stderr[-1500:]


def test_entities(hub, tmp_path):
    p = client("from privkd_nb.data.tasks import load_task; t = load_task('uner', languages='da'); print(list(t.train.tokens[0]), list(t.train.ner_tags[0]), t.labels[:2])", hub, tmp_path)
    assert p.stdout.strip() == "['Anna', 'i', 'Aarhus'] ['B-PER', 'O', 'B-LOC'] ['O', 'B-LOC']", p.stderr[-1500:]


def test_a_model(hub, tmp_path):
    from privkd_nb.models.encoders import weights_hash
    from privkd_nb.models.tiny import tiny_model
    p = client("from privkd_nb.models.loading import load_encoder; from privkd_nb.models.encoders import weights_hash; print(weights_hash(load_encoder('someone/tiny')))", hub, tmp_path)
    assert p.stdout.strip() == weights_hash(tiny_model(labels=['no', 'yes'], seed=4)), p.stderr[-1500:]


@pytest.mark.parametrize('code', ["from privkd_nb.data.tasks import load_task; load_task('massive', languages='en-US')", "from privkd_nb.models.loading import load_encoder; load_encoder('no/model')"])
def test_without_a_network_it_fails_within_seconds_and_says_what_to_do(code, tmp_path):
    start = time.time()
    p = client(code, 'http://127.0.0.1:9', tmp_path)
    last = p.stderr.strip().splitlines()[-1]
    assert 'InputError' in last and 'cannot be reached' in last and 'data_dir' in last and 'local folder' in last
    assert time.time()-start < 30                                          # importing torch and transformers included
