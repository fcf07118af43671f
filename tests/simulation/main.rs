//! The real queue over a disk that can be stopped, filled and robbed of its power.

mod crash;
mod disk;
mod faults;
mod promise;
#[path = "../support/samples.rs"]
mod samples;
mod tree;
