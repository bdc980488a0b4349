#!/usr/bin/env python3
"""Runs the gateway in front of other servers: nginx, Python's http.server, and axum (the demo upstream of the gateway). Usage:
servers.py GATEWAY_BINARY. Needs nginx and Python 3.9. Exits 1 if a check fails."""
import gzip, hashlib, http.client, http.server, os, pathlib, re, shutil, socket, subprocess, sys, tempfile, threading, time

GATEWAY = sys.argv[1]
CHECKS = []


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    print(f"{'ok  ' if fine else 'FAIL'} {what}" + (f": {detail}" if not fine else ""), flush=True)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"nothing listens on {port}")


class Gateway:
    def __init__(self, upstream, *args):
        self.port = free_port()
        argv = [GATEWAY, "--listen", f"127.0.0.1:{self.port}", *args]
        env = os.environ | {"RUST_BACKTRACE": "0"}
        self.p = subprocess.Popen(argv + (["--upstream", upstream] if upstream else []), stdout=subprocess.PIPE, text=True, env=env)
        wait_for(self.port)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.terminate()
        check("SIGTERM ends the gateway with status 0", self.p.wait(5) == 0)

    def ask(self, method, path, body=None, headers={}):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        c.request(method, path, body, headers)
        return c.getresponse()


def arrival_gaps(response, marker):
    """Returns the times between the arrivals of events, in seconds."""
    times = []
    while line := response.readline():
        if marker in line:
            times.append(time.monotonic())
    return [b - a for a, b in zip(times, times[1:])]


def nginx(folder):
    port = free_port()
    big = os.urandom(64 << 20)
    (folder / "big.bin").write_bytes(big)
    (folder / "page.json").write_text('{"deny": "SECRET"}')
    (folder / "feed.sse").write_text("id: 1\ndata: open\n\n: SECRET comment\n\ndata: SECRET\n\ndata: close\n\n")
    (folder / "feed.sse.gz").write_bytes(gzip.compress((folder / "feed.sse").read_bytes()))
    (folder / "nginx.conf").write_text(f"""
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; user root;
events {{}}
http {{ access_log off; client_body_temp_path {folder}/body; client_max_body_size 0; gzip_static on;
  types {{ application/json json; text/event-stream sse; application/octet-stream bin; }}
  server {{ listen 127.0.0.1:{port}; root {folder}; location /up {{ dav_methods PUT; create_full_put_path on; }} }} }}""")
    p = subprocess.Popen([shutil.which("nginx") or "/usr/sbin/nginx", "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"])
    wait_for(port)
    try:
        with Gateway(f"http://127.0.0.1:{port}", "--deny", "SECRET") as gw:
            r = gw.ask("GET", "/big.bin")
            check("nginx: a 64 MiB download is intact", hashlib.sha256(r.read()).digest() == hashlib.sha256(big).digest())
            check("nginx: its head is intact", r.getheader("content-length") == str(len(big)) and r.getheader("etag") is not None)
            r = gw.ask("GET", "/big.bin", headers={"Range": "bytes=100-199"})
            check("nginx: a range of it passes", r.status == 206 and r.read() == big[100:200])
            r = gw.ask("GET", "/page.json")
            check("nginx: JSON is not inspected", r.read() == b'{"deny": "SECRET"}')
            r = gw.ask("HEAD", "/page.json")
            check("nginx: HEAD of JSON", r.status == 200 and r.getheader("content-length") == "18" and r.read() == b"")
            for coding in ("", "gzip"):
                r = gw.ask("GET", "/feed.sse", headers={"Accept-Encoding": coding} if coding else {})
                got = r.read()
                check(f"nginx: a stream is inspected, coding `{coding}`", got == b"id: 1\ndata: open\n\n\ndata: close\n\n", got)
                check("nginx: its head is that of an inspected stream", r.getheader("cache-control") == "no-store, no-transform" and r.getheader("etag") is None
                      and r.getheader("content-length") is None and r.getheader("content-encoding") is None)
            r = gw.ask("HEAD", "/feed.sse")
            check("nginx: HEAD of a stream", r.status == 200 and r.getheader("cache-control") == "no-store, no-transform" and r.read() == b"")
            r = gw.ask("GET", "/feed.sse", headers={"Range": "bytes=0-20"})
            check("nginx: a range of a stream is rejected", r.status == 502, r.status)
            check("nginx: 404 passes", gw.ask("GET", "/none").status == 404)
            r = gw.ask("GET", "/page.json", headers={"If-None-Match": gw.ask("GET", "/page.json").getheader("etag")})
            check("nginx: 304 passes", r.status == 304)
    finally:
        p.terminate()
        p.wait()


