#!/usr/bin/env python3
"""Reads responses of the guardrail with the official SDKs of the model APIs, as streams and as JSON bodies. Usage: sdks.py
GUARDRAIL_BINARY, in an environment with the packages of sdks.txt. The mock splits a card number into events in many ways. No part
of it may reach the client, and the SDK must join the rest of the text correctly. The JSON body of a response must have the same
text as the stream. Exits 1 if a check fails."""
import collections, http.client, json, os, re, subprocess, sys

import anthropic, openai
from google import genai
from google.genai.errors import APIError as GeminiError

CHECKS = []
CARD = "4111 1111 1111 1111"
OTHER = "Half of one is 4111 1111, no more. Of the others there is nothing to tell that was not told."     # the text of the second choice
SPLITS = (1, 2, 3, 5, 7, 11, 19)


def check(what, fine, detail=""):
    CHECKS.append(bool(fine))
    if not fine:
        print(f"FAIL {what}: {detail}", flush=True)


class Raw:
    """A client that reads the raw bytes of a response."""

    def __init__(self, address):
        self.address = address

    def post(self, path, body, headers):
        c = http.client.HTTPConnection(self.address, timeout=20)
        c.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        r = c.getresponse()
        return r.status, r.getheader("content-type"), r.read()


def texts():
    """Texts with the card number at every offset of an event of any size, and the masked texts."""
    for before in range(max(SPLITS)):
        text = f"Gr\u00fc\u00dfe,{'.' * before} pay with {CARD} or 5500-0000-0000-0004 by May"
        yield text, text.replace(CARD, "[card]").replace("5500-0000-0000-0004", "[card]")


def strings(data, place=""):
    """All strings in a JSON value, with their paths."""
    if isinstance(data, str):
        yield place, data
    elif isinstance(data, (dict, list)):
        own = [str(data[name]) for name in ("type", "index", "output_index") if name in data] if isinstance(data, dict) else []
        for name, value in data.items() if isinstance(data, dict) else enumerate(data):
            yield from strings(value, "/".join([place, *own, str(name)]))


def few_digits(raw):
    """Returns whether there are no eight digits in a row, in the bytes and in the joined strings of each path over all events, or in
    the strings of a JSON body."""
    joined = collections.defaultdict(str)
    for line in raw.decode().splitlines():
        line = line.removeprefix("data: ")
        if line.startswith("{"):
            for place, text in strings(json.loads(line)):
                joined[place] += text
    # Without the fixed timestamp of the mock.
    texts = [raw.decode().replace("1700000000", ""), *joined.values()]
    return not any(re.search(r"(?:\d[ -]?){8}", text) for text in texts)


# Each of the next four functions asks one API with its SDK, for a stream or for a JSON body, and returns the texts of the response.
# Every text must be the requested text in its masked form.


def openai_client(base):
    return openai.OpenAI(base_url=f"http://{base}/v1", api_key="none", max_retries=0)


def anthropic_client(base):
    return anthropic.Anthropic(base_url=f"http://{base}", api_key="none", max_retries=0)


def gemini_client(base, headers={}):
    return genai.Client(api_key="none", http_options={"base_url": f"http://{base}", "headers": headers})


NOTE = {"type": "function", "function": {"name": "note", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}}}


def openai_chat(base, text, headers, stream):
    completions = openai_client(base).chat.completions
    ask = {"model": "mock", "messages": [{"role": "user", "content": text}], "extra_headers": headers}
    if stream:
        with completions.stream(n=2, **ask) as events:
            for _ in events:
                pass
            final = events.get_final_completion()
        pieces = completions.create(tools=[NOTE], stream=True, **ask)
        calls = [call for piece in pieces for choice in piece.choices for call in choice.delta.tool_calls or []]
    else:
        final = completions.create(n=2, **ask)
        calls = completions.create(tools=[NOTE], stream=False, **ask).choices[0].message.tool_calls
    check("openai chat: the other choice", final.choices[1].message.content == OTHER, final.choices[1])
    check("openai chat: finished", [choice.finish_reason for choice in final.choices] == ["stop", "stop"], final)
    check("openai chat: the tool", calls[0].function.name == "note", calls)
    return [final.choices[0].message.content, json.loads("".join(call.function.arguments for call in calls))["text"]]


