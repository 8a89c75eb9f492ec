//! The list against what was traced, against the default profile, and argument by argument.

use super::super::assemble::machine::{PASSES, ask, fails_with};
use super::super::{agent_filter, template_filter};
use super::*;
use crate::protocol::Profile;
use std::collections::BTreeSet;

/// Values of arguments that workloads were seen with, and that are refused all the same: what is lost.
const REFUSED_ARGUMENTS: &[traced::Asked] = &[
    ("ioctl", &[(1, 0x8912)], "SIOCGIFCONF: uuid1 asks for a network address, and takes a random one"),
    ("ioctl", &[(1, 0x8927)], "SIOCGIFHWADDR: as SIOCGIFCONF"),
    ("ioctl", &[(1, 0x4004_9409)], "FICLONE: cp copies what it can't share"),
    (
        "socket",
        &[(0, 0x10), (1, 0x80003), (2, 0)],
        "route netlink: a list of interfaces, of which there is `lo`",
    ),
];

fn call(filter: &[Instruction], number: c_long, args: &[(u32, u32)]) -> u32 {
    let mut all = [0; 6];
    for (i, value) in args {
        all[*i as usize] = u64::from(*value);
    }
    ask(filter, number as u32, all)
}

fn number_of(name: &str) -> c_long {
    let mut all = traced::CALLS.iter().chain(traced::CALLS_X86);
    all.find(|(n, ..)| *n == name).map(|(_, nr, _)| *nr).expect("a traced call")
}

#[test]
fn what_was_traced_passes_or_is_refused_with_a_reason() {
    let (agents, templates) = (agent_filter(Profile::Strict), template_filter(Profile::Strict));
    let refused: BTreeSet<c_long> = REFUSED.iter().map(|(nr, ..)| *nr).collect();
    let added: BTreeSet<c_long> = ADDED.iter().chain(ADDED_X86).map(|(nr, _)| *nr).collect();
    let with_arguments: BTreeSet<&str> = traced::ARGUMENTS.iter().map(|(name, ..)| *name).collect();
    for (name, number, who) in traced::CALLS.iter().chain(traced::CALLS_X86) {
        assert!(!who.is_empty(), "{name}");
        if with_arguments.contains(name) {
            continue;
        }
        let passes = !refused.contains(number);
        let for_agents = passes && (*who != TEMPLATES_ONLY || added.contains(number));
        assert_eq!(call(&agents, *number, &[]) == PASSES, for_agents, "{name} for agents");
        assert_eq!(call(&templates, *number, &[]) == PASSES, passes, "{name} for templates");
    }
    for (name, args, who) in traced::ARGUMENTS {
        let wanted = !REFUSED_ARGUMENTS.iter().any(|(n, a, _)| n == name && a == args);
        let filter = if *who == TEMPLATES_ONLY { &templates } else { &agents };
        let answer = call(filter, number_of(name), args);
        // Or answered as done, without having been: as by the default.
        assert_eq!(answer == PASSES || answer == fails_with(0), wanted, "{name} {args:x?}");
    }
}

#[test]
fn every_exception_is_one() {
    for (name, args, _) in REFUSED_ARGUMENTS {
        assert!(
            traced::ARGUMENTS.iter().any(|(n, a, _)| n == name && a == args),
            "nobody asks for {name} {args:x?}"
        );
    }
    let mut seen = BTreeSet::new();
    for (number, why) in ADDED.iter().chain(ADDED_X86) {
        assert!(seen.insert(number), "{number} ({why}) is added twice");
        assert!(!REFUSED.iter().any(|(nr, ..)| nr == number), "{number} ({why}) is refused");
    }
    for (number, ..) in REFUSED {
        let asked = traced::CALLS.iter().any(|(_, nr, _)| nr == number) || *number == SYS_clone3;
        assert!(asked, "nobody asks for {number}");
    }
}

/// Strict is the default with less: nothing passes here that doesn't there.
#[test]
fn nothing_passes_that_the_default_refuses() {
    for (strict, default) in [
        (agent_filter(Profile::Strict), agent_filter(Profile::Default)),
        (template_filter(Profile::Strict), template_filter(Profile::Default)),
    ] {
        let interesting: Vec<u64> = [0, 1, 2, 3, 10, 16, 17, 38, 0x1003, !0]
            .into_iter()
            .chain(traced::ARGUMENTS.iter().flat_map(|(_, args, _)| args.iter().map(|(_, v)| u64::from(*v))))
            .chain((0..64).map(|bit| 1 << bit))
            .chain([0x5412, 0x541c, 0x5423, 0x4_0000, 0x40_0000])
            .collect();
        let mut passed = 0u64;
        for number in 0..1000 {
            for a in &interesting {
                for args in
                    [[*a, 0, 0], [0, *a, 0], [1, *a, 0], [2, 1, *a], [*a, 1, 0], [16, 3, *a], [1, 1, *a]]
                {
                    let args = [args[0], args[1], args[2], 0, 0, 0];
                    if ask(&strict, number, args) == PASSES {
                        passed += 1;
                        assert_eq!(ask(&default, number, args), PASSES, "call {number} {args:x?}");
                    }
                }
            }
        }
        assert!(passed > 100_000, "{passed}: this was to compare something");
    }
}

