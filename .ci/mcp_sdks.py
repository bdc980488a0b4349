#!/usr/bin/env python3
"""Runs the official MCP SDKs for Python and TypeScript, of both generations, as clients: directly, through the gateway, and through the
gateway with inspection of events and JSON bodies. Relays record the traffic. No session id of the upstream may reach a client, and no
session id of the gateway may reach the upstream. With the polling server, which ends its responses early, the relay also cuts the
connections of the clients: no event may be lost or arrive twice, and no call may be repeated. If a server loses its sessions, the
gateway heals them, and the clients continue. The gateway masks a phrase in event streams and in JSON bodies.
Usage: mcp_sdks.py GATEWAY_BINARY. Needs npm and Python 3.11 with venv; installs the rest below target/mcp. Exits 1 if a check
fails."""
import concurrent.futures, http.client, json, os, pathlib, re, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "mcp"))
from common import INSPECTION, MASK, NODE, PHRASE, WORK, free_port, gateway, install, listening, server
from relay import Relay

GATEWAY = sys.argv[1]
CHECKS = []
HOW = {"through": {}, "with inspection": INSPECTION}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}}
FORMS = ["pieces", *(f"{kind}-{place}" for kind in ("relative", "path", "url") for place in ("sessionId", "session_id", "sessionid", "segment"))]


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    if not fine:
        print(f"FAIL {what}: {detail}", flush=True)


class Wire(Relay):
    def ids(self):
        """Returns the session ids in the responses, in headers and endpoints, and the endpoints."""
        came = b"\n".join(self.came())
        endpoints = re.findall(rb"event: ?endpoint\r?\ndata: ?([^\r\n]+)", came)
        ids = re.findall(rb"(?i)\nmcp-session-id: *([^\r\n]+)", came) + [id for at in endpoints for id in re.findall(rb"[\w.~%-]{20,}", at)]
        return set(ids), endpoints

    def ended(self):
        """Returns the heads of the requests that end a session."""
        return [head for sent in self.sent() for head in re.findall(rb"DELETE /mcp HTTP/1.1\r\n.*?\r\n\r\n", sent, re.DOTALL)]


