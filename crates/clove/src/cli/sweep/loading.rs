//! What a sweep waits for before its first task: imports and setup, which may take long, or hang.

use crate::cli::session::Session;
use clove_abi::calls::{RunShowReply, TemplateList};
use clove_abi::run::Program;
use clove_manifest::units::Elapsed;

/// What a sweep's template is loading just now, and for how long: its own words for it, and both as one text.
pub struct Loading {
    pub doing: String,
    pub text: String,
}

/// Looks. None when its template is ready, or it has none; nothing is lost when it can't be asked for.
pub fn of(session: &mut Session, show: &RunShowReply) -> Option<Loading> {
    let Program::Warm(spec) = &show.spec.program else { return None };
    let building = session.call(&TemplateList {}).ok()?.templates.into_iter().find(|t| {
        t.state == "building"
            && (&t.script, &t.python, &t.preload) == (&spec.script, &spec.python, &spec.preload)
    })?;
    let doing = if building.doing.is_empty() { "starting Python".to_owned() } else { building.doing };
    let text = format!("{doing}, for {} so far", Elapsed(building.building_ms));
    Some(Loading { doing, text })
}
