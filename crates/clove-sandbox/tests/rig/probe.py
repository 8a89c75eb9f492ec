# What a hostile program would try. Prints one JSON object: name -> "ok" (it worked) or the errno's name.
# Run unsandboxed as root it is the positive control: there each attempt works (and leaves nothing behind).
import ctypes, ctypes.util, errno, json, os, signal, socket, struct, sys, tempfile
arg = json.loads(os.environ.get("PROBE", "{}"))
tmp = tempfile.mkdtemp()

# The process whose memory and files are worth most: inside it is the cell's init, a copy of the launcher.
INSIDE = os.getuid() != 0
INIT = 1 if INSIDE else arg.get("host_pid", os.getppid())

def c(path): return ctypes.c_char_p(path.encode())
NEWNS, NEWUSER, NEWNET, NEWPID = 0x20000, 0x10000000, 0x40000000, 0x20000000

@probe("mount")
def _():
    libc.unshare(NEWNS)
    sc(165, c("t"), c(tmp), c("tmpfs"), 0, c(""))
@probe("umount")
def _():
    libc.unshare(NEWNS)
    if os.getuid() == 0: sc(165, c("none"), c("/"), ctypes.c_void_p(0), 0x4000 | 0x40000, ctypes.c_void_p(0)); sc(165, c("t"), c(tmp), c("tmpfs"), 0, c(""))
    sc(166, c(tmp if os.getuid() == 0 else "/proc"), 2)
@probe("remount_usr_writable")
def _():
    libc.unshare(NEWNS)
    sc(165, c("none"), c("/usr"), ctypes.c_void_p(0), 0x20 | 0x1000, ctypes.c_void_p(0)) if os.getuid() else None
@probe("open_tree")
def _(): sc(428, -100, c("/usr"), 1)
@probe("fsopen")
def _(): sc(430, c("tmpfs"), 0)
@probe("pivot_root")
def _():
    try: sc(155, c("."), c("."))
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.EBUSY): raise  # allowed, but that isn't a place for it
@probe("mount_setattr")
def _(): sc(442, -100, c(tmp), 0, ctypes.c_char_p(struct.pack("QQQQ", 0, 0, 0, 0)), 32)
@probe("chroot")
def _(): os.chroot("/usr")
@probe("unshare_user")
def _(): sc(272, NEWUSER)
@probe("unshare_net")
def _(): sc(272, NEWNET)
@probe("clone_newuser")
def _():
    if sc(56, NEWUSER | signal.SIGCHLD, 0, 0, 0, 0) == 0: os._exit(0)
@probe("clone3_newuser")
def _():
    a = (ctypes.c_uint64 * 11)(); a[0] = NEWUSER; a[4] = signal.SIGCHLD
    if sc(435, ctypes.byref(a), 88) == 0: os._exit(0)
for name, flag in ("ns", NEWNS), ("pid", NEWPID), ("ipc", 0x8000000), ("uts", 0x4000000), ("cgroup", 0x2000000), ("time", 0x80):
    @probe("unshare_" + name)
    def _(): sc(272, flag)
@probe("setns")
def _(): sc(308, os.open("/proc/self/ns/net", os.O_RDONLY), NEWNET)
@probe("ptrace_traceme")
def _(): sc(101, 0, 0, 0, 0)
@probe("process_vm_readv")
def _():
    b = ctypes.create_string_buffer(8); v = (ctypes.c_void_p * 2)(ctypes.addressof(b), 8)
    sc(310, os.getpid(), ctypes.byref(v), 1, ctypes.byref(v), 1, 0)
@probe("pidfd_getfd")
def _(): sc(438, sc(434, os.getpid(), 0), 0, 0)
@probe("keyctl")
def _(): sc(250, 0, -2 & (2**64 - 1), 1)
@probe("add_key")
def _(): sc(248, c("user"), c("clove-probe"), c("x"), 1, -2 & (2**64 - 1))
@probe("bpf_map_create")
def _():
    a = struct.pack("IIII", 1, 4, 4, 1) + b"\0" * 112
    sc(321, 0, ctypes.c_char_p(a), 128)
@probe("perf_event_open")
def _():
    a = struct.pack("IIQQ", 1, 128, 0, 0) + b"\0" * 104
    sc(298, ctypes.c_char_p(a), 0, -1 & (2**64 - 1), -1 & (2**64 - 1), 0)
