//! What a stub tells its launcher: fixed-size records on a SOCK_SEQPACKET pair.

/// How far a stub has come, or where it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The script has run. Descriptors: listener, scratch folder, pty master (those that the script made, in this
    /// order). `skipped` are the indices of optional steps that failed, as many as there is room for.
    Ready { skipped: [u16; SKIPPED] },
    /// A step of the script failed.
    ScriptFailed { step: u32, errno: i32 },
    /// The program is running (its exec has succeeded). Descriptor: its pidfd.
    Started,
    /// The program couldn't be started. `found`: the file exists, so ENOENT means its interpreter.
    ProgramFailed { stage: Stage, errno: i32, found: bool },
    /// The program ended; a wait(2) status.
    Ended { status: i32 },
}

/// Where a program's start can fail after its cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    Fork = 1,
    Session,
    Terminal,
    Stdio,
    Limits,
    Capabilities,
    NoNewPrivs,
    Landlock,
    Seccomp,
    Folder,
    Exec,
    Namespaces,
    Ids,
    Template,
    Map,
    Groups,
}

pub const SKIPPED: usize = 12;
/// Fills the unused places of `Report::Ready::skipped`.
pub const NO_STEP: u16 = u16::MAX;
pub const REPORT_BYTES: usize = 40;

impl Stage {
    pub fn from_number(n: u32) -> Option<Stage> {
        use Stage::*;
        [
            Fork,
            Session,
            Terminal,
            Stdio,
            Limits,
            Capabilities,
            NoNewPrivs,
            Landlock,
            Seccomp,
            Folder,
            Exec,
            Namespaces,
            Ids,
            Template,
            Map,
            Groups,
        ]
        .into_iter()
        .find(|s| *s as u32 == n)
    }

    /// The word used in errors.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Fork => "fork",
            Stage::Session => "session",
            Stage::Terminal => "terminal",
            Stage::Stdio => "stdio",
            Stage::Limits => "limits",
            Stage::Capabilities => "capabilities",
            Stage::NoNewPrivs => "no_new_privs",
            Stage::Landlock => "landlock",
            Stage::Seccomp => "seccomp",
            Stage::Folder => "cwd",
            Stage::Exec => "exec",
            Stage::Namespaces => "namespaces",
            Stage::Ids => "ids",
            Stage::Template => "template",
            Stage::Map => "uid_map",
            Stage::Groups => "limits",
        }
    }
}

impl Report {
    pub fn encode(&self) -> [u8; REPORT_BYTES] {
        let mut words = [0u32; 4];
        let mut skipped = [NO_STEP; SKIPPED];
        match *self {
            Report::Ready { skipped: s } => {
                words[0] = 1;
                skipped = s;
            }
            Report::ScriptFailed { step, errno } => words = [2, step, errno as u32, 0],
            Report::Started => words[0] = 3,
            Report::ProgramFailed { stage, errno, found } => {
                words = [4, stage as u32, errno as u32, found.into()]
            }
            Report::Ended { status } => words = [5, status as u32, 0, 0],
        }
        let mut out = [0u8; REPORT_BYTES];
        for (at, w) in out.chunks_exact_mut(4).zip(words) {
            at.copy_from_slice(&w.to_le_bytes());
        }
        for (at, s) in out[16..].chunks_exact_mut(2).zip(skipped) {
            at.copy_from_slice(&s.to_le_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Report> {
        let bytes: &[u8; REPORT_BYTES] = bytes.try_into().ok()?;
        let word = |i: usize| {
            u32::from_le_bytes([bytes[i * 4], bytes[i * 4 + 1], bytes[i * 4 + 2], bytes[i * 4 + 3]])
        };
        Some(match word(0) {
            1 => {
                let mut skipped = [NO_STEP; SKIPPED];
                for (s, b) in skipped.iter_mut().zip(bytes[16..].chunks_exact(2)) {
                    *s = u16::from_le_bytes([b[0], b[1]]);
                }
                Report::Ready { skipped }
            }
            2 => Report::ScriptFailed { step: word(1), errno: word(2) as i32 },
            3 => Report::Started,
            4 => Report::ProgramFailed {
                stage: Stage::from_number(word(1))?,
                errno: word(2) as i32,
                found: word(3) != 0,
            },
            5 => Report::Ended { status: word(1) as i32 },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_report_survives_the_wire() {
        let mut skipped = [NO_STEP; SKIPPED];
        skipped[0] = 3;
        skipped[11] = 900;
        for r in [
            Report::Ready { skipped },
            Report::ScriptFailed { step: 7, errno: 13 },
            Report::Started,
            Report::ProgramFailed { stage: Stage::Exec, errno: 2, found: true },
            Report::Ended { status: 139 },
        ] {
            assert_eq!(Report::decode(&r.encode()), Some(r));
        }
        assert_eq!(Report::decode(&[0; 40]), None);
        assert_eq!(Report::decode(&[1; 39]), None);
    }

    #[test]
    fn stages_have_numbers_that_come_back() {
        for n in 1..=16 {
            assert_eq!(Stage::from_number(n).map(|s| s as u32), Some(n));
        }
        assert_eq!(Stage::from_number(0), None);
        assert_eq!(Stage::from_number(17), None);
    }
}
