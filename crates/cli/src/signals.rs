//! Ctrl-C and SIGTERM: the first asks to stop and save, the second ends at once.
//!
//! Only commands with something to save install this; all others end as the operating system does it.

use crate::errors::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether somebody asked to stop.
#[derive(Clone, Default)]
pub(crate) struct Stop {
    requested: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Stop {
    /// From now on the first signal only sets a flag.
    pub(crate) fn install() -> Result<Self, Failure> {
        let stop = Stop::default();
        stop.watch()?;
        Ok(stop)
    }

    /// The same for a flag that was there before. A screen watches for signals by itself, since it has a terminal to give
    /// back before the second one ends the process.
    pub(crate) fn watch(&self) -> Result<(), Failure> {
        self.register().map_err(|error| Failure::failed(format!("cannot watch for signals: {error}")))
    }

    fn register(&self) -> Result<(), io::Error> {
        for signal in [SIGINT, SIGTERM] {
            // Actions run in the order of registration: the first signal finds the flag down and raises it, the second
            // finds it up and ends the process.
            let status = 128 + signal;
            signal_hook::flag::register_conditional_shutdown(signal, status, self.requested.clone())?;
            signal_hook::flag::register_usize(signal, self.signal.clone(), signal as usize)?;
            signal_hook::flag::register(signal, self.requested.clone())?;
        }
        Ok(())
    }

    /// The flag, for the libraries.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.requested
    }

    /// Asks to stop, as if `signal` had come.
    pub(crate) fn request(&self, signal: i32) {
        self.signal.store(signal as usize, Ordering::Relaxed);
        self.requested.store(true, Ordering::Relaxed);
    }

    /// Whether a signal came.
    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// How a command that was stopped ends.
    pub(crate) fn failure(&self, message: impl Into<String>) -> Failure {
        let signal = match self.signal.load(Ordering::Relaxed) {
            0 => SIGINT as usize,
            signal => signal,
        };
        Failure::Stopped { status: u8::try_from(128 + signal).unwrap_or(130), message: message.into() }
    }
}
