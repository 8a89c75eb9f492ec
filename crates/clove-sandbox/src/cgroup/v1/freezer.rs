//! v1 freezer. A frozen task doesn't die of SIGKILL before it is thawed.

use crate::cgroup::{CgroupError, files};
use std::path::Path;

pub fn set(group: &Path, frozen: bool) -> Result<(), CgroupError> {
    files::write(&group.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
}
