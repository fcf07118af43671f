//! The configuration of an instance root that has no `smtpd.conf`: a daemon to try, on loopback,
//! that keeps all mail in one maildir and sends nothing anywhere.
//!
//! What stands in it depends on who starts it, so it is text made at the start, and read like any
//! other. Root's mail cannot be delivered to root; a trial that root starts delivers as `nobody`.

use std::path::{Path, PathBuf};

use crate::config::{Config, Paths, Sources};
use crate::sys::user::{self, User};

/// What its errors name in place of a file. A configuration that is a file has a `/` in its name.
pub const NAME: &str = "built-in";

/// Where it listens unless `-D port=N` says otherwise.
const PORT: &str = "2525";

/// The text. `port` is a word of the grammar: as a macro it can come from outside only.
pub fn sources(paths: &Paths, macros: &[(String, String)]) -> Result<Sources, String> {
    let maildir = maildir(paths);
    let maildir = quotable(&maildir).ok_or_else(|| {
        let path = maildir.display();
        format!("the built-in configuration cannot name {path}: write a smtpd.conf there")
    })?;
    let user = recipient()?.name;
    if quotable(Path::new(&user)).is_none() {
        return Err(format!(
            "the built-in configuration cannot name the user {user}"
        ));
    }
    let mut macros = macros.to_vec();
    if !macros.iter().any(|(name, _)| name == "port") {
        macros.push(("port".to_owned(), PORT.to_owned()));
    }
    let text = format!(
        "listen on 127.0.0.1 port $port hostname localhost\n\
         action \"everything\" maildir \"{maildir}\" virtual {{ \"@\" = \"{user}\" }}\n\
         match from local for any action \"everything\"\n"
    );
    Ok(Sources::from_text(NAME, &text, &macros))
}

/// Whether these are it.
pub fn is(sources: &Sources) -> bool {
    sources.main() == Path::new(NAME)
}

/// Where its mail lands.
pub fn maildir(paths: &Paths) -> PathBuf {
    let root = paths.root.as_deref().unwrap_or(Path::new("/"));
    root.join("Maildir")
}

/// Whom its mail belongs to: whoever starts the daemon, `nobody` for root.
pub fn recipient() -> Result<User, String> {
    let uid = user::effective_uid();
    let found = match uid {
        0 => user::by_name("nobody").map(|found| found.filter(|nobody| nobody.uid != 0)),
        uid => user::by_uid(uid),
    };
    match found {
        Ok(Some(user)) => Ok(user),
        Ok(None) if uid == 0 => Err("the built-in configuration delivers root's trial mail as \
                                     the user nobody, and there is none: start smtpd as an \
                                     ordinary user or write a smtpd.conf"
            .to_owned()),
        Ok(None) => Err(format!(
            "uid {uid} has no name in passwd(5), and mail is delivered to users by name: start \
             smtpd as another user"
        )),
        Err(error) => Err(format!("uid {uid}: {error}")),
    }
}

/// What somebody who has just started it wants to know.
pub fn advice(paths: &Paths, config: &Config) -> String {
    let port = config.listeners.first().map_or(0, |found| found.port);
    let root = paths.root.as_deref().unwrap_or(Path::new("/"));
    let sendmail = sendmail(paths).map_or("sendmail".to_owned(), |path| shell_word(&path));
    format!(
        "There is no {conf}: this is the built-in configuration.\n\
         All mail that is submitted on this machine, whoever it is for, lands in {maildir}/new .\n\
         \n\
         It listens on 127.0.0.1 port {port}, and on {socket} for sendmail. Try:\n\
         \n    swaks --server 127.0.0.1:{port} --to anybody@localhost\n\
         \n    printf 'Subject: hello\\n\\nHi.\\n' | SMTPD_ROOT={root} {sendmail} anybody\n\
         \n    ls {shell_maildir}/new\n\n",
        conf = paths.conf.display(),
        maildir = maildir(paths).display(),
        socket = paths.socket.display(),
        root = shell_word(root),
        shell_maildir = shell_word(&maildir(paths)),
    )
}

/// The front end that belongs to this program.
fn sendmail(paths: &Paths) -> Option<PathBuf> {
    let beside = paths.smtpctl.with_file_name("sendmail");
    [paths.libexec.join("sendmail"), beside]
        .into_iter()
        .find(|path| path.exists())
}

/// What can stand in double quotes in smtpd.conf(5), and in a path with format specifiers, as it
/// is.
fn quotable(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let plain = |c: char| !c.is_control() && !"\"\\%$`".contains(c);
    text.chars().all(plain).then_some(text)
}

/// As the shell reads it back.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,@".contains(c);
    if text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, Defaults};
    use crate::util::Line;

    fn load(root: &str, macros: &[(String, String)]) -> Result<Config, String> {
        let sources = sources(&Paths::under(Path::new(root)), macros)?;
        assert!(is(&sources));
        let defaults = Defaults {
            server_name: Line::sanitize(b"localhost"),
            addresses: Vec::new(),
        };
        let loaded = config::load(&sources, &defaults).map_err(|found| found[0].to_string())?;
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        Ok(loaded.config)
    }

    #[test]
    fn it_listens_on_2525_or_where_it_is_told() {
        // smtpd(8), -R: port 2525 of the loopback address; -D port=N moves it.
        let port = |macros: &[(String, String)]| load("/x y", macros).unwrap().listeners[0].port;
        assert_eq!(port(&[]), 2525);
        assert_eq!(port(&[("port".into(), "2626".into())]), 2626);
        let error = load("/x", &[("port".into(), "none".into())]).unwrap_err();
        assert!(error.starts_with("built-in:1:"), "{error}");
    }

    #[test]
    fn a_root_that_the_text_cannot_name_is_refused() {
        for odd in ["/a\"b", "/a$b", "/a\\b", "/%{user.username}", "/a\nb"] {
            let error = load(odd, &[]).map(drop).unwrap_err();
            assert!(error.contains("write a smtpd.conf"), "{error}");
        }
    }

    #[test]
    fn its_mail_is_never_roots() {
        assert_ne!(recipient().unwrap().uid, 0);
    }

    #[test]
    fn the_advice_can_be_pasted_into_a_shell() {
        let root = Path::new("/it's here");
        let config = load("/it's here", &[]).unwrap();
        let text = advice(&Paths::under(root), &config);
        for part in [
            "127.0.0.1:2525",
            "SMTPD_ROOT='/it'\\''s here' ",
            "ls '/it'\\''s here/Maildir'/new",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
