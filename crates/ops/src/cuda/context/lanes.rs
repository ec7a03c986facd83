//! The two lanes: streams of work, and what one waits for of the other.

use super::{Context, CudaError, check, require};
use cudarc::driver::sys as driver;

/// Where work is queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    First,
    Second,
}

/// The state of the second lane.
pub(super) struct Beside {
    /// Marks the place in the first lane that the second goes on from.
    pub(super) forked: driver::CUevent,
    /// Marks the end of the second lane's work.
    pub(super) done: driver::CUevent,
    /// Buffers that its work reads or writes; empty if the first lane has waited for all of it.
    pub(super) buffers: Vec<u64>,
}

type ElapsedTime = unsafe extern "C" fn(*mut f32, driver::CUevent, driver::CUevent) -> driver::CUresult;

/// An event without a time.
pub(super) fn new_event() -> Result<driver::CUevent, CudaError> {
    let mut event = std::ptr::null_mut();
    let flags = driver::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;
    // SAFETY: event is written.
    check("cuEventCreate", unsafe { driver::cuEventCreate(&mut event, flags) })?;
    Ok(event)
}

impl Context {
    /// A lane's stream, for libraries.
    pub(crate) fn stream(&self, lane: Lane) -> driver::CUstream {
        self.end_chain();
        self.streams[lane as usize]
    }

    /// Lets the second lane go on from here: what it is given next may read what was queued so far. Once that is queued,
    /// [`beside`](Self::beside) must say what it touches.
    pub(crate) fn fork(&self) {
        let beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.bind();
        self.end_chain();
        // SAFETY: events and streams exist.
        unsafe {
            require("cuEventRecord", driver::cuEventRecord(beside.forked, self.streams[0]));
            require("cuStreamWaitEvent", driver::cuStreamWaitEvent(self.streams[1], beside.forked, 0));
        }
    }

    /// Notes the buffers that work in the second lane reads or writes: after it was queued, because queueing it may have
    /// waited for both lanes, as for larger scratch memory, and forgotten what was noted before.
    pub(crate) fn beside(&self, buffers: &[u64]) {
        let mut beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        beside.buffers.extend_from_slice(buffers);
    }

    /// Makes the first lane wait for the second if that reads or writes any of `buffers`.
    pub(crate) fn join_for(&self, buffers: &[u64]) {
        let mut beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if buffers.iter().any(|buffer| beside.buffers.contains(buffer)) {
            self.wait_for(&mut beside);
        }
    }

    /// Makes the first lane wait for the second, if it has been given anything.
    pub(crate) fn join(&self) {
        let mut beside = self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if !beside.buffers.is_empty() {
            self.wait_for(&mut beside);
        }
    }

    fn wait_for(&self, beside: &mut Beside) {
        self.bind();
        self.end_chain();
        // SAFETY: events and streams exist.
        unsafe {
            require("cuEventRecord", driver::cuEventRecord(beside.done, self.streams[1]));
            require("cuStreamWaitEvent", driver::cuStreamWaitEvent(self.streams[0], beside.done, 0));
        }
        beside.buffers.clear();
    }

    /// Forgets what the second lane was given while both were being recorded: it was never run.
    pub(super) fn forget_beside(&self) {
        self.beside.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).buffers.clear();
    }

    /// Waits until all work is done.
    pub(crate) fn synchronize(&self) {
        self.join();
        self.bind();
        for stream in self.streams {
            // SAFETY: the stream exists.
            require("cuStreamSynchronize", unsafe { driver::cuStreamSynchronize(stream) });
        }
    }

    /// Seconds that the card takes for what `queue` queues in the first lane.
    pub(crate) fn time(&self, queue: impl FnOnce()) -> f64 {
        self.join();
        self.bind();
        let (mut start, mut end, mut milliseconds) = (std::ptr::null_mut(), std::ptr::null_mut(), 0.0);
        // SAFETY: events are created before use and destroyed after it.
        unsafe {
            require("cuEventCreate", driver::cuEventCreate(&mut start, 0));
            require("cuEventCreate", driver::cuEventCreate(&mut end, 0));
            require("cuEventRecord", driver::cuEventRecord(start, self.streams[0]));
            queue();
            require("cuEventRecord", driver::cuEventRecord(end, self.streams[0]));
            require("cuEventSynchronize", driver::cuEventSynchronize(end));
            // The bindings know the name of driver 12.8 and later only; this one is in all.
            let elapsed =
                driver::culib().get::<ElapsedTime>(b"cuEventElapsedTime").expect("every driver has it");
            require("cuEventElapsedTime", elapsed(&mut milliseconds, start, end));
            let _ = (driver::cuEventDestroy_v2(start), driver::cuEventDestroy_v2(end));
        }
        f64::from(milliseconds) / 1e3
    }
}
