//! Attached commands against a real kernel: streams, exit codes, last words, sweeps. Needs root, or what `clove doctor`
//! asks for.

use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A kernel's data directory with a working folder beside it; the kernel ends with it.
struct House {
    folder: tempfile::TempDir,
}

struct Said {
    code: i32,
    out: String,
    err: String,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(folder.path().join("work")).expect("mkdir");
        std::fs::create_dir(folder.path().join("run")).expect("mkdir");
        House { folder }
    }

    fn work(&self) -> std::path::PathBuf {
        self.folder.path().canonicalize().expect("real").join("work")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.work().join(name), text).expect("write");
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_clove"));
        c.args(args)
            .current_dir(self.work())
            .env("CLOVE_HOME", self.folder.path().join("data"))
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .env("CLOVE_IDLE_TIMEOUT", "30s")
            .env("TERM", "dumb")
            .stdin(Stdio::null());
        c
    }

    fn clove(&self, args: &[&str]) -> Said {
        said(&self.command(args).output().expect("start clove"))
    }

    /// Within five seconds, so many agents live.
    fn comes_to(&self, n: usize) -> bool {
        (0..200).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(25));
            self.json(&["ps", "--json"]).as_array().map(Vec::len) == Some(n)
        })
    }

    fn json(&self, args: &[&str]) -> Value {
        let s = self.clove(args);
        assert_eq!(s.code, 0, "{args:?}: {}", s.err);
        serde_json::from_str(&s.out).expect("json")
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.command(&["stop", "--force"]).output();
    }
}

fn said(o: &Output) -> Said {
    Said {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&o.stdout).into_owned(),
        err: String::from_utf8_lossy(&o.stderr).into_owned(),
    }
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn a_command_ends_as_its_program_does() {
    let house = House::new();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["run", "--", "true"], 0, ""),
        (&["run", "--", "sh", "-c", "exit 3"], 3, ""),
        (&["run", "--", "sh", "-c", "kill -SEGV $$"], 139, "clove: signal: "),
        (&["run", "--timeout", "300ms", "--", "sleep", "30"], 124, "clove: timeout: "),
        (
            &["run", "-m", "32m", "--", "sh", "-c", "x=0123456789abcdef; while :; do x=$x$x; done"],
            137,
            "clove: oom: ",
        ),
        (&["run", "-m", "900t", "--", "true"], 125, "  try: "),
    ];
    for (args, code, last) in cases {
        let s = house.clove(args);
        assert_eq!(s.code, *code, "{args:?}: {}", s.err);
        assert!(last_line(&s.err).starts_with(last), "{args:?}: {}", s.err);
        assert!(!last.is_empty() || s.err.is_empty(), "{args:?}: {}", s.err);
    }
}

