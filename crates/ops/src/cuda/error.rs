//! What can keep a GPU from being used.

use std::fmt;

/// A version of CUDA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// What libraries and driver must agree on.
    pub major: u32,
    /// What they need not.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Why there is no CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// A library that was not found, or did not load.
    Library {
        /// What it is.
        what: &'static str,
        /// The file names that would do.
        names: Vec<&'static str>,
        /// Where it was looked for.
        looked: Vec<String>,
        /// Files that were found and did not load, with the loader's words.
        problems: Vec<String>,
        /// Where to get it.
        hint: String,
    },
    /// The driver has no GPU of this number.
    NoDevice {
        /// The number asked for, from 0.
        ordinal: usize,
        /// GPUs that there are.
        count: usize,
    },
    /// The driver is older than every library that would do.
    OldDriver {
        /// The version of CUDA that it has.
        version: Version,
    },
    /// The GPU is older than the kernels.
    TooOld {
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
    },
    /// A kernel did not compile.
    Compile {
        /// The file.
        name: &'static str,
        /// The compiler's words.
        log: String,
    },
    /// The driver or a library refused something.
    Driver {
        /// What was asked of it.
        call: &'static str,
        /// Its answer.
        message: String,
    },
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CudaError::Library { what, names, looked, problems, hint } => {
                write!(f, "{what} was not found: no {} in {}", names.join(" or "), looked.join(", "))?;
                problems.iter().try_for_each(|problem| write!(f, "; {problem}"))?;
                write!(f, " ({hint}; EYAS_CUDA_PATH may name its folder)")
            }
            CudaError::NoDevice { ordinal, count: 0 } => {
                write!(f, "there is no GPU {ordinal}: the driver finds none")
            }
            CudaError::NoDevice { ordinal, count } => {
                write!(f, "there is no GPU {ordinal}: the driver finds {count}, numbered from 0")
            }
            CudaError::OldDriver { version } => {
                write!(f, "the NVIDIA driver has CUDA {version}; 12.0 (driver 525) is the least that works")
            }
            CudaError::TooOld { name, capability: (major, minor) } => {
                write!(
                    f,
                    "{name} has compute capability {major}.{minor}; 8.0 (Ampere) is the least that works"
                )
            }
            CudaError::Compile { name, log } => write!(f, "{name} does not compile: {log}"),
            CudaError::Driver { call, message } => write!(f, "{call}: {message}"),
        }
    }
}

impl std::error::Error for CudaError {}
