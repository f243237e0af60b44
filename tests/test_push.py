"Publishing an exported student: the hub's real client against a small server on the loopback interface, which keeps what it was sent."
import base64, hashlib, json, os, threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

from privkd_nb.core import folder_faults, write_checksums
from privkd_nb.exported import CARD, SEAL, write_manifest


class Shelf(BaseHTTPRequestHandler):
    "A hub that takes commits: small files in the commit itself, the others by LFS"
    def log_message(self, *a): pass

    def reply(self, code, body=None):
        content = json.dumps(body or {}).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def body(self): # With a length, or in chunks
        if self.headers.get('Transfer-Encoding') != 'chunked': return self.rfile.read(int(self.headers.get('Content-Length', 0)))
        found = b''
        while n := int(self.rfile.readline(), 16): found += self.rfile.read(n); self.rfile.readline()
        self.rfile.readline()
        return found

    def do_PUT(self):
        content = self.body()
        assert hashlib.sha256(content).hexdigest() == self.path.split('/')[-1]
        self.server.blobs[self.path.split('/')[-1]] = content
        self.reply(200)

    def do_POST(self):
        path, body = urlsplit(self.path).path, self.body()
        self.server.requests.append((path, self.headers.get('Authorization')))
        if self.server.status.get(path.split('/')[-1]): return self.reply(self.server.status[path.split('/')[-1]])
        if path == '/api/validate-yaml': return self.reply(200, dict(errors=[], warnings=[]))
        if path == '/api/repos/create':
            self.server.created.append(json.loads(body))
            return self.reply(200, dict(url=f'http://{self.headers["Host"]}/someone/student'))
        if '/preupload/' in path:
            files = json.loads(body)['files']
            return self.reply(200, dict(files=[dict(path=f['path'], uploadMode='lfs' if f['size'] > 2000 else 'regular', shouldIgnore=False) for f in files]))
        if path.endswith('/info/lfs/objects/batch'):
            here = f'http://{self.headers["Host"]}/upload/'
            return self.reply(200, dict(transfer='basic', objects=[o | dict(actions=dict(upload=dict(href=here+o['oid']))) for o in json.loads(body)['objects']]))
        if '/commit/' in path:
            self.server.commits.append([json.loads(l) for l in body.splitlines()])
            return self.reply(200, dict(commitUrl=f'http://{self.headers["Host"]}/someone/student/commit/abc', commitOid='abc'))
        self.reply(404)

    def do_GET(self): self.reply(404)


@pytest.fixture
def shelf():
    server = ThreadingHTTPServer(('127.0.0.1', 0), Shelf)
    server.blobs, server.requests, server.created, server.commits, server.status = {}, [], [], [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def student(tmp_path):
    "An exported folder with a file that was not exported"
    place = tmp_path/'student'
    (place/'onnx').mkdir(parents=True)
    write_manifest(place, kind='sequence', labels=['no', 'yes'], max_length=32, inputs=['input_ids', 'attention_mask'], formats={'onnx-int8': 'onnx/model_int8.onnx'}, languages=dict(kept=['en', 'sw']))
    (place/'onnx'/'model_int8.onnx').write_bytes(os.urandom(5000))
    (place/CARD).write_text('---\n# license: …  (yours to choose)\nlanguage: ["en"]\n---\n\n# A student\n\n> ⚠ **No licence is stated.** Choose one.\n\nText.\n', encoding='utf-8')
    write_checksums(place/SEAL)
    (place/'notes.txt').write_text('private')
    return place


Ended = namedtuple('Ended', 'returncode stdout stderr')


@pytest.fixture
def pushed(student, shelf, monkeypatch, capsys):
    "`privkd push` against the shelf; the client reads its settings anew at each call, but for those of its constants"
    def run(*options, repository='someone/student', token='hf_right', offline=False, port=None):
        from huggingface_hub import constants
        from privkd_nb.cli.console import main
        for k, v in dict(ENDPOINT=f'http://127.0.0.1:{port or shelf.server_port}', HF_HUB_DISABLE_XET=True, HF_HUB_OFFLINE=offline, HF_TOKEN_PATH=str(student.parent/'token')).items(): monkeypatch.setattr(constants, k, v)
        monkeypatch.setenv('HF_TOKEN', token)
        capsys.readouterr()
        return Ended(main(['push', str(student), repository, *options]), *capsys.readouterr())
    return run


def test_what_arrives_is_the_export_and_nothing_else(student, shelf, pushed):
    p = pushed('--license', 'apache-2.0')
    assert p.returncode == 0 and p.stdout.strip() == f'http://127.0.0.1:{shelf.server_port}/someone/student/commit/abc', p.stderr
    header, *files = shelf.commits[0]
    assert len(shelf.commits) == 1 and header['key'] == 'header' and 'onnx-int8' in header['value']['summary']
    sent = {f['value']['path']: base64.b64decode(f['value']['content']) if f['key'] == 'file' else shelf.blobs[f['value']['oid']] for f in files}
    assert {f['key'] for f in files} == {'file', 'lfsFile'}
    assert sent == {n: (student/n).read_bytes() for n in ('README.md', 'done.json', 'privkd.json', 'onnx/model_int8.onnx')}
    assert folder_faults(student/SEAL) == {}                                  # sealed with the licence in its card
    card = sent['README.md'].decode()
    assert card.startswith('---\nlicense: apache-2.0\nlanguage') and 'No licence' not in card
    assert [(c['name'], c['organization']) for c in shelf.created] == [('student', 'someone')]
    assert {a for _, a in shelf.requests} <= {'Bearer hf_right', None} and 'Bearer hf_right' in {a for _, a in shelf.requests}


def test_private_may_go_without_a_licence(student, shelf, pushed):
    p = pushed()
    assert p.returncode == 2 and 'give one with --license' in p.stderr and not shelf.requests
    p = pushed('--private')
    assert p.returncode == 0 and len(shelf.commits) == 1, p.stderr
    assert shelf.created[0].get('private') is True or shelf.created[0].get('visibility') == 'private'


@pytest.mark.parametrize('step, status, words', [('create', 401, 'does not accept the token'), ('create', 403, 'does not let the token write'), ('main', 403, 'does not let the token write'),
                                                 ('main', 409, 'was changed meanwhile')])
def test_what_the_hub_refuses_is_one_sentence(step, status, words, shelf, pushed):
    shelf.status[step] = status
    p = pushed('--license', 'mit')
    assert p.returncode == 2 and words in p.stderr and p.stderr.strip().count('\n') == 0 and 'Traceback' not in p.stderr, p.stderr
    assert not shelf.commits


@pytest.mark.parametrize('kw, words', [(dict(token=''), 'there is no token'), (dict(offline=True), 'HF_HUB_OFFLINE is set'), (dict(repository='student'), 'cannot name a repository'),
                                       (dict(repository='a/b/c'), 'cannot name a repository'), (dict(port=9), 'cannot be reached')])
def test_nothing_is_sent(kw, words, shelf, pushed):
    p = pushed('--license', 'mit', **kw)
    assert p.returncode == 2 and words in p.stderr and p.stderr.strip().count('\n') == 0, p.stderr
    assert not shelf.requests


def test_a_damaged_export_stays_here(student, shelf, pushed):
    (student/'onnx'/'model_int8.onnx').write_bytes(b'cut')
    p = pushed('--license', 'mit')
    assert p.returncode == 2 and 'is damaged' in p.stderr and 'has 3 bytes' in p.stderr and not shelf.requests
