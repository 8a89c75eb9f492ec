//! Templates and embryos for tests.

use super::{Rig, text};
use clove_sandbox::protocol::{CellPolicy, Event, Profile, Request};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

pub struct Warm {
    pub token: u64,
    pub asked: std::time::Instant,
    pub kernel: UnixStream,
    pub out: std::fs::File,
    pub err: std::fs::File,
}

/// A template whose embryos run `code`; `setup` runs in the template itself.
pub fn template(rig: &mut Rig, code: &str, setup: &str) -> (u64, std::fs::File) {
    template_under(rig, Profile::Default, code, setup)
}

/// As `template`, under this profile.
pub fn template_under(rig: &mut Rig, profile: Profile, code: &str, setup: &str) -> (u64, std::fs::File) {
    let (mut cell, python) = super::python_policy();
    cell.profile = profile;
    let token = rig.token();
    let log = tempfile::tempfile().unwrap();
    let argv = vec![
        python,
        "/opt/template_host.py".into(),
        "/opt/libclove_sys.so".into(),
        code.into(),
        setup.into(),
    ];
    rig.send(Request::Template { token, cell, argv }, &[log.as_fd(), log.as_fd()]);
    (token, log)
}

pub fn ready(rig: &mut Rig, code: &str, setup: &str) -> u64 {
    ready_under(rig, Profile::Default, code, setup)
}

/// As `ready`, under this profile.
pub fn ready_under(rig: &mut Rig, profile: Profile, code: &str, setup: &str) -> u64 {
    let (token, log) = template_under(rig, profile, code, setup);
    let (event, _) = rig.expect("template", |e| {
        matches!(e, Event::TemplateReady { token: t, .. } | Event::TemplateFailed { token: t, .. }
            | Event::SpawnFailed { token: t, .. } | Event::Exited { token: t, .. } if *t == token)
    });
    assert!(matches!(event, Event::TemplateReady { .. }), "{event:?}\n{}", text(log));
    token
}

pub fn embryo(rig: &mut Rig, template: u64) -> Warm {
    embryo_under(rig, Profile::Default, template)
}

/// As `embryo`, under this profile.
pub fn embryo_under(rig: &mut Rig, profile: Profile, template: u64) -> Warm {
    let (mut cell, _) = super::python_policy();
    cell.profile = profile;
    embryo_with(rig, cell, template)
}

/// As `embryo`, in a cell of the test's own.
pub fn embryo_with(rig: &mut Rig, cell: CellPolicy, template: u64) -> Warm {
    let token = rig.token();
    let (kernel, agents) = UnixStream::pair().unwrap();
    let (out, err) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let asked = std::time::Instant::now();
    rig.send(Request::Embryo { token, template, cell }, &[agents.as_fd(), out.as_fd(), err.as_fd()]);
    Warm { token, asked, kernel, out, err }
}

pub fn started(rig: &mut Rig, token: u64) -> Event {
    rig.expect("embryo", |e| {
        matches!(e, Event::Started { token: t, .. } | Event::SpawnFailed { token: t, .. }
            | Event::Exited { token: t, .. } if *t == token)
    })
    .0
}

impl Warm {
    /// Waits until it is verified, lets it go, and waits for its end: (event, stdout, stderr).
    pub fn finish(mut self, rig: &mut Rig) -> (Event, String, String) {
        let event = started(rig, self.token);
        if !matches!(event, Event::Started { .. }) {
            return (event, text(self.out), text(self.err));
        }
        self.kernel.write_all(b"g").unwrap();
        let end = rig.expect_end(self.token);
        (end, text(self.out), text(self.err))
    }
}
