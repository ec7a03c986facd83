//! Products with quantized matrices against the integers and scales that they hold, at sizes that leave every remainder.

use super::*;
use crate::linear::epilogues::{Matrix, Store};
use crate::testing::{forward_tolerance, relative_error};
use crate::{Bf16, Isa, Rng};

const FORMATS: [Format; 2] = [Format::Int8, Format::Int4];

fn quantize<E: Word>(cpu: &Cpu<E>, format: Format, w: &[f32], k: usize, columns: usize) -> Quantized {
    let mut quantized = Quantized::zeros(&Arena::new(), format, k, columns);
    quantized.pack(cpu, w, Storage::InputsOutputs);
    quantized
}

/// What is stored, (k, columns), as naively as it can be read.
fn stored(quantized: &Quantized) -> Vec<f32> {
    let Quantized { format, k, columns, .. } = *quantized;
    let element = |at: usize| {
        let (i, column) = (at / columns, at % columns);
        let group = &quantized.panel(column / PANEL)[i / format.group() * format.group_words()..];
        let word = i % format.group() / format.per_word() * PANEL + column % PANEL;
        let q = integer(format, group[SCALE_WORDS + word], i % format.per_word());
        scales(group)[column % PANEL] * q as f32
    };
    (0..k * columns).map(element).collect()
}

fn random(rng: &mut Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| rng.normal() as f32).collect()
}

fn check<E: Word>(isa: Isa, threads: usize, format: Format, [rows, k, columns]: [usize; 3]) -> Vec<E> {
    let cpu = Cpu::<E>::with(isa, threads);
    let mut rng = Rng::new((rows * 31 + k * 7 + columns) as u64);
    let quantized = quantize(&cpu, format, &random(&mut rng, k * columns), k, columns);
    let x: Vec<E> = random(&mut rng, rows * k).into_iter().map(E::from_f32).collect();
    let w = stored(&quantized);
    let product = |i: usize, j: usize| {
        f64::from(x[i / columns * k + j].to_f32()) * f64::from(w[j * columns + i % columns])
    };
    let want: Vec<f32> =
        (0..rows * columns).map(|i| (0..k).map(|j| product(i, j)).sum::<f64>() as f32).collect();
    let mut out = vec![E::from_f32(f32::NAN); rows * columns];
    quantized.multiply(&cpu, &x, rows, &Store { out: Matrix::new(&mut out, rows, columns) });
    let got: Vec<f32> = out.iter().map(|x| x.to_f32()).collect();
    // Fixed point keeps 15 bits of the largest element of a group, which is more than bf16 and less than f32.
    let tolerance = forward_tolerance::<Cpu<E>>().max(if rows <= FEW_ROWS { 1e-4 } else { 0.0 });
    let error = relative_error(&got, &want);
    assert!(error < tolerance, "{isa} {} {format:?} {rows} x {k} x {columns}: {error:e}", E::NAME);
    out
}

fn check_all<E: Word>() {
    for (isa, format) in
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).flat_map(|isa| FORMATS.map(|f| (isa, f)))
    {
        for rows in [1, 2, 7, FEW_ROWS - 1, FEW_ROWS, FEW_ROWS + 1, 61] {
            for (k, columns) in [(1, 1), (7, 33), (32, 32), (33, 31), (64, 65), (130, 40), (768, 70)] {
                let one = check::<E>(isa, 1, format, [rows, k, columns]);
                assert_eq!(one, check::<E>(isa, 3, format, [rows, k, columns]), "threads change no bit");
            }
        }
    }
}

#[test]
fn f32_at_odd_sizes() {
    check_all::<f32>();
}

#[test]
fn bf16_at_odd_sizes() {
    check_all::<Bf16>();
}

