//! A corpus of wrong sweep files: each gets the error beside it (`NAME.toml`, `NAME.expected`).
//!
//! `CLOVE_UPDATE=1 cargo test -p clove-manifest --test wrong_files` writes what comes; then read the difference.

use clove_manifest::source;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder with the corpus; scripts that the files name lie in it too.
fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wrong")
}

fn error_of(file: &Path) -> String {
    let swept = source::read_sweep(file).and_then(|s| s.tasks().map(|t| t.len()));
    let text = match swept {
        Ok(n) => format!("(no error: {n} tasks)"),
        Err(e) => e.to_string(),
    };
    let folder = corpus().display().to_string();
    text.replace(&format!("{folder}/"), "").replace(&folder, "FOLDER")
}

#[test]
fn every_wrong_file_gets_its_error() {
    let mut files: Vec<PathBuf> = fs::read_dir(corpus())
        .expect("corpus")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml"))
        .collect();
    files.sort();
    assert!(files.len() >= 30, "{} files", files.len());
    let update = std::env::var_os("CLOVE_UPDATE").is_some();
    let mut wrong = String::new();
    for file in files {
        let got = error_of(&file) + "\n";
        let expected = file.with_extension("expected");
        if update {
            fs::write(&expected, &got).expect("write");
        } else {
            let want = fs::read_to_string(&expected).unwrap_or_default();
            if got != want {
                wrong.push_str(&format!("--- {} wants\n{want}+++ but gets\n{got}\n", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let t = tempfile::tempdir().expect("tempdir");
    let error = |name: &str| source::read_sweep(&t.path().join(name)).expect_err(name).to_string();
    fs::write(t.path().join("sweep.toml"), "").expect("write");
    assert!(error("swep.toml").contains("did you mean"), "{}", error("swep.toml"));
    assert!(error("nothing-like-it").ends_with("there is no such file"));
    fs::create_dir(t.path().join("d.toml")).expect("mkdir");
    assert!(error("d.toml").contains("it is a folder"));
    fs::write(t.path().join("latin.toml"), b"name = \"caf\xe9\"\n").expect("write");
    let e = error("latin.toml");
    assert!(e.contains(":1:12: it isn't UTF-8 text: byte 0xe9 at offset 11") && e.contains("iconv"), "{e}");
    std::os::unix::fs::symlink("loop.toml", t.path().join("loop.toml")).expect("symlink");
    let e = error("loop.toml");
    assert!(e.ends_with("it can't be read: too many levels of symbolic links"), "{e}");
    std::os::unix::fs::symlink("/dev/zero", t.path().join("zero.toml")).expect("symlink");
    assert!(error("zero.toml").contains("it is larger than 64 MiB"), "{}", error("zero.toml"));
    fs::write(t.path().join("bom.toml"), "\u{feff}script = \"x\"\n").expect("write");
    assert!(error("bom.toml").contains("there is no script"), "{}", error("bom.toml"));
}

/// Opening one of these would wait, or never end.
#[test]
fn a_script_is_a_file() {
    let t = tempfile::tempdir().expect("tempdir");
    let refused = |script: &str| {
        fs::write(t.path().join("s.toml"), format!("script = \"{script}\"\ngrid = {{ a = [1] }}\n"))
            .expect("write");
        source::read_sweep(&t.path().join("s.toml")).expect_err(script).to_string()
    };
    let pipe = t.path().join("pipe.py");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let e = refused("pipe.py");
    assert!(e.contains("s.toml:1:10: the script") && e.contains("is a pipe, a socket or a device"), "{e}");
    std::os::unix::fs::symlink("/dev/zero", t.path().join("zero.py")).expect("symlink");
    assert!(refused("zero.py").contains("is a pipe, a socket or a device"), "{}", refused("zero.py"));
    fs::File::create(t.path().join("huge.py")).and_then(|f| f.set_len(65 << 20)).expect("grow");
    assert!(refused("huge.py").contains("can't be read: it is larger than 64 MiB"), "{}", refused("huge.py"));
}

#[test]
fn a_sweep_is_named_after_its_file_as_far_as_that_can_be_a_name() {
    let name = |file: &str| clove_manifest::sweep::name_of_file(Path::new(file));
    assert_eq!(name("/a/b/sweep.toml"), "sweep");
    assert_eq!(name("a\u{1b}[31m.toml"), "a_[31m");
    let long = name(&format!("{}.toml", "ä".repeat(150)));
    assert_eq!((long.len(), long.chars().count()), (200, 100));
}

#[test]
fn a_right_file_says_everything() {
    let t = tempfile::tempdir().expect("tempdir");
    fs::write(t.path().join("train.py"), "def run(config, shared): pass\n").expect("write");
    fs::create_dir(t.path().join("data")).expect("mkdir");
    let text = r#"
name = "demo"
script = "train.py"
jobs = 4
seed = 7
priority = 2
reuse = 3
on_oom = "double"
profile = "strict"
task_name = "{model}-{depth}-{index}"
expected_s = "depth"
notify = "true"
mounts = ["data:/data"]

[grid]
model = ["SVM", "RF"]
depth = [1, 2.5]

[random]
samples = 3
[random.params]
lr = { min = 1e-4, max = 1e-1, scale = "log" }
k = { int = [1, 9] }
opt = { choice = ["a", "b"] }

[limits]
memory = "512m"
cpus = 0.5
pids = 64
disk = "1g"
nofile = 256
timeout = "1h30m"
output = "1m"

[retry]
deaths = 3
failures = 1
backoff = "1s"
backoff_max = "1m"

[env]
OMP_NUM_THREADS = 1

[template]
preload = ["json"]
setup = "train:setup"
timeout = "30m"
"#;
    let file = t.path().join("sweep.toml");
    fs::write(&file, text).expect("write");
    let sweep = source::read_sweep(&file).expect("right");
    let tasks = sweep.tasks().expect("tasks");
    assert_eq!(tasks.len(), 2 * 2 * 3);
    assert_eq!(tasks[0].name, "SVM-1-0");
    assert_eq!((tasks[0].expected_ms, tasks[11].expected_ms), (Some(1000), Some(2500)));
    assert_eq!(tasks, sweep.tasks().expect("again"));
    assert_eq!((sweep.limits.wall_ms, sweep.load_ms), (Some(5_400_000), Some(1_800_000)));
    assert_eq!(sweep.env["OMP_NUM_THREADS"], "1");
    assert_eq!(sweep.mounts[0].value.source, t.path().join("data").display().to_string());
    assert_eq!(sweep.retry.backoff_max_ms, 60_000);
    assert_eq!(sweep.profile, clove_abi::run::Profile::Strict);
}

/// Any part of a right file replaced by anything: an error or a sweep, never a panic; and an error has its place.
mod damaged {
    use clove_manifest::sweep_file;
    use proptest::prelude::*;

    const RIGHT: &str = "name = \"x\"\nscript = \"t.py\"\njobs = 2\ntask_name = \"{a}\"\n[grid]\na = [1, 2.5, true, \"s\"]\n\
        [random]\nsamples = 2\nparams = { r = { min = 0.1, max = 1, scale = \"log\" }, k = { int = [1, 3] } }\n\
        [limits]\nmemory = \"1g\"\ncpus = 0.5\ntimeout = \"1h\"\n[retry]\ndeaths = 1\nbackoff = \"1s\"\n[env]\nA = \"1\"\n\
        [[mounts]]\nsource = \"/x\"\n[template]\npreload = [\"m\"]\nsetup = \"m:f\"\n";

    #[test]
    fn the_right_one_is_right() {
        let sweep = sweep_file::parse(RIGHT, "f").expect("right");
        assert_eq!(sweep.axes.count(), Some(8));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn nothing_panics(from in 0usize..420, len in 0usize..30, put in "[\\[\\]{}=\"',.:0-9a-z \n-]{0,8}") {
            let from = from.min(RIGHT.len());
            let to = (from + len).min(RIGHT.len());
            let text = format!("{}{put}{}", &RIGHT[..from], &RIGHT[to..]);
            match sweep_file::parse(&text, "f") {
                Ok(sweep) => {
                    if let Ok(tasks) = sweep.tasks() {
                        prop_assert_eq!(Some(tasks.len()), sweep.axes.count());
                    }
                }
                Err(e) => prop_assert!(!e.what.is_empty()),
            }
        }

        #[test]
        fn any_text_at_all(text in ".{0,200}") {
            let _ = sweep_file::parse(&text, "f");
        }
    }
}

#[test]
fn a_template_may_have_a_name() {
    let t = tempfile::tempdir().expect("tempdir");
    fs::write(t.path().join("s.py"), "def run(config, shared): return 1\n").expect("write");
    let file = t.path().join("a.toml");
    let named = "script = \"s.py\"\ngrid = { a = [1] }\n[template.chem]\npython = \"/usr/bin/python3\"\npreload = [\"json\"]\nsetup = \"m:f\"\n";
    fs::write(&file, named).expect("write");
    let one = source::read_sweep(&file).expect("one named template");
    assert_eq!((one.preload, one.setup.as_deref()), (vec!["json".to_owned()], Some("m:f")));
    assert_eq!(one.python.map(|p| p.value).as_deref(), Some("/usr/bin/python3"));
    fs::write(&file, format!("from_template = \"other\"\n{named}[template.other]\npreload = [\"csv\"]\n"))
        .expect("write");
    let chosen = source::read_sweep(&file).expect("one of two");
    assert_eq!((chosen.preload, chosen.setup), (vec!["csv".to_owned()], None));
}
