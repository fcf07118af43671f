//! MAIL, RCPT, DATA, commit or roll back: the one door into the queue.

#![forbid(unsafe_code)]
