//! An answer as it lies in Redis.
//!
//! ```text
//! "weir" | version, 1 byte | digest, 16 bytes | length of the plain text, 4 bytes | zstd of the plain text
//! plain text: length of the head, 4 bytes | head (postcard) | body
//! ```
//! Numbers are little-endian. The digest is BLAKE3 over the key of the answer and all that follows: what was damaged, or
//! lies where another answer belongs, is none.

use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::{Entry, Key, Shape, Stored, Tags};
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;

/// Names the form, here and in the keys of Redis: gateways of versions that write another one do not meet.
pub(super) const VERSION: u8 = 1;

const MAGIC: &[u8] = b"weir";
const DIGEST: usize = 16;
/// Where the digest ends, and what it is taken of begins.
const DIGESTED: usize = MAGIC.len() + 1 + DIGEST;
const LENGTH: usize = 4;
/// More than the head of an answer has.
const MOST_HEAD: usize = 64 << 10;
/// zstd's own choice: off the path of requests nobody waits for it, and it takes hundreds of megabytes a second.
const LEVEL: i32 = 3;
/// The endpoints whose answers are kept.
const ENDPOINTS: [Endpoint; 4] = [
    Endpoint::ChatCompletions,
    Endpoint::Completions,
    Endpoint::Embeddings,
    Endpoint::Responses,
];

/// Which purges were known when an answer was asked for: those that came later take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Since when they are counted: a Redis that was emptied begins another epoch.
    pub(super) epoch: u64,
    /// How many there were.
    pub(super) purges: u64,
}

/// Why what lies in Redis is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is none of this version's")]
    Strange,
    #[error("it is damaged, or another one's")]
    Damaged,
    /// It may be one, of a gateway that keeps larger ones.
    #[error("it is larger than answers are here")]
    TooLarge,
}

#[derive(Serialize, Deserialize)]
struct Head<'a> {
    stamp: Stamp,
    /// When it was whole, in milliseconds since 1970 by the clock of the gateway that wrote it.
    stored: u64,
    /// In milliseconds.
    ttl: u64,
    /// In milliseconds.
    stale: u64,
    endpoint: &'a str,
    key: &'a str,
    team: Option<&'a str>,
    model: &'a str,
    served_model: Option<&'a str>,
    usage: Option<Usage>,
    #[serde(borrow)]
    headers: Vec<(&'a str, &'a [u8])>,
    shape: Shape,
    /// The lengths of the blocks of a stream.
    blocks: Option<Vec<u32>>,
    /// After how many milliseconds each came.
    pace: Vec<u32>,
}

/// Writes an answer.
///
/// # Errors
/// Where it is larger than any answer, or there is no memory for it.
pub(super) fn encode(key: &Key, entry: &Entry, stamp: Stamp) -> io::Result<Vec<u8>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let stored = now.unwrap_or_default().saturating_sub(entry.age());
    encode_of(key, entry, stamp, stored)
}

/// As [`encode`], of an answer that was `stored` so long after 1970.
fn encode_of(key: &Key, entry: &Entry, stamp: Stamp, stored: Duration) -> io::Result<Vec<u8>> {
    let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
    let (body, blocks) = match &entry.body {
        Stored::Whole(bytes) => (bytes, None),
        Stored::Events(bytes, ends) => {
            let mut start = 0;
            let lengths = ends.iter().map(|end| {
                let length = u32::try_from(end - start);
                start = *end;
                length
            });
            let lengths: Result<Vec<_>, _> = lengths.collect();
            (bytes, Some(lengths.map_err(too_large)?))
        }
    };
    let head = Head {
        stamp,
        stored: millis(stored),
        ttl: millis(entry.ttl),
        stale: millis(entry.stale),
        endpoint: entry.tags.endpoint,
        key: &entry.tags.key,
        team: entry.tags.team.as_deref(),
        model: &entry.tags.model,
        served_model: entry.served_model.as_deref(),
        usage: entry.usage,
        headers: entry
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect(),
        shape: entry.shape.clone(),
        blocks,
        pace: entry.pace.to_vec(),
    };
    let head = postcard::to_allocvec(&head).map_err(io::Error::other)?;
    let mut plain = Vec::with_capacity(LENGTH + head.len() + body.len());
    plain.extend_from_slice(&u32::try_from(head.len()).map_err(too_large)?.to_le_bytes());
    plain.extend_from_slice(&head);
    plain.extend_from_slice(body);
    let length = u32::try_from(plain.len()).map_err(too_large)?;
    let packed = zstd::bulk::compress(&plain, LEVEL)?;
    let mut record = Vec::with_capacity(DIGESTED + LENGTH + packed.len());
    record.extend_from_slice(MAGIC);
    record.push(VERSION);
    record.extend_from_slice(&[0; DIGEST]);
    record.extend_from_slice(&length.to_le_bytes());
    record.extend_from_slice(&packed);
    let digest = digest(key, &record[DIGESTED..]);
    record[MAGIC.len() + 1..DIGESTED].copy_from_slice(&digest);
    Ok(record)
}

