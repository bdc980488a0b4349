#!/usr/bin/env python3
"""Runs the official MCP conformance suite against servers of the official SDKs: directly, through the gateway, and through the
gateway with inspection of events and JSON bodies. All must give the same result in every scenario. Usage: conformance.py
GATEWAY_BINARY. Needs npm and Python 3.9; installs the rest below target/mcp. Exits 1 if a scenario has another result through the
gateway, or fails."""
import collections, concurrent.futures, contextlib, json, pathlib, re, subprocess, sys, tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent / "mcp"))
from common import INSPECTION, NODE, gateway, install, server

# Without the scenarios that the suite calls extensions, because the servers have none.
RUNS = (
    ("the stable suite, sessions", "conformance-stable", "sessions.mjs", []),
    ("the next suite, sessions", "conformance-next", "sessions.mjs", ["--spec-version", "2025-11-25"]),
    ("the next suite, 2026-07-28", "conformance-next", "stateless.mjs", ["--spec-version", "2026-07-28"]),
)
COLUMNS = "directly", "through the gateway", "with inspection"


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
    # Servers of their own, because a server notifies the clients of all columns.
    with contextlib.ExitStack() as started:
        upstreams = [started.enter_context(server(script)) for _ in COLUMNS]
        ports = [upstreams[0], *(started.enter_context(gateway(sys.argv[1], upstream, **env))
                                 for upstream, env in zip(upstreams[1:], ({}, INSPECTION)))]
        with concurrent.futures.ThreadPoolExecutor() as threads:
            results = list(threads.map(lambda port: run(suite, port, args), ports))
    print(f"\n{title:50} {'  '.join(f'{column:26}' for column in COLUMNS)}")
    for name in list(dict.fromkeys(name for result in results for name in result)):
        columns = [result.get(name) for result in results]
        bad = {check["status"] for checks in columns for check in checks or ()}
        same = all(verdicts(column) == verdicts(columns[0]) for column in columns)
        fine = same and "FAILURE" not in bad and not (name == "server-sse-polling" and "WARNING" in bad)
        passed, failed = passed + fine, failed + (not fine)
        print(f"{'ok  ' if fine else 'FAIL'} {name:45} {'  '.join(f'{counts(column):26}' for column in columns)}")
        if not fine:
            for where, checks in zip(COLUMNS, columns):
                for check in checks or ():
                    if check["status"] != "SUCCESS":
                        print(f"     {where}: {check['id']}: {check['status']}: {check.get('errorMessage')}")
    if len(results[0]) < 25:
        sys.exit(f"the suite ran {len(results[0])} scenarios")
print(f"\n{passed} passed, {failed} failed")
sys.exit(failed > 0)