#[test]
fn unknown_calls_look_like_an_old_kernel() {
    let filter = agent_filter(Profile::Strict);
    for number in [335, 451, 460, 470, 600, 0x3fff_ffff] {
        assert_eq!(ask(&filter, number, [0; 6]), fails_with(ENOSYS), "{number}");
    }
    for (number, errno) in [
        (SYS_mount, EPERM),
        (SYS_ptrace, EPERM),
        (SYS_io_uring_setup, EPERM),
        (SYS_clone3, ENOSYS),
        (SYS_setns, EPERM),
    ] {
        assert_eq!(ask(&filter, number as u32, [0; 6]), fails_with(errno), "{number}");
    }
}

#[test]
fn arguments_decide() {
    let filter = agent_filter(Profile::Strict);
    let refused = |number: c_long, args: &[(u32, u32)], errno: i32| {
        assert_eq!(call(&filter, number, args), fails_with(errno), "{number} {args:x?}");
    };
    for flag in
        [CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWPID, CLONE_PARENT, CLONE_PTRACE, CLONE_UNTRACED, CLONE_IO]
    {
        refused(SYS_clone, &[(0, flag as u32 | 17)], EPERM);
    }
    for request in [0x8912, 0x4004_9409, 0, 0x5413 | 1 << 31] {
        refused(SYS_ioctl, &[(1, request)], ENOTTY);
    }
    // TIOCSTI: with the default's error, as all that the default refuses.
    refused(SYS_ioctl, &[(1, 0x5412)], EPERM);
    refused(SYS_fcntl, &[(1, F_SETLEASE as u32)], EPERM);
    for option in [PR_SET_SECCOMP, PR_SET_MM, PR_SET_PTRACER, PR_CAPBSET_DROP, PR_CAP_AMBIENT, 59, 62] {
        refused(SYS_prctl, &[(0, option as u32)], EINVAL);
    }
    for command in [F_NOTIFY, 10, 1024 + 11] {
        refused(SYS_fcntl, &[(1, command as u32)], EINVAL);
    }
    for family in [0, AF_NETLINK, AF_PACKET, AF_ALG, AF_VSOCK, AF_XDP, 4, 5] {
        refused(SYS_socket, &[(0, family as u32), (1, 1)], EAFNOSUPPORT);
        refused(SYS_socketpair, &[(0, family as u32), (1, 1)], EAFNOSUPPORT);
    }
    refused(SYS_socketpair, &[(0, AF_INET as u32), (1, 1)], EAFNOSUPPORT);
    for (kind, errno) in [(SOCK_RAW, ESOCKTNOSUPPORT), (SOCK_RDM, EPERM), (10, EPERM)] {
        refused(SYS_socket, &[(0, 1), (1, kind as u32 | SOCK_CLOEXEC as u32)], errno);
    }
    for family in [AF_INET, AF_INET6] {
        refused(SYS_socket, &[(0, family as u32), (1, SOCK_SEQPACKET as u32)], ESOCKTNOSUPPORT);
    }
    for protocol in [1, 33, 132, 136, 262] {
        refused(SYS_socket, &[(0, 2), (1, 1), (2, protocol)], EPROTONOSUPPORT);
    }
    for (level, option) in [
        (1, SO_ATTACH_FILTER),
        (1, 50),
        (1, SO_MARK),
        (1, SO_BINDTODEVICE),
        (6, 31),
        (6, TCP_REPAIR),
        (0, 4),
        (41, 54),
        (17, 1),
        (132, 1),
        (263, 1),
        (282, 1),
    ] {
        refused(SYS_setsockopt, &[(1, level), (2, option as u32)], ENOPROTOOPT);
    }
    refused(SYS_getsockopt, &[(1, 284)], ENOPROTOOPT);
    refused(SYS_memfd_create, &[(1, MFD_HUGETLB)], EINVAL);
    for kind in [S_IFCHR, S_IFBLK, S_IFSOCK] {
        refused(SYS_mknodat, &[(2, kind | 0o666)], EPERM);
    }
    assert_eq!(call(&filter, SYS_mknodat, &[(2, S_IFIFO | 0o666)]), PASSES);
    assert_eq!(call(&filter, SYS_socket, &[(0, 10), (1, 2 | SOCK_NONBLOCK as u32), (2, 17)]), PASSES);
}

#[test]
fn templates_may_more_and_agents_may_not() {
    let (agents, templates) = (agent_filter(Profile::Strict), template_filter(Profile::Strict));
    for number in [SYS_setns, SYS_seccomp, SYS_landlock_restrict_self, SYS_capset] {
        assert_eq!(ask(&templates, number as u32, [1, 0, 0, 0, 0, 0]), PASSES);
        assert_ne!(ask(&agents, number as u32, [0; 6]), PASSES);
    }
    let sibling = [(0, (CLONE_PARENT | CLONE_PIDFD | CLONE_CHILD_SETTID) as u32)];
    assert_eq!(call(&templates, SYS_clone, &sibling), PASSES);
    assert_eq!(call(&agents, SYS_clone, &sibling), fails_with(EPERM));
}

/// What a start costs is its depth, and the number of its instructions.
#[test]
fn the_filter_is_small() {
    let filter = agent_filter(Profile::Strict);
    assert!(filter.len() < 700, "{} instructions", filter.len());
}
