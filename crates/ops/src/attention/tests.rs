//! Attention, its backward pass and its cached form against the reference.

use super::*;
use crate::Rng;
use crate::testing::*;

/// The starts of documents that share rows: of one token, of many, with borders on the edges of tiles and off them, and longer
/// than several tiles.
fn documents(dims: AttentionDims) -> Vec<u32> {
    const BORDERS: [&[u32]; 4] = [
        &[1, 4, 64, 65, 66, 112, 128, 129, 168],
        &[14, 56, 63, 127, 192],
        &[1, 310, 320],
        &[32, 64, 128, 256, 257],
    ];
    let start = |b: usize, i: usize| {
        let before = BORDERS[b % BORDERS.len()].iter().filter(|&&border| border as usize <= i);
        before.max().copied().unwrap_or(0)
    };
    (0..dims.batch).flat_map(|b| (0..dims.time).map(move |i| start(b, i))).collect()
}

fn upload_starts<D: Device>(device: &D, starts: Option<&[u32]>) -> Option<Buf<D, u32>> {
    starts.map(|starts| {
        let mut buffer = device.zeros(starts.len());
        device.write(&mut buffer, starts);
        buffer
    })
}

fn check<D: Attention>(
    device: &D,
    dims: AttentionDims,
    starts: Option<&[u32]>,
    dropout: Dropout,
) -> Vec<f32> {
    let AttentionDims { batch, time, heads, head_size } = dims;
    let (rows, channels) = (batch * time, heads * head_size);
    let mut rng = Rng::new((rows * channels) as u64);
    let qkv = random::<D::Element>(&mut rng, rows * 3 * channels);
    let dout = random::<D::Element>(&mut rng, rows * channels);
    let factors: Vec<f32> = (0..batch * heads * time * time)
        .map(|i| factor(dropout.slice((i / (time * time)) as u64), i % (time * time)))
        .collect();
    let (qkv_d, dout_d) = (upload_act(device, &qkv), upload_act(device, &dout));
    let starts_d = upload_starts(device, starts);
    let (mut out_d, mut lse_d) = (device.zeros(rows * channels), device.zeros(batch * heads * time));
    device.attention_forward(&mut out_d, &mut lse_d, &qkv_d, starts_d.as_ref(), dropout, dims);
    let all = vec![0; rows];
    let seen = starts.unwrap_or(&all);
    let want: Vec<f32> =
        reference::<f64>(&constants(&qkv), seen, &factors, dims).iter().map(|x| *x as f32).collect();
    let out = download_act(device, &out_d, rows * channels);
    let error = relative_error(&out, &want);
    assert!(error < forward_tolerance::<D>(), "{dims:?}: {error:e}");

    let mut dqkv_d = device.zeros(rows * 3 * channels);
    device.attention_backward(&mut dqkv_d, &dout_d, &out_d, &lse_d, &qkv_d, starts_d.as_ref(), dropout, dims);
    let dqkv = download_act(device, &dqkv_d, rows * 3 * channels);
    for (third, name) in ["dq", "dk", "dv"].into_iter().enumerate() {
        let mut direction = random::<f32>(&mut rng, dqkv.len());
        for (i, d) in direction.iter_mut().enumerate() {
            *d *= f32::from(u8::from(i / channels % 3 == third));
        }
        let moved = reference(&moving(&qkv, &direction), seen, &factors, dims);
        let (got, want) = (inner(&dqkv, &direction), slope(&dout, &moved));
        assert_slope(name, got, want, size(&dqkv, &direction), gradient_tolerance::<D>());
    }
    if !dropout.is_active() && starts.is_none() {
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
        let shapes = [
            (1, 1, 1, 1),
            (2, 3, 3, 12),
            (1, 65, 2, 64),
            (1, 130, 1, 3),
            (2, 20, 1, 80),
            (1, 70, 3, 17),
            (2, 200, 1, 4),
        ];
        for (batch, time, heads, head_size) in shapes {
            let dims = AttentionDims { batch, time, heads, head_size };
            let documents = documents(dims);
            for (starts, dropout) in [None, Some(&*documents)]
                .into_iter()
                .flat_map(|starts| [Dropout::NONE, Dropout::new(0.2, 5, 2)].map(|dropout| (starts, dropout)))
            {
                let result = check(device, dims, starts, dropout);
                let key = (any_threads(device), time, head_size, starts.is_some(), dropout.is_active());
                let first = results.entry(key).or_insert_with(|| result.clone());
                assert_eq!(*first, result, "threads change no bit");
            }
        }
    });
}

#[test]
fn starts_of_zero_change_no_bit() {
    on_every_cpu!(|device| {
        let dims = AttentionDims { batch: 2, time: 130, heads: 1, head_size: 17 };
        let zeros = vec![0; dims.batch * dims.time];
        assert!(check(device, dims, Some(&zeros), Dropout::NONE) == check(device, dims, None, Dropout::NONE));
    });
}

