//! How many samples go through the network at once on a GPU: too large micro-batches are split, small ones are merged.
//!
//! An update keeps its samples, and its loss is the mean over the same tokens either way; only the order of sums changes, and the
//! masks of dropout, which belong to a pass. A split changes the settings of the run. A merge changes none: batches, updates
//! and epochs are counted as they were asked for. Checkpoints record both, so that a run that goes on with the same settings
//! keeps to them, and to its bits, as long as they fit.

use crate::checkpoint::{self, Checkpoint};
use crate::error::Error;
use crate::settings::TrainConfig;
use crate::setup::plan;
use eyas_data::Loader;
use eyas_model::Config;
use eyas_ops::Backend;
use serde_json::Value;

/// Under what name a checkpoint records how many micro-batches run as one pass.
pub(crate) const MERGED: &str = "micro_batches_per_pass";

/// Under what name it records how many samples a micro-batch was asked to have; it has fewer where it was split.
pub(crate) const ASKED: &str = "asked_batch_size";

/// Tokens of a merged pass, at most. Reasoned, not measured: a product of 65,536 rows and 768 columns is 3,072 tiles of
/// 128 x 128, more than twenty for each processor of the largest cards, so that what idles during the last round of tiles is a few
/// percent and no larger pass could gain more; one of 4,096 rows is 192 tiles, one and a half rounds of an H100.
const MAX_MERGED_TOKENS: usize = 1 << 16;

/// What decides how many samples fit a device.
pub(crate) struct Passes<'a, D: Backend> {
    pub(crate) device: &'a D,
    pub(crate) model: &'a Config,
    pub(crate) loader: &'a Loader,
    pub(crate) context_length: usize,
}

impl<D: Backend> Passes<'_, D> {
    /// Splits micro-batches that do not fit the device's memory, or that were split before `checkpoint`, into more and smaller
    /// ones of the same update; returns what to say of it.
    ///
    /// # Errors
    /// [`Error::Memory`] if a single sample does not fit.
    pub(crate) fn split(
        &self,
        config: &mut TrainConfig,
        checkpoint: Option<&Checkpoint>,
    ) -> Result<Option<String>, Error> {
        let Some(free_bytes) = self.free_bytes() else { return Ok(None) };
        let asked = config.per_device_train_batch_size;
        let fits = |batch: usize| self.fits(config, batch, free_bytes);
        let before =
            checkpoint.and_then(|checkpoint| split_before(config, checkpoint::own(&checkpoint.state)));
        let before = before.filter(|&batch| fits(batch));
        let Some(batch) = before.or_else(|| largest_batch(asked, fits)) else {
            return Err(Error::Memory { needed_bytes: self.needed_bytes(config, 1), free_bytes });
        };
        if batch == asked {
            return Ok(None);
        }
        let needed_bytes = self.needed_bytes(config, asked);
        config.per_device_train_batch_size = batch;
        config.gradient_accumulation_steps *= asked / batch;
        if before.is_some() {
            let parts = asked / batch;
            return Ok(Some(format!(
                "micro-batches of {asked} samples were split into {parts} of {batch} before the checkpoint, and go on so"
            )));
        }
        Ok(Some(format!(
            "micro-batches of {asked} samples need {} MiB with 256 in reserve and {} are free: they are split into {} of {batch}, so \
             that an update stays the same but for rounding and dropout masks",
            needed_bytes.div_ceil(1 << 20),
            free_bytes >> 20,
            asked / batch
        )))
    }

    /// How many micro-batches run as one pass, and what to warn of; nothing on the CPU, which small products keep busy. A run that
    /// goes on from `checkpoint` keeps to what is recorded there, as long as it fits.
    pub(crate) fn merge(
        &self,
        config: &TrainConfig,
        checkpoint: Option<&Checkpoint>,
    ) -> (Option<u64>, Option<String>) {
        let recorded = checkpoint.and_then(|checkpoint| recorded(config, checkpoint::own(&checkpoint.state)));
        let Some(free_bytes) = self.free_bytes() else {
            let warning = recorded.filter(|merged| *merged > 1).map(|before| {
                format!(
                    "{before} micro-batches ran as one pass before the checkpoint; on the CPU each runs by itself, so that results \
                     differ in dropout masks too"
                )
            });
            return (None, warning);
        };
        let (batch, accumulation) = (config.per_device_train_batch_size, config.gradient_accumulation_steps);
        let fits = |merged: usize, limit| self.fits(config, batch.saturating_mul(merged), limit);
        if let Some(merged) = recorded.filter(|merged| fits(*merged, free_bytes)) {
            return (Some(merged as u64), None);
        }
        let merged = match config.merge_micro_batches {
            true => {
                let most = MAX_MERGED_TOKENS / batch.saturating_mul(self.context_length).max(1);
                // Half of the card, so that what others hold of it at the moment seldom changes the choice; the other half is for them,
                // and for what comes beside the plan.
                let half = self.device.total_bytes().map_or(free_bytes, |bytes| bytes as u64) / 2;
                most_merged(accumulation, most, |merged| fits(merged, half.min(free_bytes)))
            }
            false => 1,
        };
        let warning = recorded.map(|before| {
            format!(
                "{before} micro-batches ran as one pass before the checkpoint, for which memory is short now; {merged} do now, so \
                 that results differ in rounding and dropout masks"
            )
        });
        (Some(merged as u64), warning)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.device.free_bytes().map(|bytes| bytes as u64)
    }

    /// Whether passes of `batch` samples take `limit` bytes at most, and no more elements than the device counts.
    fn fits(&self, config: &TrainConfig, batch: usize, limit: u64) -> bool {
        // Logits are worked on in blocks of rows, so the vocabulary does not count.
        let wide = self.model.inner().max(3 * self.model.n_embd);
        let elements = batch.saturating_mul(self.context_length).saturating_mul(wide);
        elements <= self.device.max_elements() && self.needed_bytes(config, batch) <= limit
    }

    fn needed_bytes(&self, config: &TrainConfig, batch: usize) -> u64 {
        let config = TrainConfig { per_device_train_batch_size: batch, ..config.clone() };
        let plan = plan(self.device, &config, self.model, self.loader, self.context_length, None);
        let bytes = plan.memory_bytes();
        // Beside the plan: workspaces, and the unevenness of allocations.
        bytes + bytes / 32 + (256 << 20)
    }
}

