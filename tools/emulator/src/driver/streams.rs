//! Streams and events.

use super::{EVENTS, Outcome, STREAMS, check_card, enter, put, result};
use crate::graph::{self, Recorded};
use crate::streams::lock;
use cudarc::driver::sys::{CUevent, CUevent_flags, CUresult, CUstream};
use std::ffi::c_uint;
use std::sync::Mutex;

/// An event.
pub(super) struct Event {
    has_time: bool,
    recorded: Mutex<Recorded>,
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, _flags: c_uint) -> CUresult {
    let create = || {
        let handle = STREAMS.add_shared(super::card().stream());
        // SAFETY: the caller's pointer is to a stream.
        unsafe { put(stream, handle) }
    };
    result(enter().and_then(|()| create()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    let synchronize = || {
        let stream = STREAMS.get(stream)?;
        graph::must_not_capture(&stream)?;
        graph::may_wait()?;
        stream.synchronize();
        check_card()
    };
    result(enter().and_then(|()| synchronize()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamWaitEvent(
    stream: CUstream,
    event: CUevent,
    flags: c_uint,
) -> CUresult {
    let wait = || {
        if flags != 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let (stream, event) = (STREAMS.get(stream)?, EVENTS.get(event)?);
        let recorded = lock(&event.recorded).clone();
        graph::wait(&stream, &recorded)
    };
    result(enter().and_then(|()| wait()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventCreate(event: *mut CUevent, flags: c_uint) -> CUresult {
    let create = || {
        let has_time = flags & CUevent_flags::CU_EVENT_DISABLE_TIMING as u32 == 0;
        let handle = EVENTS.add(Event { has_time, recorded: Mutex::default() });
        // SAFETY: the caller's pointer is to an event.
        unsafe { put(event, handle) }
    };
    result(enter().and_then(|()| create()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    result(enter().and_then(|()| EVENTS.remove(event)))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    let record = || {
        let (event, stream) = (EVENTS.get(event)?, STREAMS.get(stream)?);
        *lock(&event.recorded) = graph::record(&stream)?;
        Ok(())
    };
    result(enter().and_then(|()| record()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    let synchronize = || {
        let event = EVENTS.get(event)?;
        graph::may_wait()?;
        let recorded = lock(&event.recorded).clone();
        match recorded {
            Recorded::Never => {}
            Recorded::Queued(mark) => mark.reach(),
            Recorded::Captured(..) => return Err(CUresult::CUDA_ERROR_CAPTURED_EVENT),
        }
        check_card()
    };
    result(enter().and_then(|()| synchronize()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    // SAFETY: the caller's pointer is to a float.
    result(enter().and_then(|()| unsafe { elapsed(milliseconds, start, end) }))
}

/// # Safety
/// `milliseconds` must be null or point to a float.
unsafe fn elapsed(milliseconds: *mut f32, start: CUevent, end: CUevent) -> Outcome {
    let time_of = |event: CUevent| {
        let event = EVENTS.get(event)?;
        let recorded = lock(&event.recorded).clone();
        match recorded {
            Recorded::Queued(mark) if event.has_time => {
                mark.time().filter(|_| mark.is_reached()).ok_or(CUresult::CUDA_ERROR_NOT_READY)
            }
            Recorded::Captured(..) => Err(CUresult::CUDA_ERROR_CAPTURED_EVENT),
            _ => Err(CUresult::CUDA_ERROR_INVALID_HANDLE),
        }
    };
    let (start, end) = (time_of(start)?, time_of(end)?);
    // Never 0: a program may divide by it.
    let seconds = end.saturating_duration_since(start).as_secs_f64().max(1e-7);
    // SAFETY: the caller's promise.
    unsafe { put(milliseconds, (1e3 * seconds) as f32) }
}
