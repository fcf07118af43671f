//! Every bound of the resolver in one place.

use std::time::Duration;

/// Aliases (CNAME) followed from one name.
pub const CHAIN: usize = 8;
/// Records of one answer that are looked at, and that are kept.
pub const RECORDS: usize = 128;
/// Bytes of text in one answer that are kept.
pub const TEXT_BYTES: usize = 64 * 1024;
/// Name servers of resolv.conf(5), as in the C library.
pub const SERVERS: usize = 3;
/// Domains of the search list.
pub const SEARCH: usize = 6;
/// Questions with a socket at a time.
pub const ACTIVE: usize = 256;
/// Callers of questions that are open. Each waits for one question at a time, as long as it takes;
/// no caller has so many that this is ever met.
pub const JOBS: usize = 16 * 1024;
/// Answers remembered, and the bytes in them.
pub const CACHED: usize = 8192;
/// See [`CACHED`].
pub const CACHED_BYTES: usize = 8 * 1024 * 1024;
/// Datagrams that are not the answer, before a question is asked anew.
pub const STRANGERS: u32 = 32;
/// Bytes of a UDP answer we say we take (RFC 9715).
pub const UDP_BYTES: u16 = 1232;
/// Longest time an answer is remembered.
pub const TTL: Duration = Duration::from_secs(86_400);
/// Longest time it is remembered that there is no answer (RFC 2308 §5).
pub const NEGATIVE_TTL: Duration = Duration::from_secs(3600);
/// How long a failure is remembered, so that a dead server is not asked by everybody.
pub const FAILURE_TTL: Duration = Duration::from_secs(5);
/// How long a server that did not answer is asked last.
pub const SHUNNED: Duration = Duration::from_secs(30);
/// Time for one question, whatever resolv.conf(5) says.
pub const QUESTION: Duration = Duration::from_secs(60);
/// How often /etc/hosts and resolv.conf(5) are looked at for changes.
pub const RELOAD: Duration = Duration::from_secs(5);
/// Lines of /etc/hosts that are kept.
pub const HOSTS: usize = 65_536;
/// Bytes of a configuration file that are read.
pub const FILE_BYTES: u64 = 8 * 1024 * 1024;
