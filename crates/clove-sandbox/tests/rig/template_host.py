# A template host in its smallest form: says that it is ready, forks embryos, and runs what argv[2] says in each.
import ctypes, json, os, socket, sys
import gc
lib = ctypes.PyDLL(sys.argv[1])
api = ctypes.pythonapi
HOOK = ctypes.c_void_p
lib.clove_template_serve.argtypes = [ctypes.c_int, HOOK, HOOK, HOOK]
lib.clove_template_serve.restype = ctypes.c_int
hooks = [ctypes.cast(getattr(api, n), ctypes.c_void_p) for n in
         ("PyOS_BeforeFork", "PyOS_AfterFork_Child", "PyOS_AfterFork_Parent")]
control = socket.socket(fileno=3)
shared = {"answer": 42}
if len(sys.argv) > 3:
    exec(sys.argv[3])
gc.freeze()
control.send(json.dumps({"event": "ready", "threads": len(os.listdir("/proc/self/task")), "rss_bytes": 1,
                         "notes": ["test"]}).encode())
fd = control.detach()
while True:
    r = lib.clove_template_serve(fd, *hooks)
    if r == 0:
        break
    if r < 0:
        os._exit(0 if r == -1 else 90)
kernel = socket.socket(fileno=3)
if kernel.recv(1) != b"g":
    os._exit(91)
exec(sys.argv[2])
sys.stdout.flush()
os._exit(0)
