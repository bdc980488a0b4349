#!/usr/bin/env python3
"""The official MCP SDKs for Python and TypeScript, of both generations, as clients: directly and through the gateway, over
relays that record what is sent. No session id of the upstream may reach a client, none of the gateway's the upstream. With a
server that ends its answers before they are complete, the clients' connections are cut as well: nothing may be lost or come
twice, and no call may be made again.
Usage: mcp_sdks.py GATEWAY_BINARY. Needs npm and Python 3.11 with venv; installs the rest below target/mcp. Exits 1 if
anything is not as it should."""
import http.client, json, pathlib, re, subprocess, sys, time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "mcp"))
from common import NODE, WORK, free_port, gateway, install, server
from relay import Relay

GATEWAY = sys.argv[1]
CHECKS = []
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}}}
FORMS = ["pieces", *(f"{kind}-{place}" for kind in ("relative", "path", "url") for place in ("sessionId", "session_id", "sessionid", "segment"))]


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    if not fine:
        print(f"FAIL {what}: {detail}", flush=True)


class Wire(Relay):
    def ids(self):
        """The ids of sessions in what came, where the protocol has them, and the endpoints."""
        came = b"\n".join(self.came())
        endpoints = re.findall(rb"event: ?endpoint\r?\ndata: ?([^\r\n]+)", came)
        ids = re.findall(rb"(?i)\nmcp-session-id: *([^\r\n]+)", came) + [id for at in endpoints for id in re.findall(rb"[\w.~%-]{20,}", at)]
        return set(ids), endpoints

    def ended(self):
        """The heads of the requests to end a session."""
        return [head for sent in self.sent() for head in re.findall(rb"DELETE /mcp HTTP/1.1\r\n.*?\r\n\r\n", sent, re.DOTALL)]


def run(client, kind, port, urls):
    """What a client program has to say."""
    urls = [f"http://127.0.0.1:{port}{url}" for url in urls]
    try:
        p = subprocess.run([*client, kind, *urls], cwd=WORK, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired as late:
        return [], [f"no end: {late.stdout}"]
    lines = p.stdout.splitlines()
    return [line for line in lines if line.startswith("ok")], [line for line in lines if not line.startswith("ok")] + p.stderr.splitlines()[-5:]


def ask(port, path, headers={}):
    """The status of a request that every server of the right revision answers."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    c.request("POST", path, json.dumps(LIST), {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"} | headers)
    return c.getresponse().status


def traffic(who, kind, near, far, sessions):
    """What went over the wires on both sides of the gateway."""
    (ours, endpoints), (theirs, _) = near.ids(), far.ids()
    if kind == "stateless":
        check(f"{who}: no session", not ours and not theirs, (ours, theirs))
        forged = {"Mcp-Session-Id": "forged-session-of-a-thief", "Last-Event-ID": "forged-event"}
        status = ask(near.port, "/mcp", {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"} | forged)
        past = any(b"forged" in sent for sent in far.sent())
        check(f"{who}: a request without sessions is answered, and takes none past the gateway", status == 200 and not past, (status, past))
        return
    check(f"{who}: {sessions} sessions", len(theirs) == len(ours) == sessions, (len(theirs), len(ours)))
    check(f"{who}: each side has ids of its own", not ours & theirs, ours & theirs)
    for what, ids, wire in (("the upstream's id to the client", theirs, near.came()), ("the upstream's id from the client", theirs, near.sent()),
                            ("the gateway's id to the upstream", ours, far.sent()), ("the gateway's id from the upstream", ours, far.came())):
        seen = [id for id in ids if any(id in data for data in wire)]
        check(f"{who}: nowhere {what}", not seen, seen[:2])
    check(f"{who}: the client uses its ids", all(any(id in sent for sent in near.sent()) for id in ours))
    check(f"{who}: the upstream gets its ids", all(any(id in sent for sent in far.sent()) for id in theirs))
    if kind == "legacy":
        foreign = [at for at in endpoints if not re.match(rb"/[^/]", at)]
        check(f"{who}: endpoints are absolute paths", not foreign, foreign)
        asks = [(at.decode(), {}) for at in endpoints if at not in foreign]
    else:
        told = [id for id in theirs if any(id in head for head in far.ended())]
        check(f"{who}: the upstream is told of the end", len(told) == len(theirs), (len(told), len(theirs)))
        asks = [("/mcp", {"Mcp-Session-Id": id.decode()}) for id in [*ours, *theirs]]
    end = time.monotonic() + 3      # the gateway may not have seen yet that the last client has left
    while set(late := [ask(near.port, *args) for args in asks]) != {404} and time.monotonic() < end:
        time.sleep(0.1)
    check(f"{who}: what has ended is 404", late and set(late) == {404}, late)
    before = far.sent()
    for args in asks:
        ask(near.port, *args)
    check(f"{who}: and the upstream is not asked", far.sent() == before)


def cut_by(name):
    """Which answers a client can lose a part of. What the SDK for Python has had of an answer that it came back for, it asks for
    again if that breaks too."""
    def cut(request):
        comes_back = b"last-event-id" in request.lower()
        return b'"poll"' in request or (comes_back and name.startswith("TypeScript"))
    return cut


def resumption(who, near, far, calls):
    """What it took that nothing was lost."""
    check(f"{who}: connections were cut", near.cuts >= calls, near.cuts)
    called = [sum(sent.count(b'"poll"') for sent in wire.sent()) for wire in (near, far)]
    check(f"{who}: each call was made once, by the client and by the gateway", called == [calls, calls], called)
    came_back, asked = [sum(sent.lower().count(b"last-event-id") for sent in wire.sent()) for wire in (near, far)]
    check(f"{who}: clients came back, and the upstream was asked to go on, but less often", came_back > asked >= calls, (came_back, asked))


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
    print(f"{'client':20}{'server':14}{'directly':24}through the gateway")
    kinds = {"sessions": ["/mcp"], "polling": ["/mcp"], "stateless": ["/mcp"], "legacy": [f"/m/{form}/sse" for form in FORMS]}
    for kind, urls in kinds.items():
        with server("stateless.mjs" if kind == "stateless" else "sessions.mjs") as upstream:
            for name, client in clients.items():
                if kind == "stateless" and "1." in name:
                    continue    # there was no such revision
                columns = [run(client, kind, upstream, urls)]
                far, port = Wire(upstream), free_port()
                # The client comes to the relay's port, and says so.
                allowed = {"SSEP_ALLOWED_HOSTS": f"127.0.0.1:{port}", "SSEP_ALLOWED_ORIGINS": f"http://127.0.0.1:{port}"}
                with gateway(GATEWAY, far.port, **allowed) as behind:
                    near = Wire(behind, port, **({"cut": cut_by(name)} if kind == "polling" else {}))
                    columns.append(run(client, kind, near.port, urls))
                    said = [f"{len(ok)} ok, {len(bad)} bad" for ok, bad in columns]
                    print(f"{name:20}{kind:14}{said[0]:24}{said[1]}", flush=True)
                    for way, (ok, bad) in zip(("directly", "through"), columns):
                        check(f"{name}, {kind}, {way}", ok and not bad, "\n    ".join(["", *bad]))
                    check(f"{name}, {kind}: as much through as directly", len(columns[0][0]) == len(columns[1][0]))
                    if kind == "polling":
                        resumption(name, near, far, 3)
                    traffic(f"{name}, {kind}", kind, near, far, 2 if kind == "sessions" else len(urls))
    print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
    sys.exit(not all(CHECKS))


main()
