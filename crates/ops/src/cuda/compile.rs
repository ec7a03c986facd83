//! Kernels: compiled by NVRTC for the card found, once, and kept on disk by the hash of what they were made from.

use super::bindings::{SUCCESS, Status, describe, nvrtc};
use super::{CudaError, kept};
use std::ffi::{CStr, CString, c_char};
use std::path::Path;

/// Kernels that are compiled together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// Their operation.
    pub(crate) name: &'static str,
    /// The files, without the prelude.
    pub(crate) files: &'static [&'static str],
    /// The kernels in it.
    pub(crate) kernels: &'static [&'static str],
}

/// What CUDA 12 called the architecture that is 110 since 13: its PTX is not for those that lie between.
const RENAMED: i32 = 101;

const PRELUDE: &str = include_str!("prelude.cuh");

/// What the driver loads: machine code, or PTX that it compiles itself where the card is newer than NVRTC.
pub(crate) type Image = Vec<u8>;

/// Compiles `source` for a compute capability with `defines`, or takes it from `cache` unless it `is_fresh`.
pub(crate) fn compile(
    source: &Source,
    defines: &[String],
    capability: (i32, i32),
    cache: Option<&Path>,
    is_fresh: bool,
) -> Result<Image, CudaError> {
    let text = format!("{PRELUDE}\n{}", source.files.join("\n"));
    let mut options = vec![architecture(capability)?, "-std=c++17".into(), "-default-device".into()];
    options.extend_from_slice(defines);
    let cached = cache.map(|cache| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(text.as_bytes()).update(options.join(" ").as_bytes()).update(version().as_bytes());
        cache.join(format!("{}-{}.kernels", source.name, hasher.finalize().to_hex()))
    });
    if let Some(image) = cached.as_ref().filter(|_| !is_fresh).and_then(|path| kept::read_hashed(path)) {
        return Ok(image);
    }
    let image = run(source.name, &text, &options)?;
    if let Some(path) = cached {
        // A folder that cannot be written costs the next start a few seconds, and nothing else.
        let _ = kept::write_hashed(&path, &image);
    }
    Ok(image)
}

/// The compiler's version, in words.
fn version() -> String {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both are written.
    let _ = unsafe { nvrtc::nvrtcVersion(&mut major, &mut minor) };
    format!("{major}.{minor}")
}

/// The option that names the card: its machine code if NVRTC knows it, else the newest PTX that runs there, which the driver
/// compiles.
fn architecture((major, minor): (i32, i32)) -> Result<String, CudaError> {
    let mut count = 0;
    // SAFETY: count is written.
    check(unsafe { nvrtc::nvrtcGetNumSupportedArchs(&mut count) }, "nvrtcGetNumSupportedArchs")?;
    let mut known = vec![0; count.max(0) as usize];
    // SAFETY: there is room for as many as it said.
    check(unsafe { nvrtc::nvrtcGetSupportedArchs(known.as_mut_ptr()) }, "nvrtcGetSupportedArchs")?;
    let wanted = 10 * major + minor;
    if known.contains(&wanted) {
        // Hopper's own instructions need the suffix.
        let suffix = if wanted == 90 { "a" } else { "" };
        return Ok(format!("--gpu-architecture=sm_{wanted}{suffix}"));
    }
    let newest = known.into_iter().filter(|&arch| arch < wanted && arch != RENAMED).max().unwrap_or(80);
    Ok(format!("--gpu-architecture=compute_{newest}"))
}

fn run(name: &'static str, text: &str, options: &[String]) -> Result<Image, CudaError> {
    let no_nul = |text: &str| {
        CString::new(text).map_err(|_| CudaError::Compile { name, log: "it holds a NUL".into() })
    };
    let (text, file) = (no_nul(text)?, no_nul(&format!("{name}.cu"))?);
    let options = options.iter().map(|option| no_nul(option)).collect::<Result<Vec<_>, _>>()?;
    let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
    let is_ptx = options[0].to_string_lossy().contains("=compute_");
    let mut program = std::ptr::null_mut();
    // SAFETY: all strings end with a NUL and outlive the calls; sizes are those the library gave.
    unsafe {
        let created = nvrtc::nvrtcCreateProgram(
            &mut program,
            text.as_ptr(),
            file.as_ptr(),
            0,
            std::ptr::null(),
            std::ptr::null(),
        );
        check(created, "nvrtcCreateProgram")?;
        let compiled = nvrtc::nvrtcCompileProgram(program, pointers.len() as i32, pointers.as_ptr());
        let result = match compiled {
            SUCCESS => image(program, is_ptx),
            _ => Err(CudaError::Compile { name, log: log(program) }),
        };
        let _ = nvrtc::nvrtcDestroyProgram(&mut program);
        result
    }
}

