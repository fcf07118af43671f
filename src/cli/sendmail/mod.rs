//! sendmail(8)
pub mod address;
pub mod compose;
pub mod intake;
pub mod options;
