//! The plan of a plain policy, and everything that is refused.

use crate::protocol::{CellPolicy, Profile};
use clove_abi::Limits;

pub(crate) fn policy() -> CellPolicy {
    CellPolicy {
        label: "a1-1".into(),
        limits: Limits {
            memory_bytes: 512 << 20,
            memory_reserve_bytes: 512 << 20,
            cpu_milli: 0,
            cpu_weight: 100,
            pids: 64,
            disk_bytes: 64 << 20,
            nofile: 1024,
            wall_ms: 0,
            output_bytes: 1 << 20,
        },
        mounts: Vec::new(),
        env: vec![("PATH".into(), "/usr/bin:/bin".into())],
        cwd: "/work".into(),
        profile: Profile::Default,
        tty: None,
        files: Vec::new(),
        operator_uid: 0,
        operator_gid: 0,
        allow_degraded: false,
    }
}
