"""A soak of the gateway: many streams, clients that come and go, an upstream with faults.

    python3 .ci/soak.py GATEWAY [--streams 1000] [--seconds 1200] [--churn 0.05]

The load has four rounds. After each round, no stream may be open, and each upstream stream must have one record. After the last round, the
process must not hold more memory, file descriptors or tasks than after the second, within a tolerance. Exits with status 1 otherwise. Linux, Python 3.11, standard library only."""

import argparse, asyncio, collections, json, os, random, resource, socket, subprocess, sys, tempfile, time

ROUNDS = 4
ROUTES = ["/s/soak", "/s/soak", "/r/soak", "/f/soak", "/mcp/soak"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Upstream:
    """Answers every request with an event stream that ends in one of several ways."""

    def __init__(self):
        self.heads = 0

    async def serve(self, reader, writer):
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length:
                await reader.readexactly(length[0])
            if random.random() < 0.02:
                return  # no head
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            self.heads += 1
            for n in range(random.randrange(5, 400)):
                writer.write(f"id: {n}\ndata: {'x' * random.randrange(200)} {n}\n\n".encode())
                await writer.drain()
                await asyncio.sleep(random.random() * 0.4)
            fault = random.random()
            if fault < 0.2:
                writer.write(b"data: half")
            elif fault < 0.4:
                writer.transport.abort()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


class Client:
    """Opens one stream, and reads it until it ends or the client is told to leave."""

    def __init__(self, port, number):
        self.port, self.number = port, number
        self.status = collections.Counter()

    async def run(self, leave):
        route = random.choice(ROUTES)
        path = f"{route}/{random.randrange(50) if route == '/f/soak' else self.number}"
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        method, body = ("POST", b"{}") if route == "/mcp/soak" else ("GET", b"")
        writer.write(
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAccept: application/json, text/event-stream\r\n"
            f"Authorization: Bearer {self.number % 20}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        # A client that leaves before the head opens no stream for the gateway, but the upstream may have counted one.
        await reader.readuntil(b"\r\n\r\n")
        stalls = random.random() < 0.05
        reading = asyncio.ensure_future(asyncio.sleep(1e6) if stalls else read_all(reader))
        left = asyncio.ensure_future(leave.wait())
        await asyncio.wait([reading, left], return_when=asyncio.FIRST_COMPLETED)
        reading.cancel(), left.cancel()
        writer.transport.abort() if random.random() < 0.5 else writer.close()


async def read_all(reader):
    try:
        while await reader.read(65536):
            pass
    except OSError:
        pass


async def get(port, path, method="GET"):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read(-1)
    writer.close()
    head, body = answer.split(b"\r\n\r\n", 1)
    if head[9:12] not in (b"200", b"204", b"404"):
        sys.exit(f"FAIL: {path}: {head.decode()}")
    if b"transfer-encoding: chunked" in head.lower():
        parts, rest = [], body
        while rest:
            size, rest = rest.split(b"\r\n", 1)
            parts.append(rest[: int(size, 16)])
            rest = rest[int(size, 16) + 2 :]
        body = b"".join(parts)
    return body


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


async def tasks(admin):
    metrics = (await get(admin, "/metrics")).decode()
    return next(int(line.split()[1]) for line in metrics.splitlines() if line.startswith("tokio_alive_tasks "))


async def state(gateway, admin):
    """What the process holds: KiB of memory, descriptors, tasks."""
    return memory(gateway.pid), descriptors(gateway.pid), await tasks(admin)


def records(path):
    with open(path) as log:
        return [json.loads(line) for line in log]


async def load(args, port, seconds):
    """Keeps the number of streams, and replaces some of them each second."""
    clients, number, end = set(), 0, time.monotonic() + seconds

    async def client(number, leave):
        try:
            await Client(port, number).run(leave)
        except (OSError, asyncio.IncompleteReadError):
            pass

    while time.monotonic() < end:
        clients = {(task, leave) for task, leave in clients if not task.done()}
        while len(clients) < args.streams:
            number += 1
            leave = asyncio.Event()
            clients.add((asyncio.ensure_future(client(number, leave)), leave))
        await asyncio.sleep(1)
        for _, leave in random.sample(sorted(clients, key=id), int(len(clients) * args.churn)):
            leave.set()
    for _, leave in clients:
        leave.set()
    await asyncio.gather(*[task for task, _ in clients])
    return number


async def main(args):
    upstream = Upstream()
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=4096)
    port, admin = free_port(), free_port()
    log = tempfile.NamedTemporaryFile(suffix=".records")
    env = dict(
        os.environ,
        SSEP_LISTEN=f"127.0.0.1:{port}",
        SSEP_UPSTREAM=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        SSEP_ADMIN_LISTEN=f"127.0.0.1:{admin}",
        SSEP_RECORD_LOG=log.name,
        SSEP_DETACH_MS="1000",
        SSEP_WRITE_STALL_MS="5000",
        SSEP_LOG_BYTES=str(8 << 20),
        SSEP_LOG="error",
    )
    gateway = subprocess.Popen([args.gateway], env=env)
    try:
        for _ in range(100):
            try:
                await get(admin, "/streams")
                break
            except OSError:
                await asyncio.sleep(0.1)
        # The first half fills pools and the heap of the allocator, which keeps the memory of the largest burst.
        states, opened = [], 0
        for _ in range(ROUNDS):
            opened += await load(args, port, args.seconds / ROUNDS)
            busy = memory(gateway.pid)
            await empty(admin, log.name)
            states.append(await state(gateway, admin))
            print("after a round: RSS {} KiB, {} descriptors, {} tasks".format(*states[-1]), f"(RSS {busy} KiB under load)", flush=True)
        before, after = states[ROUNDS // 2 - 1], states[-1]
        ended = records(log.name)
        streams = [record for record in ended if record["time_to_head_ms"] is not None]
        outcomes = collections.Counter(record["outcome"] for record in ended)
        print(f"{opened} clients, {upstream.heads} upstream streams, {len(streams)} records of streams, {len(ended)} records: {dict(outcomes)}")
        failed = []
        if len(streams) != upstream.heads:
            failed.append("records and upstream streams differ")
        if args.seconds < 600:
            print("memory is not compared: the heap grows to its final size within some minutes")
        elif after[0] > before[0] * 1.05 + 2048:
            failed.append("memory grew by more than 5 %")
        if after[1] > before[1] + 2:
            failed.append("file descriptors leaked")
        if after[2] > before[2] + 2:
            failed.append("tasks leaked")
        print("FAIL: " + ", ".join(failed) if failed else "PASS")
        return 1 if failed else 0
    finally:
        gateway.terminate()
        gateway.wait()


async def empty(admin, log):
    """Waits until no stream is open, and drops what ended streams hold for clients that resume."""
    end = time.monotonic() + 60
    while json.loads(await get(admin, "/streams")):
        if time.monotonic() > end:
            sys.exit("FAIL: streams are still open a minute after the last client left")
        await asyncio.sleep(0.2)
    for owner in {record["owner"] for record in records(log)}:
        await get(admin, f"/streams?owner={owner}", "DELETE")
    await asyncio.sleep(2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("gateway")
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=1200)
    parser.add_argument("--churn", type=float, default=0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(asyncio.run(main(parser.parse_args())))
