//! What may be asked of a run from outside while it goes on: by a signal, a key, or the program that it is part of.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Flags that anyone may raise; a run looks at them after every micro-batch, evaluation batch and sampled token.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// Save a checkpoint and stop.
    pub stop: Arc<AtomicBool>,
    /// Save a checkpoint and go on; the run lowers it when it has begun to.
    pub save: Arc<AtomicBool>,
}

impl Requests {
    /// Whether somebody asked to stop.
    pub fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether somebody asked for a checkpoint since this was asked last.
    pub(crate) fn take_save(&self) -> bool {
        self.save.load(Ordering::Relaxed) && self.save.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn flow(&self) -> ControlFlow<()> {
        if self.stops() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
