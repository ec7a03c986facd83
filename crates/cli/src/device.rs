//! Where a command computes: the choice that a person makes, what `auto` makes of it, and where NVIDIA's libraries lie.
//!
//! Owns the rule that `auto` never fails: it takes the first GPU that can be used, else the CPU. It is silent where there is
//! no driver or no card, and warns where a card is there and something else is missing.

use crate::errors::{Failure, Outcome};
use crate::output::warn;
use eyas_ops::gemm::Word;
use eyas_ops::{
    Backend, Bf16, Cpu, Cuda, CudaElement, CudaError, CudaOptions, F16, Isa, LibraryPaths, available_threads,
};
use eyas_train::Precision;
use std::env::{split_paths, var_os};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What a person may choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// A GPU if one can be used, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cuda = |number: &str| number.parse().ok().map(Choice::Cuda);
        let choice = match text {
            "auto" => Some(Choice::Auto),
            "cpu" => Some(Choice::Cpu),
            "cuda" => Some(Choice::Cuda(0)),
            _ => text.strip_prefix("cuda:").and_then(cuda),
        };
        choice.ok_or_else(|| "expected auto, cpu, cuda, or cuda:N, the GPU of number N from 0".to_string())
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Auto => write!(f, "auto"),
            Choice::Cpu => write!(f, "cpu"),
            Choice::Cuda(0) => write!(f, "cuda"),
            Choice::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl Choice {
    /// What `open` makes of the first GPU that can be used, of those that may be tried; `None` for the CPU.
    ///
    /// # Errors
    /// A GPU that was asked for and cannot be used; those of `open` that are not about the GPU.
    fn first<T>(self, open: impl Fn(usize) -> Result<T, Unopened>) -> Outcome<Option<T>> {
        let ordinals = match self {
            Choice::Auto => 0..usize::MAX,
            Choice::Cpu => return Ok(None),
            Choice::Cuda(ordinal) => ordinal..ordinal.saturating_add(1),
        };
        let mut first_error = None;
        for ordinal in ordinals {
            match open(ordinal) {
                Ok(opened) => return Ok(Some(opened)),
                Err(Unopened::Other(failure)) => return Err(failure),
                Err(Unopened::Gpu(error)) => {
                    let is_of_all = !is_of_one_gpu(&error);
                    first_error.get_or_insert(error);
                    if is_of_all {
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(()), |error| self.without(&error)).map(|()| None)
    }

    /// What to do about a GPU that cannot be used: go on with the CPU, or fail.
    fn without(self, error: &CudaError) -> Outcome {
        match self {
            Choice::Auto if is_absent(error) => Ok(()),
            Choice::Auto => {
                warn(format_args!("the GPU is not used, the CPU is: {error}"));
                Ok(())
            }
            _ => Err(Failure::failed(format!("--device {self}: {error}"))),
        }
    }
}

/// Whether there is no GPU at all, which is no reason to say anything.
fn is_absent(error: &CudaError) -> bool {
    match error {
        CudaError::Library { names, problems, .. } => {
            names.iter().any(|name| name.starts_with("libcuda.so")) && problems.is_empty()
        }
        CudaError::NoDevice { count, .. } => *count == 0,
        CudaError::Driver { call: "cuInit", message } => message.contains("NO_DEVICE"),
        _ => false,
    }
}

/// Why something was not opened on a GPU.
enum Unopened {
    Gpu(CudaError),
    Other(Failure),
}

/// Whether another GPU of the machine may do, where this one did not.
fn is_of_one_gpu(error: &CudaError) -> bool {
    match error {
        CudaError::TooOld { .. } => true,
        CudaError::Driver { call, .. } => {
            !["cuInit", "cuDeviceGetCount", "cuDriverGetVersion"].contains(call)
        }
        _ => false,
    }
}

/// What a command was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) choice: Choice,
    /// The element type of activations and of compute copies of weights.
    pub(crate) precision: Precision,
    /// Threads of the CPU; `None`: one a core.
    pub(crate) threads: Option<usize>,
    /// Instruction set of the CPU.
    pub(crate) isa: Isa,
    /// Whether f32 products of a GPU may round to TF32.
    pub(crate) tf32: bool,
}

/// What it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The CPU, with this instruction set.
    Cpu(Isa),
    /// A GPU.
    Cuda,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Cpu(isa) => write!(f, "{isa}"),
            Place::Cuda => write!(f, "cuda"),
        }
    }
}

