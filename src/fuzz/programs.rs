//! Programs of filters and tables: their handshake, their answers, and what comes of both.

use std::path::PathBuf;

use crate::config::service;
use crate::expansion;
use crate::filter::program as filters;
use crate::filter::{Content, Decision, Progress};
use crate::mail::SessionId;
use crate::smtp::Reply;
use crate::table::program::{self as tables, Answer, Operation};

/// The sessions that wait, and the tokens that seeds know.
const WAITING: [(SessionId, u64); 2] = [
    (SessionId(0x3f0c_5a1e_9b7d_2c44), 0xf1b2_c3d4_e5f6_0718),
    (SessionId(0x3f0c), 0xa1),
];
/// The lookups that wait.
const ASKED: [(u32, Operation); 4] = [
    (0x0f99_3c74, Operation::Lookup),
    (0xe586_2859, Operation::Check),
    (0x478f_f0d2, Operation::Update),
    (0x189b_d3ee, Operation::Fetch),
];
/// How long a message may come out.
const MOST_BYTES: u64 = 4096;

/// A filter says anything: each who waits is answered once, a message comes out in whole lines and
/// not longer than it may be, and no text for a client has a second line.
pub(super) fn filter(bytes: &[u8]) {
    let content = Content::open(WAITING[0].0, Vec::new(), PathBuf::from("/"), MOST_BYTES);
    for decision in filters::fuzz_program(bytes, WAITING, content.clone()) {
        let (Decision::Reject(text) | Decision::Disconnect(text)) =
            decision.unwrap_or(Decision::Proceed)
        else {
            continue;
        };
        if text.len() > 4 && text.starts_with("550 ") {
            let mut wire = Vec::new();
            Reply::verbatim(&text).write_to(&mut wire);
            assert!(wire.ends_with(b"\r\n"));
            assert_eq!(wire.iter().filter(|byte| **byte == b'\n').count(), 1);
        }
    }
    let mut text = Vec::new();
    // All of it is there, or the program was gone before its end.
    match content.take(&mut text) {
        Progress::End | Progress::Failed(_) => {}
        Progress::More => panic!("nobody will say more"),
    }
    assert!(text.is_empty() || text.ends_with(b"\n"));
    assert!(text.len() as u64 <= MOST_BYTES);
}

/// A table's program says anything: a lookup finds what was said for its id, on one line, or
/// nothing; and whoever reads the value does not break.
pub(super) fn table(bytes: &[u8]) {
    for answer in tables::fuzz_program(bytes, &ASKED).into_iter().flatten() {
        let Answer::Found(value) = answer else {
            continue;
        };
        assert!(!value.contains(['\r', '\n', '\0']));
        if let Some(user) = service::userinfo("op", &value) {
            assert_eq!(user.name, "op");
        }
        let _ = service::credentials("op", &value);
        let _ = service::source(&value);
        let _ = service::addrname(&value);
        let _ = service::addresses(&value).count();
        let _ = expansion::check_value(&value);
    }
}
