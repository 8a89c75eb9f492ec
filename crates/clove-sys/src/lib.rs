//! The unsafe floor of CloveOS: namespaces, mounts, privileges, filters and descriptors, each behind a function that
//! can only be called rightly.
//!
//! Everything that runs between a clone and an exec (`stub`, `script`, `program`) works on data that was prepared
//! before the clone: it allocates nothing, logs nothing and takes no lock.

pub mod clone;
pub mod embryo;
pub mod fsuid;
pub mod inherit;
pub mod landlock;
pub mod launcher_fork;
pub mod loopback;
pub mod mounts;
pub mod nested;
pub mod peer;
pub mod privileges;
pub mod program;
pub mod reap;
pub mod report;
pub mod scm;
pub mod script;
pub mod seccomp;
pub mod signals;
pub mod stub;
pub mod template;
pub mod terminal;
