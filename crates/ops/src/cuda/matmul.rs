//! Matrix products by cuBLASLt, with what can be fused into them; the algorithm of each shape is timed once.
//!
//! cuBLASLt counts in columns: a row-major (rows, cols) is its column-major (cols, rows). So a product out = x W of
//! row-major matrices is asked for as out^T = W^T x^T, and no matrix is ever transposed in memory.
//!
//! The trick: candidates of the library's heuristic are timed on the real operands into a scratch output, and the choice
//! is kept on disk by card and library version, so that another run on this card takes the same algorithms and ends with
//! the same bits.

use super::CudaError;
use super::bindings::{SUCCESS, Status, cublaslt as lt, describe};
use super::choices::{Choices, Forms, Place};
use super::context::{Context, Lane, Shape, arguments};
use super::product::{Epilogue, Kind, Operands, Product};
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Mutex;

/// Bytes of workspace: what NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Algorithms that are timed.
const NUM_CANDIDATES: usize = 16;
/// Times that each is run in a round, after once to warm up.
const NUM_RUNS: usize = 3;
/// Rounds over all of them; a candidate's best counts, since a card's clock moves.
const NUM_ROUNDS: usize = 3;

/// cuBLASLt, and what it was found to do best.
pub(crate) struct Matmul {
    handle: lt::cublasLtHandle_t,
    /// One for each lane.
    workspaces: [u64; 2],
    /// Whether f32 products may round their operands to TF32.
    tf32: bool,
    plans: Mutex<HashMap<Product, Option<Plan>>>,
    choices: Mutex<Choices>,
    forms: Forms,
}

// SAFETY: cuBLASLt's handle may be used from any thread; the plans are behind a lock while they are changed and run.
unsafe impl Send for Matmul {}
// SAFETY: as above.
unsafe impl Sync for Matmul {}

struct Plan {
    description: lt::cublasLtMatmulDesc_t,
    layouts: [lt::cublasLtMatrixLayout_t; 3], // a, b, and c like d
    algorithm: lt::cublasLtMatmulAlgo_t,
}

impl Matmul {
    pub(crate) fn new(context: &Context, tf32: bool) -> Result<Self, CudaError> {
        let mut handle = std::ptr::null_mut();
        context.bind();
        // SAFETY: the handle is written.
        let created = unsafe { lt::cublasLtCreate(&mut handle) };
        if created != SUCCESS {
            return Err(CudaError::Driver { call: "cublasLtCreate", message: words(created) });
        }
        // SAFETY: it takes nothing.
        let version = unsafe { lt::cublasLtGetVersion() };
        let card = context.name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let path = context.cache.as_ref().map(|cache| cache.join(format!("matmul-{card}-{version}.txt")));
        let workspaces = [context.open_memory(WORKSPACE_BYTES)?, context.open_memory(WORKSPACE_BYTES)?];
        Ok(Matmul {
            handle,
            workspaces,
            tf32,
            plans: Mutex::default(),
            choices: Mutex::new(Choices::load(path)),
            forms: Forms::new(),
        })
    }

