#!/usr/bin/env python3
"""Reads streams of the guardrail with the official SDKs of the model APIs. Usage: sdks.py GUARDRAIL_BINARY, in an environment with
the packages of sdks.txt. The mock splits a card number into events in many ways. No part of it may reach the client, and the SDK
must join the rest of the text correctly. Exits 1 if a check fails."""
import collections, http.client, json, os, re, subprocess, sys

import anthropic, openai
from google import genai

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
    """Returns whether there are no eight digits in a row, in the bytes and in the joined strings of each path over all events."""
    joined = collections.defaultdict(str)
    for line in raw.decode().splitlines():
        if line.startswith("data: {"):
            for place, text in strings(json.loads(line[6:])):
                joined[place] += text
    # Without the fixed timestamp of the mock.
    texts = [raw.decode().replace("1700000000", ""), *joined.values()]
    return not any(re.search(r"(?:\d[ -]?){8}", text) for text in texts)


def chat(client, headers, text, **more):
    with client.chat.completions.stream(model="mock", messages=[{"role": "user", "content": text}], extra_headers=headers, **more) as stream:
        for _ in stream:
            pass
        return stream.get_final_completion()


def openai_chat(base, text, expected, headers):
    client = openai.OpenAI(base_url=f"http://{base}/v1", api_key="none", max_retries=0)
    final = chat(client, headers, text, n=2)
    check("openai chat: the text", final.choices[0].message.content == expected, final.choices[0].message.content)
    check("openai chat: the other choice", final.choices[1].message.content == OTHER, final.choices[1])
    check("openai chat: finished", [choice.finish_reason for choice in final.choices] == ["stop", "stop"], final)
    tools = [{"type": "function", "function": {"name": "note", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}}}]
    pieces = client.chat.completions.create(model="mock", messages=[{"role": "user", "content": text}], tools=tools, stream=True, extra_headers=headers)
    calls = [call for piece in pieces for choice in piece.choices for call in choice.delta.tool_calls or []]
    arguments = "".join(call.function.arguments for call in calls)
    check("openai chat: the arguments of a tool call", json.loads(arguments) == {"text": expected}, arguments)


def openai_responses(base, text, expected, headers):
    client = openai.OpenAI(base_url=f"http://{base}/v1", api_key="none", max_retries=0)
    with client.responses.stream(model="mock", input=text, extra_headers=headers) as stream:
        deltas = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    check("openai responses: the deltas", deltas == expected, deltas)
    check("openai responses: the final text", final.output_text == expected, final.output_text)


def anthropic_messages(base, text, expected, headers):
    client = anthropic.Anthropic(base_url=f"http://{base}", api_key="none", max_retries=0)
    with client.messages.stream(model="mock", max_tokens=99, messages=[{"role": "user", "content": text}], extra_headers=headers) as stream:
        deltas = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("anthropic: the deltas", deltas == expected, deltas)
    check("anthropic: the final message", final.content[0].text == expected and final.stop_reason == "end_turn", final)


def gemini(base, text, expected, headers):
    client = genai.Client(api_key="none", http_options={"base_url": f"http://{base}", "headers": headers})
    pieces = list(client.models.generate_content_stream(model="mock", contents=text))
    got = "".join(piece.text or "" for piece in pieces)
    check("gemini: the text", got == expected, got)
    check("gemini: finished", pieces[-1].candidates[0].finish_reason.name == "STOP", pieces[-1])


FAMILIES = {
    "/v1/chat/completions": (openai_chat, lambda text: {"stream": True, "messages": [{"role": "user", "content": text}]}),
    "/v1/responses": (openai_responses, lambda text: {"stream": True, "input": text}),
    "/v1/messages": (anthropic_messages, lambda text: {"stream": True, "messages": [{"role": "user", "content": text}]}),
    "/v1beta/models/mock:streamGenerateContent?alt=sse": (gemini, lambda text: {"contents": [{"parts": [{"text": text}]}]}),
}


