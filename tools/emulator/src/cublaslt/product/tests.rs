//! Products against plain loops in f64.

use super::*;
use crate::memory::{self, Place};

/// Elements on the card, until they are dropped.
struct Array {
    address: u64,
    kind: Kind,
    len: usize,
}

impl Array {
    fn new(kind: Kind, values: &[f32]) -> Self {
        let bytes = (values.len() * kind.bytes()).max(1);
        let address = memory::allocate(bytes, Place::Card).expect("memory");
        values.iter().enumerate().for_each(|(i, &x)| kind.store(address, i, x));
        Array { address, kind, len: values.len() }
    }

    fn values(&self) -> Vec<f32> {
        (0..self.len).map(|i| self.kind.load(self.address, i)).collect()
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        assert!(memory::free(self.address, Place::Card));
    }
}

/// Numbers between -1 and 1.
fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn product(kind: Kind, m: usize, n: usize, k: usize) -> Product {
    Product {
        m,
        n,
        k,
        transposes: [false; 2],
        operands: kind,
        output: kind,
        strides: [m, k, m, m],
        rounds_to_tf32: false,
        epilogue: Epilogue::None,
        bias_kind: kind,
        aux_stride: m,
        alpha: 1.0,
        beta: 0.0,
        is_reversed: false,
    }
}

/// What comes out of a product: d, the bias and the auxiliary matrix.
type Results = [Vec<f32>; 3];

/// Runs a product on random operands, and by plain loops.
fn run(product: Product) -> [Results; 2] {
    let Product { m, n, k, strides: [a_stride, b_stride, c_stride, d_stride], .. } = product;
    let a = Array::new(product.operands, &random(1, a_stride * if product.transposes[0] { m } else { k }));
    let b = Array::new(product.operands, &random(2, b_stride * if product.transposes[1] { k } else { n }));
    let c = Array::new(product.output, &random(3, c_stride * n));
    let d = Array::new(product.output, &vec![f32::NAN; d_stride * n]);
    let bias = Array::new(product.bias_kind, &random(4, m));
    let aux = Array::new(product.output, &random(5, product.aux_stride * n));
    let [a_values, b_values, c_values] = [&a, &b, &c].map(Array::values);
    let (mut wanted, mut of_bias, mut of_aux) = (d.values(), bias.values(), aux.values());
    let at = |values: &[f32], stride: usize, transpose: bool, row: usize, col: usize| {
        f64::from(if transpose { values[row * stride + col] } else { values[col * stride + row] })
    };
    let rounded = |x: f64| {
        let kept = Array::new(product.output, &[x as f32]);
        f64::from(kept.values()[0])
    };
    for row in 0..m {
        if product.epilogue == Epilogue::BiasGradient {
            let sum = (0..k).map(|p| at(&a_values, a_stride, product.transposes[0], row, p)).sum::<f64>();
            of_bias[row] = sum as f32;
        }
        for col in 0..n {
            let term = |p| {
                at(&a_values, a_stride, product.transposes[0], row, p)
                    * at(&b_values, b_stride, product.transposes[1], p, col)
            };
            let mut x = f64::from(product.alpha) * (0..k).map(term).sum::<f64>();
            x += f64::from(product.beta) * at(&c_values, c_stride, false, row, col);
            let cubic = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            let gelu = |x: f64| 0.5 * x * (1.0 + cubic(x).tanh());
            let place = col * product.aux_stride + row;
            match product.epilogue {
                Epilogue::Bias => x += f64::from(of_bias[row]),
                Epilogue::BiasGelu => {
                    x += f64::from(of_bias[row]);
                    of_aux[place] = rounded(x) as f32;
                    x = gelu(x);
                }
                Epilogue::GeluBackward => {
                    let at = f64::from(of_aux[place]);
                    x *= (gelu(at + 1e-5) - gelu(at - 1e-5)) / 2e-5;
                }
                Epilogue::None | Epilogue::BiasGradient => {}
            }
            wanted[col * d_stride + row] = rounded(x) as f32;
        }
    }
    let address = |array: &Array| array.address;
    let operands = Operands {
        a: address(&a),
        b: address(&b),
        c: address(&c),
        d: address(&d),
        bias: address(&bias),
        aux: address(&aux),
    };
    product.run(&operands, (0, 0)).expect("no fault");
    [[d.values(), bias.values(), aux.values()], [wanted, of_bias, of_aux]]
}

