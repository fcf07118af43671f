//! smtp(1) against the daemon.

use crate::support::{Setup, body, run};

const CONFIG: &str = "listen on 127.0.0.1 port $port
action keep maildir \"$dir/mail\" virtual $all
match from any for domain localhost action keep
";

const MESSAGE: &[u8] = b"Subject: test\r\n\r\n.dotted\nlast";

#[test]
fn it_says_what_came_of_each_recipient() {
    // smtp(1): a line for each recipient; 0 if every one was taken.
    let daemon = Setup::new(CONFIG).start();
    let server = format!("127.0.0.1:{}", daemon.port);
    let smtp = |args: &[&str]| {
        let mut command = daemon.program("smtp");
        command
            .args(["-s", &server, "-F", "me@example.net"])
            .args(args);
        run(command, MESSAGE)
    };
    let done = smtp(&["one@localhost"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.starts_with("one@localhost: EOM: 250 2.0.0 "), "{said}");
    let found = daemon.wait_mail(1);
    assert_eq!(body(&found[0]), b".dotted\nlast\n");

    let done = smtp(&["one@localhost", "two@elsewhere.example"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("two@elsewhere.example: RCPT: 550 "), "{said}");
    assert!(said.contains("one@localhost: EOM: 250 "), "{said}");
    daemon.wait_mail(2);

    // Nothing is sent with -n, and TLS that is not there is missed.
    let done = smtp(&["-n", "-v"]);
    assert!(done.status.success());
    assert!(String::from_utf8_lossy(&done.stderr).contains("connection ready..."));
    let mut command = daemon.program("smtp");
    command.args(["-s", &format!("smtp+tls://{server}"), "one@localhost"]);
    let done = run(command, MESSAGE);
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&done.stderr).starts_with("missing feature: "));
}
