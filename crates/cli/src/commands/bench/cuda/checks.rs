//! Whether a GPU computes what the CPU does: losses and gradients of small networks, and the same bits in two runs.

use super::Target;
use super::report::{Report, attempt};
use crate::device::{Choice, OnDevice, Place, Wanted};
use crate::errors::{Failure, Outcome};
use crate::measure::{Steps, Update};
use eyas_model::{Activations, Config, Gpt, Gradients, IGNORE, Use};
use eyas_ops::{Backend, Buffer, Element, F16, Rng};
use eyas_train::{OptimizerKind, Precision, key_of};
use serde_json::json;
use std::sync::Arc;

/// A small network and a batch.
struct Case {
    vocab_size: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    batch: usize,
    time: usize,
    dropout: f32,
}

/// Even and odd in every dimension, heads of the usual widths and of others, and a single token.
const CASES: &[Case] = &[
    Case { vocab_size: 512, n_embd: 128, n_layer: 2, n_head: 4, batch: 4, time: 64, dropout: 0.0 },
    Case { vocab_size: 37, n_embd: 15, n_layer: 2, n_head: 3, batch: 3, time: 7, dropout: 0.0 },
    Case { vocab_size: 37, n_embd: 15, n_layer: 2, n_head: 3, batch: 3, time: 7, dropout: 0.1 },
    Case { vocab_size: 1001, n_embd: 192, n_layer: 2, n_head: 3, batch: 3, time: 129, dropout: 0.0 },
    Case { vocab_size: 1000, n_embd: 128, n_layer: 2, n_head: 2, batch: 3, time: 128, dropout: 0.1 },
    Case { vocab_size: 255, n_embd: 256, n_layer: 1, n_head: 2, batch: 1, time: 33, dropout: 0.0 },
    Case { vocab_size: 300, n_embd: 160, n_layer: 2, n_head: 2, batch: 2, time: 65, dropout: 0.1 },
    Case { vocab_size: 7, n_embd: 3, n_layer: 1, n_head: 1, batch: 1, time: 1, dropout: 0.0 },
];

impl Case {
    fn config(&self) -> Config {
        let Case { vocab_size, n_embd, n_layer, n_head, dropout, .. } = *self;
        Config {
            vocab_size,
            n_positions: self.time,
            n_embd,
            n_layer,
            n_head,
            resid_pdrop: dropout,
            embd_pdrop: dropout,
            attn_pdrop: dropout,
            // Large enough to tell right from wrong, at any width.
            initializer_range: 0.2 * (24.0 / n_embd as f32).sqrt(),
            bos_token_id: None,
            eos_token_id: None,
            ..Config::default()
        }
    }

    fn name(&self) -> String {
        let Case { vocab_size, n_embd, n_layer, n_head, batch, time, dropout } = self;
        format!("L{n_layer} C{n_embd} NH{n_head} V{vocab_size}, B{batch} T{time}, dropout {dropout}")
    }
}

/// The losses of a batch, and the gradient of each parameter over two micro-batches.
struct Answer {
    losses: Vec<f32>,
    gradients: Vec<Vec<f32>>,
}

/// Answers all cases on one device.
struct Ask;

impl OnDevice for Ask {
    type Output = Vec<Outcome<Answer>>;

    fn run<D: Backend>(self, device: D, _: Place) -> Outcome<Self::Output> {
        let device = Arc::new(device);
        Ok(CASES.iter().map(|case| attempt(|| answer(&device, case))).collect())
    }
}

