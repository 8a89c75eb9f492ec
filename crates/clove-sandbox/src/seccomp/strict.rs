//! The `strict` allow-list: what the supported runtimes were seen calling (`traced.rs`), less what is dangerous and not
//! needed, and only with the arguments that are.
//!
//! What isn't on it fails with ENOSYS, as it does on a Linux that is too old to have it: that is the error for which
//! libraries have a second way. What the default profile refuses keeps the default's error.

mod traced;

use super::assemble::{self, Answer, Check, Verdict};
use super::{Rule, default};
use clove_sys::seccomp::Instruction;
use libc::*;
use std::collections::BTreeMap;

/// For which libc has no name on every architecture.
#[expect(non_upper_case_globals, reason = "as libc names the others")]
const SYS_fchmodat2: c_long = 452;

/// Allowed whether or not a workload was seen making them: number, and why.
const ADDED: &[(c_long, &str)] = &[
    // One thing under two names: which one is called depends on the C library and its version.
    (SYS_accept, "accept4 without flags"),
    (SYS_epoll_pwait2, "epoll_pwait with nanoseconds"),
    (SYS_faccessat, "faccessat2 without flags; access on arm64"),
    (SYS_fchmodat2, "fchmodat with flags (Linux 6.6)"),
    (SYS_getitimer, "beside setitimer"),
    (SYS_getrlimit, "older than prlimit64"),
    (SYS_gettimeofday, "older than clock_gettime"),
    (SYS_nanosleep, "older than clock_nanosleep"),
    (SYS_openat2, "openat with more checks"),
    (SYS_ppoll, "poll on arm64"),
    (SYS_preadv, "preadv2 without flags"),
    (SYS_pwritev, "pwritev2 without flags"),
    (SYS_readlinkat, "readlink on arm64"),
    (SYS_setrlimit, "older than prlimit64"),
    (SYS_signalfd4, "rt_sigtimedwait as a descriptor"),
    (SYS_tkill, "older than tgkill"),
    // Siblings of what was seen, with nothing of their own behind them.
    (SYS_fremovexattr, "beside removexattr"),
    (SYS_lremovexattr, "beside removexattr"),
    (SYS_lsetxattr, "beside setxattr"),
    (SYS_recvmmsg, "several recvmsg at once"),
    (SYS_sendmmsg, "several sendmsg at once: glibc's resolver"),
    (SYS_rt_sigqueueinfo, "kill with a value: sigqueue(3)"),
    (SYS_rt_tgsigqueueinfo, "tgkill with a value: pthread_sigqueue(3)"),
    (SYS_timer_delete, "beside timer_create"),
    (SYS_timer_getoverrun, "beside timer_create"),
    (SYS_timer_gettime, "beside timer_create"),
    (SYS_timerfd_create, "timer_create as a descriptor: Python 3.13"),
    (SYS_timerfd_gettime, "beside timerfd_create"),
    (SYS_timerfd_settime, "beside timerfd_create"),
    (SYS_sched_get_priority_max, "a constant: pthread attributes"),
    (SYS_sched_get_priority_min, "a constant: pthread attributes"),
    // Of other versions of the same runtimes.
    (SYS_inotify_init1, "watching files"),
    (SYS_getcpu, "where the vDSO hasn't got it: sched_getcpu(3)"),
    (SYS_membarrier, "garbage collectors and user-space RCU"),
    (SYS_mlock, "keys in memory, bounded by a resource limit"),
    (SYS_mlock2, "as mlock"),
    (SYS_mseal, "only takes rights away: newer C libraries seal their own mappings"),
    (SYS_munlock, "beside mlock"),
];

#[cfg(target_arch = "x86_64")]
const ADDED_X86: &[(c_long, &str)] = &[
    (SYS_epoll_create, "older than epoll_create1"),
    (SYS_eventfd, "older than eventfd2"),
    (SYS_fork, "clone without flags: other C libraries"),
    (SYS_getdents, "older than getdents64"),
    (SYS_inotify_init, "older than inotify_init1"),
    (SYS_lchown, "older than fchownat"),
    (SYS_lstat, "older than newfstatat"),
    (SYS_open, "older than openat"),
    (SYS_pipe, "older than pipe2"),
    (SYS_select, "older than pselect6"),
    (SYS_signalfd, "older than signalfd4"),
    (SYS_stat, "older than newfstatat"),
    (SYS_time, "older than clock_gettime"),
    (SYS_utime, "older than utimensat"),
    (SYS_utimes, "older than utimensat"),
    (SYS_futimesat, "older than utimensat"),
    (SYS_mknod, "older than mknodat"),
];
#[cfg(not(target_arch = "x86_64"))]
const ADDED_X86: &[(c_long, &str)] = &[];

