//! When to strike: instants drawn from a seed, uniform over the time of an uninterrupted run, or within something that the
//! run does.
//!
//! A run that is struck goes on from its newest checkpoint, so its instants are told in the time that an uninterrupted run
//! would have needed to come as far. They ascend, but for those in loading, which every process goes through anew: they are
//! strewn among the others.

use super::error::Error;
use super::left;
use super::process::{Ended, Running, spin};
use super::random::Random;
use super::reference::Pace;
use super::world::Training;
use std::fmt;
use std::time::Duration;

/// What a run should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Whatever it does at that instant.
    Any,
    /// Writing a checkpoint: the next that begins after that instant.
    Saving,
    /// Evaluating: the next after that instant.
    Evaluating,
}

/// One instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim {
    /// In the time of an uninterrupted run.
    pub(crate) at: Duration,
    pub(crate) moment: Moment,
    /// After what is waited for has begun.
    pub(crate) delay: Duration,
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_secs_f64() * 1e3;
        let delay = self.delay.as_micros();
        match self.moment {
            Moment::Any => write!(f, "at {at:.2} ms of the uninterrupted run"),
            Moment::Saving => write!(f, "{delay} us into the first save after {at:.2} ms"),
            Moment::Evaluating => write!(f, "{delay} us into the first evaluation after {at:.2} ms"),
        }
    }
}

/// Shares of the instants that are aimed at something; the rest is uniform.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    pub(crate) saving: f64,
    pub(crate) evaluating: f64,
    pub(crate) loading: f64,
}

/// Draws `num` instants of a run.
pub(crate) fn draw(random: &mut Random, pace: &Pace, num: u64, shares: Shares) -> Vec<Aim> {
    let mut aims = Vec::new();
    for _ in 0..num {
        let what = random.unit();
        let (moment, limit) = if what < shares.saving {
            // A little longer than a save takes, so that what follows the rename is met too.
            (Moment::Saving, pace.saving.mul_f64(1.1))
        } else if what < shares.saving + shares.evaluating {
            (Moment::Evaluating, pace.evaluating)
        } else {
            (Moment::Any, Duration::ZERO)
        };
        let within = if what > 1.0 - shares.loading { pace.loading } else { pace.whole };
        aims.push(Aim { at: random.duration(within), moment, delay: random.duration(limit) });
    }
    in_order(random, aims, |aim| aim.at, |aim| aim.moment == Moment::Any && aim.at < pace.loading)
}

/// Instants by their time, but for those in loading, which are strewn among the others.
pub(crate) fn in_order<A>(
    random: &mut Random,
    aims: Vec<A>,
    at: impl Fn(&A) -> Duration,
    is_loading: impl Fn(&A) -> bool,
) -> Vec<A> {
    let (loading, mut ascending): (Vec<A>, Vec<A>) = aims.into_iter().partition(is_loading);
    ascending.sort_by_key(at);
    for aim in loading {
        let place = random.below(ascending.len() as u64 + 1) as usize;
        ascending.insert(place, aim);
    }
    ascending
}

impl Aim {
    /// Waits for the instant in a process that has just been started and goes on from update `step`. Returns how the process
    /// ended, if it did before.
    pub(crate) fn wait(
        &self,
        running: &mut Running,
        training: &Training,
        pace: &Pace,
        step: u64,
    ) -> Result<Option<Ended>, Error> {
        let is_loading = self.moment == Moment::Any && self.at < pace.loading;
        let at = match is_loading {
            true => self.at,
            false => pace.loading + self.at.saturating_sub(pace.time_of(step)),
        };
        if let Some(ended) = running.wait_until(&mut |now| now >= at)? {
            return Ok(Some(ended));
        }
        let ended = match self.moment {
            Moment::Any => None,
            Moment::Saving => {
                // One that is there already began at an unknown time, or is left from the process before.
                let mut was_absent = false;
                running.wait_until(&mut |_| {
                    let is_there = matches!(left::half_written(&training.out), Ok(Some(_)));
                    was_absent |= !is_there;
                    is_there && was_absent
                })?
            }
            Moment::Evaluating => {
                running.wait_until(&mut |_| left::is_evaluating(&training.out, pace.eval_steps))?
            }
        };
        if ended.is_none() {
            spin(self.delay);
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_most_ascend() {
        let ms = Duration::from_millis;
        let pace = Pace {
            loading: ms(100),
            whole: ms(1000),
            saving: ms(10),
            evaluating: ms(5),
            num_steps: 90,
            save_steps: 10,
            eval_steps: 15,
        };
        assert_eq!(pace.time_of(45), ms(550));
        let shares = Shares { saving: 0.3, evaluating: 0.1, loading: 0.1 };
        let draw = |seed| draw(&mut Random::new(seed, "kill", 3), &pace, 50, shares);
        let (a, b) = (draw(1), draw(1));
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
        let late: Vec<_> =
            a.iter().filter(|aim| aim.moment != Moment::Any || aim.at >= ms(100)).map(|aim| aim.at).collect();
        assert!(late.is_sorted() && late.len() < 50 && late.len() > 25);
        let saving = a.iter().filter(|aim| aim.moment == Moment::Saving).count();
        assert!((8..25).contains(&saving), "{saving}");
    }
}
