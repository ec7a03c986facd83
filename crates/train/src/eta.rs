//! How long a run still takes, from what its parts took so far.
//!
//! Owns no clock: durations are passed in. With u, e and c the seconds of an update, an evaluation and a checkpoint,
//!
//! ```text
//! seconds left = updates left * u + evaluations left * e + checkpoints left * c
//! e = u * targets of an evaluation / (3 * tokens of an update)      before the first evaluation was measured
//! ```
//!
//! since a forward pass is a third of the arithmetic of training on as many tokens. A checkpoint costs nothing until the
//! first was measured; a run that ends with its time has what is left of that.
//!
//! u is a mean, since the sum of what comes is asked for, but of few updates a single one that another program held up would
//! decide it. So a duration counts up to 1.3 times the lower quartile of the last 32, and what is beyond goes to a second
//! mean, of the excess, that starts from what a shared machine is used to and moves slowly:
//!
//! ```text
//! u = level + excess * quartile
//! level  += 1.5 / (n + 0.5) * (min(x, 1.3 quartile) - level)          update n weighs as the root of n
//! excess += 1 / (n + 400) * ((x - 1.3 quartile)^+ / quartile - excess)
//! ```
//!
//! The first three updates count only while there are no others: they meet cold caches, pages not there yet and kernels
//! that are still timed. The constants are from simulated runs, of which `tests` keeps those that decided: plain and moving
//! means miss by 10 to 100 % after 2 % of such a run, a median by the excess that it never sees.

/// Updates that are slower than the others.
const WARM_UP: u64 = 3;
/// Durations that the quartile is of.
const RECENT: usize = 32;
/// What a duration counts for at most, as a multiple of the quartile.
const CLIP: f64 = 1.3;
/// How fast the level forgets: update n of n has this much of the weight that it would have in a plain mean.
const RECENCY: f64 = 1.5;
/// What outliers add to an update on a shared machine, as a share of it: 5 times as long, once in 160 updates.
const USUAL_EXCESS: f64 = 0.025;
/// Updates that have to be seen before the excess is more of them than the usual.
const EXCESS_UPDATES: f64 = 400.0;

/// What is still ahead of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Updates left.
    pub updates: u64,
    /// Evaluations left.
    pub evaluations: u64,
    /// Checkpoints left.
    pub checkpoints: u64,
    /// Tokens of a whole update.
    pub tokens_per_update: u64,
    /// Targets of an evaluation, tokens that are sampled after it included.
    pub eval_targets: u64,
}

impl Ahead {
    /// How often something that is done `every` so many updates is due after update `done` and not after update `last`.
    pub fn times(every: u64, done: u64, last: u64) -> u64 {
        (last / every.max(1)).saturating_sub(done / every.max(1))
    }
}

/// The estimate; see the module.
#[derive(Clone, Debug)]
pub struct Eta {
    end: End,
    update: Update,
    evaluation: Pace,
    checkpoint: Pace,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Work(Ahead),
    Seconds(f64),
}

impl Eta {
    /// Of a run that ends when its work is done.
    pub fn new(ahead: Ahead) -> Self {
        Eta::ending(End::Work(ahead))
    }

    /// Of a run that ends in `seconds`. What passes outside updates, evaluations and checkpoints is not seen.
    pub fn timed(seconds: f64) -> Self {
        Eta::ending(End::Seconds(seconds))
    }

    fn ending(end: End) -> Self {
        Eta { end, update: Update::default(), evaluation: Pace::default(), checkpoint: Pace::default() }
    }

    /// An update took `seconds`.
    pub fn update(&mut self, seconds: f64) {
        self.update.add(seconds);
        self.pass(seconds, |ahead| &mut ahead.updates);
    }

    /// An evaluation took `seconds`, samples included.
    pub fn evaluation(&mut self, seconds: f64) {
        self.evaluation.add(seconds);
        self.pass(seconds, |ahead| &mut ahead.evaluations);
    }