@probe("userfaultfd")
def _(): sc(323, 0)
@probe("io_uring_setup")
def _(): sc(425, 1, ctypes.c_char_p(b"\0" * 120))
@probe("name_to_handle_at")
def _():
    h = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + b"\0" * 128); m = ctypes.c_int()
    sc(303, -100, c("/usr"), ctypes.byref(h), ctypes.byref(m), 0)
@probe("raw_socket")
def _(): socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
@probe("raw_socket_v6")
def _(): socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)
@probe("packet_socket")
def _(): socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
@probe("alg_socket")
def _(): socket.socket(38, socket.SOCK_SEQPACKET, 0)
@probe("netfilter_socket")
def _(): socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
@probe("vsock_socket")
def _(): socket.socket(40, socket.SOCK_STREAM, 0)
@probe("fanotify_init")
def _(): sc(300, 0, 0)
@probe("iopl")
def _(): sc(172, 0)
@probe("modify_ldt")
def _(): sc(154, 0, ctypes.create_string_buffer(16), 16)
@probe("kcmp")
def _(): sc(312, os.getpid(), os.getpid(), 1, 0, 0)
@probe("tiocsti")
def _():
    import fcntl
    a, b = os.openpty()
    os.setsid(); fcntl.ioctl(b, 0x540e, 0)
    fcntl.ioctl(b, 0x5412, b"x")
@probe("many_terminals")
def _(): [os.open("/dev/ptmx", os.O_RDWR) for _ in range(100)]
@probe("linger")
def _():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 100))
    if not struct.unpack("ii", s.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))[0]: raise OSError(errno.EPERM, "")
@probe("core_dumps")
def _():
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # with which a handler in core_pattern runs
    if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0): raise OSError(errno.EPERM, "")
@probe("lease")
def _():
    import fcntl
    fcntl.fcntl(os.open(arg["bait"] + "/owned", os.O_RDONLY), 1024, fcntl.F_RDLCK)
@probe("write_read_only_mount")
def _(): open(arg["bait"] + "/owned", "w").close()
# A file of the operator's that would run as the operator: each way to give a file its mode.
SETUID = 0o4755
def openat2(path):
    how = struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, SETUID, 0)
    return sc(437, -100, c(path), ctypes.c_char_p(how), len(how))
for name, make in {
    "chmod": lambda p: (open(p, "w").close(), sc(90, c(p), SETUID)),
    "chmod_setgid": lambda p: (open(p, "w").close(), sc(90, c(p), 0o2755)),
    "fchmod": lambda p: sc(91, os.open(p, os.O_CREAT | os.O_WRONLY), SETUID),
    "fchmodat": lambda p: (open(p, "w").close(), sc(268, -100, c(p), SETUID)),
    "fchmodat2": lambda p: (open(p, "w").close(), sc(452, -100, c(p), SETUID, 0)),
    "open": lambda p: sc(2, c(p), os.O_CREAT | os.O_WRONLY, SETUID),
    "openat": lambda p: sc(257, -100, c(p), os.O_CREAT | os.O_WRONLY, SETUID),
    "openat2": openat2,
    "creat": lambda p: sc(85, c(p), SETUID),
    "mknod": lambda p: sc(133, c(p), 0o100000 | SETUID, 0),
    "mknodat": lambda p: sc(259, -100, c(p), 0o100000 | SETUID, 0),
}.items():
    @probe("setuid_file_by_" + name)
    def _():
        p = tmp + "/setuid"
        try:
            make(p)
            if not os.stat(p).st_mode & 0o6000: raise OSError(errno.EPERM, "")
        finally:
            if os.path.exists(p): os.unlink(p)
@probe("mode_of_dev_null")
def _(): os.chmod("/dev/null", 0o666)
@probe("write_own_net_settings")
def _(): open("/proc/sys/net/ipv4/ip_forward", "r+").close()
@probe("kmsg")
def _(): os.close(os.open("/dev/kmsg", os.O_RDONLY))
@probe("mknod_device")
def _(): os.mknod(tmp + "/null", 0o20666, os.makedev(1, 3)); os.unlink(tmp + "/null")
@probe("personality_read_implies_exec")
def _(): sc(135, 0x0400000)
@probe("setuid_0")
def _(): os.setresuid(0, 0, 0)
@probe("setuid_other")
def _(): os.setresuid(12345, 12345, 12345)
@probe("setgroups")
def _(): os.setgroups([5])
@probe("sethostname")
def _(): socket.sethostname(socket.gethostname())
@probe("realtime_priority")
def _(): os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
@probe("negative_nice")
def _(): os.nice(-5)
@probe("syslog")
def _(): sc(103, 10, 0, 0)
@probe("clock_settime")
def _(): sc(305, 0, ctypes.c_char_p(struct.pack("IIII", 0, 0, 0, 0) + b"\0" * 200))  # clock_adjtime: a question
@probe("chown_to_other")
def _():
    p = tmp + "/c"; open(p, "w").close(); os.chown(p, 12345, 12345); os.unlink(p)
