//! The safetensors format, read and written one tensor at a time.
//!
//! A file is: the length of the header, u64 little-endian; the header, a JSON object from tensor names to `dtype`, `shape`
//! and `data_offsets` (and `__metadata__`, strings by name); then the tensors' bytes without gaps, little-endian.
//!
//! Refuses any file that contradicts itself or its length before a tensor is read, and allocates for no more than the file
//! really holds. The trick is that nothing is mapped: a tensor is read where the checked header says it lies, so that
//! loading needs the memory of one tensor, and no `unsafe`.

use crate::error::{Error, InFile};
use crate::files::write_atomically;
use half::{bf16, f16};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Element type as the format names it: `F32`.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// First byte, from the end of the header.
    start: u64,
    /// Bytes.
    len_bytes: u64,
}

/// An open safetensors file whose header has been read and checked.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    data_start: u64,
    tensors: BTreeMap<String, TensorInfo>,
    metadata: Map<String, Value>,
}

impl TensorFile {
    /// Opens `path` and checks its header against its length.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_checked(path).in_file(path)
    }

    fn open_checked(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::io("open"))?;
        let file_bytes = file.metadata().map_err(Error::io("read"))?.len();
        let header = read_header(&mut file, file_bytes)?;
        let data_start = 8 + header.len() as u64;
        let mut entries: Map<String, Value> = serde_json::from_slice(&header)?;
        let metadata = match entries.remove("__metadata__") {
            Some(Value::Object(metadata)) => metadata,
            _ => Map::new(),
        };
        let tensors = entries.iter().map(|(name, entry)| Ok((name.clone(), parse_entry(name, entry)?)));
        let tensors = tensors.collect::<Result<BTreeMap<_, _>, Error>>()?;
        check_layout(&tensors, data_start, file_bytes)?;
        Ok(TensorFile { path: path.into(), file, data_start, tensors, metadata })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, TensorInfo> {
        &self.tensors
    }

    /// A string of its metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    /// Checks that tensor `name` is there, of type F32, F16 or BF16 and of the given shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), Error> {
        self.find(name, shape).map(|_| ()).in_file(&self.path)
    }

    /// Reads tensor `name`, of type F32, F16 or BF16 and of the given shape, as f32. Every value must be finite.
    pub fn read(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        self.read_checked(name, shape).in_file(&self.path)
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<(Type, &TensorInfo), Error> {
        let missing = || Error::MissingTensors { names: vec![name.into()] };
        let info = self.tensors.get(name).ok_or_else(missing)?;
        let wrong = |expected: String, got: String| Error::Tensor { name: name.into(), expected, got };
        if info.shape != shape {
            return Err(wrong(format!("shape {shape:?}"), format!("{:?}", info.shape)));
        }
        let (dtype, element_bytes) = match info.dtype.as_str() {
            "F32" => (Type::F32, 4),
            "F16" => (Type::F16, 2),
            "BF16" => (Type::Bf16, 2),
            other => return Err(wrong("type F32, F16 or BF16".into(), other.into())),
        };
        let len_bytes =
            shape.iter().try_fold(element_bytes, |bytes: u64, &size| bytes.checked_mul(size as u64));
        if len_bytes != Some(info.len_bytes) {
            let expected = format!("{element_bytes} bytes for each element of {shape:?}");
            return Err(wrong(expected, format!("{} bytes", info.len_bytes)));
        }
        Ok((dtype, info))
    }

    fn read_checked(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (dtype, info) = self.find(name, shape)?;
        // No more than the file holds: `check_layout` compared all lengths with the file's.
        let mut bytes = vec![0; info.len_bytes as usize];
        let start = self.data_start + info.start;
        self.file.seek(SeekFrom::Start(start)).map_err(Error::io("read"))?;
        self.file.read_exact(&mut bytes).map_err(Error::io("read"))?;
        let half = |bytes: &[u8]| u16::from_le_bytes([bytes[0], bytes[1]]);
        let values: Vec<f32> = match dtype {
            Type::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Type::F16 => bytes.chunks_exact(2).map(|b| f16::from_bits(half(b)).to_f32()).collect(),
            Type::Bf16 => bytes.chunks_exact(2).map(|b| bf16::from_bits(half(b)).to_f32()).collect(),
        };
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(at) => {
                Err(Error::NotFinite { name: name.into(), index: unflatten(at, shape), value: values[at] })
            }
        }
    }
}

