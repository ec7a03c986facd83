//! Matrices as the copy engine of Hopper sees them.
//!
//! The real driver's 128 bytes are secret; these hold 64-bit words: the address, the type, the rank, the sizes from word 3, the
//! strides in bytes from word 8, the box in word 11 (its rows in the upper half), the swizzle in word 12.

use super::{Outcome, enter_without_context, result};
use cudarc::driver::sys::{
    CUresult, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};
use std::ffi::c_void;

/// A matrix and the boxes that are copied out of it; all in elements, the innermost first.
struct Matrix {
    address: u64,
    kind: CUtensorMapDataType,
    sizes: [u64; 2],
    /// Bytes from one row to the next.
    stride: u64,
    of_box: [u32; 2],
    steps: [u32; 2],
    swizzle: CUtensorMapSwizzle,
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuTensorMapEncodeTiled(
    map: *mut CUtensorMap,
    kind: CUtensorMapDataType,
    rank: u32,
    address: *mut c_void,
    sizes: *const u64,
    strides: *const u64,
    of_box: *const u32,
    steps: *const u32,
    interleave: CUtensorMapInterleave,
    swizzle: CUtensorMapSwizzle,
    _promotion: CUtensorMapL2promotion,
    fill: CUtensorMapFloatOOBfill,
) -> CUresult {
    let encode = || {
        let is_plain = rank == 2
            && interleave == CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE
            && fill == CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE;
        if !is_plain {
            return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED);
        }
        let is_missing = map.is_null() || sizes.is_null() || strides.is_null();
        if is_missing || of_box.is_null() || steps.is_null() || !map.addr().is_multiple_of(64) {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        let address = address.addr() as u64;
        // SAFETY: two sizes, a stride, and two numbers each of box and steps, as the rank says.
        let matrix = unsafe {
            let (sizes, stride) = ([*sizes, *sizes.add(1)], *strides);
            let (of_box, steps) = ([*of_box, *of_box.add(1)], [*steps, *steps.add(1)]);
            Matrix { address, kind, sizes, stride, of_box, steps, swizzle }
        };
        matrix.check()?;
        // SAFETY: the caller's map has 16 words, which begin on a boundary of 64 bytes.
        unsafe { map.cast::<[u64; 16]>().write(matrix.words()) };
        Ok(())
    };
    result(enter_without_context().and_then(|()| encode()))
}

impl Matrix {
    fn check(&self) -> Outcome {
        let bytes = element_bytes(self.kind).ok_or(CUresult::CUDA_ERROR_NOT_SUPPORTED)?;
        let inner = bytes * u64::from(self.of_box[0]);
        use CUtensorMapSwizzle as Swizzle;
        let most = match self.swizzle {
            Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE => u64::MAX,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_32B => 32,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_64B => 64,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B => 128,
            _ => return Err(CUresult::CUDA_ERROR_NOT_SUPPORTED),
        };
        let is_right = self.address != 0
            && self.address.is_multiple_of(16)
            && self.sizes.iter().all(|size| (1..=1 << 32).contains(size))
            && self.stride.is_multiple_of(16)
            && self.stride < 1 << 40
            && self.stride >= bytes * self.sizes[0]
            && self.of_box.iter().all(|size| (1..=256).contains(size))
            && self.steps.iter().all(|step| (1..=8).contains(step))
            && inner.is_multiple_of(16)
            && inner <= most;
        if !is_right {
            return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        if self.steps == [1, 1] { Ok(()) } else { Err(CUresult::CUDA_ERROR_NOT_SUPPORTED) }
    }

    fn words(&self) -> [u64; 16] {
        let mut words = [0; 16];
        [words[0], words[1], words[2]] = [self.address, self.kind as u64, 2];
        words[3..5].copy_from_slice(&self.sizes);
        words[8] = self.stride;
        words[11] = u64::from(self.of_box[0]) | u64::from(self.of_box[1]) << 32;
        words[12] = self.swizzle as u64;
        words
    }
}

fn element_bytes(kind: CUtensorMapDataType) -> Option<u64> {
    use CUtensorMapDataType as Kind;
    match kind {
        Kind::CU_TENSOR_MAP_DATA_TYPE_UINT8 => Some(1),
        Kind::CU_TENSOR_MAP_DATA_TYPE_UINT16
        | Kind::CU_TENSOR_MAP_DATA_TYPE_FLOAT16
        | Kind::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 => Some(2),
        Kind::CU_TENSOR_MAP_DATA_TYPE_UINT32
        | Kind::CU_TENSOR_MAP_DATA_TYPE_INT32
        | Kind::CU_TENSOR_MAP_DATA_TYPE_FLOAT32 => Some(4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_copy_engine_refuses_is_refused() {
        let right = || Matrix {
            address: 0x1000,
            kind: CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            sizes: [72, 5],
            stride: 144,
            of_box: [64, 128],
            steps: [1, 1],
            swizzle: CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        };
        assert_eq!(right().check(), Ok(()));
        let words = right().words();
        assert_eq!((words[0], words[1], words[2], words[3], words[4]), (0x1000, 9, 2, 72, 5));
        assert_eq!((words[8], words[11], words[12]), (144, 64 | 128 << 32, 3));
        let wrong: [fn(&mut Matrix); 5] = [
            |matrix| matrix.address += 8,
            |matrix| matrix.stride = 152,
            |matrix| matrix.of_box[0] = 72,
            |matrix| matrix.of_box[1] = 257,
            |matrix| matrix.sizes[1] = 0,
        ];
        for change in wrong {
            let mut matrix = right();
            change(&mut matrix);
            assert_eq!(matrix.check(), Err(CUresult::CUDA_ERROR_INVALID_VALUE));
        }
    }
}