@probe("read_host_secret")
def _(): open(arg.get("secret", "/nonexistent")).read()
@probe("read_shadow")
def _(): open("/etc/shadow").read()
@probe("list_root_home")
def _():
    if not [x for x in os.listdir("/root") if x != ".pyenv"]: raise OSError(errno.ENOENT, "")
@probe("list_sys")
def _(): os.listdir("/sys/fs/cgroup")
@probe("write_usr")
def _(): p = "/usr/clove-probe"; open(p, "w").close(); os.unlink(p)
@probe("write_etc")
def _(): p = "/etc/clove-probe"; open(p, "w").close(); os.unlink(p)
@probe("write_root")
def _(): p = "/clove-probe"; open(p, "w").close(); os.unlink(p)
@probe("write_dev")
def _(): p = "/dev/clove-probe"; open(p, "w").close(); os.unlink(p)
@probe("write_proc_sys")
def _(): p = "/proc/sys/kernel/core_pattern"; open(p, "r+").close()
@probe("init_memory")
def _(): open(f"/proc/{INIT}/mem", "rb").close()
@probe("init_environ")
def _(): open(f"/proc/{INIT}/environ", "rb").read()
@probe("init_root")
def _(): os.listdir(f"/proc/{INIT}/root")
@probe("init_folder")
def _(): os.listdir(f"/proc/{INIT}/cwd")
@probe("init_fds")
def _(): os.listdir(f"/proc/{INIT}/fd")
@probe("init_mappings")
def _(): os.listdir(f"/proc/{INIT}/map_files")
@probe("init_binary")
def _(): open(f"/proc/{INIT}/exe", "rb").read(1)
@probe("init_binary_written")
def _():
    try:
        os.open(f"/proc/{INIT}/exe", os.O_WRONLY)
    except OSError as e:
        # It is only refused as it runs: the way to it is open, and stays so after its end.
        if e.errno != errno.ETXTBSY: raise
@probe("init_namespace")
def _(): os.open(f"/proc/{INIT}/ns/mnt", os.O_RDONLY)
@probe("init_descriptor_taken")
def _(): sc(438, sc(434, INIT, 0), 0, 0)
@probe("init_memory_written")
def _():
    b = ctypes.create_string_buffer(8); v = (ctypes.c_void_p * 2)(ctypes.addressof(b), 8)
    try: sc(311, INIT, ctypes.byref(v), 1, ctypes.byref(v), 1, 0)
    except OSError as e:
        if e.errno != errno.EFAULT: raise  # no such address there, but allowed
@probe("init_traced")
def _(): sc(101, 0x4206, INIT, 0, 0)
@probe("kill_host_process")
def _(): os.kill(arg.get("host_pid", 2**22 - 1), 0)
@probe("see_host_process")
def _():
    if len([x for x in os.listdir("/proc") if x.isdigit()]) < 6: raise OSError(errno.ESRCH, "")
@probe("tcp_to_host")
def _(): socket.create_connection(("127.0.0.1", arg.get("tcp", 1)), 1).close()
@probe("abstract_unix_to_host")
def _():
    s = socket.socket(socket.AF_UNIX); s.connect("\0" + arg.get("abstract", "none")); s.close()
@probe("udp_route_out")
def _():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(("127.0.0.2" if os.getuid() == 0 else "192.0.2.1", 9))
@probe("kcore")
def _():
    if not open("/proc/kcore", "rb").read(1): raise OSError(errno.EACCES, "")
@probe("sysrq")
def _():
    import stat
    # Inside, /dev/null lies over it.
    if stat.S_ISCHR(os.stat("/proc/sysrq-trigger").st_mode): raise OSError(errno.EACCES, "")
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
@probe("raise_nofile")
def _():
    import resource
    s, h = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.getuid() == 0: resource.setrlimit(resource.RLIMIT_NOFILE, (h, h)); return
    resource.setrlimit(resource.RLIMIT_NOFILE, (h + 1, h + 1))

import shutil; shutil.rmtree(tmp)
print(json.dumps(results))
