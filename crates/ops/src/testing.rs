//! What the operations' tests share: dual numbers, so that a naive reference gives exact directional derivatives, and
//! tensors of random values that the element type holds exactly.

use crate::device::{Act, Buf, Device};
use crate::element::Element;
use crate::random::{Dropout, Rng};
use std::ops::{Add, Div, Mul, Neg, Sub};

/// A number that references are written over: f64, or [`Dual`] to differentiate them.
pub(crate) trait Real:
    Copy
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + From<f64>
{
    /// The value without its derivative.
    fn value(self) -> f64;
    /// Applies a function, given its value and its derivative at this point.
    fn chain(self, value: f64, derivative: f64) -> Self;

    fn exp(self) -> Self {
        let e = self.value().exp();
        self.chain(e, e)
    }
    fn ln(self) -> Self {
        self.chain(self.value().ln(), 1.0 / self.value())
    }
    fn sqrt(self) -> Self {
        let root = self.value().sqrt();
        self.chain(root, 0.5 / root)
    }
    fn tanh(self) -> Self {
        let t = self.value().tanh();
        self.chain(t, 1.0 - t * t)
    }
    fn sum(terms: impl Iterator<Item = Self>) -> Self {
        terms.fold(Self::from(0.0), |sum, x| sum + x)
    }
}

impl Real for f64 {
    fn value(self) -> f64 {
        self
    }
    fn chain(self, value: f64, _: f64) -> f64 {
        value
    }
}

/// value + tangent e, e^2 = 0 (forward-mode differentiation, with no step size to choose).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dual {
    pub(crate) value: f64,
    pub(crate) tangent: f64,
}

impl From<f64> for Dual {
    fn from(value: f64) -> Self {
        Dual { value, tangent: 0.0 }
    }
}

impl Real for Dual {
    fn value(self) -> f64 {
        self.value
    }
    fn chain(self, value: f64, derivative: f64) -> Self {
        Dual { value, tangent: derivative * self.tangent }
    }
}

impl Add for Dual {
    type Output = Dual;
    fn add(self, o: Dual) -> Dual {
        Dual { value: self.value + o.value, tangent: self.tangent + o.tangent }
    }
}
impl Sub for Dual {
    type Output = Dual;
    fn sub(self, o: Dual) -> Dual {
        Dual { value: self.value - o.value, tangent: self.tangent - o.tangent }
    }
}
impl Mul for Dual {
    type Output = Dual;
    fn mul(self, o: Dual) -> Dual {
        Dual { value: self.value * o.value, tangent: self.tangent * o.value + self.value * o.tangent }
    }
}
impl Div for Dual {
    type Output = Dual;
    fn div(self, o: Dual) -> Dual {
        let value = self.value / o.value;
        Dual { value, tangent: (self.tangent - value * o.tangent) / o.value }
    }
}
impl Neg for Dual {
    type Output = Dual;
    fn neg(self) -> Dual {
        Dual { value: -self.value, tangent: -self.tangent }
    }
}

/// `x` as constants of the reference's number type.
pub(crate) fn constants<R: Real>(x: &[f32]) -> Vec<R> {
    x.iter().map(|x| R::from(f64::from(*x))).collect()
}

/// `x` moving in the direction `direction`.
pub(crate) fn moving(x: &[f32], direction: &[f32]) -> Vec<Dual> {
    let pairs = x.iter().zip(direction);
    pairs.map(|(x, d)| Dual { value: f64::from(*x), tangent: f64::from(*d) }).collect()
}

/// The derivative of <dout, out> in the direction that `out` moves.
pub(crate) fn slope(dout: &[f32], out: &[Dual]) -> f64 {
    dout.iter().zip(out).map(|(d, o)| f64::from(*d) * o.tangent).sum()
}

/// <x, y> in f64.
pub(crate) fn inner(x: &[f32], y: &[f32]) -> f64 {
    x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// |got - want| / |want|, norms over all elements.
pub(crate) fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(f64::from(*g) - f64::from(*w))).sum();
    let norm: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    if difference == 0.0 { 0.0 } else { (difference / norm.max(f64::MIN_POSITIVE)).sqrt() }
}