fn check(product: Product) {
    let [got, wanted] = run(product);
    let tolerance = match product.output {
        Kind::F32 => 1e-6 * (product.k as f32).sqrt().max(4.0),
        Kind::Bf16 => 1.0 / 128.0,
        Kind::F16 => 1.0 / 1024.0,
    };
    for (got, wanted) in got.iter().zip(&wanted) {
        for (got, wanted) in got.iter().zip(wanted) {
            let is_near = (got - wanted).abs() <= tolerance * wanted.abs().max(1.0);
            assert!(is_near || (got.is_nan() && wanted.is_nan()), "{product:?}: {got} is not {wanted}");
        }
    }
}

#[test]
fn products_equal_plain_loops() {
    for kind in [Kind::F32, Kind::Bf16, Kind::F16] {
        for [m, n, k] in [[1, 1, 1], [5, 3, 36], [33, 1, 7], [17, 13, 300], [72, 40, 264], [130, 401, 3]] {
            for transposes in [[false, false], [true, false], [false, true], [true, true]] {
                for is_reversed in [false, true] {
                    let a_stride = 3 + if transposes[0] { k } else { m };
                    let b_stride = 1 + if transposes[1] { n } else { k };
                    let strides = [a_stride, b_stride, m + 2, m + 5];
                    let plain = product(kind, m, n, k);
                    check(Product { transposes, strides, is_reversed, ..plain });
                    let output = Kind::F32;
                    let (alpha, beta) = (0.5, 1.0);
                    check(Product { transposes, strides, is_reversed, output, alpha, beta, ..plain });
                }
            }
        }
    }
}

#[test]
fn epilogues_equal_plain_loops() {
    use Epilogue::{Bias, BiasGelu, BiasGradient, GeluBackward};
    for kind in [Kind::F32, Kind::Bf16, Kind::F16] {
        for epilogue in [Bias, BiasGelu, GeluBackward, BiasGradient] {
            let beta = if epilogue == Bias { 1.0 } else { 0.0 };
            check(Product { epilogue, beta, aux_stride: 48, ..product(kind, 40, 24, 56) });
        }
        // A gradient of weights: sums in f32.
        let output = Kind::F32;
        let strides = [24, 40, 24, 24];
        let transposes = [false, true];
        let gradient =
            Product { output, bias_kind: output, strides, transposes, ..product(kind, 24, 40, 999) };
        check(Product { epilogue: BiasGradient, beta: 1.0, ..gradient });
    }
}

#[test]
fn algorithms_differ_in_their_sums_and_threads_do_not() {
    let large = product(Kind::F32, 200, 160, 500);
    let run = |product: Product| run(product)[0][0].clone();
    let once = run(large);
    assert_eq!(once, run(large));
    assert_ne!(once, run(Product { is_reversed: true, ..large }));
    // A part that is too small for threads has the same bits.
    let part = Product { n: 50, ..large };
    assert_eq!(once[..200 * 50], run(part)[..]);
    let coarse = run(Product { rounds_to_tf32: true, ..large });
    let error = once.iter().zip(&coarse).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
    assert!((1e-4..0.1).contains(&error), "{error}");
}

#[test]
fn what_is_outside_of_memory_is_a_fault() {
    let small = product(Kind::F32, 4, 4, 4);
    let [a, b, d] = [16, 15, 16].map(|len| Array::new(Kind::F32, &vec![0.0; len]));
    let operands = Operands { a: a.address, b: b.address, c: 0, d: d.address, bias: 0, aux: 0 };
    let fault = small.run(&operands, (0, 0)).expect_err("b is too short");
    assert!(fault.contains("b: 64 bytes"), "{fault}");
    let fault = small.run(&Operands { b: d.address, ..operands }, (0, 0)).expect_err("d is b");
    assert!(fault.contains("overlaps"), "{fault}");
}
