//! When to try again, and when to give up.
//!
//! A hub that never answered is given up soon, since most likely there is no network; one that did is waited for through
//! an outage of minutes, since a run of days may depend on it. Waits double and are drawn at random between half and the
//! whole, so that many readers do not come back at once.

use super::error::HubError;
use super::http::{Client, Failure};
use super::id::HubId;
use super::options::HubEvent;
use super::refusal::refusal;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// How long to wait, and how often to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Attempts in a row that bring nothing before it is given up, where the hub never answered.
    pub num_first_attempts: u32,
    /// The same, where it did.
    pub num_attempts: u32,
    /// The wait after the first attempt that failed; it doubles from there.
    pub first_wait: Duration,
    /// The longest wait between two attempts.
    pub longest_wait: Duration,
    /// A hub that asks to be left alone for longer than this is given up.
    pub longest_asked_wait: Duration,
    /// A connection must be there within this.
    pub connect: Duration,
    /// A connection on which nothing comes for so long is dead.
    pub silence: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            num_first_attempts: 4,
            // With these waits about five minutes, the time in which the hub counts requests.
            num_attempts: 12,
            first_wait: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            longest_asked_wait: Duration::from_secs(360),
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
        }
    }
}

impl Patience {
    /// The wait after `num_failed` attempts in a row that failed, before chance shortens it.
    fn full_wait(&self, num_failed: u32) -> Duration {
        let doubled = self.first_wait.saturating_mul(1 << num_failed.saturating_sub(1).min(20));
        doubled.min(self.longest_wait)
    }

    /// The wait after `num_failed` attempts in a row that failed.
    pub(super) fn wait(&self, num_failed: u32) -> Duration {
        // Keys of the standard hasher are random: no generator is needed for this.
        let chance = (RandomState::new().hash_one(num_failed) >> 40) as f64 / f64::from(1 << 24);
        self.full_wait(num_failed).mul_f64(0.5 + chance / 2.0)
    }
}

/// Attempts at the same thing, of which those that bring nothing are counted.
pub(super) struct Attempts<'a> {
    client: &'a Client,
    id: &'a HubId,
    num_failed: u32,
}

impl<'a> Attempts<'a> {
    pub(super) fn new(client: &'a Client, id: &'a HubId) -> Self {
        Self::after(client, id, 0)
    }

    /// As if `num_failed` attempts in a row had failed already.
    pub(super) fn after(client: &'a Client, id: &'a HubId, num_failed: u32) -> Self {
        Attempts { client, id, num_failed }
    }

    pub(super) fn num_failed(&self) -> u32 {
        self.num_failed
    }

    /// Waits after an attempt that failed.
    ///
    /// # Errors
    /// If it is of no use to try again.
    pub(super) fn failed(&mut self, failure: Failure) -> Result<(), HubError> {
        self.num_failed += 1;
        let (address, what, hint, asked_wait) = match failure {
            Failure::Final(error) => return Err(error),
            Failure::Status(status) if !status.may_pass() => {
                return Err(refusal(self.client, self.id, &status));
            }
            Failure::Status(status) => {
                let what = status.describe();
                (
                    status.address,
                    what,
                    "try later; with a token in HF_TOKEN the hub allows more",
                    status.asked_wait,
                )
            }
            Failure::Broken { address, what, hint } => (address, what, hint, None),
        };
        let options = self.client.options();
        let patience = &options.patience;
        let most =
            if self.client.has_answered() { patience.num_attempts } else { patience.num_first_attempts };
        let too_long = asked_wait.filter(|wait| *wait > patience.longest_asked_wait);
        if self.num_failed >= most || too_long.is_some() {
            let asked = too_long.map(|wait| format!(", and asks to be left alone for {} s", wait.as_secs()));
            return Err(HubError::Unreachable {
                address,
                what: what + &asked.unwrap_or_default(),
                num_attempts: self.num_failed,
                hint: hint.to_owned(),
            });
        }
        let wait = patience.wait(self.num_failed).max(asked_wait.unwrap_or_default());
        options.tell(&HubEvent::Waiting { wait, reason: format!("{address}: {what}") });
        std::thread::sleep(wait);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let patience = Patience::default();
        let seconds: Vec<f64> = (1..=12).map(|n| patience.full_wait(n).as_secs_f64()).collect();
        assert_eq!(seconds, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0, 60.0]);
        for n in 1..200 {
            let (wait, full) = (patience.wait(n), patience.full_wait(n));
            assert!(wait >= full / 2 && wait <= full);
        }
    }
}
