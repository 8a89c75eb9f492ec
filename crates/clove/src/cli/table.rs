//! Tables for people: columns without borders, as `docker ps` prints them.

use crate::cli::page::Page;
use clove_abi::untrusted::Untrusted;
use comfy_table::{ContentArrangement, Table, presets};

/// Rows under headings, every cell escaped.
pub struct Listing(Table);

impl Listing {
    /// An empty one.
    pub fn new(headings: &[&str]) -> Listing {
        let mut t = Table::new();
        t.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        t.set_header(
            headings.iter().map(|h| Untrusted::new(&h.to_uppercase()).to_string()).collect::<Vec<_>>(),
        );
        Listing(t)
    }

    /// Adds a row.
    pub fn row(&mut self, cells: &[String]) {
        self.0.add_row(cells.iter().map(|c| Untrusted::new(c).to_string()).collect::<Vec<_>>());
    }

    /// As lines, without blanks at their ends.
    pub fn page(&self) -> Page {
        let mut page = Page::new();
        for l in self.0.lines() {
            page.line(l.trim_end().strip_prefix(' ').unwrap_or(l.trim_end()));
        }
        page
    }
}

/// At most `n` characters, the last one an ellipsis if something was cut.
pub fn shortened(text: &str, n: usize) -> String {
    if text.chars().count() <= n {
        return text.to_owned();
    }
    text.chars().take(n.saturating_sub(1)).chain(['…']).collect()
}

/// How long ago a time (milliseconds since the epoch) was.
pub fn ago(ms: u64) -> String {
    let passed = now_ms().saturating_sub(ms);
    format!(
        "{} ago",
        clove_manifest::units::Elapsed(passed / 1000 * 1000)
            .to_string()
            .replace(".0 s", " s")
            .replace("0.00", "0")
    )
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .ok()
        .and_then(|d| u64::try_from(d.as_millis()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_escaped_and_aligned() {
        let mut l = Listing::new(&["id", "name"]);
        l.row(&["a1.1".into(), "x\x1b[31m\ny".into()]);
        l.row(&["a10.1".into(), "y".into()]);
        assert_eq!(l.page().text(), "ID     NAME\na1.1   x\\u{1b}[31m\\ny\na10.1  y\n");
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(ago(now_ms().saturating_sub(5_000)), "5 s ago");
    }
}