/// # Safety
/// `program` must have been compiled.
unsafe fn image(program: nvrtc::nvrtcProgram, is_ptx: bool) -> Result<Image, CudaError> {
    let mut size = 0;
    // SAFETY: the caller's promise; the buffer has the size that was asked for.
    unsafe {
        if is_ptx {
            check(nvrtc::nvrtcGetPTXSize(program, &mut size), "nvrtcGetPTXSize")?;
            let mut image = vec![0u8; size];
            check(nvrtc::nvrtcGetPTX(program, image.as_mut_ptr().cast()), "nvrtcGetPTX")?;
            Ok(image)
        } else {
            check(nvrtc::nvrtcGetCUBINSize(program, &mut size), "nvrtcGetCUBINSize")?;
            let mut image = vec![0u8; size];
            check(nvrtc::nvrtcGetCUBIN(program, image.as_mut_ptr().cast()), "nvrtcGetCUBIN")?;
            Ok(image)
        }
    }
}

/// # Safety
/// `program` must exist.
unsafe fn log(program: nvrtc::nvrtcProgram) -> String {
    let mut size = 0;
    // SAFETY: the caller's promise; the buffer has the size that was asked for.
    unsafe {
        if nvrtc::nvrtcGetProgramLogSize(program, &mut size) != SUCCESS {
            return "no log".into();
        }
        let mut log = vec![0u8; size.max(1)];
        let _ = nvrtc::nvrtcGetProgramLog(program, log.as_mut_ptr().cast());
        CStr::from_bytes_until_nul(&log)
            .map_or_else(|_| "no log".into(), |log| log.to_string_lossy().into_owned())
    }
}

fn check(status: Status, call: &'static str) -> Result<(), CudaError> {
    match status {
        SUCCESS => Ok(()),
        other => Err(CudaError::Driver { call, message: describe(other, nvrtc::nvrtcGetErrorString) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::cuda::{MASKED, head_defines, sources};
    use crate::cuda::{SOURCES, Version, library, test_cache, test_paths};

    /// Needs no GPU: NVRTC compiles for any card.
    #[test]
    #[expect(clippy::print_stdout, reason = "a test that skips says so")]
    fn every_kernel_compiles_for_every_architecture() {
        if let Err(error) = library::open_nvrtc(&test_paths(), Version { major: 13, minor: 0 }) {
            println!("skipped: {error}");
            return;
        }
        let check = |source: &Source, capability, defines: &[String]| {
            let image = compile(source, defines, capability, Some(&test_cache()), false);
            let image = image.unwrap_or_else(|error| panic!("{capability:?} {defines:?}: {error}"));
            let has = |kernel: &&str| image.windows(kernel.len()).any(|bytes| bytes == kernel.as_bytes());
            let missing: Vec<_> = source.kernels.iter().filter(|kernel| !has(kernel)).collect();
            assert!(missing.is_empty(), "{} lacks {missing:?}", source.name);
        };
        std::thread::scope(|scope| {
            for element in ["-DELEMENT_F32", "-DELEMENT_BF16", "-DELEMENT_F16"] {
                scope.spawn(move || {
                    for capability in [(8, 0), (9, 0), (10, 0)] {
                        for source in SOURCES {
                            check(source, capability, &[element.into()]);
                        }
                        let is_f32 = element == "-DELEMENT_F32";
                        for variant in [0, 64, 64 + MASKED].into_iter().take(if is_f32 { 2 } else { 3 }) {
                            for source in sources(variant, is_f32) {
                                check(source, capability, &head_defines(element, variant));
                            }
                        }
                    }
                });
            }
        });
    }
}