#[test]
fn streams_are_joined_byte_by_byte() {
    let house = House::new();
    let s = house.clove(&["run", "--", "sh", "-c", "printf 'a\\0\\377'; printf e >&2"]);
    assert_eq!((s.code, s.err.as_str()), (0, "e"));
    let raw = house.command(&["run", "--", "sh", "-c", "printf 'a\\0\\377'"]).output().expect("start");
    assert_eq!(raw.stdout, b"a\0\xff");

    let bytes: Vec<u8> = (0..1_500_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut child = house
        .command(&["run", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start");
    let mut stdin = child.stdin.take().expect("stdin");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let out = child.wait_with_output().expect("wait");
    writer.join().expect("writer").expect("written");
    assert_eq!(out.stdout.len(), bytes.len());
    assert!(out.stdout == bytes, "what came back differs");

    // A reader that leaves takes the program along.
    let script = "\"$0\" run -- yes | head -1";
    let o = house
        .command(&[])
        .get_envs()
        .fold(Command::new("timeout"), |mut c, (k, v)| {
            if let Some(v) = v {
                c.env(k, v);
            }
            c
        })
        .args(["20", "sh", "-c", script, env!("CARGO_BIN_EXE_clove")])
        .current_dir(house.work())
        .stdin(Stdio::null())
        .output()
        .expect("sh");
    assert_eq!(o.stdout, b"y\n");
    assert!(house.comes_to(0), "it outlived its reader");
}

#[test]
fn the_flag_that_would_help_is_named_and_helps() {
    let house = House::new();
    house.write("train.py", "import sys; print('trained', sys.argv[1:])\n");
    let s = house.clove(&["run", "--", "python3", "train.py"]);
    assert_ne!(s.code, 0);
    assert!(s.err.contains("add --here"), "{}", s.err);
    let s = house.clove(&["run", "--here", "python3", "train.py", "-m", "x"]);
    assert_eq!((s.code, s.out.as_str()), (0, "trained ['-m', 'x']\n"), "{}", s.err);
    let data = house.folder.path().canonicalize().expect("real").join("elsewhere");
    std::fs::create_dir(&data).expect("mkdir");
    std::fs::write(data.join("x.csv"), "5\n").expect("write");
    let file = data.join("x.csv").display().to_string();
    let s = house.clove(&["run", "--", "cat", &file]);
    let flag = format!("-v {0}:{0}", data.display());
    assert!(s.code == 1 && s.err.contains(&flag), "{}", s.err);
    let mount = format!("{}:/d", data.display());
    let s = house.clove(&["run", "-v", &mount, "--", "sh", "-c", "cat /d/x.csv; echo 6 > /d/x.csv"]);
    assert!(s.out == "5\n" && s.err.contains(&format!("-v {mount}:rw")), "{}", s.err);
}

#[test]
fn nothing_of_the_callers_environment_is_seen() {
    let house = House::new();
    let o = house
        .command(&["run", "-e", "A=1", "-e", "B", "--", "env"])
        .env("B", "2")
        .env("SECRET", "3")
        .output()
        .expect("run");
    let s = said(&o);
    let names: Vec<&str> =
        s.out.lines().filter_map(|l| l.split('=').next()).filter(|n| !n.starts_with("CLOVE_")).collect();
    for name in ["A", "B", "HOME", "LANG", "PATH", "USER"] {
        assert!(names.contains(&name), "{name} is missing: {names:?}");
    }
    assert!(!s.out.contains("SECRET"), "{}", s.out);
}

#[test]
fn detached_agents_are_listed_waited_for_and_killed() {
    let house = House::new();
    let id = house.clove(&["run", "-d", "--name", "sleeper", "--", "sleep", "60"]).out.trim().to_owned();
    let listed = house.json(&["ps", "--json"]);
    assert_eq!((listed[0]["id"].as_str(), listed[0]["name"].as_str()), (Some(id.as_str()), Some("sleeper")));
    let s = house.clove(&["wait", "sleeper", "--timeout", "50ms"]);
    assert!(s.code == 125 && s.err.contains("still running"), "{}", s.err);
    assert_eq!(house.clove(&["stop"]).code, 125);
    assert_eq!(house.clove(&["kill", "sleeper"]).code, 0);
    let s = house.clove(&["wait", "sleeper"]);
    assert!(s.code == 137 && s.err.starts_with("clove: killed: "), "{}", s.err);
    assert_eq!(house.json(&["inspect", "sleeper", "--json"])["certificate"]["cause"], "killed");
    // An attached one goes with its command, however that ends.
    let mut child =
        house.command(&["run", "--", "sleep", "60"]).stderr(Stdio::null()).spawn().expect("start");
    assert!(house.comes_to(1), "it didn't start");
    child.kill().expect("kill -9");
    child.wait().expect("wait");
    assert!(house.comes_to(0), "it outlived its command");
    assert_eq!(house.clove(&["stop"]).code, 0);
    assert_eq!(house.clove(&["kernel", "info"]).code, 1);
}

#[test]
fn a_sweep_of_a_script_gives_results_of_every_kind() {
    let house = House::new();
    house.write(
        "trial.py",
        "import os\n\
         def setup():\n    return 10\n\
         def run(config, shared):\n    n = config['n']\n\
         \x20   if n == 1: os.kill(os.getpid(), 11)\n\
         \x20   if n == 2: raise ValueError('two is bad')\n\
         \x20   if n == 3: return {'v': float('nan')}\n\
         \x20   open(os.environ['CLOVE_OUT'] + '/o.txt', 'w').write(str(n))\n\
         \x20   return {'v': n * shared}\n",
    );
    let s =
        house.clove(&["sweep", "run", "trial.py", "--grid", "n=0,1,2,3,4", "--retry-deaths", "0", "--json"]);
    assert_eq!(s.code, 1, "{}", s.err);
    let show: Value = serde_json::from_str(&s.out).expect("json");
    assert_eq!((show["total"].as_u64(), show["done"].as_u64()), (Some(5), Some(3)), "{show}");
    assert!(s.err.contains("#1 died") && s.err.contains("#2 failed: ValueError: two is bad"), "{}", s.err);
    assert!(s.err.contains("limits of each task: memory "), "{}", s.err);
    let csv = house.clove(&["sweep", "results", "last", "--csv"]).out;
    assert!(
        csv.starts_with("id,index,name,state,attempts,seconds,config.n,result.v,cause,message\n"),
        "{csv}"
    );
    assert!(csv.contains(",3,nan,,\n") && csv.contains(",4,40,,\n"), "{csv}");
    let results = house.json(&["sweep", "results", "last", "--json"]);
    assert_eq!(results[3]["result"]["v"], serde_json::json!({"$float": "nan"}));
    assert_eq!(house.json(&["sweep", "inspect", "last", "2", "--json"])["exception"]["class"], "ValueError");
    let dest = house.work().join("kept");
    assert_eq!(house.clove(&["sweep", "artifacts", "last", &dest.display().to_string()]).code, 0);
    assert_eq!(std::fs::read_to_string(dest.join("4/o.txt")).expect("kept"), "4");
    assert!(!Path::new(&dest.join("1/o.txt")).exists());
}

#[test]
fn a_sweep_goes_on_after_its_command_is_gone() {
    let house = House::new();
    house.write(
        "slow.py",
        "import time\ndef run(config, shared):\n    time.sleep(0.1)\n    return config['n']\n",
    );
    let mut child = house
        .command(&["sweep", "run", "slow.py", "--grid", "n=0,1,2,3,4,5,6,7,8,9"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    let running = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(25));
        house.json(&["sweep", "ls", "--json"])[0]["running"].as_u64() > Some(0)
    });
    assert!(running, "it didn't start");
    child.kill().expect("kill -9");
    child.wait().expect("wait");
    let s = house.clove(&["sweep", "attach", "last"]);
    assert!(s.code == 0 && s.out.contains("10 of 10 done"), "{} {}", s.out, s.err);
}
