//! The default deny-list: Python, Node and compilers run under it; what reaches for the host's kernel doesn't.

use super::{Check, Rule, Verdict};
use libc::*;

const NAMESPACES: u32 = (CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET) as u32
    | 0x80; // CLONE_NEWTIME

/// Calls that are never needed: number, and why they are refused. All give EPERM.
pub(super) const NEVER: &[(c_long, &str)] = &[
    (SYS_mount, "changes what is seen where"),
    (SYS_umount2, "uncovers what is covered"),
    (SYS_pivot_root, "changes the root"),
    (SYS_chroot, "changes the root"),
    (SYS_open_tree, "new mount API"),
    (SYS_move_mount, "new mount API"),
    (SYS_fsopen, "new mount API"),
    (SYS_fsconfig, "new mount API: parses options of file systems"),
    (SYS_fsmount, "new mount API"),
    (SYS_fspick, "new mount API"),
    (SYS_mount_setattr, "new mount API: could make mounts writable"),
    (467, "open_tree_attr: new mount API (Linux 6.15); libc has no name for it yet"),
    (SYS_ptrace, "looks into other processes"),
    (SYS_process_vm_readv, "looks into other processes"),
    (SYS_process_vm_writev, "changes other processes"),
    (SYS_process_madvise, "changes other processes"),
    (SYS_kcmp, "compares kernel objects of processes"),
    (SYS_pidfd_getfd, "takes descriptors of other processes"),
    (SYS_bpf, "programs in the kernel"),
    (SYS_perf_event_open, "large attack surface, side channels"),
    (SYS_userfaultfd, "makes races in the kernel winnable"),
    (SYS_io_uring_setup, "its operations pass by this filter"),
    (SYS_io_uring_enter, "its operations pass by this filter"),
    (SYS_io_uring_register, "its operations pass by this filter"),
    (SYS_keyctl, "keyrings aren't namespaced"),
    (SYS_add_key, "keyrings aren't namespaced"),
    (SYS_request_key, "keyrings aren't namespaced"),
    (SYS_init_module, "kernel code"),
    (SYS_finit_module, "kernel code"),
    (SYS_delete_module, "kernel code"),
    (SYS_kexec_load, "kernel code"),
    (SYS_kexec_file_load, "kernel code"),
    (SYS_reboot, "the machine"),
    (SYS_swapon, "the machine's memory"),
    (SYS_swapoff, "the machine's memory"),
    (SYS_acct, "writes records of all processes"),
    (SYS_quotactl, "the host's file systems"),
    (SYS_quotactl_fd, "the host's file systems"),
    (SYS_syslog, "reads the kernel's messages"),
    (SYS_settimeofday, "the machine's clock"),
    (SYS_clock_settime, "the machine's clock"),
    (SYS_clock_adjtime, "the machine's clock"),
    (SYS_adjtimex, "the machine's clock"),
    (SYS_open_by_handle_at, "opens files past every path check"),
    (SYS_name_to_handle_at, "makes handles for open_by_handle_at"),
    (SYS_lookup_dcookie, "leaks kernel addresses of files"),
    (SYS_vhangup, "hangs up terminals"),
    (SYS_setns, "enters namespaces"),
    (SYS_fanotify_init, "watches whole file systems"),
    (SYS_move_pages, "tells where memory lies"),
    (SYS_migrate_pages, "moves other processes' memory"),
    (SYS_nfsservctl, "long gone from the kernel"),
];

#[cfg(target_arch = "x86_64")]
const NEVER_X86: &[(c_long, &str)] = &[
    (SYS_iopl, "raw hardware"),
    (SYS_ioperm, "raw hardware"),
    (SYS_modify_ldt, "16-bit segments: a history of holes"),
    (SYS_uselib, "obsolete"),
    (SYS_ustat, "obsolete"),
    (SYS_sysfs, "obsolete"),
    (SYS__sysctl, "obsolete"),
];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_X86: &[(c_long, &str)] = &[];

/// Socket families that stay: local, IP (an agent's network namespace holds only `lo`), and routing questions, which
/// getifaddrs(3) asks.
const FAMILIES: [u32; 4] = [AF_UNIX as u32, AF_INET as u32, AF_INET6 as u32, AF_NETLINK as u32];

fn rule(number: c_long, check: Check, errno: i32) -> Rule {
    Rule { number, check, verdict: Verdict::Errno(errno) }
}

fn raw_ip(family: c_int) -> Check {
    Check::Both { arg: 0, is: family as u32, other: 1, mask: 0xf, values: vec![SOCK_RAW as u32] }
}

/// IPT_SO_SET_REPLACE and IPT_SO_SET_ADD_COUNTERS, and the same of ARP and bridge tables (linux/netfilter_*).
fn packet_filters(level: c_int) -> Check {
    Check::Both { arg: 1, is: level as u32, other: 2, mask: !0, values: vec![64, 65, 96, 97, 128, 129] }
}

/// Calls that give a file its mode: number, which argument that is, and which one has O_CREAT in it, if that is needed.
const MODES: &[(c_long, u32, Option<u32>)] = &[
    (SYS_fchmod, 1, None),
    (SYS_fchmodat, 2, None),
    (452, 2, None), // fchmodat2 (Linux 6.6)
    (SYS_mknodat, 2, None),
    (SYS_openat, 3, Some(2)),
    #[cfg(target_arch = "x86_64")]
    (SYS_chmod, 1, None),
    #[cfg(target_arch = "x86_64")]
    (SYS_mknod, 1, None),
    #[cfg(target_arch = "x86_64")]
    (SYS_creat, 1, None),
    #[cfg(target_arch = "x86_64")]
    (SYS_open, 2, Some(1)),
];

