//! What has been found, until its time is over.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::message::Question;
use super::{Answer, DnsError, DnsResult, Mx, limits};

/// Answers and failures by question, bounded in number and in bytes.
pub(super) struct Cache {
    entries: HashMap<Question, Entry>,
    bytes: usize,
}

struct Entry {
    found: DnsResult,
    until: Instant,
    bytes: usize,
}

impl Cache {
    pub(super) fn new() -> Cache {
        Cache {
            entries: HashMap::new(),
            bytes: 0,
        }
    }

    /// What is remembered for a question.
    pub(super) fn get(&self, question: &Question, now: Instant) -> Option<&DnsResult> {
        let entry = self.entries.get(question)?;
        (entry.until > now).then_some(&entry.found)
    }

    /// Remembers `found` for as long as its records live, within limits. A failure without a time
    /// is forgotten at once, as RFC 2308 §5 wants, and a temporary one soon.
    pub(super) fn put(
        &mut self,
        question: Question,
        found: DnsResult,
        ttl_s: Option<u32>,
        now: Instant,
    ) {
        let longest = match found {
            Ok(_) => limits::TTL,
            Err(DnsError::NoName | DnsError::NoData) => limits::NEGATIVE_TTL,
            Err(DnsError::TempFail) => limits::FAILURE_TTL,
        };
        let ttl = match ttl_s {
            Some(ttl_s) => Duration::from_secs(u64::from(ttl_s)).min(longest),
            None if found == Err(DnsError::TempFail) => longest,
            None => return,
        };
        let bytes = weight(&question, &found);
        if ttl.is_zero() || bytes > limits::CACHED_BYTES / 16 {
            return;
        }
        self.make_room(bytes, now);
        let until = now + ttl;
        let entry = Entry {
            found,
            until,
            bytes,
        };
        self.bytes += bytes;
        if let Some(old) = self.entries.insert(question, entry) {
            self.bytes -= old.bytes;
        }
    }

    /// Forgets everything: other servers may say something else.
    pub(super) fn clear(&mut self) {
        *self = Cache::new();
    }

    fn make_room(&mut self, bytes: usize, now: Instant) {
        if !self.is_full(bytes) {
            return;
        }
        self.retain(|entry| entry.until > now);
        if self.is_full(bytes) {
            // Every second one, whichever: sweeping is rare then, and nobody can choose whose
            // entry goes.
            let mut keep = false;
            self.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    fn is_full(&self, bytes: usize) -> bool {
        self.entries.len() >= limits::CACHED || self.bytes + bytes > limits::CACHED_BYTES
    }

    fn retain(&mut self, mut keep: impl FnMut(&Entry) -> bool) {
        let bytes = &mut self.bytes;
        self.entries.retain(|_, entry| {
            let kept = keep(entry);
            if !kept {
                *bytes -= entry.bytes;
            }
            kept
        });
    }
}

fn weight(question: &Question, found: &DnsResult) -> usize {
    let records = match found {
        Ok(Answer::A(list)) => list.len() * 4,
        Ok(Answer::Aaaa(list)) => list.len() * 16,
        Ok(Answer::Mx(list)) => {
            let length = |mx: &Mx| mx.name.as_ref().map_or(0, |name| name.len());
            list.iter().map(|mx| length(mx) + 32).sum()
        }
        Ok(Answer::Ptr(list)) => list.iter().map(|name| name.len() + 32).sum(),
        Ok(Answer::Txt(list)) => list.iter().map(|text| text.len() + 32).sum(),
        Err(_) => 0,
    };
    records + question.name.len() + 128
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Kind, name};

    fn question(text: &str) -> Question {
        Question {
            name: name::parse(text).unwrap(),
            kind: Kind::Txt,
        }
    }

    #[test]
    fn entries_live_as_long_as_their_records_and_not_for_ever() {
        let (mut cache, start) = (Cache::new(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        cache.put(question("a"), Err(DnsError::NoData), Some(60), start);
        cache.put(question("b"), Err(DnsError::NoName), Some(u32::MAX), start);
        cache.put(question("c"), Err(DnsError::TempFail), None, start);
        cache.put(question("d"), Err(DnsError::NoName), None, start);
        assert!(cache.get(&question("a"), at(59)).is_some());
        assert!(cache.get(&question("a"), at(60)).is_none());
        assert!(cache.get(&question("b"), at(3600)).is_none());
        assert!(cache.get(&question("c"), at(4)).is_some());
        assert!(cache.get(&question("c"), at(5)).is_none());
        assert!(cache.get(&question("d"), start).is_none());
    }

    #[test]
    fn number_and_bytes_stay_bounded() {
        let (mut cache, now) = (Cache::new(), Instant::now());
        for number in 0..3 * limits::CACHED {
            let text = Ok(Answer::Txt(vec![vec![b'x'; 2000]]));
            cache.put(question(&format!("n{number}")), text, Some(60), now);
            assert!(cache.entries.len() <= limits::CACHED);
            assert!(cache.bytes <= limits::CACHED_BYTES);
        }
        cache.retain(|_| false);
        assert_eq!(cache.bytes, 0);
    }
}
