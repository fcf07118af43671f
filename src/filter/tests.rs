use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::config::{Defaults, Sources};
use crate::mail::{Peer, SessionId};
use crate::proc::tests::Scripts;

use super::*;

/// How long an answer may take.
const LONG: Duration = Duration::from_secs(120);

/// The filters of a configuration whose programs are this script, in which `name` is theirs.
pub(crate) fn filters(text: &str, script: &str) -> Filters {
    let text = format!("{text}\naction a maildir\nmatch from any for any action a\n");
    let sources = Sources::from_text("test", &text, &[]);
    let defaults = Defaults {
        server_name: Line::new("mx.example.org").unwrap(),
        addresses: Vec::new(),
    };
    let config = crate::config::load(&sources, &defaults).unwrap().config;
    let now = Arc::new(Snapshot::load(1, config, &sources).unwrap());
    let script = script.to_owned();
    let launcher = move |name: &Line| -> Arc<dyn Launcher> {
        let script = format!("name='{name}'\n{script}");
        Arc::new(Scripts(vec![script], std::sync::Mutex::new(0)))
    };
    let deadline = Instant::now() + LONG;
    Filters::start(&now, None, Path::new("/"), &launcher, deadline).unwrap()
}

fn facts() -> Facts {
    Facts {
        peer: Peer::parse("192.0.2.7").unwrap(),
        tag: None,
        rdns: Some(Line::new("mail.example.net").unwrap()),
        confirmed: Some(true),
        helo: Some(Line::new("helo.example.net").unwrap()),
        user: Some(Line::new("alice").unwrap()),
        sender: Some(Line::new("Bob@Example.org").unwrap()),
        rcpt: Some(Line::new("carol+x@example.com").unwrap()),
    }
}

/// The first step of a question to a chain.
fn asked(filters: &Filters, chain: &str, session: u64, phase: Phase, parameter: &str) -> Step {
    let chain = filters.chain(chain).unwrap();
    let (lives, session) = (chain.meet(), SessionId(session));
    let asking = chain.ask(&lives, session, phase, parameter.into(), facts(), None);
    Box::new(asking).step()
}

/// What a chain says at a phase; programs are waited for.
fn said(filters: &Filters, chain: &str, phase: Phase, parameter: &str) -> Outcome {
    outcome(asked(filters, chain, 7, phase, parameter))
}

fn outcome(mut step: Step) -> Outcome {
    loop {
        step = match step {
            Step::Done(_, outcome) => return outcome,
            Step::Wait(asking) => asking.wait(),
            Step::Ask(asking, request) => {
                let (tell, decided) = channel();
                request.send(Box::new(move |decision| tell.send(decision).unwrap()));
                let decision = decided.recv_timeout(LONG).unwrap();
                asking.decided(decision)
            }
        };
    }
}

// smtpd.conf(5), MAIL FILTERING: a name server that does not answer costs nobody his mail.
#[test]
fn whom_nobody_can_look_up_is_refused_for_now_and_who_has_no_name_for_good() {
    let filters = filters(
        "filter named phase connect match !rdns disconnect \"550 no name\"\n\
         filter listed phase connect match rdns { \"<unknown>\" } reject \"550 no name\"\n\
         filter back phase connect match !fcrdns reject \"550 no name\"\n\
         filter soft phase connect match !rdns reject \"450 no name\"\n\
         filter other phase connect match !src { 198.51.100.1 } reject \"550 no name\"",
        "",
    );
    let (good, now) = (
        "550 no name",
        "451 4.7.25 The client's name cannot be looked up now",
    );
    let named = Line::new("mail.example.net").ok();
    for (chain, rdns, confirmed, want) in [
        ("named", None, Some(false), Some(good)),
        ("named", None, None, Some(now)),
        ("named", named.clone(), None, None),
        ("listed", None, Some(false), Some(good)),
        ("listed", None, None, Some(now)),
        ("back", None, Some(false), Some(good)),
        ("back", None, None, Some(now)),
        ("back", named.clone(), None, Some(now)),
        ("back", named.clone(), Some(false), Some(good)),
        ("back", named.clone(), Some(true), None),
        ("soft", None, None, Some("450 no name")),
        ("other", None, None, Some(good)),
    ] {
        let facts = Facts {
            rdns,
            confirmed,
            ..facts()
        };
        let asked = filters.chain(chain).unwrap();
        let (lives, phase) = (asked.meet(), Phase::Connect);
        let asking = asked.ask(&lives, SessionId(7), phase, Vec::new(), facts, None);
        let said = match outcome(Box::new(asking).step()).verdict {
            Verdict::Proceed => None,
            Verdict::Reject(text) | Verdict::Disconnect(text) => Some(text.to_string()),
        };
        assert_eq!(said.as_deref(), want, "{chain}");
    }
}

