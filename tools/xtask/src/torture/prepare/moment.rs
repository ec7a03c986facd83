//! When to kill a preparation: instants drawn from a seed, as in `aim`, and within what it does on the disk.

use super::hidden::{Hidden, Position};
use crate::torture::aim::in_order;
use crate::torture::error::Error;
use crate::torture::process::{Ended, Running, spin};
use crate::torture::random::Random;
use std::fmt;
use std::time::{Duration, SystemTime};

/// Where the time of an uninterrupted preparation goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// From the start until the hidden folder is there.
    pub(super) loading: Duration,
    /// From start to end.
    pub(super) whole: Duration,
    /// A journal's writing, the median.
    pub(super) replacing: Duration,
    /// From the first look at the index of the shards to the end.
    pub(super) placing: Duration,
    /// And from the first at the shards in their place.
    pub(super) removing: Duration,
    /// What had become durable by when.
    pub(super) durable: Vec<(Position, Duration)>,
}

impl Pace {
    /// When so much had become durable.
    fn time_of(&self, position: Position) -> Duration {
        let before = self.durable.iter().take_while(|(durable, _)| *durable <= position);
        before.last().map_or(self.loading, |(_, at)| *at)
    }

    /// The most documents from one journal to the next.
    pub(super) fn most_between(&self) -> u64 {
        let numbers: Vec<u64> = self.durable.iter().map(|(durable, _)| durable.num_documents).collect();
        let between = numbers.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        between.chain(numbers.first().copied()).max().unwrap_or(0)
    }
}

/// What a preparation should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Whatever it does at that instant.
    Any,
    /// Whatever it does so long after its start, however far the processes before it came.
    Beginning,
    /// Writing a journal: the next that is begun after that instant.
    Replacing,
    /// Ending the shards, putting them in their place, and removing what is left.
    Placing,
    /// Only the last of that.
    Removing,
}

/// One instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    /// In the time of an uninterrupted preparation.
    pub(super) at: Duration,
    pub(super) moment: Moment,
    /// After what is waited for has begun.
    pub(super) delay: Duration,
}

impl fmt::Display for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_secs_f64() * 1e3;
        let delay = self.delay.as_micros();
        match self.moment {
            Moment::Any => write!(f, "at {at:.2} ms of the uninterrupted one"),
            Moment::Beginning => write!(f, "at {at:.2} ms of any"),
            Moment::Replacing => write!(f, "{delay} us into the first journal after {at:.2} ms"),
            Moment::Placing => write!(f, "{delay} us after the index was begun"),
            Moment::Removing => write!(f, "{delay} us after the shards were in their place"),
        }
    }
}

/// Shares of the instants that are aimed at something; the rest is uniform. Some of those miss it.
const REPLACING: f64 = 0.3;
const PLACING: f64 = 0.15;
const REMOVING: f64 = 0.1;
const BEGINNING: f64 = 0.1;

/// Draws `num` instants of a run. They ascend, but for those at the beginning, which every process goes through anew.
pub(super) fn draw(random: &mut Random, pace: &Pace, num: u64) -> Vec<Aim> {
    let aims = (0..num).map(|_| {
        let what = random.unit();
        let mut edge = 0.0;
        let mut is_below = |share: f64| {
            edge += share;
            what < edge
        };
        let (moment, at, lasts) = if is_below(REPLACING) {
            (Moment::Replacing, random.duration(pace.whole), pace.replacing)
        } else if is_below(PLACING) {
            (Moment::Placing, pace.whole, pace.placing)
        } else if is_below(REMOVING) {
            (Moment::Removing, pace.whole, pace.removing)
        } else if is_below(BEGINNING) {
            (Moment::Beginning, random.duration(2 * pace.loading), Duration::ZERO)
        } else {
            (Moment::Any, random.duration(pace.whole), Duration::ZERO)
        };
        // A little longer than it lasts, so that what follows is met too.
        Aim { at, moment, delay: random.duration(lasts.mul_f64(1.1)) }
    });
    let aims: Vec<Aim> = aims.collect();
    in_order(random, aims, |aim| aim.at, |aim| aim.moment == Moment::Beginning)
}

impl Aim {
    /// Waits for the instant in a process that has just been started and goes on from `durable`. Returns how the process
    /// ended, if it did before.
    pub(super) fn wait(
        &self,
        running: &mut Running,
        hidden: &Hidden,
        pace: &Pace,
        durable: Position,
    ) -> Result<Option<Ended>, Error> {
        // What is there was left by the process before, or begun at an unknown time.
        let index = hidden.index_begun();
        let at = match self.moment {
            Moment::Beginning => self.at,
            Moment::Placing | Moment::Removing => Duration::ZERO,
            _ => pace.loading + self.at.saturating_sub(pace.time_of(durable)),
        };
        if let Some(ended) = running.wait_until(&mut |now| now >= at)? {
            return Ok(Some(ended));
        }
        let journal = hidden.journal_begun();
        let is_other = |now: Option<SystemTime>, before| now.is_some() && now != before;
        let ended = match self.moment {
            Moment::Any | Moment::Beginning => None,
            Moment::Replacing => running.wait_until(&mut |_| is_other(hidden.journal_begun(), journal))?,
            Moment::Placing => running.wait_until(&mut |_| is_other(hidden.index_begun(), index))?,
            Moment::Removing => {
                let mut is_whole = false;
                running.wait_until(&mut |_| {
                    is_whole |= is_other(hidden.index_begun(), index);
                    is_whole && !hidden.has_shards()
                })?
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

    fn pace() -> Pace {
        let ms = Duration::from_millis;
        let position = |num_signatures, num_documents| Position { num_signatures, num_documents };
        let durable =
            vec![(position(10, 0), ms(200)), (position(10, 8), ms(500)), (position(10, 12), ms(700))];
        Pace { loading: ms(50), whole: ms(1000), replacing: ms(2), placing: ms(20), removing: ms(5), durable }
    }

    #[test]
    fn what_is_durable_tells_the_time() {
        let (pace, ms) = (pace(), Duration::from_millis);
        let time = |num_signatures, num_documents| pace.time_of(Position { num_signatures, num_documents });
        assert_eq!([time(0, 0), time(5, 0), time(10, 0)], [ms(50), ms(50), ms(200)]);
        assert_eq!([time(10, 7), time(10, 8), time(10, 100)], [ms(200), ms(500), ms(700)]);
        assert_eq!(pace.most_between(), 8);
        assert_eq!(Pace::default().most_between(), 0);
    }

    #[test]
    fn the_same_seed_draws_the_same_and_all_kinds() {
        let draw = |seed| draw(&mut Random::new(seed, "prepare", 3), &pace(), 100);
        let (a, b) = (draw(1), draw(1));
        assert_eq!(format!("{a:?}"), format!("{b:?}"));
        let count = |moment| a.iter().filter(|aim| aim.moment == moment).count();
        assert!((25..45).contains(&count(Moment::Replacing)));
        for moment in [Moment::Placing, Moment::Removing, Moment::Beginning] {
            assert!((3..25).contains(&count(moment)), "{moment:?}");
        }
        let late = a.iter().filter(|aim| aim.moment != Moment::Beginning).map(|aim| aim.at);
        assert!(late.is_sorted());
    }
}
