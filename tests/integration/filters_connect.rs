//! smtpd.conf(5), MAIL FILTERING, connect: what comes of a connection that a filter refuses.

use std::io::Read;
use std::net::IpAddr;

use crate::submission;
use crate::support::{Client, wait_for};

// Such a client has sent no command; the log says why it was refused all the same, also where TLS
// would come first and the client is told nothing.
#[test]
fn a_connection_that_a_filter_refuses_leaves_a_line_in_the_log() {
    let text = "filter \"f\" phase connect match src { 127.0.0.9 } disconnect \"550 not you\"\n\
                listen on 127.0.0.1 port $port filter \"f\"\n\
                listen on 127.0.0.2 port $port smtps pki p filter \"f\"";
    let daemon = submission::daemon(submission::world(), text);
    let from = IpAddr::from([127, 0, 0, 9]);
    for (host, said) in [(1, "550 not you\r\n"), (2, "")] {
        let client = Client::connect_from(from, submission::address(&daemon, host));
        let mut text = String::new();
        let mut stream = client.expect("connect").into_stream();
        stream.read_to_string(&mut text).expect("the end");
        assert_eq!(text, said);
        let line = "smtp failed-command command=\"\" result=\"550 not you\" address=127.0.0.9\n";
        wait_for("its line", || {
            daemon.log().matches(line).count() == usize::from(host)
        });
    }
}
