//! Files of agents and runs that the journal doesn't know.
//!
//! A loss of power may take the last records and leave files that were made on their account. Their ids are given out
//! again then, and the next agent's log would go on with another one's words, the next run's tasks begin with another
//! one's checkpoints. (The death of processes alone leaves none of this: records are written before anything is done.)

use std::path::Path;

/// Takes away the logs of agents that nobody knows, those of earlier kernels' templates too, and puts the folders of
/// unknown runs aside: what is in them may be all that somebody has. To be called before anything runs. Gives sentences
/// for the operator.
pub fn put_aside(
    data_dir: &Path,
    wall_ms: u64,
    knows_agent: impl Fn(&str) -> bool,
    knows_run: impl Fn(&str) -> bool,
) -> Vec<String> {
    for (name, path) in entries(&data_dir.join("logs")) {
        if name.strip_suffix(".log").is_some_and(|agent| agent.starts_with('a') && !knows_agent(agent)) {
            let _ = std::fs::remove_file(path);
        }
    }
    let mut notes = Vec::new();
    for (name, path) in entries(&data_dir.join("runs")) {
        let is_run = name.strip_prefix('r').is_some_and(|n| n.parse::<u64>().is_ok());
        if !is_run || knows_run(&name) {
            continue;
        }
        let aside = path.with_file_name(format!("{name}.unknown-{wall_ms}"));
        notes.push(match std::fs::rename(&path, &aside) {
            Ok(()) => format!(
                "the journal has no run {name}: its files were put aside, as {}; remove them if nobody misses them",
                aside.display()
            ),
            Err(e) => {
                format!("the journal has no run {name}, and {} can't be put aside: {e}", path.display())
            }
        });
    }
    notes
}

/// Names that are UTF-8, as all that the kernel makes are.
fn entries(folder: &Path) -> Vec<(String, std::path::PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|e| Some((e.file_name().into_string().ok()?, e.path()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unknown_go_and_the_known_stay() {
        let dir = tempfile::tempdir().expect("folder");
        let at = |path: &str| dir.path().join(path);
        for folder in ["logs", "runs/r1/out", "runs/r2/checkpoint/0", "runs/notes"] {
            std::fs::create_dir_all(at(folder)).expect("folder");
        }
        for file in
            ["logs/a1.1.log", "logs/a1.2.log", "logs/a1.0.log", "logs/other", "runs/r2/checkpoint/0/step"]
        {
            std::fs::write(at(file), "x").expect("file");
        }
        let notes = put_aside(dir.path(), 77, |a| a == "a1.1", |r| r == "r1");
        assert_eq!(notes.len(), 1, "{notes:?}");
        let there = [
            "logs/a1.1.log",
            "logs/other",
            "runs/r1/out",
            "runs/notes",
            "runs/r2.unknown-77/checkpoint/0/step",
        ];
        for path in there {
            assert!(at(path).exists(), "{path}");
        }
        for path in ["logs/a1.2.log", "logs/a1.0.log", "runs/r2"] {
            assert!(!at(path).exists(), "{path}");
        }
        // Once is enough.
        assert_eq!(put_aside(dir.path(), 78, |a| a == "a1.1", |r| r == "r1"), Vec::<String>::new());
    }

    #[test]
    fn a_new_data_directory_has_nothing_of_the_kind() {
        let dir = tempfile::tempdir().expect("folder");
        assert!(put_aside(dir.path(), 1, |_| false, |_| false).is_empty());
    }
}