// smtpd.conf(5), MAIL FILTERING: every condition at every phase that has it, and turned round.
#[test]
fn each_condition_holds_or_not() {
    let all = [
        ("fcrdns", true, 0),
        ("rdns", true, 0),
        ("rdns { \"*.example.net\" }", true, 0),
        ("rdns { \"example.net\" }", false, 0),
        ("rdns regex { \"^mail\" }", true, 0),
        ("src { 192.0.2.0/24 }", true, 0),
        ("src { 198.51.100.1 }", false, 0),
        ("src regex { \"^192\" }", true, 0),
        ("helo { \"HELO.example.net\" }", true, 1),
        ("helo regex { \"net$\" }", true, 1),
        ("auth", true, 2),
        ("auth { \"alice\" }", true, 2),
        ("auth { \"mallory\" }", false, 2),
        ("auth regex { \"^a\" }", true, 2),
        ("mail-from { \"@example.org\" }", true, 3),
        ("mail-from { \"bob@example.org\" }", true, 3),
        ("mail-from { \"al@example.org\" }", false, 3),
        ("mail-from regex { \"org$\" }", true, 3),
        ("rcpt-to { \"carol@example.com\" }", true, 4),
        ("rcpt-to regex { \"x@\" }", true, 4),
    ];
    let phases = [
        ("connect", Phase::Connect, 0),
        ("helo", Phase::Helo, 1),
        ("ehlo", Phase::Ehlo, 1),
        ("auth", Phase::Auth, 2),
        ("mail-from", Phase::MailFrom, 3),
        ("rcpt-to", Phase::RcptTo, 4),
        ("data", Phase::Data, 3),
        ("commit", Phase::Commit, 3),
    ];
    let mut text = String::new();
    let mut wanted = Vec::new();
    for (word, phase, known) in phases {
        for (condition, holds, needs) in all {
            if needs > known {
                continue;
            }
            for not in ["", "!"] {
                let name = format!("f{}", wanted.len());
                text += &format!(
                    "filter {name} phase {word} match {not}{condition} reject \"550 {name}\"\n"
                );
                wanted.push((
                    name,
                    phase,
                    holds != (not == "!"),
                    format!("{word} {not}{condition}"),
                ));
            }
        }
    }
    let filters = filters(&text, "");
    assert!(wanted.len() > 200);
    for (name, phase, refused, what) in wanted {
        let outcome = said(&filters, &name, phase, "");
        let rejected = matches!(outcome.verdict, Verdict::Reject(_));
        assert_eq!(rejected, refused, "{what}");
        // At no other phase does it say anything.
        let other = if phase == Phase::Quit {
            Phase::Noop
        } else {
            Phase::Quit
        };
        assert_eq!(said(&filters, &name, other, "").verdict, Verdict::Proceed);
    }
}

#[test]
fn members_are_asked_in_order_about_what_is_left() {
    let filters = filters(
        "filter j phase mail-from match fcrdns junk\n\
         filter w phase mail-from match fcrdns rewrite \"<new@example.org>\"\n\
         filter n phase mail-from match mail-from { \"new@example.org\" } report \"new\"\n\
         filter b phase mail-from match fcrdns bypass\n\
         filter r phase mail-from match fcrdns reject \"550 no\"\n\
         filter d phase mail-from match fcrdns disconnect \"421 bye\"\n\
         filter one chain { j, w, n, b, r }\n\
         filter two chain { j, r, b }\n\
         filter three chain { d, r }\n",
        "",
    );
    let outcome = said(&filters, "one", Phase::MailFrom, "Bob@Example.org");
    assert_eq!(outcome.verdict, Verdict::Proceed);
    assert!(outcome.junk && outcome.bypass);
    assert_eq!(outcome.rewritten.as_deref(), Some("<new@example.org>"));
    assert_eq!(outcome.reports.len(), 1);
    assert_eq!(outcome.response(), "rewrite|<new@example.org>");
    assert_eq!(
        said(&filters, "two", Phase::MailFrom, "").response(),
        "reject|550 no"
    );
    assert_eq!(
        said(&filters, "three", Phase::MailFrom, "").response(),
        "disconnect|421 bye"
    );
}

