#!/usr/bin/env python3
"""A mail host made of aiosmtpd: writes what it takes into a directory, a file a message.

The file begins with two lines: how the session was encrypted and who logged in, and the recipients.
"""

import argparse
import os
import signal
import socket
import ssl
import threading

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, SMTP


class Host(Controller):
    def __init__(self, handler, options, context):
        super().__init__(handler, hostname="127.0.0.1", port=options.port)
        self.options = options
        self.context = context

    def factory(self):
        secret = self.options.auth
        return SMTP(self.handler, hostname="smarthost.example", data_size_limit=40 << 20, enable_SMTPUTF8=True,
                    tls_context=self.context, require_starttls=self.options.require_tls,
                    auth_required=bool(secret), authenticator=self.check,
                    auth_exclude_mechanism=["PLAIN"] if self.options.only_login else [])

    def check(self, server, session, envelope, mechanism, data):
        if f"{data.login.decode()}:{data.password.decode()}" == self.options.auth:
            return AuthResult(success=True, auth_data=f"{mechanism} {data.login.decode()}")
        return AuthResult(success=False, handled=False)


class Writer:
    def __init__(self, folder):
        self.folder = folder
        self.count = 0

    async def handle_DATA(self, server, session, envelope):
        self.count += 1
        layer = server.transport.get_extra_info("ssl_object")
        how = " ".join(layer.cipher()[1::-1]) if layer else "plain"
        head = f"{how} {session.auth_data or '-'}\n{' '.join(envelope.rcpt_tos)}\n".encode()
        name = os.path.join(self.folder, f"{self.count}")
        with open(name + ".tmp", "wb") as f:
            f.write(head + envelope.original_content)
        os.rename(name + ".tmp", name)
        return "250 2.0.0 taken"


class Old:
    """A host that speaks TLS 1.2 with these ciphers only, and says so by an alert: asyncio does not."""

    def __init__(self, folder, options, context):
        self.folder, self.context, self.count = folder, context, 0
        self.listener = socket.create_server(("127.0.0.1", options.port))

    def start(self):
        threading.Thread(target=self.run, daemon=True).start()

    def stop(self):
        pass

    def run(self):
        while True:
            peer, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=[peer], daemon=True).start()

    def serve(self, peer):
        try:
            self.session(peer)
        except OSError as error:
            print(f"old: {error}", flush=True)
        peer.close()

    def session(self, peer):
        stream, rcpts = peer.makefile("rwb"), []
        stream.write(b"220 old.example ESMTP\r\n")
        while True:
            stream.flush()
            line = stream.readline()
            verb = line.strip().upper()[:4]
            secured = isinstance(peer, ssl.SSLSocket)
            if verb in (b"", b"QUIT"):
                return
            if verb == b"STAR":
                stream.write(b"220 go\r\n")
                stream.flush()
                peer = self.context.wrap_socket(peer, server_side=True)
                stream = peer.makefile("rwb")
            elif verb == b"EHLO":
                stream.write(b"250-old.example\r\n" + (b"" if secured else b"250-STARTTLS\r\n") + b"250 8BITMIME\r\n")
            elif verb == b"MAIL" and not secured:
                stream.write(b"530 5.7.0 STARTTLS first\r\n")
            elif verb == b"DATA":
                stream.write(b"354 go\r\n")
                stream.flush()
                lines = []
                while (line := stream.readline()) not in (b".\r\n", b""):
                    lines.append(line[1:] if line.startswith(b".") else line)
                self.keep(" ".join(peer.cipher()[1::-1]), rcpts, b"".join(lines))
                rcpts = []
                stream.write(b"250 2.0.0 taken\r\n")
            else:
                if verb == b"RCPT":
                    rcpts.append(line.split(b"<")[1].split(b">")[0])
                stream.write(b"250 2.0.0 ok\r\n")

    def keep(self, how, rcpts, text):
        self.count += 1
        name = os.path.join(self.folder, f"{self.count}")
        with open(name + ".tmp", "wb") as f:
            f.write(how.encode() + b" -\n" + b" ".join(rcpts) + b"\n" + text)
        os.rename(name + ".tmp", name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("folder")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    parser.add_argument("--ciphers", help="TLS 1.2 with these, and nothing else")
    parser.add_argument("--auth", metavar="USER:PASSWORD")
    parser.add_argument("--only-login", action="store_true")
    parser.add_argument("--require-tls", action="store_true")
    options = parser.parse_args()
    context = None
    if options.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.cert, options.key)
        if options.ciphers:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(options.ciphers)
    if options.ciphers:
        host = Old(options.folder, options, context)
    else:
        host = Host(Writer(options.folder), options, context)
    host.start()
    done = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: done.set())
    done.wait()
    host.stop()


if __name__ == "__main__":
    main()
