//! A small assembler for filters: seccompiler has one action for all rules and doesn't see x32.

use super::Rule;
use clove_sys::seccomp::Instruction;
use std::collections::BTreeMap;

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
    /// Any of these bits is set in the low half of one argument, and any of those in that of another.
    BitsWithBits {
        arg: u32,
        bits: u32,
        other: u32,
        other_bits: u32,
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
    /// The low half of one argument is this, and that of another, after masking, equals one of these.
    Both {
        arg: u32,
        is: u32,
        other: u32,
        mask: u32,
        values: Vec<u32>,
    },
    /// The low half of one argument is this, and another one (all of it) isn't null.
    WithPointer {
        arg: u32,
        is: u32,
        pointer: u32,
    },
    /// The low half of one argument is this, and that of another isn't that.
    WithoutPair {
        arg: u32,
        is: u32,
        other: u32,
        must_be: u32,
    },
    /// The low half of one argument is this, and that of another equals none of these.
    PairNoneOf {
        arg: u32,
        is: u32,
        other: u32,
        values: Vec<u32>,
    },
}

/// What an allow-list does about one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It passes unless one of these checks refuses it.
    Pass(Vec<(Check, Verdict)>),
    Refuse(Verdict),
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// On x86_64, numbers with this bit are the x32 ABI (same arch value!), which would pass by every rule.
const X32_BIT: u32 = 0x4000_0000;

// linux/filter.h
const LD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JA: u16 = 0x05;
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

fn high_half_of_arg(n: u32) -> u32 {
    at_arg(n) + 4
}

fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

fn refuse(v: Verdict) -> Instruction {
    let Verdict::Errno(e) = v;
    op(RET, 0, 0, ERRNO | (e as u32 & 0xffff))
}

/// Foreign architectures are killed, x32 is refused; the number of the call is loaded.
fn prologue() -> Vec<Instruction> {
    let mut out = vec![op(LD, 0, 0, AT_ARCH), op(JEQ, 1, 0, ARCH), op(RET, 0, 0, KILL), op(LD, 0, 0, AT_NR)];
    if cfg!(target_arch = "x86_64") {
        out.push(op(JGE, 0, 1, X32_BIT));
        out.push(refuse(Verdict::Errno(libc::ENOSYS)));
    }
    out
}

/// A deny-list: the rules follow in order, and the rest is allowed.
pub fn assemble(rules: &[Rule]) -> Vec<Instruction> {
    let mut out = prologue();
    for rule in rules {
        let mut body = conditional(&rule.check, rule.verdict);
        if rule.check != Check::Always {
            // For the next rule.
            body.push(op(LD, 0, 0, AT_NR));
        }
        // Past the body when it is another call. Bodies are short: the longest list of values has a dozen.
        out.push(op(JEQ, 0, body.len() as u8, rule.number as u32));
        out.extend(body);
    }
    out.push(op(RET, 0, 0, ALLOW));
    out
}

/// An allow-list: what has no answer gets `otherwise`.
///
/// The numbers are searched by halves. Linux runs a new filter once for each number to find those that always pass
/// (kernel/seccomp.c, `seccomp_cache_prepare`), so its depth is what each process's start costs.
pub fn allow_list(answers: &BTreeMap<u32, Answer>, otherwise: Verdict) -> Vec<Instruction> {
    let otherwise = Answer::Refuse(otherwise);
    let mut spans = vec![(0, &otherwise)];
    for (number, answer) in answers {
        if spans.last().is_some_and(|(start, _)| start == number) {
            spans.pop();
        }
        spans.push((*number, answer));
        spans.push((number + 1, &otherwise));
    }
    spans.dedup_by(|next, before| next.1 == before.1);
    let mut out = prologue();
    out.extend(search(&spans));
    out
}

/// Every path through it ends with a verdict. The number is loaded, and lies in one of the spans: from a start to the next.
fn search(spans: &[(u32, &Answer)]) -> Vec<Instruction> {
    let (low, high) = spans.split_at(spans.len() / 2);
    let (false, Some((start, _))) = (low.is_empty(), high.first()) else {
        return high.first().map_or_else(Vec::new, |(_, answer)| leaf(answer));
    };
    let (low, high) = (search(low), search(high));
    let mut out = match u8::try_from(low.len()) {
        Ok(over) => vec![op(JGE, over, 0, *start)],
        // A conditional jump has eight bits, the other kind has 32.
        Err(_) => vec![op(JGE, 0, 1, *start), op(JA, 0, 0, low.len() as u32)],
    };
    out.extend(low);
    out.extend(high);
    out
}

