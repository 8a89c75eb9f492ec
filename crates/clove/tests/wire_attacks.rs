//! Attacks on the wire, at the operators' door and at an agent's, against a real kernel: whoever misbehaves gets an
//! error and at most loses its connection, a bystander gets every answer, and the books agree afterwards. Needs root,
//! or what `clove doctor` asks for.

mod wire;

use clove_abi::frame::{FLAG_ERROR, FLAG_REPLY, HEADER_LEN, Header, MAX_BODY, MAX_TAIL, encode};
use clove_abi::table::{From, Sysno, TABLE};
use rustix::fs::{MemfdFlags, SealFlags};
use serde_json::{Value, json};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use wire::rows::{self, Case};
use wire::*;

const MIB: u64 = 1 << 20;
/// An id that nothing has, which is a name that nothing has, too.
const NOTHING: &str = "r4000000000";

/// What is done inside a sandbox: the other tests start this very program there and name the attack.
#[test]
fn inside() {
    let socket = std::env::var("CLOVE_SOCKET").unwrap_or_default();
    let socket = Path::new(&socket);
    match std::env::var("WIRE_ATTACK").as_deref() {
        Ok("frames") => {
            headers_that_are_none(socket);
            cut_off_everywhere(socket);
            wrong_arguments(socket, true);
        }
        Ok("flood") => flood_for_ever(socket),
        Ok("lingering") => lingering_sockets(socket),
        Ok("descriptors") => thousands_of_descriptors(socket),
        Ok("unread-blobs") => unread_blobs(socket),
        Ok("bystander") => ping_until_told(),
        Ok("doors") => too_many_at_an_agents_door(socket),
        Ok(other) => panic!("no attack is named {other}"),
        Err(_) => {}
    }
}

// --- frames that are none

#[test]
fn what_is_no_frame_costs_its_sender_the_connection() {
    let house = House::new();
    let fds = house.fds();
    with_bystander(&house, "bad headers", || headers_that_are_none(&house.socket));
    with_bystander(&house, "cut off", || cut_off_everywhere(&house.socket));
    house.fds_come_to(fds + 1);
    house.check();
}

