//! `docs/errors.md`: the page of every error code.

use clove_abi::ErrorCode;

const HEAD: &str = "# Error codes

Made by `cargo run -p xtask -- gen`; not written by hand. `clove explain E0201` prints one page, `clove explain` lists them.

A failed call answers a frame with the error flag and the body `{\"code\": \"E0201\", \"message\": \"...\", \"hint\": \"...\"}`
([wire.md](wire.md)). Codes are stable: they are never given a second meaning. The first two digits are the family.

| code | title |
|---|---|
";

/// The heading of a code's family, by its first two digits.
fn family(code: &str) -> &'static str {
    match code.get(1..3) {
        Some("01") => "Protocol",
        Some("02") => "Lookup",
        Some("03") => "Permission",
        Some("04") => "Arguments",
        Some("05") => "Limits and capacity",
        Some("06") => "The host",
        Some("07") => "Storage",
        Some("08") => "Runs",
        _ => "The kernel itself",
    }
}

/// The whole page.
pub fn render() -> String {
    let mut out = HEAD.to_owned();
    for c in ErrorCode::ALL {
        let anchor = c.code().to_lowercase();
        out.push_str(&format!("| [{}](#{anchor}) | {} |\n", c.code(), c.title()));
    }
    let mut last = "";
    for c in ErrorCode::ALL {
        if family(c.code()) != last {
            last = family(c.code());
            out.push_str(&format!("\n## {last}\n"));
        }
        out.push_str(&format!("\n### {}\n\n**{}.** {}\n", c.code(), c.title(), page(c.page())));
    }
    out
}

/// The page's lines as paragraphs: what to do next stands on its own.
fn page(text: &str) -> String {
    let words = text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    words.trim().replace(" Next: ", "\n\nNext: ")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_code_has_its_section() {
        let page = super::render();
        for c in clove_abi::ErrorCode::ALL {
            assert!(page.contains(&format!("\n### {}\n", c.code())), "{c}");
        }
    }
}
