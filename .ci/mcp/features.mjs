// The tools, resources and prompts that the conformance suite requires, for the SDKs of both generations. A tool gets its
// arguments and a `call` with the functions of the SDK.
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==';
const WAV = 'UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=';

const pause = ms => new Promise(done => setTimeout(done, ms));
const text = words => ({ type: 'text', text: words });
const image = { type: 'image', data: PNG, mimeType: 'image/png' };
const embedded = (uri, mimeType, words) => ({ type: 'resource', resource: { uri, mimeType, text: words } });
const object = (properties, required = Object.keys(properties)) => ({ type: 'object', properties, required });
const string = { type: 'string' };
const titled = (...titles) => titles.map((title, n) => ({ const: `value${n + 1}`, title }));
const options = ['option1', 'option2', 'option3'];

const form = (message, requestedSchema) => ({ method: 'elicitation/create', params: { mode: 'form', message, requestedSchema } });
const sample = (words, maxTokens = 100) =>
    ({ method: 'sampling/createMessage', params: { messages: [{ role: 'user', content: text(words) }], maxTokens } });
const roots = { method: 'roots/list', params: {} };
const asName = form('What is your name?', object({ name: string }));

const tool = (description, run, inputSchema = object({})) => ({ description, run, inputSchema });
const says = (...content) => () => ({ content });
const asks = async (call, { method, params }, words) => ({ content: [text(words(await call.ask(method, params)))] });
const completed = answer => `Elicitation completed: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`;

export const tools = {
    test_simple_text: tool('A text', says(text('This is a simple text response for testing.'))),
    test_image_content: tool('An image', says(image)),
    test_audio_content: tool('A sound', says({ type: 'audio', data: WAV, mimeType: 'audio/wav' })),
    test_embedded_resource: tool('A resource', says(embedded('test://embedded-resource', 'text/plain', 'This is an embedded resource content.'))),
    test_multiple_content_types: tool('One of each', says(
        text('Multiple content types test:'), image, embedded('test://mixed-content-resource', 'application/json', '{"test":"data","value":123}'))),
    test_error_handling: tool('An error', () => ({ isError: true, content: [text('This tool intentionally returns an error for testing')] })),
    test_tool_with_progress: tool('Progress on the way', async (_, call) => {
        for (const progress of [0, 50, 100]) {
            if (call.token !== undefined)
                await call.notify('notifications/progress', { progressToken: call.token, progress, total: 100 });
            await pause(progress < 100 ? 50 : 0);
        }
        return { content: [text('done')] };
    }),
    echo: tool('Says it again, a little later', async ({ words, ms }) => {
        await pause(ms ?? 0);
        return { content: [text(words)] };
    }, object({ words: string, ms: { type: 'integer' } }, ['words'])),
    json_schema_2020_12_tool: tool('A schema with much in it', says(text('fine')), {
        $schema: 'https://json-schema.org/draft/2020-12/schema',
        ...object({ name: string, address: { $ref: '#/$defs/address' }, contactMethod: { type: 'string', enum: ['phone', 'email'] },
            phone: string, email: string }, []),
        $defs: { address: { $anchor: 'addressDef', ...object({ street: string, city: string }, []) } },
        allOf: [{ anyOf: [{ required: ['phone'] }, { required: ['email'] }] }],
        if: { properties: { contactMethod: { const: 'phone' } }, required: ['contactMethod'] },
        then: { required: ['phone'] }, else: { required: ['email'] },
        additionalProperties: false,
    }),
};

