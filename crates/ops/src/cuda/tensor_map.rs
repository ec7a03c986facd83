//! Matrices as Hopper's copy engine sees them: it copies boxes out of them that a kernel names by their corner.

use super::context::require;
use super::product::Kind;
use cudarc::driver::sys as driver;
use std::ffi::c_void;

/// A row-major matrix of 16-bit elements, and the box that one copy takes out of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Boxes {
    /// The matrix's address.
    pub(crate) pointer: u64,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Rows of a box; its columns are 64, which are 128 bytes.
    pub(crate) box_rows: usize,
}

/// What a kernel takes as a `TensorMap`.
pub(crate) type TensorMap = [u64; 16];

impl Boxes {
    /// Whether rows begin where the copy engine wants them: on boundaries of 16 bytes.
    pub(crate) fn are_aligned(cols: usize) -> bool {
        cols.is_multiple_of(8)
    }

    /// Encodes it, for boxes that lie in shared memory under the 128-byte swizzle.
    pub(crate) fn encode(self, kind: Kind) -> TensorMap {
        let element = match kind {
            Kind::Bf16 => driver::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            Kind::F16 => driver::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            Kind::F32 => panic!("boxes are of 16-bit elements"),
        };
        #[repr(align(64))]
        struct Aligned(driver::CUtensorMap);
        let mut map = Aligned(driver::CUtensorMap { opaque: [0; 16] });
        let sizes = [self.cols as u64, self.rows as u64];
        // Bytes from one row to the next.
        let strides = [2 * self.cols as u64];
        let of_box = [64, self.box_rows as u32];
        // SAFETY: two sizes, one stride, a box of two and steps of two, as the rank says; all are read at once.
        let encoded = unsafe {
            driver::cuTensorMapEncodeTiled(
                &mut map.0,
                element,
                2,
                self.pointer as *mut c_void,
                sizes.as_ptr(),
                strides.as_ptr(),
                of_box.as_ptr(),
                [1u32, 1].as_ptr(),
                driver::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                driver::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                driver::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                driver::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        require("cuTensorMapEncodeTiled", encoded);
        map.0.opaque
    }
}
