//! A network on some device. The rest of the crate does not know which, and this file is the only one that names them.

use crate::completer::{Place, Precision};
use crate::error::Error;
use eyas_model::{Config, Generated, Gpt, Sampling, Use, generate};
use eyas_ops::{Backend, Bf16, Cpu, Cuda, F16, Isa, available_threads};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// What is told of each new token: the number of its sequence, and its id. `Break` ends that sequence.
pub(crate) type OnToken<'a> = dyn FnMut(usize, u32) -> ControlFlow<()> + Send + 'a;

/// What a completer needs of a network.
pub(crate) trait Engine: Send + Sync {
    /// Its configuration.
    fn config(&self) -> &Config;
    /// What it was made for.
    fn purpose(&self) -> Use;
    /// Its device in words.
    fn describe(&self) -> String;
    /// [`eyas_model::generate`].
    fn generate(
        &self,
        prompt: &[u32],
        sampling: &Sampling,
        num_sequences: usize,
        on_token: &mut OnToken<'_>,
    ) -> Result<Vec<Generated>, eyas_model::Error>;
}

impl<D: Backend> Engine for Gpt<D> {
    fn config(&self) -> &Config {
        self.config()
    }

    fn purpose(&self) -> Use {
        self.purpose()
    }

    fn describe(&self) -> String {
        self.device().describe()
    }

    fn generate(
        &self,
        prompt: &[u32],
        sampling: &Sampling,
        num_sequences: usize,
        on_token: &mut OnToken<'_>,
    ) -> Result<Vec<Generated>, eyas_model::Error> {
        // On the pool, where no operation has to wake a thread first: a token is many small operations.
        self.device().install(|| generate(self, prompt, sampling, num_sequences, on_token))
    }
}

/// Loads the network of a model folder.
pub(crate) fn open_engine(dir: &Path, place: &Place, precision: Precision) -> Result<Box<dyn Engine>, Error> {
    let purpose = precision.purpose();
    match (place, precision) {
        (Place::Cpu { .. }, Precision::F16) => {
            Err(Error::Precision { precision, device: "the CPU", expected: "F32, Bf16, Int8 or Int4" })
        }
        (Place::Cuda(_), Precision::Int8 | Precision::Int4) => {
            Err(Error::Precision { precision, device: "a GPU", expected: "F32, Bf16 or F16" })
        }
        (Place::Cpu { num_threads }, _) => {
            let isa = Isa::detect();
            let threads = num_threads.unwrap_or_else(available_threads);
            match precision.is_bf16(isa) {
                false => load(Cpu::<f32>::with(isa, threads), dir, purpose),
                true => load(Cpu::<Bf16>::with(isa, threads), dir, purpose),
            }
        }
        (Place::Cuda(options), Precision::F32) => load(Cuda::<f32>::open(options)?, dir, purpose),
        (Place::Cuda(options), Precision::Bf16) => load(Cuda::<Bf16>::open(options)?, dir, purpose),
        (Place::Cuda(options), Precision::F16) => load(Cuda::<F16>::open(options)?, dir, purpose),
    }
}

fn load<D: Backend>(device: D, dir: &Path, purpose: Use) -> Result<Box<dyn Engine>, Error> {
    Ok(Box::new(Gpt::load(Arc::new(device), dir, purpose)?))
}
