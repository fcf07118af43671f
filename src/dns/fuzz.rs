//! An entry for the fuzzer: lookups whose name servers say whatever it likes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::core::{Command, Core};
use super::hosts::Hosts;
use super::message::Transport;
use super::{Kind, Settings};

/// Every question is answered by the next packet: a length byte, whether id and question are put
/// right, and bytes. Each lookup ends exactly once.
pub(crate) fn fuzz(bytes: &[u8]) {
    let (mut now, mut rest) = (Instant::now(), bytes);
    let server = SocketAddr::from(([127, 0, 0, 1], 53));
    let mut settings = Settings {
        servers: vec![server],
        ..Settings::default()
    };
    if bytes.first() == Some(&b'#') {
        settings.adopt(bytes);
        return drop(Hosts::parse(bytes));
    }
    settings.attempts = 2;
    let mut core = Core::new(settings, Hosts::parse(b"127.0.0.1 localhost\n"), || 7);
    let ended = Arc::new(AtomicUsize::new(0));
    for kind in [Kind::A, Kind::Aaaa, Kind::Mx, Kind::Txt] {
        let ended = ended.clone();
        let reply = Box::new(move |_| {
            ended.fetch_add(1, Ordering::SeqCst);
        });
        core.lookup("mail.example.org", kind, reply, now);
    }
    let reverse = ended.clone();
    let reply = Box::new(move |_| {
        reverse.fetch_add(1, Ordering::SeqCst);
    });
    core.reverse(server.ip(), reply, now);
    let mut asked = Vec::new();
    for _ in 0..200 {
        asked.extend(core.take_commands().into_iter().filter_map(ask));
        let Some((fetch, transport, wire)) = asked.pop() else {
            break;
        };
        match packet(&mut rest, &wire) {
            Some(packet) => core.received(fetch, &packet, now),
            None if transport == Transport::Tcp => core.failed(fetch, now),
            None => {
                now += Duration::from_secs(60);
                core.tick(now);
            }
        }
    }
    for _ in 0..200 {
        now += Duration::from_secs(60);
        core.tick(now);
        core.take_commands();
    }
    assert_eq!(ended.load(Ordering::SeqCst), 5, "lookups that ended");
}

fn ask(command: Command) -> Option<(u64, Transport, Vec<u8>)> {
    match command {
        Command::Ask {
            fetch,
            transport,
            wire,
            ..
        } => Some((fetch, transport, wire)),
        Command::Close { .. } => None,
    }
}

/// With an odd length the packet gets the header's id and the question of what was asked.
fn packet(rest: &mut &[u8], wire: &[u8]) -> Option<Vec<u8>> {
    let (&length, after) = rest.split_first()?;
    let (bytes, after) = after.split_at(usize::from(length).min(after.len()));
    *rest = after;
    if length % 2 == 0 {
        return Some(bytes.to_vec());
    }
    // Without the additional record that we append: the last 11 bytes.
    let mut whole = wire.get(..wire.len().saturating_sub(11))?.to_vec();
    let (head, records) = bytes.split_at(bytes.len().min(10));
    for (to, from) in whole.iter_mut().skip(2).zip(head) {
        *to = *from;
    }
    if let Some(count) = whole.get_mut(4..6) {
        count.copy_from_slice(&[0, 1]);
    }
    whole.extend_from_slice(records);
    Some(whole)
}
