"""The current openai library against the gateway: `current.py local` (the bundled model), `current.py remote` (the
scripted upstream) or `current.py realtime` (a WebSocket upstream that speaks first and echoes)."""

import asyncio
import io
import os
import sys

import openai

PROMPT = "写一首关于春天的诗"
MESSAGES = [{"role": "user", "content": PROMPT}]
client = openai.OpenAI(max_retries=0, timeout=30)
later = openai.AsyncOpenAI(max_retries=0, timeout=30)


def fails(kind, call, status=None, code=None, param=None):
    try:
        call()
    except openai.APIStatusError as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}: {error}"
        assert status is None or error.status_code == status, error.status_code
        assert code is None or error.code == code, error.code
        assert param is None or error.param == param, error.param
        assert error.request_id and error.message and error.type, error.body
        return error
    raise AssertionError(f"no {kind}")


def local():
    made = client.completions.create(model="text-davinci-003", prompt=PROMPT, max_tokens=100)
    assert made.choices[0].text.strip() and made._request_id
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens

    greedy = dict(model="poet", max_tokens=30, temperature=0)
    whole = client.completions.create(prompt=PROMPT, **greedy).choices[0].text
    pieces = [c.choices[0].text for c in client.completions.create(prompt=PROMPT, stream=True, **greedy)]
    assert "".join(pieces) == whole and len(pieces) > 3, pieces

    chat = client.chat.completions.create(messages=MESSAGES, **greedy)
    assert chat.choices[0].message.role == "assistant" and chat.choices[0].finish_reason in ("stop", "length")
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(messages=MESSAGES, stream=True, stream_options=options, **greedy))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == chat.choices[0].message.content
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == chat.usage.total_tokens

    with client.chat.completions.stream(messages=MESSAGES, **greedy) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
    assert "".join(deltas) == chat.choices[0].message.content

    async def both():
        made = await later.chat.completions.create(messages=MESSAGES, **greedy)
        assert made.choices[0].message.content == text
        pieces = [c async for c in await later.chat.completions.create(messages=MESSAGES, stream=True, **greedy)]
        assert "".join(c.choices[0].delta.content or "" for c in pieces) == text

    asyncio.run(both())

    assert {"poet", "text-davinci-003"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("poet").owned_by == "local"
    fails(
        openai.BadRequestError,
        lambda: client.completions.create(model="poet", prompt=PROMPT * 5000),
        400,
        "context_length_exceeded",
    )


def remote():
    chat = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=MESSAGES)
    assert chat.headers["x-weir-upstream"] == "upstream" and chat.headers["openai-processing-ms"] == "12"
    made = chat.parse()
    assert made.choices[0].message.content == "héllo 😀" and made.model_extra["x_unknown"] == 100.0
    assert made._request_id == chat.headers["x-request-id"]

    chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True))
    assert all(chunk.choices for chunk in chunks), "the usage chunk was not taken out"
    assert all(chunk.usage is None for chunk in chunks)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "héllo 😀"
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True, stream_options=options))
    assert chunks[-1].usage.total_tokens == 10

    assert client.embeddings.create(model="embed", input="a").data[0].embedding == [0.5, -1.0, 2.0]
    assert client.embeddings.create(model="embed-floats", input="a").data[0].embedding == [0.5, -1.0, 2.0]
    wished = client.embeddings.create(model="embed", input="a", encoding_format="base64")
    assert isinstance(wished.data[0].embedding, str)

    response = client.responses.create(model="gpt-4o", input="hi")
    assert response.output_text == "hello"
    kinds = [event.type for event in client.responses.create(model="gpt-4o", input="hi", stream=True)]
    assert kinds == ["response.created", "response.output_text.delta", "response.completed"], kinds

    assert "org/model-with-slash" in {model.id for model in client.models.list()}
    assert client.models.retrieve("org/model-with-slash").owned_by == "upstream"

    content = bytes(range(256)) * 4000
    made = client.files.create(file=("a é.bin", io.BytesIO(content)), purpose="batch")
    assert made.id == "file-1" and made.bytes > len(content), made
    assert client.files.content("file-1").read() == bytes(range(256)) * 1000
    with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="hi") as speech:
        assert b"".join(speech.iter_bytes()) == bytes(range(256)) * 1000
    assert client.files.delete("file-1").deleted

    def ask(model, **more):
        return lambda: client.chat.completions.create(model=model, messages=MESSAGES, **more)

    for status, kind in (
        (400, openai.BadRequestError),
        (404, openai.NotFoundError),
        (409, openai.ConflictError),
        (422, openai.UnprocessableEntityError),
        (429, openai.RateLimitError),
    ):
        fails(kind, ask(f"status-{status}"), status, "their_code", "their_param")
        fails(kind, ask(f"status-{status}", stream=True), status, "their_code", "their_param")
    fails(openai.InternalServerError, ask("status-401"), 502, "upstream_auth_failed")
    fails(openai.InternalServerError, ask("status-403"), 502, "upstream_auth_failed")
    fails(openai.InternalServerError, ask("status-500"))
    fails(openai.InternalServerError, ask("status-503"))
    fails(openai.InternalServerError, ask("cut"), 502)
    retried = client.with_options(max_retries=2).chat.completions.create(model="twice-429", messages=MESSAGES)
    assert retried.choices[0].message.content == "héllo 😀"

    stream = client.chat.completions.create(model="broken-stream", messages=MESSAGES, stream=True)
    seen = []
    try:
        for chunk in stream:
            seen.append(chunk)
        raise AssertionError("a broken stream ended well")
    except openai.APIError as error:
        assert seen and error.message, error

    # The gateway's own refusals.
    stranger = client.with_options(api_key="wk-not-a-key")
    fails(openai.AuthenticationError, lambda: stranger.models.list(), 401, "invalid_api_key")
    limited = client.with_options(api_key=os.environ["LIMITED_KEY"])
    fails(
        openai.PermissionDeniedError,
        lambda: limited.chat.completions.create(model="gpt-4o", messages=MESSAGES),
        403,
        "model_not_allowed",
    )
    fails(
        openai.BadRequestError,
        lambda: client.chat.completions.create(model=5, messages=MESSAGES),
        400,
        "invalid_type",
        "model",
    )

    async def both():
        made = await later.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert made.choices[0].message.content == "héllo 😀"
        several = await asyncio.gather(*(later.embeddings.create(model="embed", input="a") for _ in range(20)))
        assert all(one.data[0].embedding == [0.5, -1.0, 2.0] for one in several)
        stream = await later.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        text = [c.choices[0].delta.content or "" async for c in stream]
        assert "".join(text) == "héllo 😀"

    asyncio.run(both())


