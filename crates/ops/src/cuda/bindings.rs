//! Functions of NVRTC and cuBLASLt, looked up in the very files that `library.rs` opened; cudarc has their types.
//!
//! cudarc's own functions open a library by name, `libnvrtc.so` first. Where a toolkit is installed beside a Python environment
//! that is another version than the one that was chosen, and may be one that the driver cannot serve.

/// What a function answers. A number and not cudarc's enumerations, which would have to know those of every later version.
pub(super) type Status = std::ffi::c_int;
/// The same in all libraries.
pub(super) const SUCCESS: Status = 0;

/// A library's words for an answer; `words` is its own function for that.
pub(super) fn describe(status: Status, words: unsafe fn(Status) -> *const std::ffi::c_char) -> String {
    // SAFETY: the library has static words for every number, or none.
    let text = unsafe { words(status) };
    if text.is_null() {
        return format!("status {status}");
    }
    // SAFETY: they end with a NUL.
    format!("{} (status {status})", unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy())
}

/// A table of a library's functions, and a function for each that calls through it.
macro_rules! functions {
    ($(fn $name:ident($($argument:ident: $kind:ty),* $(,)?) -> $result:ty;)*) => {
        struct Table {
            $($name: unsafe extern "C" fn($($kind),*) -> $result,)*
        }

        static TABLE: std::sync::OnceLock<Table> = std::sync::OnceLock::new();

        /// Takes the functions from `library`, which must stay open; the name of one that it lacks is the error. Only the
        /// first library counts.
        pub(in crate::cuda) fn load(library: &libloading::Library) -> Result<(), &'static str> {
            // SAFETY: the library is NVIDIA's, whose functions have had these types since CUDA 12.0.
            let table = unsafe {
                Table { $($name: *library.get(stringify!($name)).map_err(|_| stringify!($name))?,)* }
            };
            TABLE.get_or_init(|| table);
            Ok(())
        }

        fn table() -> &'static Table {
            TABLE.get().expect("the library was opened")
        }

        $(
            /// # Safety
            /// As NVIDIA's manual has it. The library must be open.
            pub(in crate::cuda) unsafe fn $name($($argument: $kind),*) -> $result {
                // SAFETY: the caller's promise.
                unsafe { (table().$name)($($argument),*) }
            }
        )*
    };
}

/// The compiler of kernels.
#[expect(non_snake_case, reason = "NVIDIA's names")]
pub(super) mod nvrtc {
    use super::Status;
    pub(in crate::cuda) use cudarc::nvrtc::sys::nvrtcProgram;
    use std::ffi::{c_char, c_int};

    functions! {
        fn nvrtcGetErrorString(status: Status) -> *const c_char;
        fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> Status;
        fn nvrtcGetNumSupportedArchs(count: *mut c_int) -> Status;
        fn nvrtcGetSupportedArchs(architectures: *mut c_int) -> Status;
        fn nvrtcCreateProgram(
            program: *mut nvrtcProgram,
            source: *const c_char,
            name: *const c_char,
            num_headers: c_int,
            headers: *const *const c_char,
            header_names: *const *const c_char,
        ) -> Status;
        fn nvrtcDestroyProgram(program: *mut nvrtcProgram) -> Status;
        fn nvrtcCompileProgram(
            program: nvrtcProgram,
            num_options: c_int,
            options: *const *const c_char,
        ) -> Status;
        fn nvrtcGetPTXSize(program: nvrtcProgram, size: *mut usize) -> Status;
        fn nvrtcGetPTX(program: nvrtcProgram, ptx: *mut c_char) -> Status;
        fn nvrtcGetCUBINSize(program: nvrtcProgram, size: *mut usize) -> Status;
        fn nvrtcGetCUBIN(program: nvrtcProgram, cubin: *mut c_char) -> Status;
        fn nvrtcGetProgramLogSize(program: nvrtcProgram, size: *mut usize) -> Status;
        fn nvrtcGetProgramLog(program: nvrtcProgram, log: *mut c_char) -> Status;
    }
}

/// Matrix products.
#[expect(non_snake_case, reason = "NVIDIA's names")]
pub(super) mod cublaslt {
    use super::Status;
    pub(in crate::cuda) use cudarc::cublaslt::sys::{
        cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t,
        cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t,
        cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t,
        cudaDataType, cudaStream_t,
    };
    use std::ffi::{c_char, c_int, c_void};

    /// The library has no such product.
    pub(in crate::cuda) const NOT_SUPPORTED: Status = 15;
    /// What was asked for is none.
    pub(in crate::cuda) const INVALID_VALUE: Status = 7;

    functions! {
        fn cublasLtCreate(handle: *mut cublasLtHandle_t) -> Status;
        fn cublasLtGetVersion() -> usize;
        fn cublasLtGetStatusString(status: Status) -> *const c_char;
        fn cublasLtMatmul(
            handle: cublasLtHandle_t,
            description: cublasLtMatmulDesc_t,
            alpha: *const c_void,
            a: *const c_void,
            a_layout: cublasLtMatrixLayout_t,
            b: *const c_void,
            b_layout: cublasLtMatrixLayout_t,
            beta: *const c_void,
            c: *const c_void,
            c_layout: cublasLtMatrixLayout_t,
            d: *mut c_void,
            d_layout: cublasLtMatrixLayout_t,
            algorithm: *const cublasLtMatmulAlgo_t,
            workspace: *mut c_void,
            workspace_bytes: usize,
            stream: cudaStream_t,
        ) -> Status;
        fn cublasLtMatmulAlgoGetHeuristic(
            handle: cublasLtHandle_t,
            description: cublasLtMatmulDesc_t,
            a_layout: cublasLtMatrixLayout_t,
            b_layout: cublasLtMatrixLayout_t,
            c_layout: cublasLtMatrixLayout_t,
            d_layout: cublasLtMatrixLayout_t,
            preference: cublasLtMatmulPreference_t,
            num_wanted: c_int,
            results: *mut cublasLtMatmulHeuristicResult_t,
            num_found: *mut c_int,
        ) -> Status;
        fn cublasLtMatmulDescCreate(
            description: *mut cublasLtMatmulDesc_t,
            compute: cublasComputeType_t,
            scale: cudaDataType,
        ) -> Status;
        fn cublasLtMatmulDescSetAttribute(
            description: cublasLtMatmulDesc_t,
            attribute: cublasLtMatmulDescAttributes_t,
            value: *const c_void,
            bytes: usize,
        ) -> Status;
        fn cublasLtMatmulPreferenceCreate(preference: *mut cublasLtMatmulPreference_t) -> Status;
        fn cublasLtMatmulPreferenceDestroy(preference: cublasLtMatmulPreference_t) -> Status;
        fn cublasLtMatmulPreferenceSetAttribute(
            preference: cublasLtMatmulPreference_t,
            attribute: cublasLtMatmulPreferenceAttributes_t,
            value: *const c_void,
            bytes: usize,
        ) -> Status;
        fn cublasLtMatrixLayoutCreate(
            layout: *mut cublasLtMatrixLayout_t,
            element: cudaDataType,
            rows: u64,
            columns: u64,
            stride: i64,
        ) -> Status;
    }
}
