//! Ctrl-C, SIGTERM and SIGUSR1: what a person, a system or a batch queue asks of a run that has something to save.
//!
//! The first Ctrl-C or SIGTERM asks to save and stop, the second ends at once; while a run is still being prepared there is
//! nothing to save, so the first ends it. SIGUSR1 asks for a checkpoint and changes nothing else: queues send it before a
//! machine is taken away.
//!
//! Only commands with something to save install this; all others end as the operating system does it.

use crate::errors::Failure;
use eyas_train::Requests;
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What was asked for by signals.
#[derive(Clone)]
pub(crate) struct Stop {
    requests: Requests,
    signal: Arc<AtomicUsize>,
    /// Whether the next signal ends the process: nothing has been begun yet, or it has been asked to stop.
    ends: Arc<AtomicBool>,
}

impl Default for Stop {
    /// Nothing was asked for, and nothing is watched yet.
    fn default() -> Self {
        Stop { requests: Requests::default(), signal: Arc::default(), ends: Arc::new(AtomicBool::new(true)) }
    }
}

impl Stop {
    /// From now on, and until [`begin`](Self::begin), Ctrl-C and SIGTERM end the process with their status. A screen watches
    /// for them by itself, since it has a terminal to give back first, and calls this when it has done so.
    pub(crate) fn watch(&self) -> Result<(), Failure> {
        for signal in [SIGINT, SIGTERM] {
            // Actions run in the order of registration: the first signal after `begin` finds the flag down and raises it, the
            // second finds it up and ends the process.
            let status = 128 + signal;
            let (ends, stop) = (self.ends.clone(), self.requests.stop.clone());
            signal_hook::flag::register_conditional_shutdown(signal, status, ends.clone())
                .and_then(|_| signal_hook::flag::register_usize(signal, self.signal.clone(), signal as usize))
                .and_then(|_| signal_hook::flag::register(signal, ends))
                .and_then(|_| signal_hook::flag::register(signal, stop))
                .map_err(cannot_watch)?;
        }
        Ok(())
    }

    /// From now on SIGUSR1 asks for a checkpoint, and ends nothing.
    pub(crate) fn watch_save(&self) -> Result<(), Failure> {
        #[cfg(unix)]
        signal_hook::flag::register(SIGUSR1, self.requests.save.clone()).map_err(cannot_watch)?;
        Ok(())
    }

    /// Asks to stop, as if `signal` had come.
    pub(crate) fn request(&self, signal: i32) {
        self.signal.store(signal as usize, Ordering::Relaxed);
        self.ends.store(true, Ordering::SeqCst);
        self.requests.stop.store(true, Ordering::Relaxed);
    }

    /// From now on the first signal only asks, since there is something to save.
    pub(crate) fn begin(&self) {
        self.ends.store(false, Ordering::SeqCst);
    }

    /// What is asked of the run.
    pub(crate) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Whether a signal came.
    pub(crate) fn is_requested(&self) -> bool {
        self.requests.stops()
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

fn cannot_watch(error: io::Error) -> Failure {
    Failure::failed(format!("cannot watch for signals: {error}"))
}
