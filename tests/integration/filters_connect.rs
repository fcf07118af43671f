//! smtpd.conf(5), MAIL FILTERING, connect: what filters hear of a connection, and what comes of one
//! that they refuse.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};

use crate::filters::{ALL, heard, prepare};
use crate::submission;
use crate::support::{Client, Setup, wait_for};

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

// smtpd-filters(7), link-connect: the client's address and port, not those of its proxy.
#[test]
fn a_program_hears_the_port_of_the_client_behind_a_proxy() {
    let mut daemon = Setup::new("").prepare();
    prepare(daemon.path(), "f", ALL, "");
    fs::write(daemon.path().join("hosts"), "192.0.2.7 client.example\n").expect("hosts");
    daemon.configure(
        "filter \"f\" proc-exec \"$dir/f/filter $dir/f one\"\n\
         listen on 127.0.0.1 port $port\n\
         listen on 127.0.0.2 port $port proxy-v2 filter \"f\"\n\
         action a maildir \"$dir/mail\"\nmatch from any for any action a\n",
    );
    daemon.start();
    let mut stream = TcpStream::connect(submission::address(&daemon, 2)).expect("connect");
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([192, 0, 2, 7, 127, 0, 0, 1, 0x12, 0x34, 0, 25]);
    stream.write_all(&header).expect("write");
    assert!(Client::over(stream).reply().starts_with("220 "));
    wait_for("its port", || {
        heard(&daemon, "f").contains("|pass|192.0.2.7:4660|")
    });
}

// smtpd.conf(5), MAIL FILTERING: no name server answers, which is not the client's fault.
#[test]
fn a_client_whose_name_nobody_can_say_is_told_to_come_again() {
    let mut daemon = Setup::new("").prepare();
    fs::write(daemon.path().join("hosts"), "127.0.0.8 named.example\n").expect("hosts");
    // Nobody is there, which the system says at once.
    fs::write(
        daemon.path().join("resolv.conf"),
        "nameserver [127.0.0.1]:1\n",
    )
    .expect("resolv.conf");
    daemon.configure(
        "filter \"f\" phase connect match !rdns disconnect \"550 no rDNS\"\n\
         listen on 127.0.0.1 port $port\n\
         listen on 127.0.0.2 port $port filter \"f\"\n\
         action a maildir \"$dir/mail\"\nmatch from any for any action a\n",
    );
    daemon.start();
    for (host, said) in [(8, "220 "), (9, "451 4.7.25 ")] {
        let from = IpAddr::from([127, 0, 0, host]);
        let client = Client::connect_from(from, submission::address(&daemon, 2));
        assert!(client.expect("connect").reply().starts_with(said));
    }
    daemon.wait_log("command=\"\" result=\"451 4.7.25 ");
}
