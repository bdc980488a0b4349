"""A relay between two sides that records the traffic and can break connections."""
import contextlib, random, re, socket, struct, threading


class Talk:
    """One connection: the bytes of both directions, the last request, and its response so far."""

    def __init__(self, near, far):
        self.near, self.far = near, far
        self.sent, self.came = bytearray(), bytearray()
        self.request, self.answer, self.events = bytearray(), bytearray(), 0


class Relay:
    """Forwards and records the bytes of both directions. If `cut(request)` is true, it cuts the response in the middle of an event, but
    not before the end of the first event: a client without an id cannot resume."""

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
        """Returns the number of bytes of `data` to forward before the cut, or `None` if the cut comes later."""
        before = len(talk.answer)
        talk.answer += data
        events = list(re.finditer(rb"data: ?\S.*?\n\n", talk.answer, re.DOTALL))
        if len(events) < talk.events:
            return None
        return events[talk.events - 1].end() - before + random.randint(0, 40)

    def break_all(self):
        """Breaks all connections with at least one response event. Bytes in transit are lost."""
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
        """Returns the responses without chunk sizes, which could split an id."""
        return [re.sub(rb"\r\n[0-9a-f]+\r\n", b"", bytes(talk.came)) for talk in self.talks]
