//! A client that speaks SMTP over TLS, as a test wants it.

#![allow(dead_code)]

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::PATIENCE;
pub use super::anybody::Anybody;
use super::tls_host::Certificate;

/// A conversation, in clear text or not.
pub struct TlsClient {
    wire: BufReader<Wire>,
}

enum Wire {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What a client is made of.
pub fn config(own: Option<&Certificate>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match own {
        None => builder.with_no_client_auth(),
        Some(certificate) => {
            let key = PrivateKeyDer::try_from(certificate.key_der()).expect("a key");
            let chain = certificate.chain();
            builder.with_client_auth_cert(chain, key).expect("a pair")
        }
    };
    Arc::new(config)
}

impl TlsClient {
    /// Connects in clear text; the banner has not been read.
    pub fn connect(address: SocketAddr) -> TlsClient {
        TlsClient::over(TcpStream::connect(address).expect("connect"))
    }

    pub fn over(stream: TcpStream) -> TlsClient {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        TlsClient {
            wire: BufReader::new(Wire::Plain(stream)),
        }
    }

    /// Banner, EHLO, STARTTLS, EHLO.
    pub fn starttls(address: SocketAddr) -> TlsClient {
        let mut client = TlsClient::connect(address);
        client.reply();
        client.ask("EHLO c.example.net");
        assert_eq!(client.ask("STARTTLS"), "220 2.0.0 Ready to start TLS");
        let mut client = client.secure(&config(None), "mx.example.org").expect("TLS");
        client.ask("EHLO c.example.net");
        client
    }

    /// Shakes hands as somebody who looks for `name`.
    pub fn secure(self, config: &Arc<ClientConfig>, name: &str) -> io::Result<TlsClient> {
        let Wire::Plain(mut stream) = self.wire.into_inner() else {
            panic!("TLS twice");
        };
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let mut session = ClientConnection::new(config.clone(), name).expect("a session");
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        let stream = StreamOwned::new(session, stream);
        Ok(TlsClient {
            wire: BufReader::new(Wire::Tls(Box::new(stream))),
        })
    }

    /// The certificate that the server has shown.
    pub fn shown(&self) -> Option<Vec<u8>> {
        match self.wire.get_ref() {
            Wire::Plain(_) => None,
            Wire::Tls(stream) => Some(stream.conn.peer_certificates()?.first()?.to_vec()),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        let wire = self.wire.get_mut();
        wire.write_all(bytes)
            .and_then(|()| wire.flush())
            .expect("write");
    }

    /// A whole reply, lines joined by LF; empty when the connection is over.
    pub fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = String::new();
            if self.wire.read_line(&mut line).unwrap_or(0) == 0 {
                return reply;
            }
            let line = line.trim_end();
            reply.push_str(line);
            if line.as_bytes().get(3) != Some(&b'-') {
                return reply;
            }
            reply.push('\n');
        }
    }

    /// Whether the server has said that nothing more comes; one that has only gone has not.
    pub fn hears_the_end(&mut self) -> bool {
        matches!(self.wire.read(&mut [0]), Ok(0))
    }

    pub fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\r\n").as_bytes());
        self.reply()
    }

    /// One message.
    pub fn mail(&mut self, from: &str, rcpt: &str, message: &str) -> String {
        self.ask(&format!("MAIL FROM:<{from}>"));
        self.ask(&format!("RCPT TO:<{rcpt}>"));
        self.ask("DATA");
        self.send(message.replace('\n', "\r\n").as_bytes());
        self.ask("\r\n.")
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.read(buffer),
            Wire::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Plain(stream) => stream.write(bytes),
            Wire::Tls(stream) => stream.write(bytes),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Wire::Plain(stream) => stream.flush(),
            Wire::Tls(stream) => stream.flush(),
        }
    }
}
