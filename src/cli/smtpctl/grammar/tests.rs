use super::*;

fn read(line: &str) -> Result<Command, Misunderstood> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse(&words)
}

fn verb(line: &str) -> Verb {
    read(line)
        .unwrap_or_else(|bad| panic!("{line}: {bad:?}"))
        .verb
}

fn complaint(line: &str) -> String {
    read(line).expect_err(line).0
}

/// A word for a token of the table.
fn sample(token: &str) -> &str {
    match token {
        "<evpid>" => "1a2b3c4d7f3e9a10",
        "<msgid>" => "1a2b3c4d",
        "<routeid>" => "7",
        "<addr>" => "192.0.2.1",
        "<str>" => "word",
        keyword => keyword,
    }
}

#[test]
fn every_command_is_understood_in_full_and_in_its_shortest_words() {
    // smtpctl(8): keywords may be abbreviated to an unambiguous prefix.
    for (words, verb_of) in COMMANDS {
        let full: Vec<&str> = words.split(' ').map(sample).collect();
        assert_eq!(verb(&full.join(" ")), *verb_of, "{words}");
        for (at, word) in full.iter().enumerate() {
            for end in 1..word.len() {
                let mut cut = full.clone();
                cut[at] = &word[..end];
                // Whatever a prefix means, it means this command or is refused.
                match read(&cut.join(" ")) {
                    Ok(command) => assert!(
                        command.verb == *verb_of || word.starts_with("host") || OURS.contains(word),
                        "{cut:?}"
                    ),
                    // What else follows trace takes any word; reload takes none.
                    Err(bad) => assert!(
                        bad.0.starts_with("possibilities are:\n")
                            || *word == "message"
                            || OURS.contains(word),
                        "{cut:?}"
                    ),
                }
            }
        }
    }
}

#[test]
fn abbreviations_of_the_manual_work() {
    assert_eq!(verb("sh q"), Verb::ShowQueue);
    assert_eq!(verb("sh ro"), Verb::ShowRelaying(Listing::Routes));
    assert_eq!(verb("sh hosts"), Verb::ShowRelaying(Listing::Hosts));
    assert_eq!(verb("sh statu"), Verb::ShowStatus);
    assert!(read("sh stat").is_err());
    assert_eq!(verb("l b"), Verb::LogBrief);
    assert_eq!(verb("m"), Verb::Monitor);
    assert_eq!(verb("pa e a"), Verb::PauseEnvelope);
    assert_eq!(verb("pa mda"), Verb::Pause(Subsystem::Mda));
    assert_eq!(verb("resu s"), Verb::Resume(Subsystem::Smtp));
    assert_eq!(verb("sc a"), Verb::Schedule);
    assert_eq!(verb("up t aliases"), Verb::UpdateTable);
    assert_eq!(verb("e word"), Verb::Encrypt);
    assert_eq!(verb("ex f a@b rc c@d"), Verb::Explain);
    assert_eq!(
        complaint("ex src x"),
        "possibilities are:\nexplain src <addr>\n"
    );
}

#[test]
fn arguments_are_tried_before_prefixes_and_carry_their_type() {
    // smtpctl(8): <evpid> 16 hex digits, <msgid> 8, neither zero; anything else is no match.
    let evpid = "1a2b3c4d7f3e9a10".parse().unwrap();
    let msgid = "1a2b3c4d".parse().unwrap();
    for line in [
        "schedule",
        "remove",
        "discover",
        "pause envelope",
        "resume envelope",
    ] {
        let command = read(&format!("{line} 1a2b3c4d7f3e9a10")).unwrap();
        assert_eq!(command.which(), Which::Envelope(evpid));
        let command = read(&format!("{line} 1a2b3c4d")).unwrap();
        assert_eq!(command.which(), Which::Message(msgid));
        for bad in ["00000000", "1a2b3c4d00000000", "1a2b3c4", "xyz", "0x1a2b3c"] {
            assert!(read(&format!("{line} {bad}")).is_err(), "{line} {bad}");
        }
    }
    assert_eq!(read("remove all").unwrap().which(), Which::All);
    // smtpctl(8): several may be named.
    for line in ["remove", "sched", "pa env", "resume envelope", "discover"] {
        let command = read(&format!("{line} 1a2b3c4d 1a2b3c4d7f3e9a10 1a2b3c4d")).unwrap();
        let ids = [
            Which::Message(msgid),
            Which::Envelope(evpid),
            Which::Message(msgid),
        ];
        assert_eq!(command.each(), ids);
        for bad in ["all", "x", "00000000"] {
            let line = format!("{line} 1a2b3c4d {bad}");
            assert_eq!(complaint(&line), "invalid command\n", "{line}");
        }
    }
    assert!(read("remove all 1a2b3c4d").is_err());
    assert!(read("show message 1a2b3c4d 1a2b3c4d").is_err());
    assert_eq!(read("remove all").unwrap().each(), [Which::All]);
    let command = read("update table a|b;c").unwrap();
    assert_eq!(command.args, [Arg::Text("a|b;c".to_owned())]);
    for good in ["192.0.2.1", "2001:db8::1", "fe80::1%em0"] {
        let line = format!("pause mta from {good} for example.org");
        assert_eq!(verb(&line), Verb::BlockMta);
    }
    for bad in ["[::1]", "host", "192.0.2.1%em0", "fe80::1%"] {
        assert!(read(&format!("pause mta from {bad} for example.org")).is_err());
    }
    assert!(read("resume route 0").is_err());
}