#[test]
fn what_lies_before_the_start_changes_no_bit() {
    on_every_device!(|device| {
        // The last document of a row begins at the border, off the edges of tiles; the token before it is another's.
        for (border, time) in [(112, 120), (129, 300)] {
            let dims = AttentionDims { batch: 1, time, heads: 2, head_size: 64 };
            let channels = dims.heads * dims.head_size;
            let mut starts = documents(dims);
            starts[border..].fill(border as u32);
            let mut rng = Rng::new(7);
            let mut qkv = random::<crate::F16>(&mut rng, time * 3 * channels);
            let dout = random::<crate::F16>(&mut rng, time * channels);
            let [out, dqkv] = run(device, &qkv, &dout, Some(&starts), Dropout::NONE, dims);
            qkv[..border * 3 * channels].iter_mut().for_each(|x| *x = 3.0 - *x);
            let [other_out, other_dqkv] = run(device, &qkv, &dout, Some(&starts), Dropout::NONE, dims);
            assert!(out[border * channels..] == other_out[border * channels..]);
            assert!(dqkv[border * 3 * channels..] == other_dqkv[border * 3 * channels..]);
            assert!(out[..border * channels] != other_out[..border * channels]);
        }
    });
}

#[test]
#[should_panic(expected = "starts of row 1 descend")]
fn starts_that_descend_are_refused() {
    let dims = AttentionDims { batch: 2, time: 3, heads: 1, head_size: 1 };
    run(&crate::Cpu::<f32>::new(), &[0.0; 18], &[0.0; 6], Some(&[0, 0, 2, 0, 1, 0]), Dropout::NONE, dims);
}

/// Output and gradient of the input.
fn run<D: Attention>(
    device: &D,
    qkv: &[f32],
    dout: &[f32],
    starts: Option<&[u32]>,
    dropout: Dropout,
    dims: AttentionDims,
) -> [Vec<f32>; 2] {
    let AttentionDims { batch, time, heads, head_size } = dims;
    let (rows, channels) = (batch * time, heads * head_size);
    let (qkv, dout) = (upload_act(device, qkv), upload_act(device, dout));
    let starts = upload_starts(device, starts);
    let (mut out, mut lse) = (device.zeros(rows * channels), device.zeros(batch * heads * time));
    device.attention_forward(&mut out, &mut lse, &qkv, starts.as_ref(), dropout, dims);
    let mut dqkv = device.zeros(rows * 3 * channels);
    device.attention_backward(&mut dqkv, &dout, &out, &lse, &qkv, starts.as_ref(), dropout, dims);
    [download_act(device, &out, rows * channels), download_act(device, &dqkv, rows * 3 * channels)]
}

/// Shapes that are too large for the naive reference, and that a GPU has kernels of their own for: many heads, long rows. The
/// CPU in f32, which is held to the reference above, stands in for it.
#[test]
fn a_gpu_equals_the_cpu_where_it_has_many_heads_with_the_same_bits_each_time() {
    fn check<E: crate::CudaElement>(device: &crate::Cuda<E>) {
        // More heads than processors either way.
        let (heads, shapes) = match crate::testing::is_emulated(device) {
            true => (3, [(2, 150), (2, 128), (1, 300)]),
            false => (12, [(6, 300), (12, 128), (7, 513)]),
        };
        for (batch, time) in shapes {
            let dims = AttentionDims { batch, time, heads, head_size: 64 };
            let documents = documents(dims);
            let dropped = Dropout::new(0.2, 5, 2);
            for (starts, dropout) in [
                (None, Dropout::NONE),
                (None, dropped),
                (Some(&*documents), Dropout::NONE),
                (Some(&*documents), dropped),
            ] {
                check_against_cpu(device, starts, dropout, dims);
            }
        }
    }
    on_cuda!(|device| check(device));
}

fn check_against_cpu<E: crate::CudaElement>(
    device: &crate::Cuda<E>,
    starts: Option<&[u32]>,
    dropout: Dropout,
    dims: AttentionDims,
) {
    let (rows, channels) = (dims.batch * dims.time, dims.heads * dims.head_size);
    let mut rng = Rng::new(1);
    // Inputs that `E` holds exactly whatever the device computes in.
    let qkv = random::<E>(&mut rng, rows * 3 * channels);
    let dout = random::<E>(&mut rng, rows * channels);
    let got = run(device, &qkv, &dout, starts, dropout, dims);
    let again = run(device, &qkv, &dout, starts, dropout, dims);
    assert!(got == again, "{} {dims:?}: the same bits", E::NAME);
    let want = run(&crate::Cpu::<f32>::new(), &qkv, &dout, starts, dropout, dims);
    let [out, dqkv] = [0, 1].map(|i| relative_error(&got[i], &want[i]));
    assert!(out < forward_tolerance::<crate::Cuda<E>>(), "{} {dims:?}: {out:e}", E::NAME);
    assert!(dqkv < gradient_tolerance::<crate::Cuda<E>>(), "{} {dims:?}: {dqkv:e}", E::NAME);
}

/// Tensor cores, which f32 does not go to, have kernels of their own for rows that documents share: for each of these head
/// sizes, and for rows of one tile and of several.
#[test]
fn a_gpu_equals_the_cpu_where_documents_share_rows() {
    fn check<E: crate::CudaElement>(device: &crate::Cuda<E>) {
        if E::IS_F32 {
            return;
        }
        for (head_size, time) in [(32, 97), (64, 97), (128, 97), (32, 333), (64, 333), (128, 333)] {
            let dims = AttentionDims { batch: 4, time, heads: 1, head_size };
            for dropout in [Dropout::NONE, Dropout::new(0.2, 5, 2)] {
                check_against_cpu(device, Some(&documents(dims)), dropout, dims);
            }
        }
    }
    on_cuda!(|device| check(device));
}
