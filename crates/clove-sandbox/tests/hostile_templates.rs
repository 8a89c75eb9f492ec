//! What a template's own code (an import, a `setup`) tries against the host, the launcher, other templates, and the checks
//! on what it forks.
#![allow(clippy::unwrap_used)]

mod rig;

use clove_sandbox::protocol::{Event, Request, Status};
use rig::Rig;
use rig::warm::{embryo, ready, started, template};
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A template whose code can forge embryos.
fn forging(code: &str) -> String {
    let forger =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/rig/forger.py")).unwrap();
    format!("{forger}\n{code}")
}

/// Runs Python as the tests' own user, without any wall: the positive control.
fn outside(code: &str) -> String {
    let preamble = "import ctypes, json, os, socket, sys, struct, array, time, signal\n";
    let out = Command::new("python3").args(["-c", &format!("{preamble}{code}")]).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// A process of the host, for templates to get at.
struct Victim(Child);

impl Victim {
    fn new() -> Victim {
        Victim(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }

    fn groups(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/cgroup", self.pid())).unwrap()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn end(rig: &mut Rig, template: u64) {
    rig.send(Request::Kill { token: template }, &[]);
    rig.expect_end(template);
}

/// The template is refused, for this reason; and others are served as if nothing had been.
fn refused(rig: &mut Rig, template: u64, why: &str) {
    let (event, _) =
        rig.expect("refusal", |e| matches!(e, Event::TemplateFailed { token, .. } if *token == template));
    let Event::TemplateFailed { message, .. } = event else { unreachable!() };
    assert!(message.contains(why), "{message}");
    rig.expect_end(template);
    assert_eq!(rig.sh("exit 7").status(), Status::Code(7));
}

/// The spawn fails in the look from outside, for this reason.
fn caught(rig: &mut Rig, what: &str, setup: &str, why: &str) {
    let (t, log) = template(rig, "", setup);
    rig.expect("template", |e| matches!(e, Event::TemplateReady { token, .. } if *token == t));
    let w = embryo(rig, t);
    let (event, out, _) = w.finish(rig);
    let Event::SpawnFailed { stage, message, .. } = &event else {
        panic!("{what}: {event:?} {out} {}", rig::text(log))
    };
    assert_eq!(stage, "verify", "{what}: {message} {}", rig::text(log));
    assert!(message.contains(why), "{what}: {message}");
    end(rig, t);
}

// --- what it forks

/// The control: a forger that leaves nothing out is let go, so a step that is left out is what the others are caught by.
fn an_honest_forger_is_let_go(rig: &mut Rig) {
    let t = ready(rig, "", &forging("serve(embryo(code='print(os.getpid(), os.getuid())'))"));
    let (event, out, err) = embryo(rig, t).finish(rig);
    assert!(matches!(event, Event::Exited { status: Status::Code(0), .. }), "{event:?} {err}");
    assert_eq!(out, "2 1000\n");
    end(rig, t);
}

fn each_step_that_is_left_out_is_caught(rig: &mut Rig) {
    for (skip, why) in [
        ("groups", "group is"),
        ("pid", "pid namespace isn't its cell's"),
        ("mnt", "mnt namespace isn't its cell's"),
        ("net", "net namespace isn't its cell's"),
        ("ipc", "ipc namespace isn't its cell's"),
        ("uts", "uts namespace isn't its cell's"),
        ("cgroup", "cgroup namespace isn't its cell's"),
        ("ids", "Uid is"),
        ("descriptors", "it holds descriptor"),
        ("limits", "Max open files"),
        ("capabilities", "Cap"),
        ("folder", "working folder"),
        ("seccomp", "Seccomp_filters is 1"),
    ] {
        caught(rig, skip, &forging(&format!("serve(embryo({skip:?}))")), why);
    }
}

fn what_it_keeps_or_starts_is_caught(rig: &mut Rig) {
    let hook = |code: &str| {
        let body = code.replace('\n', "\n    ");
        format!(
            "kept = os.open('/tmp', os.O_PATH)\ndef hook():\n    {body}\nos.register_at_fork(after_in_child=hook)"
        )
    };
    let wait = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()";
    // By way of the library, whose own order makes sure of the first three.
    caught(rig, "a thread", &hook(wait), "Threads is 2");
    caught(rig, "an open file", &hook("globals()['f'] = os.open('/usr', os.O_PATH)"), "it holds descriptor");
    caught(rig, "a folder to work in", &hook("os.chdir('/tmp')"), "working folder");
    // A forger that has closed all but one: the template's own /tmp, which its other agents would share.
    let code = "import fcntl\nkept = fcntl.fcntl(os.open('/tmp', os.O_RDONLY), fcntl.F_DUPFD, 100)\n\
                real = os.closerange\nos.closerange = lambda a, b: (real(a, kept), real(kept + 1, b))\nserve(embryo())";
    caught(rig, "a folder of its own", &forging(code), "it holds descriptor");
    // Out through an open folder.
    let code = "kept = os.open('/tmp', os.O_RDONLY)\nserve(embryo('folder', lambda: None))";
    caught(rig, "a working folder outside", &forging(code), "working folder");
}

/// Namespaces of an earlier agent, kept: the next one would run in its cell, with its uid.
fn another_agents_cell_is_caught(rig: &mut Rig) {
    let code = r#"
first = []
def make(request):
    if not first:
        first.append(request)
        request.fds, kept = array.array("i", [os.dup(f) for f in request.fds]), request.fds
        first.append(kept)
        made = embryo(code="time.sleep(100)")(request)
        request.fds = array.array("i", [])
        return made
    mine = request.fds
    request.fds = array.array("i", list(first[1][:7]) + list(mine[7:]))
    made = embryo()(request)
    request.fds = mine
    return made
serve(make)
"#;
    let t = ready(rig, "", &forging(code));
    let a = embryo(rig, t);
    assert!(matches!(started(rig, a.token), Event::Started { .. }));
    let b = embryo(rig, t);
    let event = started(rig, b.token);
    let Event::SpawnFailed { stage, message, .. } = &event else { panic!("{event:?}") };
    assert!(stage == "verify" && message.contains("namespace isn't its cell's"), "{message}");
    rig.send(Request::Kill { token: a.token }, &[]);
    rig.expect_end(a.token);
    end(rig, t);
}

fn other_ids_are_out_of_reach(rig: &mut Rig) {
    let code = "out = []\nfor f in (lambda: os.setuid(2000), lambda: os.setgid(2000), lambda: os.setgroups([0]), lambda: os.setuid(0)):\n\
                \x20   try: f(); out.append('ok')\n    except OSError as e: out.append(e.strerror)\nprint(out, flush=True)";
    let (t, log) = template(rig, "", code);
    rig.expect("template", |e| matches!(e, Event::TemplateReady { token, .. } if *token == t));
    assert_eq!(rig::text(log).matches("not permitted").count(), 4);
    assert!(outside(code).starts_with("['ok'"));
    end(rig, t);
}

// --- the host, and others

/// pids are what processes are got at by.
fn it_can_neither_see_nor_name_what_isnt_its_own(rig: &mut Rig) {
    let mut victim = Victim::new();
    let probe = format!(
        r#"
import errno
there = []
for pid in range(1, 40000):
    try:
        os.kill(pid, 0)
        there.append(pid)
    except OSError as e:
        if e.errno == errno.EPERM: there.append(pid)
victim = {}
def works(f):
    try: f(); return True
    except OSError: return False
out = {{"there": len(there), "listed": len([p for p in os.listdir("/proc") if p.isdigit()]),
       "pidfd": works(lambda: os.pidfd_open(victim)), "session": works(lambda: os.getsid(victim)),
       "scheduler": works(lambda: os.sched_getscheduler(victim)), "nice": works(lambda: os.getpriority(0, victim)),
       "status": os.path.exists(f"/proc/{{victim}}/status"), "kill": works(lambda: os.kill(victim, 0))}}
print(json.dumps(out), flush=True)
"#,
        victim.pid()
    );
    let (t, log) = template(rig, "", &probe);
    rig.expect("template", |e| matches!(e, Event::TemplateReady { token, .. } if *token == t));
    let inside: serde_json::Value = serde_json::from_str(&rig::text(log)).unwrap();
    // Its init and itself; of which it sees itself.
    assert_eq!((&inside["there"], &inside["listed"]), (&2.into(), &1.into()), "{inside}");
    let control: serde_json::Value = serde_json::from_str(&outside(&probe)).unwrap();
    assert!(control["there"].as_u64().unwrap() > 2 && control["listed"].as_u64().unwrap() > 2);
    for what in ["pidfd", "session", "scheduler", "nice", "status", "kill"] {
        assert_eq!((&inside[what], &control[what]), (&false.into(), &true.into()), "{what}");
    }
    assert!(victim.is_alive());
    end(rig, t);
}

fn it_cant_signal_other_templates_nor_their_agents(rig: &mut Rig) {
    let other = ready(rig, "import time; time.sleep(100)", "");
    let agent = embryo(rig, other);
    assert!(matches!(started(rig, agent.token), Event::Started { .. }));
    let mut victim = Victim::new();
    // Everything that may be signalled is; its own child shows that the signal works.
    let code = "import signal, time\npid = os.fork()\nif pid == 0:\n    time.sleep(100)\n    os._exit(0)\n\
                try: os.kill(-1, signal.SIGKILL)\nexcept OSError as e: print(e)\nprint(os.waitpid(pid, 0)[1], flush=True)";
    let (t, log) = template(rig, "", code);
    rig.expect("template", |e| matches!(e, Event::TemplateReady { token, .. } if *token == t));
    assert_eq!(rig::text(log), "9\n");
    assert!(victim.is_alive());
    let next = embryo(rig, other);
    assert!(matches!(started(rig, next.token), Event::Started { .. }));
    for token in [agent.token, next.token] {
        rig.send(Request::Kill { token }, &[]);
        assert!(matches!(rig.expect_end(token), Event::Exited { status: Status::Signal(9), .. }));
    }
    end(rig, t);
    end(rig, other);
}

/// The files by which an embryo enters its groups were opened by root, and whose pid is written there is moved and, when
/// the group is cleared away, killed.
fn the_doors_of_groups_move_nobody_else(rig: &mut Rig) {
    let (mut victim, mut bystander) = (Victim::new(), Victim::new());
    let before = victim.groups();
    let code = format!(
        "def make(request):\n    for fd in request.fds[GROUPS:]:\n        try: os.write(fd, b'{}'); print('moved')\n\
         \x20       except OSError as e: print(e.strerror)\n    sys.stdout.flush()\n    time.sleep(100)\nserve(make)",
        victim.pid()
    );
    let (t, log) = template(rig, "", &forging(&code));
    rig.expect("template", |e| matches!(e, Event::TemplateReady { token, .. } if *token == t));
    let w = embryo(rig, t);
    let (event, _) = rig.expect("cell", |e| matches!(e, Event::CellReady { token, .. } if *token == w.token));
    let Event::CellReady { init_pid, .. } = event else { unreachable!() };
    let until = Instant::now() + Duration::from_secs(10);
    while !rig::text(log.try_clone().unwrap()).contains("No such process") {
        assert!(Instant::now() < until, "{}", rig::text(log));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!rig::text(log).contains("moved"));
    assert_eq!(victim.groups(), before);
    // The control: whoever can name a process moves it, and that is its end.
    let own = std::fs::read_to_string(format!("/proc/{init_pid}/cgroup")).unwrap();
    let line = own.lines().find(|l| l.contains("/clove-")).unwrap();
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next().unwrap(), parts.next().unwrap());
    let first = controllers.split(',').next().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let top = mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|m| {
            if first.is_empty() {
                m[2] == "cgroup2"
            } else {
                m[2] == "cgroup" && m[3].split(',').any(|o| o == first)
            }
        })
        .unwrap()[1]
        .to_owned();
    // On a hybrid host the pids hierarchy is the one whose members are ended.
    let pids = format!("{}{path}/cgroup.procs", top.replace(first, "pids"));
    let procs = if std::path::Path::new(&pids).exists() { pids } else { format!("{top}{path}/cgroup.procs") };
    std::fs::write(&procs, bystander.pid().to_string()).unwrap();
    end(rig, t);
    rig.send(Request::Kill { token: w.token }, &[]);
    rig.expect_end(w.token);
    while bystander.is_alive() {
        assert!(Instant::now() < until, "the control lives");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(victim.is_alive());
}

/// It has capabilities in its agents' user namespaces, by entering them. They are to be worth little.
fn capabilities_in_a_cell_are_worth_little(rig: &mut Rig) {
    let probe = r#"
def tries():
    out = {}
    for name, f in {
        "raw": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "raw6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58),
        "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
        "netfilter": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12),
        "mount": lambda: sc(165, b"t", b"/tmp", b"tmpfs", 0, b""),
        "chroot": lambda: os.chroot("/tmp"),
        "unshare": lambda: sc(272, 0x10000000),
    }.items():
        try: f(); out[name] = "ok"
        except OSError as e: out[name] = e.strerror
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for level, number in (0, 64), (0, 65), (0, 96), (41, 64):
        try: s.setsockopt(level, number, b"x" * 100); out[f"table {level} {number}"] = "ok"
        except OSError as e: out[f"table {level} {number}"] = e.strerror
    return out
"#;
    let code = format!(
        "{probe}\ndef make(request):\n    if os.fork() == 0:\n        for name in 'user', 'net', 'ipc', 'uts':\n            LIBC.setns(request.fds[KINDS[name][0]], KINDS[name][1])\n\
         \x20       caps = [l.split()[1] for l in open('/proc/self/status') if l.startswith('CapEff')]\n        print(json.dumps([caps, tries()]), flush=True)\n        os._exit(0)\n\
         \x20   os.wait()\n    return 0, -1, 11\nserve(make)"
    );
    let (t, log) = template(rig, "", &forging(&code));
    rig.expect("template", |e| matches!(e, Event::TemplateReady { token, .. } if *token == t));
    let w = embryo(rig, t);
    started(rig, w.token);
    let found: (Vec<String>, std::collections::BTreeMap<String, String>) =
        serde_json::from_str(&rig::text(log)).unwrap();
    assert_ne!(
        found.0[0], "0000000000000000",
        "the attempt has all capabilities of the cell: that is its control"
    );
    for (what, result) in &found.1 {
        assert!(
            ["Operation not permitted", "Address family not supported by protocol"]
                .contains(&result.as_str()),
            "{what}: {result}"
        );
    }
    end(rig, t);
}

/// inotify instances, pending signals and the like count against whoever made the user namespaces.
fn what_agents_use_up_isnt_roots(rig: &mut Rig) {
    let owner = |pid: u32| -> u32 {
        let code = format!(
            "import fcntl\nb = bytearray(4)\nfcntl.ioctl(os.open('/proc/{pid}/ns/user', os.O_RDONLY), 0xb704, b)\nprint(struct.unpack('I', b)[0])"
        );
        outside(&code).trim().parse().unwrap()
    };
    let (token, ..) = rig.start(rig::policy(), &["/bin/sleep", "100"]);
    let (event, _) = rig.expect("cell", |e| matches!(e, Event::CellReady { token: t, .. } if *t == token));
    let Event::CellReady { init_pid, uid, .. } = event else { unreachable!() };
    assert_eq!(owner(init_pid), uid);
    rig.send(Request::Kill { token }, &[]);
    rig.expect_end(token);
    let t = ready(rig, "", "");
    let w = embryo(rig, t);
    let (event, _) = rig.expect("cell", |e| matches!(e, Event::CellReady { token, .. } if *token == w.token));
    let Event::CellReady { init_pid, uid, .. } = event else { unreachable!() };
    // In the template's range, as the template itself; whose own belongs to no root either.
    assert!(owner(init_pid) >= 0x1000_0000 && owner(init_pid) != uid, "{}", owner(init_pid));
    started(rig, w.token);
    end(rig, t);
    // The control: a user namespace of root's own.
    let mut plain = Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let own = std::fs::read_link("/proc/self/ns/user").unwrap();
    while std::fs::read_link(format!("/proc/{}/ns/user", plain.id())).unwrap() == own {
        assert!(Instant::now() < until);
    }
    assert_eq!(owner(plain.id()), 0);
    plain.kill().unwrap();
    plain.wait().unwrap();
}

// --- the launcher

/// Full of bytes that nobody takes, and with SO_LINGER: its last close waits.
const LINGERER: &str = r#"
def lingerer(seconds):
    door = socket.create_server(("127.0.0.1", 0))
    a = socket.create_connection(door.getsockname())
    b, _ = door.accept()
    a.setblocking(False)
    try:
        while True: a.send(b"x" * 65536)
    except BlockingIOError: pass
    a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, seconds))
    return a, b