/// Seen, and refused all the same: number, error, and why nothing is lost.
const REFUSED: &[(c_long, i32, &str)] = &[
    (SYS_clone3, ENOSYS, "its flags lie in memory, where no filter sees them: glibc falls back to clone"),
    (SYS_get_mempolicy, ENOSYS, "placing memory on NUMA nodes: libnuma takes this for `no NUMA here`"),
    (SYS_mbind, ENOSYS, "placing memory on NUMA nodes: OpenBLAS asks, and goes on without"),
    (SYS_pkey_alloc, ENOSYS, "memory protection keys: V8 asks, and goes on without"),
    (SYS_set_mempolicy, ENOSYS, "placing memory on NUMA nodes"),
];

/// What template hosts must do, and nobody else: enter cells, and put walls around what they fork.
const TEMPLATES_ONLY: &str = "template";

/// clone(2): threads, forks and vforks. New namespaces (the default refuses those), children of the caller's own
/// parent, and children that a tracer is kept from or handed to, are not among them.
const CLONE_FLAGS: u32 = (CLONE_VM
    | CLONE_FS
    | CLONE_FILES
    | CLONE_SIGHAND
    | CLONE_PIDFD
    | CLONE_VFORK
    | CLONE_THREAD
    | CLONE_SYSVSEM
    | CLONE_SETTLS
    | CLONE_PARENT_SETTID
    | CLONE_CHILD_CLEARTID
    | CLONE_DETACHED
    | CLONE_CHILD_SETTID) as u32
    | 0xff; // the signal at its end

/// ioctl(2): a terminal's settings, size and foreground group; pseudo-terminals; and the descriptor's own flags. None of
/// a device's, network interface's or file system's own.
const IOCTLS: &[u32] = &[
    0x5401,      // TCGETS
    0x5402,      // TCSETS
    0x5403,      // TCSETSW
    0x5404,      // TCSETSF
    0x5405,      // TCGETA
    0x5409,      // TCSBRK: tcdrain(3)
    0x540a,      // TCXONC: tcflow(3)
    0x540b,      // TCFLSH
    0x540e,      // TIOCSCTTY
    0x540f,      // TIOCGPGRP
    0x5410,      // TIOCSPGRP
    0x5411,      // TIOCOUTQ
    0x5413,      // TIOCGWINSZ
    0x5414,      // TIOCSWINSZ
    0x541b,      // FIONREAD
    0x5421,      // FIONBIO
    0x5422,      // TIOCNOTTY
    0x5429,      // TIOCGSID
    0x5441,      // TIOCGPTPEER
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
    0x5452,      // FIOASYNC
    0x802c_542a, // TCGETS2: newer C libraries
    0x402c_542b, // TCSETS2
    0x402c_542c, // TCSETSW2
    0x402c_542d, // TCSETSF2
    0x8004_5430, // TIOCGPTN
    0x4004_5431, // TIOCSPTLCK
];

/// prctl(2): a name, what happens at the parent's end, and questions.
const PRCTLS: &[u32] = &[
    PR_SET_PDEATHSIG as u32,
    PR_GET_PDEATHSIG as u32,
    PR_GET_DUMPABLE as u32,
    PR_SET_DUMPABLE as u32,
    PR_SET_NAME as u32,
    PR_GET_NAME as u32,
    PR_GET_SECCOMP as u32,
    PR_CAPBSET_READ as u32,
    PR_SET_TIMERSLACK as u32,
    PR_GET_TIMERSLACK as u32,
    PR_SET_CHILD_SUBREAPER as u32,
    PR_GET_CHILD_SUBREAPER as u32,
    PR_SET_NO_NEW_PRIVS as u32,
    PR_GET_NO_NEW_PRIVS as u32,
    PR_GET_TID_ADDRESS as u32,
    PR_SET_THP_DISABLE as u32,
    PR_GET_THP_DISABLE as u32,
    PR_SET_VMA as u32, // names of mappings: newer C libraries and V8
];
/// What an embryo gives up on its way into its cell.
const TEMPLATES_PRCTLS: &[u32] = &[PR_CAPBSET_DROP as u32, PR_SET_SECUREBITS as u32, PR_CAP_AMBIENT as u32];

/// fcntl(2): descriptors and their flags, locks of all three kinds, pipe sizes, seals. No leases, no dnotify, no hints.
const FCNTLS: &[u32] = &[
    F_DUPFD as u32,
    F_GETFD as u32,
    F_SETFD as u32,
    F_GETFL as u32,
    F_SETFL as u32,
    F_GETLK as u32,
    F_SETLK as u32,
    F_SETLKW as u32,
    F_SETOWN as u32,
    F_GETOWN as u32,
    F_OFD_GETLK as u32,
    F_OFD_SETLK as u32,
    F_OFD_SETLKW as u32,
    F_DUPFD_CLOEXEC as u32,
    F_SETPIPE_SZ as u32,
    F_GETPIPE_SZ as u32,
    F_ADD_SEALS as u32,
    F_GET_SEALS as u32,
];

