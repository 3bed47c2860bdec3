"""openai 0.28.1 against the gateway: `legacy.py local` (the bundled model) or `legacy.py remote` (the scripted upstream)."""

import asyncio
import sys

import openai

PROMPT = "写一首关于春天的诗"


def fails(kind, call, code=None, status=None):
    try:
        call()
    except openai.error.OpenAIError as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}: {error}"
        assert code is None or error.code == code, error.code
        assert status is None or error.http_status == status, error.http_status
        assert error.headers["x-request-id"]
        return error
    raise AssertionError(f"no {kind}")


def local():
    response = openai.Completion.create(engine="text-davinci-003", prompt=PROMPT, max_tokens=100)
    assert response.choices[0].text.strip()
    assert response.object == "text_completion" and response.id and response.created and response.model
    assert response.choices[0].finish_reason in ("stop", "length")
    assert response.usage.total_tokens == response.usage.prompt_tokens + response.usage.completion_tokens

    greedy = dict(prompt=PROMPT, max_tokens=30, temperature=0)
    whole = openai.Completion.create(engine="text-davinci-003", **greedy).choices[0].text
    for name in (dict(engine="text-davinci-003"), dict(model="poet"), dict(deployment_id="poet")):
        pieces = [c.choices[0].text for c in openai.Completion.create(stream=True, **name, **greedy)]
        assert "".join(pieces) == whole and len(pieces) > 3, pieces

    messages = [{"role": "user", "content": PROMPT}]
    chat = openai.ChatCompletion.create(model="poet", messages=messages, max_tokens=20, temperature=0)
    assert chat.choices[0].message.role == "assistant" and chat.choices[0].message.content
    chunks = openai.ChatCompletion.create(engine="poet", messages=messages, max_tokens=20, temperature=0, stream=True)
    pieces = [c.choices[0].delta.get("content", "") for c in chunks]
    assert "".join(pieces) == chat.choices[0].message.content

    async def both():
        made = await openai.Completion.acreate(engine="poet", **greedy)
        assert made.choices[0].text == whole
        pieces = [c.choices[0].text async for c in await openai.Completion.acreate(engine="poet", stream=True, **greedy)]
        assert "".join(pieces) == whole

    asyncio.run(both())

    names = [engine.id for engine in openai.Engine.list().data]
    assert {"poet", "text-davinci-003"} <= set(names), names
    assert openai.Engine.retrieve("poet").ready is True
    assert "poet" in [model.id for model in openai.Model.list().data]
    assert openai.Model.retrieve("poet").owned_by == "local"

    fails(
        openai.error.InvalidRequestError,
        lambda: openai.Completion.create(engine="poet", prompt=PROMPT * 5000),
        "context_length_exceeded",
        400,
    )
    fails(
        openai.error.InvalidRequestError,
        lambda: openai.Completion.create(engine="nobody", prompt=PROMPT),
        "model_not_found",
        404,
    )
    key, openai.api_key = openai.api_key, "wk-not-a-key"
    fails(openai.error.AuthenticationError, lambda: openai.Completion.create(engine="poet", prompt=PROMPT), None, 401)
    openai.api_key = key


def remote():
    made = openai.Completion.create(engine="org/some:model", prompt="a")
    assert made.choices[0].text == "org/some:model", made
    assert made.response_ms == 12 and made.organization == "org-1"
    embedding = openai.Embedding.create(engine="embed-floats", input="a")
    assert embedding.data[0].embedding == [0.5, -1.0, 2.0]
    messages = [{"role": "user", "content": "hi"}]
    chunks = list(openai.ChatCompletion.create(model="gpt-4o", messages=messages, stream=True))
    assert all(chunk.choices for chunk in chunks), "the usage chunk was not taken out"
    assert "".join(c.choices[0].delta.get("content", "") for c in chunks) == "héllo 😀"

    def ask(model, **more):
        return lambda: openai.ChatCompletion.create(model=model, messages=messages, **more)

    fails(openai.error.InvalidRequestError, ask("status-400"), "their_code", 400)
    fails(openai.error.RateLimitError, ask("status-429"), None, 429)
    fails(openai.error.APIError, ask("status-401"), None, 502)
    for status in ("status-500", "status-504"):
        error = fails_any(ask(status))
        assert error.http_status >= 500
    fails_any(lambda: list(ask("broken-stream", stream=True)()))


def fails_any(call):
    try:
        call()
    except openai.error.OpenAIError as error:
        return error
    raise AssertionError("no error")


{"local": local, "remote": remote}[sys.argv[1]]()
print("ok")
