//! The dynamic loss scale of fp16 (Micikevicius et al., 2018): gradients are computed of the loss times a factor, so that
//! small ones do not vanish below what fp16 can hold, and divided by it again before they are used.
//!
//! As PyTorch's GradScaler: the factor begins at 65,536, is halved by an update whose gradient overflows, which is skipped,
//! and doubled after 2,000 good updates in a row.

use serde_json::{Value, json};

/// The factor, and what it has seen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LossScale {
    factor: f64,
    /// Updates since the factor last changed.
    good_updates: u64,
}

impl LossScale {
    const FIRST: f64 = 65_536.0;
    const GROWTH_INTERVAL: u64 = 2_000;
    /// Below this it is not fp16's range that the gradient leaves.
    const LEAST: f64 = 1.0;

    /// What a run begins with.
    pub(crate) fn new() -> Self {
        LossScale { factor: Self::FIRST, good_updates: 0 }
    }

    /// What the loss is multiplied by.
    pub(crate) fn factor(&self) -> f64 {
        self.factor
    }

    /// Notes an update whose gradient was finite.
    pub(crate) fn succeeded(&mut self) {
        self.good_updates += 1;
        if self.good_updates == Self::GROWTH_INTERVAL {
            (self.factor, self.good_updates) = (2.0 * self.factor, 0);
        }
    }

    /// Notes an update whose gradient was not finite. False if the scale is as low as it may be: then the arithmetic itself
    /// has broken down.
    #[must_use]
    pub(crate) fn overflowed(&mut self) -> bool {
        self.good_updates = 0;
        let can_be_lower = self.factor > Self::LEAST;
        if can_be_lower {
            self.factor *= 0.5;
        }
        can_be_lower
    }

    pub(crate) fn to_json(self) -> Value {
        json!({"factor": self.factor, "good_updates": self.good_updates})
    }

    /// `None` if a field is missing or impossible.
    pub(crate) fn from_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key)?.as_u64();
        let factor =
            value.get("factor")?.as_f64().filter(|factor| *factor >= Self::LEAST && factor.is_finite())?;
        Some(LossScale { factor, good_updates: number("good_updates")? })
    }
}

impl Default for LossScale {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_halves_on_overflow_and_doubles_after_two_thousand_good_updates() {
        let mut scale = LossScale::new();
        (0..1_999).for_each(|_| scale.succeeded());
        assert_eq!(scale.factor(), 65_536.0);
        scale.succeeded();
        assert_eq!(scale.factor(), 131_072.0);
        (0..1_999).for_each(|_| scale.succeeded());
        assert!(scale.overflowed());
        // The count begins again.
        (0..1_999).for_each(|_| scale.succeeded());
        assert_eq!(scale.factor(), 65_536.0);
        assert_eq!(LossScale::from_json(&scale.to_json()), Some(scale));
        assert!((0..16).all(|_| scale.overflowed()));
        assert!(!scale.overflowed(), "the scale is below 1");
    }

    #[test]
    fn a_damaged_state_is_refused() {
        for bad in [json!(null), json!({}), json!({"factor": 0.0, "good_updates": 0})] {
            assert_eq!(LossScale::from_json(&bad), None);
        }
    }
}