"#;

fn a_socket_that_lingers_holds_nobody_up(rig: &mut Rig) {
    let control = format!(
        "{LINGERER}\na, b = lingerer(1)\nx, y = socket.socketpair()\nx.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno()]))])\n\
         a.close()\n_, r, _, _ = y.recvmsg(1, 100)\nbegan = time.monotonic()\nos.close(array.array('i', r[0][2])[0])\nprint(time.monotonic() - began)"
    );
    assert!(outside(&control).trim().parse::<f64>().unwrap() > 0.9);
    // The other ends are kept by somebody who isn't ended together with the template; and a long record comes first, so
    // that the sockets are closed there before the launcher gets at them.
    let code = format!(
        "{LINGERER}\nimport select\nall = [lingerer(100) for _ in range(20)]\nsay_ready(control)\n\
         select.select([control], [], [])\nif os.fork() == 0:\n    control.close()\n    for a, b in all: a.close()\n    time.sleep(100)\n\
         say_ready(control, notes=['x'] * 20000)\n\
         for a, b in all:\n    control.sendmsg([struct.pack('<IiQii', REPLY, 0, 1 << 60, 1, 0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [a.fileno()]))])\n    a.close()\ntime.sleep(100)"
    );
    let t = ready(rig, "", &forging(&code));
    let w = embryo(rig, t);
    let began = Instant::now();
    refused(rig, t, "a request to fork that it didn't have");
    assert!(matches!(started(rig, w.token), Event::SpawnFailed { .. }));
    assert!(began.elapsed() < Duration::from_secs(50), "{:?}", began.elapsed());
}

