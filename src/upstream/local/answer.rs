//! Makes answers of the engine's events: whole, or as they come.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use serde::Serialize;

use super::request::{Kind, Plan};
use super::shape::{
    Answer, ChatChoice, ChatChunkChoice, ChatLogprobs, ChatMessage, CompletionChoice,
    CompletionLogprobs, Delta, Head, Usage, finish_reason, place,
};
use crate::call::{Record, StreamError, Try};
use crate::openai::usage::Usage as Counted;
use crate::upstream::UpstreamError;
use crate::upstream::transformer::{Event, Events, Finish, TokenLogprob};

/// The events of all choices of an answer.
pub(super) struct Choices {
    all: Vec<Choice>,
    /// Whose turn it is to be asked first.
    turn: usize,
}

struct Choice {
    events: Events,
    ended: bool,
}

/// What an answer is made with.
pub(super) struct Maker {
    kind: Kind,
    head: Head,
    echoes: Vec<String>,
    /// For each choice, the length of its echo in characters.
    shifts: Vec<usize>,
    hides_first: Vec<bool>,
    prompt_tokens: usize,
    logprobs: bool,
    report_usage: bool,
}

/// One choice, gathered.
#[derive(Default)]
struct Gathered {
    text: String,
    tokens: Vec<TokenLogprob>,
    prompt: Vec<TokenLogprob>,
    finish: Option<Finish>,
}

/// A streamed answer.
pub(super) struct Stream {
    maker: Maker,
    choices: Choices,
    /// Which choices have said something.
    begun: Vec<bool>,
    /// How many tokens each choice has.
    generated: Vec<usize>,
    tally: Tally,
    ready: VecDeque<Bytes>,
    done: bool,
}

/// Where it is noted what a try has used so far: nobody may wait for its end.
pub(super) struct Tally {
    record: Arc<Record>,
    /// The try's place among those of the record.
    number: usize,
}

impl Tally {
    pub(super) fn new(record: Arc<Record>, number: usize) -> Self {
        Self { record, number }
    }

    fn note(&self, prompt_tokens: usize, generated: usize) {
        let counted = Counted {
            input: prompt_tokens as u64,
            output: generated as u64,
            ..Counted::default()
        };
        let note = |noted: &mut Try| noted.counted = Some(counted);
        self.record.note_try(self.number, note);
    }
}

// === impl Choices ===

impl Choices {
    pub(super) fn new(all: Vec<Events>) -> Self {
        let all = all.into_iter().map(|events| Choice {
            events,
            ended: false,
        });
        Self {
            all: all.collect(),
            turn: 0,
        }
    }

    /// Waits for the next event of any choice; `None` when all have ended.
    pub(super) async fn next(&mut self) -> Option<Result<(usize, Event), ()>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<(usize, Event), ()>>> {
        let count = self.all.len();
        let mut open = false;
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            if self.all[index].ended {
                continue;
            }
            open = true;
            if let Poll::Ready(event) = self.poll_choice(index, cx) {
                self.turn = (index + 1) % count;
                return Poll::Ready(Some(event.map(|event| (index, event))));
            }
        }
        if open {
            Poll::Pending
        } else {
            Poll::Ready(None)
        }
    }

    fn poll_choice(&mut self, index: usize, cx: &mut Context<'_>) -> Poll<Result<Event, ()>> {
        let choice = &mut self.all[index];
        match std::task::ready!(choice.events.poll_next(cx)) {
            None | Some(Event::Failed) => Poll::Ready(Err(())),
            Some(event) => {
                choice.ended = matches!(event, Event::End { .. });
                Poll::Ready(Ok(event))
            }
        }
    }
}

// === impl Maker ===

