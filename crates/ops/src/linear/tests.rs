//! Every linear layer and its backward pass against the reference.

use super::*;
use crate::Rng;
use crate::element::Element;
use crate::testing::*;

/// A layer on a device: host values, and what the device has of them.
struct Layer<D: Linear> {
    dims: LinearDims,
    x: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    dout: Vec<f32>,
    x_d: Act<D>,
    weights_d: D::Weights,
    bias_d: Buf<D, f32>,
    dout_d: Act<D>,
}

impl<D: Linear> Layer<D> {
    fn new(device: &D, rng: &mut Rng, dims: LinearDims) -> Self {
        let LinearDims { rows, inputs, outputs } = dims;
        let x = random::<D::Element>(rng, rows * inputs);
        // The device rounds its compute copy, so the test starts from rounded weights.
        let weights = random::<D::Element>(rng, inputs * outputs);
        let (bias, dout) = (random::<f32>(rng, outputs), random::<D::Element>(rng, rows * outputs));
        let mut weights_d = device.weights(inputs, outputs, Storage::InputsOutputs, Use::Training);
        device.pack(&mut [(&mut weights_d, &upload(device, &weights))], Rounding::Nearest);
        let (x_d, bias_d, dout_d) =
            (upload_act(device, &x), upload(device, &bias), upload_act(device, &dout));
        Layer { dims, x, weights, bias, dout, x_d, weights_d, bias_d, dout_d }
    }

    fn reference(&self) -> (Vec<f32>, Vec<f32>) {
        let (pre, out) = reference::<f64>(
            &constants(&self.x),
            &constants(&self.weights),
            &constants(&self.bias),
            self.dims,
        );
        let narrow = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect();
        (narrow(pre), narrow(out))
    }
}

fn check_forward<D: Linear>(device: &D, layer: &Layer<D>, rng: &mut Rng) {
    let (dims, len) = (layer.dims, layer.dims.rows * layer.dims.outputs);
    let (pre, activated) = layer.reference();
    let check = |name: &str, got: &Act<D>, want: &[f32]| {
        let error = relative_error(&download_act(device, got, len), want);
        assert!(error < forward_tolerance::<D>(), "{name} {dims:?}: {error:e}");
    };
    let (mut out, mut pre_d) = (device.zeros(len), device.zeros(len));
    device.linear_forward(&mut out, &layer.x_d, &layer.weights_d, &layer.bias_d, dims);
    check("linear", &out, &pre);
    device.linear_gelu_forward(&mut pre_d, &mut out, &layer.x_d, &layer.weights_d, &layer.bias_d, dims);
    check("pre", &pre_d, &pre);
    check("gelu", &out, &activated);
    let residual = random::<D::Element>(rng, len);
    let residual_d = upload_act(device, &residual);
    for dropout in [Dropout::NONE, Dropout::new(0.4, 3, 1)] {
        let (x, w, b) = (&layer.x_d, &layer.weights_d, &layer.bias_d);
        device.linear_residual_forward(&mut out, &residual_d, x, w, b, dropout, dims);
        let want: Vec<f32> = (0..len).map(|i| residual[i] + factor(dropout, i) * pre[i]).collect();
        check("residual", &out, &want);
    }
}

fn check_backward<D: Linear>(device: &D, layer: &Layer<D>, rng: &mut Rng) -> Vec<f32> {
    let LinearDims { rows, inputs, outputs } = layer.dims;
    let mut dx = device.zeros(rows * inputs);
    let mut dweights = upload(device, &vec![1.0; inputs * outputs]);
    let mut dbias = upload(device, &vec![1.0; outputs]);
    let (x, w) = (&layer.x_d, &layer.weights_d);
    device.linear_backward(&mut dx, &mut dweights, Some(&mut dbias), &layer.dout_d, x, w, layer.dims);
    let added = |x: Vec<f32>| x.into_iter().map(|x| x - 1.0).collect::<Vec<f32>>();
    let dx = download_act(device, &dx, rows * inputs);
    let dweights = added(download(device, &dweights, inputs * outputs));
    let dbias = added(download(device, &dbias, outputs));
    for (name, gradient, which) in [("dx", &dx, 0), ("dW", &dweights, 1), ("dbias", &dbias, 2)] {
        let direction = random::<f32>(rng, gradient.len());
        let input = |i: usize, x: &[f32]| if i == which { moving(x, &direction) } else { constants(x) };
        let (out, _) =
            reference(&input(0, &layer.x), &input(1, &layer.weights), &input(2, &layer.bias), layer.dims);
        let (got, want) = (inner(gradient, &direction), slope(&layer.dout, &out));
        let tolerance = if which == 0 { gradient_tolerance::<D>() } else { 1e-5 };
        // The 1 that was there before takes part in the rounding.
        let length = size(gradient, &direction) + inner(&direction, &direction);
        assert_slope(name, got, want, length, tolerance);
    }
    [dx, dweights, dbias].concat()
}