    /// Whether it multiplies at all on this card, which a library that is older than the card may not.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn check(&self, context: &Context, kind: Kind) -> Result<(), CudaError> {
        const N: usize = 64;
        let product = Product::new(kind, N, N, N);
        let plan = Plan::describe(product, self.tf32);
        let [d, a, b] = [0, 1, 2].map(|part| self.workspaces[1] + (part * N * N * kind.bytes()) as u64);
        let operands = Operands { d, c: 0, a, b, bias: 0, aux: 0 };
        let run = || {
            let candidates = self.candidates(&plan)?;
            let algorithm = candidates.first().ok_or(lt::NOT_SUPPORTED)?;
            match self.call(context, Lane::First, &plan, algorithm, product, operands) {
                SUCCESS => Ok(()),
                failed => Err(failed),
            }
        };
        context.clear(a, 2 * N * N * kind.bytes());
        run().map_err(|status| {
            // SAFETY: it takes nothing.
            let version = unsafe { lt::cublasLtGetVersion() };
            let (major, minor) = context.capability;
            let name = &context.name;
            let message = format!(
                "{}; cuBLASLt {version} may be too old for {name}, compute capability {major}.{minor}",
                words(status)
            );
            CudaError::Driver { call: "cublasLtMatmul", message }
        })
    }

    /// Gives its memory back.
    pub(crate) fn close(&mut self, context: &Context) {
        self.workspaces.iter().for_each(|&workspace| context.free(workspace));
    }

    /// Runs a product. False, with nothing done, if the library has no algorithm for it: some epilogues want sizes that
    /// are multiples of 8.
    #[must_use]
    pub(crate) fn run(&self, context: &Context, lane: Lane, product: Product, operands: Operands) -> bool {
        if product.m == 0 || product.n == 0 {
            return true;
        }
        let mut plans = self.plans.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let plan = plans.entry(product).or_insert_with(|| self.plan(context, product, operands));
        let Some(plan) = plan else { return false };
        context.bind();
        let status = self.call(context, lane, plan, &plan.algorithm, product, operands);
        require("cublasLtMatmul", status);
        true
    }

    /// Which of `count` forms a place takes: see [`Forms::fastest`].
    pub(crate) fn fastest_form(
        &self,
        kind: Kind,
        place: Place,
        count: usize,
        measure: impl FnMut(usize) -> Option<f64>,
    ) -> usize {
        let key = format!("{kind:?} tf32 {}", self.tf32);
        self.forms.fastest(&self.choices, place, &key, count, measure)
    }

    /// Runs a product that has no epilogue, on cuBLASLt or, where it has no algorithm, by a plain kernel.
    pub(crate) fn plain(&self, context: &Context, lane: Lane, product: Product, operands: Operands) {
        assert!(product.epilogue == Epilogue::None, "a plain product");
        if !self.run(context, lane, product, operands) {
            naive(context, lane, product, operands);
        }
    }

    fn call(
        &self,
        context: &Context,
        lane: Lane,
        plan: &Plan,
        algorithm: &lt::cublasLtMatmulAlgo_t,
        product: Product,
        operands: Operands,
    ) -> Status {
        use lt::cublasLtMatmulDescAttributes_t as Attribute;
        let (one, beta) = (1.0f32, if product.accumulate { 1.0f32 } else { 0.0 });
        if matches!(product.epilogue, Epilogue::Bias | Epilogue::BiasGelu | Epilogue::BiasGradient) {
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &operands.bias);
        }
        if matches!(product.epilogue, Epilogue::BiasGelu | Epilogue::GeluBackward) {
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &operands.aux);
        }
        let c = if product.accumulate { operands.c } else { operands.d };
        let [a_layout, b_layout, d_layout] = plan.layouts;
        // SAFETY: descriptions match the buffers, which the operation has checked; alpha and beta are read at once.
        unsafe {
            lt::cublasLtMatmul(
                self.handle,
                plan.description,
                std::ptr::from_ref(&one).cast(),
                operands.a as *const c_void,
                a_layout,
                operands.b as *const c_void,
                b_layout,
                std::ptr::from_ref(&beta).cast(),
                c as *const c_void,
                d_layout,
                operands.d as *mut c_void,
                d_layout,
                algorithm,
                self.workspaces[lane as usize] as *mut c_void,
                WORKSPACE_BYTES,
                context.stream(lane).cast(),
            )
        }
    }

    /// Describes a product and chooses its algorithm; `None` if there is none.
    fn plan(&self, context: &Context, product: Product, operands: Operands) -> Option<Plan> {
        let mut plan = Plan::describe(product, self.tf32);
        let candidates = self.candidates(&plan);
        let candidates = candidates.unwrap_or_else(|status| {
            panic!("cublasLtMatmulAlgoGetHeuristic of {product:?}: {}", words(status))
        });
        let first = candidates.first()?;
        let key = format!("{product:?} tf32 {}", self.tf32);
        let mut choices = self.choices.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Only what the library offers again is taken from the file.
        let kept = choices.by_product.get(&key).copied();
        if let Some(kept) = candidates.iter().find(|algorithm| Some(algorithm.data) == kept) {
            plan.algorithm = *kept;
            return Some(plan);
        }
        plan.algorithm = *first;
        if candidates.len() > 1
            && let Some(best) = self.fastest(context, &plan, product, operands, &candidates)
        {
            let kept = choices.keep(key, best.data);
            let kept = candidates.iter().find(|algorithm| algorithm.data == kept);
            plan.algorithm = *kept.unwrap_or(&best);
        }
        Some(plan)
    }

    /// Algorithms that can do a product, the likely best first; none where it is not supported.
    fn candidates(&self, plan: &Plan) -> Result<Vec<lt::cublasLtMatmulAlgo_t>, Status> {
        let mut preference = std::ptr::null_mut();
        let mut count = 0;
        let workspace = WORKSPACE_BYTES as u64;
        let [a, b, d] = plan.layouts;
        // SAFETY: the results have room for as many as are asked for; zeros are valid in each.
        unsafe {
            let mut results: [lt::cublasLtMatmulHeuristicResult_t; NUM_CANDIDATES] = std::mem::zeroed();
            require("cublasLtMatmulPreferenceCreate", lt::cublasLtMatmulPreferenceCreate(&mut preference));
            let attribute =
                lt::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let set = lt::cublasLtMatmulPreferenceSetAttribute(
                preference,
                attribute,
                std::ptr::from_ref(&workspace).cast(),
                size_of::<u64>(),
            );
            require("cublasLtMatmulPreferenceSetAttribute", set);
            let status = lt::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                plan.description,
                a,
                b,
                d,
                d,
                preference,
                NUM_CANDIDATES as i32,
                results.as_mut_ptr(),
                &mut count,
            );
            let _ = lt::cublasLtMatmulPreferenceDestroy(preference);
            match status {
                SUCCESS => {}
                lt::NOT_SUPPORTED | lt::INVALID_VALUE => return Ok(Vec::new()),
                other => return Err(other),
            }
            let found = results[..count as usize].iter();
            Ok(found.filter(|result| result.state as Status == SUCCESS).map(|result| result.algo).collect())
        }
    }

    /// Times the candidates; `None` where none works, or there is no memory for an output of their own, which they have where the
    /// product adds to what is there.
    fn fastest(
        &self,
        context: &Context,
        plan: &Plan,
        product: Product,
        operands: Operands,
        candidates: &[lt::cublasLtMatmulAlgo_t],
    ) -> Option<lt::cublasLtMatmulAlgo_t> {
        // The operands may come from the other lane.
        context.synchronize();
        let own = match product.accumulate {
            true => {
                let bytes = product.strides.1.max(product.m) * product.n * product.output.bytes();
                let own = context.try_allocate(bytes)?;
                context.clear(own, bytes);
                Some(own)
            }
            // It will be overwritten, as the auxiliary matrix will.
            false => None,
        };
        let scratch = Operands { d: own.unwrap_or(operands.d), ..operands };
        let mut seconds = vec![f64::INFINITY; candidates.len()];
        for _ in 0..NUM_ROUNDS {
            for (algorithm, best) in candidates.iter().zip(&mut seconds) {
                let run = || self.call(context, Lane::First, plan, algorithm, product, scratch);
                if run() == SUCCESS {
                    let mut is_whole = true;
                    let time = context.time(|| (0..NUM_RUNS).for_each(|_| is_whole &= run() == SUCCESS));
                    *best = if is_whole { best.min(time) } else { f64::INFINITY };
                }
            }
        }
        context.synchronize();
        if let Some(own) = own {
            context.free(own);
        }
        let best = (0..candidates.len()).min_by(|&a, &b| seconds[a].total_cmp(&seconds[b]))?;
        seconds[best].is_finite().then_some(candidates[best])
    }
}

