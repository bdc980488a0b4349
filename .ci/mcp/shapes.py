"""A server with the official Python SDK of either generation, with one tool. It answers with streams at /m/stream, and with JSON bodies
at /m/json. Usage: shapes.py PORT."""
import contextlib, importlib.metadata, logging, sys

import uvicorn
from starlette.applications import Starlette

SECOND = importlib.metadata.version("mcp").startswith("2.")
if SECOND:
    from mcp.server.mcpserver import MCPServer as Server
else:
    from mcp.server.fastmcp import FastMCP as Server


def echo(words: str) -> str:
    """Sends the words back."""
    return words


def app(path, json_response):
    how = {"streamable_http_path": path, "json_response": json_response}
    server = Server("shapes", **({} if SECOND else how))
    server.add_tool(echo)
    return server.streamable_http_app(**(how if SECOND else {}))


apps = [app("/m/stream", False), app("/m/json", True)]


@contextlib.asynccontextmanager
async def lifespan(_):
    async with contextlib.AsyncExitStack() as running:
        for each in apps:
            await running.enter_async_context(each.router.lifespan_context(each))
        yield


logging.disable()
routes = [route for each in apps for route in each.routes]
uvicorn.run(Starlette(routes=routes, lifespan=lifespan), port=int(sys.argv[1]), log_level="warning")
