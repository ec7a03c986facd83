//! The learning rate of each update, as transformers' `get_*_schedule` functions compute it.
//!
//! Owns the formulas of `transformers/optimization.py`. The one trick: the same curve can be driven by the share of a
//! time budget that is spent, so that a run which must end at a deadline ends with the rate its schedule ends with.

use crate::settings::{DecayType, SchedulerType, TrainConfig};

/// The learning rate as a function of the update.
#[derive(Clone, Debug)]
pub struct Schedule {
    kind: SchedulerType,
    peak: f64,
    /// Updates, or in a time budget the number of parts it is thought of as.
    num_training_steps: f64,
    num_warmup_steps: f64,
    num_decay_steps: f64,
    /// Lowest rate as a share of the peak, for the schedules that have one.
    floor: f64,
    decay_type: DecayType,
}

/// Parts of a time budget: fractions are exact to a millionth.
const TIME_PARTS: f64 = 1e6;

impl Schedule {
    /// The schedule of a run of `num_training_steps` updates.
    pub fn new(config: &TrainConfig, num_training_steps: u64) -> Self {
        let total = num_training_steps as f64;
        Self::over(config, total, warmup_steps(config, total).ceil())
    }

    /// A schedule up to `peak` in `num_warmup_steps` of `num_training_steps` updates, then down along a curve that needs no
    /// further number.
    pub fn simple(kind: SchedulerType, peak: f64, num_warmup_steps: u64, num_training_steps: u64) -> Self {
        Schedule {
            kind,
            peak,
            num_training_steps: num_training_steps as f64,
            num_warmup_steps: num_warmup_steps as f64,
            num_decay_steps: 0.0,
            floor: 0.0,
            decay_type: DecayType::Cosine,
        }
    }

    /// The schedule of a run that ends with its time. Only a warm-up given as a share (`warmup_ratio`, or `warmup_steps`
    /// below 1) is part of the curve; one given in updates is multiplied in by [`learning_rate_at`](Self::learning_rate_at).
    pub fn timed(config: &TrainConfig) -> Self {
        let warmup = if config.warmup_steps >= 1.0 { 0.0 } else { warmup_steps(config, TIME_PARTS) };
        Self::over(config, TIME_PARTS, warmup)
    }

    fn over(config: &TrainConfig, total: f64, warmup: f64) -> Self {
        let floor = match config.lr_scheduler_type {
            SchedulerType::CosineWithMinLr => {
                let share = |min_lr: f64| {
                    if config.learning_rate > 0.0 { min_lr / config.learning_rate } else { 0.0 }
                };
                config.min_lr.map(share).or(config.min_lr_rate).unwrap_or(0.0)
            }
            _ => config.min_lr_ratio,
        };
        let decay = config.num_decay_steps;
        Schedule {
            kind: config.lr_scheduler_type,
            peak: config.learning_rate,
            num_training_steps: total,
            num_warmup_steps: warmup,
            num_decay_steps: if decay < 1.0 { (total * decay).ceil() } else { decay },
            floor,
            decay_type: config.decay_type,
        }
    }

    /// The learning rate of update `step`, counted from 0. With warm-up the first is 0, as in transformers.
    pub fn learning_rate(&self, step: u64) -> f64 {
        self.peak * self.factor(step as f64)
    }

    /// The learning rate of update `step` when `fraction` of the time is spent, for a schedule made by
    /// [`timed`](Self::timed): (step + 1) / warmup_steps during a warm-up of updates, times the curve at `fraction`.
    pub fn learning_rate_at(&self, fraction: f64, step: u64, warmup_steps: f64) -> f64 {
        let ramp =
            if warmup_steps >= 1.0 { ((step + 1) as f64 / warmup_steps.trunc()).min(1.0) } else { 1.0 };
        self.peak * ramp * self.factor(fraction.clamp(0.0, 1.0) * self.num_training_steps)
    }

    fn factor(&self, step: f64) -> f64 {
        let (total, warmup) = (self.num_training_steps, self.num_warmup_steps);
        let raise = |factor: f64| (factor * (1.0 - self.floor) + self.floor).max(0.0);
        let cosine = |progress: f64| 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
        if self.kind != SchedulerType::Constant && step < warmup {
            let ramp = step / warmup.max(1.0);
            // Only this schedule warms up from its floor.
            return if self.kind == SchedulerType::WarmupStableDecay { raise(ramp) } else { ramp };
        }
        let progress = (step - warmup) / (total - warmup).max(1.0);
        match self.kind {
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
            SchedulerType::Linear => ((total - step) / (total - warmup).max(1.0)).max(0.0),
            SchedulerType::Cosine => cosine(progress).max(0.0),
            SchedulerType::CosineWithMinLr => raise(cosine(progress)),
            SchedulerType::WarmupStableDecay => {
                let stable = total - warmup - self.num_decay_steps;
                let decayed = step - warmup - stable;
                if decayed < 0.0 {
                    return 1.0;
                }
                if decayed >= self.num_decay_steps {
                    return self.floor;
                }
                let progress = decayed / self.num_decay_steps.max(1.0);
                raise(match self.decay_type {
                    DecayType::Linear => 1.0 - progress,
                    DecayType::Cosine => cosine(progress),
                    DecayType::OneMinusSqrt => 1.0 - progress.sqrt(),
                })
            }
        }
    }
}

