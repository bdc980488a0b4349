#!/usr/bin/env python3
"""Opens the live page of the gateway's admin listener in Chromium, with 500 streams at 10 events a second. Usage: live_page.py
GATEWAY_BINARY [FOLDER_FOR_SCREENSHOTS]. Needs Chromium. Exits 1 if a check fails."""
import asyncio, itertools, multiprocessing, os, socket, subprocess, sys, tempfile, urllib.error, urllib.request

from chromium import CHECKS, Chromium, Late, check, wait

GATEWAY = sys.argv[1]
SHOTS = sys.argv[2] if sys.argv[2:] else None
STREAMS, OWNERS = 500, 10
MARKUP = '<img src=x onerror="window.injected = 1"><script>window.injected = 1</script>'
# What the page shows: the rows, the counters, and the tap.
LOOK = """(() => {
    const texts = (root, selector) => [...root.querySelectorAll(selector)].map(element => element.textContent);
    return {
        empty: !document.getElementById('empty').hidden && document.getElementById('empty').textContent,
        sum: document.getElementById('sum').textContent,
        said: document.getElementById('said').textContent,
        rows: document.querySelectorAll('tbody tr:not(.ended)').length,
        ended: texts(document, 'tbody tr.ended .state'),
        rates: texts(document, 'tbody tr:not(.ended) .rate').map(Number),
        outcomes: Object.fromEntries([...document.querySelectorAll('#outcomes li')].map(item => [item.dataset.outcome, Number(item.querySelector('b').textContent)])),
        tap: Object.fromEntries(['forwarded', 'changed', 'dropped', 'held', 'added'].map(verdict => [verdict, texts(document, `#blocks .${verdict}`)])),
        tapState: document.getElementById('tap-state').textContent,
    };
})()"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


# ---- the upstream and the clients, in a process of their own

async def serve(reader, writer):
    """An event stream: `/s/marks` has events for the interceptors, others have ten ticks a second."""
    path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    try:
        for n in itertools.count():
            if path == b"/s/marks":
                kinds = [f"data: keep {n}", f"data: drop-me {n}", f'data: {{"n":{n},"text":"the password is here"}}',
                         f"event: {MARKUP}\nid: {MARKUP}\ndata: {MARKUP}"]
                writer.write(f"{kinds[n % 4]}\n\n".encode())
            else:
                writer.write(f"data: tick {n}\n\n".encode())
            await writer.drain()
            await asyncio.sleep(0.1)
    except OSError:
        pass
    finally:
        writer.close()


async def read(gateway, path, owner):
    """A client that reads until its stream ends."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: gateway\r\nAccept: text/event-stream\r\nAuthorization: {owner}\r\n\r\n".encode())
        while await reader.read(1 << 16):
            pass
        writer.close()
    except OSError:
        pass


async def load(upstream, gateway, orders):
    server = await asyncio.start_server(serve, "127.0.0.1", upstream, backlog=1024)
    async with server:
        clients = set()
        while True:
            if orders.poll():
                for path, owner in orders.recv():
                    clients.add(asyncio.create_task(read(gateway, path, owner)))
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.05)


# ---- the checks

