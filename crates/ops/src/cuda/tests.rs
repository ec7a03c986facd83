//! The device itself, and its matrix products against the plain kernel.

use super::matmul::naive;
use super::*;
use crate::Rng;
use crate::testing::*;

#[test]
fn copies_go_through_and_memory_is_cleared() {
    on_cuda!(|device| {
        // Around the size of a staging slot, and many at once.
        for len in [0, 1, 1000, 262_143, 262_145] {
            let values: Vec<u32> = (0..len as u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
            let mut buffers: Vec<_> = (0..20).map(|_| device.zeros::<u32>(len)).collect();
            buffers.iter_mut().for_each(|buffer| device.write(buffer, &values));
            for buffer in &mut buffers {
                let mut back = vec![0; len];
                device.read(&mut back, buffer);
                assert_eq!(back, values);
                device.clear(buffer);
                device.read(&mut back, buffer);
                assert!(back.iter().all(|&x| x == 0));
            }
        }
    });
}

fn kind_of<E: CudaElement>(_: &Cuda<E>) -> Kind {
    Cuda::<E>::KIND
}

fn check<E: CudaElement>(device: &Cuda<E>, product: Product) {
    let Product { m, n, k, .. } = product;
    let mut rng = Rng::new((m * n + k) as u64);
    let a = upload_act(device, &random::<E>(&mut rng, m * k));
    let b = upload_act(device, &random::<E>(&mut rng, k * n));
    let start = random::<E>(&mut rng, m * n);
    let results: Vec<Vec<f32>> = [false, true]
        .into_iter()
        .map(|is_naive| {
            let run = |d: u64| {
                let operands = Operands { d, c: d, a: a.pointer(), b: b.pointer(), bias: 0, aux: 0 };
                match is_naive {
                    true => naive(&device.context, Lane::First, product, operands),
                    false => device.product(product, operands),
                }
            };
            if product.output == Kind::F32 {
                let d = upload(device, &start);
                run(d.pointer());
                download(device, &d, m * n)
            } else {
                let d = upload_act(device, &start);
                run(d.pointer());
                download_act(device, &d, m * n)
            }
        })
        .collect();
    let error = relative_error(&results[0], &results[1]);
    let tolerance = if product.output == Kind::F32 { 2e-6 } else { 4e-3 };
    assert!(error < tolerance, "{product:?}: {error:e}");
}

#[test]
fn products_equal_the_plain_kernel() {
    on_cuda!(|device| {
        let kind = kind_of(device);
        for (m, n, k) in [(1, 1, 1), (33, 1, 7), (5, 3, 36), (64, 128, 96), (72, 40, 264)] {
            for (transpose_a, transpose_b) in [(false, false), (true, false), (false, true)] {
                for (output, accumulate) in
                    [(kind, false), (kind, true), (Kind::F32, true), (Kind::F32, false)]
                {
                    let epilogue = Epilogue::None;
                    let operands = kind;
                    check(
                        device,
                        Product {
                            m,
                            n,
                            k,
                            transpose_a,
                            transpose_b,
                            operands,
                            output,
                            accumulate,
                            epilogue,
                            strides: (0, 0),
                        },
                    );
                }
            }
        }
    });
}

/// In both lanes, so that what is left is not even a whole graph.
#[test]
fn a_panic_while_work_is_recorded_leaves_the_card_usable() {
    on_cuda!(|device| {
        const LEN: usize = 100;
        let values: Vec<f32> = (0..LEN).map(|i| 1.0 + i as f32).collect();
        let from = upload_act(device, &values);
        let mut to = [device.zeros(LEN), device.zeros(LEN)];
        let mut recording = Recording::default();
        let mut run = |panics: bool| {
            let [first, second] = &mut to;
            device.replay(&mut recording, 1, Changing::default(), || {
                device.copy(first, &from);
                device.context.fork();
                let product = Product::new(kind_of(device), LEN, 1, 1);
                let operands = Operands {
                    d: second.pointer(),
                    c: 0,
                    a: from.pointer(),
                    b: from.pointer(),
                    bias: 0,
                    aux: 0,
                };
                naive(&device.context, Lane::Second, product, operands);
                device.context.beside(&[second.pointer()]);
                assert!(!panics, "as the test wants");
            });
        };
        (0..2).for_each(|_| run(false));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(true)));
        assert!(panicked.is_err());
        (0..2).for_each(|_| run(false));
        assert!(to.iter().all(|buffer| download_act(device, buffer, LEN) == values));
    });
}