/// Through the GELU: the layer's input is gelu(pre).
fn check_gelu_backward<D: Linear>(device: &D, layer: &Layer<D>, rng: &mut Rng) {
    let LinearDims { rows, inputs, outputs } = layer.dims;
    let pre = random::<D::Element>(rng, rows * inputs);
    let (mut dpre, pre_d) = (device.zeros(rows * inputs), upload_act(device, &pre));
    let (mut dweights, mut dbias) = (device.zeros(inputs * outputs), device.zeros(outputs));
    let x = pre
        .iter()
        .map(|x| D::Element::from_f32(gelu_reference(f64::from(*x)) as f32).to_f32())
        .collect::<Vec<_>>();
    let (x, w) = (&upload_act(device, &x), &layer.weights_d);
    let mut sums = upload(device, &vec![1.0; inputs]);
    let has_sums = device.linear_gelu_backward(
        &mut dpre,
        &mut sums,
        &mut dweights,
        Some(&mut dbias),
        &layer.dout_d,
        &pre_d,
        x,
        w,
        layer.dims,
    );
    let (mut dx, mut want) = (device.zeros(rows * inputs), device.zeros(inputs * outputs));
    device.linear_backward(&mut dx, &mut want, None, &layer.dout_d, x, w, layer.dims);
    let [got, want] = [dweights, want].map(|d| download(device, &d, inputs * outputs));
    // The reference's GELU and the device's may be rounded differently.
    assert!(relative_error(&got, &want) < forward_tolerance::<D>(), "weights of a layer after a GELU");
    let dpre = download_act(device, &dpre, rows * inputs);
    let sums = download(device, &sums, inputs);
    for (i, sum) in sums.into_iter().enumerate() {
        let want = if has_sums { (0..rows).map(|row| dpre[row * inputs + i]).sum() } else { 0.0 };
        assert!((sum - 1.0 - want).abs() < 1e-4 * rows as f32, "sum over column {i} of dpre: {sum}, {want}");
    }
    let direction = random::<f32>(rng, dpre.len());
    let activated: Vec<Dual> = moving(&pre, &direction).into_iter().map(gelu_reference).collect();
    let (out, _) = reference(&activated, &constants(&layer.weights), &constants(&layer.bias), layer.dims);
    let (got, want) = (inner(&dpre, &direction), slope(&layer.dout, &out));
    assert_slope("dpre", got, want, size(&dpre, &direction), gradient_tolerance::<D>());
}

#[test]
fn equals_the_reference_with_the_same_bits_for_any_threads() {
    let mut results = std::collections::HashMap::new();
    on_every_device!(|device| {
        for (rows, inputs, outputs) in [(1, 1, 1), (1, 7, 33), (3, 36, 5), (15, 64, 70), (60, 33, 31)] {
            let dims = LinearDims { rows, inputs, outputs };
            let mut rng = Rng::new((rows * inputs + outputs) as u64);
            let layer = Layer::new(device, &mut rng, dims);
            check_forward(device, &layer, &mut rng);
            check_gelu_backward(device, &layer, &mut rng);
            let result = check_backward(device, &layer, &mut rng);
            let key = (any_threads(device), rows, inputs);
            let first = results.entry(key).or_insert_with(|| result.clone());
            assert_eq!(*first, result, "threads change no bit");
        }
    });
}

