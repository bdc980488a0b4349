#!/usr/bin/env python3
"""Sends generated JSON through the text windows of the gateway, and reads the output with the JSON parsers of Python and Node.
Usage: json_readers.py GATEWAY_BINARY [SEED]. Needs Python 3.9 and node ($NODE). Exits 1 if a reader finds the text in the output,
if a stream with the denied text is not cut, if a stream with the masked text is cut, or if a stream without the text is changed."""
import base64, http.client, http.server, json, os, random, re, shutil, socket, subprocess, sys, threading, time

GATEWAY, SEED = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "1"
SECRET = "tin-\U0001f511-tin7"
NODE = os.environ.get("NODE") or shutil.which("node") or sys.exit("node is not installed")
STREAMS = {}


# ------------------------------------------------------------------ the data that the upstream sends
def literal(text, rnd):
    """The text as a JSON string, with a random spelling of each UTF-16 unit."""
    units = text.encode("utf-16-le", "surrogatepass")
    units = [int.from_bytes(units[i:i + 2], "little") for i in range(0, len(units), 2)]
    style, out, i = rnd.choice(("raw", "raw", "escaped", "mixed")), [], 0
    while i < len(units):
        pair = i + 1 < len(units) and 0xD800 <= units[i] < 0xDC00 <= units[i + 1] < 0xE000
        lone = 0xD800 <= units[i] < 0xE000 and not pair
        if not lone and (style == "raw" or style == "mixed" and rnd.random() < 0.5):
            n = 2 if pair else 1
            char = b"".join(u.to_bytes(2, "little") for u in units[i:i + n]).decode("utf-16-le")
            out.append(json.dumps(char, ensure_ascii=False)[1:-1])
            i += n
        else:
            out.append("\\u" + (f"{units[i]:04x}" if rnd.random() < 0.5 else f"{units[i]:04X}"))
            i += 1
    return '"' + "".join(out) + '"'


WORDS = ["the", "tin", "tin-", "\U0001f511", "-tin7", "in-\U0001f511", "\ud83d", "\udd11", "é", '"', "\\", "/", "\n", "\\u0074", "", "x" * 30]
NAMES = ["a", "content", "text", "delta", "logprobs", "logprobsResult", "id", "type", "token", "", "arguments"]


def words(rnd):
    return " ".join(rnd.choice(WORDS) for _ in range(rnd.randint(0, 4)))


def document(rnd, planted, depth=0):
    """Random JSON. It contains the planted literal once, if there is one."""
    if depth > rnd.randint(0, 6):
        return planted or rnd.choice((lambda: literal(words(rnd), rnd), lambda: rnd.choice(("0", "1e400", "-1.5E3", "true", "null", "{}", "[]"))))()
    n = rnd.randint(1, 3)
    at = rnd.randrange(n)
    values = [document(rnd, planted if i == at else None, depth + 1) for i in range(n)]
    if rnd.random() < 0.4:
        return "[" + ", ".join(values) + "]"
    names = [literal(f"{rnd.choice(NAMES)}{i or ''}", rnd) for i in range(n)]
    if rnd.random() < 0.3:
        names[0] = rnd.choice(('"\\ud800"', '"\\udc00x"', '"\\udfff\\ud800"'))
    return "{" + ",".join(f"{name}: {value}" for name, value in zip(names, values)) + "}"


ZERO = ("0", "0.0", "-0", "0e0")
DELTAS = [lambda s, i: f'{{"choices":[{{"index":{i},"delta":{{"content":{s}}}}}]}}',
          lambda s, i: f'{{"choices":[{{"\\ud800":1,"index":0,"delta":{{"tool_calls":[{{"index":{i},"function":{{"arguments":{s}}}}}]}}}}]}}',
          lambda s, i: f'{{"type":"response.output_text.delta","item_id":"m","output_index":{i},"content_index":0,"delta":{s}}}',
          lambda s, i: f'{{"type":"content_block_delta","index":{i},"delta":{{"type":"text_delta","text":{s}}}}}',
          lambda s, i: f'{{"candidates":[{{"content":{{"parts":[{{"text":{s}}}]}},"index":{i}}}]}}',
          lambda s, i: f'{{"choices":[{{"index":{i},"delta":{{}},"logprobs":{{"content":[{{"token":{s}}}]}}}}]}}']


