//! What checkpoints cost a run that is left alone: the same run with many of them and with one, in turn, one at a time.
//!
//! A figure, no verdict: it is the machine's, and whatever else goes on there is in it.

use super::error::Error;
use super::left::Metrics;
use super::reference::Reference;
use super::report::Failure;
use super::world::{Recipe, World};
use super::{Figures, Options, figures, ms};
use std::time::Duration;

const MANY: Recipe = Recipe { name: "many", max_steps: 200, save_steps: 10, eval_steps: 1000, keep: Some(2) };
const ONE: Recipe = Recipe { name: "one", save_steps: 1000, ..MANY };

/// Does it.
pub(crate) fn run(world: &World, options: &Options) -> Result<(Figures, Vec<Failure>), Error> {
    let (mut many, mut one, mut saving) = (Vec::new(), Vec::new(), Vec::new());
    let (mut longest, mut median) = (Duration::ZERO, Duration::ZERO);
    for pair in 0..options.sizes.pairs.max(1) {
        let training = world.training(&MANY, &format!("many-{pair}"))?;
        let reference = Reference::new(&training)?;
        many.push(reference.pace.whole);
        saving.push(reference.pace.saving);
        let updates = update_times(&reference.metrics);
        longest = longest.max(updates.last().copied().unwrap_or_default());
        median = updates.get(updates.len() / 2).copied().unwrap_or_default();
        let training = world.training(&ONE, &format!("one-{pair}"))?;
        one.push(Reference::new(&training)?.pace.whole);
    }
    let (many, one) = (middle(&mut many), middle(&mut one));
    let num_more = MANY.max_steps / MANY.save_steps - 1;
    let cost = many.as_secs_f64() - one.as_secs_f64();
    let found = figures([
        ("ms a checkpoint on the way costs the run", ((cost / num_more as f64 * 1e5).round() / 1e2).into()),
        ("ms it takes to write", ms(middle(&mut saving))),
        ("ms the longest update", ms(longest)),
        ("ms the median update", ms(median)),
        ("ms the whole run with 20 checkpoints", ms(many)),
        ("with one", ms(one)),
        ("pairs of runs", options.sizes.pairs.into()),
    ]);
    Ok((found, Vec::new()))
}

/// How long the updates took, as metrics.jsonl tells, in ascending order.
fn update_times(metrics: &Metrics) -> Vec<Duration> {
    let mut tokens_before = 0.0;
    let mut times: Vec<Duration> = Vec::new();
    for line in &metrics.lines {
        let number = |key: &str| line.get(key).and_then(serde_json::Value::as_f64);
        if let (Some(tokens), Some(speed)) = (number("num_tokens"), number("tokens_per_second")) {
            times.extend(Duration::try_from_secs_f64((tokens - tokens_before) / speed));
            tokens_before = tokens;
        }
    }
    times.sort_unstable();
    times
}

fn middle(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}
