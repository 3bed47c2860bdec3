//! Shows by SSE comments that a stream which has no content yet is alive, for load balancers that cut idle connections.
//!
//! After the first interval without an answer the client gets the head of its stream, and `: ping` in each further one,
//! until the first content. Comments are nothing to a client (WHATWG HTML, section 9.2.6), so tries at upstreams go on
//! behind them; what then fails in the end is told as the stream's error event, since a status has gone already. The log
//! and the metrics, which see that status too, get a cause. A head that goes so early does not say who answers, nor in whose
//! place: nobody has yet.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep};
use tower::{Layer, Service};

use super::explain::Explain;
use crate::call::{BoxBody, Call, Cause, Record, Reply, ReplyBody, StreamError};
use crate::openai::endpoint::Endpoint;
use crate::openai::sse::StreamObserver;

/// A line of the next event rather than an event: behind an `id:`, openai-python takes a blank line for an event without
/// data, and fails.
const PING: Bytes = Bytes::from_static(b": ping\n");

/// Builds [`Heartbeat`].
#[derive(Clone, Copy, Debug)]
pub struct HeartbeatLayer {
    interval: Duration,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Heartbeat<S> {
    inner: S,
    interval: Duration,
}

impl HeartbeatLayer {
    /// Pings once in every `interval` of silence.
    pub fn new(interval: Duration) -> Self {
        Self { interval }
    }
}

impl<S> Layer<S> for HeartbeatLayer {
    type Service = Heartbeat<S>;

    fn layer(&self, inner: S) -> Heartbeat<S> {
        Heartbeat {
            inner,
            interval: self.interval,
        }
    }
}

impl<S> Service<Call> for Heartbeat<S>
where
    S: Service<Call, Response = Reply>,
    S::Error: Explain + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let is_stream = call.stream;
        let (endpoint, record) = (call.endpoint.clone(), Arc::clone(&call.record));
        let answering = Box::pin(self.inner.call(call));
        if !is_stream {
            return answering;
        }
        let interval = self.interval;
        Box::pin(async move {
            let answering = match select(answering, Box::pin(sleep(interval))).await {
                Either::Left((result, _)) => {
                    return result.map(|reply| beat(reply, endpoint, interval));
                }
                Either::Right(((), answering)) => answering,
            };
            let mut headers = HeaderMap::new();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/event-stream"),
            );
            record.facts().head_first = true;
            let late = Late {
                answering: Some(answering),
                record,
                body: None,
            };
            let mut body = Beating::new(Box::pin(late), endpoint, interval);
            body.waiting.push_back(PING);
            Ok(Reply::events(StatusCode::OK, headers, Box::pin(body)))
        })
    }
}

/// Lets a stream that has begun show that it is alive until its first content.
fn beat(mut reply: Reply, endpoint: Endpoint, interval: Duration) -> Reply {
    reply.body = reply
        .body
        .map_events(|inner| Box::pin(Beating::new(inner, endpoint, interval)));
    reply
}

/// A stream with comments in its silence.
struct Beating {
    inner: BoxBody,
    waiting: VecDeque<Bytes>,
    /// Until the first content.
    silence: Option<Silence>,
}

