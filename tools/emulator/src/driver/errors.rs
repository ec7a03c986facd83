//! Errors in words.

use super::card;
use cudarc::driver::sys::CUresult;
use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, OnceLock};

/// What was wrong with the code that was loaded last, for the words of `CUDA_ERROR_INVALID_PTX`. Strings are never given back,
/// because a program may keep them.
static INVALID_PTX: Mutex<&CStr> = Mutex::new(c"the code is invalid");

/// Notes what is wrong with code.
pub(super) fn note_invalid_ptx(problem: &str) {
    *crate::streams::lock(&INVALID_PTX) = Box::leak(text(problem).into_boxed_c_str());
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> CUresult {
    if text.is_null() {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    // SAFETY: the caller's pointer is to a pointer; all strings stay.
    unsafe { text.write(describe(error).map_or(std::ptr::null(), CStr::as_ptr)) };
    CUresult::CUDA_SUCCESS
}

fn describe(error: CUresult) -> Option<&'static CStr> {
    Some(match error {
        CUresult::CUDA_SUCCESS => c"no error",
        CUresult::CUDA_ERROR_INVALID_VALUE => c"invalid argument",
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => c"out of memory",
        CUresult::CUDA_ERROR_NOT_INITIALIZED => c"cuInit was not called",
        CUresult::CUDA_ERROR_DEINITIALIZED => c"the thread is at its end",
        CUresult::CUDA_ERROR_INVALID_DEVICE => c"there is no such card",
        CUresult::CUDA_ERROR_INVALID_IMAGE => {
            c"the image is no PTX, which is all that the emulated card knows"
        }
        CUresult::CUDA_ERROR_INVALID_CONTEXT => c"the thread has no context",
        CUresult::CUDA_ERROR_INVALID_PTX => *crate::streams::lock(&INVALID_PTX),
        CUresult::CUDA_ERROR_INVALID_HANDLE => c"there is no such handle",
        CUresult::CUDA_ERROR_ILLEGAL_STATE => c"the stream is not in a state for this",
        CUresult::CUDA_ERROR_NOT_FOUND => c"there is no such name",
        CUresult::CUDA_ERROR_NOT_READY => c"the event has not been reached",
        CUresult::CUDA_ERROR_LAUNCH_FAILED => return Some(fault()),
        CUresult::CUDA_ERROR_NOT_SUPPORTED => c"the emulated card does not know this",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED => c"not permitted while a stream is recording",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED => c"an earlier error spoiled the recording",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE => c"two recordings would become one",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED => c"the recording did not begin in this stream",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED => {
            c"the recording has work in another stream that its first did not wait for"
        }
        CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION => {
            c"a recording stream would wait for an event from outside"
        }
        CUresult::CUDA_ERROR_CAPTURED_EVENT => c"the event is part of a recording",
        CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD => c"another thread began the recording",
        _ => return None,
    })
}

fn fault() -> &'static CStr {
    static FAULT: OnceLock<CString> = OnceLock::new();
    match card().fault() {
        Some(fault) => FAULT.get_or_init(|| text(fault)),
        None => c"unspecified launch failure",
    }
}

fn text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}
