#!/bin/bash
# What rustc and a program that it has built do. Prints `ok`.
set -euo pipefail
cd "$(mktemp -d)"
cat > a.rs <<'END'
use std::io::{BufRead, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::time::{Duration, Instant, SystemTime};
use std::{collections::HashMap, env, fs, thread};

fn main() {
    let (send, receive) = mpsc::channel();
    let barrier = Arc::new(Barrier::new(4));
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let (send, barrier) = (send.clone(), barrier.clone());
            thread::Builder::new().name(format!("t{i}")).stack_size(1 << 20).spawn(move || {
                barrier.wait();
                send.send(i).unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.unwrap().join().unwrap());
    assert_eq!(receive.try_iter().sum::<i32>(), 6);
    assert!(thread::spawn(|| panic!("as meant")).join().is_err());
    let pair = (Mutex::new(()), Condvar::new());
    let _ = pair.1.wait_timeout(pair.0.lock().unwrap(), Duration::from_millis(5));
    thread::sleep(Duration::from_millis(1));
    let _ = (Instant::now(), SystemTime::now(), thread::available_parallelism(), env::current_exe());
    let _ = HashMap::from([(1, 2)]);

    // By posix_spawn, and by fork and exec.
    assert_eq!(Command::new("echo").arg("hi").output().unwrap().stdout, b"hi\n");
    let mut cat = Command::new("cat").current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    cat.stdin.take().unwrap().write_all(b"line\n").unwrap();
    let mut text = String::new();
    std::io::BufReader::new(cat.stdout.take().unwrap()).read_line(&mut text).unwrap();
    assert!(cat.wait().unwrap().success() && text == "line\n");
    let mut sleep = Command::new("sleep").arg("60").spawn().unwrap();
    assert!(sleep.try_wait().unwrap().is_none());
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    assert!(Command::new("/no/such/program").spawn().is_err());

    fs::create_dir_all("d/e").unwrap();
    fs::write("d/e/f", "x").unwrap();
    fs::copy("d/e/f", "d/g").unwrap();
    fs::hard_link("d/g", "d/h").unwrap();
    fs::rename("d/h", "d/i").unwrap();
    fs::set_permissions("d/i", fs::Permissions::from(fs::metadata("d/g").unwrap().permissions())).unwrap();
    let file = fs::File::options().read(true).write(true).open("d/i").unwrap();
    file.set_len(10).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    let _ = file.try_clone().unwrap().metadata().unwrap().modified();
    fs::read_dir("d").unwrap().for_each(|e| drop(e.unwrap().metadata()));
    fs::canonicalize("d").unwrap();
    fs::remove_dir_all("d").unwrap();

    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let (mut peer, _) = server.accept().unwrap();
    peer.set_nodelay(true).unwrap();
    peer.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    peer.write_all(b"abc").unwrap();
    client.read_exact(&mut [0; 3]).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.send_to(b"x", udp.local_addr().unwrap()).unwrap();
    udp.recv_from(&mut [0]).unwrap();
    let (mut a, mut b) = UnixStream::pair().unwrap();
    a.write_all(b"x").unwrap();
    b.read_exact(&mut [0]).unwrap();
    println!("built");
}
END
rustc -O -C codegen-units=2 a.rs -o a 2> /dev/null
./a 2> /dev/null | grep -q built
rustc --crate-type lib --test a.rs -o t -A warnings 2> /dev/null && ./t > /dev/null
echo ok
