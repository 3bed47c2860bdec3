//! However a stream is cut, the same bytes leave, the same is learned of them, and the same is taken out.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weir::openai::endpoint::Endpoint;
use weir::openai::sse::{Framer, Observed, StreamObserver, Tail, UsageRemover};

const LIMIT: usize = 1 << 20;

fn run<'a>(
    chunks: impl Iterator<Item = &'a [u8]>,
    endpoint: &Endpoint,
) -> (Vec<u8>, Vec<u8>, Observed, Tail) {
    let (mut passed, mut cleaned) = (Vec::new(), Vec::new());
    let mut framer = Framer::new(LIMIT);
    let (mut observer, mut remover) = (StreamObserver::new(), UsageRemover::new());
    for chunk in chunks {
        let block = framer.push(Bytes::copy_from_slice(chunk)).unwrap();
        observer.observe(&block, endpoint);
        passed.extend_from_slice(&block);
        cleaned.extend_from_slice(&remover.remove(&block));
    }
    let tail = framer.finish();
    (passed, cleaned, observer.observed().clone(), tail)
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    if stream.len() > LIMIT {
        return;
    }
    let endpoint = match size % 3 {
        0 => Endpoint::Responses,
        1 => Endpoint::ChatCompletions,
        _ => Endpoint::PassThrough,
    };
    let whole = run(std::iter::once(stream), &endpoint);
    let cut = run(stream.chunks(usize::from(size).max(1)), &endpoint);
    assert_eq!(whole, cut);
    assert!(
        stream
            .strip_prefix(b"\xef\xbb\xbf")
            .unwrap_or(stream)
            .starts_with(&whole.0)
    );
    assert!(whole.1.len() <= whole.0.len());

    let _ = Framer::new(8).push(Bytes::copy_from_slice(stream));
});
