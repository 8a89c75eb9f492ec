//! A small assembler for deny-lists: seccompiler has one action for all rules and doesn't see x32.

use super::Rule;
use clove_sys::seccomp::Instruction;

/// What happens to a call that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fails with this errno.
    Errno(i32),
}

/// When a rule matches. Arguments are counted from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    Always,
    /// Any of these bits is set in the low half of the argument.
    AnyBit {
        arg: u32,
        bits: u32,
    },
    /// The low half equals one of these. (The kernel takes an int or u32 there and ignores the rest.)
    OneOf {
        arg: u32,
        values: Vec<u32>,
    },
    /// The low half, after masking, equals none of these.
    NoneOf {
        arg: u32,
        mask: u32,
        values: Vec<u32>,
    },
    /// The low half of one argument is this, and that of another isn't that.
    WithoutPair {
        arg: u32,
        is: u32,
        other: u32,
        must_be: u32,
    },
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// On x86_64, numbers with this bit are the x32 ABI (same arch value!), which would pass by every rule.
const X32_BIT: u32 = 0x4000_0000;

// linux/filter.h
const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const AND: u16 = 0x54;
const RET: u16 = 0x06;
const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
// struct seccomp_data
const AT_NR: u32 = 0;
const AT_ARCH: u32 = 4;

fn at_arg(n: u32) -> u32 {
    16 + 8 * n // low half, little-endian
}

fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn refuse(v: Verdict) -> Instruction {
    let Verdict::Errno(e) = v;
    op(RET, 0, 0, ERRNO | (e as u32 & 0xffff))
}

/// Foreign architectures are killed, x32 is refused, the rules follow in order, and the rest is allowed.
pub fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut out = vec![op(LD, 0, 0, AT_ARCH), op(JEQ, 1, 0, ARCH), op(RET, 0, 0, KILL), op(LD, 0, 0, AT_NR)];
    if cfg!(target_arch = "x86_64") {
        out.push(op(JGE, 0, 1, X32_BIT));
        out.push(refuse(Verdict::Errno(libc::ENOSYS)));
    }
    for rule in rules {
        let body = body(rule);
        // Past the body when it is another call. Bodies are short: the longest list of values has a dozen.
        out.push(op(JEQ, 0, body.len() as u8, rule.number as u32));
        out.extend(body);
    }
    out.push(op(RET, 0, 0, ALLOW));
    out
}

/// What is done once the number matches; ends by refusing, or with the number loaded again for the next rule.
fn body(rule: &Rule) -> Vec<Instruction> {
    let reload = op(LD, 0, 0, AT_NR);
    match &rule.check {
        Check::Always => vec![refuse(rule.verdict)],
        Check::AnyBit { arg, bits } => {
            vec![op(LD, 0, 0, at_arg(*arg)), op(JSET, 0, 1, *bits), refuse(rule.verdict), reload]
        }
        Check::OneOf { arg, values } => {
            let mut out = vec![op(LD, 0, 0, at_arg(*arg))];
            let n = values.len();
            for (i, v) in values.iter().enumerate() {
                // To the refusal after the list; the last one jumps over it when it doesn't match.
                let last = i + 1 == n;
                out.push(op(JEQ, (n - 1 - i) as u8, u8::from(last), *v));
            }
            out.extend([refuse(rule.verdict), reload]);
            out
        }
        Check::NoneOf { arg, mask, values } => {
            let mut out = vec![op(LD, 0, 0, at_arg(*arg)), op(AND, 0, 0, *mask)];
            let n = values.len();
            for (i, v) in values.iter().enumerate() {
                // Over the rest of the list and the refusal when it matches.
                out.push(op(JEQ, (n - i) as u8, 0, *v));
            }
            out.extend([refuse(rule.verdict), reload]);
            out
        }
        Check::WithoutPair { arg, is, other, must_be } => vec![
            op(LD, 0, 0, at_arg(*arg)),
            op(JEQ, 0, 3, *is),
            op(LD, 0, 0, at_arg(*other)),
            op(JEQ, 1, 0, *must_be),
            refuse(rule.verdict),
            reload,
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A BPF machine for the few instructions used here.
    fn run(filter: &[Instruction], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
        let mut acc = 0u32;
        let mut pc = 0;
        loop {
            let i = filter[pc];
            pc += 1;
            let mut jump = |hit: bool| pc += usize::from(if hit { i.jt } else { i.jf });
            match i.code {
                LD => {
                    acc = match i.k {
                        AT_NR => nr,
                        AT_ARCH => arch,
                        k => args[(k as usize - 16) / 8] as u32,
                    }
                }
                JEQ => jump(acc == i.k),
                JGE => jump(acc >= i.k),
                JSET => jump(acc & i.k != 0),
                AND => acc &= i.k,
                RET => return i.k,
                c => panic!("unknown instruction {c:#x}"),
            }
        }
    }

    fn rule(number: i64, check: Check) -> Rule {
        Rule { number, check, verdict: Verdict::Errno(1) }
    }

    #[test]
    fn each_check_refuses_what_it_names_and_nothing_else() {
        let filter = assemble(&[
            rule(10, Check::Always),
            rule(11, Check::AnyBit { arg: 0, bits: 0b1010 }),
            rule(12, Check::OneOf { arg: 1, values: vec![5, 6, 7] }),
            rule(13, Check::NoneOf { arg: 2, mask: 0xff, values: vec![1, 2] }),
            rule(14, Check::WithoutPair { arg: 0, is: 16, other: 2, must_be: 0 }),
            rule(15, Check::Always),
        ]);
        let call = |nr, a: [u64; 3]| run(&filter, ARCH, nr, [a[0], a[1], a[2], 0, 0, 0]);
        let no = ERRNO | 1;
        assert_eq!(call(9, [0; 3]), ALLOW);
        assert_eq!(call(10, [0; 3]), no);
        assert_eq!(call(11, [0b0101, 0, 0]), ALLOW);
        assert_eq!(call(11, [0b1000, 0, 0]), no);
        for (v, want) in [(4, ALLOW), (5, no), (6, no), (7, no), (8, ALLOW), (5 | 1 << 32, no)] {
            assert_eq!(call(12, [0, v, 0]), want, "{v}");
        }
        for (v, want) in [(0, no), (1, ALLOW), (2, ALLOW), (3, no), (0x101, ALLOW)] {
            assert_eq!(call(13, [0, 0, v]), want, "{v}");
        }
        for (a, want) in [([16, 9, 0], ALLOW), ([16, 9, 12], no), ([2, 9, 12], ALLOW)] {
            assert_eq!(call(14, a), want, "{a:?}");
        }
        assert_eq!(call(15, [0; 3]), no);
        assert_eq!(run(&filter, 0x4000_0003, 9, [0; 6]), KILL, "i386");
        if cfg!(target_arch = "x86_64") {
            assert_eq!(call(9 | X32_BIT, [0; 3]), ERRNO | libc::ENOSYS as u32);
        }
    }

    #[test]
    fn the_profiles_are_valid_for_the_kernel() {
        for f in [crate::seccomp::default_filter(), crate::seccomp::template_filter()] {
            assert!(f.len() < 4096);
            for (at, i) in f.iter().enumerate() {
                let furthest = usize::from(i.jt.max(i.jf));
                assert!(i.code == LD || i.code == RET || i.code == AND || at + 1 + furthest < f.len());
            }
        }
    }
}