/// TrainingArguments.get_warmup_steps: a number of updates from 1 up, a share of the run below; `warmup_ratio` is the
/// older name of the share.
fn warmup_steps(config: &TrainConfig, total: f64) -> f64 {
    match config.warmup_steps {
        steps if steps >= 1.0 => steps.trunc(),
        share if share > 0.0 => total * share,
        _ => total * config.warmup_ratio,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> TrainConfig {
        let mut pairs =
            vec![("output_dir", "o"), ("train_data", "d"), ("tokenizer", "t"), ("learning_rate", "5e-4")];
        pairs.extend(settings);
        let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        TrainConfig::parse("", &pairs).expect("valid settings")
    }

    /// Rates of updates 0, 1, 7, 10, 50 and 99 of 100, 10 of them warm-up, from transformers 5.23's own functions.
    #[test]
    fn rates_are_those_of_transformers() {
        let wsd = [
            ("lr_scheduler_type", "warmup_stable_decay"),
            ("num_decay_steps", "60"),
            ("min_lr_ratio", "0.1"),
            ("decay_type", "1-sqrt"),
        ];
        type Case<'a> = (&'a [(&'a str, &'a str)], [f64; 6]);
        let cases: [Case<'_>; 6] = [
            (&[], [0.0, 5e-05, 0.00035, 0.0005, 0.0002777777777777778, 5.555555555555556e-06]),
            (
                &[("lr_scheduler_type", "cosine")],
                [0.0, 5e-05, 0.00035, 0.0005, 0.00029341204441673266, 1.5229324522605948e-07],
            ),
            (
                &[("lr_scheduler_type", "cosine_with_min_lr"), ("min_lr", "5e-5")],
                [0.0, 5e-05, 0.00035, 0.0005, 0.00031407083997505935, 5.013706392070345e-05],
            ),
            (&[("lr_scheduler_type", "constant")], [5e-4; 6]),
            (&[("lr_scheduler_type", "constant_with_warmup")], [0.0, 5e-05, 0.00035, 0.0005, 0.0005, 0.0005]),
            (&wsd, [5e-05, 9.5e-05, 0.000365, 0.0005, 0.0003162882692912616, 5.3765756580694536e-05]),
        ];
        for (settings, expected) in cases {
            let warmed: Vec<_> = settings.iter().copied().chain([("warmup_steps", "10")]).collect();
            let schedule = Schedule::new(&config(&warmed), 100);
            for (step, expected) in [0, 1, 7, 10, 50, 99].into_iter().zip(expected) {
                let rate = schedule.learning_rate(step);
                assert!(
                    (rate - expected).abs() <= 1e-15 * 5e-4,
                    "{settings:?} step {step}: {rate} for {expected}"
                );
            }
        }
    }

    #[test]
    fn a_share_of_warm_up_rounds_up() {
        for settings in [[("warmup_ratio", "0.095")], [("warmup_steps", "0.095")]] {
            let schedule = Schedule::new(&config(&settings), 100);
            assert_eq!((schedule.learning_rate(0), schedule.learning_rate(10)), (0.0, 5e-4));
            assert!(schedule.learning_rate(9) < 5e-4);
        }
    }

    /// bench/hf_timed.py's rate: a warm-up of updates times half a cosine over the time.
    #[test]
    fn time_drives_the_same_curve() {
        let schedule = Schedule::timed(&config(&[("lr_scheduler_type", "cosine"), ("warmup_steps", "100")]));
        for (fraction, step) in [(0.0, 0u64), (0.1, 42), (0.5, 99), (0.75, 500), (1.0, 1000)] {
            let expected = 5e-4
                * ((step + 1) as f64 / 100.0).min(1.0)
                * 0.5
                * (1.0 + (std::f64::consts::PI * fraction).cos());
            let rate = schedule.learning_rate_at(fraction, step, 100.0);
            assert!((rate - expected).abs() < 1e-12, "{fraction}: {rate} for {expected}");
        }
        let schedule = Schedule::timed(&config(&[("warmup_ratio", "0.1")]));
        assert!((schedule.learning_rate_at(0.05, 7, 0.0) - 2.5e-4).abs() < 1e-12);
        assert!((schedule.learning_rate_at(0.55, 7, 0.0) - 2.5e-4).abs() < 1e-12);
    }
}