/// Every version, flag, padding and number of descriptors, and lengths beyond the bounds.
fn headers_that_are_none(socket: &Path) {
    let good = || {
        let h = Header { body_len: 2, tail_len: 0, flags: 0, number: PING, fds: 0, correlation: 7 };
        let mut b = h.encode().to_vec();
        b.extend(b"{}");
        b
    };
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut with = |what: String, at: usize, bytes: &[u8]| {
        let mut b = good();
        b[at..at + bytes.len()].copy_from_slice(bytes);
        all.push((what, b));
    };
    for v in (0..=255u8).filter(|v| *v != clove_abi::ABI_VERSION) {
        with(format!("version {v}"), 8, &[v]);
    }
    for flags in 1..=255u8 {
        with(format!("flags {flags}"), 9, &[flags]);
    }
    for fds in 1..=255u8 {
        with(format!("{fds} descriptors that didn't come"), 12, &[fds]);
    }
    for at in 13..16 {
        for byte in [1u8, 0x80, 0xff] {
            with(format!("padding {byte} at {at}"), at, &[byte]);
        }
    }
    for (at, most) in [(0, MAX_BODY), (4, MAX_TAIL)] {
        for n in [most as u32 + 1, 1 << 27, 1 << 30, i32::MAX as u32, u32::MAX - 1, u32::MAX] {
            with(format!("length {n} at {at}"), at, &n.to_le_bytes());
        }
    }
    all.push(("text".into(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()));
    all.push(("all ones".into(), vec![0xff; 4_096]));
    for (what, bytes) in all {
        let mut c = Raw::to(socket);
        // What follows isn't read as a frame any more.
        c.send(&bytes);
        c.send(&good());
        let a = c.receive().unwrap_or_else(|| panic!("{what}: no answer"));
        // Descriptors that a row doesn't take have a code of their own; both end the connection.
        assert!(matches!(a.code(), Some("E0101" | "E0105")), "{what}: {a:?}");
        assert!(c.is_closed(), "{what}");
    }
}

/// A frame that ends after each of its bytes, by half and by whole closing.
fn cut_off_everywhere(socket: &Path) {
    let frame = encode(HELLO, 0, 3, br#"{"client":"cut off"}"#, &[]);
    for n in 0..frame.len() {
        let mut c = Raw::to(socket);
        c.send(&frame[..n]);
        c.stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
        if let Some(a) = c.receive() {
            assert_eq!(a.code(), Some("E0101"), "after {n} bytes: {a:?}");
        } else {
            assert_eq!(n, 0, "cut off after {n} bytes, and not told");
        }
        assert!(c.is_closed());
        Raw::to(socket).send(&frame[..n]);
    }
    // Byte by byte, and all at once, it is the same frame.
    let mut c = Raw::to(socket);
    for b in &frame {
        c.send(&[*b]);
    }
    assert_eq!(c.receive().expect("an answer").code(), None);
    // Every declared length that is wrong by what follows it: the next header is read from the wrong place.
    for n in 0..64u32 {
        let mut c = Raw::to(socket);
        let h = Header { body_len: n, tail_len: 0, flags: 0, number: PING, fds: 0, correlation: 5 };
        c.send(&h.encode());
        c.send(&vec![b' '; n as usize]);
        let a = c.receive().expect("an answer");
        assert!(matches!(a.code(), None | Some("E0103")), "{n}: {a:?}");
        assert!(c.is_usable(), "{n}");
    }
}

#[test]
fn numbers_that_no_row_has_are_told_so() {
    let house = House::new();
    with_bystander(&house, "all numbers", || {
        let mut c = house.connect();
        for n in (0..=u16::MAX).filter(|n| Sysno::from_number(*n).is_none()) {
            let a = c.call(n, u64::from(n), b"{}").expect("the connection goes on");
            assert_eq!((a.code(), a.header.correlation), (Some("E0102"), u64::from(n)));
        }
        assert!(c.is_usable());
    });
    house.check();
}

// --- wrong arguments

#[test]
fn wrong_arguments_at_the_operators_door() {
    let house = House::new();
    with_bystander(&house, "wrong arguments", || wrong_arguments(&house.socket, false));
    house.check();
}

#[test]
fn wrong_arguments_at_an_agents_door() {
    let house = House::new();
    let door = house.agent("door");
    with_bystander(&house, "wrong arguments of an agent", || wrong_arguments(&door, true));
    with_bystander(&house, "from inside", || {
        let o = house.attack_from_inside("frames", &["-m", "256m"]);
        assert!(o.status.success(), "{}{}", text(&o.stdout), text(&o.stderr));
    });
    house.check();
}

/// Every row gets every wrong body there is; each is told what is wrong, and the connection goes on.
fn wrong_arguments(socket: &Path, is_agent: bool) {
    let mut c = Raw::to(socket);
    let (mut told, mut sent) = (0, 0);
    let mut failures = String::new();
    for (n, case) in rows::cases(NOTHING).into_iter().enumerate() {
        let Case { row, what, body, field, is_wrong } = case;
        let acts = !is_wrong
            && !is_agent
            && row.from == From::Operator
            && row.audit == clove_abi::table::Audit::State;
        if acts {
            // It would be done.
            continue;
        }
        sent += 1;
        let a = c.call(row.number, n as u64, &body).unwrap_or_else(|| panic!("{}: {what}: closed", row.name));
        let message = a.message();
        assert!(message.len() < 2_000, "{}: {what}: an error of {} bytes", row.name, message.len());
        let forbidden = is_agent != (row.from == From::Agent) && row.from != From::Any;
        // Nobody but a warm agent on its own connection has tasks.
        let no_tasks = is_agent && row.from == From::Agent;
        let right = match a.code() {
            _ if a.header.correlation != n as u64 => false,
            // Whether a blob exists isn't told either.
            Some("E0301") => forbidden || is_agent && row.family == "blob" && !is_wrong,
            Some("E0404") if no_tasks => true,
            Some("E0103") => message.contains(row.name) && (field.is_empty() || names(message, &field)),
            code => !is_wrong && !forbidden && code != Some("E0999"),
        };
        if !right {
            failures.push_str(&format!("{}: {what} (field {field}): {:?} {message}\n", row.name, a.code()));
        }
        told += usize::from(a.code() == Some("E0103"));
    }
    println!("{sent} calls, {told} of them told that their arguments are malformed");
    assert!(failures.is_empty(), "{failures}");
    assert!(is_agent || told > 1_500, "{told}");
    assert!(c.is_usable());
}

/// Whatever a schema allows, with the outermost numbers that there are, to runs and agents that exist: it is done or
/// refused, and the kernel goes on.
#[test]
fn right_arguments_with_extreme_values() {
    let house = House::new();
    house.write("one.py", "def run(config, shared):\n    return 1\n");
    house.ok(&["sweep", "run", "one.py", "--grid", "n=1,2"]);
    // A session that stays open, so that tasks can be pushed.
    let mut owner = house.connect();
    let spec =
        json!({"kind": "executor", "name": "s", "program": {"cold": {"argv": ["/bin/true"]}}, "jobs": 1});
    let a = owner
        .call(Sysno::RunSubmit as u16, 1, json!({"spec": spec}).to_string().as_bytes())
        .expect("an answer");
    assert_eq!(a.body["run"], "r2", "{a:?}");
    house.ok(&["run", "-d", "--name", "r1", "--", "sleep", "1000"]);
    with_bystander(&house, "extreme limits", || {
        for limits in [
            json!({"memory_bytes": u64::MAX}),
            json!({"memory_reserve_bytes": u64::MAX, "memory_bytes": 4 << 20}),
            json!({"memory_reserve_bytes": u64::MAX - 4_096}),
            json!({"wall_ms": u64::MAX}),
            json!({"disk_bytes": u64::MAX}),
            json!({"output_bytes": u64::MAX}),
            json!({"cpu_milli": 1_000_000, "pids": 4_000_000, "nofile": 1_048_576}),
        ] {
            let task = json!({"limits": limits, "expected_ms": u64::MAX});
            let push = json!({"run": "r2", "tasks": [task], "collected": u64::MAX});
            let a = owner.call(Sysno::RunPush as u16, 1, push.to_string().as_bytes()).expect("an answer");
            let spawn = json!({"argv": ["true"], "limits": limits});
            let b = owner.call(Sysno::ProcSpawn as u16, 2, spawn.to_string().as_bytes()).expect("an answer");
            println!("{limits}: push {:?}, spawn {:?}", a.code(), b.code());
            assert!(a.code() != Some("E0999") && b.code() != Some("E0999"), "{a:?} {b:?}");
        }
        let info = house.json(&["kernel", "info", "--json"]);
        let (reserved, capacity) = (info["reserved_bytes"].as_u64(), info["capacity_bytes"].as_u64());
        assert!(reserved <= capacity, "{info}");
    });
    let mut answers = std::collections::BTreeMap::<String, u32>::new();
    with_bystander(&house, "extreme values", || {
        for text in ["r1", "r2", "a1.1", "r1/0"] {
            let mut c = house.connect();
            for case in rows::cases(text) {
                // These two would end it all, or wait for ever.
                let waits = case.what.starts_with("timeout_ms") || case.what.starts_with("wait_ms");
                if case.is_wrong || case.row.name == "kernel.shutdown" || waits {
                    continue;
                }
                let mut body: Value = serde_json::from_slice(&case.body).expect("json");
                for wait in ["wait_ms", "timeout_ms"] {
                    if let Some(w) = body.get_mut(wait) {
                        *w = json!(0);
                    }
                }
                if let Some(f) = body.get_mut("follow") {
                    *f = json!(false);
                }
                let sent = body.to_string();
                let a = c
                    .call(case.row.number, 1, sent.as_bytes())
                    .unwrap_or_else(|| panic!("{}: {sent}", case.row.name));
                assert_ne!(a.code(), Some("E0999"), "{}: {sent}: {a:?}", case.row.name);
                let how = format!("{} {}", case.row.name, a.code().unwrap_or("done"));
                *answers.entry(how).or_default() += 1;
            }
        }
    });
    println!("{answers:?}");
    for row in ["run.watch", "run.tasks", "run.collect", "proc.logs", "proc.inspect"] {
        assert!(answers.contains_key(&format!("{row} done")), "{row} was never done");
    }
    house.check();
}

/// The message names the field, as the last step of the way or on it.
fn names(message: &str, field: &str) -> bool {
    ["`", "[", "."].iter().any(|after| message.contains(&format!("{field}{after}")))
}

#[test]
fn depth_and_length_of_arguments_are_bounded() {
    let house = House::new();
    let door = house.agent("door");
    with_bystander(&house, "deep and long arguments", || {
        for socket in [&house.socket, &door] {
            let mut c = Raw::to(socket);
            for row in TABLE {
                let deep: [Vec<u8>; 4] = [
                    b"[".repeat(100_000),
                    br#"{"a":"#.repeat(100_000),
                    [b"[".repeat(97), b"]".repeat(97)].concat(),
                    [b"{\"client\":".repeat(100_000), b"1".to_vec(), b"}".repeat(100_000)].concat(),
                ];
                let not_json: [&[u8]; 6] =
                    [b"{", b"\xff\xfe", b"nope", b"{}{}", b"{\"a\":\"\\ud800\"}", b"\0"];
                for body in deep.iter().map(Vec::as_slice).chain(not_json) {
                    let a = c.call(row.number, 1, body).expect("the connection goes on");
                    assert!(
                        matches!(a.code(), Some("E0103" | "E0301" | "E0404")),
                        "{}: {:?}: {a:?}",
                        row.name,
                        String::from_utf8_lossy(&body[..body.len().min(20)])
                    );
                    if a.code() == Some("E0103") {
                        assert!(a.message().contains(row.name), "{a:?}");
                    }
                }
            }
            assert!(c.is_usable());
        }
    });
    with_bystander(&house, "largest arguments and tails", || {
        // The largest that there can be, to rows that have no use for it: not kept, told, and the connection goes on.
        let (body, tail) = (vec![b' '; MAX_BODY], vec![7u8; MAX_TAIL]);
        for socket in [&house.socket, &door] {
            let mut c = Raw::to(socket);
            for name in ["kernel.ping", "kernel.hello", "proc.list", "run.show", "blob.stat", "template.list"]
            {
                let row = TABLE.iter().find(|s| s.name == name).expect("a row");
                c.send(&encode(row.number, 0, 1, &body, &tail));
                let a = c.receive().expect("an answer");
                assert!(matches!(a.code(), Some("E0103" | "E0301")), "{name}: {a:?}");
                c.send(&encode(row.number, 0, 2, b"{}", b"x"));
                let a = c.receive().expect("an answer");
                assert!(matches!(a.code(), Some("E0103" | "E0301")), "{name} with a tail: {a:?}");
            }
            assert!(c.is_usable());
        }
    });
    // An argument that can't be right is told in a few words, however long it is.
    let mut c = house.connect();
    let long = json!({"\u{1}".repeat(2 << 20): 1}).to_string();
    let submit = Sysno::RunSubmit as u16;
    let a = c
        .call(submit, 1, json!({"spec": "\u{1}".repeat(2 << 20)}).to_string().as_bytes())
        .expect("an answer");
    assert!(a.code() == Some("E0103") && a.message().len() < 2_000, "{:?}", a.header);
    let a = c.call(submit, 1, long.as_bytes()).expect("an answer");
    assert!(a.code() == Some("E0103") && a.message().len() < 2_000, "{:?}", a.header);
    house.check();
}

// --- many, slow and endless

#[test]
fn a_thousand_connections() {
    let house = House::new();
    let fds = house.fds();
    with_bystander(&house, "1,000 connections", || {
        let mut all: Vec<Raw> = (0..1_000).map(|_| house.connect()).collect();
        for round in 0..3u64 {
            for c in &mut all {
                assert!(c.send(&encode(PING, 0, round, b"{}", &[])));
            }
            for c in &mut all {
                let a = c.receive().expect("an answer");
                assert_eq!((a.header.correlation, a.code()), (round, None));
            }
        }
        // They leave in the middle of everything.
        for (n, c) in all.iter_mut().enumerate() {
            c.send(&encode(PING, 0, 9, b"{}", &[])[..n % 27]);
        }
    });
    house.fds_come_to(fds + 1);
    house.check();
}

#[test]
fn readers_that_never_read() {
    let house = House::new();
    let door = house.agent("door");
    for (who, socket) in [("an operator", &house.socket), ("an agent", &door)] {
        let before = house.memory("VmRSS");
        let most = with_bystander(&house, &format!("{who} that never reads"), || {
            // As many calls as are taken, and not one answer read.
            let pings = encode(HELLO, 0, 1, b"{}", &[]).repeat(20_000);
            let mut all: Vec<Raw> = (0..50).map(|_| Raw::to(socket)).collect();
            for c in &mut all {
                c.push(&pings);
            }
            house.memory("VmRSS")
        });
        let grown = most.saturating_sub(before);
        println!("{who}: 50 connections that don't read: {} MiB more", grown / MIB);
        assert!(grown < 64 * MIB, "{grown} bytes are kept for those who don't read");
    }
    house.check();
}

#[test]
fn writers_that_never_stop() {
    let house = House::new();
    let mut inside = house.start_inside("flood", &["-d", "--name", "flood", "-m", "256m"]);
    assert!(inside.stdout(Stdio::null()).status().expect("start").success());
    until("it floods", || (house.json(&["ps", "--json"])[0]["state"] == "running").then_some(()));
    let calls = || house.json(&["kernel", "info", "--json"])["calls"].as_u64().expect("a count");
    let begun = calls();
    until("it floods", || (calls() > begun + 10_000).then_some(()));
    let served = with_bystander(&house, "an agent that floods 64 connections", || {
        let before = calls();
        std::thread::sleep(Duration::from_secs(2));
        calls() - before
    });
    println!("{served} calls were served meanwhile");
    assert!(served > 1_000, "the flood itself is served too");
    house.ok(&["kill", "flood"]);
    house.check();
}

/// Pings on as many connections as an agent may have, reading what comes back so that nothing holds it up.
fn flood_for_ever(socket: &Path) {
    let pings = encode(PING, 0, 1, b"{}", &[]).repeat(500);
    let mut all = Vec::new();
    for _ in 0..60 {
        let c = Raw::to(socket);
        let mut reader = c.stream.try_clone().expect("a second descriptor");
        std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
        all.push(c.stream);
    }
    let threads: Vec<_> = all
        .chunks(30)
        .map(|some| {
            let mut some: Vec<UnixStream> = some.iter().map(|s| s.try_clone().expect("another")).collect();
            let pings = pings.clone();
            std::thread::spawn(move || {
                loop {
                    for s in &mut some {
                        let _ = s.write_all(&pings);
                    }
                }
            })
        })
        .collect();
    for t in threads {
        let _ = t.join();
    }
}

/// Not a test: figures for the benchmark suite, one JSON object on standard output. A bystander's round trips on a quiet
/// kernel and under each attack, in turn, `WIRE_ROUNDS` times.
#[test]
#[ignore = "measures; run alone, in a release build"]
fn measure_bystanders() {
    let house = House::new();
    let rounds = std::env::var("WIRE_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let listen = || {
        let b = Bystander::at(&house.socket);
        std::thread::sleep(Duration::from_secs(2));
        b.leaves()
    };
    let mut all: Vec<(String, Vec<Waits>)> = Vec::new();
    let mut note = |what: &str, w: Waits| match all.iter_mut().find(|(name, _)| name == what) {
        Some((_, list)) => list.push(w),
        None => all.push((what.to_owned(), vec![w])),
    };
    for _ in 0..rounds {
        note("quiet", listen());
        let mut flood = house.start_inside("flood", &["-d", "--name", "flood", "-m", "256m"]);
        assert!(flood.stdout(Stdio::null()).status().expect("start").success());
        std::thread::sleep(Duration::from_secs(1));
        note("an agent floods 60 connections", listen());
        house.ok(&["kill", "flood"]);
        house.clove(&["wait", "flood"]);
        let mut idle: Vec<Raw> = (0..1_000).map(|_| house.connect()).collect();
        idle.iter_mut().for_each(|c| assert!(c.is_usable()));
        note("1,000 connections", listen());
    }
    let rows: Vec<Value> = all
        .iter()
        .map(|(what, list)| {
            let us = |f: fn(&Waits) -> Duration| {
                let mut v: Vec<u64> = list.iter().map(|w| f(w).as_micros() as u64).collect();
                v.sort_unstable();
                json!({"median": v[v.len() / 2], "all": v})
            };
            json!({"while": what, "p50_us": us(|w| w.p50), "p99_us": us(|w| w.p99), "longest_us": us(|w| w.longest)})
        })
        .collect();
    println!("{}", json!({"id": "bystanders", "rounds": rounds, "rows": rows}));
}

// --- memory

#[test]
fn half_frames_fill_no_memory() {
    let house = House::new();
    let before = house.memory("VmRSS");
    let grown = with_bystander(&house, "1,000 half frames", || {
        // One process, 1,000 connections, each with all but the end of the largest frame.
        let _kept = half_frames(&house.socket, 1_000);
        house.memory("VmRSS").saturating_sub(before)
    });
    println!("1,000 half frames of one process: {} MiB more", grown / MIB);
    assert!(grown < 256 * MIB, "{grown} bytes");
    // Agents, each with all the connections that it may have.
    let doors: Vec<_> = (0..12).map(|n| house.agent(&format!("door{n}"))).collect();
    let before = house.memory("VmRSS");
    let grown = with_bystander(&house, "12 agents with half frames", || {
        let _kept: Vec<_> = doors.iter().map(|d| half_frames(d, 60)).collect();
        let grown = house.memory("VmRSS").saturating_sub(before);
        // Others can still send what is large: who holds most of the shared memory and does nothing loses it.
        let mut c = house.connect();
        c.send(&encode(BLOB_PUT, 0, 1, b"{}", &vec![1u8; 8 << 20]));
        assert_eq!(c.receive().expect("an answer").code(), None);
        grown
    });
    println!("half frames of {} agents: {} MiB more", doors.len(), grown / MIB);
    assert!(grown < 600 * MIB, "{grown} bytes");
    house.check();
}

/// So many connections, each of which sends the largest frame there can be but for its last byte.
fn half_frames(socket: &Path, connections: usize) -> Vec<Raw> {
    let body = b"{}";
    let header =
        Header { body_len: 2, tail_len: MAX_TAIL as u32, flags: 0, number: BLOB_PUT, fds: 0, correlation: 1 };
    let mut frame = header.encode().to_vec();
    frame.extend(body);
    frame.resize(HEADER_LEN + 2 + MAX_TAIL - 1, 5);
    let mut all: Vec<(Raw, usize)> = (0..connections).map(|_| (Raw::to(socket), 0)).collect();
    // As long as any of them is read, they go on.
    for (c, _) in &all {
        c.stream.set_nonblocking(true).expect("nonblocking");
    }
    let mut quiet = std::time::Instant::now();
    while quiet.elapsed() < Duration::from_millis(500) {
        for (c, sent) in &mut all {
            while let Ok(n) = c.stream.write(&frame[*sent..]) {
                if n == 0 {
                    break;
                }
                *sent += n;
                quiet = std::time::Instant::now();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    all.into_iter().map(|(c, _)| c).collect()
}

#[test]
fn a_tail_that_nobody_asked_for_is_not_kept() {
    let house = House::new();
    let door = house.agent("door");
    let before = house.memory("VmRSS");
    with_bystander(&house, "tails", || {
        let tail = vec![3u8; 8 << 20];
        for socket in [&house.socket, &door] {
            let mut c = Raw::to(socket);
            for n in 0..40 {
                // Results of a task that isn't its own; input of nobody; tails where none belong.
                let done = br#"{"run":"r1","task":0,"attempt":1}"#;
                let stdin = br#"{"target":"nobody"}"#;
                let push = br#"{"run":"r9","tasks":[{"payload_bytes":8388608}]}"#;
                let calls: [(u16, &[u8]); 4] = [
                    (PING, b"{}"),
                    (TASK_DONE, done),
                    (Sysno::ProcStdin as u16, stdin),
                    (Sysno::RunPush as u16, push),
                ];
                for (number, body) in calls {
                    c.send(&encode(number, 0, n, body, &tail));
                    let a = c.receive().expect("an answer");
                    assert!(a.code().is_some(), "{a:?}");
                }
            }
        }
    });
    let grown = house.memory("VmRSS").saturating_sub(before);
    println!("320 refused tails of 8 MiB: {} MiB more", grown / MIB);
    assert!(grown < 200 * MIB, "{grown} bytes are kept of what was refused");
    house.check();
}

/// The positive control of all bounds: what is large comes and goes whole, with readers of any pace.
#[test]
fn large_answers_arrive_whole() {
    let house = House::new();
    let bytes: Vec<u8> = (0..24u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut c = house.connect();
    c.send(&encode(BLOB_PUT, 0, 1, b"{}", &bytes));
    let digest = c.receive().expect("an answer").body["digest"].as_str().expect("a digest").to_owned();
    let get = encode(BLOB_GET, 0, 2, json!({"digest": digest}).to_string().as_bytes(), &[]);
    with_bystander(&house, "large answers", || {
        let threads: Vec<_> = (0..3)
            .map(|n| {
                let (mut c, get, bytes) = (house.connect(), get.clone(), bytes.clone());
                std::thread::spawn(move || {
                    for round in 0..20 {
                        c.send(&get);
                        if n == 1 {
                            std::thread::sleep(Duration::from_millis(5));
                        }
                        let a = c.receive().expect("an answer");
                        assert!(a.tail == bytes, "round {round}: {} bytes, {:?}", a.tail.len(), a.code());
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().expect("all of it"));
    });
    house.check();
}

#[test]
fn blobs_that_are_asked_for_and_never_read() {
    let house = House::new();
    let before = house.memory("VmRSS");
    let grown = with_bystander(&house, "unread blobs", || {
        let mut child = house
            .start_inside("unread-blobs", &["-m", "512m", "--disk", "128m"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let mut most = 0;
        while child.try_wait().expect("wait").is_none() {
            most = most.max(house.memory("VmRSS"));
            std::thread::sleep(Duration::from_millis(20));
        }
        let o = child.wait_with_output().expect("wait");
        assert!(o.status.success(), "{}{}", text(&o.stdout), text(&o.stderr));
        most.saturating_sub(before)
    });
    println!("60 connections that ask for 32 MiB 100 times each: {} MiB more", grown / MIB);
    assert!(grown < 320 * MIB, "{grown} bytes");
    house.check();
}

/// Asks for more than anybody could keep, and reads nothing of it.
fn unread_blobs(socket: &Path) {
    let mut c = Raw::to(socket);
    c.send(&encode(BLOB_PUT, 0, 1, b"{}", &vec![9u8; 32 << 20]));
    let digest = c.receive().expect("an answer").body["digest"].as_str().expect("a digest").to_owned();
    let get = encode(BLOB_GET, 0, 1, json!({"digest": digest}).to_string().as_bytes(), &[]).repeat(100);
    let mut all: Vec<Raw> = (0..60).map(|_| Raw::to(socket)).collect();
    for c in &mut all {
        c.push(&get);
    }
    std::thread::sleep(Duration::from_secs(2));
}

// --- descriptors

#[test]
fn descriptors_by_the_thousand() {
    let house = House::new();
    let fds = house.fds();
    with_bystander(&house, "descriptors from an operator", || thousands_of_descriptors(&house.socket));
    house.fds_come_to(fds + 1);
    with_bystander(&house, "descriptors from inside", || {
        let o = house.attack_from_inside("descriptors", &["-m", "256m"]);
        assert!(o.status.success(), "{}{}", text(&o.stdout), text(&o.stderr));
    });
    house.fds_come_to(fds + 1);
    house.check();
}

fn sealed(bytes: &[u8]) -> OwnedFd {
    let fd =
        rustix::fs::memfd_create("attack", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
    rustix::io::write(&fd, bytes).expect("write");
    let all = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&fd, all).expect("seal");
    fd
}

fn thousands_of_descriptors(socket: &Path) {
    let null = std::fs::File::open("/dev/null").expect("null");
    let memfd = sealed(b"hello");
    // The positive control: one sealed memory file for `blob.put`.
    let put = |fds| {
        let h = Header { body_len: 2, tail_len: 0, flags: 0, number: BLOB_PUT, fds, correlation: 1 };
        [h.encode().as_slice(), b"{}"].concat()
    };
    let mut c = Raw::to(socket);
    c.send_fds(&put(1), &[memfd.as_fd()]).expect("sent");
    let a = c.receive().expect("an answer");
    assert_eq!((a.code(), a.body["bytes"].as_u64()), (None, Some(5)), "{a:?}");
    // Not sealed, not a memory file, too many, with a row that takes none, with a number that no row has.
    let open =
        rustix::fs::memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("memfd");
    let ping = |number, fds| {
        let h = Header { body_len: 2, tail_len: 0, flags: 0, number, fds, correlation: 1 };
        [h.encode().as_slice(), b"{}"].concat()
    };
    let n = null.as_fd();
    let wrong: Vec<(&str, Vec<u8>, Vec<std::os::fd::BorrowedFd<'_>>)> = vec![
        ("not sealed", put(1), vec![open.as_fd()]),
        ("no memory file", put(1), vec![n]),
        ("two", put(2), vec![memfd.as_fd(), memfd.as_fd()]),
        ("eight", put(8), vec![memfd.as_fd(); 8]),
        ("to ping", ping(PING, 1), vec![memfd.as_fd()]),
        ("253 where 8 are told", put(8), vec![n; 253]),
        ("253 where none are told", ping(PING, 0), vec![n; 253]),
    ];
    for (what, frame, fds) in wrong {
        let mut c = Raw::to(socket);
        c.send_fds(&frame, &fds).expect("sent");
        // An answer first or not, it is over; what came without being told may only be seen after the answer.
        let mut codes = Vec::new();
        while let Some(a) = c.receive() {
            codes.extend(a.code().map(str::to_owned));
        }
        assert!(codes.iter().any(|c| c == "E0105" || c == "E0101"), "{what}: {codes:?}");
    }
    let mut c = Raw::to(socket);
    c.send_fds(&ping(0xffff, 8), &[n; 8]).expect("sent");
    assert!(matches!(c.receive().expect("an answer").code(), Some("E0102" | "E0105")));
    // A body that is sent byte by byte, 250 descriptors with each of them.
    let mut c = Raw::to(socket);
    let frame = encode(BLOB_PUT, 0, 1, &[b' '; 4_000], &[]);
    let mut sent = 0;
    for b in &frame {
        // The one at the other end may be slower than we are; more than so many can't be on their way.
        let r = c.send_fds(&[*b], &[n; 250]);
        if r.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < frame.len(), "{} descriptors were taken", sent * 250);
    while let Some(a) = c.receive() {
        assert_eq!(a.code(), Some("E0101"), "{a:?}");
    }
    // And again and again, over new connections.
    for _ in 0..200 {
        let mut c = Raw::to(socket);
        let _ = c.send_fds(b"x", &[n; 250]);
    }
    assert!(Raw::to(socket).is_usable());
}

#[test]
fn sockets_whose_closing_waits_hold_up_nobody() {
    let house = House::new();
    let fds = house.fds();
    with_bystander(&house, "lingering sockets from an operator", || lingering_sockets(&house.socket));
    house.fds_come_to(fds + 1);
    with_bystander(&house, "lingering sockets from inside", || {
        let mut child = house
            .start_inside("lingering", &["-m", "256m"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        // Meanwhile others' files are kept, and others' agents end.
        let mut c = house.connect();
        while child.try_wait().expect("wait").is_none() {
            c.send(&encode(BLOB_PUT, 0, 1, b"{}", b"something"));
            let begun = std::time::Instant::now();
            assert_eq!(c.receive().expect("an answer").code(), None);
            assert!(begun.elapsed() < Duration::from_secs(2), "a blob waited {:?}", begun.elapsed());
        }
        let o = child.wait_with_output().expect("wait");
        assert!(o.status.success(), "{}{}", text(&o.stdout), text(&o.stderr));
    });
    house.ok(&["run", "--", "true"]);
    house.fds_come_to(fds + 1);
    house.check();
}

/// A connection with unsent bytes, whose last close waits for minutes.
fn lingering() -> (std::net::TcpStream, std::net::TcpStream) {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener on lo");
    let mut client = std::net::TcpStream::connect(server.local_addr().expect("address")).expect("connect");
    let (other, _) = server.accept().expect("accept");
    client.set_nonblocking(true).expect("nonblocking");
    while client.write(&[0; 1 << 16]).is_ok() {}
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::from_secs(120))).expect("linger");
    (client, other)
}

fn lingering_sockets(socket: &Path) {
    let header = |number, fds| {
        let h = Header { body_len: 2, tail_len: 0, flags: 0, number, fds, correlation: 1 };
        [h.encode().as_slice(), b"{}"].concat()
    };
    let mut others = Vec::new();
    let mut give = |frame: &[u8], n: usize| {
        let mut c = Raw::to(socket);
        let mut ours = Vec::new();
        for _ in 0..n {
            let (mine, other) = lingering();
            ours.push(mine);
            others.push(other);
        }
        let fds: Vec<_> = ours.iter().map(AsFd::as_fd).collect();
        c.send_fds(frame, &fds).expect("sent");
        // Only what is on its way holds them now.
        drop(ours);
        c
    };
    // Told and untold, more than fit, with rows that take none, and never followed by a whole frame.
    let mut kept = Vec::new();
    for (frame, n) in [
        (header(BLOB_PUT, 1), 1),
        (header(PING, 8), 8),
        (header(PING, 0), 3),
        (header(0xffff, 8), 8),
        (header(BLOB_PUT, 8), 40),
        (b"x".to_vec(), 2),
    ] {
        let mut c = give(&frame, n);
        if frame.len() > 1 {
            let _ = c.receive();
        }
        kept.push(c);
    }
    drop(kept);
    // Inside a socket that is itself passed on.
    let (a, b) = UnixStream::pair().expect("pair");
    let (mine, other) = lingering();
    Raw::over(a).send_fds(b"x", &[mine.as_fd()]).expect("sent");
    drop(mine);
    others.push(other);
    let mut c = Raw::to(socket);
    c.send_fds(&header(PING, 1), &[b.as_fd()]).expect("sent");
    drop(b);
    let _ = c.receive();
    std::thread::sleep(Duration::from_secs(2));
    assert!(Raw::to(socket).is_usable());
}

// --- an agent's own door, and its end

#[test]
fn an_agent_has_64_connections_and_is_told_so() {
    let house = House::new();
    let o = house.attack_from_inside("doors", &["-m", "256m"]);
    assert!(o.status.success(), "{}{}", text(&o.stdout), text(&o.stderr));
    house.check();
}

fn too_many_at_an_agents_door(socket: &Path) {
    let mut all: Vec<Raw> = (0..64).map(|_| Raw::to(socket)).collect();
    for c in &mut all {
        assert!(c.is_usable());
    }
    let mut more = Raw::to(socket);
    let a = more.receive().expect("it is told why");
    assert_eq!(a.code(), Some("E0502"), "{a:?}");
    assert!(more.is_closed());
    drop(all.pop());
    // Its place is free once the kernel has seen it go.
    until("a free place", || Raw::to(socket).is_usable().then_some(()));
}

/// A script whose task writes `bytes` (a Python expression) on its own connection and is gone.
fn dying_words(house: &House, bytes: &str) -> Value {
    house.write(
        "dying.py",
        &format!(
            "import os, struct\n\
             def frame(number, body=b'{{}}', tail=b'', length=None, correlation=9):\n\
             \x20   n = len(body) if length is None else length\n\
             \x20   return struct.pack('<IIBBHB3xQ', n, len(tail), 1, 0, number, 0, correlation) + body + tail\n\
             def run(config, shared):\n\
             \x20   os.set_blocking(3, False)\n\
             \x20   data = memoryview({bytes})\n\
             \x20   try:\n\
             \x20       while data: data = data[os.write(3, data):]\n\
             \x20   except BlockingIOError: pass\n\
             \x20   os._exit(7)\n"
        ),
    );
    let o = house.clove(&["sweep", "run", "dying.py", "--grid", "n=1,2", "--retry-deaths", "0", "--json"]);
    assert_eq!(o.status.code(), Some(1), "{}", text(&o.stderr));
    serde_json::from_slice(&o.stdout).expect("json")
}

#[test]
fn an_agent_that_dies_in_the_middle_of_a_word() {
    let house = House::new();
    let words = [
        ("half a header", "frame(0x302)[:13]"),
        ("a header without its body", "frame(0x302, b'{\"run\":', length=1000)"),
        ("half of a large result", "frame(0x302, b'[' * 70000, length=8 << 20)"),
        ("a bad frame and more", "b'\\xff' * 100 + frame(0x103) * 100"),
        ("nothing but pings", "frame(0x103) * 100000"),
        ("task.next without end", "frame(0x301) * 100000"),
    ];
    for (what, bytes) in words {
        let show = with_bystander(&house, what, || dying_words(&house, bytes));
        assert_eq!(show["failed"].as_u64(), Some(2), "{what}: {show}");
    }
    // Once more while the kernel has much else to do, so that it learns of words and death at once.
    let mut flood = house.start_inside("flood", &["-d", "--name", "flood", "-m", "256m"]);
    assert!(flood.stdout(Stdio::null()).status().expect("start").success());
    for (what, bytes) in words {
        let show = dying_words(&house, bytes);
        assert_eq!(show["failed"].as_u64(), Some(2), "{what}: {show}");
    }
    house.ok(&["kill", "flood"]);
    house.check();
}

#[test]
fn a_result_for_somebody_elses_task_changes_nothing() {
    let house = House::new();
    // Two runs: the victim keeps output and a checkpoint, the thief claims its task as its own.
    house.write(
        "victim.py",
        "import os, time\n\
         def run(config, shared):\n\
         \x20   c = os.environ['CLOVE_CHECKPOINT']\n\
         \x20   open(c + '/state', 'w').write('half')\n\
         \x20   os.sync()\n\
         \x20   time.sleep(config['s'])\n\
         \x20   return 1\n",
    );
    let mut victim = house
        .command(&["sweep", "run", "victim.py", "--grid", "s=300"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("start");
    let kept = house.data().join("runs/r1/checkpoint/0/state");
    until("the victim's checkpoint is on disk", || kept.exists().then_some(()));
    house.write(
        "thief.py",
        "import os, struct, json, socket\n\
         def frame(number, body, tail=b'', correlation=9):\n\
         \x20   body = json.dumps(body).encode()\n\
         \x20   return struct.pack('<IIBBHB3xQ', len(body), len(tail), 1, 0, number, 0, correlation) + body + tail\n\
         def answer(read):\n\
         \x20   n, t = struct.unpack('<II', read(24)[:8])\n\
         \x20   return json.loads(read(n)), read(t)\n\
         def run(config, shared):\n\
         \x20   open(os.environ['CLOVE_OUT'] + '/planted', 'w').write('x')\n\
         \x20   done = frame(0x302, {'run': 'r1', 'task': 0, 'attempt': 1, 'result': 'stolen'})\n\
         \x20   os.write(3, done)\n\
         \x20   first = answer(lambda n: os.read(3, n) if n else b'')[0]\n\
         \x20   s = socket.socket(socket.AF_UNIX)\n\
         \x20   s.connect(os.environ['CLOVE_SOCKET'])\n\
         \x20   s.sendall(done)\n\
         \x20   second = answer(lambda n: s.recv(n, socket.MSG_WAITALL) if n else b'')[0]\n\
         \x20   return [first['code'], second['code']]\n",
    );
    let o = house.clove(&["sweep", "run", "thief.py", "--grid", "n=1", "--json"]);
    assert!(o.status.success(), "{}{}", text(&o.stdout), text(&o.stderr));
    let results = house.json(&["sweep", "results", "r2", "--json"]);
    assert_eq!(results[0]["result"], json!(["E0404", "E0404"]), "{results}");
    assert!(kept.exists(), "another's checkpoint is gone");
    assert!(!house.data().join("runs/r1/out/0").exists(), "something was planted in another's output");
    // The positive control: its own output was kept.
    assert!(house.data().join("runs/r2/out/0/1/planted").exists());
    assert_eq!(house.json(&["sweep", "show", "r1", "--json"])["running"], 1);
    house.ok(&["sweep", "cancel", "r1"]);
    let _ = victim.wait();
    house.check();
}

#[test]
fn a_warm_agent_that_says_everything_wrong() {
    let house = House::new();
    // Every wrong body for the rows that are an agent's, on the connection that alone may make them.
    let rows = ["task.done", "task.next", "kernel.ping", "kernel.hello", "blob.get", "blob.stat", "blob.put"];
    let mut wanted = Vec::new();
    let mut lines = String::new();
    for case in rows::cases(NOTHING).into_iter().filter(|c| c.is_wrong && rows.contains(&c.row.name)) {
        let body = String::from_utf8(case.body).expect("text");
        lines.push_str(&format!("{}\n", json!([case.row.number, body])));
        wanted.push((case.row.name, case.field, case.what));
    }
    house.write("cases.jsonl", &lines);
    house.write(
        "warm.py",
        "import os, struct, json\n\
         def read(n):\n\
         \x20   data = b''\n\
         \x20   while len(data) < n: data += os.read(3, n - len(data))\n\
         \x20   return data\n\
         def run(config, shared):\n\
         \x20   out = open(os.environ['CLOVE_OUT'] + '/answers.jsonl', 'w')\n\
         \x20   for line in open(config['cases']):\n\
         \x20       number, body = json.loads(line)\n\
         \x20       body = body.encode()\n\
         \x20       os.write(3, struct.pack('<IIBBHB3xQ', len(body), 0, 1, 0, number, 0, 77) + body)\n\
         \x20       n, t, _, flags = struct.unpack('<IIBB', read(24)[:10])\n\
         \x20       out.write(json.dumps([flags, json.loads(read(n))]) + '\\n')\n\
         \x20       read(t)\n\
         \x20   out.close()\n\
         \x20   return 'still there'\n",
    );
    let cases = house.work().join("cases.jsonl").display().to_string();
    let grid = format!("cases=\"{cases}\"");
    let o = with_bystander(&house, "wrong arguments of a warm agent", || {
        house.clove(&["sweep", "run", "warm.py", "--grid", &grid, "--json"])
    });
    assert!(o.status.success(), "{}{}", text(&o.stdout), text(&o.stderr));
    let said = std::fs::read_to_string(house.data().join("runs/r1/out/0/1/answers.jsonl")).expect("answers");
    let said: Vec<(u8, Value)> = said.lines().map(|l| serde_json::from_str(l).expect("json")).collect();
    assert_eq!(said.len(), wanted.len());
    for ((flags, body), (row, field, what)) in said.iter().zip(&wanted) {
        assert_eq!(*flags, FLAG_REPLY | FLAG_ERROR, "{row}: {what}: {body}");
        let message = body["message"].as_str().unwrap_or_default();
        assert!(
            body["code"] == "E0103" && message.contains(row) && (field.is_empty() || names(message, field)),
            "{row}: {what}: {body}"
        );
    }
    println!("{} wrong bodies, then the task's result", said.len());
    assert_eq!(house.json(&["sweep", "results", "r1", "--json"])[0]["result"], "still there");
    house.check();
}
