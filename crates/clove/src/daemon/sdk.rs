//! Where the Python library and the template's shared object lie.

use std::path::{Path, PathBuf};

/// Inside, the Python library is seen here.
pub const PYTHON_INSIDE: &str = "/opt/clove/python";
/// Inside, the shared object is seen here.
pub const LIBRARY_INSIDE: &str = "/opt/clove/lib/libclove_sys.so";

/// The two on the host.
#[derive(Clone, Debug)]
pub struct Sdk {
    /// The folder that holds `cloveos/`.
    pub python: PathBuf,
    /// `libclove_sys.so`.
    pub library: PathBuf,
    /// Its size and time of change when it was found.
    stamp: Option<(u64, std::time::SystemTime)>,
}

impl Sdk {
    /// Whether the library still is the one that belongs to this program: a rebuild or an upgrade puts another in its
    /// place, which speaks another language to this kernel's launcher.
    pub fn is_current(&self) -> bool {
        stamp(&self.library) == self.stamp
    }
}

fn stamp(path: &Path) -> Option<(u64, std::time::SystemTime)> {
    let m = std::fs::metadata(path).ok()?;
    Some((m.len(), m.modified().ok()?))
}

/// They couldn't be found; the text says where they were looked for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what} isn't to be found; looked in {looked}")]
pub struct NotFound {
    what: &'static str,
    looked: String,
}

/// The folder that holds the Python library: `CLOVE_SDK`, beside the program (an installed tree or a wheel), or the
/// source tree that it was built from.
///
/// # Errors
/// [`NotFound`] with the places.
pub fn python_folder() -> Result<PathBuf, NotFound> {
    let mut places = Vec::new();
    if let Some(p) = std::env::var_os("CLOVE_SDK") {
        places.push(PathBuf::from(p));
    }
    if let Some(dir) = program_folder() {
        // A wheel has the program at cloveos/bin/clove.
        places.push(dir.join("../.."));
        places.push(dir.join("../lib/clove/python"));
        places.push(dir.join("../../python"));
    }
    places.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python"));
    find("the Python library (cloveos/_template.py)", &places, |p| p.join("cloveos/_template.py").is_file())
}

/// Both parts.
///
/// # Errors
/// [`NotFound`] with the places.
pub fn find_sdk() -> Result<Sdk, NotFound> {
    let mut places = Vec::new();
    if let Some(dir) = program_folder() {
        places.push(dir.join("libclove_sys.so"));
        places.push(dir.join("../lib/clove/libclove_sys.so"));
        // `cargo test` puts test programs one folder deeper.
        places.push(dir.join("../libclove_sys.so"));
    }
    let library = find("libclove_sys.so", &places, |p| p.is_file())?;
    let stamp = stamp(&library);
    Ok(Sdk { python: python_folder()?, library, stamp })
}

fn program_folder() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.parent().map(Path::to_path_buf)
}

fn find(what: &'static str, places: &[PathBuf], good: impl Fn(&Path) -> bool) -> Result<PathBuf, NotFound> {
    for p in places {
        if good(p) {
            return Ok(p.canonicalize().unwrap_or_else(|_| p.clone()));
        }
    }
    let looked = places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ");
    Err(NotFound { what, looked })
}
