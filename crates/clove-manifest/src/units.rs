//! Bytes, CPUs and times as people write them.

use std::fmt;

/// A quantity that can't be read: what is wrong with it, and how it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadQuantity {
    pub what: String,
    /// What to write instead.
    pub hint: String,
}

fn bad<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, BadQuantity> {
    Err(BadQuantity { what: what.into(), hint: hint.into() })
}

/// Reads an amount of memory or disk: a number and a unit. `k`, `m`, `g`, `t` and `KiB` ... count in 1024s, as Docker's
/// do; a bare number is refused, as nobody can tell what it means.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_bytes(text: &str) -> Result<u64, BadQuantity> {
    let t = text.trim();
    let (number, unit) = split_number(t);
    const EXAMPLE: &str = "write a number and a unit: \"512m\", \"1.5g\", \"64KiB\" (b, k, m, g, t)";
    if t.starts_with('-') {
        return bad(format!("`{text}` is negative"), EXAMPLE);
    }
    if number.is_empty() {
        return bad(format!("`{text}` is not an amount of memory"), EXAMPLE);
    }
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" => {
            return bad(
                format!("`{text}` has no unit"),
                format!(
                    "write \"{number}m\" for mebibytes, \"{number}g\" for gibibytes or \"{number}b\" for bytes"
                ),
            );
        }
        "b" | "byte" | "bytes" => 1,
        "k" | "kb" | "kib" | "ki" => 1 << 10,
        "m" | "mb" | "mib" | "mi" => 1 << 20,
        "g" | "gb" | "gib" | "gi" => 1 << 30,
        "t" | "tb" | "tib" | "ti" => 1 << 40,
        "%" => return bad(format!("`{text}` is a share, not an amount"), EXAMPLE),
        other => return bad(format!("`{other}` is not a unit of memory"), EXAMPLE),
    };
    // Whole numbers exactly, others as a float.
    let bytes = match number.parse::<u64>() {
        Ok(n) => n.checked_mul(factor),
        Err(_) => number
            .parse::<f64>()
            .ok()
            .map(|x| x * factor as f64)
            .filter(|x| x.is_finite() && *x < u64::MAX as f64)
            .map(|x| x.round() as u64),
    };
    match bytes {
        Some(0) => bad(format!("`{text}` is nothing"), EXAMPLE),
        Some(b) => Ok(b),
        None => bad(format!("`{text}` can't be read, or is too large"), EXAMPLE),
    }
}

/// Reads a time: `90s`, `10m`, `1h30m`, `500ms`, `2d`. Returns milliseconds.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_duration_ms(text: &str) -> Result<u64, BadQuantity> {
    const EXAMPLE: &str =
        "write a number and a unit: \"90s\", \"10m\", \"1h30m\", \"500ms\" (ms, s, m, h, d)";
    let t = text.trim();
    if t.starts_with('-') {
        return bad(format!("`{text}` is negative"), EXAMPLE);
    }
    if t.is_empty() {
        return bad("the time is empty", EXAMPLE);
    }
    let mut rest = t;
    let mut total = 0f64;
    let mut largest_allowed = f64::INFINITY;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_len);
        let Ok(n) = number.parse::<f64>() else {
            return bad(format!("`{text}` is not a time"), EXAMPLE);
        };
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" if rest == t => {
                let hint = format!("write \"{number}s\" for seconds or \"{number}m\" for minutes");
                return bad(format!("`{text}` has no unit"), hint);
            }
            "" => return bad(format!("the `{number}` in `{text}` has no unit"), EXAMPLE),
            "ms" => 1.0,
            "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
            "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
            "h" | "hr" | "hour" | "hours" => 3_600e3,
            "d" | "day" | "days" => 86_400e3,
            other => return bad(format!("`{other}` is not a unit of time"), EXAMPLE),
        };
        if factor >= largest_allowed {
            return bad(format!("the units in `{text}` don't go from large to small"), EXAMPLE);
        }
        largest_allowed = factor;
        total += n * factor;
        rest = next.trim_start();
    }
    if total > 1e15 {
        return bad(format!("`{text}` is longer than 30,000 years"), EXAMPLE);
    }
    match total.round() as u64 {
        0 => bad(format!("`{text}` is no time at all"), "leave it out for no limit"),
        ms => Ok(ms),
    }
}

/// Reads a number of CPUs, such as `0.5`. Returns thousandths.
///
/// # Errors
/// What is wrong, and an example.
pub fn parse_cpus(text: &str) -> Result<u32, BadQuantity> {
    match text.trim().parse::<f64>() {
        Ok(n) => cpu_milli(n),
        Err(_) => bad(format!("`{text}` is not a number of CPUs"), "write for example 0.5, 1 or 2"),
    }
}

