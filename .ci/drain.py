"""Drains a gateway with many clients, and measures how many of them reconnect at once.

    python3 .ci/drain.py GATEWAY [--clients 2000] [--drain-ms 20000]

Each client reads a recorded stream. When its stream ends, it waits for the last `retry:` time that it received, or for 3 s, as browsers
do, and connects to another node, which counts. The gateway is stopped once with SIGTERM (it drains) and once with SIGKILL. Exits with status
1 if a client gets no end of its stream at an event boundary, if the gateway does not exit in time with status 0, if the records do not
name each stream `drained`, or if the highest number of reconnects within a second is more than half of the one after SIGKILL.
Linux, Python 3.11, standard library only."""

import argparse, asyncio, collections, json, os, resource, signal, socket, subprocess, sys, tempfile, time

DEFAULT_RETRY = 3.0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


async def upstream(reader, writer):
    """Sends an event every two seconds, without end."""
    try:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        number = 0
        while True:
            writer.write(f"id: {number}\ndata: {number}\n\n".encode())
            await writer.drain()
            number += 1
            await asyncio.sleep(2)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


class Run:
    """One gateway, its clients, and the node to which they reconnect."""

    def __init__(self):
        self.reconnects = []
        self.connected = 0
        self.torn = 0

    async def other_node(self, reader, writer):
        self.reconnects.append(time.monotonic())
        writer.close()

    async def client(self, port, other, number):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /r/{number} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        retry, tail = DEFAULT_RETRY, b""
        first = True
        try:
            while part := await reader.read(65536):
                tail = (tail + part)[-4096:]
                if first and b"data: 0\n\n" in tail:
                    self.connected += 1
                    first = False
                if b"retry:" in tail:
                    retry = int(tail.rsplit(b"retry:", 1)[1].split(b"\n")[0]) / 1000
        except OSError:
            pass
        # The last chunk ends with a blank line: the end lies between two events.
        if not tail.removesuffix(b"0\r\n\r\n").endswith(b"\n\n\r\n"):
            self.torn += 1
        writer.close()
        await asyncio.sleep(retry)
        _, writer = await asyncio.open_connection("127.0.0.1", other)
        writer.close()


def highest(times, width):
    """The highest number of times within any window of this width."""
    times, first, most = sorted(times), 0, 0
    for last, now in enumerate(times):
        while times[first] <= now - width:
            first += 1
        most = max(most, last - first + 1)
    return most


async def stopped(args, with_signal):
    run = Run()
    origin = await asyncio.start_server(upstream, "127.0.0.1", 0, backlog=4096)
    other = await asyncio.start_server(run.other_node, "127.0.0.1", 0, backlog=4096)
    other_port = other.sockets[0].getsockname()[1]
    port = free_port()
    with tempfile.NamedTemporaryFile(suffix=".records") as log:
        env = dict(
            os.environ,
            SSEP_LISTEN=f"127.0.0.1:{port}",
            SSEP_UPSTREAM=f"http://127.0.0.1:{origin.sockets[0].getsockname()[1]}",
            SSEP_DRAIN_MS=str(args.drain_ms),
            SSEP_RECORD_LOG=log.name,
            SSEP_LOG="error",
        )
        gateway = subprocess.Popen([args.gateway], env=env)
        try:
            while True:
                try:
                    (await asyncio.open_connection("127.0.0.1", port))[1].close()
                    break
                except OSError:
                    await asyncio.sleep(0.1)
            clients = []
            for number in range(args.clients):
                clients.append(asyncio.ensure_future(run.client(port, other_port, number)))
                await asyncio.sleep(0.001)
            while run.connected < args.clients:
                await asyncio.sleep(0.1)
            begun = time.monotonic()
            gateway.send_signal(with_signal)
            await asyncio.gather(*clients)
            status = await asyncio.to_thread(gateway.wait)
            took = max(run.reconnects) - begun
            outcomes = collections.Counter(json.loads(line)["outcome"] for line in open(log.name))
        finally:
            gateway.kill()
    second, tenth = highest(run.reconnects, 1.0), highest(run.reconnects, 0.1)
    print(
        f"{with_signal.name}: {len(run.reconnects)} reconnects within {took:.1f} s; at most {second} within 1 s, {tenth} within 0.1 s; "
        f"{run.torn} streams cut inside an event; exit status {status}; records {dict(outcomes)}"
    )
    return run, second, status, outcomes


async def main(args):
    killed = await stopped(args, signal.SIGKILL)
    drained, second, status, outcomes = await stopped(args, signal.SIGTERM)
    failed = []
    if drained.torn:
        failed.append(f"{drained.torn} streams did not end at an event boundary")
    if status != 0:
        failed.append(f"exit status {status}")
    if outcomes != {"drained": args.clients}:
        failed.append("the records do not name each stream `drained`")
    if second * 2 > killed[1]:
        failed.append("more than half as many reconnects within a second as without a drain")
    print("FAIL: " + ", ".join(failed) if failed else "PASS")
    return bool(failed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("gateway")
    parser.add_argument("--clients", type=int, default=2000)
    parser.add_argument("--drain-ms", type=int, default=20000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(asyncio.run(main(parser.parse_args())))