def masked(guarded):
    for path, (sdk, body) in FAMILIES.items():
        before = len(CHECKS)
        for text, expected in texts():
            for split in SPLITS:
                headers = {"x-split": str(split), "x-pace-ms": "0"}
                # The SDKs are slow: they read a part of the combinations. The raw client reads all of them.
                if len(text) % 4 == split % 4:
                    sdk(guarded, text, expected, headers)
                raw = Raw(guarded).post(path, body(text), headers)[2]
                check(f"{path}: no card in the bytes, {split} letters an event", few_digits(raw) and raw.count(b"[card]") >= 2, raw[-300:])
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
            for path, (sdk, body) in FAMILIES.items():
                sdk(guarded, text, expected, headers)
                hidden = few_digits(Raw(guarded).post(path, body(text), headers)[2])
                check(f"{path}: {text}: hidden if and only if it is a card, {split} letters an event", hidden == ("[card]" in expected), text)
                bare = few_digits(Raw(open_).post(path, body(text), headers)[2])
                check(f"{path}: {text}: visible without the guardrail", not bare, text)


def untouched(guarded, open_):
    text = "Nothing to hide: 4111 1111 1111 1112 is no card, 12 is no number, {\"a\": [1.0, 2e400]} is text."
    for path, (_, body) in FAMILIES.items():
        for split in SPLITS:
            headers = {"x-split": str(split), "x-pace-ms": "0"}
            same = [Raw(address).post(path, body(text), headers)[2] for address in (guarded, open_)]
            check(f"{path}: a stream without cards is byte-identical", same[0] == same[1], same[0][-200:])
    for path, (_, body) in FAMILIES.items():
        # Gemini has the streaming flag in the path, the others in the body.
        path = path.replace("streamGenerateContent?alt=sse", "generateContent")
        answers = [Raw(address).post(path, {**body(CARD), "stream": False}, {}) for address in (guarded, open_)]
        status, kind, raw = answers[0]
        check(f"{path}: a response that is no stream is unchanged",
              status == 200 and kind == "application/json" and CARD.encode() in raw and answers[0] == answers[1], answers)
    client = openai.OpenAI(base_url=f"http://{guarded}/v1", api_key="none", max_retries=0)
    google = genai.Client(api_key="none", http_options={"base_url": f"http://{guarded}"})
    ask = [{"role": "user", "content": CARD}]
    read = {
        "openai chat": client.chat.completions.create(model="mock", messages=ask).choices[0].message.content,
        "openai responses": client.responses.create(model="mock", input=CARD).output_text,
        "anthropic": anthropic.Anthropic(base_url=f"http://{guarded}", api_key="none", max_retries=0)
        .messages.create(model="mock", max_tokens=99, messages=ask).content[0].text,
        "gemini": google.models.generate_content(model="mock", contents=CARD).text,
    }
    for api, got in read.items():
        check(f"{api}: the SDK reads a response that is no stream", got == CARD, got)


def in_time(guarded):
    """Checks that a slow stream is not held: the first letters arrive long before the last."""
    import time
    client = openai.OpenAI(base_url=f"http://{guarded}/v1", api_key="none", max_retries=0)
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
        client = openai.OpenAI(base_url=f"http://{guarded}/v1", api_key="none", max_retries=0)
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

        client = anthropic.Anthropic(base_url=f"http://{guarded}", api_key="none", max_retries=0)
        with client.messages.stream(model="mock", max_tokens=99, messages=ask, extra_headers=headers) as stream:
            events = list(stream)
            said = "".join(event.text for event in events if event.type == "text")
            final = stream.get_final_message()
            stops = [event.index for event in events if event.type == "content_block_stop"]
        check("anthropic: blocked", final.stop_reason == "refusal" and events[-1].type == "message_stop", final)
        check("anthropic: every block is closed", stops == [0], stops)
        check("anthropic: nothing of the phrase", text.startswith(said) and "Night" not in said, said)

        client = genai.Client(api_key="none", http_options={"base_url": f"http://{guarded}", "headers": headers})
        pieces = list(client.models.generate_content_stream(model="mock", contents=text))
        said = "".join(piece.text or "" for piece in pieces)
        check("gemini: blocked", pieces[-1].candidates[0].finish_reason.name == "SAFETY", pieces[-1])
        check("gemini: one response id", len({piece.response_id for piece in pieces}) == 1, pieces[-1])
        check("gemini: nothing of the phrase", text.startswith(said) and "Night" not in said, said)
        for path, (_, body) in FAMILIES.items():
            raw = Raw(guarded).post(path, body(text), headers)[2]
            check(f"{path}: the end of the phrase is in no byte", b"ingale" not in raw and b"secret" not in raw, raw[-300:])


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
