//! The thread around [`Core`]: sockets, the clock, and files that change.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Instant, SystemTime};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use mio::net::{TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Token};

use crate::log;
use crate::sys::waker::Waker;
use crate::util::Live;

use super::core::{Command, Core};
use super::hosts::Hosts;
use super::message::Transport;
use super::recent::Recent;
use super::settings::read_file;
use super::{Confirmed, DnsError, DnsResult, Families, Kind, Reply, Reverse, Settings, limits};

/// Reaches the resolver from any thread. Calls never wait; what was found a moment ago is answered
/// at once, in the caller's thread, and so is, with a temporary failure, what comes when the
/// resolver has more to do than it may hold. The thread ends with its last handle.
#[derive(Clone)]
pub struct Handle(Arc<Cord>);

struct Cord {
    requests: Option<Sender<Request>>,
    waker: Arc<Waker>,
    recent: Arc<Recent>,
    families: Live<Families>,
}

enum Request {
    Lookup(String, Kind, Reply<DnsResult>),
    Reverse(IpAddr, Reply<Reverse>),
}

/// Starts the resolver. `random` must be unpredictable: it guards against forged answers.
pub fn start(settings: Settings, random: fn() -> u32) -> io::Result<Handle> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
    let (sender, requests) = bounded(REQUESTS);
    let mut core = Core::new(settings.clone(), Hosts::default(), random);
    let families = Live::new(settings.families);
    let mut files = Files::new(settings, families.clone());
    // Now, because the process may soon be unable to see the files.
    files.refresh(&mut core, Instant::now());
    let resolver = Resolver {
        poll,
        waker: waker.clone(),
        requests,
        core,
        sockets: HashMap::new(),
        files,
    };
    thread::Builder::new()
        .name("resolver".to_owned())
        .spawn(move || resolver.run())?;
    Ok(Handle(Arc::new(Cord {
        requests: Some(sender),
        waker,
        recent: Arc::default(),
        families,
    })))
}

impl Handle {
    /// Finds the records of a name. A name with a last dot is taken as it is (so are the domains
    /// of mail addresses to be looked up); others follow the search rules of resolv.conf(5).
    pub fn lookup(&self, name: &str, kind: Kind, reply: Reply<DnsResult>) {
        self.send(Request::Lookup(name.to_owned(), kind, reply));
    }

    /// At which addresses hosts are connected to, as resolv.conf(5) said when it was last read.
    pub fn families(&self) -> Families {
        *self.0.families.get()
    }

    /// What was found for an address a moment ago.
    pub fn recent(&self, addr: IpAddr) -> Option<Reverse> {
        self.0.recent.find(addr, Instant::now())
    }

    /// Finds the name of an address, and whether the name has the address.
    pub fn reverse(&self, addr: IpAddr, reply: Reply<Reverse>) {
        if let Some(found) = self.recent(addr) {
            return reply(found);
        }
        let recent = self.0.recent.clone();
        let keep = move |found: Reverse| {
            recent.keep(addr, &found, Instant::now());
            reply(found);
        };
        self.send(Request::Reverse(addr, Box::new(keep)));
    }

    fn send(&self, request: Request) {
        let Some(requests) = &self.0.requests else {
            return request.give_up();
        };
        match requests.try_send(request) {
            Ok(()) => self.0.waker.wake(),
            Err(TrySendError::Full(request) | TrySendError::Disconnected(request)) => {
                request.give_up();
            }
        }
    }
}

impl Request {
    fn give_up(self) {
        match self {
            Request::Lookup(_, _, reply) => reply(Err(DnsError::TempFail)),
            Request::Reverse(_, reply) => reply(Reverse {
                name: None,
                confirmed: Confirmed::Error,
            }),
        }
    }
}

impl Drop for Cord {
    fn drop(&mut self) {
        self.requests = None;
        self.waker.wake();
    }
}

struct Resolver {
    poll: Poll,
    waker: Arc<Waker>,
    requests: Receiver<Request>,
    core: Core,
    sockets: HashMap<u64, Socket>,
    files: Files,
}

enum Socket {
    Udp(UdpSocket),
    Tcp(Tcp),
}

struct Tcp {
    stream: TcpStream,
    output: Vec<u8>,
    input: Vec<u8>,
}

