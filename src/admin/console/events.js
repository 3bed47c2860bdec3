// Server-sent events, as the OpenAI API streams them: the data of each, whatever the pieces that they arrive in.

/** Yields the data of each event. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines.map((line) => (line.endsWith("\r") ? line.slice(0, -1) : line))) {
        if (line === "") {
          if (data.length > 0) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    // Whoever stops listening stops the upstream.
    reader.cancel().catch(() => {});
  }
}