fn descriptors_that_nobody_wants_end_it(rig: &mut Rig) {
    let code = "say_ready(control)\n\
                many = array.array('i', [os.open('/dev/null', os.O_RDONLY)] * 253)\n\
                control.sendmsg([b'{}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, many)])\ntime.sleep(100)";
    let t = ready(rig, "", &forging(code));
    refused(rig, t, "253 descriptors that nobody had asked for");
    let held = std::fs::read_dir(format!("/proc/{}/fd", rig.launcher_pid)).unwrap().count();
    assert!(held < 100, "the launcher holds {held}");
}

fn answers_to_nothing_end_it(rig: &mut Rig) {
    let code = "say_ready(control)\nanswer(control, 1 << 50)\ntime.sleep(100)";
    let t = ready(rig, "", &forging(code));
    refused(rig, t, "a request to fork that it didn't have");
}

fn nonsense_ends_it(rig: &mut Rig) {
    for word in [
        "b'\\xff' * 100000",
        "b'[' * 100000",
        "b'{\"event\": 7}'",
        "b'{\"event\": \"ready\", \"threads\": -1}'",
    ] {
        let code = format!("say_ready(control)\ncontrol.send({word})\ntime.sleep(100)");
        let t = ready(rig, "", &forging(&code));
        refused(rig, t, "isn't understood");
    }
}

