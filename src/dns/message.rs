//! Questions as bytes, and what bytes from a name server say. Everything read here is hostile.

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::ToName;
use domain::base::{Message, MessageBuilder, Record, RecordSection};
use domain::rdata::{AllRecordData, Soa};

use crate::util::Line;

use super::name::{self, Wire};
use super::{Answer, DnsError, Kind, Mx, limits};

/// A name and what is asked about it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: Wire,
    pub(super) kind: Kind,
}

/// Whether the answer must fit a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// Whether the question says that a larger answer is welcome (RFC 6891). Some old servers refuse
/// such questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edns {
    With,
    Without,
}

/// What bytes from a server are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not the answer to the question that was sent.
    NotOurs,
    /// It does not fit a datagram.
    Truncated,
    /// The server did not like the question.
    BadQuestion,
    /// The server cannot or will not say, or what it says cannot be read.
    ServerFailed,
    /// Records, found behind so many aliases.
    Records(Answer, u32),
    /// The name is another one for this name, of which the message says nothing more.
    Alias { to: Wire, hops: usize, ttl_s: u32 },
    /// There are no records; known for so long.
    Nothing(DnsError, Option<u32>),
}

/// The question as bytes.
pub(super) fn question(id: u16, question: &Question, edns: Edns) -> Option<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((&question.name, rtype(question.kind))).ok()?;
    let mut builder = builder.additional();
    if edns == Edns::With {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(limits::UDP_BYTES);
                Ok(())
            })
            .ok()?;
    }
    Some(builder.finish())
}

/// Reads what came back for `question`, sent with `id`.
pub(super) fn read(bytes: &[u8], id: u16, question: &Question, transport: Transport) -> Verdict {
    let Ok(message) = Message::from_slice(bytes) else {
        return Verdict::NotOurs;
    };
    let header = message.header();
    if !header.qr() || header.id() != id || header.opcode() != Opcode::QUERY {
        return Verdict::NotOurs;
    }
    if header.rcode() == Rcode::FORMERR || header.rcode() == Rcode::NOTIMP {
        // Such an answer need not repeat the question it did not understand.
        return Verdict::BadQuestion;
    }
    if !repeats(message, question) {
        return Verdict::NotOurs;
    }
    if header.tc() {
        return match transport {
            Transport::Udp => Verdict::Truncated,
            // A part of the records is not to be taken for all of them.
            Transport::Tcp => Verdict::ServerFailed,
        };
    }
    let failure = match header.rcode() {
        Rcode::NOERROR => DnsError::NoData,
        Rcode::NXDOMAIN => DnsError::NoName,
        _ => return Verdict::ServerFailed,
    };
    records(message, question, failure).unwrap_or(Verdict::ServerFailed)
}

fn repeats(message: &Message<[u8]>, question: &Question) -> bool {
    message.sole_question().is_ok_and(|asked| {
        asked.qtype() == rtype(question.kind)
            && asked.qclass() == Class::IN
            && asked.qname().name_eq(&question.name)
    })
}

/// One record of an answer, as far as it is of use.
struct OneRecord {
    owner: Wire,
    ttl_s: u32,
    data: Data,
}

enum Data {
    Alias(Wire),
    A(std::net::Ipv4Addr),
    Aaaa(std::net::Ipv6Addr),
    Mx(Mx),
    Ptr(Line),
    Txt(Vec<u8>),
    /// Of the right kind, but of no use: a pointer to what cannot be a host's name.
    Odd,
}

/// `None` when the message cannot be read.
fn records(message: &Message<[u8]>, question: &Question, failure: DnsError) -> Option<Verdict> {
    let found = read_section(message.answer().ok()?, question.kind)?;
    let mut at = question.name.clone();
    let mut ttl_s = u32::MAX;
    // Each round follows one alias; a loop ends with the count.
    for hops in 0..=limits::CHAIN {
        let here = || found.iter().filter(|record| record.owner == at);
        if here().any(|record| !matches!(record.data, Data::Alias(_))) {
            let ttl_s = here().map(|record| record.ttl_s).fold(ttl_s, u32::min);
            return Some(match collect(here(), question.kind) {
                Some(answer) => Verdict::Records(answer, ttl_s),
                None => Verdict::Nothing(DnsError::NoData, Some(ttl_s)),
            });
        }
        let alias = here().find_map(|record| match &record.data {
            Data::Alias(to) => Some((to, record.ttl_s)),
            _ => None,
        });
        match alias {
            Some((to, alias_ttl_s)) => {
                ttl_s = ttl_s.min(alias_ttl_s);
                at = to.clone();
            }
            None if hops > 0 && failure == DnsError::NoData && soa_ttl_s(message).is_none() => {
                return Some(Verdict::Alias {
                    to: at,
                    hops,
                    ttl_s,
                });
            }
            None => {
                let known = soa_ttl_s(message).map(|soa| soa.min(ttl_s));
                return Some(Verdict::Nothing(failure, known));
            }
        }
    }
    None
}

