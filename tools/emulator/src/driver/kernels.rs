//! Modules, kernels and their launches.

use super::{FUNCTIONS, MODULES, Outcome, STREAMS, enter, errors, put, result, settings};
use crate::graph::submit;
use crate::machine::Launch;
use crate::ptx::{Kernel, Module};
use crate::streams::Task;
use cudarc::driver::sys::{
    CUfunction, CUfunction_attribute, CUlaunchAttributeID, CUlaunchConfig, CUmodule, CUresult, CUstream,
};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// Bytes of shared memory that a block may ask for unless an attribute says more.
const USUAL_SHARED: i32 = 48 << 10;

/// Threads of a block.
const MAX_THREADS: u64 = 1024;

/// A kernel, and what its launches may ask for.
pub(super) struct Function {
    kernel: Arc<Kernel>,
    /// Bytes of dynamic shared memory.
    max_shared: AtomicI32,
}

/// The shape of a launch as a call gives it.
pub(super) struct Shape {
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    pub(super) shared_bytes: c_uint,
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> CUresult {
    // SAFETY: the caller's pointers are to a module, and to text that ends with a NUL.
    result(enter().and_then(|()| unsafe { put(module, MODULES.add(parse(image)?)) }))
}

/// # Safety
/// `image` must be null or point to bytes that end with a NUL.
unsafe fn parse(image: *const c_void) -> Result<Module, CUresult> {
    if image.is_null() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(image.cast()) };
    let text = text.to_str().ok().filter(|text| text.contains(".version"));
    let text = text.ok_or(CUresult::CUDA_ERROR_INVALID_IMAGE)?;
    Module::parse(text).map_err(|problem| {
        errors::note_invalid_ptx(&problem);
        CUresult::CUDA_ERROR_INVALID_PTX
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    let get = || {
        let module = MODULES.get(module)?;
        if name.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller's name ends with a NUL.
        let name = unsafe { CStr::from_ptr(name) };
        let kernel = name.to_str().ok().and_then(|name| module.kernels.get(name));
        let kernel = kernel.ok_or(CUresult::CUDA_ERROR_NOT_FOUND)?.clone();
        let max_shared = AtomicI32::new(USUAL_SHARED - kernel.static_shared as i32);
        // SAFETY: the caller's pointer is to a function.
        unsafe { put(function, FUNCTIONS.add(Function { kernel, max_shared })) }
    };
    result(enter().and_then(|()| get()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: CUfunction_attribute,
    function: CUfunction,
) -> CUresult {
    use CUfunction_attribute as Attribute;
    let get = || {
        let function = FUNCTIONS.get(function)?;
        let known = match attribute {
            Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES => function.kernel.static_shared as c_int,
            Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES => {
                function.max_shared.load(Ordering::Relaxed)
            }
            Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK => MAX_THREADS as c_int,
            _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        };
        // SAFETY: the caller's pointer is to an int.
        unsafe { put(value, known) }
    };
    result(enter().and_then(|()| get()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuFuncSetAttribute(
    function: CUfunction,
    attribute: CUfunction_attribute,
    value: c_int,
) -> CUresult {
    let set = || {
        let function = FUNCTIONS.get(function)?;
        if attribute != CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let most = settings::get().max_shared() - function.kernel.static_shared as c_int;
        if !(0..=most).contains(&value) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        function.max_shared.store(value, Ordering::Relaxed);
        Ok(())
    };
    result(enter().and_then(|()| set()))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared_bytes: c_uint,
    stream: CUstream,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared_bytes };
    let launch = || {
        let stream = STREAMS.get(stream)?;
        // SAFETY: the caller's arguments are those of the kernel.
        submit(&stream, unsafe { task(function, &shape, arguments, extra) }?)
    };
    result(enter().and_then(|()| launch()))
}

/// As `cuLaunchKernel`: a kernel that may begin before the one before it has ended begins after it here.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuLaunchKernelEx(
    config: *const CUlaunchConfig,
    function: CUfunction,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    let launch = || {
        if config.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        // SAFETY: the caller's configuration, with as many attributes as it says.
        let config = unsafe { &*config };
        for number in 0..config.numAttrs as usize {
            // SAFETY: as above.
            let attribute = unsafe { &*config.attrs.add(number) };
            if attribute.id != CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION {
                return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
            }
        }
        let shape = Shape {
            grid: [config.gridDimX, config.gridDimY, config.gridDimZ],
            block: [config.blockDimX, config.blockDimY, config.blockDimZ],
            shared_bytes: config.sharedMemBytes,
        };
        let stream = STREAMS.get(config.hStream)?;
        // SAFETY: the caller's arguments are those of the kernel.
        submit(&stream, unsafe { task(function, &shape, arguments, extra) }?)
    };
    result(enter().and_then(|()| launch()))
}

/// A launch, with a copy of its arguments.
///
/// # Safety
/// `arguments` must be null or point to a pointer for each of the kernel's parameters, each to as many bytes as the parameter has.
pub(super) unsafe fn task(
    function: CUfunction,
    shape: &Shape,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result<Task, CUresult> {
    let function = FUNCTIONS.get(function)?;
    check_shape(&function, shape)?;
    if !extra.is_null() {
        return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
    }
    let kernel = &function.kernel;
    if arguments.is_null() && !kernel.parameters.is_empty() {
        return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    let mut parameters = vec![0u8; kernel.parameter_bytes()];
    for (number, parameter) in kernel.parameters.iter().enumerate() {
        // SAFETY: the caller's promise.
        let argument = unsafe { *arguments.add(number) };
        if argument.is_null() {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let to = &mut parameters[parameter.offset..][..parameter.bytes];
        // SAFETY: the caller's promise.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(argument.cast(), to.len()) };
    }
    let &Shape { grid, block, shared_bytes } = shape;
    Ok(Task::Kernel(kernel.clone(), Arc::new(Launch { grid, block, shared_bytes, parameters })))
}

fn check_shape(function: &Function, shape: &Shape) -> Outcome {
    let Shape { grid, block, shared_bytes } = *shape;
    let threads: u64 = block.map(u64::from).iter().product();
    let is_right = !grid.contains(&0)
        && grid[0] <= i32::MAX as u32
        && grid[1..].iter().all(|&blocks| blocks <= 65_535)
        && (1..=MAX_THREADS).contains(&threads)
        && block[2] <= 64
        && i64::from(shared_bytes) <= i64::from(function.max_shared.load(Ordering::Relaxed));
    if is_right { Ok(()) } else { Err(CUresult::CUDA_ERROR_INVALID_VALUE) }
}
