mod framing;
mod golden;
mod meaning;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;

/// An event as a client would see it: its name and its data.
type Seen = (Option<Vec<u8>>, Vec<u8>);

/// Reads a whole stream as the specification words it, byte by byte.
fn reference(stream: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    let (mut name, mut data, mut line) = (None, None::<Vec<u8>>, Vec::new());
    let stream = stream.strip_prefix(b"\xef\xbb\xbf").unwrap_or(stream);
    let mut previous = 0;
    for &byte in stream {
        let is_end = byte == b'\r' || (byte == b'\n' && previous != b'\r');
        if is_end && line.is_empty() {
            let name = name.take();
            seen.extend(data.take().map(|data| (name, data)));
        } else if is_end {
            let mut parts = line.splitn(2, |&b| b == b':');
            let field = parts.next().unwrap().to_vec();
            let value = parts.next().unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value).to_vec();
            match (&field[..], &mut data) {
                (b"event", _) => name = Some(value),
                (b"data", None) => data = Some(value),
                (b"data", Some(data)) => {
                    data.push(b'\n');
                    data.extend(value);
                }
                _ => {}
            }
            line.clear();
        } else if byte != b'\n' {
            line.push(byte);
        }
        previous = byte;
    }
    seen
}

fn seen(block: &[u8]) -> Vec<Seen> {
    Events::new(block)
        .filter_map(|event| Some((event.name().map(<[u8]>::to_vec), event.data()?.into_owned())))
        .collect()
}

/// Cuts a stream at these places, whatever they are.
fn chunks(stream: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).collect();
    cuts.extend([0, stream.len()]);
    cuts.sort_unstable();
    let pairs = cuts.windows(2);
    pairs
        .map(|pair| Bytes::copy_from_slice(&stream[pair[0]..pair[1]]))
        .collect()
}

fn framed(stream: &[u8], cuts: &[usize]) -> (Vec<Bytes>, Tail) {
    let mut framer = Framer::default();
    let chunks = chunks(stream, cuts);
    let blocks = chunks.into_iter().map(|c| framer.push(c).unwrap());
    (blocks.collect(), framer.finish())
}

fn every_byte(stream: &[u8]) -> Vec<usize> {
    (0..stream.len()).collect()
}

fn any_cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(any::<usize>(), 0..8)
}
