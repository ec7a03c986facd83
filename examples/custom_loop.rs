//! A training loop of one's own: the Hugging Face course's loss, in which samples with key tokens weigh more.
//!
//! The loss is the mean over samples of alpha (1 + its key tokens) times its mean token loss. The course's key tokens are
//! Python's (plt, pd, fit, ...), these are Rust's, since the text is the source of this workspace.
//! To run it: `cargo run --release -p eyas-train --example custom_loop`
#![expect(clippy::print_stdout, reason = "an example shows what happens")]

use eyas_data::{Documents, EvalStream, SourceOptions};
use eyas_model::{Activations, Config, Gpt, Gradients, Use};
use eyas_ops::Cpu;
use eyas_token::{TrainOptions, WordCounts, train};
use eyas_train::{Hyper, Optimizer, OptimizerKind, Schedule, SchedulerType, key_of};

const TIME: usize = 64;
const BATCH: usize = 16;
const ACCUMULATION: usize = 2;
const UPDATES: usize = 30;
const ALPHA: f32 = 1.0;
const KEY_WORDS: [&str; 8] = [" fn", " let", " pub", " self", " mut", " for", "impl", "struct"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Text, a tokenizer, tokens; every tenth document is held out.
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates").to_string();
    let documents = Documents::open(&[source], &SourceOptions::default())?;
    let texts = documents.map(|document| Ok(document?.text)).collect::<Result<Vec<_>, eyas_data::Error>>()?;
    let mut counts = WordCounts::new();
    texts.iter().for_each(|text| counts.add(text));
    let tokenizer = train(counts, &TrainOptions { vocab_size: 600, ..Default::default() }, &mut |_, _| {})?;
    let (mut learned, mut held_out) = (EvalStream::new(&tokenizer)?, EvalStream::new(&tokenizer)?);
    for (i, text) in texts.iter().enumerate() {
        let stream = if i % 10 == 0 { &mut held_out } else { &mut learned };
        stream.extend(std::slice::from_ref(text), &tokenizer)?;
    }
    // The byte-level alphabet spells a space as Ġ; a word that is not one token does not count, as in the course.
    let keys: Vec<_> = KEY_WORDS.iter().filter_map(|w| tokenizer.token_to_id(&w.replace(' ', "Ġ"))).collect();
    println!("{} documents, {} tokens, {} key tokens", texts.len(), learned.ids.len(), keys.len());
    let (vocab_size, n_positions) = (tokenizer.vocab_size(), TIME);
    let config = Config { vocab_size, n_positions, n_embd: 64, n_layer: 2, n_head: 2, ..Config::default() };
    let mut gpt = Gpt::new(Cpu::<f32>::new().into(), config, Use::Training)?;
    gpt.init(42);
    let (mut acts, mut grads) = (Activations::new(&gpt, BATCH, TIME), Gradients::new(&gpt));
    let hyper = Hyper { weight_decay: 0.1, max_grad_norm: 1.0, ..Hyper::default() };
    let mut optimizer = Optimizer::new(&gpt, OptimizerKind::AdamW, hyper);
    let schedule = Schedule::simple(SchedulerType::Cosine, 1e-2, 3, UPDATES as u64);
    let windows: Vec<_> = learned.ids.windows(TIME + 1).step_by(TIME).collect();
    for update in 0..UPDATES {
        grads.clear();
        let mut weighted = 0.0;
        for micro_batch in update * ACCUMULATION..(update + 1) * ACCUMULATION {
            let (mut inputs, mut targets, mut weights) = (Vec::new(), Vec::new(), Vec::new());
            for sample in micro_batch * BATCH..(micro_batch + 1) * BATCH {
                // 7919 is prime: a walk over all windows, far apart.
                let window = windows[sample * 7919 % windows.len()];
                inputs.extend_from_slice(&window[..TIME]);
                targets.extend_from_slice(&window[1..]);
                let num_keys = inputs[inputs.len() - TIME..].iter().filter(|id| keys.contains(id)).count();
                let weight = ALPHA * (1.0 + num_keys as f32);
                weights.extend([weight / (TIME * BATCH * ACCUMULATION) as f32; TIME]);
            }
            gpt.forward(&mut acts, &inputs, TIME, Some(key_of(42, micro_batch as u64)));
            gpt.backward(&mut acts, &mut grads, &targets, &weights);
            let losses = gpt.losses(&mut acts).iter().zip(&weights);
            weighted += losses.map(|(loss, weight)| loss * weight).sum::<f32>();
        }
        let norm = optimizer.update(&mut gpt, &grads, schedule.learning_rate(update as u64))?;
        if (update + 1) % 5 == 0 {
            let (loss, update) = (evaluate(&gpt, &mut acts, &held_out.ids), update + 1);
            print!("update {update:2}: weighted loss {weighted:.3}, gradient norm {norm:.3}; ");
            println!("held out: loss {loss:.3}, perplexity {:.1}", loss.exp());
        }
    }
    Ok(())
}

/// The mean loss over the first windows of `ids`.
fn evaluate(gpt: &Gpt<Cpu<f32>>, acts: &mut Activations<Cpu<f32>>, ids: &[u32]) -> f64 {
    let windows: Vec<_> = ids.windows(TIME + 1).step_by(TIME).take(64).collect();
    let losses = windows.iter().flat_map(|w| gpt.evaluate(acts, &w[..TIME], &w[1..], TIME).losses.to_vec());
    losses.map(f64::from).sum::<f64>() / (windows.len() * TIME) as f64
}