/// arch_prctl(2): the thread pointer, whether there is a shadow stack, and leave to use AMX registers.
#[cfg(target_arch = "x86_64")]
const ARCH_PRCTLS: &[u32] = &[
    0x1002, // ARCH_SET_FS
    0x1003, // ARCH_GET_FS
    0x1021, // ARCH_GET_XCOMP_SUPP
    0x1022, // ARCH_GET_XCOMP_PERM
    0x1023, // ARCH_REQ_XCOMP_PERM
    0x3001, // ARCH_CET_STATUS: glibc 2.36
    0x5005, // ARCH_SHSTK_STATUS
];

const FAMILIES: &[u32] = &[AF_UNIX as u32, AF_INET as u32, AF_INET6 as u32];
/// Of the IP family only the first two: the third would be SCTP.
const SOCKET_TYPES: &[u32] = &[SOCK_STREAM as u32, SOCK_DGRAM as u32, SOCK_SEQPACKET as u32];
/// Of the IP family only TCP and UDP: no SCTP, no MPTCP, no ping sockets.
const PROTOCOLS: &[u32] = &[0, IPPROTO_TCP as u32, IPPROTO_UDP as u32];
const LEVELS: &[u32] = &[SOL_SOCKET as u32, IPPROTO_IP as u32, IPPROTO_TCP as u32, IPPROTO_IPV6 as u32];

/// setsockopt(2) on the socket itself. Not: BPF programs on sockets (SO_ATTACH_FILTER and the like), marks, devices,
/// busy polling, zero copy.
const SOCKET_OPTIONS: &[u32] = &[
    SO_REUSEADDR as u32,
    SO_DONTROUTE as u32,
    SO_BROADCAST as u32,
    SO_SNDBUF as u32,
    SO_RCVBUF as u32,
    SO_KEEPALIVE as u32,
    SO_OOBINLINE as u32,
    SO_LINGER as u32,
    SO_REUSEPORT as u32,
    SO_PASSCRED as u32,
    SO_RCVLOWAT as u32,
    SO_RCVTIMEO as u32,
    SO_SNDTIMEO as u32,
    SO_TIMESTAMP as u32,
];
/// Not: TCP_ULP (loads protocols), TCP_REPAIR, MD5 and AO keys, congestion control.
const TCP_OPTIONS: &[u32] = &[
    TCP_NODELAY as u32,
    TCP_MAXSEG as u32,
    TCP_CORK as u32,
    TCP_KEEPIDLE as u32,
    TCP_KEEPINTVL as u32,
    TCP_KEEPCNT as u32,
    TCP_DEFER_ACCEPT as u32,
    TCP_QUICKACK as u32,
    TCP_USER_TIMEOUT as u32,
    TCP_FASTOPEN as u32,
];
const IP_OPTIONS: &[u32] = &[
    IP_TOS as u32,
    IP_TTL as u32,
    IP_MTU_DISCOVER as u32,
    IP_RECVERR as u32,
    IP_MULTICAST_IF as u32,
    IP_MULTICAST_TTL as u32,
    IP_MULTICAST_LOOP as u32,
    IP_ADD_MEMBERSHIP as u32,
    IP_DROP_MEMBERSHIP as u32,
    24, // IP_BIND_ADDRESS_NO_PORT
];
const IPV6_OPTIONS: &[u32] = &[
    IPV6_UNICAST_HOPS as u32,
    IPV6_MULTICAST_IF as u32,
    IPV6_MULTICAST_HOPS as u32,
    IPV6_MULTICAST_LOOP as u32,
    IPV6_ADD_MEMBERSHIP as u32,
    IPV6_DROP_MEMBERSHIP as u32,
    IPV6_MTU_DISCOVER as u32,
    IPV6_RECVERR as u32,
    IPV6_V6ONLY as u32,
    IPV6_TCLASS as u32,
];

/// memfd_create(2), without huge pages.
const MEMFD_FLAGS: u32 = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL | MFD_EXEC;

fn rule(number: c_long, check: Check, errno: c_int) -> Rule {
    Rule { number, check, verdict: Verdict::Errno(errno) }
}

/// The low half of an argument is one of these.
fn only(number: c_long, arg: u32, values: &[u32], errno: c_int) -> Rule {
    rule(number, Check::NoneOf { arg, mask: !0, values: values.to_vec() }, errno)
}

/// A socket's type, without the flags that are put beside it.
fn only_types(number: c_long) -> Rule {
    rule(number, Check::NoneOf { arg: 1, mask: 0xf, values: SOCKET_TYPES.to_vec() }, ESOCKTNOSUPPORT)
}