#[test]
fn every_kernel_adds_the_integers_of_a_group() {
    let (mut rng, cpu) = (Rng::new(3), Cpu::<f32>::with(Isa::Portable, 1));
    for (format, isa) in FORMATS.into_iter().flat_map(|format| Isa::ALL.map(|isa| (format, isa))) {
        if !isa.is_available() {
            continue;
        }
        let (k, kernel) = (format.group(), Kernel::of(format, isa));
        let mut weights = Quantized::zeros(&Arena::new(), format, k, PANEL);
        let (scales, words) = weights.words.split_at_mut(SCALE_WORDS);
        scales.fill(0x3f80_3f80);
        words.iter_mut().for_each(|word| *word = rng.next_u64() as u32);
        // Whole columns of the least, the largest and both integers.
        for (column, word) in [0, u32::MAX, 0x8080_8080, 0x7f7f_7f7f, 0x0f0f_0f0f].into_iter().enumerate() {
            words.iter_mut().skip(column).step_by(PANEL).for_each(|w| *w = word);
        }
        let weight = |i: usize, j: usize| {
            let word = weights.words[SCALE_WORDS + i / format.per_word() * PANEL + j];
            i64::from(integer(format, word, i % format.per_word()))
        };
        let alternating = (0..k).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
        let single = |at: usize| (0..k).map(|i| if i == at { -1.0 } else { 0.0 }).collect::<Vec<f32>>();
        for x in [vec![1.0; k], vec![-1.0; k], alternating].into_iter().chain((0..k).map(single)) {
            let mut words = vec![0; FixedRows::num_words(format, k, 1)];
            let got = FixedRows::new(&cpu, kernel, &mut words, &x, 1).times(0, weights.panel(0));
            for (j, got) in got.into_iter().enumerate() {
                // Of 1 and -1 the integers are the largest, and their scale is what is left.
                let sum: i64 = (0..k).map(|i| (32639.0 * x[i]) as i64 * weight(i, j)).sum();
                assert_eq!(got, 1.0 / 32639.0 * sum as f32, "{isa} {format:?}, column {j}, x {x:?}");
            }
        }
    }
}

#[test]
fn both_storages_hold_the_same() {
    let cpu = Cpu::<f32>::new();
    let (k, columns) = (70, 45);
    let w = random(&mut Rng::new(1), k * columns);
    let transposed: Vec<f32> = (0..k * columns).map(|i| w[i % k * columns + i / k]).collect();
    for format in FORMATS {
        let by_inputs = quantize(&cpu, format, &w, k, columns);
        let mut by_outputs = Quantized::zeros(&Arena::new(), format, k, columns);
        by_outputs.pack(&cpu, &transposed, Storage::OutputsInputs);
        assert!(by_inputs.words[..] == by_outputs.words[..], "{format:?}");
    }
}

#[test]
fn integers_are_the_nearest_and_scales_beat_the_largest_elements() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let cpu = Cpu::<f32>::with(isa, 2);
        let (k, columns) = (256, 64);
        let w = random(&mut Rng::new(9), k * columns);
        let error = |format| relative_error(&stored(&quantize(&cpu, format, &w, k, columns)), &w);
        // Normal values, uniform error of a step: 0.29 x 2.4 / 127; for 4 bits, less than that of a scale of max / 7,
        // 0.29 x 2.1 / 7.
        assert!(error(Format::Int8) < 0.0065, "{isa}: {}", error(Format::Int8));
        assert!(error(Format::Int4) < 0.085, "{isa}: {}", error(Format::Int4));
    }
}

#[test]
fn zeros_and_tiny_values_are_zero_and_extremes_are_kept() {
    let cpu = Cpu::<f32>::new();
    for format in FORMATS {
        let values = |x: f32| stored(&quantize(&cpu, format, &[x; 80], 80, 1));
        for tiny in [0.0, 1e-40, -1e-35] {
            assert!(values(tiny).iter().all(|x| *x == 0.0), "{format:?} {tiny:e}");
        }
        for x in [1e-20, -1.0, 1.0, 3e30] {
            assert!(relative_error(&values(x), &[x; 80]) < 0.005, "{format:?} {x:e}: {:?}", values(x));
        }
    }
}

#[test]
fn what_is_not_finite_does_not_become_a_number() {
    let cpu = Cpu::<f32>::new();
    for (format, bad) in FORMATS.into_iter().flat_map(|f| [f32::NAN, f32::INFINITY].map(|bad| (f, bad))) {
        let quantized = quantize(&cpu, format, &[1.0; 70 * 3], 70, 3);
        let mut x = vec![1.0; 70];
        x[66] = bad;
        let mut out = vec![0.0f32; 3];
        quantized.multiply(&cpu, &x, 1, &Store { out: Matrix::new(&mut out, 1, 3) });
        assert!(out.iter().all(|x| !x.is_finite()), "{format:?}: {out:?}");
    }
}
