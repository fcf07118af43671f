//! `user+tag`: the part that does not name the user.

/// Cuts a name at the first delimiter. A name that starts with it has no user in front and stays
/// whole.
pub fn cut(name: &str, delimiter: char) -> (&str, Option<&str>) {
    match name.split_once(delimiter) {
        Some((user, tag)) if !user.is_empty() => (user, Some(tag)),
        _ => (name, None),
    }
}

/// Like [`cut`], with an empty tag taken for none.
pub fn cut_tag(name: &str, delimiter: char) -> (&str, Option<&str>) {
    let (user, tag) = cut(name, delimiter);
    (user, tag.filter(|tag| !tag.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // smtpd.conf(5), sub-addr-delim: the character and all that follow it are ignored.
    #[test]
    fn the_first_delimiter_cuts() {
        assert_eq!(cut("bob+a+b", '+'), ("bob", Some("a+b")));
        assert_eq!(cut("bob", '+'), ("bob", None));
        assert_eq!(cut("+bob", '+'), ("+bob", None));
        assert_eq!(cut("bob-x", '-'), ("bob", Some("x")));
        assert_eq!(cut_tag("bob+", '+'), ("bob", None));
    }
}
