//! NVRTC, as libnvrtc.so.13 has it: the real one, which compiles for any card without one, asked for PTX instead of machine code.
//!
//! The environment's CUDA_EMULATOR_NVRTC is the folder that it lies in. The trick: what asks for the machine code of a real
//! architecture, `sm_90a`, is compiled for its virtual one, `compute_90a`, and given the PTX as if it were machine code.

use cudarc::nvrtc::sys::{nvrtcProgram, nvrtcResult};
use libloading::Library;
use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

thread_local! {
    static IS_COMPILING: Cell<bool> = const { Cell::new(false) };
}

/// The real NVRTC, which is opened when it is first called.
#[expect(clippy::print_stderr, reason = "NVRTC's errors have no room for why it is missing")]
fn real() -> Option<&'static Library> {
    static REAL: OnceLock<Option<Library>> = OnceLock::new();
    let open = || match std::env::var_os("CUDA_EMULATOR_NVRTC") {
        Some(folder) => open(Path::new(&folder)),
        None => Err("CUDA_EMULATOR_NVRTC is not set".to_string()),
    };
    let opened = REAL.get_or_init(|| {
        open().inspect_err(|problem| eprintln!("the emulated card has no NVRTC: {problem}")).ok()
    });
    opened.as_ref()
}

fn open(folder: &Path) -> Result<Library, String> {
    // NVRTC opens its built-in functions by name alone, which finds what is open already.
    let builtins = named(folder, "libnvrtc-builtins.so")?;
    // SAFETY: initializers of NVIDIA's libraries have no requirement on the program that loads them.
    let opened = unsafe { Library::new(&builtins) };
    std::mem::forget(opened.map_err(|error| format!("{}: {error}", builtins.display()))?);
    let nvrtc = named(folder, "libnvrtc.so")?;
    // SAFETY: as above.
    unsafe { Library::new(&nvrtc) }.map_err(|error| format!("{}: {error}", nvrtc.display()))
}

/// The file in `folder` whose name begins with `start`.
fn named(folder: &Path, start: &str) -> Result<PathBuf, String> {
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let names = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with(start);
    let found = entries.flatten().filter(names).map(|entry| entry.path()).max();
    found.ok_or_else(|| format!("{} has no {start}", folder.display()))
}

/// Functions that are passed on as they are, each to the real one of the name that follows.
macro_rules! forward {
    ($($(#[$attribute:meta])? $name:ident as $real:literal ($($argument:ident: $kind:ty),*);)*) => {$(
        $(#[$attribute])?
        unsafe extern "C" fn $name($($argument: $kind),*) -> nvrtcResult {
            type Function = unsafe extern "C" fn($($kind),*) -> nvrtcResult;
            // SAFETY: the real function has this type, and the caller kept to its terms.
            unsafe {
                match real().and_then(|real| real.get::<Function>($real).ok()) {
                    Some(function) => function($($argument),*),
                    None => nvrtcResult::NVRTC_ERROR_INTERNAL_ERROR,
                }
            }
        }
    )*};
}

forward! {
    real_version as b"nvrtcVersion" (major: *mut c_int, minor: *mut c_int);
    #[unsafe(no_mangle)]
    nvrtcGetNumSupportedArchs as b"nvrtcGetNumSupportedArchs" (count: *mut c_int);
    #[unsafe(no_mangle)]
    nvrtcGetSupportedArchs as b"nvrtcGetSupportedArchs" (architectures: *mut c_int);
    #[unsafe(no_mangle)]
    nvrtcCreateProgram as b"nvrtcCreateProgram" (
        program: *mut nvrtcProgram,
        source: *const c_char,
        name: *const c_char,
        num_headers: c_int,
        headers: *const *const c_char,
        header_names: *const *const c_char
    );
    #[unsafe(no_mangle)]
    nvrtcDestroyProgram as b"nvrtcDestroyProgram" (program: *mut nvrtcProgram);
    #[unsafe(no_mangle)]
    nvrtcGetPTXSize as b"nvrtcGetPTXSize" (program: nvrtcProgram, size: *mut usize);
    #[unsafe(no_mangle)]
    nvrtcGetPTX as b"nvrtcGetPTX" (program: nvrtcProgram, ptx: *mut c_char);
    #[unsafe(no_mangle)]
    nvrtcGetCUBINSize as b"nvrtcGetPTXSize" (program: nvrtcProgram, size: *mut usize);
    #[unsafe(no_mangle)]
    nvrtcGetCUBIN as b"nvrtcGetPTX" (program: nvrtcProgram, ptx: *mut c_char);
    #[unsafe(no_mangle)]
    nvrtcGetProgramLogSize as b"nvrtcGetProgramLogSize" (program: nvrtcProgram, size: *mut usize);
    #[unsafe(no_mangle)]
    nvrtcGetProgramLog as b"nvrtcGetProgramLog" (program: nvrtcProgram, log: *mut c_char);
    real_compile as b"nvrtcCompileProgram" (
        program: nvrtcProgram,
        num_options: c_int,
        options: *const *const c_char
    );
}

/// Another version than the real one's, so that nobody takes what is kept of this one's PTX for a card's machine code.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> nvrtcResult {
    // SAFETY: the caller's pointers are those of two numbers, which the real function writes.
    unsafe {
        let result = real_version(major, minor);
        if result == nvrtcResult::NVRTC_SUCCESS {
            *minor += 1000;
        }
        result
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcCompileProgram(
    program: nvrtcProgram,
    num_options: c_int,
    options: *const *const c_char,
) -> nvrtcResult {
    let count = if options.is_null() { 0 } else { num_options.max(0) as usize };
    // SAFETY: the caller's options are as many, and each ends with a NUL.
    let options = (0..count).map(|i| unsafe { CStr::from_ptr(*options.add(i)) });
    let options: Vec<CString> = options.map(for_ptx).collect();
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    IS_COMPILING.set(true);
    // SAFETY: the options outlive the call.
    let compiled = unsafe { real_compile(program, pointers.len() as c_int, pointers.as_ptr()) };
    IS_COMPILING.set(false);
    compiled
}

/// Whether the calling thread is in NVRTC. That opens the driver itself where there is one, to use what is in no manual, and does
/// without where the driver says that there is no card.
pub(crate) fn is_compiling() -> bool {
    IS_COMPILING.get()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nvrtcGetErrorString(result: nvrtcResult) -> *const c_char {
    type Function = unsafe extern "C" fn(nvrtcResult) -> *const c_char;
    // SAFETY: the real function has this type.
    unsafe {
        match real().and_then(|real| real.get::<Function>(b"nvrtcGetErrorString").ok()) {
            Some(function) => function(result),
            None => c"there is no NVRTC".as_ptr(),
        }
    }
}

/// An option, with a virtual architecture for a real one.
fn for_ptx(option: &CStr) -> CString {
    let text = option.to_string_lossy();
    let is_architecture = text.starts_with("--gpu-architecture=") || text.starts_with("-arch=");
    match is_architecture.then(|| text.replacen("=sm_", "=compute_", 1)).map(CString::new) {
        Some(Ok(changed)) => changed,
        _ => option.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::for_ptx;

    #[test]
    fn architectures_become_virtual() {
        assert_eq!(for_ptx(c"--gpu-architecture=sm_90a").as_c_str(), c"--gpu-architecture=compute_90a");
        assert_eq!(for_ptx(c"-arch=compute_80").as_c_str(), c"-arch=compute_80");
        assert_eq!(for_ptx(c"-DX=sm_90").as_c_str(), c"-DX=sm_90");
    }
}