fn no_seqpacket(family: c_int) -> Rule {
    let values = vec![SOCK_SEQPACKET as u32];
    let check = Check::Both { arg: 0, is: family as u32, other: 1, mask: 0xf, values };
    rule(SYS_socket, check, ESOCKTNOSUPPORT)
}

/// Of the options of one level, these.
fn only_options(level: c_int, values: &[u32]) -> Rule {
    let check = Check::PairNoneOf { arg: 1, is: level as u32, other: 2, values: values.to_vec() };
    rule(SYS_setsockopt, check, ENOPROTOOPT)
}

/// Of what mknod(2) makes, files and named pipes.
fn no_device(number: c_long, mode: u32) -> Rule {
    rule(number, Check::NoneOf { arg: mode, mask: S_IFMT, values: vec![0, S_IFREG, S_IFIFO] }, EPERM)
}

/// What is refused of the calls that pass. The errors are those with which the kernel meets what it doesn't know.
fn rules(for_template: bool) -> Vec<Rule> {
    let mut prctls = PRCTLS.to_vec();
    let mut clone_flags = CLONE_FLAGS;
    if for_template {
        prctls.extend(TEMPLATES_PRCTLS);
        clone_flags |= CLONE_PARENT as u32;
    }
    vec![
        rule(SYS_clone, Check::AnyBit { arg: 0, bits: !clone_flags }, EPERM),
        only(SYS_ioctl, 1, IOCTLS, ENOTTY),
        only(SYS_prctl, 0, &prctls, EINVAL),
        #[cfg(target_arch = "x86_64")]
        only(SYS_arch_prctl, 0, ARCH_PRCTLS, EINVAL),
        only(SYS_fcntl, 1, FCNTLS, EINVAL),
        rule(SYS_memfd_create, Check::AnyBit { arg: 1, bits: !MEMFD_FLAGS }, EINVAL),
        only(SYS_socket, 0, FAMILIES, EAFNOSUPPORT),
        only_types(SYS_socket),
        no_seqpacket(AF_INET),
        no_seqpacket(AF_INET6),
        only(SYS_socket, 2, PROTOCOLS, EPROTONOSUPPORT),
        only(SYS_socketpair, 0, &[AF_UNIX as u32], EAFNOSUPPORT),
        only_types(SYS_socketpair),
        only(SYS_socketpair, 2, &[0], EPROTONOSUPPORT),
        only(SYS_getsockopt, 1, LEVELS, ENOPROTOOPT),
        only(SYS_setsockopt, 1, LEVELS, ENOPROTOOPT),
        only_options(SOL_SOCKET, SOCKET_OPTIONS),
        only_options(IPPROTO_TCP, TCP_OPTIONS),
        only_options(IPPROTO_IP, IP_OPTIONS),
        only_options(IPPROTO_IPV6, IPV6_OPTIONS),
        #[cfg(target_arch = "x86_64")]
        no_device(SYS_mknod, 1),
        no_device(SYS_mknodat, 2),
        // A filter on top of one's own, and nothing else that there is to this call.
        only(SYS_seccomp, 0, &[SECCOMP_SET_MODE_FILTER], EINVAL),
        only(SYS_seccomp, 1, &[0], EINVAL),
    ]
}

fn answers(for_template: bool) -> BTreeMap<u32, Answer> {
    let traced = traced::CALLS.iter().chain(traced::CALLS_X86);
    let wanted = traced.filter(|(_, _, who)| for_template || *who != TEMPLATES_ONLY).map(|(_, nr, _)| *nr);
    let added = ADDED.iter().chain(ADDED_X86).map(|(nr, _)| *nr);
    let mut answers: BTreeMap<u32, Answer> =
        wanted.chain(added).map(|number| (number as u32, Answer::Pass(Vec::new()))).collect();
    for (number, errno, _) in REFUSED {
        answers.insert(*number as u32, Answer::Refuse(Verdict::Errno(*errno)));
    }
    // Strict is the default with less: the default's rules hold too, and come first, with their errors.
    let defaults = if for_template { super::template::rules() } else { default::rules() };
    for rule in defaults.into_iter().chain(rules(for_template)) {
        let number = rule.number as u32;
        match (answers.get_mut(&number), rule.check) {
            (_, Check::Always) => {
                answers.insert(number, Answer::Refuse(rule.verdict));
            }
            (Some(Answer::Pass(checks)), check) => checks.push((check, rule.verdict)),
            // Refused anyway, whatever its arguments.
            _ => {}
        }
    }
    answers
}

/// For agents.
pub fn agent() -> Vec<Instruction> {
    assemble::allow_list(&answers(false), Verdict::Errno(ENOSYS))
}

/// For their templates: what the agents may, and what it takes to fork them into their cells.
pub fn template() -> Vec<Instruction> {
    assemble::allow_list(&answers(true), Verdict::Errno(ENOSYS))
}

#[cfg(test)]
mod tests;