STREAM = ("Content-Type", "text/event-stream")
HOSTILE = {     # response heads that try to bypass the inspection or to truncate the response
    "/hidden": [STREAM, ("Connection", "close, Content-Type")],
    "/coded": [STREAM, ("Connection", "close"), ("Transfer-Encoding", "gzip, chunked")],
    "/both": [("Content-Type", "application/json"), ("Connection", "close"), ("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
    "/upgrade": [STREAM, ("Connection", "close")],
}


class Script(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    requests = []

    def log_message(self, *_):
        pass

    def body(self):
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            parts = []
            while n := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(n))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_GET(self):
        self.requests.append((self.command, self.path))
        body = self.body()
        if self.path.startswith("/digest"):
            text = hashlib.sha256(body).hexdigest().encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            return self.wfile.write(text)
        if heads := HOSTILE.get(self.path):
            self.close_connection = True
            text = b"data: SECRET\n\ndata: upgrade %s\n\n" % (self.headers.get("Upgrade") or "no").encode()
            head = "".join(f"{k}: {v}\r\n" for k, v in heads)
            chunked = any(k == "Transfer-Encoding" for k, _ in heads)
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(text), text) if chunked else text
            return self.wfile.write(b"HTTP/1.1 200 OK\r\n" + head.encode() + b"\r\n" + body)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        for n in range(5):
            self.wfile.write(f"data: {n} of {len(body)}\n\n".encode())
            time.sleep(0.15)
        self.wfile.write(b"data: SECRET\n\ndata: [DONE]\n")      # many servers omit the last blank line

    do_POST = do_PUT = do_HEAD = do_GET


def python():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Script)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Gateway(f"http://127.0.0.1:{server.server_port}", "--deny", "SECRET") as gw:
        for method in ("GET", "POST"):
            r = gw.ask(method, "/stream", b"x" * 1000 if method == "POST" else None)
            gaps = arrival_gaps(r, b"data: ")
            check(f"http.server: events of a {method} arrive one at a time", len(gaps) >= 4 and min(gaps[:4]) > 0.05, gaps)
        got = gw.ask("GET", "/stream").read()
        check("http.server: the denied event is dropped, the unfinished rest is not", got.endswith(b"data: 4 of 0\n\ndata: [DONE]\n"), got)
        big = os.urandom(64 << 20)
        r = gw.ask("POST", "/digest", big)
        check("http.server: a 64 MiB upload is intact", r.status == 201 and r.read().decode() == hashlib.sha256(big).hexdigest())
        r = gw.ask("POST", "/digest", iter([big[i:i + 65536] for i in range(0, len(big), 65536)]))
        check("http.server: a chunked upload is intact", r.status == 201 and r.read().decode() == hashlib.sha256(big).hexdigest())
        r = gw.ask("HEAD", "/stream")
        check("http.server: HEAD", r.status == 200 and r.read() == b"")
        got = gw.ask("GET", "/hidden").read()
        check("http.server: Connection cannot hide the type of a stream", got == b"data: upgrade no\n\n", got)
        check("http.server: an unknown transfer coding is rejected", gw.ask("GET", "/coded").status == 502)
        r = gw.ask("GET", "/both")
        check("http.server: Transfer-Encoding overrides Content-Length", r.getheader("content-length") is None and len(r.read()) == 32)
        got = gw.ask("GET", "/upgrade", headers={"Connection": "Upgrade", "Upgrade": "h2c"}).read()
        check("http.server: the upgrade header is not forwarded", got == b"data: upgrade no\n\n", got)
    n = len(Script.requests)
    check("http.server: the upstream gets each request once", n == 10, Script.requests)
    server.shutdown()


def axum():
    with Gateway(None) as gw:
        printed = [gw.p.stdout.readline() for _ in range(5)]
        curls = [line for line in printed if "curl" in line]
        check("the gateway alone prints three curl lines", len(curls) == 3, printed)
        url = re.search(r"http://\S+/s/chat", curls[0]).group()
        curl = subprocess.Popen(["curl", "-sN", url], stdout=subprocess.PIPE)
        gaps = arrival_gaps(curl.stdout, b"data: ")
        check("axum: the printed curl shows events one at a time", len(gaps) >= 10 and min(gaps[:10]) > 0.05, gaps)
        r = gw.ask("POST", "/mcp", b'{"jsonrpc":"2.0","id":7,"method":"tools/call"}', {"Content-Type": "application/json"})
        check("axum: a POST is answered by a stream", r.read().count(b"event: message\ndata: ") == 4)
        check("axum: 404 and 405 pass", (gw.ask("GET", "/none").status, gw.ask("GET", "/mcp").status) == (404, 405))


def raw(gw, *sent, room=None):
    """Sends raw bytes. Returns the client socket, with a receive buffer of `room` bytes."""
    client = socket.socket()
    if room:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    client.settimeout(5)
    client.connect(("127.0.0.1", gw.port))
    client.sendall(b"".join(sent))
    return client


def read_all(client):
    got = b""
    try:
        while more := client.recv(65536):
            got += more
    except ConnectionResetError:
        return got, "reset"
    return got, "closed"


