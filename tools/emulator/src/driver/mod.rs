//! The driver's functions, as libcuda.so.1 has them: those that eyas uses, with the checks of arguments that the real driver makes.
//!
//! There is one card with one context. A handle is a number, not an address, so one that is wrong or was given back is known
//! for what it is. There is no default stream: a null stream is an invalid handle.

mod copies;
mod device;
mod errors;
mod graphs;
mod kernels;
pub(crate) mod settings;
mod streams;
mod tensor_map;

use crate::graph::{Executable, Graph};
use crate::ptx::Module;
use crate::streams::{Card, Stream};
use cudarc::driver::sys::CUresult;
use kernels::Function;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use streams::Event;

/// What a call comes to; the error is what it returns.
pub(crate) type Outcome = Result<(), CUresult>;

/// The handle of the one context.
const CONTEXT: usize = 0xc0de;

static IS_INITIALIZED: AtomicBool = AtomicBool::new(false);

static STREAMS: Handles<Stream> = Handles::new();
static EVENTS: Handles<Event> = Handles::new();
static MODULES: Handles<Module> = Handles::new();
static FUNCTIONS: Handles<Function> = Handles::new();
static GRAPHS: Handles<Graph> = Handles::new();
static EXECUTABLES: Handles<Executable> = Handles::new();

thread_local! {
    static HAS_CONTEXT: Cell<bool> = const { Cell::new(false) };
}

/// Things that the program has handles of.
pub(crate) struct Handles<T>(RwLock<Option<HashMap<u64, Arc<T>>>>);

/// A handle that nothing else has.
pub(crate) fn next_handle() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1 << 16);
    // As addresses would be, so that they are told from small numbers.
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// The card.
pub(crate) fn card() -> &'static Arc<Card> {
    static CARD: OnceLock<Arc<Card>> = OnceLock::new();
    CARD.get_or_init(|| Card::new(settings::get().schedule))
}

/// The stream of a handle, for the libraries.
pub(crate) fn stream_of<T>(handle: *mut T) -> Result<Arc<Stream>, CUresult> {
    STREAMS.get(handle)
}

/// What every call begins with: the card works and the thread has a context.
pub(crate) fn enter() -> Outcome {
    enter_without_context()?;
    // At the end of a thread its variables may be gone.
    match HAS_CONTEXT.try_with(Cell::get) {
        Ok(true) => Ok(()),
        _ => Err(CUresult::CUDA_ERROR_INVALID_CONTEXT),
    }
}

fn enter_without_context() -> Outcome {
    if !IS_INITIALIZED.load(Ordering::Acquire) {
        return Err(CUresult::CUDA_ERROR_NOT_INITIALIZED);
    }
    check_card()
}

/// Whether the card still works.
fn check_card() -> Outcome {
    if card().fault().is_some() { Err(CUresult::CUDA_ERROR_LAUNCH_FAILED) } else { Ok(()) }
}

/// What a call returns.
fn result(outcome: Outcome) -> CUresult {
    outcome.err().unwrap_or(CUresult::CUDA_SUCCESS)
}

/// Writes a result.
///
/// # Safety
/// `to` must be null or point to a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

impl<T> Handles<T> {
    pub(crate) const fn new() -> Self {
        Handles(RwLock::new(None))
    }

    /// A handle, as the pointer that stands for it.
    pub(crate) fn add<H>(&self, thing: T) -> *mut H {
        self.add_shared(Arc::new(thing))
    }

    fn add_shared<H>(&self, thing: Arc<T>) -> *mut H {
        let handle = next_handle();
        let mut things = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        things.get_or_insert_default().insert(handle, thing);
        std::ptr::without_provenance_mut(handle as usize)
    }

    pub(crate) fn get<H>(&self, handle: *mut H) -> Result<Arc<T>, CUresult> {
        let things = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let found = things.as_ref().and_then(|things| things.get(&(handle.addr() as u64)));
        found.cloned().ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }

    pub(crate) fn remove<H>(&self, handle: *mut H) -> Outcome {
        let mut things = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let removed = things.as_mut().and_then(|things| things.remove(&(handle.addr() as u64)));
        removed.map(|_| ()).ok_or(CUresult::CUDA_ERROR_INVALID_HANDLE)
    }
}

#[cfg(test)]
mod tests;