/// All layers' weights and biases are drawn again and packed together, after a pass in which the device may have kept copies
/// of the biases.
fn check_copies<D: Linear>(device: &D, shapes: &[(usize, usize)]) {
    let mut rng = Rng::new(shapes.len() as u64);
    let dims = |&(inputs, outputs): &(usize, usize)| LinearDims { rows: 2, inputs, outputs };
    let mut layers: Vec<_> = shapes.iter().map(|shape| Layer::new(device, &mut rng, dims(shape))).collect();
    let forward = |layer: &Layer<D>| {
        let len = layer.dims.rows * layer.dims.outputs;
        let mut out = device.zeros(len);
        device.linear_forward(&mut out, &layer.x_d, &layer.weights_d, &layer.bias_d, layer.dims);
        download_act(device, &out, len)
    };
    layers.iter().for_each(|layer| drop(forward(layer)));
    let masters: Vec<_> = layers
        .iter_mut()
        .map(|layer| {
            layer.weights = random::<D::Element>(&mut rng, layer.weights.len());
            layer.bias = random::<D::Element>(&mut rng, layer.bias.len());
            device.write(&mut layer.bias_d, &layer.bias);
            upload(device, &layer.weights)
        })
        .collect();
    let copies = layers.iter_mut().zip(&masters);
    let mut copies: Vec<_> = copies.map(|(layer, master)| (&mut layer.weights_d, master)).collect();
    device.pack(&mut copies, Rounding::Nearest);
    for layer in &layers {
        let error = relative_error(&forward(layer), &layer.reference().0);
        assert!(error < forward_tolerance::<D>(), "{:?} among {shapes:?}: {error:e}", layer.dims);
        check_backward(device, layer, &mut rng);
    }
}

#[test]
fn copies_are_made_together() {
    on_every_device!(|device| {
        // 33,567 elements: more than a GPU's block takes, and odd.
        for shapes in [&[][..], &[(5, 7)], &[(9, 3), (201, 167), (1, 33), (64, 64), (7, 5)]] {
            check_copies(device, shapes);
        }
    });
}

/// `masters` as copies for training, made together.
fn copies<D: Linear>(
    device: &D,
    masters: &[Vec<f32>],
    shapes: &[(usize, usize)],
    rounding: Rounding,
) -> Vec<D::Weights> {
    let new = |&(inputs, outputs)| device.weights(inputs, outputs, Storage::InputsOutputs, Use::Training);
    let mut weights: Vec<_> = shapes.iter().map(new).collect();
    let masters: Vec<_> = masters.iter().map(|master| upload(device, master)).collect();
    device.pack(&mut weights.iter_mut().zip(&masters).collect::<Vec<_>>(), rounding);
    weights
}

/// What a copy holds, as forward and backward read it: the products with identity matrices.
fn read_copy<D: Linear>(device: &D, weights: &D::Weights, (inputs, outputs): (usize, usize)) -> Vec<f32> {
    let identity =
        |n: usize| upload_act(device, &(0..n * n).map(|i| f32::from(i / n == i % n)).collect::<Vec<_>>());
    let len = inputs * outputs;
    let (mut out, bias) = (device.zeros(len), device.zeros(outputs));
    let dims = LinearDims { rows: inputs, inputs, outputs };
    device.linear_forward(&mut out, &identity(inputs), weights, &bias, dims);
    let forward = download_act(device, &out, len);

    let (mut dx, mut dweights, x) = (device.zeros(len), device.zeros(len), device.zeros(outputs * inputs));
    let dims = LinearDims { rows: outputs, inputs, outputs };
    device.linear_backward(&mut dx, &mut dweights, None, &identity(outputs), &x, weights, dims);
    let backward = download_act(device, &dx, len);
    let transposed: Vec<f32> = (0..len).map(|i| backward[i % outputs * inputs + i / outputs]).collect();
    assert_eq!(forward, transposed, "both directions are of the same numbers");
    forward
}

