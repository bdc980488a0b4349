// Clients with the official TypeScript SDK. Usage: node clients.mjs GENERATION KIND URL..., where GENERATION is the generation
// of the SDK, 1 or 2, and KIND the kind of the server: sessions, polling, stateless, legacy, forgetful or shapes.
import { AsyncLocalStorage } from 'node:async_hooks';

const [generation, kind, ...urls] = process.argv.slice(2);
const current = new AsyncLocalStorage();

const sdk = generation === '1'
    ? Object.assign({}, ...await Promise.all(['client/index.js', 'client/sse.js', 'client/streamableHttp.js', 'types.js']
        .map(file => import(`@modelcontextprotocol/sdk/${file}`))))
    : await import('@modelcontextprotocol/client');
const named = {
    'elicitation/create': 'ElicitRequestSchema', 'sampling/createMessage': 'CreateMessageRequestSchema', 'roots/list': 'ListRootsRequestSchema',
    'notifications/tools/list_changed': 'ToolListChangedNotificationSchema',
};
const name = method => generation === '1' ? sdk[named[method]] : method;

function check(what, fine, detail) {
    console.log(fine ? `ok   ${what}` : `FAIL ${current.getStore()}: ${what}: ${JSON.stringify(detail)}`);
}

async function connect(url) {
    const client = new sdk.Client({ name: 'client', version: '1.0.0' }, {
        capabilities: { elicitation: {}, sampling: {}, roots: {} },
        ...(kind !== 'legacy' && { versionNegotiation: { mode: 'auto' } }),
    });
    client.setRequestHandler(name('elicitation/create'), () => ({ action: 'accept', content: { username: 'ann', email: 'a@b', name: 'Ann' } }));
    client.setRequestHandler(name('sampling/createMessage'), ({ params }) =>
        ({ role: 'assistant', model: 'none', content: { type: 'text', text: `So ${params.messages[0].content.text}` } }));
    client.setRequestHandler(name('roots/list'), () => ({ roots: [{ uri: 'file:///project', name: 'project' }] }));
    const transport = new sdk[kind === 'legacy' ? 'SSEClientTransport' : 'StreamableHTTPClientTransport'](new URL(url));
    // All messages that arrive. The SDK calls its handlers later, and not at all for progress that arrives with the result.
    const messages = [];
    transport.onmessage = message => { messages.push(message); };
    const notified = (what, field) => messages.filter(({ method }) => method === `notifications/${what}`).map(({ params }) => params[field]);
    await client.connect(transport, { timeout: 10_000 });
    const call = async (name, args = {}, options = {}, _meta = undefined) => {
        const params = { name, arguments: args, ...(_meta && { _meta }) };
        options = { timeout: 10_000, ...options };
        const result = await (generation === '1' ? client.callTool(params, undefined, options) : client.callTool(params, options));
        return result.content[0].text;
    };
    return { client, transport, call, notified };
}

async function together(call) {
    const words = [...Array(8).keys()].map(n => `answer ${n}`);
    const got = await Promise.all(words.map((words, n) => call('echo', { words, ms: (8 - n) * 20 })));
    check('eight calls at once, each with its answer', JSON.stringify(got) === JSON.stringify(words), got);
}

async function both({ client, call, notified }) {
    const { tools } = await client.listTools();
    check('the tools', tools.some(tool => tool.name === 'echo'), tools);
    await call('test_tool_with_progress', {}, { onprogress: () => {} });
    const progress = notified('progress', 'progress');
    check('progress before the result', progress.join() === '0,50,100', progress);
    await together(call);
}

async function asked({ call, notified }) {
    await call('test_tool_with_logging');
    const logs = notified('message', 'data');
    check('log messages before the result', logs.length === 3, logs);
    let got = await call('test_elicitation', { message: 'Who?' });
    check('the server asks the user', got === 'User response: action=accept, content={"username":"ann","email":"a@b","name":"Ann"}', got);
    got = await call('test_sampling', { prompt: 'it is' });
    check('the server asks the model', got === 'LLM response: So it is', got);
}