def main(browser, admin, gateway, orders):
    url = f"http://127.0.0.1:{admin}/"
    look = lambda: browser.run(LOOK)
    shoot = lambda name: SHOTS and browser.shoot(os.path.join(SHOTS, f"{name}.png"))
    row = "document.querySelector('tbody tr:not(.ended):nth-of-type({})')"

    browser.open(url)
    seen = wait("the page polls", look, lambda seen: seen["sum"])
    check("without streams, the page says what will appear", seen["empty"] and "appears here as a row" in seen["empty"], seen)
    shoot("live-empty-1280")

    orders.send([("/s/marks", "owner of marks")])
    wait("the first row", look, lambda seen: seen["rows"] == 1)
    orders.send([(f"/{'rsf'[n % 3]}/load?{n}", f"owner {n % OWNERS}") for n in range(STREAMS - 1)])
    seen = wait(f"{STREAMS} rows", look, lambda seen: seen["rows"] == STREAMS, 60)
    check(f"the page shows {STREAMS} streams", seen["sum"].startswith(f"{STREAMS} open"), seen["sum"])
    seen = wait("rates", look, lambda seen: len(seen["rates"]) == STREAMS and all(rate > 0 for rate in seen["rates"]), 30)
    check("each row has a rate", True)

    browser.run("""{
        window.moved = 0; window.longest = 0; window.changed = 0;
        new MutationObserver(list => { for (const one of list) one.type === 'childList' ? window.moved++ : window.changed++; })
            .observe(document.querySelector('tbody'), { subtree: true, childList: true, characterData: true });
        new PerformanceObserver(list => { for (const { duration } of list.getEntries()) window.longest = Math.max(window.longest, duration); })
            .observe({ entryTypes: ['longtask'] });
    }""")
    counts = wait("the rows change", lambda: browser.run("[window.moved, window.changed, Math.round(window.longest)]"), lambda counts: counts[1] > 5 * STREAMS, 30)
    check("polls change the texts of rows, and neither add, remove nor move rows", counts[0] == 0, counts)
    print(f"     {counts[1]} texts changed; the longest task took {counts[2] or 'less than 50'} ms")

    shoot("live-1280")
    browser.run(row.format(1) + ".querySelector('[aria-label^=Tap]').click()")
    seen = wait("the tap shows all verdicts", look, lambda seen: min(len(seen["tap"][kind]) for kind in ("forwarded", "changed", "dropped")) > 2 and
                any(MARKUP in text for text in seen["tap"]["forwarded"]))
    tap = seen["tap"]
    check("the tap marks what was dropped", all("drop-me" in text for text in tap["dropped"]), tap["dropped"])
    check("the tap marks what was changed, and shows both sides", all("the password is here" in text and "the *** is here" in text for text in tap["changed"]), tap["changed"])
    check("the tap marks nothing else", all("keep" in text or MARKUP in text for text in tap["forwarded"]) and not tap["added"], tap)
    check("markup in events is shown as text", browser.run("window.injected === undefined && !document.querySelector('img, #blocks script')"), tap["forwarded"])
    shoot("live-tap-1280")

    browser.run(row.format(2) + ".querySelector('[aria-label^=Tap]').click()")
    seen = wait("the tap of a resumable stream", look, lambda seen: len(seen["tap"]["forwarded"]) > 3 and "tick" in seen["tap"]["forwarded"][0])
    check("the ids of the gateway are not changes", not any(seen["tap"][kind] for kind in ("changed", "dropped", "added")), seen["tap"])
    browser.run(row.format(1) + ".querySelector('[aria-label^=Tap]').click()")
    wait("the first tap", look, lambda seen: len(seen["tap"]["dropped"]) > 2)
    browser.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    shoot("live-tap-dark-1280")
    browser.do("Emulation.setEmulatedMedia", features=[])
    browser.run(row.format(2) + ".querySelector('[aria-label^=Close]').click()")
    seen = wait("the closed stream", look, lambda seen: seen["outcomes"].get("cancelled") == 1 and "cancelled" in seen["ended"])
    check("the button closes one stream, and its row shows the outcome", seen["rows"] == STREAMS - 1, seen["rows"])

    browser.run(row.format(3) + ".querySelector('button.owner').click()")
    shown = browser.run("document.querySelectorAll('tbody tr').length")
    check("the filter shows the streams of one owner", 0 < shown <= STREAMS / OWNERS + 1, shown)
    browser.run("document.getElementById('close-owner').click()")
    check("the page asks before it closes all streams of an owner", browser.run("document.getElementById('ask').open"))
    shoot("live-owner-1280")
    browser.run("document.getElementById('ask-yes').click()")
    seen = wait("the owner's streams are closed", look, lambda seen: seen["outcomes"].get("revoked", 0) >= STREAMS // OWNERS - 1 and seen["ended"])
    shoot("live-ended-1280")
    check("all of them, and no others", seen["outcomes"]["revoked"] <= STREAMS // OWNERS, seen["outcomes"])
    browser.run("{ const owner = document.getElementById('owner'); owner.value = ''; owner.oninput(); }")

    browser.open(url, 390, 844)
    wait("rows at the width of a phone", look, lambda seen: seen["rows"] > STREAMS / 2, 30)
    wait("rates", look, lambda seen: sum(rate > 0 for rate in seen["rates"]) > STREAMS / 2, 30)
    shoot("live-390")
    wide = browser.run("document.documentElement.scrollWidth")
    check("the page is as wide as the phone", wide <= 390, wide)
    browser.run("document.querySelector('tbody tr:not(.ended) [aria-label^=Tap]').click()")
    wait("the tap", look, lambda seen: seen["tapState"] == "Live." and len(seen["tap"]["dropped"]) > 1)
    shoot("live-tap-390")

    foreign = urllib.request.Request(url + "drain", method="POST", headers={"Origin": "https://example.com"})
    check("a page of another site cannot drain the gateway", status(foreign) == 403)
    rebound = urllib.request.Request(url + "streams", headers={"Host": "example.com"})
    check("a host name that leads to the loopback address reads nothing", status(rebound) == 403)
    browser.run("document.getElementById('drain').click()")
    check("the page asks before it drains", browser.run("document.getElementById('ask').open"))
    browser.run("document.getElementById('ask-no').click()")
    stream = urllib.request.Request(f"http://127.0.0.1:{gateway}/s/new", headers={"Accept": "text/event-stream"})
    check("after Cancel, the gateway accepts streams", status(stream) == 200)
    browser.run("document.getElementById('drain').click(), document.getElementById('ask-yes').click()")
    wait("the drain", look, lambda seen: "refused" in seen["said"])
    check("after Drain, it refuses them", status(stream) == 503)


def status(request):
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code


def start(folder):
    upstream, port, admin = free_port(), free_port(), free_port()
    orders, its_orders = multiprocessing.Pipe()
    peers = multiprocessing.Process(target=lambda: asyncio.run(load(upstream, port, its_orders)), daemon=True)
    peers.start()
    gateway = subprocess.Popen(
        [os.path.abspath(GATEWAY), "--listen", f"127.0.0.1:{port}", "--upstream", f"http://127.0.0.1:{upstream}", "--admin-listen", f"127.0.0.1:{admin}",
         "--deny", "drop-me", "--window-mask", "password"], env=os.environ | {"SSEP_LOG": "error"})
    browser = None
    try:
        wait("the gateway listens", lambda: socket.socket().connect_ex(("127.0.0.1", admin)) == 0, bool)
        browser = Chromium(folder)
        main(browser, admin, port, orders)
    finally:
        gateway.kill()
        peers.kill()
        if browser:
            browser.p.kill()
            browser.p.wait()


try:
    multiprocessing.set_start_method("fork")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        start(folder)
except Late as late:
    check("the page gets there in time", False, late)
print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
sys.exit(not all(CHECKS))