def split(text, n, rnd):
    """Splits the text into `n` pieces, between UTF-16 units."""
    units = text.encode("utf-16-le", "surrogatepass")
    cuts = sorted(rnd.sample(range(1, len(units) // 2), n - 1))
    return [units[2 * a:2 * b].decode("utf-16-le", "surrogatepass") for a, b in zip([0, *cuts], [*cuts, len(units) // 2])]


def planted(rnd):
    """The data of the events of a stream that contains the text."""
    how = rnd.randrange(4)
    around = words(rnd) + SECRET + words(rnd)
    if how == 0:
        return [rnd.choice(("", "", "\ufeff")) + document(rnd, literal(around, rnd))]
    if how == 1:                                            # JSON in a string
        return [document(rnd, literal('{"q": %s}' % literal(around, rnd), rnd))]
    delta, rnd_pieces = rnd.choice(DELTAS), rnd.randint(2, 6)
    text = '{"q": %s}' % literal(SECRET, rnd) if how == 2 else SECRET
    return [delta(literal(piece, rnd), rnd.choice(ZERO)) for piece in split(text, rnd_pieces, rnd)]


# ------------------------------------------------------------------ the texts that a client reads
def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def joined(text):
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def nested(text):
    try:
        return list(strings(json.loads(text, strict=False)))
    except ValueError:
        return []


def pieces(value):
    """The texts that clients of the API families join over events, with their channels. (The same as in NODE_READER.)"""
    def get(v, *names):
        for name in names:
            v = v[name] if isinstance(v, list) and v and name == 0 else v.get(name) if isinstance(v, dict) else None
        return v
    choice, i = get(value, "choices", 0), lambda v: f"{float(get(v, 'index') or 0)}"
    call = get(choice, "delta", "tool_calls", 0)
    yield f"chat {i(choice)}", get(choice, "delta", "content")
    yield f"tool {i(call)}", get(call, "function", "arguments")
    yield f"token {i(choice)}", get(choice, "logprobs", "content", 0, "token")
    if str(get(value, "type")).endswith("_text.delta"):
        yield f"response {float(get(value, 'output_index') or 0)}", get(value, "delta")
    if get(value, "type") == "content_block_delta":
        yield f"block {i(value)}", get(value, "delta", "text")
    candidate = get(value, "candidates", 0)
    yield f"candidate {i(candidate)}", get(candidate, "content", "parts", 0, "text")


def shown_to_python(body):
    """All texts that Python reads in an event stream."""
    texts, channels = [], {}
    for block in body.decode("utf-8").split("\n\n"):
        data = "\n".join(line[6:] for line in block.split("\n") if line.startswith("data: "))
        texts.append(data)
        try:
            value = json.loads(data.lstrip("\ufeff"), strict=False)
        except ValueError:
            continue
        texts += strings(value)
        if isinstance(value, dict) and not set(value) & {"a", "a1"}:
            for channel, text in pieces(value):
                if isinstance(text, str):
                    channels[channel] = channels.get(channel, "") + text
    texts = [joined(text) for text in texts + list(channels.values())]
    return texts + [joined(inner) for text in texts for inner in nested(text)]


NODE_READER = r"""
const strings = (v) => typeof v === "string" ? [v] : v && typeof v === "object" ? Object.values(v).flatMap(strings) : [];
const parse = (text) => { try { return JSON.parse(text.replace(/^\ufeff+/, "")); } catch { return undefined; } };
require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
  const texts = [], channels = new Map();
  const put = (name, text) => typeof text === "string" && channels.set(name, (channels.get(name) ?? "") + text);
  const body = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.from(line, "base64"));
  for (const block of body.split("\n\n")) {
    const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
    const v = parse(data);
    texts.push(data, ...strings(v));
    const choice = v?.choices?.[0], call = choice?.delta?.tool_calls?.[0], candidate = v?.candidates?.[0];
    put(`chat ${choice?.index ?? 0}`, choice?.delta?.content);
    put(`tool ${call?.index ?? 0}`, call?.function?.arguments);
    put(`token ${choice?.index ?? 0}`, choice?.logprobs?.content?.[0]?.token);
    if (v?.type === "response.output_text.delta") put(`response ${v.output_index ?? 0}`, v.delta);
    if (v?.type === "content_block_delta") put(`block ${v.index ?? 0}`, v.delta?.text);
    put(`candidate ${candidate?.index ?? 0}`, candidate?.content?.parts?.[0]?.text);
  }
  texts.push(...channels.values());
  texts.push(...texts.flatMap((text) => strings(parse(text))));
  console.log(texts.some((text) => text.includes(process.argv[1])) ? "shown" : "not shown");
});
"""


class Readers:
    def __init__(self):
        self.node = subprocess.Popen([NODE, "-e", NODE_READER, SECRET], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def show(self, body):
        """Returns the readers that find the text."""
        self.node.stdin.write(base64.b64encode(body).decode() + "\n")
        self.node.stdin.flush()
        shown = ["Python"] if any(SECRET in text for text in shown_to_python(body)) else []
        answer = self.node.stdout.readline()
        if not answer:
            sys.exit("node ended")
        return shown + (["Node"] if answer == "shown\n" else [])


# ------------------------------------------------------------------ both ends of the gateway
class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = STREAMS[self.path]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for event in re.findall(rb"[\s\S]*?\n\n", body):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass                                            # the gateway has cut the stream
        self.close_connection = True

    def log_message(self, *_):
        pass


def start(*args):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen([GATEWAY, "--listen", f"127.0.0.1:{port}", "--upstream", UPSTREAM, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        time.sleep(0.02)
    sys.exit("the gateway does not start")


def fetch(port, path):
    """Returns the body, and whether it is complete."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        client.request("GET", path)
        return client.getresponse().read(), True
    except http.client.IncompleteRead as error:
        return error.partial, False
    except (http.client.HTTPException, ConnectionError):
        return b"", False
    finally:
        client.close()


def main():
    rnd, readers, faults = random.Random(SEED), Readers(), []
    deny, mask = start("--window-deny", SECRET), start("--window-mask", SECRET)
    planted_streams = clean_streams = 0
    for n in range(1500):
        has_text = n % 3 > 0
        data = planted(rnd) if has_text else [document(rnd, None) for _ in range(rnd.randint(1, 3))]
        body = "".join(f"data: {each}\n\n" for each in data).encode("utf-8")
        if bool(readers.show(body)) != has_text:
            # A reader found the text by chance, or cannot read the planted one.
            has_text = bool(readers.show(body))
        planted_streams += has_text
        clean_streams += not has_text
        path = f"/s/{n}"
        STREAMS[path] = body
        for what, (_, port) in (("deny", deny), ("mask", mask)):
            out, whole = fetch(port, path)
            if shown := readers.show(out):
                faults.append(f"{what}: {' and '.join(shown)} can read it in {out!r}")
            if has_text and whole != (what == "mask"):
                faults.append(f"{what}: complete={whole}: {body!r} -> {out!r}")
            if not has_text and (out, whole) != (body, True):
                faults.append(f"{what}: changed without the text in it: {body!r} -> {out!r}")
        del STREAMS[path]
    for process, _ in (deny, mask):
        process.terminate()
        process.wait(20)
    print(f"{planted_streams} streams with the text, {clean_streams} streams without it, through two windows: {len(faults)} faults")
    for fault in faults[:5]:
        print("FAIL", fault[:600])
    sys.exit(1 if faults or min(planted_streams, clean_streams) < 300 else 0)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
threading.Thread(target=server.serve_forever, daemon=True).start()
UPSTREAM = f"http://127.0.0.1:{server.server_port}"
main()
