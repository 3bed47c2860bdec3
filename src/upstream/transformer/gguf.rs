//! Reads the header of a GGUF file. The file is not trusted: every count is bounded before anything is allocated, and
//! no tensor is touched.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::collections::HashMap;
use std::io::Read;

use candle_core::quantized::GgmlDType;

use super::error::LoadError;
use super::tensors::{Entry, byte_size};

/// Far above what models have (a few dozen settings, a few hundred tensors), far below what hurts.
const MAX_COUNT: u64 = 1 << 16;
const MAX_KEY_BYTES: u64 = 1 << 16;
const MAX_STRING_BYTES: u64 = 16 << 20;
/// The vocabulary makes up nearly all of a header: 128k tokens with their merges take about 7 MB.
const MAX_HEADER_BYTES: u64 = 64 << 20;

/// A value of the metadata, widened to what the loader asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    Integers(Vec<i64>),
    Floats(Vec<f32>),
}

/// The header of a file.
#[derive(Debug)]
pub(super) struct Header {
    metadata: HashMap<String, Value>,
    pub(super) tensors: HashMap<String, Entry>,
}

struct Reader<R> {
    inner: R,
    position: u64,
    size: u64,
}

fn malformed(detail: impl Into<String>) -> LoadError {
    LoadError::Header {
        format: "GGUF",
        detail: detail.into(),
    }
}

// === impl Header ===

impl Header {
    /// Reads a header from the beginning of a file of `size` bytes.
    pub(super) fn read(inner: impl Read, size: u64) -> Result<Self, LoadError> {
        let mut reader = Reader {
            inner,
            position: 0,
            size,
        };
        if &reader.bytes::<4>()? != b"GGUF" {
            return Err(malformed("it does not begin with the letters GGUF"));
        }
        let version = reader.u32()?;
        if !(2..=3).contains(&version) {
            return Err(malformed(format!(
                "version {version:#x} is unknown; 2 and 3 in little-endian order can be read"
            )));
        }
        let tensor_count = reader.count("tensors")?;
        let value_count = reader.count("metadata values")?;
        let mut metadata = HashMap::new();
        for _ in 0..value_count {
            let key = reader.string(MAX_KEY_BYTES)?;
            let kind = reader.u32()?;
            let value = reader.value(kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(malformed(format!("{key:?} is given twice")));
            }
        }
        let mut infos = Vec::new();
        for _ in 0..tensor_count {
            infos.push(reader.tensor()?);
        }
        let alignment = match metadata.get("general.alignment") {
            None => 32,
            Some(Value::Integer(n)) => u64::try_from(*n)
                .ok()
                .filter(|n| n.is_power_of_two() && *n <= 1 << 20)
                .ok_or_else(|| malformed(format!("an alignment of {n} makes no sense")))?,
            Some(_) => return Err(malformed("the alignment is not a number")),
        };
        let data = reader.position.next_multiple_of(alignment);
        let mut tensors = HashMap::new();
        for (name, mut entry) in infos {
            let end = data
                .checked_add(entry.offset)
                .and_then(|start| start.checked_add(entry.bytes));
            if !entry.offset.is_multiple_of(alignment) || end.is_none_or(|end| end > size) {
                return Err(LoadError::tensor(
                    &name,
                    "it lies outside of the file, which may be truncated",
                ));
            }
            entry.offset += data;
            if tensors.insert(name.clone(), entry).is_some() {
                return Err(LoadError::tensor(&name, "it is given twice"));
            }
        }
        Ok(Self { metadata, tensors })
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&str>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(malformed(format!("{key} is not a string"))),
        }
    }

    pub(super) fn integer(&self, key: &str) -> Result<Option<usize>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integer(n)) => usize::try_from(*n)
                .map(Some)
                .map_err(|_| malformed(format!("{key} is {n}"))),
            Some(_) => Err(malformed(format!("{key} is not an integer"))),
        }
    }

    pub(super) fn float(&self, key: &str) -> Result<Option<f32>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Float(n)) => Ok(Some(*n as f32)),
            Some(_) => Err(malformed(format!("{key} is not a float"))),
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<Option<bool>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(malformed(format!("{key} is not a boolean"))),
        }
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<&[String]>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Strings(s)) => Ok(Some(s)),
            Some(_) => Err(malformed(format!("{key} is not a list of strings"))),
        }
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<&[i64]>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Integers(s)) => Ok(Some(s)),
            Some(_) => Err(malformed(format!("{key} is not a list of integers"))),
        }
    }

    pub(super) fn floats(&self, key: &str) -> Result<Option<&[f32]>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Floats(s)) => Ok(Some(s)),
            Some(_) => Err(malformed(format!("{key} is not a list of floats"))),
        }
    }
}

// === impl Reader ===

