//! What a process must be and have to be a kernel: asked before anything is made.

use super::refusal::Refusal;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// A few segments of the journal; and room for `state.db`.
const LEAST_FILE_BYTES: u64 = 64 << 20;
/// Fewer open files than this don't even carry a handful of agents.
const LEAST_FILES: u64 = 256;
/// Thousands of agents need a handful of descriptors each.
const WANTED_FILES: u64 = 1 << 20;

/// What the launcher does and Linux asks a right for: namespaces and mounts, uid maps, device nodes, cgroup files that
/// aren't its own, the namespaces of other processes.
const NEEDED: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::SYS_ADMIN, "SYS_ADMIN"),
    (CapabilitySet::SETUID, "SETUID"),
    (CapabilitySet::SETGID, "SETGID"),
    (CapabilitySet::MKNOD, "MKNOD"),
    (CapabilitySet::DAC_OVERRIDE, "DAC_OVERRIDE"),
    (CapabilitySet::SYS_PTRACE, "SYS_PTRACE"),
];

/// Root, with the rights that are needed.
///
/// # Errors
/// Who this is instead, or which rights are missing.
pub fn check_rights() -> Result<(), Refusal> {
    let uid = rustix::process::geteuid();
    if !uid.is_root() {
        return Err(Refusal::new(
            format!("it has to run as root, and this is uid {}", uid.as_raw()),
            "run the command with sudo; the agents themselves get unprivileged ids of their own",
        ));
    }
    let Ok(sets) = capabilities(None) else { return Ok(()) };
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(c, _)| !sets.effective.contains(*c)).map(|(_, name)| *name).collect();
    match missing.as_slice() {
        [] => Ok(()),
        some => Err(Refusal::new(
            format!(
                "this root lacks {} {}",
                if some.len() == 1 { "the right" } else { "the rights" },
                listed(some)
            ),
            format!(
                "start the container with --privileged (or {}), or the service without that restriction",
                some.iter().map(|n| format!("--cap-add={n}")).collect::<Vec<_>>().join(" ")
            ),
        )),
    }
}

fn listed(names: &[&str]) -> String {
    names.iter().map(|n| format!("CAP_{n}")).collect::<Vec<_>>().join(", ")
}

/// Lifts what the shell of whoever started the kernel has limited for itself: agents have limits of their own. Gives
/// those that can't be lifted, in words.
pub fn lift_limits() -> Vec<String> {
    const INHERITED: &[(Resource, &str)] = &[
        (Resource::Cpu, "seconds of CPU time (ulimit -t)"),
        (Resource::As, "bytes of address space (ulimit -v)"),
        (Resource::Data, "bytes of data (ulimit -d)"),
        (Resource::Rss, "bytes of resident memory (ulimit -m)"),
    ];
    let mut left = Vec::new();
    for (resource, words) in INHERITED {
        let have = getrlimit(*resource);
        let _ = setrlimit(*resource, Rlimit { current: None, maximum: None })
            .or_else(|_| setrlimit(*resource, Rlimit { current: have.maximum, maximum: have.maximum }));
        if let Some(n) = getrlimit(*resource).current {
            left.push(format!("{n} {words}"));
        }
    }
    left
}

/// Raises the size that files may have, and looks whether it is enough: the journal's segments have 16 MiB, its index
/// grows with the history.
///
/// # Errors
/// When not even a journal can be had.
pub fn raise_file_size() -> Result<(), Refusal> {
    let have = getrlimit(Resource::Fsize);
    let _ = setrlimit(Resource::Fsize, Rlimit { current: None, maximum: None })
        .or_else(|_| setrlimit(Resource::Fsize, Rlimit { current: have.maximum, maximum: have.maximum }));
    match getrlimit(Resource::Fsize).current {
        Some(bytes) if bytes < LEAST_FILE_BYTES => Err(Refusal::new(
            format!(
                "a file may have {} KiB at most, and it needs {} MiB",
                bytes >> 10,
                LEAST_FILE_BYTES >> 20
            ),
            "raise the limit: `ulimit -f unlimited` before the command, or LimitFSIZE= of the service",
        )),
        _ => Ok(()),
    }
}

/// Raises the number of files that may be open, and looks whether it is enough.
///
/// # Errors
/// When so few may be open that nothing could be served.
pub fn raise_nofile() -> Result<(), Refusal> {
    let have = getrlimit(Resource::Nofile);
    let most = have.maximum.unwrap_or(WANTED_FILES).min(WANTED_FILES);
    let higher = Rlimit { current: Some(WANTED_FILES), maximum: Some(WANTED_FILES.max(most)) };
    // Root may raise the hard limit too, unless it lacks CAP_SYS_RESOURCE.
    if setrlimit(Resource::Nofile, higher).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: have.maximum });
    }
    let now = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if now < LEAST_FILES {
        return Err(Refusal::new(
            format!("only {now} files may be open at a time, and it needs {LEAST_FILES} at least"),
            "raise the limit: `ulimit -n 65536` before the command, or LimitNOFILE= of the service",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_named_as_container_engines_name_them() {
        assert_eq!(listed(&["SETUID", "MKNOD"]), "CAP_SETUID, CAP_MKNOD");
    }
}
