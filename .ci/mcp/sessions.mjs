// A server with sessions, with the first generation of the SDK: Streamable HTTP at /mcp and /m/stream, with JSON bodies in place of
// streams at /m/json, and the HTTP+SSE transport of 2024-11-05 at /m/FORM/sse. Usage: node sessions.mjs PORT.
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { createMcpExpressApp } from '@modelcontextprotocol/sdk/server/express.js';
import { SSEServerTransport } from '@modelcontextprotocol/sdk/server/sse.js';
import { StreamableHTTPServerTransport } from '@modelcontextprotocol/sdk/server/streamableHttp.js';
import { isInitializeRequest, ResultSchema } from '@modelcontextprotocol/sdk/types.js';
import { randomUUID } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import { capabilities, info, methods, sessionTools, tools } from './features.mjs';

const all = { ...tools, ...sessionTools };
const transports = new Map();

function server() {
    const server = new Server(info, { capabilities });
    const answers = {
        ...methods,
        'tools/list': () => ({ tools: Object.entries(all).map(([name, { description, inputSchema }]) => ({ name, description, inputSchema })) }),
        'tools/call': ({ name, arguments: args }, call) => {
            if (!all[name]) throw Object.assign(new Error(`No tool ${name}`), { code: -32602 });
            return all[name].run(args ?? {}, call);
        },
        'resources/subscribe': () => ({}),
        'resources/unsubscribe': () => ({}),
        'logging/setLevel': () => ({}),
    };
    server.fallbackRequestHandler = async ({ method, params }, extra) => {
        if (!answers[method]) throw Object.assign(new Error('Method not found'), { code: -32601 });
        return answers[method](params ?? {}, {
            token: extra._meta?.progressToken,
            notify: (method, params) => extra.sendNotification({ method, params }),
            ask: (method, params) => extra.sendRequest({ method, params }, ResultSchema),
            leave: () => extra.closeSSEStream?.(),
        });
    };
    return server;
}

// Stores the events of all streams, and replays those after an id of the same stream.
const events = [];
const eventStore = {
    async storeEvent(stream, message) {
        return String(events.push({ stream, message }) - 1);
    },
    async getStreamIdForEventId(id) {
        return events[id]?.stream;
    },
    async replayEventsAfter(last, { send }) {
        const { stream } = events[last];
        for (let id = Number(last) + 1; id < events.length; id++) {
            if (events[id].stream === stream && events[id].message.jsonrpc) await send(String(id), events[id].message);
        }
        return stream;
    },
};

const app = createMcpExpressApp();
app.all(['/mcp', '/m/stream', '/m/json'], async (request, response) => {
    const id = request.headers['mcp-session-id'];
    let transport = transports.get(id);
    // In some scenarios the stable suite negotiates one version and then sends another. The negotiated one applies.
    const version = request.rawHeaders.findIndex(name => name.toLowerCase() === 'mcp-protocol-version');
    if (version >= 0) request.rawHeaders[version + 1] = '2025-11-25';
    if (!transport && !id && request.method === 'POST' && isInitializeRequest(request.body)) {
        transport = new StreamableHTTPServerTransport({
            sessionIdGenerator: randomUUID,
            eventStore,
            retryInterval: 300,
            enableJsonResponse: request.path === '/m/json',
            onsessioninitialized: id => transports.set(id, transport),
            onsessionclosed: id => transports.delete(id),
        });
        await server().connect(transport);
    }
    if (transport) return transport.handleRequest(request, response, request.body);
    const [status, message] = id ? [404, 'Session not found'] : [400, 'No session'];
    response.status(status).json({ jsonrpc: '2.0', error: { code: -32000, message }, id: null });
});

// As after a restart: the streams end, and no session is known.
app.post('/forget', (request, response) => {
    const lost = [...transports.values()];
    transports.clear();
    lost.forEach(transport => transport.close());
    response.status(204).end();
});

// The HTTP+SSE transport of 2024-11-05. Its first event has the URL to POST to, in any form of URL. FORM is `pieces` for an event
// that is sent in pieces, or the kind of URL (relative, path or url) and the place of the id, as in url-session_id.
const where = {
    relative: () => 'messages',
    path: form => `/m/${form}/messages`,
    url: (form, request) => `http://${request.headers.host}/m/${form}/messages`,
};
app.get('/m/:form/sse', async (request, response) => {
    const { form } = request.params;
    const [kind, place] = form === 'pieces' ? ['path', 'sessionId'] : form.split('-');
    const transport = new SSEServerTransport('', response);
    const endpoint = where[kind](form, request) + (place === 'segment' ? `/${transport.sessionId}` : `?${place}=${transport.sessionId}`);
    const { write } = response;
    response.write = async () => {
        response.write = write;
        const event = `event: endpoint\ndata: ${endpoint}\n\n`;
        const size = form === 'pieces' ? 7 : event.length;
        // One timer after the other: Node may run timers of different lengths out of order.
        for (let at = 0; at < event.length; at += size) {
            response.write(event.slice(at, at + size));
            await setTimeout(5);
        }
    };
    transports.set(transport.sessionId, transport);
    response.on('close', () => transports.delete(transport.sessionId));
    await server().connect(transport);
});
app.post(['/m/:form/messages', '/m/:form/messages/:id'], (request, response) => {
    const transport = transports.get(request.params.id ?? Object.values(request.query)[0]);
    return transport ? transport.handlePostMessage(request, response, request.body) : response.status(404).end('Session not found');
});

app.listen(Number(process.argv[2]), '127.0.0.1');
