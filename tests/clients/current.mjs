// The current openai library for Node against the gateway: `current.mjs local` (the bundled model) or
// `current.mjs remote` (the scripted upstream).

import assert from "node:assert/strict";

// Installed beside nothing: the path of the packages comes from the environment.
const { default: OpenAI, ...sdk } = await import(`${process.env.NODE_MODULES}/openai/index.mjs`);

const prompt = "写一首关于春天的诗";
const messages = [{ role: "user", content: prompt }];
const client = new OpenAI({ maxRetries: 0, timeout: 30_000 });

async function fails(kind, call, status, code) {
  try {
    await call();
  } catch (error) {
    assert.ok(error instanceof kind, `${error.constructor.name} instead of ${kind.name}: ${error}`);
    if (status) assert.equal(error.status, status);
    if (code) assert.equal(error.code, code);
    assert.ok(error.requestID, "no request id");
    return;
  }
  assert.fail(`no ${kind.name}`);
}

async function collect(stream, text) {
  const pieces = [];
  for await (const chunk of stream) pieces.push(text(chunk));
  return pieces;
}

async function local() {
  const greedy = { model: "poet", max_tokens: 30, temperature: 0 };
  const made = await client.completions.create({ prompt, ...greedy });
  assert.ok(made.choices[0].text.trim());
  const pieces = await collect(
    await client.completions.create({ prompt, stream: true, ...greedy }),
    (chunk) => chunk.choices[0].text,
  );
  assert.equal(pieces.join(""), made.choices[0].text);
  assert.ok(pieces.length > 3);
  const chat = await client.chat.completions.create({ messages, ...greedy });
  const text = await collect(
    await client.chat.completions.create({ messages, stream: true, ...greedy }),
    (chunk) => chunk.choices[0].delta.content ?? "",
  );
  assert.equal(text.join(""), chat.choices[0].message.content);
  const final = await client.chat.completions.stream({ messages, ...greedy }).finalContent();
  assert.equal(final, chat.choices[0].message.content);
  const ids = await collect(await client.models.list(), (model) => model.id);
  assert.ok(ids.includes("poet"));
  assert.equal((await client.models.retrieve("poet")).owned_by, "local");
  await fails(
    sdk.BadRequestError,
    () => client.completions.create({ model: "poet", prompt: prompt.repeat(5000) }),
    400,
    "context_length_exceeded",
  );
}

async function remote() {
  const { data, response, request_id } = await client.chat.completions
    .create({ model: "gpt-4o", messages })
    .withResponse();
  assert.equal(data.choices[0].message.content, "héllo 😀");
  assert.equal(data._request_id, request_id);
  assert.equal(response.headers.get("x-weir-upstream"), "upstream");
  const chunks = await collect(
    await client.chat.completions.create({ model: "gpt-4o", messages, stream: true }),
    (chunk) => chunk,
  );
  assert.ok(chunks.every((chunk) => chunk.choices.length > 0), "the usage chunk was not taken out");
  assert.equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), "héllo 😀");
  const embedding = await client.embeddings.create({ model: "embed", input: "a" });
  assert.deepEqual(Array.from(embedding.data[0].embedding), [0.5, -1, 2]);
  assert.equal((await client.responses.create({ model: "gpt-4o", input: "hi" })).output_text, "hello");
  const kinds = await collect(
    await client.responses.create({ model: "gpt-4o", input: "hi", stream: true }),
    (event) => event.type,
  );
  assert.deepEqual(kinds, ["response.created", "response.output_text.delta", "response.completed"]);
  assert.equal((await client.models.retrieve("org/model-with-slash")).owned_by, "upstream");

  const content = Buffer.alloc(1_000_000, 7);
  const file = await sdk.toFile(content, "a é.bin");
  const made = await client.files.create({ file, purpose: "batch" });
  assert.ok(made.id === "file-1" && made.bytes > content.length);
  const downloaded = Buffer.from(await (await client.files.content("file-1")).arrayBuffer());
  assert.equal(downloaded.length, 256_000);
  assert.ok(downloaded.every((byte, i) => byte === i % 256));

  const ask = (model, more) => () => client.chat.completions.create({ model, messages, ...more });
  for (const [status, kind] of [
    [400, sdk.BadRequestError],
    [404, sdk.NotFoundError],
    [409, sdk.ConflictError],
    [422, sdk.UnprocessableEntityError],
    [429, sdk.RateLimitError],
  ]) {
    await fails(kind, ask(`status-${status}`), status, "their_code");
    await fails(kind, ask(`status-${status}`, { stream: true }), status, "their_code");
  }
  await fails(sdk.InternalServerError, ask("status-401"), 502, "upstream_auth_failed");
  await fails(sdk.InternalServerError, ask("status-500"));
  await fails(sdk.InternalServerError, ask("cut"), 502);
  await assert.rejects(async () => {
    await collect(await ask("broken-stream", { stream: true })(), (chunk) => chunk);
  }, sdk.APIError);
  const stranger = client.withOptions({ apiKey: "wk-not-a-key" });
  await fails(sdk.AuthenticationError, () => stranger.models.list(), 401, "invalid_api_key");

  // Leaving a stream early ends the call.
  const stream = await client.chat.completions.create({ model: "endless", messages, stream: true });
  for await (const _ of stream) break;
}

// Streams that a limit ends in their middle end as those do that have come to their length.
async function stopped() {
  let last;
  let said = "";
  for await (const event of client.responses.stream({ model: "gpt-4o", input: "hi" })) {
    if (event.type === "response.output_text.delta") said += event.delta;
    last = event;
  }
  assert.equal(last.type, "response.incomplete");
  assert.equal(last.response.incomplete_details.reason, "max_output_tokens");
  assert.equal(last.response.output[0].content[0].text, said);

  const limited = client.withOptions({ apiKey: process.env.LIMITED_KEY });
  const stream = limited.chat.completions.stream({ model: "gpt-4o", messages, n: 3 });
  const { choices } = await stream.finalChatCompletion();
  assert.deepEqual(
    choices.map((choice) => choice.finish_reason),
    ["length", "stop", "length"],
  );
}

await { local, remote, stopped }[process.argv[2]]();
console.log("ok");
