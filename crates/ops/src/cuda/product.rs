//! Matrix products in words: what is multiplied, how it lies, and what is done to it before it is stored.

use super::bindings::cublaslt as lt;

/// How elements of a matrix lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    F32,
    Bf16,
    F16,
}

impl Kind {
    /// Bytes of one.
    pub(crate) fn bytes(self) -> usize {
        if self == Kind::F32 { 4 } else { 2 }
    }

    /// cuBLASLt's name for it.
    pub(super) fn data_type(self) -> lt::cudaDataType {
        match self {
            Kind::F32 => lt::cudaDataType::CUDA_R_32F,
            Kind::Bf16 => lt::cudaDataType::CUDA_R_16BF,
            Kind::F16 => lt::cudaDataType::CUDA_R_16F,
        }
    }
}

/// What is done to a product before it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Epilogue {
    /// Nothing.
    None,
    /// A bias for each row of the column-major output.
    Bias,
    /// A bias, stored in the auxiliary output, then GELU.
    BiasGelu,
    /// Times GELU's derivative at the auxiliary input.
    GeluBackward,
    /// The sum of op(a) over k, for each row, is stored as the bias: a bias's gradient where a is an output's.
    BiasGradient,
}

/// A product d = op(a) op(b) + beta c, all column-major: d and c (m, n), op(a) (m, k), op(b) (k, n).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Product {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// Whether a lies as (k, m).
    pub(crate) transpose_a: bool,
    /// Whether b lies as (n, k).
    pub(crate) transpose_b: bool,
    /// Elements of a and b.
    pub(crate) operands: Kind,
    /// Elements of c and d.
    pub(crate) output: Kind,
    /// Whether c is added: beta is 1, else 0.
    pub(crate) accumulate: bool,
    pub(crate) epilogue: Epilogue,
    /// Elements from one column of b, and of c and d, to the next; 0 where there is no gap.
    pub(crate) strides: (usize, usize),
}

impl Product {
    /// A product of `kind` without transposes, gaps or epilogue, that replaces what was there.
    pub(crate) fn new(kind: Kind, m: usize, n: usize, k: usize) -> Self {
        Product {
            m,
            n,
            k,
            transpose_a: false,
            transpose_b: false,
            operands: kind,
            output: kind,
            accumulate: false,
            epilogue: Epilogue::None,
            strides: (0, 0),
        }
    }
}

/// Addresses of a product's operands. `c` is ignored without `accumulate`, `bias` and `aux` without their epilogues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) d: u64,
    pub(crate) c: u64,
    pub(crate) a: u64,
    pub(crate) b: u64,
    pub(crate) bias: u64,
    pub(crate) aux: u64,
}
