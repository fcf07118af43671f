use super::*;

struct Mail {
    sender: MailAddr,
    rcpt: MailAddr,
    dest: MailAddr,
}

impl Mail {
    fn new(sender: &str, rcpt: &str, dest: &str) -> Mail {
        let addr = |text: &str| MailAddr::from_stored(text).unwrap();
        Mail {
            sender: addr(sender),
            rcpt: addr(rcpt),
            dest: addr(dest),
        }
    }

    fn values(&self) -> Values<'_> {
        Values {
            sender: &self.sender,
            rcpt: &self.rcpt,
            dest: &self.dest,
            username: "Bob",
            directory: "/home/b o b",
            delimiter: '+',
        }
    }

    fn expand(&self, template: &str) -> Option<String> {
        let pieces = expand(template, &self.values()).ok()?;
        pieces.into_iter().try_fold(String::new(), |all, piece| {
            Some(match piece {
                Piece::Text(text) | Piece::Value(text) | Piece::Home(text) => all + &text,
                Piece::Mda => return None,
            })
        })
    }
}

#[test]
fn smtpd_conf_format_specifiers_the_manuals_examples_hold() {
    // smtpd.conf(5), FORMAT SPECIFIERS.
    let mail = Mail::new("@", "User+T?g@example.org", "User+Tag@Example.org");
    for (template, expected) in [
        ("%{rcpt}", "User+T:g@example.org"),
        ("%{rcpt:raw}", "User+T?g@example.org"),
        ("%{rcpt:lowercase|strip}", "user@example.org"),
        ("%{dest:lowercase}", "user+tag@example.org"),
        ("%{dest:uppercase}", "USER+TAG@EXAMPLE.ORG"),
        ("%{dest:strip}", "User@Example.org"),
        ("%{rcpt.domain[0]}", "e"),
        ("%{rcpt.domain[1]}", "x"),
        ("%{rcpt.domain[8:]}", "org"),
        ("%{rcpt.domain[-3:]}", "org"),
        ("%{rcpt.domain[0:6]}", "example"),
        ("%{rcpt.domain[0:-4]}", "example"),
        ("%{rcpt.domain[:6]}", "example"),
        ("%{rcpt.domain[0:99]}", "example.org"),
        ("%{rcpt.domain[0:2]:uppercase}", "EXA"),
        ("%{RCPT.User:LowerCase}", "user+t:g"),
        ("%{rcpt.user:strip}", "User"),
        ("100%%", "100%"),
        ("50% of %x", "50% of %x"),
        ("%{sender}|%{sender.user}|%{sender[3]}", "||"),
        ("%{mbox.from}", "MAILER-DAEMON"),
        ("%{user.username}", "bob"),
        ("%{user.directory}/x", "/home/b o b/x"),
        ("~/Mail", "/home/b o b/Mail"),
        ("x ~/Mail", "x ~/Mail"),
        ("%% and %{rcpt", "%% and %{rcpt"),
    ] {
        assert_eq!(
            mail.expand(template).as_deref(),
            Some(expected),
            "{template}"
        );
    }
}

#[test]
fn a_sub_address_is_stripped_at_the_delimiter_of_the_configuration() {
    // smtpd.conf(5), smtp sub-addr-delim and the modifier strip.
    let addr = MailAddr::new("bob-a+b", "e-x.org").unwrap();
    let stripped = |delimiter| {
        let values = Values {
            sender: &addr,
            rcpt: &addr,
            dest: &addr,
            username: "bob",
            directory: "/",
            delimiter,
        };
        expand("%{rcpt:strip}", &values).unwrap()
    };
    assert_eq!(stripped('-'), [Piece::Value("bob@e-x.org".into())]);
    assert_eq!(stripped('+'), [Piece::Value("bob-a@e-x.org".into())]);
}

#[test]
fn specifiers_that_say_nothing_fail() {
    let mail = Mail::new("a@b", "bob@example.org", "bob@example.org");
    for template in [
        "%{}",
        "%{extension}",
        "%{rcpt.tld}",
        "%{user}",
        "%{rcpt:reverse}",
        "%{rcpt:lowercase|}",
        "%{rcpt[11111111111]}",
        "%{rcpt.user[3]}",
        "%{rcpt.user[2:1]}",
        "%{rcpt.user[x]}",
        "%{rcpt.user[0:1]x}",
        "%{rcpt.user[0}",
        "%{rcpt.user[-9:]}",
        "%{mda:raw}",
    ] {
        assert_eq!(mail.expand(template), None, "{template}");
    }
    let long = format!("%{{rcpt:{}}}", "raw|".repeat(40));
    assert_eq!(mail.expand(&long), None);
    let values = mail.values();
    let error = expand(&"x".repeat(TEXT_MAX), &values).unwrap_err();
    assert_eq!(error.to_string(), "mda command line too long");
}

