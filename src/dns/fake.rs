//! A name server that says what a test wants.

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::Rcode;
use domain::base::name::Name;
use domain::base::{Message, MessageBuilder, Ttl};
use domain::rdata::{A, Aaaa, Cname, Mx, Ptr, Soa, Txt};

/// A record without its owner.
#[derive(Clone, Debug)]
pub(super) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Cname(&'static str),
    Mx(u16, String),
    Ptr(&'static str),
    Txt(Vec<u8>),
}

/// The answer to `query` with these records, each living for a minute.
pub(super) fn answer(query: &[u8], rcode: Rcode, records: &[(&str, Data)]) -> Vec<u8> {
    build(query, rcode, records, None)
}

/// An answer without records, which the zone allows to be kept for `minimum_s`.
pub(super) fn nothing(query: &[u8], rcode: Rcode, minimum_s: u32) -> Vec<u8> {
    build(query, rcode, &[], Some(minimum_s))
}

fn build(query: &[u8], rcode: Rcode, records: &[(&str, Data)], soa_s: Option<u32>) -> Vec<u8> {
    let query = Message::from_slice(query).unwrap();
    let builder = MessageBuilder::new_stream_vec();
    let mut builder = builder.start_answer(query, rcode).unwrap();
    let ttl = Ttl::from_secs(60);
    for (owner, data) in records {
        let owner = name(owner);
        match data {
            Data::A(addr) => builder.push((owner, ttl, A::new(*addr))),
            Data::Aaaa(addr) => builder.push((owner, ttl, Aaaa::new(*addr))),
            Data::Cname(to) => builder.push((owner, ttl, Cname::new(name(to)))),
            Data::Mx(preference, to) => builder.push((owner, ttl, Mx::new(*preference, name(to)))),
            Data::Ptr(to) => builder.push((owner, ttl, Ptr::new(name(to)))),
            Data::Txt(text) => {
                builder.push((owner, ttl, Txt::<Vec<u8>>::build_from_slice(text).unwrap()))
            }
        }
        .unwrap();
    }
    let mut builder = builder.authority();
    if let Some(minimum_s) = soa_s {
        let zero = Ttl::from_secs(0);
        let minimum = Ttl::from_secs(minimum_s);
        let soa = Soa::new(
            name("ns.x"),
            name("me.x"),
            1.into(),
            zero,
            zero,
            zero,
            minimum,
        );
        builder
            .push((name("x"), Ttl::from_secs(3600), soa))
            .unwrap();
    }
    builder.finish().as_dgram_slice().to_vec()
}

fn name(text: &str) -> Name<Vec<u8>> {
    Name::vec_from_str(text).unwrap()
}
