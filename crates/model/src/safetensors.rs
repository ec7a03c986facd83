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
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
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

/// Copies the values of a tensor.
pub type ReadValues<'a> = Box<dyn Fn(&mut [f32]) + 'a>;

/// A tensor to be written.
pub struct TensorOut<'a> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Copies its values to where they are wanted: a tensor on a device need not be on the host before its turn comes.
    pub read: ReadValues<'a>,
}

impl TensorOut<'_> {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Writes tensors, all f32, with metadata, so that `path` is whole or as it was before.
///
/// # Errors
/// The operating system's.
pub fn write_tensors(
    path: &Path,
    metadata: &[(&str, String)],
    tensors: Vec<TensorOut<'_>>,
) -> Result<(), Error> {
    write_atomically(path, |out| write_tensors_to(out, metadata, tensors)).in_file(path)
}

/// Writes a file of tensors to `out`, sorted by name, as the reference writer does, one at a time.
///
/// # Errors
/// Those of `out`.
pub fn write_tensors_to(
    out: &mut dyn Write,
    metadata: &[(&str, String)],
    mut tensors: Vec<TensorOut<'_>>,
) -> io::Result<()> {
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    out.write_all(&header(metadata, tensors.iter().map(|tensor| (tensor.name.as_str(), &tensor.shape[..]))))?;
    let mut values = Vec::new();
    tensors.iter().try_for_each(|tensor| {
        values.resize(tensor.len(), 0.0);
        (tensor.read)(&mut values);
        write_values(out, &values)
    })
}

/// A file of tensors in memory: room that is made once, filled again and again, and written from another thread.
pub struct TensorImage {
    /// Name, shape, and where the values lie, sorted by name.
    tensors: Vec<(String, Vec<usize>, Range<usize>)>,
    metadata: Vec<(&'static str, String)>,
    values: Vec<f32>,
}

impl TensorImage {
    /// Room for `tensors`.
    pub fn new(mut tensors: Vec<TensorOut<'_>>) -> Self {
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        let mut end = 0;
        let mut place = |tensor: TensorOut<'_>| {
            let start = end;
            end += tensor.len();
            (tensor.name, tensor.shape, start..end)
        };
        let tensors = tensors.into_iter().map(&mut place).collect();
        TensorImage { tensors, metadata: Vec::new(), values: vec![0.0; end] }
    }

    /// Copies `tensors` into the room that was made for them. Panics if they are others.
    pub fn fill(&mut self, metadata: &[(&'static str, String)], mut tensors: Vec<TensorOut<'_>>) {
        self.metadata = metadata.to_vec();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(tensors.len(), self.tensors.len(), "the tensors that the room was made for");
        for (tensor, (name, _, place)) in tensors.iter().zip(&self.tensors) {
            assert_eq!(
                (&tensor.name, tensor.len()),
                (name, place.len()),
                "the tensor that the room was made for"
            );
            (tensor.read)(&mut self.values[place.clone()]);
        }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let tensors = self.tensors.iter().map(|(name, shape, _)| (name.as_str(), &shape[..]));
        out.write_all(&header(&self.metadata, tensors))?;
        write_values(out, &self.values)
    }
}

/// Length and header of a file of f32 tensors that lie in the order given.
fn header<'a>(metadata: &[(&str, String)], tensors: impl Iterator<Item = (&'a str, &'a [usize])>) -> Vec<u8> {
    let mut header = Map::new();
    let metadata: Map<String, Value> =
        metadata.iter().map(|(key, value)| ((*key).into(), value.clone().into())).collect();
    header.insert("__metadata__".into(), metadata.into());
    let mut end = 0;
    for (name, shape) in tensors {
        let (start, len) = (end, 4 * shape.iter().product::<usize>());
        end += len;
        header.insert(name.into(), json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut text);
    bytes
}

/// Writes values in pieces, so that what is behind `out` hashes what is still in a cache.
fn write_values(out: &mut dyn Write, values: &[f32]) -> io::Result<()> {
    values.chunks(1 << 16).try_for_each(|values| {
        if cfg!(target_endian = "big") {
            let swapped: Vec<_> = values.iter().map(|value| value.to_bits().swap_bytes()).collect();
            return out.write_all(bytemuck::cast_slice(&swapped));
        }
        out.write_all(bytemuck::cast_slice(values))
    })
}
