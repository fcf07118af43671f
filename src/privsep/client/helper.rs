//! Programs of tables and filters, as the engine asks for them and hears of them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use crate::privsep::{Helper, MdaEnd, Request};

use super::Client;
use super::wire::{HelperNews, Matter, Promise, lock};

/// A helper that was asked for.
pub struct PendingHelper {
    id: u32,
    client: Client,
    told: Mutex<Told>,
}

impl Client {
    /// Asks for a helper, with its standard input and output and its standard error.
    pub fn start_helper(
        &self,
        helper: Helper,
        stream: OwnedFd,
        errors: OwnedFd,
    ) -> io::Result<PendingHelper> {
        // Room for all that is ever said of it.
        let (promise, news) = sync_channel(2);
        let id = self.0.register(Promise::Helper(promise), None)?;
        let request = Request::StartHelper { id, helper };
        if let Err(error) = self.0.send(&request, &[stream, errors]) {
            drop(self.0.take(id));
            return Err(error);
        }
        Ok(PendingHelper {
            id,
            client: self.clone(),
            told: Mutex::new(Told {
                news,
                pid: None,
                end: None,
            }),
        })
    }
}

impl PendingHelper {
    /// Its process, once the parent has told.
    pub fn pid(&self) -> Option<u32> {
        let mut told = lock(&self.told);
        while let Ok(news) = told.news.try_recv() {
            told.take(news);
        }
        told.pid
    }

    /// Asks for it to be killed. Its end still has to be waited for.
    pub fn kill(&self) {
        // A parent that cannot be reached is gone, which the reader tells.
        let request = Request::KillHelper { id: self.id };
        let _ = self.client.0.insist(Matter::Kill(self.id), request);
    }

    /// How it ended; waits for each piece of news no longer than `timeout`.
    pub fn ended(&self, timeout: Duration) -> Option<String> {
        let mut told = lock(&self.told);
        while told.end.is_none() {
            match told.news.recv_timeout(timeout) {
                Ok(news) => told.take(news),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some("not known".to_owned()),
            }
        }
        told.end.clone()
    }
}

/// What the parent has told of a helper.
struct Told {
    news: Receiver<HelperNews>,
    pid: Option<u32>,
    end: Option<String>,
}

impl Told {
    fn take(&mut self, news: HelperNews) {
        match news {
            HelperNews::Started(pid) => self.pid = Some(pid),
            HelperNews::Refused(text) => self.end = Some(format!("not started: {text}")),
            HelperNews::Ended(MdaEnd::Exited(code)) => {
                self.end = Some(format!("exited with status {code}"));
            }
            HelperNews::Ended(MdaEnd::Signaled(signal)) => {
                self.end = Some(format!("terminated; signal {signal}"));
            }
            HelperNews::Ended(MdaEnd::TimedOut) => self.end = Some("timed out".to_owned()),
        }
    }
}
