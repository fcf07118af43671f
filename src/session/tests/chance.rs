//! Any dialogue, with answers in any order and after any delay, or never, and a peer that may hang
//! up at any moment: what is heard of a session is legal, and nothing stays behind. Seeded; the
//! seed is in the message.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;

/// Hears one session, and checks that what it hears may follow what it has heard.
#[derive(Default)]
struct Ear(Mutex<Heard>);

#[derive(Clone, Debug, Default)]
struct Heard {
    connected: bool,
    disconnected: bool,
    transaction: Option<MsgId>,
    commits: usize,
    replies: usize,
    commands: usize,
}

impl Observer for Ear {
    fn hear(&self, session: &Session, event: &Event<'_>) {
        assert_eq!(session.id(), SessionId(7));
        let mut heard = self.0.lock().unwrap();
        assert!(!heard.disconnected, "nothing comes after the end");
        assert_eq!(heard.connected, !matches!(event, Event::Connected));
        match event {
            Event::Connected => heard.connected = true,
            Event::Disconnected(_) => {
                assert_eq!(heard.transaction, None, "it ends before its session");
                heard.disconnected = true;
            }
            Event::Command(_) => heard.commands += 1,
            Event::Reply(..) => heard.replies += 1,
            Event::Begin(id) => assert_eq!(heard.transaction.replace(*id), None),
            Event::Rollback(id) => assert_eq!(heard.transaction.take(), Some(*id)),
            Event::Commit(accepted) => {
                let id = accepted.committed.msgid();
                assert_eq!(heard.transaction.take(), Some(id));
                heard.commits += 1;
            }
            _ => {}
        }
    }
}

/// A services in which messages that are being received are counted, and where a runner may be
/// behind.
struct Counted {
    services: FakeServices,
    live: Arc<AtomicUsize>,
    is_behind: Mutex<Dice>,
    withdrawn: AtomicUsize,
}

struct CountedDraft(Box<dyn Draft>, Live);

struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

struct CountedStore(Arc<Failing>, Arc<AtomicUsize>);

impl Store for CountedStore {
    fn begin(&self) -> Result<Box<dyn Draft>, BeginError> {
        self.1.fetch_add(1, SeqCst);
        let live = Live(self.1.clone());
        Ok(Box::new(CountedDraft(self.0.begin()?, live)))
    }
    fn load(&self, id: EvpId) -> Result<Envelope, LoadError> {
        self.0.load(id)
    }
    fn open_body(&self, id: MsgId) -> io::Result<crate::queue::Body> {
        self.0.open_body(id)
    }
    fn update(&self, envelope: &Envelope) -> io::Result<()> {
        self.0.update(envelope)
    }
    fn add(&self, envelope: &Envelope) -> io::Result<EvpId> {
        self.0.add(envelope)
    }
    fn remove(&self, id: EvpId) -> io::Result<()> {
        self.0.remove(id)
    }
    fn messages(&self) -> Box<dyn Iterator<Item = MsgId> + Send> {
        self.0.messages()
    }
    fn envelopes(&self, id: MsgId) -> io::Result<Vec<Envelope>> {
        self.0.envelopes(id)
    }
}

impl Draft for CountedDraft {
    fn msgid(&self) -> MsgId {
        self.0.msgid()
    }
    fn add(&mut self, envelope: Envelope) -> io::Result<EvpId> {
        self.0.add(envelope)
    }
    fn readdress(&mut self, id: EvpId, rcpt: MailAddr, dsn: Dsn) -> io::Result<()> {
        self.0.readdress(id, rcpt, dsn)
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes)
    }
    fn put_in_front(&mut self, fields: &[u8]) -> io::Result<()> {
        self.0.put_in_front(fields)
    }
    /// A part of the message goes to the disk whenever somebody asks.
    fn is_full(&self) -> bool {
        self.1.0.load(SeqCst) % 2 == 1
    }
    fn commit(self: Box<Self>) -> io::Result<Vec<Envelope>> {
        self.0.commit()
    }
}

impl Services for Counted {
    fn begin(&self) -> Result<Incoming, BeginError> {
        self.services.begin()
    }
    fn announce(&self, message: Committed) -> Result<(), Committed> {
        match self.is_behind.lock().unwrap().roll(2) {
            0 => Err(message),
            _ => {
                self.committed(message);
                Ok(())
            }
        }
    }
    fn now(&self) -> Timestamp {
        self.services.now()
    }
    fn expand(&self, facts: &Facts, rcpt: &MailAddr) -> Result<Expanded, Refusal> {
        self.services.expand(facts, rcpt)
    }
    fn name_of(&self, table: &str, address: &Peer) -> Option<Line> {
        self.services.name_of(table, address)
    }
    fn may_send(&self, table: &str, user: &Line, sender: &MailAddr) -> Option<bool> {
        self.services.may_send(table, user, sender)
    }
    fn committed(&self, message: Committed) {
        self.services.committed(message);
    }
    fn withdraw(&self, message: Committed) {
        self.withdrawn.fetch_add(1, SeqCst);
        for envelope in message.envelopes() {
            self.services.queue.remove(envelope.id).unwrap();
        }
    }
}

