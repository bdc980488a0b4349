// A server of revision 2026-07-28, with the second generation of the SDK: at /mcp, with JSON bodies at /m/json, and with streams at
// /m/stream. Usage: node stateless.mjs PORT.
import { toNodeHandler } from '@modelcontextprotocol/node';
import {
    createMcpHandler, createRequestStateCodec, fromJsonSchema, hostHeaderValidationResponse, localhostAllowedHostnames,
    localhostAllowedOrigins, McpServer, originValidationResponse,
} from '@modelcontextprotocol/server';
import { createServer } from 'node:http';
import { capabilities, info, methods, roundTools, tools } from './features.mjs';

const codec = createRequestStateCodec({ key: 'a key that only this test server ever uses' });

function call(context) {
    const { mcpReq } = context;
    return {
        token: mcpReq._meta?.progressToken,
        answers: mcpReq.inputResponses ?? {},
        state: mcpReq.requestState(),
        may: mcpReq.envelope?.['io.modelcontextprotocol/clientCapabilities'] ?? {},
        seal: state => codec.mint(state, context),
        notify: (method, params) => mcpReq.notify({ method, params }),
        log: (level, data) => mcpReq.log(level, data),
        changed: what => handler.notify[`${what}Changed`](),
    };
}

function server() {
    const server = new McpServer(info, { capabilities, requestState: { verify: codec.verify } });
    for (const [name, { description, inputSchema, run }] of Object.entries({ ...tools, ...roundTools })) {
        server.registerTool(name, { description, inputSchema: fromJsonSchema(inputSchema) }, (args, context) => run(args, call(context)));
    }
    for (const [method, answer] of Object.entries(methods)) {
        server.server.setRequestHandler(method, (request, context) => answer(request.params ?? {}, call(context)));
    }
    return server;
}

const handler = createMcpHandler(server, { legacy: 'reject' });
const handlers = {
    '/mcp': handler,
    '/m/json': createMcpHandler(server, { legacy: 'reject', responseMode: 'json' }),
    '/m/stream': createMcpHandler(server, { legacy: 'reject', responseMode: 'sse' }),
};
const guarded = {
    fetch: async (request, options) => hostHeaderValidationResponse(request, localhostAllowedHostnames())
        ?? originValidationResponse(request, localhostAllowedOrigins())
        ?? handlers[new URL(request.url).pathname]?.fetch(request, options)
        ?? new Response(null, { status: 404 }),
};
createServer(toNodeHandler(guarded)).listen(Number(process.argv[2]), '127.0.0.1');