/// The largest batch that divides `asked` and fits, so that an update keeps its samples.
fn largest_batch(asked: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    (1..=asked).rev().filter(|batch| asked.is_multiple_of(*batch)).find(|&batch| fits(batch))
}

/// The largest number of micro-batches, up to `most`, that divides `accumulation` and fits, so that all passes of an update are
/// equal.
fn most_merged(accumulation: usize, most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let divides = |merged: &usize| accumulation.is_multiple_of(*merged);
    (2..=accumulation.min(most)).rev().filter(divides).find(|&merged| fits(merged)).unwrap_or(1)
}

/// How a run cut its updates.
struct Cut {
    /// Samples that a micro-batch was asked to have.
    asked: usize,
    /// Samples that it had.
    batch: usize,
    /// Micro-batches of an update.
    accumulation: usize,
}

impl Cut {
    /// That of the run whose state is `own`; `None` if it does not say.
    fn recorded(own: &Value) -> Option<Self> {
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        let settings = &own["settings"];
        let batch = number(&settings["per_device_train_batch_size"]).filter(|&batch| batch > 0)?;
        let accumulation = number(&settings["gradient_accumulation_steps"])?;
        Some(Cut { asked: number(&own[ASKED])?, batch, accumulation })
    }

    /// Whether it is one of the updates that `config` asks for, in micro-batches of `asked` samples.
    fn is_of(&self, config: &TrainConfig, asked: usize) -> bool {
        let samples = config.per_device_train_batch_size.saturating_mul(config.gradient_accumulation_steps);
        self.asked == asked && self.batch.checked_mul(self.accumulation) == Some(samples)
    }
}

/// The samples of a micro-batch of the run whose state is `own`, if that was asked for the same as this one and split.
fn split_before(config: &TrainConfig, own: &Value) -> Option<usize> {
    let (cut, asked) = (Cut::recorded(own)?, config.per_device_train_batch_size);
    let is_part = cut.batch < asked && asked.is_multiple_of(cut.batch);
    (is_part && cut.is_of(config, asked)).then_some(cut.batch)
}

/// What to say where the run whose state is `own` was asked for the same micro-batches of `asked` samples as `config`, and cut them
/// otherwise.
pub(crate) fn split_otherwise(config: &TrainConfig, own: &Value, asked: usize) -> Option<String> {
    let (cut, now) = (Cut::recorded(own)?, config.per_device_train_batch_size);
    (cut.is_of(config, asked) && cut.batch != now).then(|| {
        format!(
            "{} samples went through the network at once before the checkpoint, {now} do now: the update stays the same but for \
             rounding and dropout masks",
            cut.batch
        )
    })
}