#[test]
fn a_word_about_the_form_selects_nothing_to_act_on() {
    // smtpctl(8), SELECTIONS: `-j` and `-H` are for show queue.
    for verb in [
        "remove",
        "requeue",
        "hold",
        "release",
        "schedule",
        "pause envelope",
        "resume envelope",
    ] {
        for form in ["-j", "-H"] {
            let bad = complaint(&format!("{verb} {form}"));
            assert!(bad.contains(&format!("{verb} all\n")), "{bad}");
            assert!(bad.ends_with(&format!("{verb} -n\n")), "{bad}");
            for line in ["-n", "sender a@x.org", "all", "1a2b3c4d"] {
                assert!(read(&format!("{verb} {line} {form}")).is_err(), "{line}");
            }
        }
        assert!(read(verb).is_err());
        assert!(read(&format!("{verb} all")).is_ok());
        let trial = read(&format!("{verb} -n")).unwrap();
        assert!(trial.selected().is_trial);
    }
    for line in ["show queue -j", "show queue -H sender a@x.org"] {
        assert_eq!(verb(line), Verb::ShowQueue);
    }
}

#[test]
fn a_line_that_is_not_understood_is_answered_with_what_could_follow() {
    // smtpctl(8): `possibilities are:`, all continuations at the place that was reached.
    assert_eq!(
        complaint(""),
        "possibilities are:\ndiscover\npause\nresume\nshow\nlog\nmonitor\nprofile\nreload\nremove\n\
         schedule\ntrace\nunprofile\nuntrace\nupdate\nencrypt\nspf\nexplain\n\
         hold\nrelease\nrequeue\nedit\ntop\nexport\nunpack\nmetrics\n"
    );
    assert_eq!(complaint("p"), complaint(""));
    assert_eq!(complaint("nonsense"), complaint(""));
    let show = "possibilities are:\nshow mta\nshow envelope\nshow hoststats\nshow message\n\
                show queue\nshow hosts\nshow relays\nshow routes\nshow stats\nshow status\n\
                show filters\n";
    assert_eq!(complaint("sh"), show);
    assert_eq!(complaint("show m"), show);
    assert_eq!(complaint("show nonsense"), show);
    assert_eq!(
        complaint("sch"),
        "possibilities are:\nschedule <msgid>\nschedule <evpid>\nschedule all\n"
    );
    assert_eq!(
        complaint("pau mta x"),
        "possibilities are:\npause mta from\n"
    );
    assert_eq!(
        complaint("pau mta f 192.0.2.1"),
        "possibilities are:\npause mta from 192.0.2.1 for\n"
    );
    assert_eq!(complaint("monitor now"), "invalid command\n");
    assert_eq!(complaint("show queue 1a2b3c4d more"), "invalid command\n");
    let misspelled = complaint("remove domian x.org");
    assert!(
        misspelled.contains("remove all\nremove sender <str>\n"),
        "{misspelled}"
    );
    assert!(complaint("remove age x").ends_with("remove age <time>\n"));
    assert!(parse(&[String::new()]).is_err());
    assert!(parse(&["update".into(), String::new(), "x".into()]).is_err());
}
