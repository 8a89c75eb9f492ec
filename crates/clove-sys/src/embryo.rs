//! What launcher and template say to each other: "fork an embryo into this cell" and "here it is".
//!
//! Both run the same build of CloveOS; the magic number and exact lengths catch a library of another version.

use crate::landlock::{Rule, Ruleset};
use crate::program::ResourceLimits;
use crate::seccomp::Instruction;
use std::ffi::CString;

/// Descriptors of a request, in this order: the cell's namespaces as setns(2) takes them, then the embryo's own, then
/// any number of control-group files to enter.
pub const FDS: usize = 11;
pub const FD_USER: usize = 0;
pub const FD_MNT: usize = 1;
pub const FD_PID: usize = 2;
pub const FD_NET: usize = 3;
pub const FD_IPC: usize = 4;
pub const FD_UTS: usize = 5;
pub const FD_CGROUP: usize = 6;
/// Becomes the embryo's descriptor 3.
pub const FD_SYSCALLS: usize = 7;
pub const FD_STDOUT: usize = 8;
pub const FD_STDERR: usize = 9;
/// A socket. Takes one `Outcome` when the walls stand, or when one can't be put up; brings `GO` once the launcher has
/// looked at the embryo from outside.
pub const FD_REPORT: usize = 10;

/// The word that lets an embryo go.
pub const GO: u8 = b'G';

const REQUEST_MAGIC: u32 = 0x3246_4c43;
const REPLY_MAGIC: u32 = 0x3152_4c43;
pub const REPLY_BYTES: usize = 24;
pub const OUTCOME_BYTES: usize = 8;

/// Everything about an embryo that isn't a descriptor.
#[derive(Debug)]
pub struct ForkRequest {
    pub token: u64,
    /// Inside the cell.
    pub uid: u32,
    pub gid: u32,
    pub limits: ResourceLimits,
    pub landlock: Option<Ruleset>,
    pub filter: Vec<Instruction>,
    pub cwd: CString,
}

/// The template's answer. With errno 0, the embryo's pidfd comes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkReply {
    pub token: u64,
    pub errno: i32,
    pub pid: i32,
}

/// What the embryo says about its walls: stage 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub stage: u32,
    pub errno: i32,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_le_bytes(self.take(2)?.try_into().ok()?))
    }
    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().ok()?))
    }
    fn text(&mut self) -> Option<CString> {
        let len = self.u32()? as usize;
        CString::new(self.take(len)?).ok()
    }
}

impl ForkRequest {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.filter.len() * 8);
        out.extend(REQUEST_MAGIC.to_le_bytes());
        out.extend(self.token.to_le_bytes());
        out.extend(self.uid.to_le_bytes());
        out.extend(self.gid.to_le_bytes());
        out.extend(self.limits.nofile.to_le_bytes());
        let text = |out: &mut Vec<u8>, t: &CString| {
            out.extend((t.as_bytes().len() as u32).to_le_bytes());
            out.extend(t.as_bytes());
        };
        text(&mut out, &self.cwd);
        let (abi, rules) = self.landlock.as_ref().map_or((0, &[][..]), |l| (l.abi, &l.rules));
        out.extend(abi.to_le_bytes());
        out.extend((rules.len() as u32).to_le_bytes());
        for r in rules {
            out.extend(u32::from(r.writable).to_le_bytes());
            text(&mut out, &r.path);
        }
        out.extend((self.filter.len() as u32).to_le_bytes());
        for i in &self.filter {
            out.extend(i.code.to_le_bytes());
            out.extend([i.jt, i.jf]);
            out.extend(i.k.to_le_bytes());
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<ForkRequest> {
        let mut r = Reader(bytes);
        if r.u32()? != REQUEST_MAGIC {
            return None;
        }
        let (token, uid, gid) = (r.u64()?, r.u32()?, r.u32()?);
        let limits = ResourceLimits { nofile: r.u64()? };
        let cwd = r.text()?;
        let abi = r.u32()?;
        let mut rules = Vec::new();
        for _ in 0..r.u32()? {
            let writable = r.u32()? != 0;
            rules.push(Rule { path: r.text()?, writable });
        }
        let mut filter = Vec::new();
        for _ in 0..r.u32()? {
            let code = r.u16()?;
            let jumps = r.take(2)?;
            filter.push(Instruction { code, jt: jumps[0], jf: jumps[1], k: r.u32()? });
        }
        let landlock = (abi > 0).then_some(Ruleset { abi, rules });
        r.0.is_empty().then_some(ForkRequest { token, uid, gid, limits, landlock, filter, cwd })
    }
}

impl ForkReply {
    pub fn encode(&self) -> [u8; REPLY_BYTES] {
        let mut out = [0; REPLY_BYTES];
        out[..4].copy_from_slice(&REPLY_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.errno.to_le_bytes());
        out[8..16].copy_from_slice(&self.token.to_le_bytes());
        out[16..20].copy_from_slice(&self.pid.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<ForkReply> {
        let mut r = Reader(bytes);
        if bytes.len() != REPLY_BYTES || r.u32()? != REPLY_MAGIC {
            return None;
        }
        let errno = r.u32()? as i32;
        Some(ForkReply { errno, token: r.u64()?, pid: r.u32()? as i32 })
    }
}

impl Outcome {
    pub fn encode(&self) -> [u8; OUTCOME_BYTES] {
        let mut out = [0; OUTCOME_BYTES];
        out[..4].copy_from_slice(&self.stage.to_le_bytes());
        out[4..].copy_from_slice(&self.errno.to_le_bytes());
        out
    }

    pub fn decode(bytes: &[u8]) -> Option<Outcome> {
        let mut r = Reader(bytes);
        (bytes.len() == OUTCOME_BYTES).then_some(())?;
        Some(Outcome { stage: r.u32()?, errno: r.u32()? as i32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_replies_survive_the_wire() {
        let request = ForkRequest {
            token: 1 << 40,
            uid: 1000,
            gid: 1001,
            limits: ResourceLimits { nofile: 256 },
            landlock: Some(Ruleset {
                abi: 7,
                rules: vec![
                    Rule { path: c"/work".into(), writable: true },
                    Rule { path: c"/".into(), writable: false },
                ],
            }),
            filter: vec![Instruction { code: 0x20, jt: 1, jf: 2, k: 3 }],
            cwd: c"/work".into(),
        };
        let bytes = request.encode();
        let back = ForkRequest::decode(&bytes).expect("decodes");
        assert_eq!(format!("{request:?}"), format!("{back:?}"));
        for cut in 0..bytes.len() {
            assert!(ForkRequest::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        let reply = ForkReply { token: 9, errno: 11, pid: 77 };
        assert_eq!(ForkReply::decode(&reply.encode()), Some(reply));
        let outcome = Outcome { stage: 3, errno: 1 };
        assert_eq!(Outcome::decode(&outcome.encode()), Some(outcome));
    }
}