/// The element types that are read.
#[derive(Clone, Copy)]
enum Type {
    F32,
    F16,
    Bf16,
}

fn read_header(file: &mut File, file_bytes: u64) -> Result<Vec<u8>, Error> {
    let invalid =
        |expected: String, got: u64| Error::Safetensors { offset: 0, expected, got: format!("{got} bytes") };
    if file_bytes < 8 {
        return Err(invalid("at least 8 bytes".into(), file_bytes));
    }
    let mut len = [0; 8];
    file.read_exact(&mut len).map_err(Error::io("read"))?;
    let (len, max) = (u64::from_le_bytes(len), MAX_HEADER_BYTES.min(file_bytes - 8));
    if len > max {
        return Err(invalid(format!("a header of at most {max} bytes"), len));
    }
    let mut header = vec![0; len as usize];
    file.read_exact(&mut header).map_err(Error::io("read"))?;
    Ok(header)
}

fn parse_entry(name: &str, entry: &Value) -> Result<TensorInfo, Error> {
    let wrong = || Error::Tensor {
        name: name.into(),
        expected: "a dtype, a shape and two data_offsets in order".into(),
        got: entry.to_string().chars().take(200).collect(),
    };
    let dtype = entry["dtype"].as_str().ok_or_else(wrong)?;
    let numbers =
        |key: &str| -> Option<Vec<u64>> { entry[key].as_array()?.iter().map(Value::as_u64).collect() };
    let shape = numbers("shape").ok_or_else(wrong)?;
    let (start, end) = match numbers("data_offsets").as_deref() {
        Some(&[start, end]) if start <= end => (start, end),
        _ => return Err(wrong()),
    };
    let shape =
        shape.into_iter().map(|n| usize::try_from(n).map_err(|_| wrong())).collect::<Result<_, _>>()?;
    Ok(TensorInfo { dtype: dtype.into(), shape, start, len_bytes: end - start })
}

/// Tensors must fill the file from the end of its header to its end, without gap or overlap.
fn check_layout(
    tensors: &BTreeMap<String, TensorInfo>,
    data_start: u64,
    file_bytes: u64,
) -> Result<(), Error> {
    let mut by_start: Vec<_> = tensors.iter().collect();
    by_start.sort_by_key(|(_, info)| (info.start, info.len_bytes));
    let mut end = 0;
    for (name, info) in by_start {
        if info.start != end {
            return Err(Error::Safetensors {
                offset: data_start.saturating_add(info.start),
                expected: format!("tensor `{name}` to start at {end}, where the one before it ends"),
                got: format!("{}", info.start),
            });
        }
        end = info.start + info.len_bytes;
    }
    if end != file_bytes - data_start {
        return Err(Error::Safetensors {
            offset: data_start,
            expected: format!("{end} bytes of tensors"),
            got: format!("{}: the file is truncated or damaged", file_bytes - data_start),
        });
    }
    Ok(())
}

/// The index of element `at`, one number for each dimension.
fn unflatten(mut at: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, &size) in index.iter_mut().zip(shape).rev() {
        (*i, at) = (at % size, at / size);
    }
    index
}

/// A tensor to be written.
pub struct TensorOut<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Gives its values, called once, when its turn comes: a tensor on a device need not be on the host before.
    pub values: Box<dyn Fn() -> Vec<f32> + 'a>,
}

/// Writes tensors, all f32, with metadata, so that `path` is whole or as it was before. Tensors are sorted by name, as the
/// reference writer does.
pub fn write_tensors(
    path: &Path,
    metadata: &[(&str, &str)],
    mut tensors: Vec<TensorOut<'_>>,
) -> Result<(), Error> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let mut header = Map::new();
    let metadata: Map<String, Value> =
        metadata.iter().map(|&(key, value)| (key.into(), value.into())).collect();
    header.insert("__metadata__".into(), metadata.into());
    let mut end = 0;
    for tensor in &tensors {
        let (start, len) = (end, 4 * tensor.shape.iter().product::<usize>());
        end += len;
        let entry = json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    write_atomically(path, |out| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in &tensors {
            let mut values = (tensor.values)();
            assert_eq!(values.len(), tensor.shape.iter().product::<usize>(), "values of {}", tensor.name);
            if cfg!(target_endian = "big") {
                values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
            }
            out.write_all(bytemuck::cast_slice(&values))?;
        }
        Ok(())
    })
    .in_file(path)
}
