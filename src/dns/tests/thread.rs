//! The thread with real sockets.

use super::*;

/// A name server on loopback: UDP answers are cut when the name starts with `big`, not given when
/// it starts with `slow`, and forged ones with a wrong id come first.
fn serve() -> SocketAddr {
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((count, from)) = udp.recv_from(&mut buffer) {
            let query = &buffer[..count];
            if query[13..].starts_with(b"slow") {
                continue;
            }
            let mut bytes = zone(query);
            if query[13..].starts_with(b"big") {
                bytes[2] |= 0x02;
            }
            let mut forged = bytes.clone();
            forged[0] ^= 0xff;
            udp.send_to(&forged, from).unwrap();
            udp.send_to(&bytes, from).unwrap();
        }
    });
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 2];
            stream.read_exact(&mut head).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(head))];
            stream.read_exact(&mut query).unwrap();
            let bytes = zone(&query);
            let framed = [&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat();
            // In pieces, as networks do.
            framed
                .chunks(700)
                .for_each(|piece| stream.write_all(piece).unwrap());
        }
    });
    address
}

fn zone(query: &[u8]) -> Vec<u8> {
    let message = domain::base::Message::from_slice(query).unwrap();
    let asked = message.first_question().unwrap().qname().to_string();
    let many = if asked.starts_with("big") { 120 } else { 1 };
    let records: Vec<_> = (0..many)
        .map(|n| (asked.as_str(), Data::Mx(n, format!("mx{n}.{asked}"))))
        .collect();
    answer(query, Rcode::NOERROR, &records)
}

#[test]
fn the_thread_asks_over_udp_and_tcp_and_ends_with_its_last_handle() {
    // RFC 1035 §4.2: UDP, and TCP with a length in front.
    let handle = start(
        Settings {
            servers: vec![serve()],
            timeout: Duration::from_millis(200),
            attempts: 1,
            ..Settings::default()
        },
        chance,
    )
    .unwrap();
    let (sender, found) = mpsc::channel();
    let lookup = |name: &str| {
        let sender = sender.clone();
        handle.lookup(
            name,
            Kind::Mx,
            Box::new(move |found| sender.send(found).unwrap()),
        );
        found.recv_timeout(Duration::from_secs(120)).unwrap()
    };
    let count = |found: DnsResult| match found {
        Ok(Answer::Mx(list)) => list.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!(count(lookup("small.example.")), 1);
    assert_eq!(count(lookup("big.example.")), 120);
    assert_eq!(lookup("slow.example."), Err(DnsError::TempFail));
    let (ended, end) = mpsc::channel::<()>();
    let reply = move |_| drop(ended);
    handle.reverse(IpAddr::from(ADDR), Box::new(reply));
    drop(handle);
    // The closure is dropped with the thread's core, run or not.
    assert!(end.recv_timeout(Duration::from_secs(20)).is_err());
}

#[test]
fn nobody_at_the_servers_address_is_a_temporary_failure_at_once() {
    // A refused port is known from ICMP, long before the time-out.
    let gone = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let handle = start(
        Settings {
            servers: vec![gone],
            ..Settings::default()
        },
        chance,
    )
    .unwrap();
    let (sender, found) = mpsc::channel();
    let begin = Instant::now();
    handle.lookup(
        "x.example.",
        Kind::A,
        Box::new(move |found| sender.send(found).unwrap()),
    );
    assert_eq!(
        found.recv_timeout(Duration::from_secs(120)).unwrap(),
        Err(DnsError::TempFail)
    );
    assert!(begin.elapsed() < Duration::from_secs(4));
}
