//! Local delivery: mail.local, maildirs and commands, run by the parent as the recipient.