/// Thousandths of a number of CPUs.
///
/// # Errors
/// When it is out of range.
pub fn cpu_milli(n: f64) -> Result<u32, BadQuantity> {
    if n.is_finite() && (0.001..=1000.0).contains(&n) {
        Ok((n * 1000.0).round() as u32)
    } else {
        bad(format!("{n} CPUs can't be given"), "write a number from 0.001 to 1000, for example 0.5")
    }
}

fn split_number(t: &str) -> (&str, &str) {
    let mut end = t.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(t.len());
    // `1e3m` is not worth supporting, but `1_000m` is.
    while t[end..].starts_with('_') {
        end +=
            1 + t[end + 1..].find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(t.len() - end - 1);
    }
    let (number, unit) = t.split_at(end);
    (number, unit.trim_start())
}

/// Prints bytes for people: `11.2 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut n = self.0 as f64;
        let mut unit = 0;
        while n >= 1023.95 && unit + 1 < UNITS.len() {
            n /= 1024.0;
            unit += 1;
        }
        let text = if unit == 0 || (n - n.round()).abs() < 0.05 {
            format!("{n:.0} {}", UNITS[unit])
        } else {
            format!("{n:.1} {}", UNITS[unit])
        };
        f.pad(&text)
    }
}

/// Prints a time for people: `0.25 s`, `12.3 s`, `4m 05s`, `3h 12m`, `2d 4h`.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed(pub u64);

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0 / 1000;
        let text = match s {
            0 => format!("{:.2} s", self.0 as f64 / 1000.0),
            1..60 => format!("{:.1} s", self.0 as f64 / 1000.0),
            60..3600 => format!("{}m {:02}s", s / 60, s % 60),
            3600..86_400 => format!("{}h {:02}m", s / 3600, s / 60 % 60),
            _ => format!("{}d {}h", s / 86_400, s / 3600 % 24),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_are_read_as_docker_writes_them() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("512M", 512 << 20),
            ("1.5g", 3 << 29),
            ("64KiB", 64 << 10),
            ("2 GB", 2 << 30),
            ("100b", 100),
            ("1_000k", 0),
            ("1t", 1 << 40),
        ] {
            match parse_bytes(text) {
                Ok(n) if bytes > 0 => assert_eq!(n, bytes, "{text}"),
                Ok(_) | Err(_) if bytes == 0 => {}
                other => panic!("{text}: {other:?}"),
            }
        }
        let e = parse_bytes("512").expect_err("no unit");
        assert!(e.hint.contains("\"512m\""), "{e:?}");
        for wrong in
            ["", "m", "512q", "-5m", "50%", "0m", "1.2.3m", "99999999999t", "five", "512mm", "_m", "1__m"]
        {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_read() {
        for (text, ms) in [
            ("90s", 90_000),
            ("10m", 600_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("1 h 30 m", 5_400_000),
            ("2d", 172_800_000),
            ("10 min", 600_000),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
        }
        for wrong in
            ["", "10", "1h30", "m", "-1s", "0s", "30m1h", "1s1s", "10x", "1.2.3s", "1e9d", "99999999999999d"]
        {
            assert!(parse_duration_ms(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn cpus_are_read() {
        assert_eq!(parse_cpus("0.5"), Ok(500));
        assert_eq!(parse_cpus("2"), Ok(2000));
        for wrong in ["0", "-1", "nan", "inf", "x", "1001", ""] {
            assert!(parse_cpus(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn quantities_print_for_people() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(512 << 20).to_string(), "512 MiB");
        assert_eq!(Bytes(12_026_000_000).to_string(), "11.2 GiB");
        assert_eq!(Bytes((1 << 20) - 1).to_string(), "1 MiB");
        assert_eq!(Elapsed(250).to_string(), "0.25 s");
        assert_eq!(Elapsed(12_340).to_string(), "12.3 s");
        assert_eq!(Elapsed(245_000).to_string(), "4m 05s");
        assert_eq!(Elapsed(11_520_000).to_string(), "3h 12m");
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,30}") {
            let _ = (parse_bytes(&text), parse_duration_ms(&text), parse_cpus(&text));
        }

        #[test]
        fn whole_amounts_are_exact(n in 1u64..1 << 20, unit in 0usize..5) {
            let factor = 1u64 << (10 * unit);
            prop_assert_eq!(parse_bytes(&format!("{n}{}", ["b", "k", "m", "g", "t"][unit])), Ok(n * factor));
        }

        #[test]
        fn times_add_up(h in 0u64..100, m in 0u64..60, s in 1u64..60) {
            prop_assert_eq!(parse_duration_ms(&format!("{h}h{m}m{s}s")), Ok(((h * 60 + m) * 60 + s) * 1000));
        }
    }
}
