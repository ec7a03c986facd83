//! What a device is: memory of a few scalar types, copies to and from the host.
//!
//! Buffers are whole tensors, allocated once before the first step; operations borrow them.

use crate::element::Element;
use bytemuck::Pod;

/// A type a buffer may hold: f32, bf16, f16 or u32.
pub trait Scalar: Pod + Send + Sync + 'static {}
impl Scalar for f32 {}
impl Scalar for crate::Bf16 {}
impl Scalar for crate::F16 {}
impl Scalar for u32 {}

/// Memory on a device.
pub trait Buffer: Send + Sync {
    /// Number of elements.
    fn len(&self) -> usize;
    /// Whether it has no elements.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What differs from one run of the same operations to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changing {
    /// The key of their dropouts; `None` where nothing is dropped.
    pub dropout_key: Option<u64>,
    /// Tokens that were read before, in generation: where the new ones begin.
    pub position: usize,
}

/// A place where operations run.
pub trait Device: Send + Sync + Sized + 'static {
    /// The element type of activations and of compute copies of weights.
    type Element: Element;
    /// Memory for `T`.
    type Buffer<T: Scalar>: Buffer;
    /// Work that can be queued again as a whole; nothing, where an operation is done when it returns.
    type Recording: Default + Send + Sync;

    /// Allocates `len` zeros.
    fn zeros<T: Scalar>(&self, len: usize) -> Self::Buffer<T>;
    /// Allocates `count` times `len` zeros, which are read one after the other and given back together.
    fn zeros_together<T: Scalar>(&self, count: usize, len: usize) -> Vec<Self::Buffer<T>> {
        (0..count).map(|_| self.zeros(len)).collect()
    }
    /// Copies `src` to the start of `dst`. `src` must not be longer than `dst`.
    fn write<T: Scalar>(&self, dst: &mut Self::Buffer<T>, src: &[T]);
    /// Copies the start of `src` to `dst`. `dst` must not be longer than `src`.
    fn read<T: Scalar>(&self, dst: &mut [T], src: &Self::Buffer<T>);
    /// Copies all of `src` to the start of `dst`.
    fn copy<T: Scalar>(&self, dst: &mut Self::Buffer<T>, src: &Self::Buffer<T>);
    /// Runs `queue`, or what it queued before if the device has recorded that. `signature` names everything that the
    /// operations depend on, shapes and buffers, but what is `changing`. They must neither read from the device nor write
    /// to it.
    fn replay(
        &self,
        recording: &mut Self::Recording,
        signature: u64,
        changing: Changing,
        mut queue: impl FnMut(),
    ) {
        let _ = (recording, signature, changing);
        queue();
    }
    /// Sets all of `dst` to zero.
    fn clear<T: Scalar>(&self, dst: &mut Self::Buffer<T>);
    /// Sets all of `dsts` to zero.
    fn clear_all(&self, dsts: &mut [&mut Self::Buffer<f32>]) {
        dsts.iter_mut().for_each(|dst| self.clear(dst));
    }
    /// How many threads or execution units results may be spread over; for messages only, never for results.
    fn num_threads(&self) -> usize;
    /// The device and its instruction set in words, for the log.
    fn describe(&self) -> String;
    /// Floating-point operations per second that this device reaches at most on its element type, measured.
    fn peak_flops(&self) -> f64;
    /// Bytes a second that its memory delivers at most, measured.
    fn peak_bytes(&self) -> f64;
    /// Waits until everything that was asked for is done. Operations may return before they are; reading waits by itself.
    fn synchronize(&self) {}
    /// Bytes that can be allocated now; `None` where that is not the device's to say.
    fn free_bytes(&self) -> Option<usize> {
        None
    }
    /// Bytes of memory that it has in all; `None` where `free_bytes` is.
    fn total_bytes(&self) -> Option<usize> {
        None
    }
    /// Elements that an operation's tensor may have.
    fn max_elements(&self) -> usize {
        usize::MAX
    }
    /// Runs `f` where operations start fastest: on the CPU's threads; on a GPU in turn, one thread after the other. `f` calls this
    /// no more.
    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        f()
    }
}

/// A buffer of `T` on device `D`.
pub type Buf<D, T> = <D as Device>::Buffer<T>;
/// A buffer of activations on device `D`.
pub type Act<D> = <D as Device>::Buffer<<D as Device>::Element>;