/// Work that is written once, for any device.
pub(crate) trait OnDevice {
    /// What it gives.
    type Output;
    /// Does it on `device`.
    fn run<D: Backend>(self, device: D, place: Place) -> Outcome<Self::Output>;
}

impl Wanted {
    /// With all cores, their best instruction set, and f32 products as they are.
    pub(crate) fn new(choice: Choice, precision: Precision) -> Self {
        Wanted { choice, precision, threads: None, isa: Isa::detect(), tf32: false }
    }

    /// Opens the device and does `work` on it.
    ///
    /// # Errors
    /// A GPU that was asked for and cannot be used; fp16 on the CPU; those of `work`.
    pub(crate) fn run<W: OnDevice>(self, work: W) -> Outcome<W::Output> {
        match self.precision {
            Precision::F32 => match gpu::<f32>(self.choice, self.tf32)? {
                Some(cuda) => work.run(cuda, Place::Cuda),
                None => work.run(self.cpu::<f32>()?, Place::Cpu(self.isa)),
            },
            Precision::Bf16 => match gpu::<Bf16>(self.choice, self.tf32)? {
                Some(cuda) => work.run(cuda, Place::Cuda),
                None => work.run(self.cpu::<Bf16>()?, Place::Cpu(self.isa)),
            },
            Precision::F16 => match gpu::<F16>(self.choice, self.tf32)? {
                Some(cuda) => work.run(cuda, Place::Cuda),
                None => Err(eyas_train::Error::Fp16.into()),
            },
        }
    }

    /// The CPU.
    ///
    /// # Errors
    /// An instruction set that this machine does not have.
    pub(crate) fn cpu<E: Word>(self) -> Outcome<Cpu<E>> {
        let Wanted { isa, threads, .. } = self;
        if !isa.is_available() {
            return Err(Failure::failed(format!("--isa {isa}: this machine does not have it"))
                .hint(format!("the best it has is {}", Isa::detect())));
        }
        Ok(Cpu::with(isa, threads.unwrap_or_else(available_threads)))
    }
}

/// The GPU that was chosen; `None` where it is the CPU.
///
/// # Errors
/// A GPU that was asked for and cannot be used.
pub(crate) fn gpu<E: CudaElement>(choice: Choice, tf32: bool) -> Outcome<Option<Cuda<E>>> {
    choice.first(|ordinal| Cuda::open(&cuda_options(ordinal, tf32)).map_err(Unopened::Gpu))
}

/// A model folder opened for completions, on the GPU if that is the choice and it can be used.
///
/// # Errors
/// Weights in small integers on a GPU that was asked for; fp16 on the CPU; those of opening.
pub(crate) fn open_completer(
    dir: &std::path::Path,
    choice: Choice,
    num_threads: Option<usize>,
    precision: eyas_serve::Precision,
    tokenizer: Option<PathBuf>,
) -> Outcome<eyas_serve::Completer> {
    use eyas_serve::{Completer, Error, OpenOptions, Place, Precision};
    let choice = for_format(choice, precision, "--precision")?;
    let open = |device| {
        let options = OpenOptions { precision, device, tokenizer: tokenizer.clone() };
        let completer = Completer::open(dir, &options)?;
        crate::commands::tokenizer::tell_if_slow(completer.tokenizer());
        Ok(completer)
    };
    let on_gpu = |ordinal| {
        open(Place::Cuda(cuda_options(ordinal, false))).map_err(|error| match error {
            Error::Cuda(error) => Unopened::Gpu(error),
            other => Unopened::Other(other.into()),
        })
    };
    if let Some(completer) = choice.first(on_gpu)? {
        return Ok(completer);
    }
    if precision == Precision::F16 {
        return Err(eyas_train::Error::Fp16.into());
    }
    Ok(open(Place::Cpu { num_threads })?)
}

/// The choice for weights of `precision`, which `flag` gave: those of small integers run on the CPU.
///
/// # Errors
/// They were asked for together with a GPU.
pub(crate) fn for_format(choice: Choice, precision: eyas_serve::Precision, flag: &str) -> Outcome<Choice> {
    let eyas_ops::Use::Quantized(format) = precision.purpose() else { return Ok(choice) };
    match choice {
        Choice::Cuda(_) => Err(Failure::usage(format!(
            "{flag} {format} with --device {choice}: weights in 8 or 4 bits run on the CPU only"
        ))
        .hint(format!("--device cpu, or {flag} bf16 for the GPU instead of {format}"))),
        Choice::Auto | Choice::Cpu => Ok(Choice::Cpu),
    }
}

