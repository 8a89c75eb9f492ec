//! The command line without a kernel: what it prints, where, and what it exits with.

use std::path::Path;
use std::process::{Command, Output};

struct Room {
    folder: tempfile::TempDir,
}

impl Room {
    /// A working folder and a data directory of its own; no kernel is ever started in it.
    fn new() -> Room {
        let folder = tempfile::tempdir().expect("tempdir");
        for (name, text) in [
            ("train.py", "def run(config, shared):\n    return 1\n"),
            ("plain.py", "print('x')\n"),
            ("notes", "x\n"),
            ("good.toml", "script = \"train.py\"\n[grid]\nlr = [0.1, 0.01]\n"),
            ("bad.toml", "script = \"train.py\"\n[grid]\nlr = 0.1\n"),
        ] {
            std::fs::write(folder.path().join(name), text).expect("write");
        }
        Room { folder }
    }

    fn clove(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_clove"))
            .args(args)
            .current_dir(self.folder.path())
            .env("CLOVE_HOME", self.folder.path().join("data"))
            .env("HOME", "/no/such/home")
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("NO_COLOR", "1")
            .stdin(std::process::Stdio::null())
            .output()
            .expect("start clove")
    }

    /// Status, and standard error with the room's path taken out. Nothing may stand on standard output.
    fn refusal(&self, args: &[&str]) -> (i32, String) {
        let out = self.clove(args);
        assert!(out.stdout.is_empty(), "{args:?} printed {}", String::from_utf8_lossy(&out.stdout));
        let text = String::from_utf8(out.stderr).expect("utf-8");
        let real = self.folder.path().canonicalize().expect("real");
        let text = text.replace(&format!("{}/", real.display()), "");
        (out.status.code().expect("no signal"), text)
    }
}