/// One client, its session, and the questions that nobody has answered.
struct Client {
    session: Option<Session>,
    ear: Arc<Ear>,
    input: Vec<u8>,
    out: Vec<u8>,
    /// Those that are still asked, and whether the session still waits: the last one's, if any.
    asked: VecDeque<(Question, bool)>,
    is_over: bool,
}

impl Client {
    fn new(dice: &mut Dice) -> Client {
        let ear = Arc::new(Ear::default());
        let mut settings = listening();
        settings.observers = vec![ear.clone()];
        settings.local = dice.roll(2) == 0;
        if dice.roll(2) == 0 {
            settings.hostnames = Some(HostNames {
                table: "names".to_owned(),
                bound: loopback(),
            });
        }
        settings.tls = [
            None,
            Some(Tls::Offered),
            Some(Tls::Required),
            Some(Tls::Immediate),
        ][dice.roll(4)];
        if settings.tls.is_some() {
            settings.auth = Some(Auth {
                required: dice.roll(2) == 0,
                table: None,
            });
            settings.senders = (dice.roll(2) == 0).then(|| Senders {
                table: "senders".to_owned(),
                masquerade: true,
            });
        }
        let peer = match dice.roll(4) {
            0 => Peer::Local,
            _ => loopback(),
        };
        let mut client = Client {
            session: Some(Session::new(SessionId(7), Arc::new(settings), peer)),
            ear,
            input: Vec::new(),
            out: Vec::new(),
            asked: VecDeque::new(),
            is_over: false,
        };
        let next = client.session.as_mut().unwrap().open(&mut client.out);
        client.follow(next);
        client
    }

    fn waits(&self) -> bool {
        self.asked.back().is_some_and(|(_, waits)| *waits)
    }

    fn follow(&mut self, next: Next) {
        match next {
            Next::Ask(question) => {
                if let Question::Tls = question {
                    assert!(self.input.is_empty(), "nothing of clear text is left");
                }
                self.asked.push_back((question, true));
            }
            Next::Close => self.is_over = true,
            Next::Wait => assert!(self.waits()),
            Next::Read | Next::Flush => assert!(!self.waits()),
        }
    }

    /// More bytes have come; a session that waits does not take them.
    fn send(&mut self, bytes: &[u8], services: &Counted) {
        self.input.extend_from_slice(bytes);
        let (before, waits) = (self.input.len(), self.waits());
        let Some(session) = &mut self.session else {
            return;
        };
        let next = session.receive(&mut self.input, &mut self.out, services);
        assert!(!waits || self.input.len() == before);
        session.take_unfinished();
        self.follow(next);
    }

    fn tell(&mut self, answer: Answer, services: &Counted) {
        if let Some(session) = &mut self.session {
            let (input, out) = (&mut self.input, &mut self.out);
            let next = session.answered(answer, input, out, services);
            session.take_unfinished();
            self.follow(next);
        }
    }

    /// Somebody has the answer to an open question, however old.
    fn answer(&mut self, at: usize, services: &Counted) {
        let Some((question, waits)) = self.asked.remove(at) else {
            return;
        };
        let answer = match question {
            Question::Tls => Answer::Secured(TlsFacts {
                ciphers: line("TLSv1.3:X:256"),
                certificate: None,
            }),
            Question::Password(login) => Answer::Password(verdict(&login)),
            Question::Name(_) => Answer::Name(Reverse {
                name: Some(line("client.example.org")),
                confirmed: Confirmed::Pass,
            }),
            Question::Lookup(lookup) => lookup.answer(services),
            Question::Store(store) => store.answer(services),
            Question::Filter(_) => Answer::TooLate,
            Question::Pause(_) => Answer::TooLate,
        };
        match answer {
            answer if waits => self.tell(answer, services),
            // Nobody waits: what the owner of the session does then.
            Answer::Committed(Ok(accepted)) => services.withdraw(accepted.committed),
            _ => {}
        }
    }

    /// The time for the answer is over.
    fn expire(&mut self, services: &Counted) {
        if let Some((_, waits)) = self.asked.back_mut()
            && std::mem::take(waits)
        {
            self.tell(Answer::TooLate, services);
        }
    }

