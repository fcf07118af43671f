//! What `make bench --only filters` measures mail systems with: one program that decides nothing, as
//! a filter of smtpd-filters(7) on standard input, or as a milter on a port.
//!
//!     filter phases | lines
//!     filter milter PORT phases | lines
//!
//! With `phases` it is asked about commands, with `lines` it gets messages and adds a field.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["milter", port, what] => {
            let lines = *what == "lines";
            let port = port.parse().map_err(io::Error::other)?;
            let listener = TcpListener::bind(("127.0.0.1", port))?;
            for stream in listener.incoming() {
                let stream = stream?;
                thread::spawn(move || milter(&stream, lines));
            }
            Ok(())
        }
        [what] => filter(*what == "lines"),
        _ => Err(io::Error::other(
            "usage: filter [milter PORT] phases | lines",
        )),
    }
}

fn filter(lines: bool) -> io::Result<()> {
    let mut input = BufReader::with_capacity(64 * 1024, io::stdin().lock());
    let mut output = BufWriter::with_capacity(64 * 1024, io::stdout().lock());
    let phases: &[&str] = if lines {
        &["data-line"]
    } else {
        &[
            "connect",
            "helo",
            "ehlo",
            "mail-from",
            "rcpt-to",
            "data",
            "commit",
            "rset",
            "quit",
        ]
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line == b"config|ready\n" {
            for phase in phases {
                writeln!(output, "register|filter|smtp-in|{phase}")?;
            }
            writeln!(output, "register|ready")?;
        } else if line.starts_with(b"filter|") {
            let fields: Vec<&[u8]> = line.splitn(8, |byte| *byte == b'|').collect();
            let &[_, _, _, _, phase, session, token, text] = fields.as_slice() else {
                return Err(io::Error::other("a request of another form"));
            };
            match phase {
                b"data-line" => {
                    let new = text
                        .starts_with(b"Received: from")
                        .then_some(b"X-Bench: yes\n");
                    for text in new.into_iter().map(|line| &line[..]).chain([text]) {
                        output.write_all(b"filter-dataline|")?;
                        output.write_all(&[session, b"|", token, b"|", text].concat())?;
                    }
                }
                _ => {
                    output.write_all(b"filter-result|")?;
                    output.write_all(&[session, b"|", token, b"|proceed\n"].concat())?;
                }
            }
        }
        if input.buffer().is_empty() {
            output.flush()?;
        }
    }
}

/// The other protocol: packets of a length, a letter and data; most of them want a letter back.
fn milter(stream: &TcpStream, lines: bool) -> io::Result<()> {
    // Steps that are left out: the content, or the commands.
    let without: u32 = if lines { 0x0f } else { 0x70 };
    let (mut input, mut output) = (BufReader::new(stream), BufWriter::new(stream));
    loop {
        let mut length = [0; 4];
        input.read_exact(&mut length)?;
        let mut packet = vec![0; u32::from_be_bytes(length) as usize];
        input.read_exact(&mut packet)?;
        let mut say = |packet: &[u8]| {
            output.write_all(&(packet.len() as u32).to_be_bytes())?;
            output.write_all(packet)
        };
        match packet.first() {
            Some(b'O') => {
                let numbers = [6_u32, 1, without].map(u32::to_be_bytes).concat();
                say(&[b"O".to_vec(), numbers].concat())?;
            }
            // Macros, the end of a message before its time, another connection.
            Some(b'D' | b'A' | b'K') => continue,
            Some(b'Q') | None => return Ok(()),
            Some(b'E') => {
                if lines {
                    say(b"hX-Bench\0yes\0")?;
                }
                say(b"c")?;
            }
            Some(_) => say(b"c")?,
        }
        output.flush()?;
    }
}
