#!/usr/bin/env python3
"""The demo page of the gateway in Chromium: its EventSources lose nothing and get nothing twice, while the connections of the
clients and of the upstream are cut. Usage: browser.py GATEWAY_BINARY [SCREENSHOT]. Needs Chromium; exits 1 if anything is not
as it should."""
import base64, json, os, random, socket, subprocess, sys, tempfile, time

GATEWAY = sys.argv[1]
CUTS = 8
CHECKS = []
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--window-size=1100,760"]
# What the page shows, as a person would read it off, and what the upstream says.
LOOK = """(async () => ({
    asked: await (await fetch('/demo/asked')).json(),
    cards: Object.fromEntries([...document.querySelectorAll('article')].map(card => [card.dataset.url, Object.fromEntries(
        [...card.querySelectorAll('[data-count]')].map(count => [count.dataset.count, Number(count.textContent)]))])),
}))()"""


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    print(f"{'ok  ' if fine else 'FAIL'} {what}" + (f": {detail}" if not fine else ""), flush=True)


class Late(Exception):
    pass


class Chromium:
    """Driven by the DevTools protocol, over a pipe: messages of JSON with a NUL behind each."""

    def __init__(self, folder):
        (its_in, self.out), (self.into, its_out) = os.pipe(), os.pipe()
        argv = ["sh", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "sh", "chromium", *FLAGS, f"--user-data-dir={folder}"]
        self.p = subprocess.Popen(argv, pass_fds=(its_in, its_out), stderr=subprocess.DEVNULL)
        os.close(its_in), os.close(its_out)
        self.rest, self.n, self.session = b"", 0, None
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def do(self, method, **params):
        self.n += 1
        message = {"id": self.n, "method": method, "params": params} | ({"sessionId": self.session} if self.session else {})
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                more = os.read(self.into, 1 << 20)
                if not more:
                    sys.exit("Chromium has ended")
                self.rest += more
            answer, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(answer)
            if answer.get("id") == self.n:
                return answer.get("result", {})

    def run(self, script):
        """Its value, if there is one: there is none while a page gives way to another."""
        answer = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return answer.get("result", {}).get("value")


def wait(what, look, fine, seconds=10):
    """What is seen as soon as it is fine."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen and fine(seen):
            return seen
        if time.monotonic() > end:
            raise Late(f"{what}: {seen}")
        time.sleep(0.05)


def main(browser, port):
    look = lambda: browser.run(LOOK)
    click = lambda what: browser.run(f"document.querySelector('[data-post=\"/demo/cut-{what}\"]').click()")
    grown = lambda before, now, name: all(now["cards"][url][name] > card[name] for url, card in before["cards"].items())
    asked = lambda seen: {url: n for url, n in seen["asked"].items() if url in kept}

    browser.do("Page.navigate", url=f"http://127.0.0.1:{port}/")
    seen = wait("all streams run", look, lambda seen: seen["cards"] and all(card["events"] > 2 for card in seen["cards"].values()))
    kept = [url for url in seen["cards"] if not url.startswith("/s/")]
    check("the page shows kept streams, and one that is not", len(kept) >= 2 and len(kept) < len(seen["cards"]), list(seen["cards"]))

    first = seen
    for _ in range(CUTS):
        before = look()
        click("clients")
        seen = wait("every EventSource comes back", look, lambda seen: grown(before, seen, "connections"))
        wait("and its stream goes on", look, lambda now: grown(seen, now, "events"))
    seen = look()
    check(f"{CUTS} cuts of the clients' connections cost no request to the upstream", asked(seen) == asked(first), (asked(first), asked(seen)))

    first = seen
    for n in range(CUTS):
        click("upstream")
        seen = wait("the upstream is asked again", look, lambda seen: all(times > asked(first)[url] + n for url, times in asked(seen).items()))
        wait("and its stream goes on", look, lambda now: grown(seen, now, "events"))
    seen = look()
    once_each = {url: times + CUTS for url, times in asked(first).items()}
    check(f"{CUTS} cuts of the upstream's connections cost one request each", asked(seen) == once_each, (once_each, asked(seen)))

    before = [look()]
    for _ in range(CUTS):
        for what in random.sample(["clients", "upstream"], 2):
            click(what)
            time.sleep(random.uniform(0, 0.3))
        before.append(wait("streams go on", look, lambda now: grown(before[-1], now, "events")))
    seen = wait("all streams run", look, lambda now: grown(before[-1], now, "events"))
    check(f"after {CUTS} cuts of both, all streams run", grown(before[-1], seen, "events"), seen)

    cards = look()["cards"]
    for url in kept:
        card = cards[url]
        check(f"{url}: {card['events']} events over {card['connections']} connections, no gap, no duplicate",
              card["gaps"] == card["duplicates"] == 0, card)
    others = [card for url, card in cards.items() if url not in kept]
    check("a stream that is not kept has gaps, so they can be seen", all(card["gaps"] > 0 for card in others), others)
    if sys.argv[2:]:
        with open(sys.argv[2], "wb") as file:
            file.write(base64.b64decode(browser.do("Page.captureScreenshot")["data"]))


def start(folder):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    gateway = subprocess.Popen([os.path.abspath(GATEWAY), "--listen", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL, env=os.environ | {"SSEP_LOG": "warn"})
    browser = None
    try:
        wait("the gateway listens", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, bool)
        browser = Chromium(folder)
        main(browser, port)
    finally:
        gateway.kill()
        if browser:
            browser.p.kill()
            browser.p.wait()


try:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        start(folder)
except Late as late:
    check("it goes on", False, late)
print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
sys.exit(not all(CHECKS))
