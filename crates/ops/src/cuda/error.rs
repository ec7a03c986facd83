//! What can keep a GPU from being used.

use std::fmt;

/// Why there is no CUDA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaError {
    /// A library that was not found, or did not load.
    Library {
        /// What it is.
        what: &'static str,
        /// Its file names.
        names: &'static [&'static str],
        /// Where it was looked for.
        looked: Vec<String>,
        /// Files that were found and did not load, with the loader's words.
        problems: Vec<String>,
        /// Where to get it.
        hint: &'static str,
    },
    /// The driver has no GPU of this number.
    NoDevice {
        /// The number asked for, from 0.
        ordinal: usize,
        /// GPUs that there are.
        count: usize,
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
