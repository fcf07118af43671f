//! What OpenSMTPD says in other words than we do, in files without our `check`.

use crate::mail::{Command, Kind, Local};
use crate::util::Line;

/// The users as whom OpenSMTPD runs commands of aliases, by its name in systems, ports and
/// packages.
pub const DAEMONS: [&str; 3] = ["_smtpd", "opensmtpd", "smtpd"];

/// The program that it appends to files with, behind its directory, and the arguments before the
/// path.
pub const TO_FILE: &str = "/mail.mboxfile -f %{mbox.from} ";

/// The same in our words. What its own user was to run is for `daemon` to run, ours.
pub(super) fn understood(mut kind: Kind, daemon: Option<&Line>) -> Kind {
    let Kind::Local(Local { user, command, .. }) = &mut kind else {
        return kind;
    };
    if let (Some(_), Some(daemon)) = (&command, daemon)
        && DAEMONS.contains(&user.as_str())
    {
        *user = daemon.clone();
    }
    if let Some(Command::Pipe(text)) = command
        && let Some((dir, path)) = text.split_once(TO_FILE)
        && dir.starts_with('/')
        && !dir.contains(' ')
    {
        *command = Some(Command::File(Line::sanitize(path.as_bytes())));
    }
    kind
}