/// Asserts that a derivative from the fast backward pass equals the reference's. `size` is |gradient| |direction|: a
/// derivative can be small by cancellation, its error cannot.
pub(crate) fn assert_slope(name: &str, got: f64, want: f64, size: f64, tolerance: f64) {
    let error = (got - want).abs() / size.max(f64::MIN_POSITIVE);
    assert!(error < tolerance, "{name}: derivative {got}, reference {want}, error {error:e} of {size}");
}

/// |x| |y|.
pub(crate) fn size(x: &[f32], y: &[f32]) -> f64 {
    (inner(x, x) * inner(y, y)).sqrt()
}

/// The factor of element `index`, 1 where there is no dropout.
pub(crate) fn factor(dropout: Dropout, index: usize) -> f32 {
    if dropout.is_active() { dropout.factor(index as u32) } else { 1.0 }
}

/// Relative error of an output: f32's rounding over short sums; one rounding to bf16, which is 2^-9 at most.
pub(crate) fn forward_tolerance<D: Device>() -> f64 {
    if size_of::<D::Element>() == 4 { 2e-6 } else { 4e-3 }
}

/// Relative error of a gradient: as above, with intermediate values rounded too.
pub(crate) fn gradient_tolerance<D: Device>() -> f64 {
    if size_of::<D::Element>() == 4 { 1e-5 } else { 1e-2 }
}

/// Standard normal values that `E` holds exactly.
pub(crate) fn random<E: Element>(rng: &mut Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| E::from_f32(rng.normal() as f32).to_f32()).collect()
}

/// f32 values on the device.
pub(crate) fn upload<D: Device>(device: &D, x: &[f32]) -> Buf<D, f32> {
    let mut buffer = device.zeros(x.len());
    device.write(&mut buffer, x);
    buffer
}

/// Activations on the device.
pub(crate) fn upload_act<D: Device>(device: &D, x: &[f32]) -> Act<D> {
    let x: Vec<D::Element> = x.iter().map(|x| D::Element::from_f32(*x)).collect();
    let mut buffer = device.zeros(x.len());
    device.write(&mut buffer, &x);
    buffer
}

/// f32 values from the device.
pub(crate) fn download<D: Device>(device: &D, x: &Buf<D, f32>, len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len];
    device.read(&mut out, x);
    out
}

/// Activations from the device, widened.
pub(crate) fn download_act<D: Device>(device: &D, x: &Act<D>, len: usize) -> Vec<f32> {
    let mut out = vec![D::Element::from_f32(0.0); len];
    device.read(&mut out, x);
    out.into_iter().map(Element::to_f32).collect()
}

/// The device in words, without its number of threads, which changes no bit.
pub(crate) fn any_threads<D: Device>(device: &D) -> String {
    device.describe().replace("1 threads", "").replace("3 threads", "")
}

/// Runs a test body on the CPU for every element type and every instruction set of this machine.
macro_rules! on_every_cpu {
    (|$device:ident| $body:expr) => {
        for isa in crate::Isa::ALL {
            if !isa.is_available() {
                println!("skipped: this machine does not have {isa}");
                continue;
            }
            for threads in [1, 3] {
                let $device = &crate::Cpu::<f32>::with(isa, threads);
                $body;
                let $device = &crate::Cpu::<crate::Bf16>::with(isa, threads);
                $body;
            }
        }
    };
}
pub(crate) use on_every_cpu;

/// Whether a card is the one in software (tools/emulator), which is a thousand times slower than any other.
pub(crate) fn is_emulated<E: crate::CudaElement>(device: &crate::Cuda<E>) -> bool {
    device.name() == "Emulated card"
}

/// Runs a test body on the first GPU for every element type, or says why there is none.
macro_rules! on_cuda {
    (|$device:ident| $body:expr) => {
        match crate::cuda::test_device::<f32>() {
            Err(error) => println!("skipped on a GPU: {error}"),
            Ok($device) => {
                let $device = &$device;
                $body;
                let $device = &crate::cuda::test_device::<crate::Bf16>().expect("the GPU that was there");
                $body;
                let $device = &crate::cuda::test_device::<crate::F16>().expect("the GPU that was there");
                $body;
            }
        }
    };
}
pub(crate) use on_cuda;

/// Runs a test body on every device: the CPU in all its forms, and a GPU where there is one.
macro_rules! on_every_device {
    (|$device:ident| $body:expr) => {
        crate::testing::on_every_cpu!(|$device| $body);
        crate::testing::on_cuda!(|$device| $body);
    };
}
pub(crate) use on_every_device;