/// Words that are in order, without end, from many processes.
fn a_template_that_never_stops_talking_holds_nobody_up(rig: &mut Rig) {
    let code = "import select\nsay_ready(control)\nselect.select([control], [], [])\n\
                word, send = json.dumps({'event': 'ready'}).encode(), control.send\n\
                for _ in range(4): os.fork()\nwhile True: send(word)";
    let t = ready(rig, "", &forging(code));
    let w = embryo(rig, t);
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(rig.sh("exit 7").status(), Status::Code(7));
    }
    println!("five agents beside a flood: {:?}", began.elapsed());
    end(rig, t);
    assert!(matches!(started(rig, w.token), Event::SpawnFailed { .. }));
}

/// With requests unread, the end of its socket comes as an error first.
fn last_words_arrive(rig: &mut Rig) {
    let code = "import select\nsay_ready(control)\nselect.select([control], [], [])\n\
                control.send(json.dumps({'event': 'failed', 'message': 'last words'}).encode())\nos._exit(3)";
    for _ in 0..5 {
        let t = ready(rig, "", &forging(code));
        let w = embryo(rig, t);
        refused(rig, t, "last words");
        assert!(matches!(started(rig, w.token), Event::SpawnFailed { .. }));
    }
}

fn what_it_leaves_running_is_seen(rig: &mut Rig) {
    let wait = "import time\nif os.fork() == 0:\n    time.sleep(100)\n    os._exit(0)";
    let (t, _) = template(rig, "", wait);
    refused(rig, t, "1 process that it has started still runs");
    // Out of its sight, but not out of its group; and what says that there is one thread isn't believed.
    let daemon = "import time\npid = os.fork()\nif pid == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n    os._exit(0)\nos.waitpid(pid, 0)";
    let (t, _) = template(rig, "", daemon);
    refused(rig, t, "1 process that it has started still runs");
    let thread = "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\nsay_ready(control)\ntime.sleep(100)";
    let (t, _) = template(rig, "", &forging(thread));
    refused(rig, t, "2 threads");
}