impl Resolver {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        loop {
            self.waker.arm();
            if self.take_requests().is_break() {
                return;
            }
            self.obey();
            let wait = self
                .core
                .next_deadline()
                .map(|at| at.saturating_duration_since(Instant::now()));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return log::fatal(format_args!("resolver: {error}")),
                Ok(()) => {}
            }
            self.waker.disarm();
            for event in &events {
                match event.token() {
                    WAKER => self.waker.acknowledge(),
                    token => self.on_socket(token.0 as u64),
                }
            }
            self.core.tick(Instant::now());
            self.obey();
        }
    }

    fn take_requests(&mut self) -> ControlFlow<()> {
        for _ in 0..REQUESTS {
            let request = match self.requests.try_recv() {
                Ok(request) => request,
                Err(TryRecvError::Empty) => return ControlFlow::Continue(()),
                Err(TryRecvError::Disconnected) => return ControlFlow::Break(()),
            };
            let now = Instant::now();
            self.files.refresh(&mut self.core, now);
            match request {
                Request::Lookup(name, kind, reply) => self.core.lookup(&name, kind, reply, now),
                Request::Reverse(addr, reply) => self.core.reverse(addr, reply, now),
            }
        }
        self.waker.wake();
        ControlFlow::Continue(())
    }

    /// Does what the core wants done. A socket that cannot be had is a server that failed, of
    /// which there are only so many.
    fn obey(&mut self) {
        loop {
            let commands = self.core.take_commands();
            if commands.is_empty() {
                return;
            }
            for command in commands {
                match command {
                    Command::Close { fetch } => self.close(fetch),
                    Command::Ask {
                        fetch,
                        server,
                        transport,
                        wire,
                    } => {
                        self.close(fetch);
                        match self.open(fetch, server, transport, &wire) {
                            Ok(socket) => {
                                self.sockets.insert(fetch, socket);
                            }
                            Err(_) => self.core.failed(fetch, Instant::now()),
                        }
                    }
                }
            }
        }
    }

    fn open(
        &self,
        fetch: u64,
        server: SocketAddr,
        transport: Transport,
        wire: &[u8],
    ) -> io::Result<Socket> {
        let token = Token(fetch as usize);
        match transport {
            Transport::Udp => {
                // A socket of its own gives each question a port that nobody can guess.
                let any = match server {
                    SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                    SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
                };
                let mut socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
                socket.connect(server)?;
                socket.send(wire)?;
                self.poll
                    .registry()
                    .register(&mut socket, token, Interest::READABLE)?;
                Ok(Socket::Udp(socket))
            }
            Transport::Tcp => {
                let length = u16::try_from(wire.len()).map_err(io::Error::other)?;
                let mut stream = TcpStream::connect(server)?;
                self.poll.registry().register(
                    &mut stream,
                    token,
                    Interest::READABLE | Interest::WRITABLE,
                )?;
                Ok(Socket::Tcp(Tcp {
                    stream,
                    output: [&length.to_be_bytes()[..], wire].concat(),
                    input: Vec::new(),
                }))
            }
        }
    }

    fn close(&mut self, fetch: u64) {
        if let Some(mut socket) = self.sockets.remove(&fetch) {
            // The descriptor is closed next, which takes it out as well.
            let _ = match &mut socket {
                Socket::Udp(socket) => self.poll.registry().deregister(socket),
                Socket::Tcp(tcp) => self.poll.registry().deregister(&mut tcp.stream),
            };
        }
    }

    /// A socket is ready: what it has goes to the core, until the core has done with it.
    fn on_socket(&mut self, fetch: u64) {
        let mut buffer = [0; DATAGRAM_BYTES];
        for _ in 0..DATAGRAMS {
            let Some(socket) = self.sockets.get_mut(&fetch) else {
                return;
            };
            let received = match socket {
                Socket::Udp(socket) => socket
                    .recv(&mut buffer)
                    .map(|count| buffer[..count].to_vec()),
                Socket::Tcp(tcp) => tcp.advance(),
            };
            match received {
                Ok(bytes) => self.core.received(fetch, &bytes, Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.core.failed(fetch, Instant::now()),
            }
            self.obey();
        }
        // Somebody floods this port; the question is asked anew from another one.
        self.core.failed(fetch, Instant::now());
        self.obey();
    }
}

impl Tcp {
    /// Sends what is to be sent, and reads one message.
    fn advance(&mut self) -> io::Result<Vec<u8>> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if is_connecting(&error) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; DATAGRAM_BYTES];
        loop {
            if let Some((head, rest)) = self.input.split_first_chunk()
                && let Some(message) = rest.get(..usize::from(u16::from_be_bytes(*head)))
            {
                return Ok(message.to_vec());
            }
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

fn is_connecting(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotConnected
}

/// The files that say how to resolve, looked at again now and then.
struct Files {
    settings: Settings,
    families: Live<Families>,
    checked: Option<Instant>,
    resolv_conf_changed: Option<SystemTime>,
    hosts_changed: Option<SystemTime>,
}

impl Files {
    fn new(settings: Settings, families: Live<Families>) -> Files {
        Files {
            // The caller has just read it; the first look only notes its age.
            resolv_conf_changed: changed(settings.resolv_conf.as_ref()),
            settings,
            families,
            checked: None,
            hosts_changed: None,
        }
    }

    /// Reads files that have changed. What was read last stays in use for those that are gone, or
    /// cannot be reached in a chroot.
    fn refresh(&mut self, core: &mut Core, now: Instant) {
        if self.checked.is_some_and(|at| now < at + limits::RELOAD) {
            return;
        }
        self.checked = Some(now);
        let hosts_changed = changed(self.settings.hosts.as_ref());
        if hosts_changed.is_some() && hosts_changed != self.hosts_changed {
            self.hosts_changed = hosts_changed;
            if let Some(Ok(text)) = self.settings.hosts.as_deref().map(read_file) {
                core.adopt_hosts(Hosts::parse(&text));
            }
        }
        let resolv_conf_changed = changed(self.settings.resolv_conf.as_ref());
        if resolv_conf_changed.is_some() && resolv_conf_changed != self.resolv_conf_changed {
            self.resolv_conf_changed = resolv_conf_changed;
            if let Some(Ok(text)) = self.settings.resolv_conf.as_deref().map(read_file) {
                self.settings.adopt(&text);
                self.families.set(Arc::new(self.settings.families));
                core.adopt_settings(self.settings.clone());
            }
        }
    }
}

fn changed(path: Option<&PathBuf>) -> Option<SystemTime> {
    std::fs::metadata(path?).ok()?.modified().ok()
}

const WAKER: Token = Token(0);
/// Requests that may wait for the thread.
const REQUESTS: usize = limits::JOBS;
const DATAGRAM_BYTES: usize = 4096;
/// Datagrams taken from one socket before others have their turn.
const DATAGRAMS: usize = 64;