impl<R: Read> Reader<R> {
    /// Reserves `n` bytes of what the header may have.
    fn advance(&mut self, n: u64) -> Result<(), LoadError> {
        let end = self.position.saturating_add(n);
        if end > self.size {
            return Err(malformed("the file ends in the middle of it"));
        }
        if end > MAX_HEADER_BYTES {
            return Err(malformed(format!(
                "it is larger than {MAX_HEADER_BYTES} bytes"
            )));
        }
        self.position = end;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), LoadError> {
        self.advance(buffer.len() as u64)?;
        self.inner
            .read_exact(buffer)
            .map_err(|e| malformed(format!("reading failed: {e}")))
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    fn u64(&mut self) -> Result<u64, LoadError> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn count(&mut self, of: &str) -> Result<u64, LoadError> {
        let n = self.u64()?;
        if n > MAX_COUNT {
            return Err(malformed(format!(
                "it claims {n} {of}; at most {MAX_COUNT} are read"
            )));
        }
        Ok(n)
    }

    fn string(&mut self, limit: u64) -> Result<String, LoadError> {
        let length = self.u64()?;
        if length > limit.min(self.size - self.position) {
            return Err(malformed(format!("it claims a string of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        // Some converters write tokens that are no valid UTF-8.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn integer(&mut self, kind: u32) -> Result<Option<i128>, LoadError> {
        Ok(Some(match kind {
            0 => u8::from_le_bytes(self.bytes()?).into(),
            1 => i8::from_le_bytes(self.bytes()?).into(),
            2 => u16::from_le_bytes(self.bytes()?).into(),
            3 => i16::from_le_bytes(self.bytes()?).into(),
            4 => u32::from_le_bytes(self.bytes()?).into(),
            5 => i32::from_le_bytes(self.bytes()?).into(),
            10 => u64::from_le_bytes(self.bytes()?).into(),
            11 => i64::from_le_bytes(self.bytes()?).into(),
            _ => return Ok(None),
        }))
    }

    fn value(&mut self, kind: u32) -> Result<Value, LoadError> {
        if let Some(n) = self.integer(kind)? {
            return Ok(Value::Integer(n));
        }
        Ok(match kind {
            6 => Value::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => Value::Bool(self.bytes::<1>()? != [0]),
            8 => Value::String(self.string(MAX_STRING_BYTES)?),
            9 => return self.array(),
            12 => Value::Float(f64::from_le_bytes(self.bytes()?)),
            _ => return Err(malformed(format!("{kind} is no type of a value"))),
        })
    }

    fn array(&mut self) -> Result<Value, LoadError> {
        let kind = self.u32()?;
        let length = self.u64()?;
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(malformed("it has lists of lists")),
            _ => return Err(malformed(format!("{kind} is no type of a value"))),
        };
        let available = self
            .size
            .min(MAX_HEADER_BYTES)
            .saturating_sub(self.position);
        if length > available / smallest {
            return Err(malformed(format!("it claims a list of {length} values")));
        }
        Ok(match kind {
            6 => {
                let mut list = Vec::new();
                for _ in 0..length {
                    list.push(f32::from_le_bytes(self.bytes()?));
                }
                Value::Floats(list)
            }
            12 => {
                let mut list = Vec::new();
                for _ in 0..length {
                    list.push(f64::from_le_bytes(self.bytes()?) as f32);
                }
                Value::Floats(list)
            }
            8 => {
                let mut list = Vec::new();
                for _ in 0..length {
                    list.push(self.string(MAX_STRING_BYTES)?);
                }
                Value::Strings(list)
            }
            _ => {
                let mut list = Vec::new();
                for _ in 0..length {
                    let n = match self.integer(kind)? {
                        Some(n) => n,
                        None => i128::from(self.bytes::<1>()? != [0]),
                    };
                    let n = i64::try_from(n);
                    list.push(n.map_err(|_| malformed("a number in a list is too large"))?);
                }
                Value::Integers(list)
            }
        })
    }

    fn tensor(&mut self) -> Result<(String, Entry), LoadError> {
        let name = self.string(MAX_KEY_BYTES)?;
        let rank = self.u32()?;
        if !(1..=4).contains(&rank) {
            return Err(LoadError::tensor(
                &name,
                format!("it has {rank} dimensions"),
            ));
        }
        let mut dims = Vec::new();
        for _ in 0..rank {
            let dim = usize::try_from(self.u64()?);
            dims.push(dim.map_err(|_| LoadError::tensor(&name, "it is too large"))?);
        }
        dims.reverse();
        let kind = self.u32()?;
        let dtype = dtype(kind).ok_or_else(|| {
            LoadError::tensor(
                &name,
                format!("its quantization (number {kind}) is not supported"),
            )
        })?;
        let offset = self.u64()?;
        let bytes = byte_size(dtype, &dims).map_err(|detail| LoadError::tensor(&name, detail))?;
        let entry = Entry {
            dtype,
            dims,
            store: 0,
            offset,
            bytes,
        };
        Ok((name, entry))
    }
}

/// The types that the compute library has kernels for, by their number in the file.
fn dtype(kind: u32) -> Option<GgmlDType> {
    Some(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        _ => return None,
    })
}