// smtpd.conf(5), FORMAT SPECIFIERS: what could only fail is refused when it is read.
#[test]
fn what_can_only_fail_is_known_beforehand() {
    for (template, why) in [
        (
            "/x/%{extension}",
            "there is no token \"extension\"; a sub-address",
        ),
        ("/x/%{local}", "did you mean \"%{dest.user}\"?"),
        ("/x/%{Domain:raw}", "did you mean \"%{dest.domain}\"?"),
        ("%{user}", "did you mean \"%{user.username}\"?"),
        ("%{rcpt.tld}", "there is no token \"rcpt.tld\""),
        ("%{rcpt:reverse}", "there is no modifier \"reverse\""),
        ("%{rcpt:lowercase|}", "there is no modifier \"\""),
        ("%{rcpt[x]}", "\"[x]\" is no range"),
        ("%{rcpt[2:1]}", "ends before it begins"),
        ("%{rcpt[-1:-1]}", "ends before it begins"),
        ("%{rcpt[0:1]x}", "\"x\" follows the range"),
        ("x %{mda}", "for mda wrapper only"),
        ("%{mda:raw}", "takes no range or modifier"),
        ("%{mda[0]}", "takes no range or modifier"),
    ] {
        match check(template, Use::Command) {
            Err(Fault::Fatal(text)) => assert!(text.contains(why), "{template}: {text}"),
            other => panic!("{template}: {other:?}"),
        }
    }
    for good in [
        "/x/%{dest.user[0]}/%{rcpt.domain[-3:-1]}",
        "100% of %x, %%{local}",
        "~/M",
    ] {
        assert_eq!(check(good, Use::Command), Ok(()), "{good}");
    }
    assert_eq!(check("/w %{mda}", Use::Wrapper), Ok(()));
    for (odd, place) in [
        ("/w", Use::Wrapper),
        ("/x/%{rcpt", Use::Command),
        ("/var/mail/%d/%u", Use::Path),
    ] {
        assert!(matches!(check(odd, place), Err(Fault::Odd(_))), "{odd}");
    }
}

// smtpd.conf(5), DIFFERENCES: OpenSMTPD hands a path to a shell, and `$LOCAL` was each user's.
#[test]
fn what_a_shell_would_replace_in_a_path_is_refused() {
    for (path, why) in [
        ("/v/$DOMAIN/$LOCAL", "\"$DOMAIN\" is not replaced"),
        ("/v/${LOCAL}", "did you mean \"%{rcpt.user}\"?"),
        ("/v/${USER:-x}", "did you mean \"%{user.username}\"?"),
        ("$HOME/Mail", "did you mean \"~/\""),
        ("/v/$domain", "macros are replaced outside of quotes"),
        ("/v/$(date +%Y)", "\"$\" is not replaced"),
        ("/v/`date +%Y`", "a command in backquotes is not run"),
    ] {
        match check(path, Use::Path) {
            Err(Fault::Fatal(text)) => assert!(text.contains(why), "{path}: {text}"),
            other => panic!("{path}: {other:?}"),
        }
        assert!(!matches!(check(path, Use::Command), Err(Fault::Fatal(_))));
    }
    assert_eq!(check("/a$/$1/%{dest.user}$", Use::Path), Ok(()));
}

#[test]
fn no_value_leaves_the_directory_the_path_is_configured_for() {
    // RFC 5321 §4.1.2: `/` and `..` are good local parts. In a path they stay one component.
    for local in [
        "a/../../b",
        "/etc/x",
        "..",
        ".",
        "../..",
        "....//",
        "\u{2024}\u{2024}",
        "/",
        "+ext/../",
        "~",
    ] {
        let addr = MailAddr::new(local, "example.org").unwrap();
        let values = Values {
            sender: &addr,
            rcpt: &addr,
            dest: &addr,
            username: local,
            directory: "/home/bob",
            delimiter: '+',
        };
        for token in ["rcpt.user", "dest.user", "sender", "user.username"] {
            for modifier in ["", ":raw", ":lowercase", ":strip", ":uppercase|raw"] {
                for template in ["/var/vmail/%{T}", "/var/vmail/%{T}/x", "%{T}", "box/.%{T}"] {
                    let template = template.replace('T', &format!("{token}{modifier}"));
                    if let Ok(path) = expand_path(&template, &values) {
                        let ours = template.split("%{").next().unwrap_or("");
                        assert!(path.to_string_lossy().starts_with(ours), "{path:?}");
                        assert!(
                            path.components()
                                .all(|c| !matches!(c, std::path::Component::ParentDir)),
                            "{template}: {path:?}"
                        );
                        let depth = template.matches('/').count();
                        assert_eq!(path.to_string_lossy().matches('/').count(), depth);
                    }
                }
            }
        }
    }
}

#[test]
fn an_empty_value_does_not_make_a_relative_path_absolute() {
    let mail = Mail::new("@", "bob@example.org", "bob@example.org");
    assert!(expand_path("%{sender.user}/box", &mail.values()).is_err());
    let path = expand_path("/var/mail/%{sender.user}/box", &mail.values()).unwrap();
    assert_eq!(path, PathBuf::from("/var/mail//box"));
    let path = expand_path("../shared/%{rcpt.user}", &mail.values()).unwrap();
    assert_eq!(path, PathBuf::from("../shared/bob"));
}
