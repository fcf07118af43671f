//! The page that is printed: bounded lines, a bounded number of them, nothing that steers a
//! terminal.

/// The text of an explanation, which has a bound.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    /// Lines that did not fit.
    omitted: usize,
}

/// Longest page in bytes, without its last two lines. It goes into one frame of the control socket.
const PAGE_BYTES: usize = 200 * 1024;
/// Longest line in characters.
const LINE_CHARS: usize = 1000;

impl Page {
    /// Adds a line, as long as there is room.
    pub fn line(&mut self, indent: usize, text: &str) {
        let line = printable(text);
        if self.omitted > 0 || self.text.len() + 2 * indent + line.len() >= PAGE_BYTES {
            self.omitted += 1;
            return;
        }
        self.push(indent, &line);
    }

    /// The whole text, with a last line for which there always is room.
    pub fn finish(mut self, last: &str) -> String {
        if self.omitted > 0 {
            let omitted = format!("({} more lines)", self.omitted);
            self.push(0, &omitted);
        }
        self.push(0, &printable(last));
        self.text
    }

    fn push(&mut self, indent: usize, line: &str) {
        self.text.extend(std::iter::repeat_n("  ", indent));
        self.text.push_str(line);
        self.text.push('\n');
    }
}

/// A text on one line, cut where it is too long.
fn printable(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(LINE_CHARS)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    if text.chars().nth(LINE_CHARS).is_some() {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_an_end_and_its_last_line() {
        let mut page = Page::default();
        for _ in 0..2000 {
            page.line(1, &"x".repeat(2000));
        }
        page.line(0, "short");
        let text = page.finish("reply\n\x1b[2J");
        assert!(text.len() < PAGE_BYTES + 2000);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.first().unwrap().len(), 2 + LINE_CHARS + 3);
        let [.., omitted, last] = lines.as_slice() else {
            panic!("{lines:?}");
        };
        assert_eq!(*last, "reply??[2J");
        let shown = lines.len() - 2;
        assert_eq!(*omitted, format!("({} more lines)", 2001 - shown));
    }
}