def realtime():
    async def talk():
        async with later.realtime.connect(model="gpt-realtime") as connection:
            first = await connection.recv()
            assert first.type == "session.created", first
            await connection.session.update(session={"type": "realtime", "instructions": "héllo 😀"})
            echo = await connection.recv()
            assert echo.type == "session.update" or "héllo 😀" in str(echo), echo

    asyncio.run(talk())


def stopped():
    """Streams that a limit ends in their middle end as those do that have come to their length."""
    events = list(client.responses.create(model="gpt-4o", input="hi", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last = events[-1]
    assert last.type == "response.incomplete", last
    response = last.response
    assert response.status == "incomplete" and response.incomplete_details.reason == "max_output_tokens", response
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert said and response.output_text == said, response
    assert response.usage.output_tokens == said.count("word"), response.usage

    limited = client.with_options(api_key=os.environ["LIMITED_KEY"])
    reasons = {}
    for chunk in limited.chat.completions.create(model="gpt-4o", messages=MESSAGES, n=3, stream=True):
        reasons |= {choice.index: choice.finish_reason for choice in chunk.choices if choice.finish_reason}
    assert reasons == {0: "length", 1: "stop", 2: "length"}, reasons


{"local": local, "remote": remote, "realtime": realtime, "stopped": stopped}[sys.argv[1]]()
print("ok")
