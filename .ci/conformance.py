#!/usr/bin/env python3
"""Runs the official MCP conformance suite against servers of the official SDKs, directly and through the gateway. Both must give
the same result in every scenario. Usage: conformance.py GATEWAY_BINARY. Needs npm and Python 3.9; installs the rest below
target/mcp. Exits 1 if a scenario has another result through the gateway, or fails."""
import collections, json, pathlib, re, subprocess, sys, tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent / "mcp"))
from common import NODE, gateway, install, server

# Without the scenarios that the suite calls extensions, because the servers have none.
RUNS = (
    ("the stable suite, sessions", "conformance-stable", "sessions.mjs", []),
    ("the next suite, sessions", "conformance-next", "sessions.mjs", ["--spec-version", "2025-11-25"]),
    ("the next suite, 2026-07-28", "conformance-next", "stateless.mjs", ["--spec-version", "2026-07-28"]),
)


def run(suite, port, args):
    """Returns the checks of each scenario, without those with the status INFO, which are notes on the traffic."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([NODE, f"node_modules/{suite}/dist/index.js", "server", "--url", f"http://127.0.0.1:{port}/mcp",
                        "--suite", "all", "-o", out, *args], cwd=NODE.parents[3], stdout=subprocess.DEVNULL, timeout=180)
        results = {}
        for folder in sorted(pathlib.Path(out).iterdir(), key=lambda folder: folder.stat().st_mtime_ns):
            name = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT.*", folder.name).group(1)
            results[name] = [check for check in json.loads((folder / "checks.json").read_text()) if check["status"] != "INFO"]
        return results


def counts(checks):
    if checks is None:
        return "not run"
    n = collections.Counter(check["status"] for check in checks)
    return ", ".join(f"{n[status]} {status.lower()}" for status in ("SUCCESS", "WARNING", "FAILURE", "SKIPPED") if n[status]) or "nothing"


def verdicts(checks):
    return None if checks is None else sorted((check["id"], check["status"]) for check in checks)


passed = failed = 0
install()
for title, suite, script, args in RUNS:
    with server(script) as upstream, gateway(sys.argv[1], upstream) as port:
        direct, through = run(suite, upstream, args), run(suite, port, args)
    print(f"\n{title:50} {'directly':28} through the gateway")
    for name in list(dict.fromkeys([*direct, *through])):
        columns = direct.get(name), through.get(name)
        bad = {check["status"] for checks in columns for check in checks or ()}
        fine = verdicts(columns[0]) == verdicts(columns[1]) and "FAILURE" not in bad and not (name == "server-sse-polling" and "WARNING" in bad)
        passed, failed = passed + fine, failed + (not fine)
        print(f"{'ok  ' if fine else 'FAIL'} {name:45} {counts(columns[0]):28} {counts(columns[1])}")
        if not fine:
            for where, checks in zip(("directly", "through"), columns):
                for check in checks or ():
                    if check["status"] != "SUCCESS":
                        print(f"     {where}: {check['id']}: {check['status']}: {check.get('errorMessage')}")
    if len(direct) < 25:
        sys.exit(f"the suite ran {len(direct)} scenarios")
print(f"\n{passed} passed, {failed} failed")
sys.exit(failed > 0)
