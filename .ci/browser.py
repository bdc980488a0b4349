#!/usr/bin/env python3
"""Opens the demo page of the gateway in Chromium and cuts the connections of its clients and of the upstream: the EventSources of
the page lose no event and get none twice. Usage: browser.py GATEWAY_BINARY [SCREENSHOT]. Needs Chromium. Exits 1 if a check
fails."""
import base64, json, os, random, socket, subprocess, sys, tempfile, time

GATEWAY = sys.argv[1]
CUTS = 8
CHECKS = []
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--window-size=1100,900"]
# The numbers that the page shows, and the upstream's count of requests.
LOOK = """(async () => ({
    asked: await (await fetch('/demo/asked')).json(),
    cards: Object.fromEntries([...document.querySelectorAll('article')].map((card, n) => [`${n + 1}: ${card.dataset.url}`, Object.fromEntries(
        [...card.querySelectorAll('[data-count]')].map(count => [count.dataset.count, Number(count.textContent)]))])),
}))()"""


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    print(f"{'ok  ' if fine else 'FAIL'} {what}" + (f": {detail}" if not fine else ""), flush=True)


class Late(Exception):
    pass


class Chromium:
    """Controls Chromium with the DevTools protocol over a pipe. Each message is JSON with a NUL byte at its end."""

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
        """Returns the value of the script, or `None` while the page navigates."""
        answer = self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return answer.get("result", {}).get("value")


def wait(what, look, fine, seconds=10):
    """Calls `look` until its result satisfies `fine`, and returns the result. Raises `Late` after the limit."""
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

    browser.do("Page.navigate", url=f"http://127.0.0.1:{port}/")
    seen = wait("all streams run", look, lambda seen: seen["cards"] and all(card["events"] > 2 for card in seen["cards"].values()))
    for way, clients in (("/r/", 2), ("/f/", 2), ("/s/", 1)):
        check(f"the page shows {clients} streams on {way}", sum(way in name for name in seen["cards"]) == clients, list(seen["cards"]))

    first = seen
    for _ in range(CUTS):
        before = look()
        click("clients")
        seen = wait("every EventSource reconnects", look, lambda seen: grown(before, seen, "connections"))
        wait("its stream continues", look, lambda now: grown(seen, now, "events"))
    seen = look()
    kept = [{url: times for url, times in now["asked"].items() if not url.startswith("/s/")} for now in (first, seen)]
    check(f"{CUTS} cuts of the clients' connections cost no request to the upstream", kept[0] == kept[1], kept)

    first = seen
    for n in range(CUTS):
        click("upstream")
        seen = wait("the upstream gets a new request", look, lambda seen: all(times > first["asked"][url] + n for url, times in seen["asked"].items()))
        wait("its stream continues", look, lambda now: grown(seen, now, "events"))
    seen = look()
    once_each = {url: times + CUTS for url, times in first["asked"].items()}
    check(f"{CUTS} cuts of the upstream's connections cost one request each", seen["asked"] == once_each, (once_each, seen["asked"]))

    before = [look()]
    for _ in range(CUTS):
        for what in random.sample(["clients", "upstream"], 2):
            click(what)
            time.sleep(random.uniform(0, 0.3))
        before.append(wait("streams continue", look, lambda now: grown(before[-1], now, "events")))
    seen = wait("all streams run", look, lambda now: grown(before[-1], now, "events"))
    check(f"after {CUTS} cuts of both, all streams run", grown(before[-1], seen, "events"), seen)

    for name, card in look()["cards"].items():
        if "/s/" in name:
            check(f"{name}: is not recorded, so that the page shows its gaps", card["gaps"] > 0, card)
        else:
            said = f"{name}: {card['events']} events over {card['connections']} connections, no gap, no duplicate"
            check(said, card["gaps"] == card["duplicates"] == 0, card)
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
    check("the page gets there in time", False, late)
print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
sys.exit(not all(CHECKS))
