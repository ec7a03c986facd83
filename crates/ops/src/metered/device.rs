//! Memory and what a device says of itself: passed on, and copies noted.

use super::Metered;
use crate::{Buffer, Device, Scalar};

impl<D: Device> Device for Metered<D> {
    type Element = D::Element;
    type Buffer<T: Scalar> = D::Buffer<T>;
    /// Operations are measured one by one, so nothing is recorded.
    type Recording = ();

    fn zeros<T: Scalar>(&self, len: usize) -> D::Buffer<T> {
        self.device.zeros(len)
    }
    fn zeros_together<T: Scalar>(&self, count: usize, len: usize) -> Vec<D::Buffer<T>> {
        self.device.zeros_together(count, len)
    }
    fn write<T: Scalar>(&self, dst: &mut D::Buffer<T>, src: &[T]) {
        self.note("write".into(), 0, 2 * size_of_val(src), |device| device.write(dst, src));
    }
    fn read<T: Scalar>(&self, dst: &mut [T], src: &D::Buffer<T>) {
        self.note("read".into(), 0, 2 * size_of_val(dst), |device| device.read(dst, src));
    }
    fn copy<T: Scalar>(&self, dst: &mut D::Buffer<T>, src: &D::Buffer<T>) {
        let bytes = 2 * src.len() * size_of::<T>();
        self.note("copy".into(), 0, bytes, |device| device.copy(dst, src));
    }
    fn clear<T: Scalar>(&self, dst: &mut D::Buffer<T>) {
        self.note("clear".into(), 0, dst.len() * size_of::<T>(), |device| device.clear(dst));
    }
    fn clear_all(&self, dsts: &mut [&mut D::Buffer<f32>]) {
        let bytes = dsts.iter().map(|dst| 4 * dst.len()).sum();
        self.note("clear".into(), 0, bytes, |device| device.clear_all(dsts));
    }
    fn num_threads(&self) -> usize {
        self.device.num_threads()
    }
    fn describe(&self) -> String {
        self.device.describe()
    }
    fn peak_flops(&self) -> f64 {
        self.device.peak_flops()
    }
    fn peak_bytes(&self) -> f64 {
        self.device.peak_bytes()
    }
    fn synchronize(&self) {
        self.device.synchronize();
    }
    fn free_bytes(&self) -> Option<usize> {
        self.device.free_bytes()
    }

    fn total_bytes(&self) -> Option<usize> {
        self.device.total_bytes()
    }
    fn max_elements(&self) -> usize {
        self.device.max_elements()
    }
    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        self.device.install(f)
    }
}
