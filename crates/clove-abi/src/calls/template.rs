//! Family `template`: the warm interpreters that agents are forked from.

use super::{args, reply};

args! {
    TemplateList {}
}

reply! {
    TemplateListReply { templates: Vec<TemplateInfo> }
    TemplateInfo {
        /// Short digest of what it is made from.
        id: String,
        python: String,
        preload: Vec<String>,
        script: Option<String>,
        /// `building`, `ready` or `failed`.
        state: String,
        pid: Option<u32>,
        rss_bytes: u64,
        embryos: u32,
        forked: u64,
        /// While it is being built, what it has begun last: `importing numpy`, `setup()`.
        doing: String,
        /// Since when it has been building, in milliseconds; 0 when it isn't.
        building_ms: u64,
    }
}