impl Maker {
    pub(super) fn new(plan: &mut Plan, stream: bool, report_usage: bool, model: &str) -> Self {
        let (prefix, object) = match (plan.kind, stream) {
            (Kind::Completion, _) => ("cmpl-", "text_completion"),
            (Kind::Chat, false) => ("chatcmpl-", "chat.completion"),
            (Kind::Chat, true) => ("chatcmpl-", "chat.completion.chunk"),
        };
        let random = crate::call::RequestId::fresh();
        let id = format!("{prefix}{}", random.as_str().trim_start_matches("req_"));
        let echoes = std::mem::take(&mut plan.echoes);
        Self {
            kind: plan.kind,
            head: Head::new(id, object, model),
            shifts: echoes.iter().map(|echo| echo.chars().count()).collect(),
            echoes,
            hides_first: std::mem::take(&mut plan.hides_first),
            prompt_tokens: plan.prompt_tokens,
            logprobs: plan.logprobs,
            report_usage: report_usage || plan.include_usage,
        }
    }

    /// Waits until every choice is whole.
    pub(super) async fn whole(
        mut self,
        mut choices: Choices,
        tally: Tally,
    ) -> Result<Bytes, UpstreamError> {
        let mut all: Vec<Gathered> = Vec::new();
        all.resize_with(choices.all.len(), Gathered::default);
        let mut generated = vec![0; all.len()];
        while let Some(event) = choices.next().await {
            let (index, event) = event.map_err(|()| failed())?;
            if let Event::Text { generated: n, .. } | Event::End { generated: n, .. } = event {
                generated[index] = n;
                tally.note(self.prompt_tokens, generated.iter().sum());
            }
            all[index].take(event);
        }
        let generated = generated.iter().sum();
        let usage = Some(Some(Usage::new(self.prompt_tokens, generated)));
        let all = all.into_iter().enumerate();
        let bytes = match self.kind {
            Kind::Completion => {
                let choices: Vec<_> = all.map(|(i, c)| self.completion(i, c, true)).collect();
                self.write(&choices, usage)
            }
            Kind::Chat => {
                let choices: Vec<_> = all
                    .map(|(index, choice)| ChatChoice {
                        index,
                        finish_reason: choice.finish.map(finish_reason),
                        logprobs: self.logprobs.then(|| ChatLogprobs::new(choice.tokens)),
                        message: ChatMessage {
                            role: "assistant",
                            content: choice.text,
                            refusal: None,
                        },
                    })
                    .collect();
                self.write(&choices, usage)
            }
        };
        bytes
            .map(Bytes::from)
            .map_err(|error| UpstreamError::Engine(error.to_string()))
    }

    fn completion(&mut self, index: usize, mut choice: Gathered, first: bool) -> CompletionChoice {
        let mut logprobs = choice.tokens;
        for token in &mut logprobs {
            token.offset += self.shifts[index];
        }
        let mut text = choice.text;
        if first {
            let echo = std::mem::take(&mut self.echoes[index]);
            text.insert_str(0, &echo);
            if self.hides_first[index] && !choice.prompt.is_empty() {
                choice.prompt.remove(0);
            }
            place(&mut choice.prompt);
            choice.prompt.append(&mut logprobs);
            logprobs = choice.prompt;
        }
        CompletionChoice {
            text,
            index,
            logprobs: self.logprobs.then(|| CompletionLogprobs::new(&logprobs, 0)),
            finish_reason: choice.finish.map(finish_reason),
        }
    }

    fn write<C: Serialize>(
        &self,
        choices: &[C],
        usage: Option<Option<Usage>>,
    ) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(&Answer {
            head: &self.head,
            choices,
            usage,
        })
    }

    /// Writes one event of a stream.
    fn event<C: Serialize>(&self, choices: &[C], usage: Option<Usage>) -> Bytes {
        let usage = self.report_usage.then_some(usage);
        // Strings, numbers and lists of them: there is nothing in an answer that JSON cannot hold.
        let json = self.write(choices, usage).unwrap_or_default();
        let mut event = Vec::with_capacity(json.len() + 8);
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&json);
        event.extend_from_slice(b"\n\n");
        event.into()
    }
}

