//! Who is at the front door: an operator is a peer of the kernel's uid, in the kernel's own user and PID namespaces.
//!
//! A rootless agent has the operator's uid too, so the uid alone isn't enough. The namespaces are read through the
//! peer's pid while its pidfd (SO_PEERPIDFD, unix(7)) shows that the pid still is that process.

use std::os::fd::{AsFd, OwnedFd};

/// An operator.
pub struct Operator {
    pub uid: u32,
    pub pid: u32,
    /// Its command's name, as the host kernel tells it.
    pub command: String,
}

/// Checks the peer of a connected unix socket.
///
/// # Errors
/// A sentence that says why it isn't let in.
pub fn operator(socket: &OwnedFd, own_uid: u32) -> Result<Operator, String> {
    let cred = rustix::net::sockopt::socket_peercred(socket)
        .map_err(|e| format!("the caller's credentials can't be read: {e}"))?;
    let uid = cred.uid.as_raw();
    let pid = cred.pid.as_raw_nonzero().get() as u32;
    if uid != own_uid && uid != 0 {
        return Err(format!("this kernel belongs to uid {own_uid}, the caller is uid {uid}"));
    }
    let pidfd = clove_sys::peer::pidfd(socket.as_fd());
    for ns in ["user", "pid"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{ns}"));
        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/{ns}"));
        match (own, theirs) {
            (Ok(a), Ok(b)) if a == b => {}
            _ => {
                return Err(format!(
                    "the caller isn't in the kernel's {ns} namespace: an agent can't be an operator"
                ));
            }
        }
    }
    let command =
        std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
    // The pid was the peer's all the time, if the pidfd still names a living process now.
    match pidfd {
        Ok(fd) if clove_sys::peer::is_alive(fd.as_fd()) => Ok(Operator { uid, pid, command }),
        Ok(_) => Err("the caller ended while it was being checked".to_owned()),
        // Linux before 6.5 has no SO_PEERPIDFD; then the credentials and the namespaces have to do.
        Err(_) => Ok(Operator { uid, pid, command }),
    }
}
