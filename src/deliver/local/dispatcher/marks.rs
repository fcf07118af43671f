//! How many envelopes may wait for a session of a group.

use crate::config::MdaLimits;

/// The water marks count deliveries. A shared session makes many of them in one go, so a group
/// that shares may have as many times more waiting.
const SHARE_FACTOR: usize = 16;

/// The water marks of `mda limit task-…`.
pub(super) struct Marks {
    pub(super) high: usize,
    pub(super) low: usize,
    pub(super) step: usize,
}

impl Marks {
    pub(super) fn of(limits: &MdaLimits, is_shared: bool) -> Marks {
        let factor = if is_shared { SHARE_FACTOR } else { 1 };
        let high = limits.task_hiwat.max(1).saturating_mul(factor);
        Marks {
            high,
            low: limits.task_lowat.saturating_mul(factor).min(high - 1),
            step: limits.task_release.max(1).saturating_mul(factor),
        }
    }
}