fn leaf(answer: &Answer) -> Vec<Instruction> {
    match answer {
        Answer::Refuse(verdict) => vec![refuse(*verdict)],
        Answer::Pass(checks) => {
            let mut out: Vec<_> = checks.iter().flat_map(|(c, v)| conditional(c, *v)).collect();
            out.push(op(RET, 0, 0, ALLOW));
            out
        }
    }
}

/// Refuses when the check matches; else goes on behind itself, with an argument loaded.
fn conditional(check: &Check, verdict: Verdict) -> Vec<Instruction> {
    match check {
        Check::Always => vec![refuse(verdict)],
        Check::AnyBit { arg, bits } => {
            vec![op(LD, 0, 0, at_arg(*arg)), op(JSET, 0, 1, *bits), refuse(verdict)]
        }
        Check::BitsWithBits { arg, bits, other, other_bits } => vec![
            op(LD, 0, 0, at_arg(*arg)),
            op(JSET, 0, 3, *bits),
            op(LD, 0, 0, at_arg(*other)),
            op(JSET, 0, 1, *other_bits),
            refuse(verdict),
        ],
        Check::OneOf { arg, values } => {
            let mut out = vec![op(LD, 0, 0, at_arg(*arg))];
            out.extend(refuse_if(values, verdict));
            out
        }
        Check::NoneOf { arg, mask, values } => {
            let mut out = vec![op(LD, 0, 0, at_arg(*arg)), op(AND, 0, 0, *mask)];
            out.extend(refuse_unless(values, verdict));
            out
        }
        Check::WithoutPair { arg, is, other, must_be } => vec![
            op(LD, 0, 0, at_arg(*arg)),
            op(JEQ, 0, 3, *is),
            op(LD, 0, 0, at_arg(*other)),
            op(JEQ, 1, 0, *must_be),
            refuse(verdict),
        ],
        Check::Both { arg, is, other, mask, values } => {
            let list = refuse_if(values, verdict);
            // Over the other argument's load, its mask and its list.
            let mut out = vec![op(LD, 0, 0, at_arg(*arg)), op(JEQ, 0, 2 + list.len() as u8, *is)];
            out.extend([op(LD, 0, 0, at_arg(*other)), op(AND, 0, 0, *mask)]);
            out.extend(list);
            out
        }
        Check::WithPointer { arg, is, pointer } => vec![
            op(LD, 0, 0, at_arg(*arg)),
            op(JEQ, 0, 5, *is),
            op(LD, 0, 0, at_arg(*pointer)),
            op(JEQ, 0, 2, 0),
            op(LD, 0, 0, high_half_of_arg(*pointer)),
            op(JEQ, 1, 0, 0),
            refuse(verdict),
        ],
        Check::PairNoneOf { arg, is, other, values } => {
            let list = refuse_unless(values, verdict);
            // Over the other argument's load and its list.
            let mut out = vec![op(LD, 0, 0, at_arg(*arg)), op(JEQ, 0, 1 + list.len() as u8, *is)];
            out.push(op(LD, 0, 0, at_arg(*other)));
            out.extend(list);
            out
        }
    }
}

/// Goes on behind itself unless what is loaded is one of the values.
fn refuse_if(values: &[u32], verdict: Verdict) -> Vec<Instruction> {
    let n = values.len();
    // To the refusal after the list; the last one jumps over it when it doesn't match.
    let tests = values.iter().enumerate().map(|(i, v)| op(JEQ, (n - 1 - i) as u8, u8::from(i + 1 == n), *v));
    tests.chain([refuse(verdict)]).collect()
}

/// Goes on behind itself when what is loaded is one of the values.
fn refuse_unless(values: &[u32], verdict: Verdict) -> Vec<Instruction> {
    let n = values.len();
    // Over the rest of the list and the refusal when it matches.
    let tests = values.iter().enumerate().map(|(i, v)| op(JEQ, (n - i) as u8, 0, *v));
    tests.chain([refuse(verdict)]).collect()
}

/// A BPF machine for the few instructions used here.
#[cfg(test)]
pub(super) mod machine {
    use super::*;

    pub const PASSES: u32 = ALLOW;

    pub fn fails_with(errno: i32) -> u32 {
        ERRNO | errno as u32
    }

    /// What the filter says to a call of this architecture.
    pub fn ask(filter: &[Instruction], number: u32, args: [u64; 6]) -> u32 {
        run(filter, ARCH, number, args)
    }

