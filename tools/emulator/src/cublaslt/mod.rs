//! cuBLASLt's functions, as libcublasLt.so.13 has them: descriptions of products, the algorithms there are, and the product itself,
//! which is computed on the host when its stream gets there.
//!
//! There are two algorithms for each product, which add up in opposite orders, so that a program that chooses has a choice.
//! Where the real library has none, with leading dimensions that are no multiples of 16 bytes for the epilogues that have an
//! auxiliary matrix, there is none here.

mod multiply;
mod product;

use crate::driver::{Handles, enter, stream_of};
use crate::graph::submit;
use crate::streams::{Task, lock};
use cudarc::cublaslt::sys::{
    cublasComputeType_t, cublasLtEpilogue_t, cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t,
    cublasLtMatmulDescAttributes_t, cublasLtMatmulHeuristicResult_t, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t, cublasLtMatrixLayout_t, cublasStatus_t, cudaDataType,
    cudaDataType_t, cudaStream_t,
};
use product::{Epilogue, Kind, Operands, Product};
use std::ffi::{c_char, c_int, c_void};
use std::sync::Mutex;

type Outcome = Result<(), cublasStatus_t>;

static LIBRARIES: Handles<()> = Handles::new();
static DESCRIPTIONS: Handles<Mutex<Description>> = Handles::new();
static LAYOUTS: Handles<Layout> = Handles::new();
static PREFERENCES: Handles<()> = Handles::new();

/// What is asked of a product beside its operands. Attributes are as they were set.
#[derive(Clone, Copy)]
struct Description {
    rounds_to_tf32: bool,
    transposes: [bool; 2],
    epilogue: u32,
    bias: u64,
    /// None unless it was set.
    bias_kind: Option<Kind>,
    aux: u64,
    aux_stride: usize,
}