def run(client, kind, port, urls, env={}):
    """Runs a client program. Returns its passed checks, and its other output."""
    urls = [f"http://127.0.0.1:{port}{url}" for url in urls]
    try:
        p = subprocess.run([*client, kind, *urls], cwd=WORK, env=os.environ | env, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as late:
        return [], [f"no end: {late.stdout}"]
    lines = p.stdout.splitlines()
    return [line for line in lines if line.startswith("ok")], [line for line in lines if not line.startswith("ok")] + p.stderr.splitlines()[-5:]


def ask(port, path, headers={}):
    """Returns the status of the response to `tools/list`, which every server of the revision supports."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("POST", path, json.dumps(LIST), {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"} | headers)
    return c.getresponse().status


def traffic(client, kind, near, far, sessions):
    """Checks the traffic on both sides of the gateway."""
    (ours, endpoints), (theirs, _) = near.ids(), far.ids()
    if kind == "stateless":
        check(f"{client}: no session", not ours and not theirs, (ours, theirs))
        forged = {"Mcp-Session-Id": "forged-session-of-a-thief", "Last-Event-ID": "forged-event"}
        status = ask(near.port, "/mcp", {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"} | forged)
        past = any(b"forged" in sent for sent in far.sent())
        check(f"{client}: a request of the stateless revision is answered, and its session id does not reach the upstream", status == 200 and not past, (status, past))
        return
    check(f"{client}: {sessions} sessions", len(theirs) == len(ours) == sessions, (len(theirs), len(ours)))
    check(f"{client}: both sides have different ids", not ours & theirs, ours & theirs)
    for what, ids, wire in (("an upstream id to the client", theirs, near.came()), ("an upstream id from the client", theirs, near.sent()),
                            ("a gateway id to the upstream", ours, far.sent()), ("a gateway id from the upstream", ours, far.came())):
        seen = [id for id in ids if any(id in data for data in wire)]
        check(f"{client}: never {what}", not seen, seen[:2])
    check(f"{client}: the client uses its ids", all(any(id in sent for sent in near.sent()) for id in ours))
    check(f"{client}: the upstream gets its ids", all(any(id in sent for sent in far.sent()) for id in theirs))
    if kind == "legacy":
        foreign = [at for at in endpoints if not re.match(rb"/[^/]", at)]
        check(f"{client}: endpoints are absolute paths", not foreign, foreign)
        asks = [(at.decode(), {}) for at in endpoints if at not in foreign]
    else:
        deleted = [id for id in theirs if any(id in head for head in far.ended())]
        check(f"{client}: the upstream gets the DELETE of each session", len(deleted) == len(theirs), (len(deleted), len(theirs)))
        asks = [("/mcp", {"Mcp-Session-Id": id.decode()}) for id in [*ours, *theirs]]
    end = time.monotonic() + 3      # the gateway may not have noticed the disconnect of the last client
    while set(late := [ask(near.port, *args) for args in asks]) != {404} and time.monotonic() < end:
        time.sleep(0.1)
    check(f"{client}: an ended session gives 404", late and set(late) == {404}, late)
    before = far.sent()
    for args in asks:
        ask(near.port, *args)
    check(f"{client}: its requests do not reach the upstream", far.sent() == before)


def cut_by(name):
    """Returns a function that says which responses the relay may cut. If a resumed response breaks, the SDK for Python resumes
    again after its older id, so that a cut of that response would repeat events."""
    def cut(request):
        resumes = b"last-event-id" in request.lower()
        return b'"poll"' in request or (resumes and name.startswith("TypeScript"))
    return cut


def resumption(client, near, far, calls):
    """Checks the numbers of cuts, calls and resumes."""
    check(f"{client}: connections were cut", near.cuts >= calls, near.cuts)
    calls_made = [sum(sent.count(b'"poll"') for sent in wire.sent()) for wire in (near, far)]
    check(f"{client}: each call was made once, by the client and by the gateway", calls_made == [calls, calls], calls_made)
    by_clients, upstream = [sum(sent.lower().count(b"last-event-id") for sent in wire.sent()) for wire in (near, far)]
    check(f"{client}: clients resumed, and fewer resumes reached the upstream", by_clients > upstream >= calls, (by_clients, upstream))


def through(name, client, kind, urls, upstream, env):
    """Runs a client program through the gateway, between two relays, and checks the traffic. Returns what `run` returns."""
    far, port = Wire(upstream), free_port()
    # The clients connect to the port of the relay, and send it as the host.
    allowed = {"SSEP_ALLOWED_HOSTS": f"127.0.0.1:{port}", "SSEP_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}"}
    with gateway(GATEWAY, far.port, **env, **allowed) as behind:
        near = Wire(behind, port, **({"cut": cut_by(name)} if kind == "polling" else {}))
        ran = run(client, kind, near.port, urls)
        if kind == "polling":
            resumption(name, near, far, 3)
        traffic(name, kind, near, far, 2 if kind == "sessions" else len(urls))
    return ran


def healing(clients):
    """A server loses its sessions in the middle of a conversation, three times."""
    with server("sessions.mjs") as upstream:
        for name, client in clients.items():
            far, port = Wire(upstream), free_port()
            allowed = {"SSEP_ALLOWED_HOSTS": f"127.0.0.1:{port}", "SSEP_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}"}
            with gateway(GATEWAY, far.port, SSEP_HEAL="1", **allowed) as behind:
                near = Wire(behind, port)
                ok, bad = run(client, "forgetful", near.port, ["/mcp"])
                print(f"{name:20}{'forgetful':14}{'':24}{len(ok)} ok, {len(bad)} bad", flush=True)
                check(f"{name}, forgetful", ok and not bad, "\n    ".join(["", *bad]))
                numbers = lambda wire, method: sum(sent.count(b'"method":"%s"' % method) for sent in wire.sent())
                opened = numbers(near, b"initialize"), numbers(far, b"initialize")
                check(f"{name}, forgetful: one initialize of the client, and one for each loss", opened == (1, 4), opened)
                calls = numbers(near, b"tools/call"), numbers(far, b"tools/call")
                check(f"{name}, forgetful: each call is sent once", calls == (3, 3), calls)
                (ours, _), (theirs, _) = near.ids(), far.ids()
                check(f"{name}, forgetful: one session of the client, and four of the server", (len(ours), len(theirs)) == (1, 4), (ours, theirs))


def shapes(clients):
    """Servers that stream, and servers that send JSON bodies: the gateway masks the phrase in both."""
    servers = {"TypeScript 1": server("sessions.mjs"), "TypeScript 2": server("stateless.mjs")}
    servers |= {f"Python {n}": listening(WORK / f"python{n}/bin/python", "shapes.py", "PORT") for n in (1, 2)}
    for name, started in servers.items():
        # The first generation of clients does not know the only revision of this server.
        speak = {each: client for each, client in clients.items() if name != "TypeScript 2" or " 2." in each}
        with started as upstream:
            far, port = Wire(upstream), free_port()
            allowed = {"SSEP_ALLOWED_HOSTS": f"127.0.0.1:{port}", "SSEP_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}"}
            with gateway(GATEWAY, far.port, **INSPECTION, **allowed) as behind, concurrent.futures.ThreadPoolExecutor() as threads:
                near = Wire(behind, port)
                masked = {"PHRASE": PHRASE, "MASKED": MASK}
                urls = ["/m/stream", "/m/json"]
                ran = threads.map(lambda client: run(client, "shapes", near.port, urls, masked), speak.values())
                for each, (ok, bad) in zip(speak, ran):
                    print(f"{each:20}{name:14}{'':24}{len(ok)} ok, {len(bad)} bad", flush=True)
                    check(f"{each}, {name}: each text, in both shapes", len(ok) == 6 and not bad, "\n    ".join(["", *bad]))
        # Two of the three texts have the phrase.
        came = b"\n".join(far.came())
        answers = [len(re.findall(form % PHRASE.encode(), came)) for form in (rb"\ndata: ?{[^\n]*%s", rb"\n{[^\n]*%s")]
        # The SDK for Python 2.3 streams to clients of earlier revisions only.
        check(f"{name}: the server answers in both shapes", min(answers) > 0 and sum(answers) == 4 * len(speak), answers)
        check(f"{name}: the phrase reaches no client", not any(PHRASE.encode() in data for data in near.came()))


def main():
    install()
    for generation in ("1", "2"):
        if not (WORK / f"python{generation}/done").exists():
            subprocess.run([sys.executable, "-m", "venv", WORK / f"python{generation}"], check=True)
            subprocess.run([WORK / f"python{generation}/bin/pip", "install", "--quiet", "--disable-pip-version-check",
                            "-r", WORK / f"python{generation}.txt"], check=True)
            (WORK / f"python{generation}/done").touch()
    clients = {
        "TypeScript 1.32": (NODE, "clients.mjs", "1"), "TypeScript 2.4": (NODE, "clients.mjs", "2"),
        "Python 1.30": (WORK / "python1/bin/python", "clients.py"), "Python 2.3": (WORK / "python2/bin/python", "clients.py"),
    }
    print(f"{'client':20}{'server':14}{'directly':24}{'through the gateway':24}with inspection")
    kinds = {"sessions": ["/mcp"], "polling": ["/mcp"], "stateless": ["/mcp"], "legacy": [f"/m/{form}/sse" for form in FORMS]}
    for kind, urls in kinds.items():
        with server("stateless.mjs" if kind == "stateless" else "sessions.mjs") as upstream:
            for name, client in clients.items():
                if kind == "stateless" and "1." in name:
                    continue    # this SDK does not know the revision
                columns = [run(client, kind, upstream, urls)]
                with concurrent.futures.ThreadPoolExecutor() as threads:
                    columns += threads.map(lambda how: through(f"{name}, {kind}, {how}", client, kind, urls, upstream, HOW[how]), HOW)
                said = [f"{len(ok)} ok, {len(bad)} bad" for ok, bad in columns]
                print(f"{name:20}{kind:14}{said[0]:24}{said[1]:24}{said[2]}", flush=True)
                for way, (ok, bad) in zip(("directly", *HOW), columns):
                    check(f"{name}, {kind}, {way}", ok and not bad, "\n    ".join(["", *bad]))
                check(f"{name}, {kind}: as much through as directly", len({len(ok) for ok, _ in columns}) == 1)
    healing(clients)
    shapes(clients)
    print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
    sys.exit(not all(CHECKS))


main()