#[test]
fn wrong_command_lines_get_errors_that_a_new_user_can_act_on() {
    let room = Room::new();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["run", "-m", "512", "--", "true"], 2, &["`512` has no unit", "\"512m\""]),
        (&["run", "-m", "lots", "--", "true"], 2, &["not an amount of memory", "1.5g"]),
        (&["run", "--memroy", "1g", "true"], 2, &["`--memroy` is no flag", "did you mean --memory?"]),
        (&["run", "--pid=3", "true"], 2, &["did you mean --pids?"]),
        (&["run", "--cpus", "0", "true"], 2, &["0 CPUs can't be given"]),
        (&["run", "--pids", "1", "true"], 2, &["pids = 1 is out of range"]),
        (&["run", "--timeout", "10", "true"], 2, &["has no unit", "\"10s\" for seconds"]),
        (&["run"], 2, &["PROGRAM"]),
        (&["run", "no-such-program"], 127, &["no program `no-such-program` on your PATH"]),
        (&["run", "./none"], 127, &["there is no program none"]),
        (&["run", "./plain.py"], 126, &["isn't executable", "clove run --here -- python3 ./plain.py"]),
        (&["run", "plain.py"], 127, &["write ./plain.py"]),
        (&["run", "-v", "nowhere:/x", "true"], 125, &["there is no nowhere to mount", "mkdir -p"]),
        (&["run", "-v", "/usr:x", "true"], 2, &["`x`", "isn't an absolute path", "SRC:DST"]),
        (&["run", "-v", "/:/x", "true"], 125, &["/ can't be mounted (E0402)", "the whole machine"]),
        (&["run", "-w", "sub", "true"], 2, &["isn't absolute", "-w /work/sub"]),
        (&["run", "-e", "=x", "true"], 2, &["can't be the name of an environment variable"]),
        (&["run", "-e", "CLOVE_RUN=1", "true"], 2, &["names that begin with CLOVE_ are the kernel's"]),
        (&["run", "-it", "true"], 125, &["needs a terminal", "leave -t out"]),
        (&["run", "--profile", "lax", "true"], 2, &["default, strict"]),
        (&["kill", "-s", "BANANA", "x"], 2, &["not a signal", "TERM"]),
        (&["explain", "E9999"], 125, &["there is no error code `E9999`"]),
        (&["frobnicate"], 2, &["unrecognized subcommand"]),
        (&["kernel", "info"], 1, &["no kernel is running", "kernel socket --start"]),
        (&["sweep", "run", "tarin.py", "--grid", "a=1"], 125, &["no such file", "did you mean train.py?"]),
        (&["sweep", "run", "train.py"], 125, &["no configurations", "--grid lr=0.1,0.01"]),
        (&["sweep", "run", "plain.py", "--grid", "a=1"], 125, &["defines no `run`", "run(config, shared)"]),
        (&["sweep", "run", "notes", "--grid", "a=1"], 125, &["neither a sweep file", "chmod +x"]),
        (&["sweep", "run", "bad.toml"], 125, &["bad.toml:3:6: `lr` is a number", "write lr = [0.1]"]),
        (&["sweep", "run", "train.py", "--grid", "a"], 2, &["has no `=`"]),
        (&["sweep", "run", "train.py", "--grid", "a="], 2, &["no values"]),
        (&["sweep", "run", "train.py", "--random", "a=1..5"], 2, &["--samples 100"]),
        (&["sweep", "run", "train.py", "--random", "a=5..1", "--samples", "2"], 2, &["isn't a range"]),
        (&["sweep", "run", "train.py", "--list", "none.json"], 125, &["none.json: there is no such file"]),
        (&["sweep", "run", "good.toml", "--task-name", "{lrr}"], 125, &["no `lrr` (it has lr)"]),
        (&["sweep", "run", "good.toml", "--python", "/bin/false"], 125, &["doesn't answer as a Python"]),
        (&["sweep", "run", "good.toml", "--python", "./nowhere/python"], 125, &["there is no program"]),
        (&["sweep", "run", "good.toml", "--reuse", "0"], 2, &["0"]),
    ];
    let mut wrong = String::new();
    for (args, code, parts) in cases {
        let (status, text) = room.refusal(args);
        let missing: Vec<_> = parts.iter().filter(|p| !text.contains(**p)).collect();
        if status != *code || !missing.is_empty() || !text.starts_with("clove: ") {
            wrong.push_str(&format!("{args:?}: exit {status} (wanted {code}), lacks {missing:?}\n{text}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(!room.folder.path().join("data/kernel.log").exists(), "a kernel was started");
}

#[test]
fn a_folder_that_is_home_is_not_shown() {
    let room = Room::new();
    let out = Command::new(env!("CARGO_BIN_EXE_clove"))
        .args(["run", "--here", "true"])
        .current_dir(room.folder.path())
        .env("CLOVE_HOME", room.folder.path().join("data"))
        .env("HOME", room.folder.path())
        .output()
        .expect("start clove");
    assert_eq!(out.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&out.stderr).contains("it is your home folder"));
}

#[test]
fn data_goes_to_stdout_and_is_what_it_says() {
    let room = Room::new();
    let json = |args: &[&str]| -> serde_json::Value {
        let out = room.clove(args);
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).expect("json")
    };
    let table = json(&["syscalls", "--json"]);
    let ping = table.as_array().expect("list").iter().find(|s| s["id"] == "kernel.ping").expect("ping");
    assert!(ping["arguments"].is_object() && ping["reply"].is_object());
    assert!(json(&["explain", "--json"]).as_array().is_some_and(|a| a.iter().all(|c| c["id"].is_string())));
    assert_eq!(json(&["version", "--json"])["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json(&["kernel", "info", "--json"])["running"], false);
    let socket = String::from_utf8(room.clove(&["kernel", "socket"]).stdout).expect("path");
    assert!(Path::new(socket.trim()).is_absolute() && socket.ends_with("/k.sock\n"), "{socket}");
    assert!(room.clove(&["completions", "bash"]).stdout.len() > 1000);
    assert!(room.clove(&["stop"]).status.success());
}

#[test]
fn a_dry_run_says_what_would_be_run() {
    let room = Room::new();
    let out = room.clove(&[
        "sweep",
        "run",
        "good.toml",
        "--dry-run",
        "--grid",
        "depth=1,2",
        "-m",
        "256m",
        "-e",
        "A=1",
        "--seed",
        "5",
        "-j",
        "3",
    ]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let v: serde_json::Value = serde_json::from_slice(&out.stdout).expect("json");
    assert_eq!(v["tasks"].as_array().map(Vec::len), Some(4));
    assert_eq!(v["tasks"][1]["config"], serde_json::json!({"lr": 0.1, "depth": 2}));
    let spec = &v["spec"];
    assert_eq!((spec["seed"].as_u64(), spec["jobs"].as_u64()), (Some(5), Some(3)));
    assert_eq!(spec["limits"]["memory_bytes"], 256 << 20);
    assert_eq!(spec["env"]["A"], "1");
    assert_eq!(spec["env"]["HOME"], "/work");
    let here = room.folder.path().canonicalize().expect("real").display().to_string();
    assert_eq!(spec["cwd"], here.as_str());
    assert_eq!(spec["mounts"][0], serde_json::json!({"source": here, "target": here, "writable": false}));
    assert!(spec["program"]["warm"]["script"].as_str().is_some_and(|s| s.ends_with("/train.py")));
    assert_eq!(spec["attached"], false);
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let room = Room::new();
    let out = Command::new("sh")
        .args(["-c", "\"$0\" syscalls --json | head -c 1", env!("CARGO_BIN_EXE_clove")])
        .env("CLOVE_HOME", room.folder.path().join("data"))
        .output()
        .expect("sh");
    assert_eq!(out.stdout, b"[");
    assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
}