    /// Training stood still for `seconds` for a checkpoint.
    pub fn checkpoint(&mut self, seconds: f64) {
        self.checkpoint.add(seconds);
        self.pass(seconds, |ahead| &mut ahead.checkpoints);
    }

    fn pass(&mut self, seconds: f64, count: impl Fn(&mut Ahead) -> &mut u64) {
        match &mut self.end {
            End::Seconds(left) => *left -= seconds,
            End::Work(ahead) => {
                let left = count(ahead);
                // A checkpoint that somebody asks for counts as one of those planned: it stands still for too short to tell.
                *left = left.saturating_sub(1);
            }
        }
    }

    /// Seconds to the end; `None` before the first update of a run that ends when its work is done.
    pub fn seconds_left(&self) -> Option<f64> {
        let ahead = match &self.end {
            End::Seconds(left) => return Some(left.max(0.0)),
            End::Work(ahead) => ahead,
        };
        let update = self.update.seconds()?;
        let forward_share = ahead.eval_targets as f64 / (3.0 * ahead.tokens_per_update.max(1) as f64);
        let evaluation = self.evaluation.seconds().unwrap_or(update * forward_share);
        let checkpoint = self.checkpoint.seconds().unwrap_or(0.0);
        Some(
            ahead.updates as f64 * update
                + ahead.evaluations as f64 * evaluation
                + ahead.checkpoints as f64 * checkpoint,
        )
    }
}

/// Seconds of something that happens a few times, each so long that it evens out its own noise: the k-th weighs as k.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    count: u64,
    seconds: f64,
}

impl Pace {
    fn add(&mut self, seconds: f64) {
        self.count += 1;
        self.seconds += 2.0 / (self.count + 1) as f64 * (seconds - self.seconds);
    }

    fn seconds(&self) -> Option<f64> {
        (self.count > 0).then_some(self.seconds)
    }
}

/// Seconds of an update.
#[derive(Clone, Debug, Default)]
struct Update {
    seen: u64,
    recent: Recent,
    quartile: f64,
    level: f64,
    excess: f64,
}

impl Update {
    fn add(&mut self, seconds: f64) {
        self.seen += 1;
        if self.seen == WARM_UP + 1 {
            self.recent = Recent::default();
        }
        self.recent.push(seconds);
        self.quartile = self.recent.quartile();
        if self.recent.count > RECENT as u64 {
            self.take(seconds, self.recent.count);
            return;
        }
        // The quartile of the first few moves a lot: what was measured by it is measured again.
        self.excess = USUAL_EXCESS;
        let recent = self.recent;
        for (n, seconds) in (1..=recent.count).zip(recent.seconds) {
            self.take(seconds, n);
        }
    }

    /// Enters the `n`-th duration.
    fn take(&mut self, seconds: f64, n: u64) {
        let counted = seconds.min(CLIP * self.quartile);
        let beyond = if counted < seconds { (seconds - counted) / self.quartile } else { 0.0 };
        let share = (RECENCY / (n as f64 + RECENCY - 1.0)).min(1.0);
        self.level += share * (counted - self.level);
        self.excess += (beyond - self.excess) / (n as f64 + EXCESS_UPDATES);
    }

    fn seconds(&self) -> Option<f64> {
        (self.seen > 0).then_some(self.level + self.excess * self.quartile)
    }
}

/// The last durations, in a ring.
#[derive(Clone, Copy, Debug, Default)]
struct Recent {
    count: u64,
    seconds: [f64; RECENT],
}

impl Recent {
    fn push(&mut self, seconds: f64) {
        self.seconds[self.count as usize % RECENT] = seconds;
        self.count += 1;
    }

    /// The lower quartile: the smallest of the first four.
    fn quartile(&self) -> f64 {
        let mut sorted = self.seconds;
        let sorted = &mut sorted[..RECENT.min(self.count as usize)];
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[(sorted.len() - 1) / 4]
    }
}

#[cfg(test)]
mod tests;
