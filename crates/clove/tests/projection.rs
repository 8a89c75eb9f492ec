//! `state.db` beside a real kernel. Needs root, or what `clove doctor` asks for.

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use std::path::PathBuf;
use std::process::{Command, Stdio};

struct House {
    folder: tempfile::TempDir,
}

impl House {
    fn new() -> House {
        let folder = tempfile::tempdir().expect("tempdir");
        for name in ["work", "run"] {
            std::fs::create_dir(folder.path().join(name)).expect("mkdir");
        }
        House { folder }
    }

    fn state_db(&self) -> PathBuf {
        self.folder.path().join("data/state.db")
    }

    fn clove(&self, args: &[&str]) -> (i32, String) {
        let o = Command::new(env!("CARGO_BIN_EXE_clove"))
            .args(args)
            .current_dir(self.folder.path().canonicalize().expect("real").join("work"))
            .env("CLOVE_HOME", self.folder.path().join("data"))
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .env("CLOVE_IDLE_TIMEOUT", "30s")
            .env("TERM", "dumb")
            .stdin(Stdio::null())
            .output()
            .expect("start clove");
        (o.status.code().unwrap_or(-1), String::from_utf8_lossy(&o.stderr).into_owned())
    }

    /// Starts a kernel, if none runs, and ends it.
    fn stop(&self) {
        let (code, err) = self.clove(&["run", "--rm", "--", "true"]);
        assert_eq!(code, 0, "{err}");
        let (code, err) = self.clove(&["stop"]);
        assert_eq!(code, 0, "{err}");
    }

    fn ask(&self, sql: &str) -> Vec<Vec<Value>> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = Connection::open_with_flags(self.state_db(), flags).expect("state.db opens");
        let mut s = db.prepare(sql).expect("sql");
        let columns = s.column_count();
        let rows = s.query_map([], |r| (0..columns).map(|i| r.get(i)).collect()).expect("query");
        rows.collect::<Result<_, _>>().expect("rows")
    }

    /// What is told of run 1, and how many records were there then.
    fn told(&self) -> Vec<Vec<Vec<Value>>> {
        [
            "SELECT * FROM runs WHERE run = 1",
            "SELECT * FROM tasks WHERE run = 1 ORDER BY task",
            "SELECT * FROM results WHERE run = 1 ORDER BY task",
            "SELECT * FROM attempts WHERE run = 1",
            "SELECT * FROM agents WHERE run = 1 ORDER BY agent",
            "SELECT * FROM audit WHERE seq <= 10 ORDER BY seq",
        ]
        .iter()
        .map(|sql| self.ask(sql))
        .collect()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.clove(&["stop", "--force"]);
    }
}

fn text(s: &str) -> Value {
    Value::Text(s.to_owned())
}

#[test]
fn a_sweep_can_be_asked_for_in_sql_also_after_the_file_was_deleted() {
    let house = House::new();
    std::fs::write(
        house.folder.path().join("work/trial.py"),
        "import os\n\
         def run(config, shared):\n\
         \x20   if config['n'] == 1: os.kill(os.getpid(), 11)\n\
         \x20   if config['n'] == 2: raise ValueError('two is bad')\n\
         \x20   return {'v': config['n'] * 10}\n",
    )
    .expect("write");
    let args = ["sweep", "run", "trial.py", "--grid", "n=0,1,2,3", "--retry-deaths", "0", "--jobs", "2"];
    let (code, err) = house.clove(&args);
    assert_eq!(code, 1, "{err}");
    house.stop();

    let got = house.ask("SELECT name, kind, state, done, failed, quarantined FROM run_summary");
    assert_eq!(got.len(), 1);
    assert_eq!(got[0][1..3], [text("sweep"), text("finished")]);
    assert_eq!(got[0][3..], [Value::Integer(2), Value::Integer(1), Value::Integer(1)]);
    let got = house.ask("SELECT config ->> '$.n', result ->> '$.v' FROM results WHERE state = 'done'");
    assert_eq!(
        got,
        [[0, 0].map(Value::Integer).to_vec(), [3, 30].map(Value::Integer).to_vec()],
        "configurations and results"
    );
    let got = house.ask("SELECT exception_class FROM results WHERE state = 'failed'");
    assert_eq!(got, [[text("ValueError")]]);
    let got = house.ask("SELECT task, cause, signal, certificate ->> '$.cause' FROM attempts");
    assert_eq!(got, [[Value::Integer(1), text("signal"), Value::Integer(11), text("signal")]]);
    let got =
        house.ask("SELECT count(*) FROM agents WHERE run = 1 AND state = 'ended' AND certificate != ''");
    assert_eq!(got, [[Value::Integer(4)]]);
    // No record is missing, up to the last one.
    let all = "SELECT count(*) = max(seq) AND max(seq) = (SELECT applied_seq FROM projection) FROM audit";
    assert_eq!(house.ask(all), [[Value::Integer(1)]]);
    assert_eq!(house.ask("SELECT count(*) FROM audit WHERE kind IN ('', 'unknown')"), [[Value::Integer(0)]]);

    let before = house.told();
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(house.state_db().with_file_name(format!("state.db{suffix}")));
    }
    house.stop();
    assert_eq!(house.told(), before);
    assert_eq!(house.ask(all), [[Value::Integer(1)]]);
    // And once more with what is there.
    house.stop();
    assert_eq!(house.told(), before);
    assert_eq!(house.ask(all), [[Value::Integer(1)]]);
    let log = std::fs::read_to_string(house.folder.path().join("data/kernel.log")).unwrap_or_default();
    assert!(!log.contains("state.db"), "{log}");
}

#[test]
fn a_kernel_runs_without_a_store() {
    let house = House::new();
    std::fs::create_dir_all(house.folder.path().join("data")).expect("mkdir");
    let db = Connection::open(house.state_db()).expect("open");
    db.execute_batch("CREATE TABLE theirs (x)").expect("create");
    drop(db);
    house.stop();
    assert_eq!(house.ask("SELECT count(*) FROM theirs"), [[Value::Integer(0)]]);
    let log = std::fs::read_to_string(house.folder.path().join("data/kernel.log")).expect("kernel.log");
    let lines: Vec<&str> = log.lines().filter(|l| l.contains("state.db")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("another program"), "{log}");
}