/// How the GPU of a number is opened, by the environment: EYAS_CUDA_PATH, then CUDA's and Python's own variables say where
/// libraries lie, EYAS_CACHE_DIR or XDG_CACHE_HOME where compiled kernels are kept.
pub(crate) fn cuda_options(ordinal: usize, tf32: bool) -> CudaOptions {
    let mut first: Vec<PathBuf> = folder("EYAS_CUDA_PATH").iter().flat_map(split_paths).collect();
    first.extend(["CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder));
    let libraries = LibraryPaths::usual(first, var_os("PATH").as_deref());
    CudaOptions { ordinal, libraries, cache_dir: cache_dir(), tf32 }
}

/// Where compiled kernels are kept.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    let home = || Some(folder("HOME")?.join(".cache"));
    let shared = || Some(folder("XDG_CACHE_HOME").or_else(home)?.join("eyas"));
    folder("EYAS_CACHE_DIR").or_else(shared)
}

/// A variable that names a folder; an empty one names none.
fn folder(name: &str) -> Option<PathBuf> {
    var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use eyas_ops::CudaVersion;

    #[test]
    fn choices_are_read_and_written() {
        for (text, choice) in [
            ("auto", Choice::Auto),
            ("cpu", Choice::Cpu),
            ("cuda", Choice::Cuda(0)),
            ("cuda:3", Choice::Cuda(3)),
        ] {
            assert_eq!(text.parse(), Ok(choice));
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!("cuda:0".parse(), Ok(Choice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU", "cuda0"] {
            assert!(text.parse::<Choice>().is_err_and(|error| error.contains("cuda:N")), "{text}");
        }
    }

    #[test]
    fn auto_takes_the_first_gpu_that_can_be_used() {
        let old = || CudaError::TooOld { name: "an old card".into(), capability: (7, 0) };
        let driver = |call| CudaError::Driver { call, message: "no".into() };
        let tried = std::cell::RefCell::new(Vec::new());
        let open = |usable: usize, why: CudaError| {
            let tried = &tried;
            tried.borrow_mut().clear();
            move |ordinal: usize| {
                tried.borrow_mut().push(ordinal);
                match ordinal {
                    3.. => Err(Unopened::Gpu(CudaError::NoDevice { ordinal, count: 3 })),
                    _ if ordinal == usable => Ok(ordinal),
                    _ => Err(Unopened::Gpu(why.clone())),
                }
            }
        };
        let first = |choice: Choice, usable, why| choice.first(open(usable, why)).ok().flatten();
        assert_eq!(first(Choice::Auto, 2, old()), Some(2));
        assert_eq!(first(Choice::Auto, 1, driver("cuDevicePrimaryCtxRetain")), Some(1));
        // None of three, and what is the same for all.
        assert_eq!((first(Choice::Auto, 9, old()), tried.borrow().len()), (None, 4));
        assert_eq!((first(Choice::Auto, 1, driver("cuInit")), tried.borrow().len()), (None, 1));
        // What was asked for is taken or refused.
        assert_eq!(first(Choice::Cuda(2), 2, old()), Some(2));
        assert!(Choice::Cuda(1).first(open(2, old())).is_err());
        assert_eq!((first(Choice::Cpu, 0, old()), tried.borrow().len()), (None, 0));
        let failed = |_| Err::<(), _>(Unopened::Other(Failure::failed("the model is damaged")));
        assert!(Choice::Auto.first(failed).is_err());
    }

    #[test]
    fn only_a_missing_card_is_passed_over_in_silence() {
        let library = |name, problems| CudaError::Library {
            what: "a library",
            names: vec![name],
            looked: Vec::new(),
            problems,
            hint: String::new(),
        };
        assert!(is_absent(&library("libcuda.so.1", Vec::new())));
        assert!(is_absent(&CudaError::NoDevice { ordinal: 0, count: 0 }));
        assert!(!is_absent(&library("libcuda.so.1", vec!["it is damaged".into()])));
        assert!(!is_absent(&library("libnvrtc.so.13", Vec::new())));
        assert!(!is_absent(&CudaError::OldDriver { version: CudaVersion { major: 11, minor: 8 } }));
        assert!(!is_absent(&CudaError::TooOld { name: "an old card".into(), capability: (7, 0) }));
    }
}
