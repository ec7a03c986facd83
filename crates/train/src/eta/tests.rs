//! Simulated runs: what an estimate said at each moment, beside what the rest then took.

use super::*;

/// A run on a machine that others use too: the first updates 3 times slower, outliers of 5 times, +-10 % of jitter,
/// evaluations a tenth of the time.
#[derive(Clone, Copy)]
struct Machine {
    updates: u64,
    outliers: f64,
    /// How much slower the last update is than the first, as a share.
    drift: f64,
}

/// What was said, and what was true, at a moment.
struct Moment {
    /// Seconds so far, as a share of all.
    share: f64,
    said: f64,
    left: f64,
    total: f64,
}

const EVALUATIONS: u64 = 10;

/// SplitMix64, uniform in 0..1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn jitter(&mut self) -> f64 {
        0.9 + 0.2 * self.next()
    }
}

impl Machine {
    fn run(self, seed: u64) -> Vec<Moment> {
        let mut random = Random(seed);
        let every = self.updates / EVALUATIONS;
        // 1 s of evaluation for 9 s of training; a forward pass is a third, so it scores as much as a third of the tokens.
        // In truth it takes 5 % longer than its arithmetic says.
        let eval_targets = 1000 * every / 3;
        let slower = |i: u64| 1.0 + self.drift * i as f64 / self.updates as f64;
        let mut parts = Vec::new();
        for i in 0..self.updates {
            let held_up = match (i < 3, random.next() < self.outliers) {
                (true, _) => 3.0,
                (false, true) => 5.0,
                (false, false) => 1.0,
            };
            parts.push((false, held_up * random.jitter() * slower(i)));
            if (i + 1) % every == 0 {
                parts.push((true, every as f64 / 9.0 * 1.05 * random.jitter() * slower(i)));
            }
        }
        let total: f64 = parts.iter().map(|(_, seconds)| seconds).sum();
        let mut eta = Eta::new(Ahead {
            updates: self.updates,
            evaluations: Ahead::times(every, 0, self.updates),
            checkpoints: 0,
            tokens_per_update: 1000,
            eval_targets,
        });
        let mut done = 0.0;
        let mut moments = Vec::new();
        for (is_evaluation, seconds) in parts {
            match is_evaluation {
                true => eta.evaluation(seconds),
                false => eta.update(seconds),
            }
            done += seconds;
            let said = eta.seconds_left().expect("an update is done");
            moments.push(Moment { share: done / total, said, left: total - done, total });
        }
        moments
    }

    /// In how many of 100 runs the estimate after 2 % is within 5 %, and in how many it stays so, by the larger of what is
    /// left and a fifth of the run: at the very end a single outlier is more than 5 % of the rest. The largest error after
    /// 2 %, too.
    fn within_five_percent(self) -> (usize, usize, f64) {
        let (mut early, mut later, mut worst) = (0, 0, 0.0f64);
        for seed in 0..100 {
            let moments = self.run(seed);
            let known: Vec<_> = moments.iter().filter(|moment| moment.share >= 0.02).collect();
            let error = (known[0].said / known[0].left - 1.0).abs();
            worst = worst.max(error);
            early += usize::from(error <= 0.05);
            let stays = |m: &&Moment| (m.said - m.left).abs() <= 0.05 * m.left.max(0.2 * m.total);
            later += usize::from(known.iter().all(stays));
        }
        (early, later, worst)
    }
}

#[test]
fn after_two_percent_of_a_run_the_time_left_is_known_to_five() {
    for (updates, outliers) in
        [(1000, 0.0), (1000, 0.005), (2000, 0.0), (2000, 0.01), (5000, 0.01), (20_000, 0.02)]
    {
        let (early, later, worst) = Machine { updates, outliers, drift: 0.0 }.within_five_percent();
        assert!(early >= 95, "{updates} updates, outliers {outliers}: {early} of 100");
        assert!(later >= 90, "{updates} updates, outliers {outliers}: {later} of 100");
        assert!(worst <= 0.1, "{updates} updates, outliers {outliers}: {worst}");
    }
}

#[test]
fn a_drift_that_nobody_can_foresee_is_followed() {
    // A machine that becomes 20 % slower on the way: after 2 % the estimate lacks the half of that which is to come on
    // average; from the middle on it is within 12 %.
    let machine = Machine { updates: 5000, outliers: 0.01, drift: 0.2 };
    for seed in 0..100 {
        for moment in machine.run(seed).iter().filter(|moment| moment.share >= 0.02) {
            let error = (moment.said - moment.left).abs() / moment.left.max(0.2 * moment.total);
            let bound = if moment.share < 0.5 { 0.15 } else { 0.12 };
            assert!(error <= bound, "seed {seed}, {:.2} of the run: {error:.3}", moment.share);
        }
    }
}

#[test]
fn a_machine_that_is_half_as_fast_from_now_on_is_believed() {
    let mut eta = Eta::new(Ahead { updates: 1000, ..Ahead::default() });
    for i in 0..200 {
        eta.update(if i < 100 { 1.0 } else { 2.0 });
    }
    // 1.65 s an update by the weights of the level, not the 1.0 of a median over all.
    let update = eta.seconds_left().expect("known") / 800.0;
    assert!((1.55..1.85).contains(&update), "{update}");
}

#[test]
fn what_is_due_is_counted_and_measured() {
    assert_eq!(Ahead::times(5, 0, 20), 4);
    assert_eq!(Ahead::times(5, 5, 22), 3);
    assert_eq!(Ahead::times(5, 24, 24), 0);
    let ahead =
        Ahead { updates: 8, evaluations: 2, checkpoints: 2, tokens_per_update: 100, eval_targets: 900 };
    let mut eta = Eta::new(ahead);
    assert_eq!(eta.seconds_left(), None);
    for _ in 0..4 {
        eta.update(1.0);
    }
    // An evaluation is thought to take three updates; 2.5 % are for outliers that were not seen yet.
    let close = |eta: &Eta, expected: f64| {
        let left = eta.seconds_left().expect("known");
        assert!((left / expected - 1.0).abs() < 0.03, "{left}, expected {expected}");
    };
    close(&eta, 4.0 + 2.0 * 3.0);
    eta.evaluation(6.0);
    close(&eta, 4.0 + 6.0);
    eta.checkpoint(2.0);
    close(&eta, 4.0 + 6.0 + 2.0);
    for _ in 0..4 {
        eta.update(1.0);
    }
    eta.evaluation(6.0);
    eta.checkpoint(2.0);
    assert_eq!(eta.seconds_left(), Some(0.0));
    // More than was planned is no error.
    eta.checkpoint(2.0);
    assert_eq!(eta.seconds_left(), Some(0.0));
}

#[test]
fn a_time_budget_has_what_is_left_of_it() {
    let mut eta = Eta::timed(10.0);
    assert_eq!(eta.seconds_left(), Some(10.0));
    eta.update(3.0);
    eta.evaluation(2.0);
    eta.checkpoint(1.0);
    assert_eq!(eta.seconds_left(), Some(4.0));
    eta.update(30.0);
    assert_eq!(eta.seconds_left(), Some(0.0));
}
