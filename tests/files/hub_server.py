"""A small Hugging Face Hub on loopback: repositories, commits, large files, downloads. For tests alone."""

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

LARGE = (".safetensors", ".onnx", ".png", ".bin", ".pt", ".pth", ".pkl", ".npy")


class HubServer:
    """Serves until the `with` ends.

    `repositories` maps a name to {path: bytes}, `commits` lists (name, message, paths), `branches`
    are those that were written to. A request whose
    "METHOD path" contains `failing` is answered with status 500; `headers` are those of every request.
    `watch` is called with "METHOD path" before that is served (False), and before it is answered (True).
    """

    def __init__(self, *, token=None):
        self.token, self.failing, self.user = token, None, "me"
        self.repositories, self.commits, self.blobs, self.headers = {}, [], {}, []
        self.branches, self.lock = set(), threading.Lock()
        self.watch = lambda request, served: None

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *raised):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def revision(self, name):
        """The commit at the head of a repository."""
        files = {p: hashlib.sha256(c).hexdigest() for p, c in sorted(self.repositories[name].items())}
        return hashlib.sha1(json.dumps(files).encode()).hexdigest()  # noqa: S324 - a git id


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # a client that was killed
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub = None

    def log_message(self, *args):
        pass

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError("the client has gone in the middle of a request")
            return body
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, content=b"", *, status=200, headers=None, code=None):
        self.hub.watch(f"{self.command} {self.path}", True)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        if code:
            self.send_header("X-Error-Code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _serve(self):
        body, path = self._body(), unquote(urlsplit(self.path).path)
        with self.hub.lock:
            self.hub.watch(f"{self.command} {path}", False)
            self.hub.headers.append(dict(self.headers))
            if self.hub.failing and self.hub.failing in f"{self.command} {path}":
                return self._answer({"error": "the disk is full"}, status=500)
            said = self.headers.get("Authorization")
            writes = self.command in ("POST", "PUT") and not path.startswith("/lfs/")
            if writes and self.hub.token and said != f"Bearer {self.hub.token}":
                return self._answer({"error": "who are you?"}, status=401)
            return getattr(self, f"_{self.command.lower()}")(path.strip("/").split("/"), body)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815 - names of http.server

    def _post(self, parts, body):
        if parts[:3] == ["api", "repos", "create"]:
            return self._create(json.loads(body))
        if parts == ["api", "validate-yaml"]:
            return self._validate(json.loads(body)["content"])
        if parts[-4:] == ["info", "lfs", "objects", "batch"]:
            return self._batch(json.loads(body)["objects"])
        if parts[0] == "verify":
            fine = len(self.hub.blobs.get(parts[1], b"")) == json.loads(body)["size"]
            return self._answer({}, status=200 if fine else 422)
        name, action = "/".join(parts[2:4]), parts[4]
        self.hub.branches.add(parts[5])
        if name not in self.hub.repositories:
            return self._answer({"error": "none"}, status=404, code="RepoNotFound")
        if action == "branch":
            return self._answer({})
        if action == "preupload":
            return self._preupload(self.hub.repositories[name], json.loads(body)["files"])
        return self._commit(name, [json.loads(line) for line in body.splitlines()])

    def _create(self, asked):
        name = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        known = name in self.hub.repositories
        self.hub.repositories.setdefault(name, {})
        found = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name}
        return self._answer(found, status=409 if known else 200)

    def _validate(self, content):
        try:
            fine = isinstance(yaml.safe_load(content.split("---")[1]), dict)
        except (yaml.YAMLError, IndexError):
            fine = False
        errors = [] if fine else [{"message": "the header is no YAML"}]
        return self._answer({"errors": errors, "warnings": []}, status=200 if fine else 400)

    def _preupload(self, files, asked):
        modes = []
        for file in asked:
            large, old = file["path"].endswith(LARGE), files.get(file["path"])
            git = None if old is None else hashlib.sha1(b"blob %d\0" % len(old) + old)  # noqa: S324
            oid = None if old is None else (hashlib.sha256(old) if large else git).hexdigest()
            mode = {"path": file["path"], "uploadMode": "lfs" if large else "regular"}
            modes.append({**mode, "shouldIgnore": False, "oid": oid})
        return self._answer({"files": modes})

    def _batch(self, objects):
        found = []
        for wanted in objects:
            oid = wanted["oid"]
            actions = {"upload": f"{self.hub.endpoint}/lfs/{oid}?signature=s3cret"}
            actions["verify"] = f"{self.hub.endpoint}/verify/{oid}"
            known = {} if oid in self.hub.blobs else {"actions": {k: {"href": v} for k, v in actions.items()}}
            found.append({**wanted, **known})
        return self._answer({"transfer": "basic", "objects": found})

    def _put(self, parts, body):
        if parts[0] != "lfs" or hashlib.sha256(body).hexdigest() != parts[1]:
            return self._answer({"error": "damaged on the way"}, status=400)
        self.hub.blobs[parts[1]] = body
        return self._answer()

    def _commit(self, name, lines):
        added = {}
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                added[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                added[value["path"]] = base64.b64decode(value["content"])
        self.hub.repositories[name] |= added
        self.hub.commits.append((name, lines[0]["value"]["summary"], sorted(added)))
        revision = self.hub.revision(name)
        url = f"{self.hub.endpoint}/{name}/commit/{revision}"
        return self._answer({"commitUrl": url, "commitOid": revision, "hookOutput": "", "success": True})

    def _get(self, parts, body):
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        files = self.hub.repositories.get(name)
        if files is None:
            return self._answer({"error": "none"}, status=404, code="RepoNotFound")
        revision = self.hub.revision(name)
        if not api:
            return self._file(files, "/".join(parts[4:]), revision)
        if parts[4:5] == ["tree"]:
            under = "/".join(parts[6:])
            listed = [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in files.items()]
            return self._answer([entry for entry in listed if entry["path"].startswith(under)])
        siblings = [{"rfilename": path} for path in files]
        info = {"id": name, "modelId": name, "sha": revision, "siblings": siblings, "tags": []}
        return self._answer({**info, "private": False, "downloads": 0, "likes": 0})

    _head = _get

    def _file(self, files, path, revision):
        headers = {"X-Repo-Commit": revision}
        if path not in files:
            return self._answer({}, status=404, headers=headers, code="EntryNotFound")
        headers |= {"ETag": f'"{hashlib.sha256(files[path]).hexdigest()}"', "Accept-Ranges": "none"}
        if self.command == "HEAD":
            headers["Content-Length"] = len(files[path])
            return self._answer(headers=headers)
        return self._answer(files[path], headers=headers)


def connected(monkeypatch, server):
    """Make this process talk to the server, for pushes; what it downloads by was fixed at import."""
    constants = {"ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}
    for name, value in constants.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)
    monkeypatch.setenv("HF_TOKEN", server.token or "hf_none")