struct Silence {
    observer: StreamObserver,
    endpoint: Endpoint,
    interval: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Beating {
    fn new(inner: BoxBody, endpoint: Endpoint, interval: Duration) -> Self {
        Self {
            inner,
            waiting: VecDeque::new(),
            silence: Some(Silence {
                observer: StreamObserver::new(),
                endpoint,
                interval,
                timer: Box::pin(sleep(interval)),
            }),
        }
    }
}

impl Body for Beating {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        if let Some(events) = this.waiting.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(events))));
        }
        let frame = this.inner.as_mut().poll_frame(cx);
        let Some(silence) = &mut this.silence else {
            return frame;
        };
        match &frame {
            Poll::Ready(Some(Ok(events))) => {
                let events = events.data_ref().map_or(&[][..], |data| data);
                silence.observer.observe(events, &silence.endpoint);
                if silence.observer.observed().deltas > 0 {
                    this.silence = None;
                } else {
                    silence.rest();
                }
                frame
            }
            Poll::Ready(_) => frame,
            Poll::Pending if silence.timer.as_mut().poll(cx).is_ready() => {
                silence.rest();
                Poll::Ready(Some(Ok(Frame::data(PING))))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Silence {
    fn rest(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.interval);
    }
}

type Answering<E> = Pin<Box<dyn Future<Output = Result<Reply, E>> + Send>>;

/// The answer to a call whose client has its head already.
struct Late<E> {
    answering: Option<Answering<E>>,
    record: Arc<Record>,
    body: Option<ReplyBody>,
}

impl<E: Explain> Late<E> {
    /// Turns the answer into events: a stream stays one, anything else is told as one event.
    fn begin(&mut self, result: Result<Reply, E>) -> Option<Bytes> {
        match result {
            Ok(mut reply) => match reply.body.take_full() {
                Some(whole) => {
                    self.note(reply.status);
                    Some(event(&whole))
                }
                None => {
                    self.body = Some(reply.body);
                    None
                }
            },
            Err(error) => {
                let explanation = error.explain();
                explanation.note(Some(&self.record));
                Some(explanation.event(Some(self.record.id.as_str())))
            }
        }
    }
}

impl<E> Late<E> {
    /// Notes what the client's status does not say.
    fn note(&self, status: StatusCode) {
        if let Some(cause) = Cause::of_answer(status.as_u16()) {
            let mut facts = self.record.facts();
            facts.cause = Some(cause);
            facts.detail = Some(format!("status {} behind a ping", status.as_u16()));
        }
    }
}

impl<E: Explain> Body for Late<E> {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let this = &mut *self;
        if let Some(answering) = &mut this.answering {
            let result = std::task::ready!(answering.as_mut().poll(cx));
            this.answering = None;
            if let Some(event) = this.begin(result) {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
        }
        match &mut this.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
}

/// Tells a whole JSON body as one event, whatever its lines.
fn event(json: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(json.len() + 16);
    for line in json.split(|byte| matches!(byte, b'\n' | b'\r')) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.push(b'\n');
    event.into()
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    use super::*;
    use crate::call::{Outcome, RequestId};
    use crate::middleware::explain::Explanation;

    const INTERVAL: Duration = Duration::from_secs(15);
    const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";

    fn beating() -> (mpsc::UnboundedSender<&'static str>, Beating) {
        let (sender, mut receiver) = mpsc::unbounded_channel::<&'static str>();
        let frames = futures_util::stream::poll_fn(move |cx| {
            let frame = |text: &'static str| Ok(Frame::data(Bytes::from_static(text.as_bytes())));
            receiver.poll_recv(cx).map(|text| text.map(frame))
        });
        let body: BoxBody = Box::pin(StreamBody::new(frames));
        (
            sender,
            Beating::new(body, Endpoint::ChatCompletions, INTERVAL),
        )
    }

    async fn next(body: &mut Beating) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_beats_in_silence_and_not_behind_the_first_word() {
        let (sender, mut body) = beating();
        let began = Instant::now();
        assert_eq!(next(&mut body).await, PING);
        assert_eq!(next(&mut body).await, PING);
        assert_eq!(began.elapsed(), 2 * INTERVAL);
        sender.send(WORD).unwrap();
        assert_eq!(next(&mut body).await, WORD);
        let silence = tokio::time::timeout(10 * INTERVAL, body.frame()).await;
        assert!(silence.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_behind_an_id_is_no_event() {
        let (sender, mut body) = beating();
        sender
            .send("id: 1\ndata: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}\n\n")
            .unwrap();
        let mut sent = next(&mut body).await.to_vec();
        sent.extend(next(&mut body).await);
        sender.send(WORD).unwrap();
        sent.extend(next(&mut body).await);
        let sent = String::from_utf8(sent).unwrap();
        assert!(sent.contains(": ping"));
        let events = sent.split_terminator("\n\n");
        let empty = events.filter(|event| !event.contains("data:"));
        assert_eq!(empty.count(), 0, "{sent}");
    }

    /// The error of a service that has none.
    enum Never {}

    impl Explain for Never {
        fn explain(&self) -> Explanation {
            match *self {}
        }
    }

    #[tokio::test]
    async fn a_whole_answer_behind_a_ping_ends_and_leaves_its_cause() {
        for (status, expected) in [
            (200, None),
            (400, Some(Cause::ClientRejected)),
            (429, Some(Cause::UpstreamLimited)),
        ] {
            let record = Arc::new(Record::new(RequestId::fresh(), std::time::Instant::now()));
            let inner = Arc::clone(&record);
            let status = StatusCode::from_u16(status).unwrap();
            let reply = Reply::full(status, HeaderMap::new(), Bytes::from_static(b"{}"))
                .on_end(move |outcome| inner.facts().outcome = Some(outcome));
            let late = Late::<Never> {
                answering: Some(Box::pin(async { Ok(reply) })),
                record: Arc::clone(&record),
                body: None,
            };
            let told = late.collect().await.unwrap().to_bytes();
            assert_eq!(told, "data: {}\n\n");
            let facts = record.facts();
            assert_eq!(facts.outcome, Some(Outcome::Complete));
            assert_eq!(facts.cause, expected);
        }
    }

    #[test]
    fn an_error_of_many_lines_is_one_event() {
        let json = b"{\n  \"error\": {}\r\n}";
        let told = event(json);
        assert_eq!(told, "data: {\ndata:   \"error\": {}\ndata: \ndata: }\n\n");
    }
}