/// A file of the operator's that runs as the operator, whoever starts it: an agent could leave that in a folder that it
/// may write, for another user of the host.
fn no_setuid_files() -> impl Iterator<Item = Rule> {
    let bits = S_ISUID | S_ISGID;
    let modes = MODES.iter().map(move |(number, mode, flags)| {
        let check = match flags {
            None => Check::AnyBit { arg: *mode, bits },
            // Without O_CREAT there is no mode, and anything in its place.
            Some(flags) => {
                let making = (O_CREAT | O_TMPFILE & !O_DIRECTORY) as u32;
                Check::BitsWithBits { arg: *flags, bits: making, other: *mode, other_bits: bits }
            }
        };
        rule(*number, check, EPERM)
    });
    // Its mode lies in memory, where no filter sees it: programs fall back to openat.
    modes.chain([rule(SYS_openat2, Check::Always, ENOSYS)])
}

/// In the order in which they are tested.
pub fn rules() -> Vec<Rule> {
    let mut rules: Vec<Rule> =
        NEVER.iter().chain(NEVER_X86).map(|(nr, _)| rule(*nr, Check::Always, EPERM)).collect();
    rules.extend([
        // Its flags lie in memory, where no filter sees them: glibc falls back to clone.
        rule(SYS_clone3, Check::Always, ENOSYS),
        rule(SYS_clone, Check::AnyBit { arg: 0, bits: NAMESPACES }, EPERM),
        rule(SYS_unshare, Check::AnyBit { arg: 0, bits: NAMESPACES }, EPERM),
        // Linux, no ASLR, and the question. Others switch protections such as READ_IMPLIES_EXEC.
        rule(
            SYS_personality,
            Check::NoneOf { arg: 0, mask: !0, values: vec![0, 0x0004_0000, 0xffff_ffff] },
            EPERM,
        ),
        // TIOCSTI types into a terminal, TIOCLINUX pastes into one, TIOCSETD picks line disciplines.
        rule(SYS_ioctl, Check::OneOf { arg: 1, values: vec![0x5412, 0x541c, 0x5423] }, EPERM),
        rule(SYS_socket, Check::NoneOf { arg: 0, mask: !0, values: FAMILIES.to_vec() }, EAFNOSUPPORT),
        rule(SYS_socketpair, Check::NoneOf { arg: 0, mask: !0, values: FAMILIES.to_vec() }, EAFNOSUPPORT),
        // Of netlink only routing: netfilter, crypto and the rest are large parsers behind it.
        rule(
            SYS_socket,
            Check::WithoutPair { arg: 0, is: AF_NETLINK as u32, other: 2, must_be: NETLINK_ROUTE as u32 },
            EAFNOSUPPORT,
        ),
        // SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET, and SOCK_RAW, which is what route netlink uses; raw IP sockets
        // fail for want of CAP_NET_RAW. SOCK_RDM, SOCK_DCCP and SOCK_PACKET don't pass.
        rule(SYS_socket, Check::NoneOf { arg: 1, mask: 0xf, values: vec![1, 2, 3, 5] }, EPERM),
        // Code of a template can have CAP_NET_RAW and CAP_NET_ADMIN in the network namespaces of its own agents, by way
        // of their user namespaces. No raw IP for it, and no way to the old parsers of the packet filters.
        rule(SYS_socket, raw_ip(AF_INET), EPERM),
        rule(SYS_socket, raw_ip(AF_INET6), EPERM),
        rule(SYS_setsockopt, packet_filters(SOL_IP), EPERM),
        rule(SYS_setsockopt, packet_filters(SOL_IPV6), EPERM),
        // Whoever holds the last descriptor of a socket that lingers waits in close(2), for as long as its sender likes:
        // passed to the launcher or the kernel, it would stop everybody. Answered as done, and not done: for a socket
        // that only reaches `lo` it makes no difference.
        rule(
            SYS_setsockopt,
            Check::Both { arg: 1, is: SOL_SOCKET as u32, other: 2, mask: !0, values: vec![SO_LINGER as u32] },
            0,
        ),
        // Whoever owns a file can hold up all others that open it, for 45 s at a time (fcntl(2), leases): and through an
        // idmapped mount an agent owns the operator's files, even those that it may only read.
        rule(SYS_fcntl, Check::OneOf { arg: 1, values: vec![F_SETLEASE as u32] }, EPERM),
        // A crash would start the host's core dump handler, as the host's root, on memory that the agent has filled. With
        // RLIMIT_CORE at 1 Linux starts none (core(5) has only 0, which doesn't count for handlers), so it stays at 1.
        // Answered as done: programs that refuse dumps for themselves do so by 0, and must not stumble.
        rule(SYS_setrlimit, Check::OneOf { arg: 0, values: vec![RLIMIT_CORE] }, 0),
        rule(SYS_prlimit64, Check::WithPointer { arg: 1, is: RLIMIT_CORE, pointer: 2 }, 0),
    ]);
    rules.extend(no_setuid_files());
    rules
}
