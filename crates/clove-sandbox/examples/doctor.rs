//! Prints what `clove doctor` will: `cargo run -p clove-sandbox --example doctor`, as root.

fn main() {
    let config = clove_sandbox::LauncherConfig { data_dir: "/nonexistent".into(), protected: vec![] };
    for f in clove_sandbox::probe::probe(&config) {
        let mark = if f.enforced { "enforced" } else { "MISSING " };
        println!("{mark} {:40} {}", f.name, f.how);
        if !f.remedy.is_empty() {
            println!("{:49} -> {}", "", f.remedy);
        }
    }
}