/// What the run merged whose state is `own`, if it was asked for the same as this one: one where nothing is recorded, as on the
/// CPU.
fn recorded(config: &TrainConfig, own: &Value) -> Option<usize> {
    let settings = config.to_json();
    let is_same = |name: &str| own["settings"][name] == settings[name];
    let asked = ["per_device_train_batch_size", "gradient_accumulation_steps", "merge_micro_batches"];
    let merged = match &own[MERGED] {
        Value::Null => Some(1),
        merged => merged.as_u64().and_then(|merged| usize::try_from(merged).ok()),
    };
    let merged = merged.filter(|_| asked.into_iter().all(is_same));
    merged.filter(|merged| *merged > 0 && config.gradient_accumulation_steps.is_multiple_of(*merged))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_batch_is_split_into_equal_parts_that_fit() {
        let most = |asked: usize, limit: usize| largest_batch(asked, |batch| batch <= limit);
        assert_eq!(
            [most(32, 100), most(32, 32), most(32, 31), most(32, 1)],
            [Some(32), Some(32), Some(16), Some(1)]
        );
        // Nothing but single samples divides a prime.
        assert_eq!([most(31, 30), most(12, 5), most(8, 0)], [Some(1), Some(4), None]);
    }

    #[test]
    fn as_many_micro_batches_are_merged_as_divide_an_update_and_fit() {
        let merged = |accumulation, most, limit| most_merged(accumulation, most, |merged| merged <= limit);
        // The tutorial's eight, whole, cut by the number of tokens, and cut by memory.
        assert_eq!([merged(8, 16, 100), merged(8, 7, 100), merged(8, 16, 3)], [8, 4, 2]);
        assert_eq!([merged(12, 5, 100), merged(7, 6, 100), merged(9, 4, 2)], [4, 1, 1]);
        // One micro-batch has nothing to be merged with; one larger than the limits stays as it was asked for.
        assert_eq!([merged(1, 16, 100), merged(8, 0, 100), merged(8, 16, 0)], [1, 1, 1]);
        assert_eq!(MAX_MERGED_TOKENS / (32 * 128), 16);
    }

    #[test]
    fn a_split_is_kept_to_by_the_same_settings() {
        let config = |batch, accumulation| TrainConfig {
            per_device_train_batch_size: batch,
            gradient_accumulation_steps: accumulation,
            ..TrainConfig::defaults()
        };
        let own = json!({ASKED: 32, "settings": config(8, 12).to_json()});
        assert_eq!(split_before(&config(32, 3), &own), Some(8));
        // Other settings, though of the same update, and a run that was not split.
        for other in [config(16, 6), config(8, 12), config(32, 4), config(64, 3)] {
            assert_eq!(split_before(&other, &own), None);
        }
        let whole = json!({ASKED: 32, "settings": config(32, 3).to_json()});
        assert_eq!(split_before(&config(32, 3), &whole), None);
        // Records that are none.
        for asked in [json!(null), json!("32"), json!(31)] {
            let own = json!({ASKED: asked, "settings": config(8, 12).to_json()});
            assert_eq!(split_before(&config(32, 3), &own), None);
        }
        assert_eq!(
            split_before(&config(32, 3), &json!({ASKED: 32, "settings": config(0, 12).to_json()})),
            None
        );
        assert_eq!(split_before(&config(32, 3), &Value::Null), None);

        // Cut otherwise, whole, and as before; asked for otherwise, though cut to the same; another update.
        let said = |config: TrainConfig, asked| split_otherwise(&config, &own, asked);
        assert!(said(config(4, 24), 32).is_some_and(|line| line.starts_with("8 samples")));
        assert!(said(config(32, 3), 32).is_some());
        for (config, asked) in [(config(8, 12), 32), (config(16, 6), 16), (config(16, 12), 32)] {
            assert_eq!(said(config, asked), None);
        }
    }

    #[test]
    fn a_checkpoints_record_counts_only_for_the_same_settings() {
        let config = TrainConfig {
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 6,
            ..TrainConfig::defaults()
        };
        let own = json!({MERGED: 3, "settings": config.to_json()});
        assert_eq!(recorded(&config, &own), Some(3));
        for other in [
            TrainConfig { per_device_train_batch_size: 2, ..config.clone() },
            TrainConfig { gradient_accumulation_steps: 12, ..config.clone() },
            TrainConfig { merge_micro_batches: false, ..config.clone() },
        ] {
            assert_eq!(recorded(&other, &own), None);
        }
        // The CPU's record.
        assert_eq!(recorded(&config, &json!({MERGED: null, "settings": config.to_json()})), Some(1));
        // One that is none, and one that cannot be.
        for merged in [json!("3"), json!(0), json!(4)] {
            assert_eq!(recorded(&config, &json!({MERGED: merged, "settings": config.to_json()})), None);
        }
    }
}
