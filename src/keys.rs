//! Gateway keys: how they look, how they are made, and the digest that stands for them everywhere else.

use std::fmt::Write as _;
use std::io::Read;

use sha2::{Digest, Sha256};

use crate::secret::Secret;

/// What every key that Weir makes begins with, so that secret scanners can find a leaked one.
pub const PREFIX: &str = "wr-";
/// The fewest characters of a key that somebody chose.
pub const MIN_LENGTH: usize = 8;
/// The most bytes of a key: a request head has no room for more.
pub const MAX_LENGTH: usize = 1024;

/// Characters that tell keys apart in a log; 62^8 are enough for that.
const PUBLIC_CHARS: usize = 8;
/// Characters that nobody can guess: 62^43 is a little more than 2^256.
const SECRET_CHARS: usize = 43;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a text cannot be a gateway key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Could be guessed.
    #[error("is shorter than {MIN_LENGTH} characters")]
    TooShort,
    /// Could not be sent.
    #[error("is longer than {MAX_LENGTH} bytes")]
    TooLong,
    /// An `Authorization` header could not carry it.
    #[error("holds white space or characters outside ASCII")]
    Unprintable,
}

/// Makes a new key of 256 bits: `wr-`, 8 characters that may be shown, `-`, 43 characters that may not.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn generate() -> Result<Secret, getrandom::Error> {
    let mut key = String::with_capacity(PREFIX.len() + PUBLIC_CHARS + 1 + SECRET_CHARS);
    key.push_str(PREFIX);
    push_random(&mut key, PUBLIC_CHARS)?;
    key.push('-');
    push_random(&mut key, SECRET_CHARS)?;
    Ok(Secret::new(key))
}

/// Returns the key of an `Authorization` header (RFC 6750, section 2.1), its scheme in any case (RFC 9110, section 11.1).
pub fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    let key = key.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !key.is_empty()).then_some(key)
}

/// Returns the SHA-256 of a key, the only form in which one is kept.
pub fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Returns the part of a key that logs may show, or nothing for a key that Weir did not make.
pub fn public_prefix(key: &str) -> Option<&str> {
    let (public, secret) = key.strip_prefix(PREFIX)?.split_once('-')?;
    let plain =
        |part: &str, length| part.len() == length && part.bytes().all(|b| ALPHABET.contains(&b));
    (plain(public, PUBLIC_CHARS) && plain(secret, SECRET_CHARS))
        .then(|| &key[..PREFIX.len() + PUBLIC_CHARS])
}

/// Returns whether a text looks like the public part of a key that Weir made.
pub fn is_public_prefix(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|public| {
        public.len() == PUBLIC_CHARS && public.bytes().all(|b| ALPHABET.contains(&b))
    })
}

/// Checks that clients can send a text as their key, and that nobody guesses it at once.
///
/// # Errors
/// [`KeyError`], which never holds the text.
pub fn check(key: &str) -> Result<(), KeyError> {
    if key.len() > MAX_LENGTH {
        Err(KeyError::TooLong)
    } else if !key.bytes().all(|b| b.is_ascii_graphic()) {
        Err(KeyError::Unprintable)
    } else if key.len() < MIN_LENGTH {
        Err(KeyError::TooShort)
    } else {
        Ok(())
    }
}

/// Writes a digest as the `hash` of a key in the configuration: `sha256:` and 64 digits.
pub fn format_hash(digest: &[u8; 32]) -> String {
    let mut text = String::from("sha256:");
    for byte in digest {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads the `hash` of a key in the configuration.
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:")?.as_bytes();
    let mut digest = [0; 32];
    if digits.len() != 2 * digest.len() {
        return None;
    }
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(digest)
}

/// Does `weir keys hash`: returns the text to print, or what is wrong.
///
/// # Errors
/// The message for the user, who gave a key that cannot be one, or none.
pub fn hash_command(key: Option<&str>, new: bool, input: &mut dyn Read) -> Result<String, String> {
    if new {
        let key = generate().map_err(|error| format!("no randomness to be had: {error}"))?;
        let hash = format_hash(&digest(key.expose().as_bytes()));
        return Ok(format!("key:  {}\nhash: {hash}\n", key.expose()));
    }
    let key = match key {
        Some(key) => key.to_owned(),
        None => {
            let mut text = String::new();
            let limit = u64::try_from(MAX_LENGTH + 3).unwrap_or(u64::MAX);
            input
                .take(limit)
                .read_to_string(&mut text)
                .map_err(|error| format!("cannot read a key from standard input: {error}"))?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            line.strip_suffix('\r').unwrap_or(line).to_owned()
        }
    };
    check(&key).map_err(|error| format!("the key {error}"))?;
    Ok(format!("{}\n", format_hash(&digest(key.as_bytes()))))
}

/// Appends characters of the alphabet, each equally likely: bytes that would favour some are thrown away.
fn push_random(text: &mut String, count: usize) -> Result<(), getrandom::Error> {
    let fair = 256 / ALPHABET.len() * ALPHABET.len();
    let wanted = text.len() + count;
    let mut bytes = [0; 64];
    while text.len() < wanted {
        getrandom::fill(&mut bytes)?;
        for byte in bytes.map(usize::from) {
            if byte < fair && text.len() < wanted {
                text.push(char::from(ALPHABET[byte % ALPHABET.len()]));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_key_has_the_shape_and_differs_from_the_next() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().len(), 3 + 8 + 1 + 43);
        assert_eq!(check(one.expose()), Ok(()));
        assert_eq!(public_prefix(one.expose()), one.expose().get(..11));
    }

    #[test]
    fn only_made_keys_have_a_public_part() {
        for key in ["", "wr-", "wr-12345678-short", "sk-proj-abcdefghijklmnop"] {
            assert_eq!(public_prefix(key), None, "{key}");
        }
        let foreign = format!("wr-12345ü78-{}", "a".repeat(42));
        assert_eq!(public_prefix(&foreign), None);
    }

    #[test]
    fn the_digest_is_sha256_in_hex() {
        // FIPS 180-2, appendix B.1.
        let hash = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(format_hash(&digest(b"abc")), hash);
        assert_eq!(parse_hash(hash), Some(digest(b"abc")));
        assert_eq!(parse_hash(&hash.to_uppercase()), None);
        assert_eq!(parse_hash(&hash[..70]), None);
        assert_eq!(parse_hash(&hash.replace("ba", "+a")), None);
    }

    #[test]
    fn the_command_hashes_an_argument_or_a_line() {
        let expected = format!("{}\n", format_hash(&digest(b"12345678")));
        let hash = |key, input: &str| hash_command(key, false, &mut input.as_bytes());
        assert_eq!(hash(Some("12345678"), ""), Ok(expected.clone()));
        assert_eq!(hash(None, "12345678\n"), Ok(expected.clone()));
        assert_eq!(hash(None, "12345678\r\n"), Ok(expected));
        assert!(hash(None, "").is_err());
        assert!(hash(Some("1234567"), "").is_err());
        assert!(hash(Some("1234 5678"), "").is_err());
        assert!(hash(None, &"x".repeat(2000)).is_err());
    }

    #[test]
    fn the_command_makes_a_key_and_its_hash() {
        let text = hash_command(None, true, &mut std::io::empty()).unwrap();
        let mut lines = text.lines();
        let key = lines.next().unwrap().strip_prefix("key:  ").unwrap();
        let hash = lines.next().unwrap().strip_prefix("hash: ").unwrap();
        assert_eq!(hash, format_hash(&digest(key.as_bytes())));
    }
}
