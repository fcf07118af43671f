//! The real programs, run as their users run them.

#[path = "../../src/util/dice.rs"]
mod dice;
#[path = "../support/mod.rs"]
mod support;

mod aliases;
mod bags;
mod control;
mod examples;
mod explain;
mod filter_lines;
mod filter_transcripts;
mod filters;
mod filters_relay;
mod filters_relay_tls;
mod forward;
mod hostile;
mod hostile_deliveries;
mod hostile_spool;
mod install;
mod limits;
mod listen;
mod lmtp;
mod load;
mod mda;
mod metrics;
mod notices;
mod ports;
mod queue_in_hand;
mod queue_options;
mod queue_times;
mod quickstart;
mod relay;
mod relay_follow;
mod relay_hostile;
mod relay_names;
mod relay_tls;
mod relay_tls_old;
mod reload;
mod reload_keys;
mod srs;
mod restart;
mod sendmail;
mod smtp_client;
mod smuggling;
mod rule_filters;
mod spf;
mod stories;
mod table_programs;
mod submission;
mod submission_hostile;
mod submission_secrets;
mod tables;
mod takeover;
mod threads;
mod tracing;
