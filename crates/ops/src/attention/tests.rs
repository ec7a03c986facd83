//! Attention, its backward pass and its cached form against the reference.

use super::*;
use crate::testing::*;
use crate::{Element, Rng};

fn check<D: Attention>(device: &D, dims: AttentionDims, dropout: Dropout) -> Vec<f32> {
    let AttentionDims { batch, time, heads, head_size } = dims;
    let (rows, channels) = (batch * time, heads * head_size);
    let mut rng = Rng::new((rows * channels) as u64);
    let qkv = random::<D::Element>(&mut rng, rows * 3 * channels);
    let dout = random::<D::Element>(&mut rng, rows * channels);
    let factors: Vec<f32> = (0..batch * heads * time * time)
        .map(|i| factor(dropout.slice((i / (time * time)) as u64), i % (time * time)))
        .collect();
    let (qkv_d, dout_d) = (upload_act(device, &qkv), upload_act(device, &dout));
    let (mut out_d, mut lse_d) = (device.zeros(rows * channels), device.zeros(batch * heads * time));
    device.attention_forward(&mut out_d, &mut lse_d, &qkv_d, dropout, dims);
    let want: Vec<f32> =
        reference::<f64>(&constants(&qkv), &factors, dims).iter().map(|x| *x as f32).collect();
    let out = download_act(device, &out_d, rows * channels);
    let error = relative_error(&out, &want);
    assert!(error < forward_tolerance::<D>(), "{dims:?}: {error:e}");

    let mut dqkv_d = device.zeros(rows * 3 * channels);
    device.attention_backward(&mut dqkv_d, &dout_d, &out_d, &lse_d, &qkv_d, dropout, dims);
    let dqkv = download_act(device, &dqkv_d, rows * 3 * channels);
    for (third, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
        let mut direction = random::<f32>(&mut rng, dqkv.len());
        for (i, d) in direction.iter_mut().enumerate() {
            *d *= f32::from(u8::from(i / channels % 3 == third));
        }
        let moved = reference(&moving(&qkv, &direction), &factors, dims);
        let (got, want) = (inner(&dqkv, &direction), slope(&dout, &moved));
        assert_slope(name, got, want, size(&dqkv, &direction), gradient_tolerance::<D>());
    }
    if !dropout.is_active() {
        check_cached(device, &qkv, &out, dims);
    }
    [out, dqkv].concat()
}

/// A prompt, then one token at a time, gives what the whole sequence gives.
fn check_cached<D: Attention>(device: &D, qkv: &[f32], want: &[f32], dims: AttentionDims) {
    let AttentionDims { batch, time, heads, head_size } = dims;
    let channels = heads * head_size;
    let capacity = time + 3;
    let (mut keys, mut values) = (
        device.zeros(batch * heads * capacity * head_size),
        device.zeros(batch * heads * capacity * head_size),
    );
    let prompt = time.div_ceil(2);
    let mut cached = 0;
    let steps = std::iter::once(prompt).chain(std::iter::repeat_n(1, time - prompt));
    for new in steps {
        let rows = |x: &[f32], width: usize| -> Vec<f32> {
            (0..batch).flat_map(|b| x[(b * time + cached) * width..][..new * width].to_vec()).collect()
        };
        let qkv_d = upload_act(device, &rows(qkv, 3 * channels));
        let mut out = device.zeros(batch * new * channels);
        let dims = CachedAttentionDims { batch, time: new, cached, capacity, heads, head_size };
        device.attention_cached(&mut out, &mut keys, &mut values, &qkv_d, dims);
        let error =
            relative_error(&download_act(device, &out, batch * new * channels), &rows(want, channels));
        assert!(error < 2.0 * forward_tolerance::<D>(), "{dims:?}: {error:e}");
        cached += new;
    }
}

#[test]
fn equals_the_reference_with_the_same_bits_for_any_threads() {
    let mut results = std::collections::HashMap::new();
    on_every_device!(|device| {
        let shapes =
            [(1, 1, 1, 1), (2, 3, 3, 12), (1, 65, 2, 64), (1, 130, 1, 3), (2, 20, 1, 80), (1, 70, 3, 17)];
        for (batch, time, heads, head_size) in shapes {
            for dropout in [Dropout::NONE, Dropout::new(0.2, 5, 2)] {
                let dims = AttentionDims { batch, time, heads, head_size };
                let result = check(device, dims, dropout);
                let key = (any_threads(device), time, head_size, dropout.is_active());
                let first = results.entry(key).or_insert_with(|| result.clone());
                assert_eq!(*first, result, "threads change no bit");
            }
        }
    });
}

/// Output and gradient of random inputs, which `E` holds exactly whatever the device computes in.
fn run<E: Element, D: Attention>(device: &D, dims: AttentionDims, dropout: Dropout) -> [Vec<f32>; 2] {
    let AttentionDims { batch, time, heads, head_size } = dims;
    let (rows, channels) = (batch * time, heads * head_size);
    let mut rng = Rng::new(1);
    let qkv = upload_act(device, &random::<E>(&mut rng, rows * 3 * channels));
    let dout = upload_act(device, &random::<E>(&mut rng, rows * channels));
    let (mut out, mut lse) = (device.zeros(rows * channels), device.zeros(batch * heads * time));
    device.attention_forward(&mut out, &mut lse, &qkv, dropout, dims);
    let mut dqkv = device.zeros(rows * 3 * channels);
    device.attention_backward(&mut dqkv, &dout, &out, &lse, &qkv, dropout, dims);
    [download_act(device, &out, rows * channels), download_act(device, &dqkv, rows * 3 * channels)]
}

/// Shapes that are too large for the naive reference, and that a GPU has kernels of their own for: many heads, long rows. The
/// CPU in f32, which is held to the reference above, stands in for it.
#[test]
fn a_gpu_equals_the_cpu_where_it_has_many_heads_with_the_same_bits_each_time() {
    fn check<E: crate::CudaElement>(device: &crate::Cuda<E>) {
        for (batch, time) in [(6, 300), (12, 128), (7, 513)] {
            for dropout in [Dropout::NONE, Dropout::new(0.2, 5, 2)] {
                let dims = AttentionDims { batch, time, heads: 12, head_size: 64 };
                let got = run::<E, _>(device, dims, dropout);
                assert!(got == run::<E, _>(device, dims, dropout), "{} {dims:?}: the same bits", E::NAME);
                let want = run::<E, _>(&crate::Cpu::<f32>::new(), dims, dropout);
                let [out, dqkv] = [0, 1].map(|i| relative_error(&got[i], &want[i]));
                assert!(out < forward_tolerance::<crate::Cuda<E>>(), "{} {dims:?}: {out:e}", E::NAME);
                assert!(dqkv < gradient_tolerance::<crate::Cuda<E>>(), "{} {dims:?}: {dqkv:e}", E::NAME);
            }
        }
    }
    on_cuda!(|device| check(device));
}
