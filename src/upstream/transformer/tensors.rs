//! Where every tensor of a model lies, known without having read any.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use candle_core::quantized::GgmlDType;

use super::error::LoadError;

/// The bytes of a model file.
#[derive(Clone, Debug)]
pub(super) enum Store {
    /// A part of the binary.
    Embedded(&'static [u8]),
    /// A file. It is opened for each read, so that checking a model holds no handles.
    File(PathBuf),
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) dtype: GgmlDType,
    /// Rows before columns.
    pub(super) dims: Vec<usize>,
    pub(super) store: usize,
    /// From the beginning of the store.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// All tensors of a model, under the names that GGUF has for them.
#[derive(Clone, Debug, Default)]
pub(super) struct Tensors {
    pub(super) stores: Vec<Store>,
    pub(super) entries: HashMap<String, Entry>,
}

impl Tensors {
    pub(super) fn get(&self, name: &str) -> Result<&Entry, LoadError> {
        self.entries
            .get(name)
            .ok_or_else(|| LoadError::Missing(format!("tensor {name}")))
    }

    /// Checks that a tensor is there in the shape that the settings ask for.
    pub(super) fn expect(&self, name: &str, dims: &[usize]) -> Result<(), LoadError> {
        let entry = self.get(name)?;
        if entry.dims != dims {
            let detail = format!(
                "its shape is {:?}, but the settings ask for {dims:?}",
                entry.dims
            );
            return Err(LoadError::tensor(name, detail));
        }
        Ok(())
    }

    /// Reads a tensor's bytes.
    pub(super) fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        let entry = self.get(name)?;
        let outside = || LoadError::tensor(name, "it lies outside of its file");
        let length = usize::try_from(entry.bytes).map_err(|_| outside())?;
        match self.stores.get(entry.store).ok_or_else(outside)? {
            Store::Embedded(bytes) => {
                let start = usize::try_from(entry.offset).map_err(|_| outside())?;
                let end = start.checked_add(length).ok_or_else(outside)?;
                Ok(bytes.get(start..end).ok_or_else(outside)?.to_vec())
            }
            Store::File(path) => {
                let mut file = File::open(path).map_err(LoadError::read(path))?;
                // The length was checked against the file's when the header was read; the file may have shrunk since.
                let size = file.metadata().map_err(LoadError::read(path))?.len();
                if entry
                    .offset
                    .checked_add(entry.bytes)
                    .is_none_or(|end| end > size)
                {
                    return Err(outside());
                }
                let mut bytes = vec![0; length];
                file.seek(SeekFrom::Start(entry.offset))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(LoadError::read(path))?;
                Ok(bytes)
            }
        }
    }

    /// Returns how many bytes all tensors have.
    pub(super) fn total_bytes(&self) -> u64 {
        self.entries
            .values()
            .fold(0, |sum, e| sum.saturating_add(e.bytes))
    }
}

/// Returns the size in bytes of a tensor, or what is wrong with its shape.
pub(super) fn byte_size(dtype: GgmlDType, dims: &[usize]) -> Result<u64, String> {
    const MAX_ELEMENTS: u64 = 1 << 40;
    let Some(columns) = dims.last() else {
        return Err("it has no dimensions".into());
    };
    if dims.len() > 4 || dims.contains(&0) {
        return Err(format!("its shape {dims:?} makes no sense"));
    }
    let elements = dims
        .iter()
        .try_fold(1_u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))
        .filter(|n| *n <= MAX_ELEMENTS)
        .ok_or_else(|| format!("its shape {dims:?} is too large"))?;
    if columns % dtype.block_size() != 0 {
        return Err(format!("rows of {columns} cannot be stored as {dtype:?}"));
    }
    Ok(elements / dtype.block_size() as u64 * dtype.type_size() as u64)
}