def openai_responses(base, text, headers, stream):
    responses = openai_client(base).responses
    if not stream:
        final = responses.create(model="mock", input=text, extra_headers=headers)
        check("openai responses: completed", final.status == "completed", final)
        return [final.output_text]
    with responses.stream(model="mock", input=text, extra_headers=headers) as events:
        deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response().output_text
    check("openai responses: the deltas", deltas == final, (deltas, final))
    return [final]


def anthropic_messages(base, text, headers, stream):
    messages = anthropic_client(base).messages
    ask = {"model": "mock", "max_tokens": 99, "messages": [{"role": "user", "content": text}], "extra_headers": headers}
    if stream:
        with messages.stream(**ask) as events:
            deltas = "".join(events.text_stream)
            final = events.get_final_message()
        check("anthropic: the deltas", deltas == final.content[0].text, (deltas, final))
    else:
        final = messages.create(**ask)
    check("anthropic: finished", final.stop_reason == "end_turn", final)
    return [final.content[0].text]


def gemini(base, text, headers, stream):
    client = gemini_client(base, headers)
    if stream:
        pieces = list(client.models.generate_content_stream(model="mock", contents=text))
    else:
        pieces = [client.models.generate_content(model="mock", contents=text)]
    check("gemini: finished", pieces[-1].candidates[0].finish_reason.name == "STOP", pieces[-1])
    return ["".join(piece.text or "" for piece in pieces)]


FAMILIES = {
    "/v1/chat/completions": (openai_chat, lambda text: {"stream": True, "messages": [{"role": "user", "content": text}]}),
    "/v1/responses": (openai_responses, lambda text: {"stream": True, "input": text}),
    "/v1/messages": (anthropic_messages, lambda text: {"stream": True, "messages": [{"role": "user", "content": text}]}),
    "/v1beta/models/mock:streamGenerateContent?alt=sse": (gemini, lambda text: {"contents": [{"parts": [{"text": text}]}]}),
}


def read(path, base, text, expected, headers):
    """Reads the stream and the JSON body of a response with the SDK."""
    sdk = FAMILIES[path][0]
    streamed, whole = (sdk(base, text, headers, stream) for stream in (True, False))
    check(f"{path}: the texts of the stream", set(streamed) == {expected}, streamed)
    check(f"{path}: the JSON body has the texts of the stream", whole == streamed, (whole, streamed))


def whole(base, path, text, **more):
    """Returns status, content type and bytes of a response that is no stream."""
    body = {**FAMILIES[path][1](text), **more}
    if "stream" in body:
        body["stream"] = False
    # Gemini has the streaming flag in the path, the others in the body.
    return Raw(base).post(path.replace("streamGenerateContent?alt=sse", "generateContent"), body, {})


def masked(guarded):
    for path, (_, body) in FAMILIES.items():
        before = len(CHECKS)
        for text, expected in texts():
            for split in SPLITS:
                headers = {"x-split": str(split), "x-pace-ms": "0"}
                # The SDKs are slow: they read a part of the combinations. The raw client reads all of them.
                if len(text) % 4 == split % 4:
                    read(path, guarded, text, expected, headers)
                raw = Raw(guarded).post(path, body(text), headers)[2]
                check(f"{path}: no card in the bytes, {split} letters an event", few_digits(raw) and raw.count(b"[card]") >= 2, raw[-300:])
            for more in ({}, {"tools": [NOTE]}) if path == "/v1/chat/completions" else ({},):
                status, kind, raw = whole(guarded, path, text, **more)
                fine = status == 200 and kind == "application/json" and few_digits(raw) and raw.count(b"[card]") == 2
                check(f"{path}: no card in the JSON body", fine, (status, kind, raw))
        print(f"{path}: {len(CHECKS) - before} checks", flush=True)