    fn hang_up(&mut self, why: Disconnect) {
        if let Some((_, waits)) = self.asked.back_mut() {
            *waits = false;
        }
        if let Some(session) = self.session.take() {
            drop(session.close(why));
        }
        self.is_over = true;
    }

    fn check(&mut self, seed: u64) {
        let text = String::from_utf8(std::mem::take(&mut self.out)).unwrap();
        for line in text.split_terminator("\r\n") {
            let code: u16 = line[..3].parse().unwrap();
            assert!((200..600).contains(&code), "seed {seed}: {line}");
        }
    }
}

const SAID: [&[u8]; 26] = [
    b"EHLO a\r\n",
    b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n",
    b"HELO b\r\n",
    b"MAIL FROM:<>\r\n",
    b"MAIL FROM:<a@b>\r\nRCPT TO:<bob@example.org>\r\n",
    b"MAIL FROM:<a@b>\r\nRCPT TO:<list@example.org>\r\nDATA\r\n",
    b"RCPT TO:<bob@example.org>\r\n",
    b"RCPT TO:<broken@example.org>\r\nRCPT TO:<nobody@example.org>\r\n",
    b"DATA\r\n",
    b"DATA\r\n",
    b"RSET\r\n",
    b"NOOP\r\n",
    b"STARTTLS\r\n",
    b"AUTH PLAIN\r\n",
    // bob with the right password, and with a wrong one.
    b"AUTH PLAIN AGJvYgBzZWNyZXQ=\r\n",
    b"AUTH PLAIN AGJvYgB4\r\n",
    b"AUTH LOGIN\r\nYm9i\r\nc2VjcmV0\r\n",
    b"EHLO a\r\nSTARTTLS\r\nEHLO evil\r\n",
    b".\r\n",
    b"\r\n.\r\n",
    b"\r\n.\r\n",
    b"Subject: x\r\n\r\nbody\r\n.\r\n",
    b"From: a\r\n",
    b"no field\r\n",
    b"\xff\0\r\n",
    b"QUIT\r\n",
];

#[test]
fn answers_at_any_time_and_peers_that_leave_at_any_time_leave_legal_sessions() {
    let (mut commits, mut withdrawn) = (0, 0);
    for seed in 1..600_u64 {
        let mut dice = Dice::new(seed);
        let live = Arc::new(AtomicUsize::new(0));
        let mut services = FakeServices::new(None);
        services.queue = Queue::new(Arc::new(CountedStore(services.store.clone(), live.clone())));
        let services = Counted {
            services,
            live: live.clone(),
            is_behind: Mutex::new(Dice::new(seed)),
            withdrawn: AtomicUsize::new(0),
        };
        let mut clients: Vec<Client> = (0..3).map(|_| Client::new(&mut dice)).collect();
        for _ in 0..300 {
            let at = dice.roll(clients.len());
            let client = &mut clients[at];
            match dice.roll(40) {
                0 => client.hang_up(Disconnect::Hangup),
                1 => client.hang_up(Disconnect::IoError("broken".to_owned())),
                2..6 => client.expire(&services),
                6..22 => {
                    let open = client.asked.len();
                    client.answer(dice.roll(open.max(1)), &services);
                }
                _ => {
                    let word = SAID[dice.roll(SAID.len())];
                    let (head, tail) = word.split_at(dice.roll(word.len() + 1));
                    client.send(head, &services);
                    client.send(tail, &services);
                }
            }
            client.check(seed);
            if client.is_over && client.session.is_some() && dice.roll(3) == 0 {
                client.hang_up(Disconnect::Quit);
            }
            if client.session.is_none() && client.asked.is_empty() {
                clients[at] = Client::new(&mut dice);
            }
        }
        for client in &mut clients {
            client.hang_up(Disconnect::Timeout);
            while !client.asked.is_empty() {
                client.answer(0, &services);
            }
            let heard = client.ear.0.lock().unwrap().clone();
            assert!(heard.disconnected || !heard.connected, "seed {seed}");
        }
        assert_eq!(
            services.live.load(SeqCst),
            0,
            "seed {seed}: a message is left"
        );
        assert_eq!(
            services.services.queue.messages().count(),
            services.services.committed.lock().unwrap().len(),
            "seed {seed}: what is durable is known to the runner, or was withdrawn"
        );
        commits += services.services.committed.lock().unwrap().len();
        withdrawn += services.withdrawn.load(SeqCst);
    }
    assert!(commits > 100 && withdrawn > 10, "{commits}, {withdrawn}");
}