/// The records of the wanted kind and the aliases among the first of a section.
fn read_section(section: RecordSection<'_, [u8]>, kind: Kind) -> Option<Vec<OneRecord>> {
    let mut found = Vec::new();
    let mut text_bytes = 0;
    for record in section.take(limits::RECORDS) {
        let record = record.ok()?;
        if record.class() != Class::IN {
            continue;
        }
        if record.rtype() != Rtype::CNAME && record.rtype() != rtype(kind) {
            continue;
        }
        let record: Record<_, AllRecordData<_, _>> = record.into_any_record().ok()?;
        let data = match record.data() {
            AllRecordData::Cname(data) => Data::Alias(canonical(data.cname())?),
            AllRecordData::A(data) => Data::A(data.addr()),
            AllRecordData::Aaaa(data) => Data::Aaaa(data.addr()),
            AllRecordData::Mx(data) => exchanger(data.preference(), data.exchange()),
            AllRecordData::Ptr(data) => {
                name::host_text(data.ptrdname()).map_or(Data::Odd, Data::Ptr)
            }
            AllRecordData::Txt(data) => {
                let text: Vec<u8> = data.text();
                text_bytes += text.len();
                if text_bytes > limits::TEXT_BYTES {
                    break;
                }
                Data::Txt(text)
            }
            _ => continue,
        };
        found.push(OneRecord {
            owner: canonical(record.owner())?,
            ttl_s: record.ttl().as_secs(),
            data,
        });
    }
    Some(found)
}

fn exchanger(preference: u16, exchange: &(impl ToName + ?Sized)) -> Data {
    // RFC 7505: a domain that takes no mail has the root as its exchanger.
    let name = match canonical(exchange) {
        Some(name) if name.is_root() => Line::new(".").ok(),
        Some(name) => name::exchanger_text(&name),
        None => None,
    };
    Data::Mx(Mx { preference, name })
}

fn collect<'a>(records: impl Iterator<Item = &'a OneRecord>, kind: Kind) -> Option<Answer> {
    let data = records.map(|record| &record.data);
    macro_rules! gather {
        ($variant:ident) => {{
            let list: Vec<_> = data
                .filter_map(|data| match data {
                    Data::$variant(value) => Some(value.clone()),
                    _ => None,
                })
                .collect();
            (!list.is_empty()).then_some(Answer::$variant(list))
        }};
    }
    match kind {
        Kind::A => gather!(A),
        Kind::Aaaa => gather!(Aaaa),
        Kind::Mx => gather!(Mx),
        Kind::Ptr => gather!(Ptr),
        Kind::Txt => gather!(Txt),
    }
}

/// RFC 2308 §5: how long it is known that there is nothing, by the zone's own word.
fn soa_ttl_s(message: &Message<[u8]>) -> Option<u32> {
    let section = message.authority().ok()?;
    let soa = section
        .limit_to::<Soa<_>>()
        .take(limits::RECORDS)
        .flatten()
        .next()?;
    Some(soa.ttl().as_secs().min(soa.data().minimum().as_secs()))
}

fn canonical(name: &(impl ToName + ?Sized)) -> Option<Wire> {
    let mut name: Wire = name.try_to_name().ok()?;
    name.make_canonical();
    Some(name)
}

fn rtype(kind: Kind) -> Rtype {
    match kind {
        Kind::A => Rtype::A,
        Kind::Aaaa => Rtype::AAAA,
        Kind::Mx => Rtype::MX,
        Kind::Ptr => Rtype::PTR,
        Kind::Txt => Rtype::TXT,
    }
}
