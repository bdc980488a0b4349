"""A relay between two sides, which keeps what goes over it, and can break it."""
import contextlib, random, re, socket, struct, threading


class Talk:
    """One connection: what was sent and what came back, the last request, and what has come of its answer."""

    def __init__(self, near, far):
        self.near, self.far = near, far
        self.sent, self.came = bytearray(), bytearray()
        self.request, self.answer, self.events = bytearray(), bytearray(), 0


class Relay:
    """Passes on what comes at its port, and keeps it. The answers to requests of which `cut` says so are cut short, each in the
    middle of an event, but not before the first: a client without an id has nothing to come back with."""

    def __init__(self, target, port=0, cut=lambda request: False):
        self.target, self.talks, self.cut, self.cuts = target, [], cut, 0
        self.listener = socket.create_server(("127.0.0.1", port), backlog=100)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near = self.listener.accept()[0]
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            talk = Talk(near, far)
            self.talks.append(talk)
            for pump in (self.there, self.back):
                threading.Thread(target=pump, args=[talk], daemon=True).start()

    def there(self, talk):
        with contextlib.suppress(OSError):
            while data := talk.near.recv(65536):
                talk.sent += data
                if re.match(rb"[A-Z]+ /", data):
                    talk.request, talk.answer, talk.events = bytearray(), bytearray(), random.randint(1, 4)
                talk.request += data
                talk.far.sendall(data)
        self.close(talk.near, talk.far)

    def back(self, talk):
        with contextlib.suppress(OSError):
            while data := talk.far.recv(65536):
                if end := self.cut(talk.request) and self.end(talk, data):
                    data = data[:end]
                talk.came += data
                talk.near.sendall(data)
                if end:
                    self.cuts += 1
                    self.close(talk.far)
                    break
        self.close(talk.near)

    @staticmethod
    def end(talk, data):
        """How much of this passes before the cut, if it comes now."""
        before = len(talk.answer)
        talk.answer += data
        events = list(re.finditer(rb"data: ?\S.*?\n\n", talk.answer, re.DOTALL))
        if len(events) < talk.events:
            return None
        return events[talk.events - 1].end() - before + random.randint(0, 40)

    def break_all(self):
        """Breaks all connections over which something has come back; what is on its way is lost."""
        for talk in self.talks:
            if b"\ndata:" in talk.came and talk.near.fileno() >= 0:
                with contextlib.suppress(OSError):
                    talk.near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close(talk.far)
                    talk.near.shutdown(socket.SHUT_RD)
                    talk.near.close()
                    self.cuts += 1

    @staticmethod
    def close(*sockets):
        for s in sockets:
            with contextlib.suppress(OSError):
                s.shutdown(socket.SHUT_RDWR)

    def sent(self):
        return [bytes(talk.sent) for talk in self.talks]

    def came(self):
        """As it was written: without the sizes of chunks, which may part an id."""
        return [re.sub(rb"\r\n[0-9a-f]+\r\n", b"", bytes(talk.came)) for talk in self.talks]
