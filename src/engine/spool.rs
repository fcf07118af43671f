//! The queue of an engine, opened as the configuration says.

use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::config::{Config, QueueKey};
use crate::log;
use crate::queue::coding::{Coding, Key};
use crate::queue::fs::{self, Fs};
use crate::util::{Line, Secret};

/// Opens the spool under `root`, and starts the thread that reads the tables of bags, and then
/// deletes what was never promised.
pub fn open(
    root: &Path,
    config: &Config,
    key: Option<&Secret>,
    daemon_user: &str,
) -> Result<Fs, String> {
    let options = fs::Options {
        coding: coding(config, key)?,
        max_message_bytes: config.smtp.max_message_size,
        bags: true,
        delete_later: true,
        daemon_user: Line::new(daemon_user).ok(),
        read_bags_later: true,
        ..fs::Options::default()
    };
    let store =
        Fs::open(root, options).map_err(|error| format!("spool {}: {error}", root.display()))?;
    purge_in_the_background(store.clone()).map_err(|error| format!("purge: {error}"))?;
    Ok(store)
}

/// The parent gives an engine 30 seconds to end, and others have had some of them.
const UNPACK_FOR: Duration = Duration::from_secs(15);

/// The end: what is on the disk is as older versions know it.
pub fn close(store: &Fs) {
    match store.unpack_all(UNPACK_FOR) {
        0 => {}
        left => log::warn(format_args!(
            "queue: {left} messages stay in bags, where they are safe; before an older version is \
             started, or OpenSMTPD, run smtpctl unpack"
        )),
    }
}

/// How queue files are written. A key that is asked for has come from the parent.
fn coding(config: &Config, handed: Option<&Secret>) -> Result<Coding, String> {
    let key = match &config.queue.encryption {
        None => None,
        Some(QueueKey::Text(key)) => Some(key),
        Some(QueueKey::Stdin | QueueKey::Terminal) => {
            Some(handed.ok_or("there is no key for queue encryption")?)
        }
    };
    let key = key
        .map(|key| Key::new(key.reveal()).ok_or("crypto_setup: invalid key for queue encryption"));
    let coding = Coding {
        compress: config.queue.compression,
        key: key.transpose()?,
    };
    if coding.compress {
        log::info(format_args!("queue: queue compression enabled"));
    }
    if coding.key.is_some() {
        log::info(format_args!("queue: queue encryption enabled"));
    }
    Ok(coding)
}

fn purge_in_the_background(store: Fs) -> io::Result<()> {
    thread::Builder::new()
        .name("purge".to_owned())
        .spawn(move || {
            store.read_bags();
            if let Err(error) = store.purge() {
                log::warn(format_args!("purge: {error}"));
            }
            store.delete_as_it_comes()
        })?;
    Ok(())
}
