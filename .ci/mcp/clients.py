"""Clients with the official Python SDK of either generation. Usage: clients.py KIND URL..., where KIND is the kind of the server:
sessions, polling, stateless, legacy, forgetful or shapes."""
import asyncio, contextlib, contextvars, importlib.metadata, json, os, re, sys, traceback, urllib.request

import mcp
from mcp import types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

SECOND = importlib.metadata.version("mcp").startswith("2.")
KIND, *URLS = sys.argv[1:]
CURRENT = contextvars.ContextVar("the URL")


def check(what, fine, detail=""):
    print(f"ok   {what}" if fine else f"FAIL {CURRENT.get()}: {what}: {detail}", flush=True)


async def elicit(*_):
    return types.ElicitResult(action="accept", content={"username": "ann", "email": "a@b", "name": "Ann"})


async def sample(_, params):
    content = params.messages[0].content
    return types.CreateMessageResult(role="assistant", model="none", content=types.TextContent(type="text", text=f"So {content.text}"))


async def roots(*_):
    return types.ListRootsResult(roots=[types.Root(uri="file:///project", name="project")])


@contextlib.asynccontextmanager
async def connect(url):
    """Yields a client and the list of log messages that it gets."""
    logs = []

    async def log(params):
        logs.append(params.data)

    callbacks = dict(elicitation_callback=elicit, sampling_callback=sample, list_roots_callback=roots, logging_callback=log)
    transport = sse_client(url) if KIND == "legacy" else streamable_http_client(url)
    if SECOND:
        async with mcp.Client(transport, mode="legacy" if KIND == "legacy" else "auto", **callbacks) as client:
            yield client, logs
    else:
        async with transport as streams, mcp.ClientSession(streams[0], streams[1], **callbacks) as client:
            await client.initialize()
            yield client, logs


async def call(client, name, args={}, **more):
    async with asyncio.timeout(10):
        return (await client.call_tool(name, args, **more)).content[0].text


async def together(client):
    words = [f"answer {n}" for n in range(8)]
    got = await asyncio.gather(*(call(client, "echo", {"words": word, "ms": (8 - n) * 20}) for n, word in enumerate(words)))
    check("eight calls at once, each with its answer", got == words, got)


async def both(client):
    tools = (await client.list_tools()).tools
    check("the tools", "echo" in [tool.name for tool in tools], tools)
    progress = []

    async def note(n, *_):
        progress.append(n)

    await call(client, "test_tool_with_progress", progress_callback=note)
    check("progress before the result", progress == [0, 50, 100], progress)
    await together(client)


async def asked(client, logs):
    await call(client, "test_tool_with_logging")
    check("log messages before the result", len(logs) == 3, logs)
    got = await call(client, "test_elicitation", {"message": "Who?"})
    check("the server asks the user", got == 'User response: action=accept, content={"username":"ann","email":"a@b","name":"Ann"}', got)
    got = await call(client, "test_sampling", {"prompt": "it is"})
    check("the server asks the model", got == "LLM response: So it is", got)


async def sessions(url):
    async with connect(url) as (client, logs):
        await both(client)
        await asked(client, logs)
        got = await call(client, "test_reconnection")
        check("the client resumes and gets its result", got == "It came after all", got)
    async with connect(url) as (client, _):     # the first has ended its session
        await together(client)


async def polling(url):
    names = ["ann", "bob", "cid"]
    async with connect(url) as (client, logs):
        got = await asyncio.gather(*(call(client, "poll", {"name": name}) for name in names))
        check("each call has its result", got == [f"{name} is done" for name in names], got)
        await asyncio.sleep(0.1)
        for name in names:
            counted = [int(log.split()[1]) for log in logs if log.startswith(name)]
            check("every message once, in order", counted == list(range(1, 21)), counted)


async def stateless(url):
    async with connect(url) as (client, logs):
        await both(client)
        await call(client, "test_logging_tool", meta={"io.modelcontextprotocol/logLevel": "info"})
        check("a log message if the client requests it", len(logs) == 1, logs)
        got = await call(client, "test_input_required_result_multiple_inputs")
        check("the server asks the client in its result", re.search("state-ok .*Ann.*So Generate a greeting.*file:///project", got), got)
        async with asyncio.timeout(5), client.listen(tools_list_changed=True) as changes:
            await call(client, "test_trigger_tool_change")
            check("a subscriber is notified of a change", await anext(aiter(changes)) is not None)


async def legacy(url):
    async with connect(url) as (client, logs):
        await both(client)
        await asked(client, logs)


async def forgetful(url):
    """The server loses its sessions three times, and the gateway heals them."""
    async def forget():
        request = urllib.request.Request(re.sub("/mcp$", "/forget", url), method="POST")
        await asyncio.to_thread(urllib.request.urlopen, request)

    async def names():
        return [tool.name for tool in (await client.list_tools()).tools]

    async with connect(url) as (client, _):
        await forget()
        check("a list after the server has lost the session", "echo" in await names())
        check("a call in the healed session", await call(client, "echo", {"words": "first"}) == "first")
        await forget()
        # Its call is not repeated. It succeeds if another request has healed the session before.
        with contextlib.suppress(Exception):
            await call(client, "echo", {"words": "lost"})
        check("the next call", await call(client, "echo", {"words": "second"}) == "second")
        await forget()
        lists = await asyncio.gather(*(names() for _ in range(20)))
        check("twenty lists at once", all("echo" in each for each in lists), lists)


async def shapes(url):
    """The server sends back the words that it gets. If the gateway masks PHRASE, the client gets MASKED in its place."""
    phrase, masked = os.environ["PHRASE"], os.environ["MASKED"]
    async with connect(url) as (client, _):
        for words in f"say {phrase}, and {phrase}", json.dumps({"say": f"\u00fc {phrase}"}), "nothing":
            got = await call(client, "echo", {"words": words})
            check("the masked text", got == words.replace(phrase, masked), got)


async def one(url):
    CURRENT.set(url)
    try:
        async with asyncio.timeout(20):
            kinds = sessions, polling, stateless, legacy, forgetful, shapes
            await next(kind for kind in kinds if kind.__name__ == KIND)(url)
    except Exception:
        check("no error", False, repr(traceback.format_exc()[-1500:]))


async def main():
    await asyncio.gather(*map(one, URLS))


asyncio.run(main())
