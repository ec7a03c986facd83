//! PTX, the text that NVRTC makes of a kernel: read, and decoded into what the machine executes.
//!
//! Only what the kernels here are made of is known; anything else is an error that names the instruction.

mod allocate;
mod decode;
mod operands;
mod text;
mod visit;

use crate::machine::{Initial, Instruction};
use std::collections::HashMap;
use std::sync::Arc;

/// The kernels of a PTX text.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) kernels: HashMap<String, Arc<Kernel>>,
}

/// A kernel, decoded.
#[derive(Debug, Default)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) parameters: Vec<Parameter>,
    /// Bytes of shared memory that are not asked for at the launch, and where the rest begins.
    pub(crate) static_shared: usize,
    /// Blocks of a cluster.
    pub(crate) cluster: u32,
    /// Threads of a block at most; 0: not said.
    pub(crate) max_threads: u32,
    pub(crate) code: Vec<Instruction>,
    /// The text of each instruction, for messages.
    pub(crate) texts: Vec<String>,
    pub(crate) registers: Registers,
}

/// How many registers a thread has of each class, and what some hold before the first instruction.
#[derive(Debug, Default)]
pub(crate) struct Registers {
    pub(crate) num_words: u32,
    pub(crate) num_doubles: u32,
    pub(crate) num_predicates: u32,
    pub(crate) words: Vec<(u32, Initial)>,
    pub(crate) doubles: Vec<(u32, Initial)>,
    pub(crate) predicates: Vec<(u32, bool)>,
}

/// Where a parameter lies in the block of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

impl Kernel {
    pub(crate) fn parameter_bytes(&self) -> usize {
        self.parameters.last().map_or(0, |last| last.offset + last.bytes)
    }
}

impl Module {
    /// Reads a text.
    ///
    /// # Errors
    /// What is not understood, and where.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let entries = text::entries(text)?;
        let shared = text::module_shared(text);
        let kernels = entries.into_iter().map(|entry| {
            let name = entry.name.to_string();
            let kernel = decode::kernel(&entry, &shared).map_err(|error| format!("{name}: {error}"))?;
            Ok::<_, String>((name, Arc::new(kernel)))
        });
        Ok(Module { kernels: kernels.collect::<Result<_, _>>()? })
    }
}
