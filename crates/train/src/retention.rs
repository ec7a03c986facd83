//! Which checkpoints stay: the newest ones, as many as `save_total_limit` says, the last whole one and the best in any case.
//!
//! The rule is a function of numbers alone, so that it can be tried on a hundred thousand histories. It is applied only after
//! a new checkpoint is durable.

use crate::checkpoint::{list_in, remove};
use crate::error::Error;
use crate::storage::Storage;
use std::path::{Path, PathBuf};

/// What must not be removed, and how many may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Checkpoints to keep; `None`: all.
    pub limit: Option<usize>,
    /// The checkpoint of the best evaluation, if there is one.
    pub best: Option<u64>,
}

impl Retention {
    /// Which of `steps` go now that the checkpoint of step `newest` is durable, in the order they go in.
    ///
    /// Those after `newest` were found broken when the run was resumed, and go first; then the oldest. `newest` and the
    /// best always stay: with a limit of 1 there may be two, as in transformers.
    pub fn surplus(&self, steps: &[u64], newest: u64) -> Vec<u64> {
        let Some(limit) = self.limit else { return Vec::new() };
        let stays = |step: u64| step == newest || (Some(step) == self.best && step < newest);
        let mut others: Vec<_> = steps.iter().copied().filter(|&step| !stays(step)).collect();
        others.sort_by_key(|&step| (step < newest, step));
        let num_kept = steps.len() - others.len();
        others.truncate(others.len().saturating_sub(limit.max(1).saturating_sub(num_kept)));
        others
    }

    /// Removes from `output_dir` what is too many, and returns what was removed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn apply(
        &self,
        storage: &dyn Storage,
        output_dir: &Path,
        newest: u64,
    ) -> Result<Vec<PathBuf>, Error> {
        let found = list_in(storage, output_dir)?;
        let steps: Vec<_> = found.iter().map(|(step, _)| *step).collect();
        let path = |step: u64| found.iter().find(|(found, _)| *found == step).map(|(_, path)| path.clone());
        let surplus: Vec<_> = self.surplus(&steps, newest).into_iter().filter_map(path).collect();
        surplus.iter().try_for_each(|path| remove(storage, path))?;
        Ok(surplus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eyas_ops::Rng;

    #[test]
    fn the_newest_stay_and_the_best() {
        let rule = |limit, best| Retention { limit, best };
        assert_eq!(rule(Some(2), None).surplus(&[2, 4, 6], 6), [2]);
        assert_eq!(rule(Some(2), Some(2)).surplus(&[2, 4, 6], 6), [4]);
        assert_eq!(rule(Some(1), Some(2)).surplus(&[2, 4, 6], 6), [4]);
        assert_eq!(rule(Some(1), Some(6)).surplus(&[2, 4, 6], 6), [2, 4]);
        // 8 is newer than the newest, so it was passed over as broken.
        assert_eq!(rule(Some(2), None).surplus(&[2, 4, 6, 8], 6), [8, 2]);
        assert_eq!(rule(None, None).surplus(&[2, 4, 6], 6), [0; 0]);
    }

    /// Runs that save, evaluate, are killed and resume, with any limit: the last whole checkpoint and the best are always
    /// there, and nothing goes before its successor is durable.
    #[test]
    fn a_hundred_thousand_histories_keep_the_last_and_the_best() {
        for seed in 0..100_000 {
            let mut rng = Rng::new(seed);
            let mut below = |n: u64| rng.next_u64() % n;
            let limit = [None, Some(1), Some(2), Some(3), Some(5)][below(5) as usize];
            let (mut on_disk, mut broken, mut step) = (Vec::new(), Vec::new(), 0);
            let mut best: Option<(u64, u64)> = None;
            for _ in 0..12 {
                step += 1 + below(3);
                let loss = below(20);
                if best.is_none_or(|(_, least)| loss < least) {
                    best = Some((step, loss));
                }
                // A save may not come to its end: then nothing may go.
                if below(4) == 0 {
                    continue;
                }
                on_disk.retain(|&other| other != step);
                broken.retain(|&other| other != step);
                on_disk.push(step);
                let best_saved = best.map(|(step, _)| step).filter(|step| on_disk.contains(step));
                let gone = Retention { limit, best: best_saved }.surplus(&on_disk, step);
                let before = on_disk.clone();
                on_disk.retain(|step| !gone.contains(step));
                let last_whole = on_disk.iter().copied().filter(|step| !broken.contains(step)).max();
                assert_eq!(last_whole, Some(step), "seed {seed}: {before:?} without {gone:?}");
                assert!(
                    best_saved.is_none_or(|best| on_disk.contains(&best)),
                    "seed {seed}: the best is gone"
                );
                let most = limit.unwrap_or(usize::MAX).max(2);
                assert!(on_disk.len() <= most, "seed {seed}: {on_disk:?}, at most {limit:?}");
                // A crash, and damage to some of the newest: the run goes on from the newest whole one.
                if below(3) == 0 && on_disk.len() > 1 {
                    broken.push(step);
                    let whole = on_disk.iter().copied().filter(|step| !broken.contains(step)).max();
                    step = whole.unwrap_or(0);
                    best = best.filter(|(best, _)| *best <= step);
                    if whole.is_none() {
                        break;
                    }
                }
            }
        }
    }
}
