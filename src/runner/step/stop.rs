//! The end: nothing new is begun, and what an administrator was told is done is brought to the disk.

use crate::log;
use crate::util::Timestamp;

use super::Core;

impl Core {
    /// Hands out nothing more.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.agents.local.stop();
        self.agents.bounce.stop();
        if let Some(relay) = &mut self.agents.relay {
            relay.stop();
        }
    }

    /// Whether outcomes are still awaited, or anything is still to be written down.
    pub fn is_settling(&self) -> bool {
        !self.flights.is_empty()
            || !self.disk.is_idle()
            || !self.marks.is_empty()
            || self.scheduler.count_removals() > 0
    }

    /// Says what there was no time for.
    pub fn give_up(&self) {
        let (removed, marked) = (self.scheduler.count_removals(), self.marks.len());
        if removed + marked > 0 {
            log::warn(format_args!(
                "runner: no time to take {removed} removed envelopes off the disk, nor to write down that \
                 {marked} were paused or resumed: they are as before at the next start"
            ));
        }
    }

    /// Goes on with what `smtpctl remove` was answered.
    pub(super) fn remove_some(&mut self, now: Timestamp) -> bool {
        let batch = self.scheduler.removals(now);
        let is_some = !batch.is_empty();
        for work in batch {
            self.carry_out(work, now);
        }
        is_some
    }
}
