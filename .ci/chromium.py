"""Chromium, controlled from Python, for the checks of the gateway's pages."""
import base64, json, os, subprocess, sys, time

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--remote-debugging-pipe", "--hide-scrollbars"]
CHECKS = []


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    print(f"{'ok  ' if fine else 'FAIL'} {what}" + (f": {detail}" if not fine else ""), flush=True)


class Late(Exception):
    pass


class Chromium:
    """Controls Chromium with the DevTools protocol over a pipe. Each message is JSON with a NUL byte at its end."""

    def __init__(self, folder):
        (its_in, self.out), (self.into, its_out) = os.pipe(), os.pipe()
        argv = ["bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "bash", "chromium", *FLAGS, f"--user-data-dir={folder}"]
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

    def open(self, url, width=1280, height=900):
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 800)
        self.do("Page.navigate", url=url)

    def shoot(self, file):
        with open(file, "wb") as png:
            png.write(base64.b64decode(self.do("Page.captureScreenshot")["data"]))


def wait(what, look, fine, seconds=10):
    """Calls `look` until its result satisfies `fine`, and returns the result. Raises `Late` after the limit."""
    end = time.monotonic() + seconds
    while True:
        seen = look()
        if seen and fine(seen):
            return seen
        if time.monotonic() > end:
            raise Late(f"{what}: {str(seen)[:2000]}")
        time.sleep(0.05)
