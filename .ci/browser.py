#!/usr/bin/env python3
"""Opens the demo page of the gateway in Chromium and cuts the connections of its clients and of the upstream: the clients of the page
lose no event and get none twice. Once through the relay, and once as if only the gateway's port were reachable. Usage: browser.py
GATEWAY_BINARY [FOLDER_FOR_SCREENSHOTS]. Needs Chromium. Exits 1 if a check fails."""
import os, random, socket, subprocess, sys, tempfile, time

from chromium import CHECKS, Chromium, Late, check, wait

GATEWAY = sys.argv[1]
SHOTS = sys.argv[2] if sys.argv[2:] else None
CUTS = 6
# The numbers that the page shows, and the upstream's count of requests.
LOOK = """(async () => ({
    notice: document.getElementById('notice').hidden ? '' : document.getElementById('notice').textContent,
    sent: document.getElementById('sent').textContent, got: document.getElementById('got').textContent,
    done: !document.getElementById('again').disabled, marked: document.querySelectorAll('#sent .masked').length,
    cuts: [...document.querySelectorAll('article')].map(card => [card.querySelectorAll('.cut:not(.upstream)').length, card.querySelectorAll('.cut.upstream').length]),
    asked: await (await fetch('/demo/asked')).json(),
    cards: Object.fromEntries([...document.querySelectorAll('article')].map((card, n) => [`${n + 1}: ${card.dataset.url}`, Object.fromEntries(
        [...card.querySelectorAll('[data-count]')].map(count => [count.dataset.count, Number(count.textContent)]))])),
}))()"""


def main(browser, port, relayed):
    look = lambda: browser.run(LOOK)
    shoot = lambda name: SHOTS and browser.shoot(os.path.join(SHOTS, f"demo-{'relay' if relayed else 'one-port'}-{name}.png"))
    click = lambda what: browser.run(f"document.querySelector('[data-post=\"/demo/cut-{what}\"]').click()")
    grown = lambda before, now, name: all(now["cards"][url][name] > card[name] for url, card in before["cards"].items())

    if not relayed:
        browser.do("Network.enable")
        browser.do("Network.setBlockedURLs", urls=[f"*:{port + 1}/*"])
    browser.open(f"http://127.0.0.1:{port}/")
    seen = wait("all streams run", look, lambda seen: seen["cards"] and all(card["events"] > 2 for card in seen["cards"].values()))
    check("the page says that the relay is not reachable, only if so", bool(seen["notice"]) != relayed, seen["notice"])
    for way, clients in (("/r/", 1), ("/f/", 2), ("/s/", 1)):
        check(f"the page shows {clients} streams on {way}", sum(way in name for name in seen["cards"]) == clients, list(seen["cards"]))

    seen = wait("the answer is complete", look, lambda seen: seen["done"] and seen["marked"] > 6, 30)
    secrets = [any(secret in text for secret in ("ada", "lace@", "4111")) for text in (seen["sent"], seen["got"])]
    check("the page shows a secret that the upstream sent and the client did not get", secrets == [True, False], seen)
    check("the client got the rest of the answer", seen["got"].startswith("Every event of this answer") and "masked them" in seen["got"], seen["got"])

    first = seen
    for _ in range(CUTS):
        before = look()
        click("clients")
        seen = wait("every EventSource reconnects", look, lambda seen: grown(before, seen, "connections"))
        wait("its stream continues", look, lambda now: grown(seen, now, "events"))
    seen = look()
    check("the bars show the cuts of the clients", all(clients > 0 for clients, _ in seen["cuts"]), seen["cuts"])
    kept = [{url: times for url, times in now["asked"].items() if not url.startswith("/s/")} for now in (first, seen)]
    check(f"{CUTS} cuts of the clients' connections cost no request to the upstream", kept[0] == kept[1], kept)

    first = seen
    for n in range(CUTS):
        click("upstream")
        seen = wait("the upstream gets a new request", look, lambda seen: all(times > first["asked"][url] + n for url, times in seen["asked"].items()))
        wait("its stream continues", look, lambda now: grown(seen, now, "events"))
    seen = look()
    check("the bars show the cuts of the upstream", all(upstream > 0 for _, upstream in seen["cuts"]), seen["cuts"])
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
    browser.do("Emulation.setDeviceMetricsOverride", width=1280, height=1900, deviceScaleFactor=1, mobile=False)
    shoot("1280")
    browser.do("Emulation.setDeviceMetricsOverride", width=390, height=2600, deviceScaleFactor=1, mobile=True)
    wide = browser.run("document.documentElement.scrollWidth")
    check("the page is as wide as the phone", wide <= 390, wide)
    shoot("390")


def start(folder, relayed):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    gateway = subprocess.Popen([os.path.abspath(GATEWAY), "--listen", f"127.0.0.1:{port}"], stdout=subprocess.DEVNULL, env=os.environ | {"SSEP_LOG": "warn"})
    browser = None
    try:
        wait("the gateway listens", lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, bool)
        browser = Chromium(folder)
        main(browser, port, relayed)
    finally:
        gateway.kill()
        if browser:
            browser.p.kill()
            browser.p.wait()


try:
    for relayed in (True, False):
        print("through the relay" if relayed else "through one port", flush=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            start(folder, relayed)
except Late as late:
    check("the page gets there in time", False, late)
print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
sys.exit(not all(CHECKS))
