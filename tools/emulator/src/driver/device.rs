//! The card and its context.

use super::settings;
use super::{CONTEXT, HAS_CONTEXT, IS_INITIALIZED, Outcome, check_card, enter_without_context, put, result};
use crate::nvrtc;
use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute, CUresult};
use std::ffi::{c_char, c_int, c_uint};
use std::sync::atomic::Ordering;

const NAME: &[u8] = b"Emulated card\0";

#[expect(
    clippy::print_stderr,
    reason = "the driver's errors have no room for what is wrong with the settings"
)]
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuInit(flags: c_uint) -> CUresult {
    if nvrtc::is_compiling() {
        return CUresult::CUDA_ERROR_NO_DEVICE;
    }
    if let Some(problem) = &settings::get().problem {
        eprintln!("the emulated card does not start: {problem}");
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    if flags != 0 {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    IS_INITIALIZED.store(true, Ordering::Release);
    result(check_card())
}

/// Before the driver was initialized too.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    let (major, minor) = settings::get().version;
    // SAFETY: the caller's pointer is to an int.
    result(unsafe { put(version, 1000 * major + 10 * minor) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: the caller's pointer is to an int.
    result(enter_without_context().and_then(|()| unsafe { put(count, 1) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    // SAFETY: the caller's pointer is to a device.
    result(enter_device(ordinal).and_then(|()| unsafe { put(device, 0) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice) -> CUresult {
    let copy = || {
        if name.is_null() || len <= 0 {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let count = NAME.len().min(len as usize);
        // SAFETY: the caller's buffer has `len` bytes.
        unsafe {
            name.cast::<u8>().copy_from_nonoverlapping(NAME.as_ptr(), count);
            name.add(count - 1).write(0);
        }
        Ok(())
    };
    result(enter_device(device).and_then(|()| copy()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: CUdevice_attribute,
    device: CUdevice,
) -> CUresult {
    let put = || {
        let known = attribute_of(attribute).ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED)?;
        // SAFETY: the caller's pointer is to an int.
        unsafe { put(value, known) }
    };
    result(enter_device(device).and_then(|()| put()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut CUcontext,
    device: CUdevice,
) -> CUresult {
    let handle = std::ptr::without_provenance_mut(CONTEXT);
    // SAFETY: the caller's pointer is to a context.
    result(enter_device(device).and_then(|()| unsafe { put(context, handle) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    let set = || {
        if !context.is_null() && context.addr() != CONTEXT {
            return Err(CUresult::CUDA_ERROR_INVALID_CONTEXT);
        }
        let set = HAS_CONTEXT.try_with(|has_context| has_context.set(!context.is_null()));
        set.map_err(|_| CUresult::CUDA_ERROR_DEINITIALIZED)
    };
    result(enter_without_context().and_then(|()| set()))
}

fn enter_device(device: c_int) -> Outcome {
    enter_without_context()?;
    if device == 0 { Ok(()) } else { Err(CUresult::CUDA_ERROR_INVALID_DEVICE) }
}

fn attribute_of(attribute: CUdevice_attribute) -> Option<c_int> {
    use CUdevice_attribute as Attribute;
    let settings = settings::get();
    Some(match attribute {
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => settings.capability.0,
        Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => settings.capability.1,
        Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => settings.num_processors,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => settings.max_shared(),
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK => 48 << 10,
        Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE => 32,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK
        | Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X
        | Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y => 1024,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z => 64,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X => i32::MAX,
        Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y | Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z => {
            65_535
        }
        Attribute::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING => 1,
        _ => return None,
    })
}
