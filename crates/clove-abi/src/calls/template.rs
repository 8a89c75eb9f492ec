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
    }
}