impl Plan {
    fn describe(product: Product, tf32: bool) -> Self {
        use lt::cublasLtMatmulDescAttributes_t as Attribute;
        let compute = match (product.operands, tf32) {
            (Kind::F32, true) => lt::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            _ => lt::cublasComputeType_t::CUBLAS_COMPUTE_32F,
        };
        let mut description = std::ptr::null_mut();
        // SAFETY: the description is written.
        let created =
            unsafe { lt::cublasLtMatmulDescCreate(&mut description, compute, lt::cudaDataType::CUDA_R_32F) };
        require("cublasLtMatmulDescCreate", created);
        // CUBLAS_OP_N and CUBLAS_OP_T, which these bindings do not name.
        let operation = |transpose: bool| i32::from(transpose);
        let stored =
            |transpose: bool, rows: usize, cols: usize| if transpose { (cols, rows) } else { (rows, cols) };
        let Product { m, n, k, transpose_a, transpose_b, operands, output, epilogue, strides, .. } = product;
        let layouts = [
            layout(operands, stored(transpose_a, m, k), 0),
            layout(operands, stored(transpose_b, k, n), strides.0),
            layout(output, (m, n), strides.1),
        ];
        let algorithm = lt::cublasLtMatmulAlgo_t { data: [0; 8] };
        let plan = Plan { description, layouts, algorithm };
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &operation(transpose_a));
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &operation(transpose_b));
        let fused = match epilogue {
            Epilogue::None => lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias => lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::BiasGelu => lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
            Epilogue::GeluBackward => lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DGELU,
            Epilogue::BiasGradient => lt::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BGRADA,
        };
        plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &fused);
        // The heuristic wants to know them; each call sets its own. 256 is as aligned as any buffer.
        let somewhere = 256u64;
        if matches!(epilogue, Epilogue::Bias | Epilogue::BiasGelu | Epilogue::BiasGradient) {
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &somewhere);
        }
        if matches!(epilogue, Epilogue::BiasGelu | Epilogue::GeluBackward) {
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, &somewhere);
            plan.set(Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, &(m as i64));
        }
        plan
    }

    fn set<T>(&self, attribute: lt::cublasLtMatmulDescAttributes_t, value: &T) {
        // SAFETY: the value has the size that is given, and is copied.
        let status = unsafe {
            lt::cublasLtMatmulDescSetAttribute(
                self.description,
                attribute,
                std::ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        };
        require("cublasLtMatmulDescSetAttribute", status);
    }
}

