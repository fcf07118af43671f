//! The queue runner: asks the scheduler, loads, dispatches, settles outcomes.

#![forbid(unsafe_code)]