def beside_numbers(guarded, open_):
    """Checks card numbers with other numbers beside them."""
    for text, expected in (
        (f"2 {CARD} are his", "2 [card] are his"),
        ("3-4111-1111-1111-1111 8", "3-[card] 8"),
        ("4111 1111 1111 1111 5500 0000 0000 0004", "[card] [card]"),
        ("4111111111111111 378282246310005 6304000000000000000", "[card] [card] [card]"),
        ("94111111111111111 is longer", "94111111111111111 is longer"),
    ):
        for split in SPLITS:
            headers = {"x-split": str(split), "x-pace-ms": "0"}
            for path, (_, body) in FAMILIES.items():
                read(path, guarded, text, expected, headers)
                hidden = few_digits(Raw(guarded).post(path, body(text), headers)[2])
                check(f"{path}: {text}: hidden if and only if it is a card, {split} letters an event", hidden == ("[card]" in expected), text)
                bare = few_digits(Raw(open_).post(path, body(text), headers)[2])
                check(f"{path}: {text}: visible without the guardrail", not bare, text)
        for path in FAMILIES:
            hidden, bare = (few_digits(whole(address, path, text)[2]) for address in (guarded, open_))
            check(f"{path}: {text}: hidden in the JSON body if and only if it is a card", hidden == ("[card]" in expected) and not bare, text)


def untouched(guarded, open_):
    text = "Nothing to hide: 4111 1111 1111 1112 is no card, 12 is no number, {\"a\": [1.0, 2e400]} is text."
    for path, (_, body) in FAMILIES.items():
        for split in SPLITS:
            headers = {"x-split": str(split), "x-pace-ms": "0"}
            same = [Raw(address).post(path, body(text), headers)[2] for address in (guarded, open_)]
            check(f"{path}: a stream without cards is byte-identical", same[0] == same[1], same[0][-200:])
        answers = [whole(address, path, text) for address in (guarded, open_)]
        check(f"{path}: a JSON body without cards is byte-identical", answers[0] == answers[1] and answers[0][0] == 200, answers)


def in_time(guarded):
    """Checks that a slow stream is not held: the first letters arrive long before the last."""
    import time
    client = openai_client(guarded)
    headers = {"x-split": "4", "x-pace-ms": "100"}
    begun = time.monotonic()
    stream = client.chat.completions.create(model="mock", messages=[{"role": "user", "content": "word " * 20}], stream=True, extra_headers=headers)
    first = next(time.monotonic() - begun for piece in stream if piece.choices and piece.choices[0].delta.content)
    check("the first letters arrive within the delay of the window", first < 1.5, first)
    stream.close()
    for path, (_, body) in FAMILIES.items():
        raw = Raw(guarded).post(path, body(f"Pay with {CARD}."), {"x-pace-ms": "60"})[2]
        check(f"{path}: no card in a slow stream", few_digits(raw) and raw.count(b"[card]") >= 1, raw[-300:])