fn layout(kind: Kind, (rows, cols): (usize, usize), stride: usize) -> lt::cublasLtMatrixLayout_t {
    let mut layout = std::ptr::null_mut();
    // SAFETY: the layout is written.
    let status = unsafe {
        lt::cublasLtMatrixLayoutCreate(
            &mut layout,
            kind.data_type(),
            rows as u64,
            cols as u64,
            stride.max(rows) as i64,
        )
    };
    require("cublasLtMatrixLayoutCreate", status);
    layout
}

/// The product by a kernel that takes any size: the reference, and the way out where cuBLASLt has none.
pub(crate) fn naive(context: &Context, lane: Lane, product: Product, operands: Operands) {
    let Product { m, n, k, transpose_a, transpose_b, operands: kind, output, accumulate, strides, .. } =
        product;
    let kernel = if kind != Kind::F32 && output == Kind::F32 { "matmul_wide" } else { "matmul" };
    // A grid's first dimension alone has room for any number of rows.
    let shape = Shape::new(n.div_ceil(16), 256).by(m.div_ceil(16), 1);
    let Operands { d, c, a, b, .. } = operands;
    context.start(
        lane,
        context.function(kernel),
        kernel,
        shape,
        arguments![
            d,
            c,
            a,
            b,
            m,
            n,
            k,
            i32::from(transpose_a),
            i32::from(transpose_b),
            i32::from(accumulate),
            strides.0.max(if transpose_b { n } else { k }),
            strides.1.max(m)
        ],
    );
}

fn require(call: &str, status: Status) {
    assert!(status == SUCCESS, "{call}: {}", words(status));
}

/// The library's words for an answer.
fn words(status: Status) -> String {
    describe(status, lt::cublasLtGetStatusString)
}
