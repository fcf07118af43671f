//! Answers that are forged, endless or garbage.

use super::*;

#[test]
fn forged_answers_are_not_taken() {
    // RFC 5452 §9.1: id, question and class must be those that were sent; QR must be set.
    let mut bench = Bench::new();
    let found = bench.lookup("real.example.", Kind::A);
    let asked = bench.asked();
    let forged = [("real.example", Data::A(Ipv4Addr::LOCALHOST))];
    let mut wrong_id = answer(&asked.wire, Rcode::NOERROR, &forged);
    wrong_id[0] ^= 1;
    let mut query = answer(&asked.wire, Rcode::NOERROR, &forged);
    query[2] &= 0x7f;
    let mut other = asked.wire.clone();
    other[13] = b'x';
    let wrong_name = answer(&other, Rcode::NOERROR, &forged);
    for bytes in [&wrong_id[..], &query, &wrong_name, &[], b"short"] {
        bench.receive(asked.fetch, bytes);
        assert!(found.lock().unwrap().is_empty());
        assert_eq!(bench.asks.len(), 1, "still waiting for the real one");
    }
    for _ in 0..limits::STRANGERS {
        bench.receive(asked.fetch, &wrong_id);
    }
    assert_eq!(bench.asks.len(), 2, "a flood makes it ask anew");
    bench.say(Rcode::NOERROR, &[("real.example", Data::A(ADDR))]);
    assert_eq!(only(&found), Ok(Answer::A(vec![ADDR])));
}

#[test]
fn aliases_are_followed_within_and_across_answers_and_not_for_ever() {
    // RFC 1034 §3.6.2: aliases that loop are an error. Ours is a temporary one.
    let mut bench = Bench::new();
    let inside = bench.lookup("one.example.", Kind::A);
    bench.say(
        Rcode::NOERROR,
        &[
            ("two.example", Data::Cname("three.example")),
            ("one.example", Data::Cname("two.example")),
            ("three.example", Data::A(ADDR)),
        ],
    );
    assert_eq!(only(&inside), Ok(Answer::A(vec![ADDR])));
    let across = bench.lookup("far.example.", Kind::A);
    bench.say(
        Rcode::NOERROR,
        &[("far.example", Data::Cname("near.example"))],
    );
    assert_eq!(bench.names_asked().last().unwrap(), "near.example");
    bench.say(Rcode::NOERROR, &[("near.example", Data::A(ADDR))]);
    assert_eq!(only(&across), Ok(Answer::A(vec![ADDR])));
    let looped = bench.lookup("loop.example.", Kind::A);
    for _ in 0..10 {
        bench.say(
            Rcode::NOERROR,
            &[
                ("loop.example", Data::Cname("pool.example")),
                ("pool.example", Data::Cname("loop.example")),
            ],
        );
    }
    assert_eq!(only(&looped), Err(DnsError::TempFail));
    let endless = bench.lookup("n0.example.", Kind::A);
    let before = bench.asks.len();
    while endless.lock().unwrap().is_empty() {
        let at = bench.names_asked().pop().unwrap();
        let to = ["a.example", "b.example"][usize::from(at == "a.example")];
        bench.say(Rcode::NOERROR, &[(&at, Data::Cname(to))]);
        assert!(bench.asks.len() - before <= limits::CHAIN + 1);
    }
    assert_eq!(only(&endless), Err(DnsError::TempFail));
}

#[test]
fn thousands_of_records_and_pointers_that_loop_are_bounded() {
    // RFC 1035 §4.1.4: a pointer leads to a prior name; nothing else of an answer is sure.
    let mut bench = Bench::new();
    let many = bench.lookup("many.example.", Kind::Mx);
    let records: Vec<_> = (0..1500)
        .map(|n| ("many.example", Data::Mx(n, format!("mx{n}.example"))))
        .collect();
    bench.say(Rcode::NOERROR, &records);
    let Ok(Answer::Mx(list)) = only(&many) else {
        panic!("{many:?}");
    };
    assert_eq!(list.len(), limits::RECORDS);
    let looping = bench.lookup("x.example.", Kind::A);
    while looping.lock().unwrap().is_empty() {
        let asked = bench.asked();
        let mut bytes = answer(&asked.wire, Rcode::NOERROR, &[]);
        let end = 12 + 11 + 4;
        bytes.truncate(end);
        bytes[6..12].copy_from_slice(&[0, 2, 0, 0, 0, 0]);
        // Two records whose owners point at themselves and ahead.
        let pointer = [0xc0, end as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 1, 2, 3, 4];
        bytes.extend_from_slice(&pointer);
        bytes.extend_from_slice(&pointer);
        bench.receive(asked.fetch, &bytes);
    }
    assert_eq!(only(&looping), Err(DnsError::TempFail));
}

#[test]
fn garbage_never_does_more_than_fail() {
    // OpenBSD 7.2 errata 022 was an answer of a name server. Good answers with bytes changed, cut
    // and repeated; the seed is fixed.
    let mut dice = Dice::new(1);
    let mut next = |below: usize| dice.roll(below);
    let mut bench = Bench::new();
    let records = [
        ("f.example", Data::Cname("g.example")),
        ("g.example", Data::Mx(1, "mx.g.example".into())),
        ("g.example", Data::Txt(vec![7; 300])),
        ("g.example", Data::Ptr("p.example")),
        ("g.example", Data::Aaaa(Ipv6Addr::LOCALHOST)),
    ];
    let kinds = [Kind::A, Kind::Aaaa, Kind::Mx, Kind::Ptr, Kind::Txt];
    for round in 0..4000 {
        bench.asks.clear();
        let found = bench.lookup("f.example.", kinds[round % kinds.len()]);
        if bench.asks.is_empty() {
            // Remembered from an earlier round.
            bench.now += limits::TTL;
            continue;
        }
        while found.lock().unwrap().is_empty() {
            let asked = bench.asked();
            let mut bytes = answer(&asked.wire, Rcode::NOERROR, &records);
            for _ in 0..next(8) {
                let at = 2 + next(bytes.len() - 2);
                bytes[at] = next(256) as u8;
            }
            if next(4) == 0 {
                bytes.truncate(next(bytes.len()));
            }
            bench.receive(asked.fetch, &bytes);
            if next(3) == 0 {
                bench.pass(Duration::from_secs(5));
            }
        }
        assert_eq!(found.lock().unwrap().len(), 1);
    }
}
