//! The best evaluation, and whether it is time to stop looking for a better one.
//!
//! Owns metric_for_best_model and early stopping as transformers' Trainer and EarlyStoppingCallback have them. The one trick:
//! all of it follows from the run log, so there is nothing beside the log that a resumed run could forget.

use crate::settings::TrainConfig;
use serde_json::Value;

/// What makes a model the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Mean loss over targets: lower is better.
    Loss,
    /// exp(loss): lower is better.
    Perplexity,
    /// Bits per byte: lower is better.
    BitsPerByte,
    /// Share of targets that were the most likely token: higher is better.
    NextTokenAccuracy,
}

impl Metric {
    /// Its key in the run log.
    pub fn key(self) -> &'static str {
        match self {
            Metric::Loss => "eval_loss",
            Metric::Perplexity => "eval_perplexity",
            Metric::BitsPerByte => "eval_bits_per_byte",
            Metric::NextTokenAccuracy => "eval_next_token_accuracy",
        }
    }

    /// Whether `value` is better than `other`.
    pub fn is_better(self, value: f64, other: f64) -> bool {
        match self {
            Metric::NextTokenAccuracy => value > other,
            _ => value < other,
        }
    }
}

/// The evaluations of a run, by the metric that decides.
#[derive(Clone, Debug)]
pub(crate) struct Evaluations {
    pub(crate) metric: Metric,
    threshold: f64,
    patience: Option<u64>,
    /// Step and value, in the order they came in.
    values: Vec<(u64, f64)>,
    best: Option<(u64, f64)>,
    /// Evaluations in a row that were not better by the threshold.
    num_without: u64,
}

impl Evaluations {
    /// Those that the log of a run holds.
    pub(crate) fn new(config: &TrainConfig, history: &[Value]) -> Self {
        let metric = config.metric_for_best_model.unwrap_or(Metric::Loss);
        let mut evaluations = Evaluations {
            metric,
            threshold: config.early_stopping_threshold,
            patience: config.early_stopping_patience,
            values: Vec::new(),
            best: None,
            num_without: 0,
        };
        history.iter().for_each(|line| {
            evaluations.observe(line);
        });
        evaluations
    }

    /// Takes in a line of the log, and says whether it is an evaluation better than all before.
    pub(crate) fn observe(&mut self, line: &Value) -> bool {
        let (Some(step), Some(value)) = (line["step"].as_u64(), line.get(self.metric.key())) else {
            return false;
        };
        // As in transformers, the evaluation before the first update is none of those that are compared.
        if step == 0 {
            return false;
        }
        // null is what was not finite.
        let value = value.as_f64().unwrap_or(f64::NAN);
        self.values.push((step, value));
        let is_better =
            !value.is_nan() && self.best.is_none_or(|(_, best)| self.metric.is_better(value, best));
        // EarlyStoppingCallback.check_metric_value: against the best before this one.
        let counts = self.best.is_none_or(|(_, best)| is_better && (value - best).abs() > self.threshold);
        self.num_without = if counts { 0 } else { self.num_without + 1 };
        if is_better {
            self.best = Some((step, value));
        }
        is_better
    }

    /// Step and value of the best.
    pub(crate) fn best(&self) -> Option<(u64, f64)> {
        self.best
    }

    /// The best of those after which `steps` were saved; of equal ones the first.
    pub(crate) fn best_of(&self, steps: &[u64]) -> Option<(u64, f64)> {
        let saved =
            self.values.iter().copied().filter(|(step, value)| steps.contains(step) && !value.is_nan());
        saved.reduce(|best, other| if self.metric.is_better(other.1, best.1) { other } else { best })
    }

    /// How many evaluations in a row were not better, once they are enough to stop.
    pub(crate) fn out_of_patience(&self) -> Option<u64> {
        self.patience.filter(|&patience| self.num_without >= patience).map(|_| self.num_without)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn evaluations(settings: &[(&str, &str)], values: &[f64]) -> Evaluations {
        let given = [("output_dir", "o"), ("train_data", "d"), ("tokenizer", "t")];
        let pairs: Vec<_> =
            given.iter().chain(settings).map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let config = TrainConfig::parse("", &pairs).expect("valid settings");
        let line = |(i, value): (usize, &f64)| json!({"step": 10 * (i + 1), "eval_loss": value, "eval_next_token_accuracy": value});
        Evaluations::new(&config, &values.iter().enumerate().map(line).collect::<Vec<_>>())
    }

    const EVALUATES: [(&str, &str); 2] = [("eval_strategy", "steps"), ("eval_data", "v")];

    #[test]
    fn the_best_is_the_lowest_loss_or_the_highest_accuracy() {
        let values = [3.0, 2.0, 2.5, 2.0];
        assert_eq!(evaluations(&EVALUATES, &values).best(), Some((20, 2.0)));
        let accuracy = [EVALUATES[0], EVALUATES[1], ("metric_for_best_model", "next_token_accuracy")];
        assert_eq!(evaluations(&accuracy, &values).best(), Some((10, 3.0)));
        assert_eq!(evaluations(&EVALUATES, &values).best_of(&[10, 30]), Some((30, 2.5)));
        assert_eq!(evaluations(&EVALUATES, &values).best_of(&[70]), None);
        assert_eq!(evaluations(&EVALUATES, &[f64::NAN, 4.0]).best(), Some((20, 4.0)));
    }

    /// What transformers' EarlyStoppingCallback says of the same numbers.
    #[test]
    fn patience_ends_as_in_transformers() {
        let waits = |patience, threshold, values: &[f64]| {
            let own = [("early_stopping_patience", patience), ("early_stopping_threshold", threshold)];
            evaluations(&[&EVALUATES[..], &own].concat(), values).out_of_patience()
        };
        assert_eq!(waits("2", "0", &[3.0, 2.0, 2.1]), None);
        assert_eq!(waits("2", "0", &[3.0, 2.0, 2.1, 2.0]), Some(2));
        assert_eq!(waits("2", "0", &[3.0, 2.0, 2.1, 1.9, 2.0]), None);
        // Better, but by too little: it is the best all the same.
        assert_eq!(waits("2", "0.5", &[3.0, 2.8, 2.6]), Some(2));
        assert_eq!(waits("2", "0.5", &[3.0, 2.8, 2.2]), None);
        assert_eq!(waits("2", "0", &[3.0, f64::NAN, f64::NAN]), Some(2));
    }
}
