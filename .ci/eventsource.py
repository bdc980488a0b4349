#!/usr/bin/env python3
"""Runs the EventSource of npm through the gateway and breaks its connections at random: no event is lost or comes twice, and the
upstream gets one request for each client. Usage: eventsource.py GATEWAY_BINARY. Needs npm; installs the rest below target/mcp.
Exits 1 if a check fails."""
import http.server, json, pathlib, random, subprocess, sys, threading, time

sys.path.insert(0, str(pathlib.Path(__file__).parent / "mcp"))
from common import NODE, WORK, gateway, install
from relay import Relay

GATEWAY = sys.argv[1]
CLIENTS, EVENTS, A_SECOND, CUTS = 4, 2500, 250, 100
CHECKS = []


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    print(f"{'ok  ' if fine else 'FAIL'} {what}" + (f": {detail}" if not fine else ""), flush=True)


class Counts(http.server.BaseHTTPRequestHandler):
    """Sends numbered events without ids."""
    protocol_version = "HTTP/1.1"
    requests = []

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"retry: 20\n\n")
        begun = time.monotonic()
        for n in range(1, EVENTS + 1):
            time.sleep(max(0, begun + n / A_SECOND - time.monotonic()))
            self.wfile.write(b"data: %d\n\n" % n)
        self.wfile.write(b"event: end\ndata: [DONE]\n\n")


def main():
    install()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counts)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with gateway(GATEWAY, server.server_port) as behind:
        relay = Relay(behind)
        urls = [f"http://127.0.0.1:{relay.port}/r/count?client={n}" for n in range(CLIENTS)]
        clients = subprocess.Popen([NODE, "eventsource.mjs", *urls], cwd=WORK, stdout=subprocess.PIPE, text=True)
        late = threading.Timer(60, clients.kill)
        late.start()
        # A client whose connection breaks before the first event has no id to resume with.
        while sum(b"data: 1\n" in came for came in relay.came()) < CLIENTS and clients.poll() is None:
            time.sleep(0.01)
        for _ in range(CUTS):
            time.sleep(random.uniform(0, 2 * EVENTS / A_SECOND / CUTS) * 0.9)
            relay.break_all()
        got = [json.loads(line) for line in clients.communicate()[0].splitlines()]
        late.cancel()
    want = list(range(1, EVENTS + 1))
    for n, numbers in enumerate(got):
        lost, twice = len(set(want) - set(numbers)), len(numbers) - len(set(numbers))
        check(f"client {n}: {len(numbers)} events in order, none lost, none twice", numbers == want, f"{lost} lost, {twice} twice")
    check(f"all {CLIENTS} clients got the last event", len(got) == CLIENTS, len(got))
    check(f"{relay.cuts} connections were broken", relay.cuts > CUTS * CLIENTS / 2, relay.cuts)
    asked = sorted(Counts.requests)
    check("the upstream got one request for each client", len(asked) == len(set(asked)) == CLIENTS, asked)


main()
print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
sys.exit(not all(CHECKS))