async function sessions(url) {
    const first = await connect(url);
    await both(first);
    await asked(first);
    const got = await first.call('test_reconnection');
    check('the client resumes and gets its result', got === 'It came after all', got);
    const id = first.transport.sessionId;
    await first.transport.terminateSession();
    const again = new sdk.StreamableHTTPClientTransport(new URL(url), { sessionId: id });
    await again.start();
    const refused = await again.send({ jsonrpc: '2.0', id: 1, method: 'tools/list' }).then(() => null, error => error);
    check('an ended session gives 404', refused?.code === 404 || refused?.status === 404, String(refused?.stack));
    await again.close();
    await first.client.close();
    const second = await connect(url);
    await together(second.call);
    check('a new session has a new id', id && second.transport.sessionId && second.transport.sessionId !== id, id);
    await second.transport.terminateSession();
    await second.client.close();
}

async function polling(url) {
    const { client, transport, call, notified } = await connect(url);
    const names = ['ann', 'bob', 'cid'];
    const got = await Promise.all(names.map(name => call('poll', { name })));
    check('each call has its result', got.join() === names.map(name => `${name} is done`).join(), got);
    const logs = notified('message', 'data');
    for (const name of names) {
        const counted = logs.filter(log => log.startsWith(name)).map(log => Number(log.split(' ')[1]));
        check('every message once, in order', counted.join() === [...Array(20).keys()].map(n => n + 1).join(), counted);
    }
    await transport.terminateSession();
    await client.close();
}

async function stateless(url) {
    const connected = await connect(url);
    const { client, call, notified } = connected;
    await both(connected);
    await call('test_logging_tool', {}, {}, { 'io.modelcontextprotocol/logLevel': 'info' });
    const logs = notified('message', 'data');
    check('a log message if the client requests it', logs.length === 1, logs);
    const got = await call('test_input_required_result_multiple_inputs');
    check('the server asks the client in its result', /state-ok .*Ann.*So Generate a greeting.*file:\/\/\/project/.test(got), got);
    const changed = new Promise(done => client.setNotificationHandler(name('notifications/tools/list_changed'), done));
    const subscription = await client.listen({ toolsListChanged: true });
    await call('test_trigger_tool_change');
    const known = await Promise.race([changed, new Promise((_, fail) => setTimeout(fail, 5000))]).then(() => true, () => false);
    check('a subscriber is notified of a change', known);
    await subscription.close();
    await client.close();
}

async function legacy(url) {
    const connected = await connect(url);
    await both(connected);
    await asked(connected);
    await connected.client.close();
}

// The server loses its sessions three times, and the gateway heals them.
async function forgetful(url) {
    const { client, transport, call } = await connect(url);
    const id = transport.sessionId;
    const forget = () => fetch(new URL('/forget', url), { method: 'POST' });
    const names = async () => (await client.listTools()).tools.map(tool => tool.name);
    await forget();
    check('a list after the server has lost the session', (await names()).includes('echo'));
    check('a call in the healed session', await call('echo', { words: 'first' }) === 'first');
    await forget();
    // Its call is not repeated. It succeeds if another request has healed the session before.
    await call('echo', { words: 'lost' }).catch(() => {});
    check('the next call', await call('echo', { words: 'second' }) === 'second');
    await forget();
    const lists = await Promise.all([...Array(20)].map(names));
    check('twenty lists at once', lists.every(list => list.includes('echo')), lists);
    check('the same session', transport.sessionId === id, transport.sessionId);
    await transport.terminateSession();
    await client.close();
}

// The server sends back the words that it gets. If the gateway masks PHRASE, the client gets MASKED in its place.
async function shapes(url) {
    const { client, transport, call } = await connect(url);
    const { PHRASE, MASKED } = process.env;
    for (const words of [`say ${PHRASE}, and ${PHRASE}`, JSON.stringify({ say: `\u00fc ${PHRASE}` }), 'nothing']) {
        const got = await call('echo', { words });
        check('the masked text', got === words.replaceAll(PHRASE, MASKED), got);
    }
    if (transport.sessionId) await transport.terminateSession();
    await client.close();
}

// All URLs at once, with a limit of twenty seconds.
const late = new Promise((_, fail) => setTimeout(fail, 20_000, new Error('not finished after 20 s')));
await Promise.all(urls.map(url => current.run(url, () =>
    Promise.race([late, { sessions, polling, stateless, legacy, forgetful, shapes }[kind](url)]).catch(error => check('no error', false, String(error?.stack ?? error))))));
process.exit();
