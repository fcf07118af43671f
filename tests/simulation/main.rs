//! The real queue over a disk that can be stopped, filled and robbed of its power.

mod crash;
mod damage;
#[path = "../../src/util/dice.rs"]
mod dice;
mod disk;
mod faults;
mod promise;
#[path = "../../src/mail/samples.rs"]
mod samples;
mod tree;
