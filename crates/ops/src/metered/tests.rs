use super::*;
use crate::testing::*;
use crate::{Cpu, Isa, Rng, Rounding};

#[test]
fn it_does_what_its_device_does_and_counts() {
    let device = Metered::new(Cpu::<f32>::with(Isa::Portable, 1));
    let x = random::<f32>(&mut Rng::new(3), 12);
    let uploaded = upload(&device, &x);
    assert_eq!(device.sum_of_squares(&[&uploaded]), device.device.sum_of_squares(&[&uploaded]));
    let dims = LinearDims { rows: 2, inputs: 3, outputs: 4 };
    let mut weights = device.weights(3, 4, Storage::InputsOutputs, Use::Training);
    let mut others = device.weights(4, 3, Storage::OutputsInputs, Use::Training);
    device.take();
    device.pack(&mut [(&mut weights, &uploaded), (&mut others, &uploaded)], Rounding::Nearest);
    let records = device.take();
    assert_eq!((records.len(), records[0].name.as_str(), records[0].num_calls), (1, "pack", 1));
    assert_eq!(records[0].bytes, f64::from(2 * 12 * (4 + 2 * 4)));
    let (mut out, bias) = (device.zeros(8), device.zeros(4));
    for _ in 0..2 {
        device.linear_forward(&mut out, &uploaded, &weights, &bias, dims);
    }
    let records = device.take();
    let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["linear_forward 3 -> 4"]);
    let record = &records[0];
    assert_eq!((record.num_calls, record.flops), (2, 2.0 * 2.0 * 2.0 * 12.0));
    assert_eq!(record.bytes, 2.0 * 4.0 * f64::from(12 + 2 * 7));
    assert_eq!(record.limit_seconds(96.0, 1e9), 1.0);
    assert!(device.take().is_empty());
}