// Tools that send requests to the client during the call.
export const sessionTools = {
    test_tool_with_logging: tool('Log messages on the way', async (_, call) => {
        for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
            await call.notify('notifications/message', { level: 'info', data });
            await pause(50);
        }
        return { content: [text('done')] };
    }),
    test_sampling: tool('Asks for a completion', ({ prompt }, call) =>
        asks(call, sample(prompt), answer => `LLM response: ${answer.content.text}`), object({ prompt: string })),
    test_elicitation: tool('Asks the user', ({ message }, call) =>
        asks(call, form(message, object({ username: string, email: string })),
            answer => `User response: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`), object({ message: string })),
    test_elicitation_sep1034_defaults: tool('Asks with defaults', (_, call) => asks(call, form('Fill in', object({
        name: { type: 'string', default: 'John Doe' },
        age: { type: 'integer', default: 30 },
        score: { type: 'number', default: 95.5 },
        status: { type: 'string', enum: ['active', 'inactive', 'pending'], default: 'active' },
        verified: { type: 'boolean', default: true },
    }, [])), completed)),
    test_elicitation_sep1330_enums: tool('Asks to choose', (_, call) => asks(call, form('Choose', object({
        untitledSingle: { type: 'string', enum: options },
        titledSingle: { type: 'string', oneOf: titled('First Option', 'Second Option', 'Third Option') },
        legacyEnum: { type: 'string', enum: ['opt1', 'opt2', 'opt3'], enumNames: ['Option One', 'Option Two', 'Option Three'] },
        untitledMulti: { type: 'array', items: { type: 'string', enum: options } },
        titledMulti: { type: 'array', items: { anyOf: titled('First Choice', 'Second Choice', 'Third Choice') } },
    }, [])), completed)),
    test_reconnection: tool('Leaves the stream before the result', async (_, call) => {
        call.leave();
        await pause(100);
        return { content: [text('It came after all')] };
    }),
    poll: tool('Counts, and leaves the stream now and then', async ({ name }, call) => {
        for (let n = 1; n <= 20; n++) {
            await call.notify('notifications/message', { level: 'info', data: `${name} ${n}` });
            if (n % 6 === 0) call.leave();
            await pause(50);
        }
        return { content: [text(`${name} is done`)] };
    }, object({ name: string })),
};

// Tools that ask the client in their result. The client calls again with the answers.
const round = (run, ...names) => tool('Asks by its result', async (_, call) => {
    const missing = names.some(name => typeof call.answers[name] !== 'object' || call.answers[name] === null);
    return (await run(call, missing)) || { content: [text(`state-ok ${names.map(name => JSON.stringify(call.answers[name]))}`)] };
});
const inputs = (inputRequests, requestState) => ({ resultType: 'input_required', inputRequests, ...(requestState && { requestState }) });
const asConfirm = form('Please confirm', object({ ok: { type: 'boolean' } }));

export const roundTools = {
    test_logging_tool: tool('A log message, if the client requests it', async (_, call) => {
        await call.log('info', 'Here it is');
        return { content: [text('done')] };
    }),
    test_streaming_elicitation: round((_, missing) => missing && inputs({ user_name: asName }), 'user_name'),
    test_missing_capability: round(() => inputs({ question: sample('Anything?') })),
    test_input_required_result_elicitation: round(({ answers }, missing) =>
        (missing || answers.user_name.action === undefined) && inputs({ user_name: asName }), 'user_name'),
    test_input_required_result_sampling: round((_, missing) =>
        missing && inputs({ capital_question: sample('What is the capital of France?') }), 'capital_question'),
    test_input_required_result_list_roots: round((_, missing) => missing && inputs({ client_roots: roots }), 'client_roots'),
    test_input_required_result_request_state: round(async ({ seal, state }, missing) =>
        (missing || state !== 'one') && inputs({ confirm: asConfirm }, await seal('one')), 'confirm'),
    test_input_required_result_tampered_state: round(async ({ seal, state }, missing) =>
        (missing || state !== 'two') && inputs({ confirm: asConfirm }, await seal('two')), 'confirm'),
    test_input_required_result_multiple_inputs: round(async ({ seal }, missing) =>
        missing && inputs({ user_name: asName, greeting: sample('Generate a greeting', 50), client_roots: roots }, await seal('many')),
        'user_name', 'greeting', 'client_roots'),
    test_input_required_result_multi_round: round(async ({ seal, state, answers }) => {
        if (state === undefined) return inputs({ step1: form('Step 1: What is your name?', object({ name: string })) }, await seal('1'));
        if (answers.step2 === undefined)
            return inputs({ step2: form('Step 2: What is your favorite color?', object({ color: string })) }, await seal('2'));
    }),
    test_input_required_result_capabilities: round(({ may }, missing) => missing && inputs({
        ...(may.sampling && { question: sample('Anything?') }), ...(may.elicitation && { user_name: asName }) }), 'any'),
    test_trigger_tool_change: tool('The tools have changed', (_, call) => (call.changed('tools'), { content: [text('done')] })),
    test_trigger_prompt_change: tool('The prompts have changed', (_, call) => (call.changed('prompts'), { content: [text('done')] })),
    test_mirrored: tool('An argument that is in a header too', ({ region }) => ({ content: [text(region)] }),
        object({ region: { type: 'string', 'x-mcp-header': 'Region' } })),
};