def sockets():
    upstream = socket.create_server(("127.0.0.1", 0))
    upstream.settimeout(5)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi"
    with Gateway(f"http://127.0.0.1:{upstream.getsockname()[1]}", "--panic", "SECRET") as gw:
        for what, more in (("nothing", b""), ("a line end", b"\r\n"), ("a request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")):
            for head in (b"", b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n"):
                client = raw(gw, post, more)
                asked, _ = upstream.accept()
                asked.settimeout(5)
                asked.recv(65536)
                asked.sendall(head)
                if head:
                    client.recv(65536)
                client.close()
                begun = time.monotonic()
                try:
                    while asked.recv(65536):
                        pass
                except OSError:
                    pass
                took = time.monotonic() - begun
                check(f"the gateway notices a client disconnect with {what} unread, {'after' if head else 'before'} the head", took < 1, took)
        for version, end in ((b"1.0", "reset"), (b"1.1", "closed")):
            client = raw(gw, b"GET / HTTP/", version, b"\r\nHost: x\r\n\r\n")
            asked, _ = upstream.accept()
            asked.recv(65536)
            asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\ndata: SECRET\n\n")
            got = read_all(client)
            check(f"HTTP/{version.decode()}: a cut looks cut, and the event before it arrives",
                  got[1] == end and b"data: 1\n\n" in got[0] and b"\r\n0\r\n" not in got[0], got)
        client = raw(gw, b"GET / HTTP/1.0\r\n\r\n", room=4096)
        asked, _ = upstream.accept()
        asked.recv(65536)
        events = b"data: %s\n\n" % (b"x" * 1000) * 200
        asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + events + b"data: SECRET\n\n")
        read_all(asked)     # until the gateway has closed the upstream connection
        time.sleep(0.5)
        got = read_all(client)
        check("HTTP/1.0: a slow client gets all events before a cut",
              got[1] == "reset" and got[0].endswith(events), (got[1], len(got[0])))
        for method, status, body in ((b"GET", b"200", b"data: 1\n\n"), (b"HEAD", b"200", b""), (b"GET", b"204", b"")):
            client = raw(gw, method, b" / HTTP/1.0\r\n\r\n")
            asked, _ = upstream.accept()
            asked.recv(65536)
            asked.sendall(b"HTTP/1.1 %s X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n%s" % (status, body))
            asked.close()
            got = read_all(client)
            check(f"HTTP/1.0: an end looks like an end: {method.decode()}, {status.decode()}",
                  got[1] == "closed" and got[0].split(b"\r\n\r\n")[1:] == [body], got)
        for what, head, status in (
            ("two hosts", b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\nConnection: close\r\n\r\n", b"400"),
            ("no host", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"400"),
            ("an unknown transfer coding",
             b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", b"501"),
            ("malformed chunks",
             b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n", b"400"),
        ):
            got = read_all(raw(gw, head))[0]
            check(f"{what}: {status.decode()}", got.split(b" ")[1:2] == [status], got)


def drain():
    upstream = socket.create_server(("127.0.0.1", 0))
    upstream.settimeout(5)
    with Gateway(f"http://127.0.0.1:{upstream.getsockname()[1]}", "--drain-ms", "100") as gw:
        streams = []
        for version, end in (("1.0", "reset"), ("1.1", "closed")):
            client = raw(gw, f"GET / HTTP/{version}\r\nHost: x\r\n\r\n".encode())
            asked, _ = upstream.accept()
            asked.recv(65536)
            asked.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
            got = b""
            while b"data: 1\n\n" not in got:
                got += client.recv(65536)
            streams.append((version, end, client, asked))
    for version, end, client, _ in streams:
        got = read_all(client)
        check(f"HTTP/{version}: a stream that outlasts the drain looks cut", got[1] == end and b"0\r\n\r\n" not in got[0], got)


def bad_starts():
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    for what, args, word in (
        ("a taken port", ["--listen", f"127.0.0.1:{taken.getsockname()[1]}"], "SSEP_LISTEN"),
        ("an upstream without a scheme", ["--listen", "127.0.0.1:0", "--upstream", "localhost:1"], "SSEP_UPSTREAM"),
        ("an upstream with a path", ["--listen", "127.0.0.1:0", "--upstream", "http://localhost:1/x"], "SSEP_UPSTREAM"),
        ("an empty text", ["--deny", ""], "empty"),
    ):
        p = subprocess.run([GATEWAY, *args], capture_output=True, text=True, timeout=10)
        fine = p.returncode != 0 and word in p.stderr and p.stderr.count("\n") == 1
        check(f"{what} is a clear error", fine, p.stderr)


with tempfile.TemporaryDirectory() as folder:
    nginx(pathlib.Path(folder))
python()
axum()
sockets()
drain()
bad_starts()
print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
sys.exit(not all(CHECKS))
