//! The scripts of `tests/dialogs`, as the page above describes them.

use std::path::Path;

use super::*;

#[derive(Clone, Copy)]
enum Feed {
    Whole,
    Bytes,
}

fn run_dialog(script: &str, name: &str, feed: Feed) {
    let mut settings = listening();
    let mut peer = loopback();
    let mut fault = None;
    for setting in script.lines().filter_map(|line| line.strip_prefix("@ ")) {
        apply(setting, &mut settings, &mut peer, &mut fault);
    }
    let mut talk = Talk::start(settings, peer, FakeServices::new(fault));
    let mut replies = talk.replies().into_iter();
    let mut body: Option<std::vec::IntoIter<String>> = None;
    for (number, step) in script.lines().enumerate() {
        let at = format!("{name}:{}", number + 1);
        let (kind, rest) = step.split_at(step.len().min(3));
        match kind {
            "C: " | "C~ " => {
                assert_eq!(replies.next(), None, "{at}: a reply nobody expects");
                let bytes = match kind {
                    "C: " => format!("{rest}\r\n").into_bytes(),
                    _ => unescape(rest),
                };
                match feed {
                    Feed::Whole => talk.send(&bytes),
                    Feed::Bytes => bytes.chunks(1).for_each(|byte| talk.send(byte)),
                }
                replies = talk.replies().into_iter();
            }
            "S: " => {
                let got = replies.next().unwrap_or_else(|| panic!("{at}: no reply"));
                assert!(same_line(rest, &got), "{at}:\nwant {rest}\n got {got}");
            }
            "X" => assert!(talk.is_over(), "{at}: still open"),
            _ if step.starts_with("= ") => {
                assert_eq!(talk.messages().to_string(), step[2..], "{at}: messages");
            }
            "B: " | "B:" => {
                let lines = body.get_or_insert_with(|| stored_lines(&talk.services));
                assert_eq!(lines.next().as_deref(), Some(rest), "{at}: stored text");
            }
            "" => {}
            _ => assert!(step.starts_with(['#', '@']), "{at}: what is {step:?}?"),
        }
    }
    assert_eq!(
        replies.next(),
        None,
        "{name}: a reply nobody expects at the end"
    );
}

fn stored_lines(services: &FakeServices) -> std::vec::IntoIter<String> {
    let text = String::from_utf8(services.last_body()).unwrap();
    let mut lines: Vec<String> = text.split_terminator('\n').map(str::to_string).collect();
    let last_of_received = 1 + lines.iter().position(|line| line.ends_with(';')).unwrap();
    lines.split_off(last_of_received + 1).into_iter()
}

fn apply(
    setting: &str,
    listening: &mut Listening,
    peer: &mut Peer,
    fault: &mut Option<(&'static str, io::ErrorKind)>,
) {
    let (word, value) = setting.split_once(' ').unwrap_or((setting, ""));
    let fails = ["begin", "add", "open", "write", "commit"];
    match word {
        "socket" => *peer = Peer::Local,
        "client" => *peer = Peer::parse(value).unwrap(),
        "no-dsn" => listening.no_dsn = true,
        "mask-src" => listening.mask_src = true,
        "submission" => listening.submission = true,
        "max-message-size" => listening.limits.max_message_size = value.parse().unwrap(),
        "max-rcpt" => listening.limits.max_rcpt = value.parse().unwrap(),
        "max-mails" => listening.limits.max_mails = value.parse().unwrap(),
        "full" | "fails" => {
            let kind = match word {
                "full" => io::ErrorKind::StorageFull,
                _ => io::ErrorKind::Other,
            };
            let call = fails.into_iter().find(|call| *call == value).unwrap();
            *fault = Some((call, kind));
        }
        _ => panic!("unknown setting {word}"),
    }
}

fn same_line(want: &str, got: &str) -> bool {
    match want.split_once("<msgid>") {
        None => want == got,
        Some((head, tail)) => got
            .strip_prefix(head)
            .and_then(|rest| rest.strip_suffix(tail))
            .is_some_and(|id| id.parse::<MsgId>().is_ok()),
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'\\' {
            bytes.push(*byte);
            continue;
        }
        let (mark, tail) = rest.split_first().unwrap();
        rest = tail;
        match mark {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let hex = std::str::from_utf8(&rest[..2]).unwrap();
                bytes.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &rest[2..];
            }
            b'*' => {
                let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
                let count: usize = std::str::from_utf8(&rest[..digits])
                    .unwrap()
                    .parse()
                    .unwrap();
                let last = *bytes.last().unwrap();
                bytes.resize(bytes.len() + count - 1, last);
                rest = &rest[digits..];
            }
            other => panic!("unknown escape \\{}", *other as char),
        }
    }
    bytes
}

#[test]
fn every_dialog_goes_as_written_whole_and_byte_by_byte() {
    // RFC 5321 §4, and OpenSMTPD's replies to the letter: one story a file.
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dialogs"));
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "dialog")
        {
            let script = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            run_dialog(&script, &name, Feed::Whole);
            run_dialog(&script, &name, Feed::Bytes);
            seen += 1;
        }
    }
    assert!(seen >= 15, "{seen} dialogs");
}

// ---- Pipelining ----