const resources = [
    { uri: 'test://static-text', name: 'text', description: 'A text', mimeType: 'text/plain' },
    { uri: 'test://static-binary', name: 'binary', description: 'An image', mimeType: 'image/png' },
    { uri: 'test://watched-resource', name: 'watched', description: 'One to subscribe to', mimeType: 'text/plain' },
];
const contents = {
    'test://static-text': { mimeType: 'text/plain', text: 'This is the content of the static text resource.' },
    'test://static-binary': { mimeType: 'image/png', blob: PNG },
    'test://watched-resource': { mimeType: 'text/plain', text: 'Watched resource content' },
};

function read({ uri }) {
    const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
    const found = id
        ? { mimeType: 'application/json', text: JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` }) }
        : contents[uri];
    if (!found) throw Object.assign(new Error('Resource not found'), { code: -32602, data: { uri } });
    return { contents: [{ uri, ...found }] };
}

const user = content => ({ role: 'user', content });
const prompt = (description, of, ...names) =>
    ({ description, of, arguments: names.map(name => ({ name, description: `The ${name}`, required: true })) });
const prompts = {
    test_simple_prompt: prompt('A text', () => [user(text('This is a simple prompt for testing.'))]),
    test_prompt_with_arguments: prompt('A text of arguments', ({ arg1, arg2 }) =>
        [user(text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`))], 'arg1', 'arg2'),
    test_prompt_with_embedded_resource: prompt('A resource', ({ resourceUri }) => [
        user(embedded(resourceUri, 'text/plain', 'Embedded resource content for testing.')),
        user(text('Please process the embedded resource above.')),
    ], 'resourceUri'),
    test_prompt_with_image: prompt('An image', () => [user(image), user(text('Please analyze the image above.'))]),
};
const askingPrompt = prompt('Asks by its result', (_, answer) => [user(text(`About ${answer.content?.context}`))]);

function get({ name, arguments: args }, call) {
    if (name === 'test_input_required_result_prompt' && call.answers) {
        const answer = call.answers.user_context;
        if (!answer) return inputs({ user_context: form('What context should the prompt use?', object({ context: string })) });
        return { messages: askingPrompt.of(args, answer) };
    }
    if (!prompts[name]) throw Object.assign(new Error(`No prompt ${name}`), { code: -32602 });
    return { messages: prompts[name].of(args ?? {}) };
}

const listed = ([name, { description, arguments: args }]) => ({ name, description, arguments: args });
export const methods = {
    'resources/list': () => ({ resources }),
    'resources/templates/list': () => ({ resourceTemplates: [
        { uriTemplate: 'test://template/{id}/data', name: 'template', description: 'One for each id', mimeType: 'application/json' }] }),
    'resources/read': read,
    'prompts/list': (_, call) => ({ prompts: Object.entries(
        call.answers ? { ...prompts, test_input_required_result_prompt: askingPrompt } : prompts).map(listed) }),
    'prompts/get': get,
    'completion/complete': () => ({ completion: { values: ['paris', 'park', 'party'], total: 3, hasMore: false } }),
};
export const capabilities = {
    tools: { listChanged: true }, resources: { subscribe: true, listChanged: true }, prompts: { listChanged: true },
    logging: {}, completions: {},
};
export const info = { name: 'conformance', version: '1.0.0' };
