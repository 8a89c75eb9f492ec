"""What ordinary Python programs do with the standard library. Prints `ok` at the end; anything else is a failure."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import fcntl
import gzip
import hashlib
import http.server
import logging
import mmap
import multiprocessing
import multiprocessing.shared_memory
import os
import platform
import pty
import pwd
import random
import resource
import select
import selectors
import shutil
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import tempfile
import termios
import threading
import time
import urllib.request
import uuid
import zipfile

sys.dont_write_bytecode = True


def square(n: int) -> int:
    return n * n


def files() -> None:
    with tempfile.TemporaryDirectory() as d:
        path = os.path.join(d, "f")
        with open(path, "wb") as f:
            f.write(os.urandom(100_000))
            f.flush()
            os.fsync(f.fileno())
            os.fdatasync(f.fileno())
            f.truncate(50_000)
            os.posix_fallocate(f.fileno(), 0, 60_000)
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(f, fcntl.LOCK_EX)
            os.set_inheritable(f.fileno(), True)
        with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
            m[0:4] = b"abcd"
            m.flush()
            m.madvise(mmap.MADV_SEQUENTIAL)
            assert os.pread(f.fileno(), 4, 0) == b"abcd"
            os.pwrite(f.fileno(), b"x", 1)
            os.preadv(f.fileno(), [bytearray(4)], 0)
            os.pwritev(f.fileno(), [b"zz"], 0)
            os.readv(f.fileno(), [bytearray(4)])
            os.writev(f.fileno(), [b"a", b"b"])
            f.seek(0, os.SEEK_END)
        os.link(path, path + "2")
        os.symlink("f", path + "3")
        os.rename(path + "2", path + "4")
        os.replace(path + "4", path + "5")
        assert os.readlink(path + "3") == "f"
        os.utime(path, (10**9, 10**9))
        os.chmod(path, 0o600)
        os.chown(path, os.getuid(), os.getgid())
        os.access(path, os.R_OK)
        os.access(path, os.R_OK, effective_ids=True)
        os.mkfifo(os.path.join(d, "fifo"))
        os.mkdir(os.path.join(d, "sub"))
        shutil.copy2(path, os.path.join(d, "sub", "copy"))
        shutil.copytree(os.path.join(d, "sub"), os.path.join(d, "sub2"))
        shutil.move(os.path.join(d, "sub2"), os.path.join(d, "sub3"))
        shutil.disk_usage(d)
        shutil.rmtree(os.path.join(d, "sub3"))
        with os.scandir(d) as entries:
            assert any(e.is_file() and e.stat().st_size for e in entries)
        with contextlib.suppress(OSError):
            os.setxattr(path, "user.a", b"1")
            os.getxattr(path, "user.a")
        with contextlib.suppress(OSError):
            os.listxattr(path)
        folder = os.open(d, os.O_RDONLY | os.O_DIRECTORY)
        os.stat("f", dir_fd=folder)
        os.fchdir(folder)
        os.unlink("f5", dir_fd=folder)
        os.listdir(folder)
        os.close(folder)
        assert os.getcwd() == os.path.realpath(d)
        os.chdir("/")
        with open(path, "rb") as a, open(path + "6", "wb") as b:
            with contextlib.suppress(OSError):
                os.copy_file_range(a.fileno(), b.fileno(), 1000)
            os.sendfile(b.fileno(), a.fileno(), 0, 1000)
        with gzip.open(path + ".gz", "wb") as z:
            z.write(b"x" * 10_000)
        with zipfile.ZipFile(path + ".zip", "w") as z:
            z.write(path, "f")
        os.statvfs(d)
        os.umask(os.umask(0o022))
    with tempfile.NamedTemporaryFile() as f, tempfile.TemporaryFile() as g:
        f.write(b"a")
        g.write(b"b")
    r, w = os.pipe()
    os.set_blocking(r, False)
    dup = os.dup(w)
    os.dup2(dup, w)
    for fd in (r, w, dup):
        os.close(fd)
    fd = os.memfd_create("m")
    os.ftruncate(fd, 10)
    os.close(fd)


def processes() -> None:
    run = subprocess.run(["/bin/sh", "-c", "echo out; echo err >&2; cat"], input=b"in", capture_output=True, check=True)
    assert (run.stdout, run.stderr) == (b"out\nin", b"err\n")
    subprocess.run("true && true", shell=True, check=True)
    subprocess.run([sys.executable, "-c", "print(1)"], check=True, stdout=subprocess.DEVNULL, start_new_session=True)
    subprocess.run(["/bin/true"], check=True, close_fds=False, preexec_fn=lambda: None, cwd="/tmp", umask=0o077)
    p = (
        subprocess.Popen(["sleep", "60"], process_group=0)
        if sys.version_info >= (3, 11)
        else subprocess.Popen(["sleep", "60"])
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        p.wait(0.02)
    p.terminate()
    assert p.wait() == -signal.SIGTERM
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os._exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    pid = os.posix_spawn("/bin/true", ["true"], os.environ, setsigmask=[signal.SIGUSR1], setpgroup=0)
    os.waitid(os.P_PID, pid, os.WEXITED)
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    with contextlib.suppress(OSError):
        fd = os.pidfd_open(pid)
        if hasattr(signal, "pidfd_send_signal"):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)
    os.kill(pid, signal.SIGKILL)
    os.wait4(pid, 0)
    os.system("true")
    assert os.popen("echo a").read() == "a\n"


def terminals() -> None:
    pid, fd = pty.fork()
    if pid == 0:
        os.execv("/bin/sh", ["sh", "-c", "stty -a; tty; echo done"])
    text = b""
    with contextlib.suppress(OSError):
        while chunk := os.read(fd, 1000):
            text += chunk
    assert b"done" in text, text
    os.waitpid(pid, 0)
    os.close(fd)
    master, slave = os.openpty()
    old = termios.tcgetattr(slave)
    termios.tcsetattr(slave, termios.TCSADRAIN, old)
    termios.tcflush(slave, termios.TCIOFLUSH)
    fcntl.ioctl(slave, termios.TIOCGWINSZ, b"\0" * 8)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\0" * 8)
    os.isatty(slave)
    os.ttyname(slave)
    for fd in (master, slave):
        os.close(fd)
    shutil.get_terminal_size()


def signals_and_clocks() -> None:
    hits = []
    signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    while not hits:
        time.sleep(0.005)
    signal.alarm(0)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.SIGUSR1 in signal.sigpending()
    assert signal.sigwait([signal.SIGUSR1]) == signal.SIGUSR1
    signal.sigtimedwait([signal.SIGUSR1], 0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGCHLD)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.raise_signal(signal.SIGCHLD)
    time.sleep(0.001)
    for clock in (
        time.CLOCK_MONOTONIC,
        time.CLOCK_PROCESS_CPUTIME_ID,
        time.CLOCK_THREAD_CPUTIME_ID,
        time.CLOCK_BOOTTIME,
    ):
        time.clock_gettime(clock)
        time.clock_getres(clock)
    os.times()


def about_the_system() -> None:
    resource.getrusage(resource.RUSAGE_CHILDREN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
    resource.prlimit(0, resource.RLIMIT_CPU)
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    os.sched_yield()
    os.sched_getscheduler(0)
    os.sched_getparam(0)
    os.nice(1)
    os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, 2)
    os.getloadavg()
    os.sysconf("SC_NPROCESSORS_ONLN")
    pwd.getpwuid(os.getuid())
    platform.platform()
    socket.gethostname()
    os.getgroups(), os.getresuid(), os.getresgid(), os.getppid(), os.getpgrp(), os.getsid(0), os.getpgid(0)
    os.uname()
    uuid.uuid4(), uuid.uuid1()
    os.getrandom(8)
    random.seed()
    logging.getLogger().warning("a line")
    with contextlib.suppress(OSError):
        socket.if_nameindex()


def threads() -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(square, range(50))) == sum(map(square, range(50)))
    event, lock, barrier = threading.Event(), threading.RLock(), threading.Barrier(2)
    t = threading.Thread(target=lambda: (barrier.wait(), event.wait(), lock.acquire(timeout=1), lock.release()))
    t.start()
    barrier.wait()
    event.set()
    t.join()
    timer = threading.Timer(0.01, event.set)
    timer.start()
    timer.join()
    threading.stack_size(1 << 20)
    t = threading.Thread(target=threading.get_native_id)
    t.start()
    t.join()


def many_processes() -> None:
    for method in ("fork", "spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(square, range(10)) == [n * n for n in range(10)]
        queue, lock = context.Queue(), context.Lock()
        with lock:
            queue.put(1)
        assert queue.get() == 1
        a, b = context.Pipe()
        a.send(b"x")
        assert b.recv() == b"x"
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]
    shared = multiprocessing.shared_memory.SharedMemory(create=True, size=1000)
    shared.buf[0] = 1
    shared.close()
    shared.unlink()
    with multiprocessing.Manager() as manager:
        manager.dict()["a"] = 1


def sockets() -> None:
    for poller in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
        a, b = socket.socketpair()
        with poller() as s:
            s.register(a, selectors.EVENT_READ)
            b.send(b"x")
            assert s.select(1)
        a.close()
        b.close()
    select.select([], [], [], 0.001)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10_000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\0" * 8)
        peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        peer.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        peer.settimeout(1)
        peer.sendall(b"x" * 1000)
        assert client.recv(1000)
        client.sendmsg([b"a"])
        peer.recvmsg(10)
        peer.getpeername(), peer.getsockname()
        peer.shutdown(socket.SHUT_RDWR)
        peer.close()
    with socket.socket(socket.AF_INET6) as s:
        s.bind(("::1", 0))
        s.listen()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as t:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.bind(("127.0.0.1", 0))
        t.sendto(b"x", s.getsockname())
        s.recvfrom(10)
    with tempfile.TemporaryDirectory() as d, socket.socket(socket.AF_UNIX) as s, socket.socket(socket.AF_UNIX) as t:
        s.bind(d + "/s")
        s.listen()
        t.connect(d + "/s")
        p, _ = s.accept()
        p.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        with open("/dev/null") as null:
            socket.send_fds(t, [b"x"], [null.fileno()])
            _, fds, _, _ = socket.recv_fds(p, 1, 1)
        os.close(fds[0])
        p.close()
    socket.getaddrinfo("localhost", 80)
    with contextlib.suppress(OSError):
        socket.getaddrinfo("nowhere.invalid", 80)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_address[1]}/dev/") as reply:
            reply.read()
        server.shutdown()
    ssl.create_default_context()


async def asynchronous() -> None:
    p = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
    out, _ = await p.communicate(b"hello")
    assert out == b"hello"
    p = await asyncio.create_subprocess_shell("exit 3")
    assert await p.wait() == 3

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    writer.write(b"line\n")
    assert await reader.readline() == b"line\n"
    writer.close()
    server.close()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR2, lambda: None)
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.wait_for(asyncio.sleep(0.01), 1)
    await loop.run_in_executor(None, square, 3)
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    transport.close()


def databases() -> None:
    with tempfile.TemporaryDirectory() as d:
        for mode in ("WAL", "DELETE"):
            db = sqlite3.connect(f"{d}/{mode}.db")
            db.execute(f"PRAGMA journal_mode={mode}")
            db.execute("CREATE TABLE t (a)")
            with db:
                db.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(1000)])
            assert db.execute("SELECT sum(a) FROM t").fetchone()[0] == 499_500
            db.execute("VACUUM")
            db.close()
            other = sqlite3.connect(f"file:{d}/{mode}.db?mode=ro", uri=True)
            other.execute("SELECT count(*) FROM t").fetchone()
            other.close()


def native() -> None:
    libc = ctypes.CDLL(None)
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    numbers = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
    libc.qsort(numbers, 5, ctypes.sizeof(ctypes.c_int), compare(lambda a, b: a[0] - b[0]))
    assert list(numbers) == [1, 2, 3, 4, 5]
    hashlib.sha256(b"x").hexdigest()
    hashlib.scrypt(b"p", salt=b"s", n=2, r=1, p=1)
    subprocess.run(
        [sys.executable, "-X", "faulthandler", "-X", "tracemalloc", "-c", "import unittest, doctest, pdb"], check=True
    )
    died = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", "import ctypes; ctypes.string_at(0)"],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert died.returncode == -signal.SIGSEGV and b"Fatal Python error" in died.stderr
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


if __name__ == "__main__":
    for part in (files, processes, terminals, signals_and_clocks, threads, many_processes, sockets, databases, native):
        part()
    asyncio.run(asynchronous())
    about_the_system()
    print("ok")