fn answer<D: Backend>(device: &Arc<D>, case: &Case) -> Outcome<Answer> {
    let mut gpt = Gpt::new(device.clone(), case.config(), Use::Training)?;
    gpt.init(1);
    let (mut acts, mut grads) = (Activations::new(&gpt, case.batch, case.time), Gradients::new(&gpt));
    let (rows, mut rng) = (case.batch * case.time, Rng::new(2));
    let mut draw = |below: usize| (rng.next_u64() % below as u64) as usize;
    // fp16 needs one; an exact power of two changes nothing else.
    let scale = if D::Element::NAME == F16::NAME { 1024.0 } else { 1.0 };
    grads.clear();
    for part in 0..2 {
        let inputs: Vec<u32> = (0..rows).map(|_| draw(case.vocab_size) as u32).collect();
        let target = |i: usize, id: usize| if i % 5 == 4 { IGNORE } else { id as u32 };
        let targets: Vec<u32> = (0..rows).map(|i| target(i, draw(case.vocab_size))).collect();
        let weights: Vec<f32> = (0..rows).map(|_| scale * (1 + draw(3)) as f32 / (2 * rows) as f32).collect();
        gpt.forward(&mut acts, &inputs, case.time, Some(key_of(3, part)));
        gpt.backward(&mut acts, &mut grads, &targets, &weights);
    }
    let losses = gpt.losses(&mut acts).to_vec();
    let gradient = |buffer| {
        let mut values = vec![0.0; Buffer::len(buffer)];
        device.read(&mut values, buffer);
        values.iter_mut().for_each(|value: &mut f32| *value /= scale);
        values
    };
    Ok(Answer { losses, gradients: grads.table.iter().map(gradient).collect() })
}

/// |ours - theirs| / |theirs|, Euclidean; infinite if anything is not finite.
fn distance<'a>(ours: impl Iterator<Item = &'a f32>, theirs: impl Iterator<Item = &'a f32>) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (ours, theirs) in ours.zip(theirs) {
        difference += (f64::from(*ours) - f64::from(*theirs)).powi(2);
        norm += f64::from(*theirs).powi(2);
    }
    match difference {
        0.0 => 0.0,
        _ if !difference.is_finite() => f64::INFINITY,
        _ => (difference / norm).sqrt(),
    }
}

/// How far an answer is from the right one.
struct Distance {
    losses: f64,
    gradients: f64,
    /// The parameter whose gradient is furthest off, and by how much.
    worst: (String, f64),
}

fn compare(case: &Case, ours: &Answer, right: &Answer) -> Distance {
    let declarations = case.config().parameters();
    let tensors = ours.gradients.iter().zip(&right.gradients);
    let each = declarations.iter().zip(tensors).map(|(declared, (ours, right))| {
        (declared.name.replace("transformer.", ""), distance(ours.iter(), right.iter()))
    });
    let worst = each.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
    Distance {
        losses: distance(ours.losses.iter(), right.losses.iter()),
        gradients: distance(ours.gradients.iter().flatten(), right.gradients.iter().flatten()),
        worst,
    }
}

/// Losses and gradients beside those of the CPU in f32. What bf16 may be off by is twice what the CPU's bf16 is, fp16 as
/// much as that, f32 the order of its sums.
pub(super) fn agreement(target: &Target, report: &mut Report) -> Outcome {
    let ask = |choice, precision| Wanted::new(choice, precision).run(Ask);
    let right = ask(Choice::Cpu, Precision::F32)?;
    let rounded = ask(Choice::Cpu, Precision::Bf16)?;
    report.columns(&[
        "network",
        "precision",
        "losses",
        "gradients",
        "allowed of both",
        "verdict",
        "worst gradient",
    ])?;
    let (mut num_wrong, mut num_all) = (0, 0);
    for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16"), (Precision::F16, "fp16")] {
        let ours = match attempt(|| ask(target.device, precision)) {
            Ok(ours) => ours,
            Err(failure) => {
                (num_wrong, num_all) = (num_wrong + CASES.len(), num_all + CASES.len());
                let why = failure.summary();
                let object = json!({ "name": "all", "precision": name, "failed": why });
                report.row(&[&"all", &name, &"", &"", &"", &"**failed**", &why], &object)?;
                continue;
            }
        };
        for (((case, ours), right), rounded) in CASES.iter().zip(ours).zip(&right).zip(&rounded) {
            let (Ok(right), Ok(rounded)) = (right, rounded) else {
                return Err(Failure::failed(format!("the CPU does not answer {}", case.name())));
            };
            num_all += 1;
            let ours = match ours {
                Ok(ours) => ours,
                Err(failure) => {
                    num_wrong += 1;
                    let why = failure.summary();
                    let object = json!({ "name": case.name(), "precision": name, "failed": why });
                    report.row(&[&case.name(), &name, &"", &"", &"", &"**failed**", &why], &object)?;
                    continue;
                }
            };
            let (got, usual) = (compare(case, &ours, right), compare(case, rounded, right));
            let allowed = match precision {
                Precision::F32 => 1e-4,
                Precision::Bf16 => 2.0 * usual.gradients.max(usual.losses) + 1e-3,
                Precision::F16 => usual.gradients.max(usual.losses) + 1e-3,
            };
            let is_right = got.losses <= allowed && got.gradients <= allowed;
            num_wrong += usize::from(!is_right);
            let (worst, off) = &got.worst;
            report.row(
                &[
                    &case.name(),
                    &name,
                    &format_args!("{:.1e}", got.losses),
                    &format_args!("{:.1e}", got.gradients),
                    &format_args!("{allowed:.1e}"),
                    &if is_right { "agrees" } else { "**differs**" },
                    &format_args!("{off:.1e} {worst}"),
                ],
                &json!({
                    "name": case.name(), "precision": name, "losses": got.losses, "gradients": got.gradients,
                    "worst": worst, "worst_gradient": off, "allowed": allowed, "agrees": is_right,
                }),
            )?;
        }
    }
    match num_wrong {
        0 => Ok(()),
        _ => {
            Err(Failure::failed(format!("{num_wrong} of {num_all} comparisons differ by more than allowed")))
        }
    }
}