/// How a matrix lies, in columns.
#[derive(Clone, Copy)]
struct Layout {
    kind: Kind,
    rows: usize,
    cols: usize,
    /// Elements from one column to the next.
    stride: usize,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtCreate(handle: *mut cublasLtHandle_t) -> cublasStatus_t {
    if enter().is_err() {
        return cublasStatus_t::CUBLAS_STATUS_NOT_INITIALIZED;
    }
    // SAFETY: the caller's pointer is to a handle.
    status(unsafe { put(handle, LIBRARIES.add(())) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtGetStatusString(_: cublasStatus_t) -> *const c_char {
    c"the emulated cuBLASLt has no words for it".as_ptr()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtGetVersion() -> usize {
    130_000
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescCreate(
    description: *mut cublasLtMatmulDesc_t,
    compute: cublasComputeType_t,
    scale: cudaDataType_t,
) -> cublasStatus_t {
    use cublasComputeType_t as Compute;
    let rounds_to_tf32 = match (compute, scale) {
        (Compute::CUBLAS_COMPUTE_32F, cudaDataType_t::CUDA_R_32F) => false,
        (Compute::CUBLAS_COMPUTE_32F_FAST_TF32, cudaDataType_t::CUDA_R_32F) => true,
        _ => return cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED,
    };
    let new = Description {
        rounds_to_tf32,
        transposes: [false; 2],
        epilogue: cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT as u32,
        bias: 0,
        bias_kind: None,
        aux: 0,
        aux_stride: 0,
    };
    // SAFETY: the caller's pointer is to a description.
    status(unsafe { put(description, DESCRIPTIONS.add(Mutex::new(new))) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    description: cublasLtMatmulDesc_t,
    attribute: cublasLtMatmulDescAttributes_t,
    value: *const c_void,
    bytes: usize,
) -> cublasStatus_t {
    use cublasLtMatmulDescAttributes_t as Attribute;
    let set = || {
        let description = get(&DESCRIPTIONS, description)?;
        let mut description = lock(&description);
        // SAFETY: the caller's value has so many bytes.
        let (int, long) = unsafe { (read::<i32>(value, bytes), read::<u64>(value, bytes)) };
        match attribute {
            Attribute::CUBLASLT_MATMUL_DESC_TRANSA => description.transposes[0] = transpose(int?)?,
            Attribute::CUBLASLT_MATMUL_DESC_TRANSB => description.transposes[1] = transpose(int?)?,
            Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE => description.epilogue = int? as u32,
            Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER => description.bias = long?,
            Attribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE => {
                description.bias_kind = Some(Kind::of_number(int?).ok_or(NOT_SUPPORTED)?);
            }
            Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER => description.aux = long?,
            Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD => description.aux_stride = long? as usize,
            _ => return Err(NOT_SUPPORTED),
        }
        Ok(())
    };
    status(set())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut cublasLtMatrixLayout_t,
    kind: cudaDataType,
    rows: u64,
    cols: u64,
    stride: i64,
) -> cublasStatus_t {
    let create = || {
        let kind = Kind::of_number(kind as i32).ok_or(NOT_SUPPORTED)?;
        if stride < 0 || (stride as u64) < rows {
            return Err(INVALID);
        }
        let new = Layout { kind, rows: rows as usize, cols: cols as usize, stride: stride as usize };
        // SAFETY: the caller's pointer is to a layout.
        unsafe { put(layout, LAYOUTS.add(new)) }
    };
    status(create())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceCreate(
    preference: *mut cublasLtMatmulPreference_t,
) -> cublasStatus_t {
    // SAFETY: the caller's pointer is to a preference.
    status(unsafe { put(preference, PREFERENCES.add(())) })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(
    preference: cublasLtMatmulPreference_t,
) -> cublasStatus_t {
    status(PREFERENCES.remove(preference).map_err(|_| INVALID))
}

/// No preference matters: the algorithms need no workspace.
#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: cublasLtMatmulPreference_t,
    _attribute: cublasLtMatmulPreferenceAttributes_t,
    _value: *const c_void,
    _bytes: usize,
) -> cublasStatus_t {
    status(get(&PREFERENCES, preference).map(|_| ()))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: cublasLtHandle_t,
    description: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    c: cublasLtMatrixLayout_t,
    d: cublasLtMatrixLayout_t,
    preference: cublasLtMatmulPreference_t,
    num_wanted: c_int,
    results: *mut cublasLtMatmulHeuristicResult_t,
    num_found: *mut c_int,
) -> cublasStatus_t {
    let find = || {
        get(&LIBRARIES, handle)?;
        get(&PREFERENCES, preference)?;
        product_of(description, [a, b, c, d])?;
        if num_wanted < 1 || results.is_null() {
            return Err(INVALID);
        }
        let count = num_wanted.min(2);
        for number in 0..count as usize {
            let mut algo = cublasLtMatmulAlgo_t { data: [0; 8] };
            algo.data[0] = number as u64 + 1;
            let state = cublasStatus_t::CUBLAS_STATUS_SUCCESS;
            let result = cublasLtMatmulHeuristicResult_t {
                algo,
                workspaceSize: 0,
                state,
                wavesCount: 1.0,
                reserved: [0; 4],
            };
            // SAFETY: the caller has room for as many as it wants.
            unsafe { results.add(number).write(result) };
        }
        // SAFETY: the caller's pointer is to an int.
        unsafe { put(num_found, count) }
    };
    status(find())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cublasLtMatmul(
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
) -> cublasStatus_t {
    let multiply = || {
        enter().map_err(|_| cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED)?;
        get(&LIBRARIES, handle)?;
        let mut product = product_of(description, [a_layout, b_layout, c_layout, d_layout])?;
        // SAFETY: the caller's alpha and beta are floats, and its algorithm is one.
        let (alpha, beta, algorithm) =
            unsafe { (read::<f32>(alpha, 4)?, read::<f32>(beta, 4)?, algorithm.as_ref()) };
        [product.alpha, product.beta] = [alpha, beta];
        product.is_reversed = match algorithm.map_or(1, |algorithm| algorithm.data[0]) {
            1 => false,
            2 => true,
            _ => return Err(INVALID),
        };
        let description = *lock(&*get(&DESCRIPTIONS, description)?);
        let [a, b, c, d] = [a, b, c, d.cast_const()].map(|pointer| pointer.expose_provenance() as u64);
        let operands = Operands { a, b, c, d, bias: description.bias, aux: description.aux };
        product.check_pointers(&operands)?;
        let workspace = (workspace.expose_provenance() as u64, workspace_bytes);
        let stream = stream_of(stream).map_err(|_| INVALID)?;
        let task = Task::new(move || product.run(&operands, workspace));
        submit(&stream, task).map_err(|_| cublasStatus_t::CUBLAS_STATUS_EXECUTION_FAILED)
    };
    status(multiply())
}

const INVALID: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE;
const NOT_SUPPORTED: cublasStatus_t = cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED;

/// A product as it is described, a b + 0 c.
fn product_of(
    description: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 4],
) -> Result<Product, cublasStatus_t> {
    let description = *lock(&*get(&DESCRIPTIONS, description)?);
    let [a, b, c, d] = layouts.map(|layout| get(&LAYOUTS, layout).map(|layout| *layout));
    let (a, b, c, d) = (a?, b?, c?, d?);
    let sides = |layout: Layout, transpose: bool| {
        if transpose { (layout.cols, layout.rows) } else { (layout.rows, layout.cols) }
    };
    let ((m, k), (of_b, n)) = (sides(a, description.transposes[0]), sides(b, description.transposes[1]));
    if k != of_b || (d.rows, d.cols) != (m, n) || (c.rows, c.cols) != (m, n) || m == 0 || n == 0 {
        return Err(INVALID);
    }
    let product = Product {
        m,
        n,
        k,
        transposes: description.transposes,
        operands: a.kind,
        output: d.kind,
        strides: [a.stride, b.stride, c.stride, d.stride],
        rounds_to_tf32: description.rounds_to_tf32,
        epilogue: epilogue_of(description.epilogue).ok_or(NOT_SUPPORTED)?,
        bias_kind: description.bias_kind.unwrap_or(d.kind),
        aux_stride: description.aux_stride,
        alpha: 1.0,
        beta: 0.0,
        is_reversed: false,
    };
    if a.kind != b.kind || c.kind != d.kind || (d.kind != a.kind && d.kind != Kind::F32) {
        return Err(NOT_SUPPORTED);
    }
    product.check(&description)?;
    Ok(product)
}

impl Product {
    /// Fails where the real library has no algorithm, or an epilogue's pointer was not set.
    fn check(&self, description: &Description) -> Outcome {
        if self.epilogue.has_bias() && description.bias == 0 {
            return Err(INVALID);
        }
        if !self.epilogue.has_aux() {
            return Ok(());
        }
        if description.aux == 0 || self.aux_stride < self.m {
            return Err(INVALID);
        }
        let [a, b, c, d] = self.strides;
        let is_aligned = |stride: usize, kind: Kind| (stride * kind.bytes()).is_multiple_of(16);
        let are_aligned = [a, b].iter().all(|&stride| is_aligned(stride, self.operands))
            && [c, d, self.aux_stride].iter().all(|&stride| is_aligned(stride, self.output));
        if are_aligned { Ok(()) } else { Err(NOT_SUPPORTED) }
    }

    fn check_pointers(&self, operands: &Operands) -> Outcome {
        let Operands { a, b, c, d, aux, .. } = *operands;
        let boundary = if self.epilogue.has_aux() { 16 } else { 1 };
        let boundaries = [(a, self.operands), (b, self.operands), (c, self.output), (d, self.output)];
        let are_aligned = boundaries
            .iter()
            .all(|&(address, kind)| address.is_multiple_of(boundary.max(kind.bytes() as u64)))
            && (!self.epilogue.has_aux() || aux.is_multiple_of(16));
        if are_aligned { Ok(()) } else { Err(NOT_SUPPORTED) }
    }
}

fn epilogue_of(number: u32) -> Option<Epilogue> {
    use cublasLtEpilogue_t as Of;
    let known = [
        (Of::CUBLASLT_EPILOGUE_DEFAULT, Epilogue::None),
        (Of::CUBLASLT_EPILOGUE_BIAS, Epilogue::Bias),
        (Of::CUBLASLT_EPILOGUE_GELU_AUX_BIAS, Epilogue::BiasGelu),
        (Of::CUBLASLT_EPILOGUE_DGELU, Epilogue::GeluBackward),
        (Of::CUBLASLT_EPILOGUE_BGRADA, Epilogue::BiasGradient),
    ];
    known.into_iter().find(|&(of, _)| of as u32 == number).map(|(_, epilogue)| epilogue)
}

/// CUBLAS_OP_N and CUBLAS_OP_T.
fn transpose(operation: i32) -> Result<bool, cublasStatus_t> {
    match operation {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(NOT_SUPPORTED),
    }
}

fn get<T, H>(handles: &Handles<T>, handle: *mut H) -> Result<std::sync::Arc<T>, cublasStatus_t> {
    handles.get(handle).map_err(|_| INVALID)
}

fn status(outcome: Outcome) -> cublasStatus_t {
    outcome.err().unwrap_or(cublasStatus_t::CUBLAS_STATUS_SUCCESS)
}

/// # Safety
/// `to` must be null or point to a `T`.
unsafe fn put<T>(to: *mut T, value: T) -> Outcome {
    if to.is_null() {
        return Err(INVALID);
    }
    // SAFETY: the caller's promise.
    unsafe { to.write(value) };
    Ok(())
}

/// # Safety
/// `from` must be null or point to `bytes` bytes, which are a `T` if it has as many.
unsafe fn read<T: Copy>(from: *const c_void, bytes: usize) -> Result<T, cublasStatus_t> {
    if from.is_null() || bytes != size_of::<T>() {
        return Err(INVALID);
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { from.cast::<T>().read_unaligned() })
}