/// These need a launcher that soon loses its patience.
fn what_stops_is_ended(_: &mut Rig) {
    let mut rig = Rig::patient_for(Duration::from_secs(1));
    let rig = &mut rig;
    // The template stops itself.
    let t =
        ready(rig, "", &forging("def make(request):\n    os.kill(os.getpid(), signal.SIGSTOP)\nserve(make)"));
    let w = embryo(rig, t);
    refused(rig, t, "didn't answer a request to fork");
    assert!(matches!(started(rig, w.token), Event::SpawnFailed { .. }));
    // Its embryo stops before it reports.
    let t =
        ready(rig, "", &forging("serve(embryo(before_report=lambda: os.kill(os.getpid(), signal.SIGSTOP)))"));
    let w = embryo(rig, t);
    let event = started(rig, w.token);
    let Event::SpawnFailed { stage, message, .. } = &event else { panic!("{event:?}") };
    assert!(stage == "verify" && message.contains("in time"), "{message}");
    end(rig, t);
    // It reports half a word, or closes its report, and lives on.
    for report in ["os.write(4, b'12')", "os.close(4)"] {
        let code = format!("serve(embryo(before_report=lambda: ({report}, time.sleep(100))))");
        let t = ready(rig, "", &forging(&code));
        let w = embryo(rig, t);
        let event = started(rig, w.token);
        let Event::SpawnFailed { stage, .. } = &event else { panic!("{event:?}") };
        assert_eq!(stage, "verify", "{report}");
        end(rig, t);
    }
}