/// Reads an answer of at most so many bytes, and what was known of purges when it was asked for.
pub(super) fn decode(key: &Key, record: &[u8], most: usize) -> Result<(Entry, Stamp), Unreadable> {
    let rest = record.strip_prefix(MAGIC).ok_or(Unreadable::Strange)?;
    let rest = rest.strip_prefix(&[VERSION]).ok_or(Unreadable::Strange)?;
    let (claimed, digested) = rest.split_at_checked(DIGEST).ok_or(Unreadable::Damaged)?;
    if claimed != digest(key, digested) {
        return Err(Unreadable::Damaged);
    }
    let (length, packed) = number(digested)?;
    if length > most.saturating_add(MOST_HEAD) {
        return Err(Unreadable::TooLarge);
    }
    let plain = zstd::bulk::decompress(packed, length).map_err(|_| Unreadable::Damaged)?;
    let (head_length, rest) = number(&plain)?;
    let (head, body) = rest
        .split_at_checked(head_length)
        .ok_or(Unreadable::Damaged)?;
    if plain.len() != length || body.len() > most {
        return Err(Unreadable::Damaged);
    }
    let head: Head<'_> = postcard::from_bytes(head).map_err(|_| Unreadable::Damaged)?;
    let mut entry = entry(&head).ok_or(Unreadable::Damaged)?;
    let stamp = head.stamp;
    let ends = head.blocks.map(|blocks| ends(&blocks, body.len()));
    let at = plain.len() - body.len();
    // It is a part of what was unpacked, without a copy.
    let body = Bytes::from(plain).slice(at..);
    entry.body = match ends {
        None => Stored::Whole(body),
        Some(ends) => Stored::Events(body, ends.ok_or(Unreadable::Damaged)?.into()),
    };
    Ok((entry, stamp))
}

/// Returns all of an entry but its body.
fn entry(head: &Head<'_>) -> Option<Entry> {
    let mut headers = HeaderMap::with_capacity(head.headers.len());
    for (name, value) in &head.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(value).ok()?);
    }
    let mut labels = ENDPOINTS.iter().map(Endpoint::label);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    // One of the future, by a clock that goes before this one, is new.
    let age = now.saturating_sub(Duration::from_millis(head.stored));
    Some(Entry {
        headers,
        body: Stored::Whole(Bytes::new()),
        usage: head.usage,
        served_model: head.served_model.map(Into::into),
        tags: Tags {
            key: head.key.into(),
            team: head.team.map(Into::into),
            model: head.model.into(),
            endpoint: labels.find(|label| *label == head.endpoint)?,
        },
        shape: head.shape.clone(),
        stored: Instant::now().checked_sub(age)?,
        ttl: Duration::from_millis(head.ttl),
        stale: Duration::from_millis(head.stale),
        pace: head.pace.as_slice().into(),
    })
}

/// Returns where blocks end that are so long, if that is all of a body.
fn ends(blocks: &[u32], body: usize) -> Option<Vec<usize>> {
    let mut end = 0usize;
    let mut ends = Vec::with_capacity(blocks.len());
    for length in blocks {
        end = end.checked_add(usize::try_from(*length).ok()?)?;
        ends.push(end);
    }
    (end == body).then_some(ends)
}

fn number(bytes: &[u8]) -> Result<(usize, &[u8]), Unreadable> {
    let (number, rest) = bytes
        .split_first_chunk::<LENGTH>()
        .ok_or(Unreadable::Damaged)?;
    let number = usize::try_from(u32::from_le_bytes(*number));
    Ok((number.map_err(|_| Unreadable::TooLarge)?, rest))
}