/// Decides what its parameter says.
const OBEDIENT: &str = r#"
    while read -r line; do [ "$line" = "config|ready" ] && break; done
    echo 'register|filter|smtp-in|helo'; echo 'register|filter|smtp-in|commit'
    echo 'register|filter|smtp-in|later'; echo 'register|ready'
    while IFS='|' read -r f v t s phase session token rest; do
        case $rest in
        wrong) echo "filter-result|$session|1234|proceed"
            echo "filter-result|$session|$token|reject|550 right" ;;
        stranger) echo "filter-result|99|$token|proceed"
            echo "filter-result|$session|$token|proceed" ;;
        die) exit 1 ;;
        *) echo "filter-result|$session|$token|$rest" ;;
        esac
    done"#;

#[test]
fn a_program_decides_and_its_mistakes_cost_one_session() {
    let filters = filters(
        "filter p proc-exec \"/x\"\nfilter q proc-exec \"/x\" on failure bypass\n",
        OBEDIENT,
    );
    let asked = |parameter: &str| said(&filters, "p", Phase::Helo, parameter);
    assert_eq!(asked("proceed").response(), "proceed");
    assert_eq!(asked("reject|550 a|b").response(), "reject|550 a|b");
    assert_eq!(asked("reject|421 x").response(), "disconnect|421 x");
    assert_eq!(
        asked("reject|no").response(),
        "disconnect|421 Internal server error"
    );
    assert_eq!(asked("rewrite|name").response(), "rewrite|name");
    assert_eq!(asked("stranger").response(), "proceed");
    assert_eq!(asked("wrong").response(), "reject|550 right");
    assert_eq!(asked("proceed").response(), "proceed");
    // It did not ask to hear of this.
    assert_eq!(
        said(&filters, "p", Phase::MailFrom, "die").response(),
        "proceed"
    );
    // smtpd-filters(7): junk is for the end of a message, too; rewrite means nothing there.
    assert_eq!(
        said(&filters, "p", Phase::Commit, "junk").response(),
        "junk"
    );
    assert_eq!(
        said(&filters, "p", Phase::Commit, "rewrite|x").response(),
        "proceed"
    );
    assert_eq!(
        asked("die").response(),
        "reject|451 4.3.0 Temporary failure"
    );
    assert_eq!(
        said(&filters, "q", Phase::Helo, "die").response(),
        "proceed"
    );
    let figures = filters.figures();
    assert_eq!(figures.len(), 2);
    assert_eq!(figures[0].timeouts, 0);
    assert!(figures[0].requests >= 11 && figures[0].percentiles_us[0] > 0);
}

/// Makes much of `go`, and nothing of that; ends where the message does.
const TALKATIVE: &str = r#"
    while read -r line; do [ "$line" = "config|ready" ] && break; done
    echo 'register|filter|smtp-in|data-line'; echo 'register|ready'
    while IFS='|' read -r f v t s phase session token rest; do
        case $rest in
        go) for n in 1 2 3 4 5 6 7 8 9 10; do
                printf 'filter-dataline|%s|%s|%01000d\n' "$session" "$token" 0
            done ;;
        .) echo "filter-dataline|$session|$token|." ;;
        esac
    done"#;

/// Hears of the next change.
fn changed(content: &Content) -> Receiver<()> {
    let (tell, moved) = channel();
    content.when_changed(Box::new(move || tell.send(()).unwrap()));
    moved
}

/// What a message whose next change `moved` tells of comes to, and what comes out.
fn comes_out(content: &Content, mut moved: Receiver<()>) -> (Progress, Vec<u8>) {
    let mut text = Vec::new();
    loop {
        moved.recv_timeout(LONG).unwrap();
        match content.take(&mut text) {
            Progress::More => moved = changed(content),
            last => return (last, text),
        }
    }
}

#[test]
fn no_program_of_a_chain_says_more_than_a_message_may_have() {
    let filters = filters(
        "filter p proc-exec \"/x\"\nfilter q proc-exec \"/x\"\nfilter c chain { p, q }\n",
        TALKATIVE,
    );
    let chain = filters.chain("c").unwrap();
    let lives = chain.meet();
    let comes_to = |session, most_bytes| {
        let content = chain.content(&lives, SessionId(session), None, most_bytes);
        let content = content.unwrap().unwrap();
        content.feed(b"go\n.\n");
        comes_out(&content, changed(&content)).0
    };
    assert_eq!(comes_to(7, 20_000), Progress::End);
    let first = Line::new("p").unwrap();
    assert_eq!(comes_to(8, 9_000), Progress::Failed(first));
}