    pub fn run(filter: &[Instruction], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
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
                        k if k % 8 == 4 => (args[(k as usize - 16) / 8] >> 32) as u32,
                        k => args[(k as usize - 16) / 8] as u32,
                    }
                }
                JA => pc += i.k as usize,
                JEQ => jump(acc == i.k),
                JGE => jump(acc >= i.k),
                JSET => jump(acc & i.k != 0),
                AND => acc &= i.k,
                RET => return i.k,
                c => panic!("unknown instruction {c:#x}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::machine::run;
    use super::*;

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
            rule(16, Check::Both { arg: 0, is: 2, other: 1, mask: 0xf, values: vec![3, 10] }),
            rule(17, Check::WithPointer { arg: 1, is: 4, pointer: 2 }),
            rule(18, Check::PairNoneOf { arg: 1, is: 1, other: 2, values: vec![7, 9] }),
            rule(19, Check::Always),
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
        for (a, want) in [([2, 3, 0], no), ([2, 0x80a, 0], no), ([2, 4, 0], ALLOW), ([3, 3, 0], ALLOW)] {
            assert_eq!(call(16, a), want, "{a:?}");
        }
        // A pointer whose low half is 0 is one nevertheless.
        for (a, want) in [([0, 4, 0], ALLOW), ([0, 4, 8], no), ([0, 4, 8 << 32], no), ([0, 5, 8], ALLOW)] {
            assert_eq!(call(17, a), want, "{a:?}");
        }
        for (a, want) in [([0, 1, 7], ALLOW), ([0, 1, 9], ALLOW), ([0, 1, 8], no), ([0, 2, 8], ALLOW)] {
            assert_eq!(call(18, a), want, "{a:?}");
        }
        assert_eq!(call(19, [0; 3]), no);
        assert_eq!(run(&filter, 0x4000_0003, 9, [0; 6]), KILL, "i386");
        if cfg!(target_arch = "x86_64") {
            assert_eq!(call(9 | X32_BIT, [0; 3]), ERRNO | libc::ENOSYS as u32);
        }
    }

    /// Every number gets its own answer, wherever the halves are cut, and also where a jump is too far for eight bits.
    #[test]
    fn an_allow_list_answers_each_number() {
        let no = Verdict::Errno(libc::ENOSYS);
        let long = Check::NoneOf { arg: 0, mask: !0, values: (0..200).collect() };
        for many in 0..80u32 {
            let mut answers = BTreeMap::new();
            for n in 0..many {
                let answer = match n % 4 {
                    0 | 1 => Answer::Pass(vec![]),
                    2 => Answer::Refuse(Verdict::Errno(7)),
                    _ => Answer::Pass(vec![
                        (long.clone(), Verdict::Errno(8)),
                        (Check::AnyBit { arg: 1, bits: 1 }, Verdict::Errno(9)),
                    ]),
                };
                answers.insert(n * n / 3 + n, answer);
            }
            let filter = allow_list(&answers, no);
            for number in (0..many * many / 3 + many + 5).chain([5000, X32_BIT - 1]) {
                let ask = |a: u64, b: u64| run(&filter, ARCH, number, [a, b, 0, 0, 0, 0]);
                let (plain, wrong, both) = match answers.get(&number) {
                    None => (
                        ERRNO | libc::ENOSYS as u32,
                        ERRNO | libc::ENOSYS as u32,
                        ERRNO | libc::ENOSYS as u32,
                    ),
                    Some(Answer::Refuse(_)) => (ERRNO | 7, ERRNO | 7, ERRNO | 7),
                    Some(Answer::Pass(checks)) if checks.is_empty() => (ALLOW, ALLOW, ALLOW),
                    Some(Answer::Pass(_)) => (ALLOW, ERRNO | 9, ERRNO | 8),
                };
                assert_eq!((ask(0, 0), ask(199, 1), ask(200, 1)), (plain, wrong, both), "{number} of {many}");
            }
            assert_eq!(run(&filter, 0x4000_0003, 0, [0; 6]), KILL, "i386");
            if cfg!(target_arch = "x86_64") {
                assert_eq!(run(&filter, ARCH, X32_BIT, [0; 6]), ERRNO | libc::ENOSYS as u32);
            }
        }
    }

    #[test]
    fn the_profiles_are_valid_for_the_kernel() {
        use crate::protocol::Profile::{Default, Strict};
        use crate::seccomp::{agent_filter, template_filter};
        for f in
            [agent_filter(Default), template_filter(Default), agent_filter(Strict), template_filter(Strict)]
        {
            assert!(f.len() < 4096);
            for (at, i) in f.iter().enumerate() {
                let furthest = match i.code {
                    JA => i.k as usize,
                    _ => usize::from(i.jt.max(i.jf)),
                };
                assert!(i.code == LD || i.code == RET || i.code == AND || at + 1 + furthest < f.len());
            }
        }
    }
}