fn digest(key: &Key, digested: &[u8]) -> [u8; DIGEST] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.0);
    hasher.update(digested);
    let mut digest = [0; DIGEST];
    hasher.finalize_xof().fill(&mut digest);
    digest
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([7; 32]);
    const STAMP: Stamp = Stamp {
        epoch: 5,
        purges: 3,
    };
    const MOST: usize = 1 << 20;

    fn entry_of(body: Stored) -> Entry {
        let mut headers = HeaderMap::new();
        headers.insert("openai-model", HeaderValue::from_bytes(b"m\xff").unwrap());
        let mut shape = Shape::default();
        shape.note("seed", b"7");
        Entry {
            headers,
            body,
            usage: Some(Usage {
                input: 3,
                output: 1 << 31,
                ..Usage::default()
            }),
            served_model: Some("served".into()),
            tags: Tags {
                key: "alice".into(),
                team: None,
                model: "m".into(),
                endpoint: "/v1/chat/completions",
            },
            shape,
            stored: Instant::now().checked_sub(Duration::from_secs(90)).unwrap(),
            ttl: Duration::from_secs(100),
            stale: Duration::from_secs(7),
            pace: [0, 250].as_slice().into(),
        }
    }

    fn bodies() -> [Stored; 3] {
        let blocks = ["data: 1\n\n", "data: 22\n\n"].map(Bytes::from);
        [
            Stored::text(&Bytes::from_static(b"{\"a\":1}")),
            Stored::text(&Bytes::new()),
            Stored::events(&blocks),
        ]
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        for body in bodies() {
            let entry = entry_of(body);
            let record = encode(&KEY, &entry, STAMP).unwrap();
            let (read, stamp) = decode(&KEY, &record, MOST).unwrap();
            assert_eq!(stamp, STAMP);
            assert_eq!(read.body, entry.body);
            assert_eq!(read.headers, entry.headers);
            assert_eq!(
                (read.usage, &read.served_model),
                (entry.usage, &entry.served_model)
            );
            assert_eq!((&read.tags, &read.shape), (&entry.tags, &entry.shape));
            assert_eq!((read.ttl, read.stale), (entry.ttl, entry.stale));
            assert_eq!(read.pace, entry.pace);
            // Its age travels with it.
            assert_eq!(read.age().as_secs(), 90);
        }
    }

    /// The digest of a record: other bytes need another [`VERSION`], or gateways of two versions read each other's wrongly.
    #[test]
    fn the_form_of_this_version_is_what_it_was() {
        let [_, _, body] = bodies();
        let mut entry = entry_of(body);
        // It differs between architectures, and nothing but explanations goes by it.
        entry.shape = Shape::default();
        let stored = Duration::from_millis(1_800_000_000_123);
        let record = encode_of(&KEY, &entry, STAMP, stored).unwrap();
        // What zstd makes of it is its own; what is in it is ours.
        let plain = zstd::bulk::decompress(&record[DIGESTED + LENGTH..], MOST).unwrap();
        let digest = blake3::hash(&plain).to_hex();
        assert_eq!(
            (VERSION, &digest[..32]),
            (1, "9018042a3036fcac07967f35a13a6fb8")
        );
    }

    #[test]
    fn what_repeats_itself_is_packed() {
        let text = Bytes::from("the same again and ".repeat(10_000));
        let record = encode(&KEY, &entry_of(Stored::text(&text)), STAMP).unwrap();
        assert!(record.len() < text.len() / 50, "{}", record.len());
    }

    #[test]
    fn no_byte_of_it_can_change() {
        let [_, _, body] = bodies();
        let record = encode(&KEY, &entry_of(body), STAMP).unwrap();
        for at in 0..record.len() {
            let mut damaged = record.clone();
            damaged[at] ^= 1;
            assert!(decode(&KEY, &damaged, MOST).is_err(), "byte {at}");
            assert!(decode(&KEY, &record[..at], MOST).is_err(), "{at} bytes");
        }
        assert_eq!(decode(&KEY, &[], MOST).err(), Some(Unreadable::Strange));
    }

    #[test]
    fn another_keys_and_another_versions_are_none() {
        let [body, _, _] = bodies();
        let record = encode(&KEY, &entry_of(body), STAMP).unwrap();
        let other = decode(&Key([8; 32]), &record, MOST).err();
        assert_eq!(other, Some(Unreadable::Damaged));
        let mut later = record;
        later[MAGIC.len()] += 1;
        let later = decode(&KEY, &later, MOST).err();
        assert_eq!(later, Some(Unreadable::Strange));
    }

    #[test]
    fn what_is_too_large_is_not_unpacked() {
        // A text that would unpack to far more than it claims, with a digest that is right.
        let packed = zstd::bulk::compress(&vec![0; 8 << 20], LEVEL).unwrap();
        let record = |length: u32| {
            let mut digested = length.to_le_bytes().to_vec();
            digested.extend_from_slice(&packed);
            let mut record = MAGIC.to_vec();
            record.push(VERSION);
            record.extend_from_slice(&digest(&KEY, &digested));
            record.extend_from_slice(&digested);
            record
        };
        let honest = decode(&KEY, &record(8 << 20), MOST).err();
        assert_eq!(honest, Some(Unreadable::TooLarge));
        let lying = decode(&KEY, &record(1 << 10), MOST).err();
        assert_eq!(lying, Some(Unreadable::Damaged));
    }

    #[test]
    fn blocks_are_all_of_a_body() {
        assert_eq!(ends(&[2, 3], 5), Some(vec![2, 5]));
        assert_eq!(ends(&[], 0), Some(vec![]));
        assert_eq!(ends(&[2, 3], 6), None);
        assert_eq!(ends(&[u32::MAX, u32::MAX], 6), None);
    }
}
