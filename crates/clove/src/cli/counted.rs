//! Numbers of things in words.

/// `1 task`, `2 tasks`.
pub fn counted(n: impl Into<u64>, thing: &str) -> String {
    match n.into() {
        1 => format!("1 {thing}"),
        n => format!("{n} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::counted;

    #[test]
    fn one_is_singular() {
        assert_eq!(
            [counted(0u32, "task"), counted(1u32, "task"), counted(2u32, "task")],
            ["0 tasks", "1 task", "2 tasks"]
        );
    }
}