impl Gathered {
    fn take(&mut self, event: Event) {
        match event {
            Event::Prompt(tokens) => self.prompt = tokens,
            Event::Text {
                text, mut tokens, ..
            } => {
                self.text.push_str(&text);
                self.tokens.append(&mut tokens);
            }
            Event::End { reason, .. } => self.finish = Some(reason),
            Event::Failed => {}
        }
    }
}

fn failed() -> UpstreamError {
    UpstreamError::Engine("a step failed, or the engine was stopped".into())
}

// === impl Stream ===

impl Stream {
    /// Waits for the first event, so that a request which fails at once is not a broken stream.
    pub(super) async fn begin(
        maker: Maker,
        mut choices: Choices,
        tally: Tally,
    ) -> Result<Self, UpstreamError> {
        let first = choices.next().await;
        let mut stream = Self {
            begun: vec![false; choices.all.len()],
            generated: vec![0; choices.all.len()],
            maker,
            choices,
            tally,
            ready: VecDeque::new(),
            done: false,
        };
        if let Some(event) = first {
            let (index, event) = event.map_err(|()| failed())?;
            stream.take(
                index,
                event,
                &mut Context::from_waker(std::task::Waker::noop()),
            );
        }
        Ok(stream)
    }

    /// Turns an event, and what else is ready of the same choice, into chunks.
    fn take(&mut self, index: usize, event: Event, cx: &mut Context<'_>) {
        let mut gathered = Gathered::default();
        let mut next = Some(event);
        while let Some(event) = next.take() {
            if let Event::Text { generated, .. } | Event::End { generated, .. } = event {
                self.generated[index] = generated;
            }
            gathered.take(event);
            if !self.choices.all[index].ended
                && let Poll::Ready(Ok(event)) = self.choices.poll_choice(index, cx)
            {
                next = Some(event);
            }
        }
        let generated = self.generated.iter().sum();
        self.tally.note(self.maker.prompt_tokens, generated);
        let first = !std::mem::replace(&mut self.begun[index], true);
        match self.maker.kind {
            Kind::Completion => {
                let choice = self.maker.completion(index, gathered, first);
                self.ready.push_back(self.maker.event(&[choice], None));
            }
            Kind::Chat => self.take_chat(index, gathered, first),
        }
    }

    fn take_chat(&mut self, index: usize, gathered: Gathered, first: bool) {
        let mut push = |delta, logprobs, finish_reason| {
            let choice = ChatChunkChoice {
                index,
                delta,
                logprobs,
                finish_reason,
            };
            self.ready.push_back(self.maker.event(&[choice], None));
        };
        if first {
            let delta = Delta {
                role: Some("assistant"),
                content: Some(String::new()),
                refusal: Some(None),
            };
            push(delta, None, None);
        }
        if !gathered.text.is_empty() || !gathered.tokens.is_empty() {
            let logprobs = self
                .maker
                .logprobs
                .then(|| ChatLogprobs::new(gathered.tokens));
            let delta = Delta {
                content: Some(gathered.text),
                ..Delta::default()
            };
            push(delta, logprobs, None);
        }
        if let Some(finish) = gathered.finish {
            push(Delta::default(), None, Some(finish_reason(finish)));
        }
    }

    /// Writes what comes after the last choice.
    fn finish(&mut self) {
        self.done = true;
        if self.maker.report_usage {
            let usage = Usage::new(self.maker.prompt_tokens, self.generated.iter().sum());
            let event = self.maker.event::<CompletionChoice>(&[], Some(usage));
            self.ready.push_back(event);
        }
        self.ready
            .push_back(Bytes::from_static(b"data: [DONE]\n\n"));
    }
}

impl Body for Stream {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            if this.done {
                return Poll::Ready(None);
            }
            match std::task::ready!(this.choices.poll_next(cx)) {
                Some(Ok((index, event))) => this.take(index, event, cx),
                Some(Err(())) => {
                    this.done = true;
                    return Poll::Ready(Some(Err(StreamError::Engine)));
                }
                None => this.finish(),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done && self.ready.is_empty()
    }
}