#[test]
fn copies_are_rounded_by_chance_alike_on_every_device() {
    let key = 0x1234_5678_9abc_def0;
    on_every_device!(|device| {
        // 33,567 elements: more than a GPU's block takes, and odd.
        let shapes = [(9, 3), (1, 33), (201, 167), (40, 48)];
        let mut rng = Rng::new(8);
        let masters = shapes.map(|(inputs, outputs)| random::<f32>(&mut rng, inputs * outputs));
        let rounding = Rounding::Stochastic { key };
        let all = copies(device, &masters, &shapes, rounding);
        for (tensor, (master, weights)) in masters.iter().zip(&all).enumerate() {
            let key = rounding.key_of(tensor).expect("by chance");
            let rounded = master.iter().enumerate();
            let rounded = rounded.map(|(i, x)| crate::rounding::reference(*x, key, i as u32));
            // f16 does not hold all of bf16's numbers.
            let want: Vec<f32> = rounded.map(|x| narrowed(device, x)).collect();
            assert_eq!(read_copy(device, weights, shapes[tensor]), want, "tensor {tensor}");
        }
    });
}

#[test]
fn rounding_by_chance_is_right_on_average_and_another_one_under_another_key() {
    on_every_device!(|device| {
        let shape = (64, 64);
        let num = shape.0 * shape.1;
        // Of the way from 1 to its neighbour 1 + 2^-7, and from -0.5 to -0.5 - 2^-8.
        for (base, step, share) in
            [(1.0, 1.0 / 128.0, 0.25), (-0.5, -1.0 / 256.0, 0.7), (1.0, 1.0 / 128.0, 0.004)]
        {
            let value = (base + step * share) as f32;
            let share = (f64::from(value) - base) / step;
            let mut ups = Vec::new();
            for key in 0..4 {
                let rounding = Rounding::Stochastic { key };
                let weights = copies(device, &[vec![value; num]], &[shape], rounding).remove(0);
                let copy = read_copy(device, &weights, shape);
                let is_up = |x: f32| (f64::from(x) - base) / step;
                assert!(copy.iter().all(|&x| [0.0, 1.0].contains(&is_up(x))), "neighbours of {value}");
                ups.push(copy.iter().map(|&x| is_up(x)).collect::<Vec<_>>());
            }
            // Five standard deviations of the number of those that go up.
            let count = ups.iter().flatten().sum::<f64>();
            let all = (4 * num) as f64;
            let bound = 5.0 * (all * share * (1.0 - share)).sqrt();
            assert!((count - all * share).abs() < bound, "{count} of {all} up, expected {}", all * share);
            // Two keys agree as often as chance has it.
            let same = ups[0].iter().zip(&ups[1]).filter(|(a, b)| a == b).count() as f64;
            let chance = share * share + (1.0 - share) * (1.0 - share);
            let bound = 5.0 * (num as f64 * chance * (1.0 - chance)).sqrt();
            assert!(
                (same - num as f64 * chance).abs() < bound,
                "{same} alike, expected {}",
                num as f64 * chance
            );
        }
        // What bf16 holds is what it was.
        let held = random::<crate::Bf16>(&mut Rng::new(4), num);
        let rounding = Rounding::Stochastic { key: 3 };
        let weights = copies(device, std::slice::from_ref(&held), &[shape], rounding).remove(0);
        let held: Vec<f32> = held.into_iter().map(|x| narrowed(device, x)).collect();
        assert_eq!(read_copy(device, &weights, shape), held);
    });
}

/// `x` as the device's element type has it.
fn narrowed<D: Device>(_: &D, x: f32) -> f32 {
    D::Element::from_f32(x).to_f32()
}

#[test]
fn dropout_backward_uses_the_mask_of_forward() {
    on_every_device!(|device| {
        let dims = LinearDims { rows: 3, inputs: 1, outputs: 37 };
        let dout = random::<f32>(&mut Rng::new(3), 111);
        let dropout = Dropout::new(0.4, 3, 1);
        let mut out = device.zeros(111);
        device.dropout_backward(&mut out, &upload_act(device, &dout), dropout, dims);
        let want: Vec<f32> = dout.iter().enumerate().map(|(i, d)| d * factor(dropout, i)).collect();
        assert!(relative_error(&download_act(device, &out, 111), &want) < 1e-2);
    });
}