/// Children of the launcher that it wasn't told of: the init of a PID namespace can't end before they are waited for.
fn children_that_nobody_was_told_of_hold_up_no_end(rig: &mut Rig) {
    let code = r#"
def strays():
    for end_now in True, False:
        if sibling()[0] == 0:
            if not end_now: time.sleep(1000)
            os._exit(0)
honest, answered = embryo(code="print('done')"), []
def make(request):
    made = honest(request)
    strays()
    return made
say_ready(control)
# In its own PID namespace; later ones in the cells'.
for request in requests(control):
    if not answered: strays()
    answered.append(request)
    pid, pidfd, errno = make(request)
    answer(control, request.token, pid, pidfd, errno)
    for fd in request.fds: os.close(fd)
"#;
    let t = ready(rig, "", &forging(code));
    for _ in 0..2 {
        let (event, out, err) = embryo(rig, t).finish(rig);
        assert!(matches!(event, Event::Exited { status: Status::Code(0), .. }), "{event:?} {err}");
        assert_eq!(out, "done\n");
    }
    end(rig, t);
    nothing_is_left(rig);
}

fn nothing_is_left(rig: &Rig) {
    let children = format!("/proc/{0}/task/{0}/children", rig.launcher_pid);
    let until = Instant::now() + Duration::from_secs(20);
    while !std::fs::read_to_string(&children).unwrap().trim().is_empty() {
        assert!(Instant::now() < until, "the launcher has children left");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn nothing_of_it_is_left(rig: &mut Rig) {
    let t = ready(rig, "", "");
    let a = embryo(rig, t);
    assert!(matches!(started(rig, a.token), Event::Started { .. }));
    // Its init stays for the agent's sake, and goes with it; then its ids are another's.
    end(rig, t);
    let mut kernel = &a.kernel;
    kernel.write_all(b"g").unwrap();
    assert!(matches!(rig.expect_end(a.token), Event::Exited { status: Status::Code(0), .. }));
    nothing_is_left(rig);
}

fn main() {
    if rig::host_python().is_none() {
        eprintln!("SKIPPED: no python3");
        return;
    }
    rig::run_all(&[
        ("an_honest_forger_is_let_go", an_honest_forger_is_let_go),
        ("each_step_that_is_left_out_is_caught", each_step_that_is_left_out_is_caught),
        ("what_it_keeps_or_starts_is_caught", what_it_keeps_or_starts_is_caught),
        ("another_agents_cell_is_caught", another_agents_cell_is_caught),
        ("other_ids_are_out_of_reach", other_ids_are_out_of_reach),
        ("it_can_neither_see_nor_name_what_isnt_its_own", it_can_neither_see_nor_name_what_isnt_its_own),
        ("it_cant_signal_other_templates_nor_their_agents", it_cant_signal_other_templates_nor_their_agents),
        ("the_doors_of_groups_move_nobody_else", the_doors_of_groups_move_nobody_else),
        ("capabilities_in_a_cell_are_worth_little", capabilities_in_a_cell_are_worth_little),
        ("what_agents_use_up_isnt_roots", what_agents_use_up_isnt_roots),
        ("a_socket_that_lingers_holds_nobody_up", a_socket_that_lingers_holds_nobody_up),
        ("descriptors_that_nobody_wants_end_it", descriptors_that_nobody_wants_end_it),
        ("answers_to_nothing_end_it", answers_to_nothing_end_it),
        ("nonsense_ends_it", nonsense_ends_it),
        (
            "a_template_that_never_stops_talking_holds_nobody_up",
            a_template_that_never_stops_talking_holds_nobody_up,
        ),
        ("last_words_arrive", last_words_arrive),
        ("what_it_leaves_running_is_seen", what_it_leaves_running_is_seen),
        ("what_stops_is_ended", what_stops_is_ended),
        ("children_that_nobody_was_told_of_hold_up_no_end", children_that_nobody_was_told_of_hold_up_no_end),
        ("nothing_of_it_is_left", nothing_of_it_is_left),
    ]);
}