/// Trains a while and gives the bits of every loss, and a hash of the weights.
struct Train {
    num_steps: usize,
}

impl OnDevice for Train {
    type Output = (Vec<u32>, u64);

    fn run<D: Backend>(self, device: D, _: Place) -> Outcome<Self::Output> {
        let update = Update { accumulation: 2, ..Update::new(8, 256) };
        let config = small_config();
        let device = Arc::new(device);
        let mut steps = Steps::new(device.clone(), &config, update, OptimizerKind::AdamW)?;
        let mut bits = Vec::new();
        for _ in 0..self.num_steps {
            steps.step()?;
            bits.extend(steps.losses().iter().map(|loss| loss.to_bits()));
        }
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for tensor in steps.gpt().weights().iter() {
            let mut values = vec![0.0_f32; tensor.len()];
            device.read(&mut values, tensor);
            for value in values {
                hash = (hash ^ u64::from(value.to_bits())).wrapping_mul(0x0000_0100_0000_01b3);
            }
        }
        Ok((bits, hash))
    }
}

/// A network that trains in seconds, with dropout.
pub(super) fn small_config() -> Config {
    Config {
        vocab_size: 8191,
        n_positions: 256,
        n_embd: 256,
        n_layer: 4,
        n_head: 4,
        bos_token_id: None,
        eos_token_id: None,
        ..Config::default()
    }
}

/// Two runs of the same steps.
pub(super) fn repeat(target: &Target, report: &mut Report) -> Outcome {
    const NUM_STEPS: usize = 20;
    report.columns(&["precision", "steps", "losses compared", "different", "weights", "last loss"])?;
    let mut num_wrong = 0;
    for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bf16"), (Precision::F16, "fp16")] {
        let train = || Wanted::new(target.device, precision).run(Train { num_steps: NUM_STEPS });
        let ((first, weights), (second, again)) = (train()?, train()?);
        let different = first.iter().zip(&second).filter(|(a, b)| a != b).count();
        let is_same = different == 0 && weights == again;
        num_wrong += usize::from(!is_same);
        let last = f32::from_bits(first.last().copied().unwrap_or_default());
        let verdict = if weights == again { "the same" } else { "**different**" };
        report.row(
            &[&name, &NUM_STEPS, &first.len(), &different, &verdict, &format_args!("{last:.4}")],
            &json!({ "name": "repeat", "precision": name, "different": different, "same_weights": weights == again }),
        )?;
    }
    match num_wrong {
        0 => Ok(()),
        _ => Err(Failure::failed(format!("{num_wrong} of 3 precisions give other bits in a second run"))),
    }
}