def blocked(guarded):
    text = "Well, it may be said that everything before is harmless. About Project Nightingale: it is secret. And more."
    ask = [{"role": "user", "content": text}]
    for split in SPLITS:
        headers = {"x-split": str(split), "x-pace-ms": "0"}
        client = openai_client(guarded)
        with client.chat.completions.stream(model="mock", messages=ask, n=2, extra_headers=headers) as stream:
            chunks = [event for event in stream if event.type == "chunk"]
            final = chunks[-1].snapshot
            said = final.choices[0].message.content
            check("openai chat: blocked, in all choices", [choice.finish_reason for choice in final.choices] == ["content_filter"] * 2, final)
            check("openai chat: nothing of the phrase", text.startswith(said) and "Night" not in said, said)
            check("openai chat: the beginning of the other choice", OTHER.startswith(final.choices[1].message.content), final)
            check("openai chat: one response id and model", len({(event.chunk.id, event.chunk.model) for event in chunks}) == 1, final)
            try:
                check("openai chat: the SDK reports the content filter", not stream.get_final_completion())
            except openai.ContentFilterFinishReasonError:
                check("openai chat: the SDK reports the content filter", True)

        events = list(client.responses.create(model="mock", input=text, stream=True, extra_headers=headers))
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        first, last = events[0], events[-1]
        check("openai responses: blocked", last.type == "response.incomplete" and last.response.status == "incomplete"
              and last.response.incomplete_details.reason == "content_filter", last)
        check("openai responses: nothing of the phrase", text.startswith(said) and "Night" not in said, said)
        check("openai responses: one response id", first.response.id == last.response.id, (first, last))
        check("openai responses: in order", [event.sequence_number for event in events] == list(range(len(events))), last)

        client = anthropic_client(guarded)
        with client.messages.stream(model="mock", max_tokens=99, messages=ask, extra_headers=headers) as stream:
            events = list(stream)
            said = "".join(event.text for event in events if event.type == "text")
            final = stream.get_final_message()
            stops = [event.index for event in events if event.type == "content_block_stop"]
        check("anthropic: blocked", final.stop_reason == "refusal" and events[-1].type == "message_stop", final)
        check("anthropic: every block is closed", stops == [0], stops)
        check("anthropic: nothing of the phrase", text.startswith(said) and "Night" not in said, said)

        client = gemini_client(guarded, headers)
        pieces = list(client.models.generate_content_stream(model="mock", contents=text))
        said = "".join(piece.text or "" for piece in pieces)
        check("gemini: blocked", pieces[-1].candidates[0].finish_reason.name == "SAFETY", pieces[-1])
        check("gemini: one response id", len({piece.response_id for piece in pieces}) == 1, pieces[-1])
        check("gemini: nothing of the phrase", text.startswith(said) and "Night" not in said, said)
        for path, (_, body) in FAMILIES.items():
            raw = Raw(guarded).post(path, body(text), headers)[2]
            check(f"{path}: the end of the phrase is in no byte", b"ingale" not in raw and b"secret" not in raw, raw[-300:])

    # A JSON body is blocked as a whole: the SDK raises the error that it has for the status 403.
    ask = [{"role": "user", "content": text}]
    completions, google = openai_client(guarded).chat.completions, gemini_client(guarded)
    for api, error, call in (
        ("openai chat", openai.PermissionDeniedError, lambda: completions.create(model="mock", messages=ask)),
        ("openai chat, two choices", openai.PermissionDeniedError, lambda: completions.create(model="mock", messages=ask, n=2)),
        ("openai chat, a tool", openai.PermissionDeniedError, lambda: completions.create(model="mock", messages=ask, tools=[NOTE])),
        ("openai responses", openai.PermissionDeniedError, lambda: openai_client(guarded).responses.create(model="mock", input=text)),
        ("anthropic", anthropic.PermissionDeniedError,
         lambda: anthropic_client(guarded).messages.create(model="mock", max_tokens=99, messages=ask)),
        ("gemini", GeminiError, lambda: google.models.generate_content(model="mock", contents=text)),
    ):
        try:
            check(f"{api}: a blocked JSON body is an error", False, call())
        except error as refused:
            # Gemini's SDK has one error for all statuses of clients.
            status, says = getattr(refused, "status_code", None) or refused.code, str(refused)
            check(f"{api}: a blocked JSON body is an error", status == 403 and "The response was blocked." in says, says)
            check(f"{api}: the error has nothing of the text", "harmless" not in says and "Night" not in says, refused)
    for path in FAMILIES:
        status, _, raw = whole(guarded, path, text)
        check(f"{path}: a blocked JSON body has no byte of the text", status == 403 and b"harmless" not in raw, raw)


def main():
    import socket
    ports = []
    for _ in range(2):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            ports.append(s.getsockname()[1])
    guarded, open_ = (f"127.0.0.1:{port}" for port in ports)
    p = subprocess.Popen([sys.argv[1], "--listen", guarded, "--mock-listen", open_], stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        p.stdout.readline()     # printed when it listens
        masked(guarded)
        beside_numbers(guarded, open_)
        untouched(guarded, open_)
        in_time(guarded)
        blocked(guarded)
    finally:
        p.terminate()
        p.wait()
    print(f"{sum(CHECKS)} passed, {len(CHECKS) - sum(CHECKS)} failed")
    sys.exit(not all(CHECKS))


main()