/// Says nothing of a message before its end. Where there is a pipe of its name in `dir`, it reads
/// nothing before it is told to there.
const BUFFERING: &str = r#"
    while read -r line; do [ "$line" = "config|ready" ] && break; done
    echo 'register|filter|smtp-in|helo'
    echo 'register|filter|smtp-in|data-line'; echo 'register|ready'
    [ -p "$dir/$name" ] && read -r go <"$dir/$name"
    while IFS='|' read -r f v t s phase session token rest; do
        kept=$dir/$name.$session
        case $phase$rest in
        helo*) echo "filter-result|$session|$token|proceed" ;;
        *) echo "filter-dataline|$session|$token|$rest" >>"$kept" ;;
        esac
        [ "$rest" = . ] && cat "$kept"
    done"#;

/// Messages for a chain of buffering programs, of which `slow` reads nothing before messages wait for
/// it; `eager`, before it in the chain, has passed them on by then.
fn buffered(chain: &str, eager: Option<&str>, slow: &str) {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join(slow);
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let filters = filters(
        "filter p proc-exec \"/x\"\nfilter q proc-exec \"/x\"\nfilter c chain { p, q }\n",
        &format!("dir='{}'\n{BUFFERING}", dir.path().display()),
    );
    let chain = filters.chain(chain).unwrap();
    let lives = chain.meet();
    let message = [&[b'x'; 9_999][..], b"\n"].concat().repeat(20);
    let mut all = Vec::new();
    for session in 100..105 {
        let content = chain.content(&lives, SessionId(session), None, 1_000_000);
        let content = content.unwrap().unwrap();
        content.feed(&message);
        // The client says the rest when there is room.
        let crowded = !content.has_room();
        if !crowded {
            content.feed(b".\n");
        }
        if let Some(eager) = eager {
            // All that it says before is heard before.
            said(&filters, eager, Phase::Helo, "");
        }
        let moved = changed(&content);
        all.push((content, crowded, moved));
    }
    assert!(!filters.programs[slow].proc().has_room());
    std::fs::write(&pipe, "go\n").unwrap();
    for (content, crowded, mut moved) in all {
        if crowded {
            moved.recv_timeout(LONG).unwrap();
            content.feed(b".\n");
            moved = changed(&content);
        }
        let (progress, text) = comes_out(&content, moved);
        assert_eq!(progress, Progress::End);
        assert!(text == message);
    }
}

#[test]
fn messages_go_on_when_a_program_that_buffers_reads_again() {
    buffered("p", None, "p");
}

#[test]
fn messages_go_on_when_the_second_program_reads_again() {
    buffered("c", Some("p"), "q");
}

/// Answers `silence` when it is asked for something else than `proceed`, and repeats with `late` the
/// line `first` of the message before.
const LATE: &str = r#"
    while read -r line; do [ "$line" = "config|ready" ] && break; done
    echo 'register|filter|smtp-in|helo'
    echo 'register|filter|smtp-in|data-line'; echo 'register|ready'
    while IFS='|' read -r f v t s phase session token rest; do
        case $phase,$rest in
        helo,silence) late="filter-result|$session|$token|proceed" ;;
        helo,proceed) echo "filter-result|$session|$token|proceed" ;;
        helo,*) echo "$late"; echo "filter-result|$session|$token|$rest" ;;
        data-line,first) late="filter-dataline|$session|$token|first" ;;
        data-line,late) echo "$late" ;;
        *) echo "filter-dataline|$session|$token|$rest" ;;
        esac
    done"#;

#[test]
fn a_late_answer_is_not_the_next_ones() {
    let filters = filters("filter p proc-exec \"/x\"\n", LATE);
    for _ in 0..30 {
        let Step::Ask(_, request) = asked(&filters, "p", 7, Phase::Helo, "silence") else {
            panic!("it is asked");
        };
        let program = request.program().clone();
        request.send(Box::new(drop));
        // So it speaks, but not of this.
        outcome(asked(&filters, "p", 8, Phase::Helo, "proceed"));
        program.late(SessionId(7));
        let outcome = said(&filters, "p", Phase::Helo, "reject|550 no");
        assert_eq!(outcome.response(), "reject|550 no");
    }
    assert_eq!(filters.figures()[0].status.restarts, 0);
}

#[test]
fn a_late_line_is_not_the_next_messages() {
    let filters = filters("filter p proc-exec \"/x\"\n", LATE);
    let chain = filters.chain("p").unwrap();
    let content = || {
        let content = chain.content(&chain.meet(), SessionId(7), None, 1_000);
        content.unwrap().unwrap()
    };
    let first = content();
    first.feed(b"first\n");
    first.close();
    let second = content();
    second.feed(b"late\nsecond\n.\n");
    let (progress, text) = comes_out(&second, changed(&second));
    assert_eq!(progress, Progress::End);
    assert_eq!(text, b"second\n");
}
